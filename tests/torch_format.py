"""Files as `torch.save` writes them, written without PyTorch; weights to put into them.

The instructions of the pickles are written out here one by one, as PyTorch and Python 3
write them, so that nothing of the reader's is used and hostile files can be made, too.
"""

import struct
import zipfile
import zlib

import numpy as np

STORAGES = {
    "float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long",
}  # fmt: skip
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class Instance:
    """An object of a class, by its full name, with attributes."""

    def __init__(self, name, **attributes):
        self.name = name
        self.attributes = attributes


class Call:
    """A call of a function, by its full name."""

    def __init__(self, name, *arguments):
        self.name = name
        self.arguments = arguments


class Tensor:
    """An array that is written as a tensor, in a storage of its own."""

    def __init__(self, array, location="cpu"):
        self.array = np.asarray(array)
        self.location = location


class Raw(bytes):
    """Instructions as they are."""


INT = Raw(b"c__builtin__\nint\n")


def name_of(full_name):
    module, _, attribute = full_name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def instructions(value, storages, legacy=False):
    def write(value):
        match value:
            case Raw():
                return value
            case None | True | False:
                return {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                return b"J" + struct.pack("<i", value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                text = value.encode()
                return b"X" + struct.pack("<I", len(text)) + text
            case bytes():
                return write(Call("_codecs.encode", value.decode("latin-1"), "latin1"))
            case tuple():
                return b"(" + b"".join(map(write, value)) + b"t"
            case list():
                return b"](" + b"".join(map(write, value)) + b"e"
            case dict():
                items = [write(part) for item in value.items() for part in item]
                return b"}(" + b"".join(items) + b"u"
            case Call():
                return name_of(value.name) + write(value.arguments) + b"R"
            case Instance():
                state = write(value.attributes) + b"b"
                return name_of(value.name) + b")\x81" + state
            case np.ndarray():
                return write_array(value)
            case Tensor():
                return write_tensor(value)
        raise TypeError(value)

    def write_array(array):
        dtype = write(Call("numpy.dtype", array.dtype.str[1:], False, True))
        dtype += write((3, "<", None, None, None, -1, -1, 0)) + b"b"
        is_fortran = array.ndim > 1 and array.flags.f_contiguous
        data = array.tobytes("F" if is_fortran else "C")
        made = Call(
            "numpy.core.multiarray._reconstruct",
            Raw(name_of("numpy.ndarray")), (0,), b"b",
        )  # fmt: skip
        return (
            write(made) + write((1, array.shape, Raw(dtype), is_fortran, data)) + b"b"
        )

    def write_tensor(tensor):
        array = tensor.array
        key = str(len(storages))
        storages[key] = array
        kind = Raw(name_of(f"torch.{STORAGES[array.dtype.name]}Storage"))
        reference = ("storage", kind, key, tensor.location, array.size)
        reference += (None,) if legacy else ()
        strides = tuple(step // array.itemsize for step in array.strides)
        # PyTorch keeps the order of the memory.
        return write(
            Call(
                "torch._utils._rebuild_tensor_v2",
                Raw(write(reference) + b"Q"), 0, array.shape, strides, False,
                Call("collections.OrderedDict"),
            )
        )  # fmt: skip

    return b"\x80\x02" + write(value) + b"."


def write_torch_file(path, value, *, legacy=False):
    """Write a file as `torch.save` does, today or (`legacy`) before version 1.6."""
    storages = {}
    pickle = instructions(value, storages, legacy)
    if legacy:
        keys = sorted(storages)
        parts = [MAGIC, b"\x80\x02M\xe9\x03."]
        parts.append(instructions({"little_endian": True}, {}))
        parts += [pickle, instructions(keys, {})]
        for key in keys:
            parts += [struct.pack("<q", storages[key].size), storages[key].tobytes("A")]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle)
        for key, array in storages.items():
            archive.writestr(f"{path.stem}/data/{key}", array.tobytes("A"))
        archive.writestr(f"{path.stem}/version", "3\n")
    return path


def shapes_of(arch, units):
    """Shapes of the weights of a network of the authors, by their names."""
    blocks, bottleneck = {
        "resnet18_rmac": ((2, 2, 2, 2), False),
        "resnet50_rmac": ((3, 4, 6, 3), True),
        "resnet101_rmac": ((3, 4, 23, 3), True),
        "resnet152_rmac": ((3, 8, 36, 3), True),
    }[arch]
    shapes = {}

    def convolution(name, norm, size, inputs, outputs):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (outputs,)

    convolution("conv1", "bn1", 7, 3, 64)
    inputs = 64
    for layer, count in enumerate(blocks):
        width = 64 * 2**layer
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            name = f"layer{layer + 1}.{block}."
            sizes = [(1, inputs, width), (3, width, width), (1, width, outputs)]
            if not bottleneck:
                sizes = [(3, inputs, width), (3, width, width)]
            for index, size in enumerate(sizes, start=1):
                convolution(f"{name}conv{index}", f"{name}bn{index}", *size)
            if block == 0 and (layer > 0 or bottleneck):
                shortcut = f"{name}downsample."
                convolution(f"{shortcut}0", f"{shortcut}1", 1, inputs, outputs)
            inputs = outputs
    shapes["adpool.p"] = (1,)
    shapes["fc.weight"] = (units, inputs)
    shapes["fc.bias"] = (units,)
    return shapes


def seeded_weights(arch, units, seed=0):
    """Random weights under which all layers matter and signals neither grow nor die.

    `RandomState` gives the same numbers with every version of NumPy.
    """
    rng = np.random.RandomState(seed)
    weights = {}
    for name, shape in shapes_of(arch, units).items():
        if len(shape) == 4:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            value = rng.standard_normal(shape) * scale
        elif name == "adpool.p":
            value = np.full(1, 2.7)
        elif name == "fc.weight":
            value = rng.standard_normal(shape) / np.sqrt(shape[1])
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 2, shape)
        elif name.endswith("weight"):
            value = rng.uniform(0.5, 1.1, shape)
        else:
            value = rng.standard_normal(shape) * 0.2
        weights[name] = value.astype("float32")
    return weights


def seeded_pca(units, seed=0, **attributes):
    """A PCA of embeddings, with the attributes that scikit-learn gives it."""
    rng = np.random.RandomState(seed + 1)
    components, _ = np.linalg.qr(rng.standard_normal((units, units)))
    return Instance(
        "sklearn.decomposition.pca.PCA",
        **{
            "n_components": None, "whiten": True, "svd_solver": "full",
            "mean_": (rng.standard_normal(units) * 0.1).astype("float32"),
            "components_": np.asfortranarray(components.astype("float32")),
            "explained_variance_": np.sort(rng.uniform(1e-6, 1e-2, units))[::-1].copy(),
            "noise_variance_": Call(
                "numpy.core.multiarray.scalar",
                Call("numpy.dtype", "f8", False, True), np.float64(0.5).tobytes(),
            ),
            "_sklearn_version": "0.20.2", **attributes,
        },
    )  # fmt: skip


def checkpoint_of(weights, arch, prefix="", pca=None, **options):
    """A checkpoint as the authors write it."""
    state = {f"{prefix}{name}": Tensor(value) for name, value in weights.items()}
    state[f"{prefix}bn1.num_batches_tracked"] = Tensor(np.array(7))
    checkpoint = {
        "current_iter": 296,
        "args": Instance(
            "argparse.Namespace", lr=1e-4, kind=Raw(name_of("__builtin__.int"))
        ),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": Tensor(np.ones(5, "f4"))}}},
        "state_dict": state,
        "model_options": {"arch": arch, "out_dim": len(weights["fc.bias"]), **options},
        "preprocess": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    return checkpoint if pca is None else {**checkpoint, "pca": pca}


def seeded_image(height, width, seed=0):
    """An image with structure of all sizes."""
    rng = np.random.RandomState(seed)
    coarse = rng.uniform(0, 255, (1 + height // 16, 1 + width // 16, 3))
    image = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    image = 0.7 * image + 0.3 * rng.uniform(0, 255, image.shape)
    return image.astype("uint8")


def checksum(weights):
    return zlib.crc32(b"".join(value.tobytes() for value in weights.values()))
