"""Tables in CSV files, read with errors that say which line to mend.

What is written is whole or not there; see `files`. Needs nothing but the standard
library.
"""

import codecs
import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence

from keras_aploss.files import replaced

_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str] = (),
    *,
    delimiter: str = ",",
    short_lines: bool = False,
    verbatim: Sequence[str] = (),
    advice: str | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with a header, as they are read.

    The file is in UTF-8, with or without a byte order mark. Blank lines are passed
    over, and blanks around cells are cut off.

    Args:
        path: the file.
        columns: those that must be there, in any order and among others.
        delimiter: what separates the cells.
        short_lines: whether a line may have fewer cells than the header: the others
            are empty.
        verbatim: columns of names of files, in which blanks, and bytes that are not
            UTF-8, are kept as `write_table` wrote them.
        advice: what to do about a file that is not such a table, in place of what an
            error says by itself.

    Returns:
        An iterator of the number of the line, from 1, and its cells by column.

    Raises:
        ValueError: when it comes to it, if the file is not there, not in UTF-8, lacks
            a column or has one twice, or a line has more or fewer cells or an open
            quotation mark.

    Example:
    >>> import pathlib, tempfile
    >>> from keras_aploss.tables import read_table, write_table
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "birds.csv")
    >>> write_table(path, ["path", "label"], [["a.jpg", "crow"]])
    >>> list(read_table(path, ["path"]))
    [(2, {'path': 'a.jpg', 'label': 'crow'})]
    """
    expected = f"Expected a CSV file in UTF-8{_with(columns)}. Received: "
    expected += repr(os.fspath(path))
    if not os.path.isfile(path):
        raise ValueError(f"{expected}, which is not a file. Check its spelling.")
    if is_utf16(path):
        advice = advice or "Save it again as UTF-8."
        raise ValueError(f"{expected}, which is in UTF-16. {advice}")
    try:
        with open(
            path, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as file:
            # Blanks after a delimiter are passed over, so that quotes may follow them.
            reader = csv.reader(
                file,
                delimiter=delimiter,
                skipinitialspace=delimiter != " ",
                strict=True,
            )
            header = [name.strip() for name in next(reader, [])]
            if problem := _header_problem(header, columns, delimiter, advice):
                raise ValueError(f"{expected} whose columns are {header}: {problem}")
            for row in reader:
                few = len(row) < len(header) and not short_lines
                if row and (few or len(row) > len(header)):
                    raise ValueError(
                        f"{expected}, which has {len(row)} cells for {len(header)} "
                        f"columns in line {reader.line_num}. "
                        + (advice or "Mend that line.")
                    )
                if row:
                    cells = dict.fromkeys(header, "") | dict(
                        zip(header, row, strict=False)
                    )
                    yield reader.line_num, _tidy(cells, verbatim)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{expected}, in which: {error}. {advice or 'Save it again.'}"
        ) from error


def _with(columns):
    return f" with the columns {', '.join(columns)}" if columns else ""


def is_utf16(path: str | os.PathLike) -> bool:
    """Whether a file begins with the mark of UTF-16, "Unicode text" in Excel."""
    with open(path, "rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _header_problem(header, columns, delimiter, advice):
    """What is wrong with the names of the columns, and what to do; or None."""
    if twice := sorted({name for name in header if header.count(name) > 1}):
        return f"{twice[0]!r} is there twice. {advice or 'Rename or remove one.'}"
    missing = [name for name in columns if name not in header]
    if not missing:
        return None
    problem = f"no {' and no '.join(missing)}. "
    if advice:
        return problem + advice
    other = next((sign for sign in _OTHER_DELIMITERS if sign in "".join(header)), None)
    alike = [name for name in header if name.casefold() in missing]
    if other and delimiter == ",":
        name = _OTHER_DELIMITERS[other]
        return f"{problem}Its cells are separated by {name}: separate them by commas."
    if alike:
        return f"{problem}Write {alike[0]!r} in small letters."
    return f"{problem}Write them in the first line, separated by commas."


def _tidy(cells, verbatim):
    """Cut the blanks off the cells that are no names of files, which must be UTF-8."""
    for name, cell in cells.items():
        if name not in verbatim:
            cells[name] = cell.strip()
            # The bytes that were kept, told as the decoder tells them.
            cell.encode("utf-8", "surrogateescape").decode("utf-8")
    return cells


def write_table(
    path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence]
) -> None:
    """Write a CSV file, in UTF-8, that is whole or not there.

    Names of files need not be UTF-8, and may begin or end with blanks: both are kept,
    and `read_table` gives them back in its columns `verbatim`.
    """
    with replaced(path, errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        plain = csv.writer(lines, lineterminator="\r\n")
        quoted = csv.writer(lines, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
        for row in [header, *rows]:
            has_blanks = any(str(cell) != str(cell).strip() for cell in row)
            (quoted if has_blanks else plain).writerow(row)


class _Lines:
    r"""Ends each line with `\n`, of a writer that ends it with `\r\n`.

    Only such a writer quotes a cell that holds `\r`, which a reader takes for an end.
    """

    def __init__(self, file):
        self.file = file

    def write(self, line):
        self.file.write(line.removesuffix("\r\n") + "\n")


def write_skipped(
    path: str | os.PathLike,
    skipped: Iterable[tuple[str, str]],
    *,
    even_if_none: bool = False,
) -> None:
    """List the files that were left out, and the reason of each, in a CSV file.

    Args:
        path: the file.
        skipped: pairs such as `images.SkippedImage`.
        even_if_none: write the header alone where nothing was left out; by default
            there is no file then, and an old one is removed.
    """
    skipped = list(skipped)
    if skipped or even_if_none:
        write_table(path, ("path", "reason"), skipped)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def import_parquet():
    """The modules `pyarrow` and `pyarrow.parquet`, or how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Expected pyarrow, which reads and writes Parquet files. Received: "
            f"{error}. Install it: pip install 'keras_aploss[scale]'"
        ) from error
    return pyarrow, pyarrow.parquet
