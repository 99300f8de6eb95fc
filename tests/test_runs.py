"""Training runs: what they leave behind, and that a broken one loses nothing."""

import csv
import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import succeed
from PIL import Image
from run_folder import assert_same_weights, history
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from keras_aploss import (
    RunSettings,
    image_folder,
    image_manifest,
    split_classes,
    synthetic_landmarks,
    train_run,
)
from keras_aploss.runs import network

QUICK = {
    "image_size": 16,
    "units": 8,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "epochs": 1,
}


def mean_average_precision(queries, query_labels, database, labels, *, same=False):
    """By scikit-learn; `same`: the database holds the queries, in their order."""
    values = []
    for number, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        kept = np.arange(len(labels)) != (number if same else -1)
        relevance = labels[kept] == label
        if relevance.any():
            values.append(average_precision_score(relevance, database[kept] @ query))
    return np.mean(values)


def draw_photo(path, landmark, view, size=(40, 30), **options):
    """A photograph that has the colours of its class."""
    rng = np.random.default_rng([7, view])
    base = np.random.default_rng([8, landmark]).integers(0, 256, (3, 4, 3))
    pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = options.pop("mode", "RGB")
    Image.fromarray(pixels).resize(size).convert(mode).save(path, **options)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six classes of four photographs, and three files that are none."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for landmark in range(6):
        for view in range(4):
            draw_photo(root / f"class{landmark}" / f"{view}.png", landmark, view)
    whole = (root / "class0" / "0.png").read_bytes()
    (root / "class0" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "class1" / "empty.jpg").touch()
    draw_photo(root / "class2" / "print.jpg", 2, 5, mode="CMYK")
    return root


def test_a_run_folder_holds_what_is_documented(finished_run, tiny_settings):
    folder = finished_run.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {  # and no lock
        "settings.json", "history.csv", "skipped.csv", "last.keras", "best.keras",
        "model.keras", "before.npy", "tensorboard", "evaluation",
    }  # fmt: skip
    # The number of chunks that the memory allows is kept: one.
    settings = dataclasses.replace(tiny_settings, num_chunks=1)
    assert RunSettings.load(folder / "settings.json") == settings
    assert [row["epoch"] for row in history(folder)] == ["1", "2", "3"]
    assert (folder / "skipped.csv").read_text().split() == ["path,reason"]
    pictures = ["rankings.png", "worst_queries.png", "best_queries.png"]
    for path in (folder / "evaluation" / name for name in pictures):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100
    runs = {path.parent.name for path in folder.glob("tensorboard/*/events*")}
    assert runs == {"train", "validation", "retrieval"}
    assert finished_run.epochs == 3
    assert not finished_run.interrupted


def test_metrics_are_those_of_the_last_epoch_not_of_the_best(
    finished_run, tiny_settings
):
    _, test = synthetic_landmarks(6, 4, 16, tiny_settings.seed, num_test_landmarks=4)
    model = keras.saving.load_model(finished_run.folder / "model.keras")
    embeddings = model.predict(test.images, verbose=0)
    expected = mean_average_precision(
        embeddings, test.labels, embeddings, test.labels, same=True
    )
    metrics = finished_run.metrics["after training"]
    assert metrics["map"] == pytest.approx(expected, abs=1e-6)

    rows = [float(row["val_map"]) for row in history(finished_run.folder)]
    assert metrics["map"] == pytest.approx(rows[-1], abs=1e-6)
    best = keras.saving.load_model(finished_run.folder / "best.keras")
    embeddings = best.predict(test.images, verbose=0)
    expected = mean_average_precision(
        embeddings, test.labels, embeddings, test.labels, same=True
    )
    assert max(rows) == pytest.approx(expected, abs=1e-6)
    text = (finished_run.folder / "evaluation" / "evaluation.json").read_text()
    saved = json.loads(text)
    assert saved["metrics"] == finished_run.metrics
    assert saved["num_queries"] == len(saved["average_precision"]) == 16
    assert np.mean(saved["average_precision"]) == pytest.approx(metrics["map"])


def test_the_baselines_are_raw_pixels_and_the_untrained_model(
    finished_run, tiny_settings
):
    _, test = synthetic_landmarks(6, 4, 16, tiny_settings.seed, num_test_landmarks=4)
    pixels = test.images.reshape(16, -1) / np.linalg.norm(
        test.images.reshape(16, -1).astype("float64"), axis=1, keepdims=True
    )
    expected = mean_average_precision(
        pixels, test.labels, pixels, test.labels, same=True
    )
    assert finished_run.metrics["raw pixels"]["map"] == pytest.approx(expected)
    keras.utils.set_random_seed(tiny_settings.seed)
    untrained = network.retrieval_model(units=8).predict(test.images, verbose=0)
    expected = mean_average_precision(
        untrained, test.labels, untrained, test.labels, same=True
    )
    before = finished_run.metrics["before training"]["map"]
    assert before == pytest.approx(expected, abs=1e-6)


