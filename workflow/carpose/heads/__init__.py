"""The heads of a network, one module each: what it learns, its loss, its decoding, its mirror rule.

Frames: everything here is in the *network's* camera (after carpose.data.augment) and in cells of the output
maps; `intrinsics` are those of the output maps (cells(stride)·view·K). Cells are counted row by row through
all maps of a batch.
"""
