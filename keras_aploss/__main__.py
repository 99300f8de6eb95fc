"""Run the command line as `python -m keras_aploss`."""

from keras_aploss.cli import main

main(prog_name="keras-aploss")
