"""The networks: image → output maps of stride 4, one per head. They are built by models.build.build_model.

Every network takes (B, C, H, W) and returns a list with one dict per stack (in evaluation mode only of the
last stack): head name → map (B, channels, ⌈H/4⌉, ⌈W/4⌉) float32. With `cells` (N,), indices that count row by
row through all maps of the batch, all heads but the heat map return their outputs at these cells alone, (N,
channels). Any size is accepted; where a backbone needs multiples of 32, the input is padded with zeros on the
right and bottom, and the output cropped.

Nothing here imports carpose; invalid arguments raise ValueError. Modules that import timm first import
models.torchvision_shim.
"""
