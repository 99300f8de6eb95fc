r"""How soon an exported model answers, and how many image files a second it embeds.

The server is that of the tests: a `grpc.server` that runs the SavedModel, in a process
of its own; `EmbeddingClient` sends it JPEG files. Beside it, on the same cores and in
turns, `model.predict` on the same images, decoded and resized beforehand: the server
has to decode as well. The binary of TensorFlow Serving needs Docker and is not run; it
loads models as the C program of the tests does, which is timed up to its first answer.

    python benchmarks/bench_serving.py
    python benchmarks/bench_serving.py --backbone small_resnet --image-size 64 \
        --side 96 --images 2048
    python benchmarks/bench_serving.py --decoding      # where the time of files goes

Needs the extra `serving`. Dimension key: N images.
"""

import argparse
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_aploss import EmbeddingClient, export_saved_model, retrieval_model
from keras_aploss.serving import decode_batch, warmup_files, write_serving_files

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def photos(count: int, width: int, height: int) -> list[bytes]:
    """JPEG files that are as hard to decode as photos: edges, gradients, some noise."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.BICUBIC)
        pixels = np.asarray(image, np.float32)
        pixels += rng.normal(0, 8, pixels.shape)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=88
        )
        files.append(buffer.getvalue())
    return files


def serve(folder: str) -> None:
    """Serve the versions in a folder until the input ends, after their warm-up."""
    from model_server import Models, grpc_server
    from tensorflow_serving.apis import prediction_log_pb2

    models = Models(folder, "bench")
    requests = f"{folder}/1/assets.extra/tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(requests):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        models.predict(log.predict_log.request)
    with grpc_server(models) as address:
        print(address, flush=True)
        sys.stdin.read()


def export(model, folder, image_size, batch_size) -> None:
    """What `keras-aploss export` writes, with warm-up for the batches to come."""
    sizes = (1, batch_size)
    requests = warmup_files(image_size, "bench", batch_sizes=sizes)
    export_saved_model(model, folder, image_size=image_size, extra_files=requests)
    write_serving_files(folder)


def first_answer(model, folder, image_size, batch_size, file) -> None:
    """Print the time from a model in memory to its first answer over gRPC."""
    from model_server import Models, grpc_server

    started = time.perf_counter()
    export(model, folder, image_size, batch_size)
    exported = time.perf_counter()
    models = Models(folder, "bench")
    with (
        grpc_server(models) as address,
        EmbeddingClient(address, model="bench") as client,
    ):
        loaded = time.perf_counter()
        client.embed([file])
    done = time.perf_counter()
    print(
        f"export {exported - started:.2f} s, load {loaded - exported:.2f} s, first "
        f"answer without warm-up {done - loaded:.2f} s: {done - started:.2f} s in all"
    )
    if shutil.which("gcc"):
        without_python(folder, file, exported - started)


def without_python(folder, file, export_seconds) -> None:
    """Print the time until a C program has loaded the model and answered."""
    from c_program import ask_program, compile_program

    path = folder.parent / "image.jpg"
    path.write_bytes(file)
    program = compile_program(folder.parent)
    started = time.perf_counter()
    ask_program(program, folder / "1", path)
    answer = time.perf_counter() - started
    print(
        f"TensorFlow without Python: starts, loads and answers in {answer:.2f} s: "
        f"{export_seconds + answer:.2f} s in all"
    )


def throughput(model, folder, image_size, batch_size, files, rounds, workers) -> None:
    """Print images/s of the server and of `model.predict`, in turns."""
    pixels = [
        decode_batch(tf.constant(files[start : start + 64]), image_size).numpy()
        for start in range(0, len(files), 64)
    ]
    pixels = np.concatenate(pixels).astype(np.float32)  # (N, S, S, 3)
    command = [sys.executable, __file__, "--serve", str(folder)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    address = server.stdout.readline().strip()
    client = EmbeddingClient(
        address, model="bench", batch_size=batch_size, workers=workers
    )
    model.predict(pixels[:batch_size], batch_size=batch_size, verbose=0)
    client.embed(files[:batch_size])
    ratios = []
    print("           served   model.predict   ratio")
    try:
        for _ in range(rounds):
            started = time.perf_counter()
            served = client.embed(files)
            between = time.perf_counter()
            predicted = model.predict(pixels, batch_size=batch_size, verbose=0)
            done = time.perf_counter()
            rates = len(files) / (between - started), len(files) / (done - between)
            ratios.append(rates[0] / rates[1])
            columns = f"{rates[0]:9.1f} /s {rates[1]:12.1f} /s {ratios[-1]:7.2f}"
            print(f"images {columns}")
    finally:
        client.close()
        server.stdin.close()
        server.wait()
    difference = np.abs(served - predicted).max()
    print(f"median ratio {np.median(ratios):.2f}; largest difference {difference:.1e}")


def decoding(files, image_size, rounds) -> None:
    """Print the images/s that the graph decodes and resizes alone."""
    decode = tf.function(lambda data: decode_batch(data, image_size))
    batch = tf.constant(files[:64])
    decode(batch)
    for _ in range(rounds):
        started = time.perf_counter()
        decode(batch)
        print(f"decoding alone {64 / (time.perf_counter() - started):9.1f} images/s")


def main(arguments):
    """Measure what was asked for."""
    keras.utils.set_random_seed(0)
    size = arguments.image_size
    width, height = arguments.side, arguments.side * 3 // 4
    files = photos(arguments.images, width, height)
    print(
        f"{arguments.backbone} at {size} px, batches of {arguments.batch_size}, "
        f"{len(files):,} JPEG files of {width} x {height}, "
        f"{np.mean([len(f) for f in files]) / 1000:.0f} kB each"
    )
    if arguments.decoding:
        return decoding(files, size, arguments.rounds)
    model = retrieval_model(arguments.backbone, units=128)
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "bench"
        first_answer(model, folder, size, arguments.batch_size, files[0])
        throughput(
            model, folder, size, arguments.batch_size, files,
            arguments.rounds, arguments.workers,
        )  # fmt: skip
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure an exported model.")
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--side", type=int, default=640, help="width of the files")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="requests at a time")
    parser.add_argument("--decoding", action="store_true", help="only that")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    serve(given.serve) if given.serve else main(given)
