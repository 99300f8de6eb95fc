"""Train image-retrieval models in Keras by optimizing Average Precision itself.

The names that users need most are here; the others are by their station, such as
`keras_aploss.report.similarity_histogram`. Both are imported when they are first used
(PEP 562), so `import keras_aploss` costs nothing. `__init__.pyi` lists the names.
"""

import sys

import lazy_loader

__version__ = "0.2.0"
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    value = _load(name)
    _register()
    return value


def _register():
    """Let `keras.saving.load_model` find our layers, losses and metrics.

    Keras knows a class from the moment its module is imported, and would otherwise
    refuse a saved model of ours.
    """
    if "keras" in sys.modules:
        from keras_aploss import layers, losses, metrics, training


_register()
