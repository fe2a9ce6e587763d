import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zo_triton.data import tiny_imagenet

FOLDER = "tiny-imagenet-200"


def reds(x):
    return np.round(x[:, 0] * 255).astype(int).tolist()


def test_every_image_arrives_with_its_class(tiny_root):
    """Classes count in alphabetical order, which is not that of wnids.txt nor of the annotations."""
    data = tiny_imagenet(tiny_root)
    assert (data.name, data.shape) == ("Tiny ImageNet", (3, 64, 64))
    assert data.train_x.shape == (6, 12288)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.tolist() == [0, 0, 1, 1, 2, 2]
    assert reds(data.train_x) == [0, 1, 10, 11, 20, 21]
    assert data.test_y.tolist() == [2, 1, 0]
    assert np.abs(np.array(reds(data.test_x)) - [25, 15, 5]).max() <= 2  # these are lossy JPEGs


def test_channels_come_first_and_rows_follow(tiny_root):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tiny_root / FOLDER / "train" / "n01" / "images" / "n01_0.JPEG"
    Image.fromarray(pixels).save(path, "PNG")
    image = tiny_imagenet(tiny_root, classes=(0,)).train_x[0].reshape(3, 64, 64)
    assert np.array_equal(image[2, 5], pixels[5, :, 2] / np.float32(255))


def test_the_folder_itself(tiny_root):
    assert len(tiny_imagenet(tiny_root / FOLDER).train_x) == 6


@pytest.mark.parametrize("inner", ["", "images"])
def test_validation_sorted_into_folders(tiny_root, inner):
    val = tiny_root / FOLDER / "val"
    before = tiny_imagenet(tiny_root)
    for i, wnid in enumerate(("n01", "n02", "n11")):
        (val / wnid / inner).mkdir(parents=True)
        (val / "images" / f"val_{2 - i}.JPEG").rename(val / wnid / inner / f"val_{2 - i}.JPEG")
    (val / "images").rmdir()  # and the annotations stay, as the usual script leaves them
    data = tiny_imagenet(tiny_root)
    assert data.test_y.tolist() == [0, 1, 2]
    assert np.array_equal(data.test_x, before.test_x[::-1])


def test_what_other_systems_leave_behind_changes_nothing(tiny_root):
    before = tiny_imagenet(tiny_root)
    folder = tiny_root / FOLDER
    for path in list(folder.rglob("*")):  # macOS's resource forks, of files and of folders
        path.with_name("._" + path.name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("wnids.txt", "val/val_annotations.txt"):
        path = folder / name
        path.write_bytes(
            b"\xef\xbb\xbf" + path.read_bytes().rstrip().replace(b"\n", b"\r\n") + b"\r\n\r\n \n"
        )
    after = tiny_imagenet(tiny_root)
    assert np.array_equal(after.train_x, before.train_x)
    assert np.array_equal(after.test_x, before.test_x)
    assert after.test_y.tolist() == before.test_y.tolist()


def test_a_blank_line_between_annotations_is_damage(tiny_root):
    path = tiny_root / FOLDER / "val" / "val_annotations.txt"
    path.write_text("\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1: '' does not name an image"):
        tiny_imagenet(tiny_root)


def test_grey_images_become_colour(tiny_root, save):
    save(tiny_root / FOLDER / "train/n01/images/n01_0.JPEG", 51, mode="L", kind="JPEG")
    x = tiny_imagenet(tiny_root, classes=(0,)).train_x
    assert np.abs(x[0] - 0.2).max() < 1e-6


def test_classes_and_limit_spare_the_decoding(tiny_root):
    """A damaged image of another class is never opened."""
    (tiny_root / FOLDER / "train/n01/images/n01_0.JPEG").write_text("damaged")
    data = tiny_imagenet(tiny_root, classes=(2, 1), limit=1)
    assert reds(data.train_x) == [10, 20]
    assert data.train_y.tolist() == [1, 2]
    assert data.test_y.tolist() == [2, 1]


def encoded(kind="JPEG", height=64, dtype=np.uint8):
    """Noise, so that the file is long; [height, 64] of 16 bits or [height, 64, 3] bytes."""
    shape = (height, 64, 3) if dtype == np.uint8 else (height, 64)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype)).save(buffer, kind)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG up to the point where its pixels would begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return header + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no whole JPEG or PNG image"),
        (b"<html>404 Not Found</html>", "is no whole JPEG or PNG image"),
        (encoded("GIF"), "is no whole JPEG or PNG image"),
        (encoded("TIFF"), "is no whole JPEG or PNG image"),
        (encoded(height=63), "has 63×64 pixels of the kind RGB; images of Tiny ImageNet have 64×64"),
        (encoded("PNG", dtype=np.uint16), "has 64×64 pixels of the kind I;16"),
        (png_header(40_000, 40_000), "is no whole JPEG or PNG image .*decompression bomb"),
        (png_header(64, 64), "is no whole JPEG or PNG image"),
        *[
            (encoded()[:kept], "is no whole JPEG or PNG image .*runcated")
            for kept in (300, -1000, -10, -2, -1)
        ],
        (encoded()[:20], "is no whole JPEG or PNG image"),
        (encoded("PNG")[:-200], "is no whole JPEG or PNG image .*runcated"),
    ],
    ids=["empty", "text", "gif", "tiff", "size", "16-bit", "bomb", "png-header"]
    + [f"cut-{kept}" for kept in (300, -1000, -10, -2, -1, 20)]
    + ["cut-png"],
)
def test_foreign_image(tiny_root, content, message):
    (tiny_root / FOLDER / "train/n02/images/n02_1.JPEG").write_bytes(content)
    with pytest.raises(ValueError, match=rf"n02_1.JPEG {message}"):
        tiny_imagenet(tiny_root)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "says no class for .*val_0.JPEG"),
        ("val_0.JPEG\tn01\nval_1.JPEG\tn02\n", "says no class for .*val_2.JPEG"),
        ("val_0.JPEG\tn01\nval_1.JPEG\tn02\nval_2.JPEG\tn0", "line 3: .*does not name"),
        ("val_0.JPEG\tn01\nval_0.JPEG\tn01\n", "line 2: .*for the first time"),
        ("val_9.JPEG\tn01\n", "line 1: .*does not name"),
        ("../images/val_0.JPEG\tn01\n", "line 1: .*does not name"),
        ("\0\0\0\0", "line 1: .*does not name"),
    ],
    ids=["empty", "cut-lines", "cut-word", "twice", "no-image", "elsewhere", "zeros"],
)
def test_bad_annotations(tiny_root, lines, message):
    (tiny_root / FOLDER / "val" / "val_annotations.txt").write_text(lines)
    with pytest.raises(ValueError, match=f"val_annotations.txt.*{message}"):
        tiny_imagenet(tiny_root)


