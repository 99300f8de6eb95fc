"""A vector index: which of many images look like this one.

`vector_index` keeps the embeddings of images with their paths, labels and content
hashes, and ranks them as `evaluation` does; `milvus` holds its rows in a local file or
on servers, `memory` in NumPy; `folder` brings an index up to date with a folder, and
`shards` fills it with embeddings that workers have written.
"""

from keras_aploss.search.fingerprint import model_fingerprint
from keras_aploss.search.folder import IndexReport, index_folder
from keras_aploss.search.shards import index_shards
from keras_aploss.search.vector_index import IndexedImage, VectorIndex
