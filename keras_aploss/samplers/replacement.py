"""Replace an image that cannot be read by another of its class.

A file can be deleted or damaged after the start of a training run that takes days. Such
an image is logged once and replaced, and the run goes on.

Multistage training reads a batch twice, and its gradient is right only if both passes
see the same images: the second pass reads what the first one chose, or fails.
"""

import itertools
import logging
from collections.abc import Sequence

import numpy as np

from keras_aploss.samplers.indices import ClassBalancedIndices

logger = logging.getLogger(__name__)


class ReplacingReader:
    """Reads the images of class-balanced batches, replacing those that cannot be read.

    An image cannot be read if `images[number]` raises OSError or ValueError.

    Args:
        images: a sequence of images.
        indices: the batches, which tell the class of an image and what a batch holds.

    Attributes:
        unreadable: numbers of the images that could not be read, each once.
    """

    def __init__(self, images: Sequence, indices: ClassBalancedIndices):
        self.images = images
        self.indices = indices
        self.unreadable: list[int] = []
        # (epoch, step) -> position in the batch -> number of the image read for it.
        self._chosen: dict[tuple[int, int], dict[int, int]] = {}

    def read(self, epoch: int, step: int, index: int) -> tuple[int, np.ndarray]:
        """Read image `index` for a batch, or a replacement for it.

        Returns:
            The number of the image that was read, and the image.

        Raises:
            ValueError: no image of the class can be read.
        """
        for number in itertools.chain([index], self._others(epoch, step, index)):
            try:
                return int(number), np.asarray(self.images[int(number)])
            except (OSError, ValueError) as error:
                self._note(int(number), error)
        raise ValueError(
            "Expected at least one readable image in each class. Received: class "
            f"{self.indices.labels[index]}, none of whose images can be read."
        )

    def read_again(self, epoch: int, step: int, position: int, index: int):
        """Read the image at a position of a batch: in both passes the same one.

        Raises:
            ValueError: no image of the class can be read, or one that could be read
                before in this step no longer can.
        """
        # Threads read at the same time; `setdefault` is atomic.
        chosen = self._chosen.setdefault((epoch, step), {})
        if position not in chosen:
            chosen[position], image = self.read(epoch, step, index)
            return image
        number = chosen[position]
        try:
            return np.asarray(self.images[number])
        except (OSError, ValueError) as error:
            self._note(number, error)
            raise ValueError(
                "Expected to read an image again that could be read earlier in the "
                f"same step. Received: image {number}: {error}. The gradient of this "
                "step would be wrong. Resume the training from its last checkpoint: "
                "the image is then replaced from the start."
            ) from error

    def forget_finished_steps(self):
        """Drop the choices of all steps but the present one and one read ahead."""
        for step in list(self._chosen)[:-2]:
            self._chosen.pop(step, None)

    def _note(self, number, error):
        if number not in self.unreadable:
            self.unreadable.append(number)
            logger.warning("Image %d left out: %s", number, error)

    def _others(self, epoch, step, index):
        """Other images of its class: first those that are not in the batch."""
        batch = self.indices.batch(epoch, step)
        members = self.indices.members(self.indices.labels[index])
        members = np.roll(members, -int(np.searchsorted(members, index)))[1:]
        drawn = np.isin(members, batch)
        yield from [*members[~drawn], *members[drawn]]
