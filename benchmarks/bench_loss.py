"""Time and memory of the AP loss with its gradient, beside a floor and its peers.

The floor is a dot-product loss: a mean of S = X Xᵀ with fixed weights and its gradient
to X by automatic differentiation, in the same framework and mode. `dense` is eq. 7-11
of the paper as written, with its B x M x B tensor. `FastAP` (the same mathematics, but
each image is left out of its own list) and `SmoothAP` (its own, with B x B x B) are
those of pytorch-metric-learning: `pip install .[bench]`.

    python benchmarks/bench_loss.py                       # B = 4,096, D = 2,048, M = 20
    python benchmarks/bench_loss.py --growth --plot growth.png --json growth.json
    python benchmarks/bench_loss.py --from-json growth.json --plot growth.png
    python benchmarks/bench_loss.py --bins                # 100 bins beside 20
    python benchmarks/bench_loss.py --check               # the unit-length test alone
    python benchmarks/bench_loss.py --metrics             # those of a batch, exact
    python benchmarks/bench_loss.py --fit                 # a step of `model.fit`
    KERAS_BACKEND=jax python benchmarks/bench_loss.py     # all but the peers on JAX

Each row has a process of its own; `--bins`, `--check` and `--metrics` run
several in turn in one. Added
memory is the peak of the resident memory (with a GPU, of its memory on JAX and PyTorch)
from the first run on, compilation included, less what libraries, inputs (the floor's
weights, too) and a small case took before. Ratios are of best times: to the floor of
the same mode or, for those three, to the first of them. Linux only.

Dimension key: ``B`` batch, ``D`` units, ``M`` bins.
"""

import argparse
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

COLOURS = {"floor": "#6E6E6E", "ours": "#0072B2", "dense": "#D55E00"}
COLOURS |= {"FastAP": "#009E73", "SmoothAP": "#CC79A7"}
WITHOUT_AP = ("floor", "check", "recall", "SmoothAP")  # or not the same AP
WITHOUT_GRADIENT = ("check", "exact AP", "recall")
LIBRARIES = ("keras", "tensorflow", "jax", "torch", "pytorch-metric-learning")
COMMANDS = {  # sizes, units, and the (case, bins) that run in turn
    None: ([4096], [2048], None),
    "growth": ([2**n for n in range(9, 17)], [256], None),
    "bins": ([4096], [2048, 256], [("ours", 20), ("ours", 100)]),
    "check": ([4096], [2048], [("ours", 20), ("check", 20)]),
    "metrics": (
        [4096, 16384],
        [2048, 256],
        [("ours", 20), ("exact AP", 20), ("recall", 20)],
    ),
    "fit": ([16384], [256], [("fit", 20)]),
}


