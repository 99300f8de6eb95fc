r"""Triplet losses, the baselines: a query, a positive and a negative at a time.

Each image of the batch is a query (the *anchor* of the papers). With ``d_qn`` its
distance to an image ``n`` of another class and ``d_qp`` that to one of its own, a
triplet is violated as far as ``margin + d_qp - d_qn`` is above 0. The losses differ in
the triplets that they choose:

* **semi-hard** (Schroff et al. 2015): every positive of every query, each with the
  nearest negative that is farther than it, or, if none is, with the farthest:

      loss = 1/P Σ_q Σ_p max(margin + d_qp - d_qn(p), 0)       P pairs (q, p) in all

* **hard** (Hermans et al. 2017): every query with its farthest positive and its nearest
  negative. An image alone in its class is its own positive, at distance 0:

      loss = 1/Q Σ_q max(margin + max_p d_qp - min_n d_qn, 0)        Q queries in all
      soft = 1/Q Σ_q ln(1 + exp(max_p d_qp - min_n d_qn))

Names, defaults and numbers are those of tensorflow-addons 0.23. What is different is
the layout, one value per query whose mean is the number of tensorflow-addons, and what
has no triplet. A query without negatives (all images are of one class) has no triplet,
hence no loss: tensorflow-addons takes itself, or the farthest image, for its negative.

Dimension key: ``b`` queries out of a batch of ``B``, ``D`` units, ``K`` images of a
class. On one device ``b = B``.

References: Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, arXiv:1503.03832;
Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
2017, arXiv:1703.07737.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_aploss.losses import checks, replicas
from keras_aploss.losses.classes import class_ids
from keras_aploss.losses.distances import (
    check_distance_metric,
    deserialize_distance_metric,
    serialize_distance_metric,
)
from keras_aploss.losses.mining import compare, compare_in_replica, hard, semi_hard


def triplet_semihard_loss(
    y_true: Any,
    y_pred: Any,
    margin: float = 1.0,
    distance_metric: str | Callable[[Any], Any] = "L2",
) -> Any:
    """The semi-hard triplet loss of each image of a batch as a query.

    Args:
        y_true: integer tensor `(B,)` or `(B, 1)` of class labels. An image with a
            negative label is a distractor: a negative to all, and never a query.
        y_pred: float tensor `(B, D)` of embeddings, which are not normalized here.
            16-bit floats are computed in float32, float64 in float64.
        margin: how much farther than a positive a negative has to be.
        distance_metric: `"L2"`, `"squared-L2"`, `"angular"` (one minus the cosine), or
            a function from embeddings `(B, D)` to their distances `(B, B)`.

    Returns:
        Tensor `(B,)`, float32 (float64 for float64 input). Its mean is the loss: query
        `q` has `B / P Σ_p max(margin + d_qp - d_qn(p), 0)`, and 0 without triplets. In
        a graph all are NaN if an embedding is not finite. There is no second
        derivative.

    Raises:
        ValueError: if shapes or settings do not fit, labels are not integers, the batch
            has fewer than two images; and in eager mode if an embedding is not finite
            or no query has both a positive and a negative.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.losses import triplet_semihard_loss
    >>> on_a_line = np.array([[0.0], [1.0], [1.5], [3.0]])
    >>> values = triplet_semihard_loss([7, 7, 8, 8], on_a_line, margin=1.0)
    >>> [round(float(value), 4) for value in values]  # 1 + d_qp - d_qn each
    [0.5, 0.0, 1.0, 0.5]
    """
    loss = functools.partial(semi_hard, margin=check_margin(margin))
    return _of_labels(loss, y_true, y_pred, distance_metric)


def triplet_hard_loss(
    y_true: Any,
    y_pred: Any,
    margin: float = 1.0,
    soft: bool = False,
    distance_metric: str | Callable[[Any], Any] = "L2",
) -> Any:
    """The hard triplet loss of each image of a batch as a query.

    Args:
        y_true: as for `triplet_semihard_loss`, like all that have its names.
        y_pred: see there.
        margin: see there. Not used if `soft`.
        soft: take `ln(1 + exp(d_qp - d_qn))`, which has no margin.
        distance_metric: see there.

    Returns:
        Tensor `(B,)` whose mean is the loss. Distractors have 0, and the rest is scaled
        by `B / Q` for `Q` queries.

    Raises:
        ValueError: as there; but images alone in their class are queries, so that in
            eager mode only a batch without any negative is refused.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.losses import triplet_hard_loss
    >>> on_a_line = np.array([[0.0], [1.0], [1.5], [3.0]])
    >>> values = triplet_hard_loss([7, 7, 8, 8], on_a_line, margin=1.0)
    >>> [round(float(value), 4) for value in values]
    [0.5, 1.5, 2.0, 0.5]
    """
    loss = functools.partial(hard, margin=check_margin(margin), soft=soft)
    return _of_labels(loss, y_true, y_pred, distance_metric)


def check_margin(margin):
    """Return the margin as a float; raise unless it is finite and at least 0."""
    if not isinstance(margin, numbers.Real) or not 0 <= margin < math.inf:
        raise ValueError(
            f"Expected a finite margin of at least 0. Received: margin={margin!r}."
        )
    return float(margin)


def _of_labels(loss, y_true, y_pred, distance_metric):
    labels, are_whole = checks.check_labels(y_true)
    checks.check_list_length(labels, least=2)
    ids, embeddings = class_ids(labels), checks.as_floats(y_pred)
    values = loss(compare(embeddings, ids, embeddings, ids, distance_metric))
    return ops.where(are_whole, values, float("nan"))


def _queries_of(y_true, sample_weight, reduction, dtype):
    """Number the classes and weigh the images, before Keras casts and averages.

    Under a strategy of several devices, what is given and returned are the parts of
    this device, `b` of `B` images; classes are numbered for the whole batch.

    Returns:
        `class_ids` `(b,)`, and weights `(b,)` that make the mean over the images of a
        device, divided by the devices, one over the batch. The weights are NaN if in a
        graph labels turn out not to be whole numbers.
    """
    replicas.refuse_several_hosts()
    batch_labels, are_whole = checks.check_labels(replicas.gather(y_true))
    batch_ids = class_ids(batch_labels)
    size = ops.shape(batch_ids)[0]
    (ids,) = replicas.own_rows(y_true, batch_ids)  # (b,)
    weight = ops.ones_like(ids, dtype=dtype)
    if reduction in ("sum_over_batch_size", "mean"):
        divisor = ops.cast(ops.shape(ids)[0] * replicas.count(), dtype)
        weight = weight * divisor / ops.cast(size, dtype)
    if sample_weight is not None:
        weight = weight * checks.check_sample_weight(sample_weight, ids, dtype)
    return ids, ops.where(are_whole, weight, float("nan"))


class TripletLoss(keras.losses.Loss):
    """A triplet loss of every image of a batch; subclasses choose the triplets.

    Private to this room, as `ListwiseLoss`. Arguments as for `TripletSemiHardLoss`.
    """

    def __init__(self, margin, distance_metric, *, name, reduction, dtype):
        replicas.refuse_several_hosts()
        dtype = checks.check_dtype(dtype)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = check_margin(margin)
        self.distance_metric = check_distance_metric(distance_metric)

    def of_comparison(self, comparison):
        """Return the loss of each query `(b,)` of a `mining.Comparison`."""
        raise NotImplementedError

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Return the reduced loss; see the class for the arguments."""
        ids, weight = _queries_of(y_true, sample_weight, self.reduction, self.dtype)
        loss = super().__call__(ids, y_pred, weight)
        return replicas.agree(loss, weight, self.reduction)

    def call(self, y_true, y_pred):
        """Return the loss of each query `(b,)`; `y_true` holds `class_ids`."""
        comparison = compare_in_replica(
            ops.convert_to_tensor(y_pred, dtype=self.dtype),
            ops.cast(ops.reshape(y_true, (-1,)), "int32"),
            self.distance_metric,
        )
        return self.of_comparison(comparison)

    def get_config(self):
        return {
            **super().get_config(),
            "margin": self.margin,
            "distance_metric": serialize_distance_metric(self.distance_metric),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config):
        metric = deserialize_distance_metric(config["distance_metric"])
        return cls(**{**config, "distance_metric": metric})


