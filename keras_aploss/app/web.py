"""The web application: its addresses, and the answer of each.

    GET  /                        the page; its other files are below /page
    GET  /about                   how many images, their labels, limits, examples
    POST /embed?box=l,t,r,b       an image file -> its embedding, as text
    POST /search                  an embedding, filters, ranks -> results
    GET  /images/KEY              a thumbnail; /images/KEY/large for a query
    GET  /images/KEY/query        its embedding, label and name; ?box= for a part of it

Errors are JSON, `{"error": "why"}`. Starlette is imported where it is used: it comes
with the extra `app`.
"""

import functools
import json
import mimetypes
import pathlib
from collections.abc import Sequence

import keras

from keras_aploss.app.guard import (
    HEADERS,
    IDLE_SECONDS,
    LOCAL_HOSTS,
    SECONDS,
    BodyMemory,
    BusyError,
    Guard,
    TooLargeError,
)
from keras_aploss.app.image_search import (
    LARGE,
    SMALL,
    ImageSearch,
    from_text,
    to_text,
)
from keras_aploss.app.thumbnails import ImageGoneError
from keras_aploss.images import MAX_PIXELS
from keras_aploss.search import VectorIndex

_FOLDER = pathlib.Path(__file__).parent / "page"
_UPLOADS = 8  # of the largest size in memory at a time; others are refused
_EMBEDDERS = 8  # threads that wait for the model
_DRAWERS = 2  # threads that draw thumbnails, of images of up to 100 megapixels each
_QUESTION_BYTES = 2**20  # an embedding and some labels
_MOST_RESULTS = 200  # in one answer


def missing_extra(error: ImportError) -> ImportError:
    """The error for a missing package of the extra `app`."""
    return ImportError(
        "Expected `starlette` and `uvicorn`, which serve the page. Received: "
        f"{error}. Install them: pip install 'keras_aploss[app]'"
    )


def search_app(
    index: VectorIndex,
    model: keras.Model,
    *,
    image_size: int,
    max_upload_mib: float = 20,
    max_pixels: int = MAX_PIXELS,
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    verify: bool = True,
):
    """A web application whose page searches an index by image.

    `uvicorn.run(app)` serves it, and other ASGI applications can mount it. Uploads are
    neither stored nor logged. Of the files on disk, only images of the index are read,
    and they are sent only as thumbnails without EXIF.

    There is no log-in: anyone who reaches the port sees the images. To share it, put a
    proxy in front of it that checks users.

    Args:
        index: the index; `index.in_memory()` answers faster, and frees a local file
            for other processes. Images that are added later are found as well; labels
            and counts stay those of the start.
        model: the model of the index.
        image_size: side of the square crops that the index was made with.
        max_upload_mib: refuse larger files: before they are read if the request
            declares its size, else as soon as the limit is passed.
        max_pixels: refuse images of more pixels.
        allowed_hosts: host names, without ports, under which the page is served;
            `("*",)` for any. Keep the default on 127.0.0.1: otherwise other sites could
            read the images under a name of theirs that points to your machine.
        verify: show only files whose content still has the hash that `index_folder`
            stored. Set it to False for other ids that look like a hash (32 hexadecimal
            digits); then files must lie in the common folder of the index.

    Returns:
        A `starlette.applications.Starlette`.

    Raises:
        ImportError: the extra is missing: `pip install 'keras_aploss[app]'`.
        ValueError: an argument is out of range, or the index is empty or of another
            model.

    Example:
    >>> import importlib.util
    >>> from keras_aploss import VectorIndex, retrieval_model, search_app
    >>> model = retrieval_model("small_resnet", units=2)
    >>> index = VectorIndex(units=2)
    >>> index.add(["9f2c"], [[0.6, 0.8]], ["photos/crow.jpg"], ["crow"])
    >>> if importlib.util.find_spec("starlette"):  # with the extra
    ...     app = search_app(index, model, image_size=32)
    ...     # uvicorn.run(app, port=7860)
    """
    try:
        import anyio
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles
    except ImportError as error:
        raise missing_extra(error) from error
    if not max_upload_mib > 0:
        raise ValueError(
            f"Expected `max_upload_mib` above 0. Received: {max_upload_mib=}."
        )
    searcher = ImageSearch(
        index, model, image_size=image_size, max_pixels=max_pixels, verify=verify
    )
    pages = _Pages(searcher, int(max_upload_mib * 2**20), anyio)
    # The registry of Windows may call it text/plain, which browsers would not run.
    mimetypes.add_type("text/javascript", ".js")
    routes = [
        Route("/", _page),
        Mount("/page", StaticFiles(directory=_FOLDER)),
        Route("/about", pages.about),
        Route("/embed", pages.embed, methods=["POST"]),
        Route("/search", pages.search, methods=["POST"]),
        Route("/images/{key}", functools.partial(pages.picture, side=SMALL)),
        Route("/images/{key}/large", functools.partial(pages.picture, side=LARGE)),
        Route("/images/{key}/query", pages.query),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=allowed_hosts)],
        exception_handlers=_error_handlers(pages.limit),
    )


