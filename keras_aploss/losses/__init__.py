"""Losses over a whole batch of embeddings; one idea per file."""

from keras_aploss.losses.average_precision import APLoss as APLoss
from keras_aploss.losses.average_precision import ap_loss as ap_loss
from keras_aploss.losses.average_precision import (
    quantized_average_precision as quantized_average_precision,
)
from keras_aploss.losses.tie_aware import TieAwareAPLoss as TieAwareAPLoss
from keras_aploss.losses.tie_aware import tie_aware_ap_loss as tie_aware_ap_loss
from keras_aploss.losses.triplet import TripletHardLoss as TripletHardLoss
from keras_aploss.losses.triplet import TripletSemiHardLoss as TripletSemiHardLoss
from keras_aploss.losses.triplet import triplet_hard_loss as triplet_hard_loss
from keras_aploss.losses.triplet import triplet_semihard_loss as triplet_semihard_loss
