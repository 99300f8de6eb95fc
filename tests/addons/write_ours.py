"""Write what the tests of `tox -e addons` compare: losses and an exported model.

    python tests/addons/write_ours.py FOLDER

The environment of tensorflow-addons, TensorFlow 2.15 with Keras 2, cannot import
`keras_aploss`. So this runs in an ordinary one, and FOLDER holds:

    losses.npz      values and gradients of `cases`, and the losses of a training
    images/         files as cameras and programs write them
    embeddings.npz  what Keras makes of the files and of images of another size
    saved_model/1/  the model that made them
"""

import pathlib
import sys

import cases
import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_aploss import (
    APLoss,
    ClassBalancedSampler,
    PCAWhitening,
    TripletSemiHardLoss,
    export_saved_model,
    load_image,
    losses,
    retrieval_model,
    synthetic_landmarks,
)

SIZE = 48


def manhattan(x):
    """A distance of the caller's own."""
    return keras.ops.sum(keras.ops.abs(x[:, None] - x[None, :]), axis=-1)


def write_losses(path):
    """Inputs, values and gradients of all cases; and how a training goes."""
    arrays = {}
    batches = cases.batches()
    for batch, (labels, embeddings) in batches.items():
        arrays |= {f"{batch}/labels": labels, f"{batch}/embeddings": embeddings}
    for case in cases.cases():
        batch, name, arguments = case
        loss = cases.loss_of(losses, name, arguments, {"manhattan": manhattan})
        labels, embeddings = map(tf.constant, batches[batch])
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = tf.reduce_mean(loss(labels, embeddings))  # functions give (B,)
        key = cases.case_id(case)
        arrays |= {
            f"{key}/loss": value,
            f"{key}/gradient": tape.gradient(value, embeddings),
        }
    np.savez(path, training=losses_of_training(), **arrays)


def losses_of_training():
    kernel, inputs, labels = cases.start_of_training()
    model = keras.Sequential(
        [keras.layers.Dense(4, use_bias=False), keras.layers.UnitNormalization()]
    )
    model.build(inputs.shape)
    model.set_weights([kernel])
    model.compile(keras.optimizers.SGD(0.1), TripletSemiHardLoss(0.5))
    history = model.fit(
        inputs, labels, batch_size=20, epochs=4, shuffle=False, verbose=0
    )
    return history.history["loss"]


def trained_model(data):
    """A model whose weights, statistics, exponent of GeM and whitening are learnt."""
    keras.utils.set_random_seed(1)
    whitening = PCAWhitening(16, power=0.25, name="whitening")
    model = retrieval_model("small_resnet", units=24, whitening=whitening)
    model.compile(keras.optimizers.Adam(1e-3), APLoss())
    batches = ClassBalancedSampler(
        data.images, data.labels, classes_per_batch=6, images_per_class=4
    )
    model.fit(batches, epochs=6, shuffle=False, verbose=0)
    before = keras.Model(model.input, whitening.input)
    whitening.adapt(before.predict(data.images, verbose=0))
    return model


def write_images(folder, pictures):
    """Files of all formats; a camera's is turned, and programs add alpha and palettes.

    Returns:
        Their paths.
    """
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    glass = pictures[3].resize((70, 40))
    glass.putalpha(128)
    folder.mkdir()
    pictures[0].resize((90, 60)).save(folder / "turned.jpg", exif=turned)
    pictures[1].save(folder / "progressive.jpg", progressive=True, quality=80)
    pictures[2].convert("L").resize((50, 120)).save(folder / "grey.jpg")
    glass.save(folder / "glass.png")
    pictures[4].quantize(16).save(folder / "palette.png", bits=4)
    pictures[5].save(folder / "plain.png")
    pictures[6].save(folder / "one.gif")
    pictures[7].resize((20, 30)).save(folder / "small.bmp")
    return sorted(folder.iterdir())


def write_model(folder):
    """The exported model, files, and the embeddings that Keras makes of them."""
    data, _ = synthetic_landmarks(
        num_landmarks=12, num_test_landmarks=2, views_per_landmark=6, image_size=SIZE
    )
    model = trained_model(data)
    export_saved_model(model, folder / "saved_model", image_size=SIZE, version=1)
    pictures = [PIL.Image.fromarray(image) for image in data.images[::9]]
    paths = write_images(folder / "images", pictures)
    decoded = np.stack([load_image(path, SIZE) for path in paths])
    wide = np.stack([np.asarray(one.resize((80, 56)), "float32") for one in pictures])
    np.savez(
        folder / "embeddings.npz",
        names=[path.name for path in paths],
        decoded=decoded.astype("float32"),
        embeddings=model.predict(decoded, verbose=0),
        wide=wide,
        embeddings_of_wide=model.predict(wide, verbose=0),
    )


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True)
    write_losses(folder / "losses.npz")
    write_model(folder)
