"""The image of TensorFlow Serving itself, for those who have Docker.

    python -m pytest -m slow tests/test_docker.py

Exports a model, starts what `write_serving_files` wrote, waits for its health check and
compares the embeddings of both interfaces with those of Keras. Uses the ports 8500
and 8501, and ends the server.
"""

import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from keras_aploss import EmbeddingClient, load_image
from keras_aploss.runs.checkpoint import load_model


def docker(*arguments):
    command = ["docker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def has_docker():
    return (
        shutil.which("docker") is not None
        and docker("info").returncode == 0
        and docker("compose", "version").returncode == 0
    )


@pytest.mark.slow
def test_the_server_itself_answers_as_keras(finished_run, tmp_path):
    pytest.importorskip("tensorflow_serving")
    from command_line import succeed

    if not has_docker():
        pytest.skip("needs Docker with Compose, and its daemon")
    folder = tmp_path / "landmarks"
    succeed("export", finished_run.folder, "--output", folder, "--warmup")
    paths = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), "uint8")
        paths.append(tmp_path / f"{number}.png")
        PIL.Image.fromarray(pixels).save(paths[-1])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"bad")
    images = np.stack([load_image(path, 16) for path in paths])
    model = load_model(finished_run.folder / "model.keras")
    expected = model.predict(images, verbose=0)
    compose = "compose", "-f", folder / "docker-compose.yml"
    try:
        started = docker(*compose, "up", "--detach", "--wait")
        logs = docker(*compose, "logs").stdout
        assert started.returncode == 0, started.stderr + logs
        assert "Finished reading warmup data" in logs
        for server in ("grpc://localhost:8500", "http://localhost:8501"):
            with EmbeddingClient(server, model="landmarks") as client:
                embeddings, skipped = client.embed_files([*paths, broken])
            np.testing.assert_allclose(embeddings, expected, atol=1e-4)
            assert [skip.path for skip in skipped] == [str(broken)]
    finally:
        docker(*compose, "down")
