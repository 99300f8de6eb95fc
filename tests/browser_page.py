"""The page of `keras-aploss app` as a person sees it, and photos to search in."""

import contextlib
import functools
import pathlib
import re
import time

import numpy as np
import PIL.Image
import pytest
from command_line import ROOT, start, succeed, wait_until

from keras_aploss import synthetic_landmarks

# First imported within `invoke`, it would go on to write to a stream that is closed.
with contextlib.suppress(ImportError):
    import pymilvus  # noqa: F401

MODEL = ROOT / "saved_models" / "synthetic_landmarks" / "1"


def extras():
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")


class Demo:
    """Photos of landmarks, their index, and the address of the page."""

    def __init__(self, folder):
        self.folder, self.photos = folder, folder / "photos"
        _, test = synthetic_landmarks(1, 10, 128, num_test_landmarks=8)
        for number, (image, label) in enumerate(
            zip(test.images, test.labels, strict=True)
        ):
            path = self.photos / f"building-{label}" / f"{number % 10}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image).save(path, quality=92)
        self.paths = sorted(self.photos.rglob("*.jpg"))
        self.index = folder / "photos.db"
        size = ("--image-size", 64)
        succeed("index", self.photos, "--model", MODEL, *size, "--index", self.index)

    def serve(self, *options):
        process = start(self.folder, "app", "--index", self.index, *options)
        output = self.folder / "output.txt"
        wait_until(process, lambda: "http://" in output.read_text(encoding="utf-8"))
        self.port = int(re.search(r"http://127.0.0.1:(\d+)/", output.read_text())[1])
        return process

    @functools.cache  # noqa: B019
    def command(self, path, *options):
        """What `keras-aploss search` prints: (similarity, label, name) of each."""
        options = ("--top", 80, *options)
        shown = succeed("search", path, "--index", self.index, *options)
        rows = re.findall(r"^ *(-?\d\.\d{4}) +(\S+) +(\S+)", shown, re.MULTILINE)
        names = [pathlib.Path(row[2]).relative_to(self.photos) for row in rows]
        return [
            (float(row[0]), row[1], name.as_posix())
            for row, name in zip(rows, names, strict=True)
        ]


class Page:
    """What a person sees and does."""

    def __init__(self, driver, demo):
        self.driver, self.demo = driver, demo
        driver.get("about:blank")
        driver.get(f"http://127.0.0.1:{demo.port}/")
        self.until(lambda: self.summary == "Nothing searched for yet")
        self.until(lambda: len(self.all("#results .cell")) == 12)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def until(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.driver.get_log("browser")
            time.sleep(0.02)

    @property
    def summary(self):
        return self.one("#summary").text

    @property
    def error(self):
        return self.one("#error").text

    @property
    def results(self):
        """(similarity, label, name) of each result, as they are read."""
        return [
            tuple(row)
            for row in self.driver.execute_script(
                "return [...document.querySelectorAll('#results .cell')].map(cell => ["
                "Number(cell.querySelector('.similarity')?.textContent),"
                "cell.querySelector('.chip').textContent,"
                "cell.querySelector('.name').textContent])"
            )
        ]

    @property
    def is_at_rest(self):
        return self.one("#found").get_attribute("aria-busy") == "false"

    def changes(self, act):
        """Do something, and wait for results other than those before."""
        before = self.results
        act()
        self.until(lambda: self.is_at_rest and self.results != before)
        return self.results

    def choose(self, path):
        return self.changes(lambda: self.one("#file").send_keys(str(path)))

    def drag(self, grip, *by):
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver).move_to_element(grip).click_and_hold()
        for step in by:
            actions.move_by_offset(*step)
        actions.release().perform()

    def box(self):
        """The frame as fractions of the image: left, top, width, height."""
        return self.driver.execute_script(
            "const {style} = document.getElementById('frame');"
            "return ['left', 'top', 'width', 'height']"
            ".map(name => parseFloat(style[name]) / 100)"
        )

    def shows(self, expected):
        """Hold the results to those that the command has printed."""
        results = self.results
        assert [row[1:] for row in results] == [row[1:] for row in expected]
        np.testing.assert_allclose(
            [row[0] for row in results], [row[0] for row in expected], atol=6e-4
        )
