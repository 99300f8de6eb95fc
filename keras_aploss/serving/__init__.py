"""A trained model for servers: a SavedModel that takes image files, and what runs it.

`graph` is what it computes, `saved_model` writes a version, `warmup` the requests that
a server answers before it says that it is ready, and `serving` the files with which
TensorFlow Serving is started.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
