"""Whether queries that are embedded elsewhere belong to an index.

A service that asks a model server for the embeddings of its queries has no model whose
fingerprint could be compared. The server may have taken a new version, or give this
client a version that is only tried: its embeddings have the right shape, and find
nothing. So some images of the index are embedded there, and compared.
"""

from collections.abc import Callable, Sequence

import numpy as np

from keras_aploss.images import hash_files
from keras_aploss.search.vector_index import VectorIndex

_TRIED = 8  # images that are looked for, for each one that is wanted
# The least similarity of two embeddings of an image by one model: processors, and 16
# bits, round differently.
_LEAST = 0.999


def require_agreement(
    index: VectorIndex,
    embed_files: Callable[[Sequence[str]], tuple[np.ndarray, list]],
    *,
    source: str = "the server",
    samples: int = 4,
) -> None:
    """Raise a `ValueError` unless an index holds the embeddings of a model server.

    Args:
        index: of `index_folder` or `index_shards`, with images whose files are here.
        embed_files: `EmbeddingClient.embed_files`, or what returns as it does.
        source: what answers, for the error: the server and the version of the model.
        samples: how many images are compared, from all parts of the index.

    Raises:
        ValueError: the embedding of an image differs from that in the index; or there
            is nothing to compare: no image of the index is here, unchanged.

    Example:
        with EmbeddingClient("http://localhost:8501", model="landmarks") as client:
            source = f"version {client.version} of {client.model!r}"
            require_agreement(index, client.embed_files, source=source)
    """
    images = index.images()
    step = max(1, len(images) // (_TRIED * samples))
    images = images[step // 2 :: step][: _TRIED * samples]
    hashes = hash_files([image.path for image in images], workers=4)
    paths = [image.path for image in images if hashes[image.path] == image.id][:samples]
    if not paths:
        raise ValueError(
            f"Expected images of the index {index.location!r} to compare. Received: "
            f"{len(images)} of which none is here as it was indexed. Run this where "
            "they are, or bring the index up to date with `keras-aploss index`."
        )
    vectors, skipped = embed_files(paths)
    left_out = {path for path, _ in skipped}
    paths = [path for path in paths if path not in left_out]
    stored = np.stack([index.get([path])[path][1] for path in paths])
    if vectors.shape != stored.shape:
        found = f"embeddings of {vectors.shape[1]} units for {index.units}"
    else:
        similarities = np.einsum("nd,nd->n", stored, vectors)
        worst = int(np.argmin(similarities))
        if similarities[worst] >= _LEAST:
            return
        found = (
            f"another embedding of {paths[worst]!r}, with a similarity of "
            f"{similarities[worst]:.3f} to that in the index"
        )
    made = index.notes.get("model")
    raise ValueError(
        f"Expected the embeddings of the index {index.location!r}, of "
        + (f"the model {made!r} with " if made else "")
        + f"the fingerprint {index.fingerprint}. Received from {source}: {found}. Ask "
        "for the version that the index was made with, or index the images anew with "
        "the model of this one."
    )
