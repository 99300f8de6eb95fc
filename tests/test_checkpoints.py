"""Published checkpoints as Keras models, against the network in PyTorch.

Each case that builds a network takes seconds: a few stay with the fast tests, the
others are slow and run in `tox -e checkpoints`.
"""

import builtins
import importlib.util
import pathlib
import subprocess
import sys
import tracemalloc

import click.testing
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from torch_format import (
    Call,
    Instance,
    Raw,
    Tensor,
    checkpoint_of,
    checksum,
    instructions,
    name_of,
    seeded_image,
    seeded_pca,
    seeded_weights,
    write_torch_file,
)

from keras_aploss import export_saved_model, load_ap_gem
from keras_aploss.checkpoints.contents import check_exponent, find_weights
from keras_aploss.cli import main
from keras_aploss.torch_files import RefusedError, read_torch_file, read_weight

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ap_gem.npz")
SIZES = (97, 131), (225, 160)
UNITS = 32
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub"
)


def embeddings_of(model, sizes=SIZES):
    return np.concatenate([model(seeded_image(*size)[None]) for size in sizes])


def assert_same(actual, expected):
    """Cosines of at least 0.99999; and 1e-5 in each unit, which is stricter."""
    actual = np.asarray(actual)
    assert ((actual * expected).sum(axis=1) > 0.99999).all()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.fixture(scope="module")
def weights():
    return seeded_weights("resnet18_rmac", UNITS)


@pytest.fixture(scope="module")
def written(weights, tmp_path_factory):
    """A checkpoint as published: before PyTorch 1.6, with DataParallel, from a GPU."""
    path = tmp_path_factory.mktemp("published") / "Resnet-18-AP-GeM.pt"
    pca = {"Landmarks_clean": seeded_pca(UNITS)}
    checkpoint = checkpoint_of(weights, "resnet18_rmac", "module.", pca, gemp=3)
    return write_torch_file(path, checkpoint, legacy=True)


@pytest.fixture(scope="module")
def model(written):
    return load_ap_gem(written)


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18_rmac", "resnet50_rmac"])
def test_embeddings_are_those_of_the_network_in_pytorch(arch, tmp_path):
    weights = seeded_weights(arch, UNITS)
    assert checksum(weights) == GOLDEN[f"{arch}_checksum"]
    pca = {"Landmarks_clean": seeded_pca(UNITS)}
    path = write_torch_file(tmp_path / "a.pt", checkpoint_of(weights, arch, pca=pca))
    plain = load_ap_gem(path, whitening=False)
    assert_same(embeddings_of(plain), GOLDEN[arch])
    assert float(plain.get_layer("pooling").p[0]) == pytest.approx(2.7)
    whitened = load_ap_gem(path, whitening="Landmarks_clean")
    assert_same(embeddings_of(whitened), GOLDEN[f"{arch}_whitened"])


@needs_hub
def test_the_older_form_with_prefixes_gives_the_same(model):
    assert_same(embeddings_of(model), GOLDEN["resnet18_rmac_whitened"])
    assert model.name == "ap_gem"
    two = model(np.stack([seeded_image(97, 131)] * 2).astype("float32"))
    assert_same(two, GOLDEN["resnet18_rmac_whitened"][[0, 0]])


RELOAD = """
import sys
sys.modules["keras_hub"] = None
import keras, numpy as np
import keras_aploss
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[2], model(np.load(sys.argv[3])))
"""


@needs_hub
@pytest.mark.slow
def test_the_keras_file_needs_neither_the_checkpoint_nor_keras_hub(model, tmp_path):
    model.save(tmp_path / "a.keras")
    np.save(tmp_path / "image.npy", seeded_image(97, 131)[None])
    names = [str(tmp_path / name) for name in ("a.keras", "out.npy", "image.npy")]
    subprocess.run([sys.executable, "-c", RELOAD, *names], check=True, timeout=600)
    expected = GOLDEN["resnet18_rmac_whitened"][:1]
    assert_same(np.load(tmp_path / "out.npy"), expected)


