"""`keras-aploss evaluate --benchmark`: a model by the protocol of a benchmark."""

import pathlib
import sys

import click

from keras_aploss.benchmarks import BENCHMARKS
from keras_aploss.cli.options import (
    PATH,
    batch_size_option,
    read_scales,
    scales_option,
    whitening_power_option,
)
from keras_aploss.cli.output import INTERRUPTED, clear_errors, print_metrics

_OPTIONS = [
    click.option("--benchmark", help=f"A public benchmark: {', '.join(BENCHMARKS)}."),
    click.option("--root", type=PATH, help="Folder of the benchmark's files."),
    click.option(
        "--distractors",
        type=PATH,
        help="Additional database images: the folder of revisitop1m, or an .npy file "
        "of their embeddings, not whitened.",
    ),
    scales_option,
    click.option(
        "--max-size",
        type=click.IntRange(min=1),
        help="Shrink images to at most this longer side; by default they keep their "
        "size.",
    ),
    click.option(
        "--whitening",
        type=PATH,
        help="Whiten the embeddings: an .npz file with mean and kernel (or mean, "
        "components, explained_variance), or an .npy file of embeddings to learn it "
        "from.",
    ),
    whitening_power_option,
    click.option(
        "--query-expansion",
        type=click.IntRange(min=1),
        metavar="K",
        help="Query expansion: add its K nearest images to each query.",
    ),
    click.option(
        "--database-augmentation",
        type=click.IntRange(min=1),
        metavar="K",
        help="Add its K nearest images to each database image.",
    ),
    click.option(
        "--alpha",
        default=3.0,
        show_default=True,
        help="Exponent of the similarities that weigh the K nearest images.",
    ),
    click.option(
        "--embeddings-dir",
        type=PATH,
        help="Folder of the embeddings; by default embeddings/MODEL/BENCHMARK.",
    ),
    batch_size_option("Number of images to embed at once."),
    click.option(
        "--check-files/--no-check-files",
        default=True,
        show_default=True,
        help="Check that all images exist before the first one is embedded.",
    ),
]
_HEADINGS = {"map": "mAP", "map_at_r": "MAP@R"}
_PREFIXES = {"mp_at_": "mP@", "recall_at_": "recall@", "map_at_": "mAP@"}


