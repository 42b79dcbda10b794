"""The heads of a network, one module each: targets, loss, decoding and mirror rule.

Frames: all poses are in the frame of the *network's* camera (after carpose.data.augment), all map positions
in cells of the output maps; `intrinsics` are those of the output maps, cells(stride)·view·K. A cell index
counts row by row through all maps of a batch: (image · height + row) · width + column.
"""
