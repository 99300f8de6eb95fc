"""Embeddings from a model server, by its two official interfaces.

`embedding_client` cuts files into requests, sends several at a time, tries again what
can succeed later, and finds the file that spoils a batch. `grpc_api` and `rest_api`
speak with the server; `answers` says what can go wrong, and checks what comes back.
"""

from keras_aploss.client.embedding_client import EmbeddingClient
