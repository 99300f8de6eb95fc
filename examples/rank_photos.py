r"""Draw how a model ranks photos of classes that it was not trained on.

    python examples/rank_photos.py saved_models/photos/1 grocery/manifest.csv \
        docs/pictures/photos.jpg

MODEL is what the commands take: a run folder, a `.keras` file or a version of a
SavedModel. DATA is a CSV file or a folder, as in `keras-aploss evaluate`: of a file
with the splits query and gallery, queries rank the gallery. The queries that are drawn
are chosen by their labels alone, of `--rows` classes, evenly spaced: not by what the
model makes of them. The ending of OUTPUT is its format; JPEG is the smallest.
"""

import argparse
import os
import pathlib

import numpy as np

from keras_aploss import draw_rankings, embed, evaluate_embeddings
from keras_aploss.report import choose_queries, rank_queries
from keras_aploss.runs import open_model, read_evaluation_set


def main(model, data, output, rows, results, size, image_size, quality):
    trained = open_model(model, image_size)
    chosen = read_evaluation_set(trained, str(data))
    images, labels, queries = chosen.images.images, chosen.images.labels, chosen.queries
    embeddings = embed(trained.encoder, images, workers=2 * (os.cpu_count() or 1))
    result = evaluate_embeddings(embeddings, labels, queries)
    database = None
    if queries is not None:
        database = np.setdiff1d(np.arange(len(labels)), queries)
    rankings = rank_queries(
        images,
        labels,
        embeddings,
        choose_queries(labels, rows, queries),
        database=database,
        num_results=results,
        average_precision=result.average_precision,
        class_names=chosen.images.class_names,
    )
    metrics = f"mAP {result.metrics['map']:.3f}, recall@1 "
    metrics += f"{result.metrics['recall_at_1']:.3f}"
    picture = draw_rankings(rankings, size=size)
    output.parent.mkdir(parents=True, exist_ok=True)
    is_jpeg = output.suffix in (".jpg", ".jpeg")
    options = {"quality": quality, "progressive": True} if is_jpeg else {}
    picture.save(output, **options)
    print(chosen.heading(result.average_precision))
    print(metrics)
    print(f"{output}: {picture.width} x {picture.height}, {output.stat().st_size:,} B")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw how a model ranks photos.")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=4, help="queries to draw")
    parser.add_argument("--results", type=int, default=6, help="of each query")
    parser.add_argument("--size", type=int, default=96, help="pixels of a photo drawn")
    parser.add_argument("--image-size", type=int, help="default: as the model says")
    parser.add_argument("--quality", type=int, default=80, help="of a JPEG")
    main(**vars(parser.parse_args()))
