import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import projector

from keras_aploss import (
    APLoss,
    GeneralizedMeanPooling2D,
    MultistageTrainer,
    TripletSemiHardLoss,
)
from keras_aploss.callbacks import RetrievalEvaluation, RetrievalTensorBoard
from keras_aploss.embeddings import embed
from keras_aploss.evaluation import evaluate_embeddings, evaluate_leave_one_out
from keras_aploss.report import choose_queries, rank_queries, similarity_histogram

CLASSES, PER_CLASS = 5, 4


def make_images(seed=0):
    """Noisy colours: one colour per class, so a model can learn them in seconds."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    colors = rng.integers(0, 256, (CLASSES, 1, 1, 3))
    noise = rng.normal(0, 60, (len(labels), 12, 12, 3))
    return np.clip(colors[labels] + noise, 0, 255).astype("uint8"), labels


def make_model(learning_rate=0.01):
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((12, 12, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        GeneralizedMeanPooling2D(name="pooling"),
        keras.layers.Dense(6),
        keras.layers.UnitNormalization(),
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.Adam(learning_rate)
    # Traced, it would take ten times as long as these few steps do.
    model.compile(optimizer, loss=APLoss(num_bins=10), run_eagerly=True)
    return model


def train(model, callbacks, epochs=2, **kwargs):
    images, labels = make_images()
    settings = {"batch_size": 20, "verbose": 0, **kwargs}
    return model.fit(images, labels, epochs=epochs, callbacks=callbacks, **settings)


def expected_metrics(model):
    images, labels = make_images(seed=1)
    return evaluate_leave_one_out(embed(model, images), labels).metrics


def test_logs_hold_the_exact_metrics_of_the_model_after_the_epoch():
    model = make_model()
    evaluation = RetrievalEvaluation(*make_images(seed=1), batch_size=7)
    history = train(model, [evaluation], epochs=1).history
    metrics = expected_metrics(model)
    for name in ("map", "recall_at_1", "map_at_r"):
        assert history[f"val_{name}"] == [pytest.approx(metrics[name], abs=1e-6)]
    assert evaluation.last.epoch == 0
    assert evaluation.last.embeddings.shape == (20, 6)


def test_metrics_are_plain_floats_under_the_chosen_prefix():
    evaluation, logs = RetrievalEvaluation(*make_images(), prefix="holdout_"), {}
    evaluation.set_model(make_model())
    evaluation.on_epoch_end(0, logs)
    assert sorted(logs) == ["holdout_map", "holdout_map_at_r", "holdout_recall_at_1"]
    assert {type(value) for value in logs.values()} == {float}


def test_every_skips_epochs_but_never_the_last():
    evaluation = RetrievalEvaluation(*make_images(), every=2)
    history = train(make_model(), [evaluation], epochs=5).history
    assert len(history["loss"]) == 5
    assert len(history["val_map"]) == 3
    assert evaluation.last.epoch == 4


def test_evaluation_before_training_is_of_the_untrained_model():
    model = make_model()
    untrained = expected_metrics(model)
    evaluation = RetrievalEvaluation(*make_images(seed=1), evaluate_before=True)
    train(model, [evaluation], epochs=5, initial_epoch=3)
    assert evaluation.before.epoch == 2
    assert evaluation.before.result.metrics == pytest.approx(untrained, abs=1e-6)
    assert evaluation.last.epoch == 4
    assert np.any(evaluation.last.embeddings != evaluation.before.embeddings)


def test_evaluation_leaves_the_training_as_it_is():
    alone, watched = make_model(), make_model()
    train(alone, [])
    train(watched, [RetrievalEvaluation(*make_images(seed=1), evaluate_before=True)])
    for a, b in zip(alone.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_best_model_is_kept_and_the_training_stops_by_map(tmp_path):
    path = tmp_path / "best.keras"
    callbacks = [
        RetrievalEvaluation(*make_images(seed=1)),
        keras.callbacks.ModelCheckpoint(
            path, monitor="val_map", mode="max", save_best_only=True
        ),
        # Nothing improves by 2, so patience alone decides.
        keras.callbacks.EarlyStopping("val_map", mode="max", min_delta=2, patience=3),
    ]
    history = train(make_model(), callbacks, epochs=9).history
    assert len(history["val_map"]) == 4
    best = expected_metrics(keras.models.load_model(path))["map"]
    assert best == pytest.approx(max(history["val_map"]), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "kwargs", "message"),
    [
        ([0, 1, 2], {}, "at least two images share"),
        ([-1, -1, 2], {}, "at least two images share"),
        ([0, 0], {}, "one integer per image"),
        ([0.0, 0.0, 1.0], {}, "one integer per image"),
        ([0, 0, 1], {"every": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(labels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluation(np.zeros((3, 4, 4, 3), "uint8"), labels, **kwargs)


BAD_QUERIES = [
    ([-1, 0], "queries from -1 to 0"),
    ([0, 7], "queries from 0 to 7"),
    ([0, 1, 1, 0, 0, 0, 0], "7 queries, of which 2 distinct.*flatnonzero"),
    (np.arange(7) < 2, "dtype=bool"),
    ([0.0, 3.0], "dtype=float64"),
    ([[0, 3]], r"shape=\(1, 2\)"),
    ([], "distinct integers"),
    (np.empty(0, int), "of the 0 queries"),
    ([0, 1, 6], "among those that do not query"),
    ([0, 1, 2, 3, 4, 5, 6], "of the 0 others"),
    ([4], "among those that do not query"),
]


@pytest.mark.parametrize(("queries", "message"), BAD_QUERIES)
def test_queries_that_say_nothing_or_something_else_are_refused(queries, message):
    labels, embeddings = np.array([0, 0, 1, 1, -1, -1, 2]), np.eye(7)
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluation(embeddings, labels, queries=queries)
    with pytest.raises(ValueError, match=message):
        evaluate_embeddings(embeddings, labels, queries)
    with pytest.raises(ValueError, match=message):
        choose_queries(labels, 2, queries)


def test_embeddings_may_be_lists_and_need_one_label_each():
    embeddings, labels = [[1, 0], [0, 1], [0.8, 0.6]], [0, 1, 0]
    for queries in (None, [0], np.array([2, 0], "uint8")[:1]):
        result = evaluate_embeddings(embeddings, labels, queries)
        assert result.average_precision.shape == (3,)
        assert result.metrics["map"] == 1
    with pytest.raises(ValueError, match=r"one integer per image.*for 3 images"):
        evaluate_embeddings(embeddings, labels[:2], [0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("logs")
    rate = keras.optimizers.schedules.PolynomialDecay(0.01, 3, end_learning_rate=0.0)
    model = make_model(rate)
    images, labels = make_images(seed=1)
    labels[-3:] = -1
    evaluation = RetrievalEvaluation(images, labels, evaluate_before=True)
    callbacks = [
        evaluation,
        keras.callbacks.TensorBoard(log_dir),
        RetrievalTensorBoard(
            log_dir, evaluation, num_queries=3, num_results=4,
            class_names=[f"class\t{label}\udce9" for label in range(CLASSES)],
        ),
    ]  # fmt: skip
    train(model, callbacks, epochs=3)
    return log_dir, model, evaluation


def events(path):
    sizes = {"tensors": 0, "images": 0}
    return EventAccumulator(str(path), size_guidance=sizes).Reload()


def values(accumulator, tag):
    return {e.step: tf.make_ndarray(e.tensor_proto) for e in accumulator.Tensors(tag)}


def test_event_files_hold_every_tag_at_every_epoch(run):
    written = events(run[0] / "retrieval")
    tags = {
        "learning_rate", "gem_p/pooling", "similarity/positive", "similarity/negative",
        "rankings",
    }  # fmt: skip
    assert set(written.Tags()["tensors"]) == tags
    for tag in tags:
        assert sorted(values(written, tag)) == [-1, 0, 1, 2], tag


def test_learning_rate_follows_its_schedule_and_p_the_layer(run):
    written = events(run[0] / "retrieval")
    rates = values(written, "learning_rate")
    expected = {-1: 0.01, 0: 0.02 / 3, 1: 0.01 / 3, 2: 0.0}
    assert {s: float(v) for s, v in rates.items()} == pytest.approx(expected, abs=1e-6)
    exponents = values(written, "gem_p/pooling")
    assert float(exponents[-1]) == 3.0
    p = keras.ops.convert_to_numpy(run[1].get_layer("pooling").p)
    assert float(exponents[2]) == pytest.approx(p.item())
    assert p.item() != 3.0


def test_histograms_have_the_bins_of_the_loss(run):
    _, _, evaluation = run
    bins = values(events(run[0] / "retrieval"), "similarity/positive")[2]
    centers, positives, _ = similarity_histogram(
        evaluation.last.embeddings, evaluation.labels, num_bins=10
    )
    np.testing.assert_allclose(bins[:, :2].mean(1)[::-1], centers, atol=1e-6)
    np.testing.assert_allclose(bins[::-1, 2], positives, rtol=1e-5)
    np.testing.assert_allclose(bins[1:, 0], bins[:-1, 1], atol=1e-6)


def test_pictures_can_be_decoded(run):
    width, height, encoded = values(events(run[0] / "retrieval"), "rankings")[2]
    picture = tf.io.decode_png(encoded).numpy()
    assert picture.shape == (int(height), int(width), 3)
    assert picture.shape[:2] > (300, 500)
    assert picture.std() > 5


def test_keras_writes_the_metrics_beside(run):
    written = events(run[0] / "validation")
    logged = values(written, "epoch_map")
    assert float(logged[2]) == pytest.approx(run[2].last.result.metrics["map"])


def test_projector_files_fit_together(run):
    directory = run[0] / "retrieval"
    config = text_format.Parse(
        (directory / "projector_config.pbtxt").read_text(), projector.ProjectorConfig()
    )
    names = [embedding.tensor_name for embedding in config.embeddings]
    assert names == ["embeddings", "embeddings_before_training"]
    snapshots = (run[2].last, run[2].before)
    for embedding, snapshot in zip(config.embeddings, snapshots, strict=True):
        tensors = np.loadtxt(directory / embedding.tensor_path, delimiter="\t")
        np.testing.assert_allclose(tensors, snapshot.embeddings, atol=1e-5)
        with open(directory / embedding.metadata_path, newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t")
        assert header == ["class", "label", "AP"]
        assert len(rows) == len(tensors)
        assert rows[0][:2] == [r"class 0\udce9", "0"]  # a name that is not UTF-8
        assert rows[-1] == ["-1", "-1", ""]
        width, height = embedding.sprite.single_image_dim
        with Image.open(directory / embedding.sprite.image_path) as sprite:
            assert sprite.size == (5 * width, 5 * height)


def test_evaluation_must_belong_to_the_same_training(tmp_path):
    evaluation = RetrievalEvaluation(*make_images())
    with pytest.raises(ValueError, match="same list of callbacks"):
        train(make_model(), [RetrievalTensorBoard(tmp_path, evaluation)])


def test_a_loss_without_bins_is_drawn_in_those_of_the_paper(tmp_path):
    model = make_model()
    loss = lambda y_true, y_pred: keras.ops.mean(y_pred, axis=1)  # noqa: E731
    model.compile("sgd", loss, run_eagerly=True)
    evaluation = RetrievalEvaluation(*make_images())
    train(model, [RetrievalTensorBoard(tmp_path, evaluation), evaluation], epochs=2)
    histograms = values(events(tmp_path / "retrieval"), "similarity/negative")
    assert sorted(histograms) == [0, 1], "written although the order is wrong"
    assert histograms[0].shape == (20, 3)


def test_some_images_may_query_and_the_others_be_the_database():
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    embeddings = rng.normal(size=(8, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    queries = [0, 4, 5]
    result = evaluate_embeddings(embeddings, labels, queries)
    database = [1, 2, 3, 6, 7]
    for query in queries:
        expected = average_precision_score(
            labels[database] == labels[query], embeddings[database] @ embeddings[query]
        )
        assert result.average_precision[query] == pytest.approx(expected)
    assert np.isnan(result.average_precision[database]).all()
    assert choose_queries(labels, 2, queries).tolist() == [0, 4]
    images = np.zeros((8, 8, 8, 3), "uint8")
    ranking = rank_queries(images, labels, embeddings, [0], database=database)[0]
    assert len(ranking.results) == 5
    assert sum(ranking.relevant) == 2


def make_unnormalized():
    model = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten()])
    model.compile("sgd", loss=APLoss(), run_eagerly=True)
    return model


@pytest.mark.parametrize("before", [False, True])
def test_a_model_without_unit_length_is_refused_before_the_first_step(before):
    steps = []
    step = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda *_: steps.append(1)
    )
    evaluation = RetrievalEvaluation(*make_images(), evaluate_before=before)
    with pytest.raises(ValueError, match=r"unit length.*UnitNormalization"):
        train(make_unnormalized(), [evaluation, step])
    assert not steps
    evaluation.set_model(make_unnormalized())
    with pytest.raises(ValueError, match=r"20 of 20 rows of other lengths"):
        evaluation.evaluate(0)


def test_lengths_of_embeddings_do_not_make_the_map():
    """What was measured as 0.505, by raw dot products, is 1 by the cosine."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(CLASSES, 8))
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    vectors = directions[labels] * rng.uniform(0.1, 10, (len(labels), 1))
    images = vectors[:, None, None, :].astype("float32")
    flat = keras.Sequential([keras.Input((1, 1, 8)), keras.layers.Flatten()])
    evaluation = RetrievalEvaluation(images, labels)
    evaluation.set_model(flat)
    with pytest.raises(ValueError, match="unit length"):
        evaluation.evaluate(0)
    evaluation.set_model(keras.Sequential([flat, keras.layers.UnitNormalization()]))
    assert evaluation.evaluate(0).result.metrics["map"] == 1


