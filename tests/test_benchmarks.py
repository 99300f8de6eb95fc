"""From the images of a benchmark to its metrics."""

import pathlib

import numpy as np
import pytest
from benchmark_folders import distractors_folder, revisited_folder, sop_folder

from keras_aploss import (
    evaluate_benchmark,
    postprocess_embeddings,
    read_benchmark,
    retrieval_model,
)
from keras_aploss.benchmarks import (
    benchmark_embeddings,
    distractor_embeddings,
    postprocess_benchmark,
    read_distractor_paths,
)
from keras_aploss.embeddings import (
    combine_scales,
    embed_at_scales,
    expand_queries,
)
from keras_aploss.evaluation import evaluate_protocols
from keras_aploss.images import OriginalImages


@pytest.fixture(scope="module")
def model():
    return retrieval_model("small_resnet", units=8)


def unit_rows(seed, num, units=8):
    x = np.random.default_rng(seed).normal(size=(num, units)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_queries_are_cropped_and_all_are_scaled(model, tmp_path):
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path))
    options = {"scales": (1, 0.5), "max_size": 50}
    queries, database = benchmark_embeddings(
        model, benchmark, tmp_path / "embeddings", **options
    )
    for embeddings, images in (
        (
            queries,
            OriginalImages(
                benchmark.query_paths, boxes=[(5, 5, 35, 35), None], max_size=50
            ),
        ),
        (database, OriginalImages(benchmark.database_paths, max_size=50)),
    ):
        expected = combine_scales(embed_at_scales(model, images, (1, 0.5)))
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    files = sorted(path.name for path in (tmp_path / "embeddings").glob("*.npy"))
    assert files == ["database_50_x1_0.5.npy", "queries_50_x1_0.5.npy"]


def test_stored_embeddings_are_used_again(model, tmp_path):
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path))
    benchmark_embeddings(model, benchmark, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    for path in benchmark.database_paths:
        pathlib.Path(path).unlink()
    benchmark_embeddings(model, benchmark, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = retrieval_model("small_resnet", units=8)
    other.set_weights([weight + 0.1 for weight in other.get_weights()])
    with pytest.raises(ValueError, match="weights"):
        benchmark_embeddings(other, benchmark, tmp_path)


def test_class_benchmarks_take_squares(model, tmp_path):
    benchmark = read_benchmark("sop", sop_folder(tmp_path), image_size=32)
    embeddings, nothing = benchmark_embeddings(model, benchmark, tmp_path / "e")
    assert nothing is None
    expected = model.predict(benchmark.test.images.load(), verbose=0)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    result = evaluate_benchmark(benchmark, embeddings)["test"]
    assert result.num_queries == 6
    with pytest.raises(ValueError, match="max_size=32"):
        benchmark_embeddings(model, benchmark, tmp_path / "e", max_size=32)


def test_distractor_images_are_ranked_as_more_of_the_database(model, tmp_path):
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path))
    paths = read_distractor_paths(distractors_folder(tmp_path / "revisitop1m", 40))
    queries, database = benchmark_embeddings(model, benchmark, tmp_path)
    distractors = distractor_embeddings(model, paths, tmp_path)
    images = OriginalImages(paths)
    np.testing.assert_allclose(
        distractors, embed_at_scales(model, images)[0], atol=1e-6
    )
    results = evaluate_benchmark(
        benchmark, queries, database, distractors=[distractors]
    )
    expected = evaluate_protocols(
        queries,
        np.concatenate([database, distractors]),
        benchmark.protocols,
        interpolation="trapezoid",
    )
    clean = evaluate_benchmark(benchmark, queries, database)
    for name, result in results.items():
        assert result.metrics == expected[name].metrics
        assert result.metrics["map"] < clean[name].metrics["map"]


WHITENING = np.full(8, 0.1), np.random.default_rng(9).normal(size=(8, 6))


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"whitening": WHITENING},
        {"query_expansion": (2, 3.0)},
        {"database_augmentation": (1, 3.0)},
        {
            "whitening": WHITENING,
            "query_expansion": (2, 0.0),
            "database_augmentation": (3, 1.0),
        },
    ],
)
def test_postprocessing_with_distractors_is_that_of_one_database(
    tmp_path, steps, is_mapped
):
    queries, database, more = unit_rows(0, 3), unit_rows(1, 12), unit_rows(2, 30)
    if is_mapped:
        np.save(tmp_path / "more.npy", more)
        more = np.load(tmp_path / "more.npy", mmap_mode="r")
    protocols = {"all": ([[0, 1], [2], [3, 4, 5]], None)}
    q, whole = postprocess_embeddings(
        queries, np.concatenate([database, more]), **steps
    )
    expected = evaluate_protocols(q, whole, protocols)["all"]
    q, d, rest = postprocess_benchmark(
        queries, database, tmp_path, distractors=[more[:10], more[10:]], **steps
    )
    assert len(d) == 12
    assert (tmp_path / "joined.npy").exists() == (set(steps) == {"query_expansion"})
    assert sum(map(len, rest)) == 30
    actual = evaluate_protocols(q, d, protocols, distractors=rest)["all"]
    assert actual.metrics == pytest.approx(expected.metrics, abs=1e-12)


def test_neighbours_are_found_among_the_distractors(tmp_path):
    queries, database = np.eye(2)[:1], np.eye(2)
    near = np.array([[0.8, 0.6]])
    expanded, _, _ = postprocess_benchmark(
        queries, database, tmp_path, distractors=[near], query_expansion=(2, 0.0)
    )
    whole = np.concatenate([database, near])
    np.testing.assert_allclose(
        expanded, expand_queries(queries, whole, k=2, alpha=0.0), atol=1e-6
    )
    assert expanded[0, 1] > 0.1


def test_counts_must_be_those_of_the_lists(tmp_path):
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path))
    queries, database = unit_rows(0, 2), unit_rows(1, 6)
    evaluate_benchmark(benchmark, queries, database)
    for arguments, message in (
        ((queries[:1], database), r"each of the 2 images.*len\(queries\)=1"),
        ((queries, unit_rows(1, 7)), r"each of the 6 images.*len\(database\)=7"),
        ((queries, database[:, :4]), r"of one size.*database.shape=\(6, 4\)"),
        ((queries, None), "database of roxford5k"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_benchmark(benchmark, *arguments)
    classes = read_benchmark("sop", sop_folder(tmp_path / "sop"))
    with pytest.raises(ValueError, match=r"each of the 6 images.*len\(queries\)=5"):
        evaluate_benchmark(classes, database[:5])
    with pytest.raises(ValueError, match="database or distractors"):
        evaluate_benchmark(classes, database, database)
    with pytest.raises(ValueError, match="of classes"):
        postprocess_benchmark(database, None, tmp_path, query_expansion=(1, 3.0))
