"""What losses and metrics accept: labels of any size, and the float type of Keras."""

import keras
import numpy as np
import pytest
from gradients import BACKEND, READS_VALUES, on_tensorflow, run, unit

from keras_aploss import (
    APLoss,
    BatchAP,
    TieAwareAPLoss,
    TripletHardLoss,
    TripletSemiHardLoss,
    ap_loss,
    evaluate_leave_one_out,
    quantized_average_precision,
)

LARGE = np.array([2**63, 2**63, 2**63 + 5, 2**63 + 5], "uint64")
WIDE = np.array([1, 1, 1 + 2**40, 1 + 2**40])


@pytest.mark.skipif(not READS_VALUES, reason="values cannot be read there")
@pytest.mark.parametrize(
    "labels",
    [LARGE, pytest.param(WIDE, marks=pytest.mark.skipif(BACKEND != "jax", reason=""))],
)
def test_labels_that_no_type_holds_are_refused(labels):
    x = np.eye(4, dtype="float32")[[0, 0, 1, 1]]
    uses = [
        lambda: APLoss()(labels, x),
        lambda: TripletSemiHardLoss()(labels, x),
        lambda: BatchAP().update_state(labels, x),
        lambda: ap_loss(x, [0, 0, 1, 1], x, labels),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"int(64|32) holds.*np.unique"):
            use()
    small = np.unique(labels, return_inverse=True)[1]
    assert float(APLoss()(small, x)) == pytest.approx(0, abs=1e-6)


@on_tensorflow
def test_labels_that_int64_does_not_hold_are_no_number_in_a_graph():
    x = np.eye(4, dtype="float32")[[0, 0, 1, 1]]
    held = np.array([2**63 - 1, 2**63 - 1, 5, 5], "uint64")
    for labels, is_held in ((LARGE, False), (held, True)):
        loss = run(APLoss(), labels, x, mode="graph")
        assert np.isnan(loss) == (not is_held)


@pytest.fixture
def in_float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@on_tensorflow
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    "mode", ["eager", pytest.param("graph", marks=pytest.mark.slow)]
)
def test_the_losses_compute_in_float64_where_keras_does(mode):
    x, labels = unit(np.random.default_rng(4), 12, 5), np.arange(12) % 4
    similarity, relevance = x @ x.T, labels[:, None] == labels
    expected = 1 - keras.ops.mean(quantized_average_precision(similarity, relevance))
    loss = run(lambda x: APLoss()(labels, x), x, mode=mode)
    assert loss.dtype == "float64"
    assert loss == pytest.approx(float(expected), abs=1e-12)
    small = unit(np.random.default_rng(4), 12, 5).astype("float32")
    for make in (APLoss, TieAwareAPLoss, TripletSemiHardLoss, TripletHardLoss):
        wide = run(lambda x, make=make: make()(labels, x), x, mode=mode)
        narrow = make(dtype="float32")(labels, small)
        assert wide == pytest.approx(float(narrow), abs=1e-5)
    metric = BatchAP()
    metric.update_state(labels, x)
    exact = evaluate_leave_one_out(x, labels).metrics["map"]
    assert float(metric.result()) == pytest.approx(exact)
