"""Texts, numbers and images of the page, read back by the standard library."""

import base64
import datetime
import io

import numpy as np
import pytest
from html_page import parse
from hypothesis import given, strategies as st
from PIL import Image

from keras_aploss.report.filters import breakable, fact, image_source, number, visible
from keras_aploss.report.page import environment

NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onload='alert(1)",
    "</td></table></style><!-- ",
    "]]><![CDATA[",
    "&lt;&amp;&#60; &copy",
    "{{ 7 * 7 }}{% raw %}",
    "<?php ?>",
    "城 naïve 🦉 \u202eexe.gpj",
    " spaces  within ",
    "",
]
TEMPLATE = '<p title="{{ text }}">{{ text }}<b>{{ text | breakable }}</b></p>'


def read(text):
    page = environment().from_string(TEMPLATE).render(text=text)
    return parse(page.encode("utf-8").decode("utf-8"))


@pytest.mark.parametrize("text", NASTY)
def test_texts_and_attributes_come_back_as_they_were(text):
    page = read(text)
    assert [node.tag for node in page.all() if node.tag != "wbr"] == ["p", "b"]
    assert page.first("p").attributes == {"title": text}
    assert page.first("p").text == 2 * text
    assert page.first("b").text == text


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_gives_a_page_that_can_be_written_and_read(text):
    paragraph = read(text).first("p")
    assert paragraph.text == 2 * visible(text)
    assert paragraph.attributes["title"] == visible(text)
    assert len(visible(text)) == len(text)
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in visible(text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Old_Church/41", ["Old_", "Church/", "41"]),
        ("a--b//", ["a--", "b//"]),
        ("plain", ["plain"]),
        ("/", ["/"]),
        ("", []),
        (7, ["7"]),
        ("<b>.x\n", ["<b>.", "x␊"]),
    ],
)
def test_names_break_behind_their_separators_only(text, parts):
    page = parse(breakable(text))
    assert [child for child in page.children if isinstance(child, str)] == parts
    others = [child.tag for child in page.children if not isinstance(child, str)]
    assert others == ["wbr"] * max(0, len(parts) - 1)


def test_control_characters_are_shown_as_signs():
    assert visible("a\nb\tc\r\x00\x1b\x7f") == "a␊b␉c␍␀␛␡"
    assert visible("\x85\ud800\uffff") == "���"


@pytest.mark.parametrize("value", [0.0, 1 / 3, 0.8203124999, np.float32(0.1)])
def test_numbers_are_rounded_for_people_and_whole_for_programs(value):
    data = parse(number(value)).first("data")
    assert data.text == f"{value:.3f}"
    assert float(data.attributes["value"]) == value
    assert parse(number(value, 2)).first("data").text == f"{value:.2f}"


def test_a_number_without_a_value_is_a_dash():
    assert parse(number(float("nan"))).first("span").text == "–"


def test_facts_are_times_or_names():
    time = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    shown = parse(fact(time)).first("time")
    assert shown.text == "2026-01-02 03:04:05 UTC"
    assert datetime.datetime.fromisoformat(shown.attributes["datetime"]) == time
    for value, text in (("", "–"), ("<b>/a", "<b>/a"), (0, "0"), (False, "False")):
        assert parse(fact(value)).first("bdi").text == text


def test_images_are_inside_the_page_and_no_larger_than_they_are_shown():
    pixels = np.zeros((100, 300, 3), "uint8")
    pixels[:, :150] = [200, 30, 30]
    for side, size in ((192, (192, 64)), (400, (300, 100))):
        kind, _, data = image_source(pixels, side).partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == size
            left, right = picture.getpixel((20, 20)), picture.getpixel((size[0] - 9, 9))
        np.testing.assert_allclose(left, [200, 30, 30], atol=6)
        np.testing.assert_allclose(right, [0, 0, 0], atol=6)