@pytest.fixture
def warnings(caplog):
    """The warnings of this package so far."""
    return lambda: [r.message for r in caplog.records if "keras_aploss" in r.name]


@pytest.mark.parametrize(
    ("loss", "expected"), [(APLoss(), 1), (TripletSemiHardLoss(), 1), ("mse", 0)]
)
def test_val_loss_of_batches_is_warned_of_once(loss, expected, warnings):
    evaluation, model = RetrievalEvaluation(*make_images(seed=1)), small_model()
    model.compile("sgd", loss)
    evaluation.set_model(model)
    evaluation.on_epoch_end(0, {"loss": 0.5})
    assert not warnings()
    for epoch in (1, 2):
        evaluation.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 4e-10})
    assert len(warnings()) == expected
    if expected:
        assert 'Monitor val_map (mode="max")' in warnings()[0]


def small_model():
    layers = [keras.layers.Flatten(), keras.layers.Dense(6)]
    layers += [keras.layers.UnitNormalization()]
    return keras.Sequential([keras.Input((12, 12, 3)), *layers])


def averaging_model(multistage=False):
    model = small_model()
    trained = MultistageTrainer(model, num_chunks=2) if multistage else model
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    trained.compile(optimizer, lambda _, y: keras.ops.mean(y, axis=1), run_eagerly=True)
    return model, trained


