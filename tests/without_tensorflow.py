"""Train, evaluate and save on JAX, where TensorFlow cannot be imported.

`tox -e jax_alone` runs this script where TensorFlow is not installed, with
`KERAS_BACKEND=jax`.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_aploss
from keras_aploss import (
    APLoss,
    BatchAP,
    BatchRecall,
    ClassBalancedSampler,
    MultistageTrainer,
    PCAWhitening,
    RetrievalEvaluation,
    TieAwareAPLoss,
    TripletHardLoss,
    TripletSemiHardLoss,
    ap_loss,
    embed,
    evaluate_leave_one_out,
    quantized_average_precision,
    retrieval_model,
    tie_aware_ap_loss,
)
from keras_aploss.models import small_resnet


def check_losses():
    """Values and gradients of all losses."""
    import jax

    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(8, 4)).astype("float32"), np.arange(8) // 2
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    relevance = labels[:, None] == labels
    defined = jax.jit(quantized_average_precision)(x @ x.T, relevance)
    values = jax.jit(ap_loss)(x, labels)
    np.testing.assert_allclose(values, 1 - np.array(defined), atol=1e-5)
    assert np.isfinite(jax.jit(tie_aware_ap_loss)(x, labels)).all()
    for kind in (APLoss, TieAwareAPLoss, TripletHardLoss, TripletSemiHardLoss):
        loss = kind()
        both = jax.value_and_grad(lambda x, loss=loss: loss(labels, x))
        value, gradient = jax.jit(both)(x)
        assert value > 0
        assert 0 < np.abs(gradient).max() < 10


def train(folder):
    """`fit` with a sampler, a trainer in chunks, metrics and the evaluation."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (6, 1, 1, 3))
    labels = np.arange(36) % 6
    images = np.clip(colours[labels] + rng.normal(0, 40, (36, 16, 16, 3)), 0, 255)
    images = images.astype("uint8")
    sampler = ClassBalancedSampler(
        images, labels, classes_per_batch=4, images_per_class=2, steps_per_epoch=3
    )
    backbone = small_resnet((8, 16))
    model = retrieval_model(backbone, 8, whitening=True, freeze_batch_norm=True)
    trainer = MultistageTrainer(model, num_chunks=2)
    metrics = [BatchAP(), BatchRecall()]
    trainer.compile(keras.optimizers.Adam(3e-3), APLoss(), metrics=metrics)
    evaluation = RetrievalEvaluation(images, labels)
    history = trainer.fit(
        sampler, epochs=3, shuffle=False, callbacks=[evaluation], verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert {"val_map", "batch_ap", "batch_recall_at_1"} <= set(history)
    embeddings = np.array(embed(model, images))
    model.get_layer("whitening").adapt(embeddings)
    assert isinstance(model.get_layer("whitening"), PCAWhitening)
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    embeddings = np.array(embed(again, images))
    np.testing.assert_allclose(embeddings, embed(model, images), atol=1e-5)
    found = evaluate_leave_one_out(embeddings, labels).metrics["map"]
    assert 0.5 < found <= 1


if __name__ == "__main__":
    check_losses()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
    assert "tensorflow" not in sys.modules, "install JAX and Keras without TensorFlow"
    assert keras.backend.backend() == "jax"
    print(f"keras_aploss {keras_aploss.__version__} runs without TensorFlow")
