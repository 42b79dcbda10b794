"""Let torchvision be imported beside a CPU build of torch that lacks its compiled operators.

`import torchvision` registers fake kernels for nms and qnms and fails where the operators are unknown
(`operator torchvision::nms does not exist`). Declaring their schemas first cures the import; the
operators stay without a kernel, so nothing here may use torchvision.ops. Where torchvision's own
library loads, it declares them itself and this module must not: hence the look before.
"""

import importlib.util
from pathlib import Path

import torch

_library = None  # must stay referenced: a collected Library takes its schemas away


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return True
        except OSError:
            continue
    return False


if not _compiled_operators_load():
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