async def _page(request):
    from starlette.responses import FileResponse

    return FileResponse(_FOLDER / "page.html")


class _Pages:
    """The answers; the work is done in threads, so that other requests do not wait."""

    def __init__(self, searcher, limit, anyio):
        self._searcher, self.limit, self._anyio = searcher, limit, anyio
        self._run_sync = anyio.to_thread.run_sync
        self._memory = BodyMemory(_UPLOADS * max(limit, _QUESTION_BYTES))

    # Limiters belong to an event loop, and that exists from the first request on.
    @functools.cached_property
    def _embedders(self):
        return self._anyio.CapacityLimiter(_EMBEDDERS)

    @functools.cached_property
    def _drawers(self):
        return self._anyio.CapacityLimiter(_DRAWERS)

    async def about(self, request):
        searcher = self._searcher
        return _json(
            {
                "count": len(searcher),
                "labels": [[label, count] for label, count in searcher.labels.items()],
                "limit": self.limit,
                "examples": [result._asdict() for result in searcher.examples],
            }
        )

    async def embed(self, request):
        box, embed = _box(request), self._searcher.embed_upload
        async with self._memory.body(request, self.limit) as contents:
            if not contents:
                raise ValueError("it is empty")
            vector = await self._run_sync(embed, contents, box, limiter=self._embedders)
        return _json({"query": to_text(vector)})

    async def query(self, request):
        key, box = request.path_params["key"], _box(request)
        vector = await self._run_sync(self._searcher.embed_indexed, key, box)
        found = self._searcher.describe(key)
        return _json({**found._asdict(), "query": to_text(vector)})

    async def search(self, request):
        async with self._memory.body(request, _QUESTION_BYTES) as body:
            asked = _question(body)
        vector, labels = from_text(asked["query"]), asked["labels"] or None
        search = functools.partial(
            self._searcher.search,
            vector,
            asked["start"],
            asked["count"],
            labels=labels,
            expand_by=asked["expand"],
        )
        results = await self._run_sync(search)
        return _json(
            {
                "results": [result._asdict() for result in results],
                "total": self._searcher.count(labels),
            }
        )

    async def picture(self, request, side):
        from starlette.responses import Response

        contents = await self._run_sync(
            self._searcher.picture,
            request.path_params["key"],
            side,
            limiter=self._drawers,
        )
        # Other content has another id, so another key, and another address.
        kept = {"cache-control": "private, max-age=3600"}
        return Response(contents, media_type="image/jpeg", headers=kept)


def _json(data, status=200, headers=()):
    from starlette.responses import JSONResponse

    headers = {**dict(headers), "cache-control": "no-store"}
    return JSONResponse(data, status, headers=headers)


def _box(request):
    """The four numbers of `box`, or None; `ImageSearch` checks their range."""
    text = request.query_params.get("box")
    if text is None:
        return None
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(
            "Expected a box of four numbers: left,top,right,bottom. Received: "
            f"box={text[:80]!r}."
        ) from error
    return left, top, right, bottom


def _question(body):
    """The question in the body of `/search`, completed by defaults."""
    asked = {"labels": [], "start": 0, "count": 24, "expand": 0}
    try:
        asked |= json.loads(body)
        fits = isinstance(asked["query"], str) and isinstance(asked["labels"], list)
        fits = fits and all(isinstance(label, str) for label in asked["labels"])
        numbers = [asked[name] for name in ("start", "count", "expand")]
        fits = fits and all(type(number) is int for number in numbers)
        fits = fits and asked["count"] <= _MOST_RESULTS
    except (ValueError, TypeError, KeyError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(
            'Expected JSON: {"query": "...", "labels": ["..."], "start": 0, "count": '
            f'24, "expand": 0}}, `count` at most {_MOST_RESULTS}. Received: '
            f"{bytes(body[:80])!r}."
        )
    return asked


def _error_handlers(limit):
    """The status and the message for each class of exceptions."""
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    too_large = f"it is too large: at most {limit / 2**20:,.4g} MiB are taken"
    late = (
        f"it took longer than {SECONDS} seconds to arrive, or {IDLE_SECONDS} without a "
        "byte"
    )
    busy = "too many files are being received; try again"
    broken = "The server failed: its log tells why."

    def answer(status, sentence=None, headers=()):
        async def handle(request, error):
            return _json({"error": sentence or str(error)}, status, headers)

        return handle

    async def handle_http(request, error):
        return _json({"error": error.detail}, error.status_code)

    return {
        HTTPException: handle_http,
        TooLargeError: answer(413, too_large),
        TimeoutError: answer(408, late),
        BusyError: answer(503, busy),
        # The page breaks an upload off when another image is dropped: nobody reads it.
        ClientDisconnect: answer(400, "it was broken off"),
        ImageGoneError: answer(404),
        ValueError: answer(400),
        OSError: answer(503),
        # Starlette answers it outside of all middleware, and so of `Guard`.
        Exception: answer(500, broken, HEADERS),
    }
