"""Predict: the trained folds of one model → tables of cars.

In: the checkpoints of all folds, the picture cache, folds.parquet. Out: `oof` (each training photo by the
fold's model that never saw it), `test` (the raw maps of all folds averaged, then decoded) and
`test_folds` (each fold's model by itself, which pseudo labels need).
Several models that share a grid can be predicted as one, their raw maps averaged too.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models.folding import fold_batch_norms
from models.predictor import Predictor

from . import UserError, cars, ground, parquet, rotation, slots
from .augment import level, turned
from .cache import open_cache
from .checkpoint import load_checkpoint
from .codec import STRIDE, can_pool, decode
from .data import Photos, View, network_input
from .device import NO_GRAPHS, lease, number_format, worker_count
from .files import check_outputs, run_main
from .fuse import fuse
from .graphs import Replayed
from .options import real, whole
from .recipe import Recipe, grid_of

Poses = dict[str, torch.Tensor]
Member = tuple[torch.nn.Module, Recipe]  # the first of `placed`


@dataclass
class Sight:
    """What one network, or the mean of several, sees on a batch of pictures."""

    heatmap: torch.Tensor  # (B, 1, H/4, W/4) float32, probabilities
    poses: Callable[[torch.Tensor], Poses]  # cells (N,) counted through the batch → what is there


def forward(model: torch.nn.Module, pictures: torch.Tensor, recipe: Recipe, device: torch.device) -> Sight:
    """What the network sees on pictures (B, H, W, 4) uint8."""
    dtype = number_format(device, recipe.amp)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    with torch.inference_mode(), autocast():
        logits, features = model(network_input(pictures, device, recipe))
        heatmap = logits.float().sigmoid()

    def poses(cells: torch.Tensor) -> Poses:
        with torch.inference_mode(), autocast():
            return {name: value.float() for name, value in model.poses(features, cells).items()}

    return Sight(heatmap, poses)


def flipped_forward(
    model: torch.nn.Module, pictures: torch.Tensor, recipe: Recipe, device: torch.device
) -> Sight:
    """The mean of what the network sees on the picture and on its mirror image, mapped back.

    An array flip is what a camera with mirrored cx sees of the mirrored scene: exact, no resampling.
    """
    plain, other = (forward(model, each, recipe, device) for each in (pictures, pictures.flip(2)))
    width = plain.heatmap.shape[3]
    # sin yaw and sin(roll + π) change sign with x → −x; pitch and all cosines do not.
    signs = [1, -1, -1, 1] if recipe.rotation == "quaternion" else [-1, 1, 1, 1, -1, 1]

    def poses(cells: torch.Tensor) -> Poses:
        column = cells % width
        found = other.poses(cells - column + (width - 1 - column))
        turn = found["rotation"]
        turned = turn * turn.new_tensor(signs[: turn.shape[1]])
        return found | {"offset": found["offset"] * turn.new_tensor([-1, 1]), "rotation": turned}

    return mean([plain, Sight(other.heatmap.flip(3), poses)], recipe)


def loader(
    cache: Path, image_ids: list[str], recipe: Recipe, batch: int, workers: int, scene: np.ndarray
) -> Iterator:
    """Batches of pictures (B, H, W, 4) uint8 with their ImageIds; each lasts until the next is taken."""

    def collate(pictures: list[np.ndarray]) -> tuple:
        return torch.from_numpy(np.stack(pictures)), {}, None

    photos = Photos(cache, image_ids, recipe, scene)
    largest = 4 * batch * recipe.input_width * recipe.input_height
    batches = slots.loader(photos, collate, largest, workers, batch_size=batch)
    for start, (pictures, _, _) in zip(range(0, len(image_ids), batch), batches, strict=True):
        yield pictures, image_ids[start : start + batch]


def table(
    sight: Sight,
    view: View,
    recipe: Recipe,
    image_ids: list[str],
    threshold: float,
    scene: np.ndarray,
    pool_depth: bool = False,
) -> pd.DataFrame:
    """A batch → table of cars in the photo's own camera frame; scene: how that was turned."""
    intrinsics, focal = view.map_intrinsics, view.focal_reference
    found = decode(sight.heatmap, sight.poses, intrinsics, focal, recipe, threshold, pool_depth=pool_depth)
    angles = rotation.angles(scene.T @ rotation.matrix(found["angles"]))
    columns = np.column_stack([angles, found["xyz"] @ scene])
    result = pd.DataFrame(columns, columns=cars.POSE)
    result.insert(0, "ImageId", np.array(image_ids, dtype=object)[found["picture"]])
    return result.assign(score=found["score"], depth_sigma=found["depth_sigma"])


