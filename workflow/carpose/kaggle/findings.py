"""What is wrong with the competition's files, as one finding per thing."""

from typing import NamedTuple

from carpose.core.errors import UserError
from carpose.core.files import brief

SEVERITIES = ["error", "warning", "note"]


class Finding(NamedTuple):
    """One thing seen in the data: severity error (cannot be worked with), warning or note."""

    severity: str
    file: str
    line: int | None
    ImageId: str
    finding: str
    advice: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        image = f", image {brief(self.ImageId)}" if self.ImageId else ""
        return f"{self.file}{line}{image}: {self.finding}; {self.advice}"


def stop_at_first(findings: list[Finding]) -> None:
    """Raises UserError with the first of them, and how many more there are."""
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise UserError(f"{findings[0]}{more}")
