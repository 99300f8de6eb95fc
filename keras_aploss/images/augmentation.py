"""Random views of an image, all of which should have the same embedding.

Retrieval compares photographs taken from elsewhere, at another hour, with another
camera. Training shows the network such changes: a random part of the image, slightly
turned, in other light. Crop, stretch, rotation and mirror are *one* affine resampling:
chained, each would blur the image once more and invent its own black corners. Here
the turned crop always lies inside the image, so that no pixel is invented.

Dimension key: H, W height and width of the image, S `image_size`.
"""

import math

import numpy as np
import PIL.Image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG


def resample_crop(image, box, angle, image_size, *, mirrored=False):
    """Cut a turned rectangle out of an image and resize it to a square.

    Args:
        image: (H, W, 3) `uint8` array.
        box: (x, y, width, height) of the rectangle: its centre and its sides, in
            pixels.
        angle: its rotation about the centre, in radians.
        image_size: side of the result.
        mirrored: exchange left and right.

    Returns:
        A `uint8` array of shape (image_size, image_size, 3).

    Example:
        >>> image = np.arange(48, dtype="uint8").reshape(4, 4, 3)
        >>> whole = resample_crop(image, (2, 2, 4, 4), 0.0, 4)
        >>> bool(np.all(whole == image))
        True
    """
    x, y, width, height = box
    picture = PIL.Image.fromarray(image)
    # A bilinear kernel reads four pixels, however far apart: average blocks of
    # pixels first when several fall into one.
    factors = (max(int(width / image_size), 1), max(int(height / image_size), 1))
    if factors != (1, 1):
        picture = picture.reduce(factors)
    cos, sin = math.cos(angle), math.sin(angle)
    step_x, step_y = width / image_size, height / image_size
    if mirrored:
        step_x = -step_x
    matrix = np.array([[cos * step_x, -sin * step_y], [sin * step_x, cos * step_y]])
    corner = np.array([x, y]) - matrix.sum(axis=1) * image_size / 2
    rows = np.column_stack([matrix, corner]) / np.array(factors)[:, None]
    return np.asarray(
        picture.transform(
            (image_size, image_size),
            PIL.Image.Transform.AFFINE,
            tuple(rows.ravel()),
            PIL.Image.Resampling.BILINEAR,
        )
    )


def jitter_colour(image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    """Change the light of an image.

    Args:
        image: (H, W, 3) `uint8` array.
        brightness: factor of all values.
        contrast: factor of the distances to the mean grey of the image.
        saturation: factor of the distances of the colours to their grey.
        hue: turn of the colour circle, 1 being a full turn.

    Returns:
        A `uint8` array of the shape of `image`.

    Example:
        >>> jitter_colour(np.full((1, 1, 3), 100, "uint8"), brightness=1.5)
        array([[[150, 150, 150]]], dtype=uint8)
    """
    if hue:
        channels = np.array(PIL.Image.fromarray(image).convert("HSV"))
        channels[..., 0] += np.uint8(round(hue * 256) % 256)  # the circle wraps
        image = np.asarray(PIL.Image.fromarray(channels, "HSV").convert("RGB"))
    colours = image.astype(np.float32) * brightness
    grey = colours @ _LUMA  # (H, W)
    colours = grey[..., None] + saturation * (colours - grey[..., None])
    colours = grey.mean() + contrast * (colours - grey.mean())
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


class Augmentation:
    """A random crop, rotation, mirror and colour jitter of an image.

    `augmentation(image, rng)` is a function of its two arguments alone: the same
    generator state gives the same pixels, on any thread and after any restart.

    Args:
        image_size: side of the square result.
        scale: smallest and largest fraction of the image's area that a crop takes.
        ratio: smallest and largest width / height of a crop. It is stretched to a
            square.
        rotation: largest rotation, in degrees, either way. A turned crop shrinks
            where it would leave the image.
        flip: mirror left and right every second time. Off by default: letters,
            packages and many buildings are not their mirror image.
        brightness: 0.2 draws a factor from 0.8 to 1.2; 0 switches it off.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        hue: largest turn of the colour circle, either way, at most 0.5. Off by
            default: for many objects the colour tells what they are.

    Example:
        >>> import numpy as np
        >>> from keras_aploss import Augmentation
        >>> augment = Augmentation(64)
        >>> image = np.full((96, 128, 3), 128, "uint8")
        >>> augment(image, np.random.default_rng([0, 7])).shape
        (64, 64, 3)
    """

    def __init__(
        self,
        image_size: int,
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        rotation: float = 10.0,
        flip: bool = False,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.0,
    ):
        _require(
            isinstance(image_size, int | np.integer) and image_size >= 1,
            "a positive integer",
            image_size=image_size,
        )
        _require(
            _is_range(scale) and scale[1] <= 1, "0 < low <= high <= 1", scale=scale
        )
        _require(_is_range(ratio), "0 < low <= high", ratio=ratio)
        _require(0 <= rotation <= 180, "0 to 180 degrees", rotation=rotation)
        _require(0 <= brightness < 1, "0 <= value < 1", brightness=brightness)
        _require(0 <= contrast < 1, "0 <= value < 1", contrast=contrast)
        _require(0 <= saturation <= 1, "0 <= value <= 1", saturation=saturation)
        _require(0 <= hue <= 0.5, "0 <= value <= 0.5", hue=hue)
        self.image_size = image_size
        self.scale = scale
        self.ratio = ratio
        self.rotation = rotation
        self.flip = flip
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one random view: `uint8`, (image_size, image_size, 3)."""
        _require(
            image.ndim == 3
            and image.shape[2] == 3
            and image.dtype == np.uint8
            and image.size > 0,
            "a uint8 image of shape (H, W, 3)",
            shape=image.shape,
            dtype=image.dtype,
        )
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        box = self._draw_box(image.shape[0], image.shape[1], angle, rng)
        mirrored = self.flip and rng.random() < 0.5
        view = resample_crop(image, box, angle, self.image_size, mirrored=mirrored)
        factors = [
            1 + rng.uniform(-strength, strength)
            for strength in (self.brightness, self.contrast, self.saturation)
        ]
        return jitter_colour(view, *factors, rng.uniform(-self.hue, self.hue))

    def _draw_box(self, image_height, image_width, angle, rng):
        """A rectangle of random area, shape and place whose turned self fits."""
        area = rng.uniform(*self.scale) * image_height * image_width
        # Uniform in the logarithm: as many crops twice as wide as twice as high.
        ratio = math.exp(rng.uniform(*np.log(self.ratio)))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        span_x, span_y = width * cos + height * sin, width * sin + height * cos
        shrink = min(image_width / span_x, image_height / span_y, 1)
        free_x = (image_width - span_x * shrink) / 2
        free_y = (image_height - span_y * shrink) / 2
        x = image_width / 2 + rng.uniform(-1, 1) * free_x
        y = image_height / 2 + rng.uniform(-1, 1) * free_y
        return x, y, width * shrink, height * shrink


def _is_range(pair):
    return len(pair) == 2 and 0 < pair[0] <= pair[1]


def _require(condition, expected, **received):
    if not condition:
        given = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise ValueError(f"Expected {expected}. Received: {given}.")