def predict_cars(
    teams: list[list[Member]],
    cache_folder: Path,
    image_ids: list[str],
    device: torch.device,
    *,
    turns_deg: Sequence[Sequence[float]] = (),
    grounds: list[dict] | None = None,
    label: str | None = None,
    **options,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Cars from what all models see on average, and from what each team sees by itself (if several).

    teams: models with their recipes, all on one grid; turns_deg: predict the photos as a camera turned by
    each of these pans, tilts and rolls sees them, and fuse the cars (default: as they are, once); grounds: of
    each team, what carpose.ground knows of its labels: cars are moved to their photo's ground; label: name of
    the progress bar, None shows none; options: of `predict_view`.
    """
    turns = turns_deg or [[0.0, 0.0, 0.0]]
    views = []
    for number, turn in enumerate(turns, start=1):
        scene = turned(*turn) @ level(teams[0][0][1])
        name = f"{label}, view {number}/{len(turns)}" if label and len(turns) > 1 else label
        views.append(predict_view(teams, cache_folder, image_ids, device, scene=scene, label=name, **options))

    def finished(tables, prior):
        found = tables[0]
        if len(tables) > 1:
            named = {str(number): table for number, table in enumerate(tables)}
            fused = fuse(named)
            # The views' errors are one network's and go together: two are hardly surer than one.
            sigma = fused["depth_sigma"] * np.sqrt(fused["agreement"])
            found = fused.assign(depth_sigma=sigma)[found.columns]
        return found if prior is None else ground.refine(found, prior)

    grounds = grounds or [None] * len(teams)
    together = finished([view[0] for view in views], grounds[0])
    alone = zip(*(view[1] for view in views), strict=True)
    return together, [finished(tables, own) for tables, own in zip(alone, grounds, strict=False)]


def predict_view(
    teams: list[list[Member]],
    cache_folder: Path,
    image_ids: list[str],
    device: torch.device,
    *,
    threshold: float = 0.05,
    batch: int = 8,
    workers: int = 0,
    flip: bool = False,
    mask_filter: bool = False,
    pool_depth: bool = False,
    scene: np.ndarray,
    label: str | None = None,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """What `predict_cars` returns, from photos as the camera turned by `scene` (3×3) sees them.

    threshold: lowest score kept; batch: photos per forward pass; workers: processes that read photos; flip:
    average with the mirror image; mask_filter: no car whose centre lies in the photo's mask; pool_depth: take
    depths from a car's nine cells (carpose.codec) if all networks' recipes allow it.
    """
    recipe = teams[0][0][1]
    view = View(open_cache(cache_folder), recipe)
    run = flipped_forward if flip else forward
    pool_depth &= all(can_pool(own) for team in teams for _, own in team)

    def look(pictures: torch.Tensor, names: list[str]) -> list[pd.DataFrame]:
        """A batch's cars by all together and, if several, by each team."""
        pictures = pictures.to(device)
        each = [mean([run(model, pictures, own, device) for model, own in team], recipe) for team in teams]
        if mask_filter:
            seen = pictures[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE, 3] <= 127
            for sight in each:
                sight.heatmap = sight.heatmap * seen[:, None]
        sights = [mean(each, recipe), *(each if len(teams) > 1 else [])]
        return [table(sight, view, recipe, names, threshold, scene, pool_depth) for sight in sights]

    stream = loader(cache_folder, image_ids, recipe, batch, workers, scene)
    total = -(-len(image_ids) // batch)
    bar = tqdm(stream, total=total, desc=label, disable=label is None, mininterval=5)
    found = [look(pictures, names) for pictures, names in bar]
    none = cars.empty([*cars.POSE, "score", "depth_sigma"])
    together, *alone = [cars.concat([none, *parts]) for parts in zip(*found, strict=True)] or [none]
    return together, alone


def mean(sights: list[Sight], recipe: Recipe) -> Sight:
    """The mean of what several networks see; q and −q being one rotation, the first one's sign is taken."""

    def poses(cells: torch.Tensor) -> Poses:
        each = [sight.poses(cells) for sight in sights]
        if recipe.rotation == "quaternion":
            first = each[0]["rotation"]
            for found in each:
                same = (found["rotation"] * first).sum(1, keepdim=True) >= 0
                found["rotation"] = torch.where(same, found["rotation"], -found["rotation"])
        return {name: sum(found[name] for found in each) / len(each) for name in each[0]}

    return Sight(sum(sight.heatmap for sight in sights) / len(sights), poses)


def placed(
    model: torch.nn.Module, recipe: Recipe, device: torch.device, runtime: str, graphs: bool = True
) -> torch.nn.Module:
    """The network as and where it will predict, apart from the given one: a Predictor, or what works like it.
    runtime: torch, or openvino, which is for the CPU alone; graphs: on a GPU as a CUDA graph."""
    if runtime == "openvino" and device.type == "cpu":
        from .export import Network  # here: what it imports is optional

        return Network(model, recipe)
    folded = fold_batch_norms(model, 4 if recipe.mask_channel else 3)
    predictor = Predictor(folded).to(device, memory_format=torch.channels_last)
    return Replayed(predictor) if graphs and device.type == "cuda" else predictor


def load_teams(
    checkpoints: list[list[Path]], device: torch.device, runtime: str = "torch", graphs: bool = True
) -> tuple[list[list[Member]], list[dict]]:
    """Checkpoints by model and fold → per fold the models with their recipes, and the ground it knows.

    runtime, graphs: as in `placed`. Raises UserError where a checkpoint is another fold's, where numbers of
    folds, recipes of one model or grids differ, or where the runtime is not installed.
    """
    if len(set(map(len, checkpoints))) > 1:
        raise UserError("--checkpoints: name as many folds for each model")
    by_model: list[list[Member]] = []
    grounds: list[dict] = []
    for paths in checkpoints:
        members: list[Member] = []
        for fold, path in enumerate(paths):
            model, recipe, provenance = load_checkpoint(path)
            if (known := provenance.get("fold", fold)) != fold:
                raise UserError(
                    f"{path}: is the model of fold {known} given as fold {fold}'s, whose photos it knows;"
                    " name the checkpoints of fold 0, 1, … in order"
                )
            if members and recipe != members[0][1]:
                raise UserError(f"{path}: its recipe differs from {paths[0]}'s; retrain one of them")
            own, first = grid_of(recipe), grid_of(by_model[0][0][1] if by_model else recipe)
            for key, value in own.items():
                if value != first[key]:
                    raise UserError(
                        f"{path}: {key} is {value}, but {first[key]} in {checkpoints[0][0]}; only maps of "
                        "one grid can be averaged"
                    )
            members.append((placed(model, recipe, device, runtime, graphs), recipe))
            grounds.append(provenance.get("ground"))
        by_model.append(members)
    # All models of a fold have learnt from the same labels.
    return [list(team) for team in zip(*by_model, strict=True)], grounds[: len(checkpoints[0])]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m carpose.predict",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        action="append",
        required=True,
        help="model.pt of fold 0, 1, …; given again for each further model whose maps are averaged with it",
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the picture cache")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of the check")
    parser.add_argument("--folds", type=Path, required=True, help="folds.parquet")
    parser.add_argument("--oof", type=Path, required=True, help="output: out-of-fold predictions")
    parser.add_argument("--test", type=Path, required=True, help="output: test photos, folds averaged")
    parser.add_argument(
        "--test-folds", type=Path, required=True, help="output: test photos, each fold's model"
    )
    parser.add_argument(
        "--threshold", type=real(0, 1), default=0.05, help="lowest score kept of one view, 0 … 1"
    )
    parser.add_argument("--batch-size", type=whole(1), default=8, help="photos per forward pass")
    parser.add_argument("--workers", type=worker_count, default=0, help="processes that read photos")
    parser.add_argument("--threads", type=whole(1), default=1, help="threads of the network on the CPU")
    parser.add_argument(
        "--runtime",
        choices=["torch", "openvino"],
        default="torch",
        help="what computes the network on the CPU; on a GPU torch does",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument(
        "--pool-depth",
        action="store_true",
        help="a car's depth by the nine cells about its centre, the surest most, where recipes allow it",
    )
    parser.add_argument(
        "--turns-deg",
        type=real(-45, 45),
        nargs=3,
        action="append",
        metavar=("PAN", "TILT", "ROLL"),
        default=[],
        help="predict what the camera sees turned by so much; given again for each further view, all fused; "
        "without it the one view of the camera as it stands",
    )
    parser.add_argument(
        "--mask-filter", action="store_true", help="drop cars whose centre lies in the photo's mask"
    )
    parser.add_argument(
        "--ground", action="store_true", help="move cars to the ground that those of their photo stand on"
    )
    parser.add_argument("--gpus", type=whole(0), default=1, help="0: compute on the CPU")
    parser.add_argument("--no-graphs", action="store_true", help=NO_GRAPHS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check_outputs(args.oof, args.test, args.test_folds)

    folds, images = parquet.read_folds(args.folds), parquet.read_images(args.images)
    test_ids = images.ImageId[(images.split == "test") & (images.excluded == "")].tolist()
    settings = {
        "threshold": args.threshold,
        "batch": args.batch_size,
        "workers": args.workers,
        "flip": args.flip,
        "mask_filter": args.mask_filter,
        "pool_depth": args.pool_depth,
        "turns_deg": args.turns_deg,
    }
    with lease(args.gpus) as device:
        teams, grounds = load_teams(args.checkpoints, device, args.runtime, not args.no_graphs)
        if args.ground and None in grounds:
            raise UserError("--ground: a checkpoint of an older version knows no ground; train it again")
        grounds = grounds if args.ground else [None] * len(teams)
        out_of_fold = []
        for fold, team in enumerate(teams):
            own = folds.ImageId[folds.fold == fold].tolist()
            found, _ = predict_cars(
                [team], args.cache, own, device, label=f"fold {fold}", grounds=[grounds[fold]], **settings
            )
            out_of_fold.append(found.assign(fold=fold))
        together, alone = predict_cars(
            teams, args.cache, test_ids, device, label="test", grounds=grounds, **settings
        )
    alone = alone or [together]
    cars.write(args.oof, cars.concat(out_of_fold))
    cars.write(args.test, together)
    cars.write(args.test_folds, cars.concat([found.assign(fold=k) for k, found in enumerate(alone)]))
    photos, found = (folds["fold"] < len(teams)).sum(), sum(map(len, out_of_fold))
    print(f"{photos} training photos, {found} cars; {len(test_ids)} test photos, {len(together)} cars")
    return 0


if __name__ == "__main__":
    run_main(main)
