"""`keras-aploss evaluate`: exact metrics of a trained model."""

import pathlib
import sys

import click

from keras_aploss.cli.benchmark import benchmark_options, run_benchmark
from keras_aploss.cli.options import image_size_option, model_argument
from keras_aploss.cli.output import as_command, clear_errors, print_metrics


@click.command()
@model_argument
@click.option(
    "--data",
    help="A folder or CSV file, as in `train`; by default the data of the run.",
)
@click.option("--split", help="Split to evaluate; by default the test set.")
@click.option(
    "--keep-duplicates/--no-keep-duplicates",
    default=None,
    help="Keep files with the contents of another one; by default as in training.",
)
@image_size_option
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Write a page (`index.html`) with curves, classes and the best and worst "
    "queries, and its figures and pictures as files, into this folder.",
)
@benchmark_options
@click.pass_context
def evaluate(
    context, model, data, split, keep_duplicates, image_size, report, **options
):
    """Compute exact retrieval metrics of MODEL on a set of images.

    MODEL is a run folder, a `.keras` or `.pt` file, or a version of a SavedModel.

    Each image is a query against all others (leave-one-out). In a CSV file with the
    splits query and gallery, the queries rank the gallery.

    With `--benchmark`, the model is evaluated by the protocol of a public benchmark,
    whose files are in `--root`. Embeddings are stored. If interrupted, rerun the
    command to resume.

    \b
    Examples:
        keras-aploss evaluate runs/landmarks
        keras-aploss evaluate runs/landmarks --data photos/ --report report/
        keras-aploss evaluate saved_models/synthetic_landmarks/1 --image-size 64
        keras-aploss evaluate Resnet-101-AP-GeM.pt --benchmark roxford5k --root /data
        keras-aploss evaluate model.keras --benchmark rparis6k --root /data \\
            --whitening pca.npz --distractors /data/revisitop1m
    """
    if options["benchmark"]:
        others = {"--data": data, "--split": split, "--report": report}
        others["--keep-duplicates"] = keep_duplicates
        run_benchmark(model, image_size, others, **options)
        return
    from keras_aploss.callbacks import RetrievalEvaluation
    from keras_aploss.evaluation import evaluate_embeddings
    from keras_aploss.report import pixel_embeddings, write_evaluation
    from keras_aploss.runs import open_model, read_evaluation_set

    with clear_errors():
        _require_none_given(context, options)
        trained = open_model(model, image_size)
        chosen = read_evaluation_set(
            trained, data, split, keep_duplicates=keep_duplicates,
            verbose=int(sys.stdout.isatty()),
        )  # fmt: skip
        images, queries = chosen.images, chosen.queries
        evaluation = RetrievalEvaluation(images.images, images.labels, queries=queries)
        evaluation.set_model(trained.encoder)
        snapshot = evaluation.evaluate(-1)
        pixels = evaluate_embeddings(
            pixel_embeddings(images.images), images.labels, queries
        )
        results = {"raw pixels": pixels, "model": snapshot.result}
        precision = snapshot.result.average_precision
        written = []
        if report:
            facts = {
                "Model": str(model),
                "Training": trained.state or "not known",
                "Data": data or trained.settings.data,
                "Split": chosen.title,
                "Image size": trained.settings.image_size,
                "Command": as_command(context),
            }
            written = write_evaluation(
                report, images, snapshot, results=results, queries=queries,
                num_seen=chosen.num_seen(precision), facts=facts, training=trained.run,
            )  # fmt: skip
    metrics = {name: result.metrics for name, result in results.items()}
    print_metrics(metrics, f"Exact metrics on {chosen.heading(precision)}")
    _print_files(images.skipped, written)


def _require_none_given(context, options):
    """Check that no option of a benchmark was given, where none is named."""
    given = [
        "--" + name.replace("_", "-")
        for name in options
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise ValueError(
            f"Expected {', '.join(given)} together with `--benchmark NAME`. "
            "Received: none."
        )


def _print_files(skipped, written):
    if skipped:
        click.echo(f"\nLeft out: {len(skipped)} files or classes, such as")
        for path, reason in skipped[:3]:
            click.echo(f"  {path}: {reason}")
    if written:
        click.echo("\nWritten:")
    for file in written:
        click.echo(f"  {file}")
