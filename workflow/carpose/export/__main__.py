"""Export a trained network to another runtime: ONNX (.onnx), or OpenVINO (.xml, and a .bin file beside it).

Input: `images` (B, H, W, 3 or 4) float32, channels last, H and W as in the training configuration, with the
normalisation of carpose.data.samples: (RGB − mean) / std, mask as 0 … 1. Outputs: the maps by name
(B, channels, H/4, W/4), the heat map as logits. The metadata (in the .xml under `carpose`) hold the training
configuration, digest, provenance, mean and std; those of ONNX also describe input, outputs, camera and view.
`carpose.predict --runtime openvino` does not read such a file; it converts the checkpoint itself.
"""

from pathlib import Path

from carpose.core.errors import UserError
from carpose.core.files import check_outputs, run_main
from carpose.core.options import program

from . import onnx, openvino

SUFFIXES = {".onnx": [".onnx"], ".xml": [".xml", ".bin"]}


def main() -> int:
    parser = program("carpose.export", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a fold")
    parser.add_argument(
        "--output", type=Path, required=True, help="a file .onnx; or .xml, and a .bin beside it"
    )
    text = "photos (files, folders) on which ONNX Runtime's cars are compared with torch's"
    parser.add_argument("--verify", type=Path, nargs="+", metavar="PHOTO", help=text)
    parser.add_argument("--intrinsics", type=Path, help="camera_intrinsic.txt of these photos, for --verify")
    args = parser.parse_args()
    suffixes = SUFFIXES.get(args.output.suffix)
    if suffixes is None:
        raise UserError(f"--output {args.output}: name it .onnx, or .xml for OpenVINO")
    if args.verify and args.output.suffix != ".onnx":
        raise UserError(
            "--verify: is for .onnx; carpose.predict --runtime openvino computes with OpenVINO itself"
        )
    if args.verify and not args.intrinsics:
        raise UserError("--verify: give the camera of these photos with --intrinsics")
    check_outputs(args.output)
    writer = onnx if args.output.suffix == ".onnx" else openvino
    writer.write(args.checkpoint, args.output)
    size = sum(args.output.with_suffix(suffix).stat().st_size for suffix in suffixes)
    print(f"{args.output}: {size / 2**20:.1f} MiB including weights")
    if not args.verify:
        return 0
    from .verify import verify  # here: what it imports is for this alone

    comparison = verify(args.checkpoint, args.output, args.verify, args.intrinsics)
    verdict = "the same cars as torch" if comparison.agrees() else "not verified"
    print(f"{args.output}: {verdict}: {comparison}")
    return 0 if comparison.agrees() else 1


if __name__ == "__main__":
    run_main(main)
