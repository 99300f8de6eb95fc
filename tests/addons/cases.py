"""What is compared: batches and calls. Both environments read this, so NumPy alone."""

import numpy as np

NAMED_METRICS = ("L2", "squared-L2", "angular")
METRICS = (*NAMED_METRICS, "manhattan")  # the last is a function of the caller
# Rounding of their distances would decide whether a negative is as far as a positive.
INEXACT = ("angular",)


def calls():
    """Yield names of a loss, common to both packages, with arguments by position."""
    names = ("TripletSemiHardLoss", "TripletHardLoss")
    names += ("triplet_semihard_loss", "triplet_hard_loss")
    for name in names:
        yield name, ()
    for metric in METRICS:
        for margin in (0.0, 0.3):
            yield "TripletSemiHardLoss", (margin, metric)
            yield "TripletHardLoss", (margin, False, metric)
        yield "TripletHardLoss", (0.3, True, metric)
    yield "triplet_semihard_loss", (0.3, "squared-L2")
    yield "triplet_hard_loss", (0.3, True, "angular")


def cases():
    """Yield the name of a batch and a call, for all that are compared."""
    for batch in batches():
        for name, arguments in calls():
            if batch != "copies_across" or not set(INEXACT) & set(arguments):
                yield batch, name, arguments


def case_id(case):
    """`pairs/TripletHardLoss(0.3, False, 'L2')`"""
    batch, name, arguments = case
    return f"{batch}/{name}({', '.join(map(repr, arguments))})"


def loss_of(package, name, arguments, functions):
    """A function of labels and embeddings; `functions` replace the names of metrics."""
    arguments = [functions.get(argument, argument) for argument in arguments]
    loss = getattr(package, name)
    if name[0].isupper():
        return loss(*arguments)
    return lambda labels, embeddings: loss(labels, embeddings, *arguments)


def batches():
    """Labels and embeddings by the name of the batch."""
    rng = np.random.default_rng(12)
    some_alone = np.append(rng.integers(0, 9, 24), [20, 21, 22])
    # Their distances are exact in float32: equal ones stay equal.
    points = rng.integers(-256, 257, (9, 6)) / 256
    copies = points[[0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 7, 8]].astype("float32")
    return {
        "fours": (np.repeat(np.arange(8), 4), unit(rng, 32, 16)),
        "pairs": (rng.permutation(np.arange(64) // 2), unit(rng, 64, 128)),
        "some_alone": (some_alone, unit(rng, 27, 12)),
        "one_pair": (np.append(np.arange(10), 4), unit(rng, 11, 5)),
        "three": (np.array([5, 5, 9]), unit(rng, 3, 4)),
        # Column labels, beyond what float32 tells apart, and embeddings of any length.
        "columns": (
            2**40 + rng.integers(0, 5, (20, 1)),
            rng.normal(0, 1.5, (20, 8)).astype("float32"),
        ),
        "copies": (np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3]), copies),
        "copies_across": (np.array([0, 0, 1, 0, 1, 2, 1, 1, 2, 2, 2, 3, 0, 3]), copies),
        "half": (rng.integers(0, 5, 20), unit(rng, 20, 8).astype("float16")),
    }


def unit(rng, *shape):
    """Random vectors of unit length."""
    vectors = rng.normal(size=shape)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype("float32")


def start_of_training():
    """Weights, inputs and labels of a model that both train."""
    rng = np.random.default_rng(3)
    kernel, inputs = rng.normal(size=(6, 4)), rng.normal(size=(60, 6))
    return kernel.astype("float32"), inputs.astype("float32"), np.arange(60) % 5
