"""Elements of an HTML page that no text can break.

Class names and file names are chosen by others: `<script>`, quotes, line breaks, bytes
that are no text. So a page here is a tree, never a string put together: a text stays a
text whatever is in it, and the library that writes the tree escapes it.
"""

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

import numpy as np
from PIL import Image

# What no page may hold or show: control characters, halves of characters (a file name
# that is no UTF-8 holds such), and the two that are no characters.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# A name falls into parts that end in these signs.
_PARTS = re.compile(r"[^/\\_.-]*[/\\_.-]+|[^/\\_.-]+")


def visible(text: object) -> str:
    r"""A text on one line, with a sign for each character that cannot be shown.

    >>> visible("two\nlines")
    'two␊lines'
    >>> visible(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    'caf�.jpg'
    """

    def sign(match: re.Match) -> str:
        code = ord(match.group())
        if code < 0x20:
            return chr(0x2400 + code)  # the block of pictures of control characters
        return "␡" if code == 0x7F else "�"

    return _UNFIT.sub(sign, str(text))


def element(tag: str, *children: object, **attributes: object) -> ElementTree.Element:
    """An element of its children: elements, texts, or None, which adds nothing.

    Attributes that are None are left out; `class_` and `stroke_width` stand for `class`
    and `stroke-width`.

    >>> to_html(element("p", "a < b ", element("b", 1), class_="lead"))
    '<p class="lead">a &lt; b <b>1</b></p>'
    """
    node = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.rstrip("_").replace("_", "-"), visible(value))
    for child in children:
        if isinstance(child, ElementTree.Element):
            node.append(child)
        elif child is not None and len(node):
            node[-1].tail = (node[-1].tail or "") + visible(child)
        elif child is not None:
            node.text = (node.text or "") + visible(child)
    return node


def to_html(node: ElementTree.Element) -> str:
    """The element as HTML."""
    return ElementTree.tostring(node, encoding="unicode", method="html")


def breakable(text: object, **attributes: object) -> ElementTree.Element:
    """A name that others have chosen: it keeps its direction of writing to itself.

    Where there is no room it breaks behind a slash, dash, dot or underscore.

    >>> to_html(breakable("a/b"))
    '<bdi>a/<wbr>b</bdi>'
    """
    children = []
    for part in _PARTS.findall(visible(text)):
        children += [part, element("wbr")]
    return element("bdi", *children[:-1], **attributes)


def image_source(image: np.ndarray, side: int = 192) -> str:
    """An image, made smaller if it is larger than `side`, as the address of its bytes.

    >>> image_source(np.zeros((32, 64, 3), "uint8"))[:30]
    'data:image/jpeg;base64,/9j/4AA'
    """
    picture = Image.fromarray(np.asarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def number(value: float, digits: int = 3) -> ElementTree.Element:
    """A number to read, with all its digits for programs; a dash for NaN.

    >>> to_html(number(2 / 3))
    '<data value="0.6666666666666666">0.667</data>'
    """
    if math.isnan(value):
        return element("span", "–", class_="soft")
    return element("data", f"{value:.{digits}f}", value=repr(float(value)))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence],
    name: str,
    class_: str | None = None,
) -> ElementTree.Element:
    """A table whose rows begin with their name and go on with numbers."""
    first, *others = headings
    cells = (element("th", text, scope="col", class_="number") for text in others)
    head = element("tr", element("th", first, scope="col"), *cells)
    body = []
    for row_name, *values in rows:
        data = (element("td", value, class_="number") for value in values)
        row_name = element("th", breakable(row_name), scope="row")
        body.append(element("tr", row_name, *data))
    parts = element("thead", head), element("tbody", *body)
    # Those who use the keyboard scroll what has the focus.
    return element(
        "div",
        element("table", *parts, class_=class_),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=name,
    )


def details(summary: str, *content: ElementTree.Element | None) -> ElementTree.Element:
    """What opens when its summary is clicked."""
    return element("details", element("summary", summary), *content)
