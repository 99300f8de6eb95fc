"""Published weights as Keras models.

The problem: the weights that others have published are PyTorch files, and opening one
runs whatever its pickle says, needs PyTorch, and the exact versions of the packages
that its objects came from. Here such a file is read as data, without any of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
