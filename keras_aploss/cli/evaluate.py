"""`keras-aploss evaluate`: exact metrics of a trained model."""

import pathlib
import sys

import click

from keras_aploss.callbacks import RetrievalEvaluation
from keras_aploss.cli.benchmark import benchmark_options, run_benchmark
from keras_aploss.cli.models import load_encoder, training_of
from keras_aploss.cli.output import as_command, clear_errors, print_metrics
from keras_aploss.evaluation import evaluate_embeddings
from keras_aploss.report import pixel_embeddings, write_evaluation
from keras_aploss.runs import read_evaluation_set


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("--data", help="As for `train`; by default the data of the run.")
@click.option("--split", help="Split to evaluate; by default the test set.")
@click.option("--image-size", type=int, help="By default that of the run.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Write a page (`index.html`) with curves, classes and the best and worst "
    "queries into this folder, with its figures and pictures as files.",
)
@benchmark_options
@click.pass_context
def evaluate(context, model, data, split, image_size, report, **options):
    """Measure MODEL on a set of images.

    MODEL is a run folder, a `.keras` or `.pt` file, or a version of a SavedModel.

    Each image queries all the others; in a CSV file with the splits query and gallery,
    the former query the latter.

    With `--benchmark`, measure it by the protocol of a public benchmark, whose files
    are in `--root`. Embeddings are stored: a command that was stopped or killed goes on
    where it was. At one scale and the original size, as the paper measures:

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
        run_benchmark(model, image_size, others, **options)
        return
    given = [
        "--" + name.replace("_", "-")
        for name in options
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    with clear_errors():
        if given:
            raise ValueError(
                f"Expected {', '.join(given)} together with `--benchmark NAME`. "
                "Received: none."
            )
        network, settings = load_encoder(model, image_size)
        images, queries = read_evaluation_set(
            settings, data, split, verbose=int(sys.stdout.isatty())
        )
        evaluation = RetrievalEvaluation(images.images, images.labels, queries=queries)
        evaluation.set_model(network)
        snapshot = evaluation.evaluate(-1)
        pixels = evaluate_embeddings(
            pixel_embeddings(images.images), images.labels, queries
        )
        results = {"raw pixels": pixels, "model": snapshot.result}
        written = []
        if report:
            facts = {
                "Model": str(model),
                "Data": data or settings.data,
                "Split": split or "the test set",
                "Image size": settings.image_size,
                "Command": as_command(context),
            }
            written = write_evaluation(
                report, images, snapshot, results=results, queries=queries,
                facts=facts, training=training_of(model),
            )  # fmt: skip
    metrics = {name: result.metrics for name, result in results.items()}
    count = snapshot.result.num_queries
    print_metrics(metrics, f"Exact metrics of {count:,} queries")
    _print_files(images.skipped, written)


def _print_files(skipped, written):
    if skipped:
        click.echo(f"\nLeft out: {len(skipped)} files or classes, such as")
        for path, reason in skipped[:3]:
            click.echo(f"  {path}: {reason}")
    if written:
        click.echo("\nWritten:")
    for file in written:
        click.echo(f"  {file}")
