"""Pictures of rankings: what a retrieval model sees, in order.

A number such as mAP says how good the rankings are; it does not say what the model
confuses. `draw_rankings` shows it: a query, then the images most similar to it, each
marked as relevant or not. `draw_grid` is a contact sheet and `draw_sprite` the sheet
of thumbnails that TensorBoard's projector wants.

The marks never rely on colour alone: a relevant result has a solid green frame and a
tick, any other a dashed red frame and a cross.

Dimensions: images are uint8 arrays (height, width, 3); K is the number of results.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_aploss.report.canvas import (
    BACKDROP,
    FAINT,
    GREEN,
    INK,
    PAPER,
    RED,
    SOFT,
    Canvas,
    shorten,
    text_width,
)

# Browsers and WebGL refuse textures beyond this; the projector shows nothing then.
LARGEST_SPRITE = 8192


class Ranking(NamedTuple):
    """A query and the images most similar to it, best first.

    Attributes:
        query: The query image.
        results: The K ranked images.
        relevant: K booleans: is the result relevant to the query?
        similarities: The K similarities, in descending order.
        average_precision: Exact AP of the query over its whole list; NaN, the
            default, where it has no positive.
        name: What the query shows, for instance the name of its class.
        indices: The numbers of the K results in the data set, where they are known.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import draw_rankings
    >>> from keras_aploss.report import Ranking
    >>> jay, crow = np.zeros((2, 32, 32, 3), "uint8")
    >>> ranking = Ranking(jay, [jay, crow], [True, False], [0.9, 0.2], 1.0, "jay")
    >>> draw_rankings([ranking]).mode
    'RGB'
    """

    query: np.ndarray
    results: Sequence[np.ndarray]
    relevant: Sequence[bool]
    similarities: Sequence[float]
    average_precision: float = math.nan
    name: str = ""
    indices: Sequence[int] = ()


def fit_image(image: np.ndarray, size: int) -> Image.Image:
    """Scale an image, whole and undistorted, into a square of `size` pixels.

    >>> import numpy as np
    >>> from keras_aploss.report import fit_image
    >>> fit_image(np.zeros((32, 64, 3), "uint8"), 96).size
    (96, 96)
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            "Expected an image of shape (height, width, 3) and dtype uint8. "
            f"Received: image.shape={image.shape}, image.dtype={image.dtype}. "
            "Scale it to 0-255 and convert it with `.astype('uint8')`."
        )
    height, width = image.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Lanczos rings around the edges of an enlarged thumbnail; bicubic hardly does.
    kernel = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    scaled = Image.fromarray(image).resize(fitted, kernel)
    square = Image.new("RGB", (size, size), BACKDROP)
    square.paste(scaled, ((size - fitted[0]) // 2, (size - fitted[1]) // 2))
    return square


def draw_rankings(
    rankings: Sequence[Ranking],
    *,
    before: Sequence[Ranking] | None = None,
    title: str = "",
    row_names: tuple[str, str] = ("before", "after"),
    size: int = 96,
) -> Image.Image:
    """Draw one row per query: the query, its AP, and its top results in order.

    Args:
        rankings: The rankings to draw, from top to bottom.
        before: The same queries ranked by another model, for instance the one
            before training: each query then has two rows, this one above.
        title: A line of text above the picture.
        row_names: How the two rows of a query are called when `before` is given.
        size: Side of a displayed image in pixels. Text and marks grow with it.

    Returns:
        An RGB `PIL.Image.Image`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import draw_rankings
    >>> from keras_aploss.report import Ranking
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    >>> ranking = Ranking(
    ...     query=images[0],
    ...     results=images[1:],
    ...     relevant=[True, False, True],
    ...     similarities=[0.93, 0.71, 0.64],
    ...     average_precision=5 / 6,
    ...     name="a landmark",
    ... )
    >>> draw_rankings([ranking], title="After training").mode
    'RGB'
    """
    _check_rankings(rankings, before)
    unit = size / 96
    columns = max(len(ranking.results) for ranking in [*rankings, *(before or [])])
    rows = []
    for index, ranking in enumerate(rankings):
        group = {"": ranking}
        if before is not None:
            group = dict(zip(row_names, (before[index], ranking), strict=True))
        rows.append(_draw_group(group, columns, size, unit))
    header = _draw_header(title, rows[0].width, columns, unit)
    footer = Image.new("RGB", (1, round(6 * unit)), PAPER)
    return _stack([header, *rows, footer])


def _check_rankings(
    rankings: Sequence[Ranking], before: Sequence[Ranking] | None
) -> None:
    if not rankings:
        raise ValueError(
            "Expected at least one ranking. Received: rankings=[]. "
            "Choose queries that have a positive."
        )
    if before is not None and len(before) != len(rankings):
        raise ValueError(
            "Expected `before` to rank the same queries as `rankings`. Received: "
            f"len(before)={len(before)}, len(rankings)={len(rankings)}. "
            "Rank the same queries with both models."
        )
    for ranking in [*rankings, *(before or [])]:
        lengths = len(ranking.results), len(ranking.relevant), len(ranking.similarities)
        if len(set(lengths)) > 1:
            raise ValueError(
                "Expected a relevance and a similarity for every result. Received: "
                f"len(results), len(relevant), len(similarities)={lengths}."
            )


# Columns of the picture, in units of 1/96 of a displayed image.
_MARGIN, _TILE, _PRECISION, _GAP = 18, 96, 76, 12
# Text and rules align with the frames, which lie three units outside of the images.
_EDGE = _MARGIN - 3


def _results_left(unit: float) -> float:
    return (_MARGIN + _TILE + _PRECISION) * unit


def _draw_group(
    group: dict[str, Ranking], columns: int, size: int, unit: float
) -> Image.Image:
    pitch = (_TILE + 34) * unit
    width = _results_left(unit) + (columns * (_TILE + _GAP) + 6) * unit
    canvas = Canvas(width, pitch * len(group) + 10 * unit)
    canvas.line([(_EDGE * unit, 0.5), (width - _EDGE * unit, 0.5)], FAINT, 1)
    query = next(iter(group.values()))
    left = _MARGIN * unit
    top = 14 * unit + pitch * (len(group) - 1) / 2
    _draw_tile(canvas, query.query, (left, top), size)
    canvas.frame(_round_box(left, top, size), INK, max(1, round(3 * unit)))
    name = shorten(query.name, 13 * unit, (_TILE + 8) * unit)
    middle = left + size / 2, top + (_TILE + 15) * unit
    canvas.text(middle, name, 13 * unit, anchor="mm")
    for row, (row_name, ranking) in enumerate(group.items()):
        _draw_row(canvas, ranking, row_name, 14 * unit + row * pitch, size)
    return canvas.finish()


def _draw_row(
    canvas: Canvas, ranking: Ranking, row_name: str, top: float, size: int
) -> None:
    unit = size / 96
    center = (_MARGIN + _TILE + _PRECISION / 2) * unit
    value = ranking.average_precision
    number = "-" if math.isnan(value) else f"{value:.2f}"
    canvas.text((center, top + 44 * unit), number, 22 * unit, anchor="mm")
    canvas.text((center, top + 65 * unit), "AP", 12 * unit, SOFT, anchor="mm")
    canvas.text((center, top + 22 * unit), row_name, 13 * unit, SOFT, anchor="mm")
    for rank in range(len(ranking.results)):
        left = _results_left(unit) + rank * (_TILE + _GAP) * unit
        relevant = bool(ranking.relevant[rank])
        _draw_tile(canvas, ranking.results[rank], (left, top), size)
        color = GREEN if relevant else RED
        canvas.frame(
            _round_box(left, top, size), color, max(1, round(3 * unit)), not relevant
        )
        caption = f"{ranking.similarities[rank]:.2f}"
        _draw_mark(canvas, relevant, (left + 30 * unit, top + 111 * unit), unit)
        at = (left + 41 * unit, top + 111 * unit)
        canvas.text(at, caption, 13 * unit, anchor="lm")


def _draw_mark(
    canvas: Canvas, relevant: bool, center: tuple[float, float], unit: float
) -> None:
    if relevant:
        canvas.tick(center, 11 * unit, GREEN)
    else:
        canvas.cross(center, 11 * unit, RED)


def _draw_tile(
    canvas: Canvas, image: np.ndarray, corner: tuple[float, float], size: int
) -> None:
    canvas.photograph(fit_image(image, size), corner)


def _round_box(left: float, top: float, size: int) -> tuple[float, float, float, float]:
    # Photographs lie on whole pixels, so their frames must, too.
    return round(left), round(top), round(left) + size, round(top) + size


def _draw_header(title: str, width: int, columns: int, unit: float) -> Image.Image:
    top = (50 if title else 14) * unit
    canvas = Canvas(width, top + 44 * unit)
    left, size = _EDGE * unit, 13 * unit
    if title:
        line = shorten(title, 20 * unit, width - 2 * left)
        canvas.text((left, 28 * unit), line, 20 * unit, anchor="lm")
    x, y = left, top + 8 * unit
    for relevant, meaning in ((True, "relevant"), (False, "not relevant")):
        box = (x + 2 * unit, y - 6 * unit, x + 14 * unit, y + 6 * unit)
        color = GREEN if relevant else RED
        canvas.frame(box, color, 2 * unit, dashed=not relevant)
        _draw_mark(canvas, relevant, (x + 8 * unit, y), 0.75 * unit)
        canvas.text((x + 23 * unit, y), meaning, size, SOFT, anchor="lm")
        x += 42 * unit + text_width(meaning, size)
    middle = (_MARGIN + _TILE / 2) * unit
    canvas.text((middle, top + 34 * unit), "query", size, SOFT, anchor="mm")
    for rank in range(columns):
        middle = _results_left(unit) + (rank * (_TILE + _GAP) + _TILE / 2) * unit
        canvas.text((middle, top + 34 * unit), rank + 1, size, SOFT, anchor="mm")
    return canvas.finish()


def _stack(strips: Sequence[Image.Image]) -> Image.Image:
    width = max(strip.width for strip in strips)
    picture = Image.new("RGB", (width, sum(strip.height for strip in strips)), PAPER)
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    return picture


def draw_grid(
    images: Sequence[np.ndarray],
    *,
    columns: int | None = None,
    size: int = 96,
    gap: int = 6,
) -> Image.Image:
    """Draw a contact sheet, row by row.

    Args:
        images: The images, of any sizes; each is fitted into a square.
        columns: Images per row; by default the sheet is about square.
        size: Side of a displayed image in pixels.
        gap: Pixels between the images and around the sheet.

    Returns:
        An RGB `PIL.Image.Image`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.report import draw_grid
    >>> images = np.zeros((5, 32, 32, 3), "uint8")
    >>> draw_grid(images, columns=3, size=40, gap=4).size
    (136, 92)
    """
    if len(images) == 0:
        raise ValueError("Expected at least one image. Received: images=[].")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    pitch = size + gap
    sheet = Image.new("RGB", (columns * pitch + gap, rows * pitch + gap), PAPER)
    for index in range(len(images)):
        row, column = divmod(index, columns)
        corner = (gap + column * pitch, gap + row * pitch)
        sheet.paste(fit_image(images[index], size), corner)
    return sheet


def draw_sprite(
    images: Sequence[np.ndarray], *, size: int = 64
) -> tuple[Image.Image, int]:
    """Draw the sheet of thumbnails for TensorBoard's embedding projector.

    The sheet is a square of ceil(sqrt(N)) images without gaps, of at most 8192 pixels
    a side: beyond that the thumbnails shrink.

    Args:
        images: The N images.
        size: Side of a thumbnail in pixels, if there is room.

    Returns:
        The sheet, and the side of its thumbnails in pixels.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.report import draw_sprite
    >>> sheet, size = draw_sprite(np.zeros((5, 32, 32, 3), "uint8"), size=20)
    >>> sheet.size, size
    ((60, 60), 20)
    """
    columns = math.ceil(math.sqrt(len(images)))
    size = min(size, LARGEST_SPRITE // max(1, columns))
    sheet = draw_grid(images, columns=columns, size=size, gap=0)
    square = Image.new("RGB", (columns * size, columns * size), PAPER)
    square.paste(sheet)
    return square, size
