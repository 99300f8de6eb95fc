"""Serving: export of a model to TensorFlow Serving, and a client of its server.

`export_saved_model` (`saved_model`, `graph`) writes a version of a model that takes
image files, `warmup` its warm-up requests, `server_files` the configuration of the
server. `EmbeddingClient` (`client`, with `grpc_api`, `rest_api` and the errors of
`answers`) asks it for embeddings. `wire` holds what both ends must agree on.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