@needs_hub
@pytest.mark.slow
def test_it_is_exported(model, tmp_path):
    version = export_saved_model(model, tmp_path, image_size=96)
    served = tf.saved_model.load(str(version)).signatures["images"]
    image = seeded_image(97, 131)[None].astype("float32")
    embedding = served(images=tf.constant(image))["embedding"]
    assert_same(embedding, GOLDEN["resnet18_rmac_whitened"][:1])


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, False])
def test_it_is_trained_further_with_frozen_batch_norm(written, freeze):
    model = load_ap_gem(written, whitening=False, freeze_batch_norm=freeze)
    before = [np.array(variable) for variable in model.variables]
    model.compile(keras.optimizers.SGD(0.01), "mse")
    images = np.stack([seeded_image(64, 64, seed) for seed in range(2)])
    model.fit(images, np.eye(UNITS)[:2], epochs=1, verbose=0)
    changed = {True: 0, False: 0}
    for variable, old in zip(model.variables, before, strict=True):
        is_norm = "_bn/" in variable.path
        changed[is_norm] += not np.array_equal(variable, old)
    assert changed[False] == 20 + 1 + 2  # convolutions, p, projection
    assert changed[True] == (0 if freeze else 20 * 4)


@needs_hub
@pytest.mark.slow
def test_power_and_number_of_components(written, weights):
    pca = seeded_pca(UNITS).attributes
    plain = GOLDEN["resnet18_rmac"] - pca["mean_"]
    rotated = plain @ pca["components_"].T
    for power, units in ((0.0, None), (0.5, 7)):
        model = load_ap_gem(written, whitening_power=power, whitening_units=units)
        expected = (rotated / pca["explained_variance_"] ** power)[:, :units]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert_same(embeddings_of(model), expected)


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("attributes", [{"whiten": False}, {"mean_": None}])
def test_a_pca_is_used_as_the_authors_use_it(weights, tmp_path, attributes):
    pca = seeded_pca(UNITS, **attributes)
    checkpoint = checkpoint_of(weights, "resnet18_rmac", pca={"a": pca})
    model = load_ap_gem(write_torch_file(tmp_path / "a.pt", checkpoint))
    pca = pca.attributes
    mean = 0 if pca["mean_"] is None else pca["mean_"]
    expected = (GOLDEN["resnet18_rmac"] - mean) @ pca["components_"].T
    if pca["whiten"]:
        expected = expected / pca["explained_variance_"] ** 0.25
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert_same(embeddings_of(model), expected)


@needs_hub
@pytest.mark.slow
def test_options_that_are_honoured(weights, tmp_path):
    options = {
        "pooling": "avg",
        "without_fc": True,
        "dropout_p": None,
        "center_bias": 0,
    }
    used = {name: value for name, value in weights.items() if name != "adpool.p"}
    checkpoint = checkpoint_of(used, "resnet18_rmac", **options)
    checkpoint["preprocess"] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    model = load_ap_gem(
        write_torch_file(tmp_path / "a.pt", checkpoint), whitening=False, name="mine"
    )
    assert [layer.name for layer in model.layers][2:] == ["pooling", "embedding"]
    assert model.name == "mine"
    assert isinstance(model.get_layer("pooling"), keras.layers.GlobalAveragePooling2D)
    backbone = model.layers[1]
    pixels = backbone.layers[1](seeded_image(9, 9)[None])
    expected = (seeded_image(9, 9)[None] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.25]
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def changed(**parts):
    return lambda checkpoint: {**checkpoint, **parts}


def with_options(**options):
    def change(checkpoint):
        options_now = {**checkpoint["model_options"], **options}
        return {**checkpoint, "model_options": options_now}

    return change


def with_state(**tensors):
    """Other tensors for some names (with _ for a dot), or None to leave them out."""

    def change(checkpoint):
        tensors_now = {name.replace("__", "."): new for name, new in tensors.items()}
        state = {**checkpoint["state_dict"], **tensors_now}
        state = {name: new for name, new in state.items() if new is not None}
        return {**checkpoint, "state_dict": state}

    return change


