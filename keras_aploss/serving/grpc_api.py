"""The gRPC interface of TensorFlow Serving, by its official messages and stubs.

Files are sent as they are: in the base64 of REST they are a third larger. The stubs
come with `tensorflow-serving-api` (extra `serving`); they import TensorFlow, of which
they use the messages, so they are imported only by those who ask for gRPC.

Dimension key: B files in a request, D units.
"""

from collections.abc import Sequence

import numpy as np

from keras_aploss.serving import answers, wire

_DT_FLOAT, _DT_STRING = 1, 7  # of the message `tensorflow.DataType`
_NO_LIMIT = -1
# By default a channel tries a server that went down again only after two minutes.
_OPTIONS = [
    ("grpc.max_receive_message_length", _NO_LIMIT),
    ("grpc.max_send_message_length", _NO_LIMIT),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcApi:
    """A model over gRPC: a channel to its server, and the methods of `RestApi`."""

    def __init__(self, server: str, address: str, model: str, *, secure: bool):
        try:
            import grpc
            from tensorflow_serving.apis import (
                get_model_metadata_pb2,
                get_model_status_pb2,
                model_service_pb2_grpc,
                predict_pb2,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            raise ImportError(
                "Expected `tensorflow-serving-api` for gRPC (http:// works without). "
                f'Received: {error}. Install it: pip install "keras_aploss'
                '[serving]"'
            ) from error
        self.server, self.model, self._grpc = server, model, grpc
        if secure:
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        service = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._predict, self._metadata = service.Predict, service.GetModelMetadata
        self._status = model_service_pb2_grpc.ModelServiceStub(
            self._channel
        ).GetModelStatus
        self._request_class = predict_pb2.PredictRequest
        self._metadata_request_class = get_model_metadata_pb2.GetModelMetadataRequest
        self._status_request_class = get_model_status_pb2.GetModelStatusRequest
        self._states = get_model_status_pb2.ModelVersionStatus.State

    def version(self, timeout: float) -> int:
        """The highest version that is available."""
        request = self._status_request_class()
        request.model_spec.name = self.model
        response = self._call(self._status, request, timeout, None)
        states = [
            (one.version, self._states.Name(one.state), one.status.error_message)
            for one in response.model_version_status
        ]
        return answers.available_version(self.server, self.model, states)

    def labelled(self, label: str, timeout: float) -> int:
        """The version that has a label, by the metadata of the model, see `RestApi`."""
        request = self._metadata_request_class(metadata_field=["signature_def"])
        request.model_spec.name = self.model
        request.model_spec.version_label = label
        response = self._call(self._metadata, request, timeout, None, label)
        return response.model_spec.version.value

    def predict(self, contents: Sequence[bytes], version: int, timeout: float):
        """The answer to B files, which is not checked yet: an array."""
        request = self._request_class()
        request.model_spec.name = self.model
        request.model_spec.version.value = version
        request.model_spec.signature_name = wire.FILES_SIGNATURE
        tensor = request.inputs[wire.FILES_INPUT]
        tensor.dtype = _DT_STRING
        tensor.tensor_shape.dim.add(size=len(contents))
        tensor.string_val.extend(contents)
        response = self._call(self._predict, request, timeout, version)
        if wire.OUTPUT not in response.outputs:
            names = ", ".join(sorted(response.outputs)) or "nothing"
            raise answers.rejection(self.server, self.model, f"it gives {names}")
        return array_of(response.outputs[wire.OUTPUT])

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method, request, timeout, version, label=None):
        grpc = self._grpc
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise answers.too_slow(self.server, timeout) from error
            if code == grpc.StatusCode.NOT_FOUND:
                raise answers.not_found(
                    self.server, self.model, version, details, label
                ) from error
            if code in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.FAILED_PRECONDITION,
            ):
                raise answers.rejection(
                    self.server, self.model, details, label
                ) from error
            if "larger than max" in details:
                raise ValueError(
                    f"Expected a request that {self.server} takes. Received: {details}."
                    " Send fewer images at once (`batch_size`)."
                ) from error
            if code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.ABORTED,
            ):
                raise answers.unavailable(self.server, details) from error
            raise RuntimeError(
                f"Expected an answer of {self.server}. Received: {code.name}: {details}"
            ) from error


def array_of(tensor) -> np.ndarray:
    """The array in a float `TensorProto`, as bytes or as a list of numbers.

    Raises:
        ValueError: the tensor has another type, or its values do not fill its shape.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _DT_FLOAT:
        values = (
            np.frombuffer(tensor.tensor_content, "<f4")
            if tensor.tensor_content
            else np.asarray(tensor.float_val, np.float32)
        )
        if values.size == np.prod(shape):
            return values.reshape(shape)
        # A single value stands for a tensor that is filled with it.
        if values.size == 1:
            return np.full(shape, values[0])
    raise ValueError(
        f"Expected {wire.OUTPUT!r} to be float32 numbers. Received: a tensor of "
        f"type {tensor.dtype} and shape {shape} that they do not fill."
    )
