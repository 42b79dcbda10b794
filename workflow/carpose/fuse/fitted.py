"""What a fusion knows: of each member, of the ground, which parts of it are used. To and from JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from carpose.core.errors import UserError
from carpose.core.keyed import load_json
from carpose.geometry.ground import DEFAULT_SIGMA

from .calibration import Logistic
from .writing import Writing

PARTS = ["members", "bias", "weights", "ground", "calibration", "writing"]


@dataclass(frozen=True)
class MemberFit:
    """How far a member's cars lie from the true ones.

    bias: coefficients of 1 and log(range/40 m) of the error of log-range; sigma: standard deviation of log z
    where the member says none, sigma_scale: what its own depth_sigma is multiplied with; direction_sigma,
    rotation_sigma: radians; reliability: logit(probability of a true car) is the first plus the second times
    logit(score); share: how much it counts beside members with like errors, 1 if alone.
    """

    bias: tuple[float, float] = (0.0, 0.0)
    sigma: float = DEFAULT_SIGMA
    sigma_scale: float = 1.0
    direction_sigma: float = 0.005
    rotation_sigma: float = 0.1
    reliability: tuple[float, float] = (0.0, 1.0)
    share: float = 1.0

    @classmethod
    def from_json(cls, content: dict) -> "MemberFit":
        """Raises KeyError where a number is missing, ValueError or TypeError where it is none."""
        values = {item.name: np.array(content[item.name], float) for item in fields(cls)}
        wrong = [name for name, value in values.items() if value.shape != np.shape(getattr(NEUTRAL, name))]
        if wrong:
            raise ValueError(f"{wrong[0]}: {content[wrong[0]]}")
        return cls(**{name: tuple(v.tolist()) if v.ndim else v.item() for name, v in values.items()})


@dataclass(frozen=True)
class Part:
    """A part of the fit that is used or not.

    gain: of mAP when it was chosen, fitted on one half of the images and measured on the other; nested_gain:
    what it adds on top of the parts before it, chosen and fitted on other folds.
    """

    on: bool
    gain: float
    nested_gain: float | None = None


NEUTRAL = MemberFit()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """All that was fitted.

    mode: of the metric that it is for, given or leaderboard; members: by name; used: those worth using;
    ground: the planes to expect (carpose.geometry.ground); score, hit: models of a car's features for the
    mean share of the metric's ten thresholds it passes, and for a hit at the loosest; thresholds: the score
    from which a car is kept for the leaderboard, of plain and of calibrated scores; writing: in which range
    angles are written; fused_sigma_scale: what the fused depth_sigma is multiplied with; mAP: out of fold.
    """

    mode: str = "given"
    members: dict[str, MemberFit]
    ground: dict | None = None
    used: list[str] = field(default_factory=list)
    score: Logistic | None = None
    hit: Logistic | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    writing: Writing | None = None
    fused_sigma_scale: float = 1.0
    parts: dict[str, Part] = field(default_factory=dict)
    mAP: dict | None = None

    def enabled_parts(self) -> list[str]:
        """The parts that were found to pay."""
        return [part for part in PARTS if part in self.parts and self.parts[part].on]

    def member(self, name: str, parts: Iterable[str]) -> MemberFit:
        """What is used of a member: nothing but its bias where `weights` is not among the parts."""
        fitted = self.members[name]
        return fitted if "weights" in parts else replace(NEUTRAL, bias=fitted.bias)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Fit":
        """Raises KeyError, ValueError, TypeError or AttributeError where it is none."""
        content = load_json(text)
        content["members"] = {name: MemberFit.from_json(entry) for name, entry in content["members"].items()}
        content["parts"] = {name: Part(**part) for name, part in content["parts"].items()}
        for name, kind in {"ground": dict, "used": list, "thresholds": dict}.items():
            content[name] = kind(content[name])
        for name in ("score", "hit"):
            content[name] = Logistic(**content[name])
        content["writing"] = Writing.from_json(content["writing"])
        return cls(**content)


def read_fit(path: str | Path) -> Fit:
    """fusion.json of carpose.fuse.fit. Raises UserError where it is none."""
    try:
        return Fit.from_json(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a fit of carpose.fuse.fit ({reason}); fit it again") from error
