"""Images of another size than a model is built for: refused before any is read."""

import keras
import numpy as np
import pytest
from command_line import fail, write_photos

from keras_aploss import (
    ImageFiles,
    MultistageTrainer,
    RetrievalEvaluation,
    VectorIndex,
    embed,
    export_saved_model,
    extract_embeddings,
    index_folder,
)
from keras_aploss.app import search_app
from keras_aploss.embeddings import (
    check_image_size,
    check_images,
    embed_at_scales,
    extract_files,
    input_size,
)
from keras_aploss.images import OriginalImages
from keras_aploss.runs import open_model
from keras_aploss.training import choose_num_chunks

OTHER = "Expected images of 24 x 24 pixels.* built.*Received: 32 x 32"
UNREAD = ["nowhere.png", "nothing.png"]


def network(*size):
    """Its weights depend on the size, if it has one."""
    images = keras.Input((*size, 3))
    x = keras.layers.AveragePooling2D(8)(images)
    x = keras.layers.Flatten()(x) if None not in size else x[:, 0, 0]
    return keras.Model(images, keras.layers.UnitNormalization()(x), name="net")


@pytest.fixture
def model():
    return network(24, 24)


def images(side, count=4):
    rng = np.random.default_rng(side)
    return rng.integers(1, 256, (count, side, side, 3), "uint8")


def test_the_size_of_a_model():
    assert input_size(network(24, 32)) == (24, 32)
    assert input_size(network(None, None)) == (None, None)
    assert input_size(MultistageTrainer(network(24, 24), 2)) == (24, 24)
    assert input_size(keras.Sequential([keras.layers.Flatten()])) == (None, None)
    vectors = keras.Sequential([keras.Input((24, 24, 8)), keras.layers.Flatten()])
    assert input_size(vectors) == (None, None)


def test_sides_are_compared_one_by_one():
    check_image_size(network(24, 32), (24, 32))
    check_image_size(network(None, None), 7)
    with pytest.raises(ValueError, match=r"24 x 32 pixels.*Received: 32 x 24.*Resize"):
        check_image_size(network(24, 32), (32, 24))
    strips = keras.Sequential([keras.Input((None, 24, 3)), keras.layers.ReLU()])
    check_image_size(strips, (5, 24))
    with pytest.raises(ValueError, match=r"any x 24 pixels.*Received: 5 x 25"):
        check_image_size(strips, (5, 25))


def test_embeddings_do_not_depend_on_what_was_embedded_before(model):
    """TensorFlow ran a traced model on images of other sizes."""
    expected = model(images(24))
    np.testing.assert_allclose(embed(model, images(24)), expected, atol=1e-6)
    for call in (embed, embed_at_scales):
        with pytest.raises(ValueError, match=OTHER):
            call(model, images(32))
        with pytest.raises(ValueError, match=OTHER):
            call(model, list(images(32)))  # known when they are read
    with pytest.raises(ValueError, match=r"any size.*scales=\[1\.0, 0\.5\].*24 x 24"):
        embed_at_scales(model, images(24), (1.0, 0.5))


@pytest.mark.parametrize(
    ("files", "scales", "message"),
    [
        (ImageFiles(UNREAD, 32), (1.0,), OTHER),
        (ImageFiles(UNREAD, 24), (1.0, 2.0), "any size"),
        (ImageFiles(UNREAD, 24, crop=False), (1.0,), "square crops.*ImageFiles, whole"),
        (OriginalImages(UNREAD), (1.0,), r"`ImageFiles\(paths, 24\)`.*OriginalImages"),
        (OriginalImages(UNREAD, max_size=24), (1.0,), "OriginalImages, whole"),
    ],
)
def test_nothing_is_read_or_written_of_what_does_not_fit(
    model, tmp_path, files, scales, message
):
    for extract in (extract_embeddings, extract_files):
        with pytest.raises(ValueError, match=message):
            extract(model, files, tmp_path / "a.npy", scales=scales)
    workers = pytest.importorskip("keras_aploss.workers")
    with pytest.raises(ValueError, match=message):
        workers.extract_to_shards(model, files, tmp_path / "shards", scales=scales)
    assert not list(tmp_path.iterdir())
    check_images(network(None, None), files, scales)


def test_an_evaluation_refuses_them_before_the_first_step(model):
    for before in (True, False):
        evaluation = RetrievalEvaluation(
            images(32), [0, 0, 1, 1], evaluate_before=before
        )
        model.compile("sgd", "mse", run_eagerly=True)
        steps = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_: pytest.fail("a step was made")
        )
        with pytest.raises(ValueError, match=OTHER):
            model.fit(
                images(24), np.zeros((4, 27)), verbose=0, callbacks=[evaluation, steps]
            )


def test_a_trainer_refuses_them_before_they_are_read(model):
    with pytest.raises(ValueError, match=r"image_shape=\(24, 24, 3\).*\(32, 32, 3\)"):
        MultistageTrainer(model, 2, load=lambda x: x, image_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=r"image_shape=\(24, 24, 3\).*\(32, 32, 3\)"):
        choose_num_chunks(model, (32, 32, 3), 8, 1.0)


def test_an_index_its_page_and_an_export_refuse_them(model, tmp_path):
    index = VectorIndex(units=27)
    write_photos(tmp_path / "photos", ["a.png"])
    with pytest.raises(ValueError, match=OTHER):
        index_folder(index, model, tmp_path / "photos", image_size=32)
    assert not len(index)
    with pytest.raises(ValueError, match=OTHER):
        export_saved_model(model, tmp_path / "served", image_size=32)
    assert not (tmp_path / "served").exists()
    pytest.importorskip("starlette")
    with pytest.raises(ValueError, match=OTHER):
        search_app(index, model, image_size=32, allowed_hosts=["localhost"])


def test_the_size_of_a_file_is_that_of_its_model(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    assert open_model(path).settings.image_size == 24
    with pytest.raises(ValueError, match=OTHER):
        open_model(path, 32)
    network(None, None).save(path)
    with pytest.raises(ValueError, match="Expected `--image-size`"):
        open_model(path)


def test_commands_refuse_them_in_a_sentence(model, tmp_path):
    photos = write_photos(tmp_path / "photos", ["a/1.png", "a/2.png"])
    path, output = tmp_path / "model.keras", tmp_path / "out.npy"
    model.save(path)
    size = ("--image-size", 32)
    for command in (
        ("extract", path, photos, "--output", output, *size),
        ("evaluate", path, "--data", photos, *size),
        ("export", path, "--output", tmp_path / "served", *size),
    ):
        message = fail(*command)
        assert "24 x 24 pixels" in message
        assert "`--image-size 24`" in message
    whole = fail("extract", path, photos, "--output", output, "--original-size")
    assert "square crops" in whole
    scales = fail("extract", path, photos, "--output", output, "--scales", "1,0.5")
    assert "any size" in scales
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "photos"]
