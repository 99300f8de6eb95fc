"""Losses over a whole batch of embeddings; one idea per file."""

from keras_aploss.losses.average_precision import (
    APLoss as APLoss,
    ap_loss as ap_loss,
    quantized_average_precision as quantized_average_precision,
)
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
