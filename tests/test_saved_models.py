"""The trained models of `saved_models/` are what their cards say."""

import hashlib
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from command_line import fail, succeed

from keras_aploss import export_saved_model, retrieval_model
from keras_aploss.models import small_resnet
from keras_aploss.runs import open_model
from keras_aploss.serving import read_image_size
from keras_aploss.serving.wire import parse_unreadable_error

ROOT = pathlib.Path(__file__).parents[1] / "saved_models"
CARDS = sorted(path.parent for path in ROOT.glob("*/README.md"))
HEADINGS = ["Data", "Recipe", "Metrics", "Limits", "Use", "Checksums"]
LARGEST = {"photos": 20_000_000}  # bytes; of the others 8 MiB
each_card = pytest.mark.parametrize(
    "folder", CARDS, ids=[folder.name for folder in CARDS]
)


def metrics_of(folder):
    """mAP, recall@1 and MAP@R of the card, as texts."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    row = re.search(r"\| this model((?: \| 0\.\d{3}){3}) \|", card).group(1)
    return re.findall(r"0\.\d{3}", row)


def test_there_are_three():
    names = [folder.name for folder in CARDS]
    assert names == ["omniglot", "photos", "synthetic_landmarks"]


@each_card
def test_cards_say_all(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", card, re.M) == HEADINGS
    assert "keras-aploss train" in card
    ap, recall, map_at_r = map(float, metrics_of(folder))
    assert map_at_r < ap < recall


@each_card
def test_checksums_are_those_of_the_files(folder):
    listed = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        listed[name] = digest
    files = {
        path.relative_to(folder).as_posix(): path
        for path in (folder / "1").rglob("*")
        if path.is_file()
    }
    assert "1/saved_model.pb" in files
    assert listed == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
    }
    size = sum(path.stat().st_size for path in files.values())
    assert size < LARGEST.get(folder.name, 8 * 2**20)


@each_card
def test_both_signatures_answer(folder):
    served = tf.saved_model.load(str(folder / "1"))
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    png = tf.io.encode_png(image)
    files = served.signatures["serving_default"](image_bytes=tf.stack([png, png]))
    embedding = files["embedding"].numpy()
    assert embedding.shape[0] == 2
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    batch = tf.zeros([3, 48, 48, 3])
    found = served.signatures["images"](images=batch)["embedding"]
    assert found.shape == (3, embedding.shape[1])
    # Clients of today understand what these graphs, of an earlier version, say.
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        served.signatures["serving_default"](image_bytes=tf.stack([png, b"bad", png]))
    assert parse_unreadable_error(str(raised.value)) == ([1], 3)


@pytest.mark.slow
def test_the_model_of_the_embedded_set_has_the_metrics_of_its_card():
    folder = ROOT / "synthetic_landmarks"
    output = succeed("evaluate", folder / "1", "--image-size", 64)
    row = re.search(r"model +(0\.\d+) +(0\.\d+) +(0\.\d+)", output).groups()
    for found, stated in zip(row, metrics_of(folder), strict=True):
        assert float(found) == pytest.approx(float(stated), abs=0.0011)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and the folder of its export."""
    model = retrieval_model(small_resnet((4, 4)), units=8)
    folder = tmp_path_factory.mktemp("exported")
    return model, export_saved_model(model, folder / "tiny", image_size=32)


def test_a_saved_model_embeds_as_the_model_that_was_exported(exported):
    model, version = exported
    encoder, settings, *_ = open_model(version, 32)
    images = np.random.default_rng(1).integers(0, 256, (5, 40, 24, 3)).astype("float32")
    np.testing.assert_allclose(
        encoder.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-6
    )
    assert (settings.name, settings.image_size) == ("tiny", 32)


def test_commands_take_a_saved_model(exported, tmp_path):
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            image = np.full((20, 30, 3), 40 * number + ord(label), np.uint8)
            png = tf.io.encode_png(image).numpy()
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(png)
    output = tmp_path / "photos.npy"
    command = ["extract", exported[1], tmp_path / "photos", "--output", output]
    succeed(*command)  # the version knows its image size
    assert np.load(output).shape == (4, 8)
    assert read_image_size(exported[1]) == 32


@pytest.mark.slow
def test_a_saved_model_is_exported_for_another_size(exported, tmp_path):
    """What comes out needs the first version no more, and knows its own size."""
    model, version = exported
    copy = tmp_path / "tiny" / "1"
    shutil.copytree(version, copy)
    output = succeed("export", copy, "--image-size", 48, "--output", copy.parent)
    assert f"Exported to {tmp_path / 'tiny' / '2'}\n" in output
    shutil.rmtree(copy)
    # Each weight is written once, not once for each export.
    weights = "variables/variables.data-00000-of-00001"
    first, second = version / weights, tmp_path / "tiny" / "2" / weights
    assert second.stat().st_size < 1.5 * first.stat().st_size
    served = tf.saved_model.load(str(tmp_path / "tiny" / "2")).signatures
    images = np.random.default_rng(2).integers(0, 256, (3, 48, 48, 3), np.uint8)
    expected = model.predict(images.astype("float32"), verbose=0)
    found = served["images"](images=tf.constant(images, tf.float32))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Files are resized to the new size: these have it already.
    files = tf.stack([tf.io.encode_png(image) for image in images])
    found = served["serving_default"](image_bytes=files)["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert served["images"](images=tf.zeros([0, 48, 48, 3]))["embedding"].shape == (
        0,
        8,
    )


def test_the_folder_of_all_versions_is_no_model(exported):
    message = fail("export", exported[1].parent, "--image-size", 32)
    assert "a version of a SavedModel (a folder with `saved_model.pb`)" in message


@pytest.mark.parametrize("contents", ["", "[]", "{}", '{"image_size": 0}', "[" * 9999])
def test_an_image_size_that_cannot_be_read_is_told(tmp_path, contents):
    assert read_image_size(tmp_path) is None  # of a version of 0.1
    (tmp_path / "preprocessing.json").write_text(contents)
    with pytest.raises(ValueError, match=r"preprocessing.json', which cannot be read"):
        read_image_size(tmp_path)


def test_what_is_no_saved_model_is_refused(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(ValueError, match="Expected a SavedModel that `keras-aploss"):
        open_model(tmp_path / "broken", 32)
    other = tf.Module()
    other.add = tf.function(lambda x: x + 1, [tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(other, tmp_path / "other", signatures={"add": other.add})
    with pytest.raises(ValueError, match="a signature `images`"):
        open_model(tmp_path / "other", 32)
