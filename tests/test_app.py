"""`keras-aploss app`: a process of its own, in a browser, by real clicks."""

import contextlib
import io
import os
import shutil
import signal
import socket
import sys

import numpy as np
import PIL.Image
import processes
import pytest
from browser_page import Demo, Page, extras
from command_line import fail
from photo_index import SIZE, indexed, write_colours
from web_server import ask

from keras_aploss import search_app
from keras_aploss.app import PageServer

PAGE = 24  # results that are shown at once


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    index, model = indexed(write_colours(tmp_path / "photos", 2))
    for module in ("uvicorn", "starlette", "starlette.applications"):
        monkeypatch.setitem(sys.modules, module, None)
    message = fail("app", "--index", tmp_path / "photos.db")
    assert "pip install 'keras_aploss[app]'" in message
    with pytest.raises(ImportError, match=r"pip install 'keras_aploss\[app\]'"):
        search_app(index, model, image_size=SIZE)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example", False),
    ],
)
def test_names_are_compared_unless_all_may_come(host, is_local, monkeypatch):
    pytest.importorskip("uvicorn")
    # Not all machines have these addresses.
    monkeypatch.setattr(
        "keras_aploss.app.server._bind",
        lambda host, port: socket.create_server(("127.0.0.1", port)),
    )
    with PageServer(host, 0) as server:
        assert server.is_local == is_local
        assert (server.allowed_hosts == ("*",)) == (not is_local)
    with PageServer(host, 0, ["search.example"]) as server:
        assert "*" not in server.allowed_hosts
        assert "search.example" in server.allowed_hosts