def ones(*shape):
    return Tensor(np.ones(shape, "float32"))


def shared(key, count, shape, dtype="Float"):
    """A tensor of a storage that another one, or none, has written."""
    kind = Raw(name_of(f"torch.{dtype}Storage"))
    reference = ("storage", kind, key, "cpu", count)
    reference = Raw(instructions(reference, {})[2:-1] + b"Q")
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return Call("torch._utils._rebuild_tensor_v2", reference, 0, shape, strides)


HUGE = Raw(b"\x8a\xff" + b"\x7f" * 255)  # an integer above all floats

UNBUILT = [
    (changed(state_dict={}), "no `state_dict`"),
    (lambda checkpoint: [checkpoint], "no `state_dict`"),
    (lambda checkpoint: 3, "no `state_dict`"),
    (changed(state_dict={"conv1.weight": 3}), "no tensor at 'conv1.weight'"),
    (changed(model_options={}), "architecture None"),
    (changed(model_options=None), "architecture None"),
    (with_options(arch="resnet101_rmac_ms"), "'resnet101_rmac_ms'.*resnet152_rmac"),
    (with_options(arch=["resnet18_rmac"]), "architecture"),
    (with_options(norm_features=True), "norm_features=True"),
    (with_options(center_bias=0.5, dropout_p=0.1), "center_bias=0.5, dropout_p=0.1"),
    (with_options(pooling="rmac"), "pooling='rmac'"),
    (with_options(unheard_of="a"), "unheard_of='a'"),
    (with_options(out_dim=2048), "out_dim=2048"),
    (with_options(out_dim="a"), "out_dim='a'"),
    (with_options(pooling=["gem"]), "pooling="),
    (with_state(fc__weight=None), r"'fc.weight' has the shape \(0,\)"),
    (with_state(fc__weight=Tensor(np.float32(1))), r"'fc.weight' has the shape \(\)"),
    (with_state(fc__weight=ones(UNITS, 2)), r"shape \(32, 2\)"),
    (changed(preprocess={"mean": [0.5] * 3}), "preprocess"),
    (changed(preprocess={"mean": [0.5] * 3, "std": [0.2, 0.2, 0]}), "preprocess"),
    (changed(preprocess={"mean": "red", "std": None}), "preprocess"),
    (changed(preprocess=np.zeros((2, 3), "f4")), "preprocess"),
    (changed(preprocess=ones(2, 3)), "preprocess"),
    (changed(preprocess={"mean": [HUGE] * 3, "std": [0.2] * 3}), "preprocess"),
    (with_state(module__fc__bias=ones(UNITS)), "'fc.bias' twice"),
    # More numbers than the file holds, for a network of that size.
    (with_state(fc__weight=shared("0", 10**9, (10**6, 512))), "'fc.weight'.*too short"),
    (with_state(fc__weight=shared("none", 512, (1, 512))), "'fc.weight'.*damaged"),
    (changed(pca=None), "no PCA at all.*whitening=False"),
    (changed(pca={"a": seeded_pca(UNITS), "b": 1}), "'a', 'b', for whitening=True"),
    (changed(pca={"a": seeded_pca(UNITS - 1)}), r"32 units.*\(31, 31\)"),
    (changed(pca={"a": seeded_pca(UNITS, mean_=[1.0])}), "32 units"),
    (changed(pca={"a": seeded_pca(UNITS, components_="b")}), "32 units"),
    (changed(pca={"a": seeded_pca(UNITS, mean_=np.array(["1"] * UNITS))}), "32 units"),
    (changed(pca={"a": Instance("argparse.Namespace", x=1)}), "32 units"),
    (changed(pca={"a": {"mean": 1}}), "32 units"),
    (changed(pca={"a": Call("os.system", "true")}), r"os\.system"),
]


