"""Stored embeddings: extracted over hours, larger than the memory, refined in order.

`extraction` embeds images at several scales into a `.npy` file and goes on where it was
broken off; `scales`, `whitening` and `expansion` are what the published evaluations do
to embeddings before they rank, each a function of arrays, and `postprocessing` is their
order; `storage` opens a file and says if it is not whole; `shards` are Parquet files
that many workers write.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
