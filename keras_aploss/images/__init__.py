"""From files to pixels: the one preprocessing of training, evaluation and serving."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
