"""Small folders of the form in which the benchmarks are distributed."""

import pathlib
import pickle

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parent / "golden"


def save_image(path, size=(60, 40), seed=0):
    """A JPEG of random blocks of colour: each seed another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_ground_truth(path, images, queries, entries, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"imlist": images, "qimlist": queries, "gnd": entries}
    path.write_bytes(pickle.dumps(contents, protocol))


def golden_ground_truth():
    """`imlist`, `qimlist` and `gnd` of the golden file, and the file."""
    golden = np.load(GOLDEN / "revisited.npz")
    lists = {
        name: np.split(golden[name], golden[f"{name}_splits"][1:-1])
        for name in ("easy", "hard", "junk")
    }
    images = [f"all_souls_{number:06d}" for number in range(len(golden["database"]))]
    queries = [f"query_{number:06d}" for number in range(len(golden["queries"]))]
    entries = [
        {"bbx": [1.5, 2, 50.25, 39.75], **{name: lists[name][i] for name in lists}}
        for i in range(len(queries))
    ]
    return images, queries, entries, golden


REVISITED = {
    "images": [f"hall_{number:06d}" for number in range(6)],
    "queries": ["hall_000090", "keble_000091"],
    "entries": [
        {"bbx": (5.0, 5.0, 35.0, 35.0), "easy": [0, 1], "hard": [2], "junk": [3]},
        {"bbx": (0.0, 0.0, 60.0, 40.0), "easy": [4], "hard": [], "junk": []},
    ],
}


def revisited_folder(root, name="roxford5k", **changes):
    """A revisited set of six images and two queries below `root`."""
    truth = {**REVISITED, **changes}
    for seed, image in enumerate([*truth["images"], *truth["queries"]]):
        save_image(root / name / "jpg" / f"{image}.jpg", seed=seed)
    write_ground_truth(root / name / f"gnd_{name}.pkl", *truth.values())
    return root


def classic_folder(root):
    """Oxford as published: images, and the lists of two queries, without pickles."""
    for seed in range(6):
        save_image(root / "oxford5k" / "jpg" / f"hall_{seed:06d}.jpg", seed=seed)
    lists = {
        "hall_1_query": "oxc1_hall_000000 5.5 5.5 35.5 35.5\n",
        "hall_1_good": "hall_000000\nhall_000001\n",
        "hall_1_ok": "hall_000003\n",
        "hall_1_junk": "hall_000002\n",
        "keble_1_query": "oxc1_hall_000004 0 0 60 40\n",
        "keble_1_good": "hall_000004\n",
        "keble_1_ok": "",
        "keble_1_junk": "",
    }
    for name, text in lists.items():
        write_text(root / "oxford5k" / "gt" / f"{name}.txt", text)
    return root


def google_folder(root):
    """Google Landmarks v2: six images of the index, three queries, one Ignored."""
    ids = [f"{number:x}{number:x}cdef0123456789"[:16] for number in range(6)]
    for seed, name in enumerate(ids):
        save_image(
            root / "index" / name[0] / name[1] / name[2] / f"{name}.jpg", seed=seed
        )
    for seed, name in enumerate(("aaa1", "bbb2")):
        path = root / "test" / name[0] / name[1] / name[2] / f"{name}.jpg"
        save_image(path, seed=seed)
    write_text(root / "metadata" / "index.csv", "\n".join(["id", *ids, ""]))
    write_text(
        root / "metadata" / "retrieval_solution_v2.1.csv",
        "id,images,Usage\n"
        f"aaa1,{ids[2]} {ids[0]},Public\n"
        f"bbb2,{ids[5]},Private\n"
        "ccc3,None,Ignored\n",
    )
    return root


def sop_folder(root):
    """Stanford Online Products: classes 1 and 2 train, 3 and 4 are the test."""
    number = 0
    for split, classes in {"train": (1, 2), "test": (3, 4)}.items():
        rows = ["image_id class_id super_class_id path"]
        for label in classes:
            for view in range(3):
                number += 1
                path = f"chair_final/{label}_{view}.JPG"
                rows.append(f"{number} {label} 1 {path}")
                save_image(root / path, seed=number)
        write_text(root / f"Ebay_{split}.txt", "\n".join([*rows, ""]))
    return root


def cub_folder(root):
    """CUB-200: two images of the classes 99, 100, 101 and 102."""
    images, labels, number = [], [], 0
    for label in (99, 100, 101, 102):
        for view in range(2):
            number += 1
            path = f"{label:03d}.Bird/{view}.jpg"
            images.append(f"{number} {path}")
            labels.append(f"{number} {label}")
            save_image(root / "CUB_200_2011" / "images" / path, seed=number)
    write_text(root / "CUB_200_2011" / "images.txt", "\n".join(images))
    write_text(root / "CUB_200_2011" / "image_class_labels.txt", "\n".join(labels))
    return root


def inaturalist_folder(root):
    """iNaturalist 2018: a class of Aves trains, two others are the test."""
    classes = {"train": ("Aves/1",), "test": ("Aves/2", "Insecta/1")}
    for split, names in classes.items():
        paths = [f"train_val2018/{name}/{i}.jpg" for name in names for i in "ab"]
        for seed, path in enumerate(paths):
            save_image(root / path, seed=seed)
        file = root / "Inat_dataset_splits" / f"Inaturalist_{split}_set1.txt"
        write_text(file, "\n".join(paths))
    return root


def distractors_folder(root, count=3):
    """The form of revisitop1m: a list beside the folder that it is relative to."""
    names = [f"{number % 2}/{number:04d}.jpg" for number in range(count)]
    for seed, name in enumerate(names):
        save_image(root / "jpg" / name, seed=100 + seed)
    write_text(root / "revisitop1m.txt", "\n".join([*names, ""]))
    return root