def test_the_exported_model_is_the_best_one(finished_run):
    assert finished_run.saved_model.parts[-3:] == ("saved_models", "landmarks", "1")
    served = tf.saved_model.load(str(finished_run.saved_model))
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    model = keras.saving.load_model(finished_run.folder / "model.keras")
    np.testing.assert_allclose(
        served.signatures["images"](images=tf.constant(images))["embedding"],
        model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_the_version_of_a_run_can_be_served_and_says_what_it_is(finished_run):
    card = (finished_run.saved_model / "README.md").read_text()
    assert f"{finished_run.metrics['after training']['map']:.3f}" in card
    assert "--num-landmarks 6" in card
    compose = (finished_run.saved_model.parent / "docker-compose.yml").read_text()
    assert "/models/landmarks/models.config" in compose


@pytest.mark.slow
def test_a_folder_with_bad_files_trains_whitens_and_exports(photos, tmp_path):
    settings = RunSettings(data=str(photos), whitening=True, test_fraction=0.3, **QUICK)
    report = train_run(
        settings, tmp_path / "run", export_to=tmp_path / "models", verbose=0
    )
    with open(report.folder / "skipped.csv", newline="", encoding="utf-8") as file:
        skipped = list(csv.DictReader(file))
    names = [row["path"].rpartition("/")[2] for row in skipped]
    assert names == ["cut.png", "empty.jpg", "print.jpg"]
    assert "CMYK" in skipped[2]["reason"]

    train, test = split_classes(
        image_folder(photos, image_size=16), test_fraction=0.3, seed=0
    )
    model = keras.saving.load_model(report.folder / "model.keras")
    inner = keras.Model(model.input, model.get_layer("whitening").input)
    pca = PCA(whiten=True).fit(inner.predict(train.images.load(), verbose=0))
    images = test.images.load()
    expected = pca.transform(inner.predict(images, verbose=0))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = model.predict(images, verbose=0)
    # Components are free in their sign; the similarities are not.
    np.testing.assert_allclose(
        embeddings @ embeddings.T, expected @ expected.T, atol=2e-3
    )
    expected = mean_average_precision(
        embeddings, test.labels, embeddings, test.labels, same=True
    )
    assert report.metrics["after training"]["map"] == pytest.approx(expected, abs=1e-6)

    assert report.saved_model == tmp_path / "models" / "photos" / "1"
    served = tf.saved_model.load(str(report.saved_model))
    files = tf.constant([tf.io.read_file(path).numpy() for path in test.images.paths])
    served = served.signatures["serving_default"](image_bytes=files)["embedding"]
    np.testing.assert_allclose(served, embeddings, atol=1e-4)

    # By its list the exported model finds the test set among all images.
    heading = "the test set of photos: 8 queries of 2 classes never seen in training"
    assert report.title == heading
    card = (report.saved_model / "README.md").read_text()
    assert "8 queries of 2 classes never seen in training, 8 images." in card
    assert (report.saved_model / "split.csv").read_bytes() == (
        report.folder / "split.csv"
    ).read_bytes()
    output = succeed("evaluate", report.saved_model, "--data", photos)
    assert f"Exact metrics on {heading}" in output
    row = re.search(r"model +([\d.]+) ", output)
    assert float(row[1]) == pytest.approx(expected, abs=6e-4)


@pytest.mark.slow
def test_queries_of_a_manifest_are_evaluated_against_its_gallery(photos, tmp_path):
    rows = [("path", "label", "split")]
    for landmark in range(6):
        for view in range(4):
            split = "train" if landmark < 3 else ("query" if view == 0 else "gallery")
            rows.append((f"class{landmark}/{view}.png", f"class{landmark}", split))
    rows.remove(("class5/1.png", "class5", "gallery"))
    table = photos.parent / "list.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(r[0] if r[0] == "path" else f"photos/{r[0]}",
                                     *r[1:]) for r in rows])  # fmt: skip
    settings = RunSettings(data=str(table), augment=False, **QUICK)
    report = train_run(settings, tmp_path / "run", export_to=None, verbose=0)

    sets = image_manifest(table, image_size=16)
    model = keras.saving.load_model(report.folder / "model.keras")
    queries, gallery = (
        model.predict(sets[name].images.load(), verbose=0)
        for name in ("query", "gallery")
    )
    expected = mean_average_precision(
        queries, sets["query"].labels, gallery, sets["gallery"].labels
    )
    assert report.metrics["after training"]["map"] == pytest.approx(expected, abs=1e-6)
    text = (report.folder / "evaluation" / "evaluation.json").read_text()
    figures = json.loads(text)
    assert figures["num_queries"] == 3
    assert figures["num_images"] == 3 + 8
    assert figures["average_precision"][3:] == [None] * 8


@pytest.mark.slow
def test_images_in_memory_and_on_disk_give_the_same_weights(photos, tmp_path):
    for name, cache in (("memory", 1.0), ("disk", 0.0)):
        settings = RunSettings(data=str(photos), cache_gib=cache, **QUICK)
        train_run(settings, tmp_path / name, export_to=None, verbose=0)
    assert_same_weights(
        tmp_path / "memory" / "last.keras", tmp_path / "disk" / "last.keras"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "ResNet5000"}, "backbone='ResNet5000'"),
        ({"weights": "nowhere.h5"}, "'nowhere.h5', which is not a file"),
        ({"colour_jitter": 7.0}, "brightness"),
        ({"data": "nowhere"}, "'nowhere', which does not exist"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(
    tiny_settings, tmp_path, changes, message
):
    settings = dataclasses.replace(tiny_settings, **changes)
    with pytest.raises(ValueError, match=message):
        train_run(settings, tmp_path / "run", export_to=None, verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_used_once(finished_run, tiny_settings, tmp_path):
    with pytest.raises(ValueError, match=r"new run folder.*resume that run"):
        train_run(tiny_settings, finished_run.folder)
    with pytest.raises(ValueError, match=r"holds no `settings\.json`"):
        train_run(tiny_settings, tmp_path, resume=True)
    other = dataclasses.replace(tiny_settings, epochs=9)
    with pytest.raises(ValueError, match="Received: epochs=9 instead of 3"):
        train_run(other, finished_run.folder, resume=True)
