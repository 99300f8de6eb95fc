"""Model servers that answer with the official messages, by running a SavedModel.

They are a `grpc.server` and an `http.server`, with the services, paths, codes and
sentences of TensorFlow Serving. What a test wants to go wrong it sets in `trouble`.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.server
import json
import pathlib
import re
import threading
import time
import urllib.parse

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

CODES = {  # of TensorFlow's errors, as the server passes them on
    tf.errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    tf.errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    tf.errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
}


@dataclasses.dataclass
class Trouble:
    seconds: float = 0.0  # before each answer
    unavailable: int = 0  # requests to refuse
    state: str = "AVAILABLE"
    joined_with: list = dataclasses.field(default_factory=list)  # files, for one batch
    units: int | None = None  # cut embeddings to this size
    tensor_content: bool = False
    nan: bool = False


class Models:
    """The versions of one model, and the requests that came."""

    def __init__(self, folder, name):
        self.name, self.trouble, self.requests = name, Trouble(), []
        self.lock = threading.Lock()
        self.versions, self.labels = {}, {}
        for child in pathlib.Path(folder).iterdir():
            if child.name.isdecimal():
                self.load(child)

    def load(self, version):
        self.versions[int(version.name)] = tf.saved_model.load(str(version)).signatures

    def status(self, request):
        """Of all versions, as the server does, also if a label is asked for."""
        if request.model_spec.name != self.name:
            message = f"Could not find any versions of model {request.model_spec.name}"
            raise tf.errors.NotFoundError(None, None, message)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(self.versions, reverse=True):
            one = response.model_version_status.add(version=version)
            one.state = one.State.Value(self.trouble.state)
        return response

    def metadata(self, request):
        name, label = request.model_spec.name, request.model_spec.version_label
        if name != self.name or label not in self.labels:
            message = f"Unrecognized servable version label: {label}"
            raise tf.errors.InvalidArgumentError(None, None, message)
        version = self.labels[label]
        if version not in self.versions:
            message = f"Servable not found for request: Specific({name}, {version})"
            raise tf.errors.NotFoundError(None, None, message)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = version
        return response

    def predict(self, request):
        time.sleep(self.trouble.seconds)
        spec = request.model_spec
        with self.lock:
            self.requests.append(request)
            if self.trouble.unavailable:
                self.trouble.unavailable -= 1
                message = "The batch scheduling queue to which this task was submitted"
                raise tf.errors.UnavailableError(None, None, message + " is full")
            joined, self.trouble.joined_with = self.trouble.joined_with, []
        version = spec.version.value or max(self.versions)
        if spec.name != self.name or version not in self.versions:
            message = (
                f"Servable not found for request: Specific({spec.name}, {version})"
            )
            raise tf.errors.NotFoundError(None, None, message)
        signatures = self.versions[version]
        if spec.signature_name not in signatures:
            message = f'Serving signature name: "{spec.signature_name}" not found in '
            raise tf.errors.InvalidArgumentError(None, None, message + "signature def")
        signature = signatures[spec.signature_name]
        wanted = set(signature.structured_input_signature[1])
        if set(request.inputs) != wanted:
            message = f"input size does not match signature: missing inputs {wanted}"
            raise tf.errors.InvalidArgumentError(None, None, message)
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        count = len(next(iter(inputs.values())))
        inputs = {
            k: tf.concat([v, joined], 0) if joined else tf.constant(v)
            for k, v in inputs.items()
        }
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        response.model_spec.version.value = version
        for name, value in signature(**inputs).items():
            value = value.numpy()[:count, : self.trouble.units]
            if self.trouble.nan:
                value[-1, -1] = float("nan")
            proto = response.outputs[name]
            proto.CopyFrom(tf.make_tensor_proto(value))
            if not self.trouble.tensor_content:
                proto.ClearField("tensor_content")
                proto.float_val.extend(value.ravel())
        return response


def code_of(error):
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), None)


@contextlib.contextmanager
def grpc_server(models, port=0):
    """Serve; yields the address."""

    def answering(method):
        def answer(request, context):
            try:
                return method(request)
            except tf.errors.OpError as error:
                context.abort(code_of(error), error.message)

        return answer

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict = staticmethod(answering(models.predict))
        GetModelMetadata = staticmethod(answering(models.metadata))

    class Status(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = staticmethod(answering(models.status))

    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=options)
    add = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
    add(Predictions(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def rest_server(models, port=0):
    """The same over HTTP: JSON becomes the official messages, and they JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            pattern = r"/v1/models/([^/:]+)(?:/labels/([^/:]+))?(/metadata)?"
            found = re.fullmatch(pattern, self.path)
            self.answer(lambda: self.look(*found.groups()) if found else None)

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            pattern = r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict"
            found = re.fullmatch(pattern, self.path)
            self.answer(lambda: self.predict(body, *found.groups()) if found else None)

        def look(self, name, label, metadata):
            kinds = {
                True: (get_model_metadata_pb2.GetModelMetadataRequest, models.metadata),
                False: (get_model_status_pb2.GetModelStatusRequest, models.status),
            }
            kind, method = kinds[bool(metadata)]
            request = kind()
            request.model_spec.name = urllib.parse.unquote(name)
            if label:
                request.model_spec.version_label = urllib.parse.unquote(label)
            return json_format.MessageToDict(
                method(request), preserving_proto_field_name=True
            )

        def predict(self, body, name, version):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = urllib.parse.unquote(name)
            request.model_spec.version.value = int(version or 0)
            request.model_spec.signature_name = body.get(
                "signature_name", "serving_default"
            )
            instances = body["instances"]
            if not isinstance(instances[0], dict) or "b64" in instances[0]:
                instances = [{"image_bytes": value} for value in instances]
            for key in instances[0]:
                values = [base64.b64decode(one[key]["b64"]) for one in instances]
                request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
            outputs = models.predict(request).outputs
            arrays = {k: tf.make_ndarray(v).tolist() for k, v in outputs.items()}
            if len(arrays) == 1:
                return {"predictions": next(iter(arrays.values()))}
            rows = zip(*arrays.values(), strict=True)
            return {"predictions": [dict(zip(arrays, r, strict=True)) for r in rows]}

        def answer(self, method):
            try:
                status, value = 200, method()
                if value is None:
                    message = f"Malformed request: {self.command} {self.path}"
                    status, value = 400, {"error": message}
            except tf.errors.OpError as error:
                status, value = HTTP[code_of(error)], {"error": error.message}
            data = json.dumps(value, indent=1).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SERVERS = {"grpc": grpc_server, "rest": rest_server}
