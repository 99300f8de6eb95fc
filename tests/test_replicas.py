"""On several devices the losses are those of one that holds the whole batch.

Virtual devices have to be set up before TensorFlow runs, so one fresh process takes all
the steps (`take_steps`), and the tests here look at what it wrote.
"""

import functools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_aploss import APLoss, BatchAP, BatchRecall, TieAwareAPLoss

DEVICES = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(67, 12)).astype("float32")
X[-3:] = X[-4] + 0.5 * X[-3:]  # the last rest is near to itself
# No two images of a class follow one another: a part of 8 has no positive but itself.
LABELS = np.arange(67) % 8 + 2**30
LABELS[-3:] = 5
# All images of the first part, and some others. Then the parts have unequal numbers of
# queries: 0, and more.
WITH_DISTRACTORS = np.where(np.isin(np.arange(67), [*range(8), 17, 40]), -1, LABELS)
WEIGHTS = RNG.uniform(0.1, 2, 67).astype("float32")
# Of an epoch in batches of 32: images, labels, weights and loss; and the devices. Of 62
# images the rest is split 8, 8, 8, 6 on four devices, and of 35 it is 1, 1, 1 and none.
CASES = {
    "AP": (range(62), LABELS, None, APLoss(), (1, 4)),
    "weighted": (
        [*range(32), *range(64, 67)],
        WITH_DISTRACTORS,
        WEIGHTS,
        APLoss(25, (0, 1), exclude_self=True, block_size=3),
        (4,),
    ),
    "tie-aware": (
        range(62),
        WITH_DISTRACTORS,
        WEIGHTS,
        TieAwareAPLoss(exclude_self=True, block_size=5),
        (2,),
    ),
}
RUNS = [(case, number) for case, row in CASES.items() for number in row[-1]]
# With weights, distractors and a rest: what stands for all where minutes are too long.
QUICK = [("tie-aware", 2)]
# Of one batch in parts of several sizes, one of which is empty.
PARTS = [slice(0, 5), slice(5, 5), slice(5, 20), slice(20, 32)]
UNIT = X[:32] / np.linalg.norm(X[:32], axis=1, keepdims=True)
BATCH = UNIT, WITH_DISTRACTORS[:32], WEIGHTS[:32]
LOSSES = {
    str(reduction): APLoss(exclude_self=True, reduction=reduction, block_size=3)
    for reduction in (None, "sum", "mean_with_sample_weight")
}


def fit(strategy, case):
    """Loss and weights after an epoch."""
    images, labels, weights, loss, _ = CASES[case]
    images = np.array(images)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(8),
                keras.layers.UnitNormalization(),
            ]
        )
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss)
    history = model.fit(
        X[images],
        labels[images],
        sample_weight=None if weights is None else weights[images],
        batch_size=32,
        shuffle=False,
        verbose=0,
    ).history
    kernel, bias = model.get_weights()
    return {"loss": history["loss"][0], "kernel": kernel, "bias": bias}


def metrics_of(strategy, case):
    """Metrics of the batches, weighted, of a model that changes nothing."""
    images, labels, weights, *_ = CASES[case]
    images = np.array(images)
    with strategy.scope():
        model = keras.Sequential([keras.Input((12,)), keras.layers.UnitNormalization()])
        metrics = [BatchAP(), BatchRecall(2)]
        model.compile(loss=APLoss(), weighted_metrics=metrics)
    weights = None if weights is None else weights[images]
    arguments = {"sample_weight": weights, "batch_size": 32, "verbose": 0}
    return model.evaluate(X[images], labels[images], return_dict=True, **arguments)


def losses_and_gradient(losses, x, labels, weights):
    """The values of `losses` and the gradient of their sum."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        embeddings = tf.math.l2_normalize(x, axis=1)
        values = [loss(labels, embeddings, weights) for loss in losses]
        total = sum(tf.reduce_sum(value) for value in values)
    return [*values, tape.gradient(total, x)]


def on_replicas(strategy, function, *batch, in_graph=True):
    """Each result of the replicas that hold `PARTS` of a batch, one after the other."""
    import tensorflow as tf

    parts = [
        strategy.experimental_distribute_values_from_function(
            lambda replica, array=array: tf.constant(
                array[PARTS[replica.replica_id_in_sync_group]]
            )
        )
        for array in batch
    ]

    def run(*parts):
        return strategy.run(function, parts)

    results = tf.function(run)(*parts) if in_graph else run(*parts)
    return [
        np.concatenate(np.atleast_1d(*strategy.experimental_local_results(result)))
        for result in results
    ]


def take_steps(path, runs):
    """Write what the tests look at; to be called once, in a fresh process."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, DEVICES * [tf.config.LogicalDeviceConfiguration()]
    )
    # Collective operations know groups of one size in a process: four devices have
    # them, as all have by default, and two exchange their tensors the other way.
    strategies = {
        number: tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(number)],
            cross_device_ops=ways and tf.distribute.ReductionToOneDevice(),
        )
        for number, ways in ((1, None), (2, "one device"), (DEVICES, None))
    }
    found = {f"{case} {n}": fit(strategies[n], case) for case, n in runs}
    for case, _ in runs:
        found[f"{case} plain"] = fit(tf.distribute.get_strategy(), case)
    if runs == RUNS:
        found |= take_other_steps(strategies[DEVICES])
    flat = {
        f"{run}/{name}": value
        for run, results in found.items()
        for name, value in results.items()
    }
    np.savez(path, **flat)


