"""Train image-retrieval models in Keras by optimizing Average Precision itself."""

__version__ = "0.1.0"
