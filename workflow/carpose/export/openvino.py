"""A trained network as OpenVINO's files, .xml and .bin."""

from pathlib import Path

from carpose.core.files import atomic
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.openvino import convert, import_openvino

from .maps import Maps, metadata


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint and write output (.xml) and its .bin file, which is moved into place first.

    Raises UserError for an invalid checkpoint, or without OpenVINO.
    """
    runtime = import_openvino()
    model, train_config, provenance = load_checkpoint(checkpoint)
    converted = convert(Maps(model), train_config)
    for key, text in metadata(train_config, provenance).items():
        converted.set_rt_info(text, ["carpose", key])
    # OpenVINO derives the name of the .bin file; the two temporary names differ in the suffix alone.
    with atomic(output) as graph, atomic(output.with_suffix(".bin")):
        runtime.save_model(converted, graph, compress_to_fp16=False)
