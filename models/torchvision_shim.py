"""Make torchvision importable with a CPU build of torch where its compiled operators do not load.

`import torchvision` registers fake kernels for nms and qnms and fails if these operators are not defined
(`operator torchvision::nms does not exist`). Defining their schemas fixes the import. The operators still
have no kernel, so no code here may use torchvision.ops.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _library = torch.library.Library(
        "torchvision", "DEF"
    )  # referenced here: when it is deleted, so are its schemas
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
