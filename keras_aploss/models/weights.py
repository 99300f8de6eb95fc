"""Files of weights of Keras, and what does not fit in them.

The message of Keras about a file of another network holds a traceback, or the values
of a whole kernel. Here it is the first names and shapes that do not fit.
"""

import io
import logging
import os
import tempfile
import warnings
import zipfile

import keras

logger = logging.getLogger(__name__)

FORMATS = (".weights.h5", ".h5", ".keras")
_NAMED = 3  # layers that do not fit
_KEY = "weight_names"  # of a layer, in files of Keras 2


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Load a file of weights of Keras.

    Args:
        model: the model of the weights, without its top.
        path: what `save_weights` or `save` of it wrote (`.weights.h5`, `.keras`, or
            `.h5` of Keras 2, as those that Keras downloads).

    Raises:
        ValueError: there is no such file, it is no file of weights, or it is one of
            another network, which the names and shapes of some weights tell.

    Example:
    >>> from keras_aploss.models import small_resnet
    >>> from keras_aploss.models.weights import load_weights
    >>> load_weights(small_resnet(), "nowhere.weights.h5")
    Traceback (most recent call last):
    ...
    ValueError: Expected a file of weights. Received: 'nowhere.weights.h5', which is not
    a file. Check its spelling.
    """
    path = os.fspath(path)
    check_file(path)
    if not path.endswith(FORMATS):
        raise ValueError(
            f"Expected a file of weights of Keras, one of {', '.join(FORMATS)}. "
            f"Received: {path!r}."
        )
    try:
        with warnings.catch_warnings():
            # Containers of Keras's own, which older versions did not write.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
        _warn_of_more(model, path)
    # A damaged file raises almost anything: OSError, KeyError, BadZipFile...
    except Exception as error:
        misfits = _find_misfits(model, path)
        if not misfits:
            raise ValueError(
                f"Expected a whole file of weights of {model.name}. Received: "
                f"{path!r}, which cannot be read: {' '.join(str(error).split())[:300]}."
            ) from error
        more = len(misfits) - _NAMED
        raise ValueError(
            f"Expected the weights of {model.name} without its top. Received: {path!r},"
            f" of another network: {'; '.join(misfits[:_NAMED])}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Give the file of this architecture, `backbone.save_weights(path)`."
        ) from None


def _warn_of_more(model, path):
    """Keras leaves out what a file holds beyond the model: a top, or other stages."""
    layers = _layers_of_file(path).values()
    if sum(len(shapes) for _, shapes in layers) > len(model.weights):
        more = _find_misfits(model, path)
        if more:
            logger.warning(
                "Of %s only the weights of %s are taken: %s%s.",
                path,
                model.name,
                "; ".join(more[:_NAMED]),
                "; ..." * (len(more) > _NAMED),
            )


def check_file(path: str) -> None:
    """Refuse a path of no file, before a network is built for it."""
    if not os.path.isfile(path):
        raise ValueError(
            f"Expected a file of weights. Received: {path!r}, which is not a file. "
            "Check its spelling."
        )


def _find_misfits(model, path):
    """Sentences on the layers whose weights the file has not, or has otherwise."""
    try:
        found = _layers_of_file(path)
        if all(isinstance(place, int) for place in found):
            own = [layer for layer in model.layers if layer.weights]
            wanted = {
                place: (layer.name, [tuple(w.shape) for w in layer.weights])
                for place, layer in enumerate(own)
            }
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = os.path.join(folder, "own.weights.h5")
                model.save_weights(file)
                wanted = _layers_of_file(file)
    except Exception:  # no file of HDF5, of which the caller tells
        return []
    order = {layer.name: place for place, layer in enumerate(model.layers)}
    wanted = dict(
        sorted(wanted.items(), key=lambda item: order.get(item[1][0], len(order)))
    )
    misfits = []
    for place, (name, shapes) in wanted.items():
        other, found_shapes = found.get(place, (None, None))
        if found_shapes is None:
            misfits.append(f"it has no weights for {name!r} of {_text(shapes)}")
        elif found_shapes != shapes:
            misfits.append(
                f"{name!r} is of {_text(shapes)}, and {other!r} of the file of "
                f"{_text(found_shapes)}"
            )
    return misfits + [
        f"the network has no layer for {name!r} of {_text(shapes)}"
        for place, (name, shapes) in found.items()
        if place not in wanted
    ]


def _text(shapes):
    return " and ".join("x".join(map(str, shape)) or "1 number" for shape in shapes)


def _layers_of_file(path):
    """Names and shapes of weights by their place in a file, as Keras looks for them.

    The place is a path in the file, or, in one of Keras 2, the number of the layer.
    """
    import h5py  # of Keras

    if path.endswith(".keras"):
        contents = zipfile.ZipFile(path).read("model.weights.h5")
        path = io.BytesIO(contents)
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            layers = [
                (_decoded(name), [root[name][w].shape for w in root[name].attrs[_KEY]])
                for name in root.attrs["layer_names"]
            ]
            return dict(enumerate(layer for layer in layers if layer[1]))
        places = {}

        def add(place, group):
            if not place.endswith("vars") or place.startswith("optimizer"):
                return
            shapes = [group[key].shape for key in sorted(group, key=_number)]
            if shapes:
                name = group.attrs.get("name", place.removesuffix("/vars"))
                places[place] = _decoded(name), shapes

        file.visititems(add)
        return places


def _decoded(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def _number(key):
    return (0, int(key)) if key.isdecimal() else (1, key)