def benchmark_options(command):
    """Add the options of `--benchmark` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def run_benchmark(model, image_size, others, *, benchmark, embeddings_dir, **options):
    """Embed the remaining images, rank, and print a row of metrics per protocol.

    Args:
        model: path of the model.
        image_size: of class benchmarks; None: as in training.
        others: options of `evaluate` that exclude a benchmark, by name.
        benchmark: name of the benchmark.
        embeddings_dir: folder of the embeddings, or None.
        options: the other options of `benchmark_options`.
    """
    options["verbose"] = int(sys.stdout.isatty())
    folder = embeddings_dir or pathlib.Path("embeddings", model.stem, benchmark)
    with clear_errors():
        try:
            encoder, opened = _open(model, image_size, others, benchmark, options)
            results = _measure(encoder, opened, folder, options)
        except KeyboardInterrupt:
            click.echo(
                f"\nInterrupted: the embeddings so far are in {folder}. Rerun the "
                "command to resume.",
                err=True,
            )
            sys.exit(INTERRUPTED)
    rows = {name: result.metrics for name, result in results.items()}
    counts = ", ".join(
        f"{result.num_queries:,} ({name})" for name, result in results.items()
    )
    shown = {name: _heading(name) for name in opened.reported}
    print_metrics(rows, f"{benchmark}: exact metrics of queries {counts}", shown)
    click.echo(f"Embeddings: {folder}")


def _open(model, image_size, others, name, options):
    """Open benchmark and model, and check their options, before any image is read."""
    from keras_aploss.benchmarks import ClassBenchmark, read_benchmark
    from keras_aploss.images import ImageFiles
    from keras_aploss.runs import open_model

    given = [option for option, value in others.items() if value]
    if given:
        raise ValueError(f"Expected no {', '.join(given)} together with `--benchmark`.")
    if options["root"] is None:
        raise ValueError("Expected `--root DIR`, the folder of the benchmark's files.")
    options["scales"] = read_scales(options["scales"])
    benchmark = read_benchmark(
        name,
        options["root"],
        image_size=image_size or 224,
        check_files=options["check_files"],
        verbose=options["verbose"],
    )
    is_of_classes = isinstance(benchmark, ClassBenchmark)
    _check_options(benchmark, is_of_classes, image_size, options)
    trained = open_model(model, image_size, needs_size=is_of_classes)
    if is_of_classes:
        size = trained.settings.image_size
        images = ImageFiles(benchmark.test.images.paths, size)
        benchmark = benchmark._replace(test=benchmark.test._replace(images=images))
    return trained.encoder, benchmark


def _measure(encoder, benchmark, folder, options):
    """Embed, postprocess and rank; the results by protocol."""
    from keras_aploss.benchmarks import (
        benchmark_embeddings,
        distractor_embeddings,
        evaluate_benchmark,
        postprocess_benchmark,
    )

    units, verbose = encoder.output_shape[-1], options["verbose"]
    whitening = _read_whitening(options, units)
    distractors = _find_distractors(options, units)
    names = ("scales", "max_size", "batch_size", "verbose")
    extraction = {name: options[name] for name in names}
    queries, database = benchmark_embeddings(encoder, benchmark, folder, **extraction)
    if isinstance(distractors, list) and distractors:  # paths
        distractors = distractor_embeddings(encoder, distractors, folder, **extraction)
    k, augment = options["query_expansion"], options["database_augmentation"]
    queries, database, distractors = postprocess_benchmark(
        queries,
        database,
        folder,
        distractors=[distractors] if len(distractors) else [],
        whitening=whitening,
        query_expansion=(k, options["alpha"]) if k else None,
        database_augmentation=(augment, options["alpha"]) if augment else None,
        verbose=verbose,
    )
    return evaluate_benchmark(
        benchmark, queries, database, distractors=distractors, verbose=verbose
    )


def _check_options(benchmark, is_of_classes, image_size, options):
    if image_size and not is_of_classes:
        raise ValueError(
            f"Expected no `--image-size` with {benchmark.name}, whose images keep "
            "their size. Shrink them with `--max-size`."
        )
    names = ("max_size", "distractors", "query_expansion", "database_augmentation")
    given = ["--" + name.replace("_", "-") for name in names if options[name]]
    if is_of_classes and given:
        raise ValueError(
            f"Expected no {', '.join(given)} with {benchmark.name}, whose images query "
            "one another. They are for Oxford, Paris and Google Landmarks."
        )
    if not is_of_classes:
        count = len(benchmark.database_paths)
        for option in names[2:]:
            if (options[option] or 0) >= count:
                raise ValueError(
                    f"Expected `--{option.replace('_', '-')}` below the {count} images "
                    f"of the database. Received: {options[option]}."
                )


def _read_whitening(options, units):
    from keras_aploss.embeddings import read_whitening

    path = options["whitening"]
    if path is None:
        return None
    power = options["whitening_power"]
    whitening = read_whitening(path, power=power)
    mean = whitening[0] if isinstance(whitening, tuple) else whitening.mean
    if mean.shape != (units,):
        raise ValueError(
            f"Expected a whitening of the {units} units of the model. Received: "
            f"mean.shape={tuple(mean.shape)} in {str(path)!r}."
        )
    return whitening


def _find_distractors(options, units):
    """The stored embeddings of distractors, or the paths of their images."""
    from keras_aploss.benchmarks import read_distractor_paths
    from keras_aploss.embeddings import load_embeddings

    path = options["distractors"]
    if path is None:
        return []
    if path.suffix == ".npy":
        return load_embeddings(path, units=units)
    return read_distractor_paths(
        path, check_files=options["check_files"], verbose=options["verbose"]
    )


def _heading(metric):
    if metric in _HEADINGS:
        return _HEADINGS[metric]
    prefix = next(prefix for prefix in _PREFIXES if metric.startswith(prefix))
    return metric.replace(prefix, _PREFIXES[prefix])
