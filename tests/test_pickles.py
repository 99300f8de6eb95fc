"""Pickles are read without running them."""

import os
import pickle
import struct
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from keras_aploss.datasets.pickles import read_pickle

GROUND_TRUTH = {
    "imlist": ["all_souls_000013", "cathédrale"],
    "gnd": [
        {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": np.array([3, 1]), "junk": []},
        {"bbx": np.array([1.5, 2, 3, 4]), "easy": np.empty(0, np.int64), "none": None},
    ],
    "count": np.int64(7),
    "share": np.float32(0.5),
    "names": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "matrix": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    "raw": b"\xff\x00",
    "tuple": (1, True, 2**70),
}


def assert_equal(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_equal(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_reads_what_the_pickles_hold(tmp_path, protocol, core):
    contents = pickle.dumps(GROUND_TRUTH, protocol)
    # Both spellings of NumPy's module; from protocol 4 on, a length precedes it.
    for other in ("numpy.core", "numpy._core"):
        for module in ("multiarray", "numeric"):
            old, new = f"{other}.{module}".encode(), f"{core}.{module}".encode()
            if protocol >= 4:
                old, new = (bytes([len(name)]) + name for name in (old, new))
            contents = contents.replace(old, new)
    if protocol >= 4:  # of the whole, whose frame may have another length now
        contents = unframed(contents)
    path = tmp_path / "gnd.pkl"
    path.write_bytes(contents)
    assert_equal(read_pickle(path), GROUND_TRUTH)


def unframed(contents):
    assert contents[2:3] == pickle.FRAME
    return contents[:2] + contents[11:]


def test_reads_a_pickle_of_python_2(tmp_path):
    """Its `str` is bytes: opcodes U (short string) and T, here written by hand."""
    easy = np.array([5, 2], "<i8")
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02i8I0\nI1\ntR"
        b"(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU\x10" + easy.tobytes() + b"tb"
    )
    name = "cathédrale".encode("latin1")
    contents = b"\x80\x02}(U\x04easy" + array
    contents += b"T" + struct.pack("<i", 4) + b"name" + b"U" + bytes([len(name)]) + name
    (tmp_path / "gnd.pkl").write_bytes(contents + b"u.")
    actual = read_pickle(tmp_path / "gnd.pkl")
    assert_equal(actual, {"easy": easy, "name": "cathédrale"})


class Hostile:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Hostile(os.system, "touch run"), rf"it names {os.name}.system"),
        (Hostile(eval, "open('run', 'w')"), "it names (builtins|__builtin__).eval"),
        (Hostile(open, "run", "w"), "it names (io|_io).open"),
        (sys.exit, "it names sys.exit"),
        (np.array([{}, None], object), "dtype object"),
        (np.zeros(2, [("a", "i4")]), "dtype|fields"),
        (np.dtype("i4"), "a type or a function"),
        ([np.ndarray], "a type or a function"),
        (np.datetime64("2020-01-01"), "datetime64"),
    ],
)
def test_refuses_and_names_what_it_would_run(
    tmp_path, monkeypatch, value, message, protocol
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps({"gnd": value}, protocol))
    with pytest.raises(ValueError, match=message):
        read_pickle("gnd.pkl")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"no pickle",
        b"\x80\x05.",
        pickle.dumps(GROUND_TRUTH)[:-40],
        # A list that holds itself.
        b"\x80\x02]q\x00h\x00a.",
        # An array of more values than bytes; an encoding of another name.
        b"cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\n(U\x02i8tR(I9\ntU\x01CtR.",
        b"c_codecs\nencode\n(U\x01aU\x03zipttR.",
    ],
)
def test_damaged_files_are_errors(tmp_path, contents):
    (tmp_path / "gnd.pkl").write_bytes(contents)
    with pytest.raises(ValueError, match=r"gnd.pkl'.*Download the file again"):
        read_pickle(tmp_path / "gnd.pkl")


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=300)
def test_flipped_bytes_are_read_or_refused(tmp_path_factory, data):
    contents = bytearray(pickle.dumps(GROUND_TRUTH, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = tmp_path_factory.getbasetemp() / "flipped.pkl"
    path.write_bytes(contents)
    try:
        read_pickle(path)
    except ValueError as error:
        assert "Expected a pickle" in str(error)  # noqa: PT017
