"""Answers of the page: embeddings of images and parts of them, results, thumbnails.

The page names an image of the index by a key, a digest of its path and id. Paths are
never received, so none can be forged. An uploaded image is not kept: the browser gets
its embedding, and sends that again for the next page of results.

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
from keras_aploss.embeddings import check_image_size, embed, model_fingerprint
from keras_aploss.images import (
    MAX_PIXELS,
    decode_contents,
    require_positive,
    resize_image,
)
from keras_aploss.search import MAX_RESULTS, IndexedImage, VectorIndex, key_of

SMALL, LARGE = 320, 960  # longer sides of thumbnails: in the grid, and of a query
_KEPT = {SMALL: 2048, LARGE: 32}  # thumbnails in memory: about 50 MB
_BATCH_SIZE = 16  # that of `keras-aploss search`, for equal embeddings
_EXAMPLES = 12  # images shown before the first query

Box = tuple[float, float, float, float]


class Result(NamedTuple):
    """An image of the index in an answer: key, name, label and similarity."""

    key: str
    name: str
    label: str
    similarity: float | None = None


class ImageSearch:
    """Search of an index by uploads and by its own images; methods are thread-safe.

    Args:
        index: the index, of N images.
        model: the model of the index.
        image_size: S.
        max_pixels: refuse larger images.
        verify: see `read_indexed`.

    Attributes:
        labels: number of images of each label, at the time of construction.
        examples: images from all parts of the index.
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
        check_image_size(model, image_size)
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
        # The first call traces decoder and model: no user should wait for that.
        vector = self.embed_upload(encode_thumbnail(np.zeros((8, 8, 3), np.uint8), 8))
        index.require_model(None, len(vector))

    def __len__(self):
        return len(self._images)

    def embed_upload(self, contents: bytes, box: Box | None = None) -> np.ndarray:
        """The `(D,)` embedding of the bytes of an image file.

        Args:
            contents: the bytes.
            box: (left, top, right, bottom) as fractions of the upright image; the model
                sees the central square of that part.

        Raises:
            ValueError: the bytes are no readable image, or the box has no area.
        """
        # One at a time: decoding 100 megapixels takes more than a gigabyte.
        with self._model_lock:
            image = decode_contents(contents, self.max_pixels)
            image = resize_image(_cut(image, box), self.image_size)
            return self._embed(image.numpy())

    def embed_indexed(self, key: str, box: Box | None = None) -> np.ndarray:
        """The `(D,)` embedding of an image of the index, or of a part of it.

        Raises:
            ImageGoneError: there is no such image, or (with a box) its file is gone or
                has changed.
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
        """Results `start` to `start + count` of the ranking of `VectorIndex.search`."""
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
        """The number of results that can be paged through."""
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
        """The image of a key, as in an answer."""
        return self._result(self.find(key))

    def picture(self, key: str, side: int = SMALL) -> bytes:
        """A thumbnail of an image of the index, as JPEG.

        Raises:
            ImageGoneError: there is no such image, or its file is gone or has changed.
        """
        try:
            status = os.stat(self.find(key).path)
            version = status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            version = None  # `_draw` gives the reason
        return self._pictures[side](key, version)

    def _draw(self, key, version, side):
        contents = read_indexed(self.find(key), self._folder, verify=self._verify)
        return encode_thumbnail(decode_indexed(contents, self.max_pixels), side)

    def _embed(self, image):
        return embed(self._model, image[None], batch_size=_BATCH_SIZE)[0]

    def _result(self, image):
        key = _key(image)
        # The image may have been added after the start.
        self._images.setdefault(key, image._replace(similarity=None))
        name = short_name(image.path, self._folder)
        return Result(key, name, image.label, image.similarity)


def _key(image):
    return key_of(f"{image.path}\0{image.id}")


def _cut(image, box):
    """The part of an image within a box, at least one pixel."""
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
    """A `(D,)` embedding as text for the page: base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    """The `(D,)` embedding in a text of `to_text`.

    Raises:
        ValueError: the text is no such embedding.

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
