"""Memory and time of multistage backpropagation, beside training at once.

`once` is the plain model's `fit`; `chunks` is `MultistageTrainer` with images in
memory; `files` is the same, with references to JPEG files that are decoded chunk by
chunk, twice a step. Each row is a process of its own: one step of another, small batch
first, then the steps that are measured, compilation included in the memory.

    python benchmarks/bench_multistage.py              # memory and time against B
    python benchmarks/bench_multistage.py --time       # the ratio, where both fit
    python benchmarks/bench_multistage.py --time --xla # the same, compiled by XLA
    python benchmarks/bench_multistage.py --stages     # images/s of each stage
    python benchmarks/bench_multistage.py --large      # 4,096 files of 800 x 800
    python benchmarks/bench_multistage.py --from-json FILE --plot FILE
    KERAS_BACKEND=jax python benchmarks/bench_multistage.py      # on a GPU

Linux only. Dimension key: ``B`` batch, ``q`` images of a chunk.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_loss import gpu_name, memory

COLOURS = {"once": "#6E6E6E", "chunks": "#0072B2", "files": "#D55E00"}
UNITS = 128
WARM_UP = 16  # images of the small batch before


def make_encoder(image_size, backbone):
    """A network of the package; for large images one that is cheap to run."""
    import keras

    from keras_aploss.models import retrieval_model

    if image_size <= 256:
        return retrieval_model(backbone, units=UNITS)
    layers = keras.layers
    images = keras.Input((None, None, 3))
    x = layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(images))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(32, 3, 2, activation="relu")(x))
    x = layers.UnitNormalization()(layers.Dense(UNITS)(x))
    return keras.Model(images, x)


def make_sampler(case, size, image_size, folder):
    """Batches of `size` images, 8 of each class, pixels or references to files."""
    from keras_aploss.samplers import ClassBalancedSampler

    labels = np.arange(size) // 8
    if case == "files":
        from keras_aploss import ImageFiles

        files = sorted(Path(folder).glob("*.jpg"))
        images = ImageFiles(np.resize(files, size).tolist(), image_size)
    else:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (size, image_size, image_size, 3), "uint8")
    return ClassBalancedSampler(
        images,
        labels,
        classes_per_batch=size // 8,
        images_per_class=8,
        steps_per_epoch=1,
        references=case == "files",
        workers=2 if case == "files" else 1,
        max_queue_size=1,
    )


def make_model(case, size, chunk, image_size, backbone, sampler, xla):
    """The compiled model to fit."""
    import keras

    from keras_aploss.losses import APLoss
    from keras_aploss.training import MultistageTrainer

    model = make_encoder(image_size, backbone)
    if case != "once":
        files = {"load": sampler.load, "image_shape": (image_size, image_size, 3)}
        files = files if case == "files" else {}
        model = MultistageTrainer(model, max(1, size // chunk), **files)
    jit_compile = True if xla else "auto"
    model.compile(keras.optimizers.Adam(1e-4), APLoss(), jit_compile=jit_compile)
    return model


def fit_steps(model, sampler, steps):
    """Seconds of each step, in which nothing but a batch is fitted."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # waits for the step
            times.append(time.perf_counter() - self.started)

    times = []
    model.fit(sampler, epochs=steps, verbose=0, shuffle=False, callbacks=[Clock()])
    return times


def child(
    case, size, chunk, image_size, backbone, steps, folder, memory_limit, xla=False
):
    """Measure one case; print the numbers."""
    resource.setrlimit(resource.RLIMIT_DATA, 2 * (int(memory_limit * 2**30),))
    network = image_size, backbone
    small = make_sampler(case, WARM_UP, image_size, folder)
    fit_steps(make_model(case, WARM_UP, 8, *network, small, xla), small, 1)
    sampler = make_sampler(case, size, image_size, folder)
    model = make_model(case, size, chunk, *network, sampler, xla)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    mode = "JAX" if os.environ["KERAS_BACKEND"] == "jax" else None
    at_start, _ = memory(mode)
    times = fit_steps(model, sampler, steps)
    # What in-memory images take is counted, too: the sampler had them before.
    images = 0 if case == "files" else size * image_size**2 * 3 / 2**20
    added = memory(mode)[1] - at_start + images
    best = min(times[1:] or times)
    print(json.dumps({"first": times[0], "best": best, "added": added}))


