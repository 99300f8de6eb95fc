"""The one walk over folders: what is an image, what is left out and named."""

import os

import pytest
from PIL import Image

from keras_aploss.datasets import image_folder, listed_rows, walk_images


@pytest.fixture
def photos(tmp_path):
    """Two classes of one image."""
    root = tmp_path / "photos"
    for name in ("crow/a.png", "jay/b.png"):
        draw(root / name)
    return root


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), "red").save(path, "PNG")


def below(root, found):
    """The images, and the skipped with their reasons, by their names in the root."""
    paths, skipped, _ = found
    reasons = {os.path.relpath(path, root): reason for path, reason in skipped}
    return [os.path.relpath(path, root) for path in paths], reasons


IMAGES = ["crow/a.png", "jay/b.png"]
LITTER = {
    "crow/@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg": "thumbnails of a Synology",
    "@eaDir/crow.png": "thumbnails of a Synology",
    "#recycle/old.png": "a bin",
    "jay/$RECYCLE.BIN/old.png": "a bin",
    "__MACOSX/jay/b.png": "attributes that macOS adds",
    "lost+found/1.png": "pieces of files",
    "mine.photoslibrary/originals/1.jpg": "a library of photo software",
}
HIDDEN = ["crow/.thumbnails/a.png", "crow/._a.png", ".Trash-1000/a.png", ".a/b.png"]


def test_litter_of_systems_is_named_and_no_image(photos):
    for name in (*LITTER, *HIDDEN):
        draw(photos / name)
    paths, reasons = below(photos, walk_images(photos))
    assert paths == IMAGES
    folders = {name: name for name in reasons}
    for name, reason in LITTER.items():
        (folder,) = [folder for folder in folders if name.startswith(f"{folder}/")]
        assert reason in reasons.pop(folder)
    assert not reasons


def test_training_and_extraction_see_the_images_of_the_walk(photos):
    for name in (*LITTER, *HIDDEN):
        draw(photos / name)
    found = image_folder(photos, image_size=16)
    assert below(photos, (found.images.paths, found.skipped, ()))[0] == IMAGES
    assert found.class_names == ["crow", "jay"]
    rows, left_out = listed_rows(photos)
    assert [os.path.relpath(path, photos) for path, _ in rows] == IMAGES
    assert sorted(found.skipped) == sorted(left_out)
    assert len(left_out) == len(LITTER)


def test_a_folder_that_may_not_be_opened_is_named(photos, monkeypatch):
    """A user without permission; the superuser of a test has it anyway."""
    draw(photos / "crow" / "closed" / "c.png")
    real_scan = os.scandir

    def scan(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scan(path)

    monkeypatch.setattr(os, "scandir", scan)
    paths, reasons = below(photos, walk_images(photos))
    assert paths == IMAGES
    assert reasons == {"crow/closed": "it cannot be opened: Permission denied"}
    assert walk_images(photos).unopened == [str(photos / "crow" / "closed")]
    skipped = image_folder(photos, image_size=16).skipped
    assert skipped == listed_rows(photos)[1] == walk_images(photos).skipped
    with pytest.raises(PermissionError):
        walk_images(photos / "crow" / "closed")


def test_each_place_is_followed_once(photos, tmp_path):
    draw(tmp_path / "elsewhere" / "deep" / "c.png")
    for name in ("crow/x", "jay/y"):
        (photos / name).symlink_to(tmp_path / "elsewhere")
    (photos / "a jay").symlink_to(photos / "jay")
    (photos / "jay" / "self").symlink_to(photos / "jay")
    (photos / "jay" / "root").symlink_to(photos)
    (photos / "jay" / "up").symlink_to(tmp_path)
    (photos / "jay" / "round").symlink_to(photos / "jay" / "round")
    paths, reasons = below(photos, walk_images(photos))
    assert paths == ["crow/a.png", "crow/x/deep/c.png", "jay/b.png"]
    again = "it is a link to {!r}, which is read already"
    assert reasons == {
        "a jay": again.format(str(photos / "jay")),
        "jay/y": again.format(str(photos / "crow" / "x")),
        "jay/up": "it is a link to a folder above",
        "jay/round": "it cannot be opened: Too many levels of symbolic links",
    }


def test_links_out_of_the_folder_are_left_out_where_that_is_asked(photos, tmp_path):
    draw(tmp_path / "photos of others" / "c.png")
    (photos / "out").symlink_to(tmp_path / "photos of others")
    (photos / "out.png").symlink_to(tmp_path / "photos of others" / "c.png")
    (photos / "in.png").symlink_to(photos / "jay" / "b.png")
    paths, reasons = below(photos, walk_images(photos, within=True))
    assert paths == ["crow/a.png", "in.png", "jay/b.png"]
    assert set(reasons.values()) == {"it is a link out of the folder"}
    assert set(reasons) == {"out", "out.png"}
    assert len(walk_images(photos).paths) == 5


def test_decomposed_letters_of_a_folder_are_those_of_lists(tmp_path):
    draw(tmp_path / "cafe\u0301" / "a.png")
    draw(tmp_path / "jay" / "b.png")
    assert image_folder(tmp_path, image_size=16).class_names == ["caf\xe9", "jay"]
    assert [label for _, label in listed_rows(tmp_path)[0]] == ["caf\xe9", "jay"]
