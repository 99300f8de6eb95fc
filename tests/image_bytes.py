"""Image files for tests, made when they are needed."""

import io

import numpy as np
import PIL.Image


def photo(height=40, width=60, seed=0, noise=0):
    """Smooth colours, and noise of some grey levels: what shows how it was resized."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(small).resize((width, height), PIL.Image.BICUBIC)
    pixels = np.asarray(picture) + rng.normal(0, noise, (height, width, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(picture, format_name, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def write_photos(folder):
    """One photo of each format, of different sizes."""
    names = ["a.jpg", "b.PNG", "c.bmp", "d.gif", "e.jpeg"]
    formats = ["JPEG", "PNG", "BMP", "GIF", "JPEG"]
    for index, (name, format_name) in enumerate(zip(names, formats, strict=True)):
        contents = encode(photo(40 + 8 * index, seed=index), format_name)
        (folder / name).write_bytes(contents)
    return [folder / name for name in names]


def jpeg_of_scans(scans):
    """A progressive JPEG whose last scan, with its table, comes again and again."""
    contents = encode(photo(), "JPEG", progressive=True)
    last = contents.rindex(b"\xff\xc4", 0, contents.rindex(b"\xff\xda"))
    more = scans - contents.count(b"\xff\xda")
    return contents[:-2] + contents[last:-2] * more + contents[-2:]
