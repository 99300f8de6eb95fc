"""Stored embeddings: extracted over hours, larger than the memory, refined in order.

`extraction` embeds images at several scales into a `.npy` file and goes on where it was
broken off; `scales`, `whitening` and `expansion` are what the published evaluations do
to embeddings before they rank, each a function of arrays, and `postprocessing` is their
order; `storage` opens a file and says if it is not whole; `shards` are Parquet files
that many workers write.
"""

from keras_aploss.embeddings.expansion import augment_database, expand_queries
from keras_aploss.embeddings.extraction import embed_at_scales, extract_embeddings
from keras_aploss.embeddings.postprocessing import postprocess_embeddings
from keras_aploss.embeddings.scales import combine_scales, unit_length
from keras_aploss.embeddings.shards import EmbeddingShard, read_shards
from keras_aploss.embeddings.storage import load_embeddings
from keras_aploss.embeddings.whitening import whiten_embeddings, whitening_kernel
