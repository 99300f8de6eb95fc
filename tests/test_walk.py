"""The walk through a folder: each image once, and what is left out by name."""

import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from keras_aploss.datasets import image_folder, listed_rows, walk_images
from keras_aploss.tables import read_table, write_skipped


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8), "red").save(path, "png")


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("crow/1.png", "crow/2.png", "wren/1.png", "wren/deeper/2.png"):
        draw(root / name)
    return root


def below(root, found):
    return [os.path.relpath(path, root) for path in found.paths]


ALL = ["crow/1.png", "crow/2.png", "wren/1.png", "wren/deeper/2.png"]


@pytest.mark.parametrize(
    "folder",
    [
        "crow/@eaDir/1.png",
        "wren/#recycle",
        "$RECYCLE.BIN/S-1-5",
        "__MACOSX/crow",
        "crow/.thumbnails",
        "crow/.picasaoriginals",
        "lost+found",
        "Photos Library.photoslibrary/originals",
        "Catalog Previews.lrdata",
    ],
)
def test_litter_of_systems_is_no_image_of_a_user(photos, folder):
    draw(photos / folder / "SYNOPHOTO_THUMB_XL.png")
    found = walk_images(photos)
    assert below(photos, found) == ALL
    # By the name of the folder, but for the many hidden ones of every system.
    hidden = any(part.startswith(".") for part in pathlib.Path(folder).parts)
    assert len(found.skipped) == (0 if hidden else 1)
    images = image_folder(photos, image_size=8)
    assert images.class_names == ["crow", "wren"]
    assert len(images.labels) == 4
    assert [s.path for s in images.skipped] == [s.path for s in found.skipped]
    rows, left_out = listed_rows(photos)
    assert len(rows) == 4
    assert len(left_out) == len(found.skipped)


def test_each_place_is_read_once(photos):
    (photos / "wren" / "again").symlink_to(photos / "crow")
    (photos / "wren" / "circle").symlink_to(photos / "wren")
    (photos / "wren" / "up").symlink_to(photos.parent)
    elsewhere = photos.parent / "elsewhere"
    draw(elsewhere / "3.png")
    for name in ("first", "second"):
        (photos / name).symlink_to(elsewhere)
    found = walk_images(photos)
    assert below(photos, found) == [*ALL[:2], "first/3.png", *ALL[2:]]
    reasons = {os.path.relpath(path, photos): reason for path, reason in found.skipped}
    assert set(reasons) == {"wren/again", "second", "wren/up"}
    assert "which is read already" in reasons["second"]
    assert reasons["wren/up"] == "it is a link to a folder above"


def test_a_folder_that_may_not_be_opened_is_listed(photos, monkeypatch):
    """A user without permission; the superuser of a test has it anyway."""
    real = os.scandir

    def scan(path):
        if str(path).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    wanted = [
        (str(photos / "wren" / "deeper"), "it cannot be opened: Permission denied")
    ]
    assert walk_images(photos).unopened == [wanted[0][0]]
    assert image_folder(photos, image_size=8).skipped == wanted
    assert listed_rows(photos)[1] == wanted


def test_names_that_are_not_utf8_are_read_and_listed(photos):
    odd = os.fsencode(photos) + b"/caf\xe9"
    os.rename(photos / "wren", odd)
    with open(odd + b"/bad\xe9.png", "wb") as file:
        file.write(b"no image")
    images = image_folder(photos, image_size=8)
    assert images.class_names == ["caf\udce9", "crow"]
    np.testing.assert_array_equal(np.bincount(images.labels), [2, 2])
    np.testing.assert_array_equal(images.images.load()[0, 0, 0], [255, 0, 0])
    path = photos.parent / "skipped.csv"
    write_skipped(path, images.skipped)
    assert b"caf\xe9/bad\xe9.png" in path.read_bytes()
    (row,) = (cells for _, cells in read_table(path, ["path"], verbatim=["path"]))
    assert os.fsencode(row["path"]) == odd + b"/bad\xe9.png"