def make_inputs(case, size, units, images_per_class):
    """Unit embeddings `(B, D)`, and labels `(B,)` or weights `(B, B)`; in place."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, units), dtype=np.float32)
    x /= np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    if case == "floor":
        return x, rng.random((size, size), dtype=np.float32)
    return x, rng.permutation(np.arange(size, dtype=np.int32) // images_per_class)


def keras_loss(case, num_bins):
    """The case as a function of embeddings and labels (the floor's: weights)."""
    from keras import ops

    from keras_aploss.losses import ap_loss
    from keras_aploss.metrics import BatchAP, BatchRecall

    def metric_of_batch(metric):
        def value(x, labels):
            state = [ops.zeros(variable.shape) for variable in metric.variables]
            state = metric.stateless_update_state(state, labels, x)
            return 1.0 - metric.stateless_result(state)

        return value

    def dense(x, labels):
        similarity = ops.matmul(x, ops.transpose(x))  # (B, B)
        relevance = ops.cast(labels[:, None] == labels[None, :], "float32")
        centres = ops.linspace(1.0, -1.0, num_bins)[:, None]
        offset = ops.abs(similarity[:, None, :] - centres) * ((num_bins - 1) / 2)
        weight = ops.relu(1.0 - offset)  # (B, M, B)
        positives = ops.sum(weight * relevance[:, None, :], axis=2)  # (B, M)
        precision = ops.cumsum(positives, 1) / ops.cumsum(ops.sum(weight, 2), 1)
        recall = positives / ops.sum(relevance, axis=1, keepdims=True)
        return 1.0 - ops.mean(ops.sum(precision * recall, axis=1))

    return {
        "dense": dense,
        "exact AP": metric_of_batch(BatchAP()),
        "recall": metric_of_batch(BatchRecall()),
        "ours": lambda x, labels: ops.mean(ap_loss(x, labels, num_bins=num_bins)),
        "floor": lambda x, weights: ops.mean(weights * ops.matmul(x, ops.transpose(x))),
        "check": lambda x, _: ops.all(ops.abs(ops.sum(x * x, axis=1) - 1) < 0.03),
    }[case]


def torch_step(case, num_bins, inputs):
    """As `make_step`, eager; on a GPU if there is one."""
    import torch
    from pytorch_metric_learning import losses

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, other = (torch.from_numpy(array).to(device) for array in inputs)
    x.requires_grad_()
    loss = {
        "floor": lambda x, weights: (weights * (x @ x.T)).mean(),
        "FastAP": losses.FastAPLoss(num_bins=num_bins - 1),  # it counts intervals
        "SmoothAP": losses.SmoothAPLoss(),
    }[case]

    def step():
        value = loss(x, other)
        torch.autograd.grad(value, x)
        return value.item()

    return step


def fit_step(num_bins, mode, inputs):
    """As `make_step`: a batch of `model.fit`. Without a GPU Keras defaults to graph."""
    import keras

    from keras_aploss.losses import APLoss

    x, labels = inputs
    layers = keras.layers.Dense(x.shape[1]), keras.layers.UnitNormalization()
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    jit_compile = {"XLA": True, "graph": False}.get(mode, "auto")
    model.compile("sgd", APLoss(num_bins), jit_compile=jit_compile)
    return lambda: model.fit(x, labels, len(x), verbose=0).history["loss"][0]


def make_step(case, num_bins, mode, inputs):
    """A function that runs the case and its gradient once and returns the loss."""
    if mode == "PyTorch":
        return torch_step(case, num_bins, inputs)
    if case == "fit":
        return fit_step(num_bins, mode, inputs)
    loss, with_gradient = keras_loss(case, num_bins), case not in WITHOUT_GRADIENT
    if mode == "JAX":
        import jax

        run = jax.jit(jax.value_and_grad(loss) if with_gradient else loss)
        tensors = jax.device_put(inputs)
        return lambda: jax.tree.leaves(jax.block_until_ready(run(*tensors)))[0]
    import tensorflow as tf

    @tf.function(jit_compile=mode == "XLA", autograph=False)
    def run_and_differentiate(x, other):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, other)
        return value, tape.gradient(value, x) if with_gradient else value

    tensors = [tf.constant(array) for array in inputs]
    return lambda: run_and_differentiate(*tensors)[0]


def seconds(step):
    """The wall time of one call, and the loss."""
    start = time.perf_counter()
    loss = float(step())  # waits for it
    return time.perf_counter() - start, loss


def memory(mode):
    """MiB in use and their peak: of an accelerator, else of this process."""
    if mode == "PyTorch":
        import torch

        if torch.cuda.is_available():
            used = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            return [value / 2**20 for value in used]
    if mode == "JAX":
        import jax

        if stats := jax.local_devices()[0].memory_stats():  # None on a CPU
            names = "bytes_in_use", "peak_bytes_in_use"
            return [stats[name] / 2**20 for name in names]
    status = Path("/proc/self/status").read_text()
    peak, now = re.findall(r"Vm(?:HWM|RSS):\s+(\d+)", status)
    return int(now) / 2**10, int(peak) / 2**10


