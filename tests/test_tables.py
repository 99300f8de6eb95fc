"""Tables in CSV files: what is read, what is refused, what is written."""

import os

import pytest

from keras_aploss.tables import read_table, write_skipped, write_table


def cells(path, *arguments, **options):
    return [row for _, row in read_table(path, *arguments, **options)]


def test_blanks_quotes_lines_and_the_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('path , label\n\n"a, b",  "jäy\n"\r\n c , d\n', "utf-8-sig")
    assert list(read_table(path, ["label"])) == [
        (4, {"path": "a, b", "label": "jäy"}),
        (5, {"path": "c", "label": "d"}),
    ]


def test_other_delimiters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("id class\n1 2\n")
    assert cells(path, delimiter=" ") == [{"id": "1", "class": "2"}]
    path.write_text("id class\n1  2\n")
    with pytest.raises(ValueError, match="3 cells for 2 columns in line 2"):
        cells(path, delimiter=" ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"columns are \[\]: no path and no label"),
        (b"path,name\n", r"\['path', 'name'\]: no label.*first line"),
        (b"path,label\na,b\n\na,b,c\n", "3 cells for 2 columns in line 4. Mend"),
        (b"path,label\na\n", "1 cells for 2 columns in line 2. Mend"),
        (b'path,label\n"a,b\n', "in which: .*end of data. Save it again"),
        (b"path,label\n\xe9,b\n", "in which: .*utf-8.*Save it again"),
        (b"label,path,label\na,b,c\n", "'label' is there twice. Rename or remove one"),
        (b"path;label\na;b\n", "no label. Its cells are separated by semicolons"),
        (b"path\tlabel\na\tb\n", "no label. Its cells are separated by tabs"),
        (b"Path,Label\na,b\n", "no path and no label. Write 'Path' in small letters"),
        ("path,label".encode("utf-16"), "which is in UTF-16. Save it again as UTF-8"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    expected = r"(?s)^Expected a CSV file in UTF-8 with the columns path, label\. Rec"
    with pytest.raises(ValueError, match=f"{expected}.*a.csv'.*{message}"):
        cells(path, ["path", "label"])
    with pytest.raises(ValueError, match=r"\. Download it anew$"):
        cells(path, ["path", "label"], advice="Download it anew")


def test_no_file_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(ValueError, match="is not a file"):
            cells(path)


def test_short_lines_where_they_are_allowed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path,label\na\n")
    assert cells(path, short_lines=True) == [{"path": "a", "label": ""}]


def test_what_is_written_is_read_again_exactly(tmp_path):
    path = tmp_path / "a.csv"
    names = [" a ", "é,\n", "a\rb", '"', "", os.fsdecode(b"caf\xe9")]
    write_table(path, ["path", "other"], [(name, 1) for name in names])
    assert b"caf\xe9" in path.read_bytes()
    assert [row["path"] for row in cells(path, verbatim=["path"])] == names


def test_files_that_were_left_out(tmp_path):
    path = tmp_path / "skipped.csv"
    write_skipped(path, [("a.jpg", "empty, really")])
    assert path.read_text() == 'path,reason\na.jpg,"empty, really"\n'
    write_skipped(path, [], even_if_none=True)
    assert path.read_text() == "path,reason\n"
    for _ in range(2):
        write_skipped(path, [])
        assert not path.exists()
