"""Faces out of videos in FaceForensics++'s layout: a real face, moved about."""

import json

import cv2
import numpy as np
import pytest
from conftest import write_litert
from PIL import Image
from skimage import data as pictures

from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_command import run_command
from tfdetect.data.face_detectors import face_detector
from tfdetect.data.image_faces import landmark_maps
from tfdetect.data.scan import scan
from tfdetect.extract_faces import main as extract_faces


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def moving_face(frames, start=0):
    """The astronaut's upper body drifting to the right, and masks that are white on the face."""
    photo = pictures.astronaut()[:320]
    shown, masks = [], []
    for number in range(frames):
        across = start + 3 * number
        shown.append(np.roll(photo, across, axis=1))
        mask = np.zeros_like(photo)
        mask[75:165, 180 + across : 265 + across] = 255
        masks.append(mask)
    return shown, masks


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("ff")
    shown, masks = moving_face(9)
    write_video(root / "original_sequences/youtube/c23/videos/000.mp4", shown)
    for method in ("Face2Face", "FaceSwap"):
        base = root / "manipulated_sequences" / method
        shown, masks = moving_face(9, start=20)
        write_video(base / "c23/videos/000_003.mp4", shown)
        write_video(base / "masks/videos/000_003.mp4", masks)
    write_video(root / "original_sequences/youtube/c23/videos/999.mp4",
                [np.full((240, 320, 3), 90, np.uint8)] * 4)  # fmt: skip
    return root


