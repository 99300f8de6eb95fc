"""Stored embeddings: extracted over hours, larger than the memory, refined in order.

`embedding` embeds images into memory. `extraction` embeds them, also at several scales,
through `resumable`, the one writer that resumes an interrupted extraction, into an
`npy_file` or into the Parquet files of a `shard_folder`; `fingerprint` tells models and
images apart. `scales`, `whitening` and `expansion` are the steps of the published
evaluations before the ranking, each a function of arrays, and `postprocessing` is their
order; `storage` opens a file of embeddings, and refuses one that is not whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
