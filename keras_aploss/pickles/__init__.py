"""Pickles as data: read without importing or running anything that they name.

The problem: published files are pickles, and a pickle is a program that `pickle.load`
obeys. `interpreter` carries out the instructions that build data and refuses the
others; `stand_ins` is what stands for the types that are data, NumPy's above all. The
ground truths of `datasets` and the weights of `checkpoints` are read by it.
"""

from keras_aploss.pickles.interpreter import interpret as interpret
from keras_aploss.pickles.stand_ins import (
    Global as Global,
    NotDataError as NotDataError,
    PickledObject as PickledObject,
    check_sizes as check_sizes,
)
