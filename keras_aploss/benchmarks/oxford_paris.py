"""Oxford5k and Paris6k, classic and revisited, and a million distractors.

Each query is a building in a box of its image. Of the database, images are relevant,
junk (seen too badly to judge, taken out of the ranking) or negatives. The revisited
sets grade what is relevant as easy or hard, which makes three protocols:

    protocol    relevant        junk
    easy        easy            junk, hard
    medium      easy, hard      junk
    hard        hard            junk, easy

The classic sets have one; their query images are in the database as well and count as
relevant. In the revisited sets they are not.

Files that are read, below the root or its sub-folder of the set's name:

* `gnd_<name>.pkl` with `imlist`, `qimlist` and per query a dictionary in `gnd`: `bbx`,
  and `easy`, `hard`, `junk` or (classic) `ok`, `junk`.
* classic sets only, the files `<query>_query.txt`, `_good.txt`, `_ok.txt` and
  `_junk.txt`, in the folder itself or in `gt/`. The database is then every image there
  is, but for the 20 of Paris that are published damaged.

Images: `jpg/<image>.jpg`, or unpacked as published, `<image>.jpg` and
`paris/<landmark>/<image>.jpg`; a revisited set also finds them in the folder of the
classic one. Distractors: `revisitop1m/jpg/` and `revisitop1m/revisitop1m.txt`.

References: Philbin et al., 2007 and 2008; Radenović et al., "Revisiting Oxford and
Paris", 2018.
"""

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_aploss.benchmarks.benchmark import QueryBenchmark
from keras_aploss.benchmarks.files import (
    Source,
    check_distinct,
    check_present,
    find_file,
    read_lines,
    read_words,
)
from keras_aploss.benchmarks.ground_truth import read_ground_truth
from keras_aploss.benchmarks.sources import DISTRACTORS_URL, IMAGE_URLS, TRUTH_URLS

_CLASSIC = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}

# Published damaged: https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/corrupt.txt
_CORRUPT = {
    f"paris_{landmark}_{number:06d}"
    for landmark, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
}


def read_buildings(name: str, root: pathlib.Path) -> QueryBenchmark:
    """Read `"oxford5k"`, `"paris6k"`, `"roxford5k"` or `"rparis6k"`."""
    source = Source(name, TRUTH_URLS[name], root)
    places = [f"{name}/gnd_{name}.pkl", f"gnd_{name}.pkl"]
    if name in _CLASSIC:
        # Some keep both ground truths beside the one set of images.
        places.append(f"{_CLASSIC[name]}/gnd_{name}.pkl")
    texts = None if name in _CLASSIC else _folder_of_texts(name, root)
    if texts and not any((root / place).exists() for place in places):
        return _read_texts(name, texts, root)
    return _read_pickle(name, find_file(source, places), root)


def _read_pickle(name, path, root) -> QueryBenchmark:
    contents = read_ground_truth(path)
    keys = ("easy", "hard", "junk") if name in _CLASSIC else ("ok", "junk")
    try:
        names, queries = (list(map(str, contents[k])) for k in ("imlist", "qimlist"))
        boxes = [_box(entry["bbx"]) for entry in contents["gnd"]]
        lists = {k: [_indices(entry[k]) for entry in contents["gnd"]] for k in keys}
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(
            "Expected a dictionary of imlist, qimlist and gnd, and in gnd per query "
            f"bbx, {', '.join(keys)}. Received: {str(path)!r}, in which this fails: "
            f"{type(error).__name__}: {error}. Is it the ground truth of {name}?"
        ) from error
    if len(queries) != len(boxes):
        raise ValueError(
            "Expected one entry of gnd per query. Received: "
            f"len(qimlist)={len(queries)}, len(gnd)={len(boxes)} in {str(path)!r}."
        )
    return _benchmark(name, queries, boxes, names, lists, root)


def _read_texts(name, folder, root) -> QueryBenchmark:
    files = _image_files(name, root)
    names = sorted(files)
    numbers = {image: number for number, image in enumerate(names)}
    queries, boxes, lists = [], [], {"ok": [], "junk": []}
    for path in sorted(folder.glob("*_query.txt")):
        image, *corners = read_words(path, ["image", "x1", "y1", "x2", "y2"])[0]
        queries.append(image.removeprefix("oxc1_"))
        boxes.append(_box(corners))
        prefix = path.name.removesuffix("query.txt")
        for key, parts in {"ok": ("good", "ok"), "junk": ("junk",)}.items():
            listed = [
                line
                for part in parts
                for _, line in read_lines(
                    find_file(
                        Source(name, TRUTH_URLS[name], folder), [f"{prefix}{part}.txt"]
                    )
                )
            ]
            unknown = [image for image in listed if image not in numbers]
            if unknown:
                raise ValueError(
                    f"Expected all images of {name} below root={str(root)!r}. "
                    f"Received: {len(unknown)} that {prefix}*.txt lists are missing, "
                    f"such as {unknown[0]}. Download them from {TRUTH_URLS[name]}."
                )
            lists[key].append(_indices([numbers[image] for image in listed]))
    return _benchmark(name, queries, boxes, names, lists, root)


