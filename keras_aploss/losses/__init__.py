"""Losses over a whole batch of embeddings; one idea per file.

Beside the losses, this face hands on how they read a batch, for `keras_aploss.metrics`:
`check_batch`, `check_sample_weight`, `gather_batch` and `one_at_a_time`; and for
callbacks `is_of_batch`, which tells these losses from means over images.
"""

from keras_aploss.losses.average_precision import (
    APLoss as APLoss,
    ap_loss as ap_loss,
    quantized_average_precision as quantized_average_precision,
)
from keras_aploss.losses.batch_losses import is_of_batch as is_of_batch
from keras_aploss.losses.blocks import one_at_a_time as one_at_a_time
from keras_aploss.losses.checks import (
    check_batch as check_batch,
    check_sample_weight as check_sample_weight,
)
from keras_aploss.losses.replicas import gather_batch as gather_batch
from keras_aploss.losses.tie_aware import (
    TieAwareAPLoss as TieAwareAPLoss,
    tie_aware_ap_loss as tie_aware_ap_loss,
)
from keras_aploss.losses.triplet import (
    TripletHardLoss as TripletHardLoss,
    TripletSemiHardLoss as TripletSemiHardLoss,
    triplet_hard_loss as triplet_hard_loss,
    triplet_semihard_loss as triplet_semihard_loss,
)

__all__ = [
    "APLoss",
    "TieAwareAPLoss",
    "TripletHardLoss",
    "TripletSemiHardLoss",
    "ap_loss",
    "check_batch",
    "check_sample_weight",
    "gather_batch",
    "is_of_batch",
    "one_at_a_time",
    "quantized_average_precision",
    "tie_aware_ap_loss",
    "triplet_hard_loss",
    "triplet_semihard_loss",
]
