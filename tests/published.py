"""The numbers of the published code: `golden/ap_loss.npz`."""

import pathlib

import numpy as np
import pytest
from gradients import ONLY_SLOW_ON_JAX

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ap_loss.npz")
# The defaults of paper and code, and others.
CASES = [str(case) for case in GOLDEN["cases"][:2]]
CASES += [
    pytest.param(str(case), marks=ONLY_SLOW_ON_JAX) for case in GOLDEN["cases"][2:]
]


def golden(case, key):
    """An array of a case; `golden/README.md` has the keys."""
    return GOLDEN[f"{case}/{key}"]


def golden_bins(case):
    """The settings of a case, as the losses take them."""
    return {
        "num_bins": int(golden(case, "num_bins")),
        "similarity_range": tuple(golden(case, "range")),
    }
