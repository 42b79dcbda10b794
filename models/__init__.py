"""The networks: photo → output maps of stride 4, one per head. One door: models.build.build_model.

Every network takes (B, C, H, W) and returns a list with one dict per stack (in evaluation: the last stack
alone): head name → (B, channels, H/4, W/4) float32, rounded up. With `cells` (N,), counted through the maps
of the batch, all heads but the heat map give (N, channels), what they say there. Any size goes in; where a
backbone needs multiples of 32, zeros are added on the right and below and cut off the output again.

Nothing here imports carpose: wrong arguments raise ValueError. Modules that import timm import
models.torchvision_shim before it.
"""
