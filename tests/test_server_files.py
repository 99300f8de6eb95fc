"""The files of the operator, read by those that a server reads them with."""

import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from keras_aploss.serving import write_serving_files
from keras_aploss.serving.server_files import served_name


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "my photos: 2026"
    write_serving_files(path)
    return path


def served_model(text):
    pytest.importorskip("tensorflow_serving")
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(text, config)
    (model,) = config.model_config_list.config
    return model


def test_the_models_are_a_configuration_of_the_server(folder):
    model = served_model((folder / "models.config").read_text())
    assert (model.name, model.base_path, model.model_platform) == (
        "my-photos-2026",
        "/models/my-photos-2026",
        "tensorflow",
    )
    assert model.model_version_policy.latest.num_versions == 1


def test_what_the_comments_advise_is_a_configuration_too(folder):
    text = (folder / "models.config").read_text()
    advised = re.findall(r"^#   (.*)$", text, re.MULTILINE)
    policy = next(line for line in text.splitlines() if "latest {" in line)
    back = served_model(text.replace(policy, advised[0]))
    assert back.model_version_policy.specific.versions == [3]
    beside = served_model(text.replace(policy, "\n".join(advised[1:])))
    assert beside.model_version_policy.specific.versions == [3, 4]
    assert dict(beside.version_labels) == {"stable": 3, "canary": 4}


def test_the_batching_has_the_fields_of_the_server(folder):
    lines = (folder / "batching.config").read_text().splitlines()
    fields = [line for line in lines if not line.startswith("#")]
    # Of `BatchingParameters` in session_bundle_config.proto, all of them wrapped.
    known = {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches"}
    found = [re.fullmatch(r"(\w+) \{ value: (\d+) \}", line) for line in fields]
    assert {match[1] for match in found} == known
    assert int(found[0][2]) >= 16  # what the client sends at once


def compose_of(folder):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]


def test_the_composition_is_what_docker_reads(folder):
    (service,) = compose_of(folder).values()
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", service["image"])
    (volume,) = service["volumes"]
    assert (volume["source"], volume["read_only"]) == (".", True)
    target = volume["target"]
    assert target == "/models/my-photos-2026"
    assert service["command"] == [
        f"--model_config_file={target}/models.config",
        # Else the server ends at its start with labels in the configuration.
        "--allow_version_labels_for_unavailable_models=true",
    ]
    assert service["platform"] == "linux/amd64"  # the image has no other
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    text = (folder / "docker-compose.yml").read_text()
    assert "$" not in text
    names = re.findall(r"=/models/[^/]+/(\S+)", text)
    assert names == ["models.config", "batching.config"]
    assert all((folder / name).exists() for name in names)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("state", ["AVAILABLE", "LOADING", "UNAVAILABLE", None])
def test_the_health_check_tells_whether_a_version_is_available(folder, state):
    """The command as it is, but for the port, against a server that answers alike."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append((self.path, self.headers["Host"]))
            status = {"version": "1", "state": state}
            body = json.dumps({"model_version_status": [status]}, indent=1).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        if state is None:  # nobody listens
            server.shutdown()
            server.server_close()
        (service,) = compose_of(folder).values()
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        assert command[0] == "bash"
        command[-1] = command[-1].replace("/8501", f"/{port}")
        done = subprocess.run(command, timeout=10, capture_output=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (done.returncode == 0) is (state == "AVAILABLE")
    if state is not None:
        assert asked == [("/v1/models/my-photos-2026", "localhost")]


def test_what_the_operator_changed_stays(folder):
    (folder / "batching.config").write_text("max_batch_size { value: 99 }\n")
    (folder / "models.config").unlink()
    (written,) = write_serving_files(folder)
    assert written == folder / "models.config"
    assert "99" in (folder / "batching.config").read_text()
    assert write_serving_files(folder) == []
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["batching.config", "docker-compose.yml", "models.config"]


def test_names_are_safe_in_urls(tmp_path, monkeypatch):
    assert served_name("saved_models/landmarks/") == "landmarks"
    assert served_name('a/Zoë\'s "photos" $HOME/') == "Zo-s-photos-HOME"
    assert served_name("a/图像") == "model"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert served_name(".") == "here"
