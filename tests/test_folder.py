"""An index that follows a folder: what changed, moved, vanished or cannot be read."""

import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from keras_aploss import (
    ImageFiles,
    VectorIndex,
    embed,
    evaluate_leave_one_out,
    image_folder,
    index_folder,
    retrieval_model,
    top_k,
)

SIZE = 16


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return retrieval_model("small_resnet", units=8)


@pytest.fixture
def counted(model, monkeypatch):
    """The model, and a list of how many images it was given."""
    sizes = []
    predict = model.predict_on_batch

    def predict_and_count(batch):
        sizes.append(len(np.unique(np.asarray(batch), axis=0)))
        return predict(batch)

    monkeypatch.setattr(model, "predict_on_batch", predict_and_count)
    return model, sizes


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), "uint8")
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(9):
        draw(folder / ["crow", "jay", "wren"][number % 3] / f"{number}.png", number)
    return folder


def update(index, model, folder, **options):
    return index_folder(index, model, folder, image_size=SIZE, **options)


def names(index, folder):
    return [os.path.relpath(image.path, folder) for image in index.images()]


def fresh_index(model, folder):
    index = VectorIndex(units=8)
    update(index, model, folder)
    return index


def assert_as_fresh(index, model, folder):
    """Followed over many changes, an index is that which is made at once."""
    fresh = fresh_index(model, folder)
    assert index.images() == fresh.images()
    np.testing.assert_allclose(index.embeddings()[1], fresh.embeddings()[1], atol=1e-5)


def test_rankings_of_a_folder_are_those_of_its_evaluation(model, photos):
    shutil.copy(photos / "crow" / "0.png", photos / "jay" / "copy.png")
    images = image_folder(photos, image_size=SIZE)
    embeddings = embed(model, images.images)
    index = fresh_index(model, photos)
    paths = images.images.paths
    found = index.search(embeddings, len(paths))
    expected, _ = top_k(embeddings, embeddings, len(paths))
    ours = [[paths.index(image.path) for image in row] for row in found]
    np.testing.assert_array_equal(ours, expected)
    labels = [images.class_names[k] for k in images.labels]
    assert [image.label for image in index.images()] == labels
    # recall@1 of the evaluation, counted in what a user sees
    result = evaluate_leave_one_out(embeddings, images.labels)
    hits = [
        next(image.label for image in row if image.path != path) == label
        for row, path, label in zip(found, paths, labels, strict=True)
    ]
    assert np.mean(hits) == pytest.approx(result.metrics["recall_at_1"])


def test_only_what_changed_is_embedded(counted, photos):
    model, sizes = counted
    index = VectorIndex(units=8)
    assert update(index, model, photos)[:4] == (9, 0, 0, 0)
    assert sum(sizes) == 9
    sizes.clear()
    assert update(index, model, photos)[:4] == (0, 0, 9, 0)
    (photos / "crow" / "0.png").touch()  # of another time, but the same content
    assert update(index, model, photos)[:4] == (0, 0, 9, 0)
    (photos / "crow" / "0.png").rename(photos / "jay" / "moved.png")
    assert update(index, model, photos)[:4] == (0, 1, 8, 1)
    shutil.copy(photos / "jay" / "moved.png", photos / "top.png")
    assert update(index, model, photos)[:4] == (0, 1, 9, 0)
    assert not sizes
    draw(photos / "crow" / "3.png", 77)
    draw(photos / "new one" / "deeper" / "9.png", 78)
    (photos / "wren" / "2.png").unlink()
    assert update(index, model, photos)[:4] == (2, 0, 8, 1)
    assert sum(sizes) == 2
    labels = {
        name: image.label
        for name, image in zip(names(index, photos), index.images(), strict=True)
    }
    assert labels["top.png"] == ""
    assert labels["new one/deeper/9.png"] == "new one"
    assert_as_fresh(index, model, photos)


def test_copies_are_embedded_once_and_tied(counted, photos):
    model, sizes = counted
    for name in "abc":
        shutil.copy(photos / "jay" / "1.png", photos / "wren" / f"{name}.png")
    index = fresh_index(model, photos)
    assert sum(sizes) == 9
    assert len(index) == 12
    _, vector = index.get([str(photos / "jay" / "1.png")]).popitem()[1]
    found = index.search([vector], 4)[0]
    assert [os.path.basename(image.path) for image in found] == [
        "1.png", "a.png", "b.png", "c.png",
    ]  # fmt: skip
    assert len({image.similarity for image in found}) == 1


def test_files_that_change_places_keep_their_own_vectors(counted, photos, monkeypatch):
    from keras_aploss.search import folder as station

    monkeypatch.setattr(station, "_AT_RISK", 1)
    model, sizes = counted
    index = fresh_index(model, photos)
    sizes.clear()
    a, b, c = (photos / "crow" / f"{number}.png" for number in (0, 3, 6))
    a.rename(photos / "x")
    b.rename(a)
    c.rename(b)
    (photos / "x").rename(c)
    assert update(index, model, photos)[:4] == (0, 3, 6, 0)
    assert not sizes
    assert_as_fresh(index, model, photos)


