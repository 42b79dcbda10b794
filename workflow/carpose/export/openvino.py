"""A trained network as OpenVINO's files, .xml and .bin."""

import json
from pathlib import Path

from carpose.core.errors import UserError
from carpose.core.files import atomic
from carpose.network.checkpoint import load_checkpoint
from carpose.predict.openvino import convert, import_openvino

from .maps import Maps, metadata


def write(checkpoint: Path, output: Path) -> None:
    """Convert a checkpoint and write output (.xml) and its .bin file, which is moved into place first.

    Raises UserError for another suffix, an invalid checkpoint, or without OpenVINO.
    """
    if output.suffix != ".xml":
        raise UserError(f"--output {output}: invalid value; use a name that ends in .xml")
    runtime = import_openvino()
    model, train_config, provenance = load_checkpoint(checkpoint)
    converted = convert(Maps(model), train_config)
    for key, value in metadata(train_config, provenance).items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        converted.set_rt_info(text, ["carpose", key])
    # OpenVINO derives the name of the .bin file; the two temporary names differ in the suffix alone.
    with atomic(output) as graph, atomic(output.with_suffix(".bin")):
        runtime.save_model(converted, graph, compress_to_fp16=False)
