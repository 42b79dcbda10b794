"""docs/troubleshooting.md quotes messages as the code prints them."""

import re

import pytest

from tests.helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OTHERS = {"Starting Snakemake", "Slurm"}  # sections with messages of other programs
OF_PYTHON = ("command not found", "No module named", "torch.OutOfMemoryError", "Killed", "exit status")


def quoted() -> list[str]:
    """The messages of this project that the page quotes: indented lines, by section."""
    sections = re.split(r"^## ", PAGE, flags=re.M)[1:]
    lines = [
        line.strip()
        for section in sections
        if section.splitlines()[0] not in OTHERS
        for line in re.findall(r"^ {4}(\S.*)$", section, re.M)
    ]
    return [line for line in lines if not any(word in line for word in OF_PYTHON)]


@pytest.fixture(scope="module")
def source() -> str:
    """All code with strings that go over several lines joined."""
    folder = REPOSITORY / "workflow"
    files = [*folder.rglob("*.py"), *folder.rglob("*.smk"), REPOSITORY / "Makefile"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = re.sub(r'" *\\?\n\s*f?"', "", text)
    return text.replace("{INSTALL}", "pip install kaggle six")


@pytest.mark.parametrize("message", quoted())
def test_message_is_one_of_the_code(source, message):
    constant = re.sub(r"^(error|warning|note|state): ", "", message)
    # The code joins what is wrong and what to do, and lists, from several strings.
    parts = [part.strip() for part in re.split(r"…|[;:,] |[()]", constant)]
    parts = [part for part in parts if len(part) > 3 and part != "No space left on device"]
    assert parts
    assert not [part for part in parts if part not in source]


def test_the_page_quotes_many():
    assert len(quoted()) >= 25
