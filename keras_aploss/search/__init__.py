"""A vector index: which of many images look like this one.

`vector_index` keeps the embeddings of images with their paths, labels and content
hashes, and ranks them as `evaluation` does; `milvus` holds its rows in a local file or
on servers, `memory` in NumPy; `folder` brings an index up to date with a folder, and
`shards` fills it with embeddings that workers have written. `agreement` compares an
index with a model server that embeds its queries.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
