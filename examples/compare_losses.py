r"""Does a list beat triplets? Losses compared on the same images, each at its best.

One network is trained from random weights by each loss, on the same batches of the same
augmented images, by the same optimizer, and ranks images of classes that it never saw:

* losses: AP, tie-aware AP, triplet semi-hard, triplet hard (margin, soft margin, or
  that on embeddings not of unit length), and the features of a softmax classifier,
  which sees the same images in random order, as classifiers do;
* of the AP loss: the number of bins, with and without the query in its own list; GeM,
  average and max pooling; PCA whitening, learnt on the training images.

The learning rate of each loss, and the margin of the triplets, have the best mAP on
validation classes, a quarter of the *training* classes, with seed 0: rates on a grid of
factor 3 that grows while the best is at its edge. The chosen ones then train on all
training classes with the seeds 1, 2 and 3. Variants of the AP loss take its rate.

DATA is a CSV file for `image_manifest` with the splits train and test, or train, query
and gallery. On the test split each image queries all others.

    python examples/compare_losses.py data/omniglot/manifest.csv --json omniglot.json \
        --image-size 28 --steps 300 --plot omniglot.png
    python examples/compare_losses.py grocery/manifest.csv --json grocery.json \
        --image-size 48 --steps 600 --flip --plot grocery.png

On a GPU, with JAX, a training for each core, and what one compiles kept for the others:

    KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=/tmp/jax \
    python examples/compare_losses.py ... --workers 16

Each training is stored when it ends: the command goes on where it was killed and, where
nothing is left to train, prints the tables and draws. What was found:
`examples/comparison/README.md`.
"""

import argparse
import contextlib
import dataclasses
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

