import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import zlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from c_program import ask_program, compile_program, operations
from image_bytes import encode, photo

from keras_aploss.embeddings import combine_scales, embed_at_scales, whiten_embeddings
from keras_aploss.images import decode_image, load_image
from keras_aploss.serving import decode_batch, export_saved_model, warmup_files

SIZE, UNITS = 24, 8
NOISE = photo(40, 40, 9)


def small_model(image_shape=(None, None, 3), normalize=True):
    keras.utils.set_random_seed(3)
    images = keras.Input(image_shape)
    x = keras.layers.Rescaling(1 / 127.5, -1)(images)
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(UNITS)(x)
    if normalize:
        x = keras.layers.UnitNormalization()(x)
    return keras.Model(images, x)


def map_of_embeddings():
    images = keras.Input((None, None, 3))
    return keras.Model(images, keras.layers.Conv2D(UNITS, 3)(images))


def turned_photo():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encode(photo(40, 70, 0), "JPEG", exif=exif)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files of several formats, sizes and orientations."""
    folder = tmp_path_factory.mktemp("files")
    glass = photo(30, 30, 4)
    glass.putalpha(128)
    contents = {
        "turned.jpg": turned_photo(),
        "plain.jpg": encode(photo(64, 48, 1), "JPEG", subsampling="4:2:0"),
        "glass.png": encode(glass, "PNG"),
        "palette.png": encode(photo(33, 50, 2).quantize(16), "PNG", bits=4),
        "first.gif": encode(photo(50, 33, 3), "GIF"),
        "small.bmp": encode(photo(12, 15, 5), "BMP"),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


@pytest.fixture(scope="module")
def expected(model, files):
    """What Keras makes of the files."""
    images = np.stack([load_image(path, SIZE) for path in files])
    return model.predict(images, verbose=0)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_saved_model(
        model, tmp_path_factory.mktemp("exported") / "embeddings", image_size=SIZE
    )


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported)).signatures


def request(*files):
    return tf.constant([path.read_bytes() for path in files], tf.string)


def test_each_weight_is_written_once(model, exported):
    file = str(exported / "variables" / "variables")
    written = [tf.train.load_variable(file, key) for key in variables_in(file)]
    expected = [np.asarray(weight) for weight in model.weights]
    written, expected = (
        sorted(array.ravel().tolist() for array in arrays)
        for arrays in (written, expected)
    )
    assert written == expected


def variables_in(file):
    return [key for key, _ in tf.train.list_variables(file) if key[0] != "_"]


def test_files_are_embedded_as_by_keras(served, files, expected):
    assert np.ptp(expected, axis=0).max() > 0.05  # the images do differ
    together = served["serving_default"](image_bytes=request(*files))["embedding"]
    assert together.dtype == tf.float32
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for path, row in zip(files, expected, strict=True):
        alone = served["serving_default"](image_bytes=request(path))["embedding"]
        np.testing.assert_allclose(alone, row[None], atol=1e-5)


def test_decoded_images_are_embedded_as_by_keras(served, files, expected):
    images = np.stack([load_image(path, SIZE) for path in files]).astype("float32")
    np.testing.assert_allclose(
        served["images"](images=images)["embedding"], expected, atol=1e-5
    )


def test_the_signatures_are_as_documented(served):
    assert sorted(served) == ["images", "serving_default"]
    (files,) = served["serving_default"].structured_input_signature[1].values()
    assert (files.name, files.dtype, files.shape.as_list()) == (
        "image_bytes",
        tf.string,
        [None],
    )
    for signature in served.values():
        assert list(signature.structured_outputs) == ["embedding"]
        assert signature.structured_outputs["embedding"].shape.as_list() == [
            None,
            UNITS,
        ]


def test_an_empty_batch_gives_no_embeddings(served):
    empty = tf.constant([], tf.string)
    response = served["serving_default"](image_bytes=empty)
    assert response["embedding"].shape == (0, UNITS)
    assert decode_batch(empty, SIZE).shape == (0, SIZE, SIZE, 3)
    # Sizes that would take gigabytes, or fit no filter, with an image of them.
    for side in (SIZE, 9_000, 0):
        images = np.zeros((0, side, side, 3), "float32")
        assert served["images"](images=images)["embedding"].shape == (0, UNITS)


def bomb(side=30_000):
    contents = bytearray(encode(PIL.Image.new("RGB", (8, 8)), "PNG"))
    struct.pack_into(">II", contents, 16, side, side)
    return bytes(contents)


def jpeg_bomb(side=30_000, **options):
    contents = bytearray(encode(photo(8, 8, 0), "JPEG", **options))
    frame = contents.index(b"\xff\xc2" if options else b"\xff\xc0")
    struct.pack_into(">HH", contents, frame + 5, side, side)
    return bytes(contents)


def whole_bomb(side=30_000):
    """All the pixels are there, in a file of 110 kB."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side + 7) // 8 + 1) * side, 6)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def progressive_bomb(side=30_000):
    """A whole JPEG of 1 kB, all black, that takes 1.8 GB to decode in several scans."""

    def segment(marker, body):
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    # The code 0 says "nothing in the next 2^14 + n blocks", n in the 14 bits after it.
    blocks = (-(-side // 8)) ** 2
    bits = "0" + 14 * "1"
    bits *= -(-blocks // 32_767)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + 64 * b"\1")
        + segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
        + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
        + segment(0xDA, bytes([1, 1, 0, 1, 63, 0]))
        + data
        + b"\xff\xd9"
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\xd8\xff\xe0 nonsense",
        b"<html>not found</html>",
        turned_photo()[:-300],
        bomb(),
        bomb(2**31 - 1),
        jpeg_bomb(),
        jpeg_bomb(progressive=True),
        jpeg_bomb(65_535),
        encode(photo(20, 20, 0), "TIFF"),
    ],
    ids=[
        *("empty", "header", "html", "truncated", "bomb", "largest_bomb", "jpeg_bomb"),
        *("progressive_bomb", "largest_jpeg_bomb", "tiff"),
    ],
)
def test_bad_bytes_are_an_error_that_names_them(served, files, expected, bad):
    good = files[1].read_bytes()
    batch = tf.constant([good, good, bad, good, bad])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"positions.*\[2 4\]"):
        served["serving_default"](image_bytes=batch)
    # The server lives on.
    again = served["serving_default"](image_bytes=tf.constant([good]))
    np.testing.assert_allclose(again["embedding"], expected[1:2], atol=1e-5)