@pytest.mark.parametrize("name", ["val/val_annotations.txt", "wnids.txt"])
def test_lists_that_are_no_text(tiny_root, name):
    (tiny_root / FOLDER / name).write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=f"{name} is no text file"):
        tiny_imagenet(tiny_root)


def test_a_class_whose_folder_is_missing(tiny_root):
    shutil.rmtree(tiny_root / FOLDER / "train" / "n02")
    with pytest.raises(ValueError, match=r"wnids\.txt does not list the folders of .*differ in 'n02'"):
        tiny_imagenet(tiny_root)
    (tiny_root / FOLDER / "wnids.txt").unlink()
    with pytest.raises(ValueError, match=r"val_annotations.txt, line 2: 'val_1.JPEG"):
        tiny_imagenet(tiny_root)


def test_a_class_without_images(tiny_root):
    shutil.rmtree(tiny_root / FOLDER / "train" / "n02" / "images")
    with pytest.raises(ValueError, match="n02 has no images; unpack"):
        tiny_imagenet(tiny_root)


def test_validation_folders_of_other_classes(tiny_root):
    val = tiny_root / FOLDER / "val"
    (val / "images").rename(val / "n77")
    with pytest.raises(ValueError, match=r"val has neither images with val_annotations\.txt nor the folders"):
        tiny_imagenet(tiny_root)


@pytest.mark.parametrize("lost", ["val", "train", "train/*"])
def test_missing(tiny_root, lost):
    for path in (tiny_root / FOLDER).glob(lost):
        shutil.rmtree(path)
    with pytest.raises(FileNotFoundError) as caught:
        tiny_imagenet(tiny_root)
    for part in (
        str(tiny_root),
        "train/<wnid>/images/*.JPEG",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ):
        assert part in str(caught.value)


def test_class_out_of_range(tiny_root):
    with pytest.raises(ValueError, match="class 3 is out of range: Tiny ImageNet has the classes 0 to 2"):
        tiny_imagenet(tiny_root, classes=(0, 3))


@pytest.mark.real("tiny_imagenet")
def test_published_files():
    data = tiny_imagenet(classes=(0, 1), limit=120)
    assert data.train_x.shape == (240, 12288)
    assert np.bincount(data.train_y).tolist() == [120, 120]
    assert np.bincount(data.test_y).tolist() == [50, 50]
    assert 0.2 < data.train_x.mean() < 0.8
