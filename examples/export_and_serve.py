r"""Export a trained model, and use it as TensorFlow Serving will: by image files.

    python examples/export_and_serve.py runs/photos/best.keras photos/ query.jpg \
        --image-size 128

Writes the next version of a SavedModel, loads it back without Keras, embeds the files
of a folder through its serving signature and prints those most similar to the query.
Beside the model it writes `request.json`, the body of a REST request, and prints the
commands that start a server and send it.

Result with the model of `train_folder.py` and its 972 photos: the eight nearest to one
of a milk carton all show that carton. It takes 18 seconds on two CPU cores, most of
them for the start of TensorFlow and the export.
"""

import argparse
import base64
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_aploss import export_saved_model, top_k
from keras_aploss.images import find_unreadable


def find_images(folder):
    """Return the readable image files in a folder, at any depth."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    bad = {skipped.path for skipped in find_unreadable(paths)}
    return [path for path in paths if str(path) not in bad]


def embed_files(serve, paths, batch_size=32):
    """Embed files, (N, D), by a signature that takes the bytes of a batch of them."""
    batches = []
    for start in range(0, len(paths), batch_size):
        contents = [path.read_bytes() for path in paths[start : start + batch_size]]
        batches.append(serve(image_bytes=tf.constant(contents))["embedding"].numpy())
    return np.concatenate(batches)


def print_commands(version, query, request):
    """Write the REST request for the query, and print how to serve the model."""
    image = base64.b64encode(query.read_bytes()).decode("ascii")
    request.write_text(json.dumps({"instances": [{"b64": image}]}))
    name, folder = version.parent.name, version.parent.resolve()
    print("\nServe it:")
    print(f"  docker run -p 8501:8501 -v {folder}:/models/{name} \\")
    print(f"    -e MODEL_NAME={name} tensorflow/serving")
    print('Ask it; the answer is {"predictions": [[the embedding of the query]]}:')
    print(f"  curl -d @{request} http://localhost:8501/v1/models/{name}:predict")
    print(f'The request: {{"instances": [{{"b64": "{image[:24]}..."}}]}}')


def main(model, folder, query, image_size, export_to, k):
    network = keras.saving.load_model(model, compile=False)
    version = export_saved_model(network, export_to, image_size=image_size)
    print(f"Exported to {version}")
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    database = [path for path in find_images(folder) if not path.samefile(query)]
    indices, similarities = top_k(
        embed_files(serve, [query]),
        embed_files(serve, database),
        k=min(k, len(database)),
    )
    print(f"Most similar to {query}:")
    for index, similarity in zip(indices[0], similarities[0], strict=True):
        print(f"  {similarity:.3f}  {database[index]}")
    print_commands(version, query, model.with_name("request.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export a model and query it.")
    parser.add_argument("model", type=pathlib.Path, help="a .keras file")
    parser.add_argument("folder", type=pathlib.Path, help="images to rank")
    parser.add_argument("query", type=pathlib.Path, help="an image file")
    parser.add_argument("--image-size", type=int, required=True, help="as in training")
    parser.add_argument("--export-to", default="saved_models/photos")
    parser.add_argument("-k", type=int, default=8, help="how many results")
    main(**vars(parser.parse_args()))