def run(arguments, capsys):
    code = run_command(extract_faces, [str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_faces_and_masks_are_cut_alike_and_read_as_faces3(videos, tmp_path, capsys):
    code, out, err = run([videos, "--output", tmp_path, "--every", "4"], capsys)
    assert code == 0, err
    assert "9 faces from 3 videos" in out and "1 failed" in out
    assert "999.mp4: no face found" in err
    for target in ("real/youtube/000", "edited/F2F/000_003", "edited/FS/000_003"):
        names = sorted(p.name for p in (tmp_path / target).iterdir())
        assert names == ["0000.png", "0004.png", "0008.png"]
    for name in names:
        with (Image.open(tmp_path / "edited/F2F/000_003" / name) as face,
              Image.open(tmp_path / "masks/F2F/000_003" / name) as mask):  # fmt: skip
            assert face.size == mask.size and face.size[0] == face.size[1] > 60
            levels = np.asarray(mask)
            assert set(np.unique(levels)) == {0, 255}
            # The cut follows the face: its mask stays in the middle.
            y, x = np.argwhere(levels).mean(axis=0) / levels.shape
            assert 0.3 < y < 0.7 and 0.3 < x < 0.7
    spec, _ = load_spec("faces3")
    found = scan(spec, tmp_path)
    files = found.files
    assert files["label"].to_pylist() == [2] * 6 + [0] * 3 and not found.skipped.num_rows
    assert files["mask"].null_count == 3 and set(files["group"].to_pylist()) == {"000", "000_003"}


def test_it_goes_on_where_it_stopped(videos, tmp_path, capsys):
    run([videos, "--output", tmp_path, "--every", "8", "--size", "64"], capsys)
    with Image.open(tmp_path / "real/youtube/000/0000.png") as face:
        assert face.size == (64, 64)
    code, out, _ = run([videos, "--output", tmp_path, "--every", "8"], capsys)
    assert code == 0 and "0 faces" in out and "3 done before" in out


def test_mistakes_are_explained(tmp_path, capsys):
    code, _, err = run([tmp_path, "--output", tmp_path / "x"], capsys)
    assert code == 2 and "as FaceForensics++ has them" in err
    code, _, err = run([tmp_path / "none", "--output", tmp_path], capsys)
    assert code == 2 and "There is no folder" in err
    code, _, err = run([tmp_path, "--output", tmp_path, "--every", "0"], capsys)
    assert code == 2 and "at least 1" in err


def test_a_missing_mask_video_is_named(videos, tmp_path, capsys):
    shown, _ = moving_face(2)
    write_video(tmp_path / "manipulated_sequences/FaceSwap/c40/videos/001_002.mp4", shown)
    code, _, err = run([tmp_path, "--output", tmp_path / "out"], capsys)
    assert code == 1 and "001_002.mp4: its mask video" in err


def test_faces_of_images_keep_their_folders(tmp_path, capsys):
    photo = pictures.astronaut()[:320]
    for name in ("real/a.jpg", "fake/a.png", "fake/a.jpg", "fake/deep/b.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "in" / name)
    Image.fromarray(np.full((90, 90, 3), 90, np.uint8)).save(tmp_path / "in/real/none.png")
    (tmp_path / "in/real/broken.png").write_bytes(b"nothing")
    arguments = [tmp_path / "in", "--images", "--output", tmp_path / "out", "--json"]
    code, out, err = run(arguments, capsys)
    assert code == 0 and "broken.png: " in err
    assert json.loads(out) == {
        "dataset": str(tmp_path / "out"), "faces": 4, "images": 5, "images_done_before": 0,
        "images_failed": 1, "images_without_face": 1,
    }  # fmt: skip
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert names == {"real/a.png", "fake/a.png.png", "fake/a.jpg.png", "fake/deep/b.png"}
    with Image.open(tmp_path / "out/fake/a.png.png") as face:
        side = face.size[0]
        assert face.size[1] == side > 60
        # It is a part of the photograph, pixel by pixel, with the face in it.
        found = cv2.matchTemplate(photo, np.asarray(face), cv2.TM_SQDIFF)
        _, _, (left, top), _ = cv2.minMaxLoc(found)
        assert (photo[top : top + side, left : left + side] == np.asarray(face)).all()
        assert left < 222 < left + side and top < 120 < top + side
    (tmp_path / "out/real/a.png").unlink()  # an interrupted command
    code, out, _ = run([*arguments, "--size", "48"], capsys)
    assert json.loads(out)["images_done_before"] == 3
    with Image.open(tmp_path / "out/real/a.png") as face:
        assert face.size == (48, 48)


def test_landmarks_are_drawn_below_faces(tmp_path, capsys):
    import tensorflow as tf

    def mesh(image):  # every point a little right of the middle, of bright images
        points = tf.tile(tf.constant([[24.0, 16.0, 0.0]]), [468, 1])
        found = tf.reduce_mean(image, (1, 2, 3), keepdims=True)
        return tf.reshape(points, [1, 1, 1, -1]) + 0 * found, 10 * found - 1

    model = write_litert(tmp_path / "mesh.tflite", mesh, 32)
    photo = pictures.astronaut()[:320]
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in/a.png")
    Image.fromarray(photo // 8).save(tmp_path / "in/dark.png")
    arguments = [tmp_path / "in", "--images", "--output", tmp_path / "out", "--size", "64"]
    assert run([*arguments, "--landmarks", model], capsys)[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    face = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert face.shape == (128, 64, 3)
    maps = face[64:]
    assert (maps[32, 48] == 255).all() and maps[32, 51].max() < 9 and (maps[:20] == 0).all()
    wrong = write_litert(tmp_path / "wrong.tflite", lambda image: image[:, :1], 32)
    for file, message in ((wrong, "finds no face mesh"), (tmp_path / "no.tflite", "no file")):
        code, _, err = run(
            [*arguments[:2], "--output", tmp_path / "x", "--landmarks", file], capsys
        )
        assert code == 2 and message in err and "pip download mediapipe" in err
    assert run([tmp_path, "--output", tmp_path / "x", "--landmarks", model], capsys)[0] == 2


def test_faces_of_mediapipes_networks_are_decoded(tmp_path, capsys):
    import tensorflow as tf

    # Of the grid of stride 8 the point (36, 20), with a box around (40, 18) of 32 x 40 pixels,
    # and a less confident neighbor that is wider by 16; one of stride 16 far away.
    numbers = [2 * (2 * 16 + 4), 2 * (2 * 16 + 4) + 1, 2 * 256 + 6 * (7 * 8 + 7)]
    boxes = [[4, -2, 32, 40], [4, -2, 48, 40], [0, 0, 8, 8]]
    values = tf.scatter_nd([[n] for n in numbers], [box + [0.0] * 12 for box in boxes], [896, 16])
    logits = tf.scatter_nd([[n] for n in numbers], [[22.0], [20.0], [21.0]], [896, 1]) - 20.0

    def faces(image):  # of images that are not dark; black is -1
        light = tf.reduce_mean(image, (1, 2, 3), keepdims=True)[:, 0] + 0.9
        return values[None] + 0 * light, logits[None] + tf.where(light > 0, 1.0, -90.0)

    model = write_litert(tmp_path / "faces.tflite", faces, 128)
    find = face_detector(str(model))
    ahead, beside = (1 / (1 + np.exp(-logit)) for logit in (3, 1))
    width = (32 * ahead + 48 * beside) / (ahead + beside)
    box = np.array([40 - width / 2, 18 - 20, width, 40])
    bright = np.full((128, 128, 3), 200, np.uint8)
    assert np.abs(np.array(find(bright)) - box).max() <= 1
    wide = np.full((128, 256, 3), 200, np.uint8)  # padded above and below
    assert np.abs(np.array(find(wide)) - [2 * box[0], 2 * box[1] - 64, *(2 * box[2:])]).max() <= 1
    assert find(bright // 100) is None
    for name, pixels in (("a", bright), ("dark", bright // 100)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    arguments = [tmp_path, "--images", "--detector"]
    code, out, err = run([*arguments, model, "--output", tmp_path.parent / "faces"], capsys)
    assert code == 0 and "1 face from 2 images" in out, err
    wrong = write_litert(tmp_path / "wrong.tflite", lambda image: image[:, :1], 32)
    code, _, err = run([*arguments, wrong, "--output", tmp_path.parent / "x"], capsys)
    assert code == 2 and "finds no faces. Give face_detection_short_range" in err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["short_range", "full_range_sparse"])
def test_faces_by_mediapipe(mediapipe_model, name, videos, tmp_path, capsys):
    model = mediapipe_model(f"face_detection_{name}.tflite")
    photo = np.ascontiguousarray(pictures.astronaut()[..., ::-1])
    x, y, width, height = face_detector(model)(photo)
    assert abs(x + width / 2 - 225) < 12 and abs(y + height / 2 - 122) < 15 and 70 < width < 130
    assert face_detector(model)(np.full_like(photo, 90)) is None
    arguments = [videos, "--output", tmp_path / "out", "--every", "4", "--detector", model]
    code, out, err = run(arguments, capsys)
    assert code == 0 and "9 faces from 3 videos" in out, err


@pytest.mark.slow
def test_landmarks_of_mediapipe(mediapipe_model):
    """Of the astronaut, whose eyes and mouth are where they are."""
    face = np.ascontiguousarray(pictures.astronaut()[60:190, 160:290])
    maps = landmark_maps(mediapipe_model("face_landmark.tflite"), face)
    assert maps[..., 1][35:65, 40:90].mean() > 4 * maps[..., 1].mean()  # the eyes
    assert maps[..., 2][72:102, 45:85].mean() > 4 * maps[..., 2].mean()  # the mouth
    noise = np.random.default_rng(0).integers(0, 255, face.shape, np.uint8)
    assert landmark_maps(mediapipe_model("face_landmark.tflite"), noise) is None


def test_mistakes_with_images_are_explained(tmp_path, capsys):
    code, _, err = run([tmp_path, "--images", "--output", tmp_path / "x"], capsys)
    assert code == 2 and "is inside" in err
    (tmp_path / "in").mkdir()
    code, _, err = run([tmp_path / "in", "--images", "--output", tmp_path / "x"], capsys)
    assert code == 2 and "No images below" in err
    (tmp_path / "in" / "a.png").write_bytes(b"nothing")
    assert run([tmp_path / "in", "--images", "--output", tmp_path / "x"], capsys)[0] == 1
    code, _, err = run([tmp_path / "in", "--output", tmp_path / "x"], capsys)
    assert code == 2 and "add --images" in err
