"""The option `--scales`: factors of the sizes of images, as a text."""

import click

from keras_aploss.embeddings import check_scales

scales_option = click.option(
    "--scales",
    default="1",
    show_default=True,
    help="Factors at which each image is embedded, such as 1,0.7071,0.5.",
)


def read_scales(text: str) -> list[float]:
    """Return the numbers of `--scales`; raise a ValueError unless all are above 0."""
    try:
        return check_scales([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ValueError(
            "Expected `--scales` as numbers above 0 with commas between, such as "
            f"1,0.7071,0.5. Received: {text!r}."
        ) from error
