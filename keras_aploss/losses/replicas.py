r"""The batch of all devices under `tf.distribute`, as losses and metrics rank it.

`tf.distribute.MirroredStrategy` runs the same step once per device, each time with a
part of the batch: a *replica*. Most losses are means over images, and need not know of
it. A loss that ranks images does: a replica that ranked its own images alone would
learn from shorter lists, and from other ones with every number of devices.

So the replicas gather what they have to rank, and each ranks the whole for the queries
of its own part: ``b B`` similarities each. What replica ``k`` makes of the images of
replica ``l`` has a gradient, too: backwards, the slices of all are added up.

    replica    images    ranks as queries    against
       0       0 … 7          0 … 7           0 … 29
       1       8 … 15         8 … 15          0 … 29
       2      16 … 23        16 … 23          0 … 29
       3      24 … 29        24 … 29          0 … 29

The parts need not be equal, and one of them may be empty (the rest of an epoch).

Outside of a replica nothing is gathered: with one device, with the made-up values on
which Keras builds a model, and on the other backends of Keras. On JAX a step is one
program that sees the whole batch, however many devices hold it.

Dimension key: ``n`` replicas, ``b`` images of this one, ``B`` images of all.
"""

import keras
from keras import ops


def refuse_several_hosts():
    """Raise under a strategy for which Keras 3 cannot split a batch.

    Raises:
        ValueError: under `tf.distribute.MultiWorkerMirroredStrategy`, with one worker
            as with many.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected a strategy of one host: Keras 3 does not support several workers "
            "on TensorFlow (keras-team/keras#20585). Received: "
            "tf.distribute.MultiWorkerMirroredStrategy. For the devices of one host "
            "use `tf.distribute.MirroredStrategy`; for several hosts use the JAX "
            "backend with `keras.distribution.DataParallel`."
        )


def count():
    """The number `n` of replicas that share the batch, where this code runs."""
    replica = _here()
    return replica.num_replicas_in_sync if replica else 1


def gather(x):
    """The rows of all replicas `(B, …)`, one part after the other; differentiable.

    Args:
        x: tensor `(b, …)`, the rows of this replica.
    """
    replica = _here()
    if replica is None:
        return x
    x = ops.convert_to_tensor(x)
    if x.dtype == "uint64":  # beyond 2⁵³ they are found out by `check_labels`
        x = ops.cast(x, "float64")
    elif x.dtype.is_integer or x.dtype.is_bool:  # GPUs do not exchange all their types
        x = ops.cast(x, "int64")
    return replica.all_gather(x, axis=0)


def gather_batch(embeddings, labels):
    """Gather the batch of all replicas.

    Args:
        embeddings: float tensor `(b, D)`, those of this replica.
        labels: integer tensor `(b,)`.

    Returns:
        Embeddings `(B, D)`, labels `(B,)` of the same type, and the place of the first
        image of this replica among them.
    """
    batch_labels = ops.cast(gather(labels), labels.dtype)
    return gather(embeddings), batch_labels, first_row(labels)


def first_row(x):
    """The place of the first row of `x` among those of `gather(x)`."""
    replica = _here()
    if replica is None:
        return 0
    sizes = replica.all_gather(ops.reshape(ops.shape(x)[0], (1,)), axis=0)  # (n,)
    return ops.sum(sizes[: replica.replica_id_in_sync_group])


def own_rows(x, *gathered):
    """Of each of `gathered` `(B,)`, the part where `gather(x)` put the rows of `x`."""
    if _here() is None:
        return gathered
    place = (first_row(x),), (ops.shape(x)[0],)
    return tuple(ops.slice(every, *place) for every in gathered)


def agree(loss, weight, reduction):
    """Let each replica report the loss of the whole batch, and learn its own part.

    Keras adds up the gradients of the replicas, but averages their losses by numbers of
    images. Both are right if the replicas report the same, whatever their parts are;
    and if a part is NaN, all of them are.

    Args:
        loss: what Keras made of this replica's values, divided by `n` if a mean.
        weight: the weights `(b,)` that it used.
        reduction: the loss's. If it is None, there is nothing to agree on.
    """
    replica = _here()
    if replica is None or reduction in (None, "none"):
        return loss
    loss = ops.sum(loss)  # Keras leaves (0,) as it is, where a replica has no images
    if reduction == "mean_with_sample_weight":
        # Keras divided by the weights of this replica, and they are not those of all.
        own = ops.sum(weight)
        loss = loss * ops.divide_no_nan(own * count(), _total(replica, own))
    total = _total(replica, ops.stop_gradient(loss))
    return loss + ops.stop_gradient(total / count() - loss)


def _total(replica, x):
    import tensorflow as tf

    return replica.all_reduce(tf.distribute.ReduceOp.SUM, x)


def _here():
    """The context of the replica in which this code runs, or None if it is alone."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()  # None across replicas
    return replica if replica and replica.num_replicas_in_sync > 1 else None