def _benchmark(name, queries, boxes, names, lists, root) -> QueryBenchmark:
    if not queries:
        raise ValueError(f"Expected queries. Received: none in the files of {name}.")
    check_distinct(names, f"the images of {name}")
    check_distinct(
        [f"{query} {box}" for query, box in zip(queries, boxes, strict=True)],
        f"the queries of {name}",
    )
    both = sorted(set(names) & set(queries))
    if name in _CLASSIC and both:
        raise ValueError(
            f"Expected queries that are not in the database of {name}. Received: "
            f"{len(both)} in both, such as {both[0]}. Is it the ground truth of "
            f"{_CLASSIC[name]}?"
        )
    if name in _CLASSIC:
        easy, hard, junk = lists["easy"], lists["hard"], lists["junk"]
        protocols = {
            "easy": (easy, _joined(junk, hard)),
            "medium": (_joined(easy, hard), junk),
            "hard": (hard, _joined(junk, easy)),
        }
    else:
        protocols = {"classic": (lists["ok"], lists["junk"])}
    for protocol, (relevant, left_out) in protocols.items():
        _check_truth(name, protocol, relevant, left_out, queries, len(names))
    path_of = _path_finder(name, root)
    reported = ("map", "mp_at_1", "mp_at_5", "mp_at_10")
    return QueryBenchmark(
        name,
        [path_of(image) for image in queries],
        boxes,
        [path_of(image) for image in names],
        protocols,
        reported=reported if name in _CLASSIC else ("map",),
    )


def _check_truth(name, protocol, relevant, junk, queries, size):
    for query, positives, left_out in zip(queries, relevant, junk, strict=True):
        listed = np.concatenate([positives, left_out])
        problem = None
        if len(listed) and not 0 <= listed.min() <= listed.max() < size:
            problem = f"indices from {listed.min()} to {listed.max()}"
        elif len(np.unique(listed)) < len(listed):
            problem = "an index twice, or as relevant and as junk"
        if problem:
            raise ValueError(
                f"Expected distinct indices below {size}, relevant or junk, for each "
                f"query of {name}, {protocol}. Received: {problem}, for {query}. "
                "Download the ground truth again."
            )


def _box(corners) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in corners)
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError(f"a box of {corners}")
    return left, top, right, bottom


def _indices(values) -> np.ndarray:
    array = np.asarray(values)
    if array.size and (array.dtype.kind not in "iu" or array.ndim != 1):
        raise TypeError(f"a list of dtype {array.dtype} and shape {array.shape}")
    return array.astype(np.int64).reshape(-1)


def _joined(one, other) -> list[np.ndarray]:
    return [np.concatenate(pair) for pair in zip(one, other, strict=True)]


def _image_folders(name: str, root: pathlib.Path) -> list[pathlib.Path]:
    """Folders in which the images of a set may be, the likeliest first."""
    bases = [root / name, root / _CLASSIC.get(name, name), root]
    folders = [base / part for base in bases for part in ("jpg", "", "paris")]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _path_finder(name: str, root: pathlib.Path):
    """A function from an image's name to its file, or to where it should be."""
    folders = _image_folders(name, root)

    def path_of(image: str) -> str:
        file = image if image.endswith(".jpg") else f"{image}.jpg"
        landmark = "_".join(image.split("_")[1:-1])
        for folder in folders:
            for path in (folder / file, folder / landmark / file):
                if path.exists():
                    return os.fspath(path)
        return os.fspath(root / name / "jpg" / file)

    return path_of


def _image_files(name: str, root: pathlib.Path) -> dict[str, pathlib.Path]:
    """All the images of a classic set, by their names."""
    for folder in _image_folders(name, root):
        files = {
            path.stem: path
            for path in (*folder.glob("*.jpg"), *folder.glob("*/*.jpg"))
            if path.stem not in _CORRUPT
        }
        if files:
            return files
    raise ValueError(
        f"Expected the images of {name} below root={str(root)!r}. Received: no JPEG "
        f"file. Download them from {IMAGE_URLS[name]} and put them into "
        f"{root}/{name}/jpg."
    )


def _folder_of_texts(name: str, root: pathlib.Path) -> pathlib.Path | None:
    for base in (root / name, root):
        for folder in (base, base / "gt"):
            if any(folder.glob("*_query.txt")):
                return folder
    return None


def read_distractor_paths(
    root: str | os.PathLike, *, check_files: bool = True, verbose: int = 0
) -> Sequence[str]:
    """List the million distractors of revisited Oxford and Paris.

    Args:
        root: the folder that has `revisitop1m.txt` and `jpg/`, or its parent.
        check_files: look for all the files.
        verbose: 1 shows a progress bar over them.

    Returns:
        The paths of the images, in the order of the list.

    Raises:
        ValueError: the list is not there or names an image twice, or an image is
            missing.

    Example:
    >>> from keras_aploss.benchmarks import read_distractor_paths
    >>> read_distractor_paths("nowhere")
    Traceback (most recent call last):
    ...
    ValueError: Expected revisitop1m.txt (or revisitop1m/revisitop1m.txt) of revisitop1m
    below root='nowhere'. Received: no such file. Download it from
    http://ptak.felk.cvut.cz/revisitop/revisitop1m/ and put it at
    nowhere/revisitop1m.txt.
    """
    source = Source("revisitop1m", DISTRACTORS_URL, pathlib.Path(root))
    path = find_file(source, ["revisitop1m.txt", "revisitop1m/revisitop1m.txt"])
    names = [line for _, line in read_lines(path)]
    if not names:
        raise ValueError(f"Expected a line per image. Received: {str(path)!r}, empty.")
    check_distinct(names, "the distractors")
    # The list is read relative to `jpg`, or to the folder that holds it.
    folders = (path.parent / "jpg", path.parent)
    folder = next((f for f in folders if (f / names[0]).exists()), folders[0])
    paths = [os.path.join(folder, name) for name in names]
    if check_files:
        check_present(paths, source, verbose=verbose)
    return paths
