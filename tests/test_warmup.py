"""Warm-up requests: read back as a server reads them, and answered by the version."""

import numpy as np
import pytest
import tensorflow as tf

from keras_aploss import export_saved_model, retrieval_model
from keras_aploss.models import small_resnet
from keras_aploss.serving import warmup_files


def test_the_version_answers_its_own_requests(tmp_path):
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.apis import prediction_log_pb2

    model = retrieval_model(small_resnet(filters=(4, 4)), units=8)
    requests = warmup_files(32, "tiny", batch_sizes=(1, 3))
    version = export_saved_model(model, tmp_path, image_size=32, extra_files=requests)
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    served = tf.saved_model.load(str(version)).signatures
    seen = []
    for record in tf.data.TFRecordDataset(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        signature = request.model_spec.signature_name
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        (array,) = inputs.values()
        inputs = {name: tf.constant(value) for name, value in inputs.items()}
        embedding = served[signature](**inputs)["embedding"]
        assert embedding.shape == (len(array), 8)
        seen.append((signature, len(array)))
        if signature == "serving_default":
            starts = [contents[:4] for contents in array]
            assert starts[:2] == [b"\xff\xd8\xff\xe0", b"\x89PNG"][: len(array)]
            # Pictures that differ, at twice the size that the model sees.
            assert tf.io.decode_image(array[0]).shape == (64, 64, 3)
            assert np.ptp(embedding, axis=0).max() > 0 or len(array) == 1
    assert seen == [
        ("serving_default", 1),
        ("images", 1),
        ("serving_default", 3),
        ("images", 3),
    ]


def test_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r'pip install "keras_aploss\[serving\]"'):
        warmup_files(32, "tiny")