def gpu_name():
    """The GPU by the name that NVIDIA's driver gives it; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    names = shown.stdout.splitlines() if shown.returncode == 0 else []
    return " and ".join(names) or None


def child(jobs, mode, size, repeats, memory_limit, **shape):
    """Run the jobs in turn for 10 s, or once if that is a minute; print the numbers."""
    resource.setrlimit(resource.RLIMIT_DATA, 2 * (int(memory_limit * 2**30),))
    small, inputs = (make_inputs(jobs[0][0], n, **shape) for n in (64, size))
    for job in jobs:
        make_step(*job, mode, small)()
    steps = [make_step(*job, mode, inputs) for job in jobs]
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    at_start, _ = memory(mode)
    runs = [[seconds(step) for step in steps] for _ in range(2)]
    once = sum(wall for wall, _ in runs[1])
    repeats = repeats or (1 if once > 60 else min(max(3, int(10 / once)), 15))
    runs += [[seconds(step) for step in steps] for _ in range(repeats - 1)]
    added, results = memory(mode)[1] - at_start, []
    for (first, loss), *others in zip(*runs, strict=True):
        times = [wall for wall, _ in others]
        result = {"best": min(times), "median": float(np.median(times))}
        results.append(result | {"first": first, "loss": loss, "added": added})
    print(json.dumps(results))


def run_child(args, **arguments):
    """Run `child` in a process of its own; return its numbers, or a `note`."""
    (case, num_bins), size = arguments["jobs"][0], arguments["size"]
    # Arrays of B x B that a case adds, from runs at small sizes; others need none.
    arrays = {"floor": 6, "dense": 5 * num_bins, "FastAP": 5 * num_bins}
    arrays["SmoothAP"] = 5.2 * size
    expected = arrays.get(case, 0) * 4 * size**2 / 2**30
    if expected > args.memory_limit:
        return [{"note": f"does not fit (needs about {expected:,.0f} GiB)"}]
    for name in ("images_per_class", "repeats", "memory_limit"):
        arguments[name] = getattr(args, name)
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    options = {"capture_output": True, "text": True, "timeout": args.time_limit}
    try:
        run = subprocess.run(command, **options)
    except subprocess.TimeoutExpired:
        return [{"note": f"took more than {args.time_limit:g} s"}]
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    if run.returncode < 0 or re.search("allocat|bad_alloc|OOM", run.stderr):
        return [{"note": f"out of memory? (exit {run.returncode})"}]
    return [{"note": run.stderr.strip().splitlines()[-1]}]


def format_row(row):
    """A line of the table."""
    line = "{case:<8} {mode:<8} {size:>7,} {units:>5,} {num_bins:>3}".format(**row)
    if "note" in row:
        return f"{line}  {row['note']}"
    line += "".join(f"{row[key]:9.4f} s" for key in ("best", "median", "first"))
    line += f"{row['ratio']:10,.3f} x" if "ratio" in row else " " * 12
    loss = "" if row["case"] in WITHOUT_AP else f"{row['loss']:8.4f}"
    return f"{line} {row['added']:7,.0f} MiB{loss}"


def measure_table(args, groups):
    """Run the `(mode, jobs)` at all sizes; print the rows and return them."""
    print(f"{'B     D   M':>29}       best     median      first", end="")
    print("       ratio       added    loss")
    rows, references = [], {}
    for size, units in itertools.product(args.sizes, args.units):
        for mode, jobs in groups:
            place = {"mode": mode, "size": size, "units": units}
            results = run_child(args, jobs=jobs, **place)
            for (case, num_bins), result in zip(jobs, results, strict=False):
                row = {"case": case, "num_bins": num_bins} | place | result
                if "best" in row and (case == "floor" or len(jobs) > 1):
                    references.setdefault((mode, size, units), row["best"])
                if "best" in row and (mode, size, units) in references:
                    row["ratio"] = row["best"] / references[mode, size, units]
                print(format_row(row), flush=True)
                rows.append(row)
    return rows


def curves(rows):
    """The rows that have numbers, by case and mode."""
    found = {}
    for row in (row for row in rows if "best" in row):
        found.setdefault((row["case"], row["mode"]), []).append(row)
    return found


def print_exponents(rows):
    """Print how time and added memory of `ours` grow, at its five largest sizes."""
    for (case, mode), points in curves(rows).items():
        if case == "ours" and len(points) > 1:
            logs = np.log([[p["size"], p["best"], p["added"]] for p in points[-5:]])
            time_power, memory_power = np.polyfit(logs[:, 0], logs[:, 1:], 1)[0]
            text = f"time grows as B^{time_power:.2f}, memory as B^{memory_power:.2f}"
            print(f"ours, {mode}, B = {points[-5:][0]['size']:,} and more: {text}")


def plot(rows, path):
    """Draw time and added memory against the batch size."""
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 11, "axes.spines.top": 0, "axes.spines.right": 0}
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 4.8), dpi=200)
    panels[0].set_title("Loss and gradient, seconds")
    panels[1].set_title("Added peak memory, MiB")
    for (case, mode), points in curves(rows).items():
        style = {"color": COLOURS[case], "linewidth": 2.5 if case == "ours" else 1.5}
        style |= {"label": f"{case}, {mode}", "marker": "o", "markersize": 4}
        sizes = [point["size"] for point in points]
        line = {"graph": "--", "PyTorch": ":"}.get(mode, "-")
        for panel, key in zip(panels, ("best", "added"), strict=True):
            panel.plot(sizes, [point[key] for point in points], line, **style)
    sizes = sorted({row["size"] for row in rows})
    for panel in panels:
        panel.set(xscale="log", yscale="log", xlabel="batch size B")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=40)
        panel.yaxis.set_major_formatter("{x:,g}")
        panel.minorticks_off()
        panel.grid(linewidth=0.4, color="#DDDDDD")
    figure.legend(handles=panels[0].lines, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    figure.savefig(path)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in list(COMMANDS)[1:]:
        kind = {"dest": "command", "action": "store_const", "const": name}
        parser.add_argument(f"--{name}", **kind)
    parser.add_argument("--from-json", type=Path, help="draw what --growth has stored")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", "--batch-size", type=int, nargs="+")
    parser.add_argument("--units", type=int, nargs="+")
    parser.add_argument("--num-bins", type=int, default=20)
    parser.add_argument("--images-per-class", type=int, default=8)
    parser.add_argument("--cases", nargs="+", choices=COLOURS, default=list(COLOURS))
    parser.add_argument("--repeats", type=int, help="default: by the time of one")
    parser.add_argument("--memory-limit", type=float, default=16, help="GiB")
    parser.add_argument("--time-limit", type=float, default=900, help="seconds")
    parser.add_argument("--json", type=Path, help="store the numbers here")
    parser.add_argument("--plot", type=Path, help="draw them against B here (PNG)")
    args = parser.parse_args()
    sizes, units, args.jobs = COMMANDS[args.command]
    args.sizes, args.units = args.sizes or sizes, args.units or units
    return args


def main() -> None:
    """Measure and print what the command line asks for."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Or PyTorch's threads, where a core is busy, wait ten times as long as they work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = parse_arguments()
    if args.child:
        return child(**args.child)
    if args.from_json:
        return plot(json.loads(args.from_json.read_text())["rows"], args.plot)
    cpu = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    installed = {found.name: found.version for found in metadata.distributions()}
    facts = [f"{name} {installed[name]}" for name in LIBRARIES if name in installed]
    place = gpu_name() or (cpu[1] if cpu else "?")
    machine = ", ".join([f"{os.cpu_count()} cores", place, *facts])
    print(machine)
    modes = ["JAX"] if os.environ["KERAS_BACKEND"] == "jax" else ["XLA", "graph"]
    pairs = [*itertools.product(("floor", "ours", "dense"), modes)]
    pairs += [(case, "PyTorch") for case in ("floor", "FastAP", "SmoothAP")]
    jobs = [(m, [(case, args.num_bins)]) for case, m in pairs if case in args.cases]
    rows = measure_table(args, [(m, args.jobs) for m in modes] if args.jobs else jobs)
    if args.command == "growth":
        print_exponents(rows)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install .[bench]") from error
