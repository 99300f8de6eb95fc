"""`keras-aploss export`: a version with all that belongs to it, and its server."""

import importlib.util
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from command_line import fail, succeed
from run_folder import history

from keras_aploss.embeddings import combine_scales, embed_at_scales, whiten_embeddings
from keras_aploss.images import OriginalImages
from keras_aploss.runs.checkpoint import load_model


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_versions_stay_as_they_are(finished_run, tmp_path):
    folder = tmp_path / "saved_models" / "tiny"
    shown = succeed("export", finished_run.folder, "--output", folder)
    assert f"docker compose -f {folder / 'docker-compose.yml'} up" in shown
    has_extra = importlib.util.find_spec("tensorflow_serving") is not None
    assert ("keras_aploss[serving]" in shown) is not has_extra
    assert "It is the model after 3 of 3 epochs.\n" in shown
    first = contents(folder)
    warmup = "1/assets.extra/tf_serving_warmup_requests"
    assert (warmup in first) is has_extra
    assert {"1/README.md", "1/training.json", "models.config"} <= set(first)
    assert "docker-compose.yml" in first
    (folder / "README.md").write_text("A card of all versions, by hand.")
    best = finished_run.folder / "best.keras"
    shown = succeed("export", best, "--output", folder, "--no-warmup")
    assert "Beside it" not in shown
    second = contents(folder)
    assert {name: second[name] for name in first} == first
    new = {name for name in set(second) - set(first) if not name.startswith("2/")}
    assert new == {"README.md"}
    assert "2/assets.extra/tf_serving_warmup_requests" not in second
    assert b"| after training |" in second["1/README.md"]
    # The figures of the run are not those of this epoch.
    assert b"Not measured" in second["2/README.md"]
    assert b"--epochs 3" in second["2/README.md"]
    rows = history(finished_run.folder)
    best = max(rows, key=lambda row: float(row["val_map"]))["epoch"]
    assert f"It is the model after {best} of 3 epochs.\n" in shown


@pytest.mark.parametrize("epochs", [0, 3])
def test_the_model_of_an_unfinished_run_is_exported_only_if_that_is_asked_for(
    unfinished_run, tmp_path, epochs
):
    """Ctrl-C in the first epoch: the untrained model was exported without a word."""
    folder = unfinished_run(epochs)
    given = "export", folder, "--output", tmp_path / "tiny", "--no-warmup"
    message = fail(*given)
    assert f"`--unfinished` to export it as it is. Received: '{folder}'" in message
    assert f"{epochs} of 5 epochs" in message
    assert not (tmp_path / "tiny").exists()


@pytest.mark.slow
def test_the_export_of_an_unfinished_run_says_so_wherever_it_goes(
    unfinished_run, tmp_path
):
    given = "--output", tmp_path / "tiny", "--no-warmup", "--unfinished"
    shown = succeed("export", unfinished_run(3), *given)
    assert "It is the model after 3 of 5 epochs.\n" in shown
    version = tmp_path / "tiny" / "1"
    card = (version / "README.md").read_text()
    assert "not finished: this is the model after 3 of 5 epochs" in card
    record = json.loads((version / "training.json").read_text())
    assert (record["epochs"], record["is_finished"]) == (3, False)
    assert "3 of 5 epochs" in fail("export", version)


@pytest.mark.slow
def test_scales_and_whitening_are_in_the_graph(finished_run, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        pixels = rng.integers(0, 256, (16, 16, 3), "uint8")
        paths.append(tmp_path / f"{number}.png")
        PIL.Image.fromarray(pixels).save(paths[-1])
    whitening = rng.normal(size=8) / 20, rng.normal(size=(8, 5))
    np.savez(tmp_path / "pca.npz", mean=whitening[0], kernel=whitening[1])
    more = "--scales", "1,0.7071,1.5", "--whitening", tmp_path / "pca.npz"
    succeed("export", finished_run.folder, "--output", tmp_path / "tiny", *more)
    version = tmp_path / "tiny" / "1"
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    files = tf.constant([path.read_bytes() for path in paths])
    embedding = served(image_bytes=files)["embedding"]
    model = load_model(finished_run.folder / "model.keras")
    images = OriginalImages(paths)
    apart = embed_at_scales(model, images, (1.0, 0.7071, 1.5))
    expected = whiten_embeddings(combine_scales(apart), whitening)
    assert embedding.shape == (3, 5)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert np.abs(expected - whiten_embeddings(apart[0], whitening)).max() > 1e-3
    assert "0.7071" in (version / "README.md").read_text(encoding="utf-8")


def test_trouble_is_a_sentence_and_leaves_no_version(finished_run, tmp_path):
    output = tmp_path / "tiny"
    given = "export", finished_run.folder, "--output", output
    assert "Expected `--scales`" in fail(*given, "--scales", "1,0")
    np.savez(tmp_path / "pca.npz", mean=np.zeros(3), kernel=np.eye(3))
    wrong = fail(*given, "--whitening", tmp_path / "pca.npz")
    assert "whitening (mean, kernel) of 8 units" in wrong
    assert not output.exists() or not any(
        child.name.isdecimal() for child in output.iterdir()
    )
