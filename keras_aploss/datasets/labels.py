"""Labels as they are written in lists, and their numbers.

The problem: one class is written in several ways. A program that holds a column of
numbers with a gap writes all of them as floats, `3.0` and `-1.0`; it writes the gap as
`nan`; and an accented letter is one character on one system and two on another. Taken
as different texts, these are classes that nobody has made, and the metrics of an
evaluation are those of other classes.
"""

import re
import unicodedata

_MISSING = {"nan", "none", "null", "<na>"}  # as pandas, NumPy, Python and SQL write it
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")


def tidy_label(text: str) -> str:
    """Write a label in the one form in which equal labels are equal texts.

    Blanks around it are cut off, accented letters are composed (the form NFC), whole
    numbers lose their `.0`, and what stands for a missing label is empty.

    >>> [tidy_label(text) for text in (" crow", "3.0", "-1.", "2.5", "NaN", "None")]
    ['crow', '3', '-1', '2.5', '', '']
    """
    text = compose(text.strip())
    if whole := _WHOLE_FLOAT.fullmatch(text):
        return whole[1]
    return "" if text.casefold() in _MISSING else text


def compose(text: str) -> str:
    """Write accented letters as one character each (the form NFC of Unicode)."""
    return unicodedata.normalize("NFC", text)


def is_distractor(label: str) -> bool:
    """Whether a label is an integer below 0: that of images of no class."""
    try:
        return int(label) < 0
    except ValueError:
        return False


def number_labels(labels) -> dict[str, int]:
    """Number the distinct labels: integers in their order, other texts as texts.

    Integers below 0 mark distractors, which are of no class: they become -1.

    Returns:
        A dictionary from the labels to the numbers, the classes in their order.
    """
    distractors = {label for label in labels if is_distractor(label)}
    classes = set(labels) - distractors
    try:
        ordered = sorted(classes, key=lambda label: (int(label), label))
    except ValueError:
        ordered = sorted(classes)
    numbers = {label: number for number, label in enumerate(ordered)}
    return {**numbers, **dict.fromkeys(distractors, -1)}
