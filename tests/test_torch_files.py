"""Files of `torch.save` read without PyTorch; what they name is never run."""

import contextlib
import io
import os
import pathlib
import pickle
import pickletools
import struct
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, strategies as st
from torch_format import (
    MAGIC,
    Call,
    Instance,
    Raw,
    Tensor,
    instructions,
    name_of,
    write_torch_file,
)

from keras_aploss.pickles import PickledObject, read_pickle
from keras_aploss.torch_files import read_torch_file

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILES = [GOLDEN / "torch_zip.pt", GOLDEN / "torch_legacy.pt"]
NUMBERS = np.arange(24, dtype="float32").reshape(4, 6)


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_pytorch_are_read(path):
    checkpoint = read_torch_file(path)
    state = checkpoint["state_dict"]
    expected = {
        "weight": np.ones(3, "f4"), "running_mean": np.zeros(3, "f4"),
        "num_batches_tracked": np.array(0), "transposed": NUMBERS.T,
        "part": NUMBERS[1:3, ::2], "parameter": NUMBERS[0],
        "none": np.zeros((0, 3), "f4"), "number": np.array(3, "f4"),
        "torch.float16": NUMBERS[0].astype("f2"), "torch.bfloat16": NUMBERS[0],
        "torch.float64": NUMBERS[0].astype("f8"),
        "torch.int64": NUMBERS[0].astype("i8"), "torch.bool": NUMBERS[0] > 0,
    }  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)
        assert state[name].shape == array.shape
        assert state[name].dtype == array.dtype == np.asarray(state[name]).dtype
    pca = checkpoint["pca"]["Landmarks_clean"].attributes
    assert pca["whiten"] is True
    data = np.random.RandomState(0).standard_normal((20, 4)).astype("f4")
    np.testing.assert_allclose(pca["mean_"], data.mean(axis=0), atol=1e-6)
    variance, components = np.linalg.eigh(np.cov(data, rowvar=False))
    np.testing.assert_allclose(pca["explained_variance_"], variance[::-1], rtol=1e-4)
    cosines = (pca["components_"] * components[:, ::-1].T).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-5)
    assert checkpoint["size"] == (1, 2)
    assert checkpoint["numpy"] == 7
    arguments = checkpoint["args"]
    assert isinstance(arguments, PickledObject)
    assert arguments.class_name == "argparse.Namespace"
    assert arguments.attributes["p"] == [2.5]
    assert arguments.attributes["none"] == b""


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_a_gpu_and_both_forms(tmp_path, legacy):
    value = {"a": Tensor(NUMBERS, "cuda:0"), "b": [Tensor(np.arange(3)), None, -1.5]}
    read = read_torch_file(write_torch_file(tmp_path / "a.pt", value, legacy=legacy))
    np.testing.assert_array_equal(read["a"], NUMBERS)
    np.testing.assert_array_equal(read["b"][0], [0, 1, 2])
    assert read["b"][1:] == [None, -1.5]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_pytorch_writes_is_what_the_reader_reads(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    kinds = ["float32", "float64", "int16", "uint8"]
    state = {
        kind: (50 * torch.rand(2, 3, 4, generator=generator)).to(getattr(torch, kind))
        for kind in kinds
    }
    state["channels_last"] = torch.rand(1, 3, 4, 5).to(
        memory_format=torch.channels_last
    )
    saved = {"state": state, "set": {1, 2}, "text": "ü" * 300, "big": 2**70}
    for name, modern in (("zip.pt", True), ("legacy.pt", False)):
        if protocol == 4 and not modern:
            continue
        torch.save(
            saved, tmp_path / name, pickle_protocol=protocol,
            _use_new_zipfile_serialization=modern,
        )  # fmt: skip
        read = read_torch_file(tmp_path / name)
        for kind, tensor in state.items():
            np.testing.assert_array_equal(read["state"][kind], tensor.numpy())
        assert (read["text"], read["big"]) == ("ü" * 300, 2**70)


class Trap:
    """Leaves a file behind when its pickle is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_a_command_is_named_and_not_run(tmp_path, legacy):
    sprung = tmp_path / "sprung"
    program = pickle.dumps({"state_dict": Trap(sprung)}, protocol=2)
    pickle.loads(program)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    value = Raw(program[2:-1])
    path = write_torch_file(tmp_path / "a.pt", value, legacy=legacy)
    message = refused(path, rf"{os.system.__module__}\.system")
    assert "nothing was imported or run" in message
    assert not sprung.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "__builtin__.getattr", "os.system", "torch.load", "builtins.exec",
     "sklearn.decomposition.pca.os", "numpy.core.multiarray.os", "operator.call"],
)  # fmt: skip
def test_names_that_are_not_listed_are_refused(tmp_path, name):
    for value in Call(name, "1"), Instance(name, a=1), [Raw(name_of(name))]:
        path = write_torch_file(tmp_path / "a.pt", {"x": value})
        refused(path, name.replace("__builtin__", "builtins").replace(".", r"\."))


DTYPE = Call("numpy.dtype", "f4", False, True)
RECONSTRUCT = Call("numpy.core.multiarray._reconstruct", None, (0,), "b")


def built(value, state):
    """`value` whose `__setstate__` would be given `state`."""
    parts = [instructions(part, {})[2:-1] for part in (value, state)]
    return Raw(b"".join(parts) + b"b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Call("_codecs.encode", "cos\nsystem", "rot13"), "encoding 'rot13'"),
        (Call("numpy.dtype", "O8", False, True), "'O8'"),
        (Call("numpy.dtype", "V999999999", False, True), "'V999"),
        (built(RECONSTRUCT, (1, (1,), DTYPE, False, [1])), "without bytes"),
        (built(RECONSTRUCT, (1, (9,), DTYPE, False, b"1234")), "another shape"),
        (built(RECONSTRUCT, (1, (-1, -1), DTYPE, False, b"1234")), "impossible"),
        (built(Call("collections.OrderedDict"), {"update": 1}), None),
        (built([1], {"append": 1}), "a state of no object"),
        (built(Instance("argparse.Namespace", a=1), {"__class__": 1}), None),
        (Call("torch.FloatStorage", 10**9), "damaged"),
        (Call("collections.OrderedDict", [("a", 1)]), "damaged"),
        (Call("torch._utils._rebuild_tensor_v2", 1, 2, 3, 4), "damaged"),
        (Raw(b"\x82\x01"), "EXT1"),
        (Raw(b"(i__main__\nX\n"), "INST"),
        (Raw(b"h\x63"), "damaged"),
        (Raw(b"R"), "damaged"),
        (Raw(b"}(K\x01)K\x02u"), "damaged"),
        (Raw(b"})K\x01s"), "a key"),
        (Raw(b"(" * 100_000), "damaged"),
        (Raw(b"\x8d" + b"\xff" * 8), "damaged"),
        (Raw(b"Nr\xff\xff\xff\x7f"), None),
        (Raw(b"\x8b\xff\xff\xff\x7f"), "damaged"),
    ],
)
def test_known_functions_do_no_harm(tmp_path, value, message):
    path = write_torch_file(tmp_path / "a.pt", [value])
    if message is None:
        read_torch_file(path)
    else:
        refused(path, message)


def test_a_text_is_not_multiplied_into_bytes(tmp_path):
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
    first = name_of("_codecs.encode") + b"q\x01(" + text + b"X\x06\x00\x00\x00latin1"
    again = b"h\x01(h\x00X\x06\x00\x00\x00latin1tR"
    value = Raw(b"(" + first + b"tR" + again * 2000 + b"t")
    refused(write_torch_file(tmp_path / "a.pt", value), "more bytes than were written")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (-1, (2,), (1,)),
        (0, (7,), (1,)),
        (3, (4,), (1,)),
        (0, (2, 2), (-1, 1)),
        (0, (10**9, 10**9), (0, 0)),
        (0, (2, -2), (1, 1)),
        (0, (2,), (1, 1)),
    ],
)
def test_tensors_stay_in_their_storage(tmp_path, offset, shape, strides):
    kind = Raw(name_of("torch.FloatStorage"))
    reference = instructions(("storage", kind, "0", "cpu", 6), {})[2:-1] + b"Q"
    call = Call(
        "torch._utils._rebuild_tensor_v2", Raw(reference), offset, shape, strides
    )
    path = write_torch_file(tmp_path / "a.pt", [Tensor(np.ones(6, "f4")), call])
    refused(path, "damaged")


def as_zip(*names, compression=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "first bytes, b'', are not"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "first bytes, b'<!DOCTYP'"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a pickle"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "damaged"),
        (lambda path: path.write_bytes(MAGIC), "damaged"),
        (as_zip("Resnet-101-AP-GeM.pt"), "`data.pkl`, of Resnet-101-AP-GeM.pt.*unpack"),
        (as_zip("m/data.pkl", compression=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_other_files_are_named(tmp_path, write, message):
    write(tmp_path / "model.pt")
    refused(tmp_path / "model.pt", message)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="model"):
        read_torch_file(tmp_path / "model.pt")


def test_wrong_numbers_are_noticed(tmp_path):
    path = write_torch_file(tmp_path / "a.pt", {"a": Tensor(NUMBERS)})
    data = path.read_bytes()
    place = data.index(NUMBERS.tobytes())
    path.write_bytes(data[:place] + b"\x01" + data[place + 1 :])
    read = read_torch_file(path)
    with pytest.raises(ValueError, match="storage '0' is damaged: Bad CRC-32"):
        np.asarray(read["a"])


def read_all(value):
    """Every array in what was read."""
    match value:
        case dict():
            return [array for part in value.values() for array in read_all(part)]
        case list() | tuple():
            return [array for part in value for array in read_all(part)]
        case PickledObject():
            return read_all(value.attributes)
    return [np.asarray(value)] if hasattr(value, "shape") else []


RUN = "exec", "compile", "import", "os.", "subprocess.", "pickle.", "socket.", "shutil."
_watched = None  # an audit hook cannot be taken away again


def _watch(event, arguments):
    if _watched is not None and event.startswith(RUN):
        _watched.append((event, arguments))


@pytest.fixture
def events(monkeypatch):
    """What Python reports of code, modules, processes and files while a test runs."""
    if not getattr(_watch, "hooked", False):
        "".encode("cp437")  # zipfile reads names with this codec: imported once
        sys.addaudithook(_watch)
        _watch.hooked = True
    found = []
    yield found
    globals()["_watched"] = None


def read_watched(path, found):
    """Read a file while events are noted."""
    globals()["_watched"] = found
    try:
        with contextlib.suppress(ValueError, RecursionError):
            read_all(read_torch_file(path))
    finally:
        globals()["_watched"] = None


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_of_mutated_checkpoints_nothing_is_run(path, tmp_path, events):
    rng = np.random.default_rng(0)
    whole, damaged = path.read_bytes(), tmp_path / "damaged.pt"
    for _ in range(3000):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        if rng.random() < 0.2:  # instructions that are well formed, in another place
            start, end = sorted(rng.integers(0, len(data), 2))
            data[start:start] = data[start : min(end, start + 40)]
        damaged.write_bytes(data)
        read_watched(damaged, events)
    assert events == []


@pytest.mark.slow
def test_of_random_instructions_nothing_is_run(tmp_path, events):
    """Streams of well-formed instructions, among them all that call something."""
    rng = np.random.default_rng(1)
    texts = ["os", "system", "touch sprung", "builtins", "eval", "numpy", "dtype", "f4"]
    parts = [
        code.code.encode("latin-1") for code in pickletools.opcodes if not code.arg
    ]
    parts += [b"X" + struct.pack("<I", len(text)) + text.encode() for text in texts]
    parts += [name_of(f"{one}.{two}") for one in texts[::2] for two in texts[1::2]]
    parts += [b"K\x01", b"q\x00", b"h\x00", b"ios\nsystem\n", b"cos\nsystem\n"] * 3
    parts += [b"(X\x0c\0\0\0touch sprungtR", b"\x93", b"R", b"\x81", b"b", b"t"] * 3
    for _ in range(20_000):
        chosen = rng.integers(len(parts), size=rng.integers(2, 24))
        program = b"".join(parts[i] for i in chosen) + b"."
        globals()["_watched"] = events
        try:
            with contextlib.suppress(ValueError):
                read_pickle(io.BytesIO(program), load=lambda reference: reference)
        finally:
            globals()["_watched"] = None
    assert events == []
    # The watch works: what a stream names is found if it is run.
    globals()["_watched"] = events
    pickle.loads(b"cos\ngetpid\n)R.")
    globals()["_watched"] = None
    assert ("pickle.find_class", ("os", "getpid")) in events


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(path, cut, tmp_path_factory):
    data = path.read_bytes()
    damaged = tmp_path_factory.getbasetemp() / "cut.pt"
    damaged.write_bytes(data[: int(cut * len(data))])
    refused(damaged, "Received: ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_a_damaged_file_raises_value_errors_only(path, changes, tmp_path_factory):
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    damaged = tmp_path_factory.getbasetemp() / "damaged.pt"
    damaged.write_bytes(data)
    with contextlib.suppress(ValueError):
        read = read_torch_file(damaged)
        with contextlib.suppress(RecursionError):  # of a list that holds itself
            read_all(read)
