"""Filters of the templates: texts, names, numbers and images as parts of a page.

Class names and file names are chosen by others: `<script>`, quotes, line breaks, bytes
that are no text. Jinja escapes whatever a template shows; what no page may hold at all,
such as control characters, `visible` replaces first.
"""

import base64
import datetime
import io
import math
import re

import numpy as np
from markupsafe import Markup

# Control characters, halves of characters (a file name that is no UTF-8 holds such) and
# the two code points that are no characters.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# A name falls into parts that end in these signs.
_PARTS = re.compile(r"[^/\\_.-]*[/\\_.-]+|[^/\\_.-]+")


def visible(text: object) -> str:
    r"""Put a text on one line, with a sign for each character that cannot be shown.

    Markup, which the templates have made, stays as it is.

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

    return text if isinstance(text, Markup) else _UNFIT.sub(sign, str(text))


def breakable(name: object) -> Markup:
    """Let a name break behind a slash, dash, dot or underscore where it has no room.

    >>> breakable("a/<b>")
    Markup('a/<wbr>&lt;b&gt;')
    """
    return Markup("<wbr>").join(_PARTS.findall(visible(name)))


def number(value: float, digits: int = 3) -> Markup:
    """Round a number for people, and keep all its digits for programs; NaN is a dash.

    >>> number(2 / 3)
    Markup('<data value="0.6666666666666666">0.667</data>')
    """
    value = float(value)
    if math.isnan(value):
        return Markup('<span class="soft">–</span>')
    return Markup('<data value="{!r}">{:.{}f}</data>').format(value, value, digits)


def fact(value: object) -> Markup:
    """Show a setting or a time; an empty text is a dash.

    >>> fact("a.jpg")
    Markup('<bdi>a.<wbr>jpg</bdi>')
    """
    if isinstance(value, datetime.datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
        return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), text)
    # The name keeps its direction of writing to itself.
    return Markup("<bdi>{}</bdi>").format(breakable("–" if value == "" else value))


def image_source(image: np.ndarray, side: int = 192) -> str:
    """Turn an image, shrunk to at most `side` pixels, into the address of its bytes.

    >>> image_source(np.zeros((32, 64, 3), "uint8"))[:30]
    'data:image/jpeg;base64,/9j/4AA'
    """
    from PIL import Image

    picture = Image.fromarray(np.asarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