def test_a_port_in_use_is_told_before_anything_takes_time(tmp_path):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fail("app", "--index", tmp_path / "none.db", "--port", port)
    assert f"Received: 127.0.0.1, port {port}" in message
    assert "Choose another `--port`" in message


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    extras()
    demo = Demo(tmp_path_factory.mktemp("demo"))
    process = demo.serve("--port", "0")
    processes.STARTED.remove(process)  # it serves all tests of this file
    yield demo
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Stopped." in (demo.folder / "output.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    places = shutil.which("chromium"), shutil.which("chromedriver")
    if None in places:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.add_argument("--window-size=1280,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(places[1]))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, demo):
    browser.get_log("browser")
    page = Page(browser, demo)
    yield page
    log = [entry["message"] for entry in browser.get_log("browser")]
    # Chromium notes answers that are errors; of the page itself there are none.
    assert [line for line in log if "Failed to load resource" not in line] == []


@pytest.mark.slow
def test_a_chosen_file_shows_what_the_command_prints(page, demo):
    path = demo.paths[13]
    page.choose(path)
    assert page.summary == "Results 1 to 24 of 80"
    assert page.one("#query-name").text == path.name
    page.shows(demo.command(path)[:PAGE])
    # All that is in sight is loaded, and the query as well.
    page.until(
        lambda: page.driver.execute_script(
            "return [...document.images].slice(0, 13).every(i => i.naturalWidth > 0)"
        )
    )


@pytest.mark.slow
def test_a_part_dragged_with_the_mouse_is_searched_for(page, demo, tmp_path):
    path = demo.paths[25]
    whole = page.choose(path)
    page.until(lambda: page.box() == [0, 0, 1, 1])
    part = page.changes(
        lambda: page.drag(page.one("[data-corner=se]"), (-60, -60), (-60, -60))
    )
    left, top, width, height = page.box()
    assert (left, top) == (0, 0)
    assert 0.4 < width == height < 0.7
    picture = PIL.Image.open(path)
    right, bottom = (round(f * 128) for f in (width, height))
    picture.crop((0, 0, right, bottom)).save(tmp_path / "part.png")
    page.shows(demo.command(tmp_path / "part.png")[:PAGE])
    # The frame itself is moved...
    page.changes(lambda: page.drag(page.one("#frame"), (30, 20), (30, 20)))
    moved = page.box()
    assert moved[0] > 0.1
    assert moved[1] > 0.1
    np.testing.assert_allclose(moved[2:], (width, height))
    # ... by keys too, and what was before comes back.
    by_key = page.changes(lambda: page.one("#frame").send_keys("\ue012"))
    assert page.box()[0] < moved[0]
    assert by_key != whole
    page.changes(page.driver.back)
    np.testing.assert_allclose(page.box(), moved)
    assert page.changes(page.one("#uncrop").click) == whole
    assert not page.one("#uncrop").is_displayed()
    assert part != whole


@pytest.mark.slow
def test_a_click_on_a_result_searches_from_it(page, demo):
    before = page.choose(demo.paths[40])
    name = before[5][2]
    after = page.changes(page.all("#results .picture")[5].click)
    assert page.one("#query-name").text == name
    assert after[0][2] == name
    assert after[0][0] == 1
    page.shows(demo.command(demo.photos / name)[:PAGE])
    # A part of an image of the index, of which only a picture is here.
    part = page.changes(
        lambda: page.drag(page.one("[data-corner=nw]"), (50, 50), (50, 50))
    )
    assert part[0][0] < 1
    page.changes(page.driver.back)
    assert page.changes(page.driver.back) == before
    assert page.one("#query-name").text == demo.paths[40].name


@pytest.mark.slow
def test_an_example_begins_without_a_file(page):
    name = page.results[4][2]
    results = page.changes(page.all("#results .picture")[4].click)
    assert results[0][::2] == (1, name)


@pytest.mark.slow
def test_labels_restrict_the_results(page, demo):
    path = demo.paths[13]
    page.choose(path)
    label, other = path.parent.name, "building-7"
    page.changes(page.all("#results .chip")[0].click)
    assert page.summary == "Results 1 to 10 of 10"
    page.shows(demo.command(path, "--label", label))
    # A second one is written, as it is chosen from the list.
    page.changes(lambda: page.one("#label").send_keys(other, "\ue007"))
    page.shows(demo.command(path, "--label", label, "--label", other))
    assert [chip.text for chip in page.all("#chosen .chip")] == [
        f"{label}×",
        f"{other}×",
    ]
    page.changes(page.all("#chosen .chip")[0].click)
    assert {row[1] for row in page.results} == {other}
    page.one("#label").send_keys("none", "\ue007")
    page.until(lambda: page.error == "No image of the index has the label “none”.")
    page.changes(page.all("#chosen .chip")[0].click)
    assert page.summary == "Results 1 to 24 of 80"
    assert page.error == ""


@pytest.mark.slow
def test_expansion_changes_the_ranking_as_the_command_does(page, demo):
    path = demo.paths[13]
    page.choose(path)
    page.changes(lambda: page.one("#expand option[value='3']").click())
    page.shows(demo.command(path, "--expand", 3)[:PAGE])


@pytest.mark.slow
def test_pages_follow_each_other_without_gap_or_repeat(page, demo):
    path = demo.paths[60]
    page.choose(path)
    seen = page.results
    assert not page.one(".pager .previous").is_enabled()
    for first in (25, 49, 73):
        seen += page.changes(page.one(".pager .next").click)
        last = min(first + PAGE - 1, 80)
        assert page.summary == f"Results {first} to {last} of 80"
    assert not page.one(".pager .next").is_enabled()
    expected = demo.command(path)
    assert [row[1:] for row in seen] == [row[1:] for row in expected]
    assert len({row[2] for row in seen}) == 80
    assert page.changes(page.one(".pager .previous").click) == seen[48:72]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("a.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is not an image"),
        ("b.png", b"", "it is empty"),
        ("<b>.jpg", b"<script>alert(1)</script>", "it is not an image"),
        ("big.jpg", bytes(21 * 2**20), "it is too large: 21.0 MiB, and 20.0 MiB are"),
    ],
)
def test_a_file_that_is_no_image_is_told_and_the_page_goes_on(
    page, demo, tmp_path, name, contents, reason
):
    before = page.choose(demo.paths[0])
    (tmp_path / name).write_bytes(contents)
    page.one("#file").send_keys(str(tmp_path / name))
    page.until(lambda: page.error)
    assert page.error.startswith(f"{name} cannot be searched for: {reason}")
    assert page.results == before
    page.choose(demo.paths[70])
    assert page.error == ""


