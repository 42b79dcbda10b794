"""The heads. A new head is a module with a class (see carpose.heads.head) and one entry here.

Network modules, losses and columns of tables have the order of the entries.
"""

from dataclasses import dataclass

VALID = "valid_"  # before the name of a loss in history.csv: that of the validation fold


@dataclass(frozen=True)
class HeadEntry:
    """A head's entry, for the configuration and for building the network."""

    builder: str  # dotted name of its class
    channels: int
    loss_weight: float  # where `loss_weights` of the configuration gives no other
    optional: bool = False  # whether a network has it only where `heads` names it
    help: str = ""  # what it predicts


HEADS: dict[str, HeadEntry] = {
    "heatmap": HeadEntry("carpose.heads.heatmap:Heatmap", 1, 2.0, help="where the centres of cars are"),
    "offset": HeadEntry("carpose.heads.offset:Offset", 2, 4.0, help="a centre's position within its cell"),
    "depth": HeadEntry("carpose.heads.depth:Depth", 2, 0.7, help="the depth and its uncertainty"),
    "height": HeadEntry(
        "carpose.heads.height:Height",
        2,
        0.7,
        optional=True,
        help="a second depth, learnt as inverse depth and merged with the first by their uncertainties",
    ),
    "rotation": HeadEntry(
        "carpose.heads.rotation:Rotation", 6, 30.0, help="sine and cosine of yaw, pitch and roll"
    ),
}
