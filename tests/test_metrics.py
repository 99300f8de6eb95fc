"""Metrics of a batch against the evaluation of the same images, and within `fit`."""

import functools

import keras
import numpy as np
import pytest
from exact_rows import EXACT_ROWS, draw_exact_rows
from gradients import (
    BACKEND,
    MANY,
    MODES,
    each_mode_slowly,
    on_tensorflow,
    slow_on_jax,
    unit,
    wrapped,
)
from hypothesis import given, settings, strategies as st

import keras_aploss.metrics
from keras_aploss import (
    APLoss,
    BatchAP,
    BatchRecall,
    MultistageTrainer,
    evaluate_leave_one_out,
)

KS = (1, 3)


def make_function(mode):
    """What the metrics make of one batch: AP, then recall at each of `KS`."""
    metrics = [BatchAP(), *(BatchRecall(k) for k in KS)]

    def function(labels, embeddings, weight):
        results = []
        for metric in metrics:
            state = [keras.ops.zeros_like(v.value) for v in metric.variables]
            args = state, labels, embeddings
            state = metric.stateless_update_state(*args, sample_weight=weight)
            results.append(metric.stateless_result(state))
        return keras.ops.stack(results)

    return wrapped(function, mode)


compiled_once = functools.cache(make_function)


def measured(labels, embeddings, mode=MODES[0], weight=None, make=make_function):
    weight = np.ones(len(labels), "float32") if weight is None else weight
    return keras.ops.convert_to_numpy(make(mode)(labels, embeddings, weight))


def batches_with_ties(size):
    labels = st.lists(st.integers(-1, 2), min_size=size, max_size=size)
    rows = st.integers(0, len(EXACT_ROWS) - 1)
    return st.tuples(labels, st.lists(rows, min_size=size, max_size=size))


def expected(labels, embeddings):
    metrics = evaluate_leave_one_out(embeddings, labels, ks=KS).metrics
    return [metrics["map"], *(metrics[f"recall_at_{k}"] for k in KS)]


@each_mode_slowly
@pytest.mark.parametrize(("size", "classes"), [(2, 1), (33, 4), (150, 2), (300, 40)])
def test_they_are_the_evaluation_of_the_batch(mode, size, classes):
    rng = np.random.default_rng(size)
    labels = rng.integers(-1, classes, size)
    labels[:2] = 0
    embeddings = unit(rng, size, 16).astype("float32")
    values = measured(labels, embeddings, mode)
    np.testing.assert_allclose(values, expected(labels, embeddings), atol=2e-6)


@slow_on_jax
def test_both_ways_lead_to_the_same(way):
    rng = np.random.default_rng(6)
    labels, embeddings = rng.integers(-1, 3, 50), draw_exact_rows(rng, 50)
    values = measured(labels, embeddings)
    np.testing.assert_allclose(values, expected(labels, embeddings), atol=1e-6)


@slow_on_jax
@given(st.sampled_from([2, 7, 12]).flatmap(batches_with_ties))
@settings(max_examples=min(MANY, 25), deadline=None)
def test_ties_are_those_of_the_evaluation(batch):
    labels, embeddings = np.array(batch[0]), EXACT_ROWS[batch[1]]
    values = measured(labels, embeddings, make=compiled_once)
    repeated = np.unique(labels[labels >= 0], return_counts=True)[1]
    if (repeated > 1).any():
        np.testing.assert_allclose(values, expected(labels, embeddings), atol=1e-6)
    else:
        assert np.isnan(values).all()


@pytest.fixture(params=["counting", "sorting"])
def way(request, monkeypatch):
    """Both ways to the AP, which a number of positives chooses between."""
    if request.param == "sorting":
        monkeypatch.setattr(keras_aploss.metrics, "_MAX_PASSES", -1)
    return request.param


@slow_on_jax
@pytest.mark.parametrize("size", [37, 128])
def test_a_collapsed_batch_looks_like_one(way, size):
    embedding = unit(np.random.default_rng(0), 1, 100).astype("float32")
    labels = np.arange(size) // 4
    ap, recall, _ = measured(labels, np.tile(embedding, (size, 1)))
    fraction = (np.bincount(labels)[labels] - 1) / (size - 1)
    is_query = fraction > 0
    assert ap == pytest.approx(fraction[is_query].mean(), rel=1e-5)
    assert recall == 0


@slow_on_jax
def test_blocks_of_any_size_give_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    labels, embeddings = rng.integers(0, 9, 70), unit(rng, 70, 8).astype("float32")
    whole = measured(labels, embeddings)
    for pairs in (1, 70 * 23):
        monkeypatch.setattr(keras_aploss.metrics, "_MAX_PAIRS", pairs)
        np.testing.assert_allclose(measured(labels, embeddings), whole, rtol=1e-6)


@slow_on_jax
def test_weights_are_those_of_queries():
    rng = np.random.default_rng(2)
    labels, embeddings = rng.integers(0, 4, 20), unit(rng, 20, 8).astype("float32")
    weight = rng.uniform(size=20).astype("float32")
    own = evaluate_leave_one_out(embeddings, labels).average_precision
    values = measured(labels, embeddings, weight=weight)
    kept = ~np.isnan(own)
    assert values[0] == pytest.approx(np.average(own[kept], weights=weight[kept]))


