"""Folders of classes, and tables of images, as tests read them."""

import csv

import numpy as np
from PIL import Image


def make_folder(root, classes, views=3, size=(40, 30)):
    """Noise, another in each file."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for view in range(views):
            rng = np.random.default_rng([len(name), ord(name[-1]), view])
            pixels = rng.integers(0, 256, (*size[::-1], 3), "uint8")
            Image.fromarray(pixels).save(root / name / f"{view}.png")
    return root


def make_manifest(path, rows, columns=("path", "label", "split")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def rows(split_of, views=3):
    """The lines of a table of `photos/`, with the split of each class."""
    return [
        (f"photos/{name}/{view}.png", name, split)
        for name, split in split_of.items()
        for view in range(views)
    ]
