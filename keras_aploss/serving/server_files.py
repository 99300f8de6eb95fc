"""Configuration files of TensorFlow Serving, beside the versions of a model.

```
landmarks/                 mounted into the container
    1/  2/                 the versions, which are never changed
    models.config          names and folders of the served models
    batching.config        how requests are joined, once that is switched on
    docker-compose.yml     the image, its ports, its health check
```

They belong to the operator. An export writes those that are missing and never changes
the others: settings that were tuned stay, and a running server is not disturbed.
"""

import json
import os
import pathlib
import re

# The last image seen of the TensorFlow series with which the package is tested.
_IMAGE = "tensorflow/serving:2.20.0"
_MAX_BATCH_SIZE = 32

_MODELS = """\
# The models of the server. `latest` serves the highest version, and changes to a new
# one as soon as its folder appears. To go back to version 3, put instead:
#   model_version_policy {{ specific {{ versions: 3 }} }}
# To try version 4 beside version 3, which stays the one for everybody, put instead:
#   model_version_policy {{ specific {{ versions: 3 versions: 4 }} }}
#   version_labels {{ key: "stable" value: 3 }}
#   version_labels {{ key: "canary" value: 4 }}
# `keras-aploss embed` takes the label `stable` where there is one, and another by
# `--model-label canary`. Other clients that name no label or version get the highest.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

_BATCHING = """\
# How the server joins requests, if docker-compose.yml switches that on.
#
# It pays on a GPU, and with many clients that send one image each. Its price: requests
# that are joined also fail together. A file that cannot be decoded then fails the
# requests of other clients, and the positions in the message are those in the joined
# batch. `keras-aploss embed` sends its request again in that case.
#
# Images of several sizes cannot be joined: if clients of the signature `images` send
# such, leave it off. `serving_default` takes files of any size.
max_batch_size {{ value: {max_batch_size} }}
# Microseconds to wait for other requests. 0 joins those that arrived while all threads
# were busy.
batch_timeout_micros {{ value: 0 }}
# Batches that wait. If there are more, clients are told to try again later.
max_enqueued_batches {{ value: 64 }}
# num_batch_threads: by default one per core of the machine.
"""

_COMPOSE = """\
# Serves the newest version of the model, by gRPC on 8500 and REST on 8501:
#   docker compose -f docker-compose.yml up --detach --wait
# `keras-aploss export` wrote this file once, and never changes it.
services:
  serving:
    image: {image}
    # The only platform of the image. Docker on Apple silicon and other ARM64 machines
    # emulates it, more slowly. Without Docker: docs/serving.md of keras_aploss.
    platform: linux/amd64
    command:
      - --model_config_file=/models/{name}/models.config
      # Without it the server does not start with labels: they would have to be given
      # after the versions are loaded.
      - --allow_version_labels_for_unavailable_models=true
      # See batching.config for benefits and costs:
      # - --enable_batching=true
      # - --batching_parameters_file=/models/{name}/batching.config
    ports:
      # The server has no log-in, so only this machine can reach it. Before you open it
      # to others, put a proxy in front of it that checks users.
      - "127.0.0.1:8500:8500"
      - "127.0.0.1:8501:8501"
    volumes:
      - type: bind
        source: .
        target: /models/{name}
        read_only: true
    # The image has no curl. A version is AVAILABLE once its warm-up is done.
    healthcheck:
      test: {health}
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 120s
    restart: unless-stopped
"""


def write_serving_files(path) -> list[pathlib.Path]:
    """Write the configuration with which TensorFlow Serving serves a model.

    Args:
        path: the folder of the versions, as given to `export_saved_model`. The model is
            served under its name (see `served_name`).

    Returns:
        Those of `models.config`, `batching.config` and `docker-compose.yml` that were
        missing and have been written.

    Raises:
        OSError: a file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> from keras_aploss.serving import write_serving_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "landmarks"
        ...     written = write_serving_files(path)
        ...     again = write_serving_files(path)
        >>> [file.name for file in written], again
        (['models.config', 'batching.config', 'docker-compose.yml'], [])
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    name = served_name(path)
    contents = {
        "models.config": _MODELS.format(name=name),
        "batching.config": _BATCHING.format(max_batch_size=_MAX_BATCH_SIZE),
        "docker-compose.yml": _COMPOSE.format(
            image=_IMAGE, name=name, health=_health_check(name)
        ),
    }
    written = []
    for file_name, text in contents.items():
        file = path / file_name
        if not file.exists():
            # Half a file would be taken for one of the operator's, and stay.
            unfinished = path / f".{file_name}.{os.getpid()}"
            try:
                unfinished.write_text(text, encoding="utf-8")
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
            written.append(file)
    return written


def served_name(path) -> str:
    """The name under which a folder of versions is served: its own, safe in a URL.

    >>> served_name("saved_models/my photos: 2026")
    'my-photos-2026'
    """
    name = pathlib.Path(path).resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "model"


def _health_check(name):
    """A command for the container that succeeds once the model is available."""
    # JSON is YAML, and has no `$`, which Compose would replace.
    request = (
        f"GET /v1/models/{name} HTTP/1.1"
        r"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    script = (
        f"exec 3<>/dev/tcp/127.0.0.1/8501; printf '{request}' >&3; "
        "grep -q '\"AVAILABLE\"' <&3"
    )
    return json.dumps(["CMD", "bash", "-c", script])