@slow_on_jax
def test_an_epoch_is_the_mean_over_all_queries():
    rng = np.random.default_rng(3)
    batches = [(rng.integers(0, 3, n), unit(rng, n, 8)) for n in (5, 12, 30)]
    metric, results = BatchAP(), []
    for labels, embeddings in batches:
        metric.update_state(labels, embeddings)
        results.append(evaluate_leave_one_out(embeddings, labels).average_precision)
    results = np.concatenate(results)
    assert float(metric.result()) == pytest.approx(np.nanmean(results), rel=1e-5)
    metric.reset_state()
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("metric", [BatchAP(), BatchRecall(5), BatchRecall(name="r")])
def test_they_come_back_from_their_config(metric):
    config = keras.metrics.serialize(metric)
    again = keras.metrics.deserialize(config)
    assert keras.metrics.serialize(again) == config
    assert again.name == metric.name


@pytest.mark.parametrize("k", [0, -1, 1.5, "1", None])
def test_what_is_no_number_of_images_is_refused(k):
    with pytest.raises(ValueError, match="Expected `k` to be an integer >= 1"):
        BatchRecall(k)


@slow_on_jax
@pytest.mark.parametrize(
    ("labels", "embeddings", "message"),
    [
        ([0, 0, 1], np.eye(2), "one embedding per label"),
        ([[0, 1], [1, 0]], np.eye(2), "one class label per image"),
        ([0.5, 1], np.eye(2), "integer class labels"),
        ([0, 0], [[np.nan, 0], [0, 1]], "finite embeddings"),
        ([0, 0], [[3.0, 4.0], [0, 1]], "1 of 2 are not; .* row 0, of length 5"),
    ],
)
@pytest.mark.skipif(BACKEND == "torch", reason="values cannot be read there")
def test_what_is_no_batch_is_refused(labels, embeddings, message):
    for metric in (BatchAP(), BatchRecall()):
        with pytest.raises(ValueError, match=message):
            metric.update_state(np.array(labels), np.array(embeddings))


@slow_on_jax
@pytest.mark.skipif("graph" not in MODES and "xla" not in MODES, reason="no graphs")
@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_embeddings_that_are_not_of_unit_length_are_no_number_in_a_graph(value):
    embeddings = np.array([[value, 0], [0, 1], [1, 0]], "float32")
    mode = "graph" if "graph" in MODES else "xla"
    assert np.isnan(measured(np.array([1, 1, 2]), embeddings, mode)).all()


@slow_on_jax
@pytest.mark.parametrize(
    "multistage", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_fit_shows_them(multistage):
    if multistage and BACKEND == "torch":
        pytest.skip("multistage training runs on TensorFlow and JAX")
    rng = np.random.default_rng(4)
    images, labels = rng.normal(size=(24, 6)).astype("float32"), np.arange(24) // 4
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4), keras.layers.UnitNormalization()]
    )
    trained = MultistageTrainer(model, num_chunks=3) if multistage else model
    optimizer = keras.optimizers.SGD(0.0)  # the weights stay
    trained.compile(optimizer, APLoss(), metrics=[BatchAP(), BatchRecall()])
    data = {"validation_data": (images, labels), "validation_batch_size": 24}
    history = trained.fit(
        images, labels, batch_size=24, epochs=2, shuffle=False, verbose=0, **data
    ).history
    embeddings = model.predict(images, verbose=0)
    metrics = evaluate_leave_one_out(embeddings, labels).metrics
    for prefix in ("", "val_"):
        for name, same in [("batch_ap", "map"), ("batch_recall_at_1", "recall_at_1")]:
            assert history[prefix + name] == pytest.approx(
                2 * [metrics[same]], abs=1e-5
            )


@on_tensorflow
def test_the_last_batch_of_an_epoch_may_be_one_image():
    model = keras.Sequential([keras.Input((3,)), keras.layers.UnitNormalization()])
    model.compile(loss=APLoss(), metrics=[BatchAP()])
    images = np.random.default_rng(5).normal(size=(9, 3))
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])
    result = model.evaluate(images, labels, 8, verbose=0)
    same = evaluate_leave_one_out(model.predict(images, verbose=0)[:8], labels[:8])
    assert result[1] == pytest.approx(same.metrics["map"])


@pytest.mark.parametrize("metric", [BatchAP(), BatchRecall(2)])
def test_callbacks_know_that_more_is_better(tmp_path, metric):
    model = keras.Sequential([keras.Input((2,)), keras.layers.UnitNormalization()])
    model.compile(loss="mse", metrics=[metric])
    model.evaluate(np.eye(2), np.zeros((2, 1), "int64"), verbose=0)
    kept = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5",
        monitor=f"val_{metric.name}",
        save_best_only=True,
        save_weights_only=True,
    )
    kept.set_model(model)
    for epoch, (value, best) in enumerate([(0.5, 0.5), (0.7, 0.7), (0.4, 0.7)]):
        kept.on_epoch_end(epoch, {f"val_{metric.name}": value})
        assert float(kept.best) == pytest.approx(best)