def take_other_steps(four):
    """Of one batch, of metrics, and of what is wrong."""
    import tensorflow as tf

    found = {}
    *values, gradient = on_replicas(
        four, functools.partial(losses_and_gradient, LOSSES.values()), *BATCH
    )
    found["batch"] = {"gradient": gradient, **dict(zip(LOSSES, values, strict=True))}
    for case in ("AP", "weighted"):
        found[f"{case} metrics"] = metrics_of(four, case)
        found[f"{case} metrics plain"] = metrics_of(tf.distribute.get_strategy(), case)
    loss, long, whole = APLoss(), UNIT.copy(), LABELS[:32]
    long[7] *= 2  # of the third part
    for name, x, labels in (
        ("unit", UNIT, whole),
        ("long", long, whole),
        ("halves", UNIT, whole / 2**30),
    ):
        in_graph = name != "unit"
        (values,) = on_replicas(
            four, lambda x, y: [loss(y, x)], x, labels, in_graph=in_graph
        )
        found[name] = {"values": values}
    return found


def in_fresh_process(code):
    tests = pathlib.Path(__file__).parent
    code = f"import sys; sys.path.append({str(tests)!r}); import test_replicas\n{code}"
    environment = {key: os.environ[key] for key in os.environ if key != "TF_CONFIG"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tests.parent,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results_of(RUNS, tmp_path_factory)


def results_of(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("replicas") / "found.npz"
    in_fresh_process(f"test_replicas.take_steps({str(path)!r}, {runs})")
    flat = dict(np.load(path))
    return {
        run: {key.split("/")[1]: flat[key] for key in flat if key.startswith(f"{run}/")}
        for run in {key.split("/")[0] for key in flat}
    }


def check_run(found, case, devices):
    expected = found[f"{case} plain"]
    for name, value in found[f"{case} {devices}"].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_devices_change_neither_loss_nor_weights(tmp_path_factory):
    check_run(results_of(QUICK, tmp_path_factory), *QUICK[0])


@pytest.mark.slow
@pytest.mark.parametrize(("case", "devices"), RUNS)
def test_devices_change_neither_loss_nor_weights(found, case, devices):
    check_run(found, case, devices)


def test_a_part_alone_would_have_another_loss():
    loss, whole = APLoss(), float(APLoss()(LABELS[:32], UNIT))
    halves = [float(loss(LABELS[i : i + 16], UNIT[i : i + 16])) for i in (0, 16)]
    assert abs(whole - np.mean(halves)) > 0.1
    with pytest.raises(ValueError, match="another image of its class"):
        loss(LABELS[:8], UNIT[:8])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["AP", "weighted"])
def test_devices_do_not_change_metrics(found, case):
    expected = found[f"{case} metrics plain"]
    assert 0 < expected["batch_ap"] < 1
    for name in ("batch_ap", "batch_recall_at_2"):
        assert found[f"{case} metrics"][name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.slow
def test_losses_and_gradients_go_through_the_gather(found):
    batch = [keras.ops.convert_to_tensor(array) for array in BATCH]
    *values, gradient = losses_and_gradient(LOSSES.values(), *batch)
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(found["batch"]["gradient"], gradient, atol=1e-5)
    for reduction, value in zip(LOSSES, values, strict=True):
        # The losses of all replicas add up to the whole, to which each gives as much.
        value = value if reduction == "None" else np.repeat(value / DEVICES, DEVICES)
        np.testing.assert_allclose(found["batch"][reduction], value, atol=1e-5)


@pytest.mark.slow
def test_run_eagerly_it_is_the_same(found):
    expected = float(APLoss()(LABELS[:32], UNIT)) / DEVICES
    np.testing.assert_allclose(found["unit"]["values"], DEVICES * [expected], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["long", "halves"])
def test_what_is_wrong_on_one_device_is_so_on_all(found, what):
    np.testing.assert_array_equal(found[what]["values"], DEVICES * [np.nan])


def refuse_workers():
    """Build and call the losses for several hosts."""
    import tensorflow as tf

    losses = APLoss(), TieAwareAPLoss()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        for kind in (APLoss, TieAwareAPLoss):
            with pytest.raises(ValueError, match=r"MirroredStrategy`.*DataParallel"):
                kind()
        for loss in losses:
            with pytest.raises(ValueError, match="keras#20585"):
                loss(LABELS[:32], UNIT)
    for loss in losses:
        with pytest.raises(ValueError, match="keras#20585"):
            strategy.run(lambda loss=loss: loss(LABELS[:32], UNIT))
        assert float(loss(LABELS[:32], UNIT)) > 0
    print("refused")


@pytest.mark.slow
def test_several_hosts_are_refused():
    assert in_fresh_process("test_replicas.refuse_workers()").endswith("refused\n")
