"""Presets of keras-hub by name and by folder, checkouts of Hugging Face, refusals."""

import json
import subprocess
import sys

import hub_backbones
import keras
import numpy as np
import pytest
from command_line import fail, succeed
from hub_backbones import SIZE, outputs

from keras_aploss import RunSettings, retrieval_model
from keras_aploss.runs.network import build_encoder

keras_hub = pytest.importorskip("keras_hub")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SCALE = [1 / 255 / std for std in STD]
OFFSET = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]


def images(count=3, size=SIZE):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3), dtype="uint8")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vit(**options):
    keras.utils.set_random_seed(2)
    return hub_backbones.make("ViT", keras_hub.models, **options)


def class_tokens(backbone, x):
    pixels = (x / 255.0 - MEAN) / STD
    return unit(outputs(backbone, pixels.astype("float32"))[:, 0])


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder as a machine with a network writes it."""
    folder = tmp_path_factory.mktemp("preset")
    vit().save_to_preset(folder)
    keras_hub.layers.ImageConverter(
        image_size=(SIZE, SIZE), scale=SCALE, offset=OFFSET
    ).save_to_preset(folder)
    return str(folder)


def test_a_folder_brings_network_weights_and_pixels(preset, tmp_path):
    x = images()
    expected = class_tokens(vit(), x)
    model = retrieval_model(preset, pooling="cls")
    assert model.input_shape == (None, SIZE, SIZE, 3)
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-5)
    # By the settings of a run, for images of another size: positions are interpolated.
    settings = RunSettings(backbone=preset, image_size=48, pooling="cls", units=4)
    encoder = build_encoder(settings)
    assert encoder.input_shape == (None, 48, 48, 3)
    assert outputs(encoder, images(size=48)).shape == (3, 4)
    # Weights of a file take the place of the preset's own.
    other = vit()
    other.load_weights(f"{preset}/model.weights.h5")
    weight = next(w for w in other.weights if w.name == "class_token")
    weight.assign(weight + 1.0)
    other.save_weights(tmp_path / "other.weights.h5")
    model = retrieval_model(
        preset, pooling="cls", weights=str(tmp_path / "other.weights.h5")
    )
    np.testing.assert_allclose(outputs(model, x), class_tokens(other, x), atol=1e-5)
    # But those of another architecture.
    vit(image_shape=(16, 16, 3)).save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(ValueError, match=r"of another network: 'position_emb.* 17x8"):
        retrieval_model(preset, weights=str(tmp_path / "small.weights.h5"))


def test_a_preset_is_pretrained_so_its_batch_normalization_is_frozen(tmp_path):
    hub_backbones.make("ResNet", keras_hub.models).save_to_preset(tmp_path)
    keras_hub.layers.ImageConverter().save_to_preset(tmp_path)
    for frozen in (None, False):
        model = retrieval_model(str(tmp_path), freeze_batch_norm=frozen)
        backbone = next(x for x in model.layers if isinstance(x, keras.Model))
        norms = [
            layer.trainable for layer in backbone.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]  # fmt: skip
        assert norms
        assert set(norms) == {frozen is False}


def test_a_folder_without_a_converter_is_refused(tmp_path):
    vit().save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"no image_converter\.json.*save_to_preset"):
        retrieval_model(str(tmp_path))


def test_a_name_that_cannot_be_fetched_says_how_to_bring_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="tried as 'kaggle://keras/dinov2") as caught:
        retrieval_model("dinov2_small")
    script = str(caught.value).split("run\n")[1].split("copy the folder")[0]
    monkeypatch.setattr(
        keras_hub.models.Backbone, "from_preset", lambda name: vit()
    )  # as it is where there is a network
    monkeypatch.setattr(
        keras_hub.layers.ImageConverter,
        "from_preset",
        lambda name: keras_hub.layers.ImageConverter(scale=SCALE, offset=OFFSET),
    )
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in script.splitlines()), {})
    monkeypatch.undo()
    model = retrieval_model(str(tmp_path / "preset"), pooling="cls")
    x = images()
    np.testing.assert_allclose(outputs(model, x), class_tokens(vit(), x), atol=1e-5)


def hugging_face_vit(backbone):
    """The weights of a ViT by the names and in the shapes of Hugging Face."""
    embedding, encoder = backbone.layers[1], backbone.layers[2]
    tensors = {
        "embeddings.cls_token": embedding.class_token,
        "embeddings.position_embeddings": embedding.position_embedding.embeddings[None],
        "embeddings.patch_embeddings.projection.weight": np.transpose(
            embedding.patch_embedding.kernel, (3, 2, 0, 1)
        ),
        "embeddings.patch_embeddings.projection.bias": embedding.patch_embedding.bias,
        "layernorm.weight": encoder.layer_norm.gamma,
        "layernorm.bias": encoder.layer_norm.beta,
    }
    for i, block in enumerate(encoder.encoder_layers):
        prefix = f"encoder.layer.{i}"
        width = block.hidden_dim
        for ours, theirs in {
            "layer_norm_1": "layernorm_before", "layer_norm_2": "layernorm_after",
        }.items():  # fmt: skip
            norm = getattr(block, ours)
            tensors[f"{prefix}.{theirs}.weight"] = norm.gamma
            tensors[f"{prefix}.{theirs}.bias"] = norm.beta
        for ours, theirs in {
            "query_dense": "attention.attention.query",
            "key_dense": "attention.attention.key",
            "value_dense": "attention.attention.value",
            "output_dense": "attention.output.dense",
        }.items():
            dense = getattr(block.mha, ours)
            kernel = np.reshape(dense.kernel, (width, width))
            tensors[f"{prefix}.{theirs}.weight"] = kernel.T
            tensors[f"{prefix}.{theirs}.bias"] = np.reshape(dense.bias, width)
        for dense, theirs in [
            (block.mlp.dense_1, "intermediate.dense"),
            (block.mlp.dense_2, "output.dense"),
        ]:
            tensors[f"{prefix}.{theirs}.weight"] = np.transpose(dense.kernel)
            tensors[f"{prefix}.{theirs}.bias"] = dense.bias
    return {
        f"vit.{name}": np.ascontiguousarray(np.array(tensor))
        for name, tensor in tensors.items()
    }


def test_a_checkout_of_hugging_face_is_read(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    backbone = vit()
    config = {
        "model_type": "vit", "architectures": ["ViTModel"], "image_size": SIZE,
        "patch_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "hidden_size": 8, "intermediate_size": 16, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "qkv_bias": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"do_rescale": True, "image_mean": MEAN, "image_std": STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    numpy_files.save_file(hugging_face_vit(backbone), tmp_path / "model.safetensors")
    model, x = retrieval_model(str(tmp_path), pooling="cls"), images()
    np.testing.assert_allclose(outputs(model, x), class_tokens(backbone, x), atol=1e-5)


def of_two_maps():
    x = keras.Input((None, None, 3))
    return keras.Model(x, {"P2": keras.layers.Conv2D(4, 1)(x), "P3": x})


def tokens():
    x = keras.Input((8, 8, 3))
    return keras.Model(x, keras.layers.Reshape((64, 3))(x))


def partly_frozen():
    backbone = vit()
    backbone.layers[1].trainable = False
    return backbone


REFUSED = {
    "size": (
        lambda: retrieval_model(vit(), image_size=30),
        "multiple of 8.*Received: 30; the nearest are 24 and 32",
    ),
    "no class token": (
        lambda: retrieval_model(
            hub_backbones.make("SigLIP", keras_hub.models), pooling="cls"
        ),
        "class token.*Choose 'gem' or 'average'",
    ),
    "class token of a map": (
        lambda: retrieval_model("small_resnet", pooling="cls+gem"),
        "class token",
    ),
    "partly frozen": (lambda: retrieval_model(partly_frozen()), "as a whole"),
    "unknown tokens": (lambda: retrieval_model(tokens()), "num_prefix_tokens"),
    "no tokens": (
        lambda: retrieval_model("small_resnet", num_prefix_tokens=1),
        "num_prefix_tokens=1.*feature map",
    ),
    "two outputs": (
        lambda: retrieval_model(of_two_maps()),
        r"'P2': \(None, None, None, 4\).*backbone\.output\['P3'\]",
    ),
    "another size": (
        lambda: retrieval_model(tokens(), num_prefix_tokens=0, image_size=16),
        "image_size=16 for images of 8 x 8",
    ),
    "text": (lambda: retrieval_model("bert_base_en"), "embeds images, of CLIP"),
    "imagenet": (
        lambda: retrieval_model("dinov2_small", weights="imagenet"),
        "has its own",
    ),
    "unknown preset": (lambda: retrieval_model("dinov9_small"), "keras-hub"),
    "task": (
        lambda: retrieval_model(
            keras_hub.models.ViTImageClassifier(vit(), num_classes=2)
        ),
        "a task. Give its `backbone`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_advice(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_class_token_of_another_model_is_the_first(tmp_path):
    x = images(size=8)
    rows = x.reshape(len(x), 64, 3).astype("float32")
    model = retrieval_model(tokens(), pooling="cls", num_prefix_tokens=1)
    np.testing.assert_allclose(outputs(model, x), unit(rows[:, 0]), atol=1e-5)
    model = retrieval_model(tokens(), pooling="average", num_prefix_tokens=3)
    np.testing.assert_allclose(
        outputs(model, x), unit(rows[:, 3:].mean(axis=1)), atol=1e-5
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(model, x), atol=1e-6)


def test_without_keras_hub_the_extra_is_named(monkeypatch, preset):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r'pip install "keras_aploss\[hub\]"'):
        retrieval_model(preset)
    with pytest.raises(ValueError, match=r'pip install "keras_aploss\[hub\]"'):
        retrieval_model("dinov2_small")


@pytest.mark.slow
def test_the_command_line_trains_a_preset(preset, tmp_path):
    settings = {
        "backbone": preset, "pooling": "cls+gem", "units": 8, "image-size": SIZE,
        "num-landmarks": 4, "num-test-landmarks": 2, "views-per-landmark": 4,
        "epochs": 1, "classes-per-batch": 4, "images-per-class": 4, "num-chunks": 2,
        "run-dir": tmp_path / "run", "export-to": tmp_path / "models",
    }  # fmt: skip
    succeed(
        "train",
        *(word for key, value in settings.items() for word in (f"--{key}", value)),
    )
    report = tmp_path / "report"
    assert "mAP" in succeed("evaluate", tmp_path / "run", "--report", report)
    model = keras.saving.load_model(tmp_path / "run" / "last.keras", compile=False)
    assert getattr(model, "encoder", model).input_shape == (None, SIZE, SIZE, 3)
    command = ["train", "--backbone", preset, "--image-size", 30]
    assert "the nearest are 24 and 32" in fail(*command, "--run-dir", tmp_path / "no")


WITHOUT_HUB = """
import sys
sys.modules["keras_hub"] = None
import pathlib
import keras_aploss.layers
from keras_aploss.runs.checkpoint import load_model
try:
    load_model(pathlib.Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ViT", "DINOv2", "HGNetV2", "ResNet"])
def test_a_file_needs_keras_hub_or_says_so(tmp_path, family):
    backbone = hub_backbones.make(family, keras_hub.models)
    path = tmp_path / "model.keras"
    retrieval_model(backbone, 4).save(path)

    def run(code):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    said = run(WITHOUT_HUB)
    assert ("pip install" in said) == (family != "ResNet"), said
    load = "import keras, sys, keras_aploss.layers; "
    load += "print(keras.saving.load_model(sys.argv[1]).output.shape)"
    assert run(load) == "(None, 4)"  # though nobody has imported keras_hub
