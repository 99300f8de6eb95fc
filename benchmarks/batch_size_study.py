"""Are bigger lists better? Test mAP against the size of the batch, fairly tuned.

A batch of the AP loss is the list that each of its images ranks; the paper trains with
4,096 images. Here batches of 64 to 4,096 synthetic landmarks of 32 pixels train one
small network. A bigger batch costs more images, so there are two budgets:

* equal images: 8 epochs, in which a bigger batch makes fewer updates;
* equal updates: the 16 that batches of 4,096 make, so a smaller one sees fewer images.

Each batch size has its own learning rate: the best mAP on validation landmarks, with
seed 0, on a grid of factor 2 that grows until the best is not at its edge. Then seeds
1, 2 and 3 are measured on test landmarks. No landmark has two uses.

Only the list differs: `MultistageTrainer` embeds all batches in chunks of 64 images, so
that batch normalization always sees 64. Its moving averages follow the weights with a
delay of some ten updates, which is much of a training of 16: after training they are
measured anew, for all batch sizes.

    python benchmarks/batch_size_study.py --json study.json --plot study.png
    python benchmarks/batch_size_study.py --json study.json --start fine-tuning

Fine-tuning starts from weights that were trained on other landmarks. Each training is
stored when it ends: the command goes on where it was killed and, where nothing is left
to train, prints the table and draws.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import re
import tempfile
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

BATCH_SIZES = (64, 256, 1024, 4096)
EPOCHS, LANDMARKS, VIEWS = 8, 512, 16
RATES = {"random weights": (2e-3, 4e-3, 8e-3), "fine-tuning": (1e-3, 2e-3, 4e-3)}
BUDGETS = ("equal images", "equal updates")
SEEDS = (1, 2, 3)
PRETRAINING = ("pretraining", 256, 128, 4e-3, 0)  # 4 epochs, on other landmarks
KEY = ("start", "batch_size", "steps", "rate", "seed")
WEIGHTS = Path(tempfile.gettempdir()) / "batch_size_study.weights.h5"


@functools.cache
def landmarks():
    """Images and labels by their use, drawn once in each process."""
    from keras_aploss import synthetic_landmarks

    drawn = synthetic_landmarks(2 * LANDMARKS, VIEWS, 32, num_test_landmarks=128)
    halves = [
        half
        for part in drawn
        for half in zip(np.split(part.images, 2), np.split(part.labels, 2), strict=True)
    ]
    return dict(zip(("training", "other", "validation", "test"), halves, strict=True))


def make_encoder():
    """The network of the study, with random weights."""
    from keras_aploss import retrieval_model
    from keras_aploss.models import small_resnet

    backbone = small_resnet(filters=(16, 32, 64))
    return retrieval_model(backbone, units=64, freeze_batch_norm=False)


@functools.cache
def make_trainer(batch_size):
    """The compiled trainer. Tracing takes seconds: once in each process."""
    import keras

    from keras_aploss import APLoss, MultistageTrainer

    trainer = MultistageTrainer(make_encoder(), num_chunks=batch_size // 64)
    optimizer = keras.optimizers.AdamW(weight_decay=1e-4)
    trainer.compile(optimizer, APLoss(), jit_compile=False)
    return trainer


def train(start, batch_size, steps, rate, seed):
    """Train once, as `keras_aploss.train_run` does; return what goes into the JSON."""
    import keras

    from keras_aploss import ClassBalancedSampler

    trainer, encoder = make_trainer(batch_size), make_trainer(batch_size).encoder
    for variable in trainer.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    keras.utils.set_random_seed(seed)
    encoder.set_weights(make_encoder().get_weights())
    if start == "fine-tuning":
        encoder.load_weights(WEIGHTS)
    images, labels = landmarks()["other" if start == "pretraining" else "training"]
    batch = {"classes_per_batch": batch_size // 8, "images_per_class": 8}
    batch |= {"steps_per_epoch": steps, "seed": seed}
    sampler = ClassBalancedSampler(images, labels, **batch)
    warmup = steps // 10
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 10, steps - warmup, warmup_target=rate, warmup_steps=warmup
    )

    def set_rate(step, logs=None):
        trainer.optimizer.learning_rate = float(schedule(step))

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=set_rate)
    begin = time.perf_counter()
    history = trainer.fit(sampler, shuffle=False, callbacks=[callback], verbose=0)
    row = dict(zip(KEY, (start, batch_size, steps, rate, seed), strict=True))
    row |= {"seconds": time.perf_counter() - begin, "loss": history.history["loss"][0]}
    row["moving averages"] = measure(encoder)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        encoder(images[rng.choice(len(images), 256, replace=False)], training=True)
    if start == "pretraining":
        encoder.save_weights(WEIGHTS)
    return row | measure(encoder)


def measure(encoder):
    """Exact mAP and recall@1 on the validation and on the test landmarks."""
    from keras_aploss import embed, evaluate_leave_one_out

    results = {}
    for use in ("validation", "test"):
        images, labels = landmarks()[use]
        metrics = evaluate_leave_one_out(embed(encoder, images), labels).metrics
        results[use] = {name: metrics[name] for name in ("map", "recall_at_1")}
    return results


def study(run, start, budget, batch_size):
    """Choose the learning rate, then train with the seeds."""
    counted = batch_size if budget == "equal images" else max(BATCH_SIZES)
    case = start, batch_size, EPOCHS * LANDMARKS * VIEWS // counted
    scores, wanted = {}, RATES[start]
    while wanted:
        rows = {rate: run(*case, rate, 0) for rate in wanted}
        scores |= {r: row.result()["validation"]["map"] for r, row in rows.items()}
        best = max(scores, key=scores.get)
        wanted = [rate for rate in (best / 2, best * 2) if rate not in scores]
    return [row.result() for row in [run(*case, best, seed) for seed in SEEDS]]


def study_all(path, starts, workers):
    """The rows of each study, by start, budget and batch size."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    if not WEIGHTS.exists():
        rows = [row for row in rows if row["start"] != "pretraining"]
    futures, lock = {}, threading.RLock()
    for row in rows:
        futures[tuple(row[name] for name in KEY)] = future = Future()
        future.set_result(row)

    def store(future):
        with lock:
            rows.append(row := future.result())
            path.with_suffix(".part").write_text(json.dumps({"rows": rows}, indent=1))
            path.with_suffix(".part").replace(path)
            columns = " ".join(f"{row[name]:>14}" for name in KEY)
            maps = f"{row['validation']['map']:.4f} {row['test']['map']:.4f}"
            print(f"{columns} {maps} {row['seconds']:4.0f} s", flush=True)

    def run(*key):
        with lock:
            if key not in futures:
                futures[key] = pool.submit(train, *key)
                futures[key].add_done_callback(store)
            return futures[key]

    # One thread of TensorFlow each: small convolutions hardly gain from a second.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn) as pool, ThreadPoolExecutor() as threads:
        if "fine-tuning" in starts:
            run(*PRETRAINING).result()
        cases = list(itertools.product(starts, BUDGETS, BATCH_SIZES))
        results = threads.map(lambda case: study(run, *case), cases)
        return dict(zip(cases, results, strict=True))


