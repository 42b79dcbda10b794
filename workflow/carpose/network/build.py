"""Recipe → network: what the registry says of its backbone, neck and heads, put together by models.build."""

import torch

from carpose.config.recipe import Recipe
from carpose.core.errors import UserError
from carpose.heads.head import make_heads
from carpose.registry.backbones import NECKS, backbone_of, published_name
from carpose.registry.resolve import resolve
from models.build import build_model


def build(recipe: Recipe) -> torch.nn.Module:
    """The recipe's network, with fresh (or pretrained) weights. Raises UserError where it cannot be made."""
    entry = backbone_of(recipe.backbone)
    hub_name = published_name(recipe.backbone, recipe.width) if recipe.pretrained == "hub" else None
    neck = entry.neck and (recipe.neck or entry.neck)
    if neck and neck not in NECKS:
        raise UserError(f"neck: invalid value {neck!r}; use one of {', '.join(NECKS)}")
    torch.manual_seed(recipe.seed)
    try:
        network = build_model(
            resolve(entry.builder),
            resolve(NECKS[neck]) if neck else None,
            heads={name: head.channels for name, head in make_heads(recipe).items()},
            width=recipe.width,
            neck_channels=recipe.neck_channels,
            norm=recipe.norm,
            in_channels=4 if recipe.mask_channel else 3,
            pretrained=recipe.pretrained,
            hub_name=hub_name,
            **entry.options,
            **{key: getattr(recipe, key) for key in entry.keys},
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return network.to(memory_format=torch.channels_last)
