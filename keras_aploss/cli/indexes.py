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
        ValueError: if there is no such index or model, the index is of another model,
            or it names one that has to be given by hand, see `_noted_model`.
    """
    from keras_aploss.embeddings import model_fingerprint
    from keras_aploss.runs import SHIPPED, is_shipped, open_model
    from keras_aploss.search import VectorIndex

    places = {"name": name, "token": token}
    if model is not None:
        trained = open_model(model, image_size)
        size = trained.settings.image_size
        new = {}
        if index_type is not None:
            units = trained.encoder.outputs[0].shape[-1]
            new = {"units": units, "index_type": index_type}
            noted = SHIPPED if is_shipped(model) else str(model.absolute())
            new["notes"] = {"model": noted, "image_size": size}
        fingerprint = model_fingerprint(trained.encoder, size)
        opened = VectorIndex(location, fingerprint=fingerprint, **new, **places)
        return trained.encoder, size, opened
    opened = VectorIndex(location, **places)
    try:
        path, noted_size = _noted_model(opened)
        trained = open_model(path, image_size or noted_size)
        size = trained.settings.image_size
        opened.require_model(model_fingerprint(trained.encoder, size))
    except BaseException:
        opened.close()
        raise
    return trained.encoder, size, opened


def model_of_new_index(location, name, token):
    """The model that comes with the package; None for an index that is there already.

    Raises:
        ValueError, OSError: see `shipped_model`; or the location can be no index.
    """
    from keras_aploss.runs import shipped_model
    from keras_aploss.search import index_exists

    return None if index_exists(location, name, token) else shipped_model()


def describe_model(model, opened):
    """Name the model that a command has opened for an index, for its output.

    Args:
        model: its path; None: the one that the index notes.
        opened: the index.
    """
    from keras_aploss.runs import ABOUT, SHIPPED, is_shipped

    noted = opened.notes["model"] if model is None else str(model)
    if noted == SHIPPED or is_shipped(noted):
        return f"{SHIPPED.partition(':')[2]} of keras_aploss ({ABOUT})"
    return noted


def _noted_model(opened):
    """The model that an index names, and the image size, if they may be taken.

    An index may come from others, and what it names is opened without a question. A
    `.keras` file is loaded in the safe mode of Keras, and a checkpoint is read as data.
    A SavedModel is a program, which may write files; and what lies in the folder of the
    index came with it. Both are opened only by the word of the user. The model that
    comes with the package is noted by its name, and looked for where we know it.
    """
    from keras_aploss.runs import SHIPPED, shipped_model

    notes = opened.notes if isinstance(opened.notes, dict) else {}
    noted, size = notes.get("model"), notes.get("image_size")
    if not isinstance(noted, str) or not (size is None or type(size) is int):
        noted, size = "", None
    if noted == SHIPPED:
        return shipped_model(), size
    path = pathlib.Path(noted)
    if not noted or not path.exists():
        raise ValueError(
            f"Expected the model of the index where it was: {noted!r}. "
            "Received: nothing there. Give `--model`."
        )
    reason = None
    if (path / "saved_model.pb").exists():
        reason = "a SavedModel, which is a program and may do more than embed"
    elif _is_in(path, pathlib.Path(opened.location)):
        reason = "in the folder of the index, and so from whoever made it"
    if reason:
        raise ValueError(
            f"Expected `--model` for the index {str(opened.location)!r}. Received: "
            f"none, and the model that it names, {noted!r}, is {reason}. Give it if "
            "you trust it."
        )
    return path, size


def _is_in(path, folder):
    """Whether a model, or what it links to, lies in a folder."""
    files = [path, path / "model.keras", path / "last.keras"]
    places = {folder.absolute(), folder.resolve()}
    return any(
        form.is_relative_to(place)
        for file in files
        for form in (file.absolute(), file.resolve())
        for place in places
    )