@needs_hub
@pytest.mark.parametrize(("change", "message"), UNBUILT)
def test_what_cannot_be_built_is_named_before_it_is(
    change, message, tmp_path, monkeypatch
):
    small = {"bn1.bias": np.ones(64, "f4"), "fc.weight": np.ones((UNITS, 512), "f4")}
    pca = {"Landmarks_clean": seeded_pca(UNITS)}
    small["fc.bias"] = np.ones(UNITS, "f4")
    checkpoint = change(checkpoint_of(small, "resnet18_rmac", pca=pca))
    path = write_torch_file(tmp_path / "a.pt", checkpoint)
    monkeypatch.setattr("keras_hub.models.ResNetBackbone", None)
    with pytest.raises(ValueError, match=message) as caught:
        load_ap_gem(path)
    assert str(path) in str(caught.value)


UNFIT = [
    (
        with_state(**{f"layer1__0__bn{k}__bias": None for k in (1, 2)}),
        "lacks layer1.0.bn1.bias, layer1.0.bn2.bias",
    ),
    (with_state(adpool__p=None), "lacks adpool.p"),
    (with_state(fc2__bias=ones(3)), "has left over fc2.bias"),
    (with_state(**{f"x{k}": ones(1) for k in range(9)}), "x0, .*x4, 9 in all"),
    (with_state(conv1__weight=ones(64, 3, 3, 3)), r"'conv1.weight'.*\(64, 3, 3, 3\)"),
    (with_state(adpool__p=ones(512)), r"adpool.p.*\(512,\), not \(1,\)"),
    (with_state(adpool__p=Tensor(np.array([0.5], "f4"))), "adpool.p is 0.5"),
    (with_state(adpool__p=Tensor(np.float32(3))), r"\(\), not \(1,\)"),
    (with_state(bn1__bias=Tensor(np.full(64, np.nan, "f4"))), "'bn1.bias'.*finite"),
    (with_state(bn1__running_var=Tensor(np.full(64, -1, "f4"))), "running_var"),
]


@needs_hub
@pytest.mark.parametrize(
    ("change", "message"),
    [UNFIT[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in UNFIT[1:])],
)
def test_weights_that_do_not_fit_are_named(weights, change, message, tmp_path):
    checkpoint = change(checkpoint_of(weights, "resnet18_rmac"))
    path = write_torch_file(tmp_path / "a.pt", checkpoint)
    with pytest.raises(ValueError, match=message):
        load_ap_gem(path, whitening=False)


def test_tensors_that_share_their_numbers_are_read_one_at_a_time(tmp_path):
    """The file has half a megabyte, and all of them together 600 times as much."""
    state = {"first": Tensor(np.ones((512, 512), "f2"))}
    for number in range(300):
        state[f"{number}"] = shared("0", 512 * 512, (512, 512), "Half")
    path = write_torch_file(tmp_path / "a.pt", {"state_dict": state})
    tracemalloc.start()
    try:
        weights = find_weights(read_torch_file(path))
        found, _ = tracemalloc.get_traced_memory()
        for name, tensor in weights.items():
            assert read_weight(name, tensor).sum() == 512 * 512
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(weights) == 301
    assert found < 2**20
    assert peak < 5 * 2**20


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bn1.bias", np.nan, "'bn1.bias' has values that are not finite"),
        ("bn1.running_var", -1, "negative variances"),
    ],
)
def test_numbers_that_are_no_weights_are_named(tmp_path, name, value, message):
    state = {name: Tensor(np.full(1, value, "float32"))}
    path = write_torch_file(tmp_path / "a.pt", {"state_dict": state})
    weights = find_weights(read_torch_file(path))
    with pytest.raises(RefusedError, match=message):
        read_weight(name, weights[name])


def test_an_exponent_that_the_layer_would_not_keep_is_named(tmp_path):
    state = {"adpool.p": Tensor(np.full(1, 0.5, "float32"))}
    path = write_torch_file(tmp_path / "a.pt", {"state_dict": state})
    weights = find_weights(read_torch_file(path))
    with pytest.raises(RefusedError, match=r"adpool\.p is 0\.5"):
        check_exponent(weights)


