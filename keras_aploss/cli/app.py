"""`keras-aploss app`: search an index by image in the browser."""

import sys
import warnings

import click

from keras_aploss.cli.indexes import open_index, quiet_engines
from keras_aploss.cli.options import index_options, max_pixels_option, query_options
from keras_aploss.cli.output import clear_errors


@click.command()
@index_options
@query_options
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all addresses of this machine.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port to listen on; 0 for any free port.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Accept requests for another host name as well, such as a proxy's.",
)
@click.option(
    "--max-upload-mib",
    type=click.FloatRange(0, min_open=True),
    default=20,
    show_default=True,
    help="Maximum size of an uploaded file.",
)
@max_pixels_option
@click.option(
    "--in-memory/--not-in-memory",
    default=True,
    show_default=True,
    help="Search a copy of the index in memory, or the index itself.",
)
def app(
    location,
    name,
    token,
    model,
    image_size,
    host,
    port,
    hosts,
    max_upload_mib,
    max_pixels,
    in_memory,
):
    """Search an index in the browser: drop an image, crop it, click a result.

    The page shows images of the index only, as thumbnails without EXIF; an uploaded
    image is not kept. By default the search runs on a copy in memory, and the index is
    free for other processes; restart to show what `keras-aploss index` has added.

    There is no log-in: with another `--host`, anyone who reaches the port sees the
    images.

    \b
    Examples:
        keras-aploss app
        keras-aploss app --index photos.db --port 8080
    """
    import PIL.Image

    from keras_aploss.app import PageServer, search_app

    quiet_engines()
    # For images between Pillow's limit and ours, about which the page informs.
    warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
    with clear_errors(), PageServer(host, port, hosts) as server:
        encoder, size, opened = open_index(location, name, token, model, image_size)
        with opened:
            served = opened.in_memory() if in_memory else opened
            if in_memory:
                opened.close()
            application = search_app(
                served,
                encoder,
                image_size=size,
                max_upload_mib=max_upload_mib,
                max_pixels=max_pixels,
                allowed_hosts=server.allowed_hosts,
            )
            server.listen()
            _announce(server, len(served), location)
            try:
                server.run(application)
            except KeyboardInterrupt:
                click.echo("Stopped.")


def _announce(server, count, location):
    if not server.is_local:
        click.echo(
            f"Anyone who reaches port {server.port} of this machine sees these images.",
            err=True,
        )
    click.echo(f"{location}: {count:,} images. Press Ctrl-C to stop.")
    click.echo(server.url)
    sys.stdout.flush()
