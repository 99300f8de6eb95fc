"""A trained model for servers: a SavedModel that takes image files, and what runs it.

`graph` is what it computes, `saved_model` writes a version, `warmup` the requests that
a server answers before it says that it is ready, and `serving` the files with which
TensorFlow Serving is started.
"""

from keras_aploss.export.graph import decode_batch
from keras_aploss.export.saved_model import export_saved_model
from keras_aploss.export.serving import write_serving_files
