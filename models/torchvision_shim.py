"""Let torchvision be imported beside a CPU build of torch that lacks its compiled operators.

`import torchvision` registers fake kernels for nms and qnms and fails where the operators are unknown
(`operator torchvision::nms does not exist`). Declaring their schemas cures the import; the operators stay
without a kernel, so nothing here may use torchvision.ops.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _library = torch.library.Library("torchvision", "DEF")  # kept: a collected one takes its schemas away
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