def test_decoded_images_over_the_limit_are_refused(model, tmp_path):
    extra = {"assets.extra/some": b"bytes", "README.md": b"# card"}
    version = export_saved_model(
        model, tmp_path, image_size=SIZE, max_pixels=1000, extra_files=extra
    )
    for name, contents in extra.items():
        assert (version / name).read_bytes() == contents
    embed = tf.saved_model.load(str(version)).signatures["images"]
    assert embed(images=tf.zeros([2, 25, 40, 3]))["embedding"].shape == (2, UNITS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 1000 pixels"):
        embed(images=tf.zeros([1, 25, 41, 3]))


def test_files_over_the_limit_of_pixels_are_refused(files):
    batch, decode = request(*files), tf.function(decode_batch)
    assert decode(batch, SIZE, max_pixels=64 * 48).shape[0] == len(files)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"at most 3071.*\[1\]"):
        decode(batch, SIZE, max_pixels=64 * 48 - 1)


def test_versions_count_up_and_are_never_overwritten(model, tmp_path):
    path = tmp_path / "new" / "embeddings"
    assert export_saved_model(model, path, image_size=SIZE) == path / "1"
    assert export_saved_model(model, path, image_size=SIZE, version=12) == path / "12"
    (path / "notes").mkdir()
    (path / "0014").mkdir()
    assert export_saved_model(model, str(path), image_size=SIZE) == path / "15"
    for taken in (12, 14):
        with pytest.raises(ValueError, match=f"version={taken}"):
            export_saved_model(model, path, image_size=SIZE, version=taken)
    names = sorted(child.name for child in path.iterdir())
    assert names == ["0014", "1", "12", "15", "notes"]


