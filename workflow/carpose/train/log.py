"""What a training says: lines in its log, events for TensorBoard. The main process alone says anything."""

from pathlib import Path

from . import distributed

TOO_MUCH = 10  # times all other losses together


class Log:
    """name: in front of every line; events: folder for TensorBoard, or None."""

    def __init__(self, name: str, events: Path | None = None):
        self.name, self.events = name, events

    def say(self, message: str) -> None:
        if distributed.is_main_process():
            print(f"[{self.name}] {message}", flush=True)

    def epoch(self, row: dict[str, float], epochs: int, weights: dict[str, float]) -> None:
        """An epoch's row of the history, and a warning where one weighted loss starves the others."""
        text = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
        self.say(f"epoch {row['epoch']}/{epochs}  {text}")
        terms = {name: abs(row[name] * weight) for name, weight in weights.items()}
        name = max(terms, key=terms.get)
        if terms[name] > TOO_MUCH * (sum(terms.values()) - terms[name]):
            self.say(f"warning: the {name} loss outweighs the others tenfold; lower loss_weights.{name}")
        if self.events and distributed.is_main_process():
            write_events(self.events, row)


def write_events(folder: Path, row: dict[str, float]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    with SummaryWriter(str(folder)) as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])
