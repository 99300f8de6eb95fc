"""Figures and pictures of an evaluation, against their definition."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from keras_aploss import ImageSet, evaluate_embeddings, write_evaluation
from keras_aploss.evaluation import Snapshot
from keras_aploss.report import evaluation_report as reports
from keras_aploss.report.evaluation_report import pixel_embeddings


@pytest.fixture
def evaluated():
    """Ten images; the last is alone in its class and so no query."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    images = rng.integers(0, 256, (10, 20, 20, 3), "uint8")
    embeddings = rng.normal(size=(10, 4)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return ImageSet(images, labels, ["a", "b", "c", "d"]), embeddings


def snapshot_of(embeddings, labels, queries=None):
    return Snapshot(0, embeddings, evaluate_embeddings(embeddings, labels, queries))


def test_figures_are_those_of_the_snapshot(tmp_path, evaluated):
    images, embeddings = evaluated
    snapshot = snapshot_of(embeddings, images.labels)
    written = write_evaluation(tmp_path / "new" / "folder", images, snapshot)
    assert [path.name for path in written] == [
        "index.html", "evaluation.json",
        "rankings.png", "worst_queries.png", "best_queries.png",
    ]  # fmt: skip
    figures = json.loads(written[1].read_text())
    assert figures["num_images"] == 10
    assert figures["num_queries"] == 9
    assert figures["num_classes"] == 3
    assert figures["num_classes_seen_in_training"] is None
    assert "9 queries of 3 classes. Each" in written[0].read_text()
    assert figures["average_precision"][9] is None
    np.testing.assert_allclose(
        figures["average_precision"][:9], snapshot.result.average_precision[:9]
    )
    assert figures["metrics"] == {"model": snapshot.result.metrics}
    curve = figures["precision_at_recall"]["model"]
    np.testing.assert_array_equal(curve, snapshot.result.precision_at_recall)
    means = {
        name: snapshot.result.average_precision[3 * k : 3 * k + 3].mean()
        for k, name in enumerate("abc")
    }
    found = {row["name"]: row["map"] for row in figures["classes"]}
    assert found == pytest.approx(means)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert [row["num_queries"] for row in figures["classes"]] == [3, 3, 3]
    for path in written[2:]:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_classes_that_were_trained_on_are_counted(tmp_path, evaluated):
    images, embeddings = evaluated
    snapshot = snapshot_of(embeddings, images.labels)
    page, figures, *_ = write_evaluation(tmp_path, images, snapshot, num_seen=2)
    assert json.loads(figures.read_text())["num_classes_seen_in_training"] == 2
    assert "9 queries of 3 classes, 2 of them seen in training. Each" in (
        page.read_text()
    )


def test_a_metric_without_a_value_is_null(tmp_path, evaluated):
    images, embeddings = evaluated
    snapshot = snapshot_of(embeddings, images.labels)
    metrics = {"map": float("nan"), "recall_at_1": 0.5}
    results = {"model": dataclasses.replace(snapshot.result, metrics=metrics)}
    write_evaluation(tmp_path, images, snapshot, results=results)
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["metrics"]["model"] == {"map": None, "recall_at_1": 0.5}


def test_equal_queries_are_shown_of_many_classes(tmp_path, monkeypatch):
    """Of three classes of three images, all ranked without a mistake, one each."""
    labels = np.repeat([0, 1, 2], 3)
    images = ImageSet(np.zeros((9, 8, 8, 3), "uint8"), labels, ["a", "b", "c"])
    names = {}

    def draw(rankings, *, before=None, title):
        names[title.split(",")[0]] = [ranking.name for ranking in rankings]
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(reports, "draw_rankings", draw)
    snapshot = snapshot_of(np.eye(3)[labels], labels)
    write_evaluation(tmp_path, images, snapshot, num_rows=4)
    assert names["The best queries"] == names["The worst queries"] == [*"abca"]


@pytest.mark.parametrize("queries", [None, [0, 3, 4, 6]])
def test_pictures_show_the_worst_and_the_best_queries(
    tmp_path, evaluated, monkeypatch, queries
):
    images, embeddings = evaluated
    snapshot = snapshot_of(embeddings, images.labels, queries)
    drawn = {}

    def draw(rankings, *, before=None, title):
        drawn[title.split(",")[0]] = rankings
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(reports, "draw_rankings", draw)
    write_evaluation(tmp_path, images, snapshot, queries=queries, num_rows=3)
    precision = snapshot.result.average_precision
    ordered = np.sort(precision[np.isfinite(precision)])
    shown = {
        title: [ranking.average_precision for ranking in rankings]
        for title, rankings in drawn.items()
    }
    np.testing.assert_allclose(shown["The worst queries"], ordered[:3])
    np.testing.assert_allclose(shown["The best queries"], ordered[::-1][:3])
    names = [ranking.name for ranking in drawn["Queries of many classes"]]
    assert names == ["a", "b", "c"]
    if queries is not None:
        # No query among the results: the other images are the database.
        for ranking in drawn["The worst queries"]:
            for result in ranking.results:
                assert not (images.images[queries] == result).all((1, 2, 3)).any()


def test_pixels_as_embeddings_have_unit_length_and_no_zero_length():
    images = np.zeros((3, 130, 130, 3), "uint8")
    images[1:] = np.random.default_rng(0).integers(0, 256, (2, 130, 130, 3))
    embeddings = pixel_embeddings(images, side=65)
    assert embeddings.shape == (3, 65 * 65 * 3)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
    wanted = images[1, ::2, ::2].astype("float64").ravel()
    wanted /= np.linalg.norm(wanted)
    np.testing.assert_allclose(embeddings[1], wanted, rtol=1e-5)
