"""Pickles are read without running them: ground truths and checkpoints alike."""

import os
import pathlib
import pickle
import re
import struct
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from torch_format import INT, Raw, name_of, write_torch_file

from keras_aploss.benchmarks.ground_truth import read_ground_truth
from keras_aploss.torch_files import read_torch_file

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
        assert actual.keys() == expected.keys()
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
    assert_equal(read_ground_truth(path), GROUND_TRUTH)


def unframed(contents):
    assert contents[2:3] == pickle.FRAME
    return contents[:2] + contents[11:]


@pytest.mark.parametrize("protocol", range(3))
def test_reads_what_python_2_has_written(protocol):
    path = pathlib.Path(__file__).parent / "golden" / f"python2_protocol{protocol}.pkl"
    raw, unicode = "\xff\0\n'\"\\", "\u2020\n"
    assert_equal(
        read_ground_truth(path), {**GROUND_TRUTH, "raw": raw, "unicode": unicode}
    )


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
    actual = read_ground_truth(tmp_path / "gnd.pkl")
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
        (np.array([{}, None], object), "an array of dtype 'O"),
        (np.zeros(2, [("a", "i4")]), "an array of dtype 'V4'"),
        (np.dtype("i4"), "a type or a function"),
        ([np.ndarray], "a type or a function"),
        (np.datetime64("2020-01-01"), "an array of dtype 'M8'"),
    ],
)
def test_refuses_and_names_what_it_would_run(
    tmp_path, monkeypatch, value, message, protocol
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps({"gnd": value}, protocol))
    with pytest.raises(ValueError, match=message):
        read_ground_truth("gnd.pkl")
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
        read_ground_truth(tmp_path / "gnd.pkl")


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=100)
def test_flipped_bytes_are_read_or_refused(tmp_path_factory, data):
    contents = bytearray(pickle.dumps(GROUND_TRUTH, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = tmp_path_factory.getbasetemp() / "flipped.pkl"
    path.write_bytes(contents)
    try:
        read_ground_truth(path)
    except ValueError as error:
        assert "Expected a pickle" in str(error)  # noqa: PT017


def refused(tmp_path, program, reader):
    """The error of reading a file with a program for its pickle."""
    if reader == "ground truth":
        path = tmp_path / "gnd.pkl"
        path.write_bytes(program)
        with pytest.raises(ValueError, match="Expected a pickle") as caught:
            read_ground_truth(path)
    else:
        value = Raw(program.removesuffix(b"."))
        path = tmp_path / "model.pt"
        write_torch_file(path, value, legacy=reader == "legacy checkpoint")
        with pytest.raises(ValueError, match="Expected a checkpoint") as caught:
            read_torch_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


READERS = "ground truth", "checkpoint", "legacy checkpoint"
PROGRAMS = {
    "GLOBAL": b"cos\nsystem\n(S'touch run'\ntR.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93\x8c\ttouch run\x85R.",
    "two names": b"cbuiltins\ngetattr\n(cos\nenviron\nS'system'\ntR(S'touch run'\ntR.",
    "INST": b"(S'touch run'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch run'\no.",
    "NEWOBJ": b"cos\nsystem\n(S'touch run'\nt\x81.",
    "NEWOBJ_EX": b"cos\nsystem\n(S'touch run'\nt}\x92.",
    "BUILD": b"cnumpy\nndarray\n(I1\ntR}S'__class__'\ncos\nsystem\nsb.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_instruction_calls_a_function(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name not in ("two names", "NEWOBJ", "NEWOBJ_EX", "BUILD"):
        pickle.loads(PROGRAMS[name])
        pathlib.Path("run").unlink()  # the program works
    named = {"two names": "getattr", "INST": "instruction INST"}
    for reader in READERS:
        message = refused(tmp_path, PROGRAMS[name], reader)
        assert named.get(name, "names os.system") in message
        assert re.search("was (imported or )?run", message)
        assert not pathlib.Path("run").exists()


def text_of(length):
    return b"X" + struct.pack("<I", length) + b"a" * length


# What stands where a text or number should: lists of lists that stand for 2 ** 60 empty
# ones, tuples in tuples 200,000 deep, and an integer of a million bytes. Printing,
# hashing or multiplying them would take hours, or end the process.
BOMB = b"](" * 60 + b"]" + b"".join(b"q%ch%ce" % (i, i) for i in range(60))
WIDE = b"](" * 15 + b"]" + b"".join(b"q%c%be" % (i, b"h%c" % i * 8) for i in range(15))
DEEP = b")" + b"\x85" * 200_000
LARGE = b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6
BYTES = name_of("_codecs.encode")  # to be called with a text and "latin1"


def array(shape, data=b"U\x08aaaaaaaa", put=b""):
    return (
        name_of("numpy.core.multiarray._reconstruct") + b"(" + name_of("numpy.ndarray")
        + b"(K\x00tU\x01btR" + put + b"(K\x01" + shape
        + name_of("numpy.dtype") + b"(U\x02f4K\x00K\x01tR\x89" + data + b"tb"
    )  # fmt: skip


def not_enough():
    """Instructions whose values are longer than the file."""
    for code, form, sizes in (
        (b"\x8d", "<Q", (10**12, 2**62, 2**64 - 1)),
        (b"\x8e", "<Q", (10**12, 2**62, 2**64 - 1)),
        (b"\x96", "<Q", (10**12, 2**62, 2**64 - 1)),
        (b"T", "<i", (2**31 - 1, -1)),
        (b"X", "<I", (2**32 - 1,)),
        (b"B", "<I", (2**32 - 1,)),
        (b"\x8b", "<i", (2**31 - 1, -1)),
    ):
        for size in sizes:
            yield (
                code + struct.pack(form, size) + b"abc",
                "expected|byte count|not enough",
            )


ATTACKS = [
    *not_enough(),
    (b"S'" + b"a" * 10**6, "without its quotes"),
    (b"Sabc\n.", "without its quotes"),
    (b"I" + b"9" * 10**6 + b"\n.", "4300"),
    (b"I" + b"9" * 4000 + b"\n.", "an integer of 13,288 bits"),
    (LARGE + b".", "an integer of 7,999,993 bits"),
    (b"(" * 10**5 + b".", "that nothing takes up"),
    (b"NN.", "that nothing takes up"),
    (b"g1000000\n.", "1000000"),
    (b"\xfe.", "no instruction"),
    (array(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft") + b".", "another shape"),
    (array(b"(J\xff\xff\xff\xfft") + b".", "impossible shape"),
    (array(b"(" + b"K\x01" * 100 + b"K\x02t") + b".", "impossible shape"),
    (array(b"(" + (b"\x8a\x09" + b"\x7f" * 9) * 50 + b"t") + b".", "impossible shape"),
    (array(BOMB) + b".", "impossible shape"),
    (array(b"(K\x02t", BOMB) + b".", "without bytes"),
    (BOMB + b"U\x01a\x93.", "no text"),
    (b"U\x01a" + BOMB + b"\x93.", "no text"),
    (name_of("numpy.dtype") + b"(" + BOMB + b"tR.", "REDUCE at byte"),
    (BYTES + b"(U\x01a" + BOMB + b"tR.", r"encoding \[\["),
    (b"}" + BOMB + b"Ns.", "a key of a dictionary"),
    (b"}" + DEEP + b"Ns.", "a key of a dictionary"),
    (b"}" + text_of(2000) + b"Ns.", "a key of a dictionary"),
    (b"(" + BYTES + b"q\x01(" + text_of(10**5) + b"q\x02U\x06latin1tR"
     + b"h\x01(h\x02U\x06latin1tR" * 999 + b"l.", "more bytes than were written"),
    (b"(" + text_of(80_000) + b"q\x01"
     + array(b"(J\x20\x4e\x00\x00t", b"h\x01") * 99 + b"l.",
     "more bytes than were written"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "message"), ATTACKS, ids=range(len(ATTACKS)))
def test_attacks_on_memory_and_time_are_refused(tmp_path, program, message):
    for reader in READERS:
        told = refused(tmp_path, program, reader)
        assert re.search(message, told)
        assert len(told) < 1000


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (WIDE, r"stand for 2.3e\+14 values"),
        (DEEP, "more than 20 deep"),
        (b"]" * 10**5 + b"a" * (10**5 - 1), "more than 20 deep"),
        # Half as deep at each place, but the second holds the first.
        (b"](" + b")" + b"\x85" * 12 + b"q\x00h\x00" + b"\x85" * 12 + b"e", "deep"),
        (b"]q\x00h\x00a", "more than 20 deep"),
        (b"](" + text_of(10**4) + b"q\x00" + b"h\x00" * 1000 + b"e", "stand for"),
        (b"](" + array(b"(J\x20\x4e\x00\x00t", text_of(80_000)) + b"q\x00"
         + b"h\x00" * 1000 + b"e", "stand for"),
        (b"\x8f(K\x01\x90", "a builtins.set"),
        (b"](" + INT + b"e", "names builtins.int"),
    ],
)  # fmt: skip
def test_ground_truths_are_what_their_files_have_room_for(tmp_path, contents, message):
    (tmp_path / "gnd.pkl").write_bytes(contents + b".")
    with pytest.raises(ValueError, match=message):
        read_ground_truth(tmp_path / "gnd.pkl")


@pytest.mark.parametrize("key", [BOMB, DEEP, b"N"])
def test_storages_have_names(tmp_path, key):
    kind = name_of("torch.FloatStorage")
    reference = b"(X\x07\0\0\0storage" + kind + key + b"X\x03\0\0\0cpuK\x01tQ"
    for tensor in (reference, b"(" + key + b"U\x02f4K\x01t"):
        arguments = b"(" + tensor + b"K\x00(K\x01t(K\x01t\x89NtR"
        program = name_of("torch._utils._rebuild_tensor_v2") + arguments
        assert "damaged" in refused(tmp_path, program, "checkpoint")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_truncated_pickle_is_refused(tmp_path, protocol):
    contents = pickle.dumps(GROUND_TRUTH, protocol)
    for end in {*range(0, len(contents), 17), len(contents) - 1}:
        (tmp_path / "gnd.pkl").write_bytes(contents[:end])
        with pytest.raises(ValueError, match="Expected a pickle"):
            read_ground_truth(tmp_path / "gnd.pkl")


def test_an_array_is_remembered_where_it_was_begun(tmp_path):
    """A memo key of an empty array gives the array that it became."""
    begun = array(b"(K\x02t", put=b"q\x05")
    (tmp_path / "gnd.pkl").write_bytes(b"(" + begun + b"h\x05l.")
    one, other = read_ground_truth(tmp_path / "gnd.pkl")
    assert one is other
    np.testing.assert_array_equal(one, np.frombuffer(b"aaaaaaaa", "f4"))
