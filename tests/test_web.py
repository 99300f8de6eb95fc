"""The page as the browser reaches it: by a real server, request by request."""

import contextlib
import json
import logging
import os
import pathlib
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
from photo_index import SIZE, colour_of, encode, indexed, plain, write_colours

from keras_aploss import VectorIndex, search_app
from keras_aploss.app.image_search import from_text

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from web_server import ask, serving

LIMIT_MIB = 0.1
LIMIT = int(LIMIT_MIB * 2**20)
SECRET = encode(plain((1, 2, 3)))


def app_of(folder):
    (folder.parent / "secret.png").write_bytes(SECRET)
    index, model = indexed(folder)
    return index, search_app(
        index,
        model,
        image_size=SIZE,
        max_upload_mib=LIMIT_MIB,
        max_pixels=2_000_000,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The port, and the index, which tests leave as it is."""
    index, app = app_of(write_colours(tmp_path_factory.mktemp("a") / "photos"))
    with serving(app) as port:
        yield port, index


@pytest.fixture(scope="module")
def port(served):
    return served[0]


@pytest.fixture
def own(tmp_path):
    """The port and the folder of photos that a test may change."""
    _, app = app_of(write_colours(tmp_path / "photos", 6))
    with serving(app) as port:
        yield port, tmp_path / "photos"


def embedded(port, contents, address="/embed"):
    answer = ask(port, address, contents)
    assert answer.status == 200, answer.body
    return answer.json["query"]


def found(port, query, **question):
    answer = ask(port, "/search", {"query": query, **question})
    assert answer.status == 200, answer.body
    return answer.json


def refused(answer, status):
    """The sentence of an answer that is an error."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json) == {"error"}
    assert "Traceback" not in answer.json["error"]
    return answer.json["error"]


def send_until_answered(port, head, piece=b"", number=0):
    """The first line of the answer, and how many bytes of the body were sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        sent = 0
        try:
            for _ in range(number):
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return connection.recv(4096).split(b"\r\n")[0].decode(), sent


POST = "POST /embed HTTP/1.1\nHost: localhost\n"


def test_the_page_and_its_parts_are_served(port):
    page = ask(port, "/")
    assert page.status == 200
    for name, kind in [
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("crop.js", "text/javascript"),
        ("view.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ]:
        assert name.encode() in page.body or name in ("crop.js", "view.js")
        part = ask(port, f"/page/{name}")
        assert part.headers["cache-control"] == "no-cache"
        assert (part.status, part.headers["content-type"].split(";")[0]) == (200, kind)
    # Nothing comes from elsewhere, and no other site may show the page.
    assert b"://" not in page.body
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_page_knows_the_index(port):
    about = ask(port, "/about").json
    assert (about["count"], about["limit"]) == (30, LIMIT)
    assert about["labels"] == [
        ["", 7],
        ["crow", 8],
        ["jäy & <b>co", 8],
        ["new\nline", 7],
    ]
    for example in about["examples"]:
        picture = ask(port, f"/images/{example['key']}")
        assert (picture.status, picture.body[:2]) == (200, b"\xff\xd8")
        assert picture.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("labels", [[], ["crow"], ["", "jäy & <b>co"], ["none"]])
@pytest.mark.parametrize("expand", [0, 3])
def test_pages_are_the_ranking_of_the_index(served, labels, expand):
    port, index = served
    colour = 200, 100, 50  # of four images: ties
    query = embedded(port, encode(plain(colour)))
    np.testing.assert_allclose(from_text(query), colour_of(colour), atol=1e-6)
    expected = index.search(
        from_text(query)[None], 100, labels=labels or None, expand_by=expand
    )[0]
    pages = [
        found(port, query, labels=labels, expand=expand, start=start, count=7)
        for start in range(0, 35, 7)
    ]
    results = [result for page in pages for result in page["results"]]
    # Neither a gap nor a repeat where a page ends.
    assert [(r["label"], r["similarity"]) for r in results] == [
        (image.label, image.similarity) for image in expected
    ]
    assert len({result["key"] for result in results}) == len(results) == len(expected)
    for result, image in zip(results, expected, strict=True):
        assert image.path.endswith(f"/photos/{result['name']}")
    assert {page["total"] for page in pages} == {len(expected)}


def test_a_part_of_an_image_is_searched_for(port):
    both = PIL.Image.new("RGB", (100, 60), (10, 10, 250))
    both.paste(plain((250, 10, 10), (40, 60)), (0, 0))
    query = embedded(port, encode(both), "/embed?box=0,0,0.4,1")
    np.testing.assert_allclose(from_text(query), colour_of((250, 10, 10)), atol=1e-6)
    for box in ("1,0,0,1", "0,0,1", "a,b,c,d", "0,0,nan,1", "0,0,2,1", ""):
        sentence = refused(ask(port, f"/embed?box={box}", encode(both)), 400)
        assert sentence.startswith("Expected a box")


def test_a_result_is_searched_from(port):
    first = ask(port, "/about").json["examples"][2]
    answer = ask(port, f"/images/{first['key']}/query").json
    assert answer["name"] == first["name"]
    best = found(port, answer["query"], count=1)["results"][0]
    assert (best["key"], round(best["similarity"], 5)) == (first["key"], 1)
    part = ask(port, f"/images/{first['key']}/query?box=0,0,0.5,0.5").json["query"]
    np.testing.assert_allclose(
        from_text(part), from_text(answer["query"]), atol=1e-6
    )  # a plain colour


NOISE = PIL.Image.fromarray(
    np.random.default_rng(1).integers(0, 256, (60, 60, 3), "uint8")
)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "it is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is not an image"),
        (encode(NOISE, "JPEG")[:1500], "it is damaged"),
        (encode(NOISE)[:3000], "it is damaged"),
        (encode(NOISE, "WEBP"), "its format is WEBP"),
        (encode(PIL.Image.new("1", (2000, 1001))), "2000 x 1001, over 2,000,000"),
        (
            encode(PIL.Image.new("1", (20_000, 20_000))),
            "declares more than 2,000,000 pixels",
        ),
    ],
)
def test_what_is_no_image_is_refused_with_a_sentence(port, contents, reason):
    for name in ("", "?box=0,0,1,1"):
        assert reason in refused(ask(port, f"/embed{name}", contents), 400)


def test_an_upload_up_to_the_limit_is_taken(port):
    image = encode(plain((9, 8, 7)))
    exactly = image + bytes(LIMIT - len(image))  # what follows an image is not read
    np.testing.assert_allclose(
        from_text(embedded(port, exactly)), colour_of((9, 8, 7)), atol=1e-6
    )
    sentence = refused(ask(port, "/embed", exactly + b"0"), 413)
    assert sentence == "it is too large: at most 0.1 MiB are taken"


def test_a_declared_size_over_the_limit_is_refused_before_the_body(port):
    head = f"{POST}Content-Length: 100000000\n\n"
    status, sent = send_until_answered(port, head)
    assert status.startswith("HTTP/1.1 413 ")
    assert sent == 0


def test_100_megabytes_do_not_get_far(port):
    head = f"{POST}Content-Length: 100000000\n\n"
    status, sent = send_until_answered(port, head, bytes(10**5), 1000)
    assert "413" in status
    assert sent < 50_000_000
    embedded(port, encode(NOISE))


def test_pieces_without_a_declared_size_are_refused_at_the_limit(port):
    head = f"{POST}Transfer-Encoding: chunked\n\n"
    piece = b"1000\r\n" + bytes(4096) + b"\r\n"
    status, sent = send_until_answered(port, head, piece, 10_000)
    assert "413" in status
    assert LIMIT < sent < 30_000_000
    embedded(port, encode(NOISE))


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.png",
        "/../../../../../../etc/passwd",
        "/%2e%2e/secret.png",
        "/..%2fsecret.png",
        "//etc/passwd",
        "/etc/passwd",
        "/web.py",
        "/page/../web.py",
        "/page/..%2fweb.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/",
        "/images/../secret.png",
        "/images/..%2f..%2fsecret.png",
        "/images/%2e%2e%2fsecret.png/large",
        "/images/%2fetc%2fpasswd",
        "/images//etc/passwd/query",
        "/images/secret.png",
        "/images/crow%2f01%20%C3%BC&.png",
        "/images/%00",
        "/images/" + "0" * 32,
        "/images/",
        "/docs",
    ],
)
def test_no_path_leads_to_a_file(port, path):
    refused(ask(port, path), 404)


def test_the_full_path_of_an_image_leads_nowhere_and_is_not_told(served):
    port, index = served
    for image in index.images()[:3]:
        quoted = image.path.replace("/", "%2f").replace(" ", "%20").encode()
        quoted = quoted.decode("ascii", "ignore").replace("\n", "%0a")
        refused(ask(port, f"/images/{quoted}"), 404)
    root = os.path.commonpath([image.path for image in index.images()])
    assert root.encode() not in ask(port, "/about").body


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", None, 200),
        ("127.0.0.1:1234", "http://127.0.0.1:1234", 200),
        ("evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("localhost", "http://evil.example", 403),
        ("localhost", "null", 403),
        ("localhost", "http://[", 403),
    ],
)
def test_other_sites_get_no_answer(port, host, origin, status):
    headers = {} if origin is None else {"Origin": origin}
    for path, body in [("/", None), ("/about", None), ("/embed", encode(NOISE))]:
        answer = ask(port, path, body, headers=headers, host=host)
        assert answer.status == status
        if status == 403:
            refused(answer, 403)
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_hosts_may_be_allowed(tmp_path):
    index, model = indexed(write_colours(tmp_path / "photos", 2))
    hosts = ["search.example"]
    app = search_app(index, model, image_size=SIZE, allowed_hosts=hosts)
    with serving(app) as port:
        assert ask(port, "/about", host="Search.example:8080").status == 200
        assert ask(port, "/about", host="localhost").status == 403


def link_to_secret(path):
    photos = next(folder for folder in path.parents if folder.name == "photos")
    path.unlink()
    path.symlink_to(photos.parent / "secret.png")
    assert path.read_bytes() == SECRET


def replace(path):
    path.write_bytes(SECRET)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link_to_secret, "the file has changed since it was indexed"),
        (replace, "the file has changed since it was indexed"),
        (pathlib.Path.unlink, "it cannot be opened: No such file"),
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_a_file_that_became_another_is_not_shown_and_the_page_goes_on(
    own, change, reason, seen
):
    port, folder = own
    about = ask(port, "/about").json
    first = about["examples"][0]
    addresses = [f"/images/{first['key']}", f"/images/{first['key']}/large"]
    for address in addresses if seen else ():
        assert ask(port, address).status == 200
    change(folder / first["name"])
    for address in [*addresses, f"/images/{first['key']}/query?box=0,0,0.5,0.5"]:
        sentence = refused(ask(port, address), 404)
        assert sentence.startswith(reason)
        assert str(folder) not in sentence
    # It can still be searched from: its embedding is in the index.
    query = ask(port, f"/images/{first['key']}/query").json["query"]
    results = found(port, query)["results"]
    assert len(results) == about["count"]
    assert results[0]["key"] == first["key"]
    for result in results[1:]:
        assert ask(port, f"/images/{result['key']}").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"query": 3}',
        b'{"query": "AAAA", "labels": "crow"}',
        b'{"query": "AAAA", "labels": [1]}',
        b'{"query": "AAAA", "start": "0"}',
        b'{"query": "AAAA", "count": 100000}',
        b'{"query": "AAAA", "start": true}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_other_questions_say_what_was_expected(port, body):
    assert "Expected JSON" in refused(ask(port, "/search", body, "POST"), 400)


@pytest.mark.parametrize(
    "changes",
    [
        {"query": "AAAA"},
        {"query": "AAAAAA=="},
        {"query": "AADAfwAAAAAAAAAA"},  # not a number, 0, 0
        {"start": -1},
        {"start": 16_384},
        {"count": 0},
        {"expand": -1},
    ],
)
def test_impossible_questions_say_why(port, changes):
    question = {"query": "AACAPwAAAAAAAAAA", **changes}  # 1, 0, 0
    assert "Expected" in refused(ask(port, "/search", question), 400)


def test_addresses_have_their_methods(port):
    refused(ask(port, "/embed"), 405)
    refused(ask(port, "/search"), 405)
    refused(ask(port, "/about", b"", "DELETE"), 405)


def test_two_ask_at_once_and_get_their_own_answers(port):
    colours = np.random.default_rng(0).integers(1, 256, (12, 3))
    together = threading.Barrier(2)

    def work(mine):
        together.wait(30)
        answers = []
        for colour in mine:
            query = embedded(port, encode(plain(colour)))
            answers.append((from_text(query), found(port, query)["results"]))
        return answers

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(work, [colours[:6], colours[6:]]))
    for colour, (vector, results) in zip(
        colours, [*halves[0], *halves[1]], strict=True
    ):
        np.testing.assert_allclose(vector, colour_of(colour), atol=1e-6)
        similarities = [result["similarity"] for result in results]
        assert similarities == sorted(similarities, reverse=True)


@pytest.fixture
def said():
    """What the server writes to its log."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    log = logging.getLogger("uvicorn.error")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    yield records
    log.removeHandler(handler)
    log.setLevel(level)


def test_who_does_not_send_on_holds_up_nobody(port, said):
    head = f"{POST}Content-Length: 1000\n\n".replace("\n", "\r\n").encode()
    with contextlib.ExitStack() as stack:
        for number in range(40):
            slow = socket.create_connection(("127.0.0.1", port))
            stack.enter_context(slow).sendall(head + b"begun"[: number % 6])
        assert found(port, embedded(port, encode(NOISE)))["total"] == 30
    # And who leaves in the middle leaves the server as it was, without a traceback.
    assert ask(port, "/about").status == 200
    assert found(port, embedded(port, encode(NOISE)))["total"] == 30
    assert said == []


def test_a_fault_of_the_server_is_told_as_such(own, monkeypatch):
    port, _ = own

    def fail(*args, **options):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(VectorIndex, "search", fail)
    answer = ask(port, "/search", {"query": "AACAPwAAAAAAAAAA"})
    assert refused(answer, 500) == "The server failed: its log tells why."
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    monkeypatch.undo()
    assert ask(port, "/about").status == 200


def test_uploads_have_a_limit_above_zero(tmp_path):
    index, model = indexed(write_colours(tmp_path / "photos", 2))
    for limit in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="Expected `max_upload_mib` above 0"):
            search_app(index, model, image_size=SIZE, max_upload_mib=limit)


def test_a_picture_is_small_and_holds_pixels_only(own):
    port, folder = own
    first = ask(port, "/about").json["examples"][0]
    picture = ask(port, f"/images/{first['key']}")
    assert picture.headers["cache-control"].startswith("private")
    assert picture.body != (folder / first["name"]).read_bytes()
    assert json.dumps(str(folder)).strip('"').encode() not in picture.body
