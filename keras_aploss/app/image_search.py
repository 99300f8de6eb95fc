"""What the page asks: embeddings of images and parts of them, results, pictures.

An image of the index is known by a key, a digest of its path and id. No path comes in,
so that none can be forged. An uploaded image is not kept: its embedding goes to the
browser, which sends it again for the next page of results.

Dimension key: N images, H, W height and width in pixels, S `image_size`, D units.
"""

import base64
import binascii
import functools
import math
import os
import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_aploss.app.thumbnails import (
    ImageGoneError,
    common_folder,
    decode_indexed,
    encode_thumbnail,
    read_indexed,
    short_name,
)
from keras_aploss.embeddings import embed, model_fingerprint
from keras_aploss.images import (
    MAX_PIXELS,
    decode_contents,
    require_positive,
    resize_image,
)
from keras_aploss.search import MAX_RESULTS, IndexedImage, VectorIndex, key_of

SMALL, LARGE = 320, 960  # longer sides of pictures: in the grid, and of a query
_KEPT = {SMALL: 2048, LARGE: 32}  # pictures in memory: about 50 MB
_BATCH_SIZE = 16  # as `keras-aploss search` has it
_EXAMPLES = 12  # images to begin with

Box = tuple[float, float, float, float]


class Result(NamedTuple):
    """An image as the page knows it."""

    key: str
    name: str
    label: str
    similarity: float | None = None