@keras.saving.register_keras_serializable(package="keras_aploss")
class TripletSemiHardLoss(TripletLoss):
    """The semi-hard triplet loss of every image of a batch (Schroff et al. 2015).

    Every positive of a query meets the nearest negative that is farther than it, or the
    farthest one if none is; see `triplet_semihard_loss`. Arguments, defaults and value
    are those of `tfa.losses.TripletSemiHardLoss`.

    `y_true` holds integer class labels `(B,)` or `(B, 1)`, of any size; a negative
    label marks a distractor, which is a negative to all and never a query. `y_pred`
    holds embeddings `(B, D)`, which are **not** normalized: end the model with
    `keras.layers.UnitNormalization()`, or "L2" grows with them.

    There is one value per query, so that `sample_weight` `(B,)` weighs queries (not
    their positives and negatives) and the mean is the sum over all pairs of a query and
    a positive, divided by their number. Queries without triplets have the value 0.

    **On several devices** the batch is that of all of them, as for `APLoss`; with
    tensorflow-addons each device had triplets of its own images only.

    **What is checked**: as for `APLoss`. In a graph, and on PyTorch, embeddings that
    are not finite make the loss NaN, and a batch without triplets has the loss 0.

    Args:
        margin: how much farther than a positive a negative has to be.
        distance_metric: `"L2"`, `"squared-L2"`, `"angular"` (one minus the cosine), or
            a function from embeddings `(B, D)` to their distances `(B, B)`. Register it
            by `keras.saving.register_keras_serializable` if the model is to be saved.
        name: name of the loss.
        reduction: as for every Keras loss; `None` gives the values `(B,)`.
        dtype: `"float32"` (default) or `"float64"`.

    Raises:
        ValueError: at construction, if a setting does not fit; at the call, as
            `triplet_semihard_loss`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import TripletSemiHardLoss
    >>> labels = np.array([7, 7, 8, 8])
    >>> apart = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])  # classes √2 apart
    >>> float(TripletSemiHardLoss(margin=1.0)(labels, apart))
    0.0
    >>> mixed = apart[[0, 2, 1, 3]]  # positives at √2, and no negative is farther
    >>> round(float(TripletSemiHardLoss(margin=1.0)(labels, mixed)), 4)
    1.0
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: str | Callable[[Any], Any] = "L2",
        name: str | None = "triplet_semi_hard_loss",
        *,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ):
        super().__init__(
            margin, distance_metric, name=name, reduction=reduction, dtype=dtype
        )

    def of_comparison(self, comparison):
        """Return the semi-hard loss of each query `(b,)`."""
        return semi_hard(comparison, margin=self.margin)


@keras.saving.register_keras_serializable(package="keras_aploss")
class TripletHardLoss(TripletLoss):
    """The hard triplet loss of every image of a batch (Hermans et al. 2017).

    Each query meets its farthest positive and its nearest negative. An image alone in
    its class is a query, too: its negatives have to keep the margin from itself. Used
    as `TripletSemiHardLoss`; arguments, defaults and value are those of
    `tfa.losses.TripletHardLoss`.

    Args:
        margin: how much farther than a positive a negative has to be.
        soft: take `ln(1 + exp(d_qp - d_qn))` instead, which has no margin.
        distance_metric: as for `TripletSemiHardLoss`, like all that follow.
        name: name of the loss.
        reduction: see there.
        dtype: `"float32"` (default) or `"float64"`.

    Raises:
        ValueError: as there.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import TripletHardLoss
    >>> labels = np.array([7, 7, 8, 8])
    >>> apart = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])  # classes √2 apart
    >>> float(TripletHardLoss(margin=1.0)(labels, apart))
    0.0
    >>> round(float(TripletHardLoss(soft=True)(labels, apart)), 4)  # ln(1 + exp(-√2))
    0.2176
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: str | Callable[[Any], Any] = "L2",
        name: str | None = "triplet_hard_loss",
        *,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ):
        super().__init__(
            margin, distance_metric, name=name, reduction=reduction, dtype=dtype
        )
        self.soft = bool(soft)

    def of_comparison(self, comparison):
        """Return the hard loss of each query `(b,)`."""
        return hard(comparison, margin=self.margin, soft=self.soft)

    def get_config(self):
        return {**super().get_config(), "soft": self.soft}
