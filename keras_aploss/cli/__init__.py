"""The command line: a module for each command of `keras-aploss`.

The modules define options and import only `click`; a command imports what it runs
inside its function. So `keras-aploss COMMAND --help` needs neither Keras nor
TensorFlow, which take seconds to import.
"""

import logging

import click

from keras_aploss import __version__
from keras_aploss.cli.app import app
from keras_aploss.cli.embed import embed
from keras_aploss.cli.evaluate import evaluate
from keras_aploss.cli.export import export
from keras_aploss.cli.extract import extract
from keras_aploss.cli.index import index
from keras_aploss.cli.manifest import manifest
from keras_aploss.cli.output import show_any_name
from keras_aploss.cli.quiet import quiet_tensorflow
from keras_aploss.cli.search import search
from keras_aploss.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Train image-retrieval models by optimizing Average Precision itself.

    \b
    A first run, on the built-in data set, takes about three minutes on two cores:
        keras-aploss train
    Then on your own images, one sub-folder per class:
        keras-aploss train --data photos/ --image-size 128
    """
    quiet_tensorflow()
    show_any_name()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for station in ("runs", "embeddings", "search"):
        logging.getLogger(f"keras_aploss.{station}").setLevel(logging.INFO)


for command in (train, evaluate, extract, export, embed, index, search, app, manifest):
    main.add_command(command)