def statistics(rows, metric):
    """Mean and standard deviation over the seeds, on the test landmarks."""
    values = [row["test"][metric] for row in rows]
    return np.mean(values), np.std(values, ddof=1)


def print_table(found):
    """One line for each study."""
    for start, budget, size in found:
        if size == BATCH_SIZES[0]:
            print(f"\n{start}, {budget}")
            print("batch updates   images   rate            mAP       recall@1    time")
        rows = found[start, budget, size]
        steps, rate = rows[0]["steps"], rows[0]["rate"]
        line = f"{size:>5,} {steps:>7,} {size * steps:>8,} {rate:6g}"
        for metric in ("map", "recall_at_1"):
            line += "  {:.3f} ± {:.3f}".format(*statistics(rows, metric))
        print(line, f"{np.median([row['seconds'] for row in rows]):5.0f} s")


def plot(found, path):
    """Draw test mAP against the batch size."""
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 11, "axes.spines.top": 0, "axes.spines.right": 0}
    starts = list(dict.fromkeys(start for start, _, _ in found))
    options = {"figsize": (1 + 4.5 * len(starts), 4), "dpi": 200, "squeeze": False}
    figure, panels = plt.subplots(1, len(starts), sharey=True, **options)
    for panel, start in zip(panels[0], starts, strict=True):
        for budget, colour in zip(BUDGETS, ("#0072B2", "#D55E00"), strict=True):
            points = [statistics(found[start, budget, n], "map") for n in BATCH_SIZES]
            means, deviations = zip(*points, strict=True)
            style = {"color": colour, "marker": "o", "markersize": 4, "capsize": 4}
            panel.errorbar(BATCH_SIZES, means, deviations, label=budget, **style)
        panel.set(xscale="log", xlabel="batch size = length of the list", title=start)
        panel.set_xticks(BATCH_SIZES, [f"{size:,}" for size in BATCH_SIZES])
        panel.minorticks_off()
        panel.grid(linewidth=0.4, color="#DDDDDD")
    panels[0, 0].set(ylabel="mAP on unseen landmarks", ylim=(0, 1))
    panels[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Train what is not stored yet; print the table; draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="store the runs here")
    parser.add_argument("--plot", type=Path, help="draw mAP against B here (PNG)")
    starts = {"nargs": "+", "choices": list(RATES), "default": ["random weights"]}
    parser.add_argument("--start", **starts)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    args = parser.parse_args()
    found = study_all(args.json, args.start, args.workers)
    cpu = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{os.cpu_count()} cores, {cpu[1] if cpu else '?'}")
    print_table(found)
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