def test_strange_names_and_unreadable_files(model, photos, caplog):
    strange = ["a b.png", "ü 日本 🐦.PNG", "new\nline.png", "quo'te\"\\.png"]
    for number, name in enumerate(strange):
        draw(photos / "odd" / name, 100 + number)
    draw(photos / "bytes.png", 50)
    os.rename(photos / "bytes.png", os.fsencode(photos) + b"/\xff.png")
    (photos / "odd" / "broken.jpg").write_bytes(b"no image")
    (photos / "odd" / "empty.jpg").write_bytes(b"")
    (photos / "odd" / "other.webp").write_bytes(b"x")
    (photos / "odd" / "notes.txt").write_text("no image at all")
    (photos / ".hidden").mkdir()
    draw(photos / ".hidden" / "1.png", 1)
    os.mkfifo(photos / "odd" / "pipe.png")
    index = VectorIndex(units=8)
    report = update(index, model, photos)
    assert report[:4] == (13, 0, 0, 0)
    assert {f"odd/{name}" for name in strange} < set(names(index, photos))
    reasons = {os.path.basename(path): reason for path, reason in report.skipped}
    assert set(reasons) == {
        "broken.jpg", "empty.jpg", "other.webp", "pipe.png", "\udcff.png",
    }  # fmt: skip
    assert reasons["empty.jpg"] == "the file is empty"
    assert reasons["\udcff.png"] == "its name is not UTF-8; rename it"
    assert caplog.text.count("Left out") == 5
    # What is damaged later leaves the index: its embedding is of what is gone.
    (photos / "odd" / "a b.png").write_bytes(b"no image")
    assert update(index, model, photos)[:4] == (0, 0, 12, 1)


def test_links_are_followed_within_the_folder_only(model, photos, tmp_path):
    outside = tmp_path / "photos of others"
    draw(outside / "secret.png", 200)
    (photos / "out").symlink_to(outside)
    (photos / "out.png").symlink_to(outside / "secret.png")
    (photos / "up").symlink_to("..")
    (photos / "loop").symlink_to(".")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "within.png").symlink_to(photos / "jay" / "1.png")
    index = VectorIndex(units=8)
    report = update(index, model, photos)
    assert "within.png" in names(index, photos)
    assert len(index) == 10
    assert {os.path.basename(path) for path, _ in report.skipped} == {
        "out", "out.png", "up", "gone.png",
    }  # fmt: skip


def test_what_cannot_be_read_is_not_taken_for_gone(model, photos, monkeypatch):
    """A user without permission; the superuser of a test has it anyway."""
    index = fresh_index(model, photos)
    real_open, real_scan = open, os.scandir

    def closed_file(path, *args, **options):
        if str(path).endswith("0.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **options)

    def closed_folder(path):
        if str(path).endswith("wren"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scan(path)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", closed_file)
        patch.setattr(os, "scandir", closed_folder)
        report = update(index, model, photos)
    assert report[:4] == (0, 0, 5, 0)
    assert {os.path.basename(path) for path, _ in report.skipped} == {"0.png", "wren"}
    assert all("Permission denied" in reason for _, reason in report.skipped)
    assert len(index) == 9


def test_a_folder_without_images_deletes_nothing(model, photos, tmp_path):
    index = fresh_index(model, photos)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="Expected a folder of images"):
        update(index, model, photos)
    photos.mkdir()
    with pytest.raises(ValueError, match="Nothing was deleted"):
        update(index, model, photos)
    assert len(index) == 9


def test_an_index_holds_several_folders(counted, photos, tmp_path):
    model, sizes = counted
    index = fresh_index(model, photos)
    beside = tmp_path / "photos 2"  # whose name begins as that of the first
    shutil.copytree(photos, beside)
    sizes.clear()
    assert update(index, model, beside)[:4] == (0, 9, 0, 0)
    assert not sizes
    (photos / "jay" / "1.png").unlink()
    assert update(index, model, photos)[:4] == (0, 0, 8, 1)
    assert len(index) == 17


def test_broken_off_it_goes_on_and_nothing_is_lost(counted, photos, monkeypatch):
    from keras_aploss.search import folder as station

    model, sizes = counted
    index = fresh_index(model, photos)
    for number in range(20, 32):
        draw(photos / "later" / f"{number}.png", number)
    (photos / "jay" / "1.png").unlink()
    sizes.clear()
    monkeypatch.setattr(station, "_AT_RISK", 4)
    add = VectorIndex.add

    def full_after_two(self, *args):
        if len(self) > 9 + 4:
            raise OSError("No space left on device")
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(VectorIndex, "add", full_after_two)
        with pytest.raises(OSError, match="No space"):
            update(index, model, photos)
    assert len(index) == 9 + 8  # and the deleted one is still there
    assert sum(sizes) == 12
    assert update(index, model, photos)[:4] == (4, 0, 16, 1)
    assert sum(sizes) == 16
    assert_as_fresh(index, model, photos)


def test_a_model_that_does_not_fit_is_refused(photos):
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    index = VectorIndex(units=3)
    with pytest.raises(ValueError, match=r"unit length.*`vectors` with 9 of 9"):
        update(index, plain, photos)
    with pytest.raises(ValueError, match="of 4 units, as the index has"):
        update(VectorIndex(units=4), plain, photos)


def test_images_are_read_as_the_evaluation_reads_them(model, photos):
    images, vectors = fresh_index(model, photos).embeddings()
    files = ImageFiles([image.path for image in images], SIZE)
    np.testing.assert_allclose(vectors, embed(model, files), atol=1e-5)
