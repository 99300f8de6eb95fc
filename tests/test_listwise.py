"""What all listwise losses have to do, and the numbers that stand for classes."""

import numpy as np
import pytest
from gradients import (
    MODES,
    READS_VALUES,
    differentiated,
    each_mode_slowly,
    run,
)

from keras_aploss import APLoss, TieAwareAPLoss, ap_loss, tie_aware_ap_loss

LOSSES = {
    "AP": APLoss,
    "tie-aware": TieAwareAPLoss,
    "simplified": lambda **arguments: TieAwareAPLoss(simplified=True, **arguments),
}
LABELS, QUERIES, DATABASE = np.array([0, 1]), np.eye(2), np.eye(2)[[0, 1, 1]]


def extreme_batches():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 4))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")
    above_one = (
        np.repeat([[1.0, 0.0, 0.0, 0.0]], 6, axis=0).astype("float32") * 1.0000002
    )
    return {
        "all equal": (np.arange(6) // 2, np.repeat(x[:1], 6, axis=0)),
        "nearly equal": (np.arange(6) // 2, x[:1] + 1e-7 * x),
        "one class": (np.zeros(6, int), x),
        "all singletons": (np.arange(6), x),
        "only distractors": (-np.ones(6, int), x),
        "above one": (np.arange(6) // 3, above_one),
        "opposite": (np.arange(6) % 2, np.concatenate([x[:3], -x[:3]])),
    }


@pytest.mark.parametrize("exclude_self", [False, True])
@each_mode_slowly
@pytest.mark.parametrize("kind", list(LOSSES))
def test_extreme_batches_are_finite(kind, mode, exclude_self):
    loss = LOSSES[kind](exclude_self=exclude_self)
    of_batch = differentiated(lambda x, labels: loss(labels, x), 1, mode=mode)
    for name, (labels, embeddings) in extreme_batches().items():
        no_positives = name in ("only distractors", "all singletons")
        if no_positives and mode == "eager" and READS_VALUES:
            with pytest.raises(ValueError, match="Expected a query with positives"):
                loss(labels, embeddings)
            continue
        value, (gradient,) = of_batch(embeddings, labels)
        assert -1e-6 <= value <= 1, name
        assert np.linalg.norm(gradient) < 20, name
        if no_positives:
            assert value == 0, name
            np.testing.assert_array_equal(gradient, 0 * embeddings, name)


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_batch_of_one_is_refused(kind):
    for labels, embeddings in ([3], [[1.0, 0.0]]), ([[3]], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="A batch of one ranks nothing"):
            LOSSES[kind]()(np.array(labels), np.array(embeddings))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((QUERIES, LABELS, DATABASE), {}, "database_embeddings and database_labels"),
        ((QUERIES, LABELS, None, LABELS), {}, "database_embeddings and database_lab"),
        ((QUERIES, LABELS, DATABASE, LABELS), {}, r"`database_embeddings`.*\(2, 2\)"),
        (
            (QUERIES, LABELS, np.eye(3), [0, 1, 1]),
            {},
            r"`database_embeddings`.*\(3, 2\)",
        ),
        ((QUERIES, [0, 1, 1]), {}, r"`query_embeddings`.*\(3, D\)"),
        ((QUERIES, [[0, 1]] * 2), {}, "`query_labels`.*One-hot"),
        ((QUERIES, ["a", "b"]), {}, "integer class labels in `query_labels`"),
        ((QUERIES, LABELS, DATABASE, [[0, 1]] * 3), {}, "`database_labels`.*One-hot"),
        ((QUERIES, LABELS, np.ones((0, 2)), np.ones(0, int)), {}, "at least one image"),
        ((np.ones((0, 2)), np.ones(0, int)), {}, "at least one image"),
        ((QUERIES, LABELS), {"block_size": 0}, "block_size"),
        ((QUERIES, LABELS), {"block_size": -1}, "block_size"),
        ((QUERIES, LABELS), {"num_bins": 1}, "num_bins"),
        (
            (QUERIES, LABELS, DATABASE, [0, 1, 1]),
            {"exclude_self": True},
            "exclude_self",
        ),
        ((np.ones((2**21, 1)), np.zeros(2**21, "int8")), {}, "2,097,151 images"),
    ],
)
def test_wrong_input_is_named(arguments, options, message):
    for function in (ap_loss, tie_aware_ap_loss):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            function(*arguments, **options)


@pytest.mark.skipif(not READS_VALUES, reason="needs to read values")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERIES, [5, 6], DATABASE, [0, 1, 1]), "a query with positives"),
        ((QUERIES, [-1, -1], DATABASE, [-1, -1, 1]), "a query with positives"),
        ((QUERIES, LABELS, np.nan * DATABASE, [0, 1, 1]), "3 of 3 are not"),
        ((QUERIES, LABELS, 2 * DATABASE, [0, 1, 1]), "`database_embeddings`"),
        ((np.inf * QUERIES, LABELS, DATABASE, [0, 1, 1]), "`query_embeddings`"),
    ],
)
def test_wrong_values_raise_in_eager_mode(arguments, message):
    with pytest.raises(ValueError, match=message):
        ap_loss(*arguments)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eager"][:1])
def test_wrong_values_give_nan_in_a_graph_and_no_positives_zero(mode):
    def values(database, labels):
        return run(
            lambda database: ap_loss(QUERIES, LABELS, database, labels),
            database,
            mode=mode,
        )

    assert np.isnan(values(2 * DATABASE, [0, 1, 1])).all()
    np.testing.assert_array_equal(values(DATABASE, [3, 3, 3]), [0, 0])