def stages(size, chunk, image_size):
    """Images per second of each of the three stages."""
    import keras
    import tensorflow as tf

    from keras_aploss import ap_loss
    from keras_aploss.training import embed_in_chunks

    model, num_chunks = make_encoder(image_size, "small_resnet"), size // chunk
    shape = size, image_size, image_size, 3
    images = tf.constant(np.random.default_rng(0).integers(0, 256, shape, "uint8"))
    labels = tf.constant(np.arange(size) // 8)
    weights = [variable.value for variable in model.trainable_variables]

    @tf.function
    def embed():
        return embed_in_chunks(model, images, num_chunks)[0]

    @tf.function
    def loss(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = keras.ops.mean(ap_loss(x, labels))
        return tape.gradient(value, x)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            x = embed_in_chunks(model, images, num_chunks)[0]
            value = keras.ops.mean(ap_loss(x, labels))
        return tape.gradient(value, weights)[0]

    x = embed()
    seconds = {}
    for name, run in (("embed", embed), ("loss", lambda: loss(x)), ("step", step)):
        run()
        walls = []
        for _ in range(3):
            started = time.perf_counter()
            run().numpy()
            walls.append(time.perf_counter() - started)
        seconds[name] = min(walls)
    again = seconds["step"] - seconds["embed"] - seconds["loss"]
    print(f"B = {size:,} in {num_chunks} chunks of {chunk}, {image_size} pixels")
    for name, wall in (
        ("1 embed", seconds["embed"]),
        ("2 loss and its gradient", seconds["loss"]),
        ("3 embed again, backward", again),
        ("all", seconds["step"]),
    ):
        print(f"  {name:<24} {wall:8.3f} s {size / wall:10,.0f} images/s")


def run_child(**arguments):
    """Run `child` in a process of its own; return its numbers, or a `note`."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    if run.returncode < 0 or re.search("allocat|bad_alloc|OOM", run.stderr):
        return {"note": f"does not fit in {arguments['memory_limit']:g} GiB"}
    return {"note": run.stderr.strip().splitlines()[-1]}


def measure(cases, sizes, steps, folder, memory_limit=20, xla=False, **network):
    """Run and print the table; return its rows."""
    print(f"{'':8}{'B':>7}{'q':>5}{'pixels':>8}{'a step':>11}{'images/s':>10}", end="")
    print(f"{'added':>12}{'images':>11}")
    rows = []
    for case in cases:
        for size in sizes:
            row = {"case": case, "size": size, **network}
            options = {"xla": xla, "memory_limit": memory_limit}
            row |= run_child(**row, steps=steps, folder=str(folder), **options)
            rows.append(row)
            image_size = network["image_size"]
            line = f"{case:8}{size:7,}{size if case == 'once' else network['chunk']:5}"
            line += f"{image_size:8}"
            if "note" in row:
                print(f"{line}  {row['note']}", flush=True)
                continue
            pixels = size * image_size**2 * 3 / 2**20
            line += f"{row['best']:9.2f} s{size / row['best']:10,.0f}"
            print(f"{line}{row['added']:8,.0f} MiB{pixels:7,.0f} MiB", flush=True)
    return rows


def write_files(folder, image_size, count):
    """JPEG files of photographs' size on disk: smooth noise, so that they compress."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (image_size // 8, image_size // 8, 3), "uint8")
        image = Image.fromarray(coarse).resize((image_size, image_size), 3)
        image.save(Path(folder) / f"{number:05}.jpg", quality=90)


def plot(rows, path):
    """Draw the memory of a step against the batch size."""
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 11, "axes.spines.top": 0, "axes.spines.right": 0}
    figure, panel = plt.subplots(figsize=(6.5, 4.2), dpi=200)
    panel.set_title("Added peak memory of a step, MiB")
    names = {
        "once": "at once",
        "chunks": "in chunks of 64 images",
        "files": "in chunks, read from files",
    }
    for case, colour in COLOURS.items():
        points = [row for row in rows if row["case"] == case and "best" in row]
        sizes = [point["size"] for point in points]
        added = [point["added"] for point in points]
        panel.plot(sizes, added, "o-", color=colour, label=names[case], markersize=5)
    sizes = sorted({row["size"] for row in rows})
    panel.set(xscale="log", yscale="log", xlabel="batch size B", ylim=(300, 12000))
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ticks = [500, 1000, 2000, 4000, 8000]
    panel.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    panel.minorticks_off()
    panel.grid(linewidth=0.4, color="#DDDDDD")
    panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Measure and print what the command line asks for."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--time", action="store_true", help="the ratio of times")
    parser.add_argument("--xla", action="store_true", help="with --time: compiled")
    parser.add_argument("--stages", action="store_true", help="images/s of each stage")
    parser.add_argument("--large", action="store_true", help="files of 800 x 800")
    parser.add_argument("--cases", nargs="+", choices=COLOURS, default=list(COLOURS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 4096])
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--backbone", default="small_resnet")
    parser.add_argument("--memory-limit", type=float, default=20, help="GiB")
    parser.add_argument("--steps", type=int, help="default: 2, with --time 6")
    parser.add_argument("--json", type=Path, help="store the numbers here")
    parser.add_argument("--from-json", type=Path, help="draw stored numbers")
    parser.add_argument("--plot", type=Path, help="draw them here (PNG)")
    args = parser.parse_args()
    if args.child:
        return child(**args.child)
    if args.stages:
        return stages(1024, args.chunk, args.image_size)
    if args.from_json:
        return plot(json.loads(args.from_json.read_text()), args.plot)
    print(gpu_name() or f"{os.cpu_count()} cores, no GPU")
    network = {"image_size": args.image_size, "backbone": args.backbone}
    network |= {"chunk": args.chunk, "memory_limit": args.memory_limit}
    with tempfile.TemporaryDirectory() as folder:
        if args.large:
            write_files(folder, 800, 256)
            network |= {"image_size": 800, "chunk": 32}
            return measure(["files"], [256, 4096], 1, folder, **network)
        if "files" in args.cases:
            write_files(folder, args.image_size, 512)
        if args.time:
            steps, cases = args.steps or 6, ["once", "chunks"]
            rows = measure(cases, [256], steps, folder, xla=args.xla, **network)
            ratio = rows[1]["best"] / rows[0]["best"]
            return print(f"in chunks: {ratio:.2f} x the time of training at once")
        rows = measure(args.cases, args.sizes, args.steps or 2, folder, **network)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
