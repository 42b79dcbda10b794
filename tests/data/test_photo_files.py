"""Photos without a data set: found, refused in one line, mapped exactly to the camera of the training."""

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from carpose.config.train_config import TrainConfig
from carpose.core import pictures
from carpose.core.errors import UserError
from carpose.data.cache import open_cache
from carpose.data.photo_files import LoadedPhotos, check_camera, check_photos, find_photos
from carpose.data.samples import NominalView, Photos
from carpose.data.training_camera import TrainingCamera
from carpose.geometry import camera

TRAIN_CONFIG = TrainConfig(input_width=192, input_height=64, perspective=0.3)
STRAIGHT = np.eye(3)


def write(path, size=(60, 48), orientation=None):
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path, exif=exif)
    return path


def scaled(intrinsics, factor):
    """Of a photo resized by this factor, whose pixels have their centres at whole numbers."""
    return camera.crop_and_resize((1000, 1000), [0, 0, 1, 1], (1000 * factor, 1000 * factor)) @ intrinsics


@pytest.fixture(scope="module")
def training(prepared):
    return TrainingCamera.of_cache(open_cache(prepared / "cache"))


# Files


def test_folders_and_files_by_their_stems(tmp_path):
    a, b, c = (write(tmp_path / name) for name in ("one/a.jpg", "one/b.PNG", "c.jpg"))
    (tmp_path / "one" / "notes.txt").touch()
    (tmp_path / "one" / "._a.jpg").touch()
    assert find_photos([tmp_path / "one", c, a]) == {"a": a, "b": b, "c": c}
    assert check_photos({"a": a, "b": b, "c": c}) == (60, 48)


def test_what_is_wrong_with_files_is_one_line(tmp_path):
    a, other = write(tmp_path / "one" / "a.jpg"), write(tmp_path / "two" / "a.png")
    (tmp_path / "empty").mkdir()
    for paths, message in (
        ([tmp_path / "empty"], r"empty: there is no photo in this folder \(.jpg, "),
        ([tmp_path / "nowhere.jpg"], "nowhere.jpg: there is no such file or folder"),
        ([a, other], r"one/a.jpg and .*two/a.png: both would be image a; rename one"),
    ):
        with pytest.raises(UserError, match=message):
            find_photos(paths)
    half = tmp_path / "half.jpg"
    half.write_bytes(a.read_bytes()[:-200])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(UserError, match=r"half.jpg: (unreadable|damaged) .*\(and 1 more photos\)"):
        check_photos({"a": a, "half": half, "text": text})
    small = write(tmp_path / "small.jpg", size=(30, 24))
    with pytest.raises(
        UserError, match=r"small.jpg: is 30×24 pixels, .*a.jpg is 60×48; one file of intrinsics"
    ):
        check_photos({"a": a, "small": small})