@needs_hub
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"whitening": "Landmark"}, "'Landmarks_clean', for whitening='Landmark'"),
        ({"whitening": None}, "whitening=None"),
        ({"whitening_power": 1.5}, "whitening_power=1.5"),
        ({"whitening_units": 33}, "whitening_units=33"),
        ({"whitening_units": 0}, "whitening_units=0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(written, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_ap_gem(written, **arguments)


def test_keras_hub_is_asked_for_by_the_name_of_its_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("keras_hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r'pip install "keras_aploss\[hub\]"'):
        load_ap_gem(tmp_path / "none.pt")
    (tmp_path / "none.pt").touch()
    result = click.testing.CliRunner().invoke(
        main, ["export", str(tmp_path / "none.pt"), "--image-size", "32"]
    )
    assert result.exit_code == 1
    assert "keras_aploss[hub]" in result.stderr


@needs_hub
@pytest.mark.slow
def test_pytorch_is_not_needed(written, monkeypatch):
    def import_without_torch(name, *arguments, **options):
        if name.partition(".")[0] in ("torch", "sklearn"):
            raise AssertionError(f"{name} is imported")
        return original(name, *arguments, **options)

    original = builtins.__import__
    load_ap_gem(written, whitening=False)  # Keras and keras-hub look for it once
    monkeypatch.setattr(builtins, "__import__", import_without_torch)
    load_ap_gem(written)


@needs_hub
@pytest.mark.slow
def test_the_command_line_takes_a_checkpoint(written, tmp_path):
    for index in range(4):
        folder = tmp_path / "photos" / f"class{index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(seeded_image(80, 100, index // 2))
        image.save(folder / f"{index}.png")
    runner = click.testing.CliRunner()
    arguments = ["evaluate", str(written), "--data", str(tmp_path / "photos")]
    result = runner.invoke(main, [*arguments, "--image-size", "64"])
    assert result.exit_code == 0, result.output
    assert "Exact metrics of" in result.output
    without = runner.invoke(main, arguments)
    assert without.exit_code == 1
    assert "--image-size" in without.stderr
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(written.read_bytes()[:1000])
    bad = runner.invoke(main, ["export", str(damaged), "--image-size", "64"])
    assert bad.exit_code == 1
    assert "damaged" in bad.stderr


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "units", "legacy", "with_fc"),
    [
        ("resnet18_rmac", 64, False, True),
        ("resnet18_rmac", 64, True, False),
        ("resnet50_rmac", 2048, True, True),
        ("resnet50_rmac", 2048, False, False),
        ("resnet101_rmac", 2048, True, True),
        ("resnet152_rmac", 2048, False, True),
    ],
)
def test_files_of_pytorch_give_the_embeddings_of_pytorch(
    arch, units, legacy, with_fc, tmp_path
):
    torch = pytest.importorskip("torch")
    import torch_network
    from sklearn.decomposition import PCA

    weights = seeded_weights(arch, units, seed=1)
    network = torch_network.network_of(arch, weights, with_fc=with_fc)
    expected = [
        torch_network.embedding_of(network, seeded_image(*size)) for size in SIZES
    ]
    size = len(expected[0])
    rng = np.random.default_rng(2)
    data = rng.normal(size=(size + 40, size)) * rng.uniform(0.1, 1, size)
    pca = PCA(whiten=True, svd_solver="full").fit(data.astype("float32") / 30)
    checkpoint = {
        "state_dict": torch.nn.DataParallel(network).state_dict(),
        "model_options": {"arch": arch, "out_dim": units, "without_fc": not with_fc},
        "pca": {"Landmarks_clean": pca},
    }
    path = torch_network.save(tmp_path / "a.pt", checkpoint, legacy=legacy)
    model = load_ap_gem(path, whitening=False)
    assert_same(embeddings_of(model), np.stack(expected))
    model = load_ap_gem(path, whitening="Landmarks_clean")
    parts = pca.mean_, pca.components_, pca.explained_variance_
    whitened = [torch_network.whiten(embedding, *parts) for embedding in expected]
    assert_same(embeddings_of(model), np.stack(whitened))
