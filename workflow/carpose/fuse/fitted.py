"""The fit of a fusion: of each member, of the ground, and which parts are used. To and from JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from carpose.core.errors import UserError
from carpose.core.keyed import load_json
from carpose.geometry.ground import DEFAULT_SIGMA

from .angle_range import AngleRange
from .calibration import Logistic, check_numbers

# The parts of a fit, in the order in which they are tried.
DESCRIPTIONS = {
    "members": "leave out the worst members",
    "bias": "correct each member's depth by distance",
    "member_weights": "weigh members by their errors",
    "ground": "move cars onto the photo's ground",
    "calibration": "calibrate the scores",
    "angle_range": "choose the 2π range of angles",
}
PARTS = list(DESCRIPTIONS)


@dataclass(frozen=True)
class MemberFit:
    """How far a member's cars lie from the true ones.

    bias: coefficients of 1 and log(range/40 m) of the error of log-range; sigma: standard deviation of log z
    where the member predicts none; sigma_scale: factor of the depth_sigma it predicts; direction_sigma,
    rotation_sigma: radians; reliability: logit(probability of a true car) is the first plus the second times
    logit(score); correlation_weight: 1 if its errors are independent of other members', less if correlated.
    """

    bias: tuple[float, float] = (0.0, 0.0)
    sigma: float = DEFAULT_SIGMA
    sigma_scale: float = 1.0
    direction_sigma: float = 0.005
    rotation_sigma: float = 0.1
    reliability: tuple[float, float] = (0.0, 1.0)
    correlation_weight: float = 1.0

    @classmethod
    def from_json(cls, content: dict) -> "MemberFit":
        """Raises KeyError where a number is missing, ValueError or TypeError where it is invalid."""
        values = {item.name: np.array(content[item.name], float) for item in fields(cls)}
        positive = ("sigma", "sigma_scale", "direction_sigma", "rotation_sigma", "correlation_weight")
        invalid = [
            name
            for name, value in values.items()
            if value.shape != np.shape(getattr(NEUTRAL, name))
            or not np.isfinite(value).all()
            or (name in positive and value <= 0)
        ]
        if invalid:
            raise ValueError(f"{invalid[0]}: {content[invalid[0]]}")
        numbers: dict[str, Any] = {
            name: tuple(v.tolist()) if v.ndim else v.item() for name, v in values.items()
        }
        return cls(**numbers)


@dataclass(frozen=True)
class Part:
    """Whether a part of the fit is used, and its gain.

    gain: difference in mAP by which it was chosen, fitted on one half of the images and measured on the
    other; nested_gain: difference in mAP on folds that it was neither chosen nor fitted on, on top of the
    parts before it.
    """

    on: bool
    gain: float
    nested_gain: float | None = None


NEUTRAL = MemberFit()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """All that was fitted.

    mode: of the metric that it was fitted for, given or leaderboard; members: by name; used: names of the
    members to fuse; ground: prior of a photo's plane (carpose.geometry.ground.fit_prior); score_model,
    hit_model: from a fused car's features to the mean share of the metric's ten threshold pairs it passes,
    and to the probability of a hit at the loosest; thresholds: scores from which on a car is kept for the
    leaderboard, for plain and for calibrated scores; fused_sigma_scale: factor of the fused depth_sigma; mAP:
    out of fold, as `fit.fit_nested` has it.
    """

    mode: str = "given"
    members: dict[str, MemberFit]
    ground: dict | None = None
    used: list[str] = field(default_factory=list)
    score_model: Logistic | None = None
    hit_model: Logistic | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    angle_range: AngleRange | None = None
    fused_sigma_scale: float = 1.0
    parts: dict[str, Part] = field(default_factory=dict)
    mAP: dict | None = None

    def enabled_parts(self) -> list[str]:
        """The parts that are used, in the order of PARTS."""
        return [part for part in PARTS if part in self.parts and self.parts[part].on]

    def member(self, name: str, parts: Iterable[str]) -> MemberFit:
        """The fit of a member; all but its bias is NEUTRAL where `member_weights` is not among the parts."""
        fitted = self.members[name]
        return fitted if "member_weights" in parts else replace(NEUTRAL, bias=fitted.bias)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Fit":
        """Raises KeyError, ValueError, TypeError or AttributeError where the text is not that of
        `to_json`."""
        content = load_json(text)
        content["members"] = {name: MemberFit.from_json(entry) for name, entry in content["members"].items()}
        content["parts"] = {name: Part(**part) for name, part in content["parts"].items()}
        for name, part in content["parts"].items():
            if name not in PARTS or not isinstance(part.on, bool):
                raise ValueError(f"parts: {name}")
        for name, value_type in {"ground": dict, "used": list, "thresholds": dict}.items():
            content[name] = value_type(content[name])
        if unknown := [name for name in content["used"] if name not in content["members"]]:
            raise ValueError(f"used: {unknown[0]}")
        for name, shape in {"mean": (3,), "covariance": (3, 3), "height": ()}.items():
            check_numbers(f"ground.{name}", content["ground"][name], shape)
        for name in ("plain", "calibrated"):
            check_numbers(f"thresholds.{name}", content["thresholds"][name], ())
        check_numbers("fused_sigma_scale", content["fused_sigma_scale"], ())
        for name in ("score_model", "hit_model"):
            content[name] = Logistic.from_json(content[name])
        content["angle_range"] = AngleRange.from_json(content["angle_range"])
        return cls(**content)


def read_fit(path: str | Path) -> Fit:
    """Reads fusion.json of carpose.fuse.fit. Raises UserError where the file is missing or invalid."""
    try:
        return Fit.from_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with carpose.fuse.fit") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a file of carpose.fuse.fit ({reason}); fit the fusion again") from error
