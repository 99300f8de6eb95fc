"""Which losses compare the images of a batch: what they say depends on the batch.

The mean of another loss over a validation set is the same in whatever batches it is
computed. These rank each batch by itself, so their mean says as much of the batches.
"""

from typing import Any

from keras_aploss.losses.listwise import ListwiseLoss
from keras_aploss.losses.triplet import TripletLoss


def is_of_batch(loss: Any) -> bool:
    """Whether a loss is one of this room's, which compare the images of a batch.

    >>> from keras_aploss import APLoss
    >>> is_of_batch(APLoss()), is_of_batch("mse")
    (True, False)
    """
    return isinstance(loss, ListwiseLoss | TripletLoss)
