"""`keras-aploss evaluate --benchmark`: a model by the protocol of a benchmark."""

import pathlib
import sys

import click

from keras_aploss.benchmarks import (
    BENCHMARKS,
    ClassBenchmark,
    benchmark_embeddings,
    distractor_embeddings,
    evaluate_benchmark,
    postprocess_benchmark,
    read_benchmark,
    read_distractor_paths,
    read_whitening,
)
from keras_aploss.cli.models import load_encoder
from keras_aploss.cli.options import read_scales, scales_option
from keras_aploss.cli.output import INTERRUPTED, clear_errors, print_metrics
from keras_aploss.embeddings import load_embeddings
from keras_aploss.images import ImageFiles

_PATH = click.Path(path_type=pathlib.Path)
_OPTIONS = [
    click.option("--benchmark", help=f"One of {', '.join(BENCHMARKS)}."),
    click.option("--root", type=_PATH, help="Folder of the benchmark's files."),
    click.option(
        "--distractors",
        type=_PATH,
        help="More database images: the folder of revisitop1m, or a .npy file of their "
        "embeddings, not yet whitened.",
    ),
    scales_option,
    click.option(
        "--max-size",
        type=click.IntRange(min=1),
        help="Shrink longer sides to this; by default images keep their size.",
    ),
    click.option(
        "--whitening",
        type=_PATH,
        help="An .npz file with mean and kernel (or mean, components, "
        "explained_variance), or an .npy file of embeddings to learn it from.",
    ),
    click.option(
        "--whitening-power", default=0.25, show_default=True, help="Of the variances."
    ),
    click.option(
        "--query-expansion",
        type=click.IntRange(min=1),
        metavar="K",
        help="Add its K nearest images to each query.",
    ),
    click.option(
        "--database-augmentation",
        type=click.IntRange(min=1),
        metavar="K",
        help="Add its K nearest images to each image of the database.",
    ),
    click.option(
        "--alpha",
        default=3.0,
        show_default=True,
        help="Exponent of the similarities that weigh the K nearest.",
    ),
    click.option(
        "--embeddings-dir",
        type=_PATH,
        help="Folder of the embeddings; by default embeddings/, model and benchmark.",
    ),
    click.option(
        "--batch-size",
        default=16,
        type=click.IntRange(min=1),
        show_default=True,
        help="Images to embed at once.",
    ),
    click.option(
        "--check-files/--no-check-files",
        default=True,
        show_default=True,
        help="Look for all images before the first is embedded.",
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
    """Embed what is not embedded yet, rank, and print a row per protocol.

    Args:
        model: path of the model.
        image_size: of class benchmarks; None: that of the run.
        others: options of `evaluate`, which do not go with a benchmark.
        benchmark: its name.
        embeddings_dir: folder of the embeddings, or None.
        options: the other options of `benchmark_options`.
    """
    folder = embeddings_dir or pathlib.Path("embeddings", model.stem, benchmark)
    with clear_errors():
        try:
            measured, results = _measure(
                model, image_size, others, benchmark, folder, options
            )
        except KeyboardInterrupt:
            click.echo(
                f"\nInterrupted: the embeddings so far are in {folder}. Give the same "
                "command again to go on.",
                err=True,
            )
            sys.exit(INTERRUPTED)
    rows = {name: result.metrics for name, result in results.items()}
    counts = ", ".join(
        f"{result.num_queries:,} ({name})" for name, result in results.items()
    )
    shown = {name: _heading(name) for name in measured.reported}
    print_metrics(rows, f"{benchmark}: exact metrics of queries {counts}", shown)
    click.echo(f"Embeddings: {folder}")


def _measure(model, image_size, others, name, folder, options):
    verbose = int(sys.stdout.isatty())
    given = [option for option, value in others.items() if value]
    if given:
        raise ValueError(f"Expected no {', '.join(given)} together with `--benchmark`.")
    if options["root"] is None:
        raise ValueError("Expected `--root DIR`, the folder of the benchmark's files.")
    scales = read_scales(options["scales"])
    # Everything that can be wrong is looked at before the first image is embedded.
    benchmark = read_benchmark(
        name,
        options["root"],
        image_size=image_size or 224,
        check_files=options["check_files"],
        verbose=verbose,
    )
    is_of_classes = isinstance(benchmark, ClassBenchmark)
    _check_options(benchmark, is_of_classes, image_size, options)
    encoder, settings = load_encoder(model, image_size, needs_size=is_of_classes)
    if is_of_classes:
        images = ImageFiles(benchmark.test.images.paths, settings.image_size)
        benchmark = benchmark._replace(test=benchmark.test._replace(images=images))
    units = encoder.output_shape[-1]
    whitening = _read_whitening(options, units, verbose)
    distractors = _find_distractors(options, units, verbose)
    extraction = {
        "scales": scales,
        "max_size": options["max_size"],
        "batch_size": options["batch_size"],
        "verbose": verbose,
    }
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
    return benchmark, evaluate_benchmark(
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


def _read_whitening(options, units, verbose):
    path = options["whitening"]
    if path is None:
        return None
    power = options["whitening_power"]
    whitening = read_whitening(path, power=power, verbose=verbose)
    mean = whitening[0] if isinstance(whitening, tuple) else whitening.mean
    if mean.shape != (units,):
        raise ValueError(
            f"Expected a whitening of the {units} units of the model. Received: "
            f"mean.shape={tuple(mean.shape)} in {str(path)!r}."
        )
    return whitening


def _find_distractors(options, units, verbose):
    """Stored embeddings, or the list of the images that are to be embedded."""
    path = options["distractors"]
    if path is None:
        return []
    if path.suffix == ".npy":
        return load_embeddings(path, units=units)
    return read_distractor_paths(
        path, check_files=options["check_files"], verbose=verbose
    )


def _heading(metric):
    if metric in _HEADINGS:
        return _HEADINGS[metric]
    prefix = next(prefix for prefix in _PREFIXES if metric.startswith(prefix))
    return metric.replace(prefix, _PREFIXES[prefix])
