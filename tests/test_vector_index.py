"""The vector index: it ranks as the evaluation does, and refuses what does not fit."""

import numpy as np
import pytest

from keras_aploss import VectorIndex, retrieval_model, top_k
from keras_aploss.embeddings import expand_queries, model_fingerprint
from keras_aploss.search import IndexedImage

UNITS = 16
STRANGE = [
    "with space.jpg",
    "über/ÿ/日本 🐦.png",
    "new\nline.png",
    "quote \" and ' and \\ back.jpg",
    "key in [] or 1 == 1.gif",
    "..",
]


def unit_rows(count, seed=0, units=UNITS):
    rows = np.random.default_rng(seed).normal(size=(count, units))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


def with_ties(count=400, seed=0):
    """Embeddings of which a third are copies of others."""
    rows = unit_rows(count, seed)
    generator = np.random.default_rng(seed + 1)
    copies = generator.choice(count, count // 3, replace=False)
    rows[copies] = rows[generator.choice(count // 50, len(copies))]
    return rows


def in_path_order(count):
    """Paths whose order is not that in which they are added."""
    paths = [f"{i:05d}.jpg" for i in range(count)]
    return paths, np.random.default_rng(9).permutation(count)


def check_same(found, indices, similarities, atol):
    """What an index found is what `top_k` gives."""
    ours = [[int(image.path[:5]) for image in images] for images in found]
    np.testing.assert_array_equal(ours, indices)
    ours = [[image.similarity for image in images] for images in found]
    np.testing.assert_allclose(ours, similarities, atol=atol)


def fill(index, vectors, paths=None, labels=None):
    paths = paths or [f"{i:05d}.jpg" for i in range(len(vectors))]
    index.add([f"id of {path}" for path in paths], vectors, paths, labels)
    return index


@pytest.fixture(params=["memory", "file"])
def places(request, tmp_path):
    """Functions that open an index: in memory once, in a file as often as wanted."""
    if request.param == "memory":
        return lambda **options: VectorIndex(units=UNITS, **options)
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    return lambda **options: VectorIndex(tmp_path / "i.db", units=UNITS, **options)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_rankings_are_those_of_the_evaluation_with_ties(places, k):
    vectors, queries = with_ties(), unit_rows(12, 5)
    queries[:6] = vectors[:6]  # tied with many
    paths, order = in_path_order(len(vectors))
    with places() as index:
        fill(index, vectors[order], [paths[i] for i in order])
        found = index.search(queries, k)
    expected, similarities = top_k(queries, vectors, k)
    check_same(found, expected, similarities, atol=1e-6)


def test_more_ties_than_results_are_asked_for_until_all_are_there(places):
    vectors = unit_rows(300)
    vectors[20:250] = vectors[20]
    paths, order = in_path_order(300)
    with places() as index:
        fill(index, vectors[order], [paths[i] for i in order])
        found = index.search(vectors[[20]], 5)[0]
    assert [image.path for image in found] == paths[20:25]


def test_strange_paths_and_labels_come_back_as_they_are(places):
    vectors = unit_rows(len(STRANGE))
    with places() as index:
        fill(index, vectors, STRANGE, STRANGE)
        images = index.images()
        assert [image.path for image in images] == sorted(STRANGE)
        for vector, text in zip(vectors, STRANGE, strict=True):
            image = index.search([vector], 1, labels=[text])[0]
            assert [(image[0].path, image[0].label)] == [(text, text)]
            assert image[0].id == f"id of {text}"
        index.delete(STRANGE[1:])
        assert [image.path for image in index.images()] == STRANGE[:1]


def test_a_label_restricts_the_ranking(places):
    vectors = unit_rows(60)
    labels = [f"class {i % 3}" for i in range(60)]
    with places() as index:
        fill(index, vectors, labels=labels)
        found = index.search(vectors[:2], 100, labels=["class 1", "class 2", "none"])
        assert index.search(vectors[:2], 3, labels=["none"]) == [[], []]
        assert index.search(vectors[:2], 3, labels=[]) == [[], []]
    chosen = [i for i in range(60) if i % 3]
    expected, _ = top_k(vectors[:2], vectors[chosen], len(chosen))
    ours = [[int(image.path[:5]) for image in images] for images in found]
    np.testing.assert_array_equal(ours, np.array(chosen)[expected])


def test_added_again_an_image_is_replaced_and_deleted_it_is_gone(places):
    vectors = unit_rows(6)
    with places() as index:
        assert len(index) == 0
        assert index.search(vectors[:1], 3) == [[]]
        fill(index, vectors[:4])
        fill(index, vectors[:4])
        assert len(index) == 4
        index.add(["other"], vectors[5:], ["00001.jpg"], ["new"])
        index.delete(["00000.jpg", "not there"])
        assert len(index) == 3
        best = index.search(vectors[5:], 1)[0][0]
        assert best[:3] == ("00001.jpg", "new", "other")
        assert best.similarity == pytest.approx(1)
        image, vector = index.get(["00001.jpg", "not there"])["00001.jpg"]
        assert image == IndexedImage("00001.jpg", "new", "other")
        np.testing.assert_array_equal(vector, vectors[5])


def test_query_expansion_is_that_of_the_embeddings(places):
    vectors, queries = unit_rows(200), unit_rows(5, 3)
    with places() as index:
        fill(index, vectors)
        found = index.search(queries, 8, expand_by=4, alpha=2.0)
        plain = index.search(queries, 8)
    expanded = expand_queries(queries, vectors, k=4, alpha=2.0)
    expected, similarities = top_k(expanded, vectors, 8)
    check_same(found, expected, similarities, atol=1e-5)
    assert found != plain


def test_queries_are_expanded_by_what_all_of_them_found(monkeypatch):
    """A graph of neighbours may miss some: here the last one of the first query."""
    vectors, queries = unit_rows(50), unit_rows(3, 3)
    index = fill(VectorIndex(units=vectors.shape[1]), vectors)
    expected = index.search(queries, 5, expand_by=3)
    nearest = index._rows.nearest

    def miss_one(queries, k, labels):
        first, *others = nearest(queries, k, labels)
        return [first[: 3 if k == 4 + 10 else k], *others]

    monkeypatch.setattr(index._rows, "nearest", miss_one)
    assert index.search(queries, 5, expand_by=4) == expected


def test_a_graph_of_neighbours_reports_its_recall(places):
    with places(index_type="HNSW") as index:
        fill(index, unit_rows(2000))
        index.flush()
        assert 0.95 <= index.recall(10) <= 1


def test_recall_counts_what_is_missing():
    """An index whose search finds half of each list."""

    class Half(VectorIndex):
        def search(self, *args, **options):
            return [images[::2] for images in super().search(*args, **options)]

    index = fill(Half(units=UNITS), unit_rows(50))
    assert index.recall(10, num_queries=20) == 0.5
    with pytest.raises(ValueError, match="Expected an index with images"):
        VectorIndex(units=UNITS).recall()


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.full((1, UNITS), np.nan), "`queries` with 1 of 1 rows holding NaN"),
        (np.full((2, UNITS), 0.5), "unit length. Received: .*2 of 2 rows .* length 2"),
        (np.zeros((1, UNITS)), "unit length. Received: .*1 of 1 rows .* length 0"),
        (np.full((1, UNITS), np.inf), "`queries` with 1 of 1 rows holding NaN or inf"),
        (np.eye(3), "of 16 units, as the index has. Received: .*shape=.3, 3"),
        (np.eye(UNITS)[0], r"array of \(rows, 16\) numbers"),
        ([["a"] * UNITS], "numbers. Received: queries.shape=.1, 16., dtype=<U1"),
    ],
)
def test_queries_that_do_not_fit_are_refused(places, queries, message):
    with places() as index, pytest.raises(ValueError, match=message):
        fill(index, unit_rows(5)).search(queries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.full((2, UNITS), np.nan)}, "finite.*`vectors` with 2 of 2"),
        ({"vectors": np.eye(UNITS)[:2] * 2}, "unit length.*`vectors` with 2 of 2"),
        ({"vectors": np.eye(2)}, "of 16 units"),
        ({"paths": ["a"]}, "an id, a path and a label for each vector"),
        ({"labels": ["a"]}, "an id, a path and a label for each vector"),
        ({"paths": ["a", "a"]}, "different paths"),
        ({"paths": ["a", "\udcff"]}, "Expected each path to be a text"),
        ({"paths": ["a", "b" * 9000]}, "at most 8192 bytes"),
        ({"paths": ["a", None]}, "Expected each path to be a text"),
        ({"labels": ["a", "é" * 600]}, "at most 1024 bytes"),
        ({"ids": ["a", 3]}, "Expected each id to be a text"),
    ],
)
def test_images_that_do_not_fit_are_refused_and_nothing_is_written(changes, message):
    index = VectorIndex(units=UNITS)
    given = {"ids": ["1", "2"], "vectors": unit_rows(2), "paths": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        index.add(**(given | changes))
    assert len(index) == 0


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": 20_000}, {"k": 1.5}, {"expand_by": -1}, {"alpha": -1.0}]
)
def test_settings_out_of_range_are_refused(options):
    index = fill(VectorIndex(units=UNITS), unit_rows(5))
    with pytest.raises(ValueError, match=f"Expected `{next(iter(options))}`"):
        index.search(unit_rows(1), **options)


def test_more_results_than_images_are_all_images(places):
    with places() as index:
        fill(index, unit_rows(5))
        assert len(index.search(unit_rows(1), 10)[0]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected `units`"),
        (("photos",), "Expected a path that ends in `.db`"),
        (("photos.db",), "which does not exist"),
    ],
)
def test_no_index_is_told_clearly(arguments, message):
    with pytest.raises(ValueError, match=message):
        VectorIndex(*arguments)
    with pytest.raises(ValueError, match="Expected `index_type` among"):
        VectorIndex(units=2, index_type="IVF")


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_aploss\[search\]'"):
        VectorIndex(tmp_path / "i.db", units=2)


def test_fingerprints_tell_weights_and_sizes_apart(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    model = retrieval_model("small_resnet", units=8)
    here = model_fingerprint(model, 64)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert model_fingerprint(again, 64) == here
    assert model_fingerprint(model, 65) != here
    weight = model.weights[0]
    weight.assign(np.nextafter(weight.numpy(), np.inf))
    assert model_fingerprint(model, 64) != here
