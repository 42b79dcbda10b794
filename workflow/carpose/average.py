"""The moving average of a network's weights, which is what a training results in."""

import copy

import torch


class MovingAverage:
    """timm's ModelEmaV3 with warm-up; going through both state dicts in each step takes it 3 % of a step of
    the smallest networks, so the tensors, which stay where they are, are looked up once."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.module = copy.deepcopy(model).eval()
        self.decay = decay
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, from 0. The decay rises to its value as 1 − step^(−3/4)."""
        decay = min(self.decay, 1 - max(step, 1) ** -0.75)
        mine, current = zip(*self.averaged, strict=True)
        torch._foreach_lerp_(mine, current, weight=1 - decay)
        for mine, current in self.copied:
            mine.copy_(current)