def test_a_server_never_sees_half_a_version(model, tmp_path, monkeypatch):
    save = tf.saved_model.save
    seen = []

    def watched(*args, **kwargs):
        save(*args, **kwargs)
        seen.append([child.name for child in tmp_path.iterdir()])
        if len(seen) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", watched)
    export_saved_model(model, tmp_path, image_size=SIZE)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path, image_size=SIZE)
    assert not any(name.isdecimal() for name in seen[0])
    assert [name for name in seen[1] if name.isdecimal()] == ["1"]
    assert [child.name for child in tmp_path.iterdir()] == ["1"]
    readable_by_others = (tmp_path / "1").stat().st_mode & 0o055
    assert readable_by_others == tmp_path.joinpath("1/variables").stat().st_mode & 0o055


def test_exporting_prints_nothing(model, tmp_path, capfd):
    export_saved_model(model, tmp_path, image_size=SIZE)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"version": 0}, "version=0"),
        ({"version": "1"}, "version='1'"),
        ({"max_pixels": -1}, "max_pixels=-1"),
        ({"model": keras.Sequential()}, "Expected a built model"),
        ({"model": small_model((32, 32, 3))}, "24 x 24"),
        ({"model": small_model((None, None, 1))}, "one input"),
        ({"model": small_model(normalize=False)}, "unit length"),
        ({"model": map_of_embeddings()}, "one output"),
        ({"scales": ()}, "one scale or more"),
        ({"scales": (1, 0)}, "above 0"),
        ({"model": small_model((24, 24, 3)), "scales": (1, 0.5)}, "any size"),
        ({"whitening": (np.zeros(3), np.eye(3))}, "8 units"),
        ({"whitening": (np.zeros(8), np.full((8, 2), np.nan))}, "finite"),
        ({"whitening": 3}, "PCAWhitening layer or a pair"),
    ],
)
def test_arguments_are_checked(model, tmp_path, arguments, message):
    arguments = {"model": model, "path": tmp_path, "image_size": SIZE, **arguments}
    with pytest.raises(ValueError, match=message):
        export_saved_model(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_other_backends_are_told_the_way(model, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"'jax'.*\.keras.*KERAS_BACKEND=tensorflow"):
        export_saved_model(model, tmp_path, image_size=SIZE)


SERVER = """
import json, re, sys
sys.modules["keras"] = sys.modules["keras_aploss"] = None  # importing them fails
import tensorflow as tf

def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024

embed = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
*bad, good = ([open(p, "rb").read() for p in paths.split()] for paths in sys.argv[2:])
embedding = embed(image_bytes=tf.constant(good))["embedding"]
embed(image_bytes=tf.constant(good[:1] * 8))
before = peak()
try:
    embed(image_bytes=tf.constant(good[:1] + bad[0] * 4))
except tf.errors.InvalidArgumentError as error:
    message = str(error)
embed(image_bytes=tf.constant(good[:1]))
print(json.dumps([message, peak() - before, embedding.numpy().tolist()]))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="Linux")
def test_a_process_without_keras_serves_it_and_hostile_pictures_take_no_memory(
    exported, files, expected, tmp_path
):
    """Pictures of 30,000 x 30,000 that are all there, eight in a request."""
    assert decode_image(progressive_bomb(64)).shape == (64, 64, 3)
    bad = [tmp_path / "bomb.png", tmp_path / "bomb.jpg"]
    for path, contents in zip(bad, (whole_bomb(), progressive_bomb()), strict=True):
        path.write_bytes(contents)
        assert path.stat().st_size < 200_000
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    paths = [" ".join(map(str, group)) for group in (bad, files)]
    command = [sys.executable, "-I", "-c", SERVER, str(moved), *paths]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    message, added, embedding = json.loads(done.stdout.splitlines()[-1])
    assert "[1 2 3 4 5 6 7 8]" in message
    assert added < 100  # MiB; decoded, one alone takes 2,600
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="Linux")
def test_a_long_service_names_each_bad_file_and_keeps_its_memory(
    served, files, expected
):
    embed = served["serving_default"]
    contents = [path.read_bytes() for path in files]
    bad = [
        b"",
        b"<html>",
        turned_photo()[:-300],
        bomb(),
        jpeg_bomb(),
        encode(NOISE, "PNG")[:90],
    ]
    rng = np.random.default_rng(0)
    memory = []
    for call in range(1600):
        chosen = rng.integers(0, len(files), 4)
        batch = [contents[i] for i in chosen]
        if call % 2:
            place = int(rng.integers(4))
            batch[place] = bad[rng.integers(len(bad))]
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=rf"positions.*\[{place}\]"
            ):
                embed(image_bytes=tf.constant(batch))
        else:
            embedding = embed(image_bytes=tf.constant(batch))["embedding"]
            np.testing.assert_allclose(embedding, expected[chosen], atol=1e-5)
        memory.append(resident())
    # The allocator has what it needs after a while; a leak of 50 kB a call would show.
    assert max(memory[800:]) - max(memory[400:800]) < 40


def saved_model_cli(*arguments):
    command = pathlib.Path(sysconfig.get_path("scripts")) / "saved_model_cli"
    done = subprocess.run(
        [command, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_the_command_line_of_tensorflow_runs_it(exported, files, expected):
    # A literal of Python, without the semicolon that separates inputs.
    literal = "".join(f"\\x{byte:02x}" for byte in files[1].read_bytes())
    output = saved_model_cli(
        "run",
        f"--dir={exported}",
        "--tag_set=serve",
        "--signature_def=serving_default",
        f"--input_exprs=image_bytes=[b'{literal}']",
    )
    numbers = re.findall(r"-?\d+\.\d+(?:e-?\d+)?", output.split("embedding")[-1])
    np.testing.assert_allclose(np.array(numbers, float), expected[1], atol=1e-5)


needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="needs a C compiler"
)


@pytest.mark.slow
@needs_compiler
def test_a_c_program_serves_it(exported, files, expected, tmp_path):
    program = compile_program(tmp_path)
    input_name, output_name = operations(exported)
    for path, row in zip(files, expected, strict=True):
        command = [program, exported, path, input_name, output_name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        np.testing.assert_allclose(np.array(done.stdout.split(), float), row, atol=1e-5)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"bad")
    command = [program, exported, bad, input_name, output_name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "running: " in done.stderr
    assert "unreadable bytes" in done.stderr


@pytest.mark.slow
@needs_compiler
def test_a_c_program_serves_all_that_an_export_can_add(model, tmp_path):
    """Warm-up requests, a card, scales and a whitening; asked by the requests."""
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.apis import prediction_log_pb2

    rng = np.random.default_rng(0)
    whitening = rng.normal(size=UNITS) / 20, rng.normal(size=(UNITS, 5))
    scales = 1.0, 0.7071, 0.5
    version = export_saved_model(
        model,
        tmp_path / "models",
        image_size=SIZE,
        scales=scales,
        whitening=whitening,
        extra_files={
            **warmup_files(SIZE, "models", batch_sizes=(2,)),
            "README.md": b"# card",
        },
    )
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    record = next(iter(tf.data.TFRecordDataset(str(file)))).numpy()
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    program = compile_program(tmp_path)
    for number, contents in enumerate(request.inputs["image_bytes"].string_val):
        path = tmp_path / f"{number}.image"
        path.write_bytes(contents)
        images = load_image(path, SIZE)[None]
        parts = embed_at_scales(model, images, scales)
        expected = whiten_embeddings(combine_scales(parts), whitening)[0]
        answer = ask_program(program, version, path)
        np.testing.assert_allclose(answer, expected, atol=1e-5)