def test_photos_that_exif_would_turn_are_noted_and_read_as_stored(tmp_path, capsys):
    turned = {name: write(tmp_path / f"{name}.jpg", orientation=6) for name in "ab"}
    assert check_photos(turned) == (60, 48)
    assert pictures.read(turned["a"]).shape == (48, 60, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.jpg: has EXIF orientation 6 (and 1 more photos)" in line
    assert "the intrinsics must be those of these pixels" in line


# Cameras


def test_a_photo_of_the_data_set_is_as_its_cache_holds_it(prepared, training):
    cache = open_cache(prepared / "cache")
    image_id = next(iter(cache.rows))
    [path] = prepared.glob(f"data/*_images/{image_id}.jpg")
    cached = training.cached(pictures.read(path), cache.intrinsics)
    np.testing.assert_array_equal(cached[..., :3], cache.photos[cache.rows[image_id]][..., :3])
    scene = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    for turn in (STRAIGHT, scene):
        expected = Photos(prepared / "cache", [image_id], TRAIN_CONFIG, turn)
        loaded = LoadedPhotos([cached], [image_id], TRAIN_CONFIG, training, turn)
        np.testing.assert_array_equal(loaded[0][..., :3], expected[0][..., :3])
        np.testing.assert_array_equal(loaded.view.map_intrinsics, expected.view.map_intrinsics)


def test_it_is_written_and_read_exactly(training):
    again = TrainingCamera.from_json(training.to_json())
    np.testing.assert_array_equal(again.view, training.view)
    np.testing.assert_array_equal(again.intrinsics, training.intrinsics)
    assert (again.photo_size, again.size) == (training.photo_size, training.size)


@pytest.mark.parametrize("intrinsics", [(500, 450, 300, 260), (150, 180, 120, 90), (900, 900, 200, 500)])
def test_another_camera_s_point_is_seen_where_the_training_s_camera_sees_it(training, intrinsics):
    """A spot at any depth, on a photo of any camera, appears in the network's picture where the labels of the
    data set would have put it."""
    fx, fy, cx, cy = intrinsics
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    view = NominalView(training, TRAIN_CONFIG)
    for point in ([1.0, 2.5, 12.0], [-4.0, 6.0, 30.0]):
        u, v = camera.project(matrix, np.array(point))
        rows, columns = np.mgrid[: int(v) + 300, : int(max(u, 0)) + 300]
        spread = 2 * fx / training.intrinsics[0, 0]
        spot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * spread**2))
        image = np.dstack([spot.astype(np.uint8)] * 3)
        loaded = LoadedPhotos([training.cached(image, matrix)], ["a"], TRAIN_CONFIG, training, STRAIGHT)
        picture = loaded[0][..., 0].astype(float)
        inside = training.cached(np.full_like(image, 255), matrix)
        shown = LoadedPhotos([inside], ["a"], TRAIN_CONFIG, training, STRAIGHT)[0][..., 0] == 255
        picture[~shown] = 0
        y, x = (picture.sum(axis=axis) @ np.arange(picture.shape[1 - axis]) for axis in (1, 0))
        expected = camera.project(view.matrix @ training.intrinsics, np.array(point))
        assert (expected > 5).all() and (expected < np.array(view.size) - 5).all()
        np.testing.assert_allclose([x / picture.sum(), y / picture.sum()], expected, atol=0.3)


def test_half_a_photo_with_half_the_intrinsics_is_nearly_the_same_picture(prepared, training):
    [path, *_] = sorted(prepared.glob("data/test_images/*.jpg"))
    image, intrinsics = pictures.read(path), training.intrinsics
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)

    def network_sees(image, intrinsics):
        cached = training.cached(image, intrinsics)
        return LoadedPhotos([cached], ["a"], TRAIN_CONFIG, training, STRAIGHT)[0].astype(float)

    whole = network_sees(image, intrinsics)
    nearly = np.abs(network_sees(half, scaled(intrinsics, 0.5)) - whole).mean()
    wrong = np.abs(network_sees(half, intrinsics) - whole).mean()
    assert nearly < 6 and wrong > 3 * nearly


def test_cameras_that_cannot_be(training, capsys):
    size, intrinsics = training.photo_size, training.intrinsics
    check_camera(size, intrinsics, training, TRAIN_CONFIG)
    assert capsys.readouterr().err == ""
    tiny = (size[0] // 8, size[1] // 8)
    with pytest.raises(
        UserError, match=r"photos of 42×33 pixels are too small for .* 192×64: 4.\d of its pixels"
    ):
        check_camera(tiny, scaled(intrinsics, 0.125), training, TRAIN_CONFIG)
    aside = intrinsics + [[0, 0, 5000], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(UserError, match="show nothing of the network's input"):
        check_camera(size, aside, training, TRAIN_CONFIG)
    lower_part = intrinsics - [[0, 0, 0], [0, 0, 150], [0, 0, 0]]
    check_camera((size[0], size[1] - 150), lower_part, training, TRAIN_CONFIG)
    assert "principal point (168, -15) lies outside photos of 338×121" in capsys.readouterr().err
