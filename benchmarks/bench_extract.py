r"""How many image files a second are embedded: bare TensorFlow, one process, and Ray.

The bare pipeline is `tf.data`, which reads, decodes, cuts and resizes with as many
threads as it likes, and `model.predict`: no check of any file, no file of embeddings.
It makes the same pixels, so its embeddings must be those of the others. In turns, on
the same files, by the same model:

* `bare`: that pipeline;
* `extract`: `extract_embeddings`, which writes a file that can be gone on with, and
  reads with two threads per core, as the command does;
* `checked`: the same after `find_unreadable`, as the command does: it reads each file
  to its end before, to leave out what is damaged before hours of work;
* `ray 1`, `ray 2`: `extract_to_shards` with as many workers, which checks as well, and
  hashes each file. `running` leaves out the start of Ray and of its workers: the images
  of the shards that came after the first of each worker, by the times of their files.
  `in all` is the whole call.

    python benchmarks/bench_extract.py
    python benchmarks/bench_extract.py --image-size 64 --images 2048
    python benchmarks/bench_extract.py --backbone ResNet50 --images 64 --no-ray

Needs the extra `scale`, without `--no-ray`. Dimension key: N images, D units.
"""

import argparse
import os
import pathlib
import shutil
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from bench_serving import photos

from keras_aploss import ImageFiles, extract_embeddings, retrieval_model
from keras_aploss.embeddings import read_shards
from keras_aploss.images import find_unreadable
from keras_aploss.workers import extract_to_shards

CORES = os.cpu_count() or 1


def write_files(folder: str, count: int, width: int) -> list[str]:
    """Write JPEG files, of which no two have the same name or pixels."""
    paths = []
    for number, contents in enumerate(photos(count, width, width * 3 // 4)):
        paths.append(os.path.join(folder, f"{number:06d}.jpg"))
        pathlib.Path(paths[-1]).write_bytes(contents)
    return paths


def bare_pipeline(paths: list[str], image_size: int, batch_size: int):
    """The files as batches of squares: nothing but the operations of TensorFlow."""

    def read(path):
        image = tf.io.decode_jpeg(
            tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE"
        )
        height, width = tf.unstack(tf.shape(image)[:2])
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side]
        size = (image_size, image_size)
        pixels = tf.image.resize(square, size, method="bilinear", antialias=True)
        return tf.cast(tf.round(pixels), tf.uint8)

    files = tf.data.Dataset.from_tensor_slices(paths)
    squares = files.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return squares.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def in_one_process(model, images, folder, batch_size) -> tuple[dict, np.ndarray]:
    """The seconds that each way takes, and the embeddings that both must give."""
    seconds = {}
    started = time.perf_counter()
    pipeline = bare_pipeline(images.paths, images.image_size, batch_size)
    expected = model.predict(pipeline, verbose=0)
    seconds["bare"] = time.perf_counter() - started
    started = time.perf_counter()
    found = extract_embeddings(
        model, images, folder / "one.npy", batch_size=batch_size, workers=2 * CORES
    )
    seconds["extract"] = time.perf_counter() - started
    np.testing.assert_allclose(found, expected, atol=1e-5)
    started = time.perf_counter()
    if find_unreadable(images.paths):
        raise RuntimeError("Expected files that can be read.")
    seconds["checked"] = seconds["extract"] + time.perf_counter() - started
    return seconds, expected


def with_ray(model, images, folder, batch_size, shard_size, workers, expected):
    """The images/s of workers that run, and the seconds of the whole call."""
    started = time.perf_counter()
    extract_to_shards(
        model, images, folder, batch_size=batch_size, shard_size=shard_size,
        workers=workers,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    found = np.concatenate([shard.vectors for shard in read_shards(folder)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    times = sorted(path.stat().st_mtime for path in folder.glob("part-*.parquet"))
    after = shard_size * (len(times) - workers)
    return after / (times[-1] - times[workers - 1]), seconds


def measure(model, images, arguments) -> dict[str, list[float]]:
    """The images/s of each way, in each round."""
    rates = {}
    batch_size = arguments.batch_size
    for _ in range(arguments.rounds):
        folder = pathlib.Path(tempfile.mkdtemp())
        seconds, expected = in_one_process(model, images, folder, batch_size)
        row = {name: len(images) / value for name, value in seconds.items()}
        for workers in () if arguments.no_ray else (1, 2):
            running, whole = with_ray(
                model, images, folder / str(workers), batch_size,
                arguments.shard_size, workers, expected,
            )  # fmt: skip
            row[f"ray {workers} running"] = running
            row[f"ray {workers} in all"] = len(images) / whole
        shutil.rmtree(folder)
        for name, rate in row.items():
            rates.setdefault(name, []).append(rate)
    return rates


def main(arguments):
    """Print the median of each way, and its ratio to the bare pipeline."""
    if arguments.images % arguments.shard_size and not arguments.no_ray:
        raise SystemExit("Expected `--images` to be a multiple of `--shard-size`.")
    keras.utils.set_random_seed(0)
    model = retrieval_model(arguments.backbone, units=128)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(folder, arguments.images, arguments.side)
        images = ImageFiles(paths, arguments.image_size)
        kilobytes = np.mean([os.path.getsize(path) for path in paths]) / 1000
        print(
            f"{arguments.backbone} at {images.image_size} px, batches of "
            f"{arguments.batch_size}, {len(images):,} JPEG files of {arguments.side} x "
            f"{arguments.side * 3 // 4}, {kilobytes:.0f} kB each, {CORES} cores"
        )
        # Traced and compiled before the clock runs, as in a long extraction.
        first = images[: arguments.batch_size]
        in_one_process(model, first, pathlib.Path(folder), arguments.batch_size)
        rates = measure(model, images, arguments)
    print(f"median of {arguments.rounds}        images/s   to bare, round by round")
    for name, values in rates.items():
        ratios = [rate / bare for rate, bare in zip(values, rates["bare"], strict=True)]
        listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{name:<16}{np.median(values):11.1f} {np.median(ratios):9.2f}   ({listed})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure extraction.")
    parser.add_argument("--backbone", default="small_resnet")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--side", type=int, default=640, help="width of the files")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true", help="one process only")
    main(parser.parse_args())