class ImageSearch:
    """The answers; every method may be called by several threads at a time.

    Args:
        index: of N images.
        model: of the index.
        image_size: S.
        max_pixels: refuse larger images.
        verify: see `read_indexed`.

    Attributes:
        labels: how many images there are of each; as of now, if the index changes.
        examples: some images from all over the index.
    """

    def __init__(
        self,
        index: VectorIndex,
        model: keras.Model,
        *,
        image_size: int,
        max_pixels: int = MAX_PIXELS,
        verify: bool = True,
    ):
        require_positive(image_size=image_size, max_pixels=max_pixels)
        self._index, self._model, self._verify = index, model, verify
        self.image_size, self.max_pixels = image_size, max_pixels
        if index.fingerprint is not None:
            index.require_model(model_fingerprint(model, image_size))
        images = index.images()
        if not images:
            raise ValueError(
                "Expected an index with images. Received: "
                f"{index.location or 'one in memory'}, which is empty. Fill it with "
                "`keras-aploss index`."
            )
        self._folder = common_folder(image.path for image in images)
        self._images = {_key(image): image for image in images}
        counts = Counter(image.label for image in images)
        self.labels = dict(sorted(counts.items()))
        step = max(1, len(images) // _EXAMPLES)
        # From the middle of each part: the first image of a folder is often a cover.
        self.examples = [self._result(image) for image in images[step // 2 :: step]]
        del self.examples[_EXAMPLES:]
        self._model_lock, self._index_lock = threading.Lock(), threading.Lock()
        self._pictures = {
            side: functools.lru_cache(kept)(functools.partial(self._draw, side=side))
            for side, kept in _KEPT.items()
        }
        # The first call traces decoder and model, which nobody should wait for.
        vector = self.embed_upload(encode_thumbnail(np.zeros((8, 8, 3), np.uint8), 8))
        index.require_model(None, len(vector))

    def __len__(self):
        return len(self._images)

    def embed_upload(self, contents: bytes, box: Box | None = None) -> np.ndarray:
        """The `(D,)` embedding of the bytes of an image file.

        Args:
            contents: the bytes.
            box: (left, top, right, bottom) as fractions of the upright image; the model
                sees the central square of what is within.

        Raises:
            ValueError: they are no readable image, or the box is none; says why.
        """
        # One at a time: 100 megapixels take more than a gigabyte on their way.
        with self._model_lock:
            image = decode_contents(contents, self.max_pixels)
            image = resize_image(_cut(image, box), self.image_size)
            return self._embed(image.numpy())

    def embed_indexed(self, key: str, box: Box | None = None) -> np.ndarray:
        """The `(D,)` embedding of an image of the index, or of a box of it.

        Raises:
            ImageGoneError: there is no such image, or (with a box) no such file.
        """
        image = self.find(key)
        if box is not None:
            contents = read_indexed(image, self._folder, verify=self._verify)
            return self.embed_upload(contents, box)
        with self._index_lock:
            found = self._index.get([image.path])
        if not found:
            raise ImageGoneError("it is not in the index any more")
        return found[image.path][1]

    def search(
        self,
        vector: np.ndarray,
        start: int = 0,
        count: int = 24,
        *,
        labels: Sequence[str] | None = None,
        expand_by: int = 0,
    ) -> list[Result]:
        """The results of ranks `start` to `start + count` of `VectorIndex.search`."""
        end = min(start + count, MAX_RESULTS)
        if not 0 <= start < end:
            raise ValueError(
                f"Expected results from 0 to {MAX_RESULTS:,}. Received: {start=}, "
                f"{count=}."
            )
        with self._index_lock:
            found = self._index.search(
                vector[None], end, labels=labels, expand_by=expand_by
            )
        return [self._result(image) for image in found[0][start:]]

    def count(self, labels: Sequence[str] | None = None) -> int:
        """How many results there are to page through."""
        if labels is None:
            return min(len(self), MAX_RESULTS)
        return min(sum(self.labels.get(label, 0) for label in set(labels)), MAX_RESULTS)

    def find(self, key: str) -> IndexedImage:
        """The image of a key.

        Raises:
            ImageGoneError: there is none.
        """
        try:
            return self._images[key]
        except KeyError:
            raise ImageGoneError("there is no such image in the index") from None

    def describe(self, key: str) -> Result:
        """The image of a key, as the page knows it."""
        return self._result(self.find(key))

    def picture(self, key: str, side: int = SMALL) -> bytes:
        """A JPEG of an image of the index.

        Raises:
            ImageGoneError: there is no such image, or its file is another one now.
        """
        try:
            status = os.stat(self.find(key).path)
            version = status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            version = None  # which `_draw` explains
        return self._pictures[side](key, version)

    def _draw(self, key, version, side):
        contents = read_indexed(self.find(key), self._folder, verify=self._verify)
        return encode_thumbnail(decode_indexed(contents, self.max_pixels), side)

    def _embed(self, image):
        return embed(self._model, image[None], batch_size=_BATCH_SIZE)[0]

    def _result(self, image):
        key = _key(image)
        # One that was added since: it is of the index, too.
        self._images.setdefault(key, image._replace(similarity=None))
        name = short_name(image.path, self._folder)
        return Result(key, name, image.label, image.similarity)


def _key(image):
    return key_of(f"{image.path}\0{image.id}")


def _cut(image, box):
    """What lies within a box, one pixel at least."""
    if box is None:
        return image
    if not all(map(math.isfinite, box)) or not (
        0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
    ):
        raise ValueError(
            "Expected a box (left, top, right, bottom) as fractions of the image, with "
            f"0 <= left < right <= 1 and 0 <= top < bottom <= 1. Received: {box=}."
        )
    height, width = image.shape[:2]
    left, right = _span(box[0], box[2], width)
    top, bottom = _span(box[1], box[3], height)
    return image[top:bottom, left:right]


def _span(low, high, size):
    first = min(round(low * size), size - 1)
    return first, max(round(high * size), first + 1)


def to_text(vector: np.ndarray) -> str:
    """A `(D,)` embedding as the page keeps it: base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    """The `(D,)` embedding that `to_text` has written.

    Raises:
        ValueError: it was none.

    >>> from_text(to_text(np.array([0.6, 0.8]))).tolist() == [
    ...     np.float32(0.6), np.float32(0.8)
    ... ]
    True
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, TypeError, binascii.Error) as error:
        raise ValueError(
            "Expected an embedding, float32 in base64, as `embed` gives it. Received: "
            f"{str(text)[:40]!r}."
        ) from error
