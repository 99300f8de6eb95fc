"""What others have named cannot break a page: read back by the standard library."""

import base64
import io

import numpy as np
import pytest
from html_page import parse, table_rows
from hypothesis import given, strategies as st
from PIL import Image

from keras_aploss.report.markup import (
    breakable,
    details,
    element,
    image_source,
    number,
    table,
    to_html,
    visible,
)

NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onload='alert(1)",
    "</td></table></style><!-- ",
    "]]><![CDATA[",
    "&lt;&amp;&#60; &copy",
    "a & b",
    "<?php ?>",
    "城 naïve 🦉 \u202eexe.gpj",
    " spaces  within ",
    "",
]


@pytest.mark.parametrize("text", NASTY)
def test_texts_and_attributes_come_back_as_they_were(text):
    page = parse(to_html(element("p", text, element("b", text), text, title=text)))
    paragraph = page.first("p")
    assert [node.tag for node in page.all()] == ["p", "b"]
    assert paragraph.attributes == {"title": text}
    assert paragraph.text == text * 3
    assert page.first("b").text == text


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_gives_a_page_that_can_be_written_and_read(text):
    written = to_html(element("p", text, title=text))
    read = parse(written.encode("utf-8").decode("utf-8")).first("p")
    assert read.text == read.attributes["title"] == visible(text)
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
    node = parse(to_html(breakable(text, class_="name"))).first("bdi")
    assert node.attributes == {"class": "name"}
    texts = [child for child in node.children if isinstance(child, str)]
    assert texts == parts
    others = [child.tag for child in node.children if not isinstance(child, str)]
    assert others == ["wbr"] * max(0, len(parts) - 1)


def test_control_characters_are_shown_as_signs():
    assert visible("a\nb\tc\r\x00\x1b\x7f") == "a␊b␉c␍␀␛␡"
    assert visible("\x85\ud800\uffff") == "���"


def test_children_that_are_none_add_nothing():
    node = element("p", None, "a", element("br"), None, 1, title=None, data_x=0)
    assert to_html(node) == '<p data-x="0">a<br>1</p>'


@pytest.mark.parametrize("value", [0.0, 1 / 3, 0.8203124999, 1.0])
def test_numbers_are_rounded_for_people_and_whole_for_programs(value):
    data = parse(to_html(number(value))).first("data")
    assert data.text == f"{value:.3f}"
    assert float(data.attributes["value"]) == value


def test_a_number_without_a_value_is_a_dash():
    assert parse(to_html(number(float("nan")))).first("span").text == "–"


def test_tables_name_their_rows_and_columns():
    rows = [("<i>", number(0.25)), ("two", 3)]
    page = parse(to_html(table(["name", "value"], rows, "Values", "wide")))
    assert table_rows(page.first("table")) == [
        ["name", "value"], ["<i>", "0.250"], ["two", "3"],
    ]  # fmt: skip
    assert [node.attributes["scope"] for node in page.all("th")] == [
        "col", "col", "row", "row",
    ]  # fmt: skip
    assert page.first("div").attributes["aria-label"] == "Values"
    assert page.first("table").attributes == {"class": "wide"}


def test_details_begin_with_their_summary():
    page = parse(to_html(details("More", element("p", "text"))))
    assert [node.tag for node in page.first("details").children] == ["summary", "p"]


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
