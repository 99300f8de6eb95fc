"""What leaves of the files of an index: small pictures of what was indexed."""

import hashlib
import io
import os
import pathlib

import numpy as np
import PIL.Image
import pytest
from photo_index import encode, plain

from keras_aploss.app.thumbnails import (
    ImageGoneError,
    common_folder,
    decode_indexed,
    encode_thumbnail,
    read_indexed,
    short_name,
)
from keras_aploss.search import IndexedImage

RED, BLUE = encode(plain((255, 0, 0))), encode(plain((0, 0, 255)))


def hash_of(contents):
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


@pytest.fixture
def image(tmp_path):
    """An image of the index; `secret.png` lies outside of the folder."""
    (tmp_path / "secret.png").write_bytes(BLUE)
    path = tmp_path / "photos" / "red.png"
    path.parent.mkdir()
    path.write_bytes(RED)
    return IndexedImage(str(path), "", hash_of(RED))


def swap(image, make):
    os.remove(image.path)
    make(image.path)


def link_out(path):
    os.symlink(os.path.join(os.path.dirname(path), "..", "secret.png"), path)


def read(image, **options):
    return read_indexed(image, os.path.dirname(image.path), **options)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (link_out, "the file has changed since it was indexed"),
        (lambda path: pathlib.Path(path).write_bytes(BLUE), "the file has changed"),
        (lambda path: pathlib.Path(path).write_bytes(RED[:-1]), "the file has changed"),
        (lambda path: pathlib.Path(path).touch(), "the file is empty"),
        (lambda path: None, "it cannot be opened: No such file or directory"),
        (os.mkdir, "it is a folder"),
        (os.mkfifo, "not a regular file but a pipe"),
        (lambda path: os.symlink("/dev/zero", path), "not a regular file but a pipe"),
        (lambda path: os.symlink(path, path), "it cannot be opened"),
    ],
)
def test_another_file_at_the_path_is_not_read(image, make, reason):
    assert read(image) == RED
    swap(image, make)
    with pytest.raises(ImageGoneError, match=reason) as caught:
        read(image)
    assert os.path.dirname(image.path) not in str(caught.value)


def test_a_link_to_what_was_indexed_is_followed(image, tmp_path):
    os.rename(image.path, tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", image.path)
    assert read(image) == RED


@pytest.mark.parametrize("options", [{"verify": False}, {"id": "number 7"}])
def test_what_cannot_be_compared_must_lie_in_the_folder(image, options):
    if "id" in options:
        image, options = image._replace(id=options["id"]), {}
    assert read(image, **options) == RED
    pathlib.Path(image.path).write_bytes(
        BLUE
    )  # within the folder the owner may change it
    assert read(image, **options) == BLUE
    swap(image, link_out)
    with pytest.raises(ImageGoneError, match="it leads out of the folder"):
        read(image, **options)


def test_a_folder_with_the_same_beginning_is_another_one(image, tmp_path):
    other = tmp_path / "photos2" / "x.png"
    other.parent.mkdir()
    other.write_bytes(RED)
    image = image._replace(path=str(other), id="x")
    with pytest.raises(ImageGoneError, match="out of the folder"):
        read_indexed(image, str(tmp_path / "photos"))


def test_pixels_leave_and_nothing_else():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"  # where it was taken
    half = np.zeros((600, 800, 3), "uint8")
    half[:, :400] = 255, 0, 0  # the left half, which is the upper one when upright
    contents = encode(PIL.Image.fromarray(half), "JPEG", exif=exif, quality=95)
    assert b"a camera" in contents
    thumbnail = encode_thumbnail(decode_indexed(contents, 10**6), 320)
    picture = PIL.Image.open(io.BytesIO(thumbnail))
    assert (picture.format, picture.size) == ("JPEG", (240, 320))
    assert not picture.getexif()
    assert not set(picture.info) & {"exif", "icc_profile", "comment"}
    pixels = np.asarray(picture).astype(int)
    assert abs(pixels[20, 120] - (254, 0, 0)).max() < 4
    assert pixels[300, 120].max() < 4
    assert b"a camera" not in thumbnail


@pytest.mark.parametrize(
    ("size", "expected"),
    [((5000, 1), (320, 1)), ((1, 5000), (1, 320)), ((50, 40), (50, 40))],
)
def test_pictures_are_bounded_and_never_grow(size, expected):
    pixels = np.zeros((size[1], size[0], 3), "uint8")
    thumbnail = encode_thumbnail(pixels, 320)
    assert PIL.Image.open(io.BytesIO(thumbnail)).size == expected


def test_what_cannot_be_decoded_says_why():
    with pytest.raises(ImageGoneError, match="40 x 30, over 1,000 pixels"):
        decode_indexed(RED, 1000)
    with pytest.raises(ImageGoneError, match="it is not an image"):
        decode_indexed(b"<svg/>", 1000)


def test_names_begin_at_the_common_folder(tmp_path):
    paths = [f"/home/anna/photos/{name}" for name in ("a/1.jpg", "a/b/2.jpg", "3.jpg")]
    folder = common_folder(paths)
    assert folder == "/home/anna/photos"
    assert [short_name(path, folder) for path in paths] == [
        "a/1.jpg",
        "a/b/2.jpg",
        "3.jpg",
    ]
    assert common_folder(paths[:1]) == "/home/anna/photos/a"
    assert common_folder([]) == ""
    assert short_name(paths[0], "") == "1.jpg"
