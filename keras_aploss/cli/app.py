"""`keras-aploss app`: search an index by image in the browser."""

import ipaddress
import socket
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

    from keras_aploss.app import missing_extra, search_app

    quiet_engines()
    # For images between Pillow's limit and ours, about which the page informs.
    warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
    with clear_errors():
        try:
            import uvicorn
        except ImportError as error:
            raise missing_extra(error) from error
        with _bound(host, port) as listener:
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
                    allowed_hosts=_allowed(host, hosts),
                )
                config = uvicorn.Config(
                    application,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=3,
                )
                listener.listen()
                _announce(host, listener.getsockname()[1], len(served), location)
                try:
                    uvicorn.Server(config).run(sockets=[listener])
                except KeyboardInterrupt:
                    click.echo("Stopped.")


def _bound(host, port):
    """Bind the address first: it fails at once, and the rest takes time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if sys.platform != "win32":  # where it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"Expected a free port at an address of this machine. Received: {host}, "
            f"port {port}: {error.strerror or error}. Choose another `--port` or "
            "`--host`."
        ) from error
    return listener


def _is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allowed(host, more):
    from keras_aploss.app import LOCAL_HOSTS

    if _is_local(host):
        return (*LOCAL_HOSTS, host, *more)
    return (*LOCAL_HOSTS, host, *more) if more else ("*",)


def _announce(host, port, count, location):
    if not _is_local(host):
        click.echo(
            f"Anyone who reaches port {port} of this machine sees these images.",
            err=True,
        )
    shown = f"[{host}]" if ":" in host else host
    shown = "127.0.0.1" if host == "0.0.0.0" else shown
    click.echo(f"{location}: {count:,} images. Press Ctrl-C to stop.")
    click.echo(f"http://{shown}:{port}/")
    sys.stdout.flush()
