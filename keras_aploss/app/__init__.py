"""A page in the browser that searches an index by image.

`web` is the web application, `server` runs it, and `guard` refuses requests of other
sites and large uploads. `image_search` computes the answers; `thumbnails` alone reads
the files of the index. The folder `page` holds the files that the browser loads; they
load nothing from other sites.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
