"""A page in the browser: search an index by an image.

`web` is the application that a server runs, `guard` what it refuses, `image_search` the
answers, and `thumbnails` the only way to the files of the index. The folder `page`
holds what the browser gets: it fetches nothing from elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