@pytest.mark.slow
def test_formats_of_the_browser_alone_are_read_by_it(page, demo, tmp_path):
    PIL.Image.open(demo.paths[13]).save(tmp_path / "a.webp", lossless=True)
    page.choose(tmp_path / "a.webp")
    page.shows(demo.command(demo.paths[13])[:PAGE])


@pytest.mark.slow
def test_a_dropped_and_a_pasted_file_are_searched_for(page, demo):
    give = """
        const [type, bytes] = arguments;
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg"));
        const more = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(type === "paste"
          ? new ClipboardEvent(type, {...more, clipboardData: data})
          : new DragEvent(type, {...more, dataTransfer: data}));
    """
    for kind, path in (("drop", demo.paths[3]), ("paste", demo.paths[33])):
        contents = list(path.read_bytes())
        page.changes(
            lambda kind=kind, contents=contents: page.driver.execute_script(
                give, kind, contents
            )
        )
        assert page.one("#query-name").text == "dropped.jpg"
        page.shows(demo.command(path)[:PAGE])


@pytest.mark.slow
def test_an_image_that_is_gone_is_told_in_its_place(page, demo):
    path = demo.paths[77]
    hidden = path.with_suffix(".away")
    path.rename(hidden)
    # The browser keeps pictures that it has seen.
    page.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    try:
        page.choose(demo.paths[76])
        name = f"{path.parent.name}/{path.name}"
        place = [row[2] for row in page.results].index(name)
        page.driver.execute_script(
            "arguments[0].scrollIntoView()", page.all("#results .cell")[place]
        )
        page.until(lambda: page.all("#results .lost"))
        page.until(
            lambda: page.one("#results .lost").text.startswith("Not shown: it cannot")
        )
    finally:
        hidden.rename(path)


@pytest.mark.slow
def test_nothing_is_wider_than_a_telephone(page, demo):
    page.driver.set_window_size(390, 844)
    set_width = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    try:
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", set_width)
        page.choose(demo.paths[13])
        width = "return document.documentElement.scrollWidth"
        assert page.driver.execute_script(width) == 390
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.set_window_size(1280, 1000)


@pytest.mark.slow
def test_only_this_machine_is_answered(demo):
    assert ask(demo.port, "/about").json["count"] == 80
    # A server at all addresses would answer here as well.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", demo.port), timeout=5)
    assert ask(demo.port, "/about", host="evil.example").status == 403


@pytest.mark.slow
def test_100_megabytes_are_refused(demo, tmp_path):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        answer = ask(demo.port, "/embed", io.BytesIO(bytes(10**8)))
        assert answer.status == 413
    path = demo.paths[0]
    assert ask(demo.port, "/embed", path.read_bytes()).status == 200


@pytest.mark.slow
def test_the_index_itself_answers_the_same(tmp_path):
    extras()
    demo = Demo(tmp_path)
    expected = demo.command(demo.paths[5])
    process = demo.serve("--port", "0", "--not-in-memory")
    query = ask(demo.port, "/embed", demo.paths[5].read_bytes()).json["query"]
    answer = ask(demo.port, "/search", {"query": query, "count": 80}).json
    found = [(r["label"], r["name"]) for r in answer["results"]]
    assert found == [row[1:] for row in expected]
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert os.path.exists(demo.index)
    # It has let go of the index.
    assert demo.command(demo.paths[6])
