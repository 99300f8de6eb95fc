"""The index that a command names, opened together with the model that made it."""

import logging
import pathlib


def quiet_engines() -> None:
    """Silence the logs of index engines: our errors report the same failures."""
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        import pymilvus  # noqa: F401
    except ImportError:
        return
    # It sets a level of its own when it is imported.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


def open_index(location, name, token, model, image_size, index_type=None):
    """Open an index and the model that embeds for it.

    Args:
        location: a path that ends in `.db`, or the address of a server.
        name: of the collection.
        token: `user:password` or an API key, or None.
        model: path of the model; None: the one that the index was made with.
        image_size: side of the square images; None: as in training.
        index_type: of a new index; None: the index must exist.

    Returns:
        The encoder, the image size, and the `VectorIndex`.

    Raises:
        ValueError: if there is no such index or model, or the index is of another
            model.
    """
    from keras_aploss.embeddings import model_fingerprint
    from keras_aploss.runs import open_model
    from keras_aploss.search import VectorIndex

    places = {"name": name, "token": token}
    if model is not None:
        trained = open_model(model, image_size)
        size = trained.settings.image_size
        new = {}
        if index_type is not None:
            units = trained.encoder.outputs[0].shape[-1]
            new = {"units": units, "index_type": index_type}
            new["notes"] = {"model": str(model.absolute()), "image_size": size}
        fingerprint = model_fingerprint(trained.encoder, size)
        opened = VectorIndex(location, fingerprint=fingerprint, **new, **places)
        return trained.encoder, size, opened
    opened = VectorIndex(location, **places)
    try:
        path = pathlib.Path(opened.notes.get("model", ""))
        if not opened.notes or not path.exists():
            raise ValueError(
                f"Expected the model of the index where it was: {str(path)!r}. "
                "Received: nothing there. Give `--model`."
            )
        trained = open_model(path, image_size or opened.notes.get("image_size"))
        size = trained.settings.image_size
        opened.require_model(model_fingerprint(trained.encoder, size))
    except BaseException:
        opened.close()
        raise
    return trained.encoder, size, opened
