"""Attributes of an invented building, drawn from a seed.

The problem: if one attribute identified a building, a model would learn that one alone.
So the attributes (roof, towers, windows, ground floor, ornaments, proportions, colours)
are many and independent, and none suffices.
"""

import dataclasses

import numpy as np

from keras_aploss.datasets.landmarks.outlines import jitter

_ROOFS = ["flat", "battlement", "steps", "sawtooth", "gables"]
_ROOFS += ["bell", "dome", "gable", "hip", "mansard", "spire"]
_TOWER_TOPS = ["battlement", "dome", "gable", "hip", "onion"]
_WALL_COLOURS = [
    (196, 178, 150), (222, 206, 172), (181, 96, 74), (206, 142, 92), (214, 172, 92),
    (206, 150, 144), (150, 176, 160), (146, 168, 194), (170, 168, 164),
    (228, 224, 214), (132, 112, 98), (122, 138, 118),
]  # fmt: skip
_TRIM_COLOURS = [
    (240, 236, 226), (92, 70, 58), (222, 196, 140), (64, 72, 80), (190, 96, 70),
]  # fmt: skip
_ROOF_COLOURS = [
    (160, 78, 58), (92, 98, 108), (104, 134, 122), (112, 82, 66), (66, 70, 84),
    (190, 124, 74),
]  # fmt: skip
_ACCENT_COLOURS = [
    (178, 44, 44), (36, 90, 140), (40, 116, 74), (226, 168, 40), (120, 60, 120),
]  # fmt: skip
_GLASS_COLOURS = [(52, 66, 86), (36, 42, 48), (112, 140, 166), (70, 92, 88)]


@dataclasses.dataclass(frozen=True)
class Landmark:
    """The attributes of one invented building; colours are RGB."""

    wall: tuple[int, int, int]
    trim: tuple[int, int, int]
    roof_colour: tuple[int, int, int]
    accent: tuple[int, int, int]
    glass: tuple[int, int, int]
    width: float
    height: float
    depth: float
    storeys: int
    columns: int
    texture: str
    roof: str
    roof_height: float
    window: str
    top_window: str
    window_width: float
    window_height: float
    hood: str
    mullion: str
    shutters: bool
    ground: str
    door: float
    towers: str
    tower_top: str
    ornament: str
    balcony: int
    sign: str


def describe_landmark(seed: int, number: int) -> Landmark:
    """Draw the attributes of landmark `number`, a function of both integers only.

    Example:
    >>> describe_landmark(seed=0, number=3) == describe_landmark(seed=0, number=3)
    True
    """
    rng = np.random.default_rng([seed, number])

    def pick(options):
        return options[rng.integers(len(options))]

    storeys = int(rng.integers(2, 6))
    return Landmark(
        wall=jitter(rng, pick(_WALL_COLOURS), 7),
        trim=jitter(rng, pick(_TRIM_COLOURS), 6),
        roof_colour=jitter(rng, pick(_ROOF_COLOURS), 7),
        accent=jitter(rng, pick(_ACCENT_COLOURS), 8),
        glass=pick(_GLASS_COLOURS),
        width=rng.uniform(0.48, 0.8),
        height=rng.uniform(0.44, 0.62),
        depth=rng.uniform(0.15, 0.4),
        storeys=storeys,
        columns=int(rng.integers(2, 7)),
        texture=pick(["plain", "brick", "bands", "pilasters", "timber", "stone"]),
        roof=pick(_ROOFS),
        roof_height=rng.uniform(0.1, 0.2),
        window=pick(["box", "box", "box", "arch", "arch", "gothic", "disc"]),
        top_window=pick(["box", "arch", "gothic", "disc"]),
        window_width=rng.uniform(0.4, 0.72),
        window_height=rng.uniform(0.5, 0.76),
        hood=pick(["none", "flat", "gable"]),
        mullion=pick(["none", "vertical", "cross"]),
        shutters=bool(rng.random() < 0.3),
        ground=pick(["door", "arcade", "shop", "portico", "gate"]),
        door=pick([0.15, 0.5, 0.85]),
        towers=pick(["none", "none", "none", "left", "right", "both", "centre"]),
        tower_top=pick(_TOWER_TOPS),
        ornament=pick(["none", "clock", "rose", "flag", "cross"]),
        balcony=int(rng.integers(-2, storeys)),
        sign=pick(["none", "none", "blade", "banner", "board"]),
    )