RATES, FACTOR = (1e-3, 3e-3), 3
LEAST_RATE = 1e-4  # a training that collapses at any rate is not followed below
SEEDS = (1, 2, 3)
OPTIONS = {  # what is chosen besides the rate
    "AP": [{}],
    "tie-aware AP": [{}],
    "triplet semi-hard": [{"margin": 0.2}, {"margin": 1.0}],
    "triplet hard": [
        {"margin": 0.2},
        {"soft": True},
        {"soft": True, "unit_length": False},  # as Hermans et al. train
    ],
    "softmax": [{}],
}
BINS = (5, 10, 20, 40)
POOLING = ("gem", "average", "max")
TABLES = ("bins", "pooling", "whitening")
WHITENING = {"none": None, "power 0.25": 0.25, "full (power 0.5)": 0.5}
METRICS = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: what it is, and all that it depends on."""

    loss: str
    options: str  # arguments of the loss, as JSON
    pooling: str
    rate: float
    seed: int
    is_final: bool  # on all training classes, measured on the test images


def make_trial(loss, options, rate, seed, *, pooling="gem", is_final=True):
    """Make a trial with the options of its loss as a text, which can be a key."""
    options = json.dumps(options, sort_keys=True)
    return Trial(loss, options, pooling, float(f"{rate:.3g}"), seed, is_final)


def read_images(arguments):
    """Read what all trainings share: arrays of images and labels by their use."""
    from keras_aploss import image_manifest, split_classes
    from keras_aploss.runs.data import choose_test_set

    size = arguments.image_size
    sets = image_manifest(arguments.data, image_size=size, verbose=1)
    train, (test, queries) = sets["train"], choose_test_set(sets)
    # A quarter larger, so that a crop of them is not blurred.
    large = type(train.images)(train.images.paths, round(size * 1.25))
    validation = split_classes(train, test_fraction=0.25)[1]
    return {
        "large": large.load(verbose=1),
        "train": train.images.load(),
        "train_labels": np.unique(train.labels, return_inverse=True)[1],
        "is_validation": np.isin(train.labels, validation.labels),
        "test": test.images.load(verbose=1),
        "test_labels": test.labels,
        "queries": np.arange(len(test.labels)) if queries is None else queries,
    }


def start_worker(path, arguments):
    """Load the images into this process, which is to end with the command."""

    def end_with_parent():  # or a killed command goes on training in its workers
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    global DATA, ARGUMENTS
    DATA, ARGUMENTS = dict(np.load(path)), arguments


def train(trial):
    """Train once; return the metrics of the images that the trial is measured on."""
    import keras

    from keras_aploss import Augmentation, ClassBalancedSampler

    keras.utils.set_random_seed(trial.seed)
    chosen = np.flatnonzero(trial.is_final | ~DATA["is_validation"])
    labels = np.unique(DATA["train_labels"][chosen], return_inverse=True)[1]
    augmentation = Augmentation(
        ARGUMENTS.image_size, scale=(0.5, 1), rotation=10, flip=ARGUMENTS.flip
    )
    images = DATA["large"][chosen]
    batches = ClassBalancedSampler(
        images,
        labels,
        classes_per_batch=ARGUMENTS.classes_per_batch,
        images_per_class=ARGUMENTS.images_per_class,
        steps_per_epoch=ARGUMENTS.steps,
        augment=augmentation,
        seed=trial.seed,
    )
    encoder = make_encoder(trial.pooling)
    model, loss = make_model(encoder, trial, num_classes=len(np.unique(labels)))
    warmup = ARGUMENTS.steps // 10
    schedule = keras.optimizers.schedules.CosineDecay(
        trial.rate / 10, ARGUMENTS.steps - warmup,
        warmup_target=trial.rate, warmup_steps=warmup,
    )  # fmt: skip
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss)
    if trial.loss == "softmax":
        batches = shuffle(batches, images, trial.seed)
    begin = time.perf_counter()
    history = model.fit(batches, shuffle=False, verbose=0).history
    row = {"seconds": time.perf_counter() - begin, "train_loss": history["loss"][-1]}
    return row | measure(encoder, trial)


def shuffle(batches, images, seed):
    """The images of all batches in random order: a batch of few classes misleads."""
    import keras

    class ShuffledBatches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            drawn = [batches.indices.batch(0, step) for step in range(len(batches))]
            order = np.random.default_rng([seed, 3]).permutation(np.concatenate(drawn))
            self.batches = np.split(order, len(batches))

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, step):
            augmented = [
                batches.augment(images[i], np.random.default_rng([seed, step, n]))
                for n, i in enumerate(self.batches[step])
            ]
            return np.stack(augmented), batches.labels[self.batches[step]]

    return ShuffledBatches()


def make_encoder(pooling):
    """The network of the comparison, with random weights."""
    from keras_aploss import retrieval_model
    from keras_aploss.models import small_resnet

    return retrieval_model(small_resnet((16, 32, 64)), units=64, pooling=pooling)


def make_model(encoder, trial, num_classes):
    """What is trained, and by which loss: the encoder, or a classifier around it."""
    import keras

    import keras_aploss

    if trial.loss == "softmax":
        # Logits of embeddings before they get unit length, as classifiers are trained.
        logits = keras.layers.Dense(num_classes)(encoder.get_layer("projection").output)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.Model(encoder.input, logits), loss
    losses = {
        "AP": keras_aploss.APLoss,
        "tie-aware AP": keras_aploss.TieAwareAPLoss,
        "triplet semi-hard": keras_aploss.TripletSemiHardLoss,
        "triplet hard": keras_aploss.TripletHardLoss,
    }
    options = json.loads(trial.options)
    if not options.pop("unit_length", True):
        encoder = keras.Model(encoder.input, encoder.get_layer("projection").output)
    return encoder, losses[trial.loss](**options)


def measure(encoder, trial):
    """Exact metrics on validation classes; or on the test images, whitened or not."""
    import keras

    from keras_aploss import PCAWhitening, embed

    if not trial.is_final:
        chosen = np.flatnonzero(DATA["is_validation"])
        embeddings = embed(encoder, DATA["train"][chosen], batch_size=256)
        every = np.arange(len(chosen))
        return {"none": metrics_of(embeddings, DATA["train_labels"][chosen], every)}
    test = embed(encoder, DATA["test"], batch_size=256)
    rows = {"none": metrics_of(test, DATA["test_labels"], DATA["queries"])}
    if (trial.loss, trial.options, trial.pooling) == ("AP", "{}", "gem"):
        training = embed(encoder, DATA["train"], batch_size=256)
        for name, power in WHITENING.items():
            if power:
                whitening = PCAWhitening(power=power)
                whitening.adapt(training)
                whitened = keras.ops.normalize(whitening(test))
                whitened = keras.ops.convert_to_numpy(whitened)
                rows[name] = metrics_of(whitened, DATA["test_labels"], DATA["queries"])
    return rows


def metrics_of(embeddings, labels, queries):
    """Leave one out; or queries against the images that are none, if not all are."""
    from keras_aploss.evaluation import evaluate_embeddings

    queries = None if len(queries) == len(labels) else queries
    metrics = evaluate_embeddings(embeddings, labels, queries).metrics
    return {name: metrics[name] for name in METRICS}


class Study:
    """Runs trials in processes, keeps what they return, and stores it.

    Args:
        path: the JSON file.
        make_pool: makes a `ProcessPoolExecutor`, once there is something to train.
    """

    def __init__(self, path, make_pool):
        self.path, self.make_pool, self.pool = path, make_pool, None
        self.lock = threading.RLock()
        self.rows = json.loads(path.read_text()) if path.exists() else []
        self.futures = {}
        for row in self.rows:
            future = self.futures[Trial(**row["trial"])] = Future()
            future.set_result(row["result"])

    def run(self, trial):
        """Begin a trial, if nobody has."""
        with self.lock:
            if trial not in self.futures:
                self.pool = self.pool or self.make_pool()
                self.futures[trial] = self.pool.submit(train, trial)
                self.futures[trial].add_done_callback(lambda f: self.store(trial, f))
            return self.futures[trial]

    def store(self, trial, future):
        """Write what is known so far, and a line for people who wait."""
        with self.lock:
            trial, result = dataclasses.asdict(trial), future.result()
            self.rows.append({"trial": trial, "result": result})
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.rows, indent=1) + "\n")
            part.replace(self.path)
            values = " ".join(f"{value!s:<17}" for value in trial.values())
            print(values, f"{result['none']['map']:.4f}", flush=True)

    def choose(self, loss):
        """The options and the rate with the best mAP on the validation classes."""
        scores = {}
        for options in OPTIONS[loss]:
            own, wanted = {}, RATES
            while wanted:
                trials = {
                    rate: make_trial(loss, options, rate, 0, is_final=False)
                    for rate in wanted
                }
                futures = {rate: self.run(trial) for rate, trial in trials.items()}
                own |= {r: f.result()["none"]["map"] for r, f in futures.items()}
                best = max(own, key=own.get)
                wanted = []
                if best == min(own) and best / FACTOR > LEAST_RATE:
                    wanted.append(best / FACTOR)
                if best == max(own):
                    wanted.append(best * FACTOR)
            scores |= {(json.dumps(options), rate): own[rate] for rate in own}
        options, rate = max(scores, key=scores.get)
        return json.loads(options), rate

    def repeat(self, loss, options, rate, pooling="gem"):
        """The results of the seeds."""
        trials = [make_trial(loss, options, rate, s, pooling=pooling) for s in SEEDS]
        return [future.result() for future in [self.run(trial) for trial in trials]]


def compare(study, losses, wanted):
    """Run what is wanted; return tables of lists of results, one for each seed."""
    with ThreadPoolExecutor(32) as threads:
        choices = {loss: threads.submit(study.choose, loss) for loss in losses}

        def of_loss(loss):
            return study.repeat(loss, *choices[loss].result())

        def of_ap(options, pooling="gem"):
            rate = choices["AP"].result()[1]
            return study.repeat("AP", options, rate, pooling)

        def of_bins(num_bins, **options):
            return of_ap(options | ({} if num_bins == 20 else {"num_bins": num_bins}))

        submit = threads.submit
        tables = {}
        if "bins" in wanted:
            tables["bins, query in its list"] = {n: submit(of_bins, n) for n in BINS}
            tables["bins, query left out"] = {
                n: submit(of_bins, n, exclude_self=True) for n in BINS
            }
        if "pooling" in wanted:
            tables["pooling"] = {name: submit(of_ap, {}, name) for name in POOLING}
        tables["loss"] = {loss: submit(of_loss, loss) for loss in losses}
        tables = {
            title: {str(name): future.result() for name, future in table.items()}
            for title, table in tables.items()
        }
    results = tables.pop("loss")
    rows = {_row_name(s, choices[s].result()): r for s, r in results.items()}
    tables = {"loss": rows} | tables
    if "whitening" in wanted:
        tables["whitening"] = {
            name: [{"none": result[name]} for result in results["AP"]]
            for name in WHITENING
        }
    return tables


def _row_name(loss, choice):
    """A loss with what was chosen for it."""
    options, rate = choice
    chosen = [
        {"soft": "soft", "unit_length": "not unit length"}.get(key, f"{key} {value}")
        for key, value in options.items()
    ]
    return ", ".join([loss, *chosen, f"rate {rate:.3g}"])


def statistics(results, metric):
    """Mean and standard deviation over the seeds."""
    values = [result["none"][metric] for result in results]
    return np.mean(values), np.std(values, ddof=1)


def print_tables(tables):
    """Print them as Markdown."""
    for title, table in tables.items():
        print(f"\n| {title} | {' | '.join(METRICS.values())} |")
        print("|---" * (1 + len(METRICS)) + "|")
        for name, results in table.items():
            cells = [statistics(results, metric) for metric in METRICS]
            cells = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in cells]
            print(f"| {name} | {' | '.join(cells)} |")


def plot(tables, path, title):
    """Draw the mAP of each row of the tables, with its deviation."""
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 10, "axes.spines.top": 0, "axes.spines.right": 0}
    heights = [len(table) for table in tables.values()]
    figure, panels = plt.subplots(
        len(tables), sharex=True, squeeze=False, height_ratios=heights, dpi=160,
        figsize=(8, 1.2 + 0.42 * sum(heights)), layout="constrained",
    )  # fmt: skip
    panels = panels[:, 0]
    for panel, (name, table) in zip(panels, tables.items(), strict=True):
        names = [row.partition(", rate")[0] for row in table]
        points = [statistics(results, "map") for results in table.values()]
        means, deviations = zip(*points, strict=True)
        is_best = [mean == max(means) for mean in means]
        colours = ["#0072B2" if best else "#9BB8CC" for best in is_best]
        panel.barh(names, means, xerr=deviations, color=colours, capsize=3, height=0.7)
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
        panel.invert_yaxis()
        panel.grid(axis="x", linewidth=0.4, color="#DDDDDD")
        panel.set_axisbelow(True)
    panels[-1].set(xlabel="mAP on classes that were not trained on")
    panels[0].set_xlim(0)
    figure.suptitle(title, x=0.01, ha="left")
    figure.savefig(path)
    plt.close(figure)


def main():
    """Train what is not stored yet; print the tables; draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="a CSV file for `image_manifest`")
    parser.add_argument("--json", type=Path, required=True, help="store results here")
    parser.add_argument("--plot", type=Path, help="draw the mAPs here (PNG)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400, help="updates of a training")
    parser.add_argument("--classes-per-batch", type=int, default=16)
    parser.add_argument("--images-per-class", type=int, default=8)
    parser.add_argument("--flip", action="store_true", help="mirror every other image")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--images", type=Path, help="keep decoded images here (npz)")
    parser.add_argument(
        "--losses", nargs="+", choices=OPTIONS, default=list(OPTIONS),
        help="what to compare, AP always",
    )  # fmt: skip
    parser.add_argument(
        "--tables", nargs="*", choices=TABLES, default=TABLES,
        help="what to vary of the AP loss",
    )  # fmt: skip
    arguments = parser.parse_args()
    losses = [loss for loss in OPTIONS if loss in ("AP", *arguments.losses)]
    # One thread of TensorFlow each: small convolutions hardly gain from a second. And
    # glibc keeps what is freed: to ask Linux for it at each step takes a third longer.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ |= {"MALLOC_ARENA_MAX": "1", "MALLOC_TOP_PAD_": str(2**28)}
    os.environ |= dict.fromkeys(
        ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**33)
    )
    # On a GPU no worker of JAX may take most of the memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:

        def make_pool():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            images = arguments.images or Path(folder) / "images.npz"
            if not images.exists():
                np.savez(images, **read_images(arguments))
            start = images, arguments
            return stack.enter_context(
                ProcessPoolExecutor(arguments.workers, spawn, start_worker, start)
            )

        study = Study(arguments.json, make_pool)
        tables = compare(study, losses, arguments.tables)
    cpu = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    batch = f"{arguments.classes_per_batch} x {arguments.images_per_class}"
    print(
        f"\n{arguments.data}: {arguments.image_size} px, {arguments.steps} updates of "
        f"{batch} images; {os.cpu_count()} cores, {cpu[1] if cpu else '?'}"
    )
    print_tables(tables)
    if arguments.plot:
        name = Path(arguments.data).absolute().parent.name
        title = f"{name}, {arguments.steps} updates: mean and deviation of 3 seeds"
        plot(tables, arguments.plot, title)


if __name__ == "__main__":
    main()
