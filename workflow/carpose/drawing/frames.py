"""The true cars with their meshes, on the public frames of the data set, which come without a camera file."""

from pathlib import Path

import cv2
import pandas as pd

from carpose.core.files import atomic
from carpose.geometry import camera, meshes

from .cars import draw_cars
from .figures import PREDICTED, read_photo

FRAME_CROPS = {"full": [0.0, 0.0, 1.0, 1.0], "lower": [0.0, 0.5, 1.0, 1.0]}
# A frame without a name → the training image that it shows, or a near twin of it: of all training images
# its five cars lie and head most like those in the picture (centres up to 1 % of the width off).
LIKELY = {"unknown_full": "ID_67bd026ea"}


def draw_frames(real: Path, truth: pd.DataFrame, output: Path) -> list[Path]:
    """Draw the true cars, with their meshes, on the public frames of the data set; one PNG per known frame.

    real: folder with frames/<ImageId>_full.png (whole photos, made smaller) and _lower.png (lower halves),
    car_models_json/ and car_model_ids.csv; truth: table of labelled cars. A frame without truth is named and
    passed over.
    Returns the files written. Raises UserError where a file is missing or unreadable.
    """
    written = []
    for path in sorted((real / "frames").glob("*.png")):
        name, _, piece = path.stem.rpartition("_")
        image_id = LIKELY.get(path.stem, name)
        table = truth[truth["ImageId"] == image_id]
        if not len(table) or piece not in FRAME_CROPS:
            print(f"{path.name}: no truth for it, passed over")
            continue
        models = meshes.load_types(
            real / "car_models_json", real / "car_model_ids.csv", set(table["model_type"])
        )
        photo = read_photo(path)
        # Twice as large, so that far cars can be told from their outlines.
        photo = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        view = camera.crop_and_resize(camera.PHOTO_SIZE, FRAME_CROPS[piece], photo.shape[1::-1])
        photo = draw_cars(photo, view @ camera.INTRINSICS, table, models, PREDICTED)
        written.append(output / path.name)
        with atomic(written[-1]) as temporary:
            cv2.imwrite(str(temporary), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
        likely = " (likely its truth, see LIKELY)" if path.stem in LIKELY else ""
        print(f"{path.name}: {len(table)} cars of {image_id} drawn{likely}")
    return written
