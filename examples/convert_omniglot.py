"""Unpack Omniglot into image files and a manifest that this package reads.

Omniglot holds 1,623 characters of 50 alphabets, each drawn by 20 people (Lake et al.,
2015). Packed at one bit per pixel it is a file of 5 MB, `omniglot_packed.npz`, with the
arrays `bits`, `label`, `alphabet`, `drawer`, `is_test` and `class_names`.

    python examples/convert_omniglot.py omniglot_packed.npz data/omniglot

Result: 32,460 images of 105 x 105, black ink on white paper, in one folder per
character, and `manifest.csv`, whose split `train` has 964 characters and whose `test`
has 659 others. It takes 18 seconds on two CPU cores and 137 MB of small files. Then:

    keras-aploss train --data data/omniglot/manifest.csv --image-size 64
"""

import argparse
import concurrent.futures
import csv
import pathlib
import re

import keras
import numpy as np
import PIL.Image

SIDE = 105


def unpack(bits):
    """Return the drawings of rows of packed bits, (N, SIDE, SIDE): 1 is ink."""
    pixels = np.unpackbits(bits, axis=1)[:, : SIDE * SIDE]
    return pixels.reshape(-1, SIDE, SIDE)


def folder_name(label, class_name):
    return f"{label:04d}_{re.sub(r'[^A-Za-z0-9-]+', '_', class_name)}"


def convert(npz_path, folder, workers=None):
    """Write an image per drawing, and `manifest.csv`; return its path."""
    with np.load(npz_path) as arrays:
        packed = {name: arrays[name] for name in arrays.files}
    names = [str(name) for name in packed["class_names"]]
    labels = packed["label"].tolist()
    folders = [pathlib.Path("images", folder_name(i, n)) for i, n in enumerate(names)]
    for label in sorted(set(labels)):
        (folder / folders[label]).mkdir(parents=True, exist_ok=True)

    def write(index):
        label = labels[index]
        path = folders[label] / f"{index:05d}_drawer{packed['drawer'][index]:02d}.png"
        paper = unpack(packed["bits"][index : index + 1])[0] == 0
        # One bit per pixel, white paper: 300 bytes a file.
        PIL.Image.fromarray(np.uint8(255) * paper).convert("1").save(folder / path)
        split = "test" if packed["is_test"][index] else "train"
        return path.as_posix(), label, names[label], split

    progress = keras.utils.Progbar(len(labels))
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["path", "label", "class_name", "split"])
        for row in pool.map(write, range(len(labels))):
            table.writerow(row)
            progress.add(1)
    return folder / "manifest.csv"


def main():
    parser = argparse.ArgumentParser(description="Unpack Omniglot into image files.")
    parser.add_argument("npz", help="path of omniglot_packed.npz")
    parser.add_argument("folder", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--workers", type=int, help="threads; one per processor")
    arguments = parser.parse_args()
    print(convert(arguments.npz, arguments.folder, arguments.workers))


if __name__ == "__main__":
    main()
