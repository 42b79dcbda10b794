"""Render the demo data: street scenes in the competition's layout.

Output: a folder with train.csv, sample_submission.csv, photos, masks, camera and car models; and, outside of
it, the true cars of the test photos. The files depend on the seed, not on the number of processes.
"""

from pathlib import Path

import numpy as np

from carpose.config.options import add_options, from_options
from carpose.config.sections import Demo
from carpose.core.files import run_main, write_text
from carpose.core.machine import core_count
from carpose.core.options import int_at_least, program
from carpose.kaggle.identity import data_identity

from .demo import Scenes, given_poses, make, real_meshes, scaled_camera
from .shapes import TYPES, parametric


def main() -> None:
    parser = program("carpose.synth", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the data")
    parser.add_argument("--truth-output", type=Path, required=True, help="CSV of the test photos' cars")
    parser.add_argument("--identity-output", type=Path, help="text file for the fingerprint of the data")
    parser.add_argument("--jobs", type=int_at_least(1), default=core_count(), help="processes")
    add_options(parser, Demo)
    args = parser.parse_args()
    demo = from_options(args, Demo)
    counts = {"train": demo.train_images, "test": demo.test_images}
    if demo.car_models:
        folder = Path(demo.car_models)
        meshes, model_types = real_meshes(folder, Path(demo.car_model_ids or folder / "ids.csv"))
        names = [f"model-{model_type}" for model_type in model_types]
    else:
        names = list(TYPES)
        meshes, model_types = [parametric(name) for name in names], np.arange(len(TYPES))
    poses = {split: [None] * count for split, count in counts.items()}
    if demo.poses_from:
        poses = given_poses(demo.poses_from, counts, demo.seed)
    size, intrinsics = scaled_camera(demo.scale)
    scenes = Scenes(args.output, demo.seed, size, intrinsics, demo.max_distance, meshes, model_types)
    make(scenes, poses, names, args.truth_output, args.jobs)
    if args.identity_output:
        write_text(args.identity_output, data_identity(args.output) + "\n")


if __name__ == "__main__":
    run_main(main)