@pytest.mark.parametrize("multistage", [False, True])
def test_moving_averages_are_measured_and_kept_and_left(tmp_path, warnings, multistage):
    encoder, trained = averaging_model(multistage)
    snapshots = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            snapshots.append(evaluation.last.embeddings)
            encoder.save_weights(tmp_path / f"{epoch}.weights.h5")

    images, labels = make_images(seed=1)
    evaluation = RetrievalEvaluation(images, labels)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    train(trained, [swap, evaluation, Keep()], batch_size=10, shuffle=False)
    for epoch, snapshot in enumerate(snapshots):
        kept = small_model()
        kept.load_weights(tmp_path / f"{epoch}.weights.h5")
        np.testing.assert_allclose(embed(kept, images), snapshot, atol=1e-6)
    np.testing.assert_allclose(embed(encoder, images), snapshots[-1], atol=1e-6)
    assert np.abs(snapshots[1] - snapshots[0]).max() > 1e-3
    assert not warnings()


@pytest.mark.parametrize(
    ("epochs", "what"),
    [(2, "the training goes on with"), (1, "has not left in the model")],
)
def test_other_weights_than_the_moving_average_are_warned_of(epochs, what, warnings):
    _, trained = averaging_model()
    evaluation = RetrievalEvaluation(*make_images(seed=1))
    train(trained, [evaluation], epochs, batch_size=10, shuffle=False)
    assert what in warnings()[0]
    assert "SwapEMAWeights(swap_on_epoch=True)` before" in warnings()[0]
