"""The application: addresses, and what is answered there.

    GET  /                        the page
    GET  /about                   how many images, their labels, limits, examples
    POST /embed?box=l,t,r,b       an image file -> its embedding, as text
    POST /search                  an embedding, filters, ranks -> results
    GET  /images/KEY              a picture; /images/KEY/large one of a query
    GET  /images/KEY/query        what the page needs to search by it; ?box= for a part

Errors are JSON, `{"error": "why"}`. Starlette is imported where it is used: it
comes with the extra `app`, as the server does.
"""

import functools
import importlib.resources
import json
from collections.abc import Sequence

import keras

from keras_aploss.app.guard import (
    LOCAL_HOSTS,
    SECONDS,
    Guard,
    TooLargeError,
    read_body,
)
from keras_aploss.app.image_search import (
    LARGE,
    SMALL,
    ImageSearch,
    from_text,
    to_text,
)
from keras_aploss.app.thumbnails import ImageGoneError
from keras_aploss.images import MAX_PIXELS, require_positive
from keras_aploss.search import VectorIndex

_FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "view.js": "text/javascript",
    "crop.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_UPLOADS = 8  # that are received at a time; others wait
_DRAWERS = 2  # threads that draw pictures, of up to 100 megapixels each
_QUESTION_BYTES = 2**20  # an embedding and some labels
_MOST_RESULTS = 200  # of one request


def missing_extra(error: ImportError) -> ImportError:
    """The error that names the extra."""
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
    """An application with a page that searches an index by images.

    It is of the kind (ASGI) that `uvicorn.run(app)` serves and other applications
    mount. Uploads are neither stored nor logged. Files of the index are the only ones
    that it reads, and small pictures, without EXIF, are all that leaves of them.

    There is no log-in: who reaches the port sees the images. Give it to others through
    a server that asks who they are.

    Args:
        index: the index; `index.in_memory()` answers faster, and frees a local file
            for other processes. What is added to it later is found, too; labels and
            counts are those of now.
        model: the model of the index.
        image_size: side of the squares that the index was made with.
        max_upload_mib: refuse larger files, before they are read, where their size is
            told, or as soon as they have turned out to be.
        max_pixels: refuse images of more pixels.
        allowed_hosts: names, without ports, under which the page may be asked for;
            `("*",)` for any. On 127.0.0.1, leave it: other sites could else read the
            images by a name of theirs that leads to your machine.
        verify: show only files whose content is still that of the index, by the hash
            that `index_folder` has noted. False for other ids that look like it (32
            hexadecimal digits): then a file has to lie in the common folder.

    Returns:
        A `starlette.applications.Starlette`.

    Raises:
        ImportError: the extra is missing: `pip install 'keras_aploss[app]'`.
        ValueError: the index is empty, or of another model.

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
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra(error) from error
    if not max_upload_mib > 0:
        raise ValueError(
            f"Expected `max_upload_mib` above 0. Received: {max_upload_mib=}."
        )
    require_positive(max_pixels=max_pixels)
    searcher = ImageSearch(
        index, model, image_size=image_size, max_pixels=max_pixels, verify=verify
    )
    pages = _Pages(searcher, int(max_upload_mib * 2**20), anyio)
    routes = [
        Route("/", functools.partial(_file, "page.html")),
        *(Route(f"/{name}", functools.partial(_file, name)) for name in _FILES),
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


async def _file(name, request):
    from starlette.responses import Response

    folder = importlib.resources.files("keras_aploss.app") / "page"
    contents = (folder / name).read_bytes()
    return Response(
        contents, media_type=_FILES[name], headers={"cache-control": "no-cache"}
    )


class _Pages:
    """What is answered; the work is done in threads, so that nobody else waits."""

    def __init__(self, searcher, limit, anyio):
        self._searcher, self.limit, self._anyio = searcher, limit, anyio
        self._run_sync = anyio.to_thread.run_sync

    # Limiters belong to an event loop, which there is not before the first request.
    @functools.cached_property
    def _uploads(self):
        return self._anyio.CapacityLimiter(_UPLOADS)

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
        box = _box(request)
        async with self._uploads:
            contents = await read_body(request, self.limit)
            if not contents:
                raise ValueError("it is empty")
            vector = await self._run_sync(self._searcher.embed_upload, contents, box)
        return _json({"query": to_text(vector)})

    async def query(self, request):
        key, box = request.path_params["key"], _box(request)
        vector = await self._run_sync(self._searcher.embed_indexed, key, box)
        found = self._searcher.describe(key)
        return _json({**found._asdict(), "query": to_text(vector)})

    async def search(self, request):
        asked = _question(await read_body(request, _QUESTION_BYTES))
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
        # The key is of the content: another content has another address.
        kept = {"cache-control": "private, max-age=3600"}
        return Response(contents, media_type="image/jpeg", headers=kept)


def _json(data, status=200):
    from starlette.responses import JSONResponse

    return JSONResponse(data, status, headers={"cache-control": "no-store"})


def _box(request):
    """The numbers of `box`, or None; they are checked where they are used."""
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
    """What `/search` is asked, with what was left out."""
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
    """A sentence for everything that can go wrong."""
    from starlette.exceptions import HTTPException

    too_large = f"it is too large: at most {limit / 2**20:,.4g} MiB are taken"
    late = f"it took longer than {SECONDS} seconds to arrive"
    broken = "The server failed: its log tells why."

    def answer(status, sentence=None):
        async def handle(request, error):
            return _json({"error": sentence or str(error)}, status)

        return handle

    async def handle_http(request, error):
        return _json({"error": error.detail}, error.status_code)

    return {
        HTTPException: handle_http,
        TooLargeError: answer(413, too_large),
        TimeoutError: answer(408, late),
        ImageGoneError: answer(404),
        ValueError: answer(400),
        OSError: answer(503),
        Exception: answer(500, broken),
    }
