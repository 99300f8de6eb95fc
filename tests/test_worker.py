"""What a worker does, in this process: Ray only calls it."""

import os
import resource
import signal

import keras
import numpy as np
import PIL.Image
import pytest

from keras_aploss import ImageFiles, export_saved_model, images, retrieval_model
from keras_aploss.embeddings import (
    ShardFolder,
    combine_scales,
    embed_at_scales,
    read_shards,
    shard_folder,
)
from keras_aploss.embeddings.shards import read_about, read_shard, shard_path
from keras_aploss.images import OriginalImages, hash_files
from keras_aploss.runs import open_model
from keras_aploss.workers import worker
from keras_aploss.workers.worker import model_file

pytest.importorskip("pyarrow")

SQUARES = ImageFiles([], 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return retrieval_model("small_resnet", units=8)


@pytest.fixture
def paths(tmp_path):
    """Ten photos of two sizes, with names that are hard to print."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for number, name in enumerate(["a b", "new\nline", "ü", *map(str, range(7))]):
        paths.append(str(tmp_path / "photos" / f"{name}.png"))
        size = (40, 30, 3) if number % 2 else (24, 36, 3)
        PIL.Image.fromarray(rng.integers(0, 256, size, "uint8")).save(paths[-1])
    return paths


@pytest.fixture
def work(tmp_path, model, paths, monkeypatch):
    """A function that has a worker embed shards of five, and returns its answers.

    The model is not brought to it by a file: that is tested below.
    """
    monkeypatch.setattr(worker, "load_model", lambda *_: model)
    labels = [f"l{i}" for i in range(10)]
    folder = ShardFolder(tmp_path / "shards", {}, paths, labels, units=8, shard_size=5)

    def run(images=SQUARES, numbers=(0, 1), samples=paths[:2], **options):
        options = {"scales": [1.0], "batch_size": 4, "workers": 2, **options}
        with folder:
            embedder = worker.ShardEmbedder(
                folder.writer, ("", ""), images, options, samples
            )
            return [embedder({"item": number}) for number in numbers]

    run.folder = folder.path
    return run


def answer(shard, embedded, skipped=0):
    counts = {"shard": shard, "embedded": embedded, "skipped": skipped}
    return {**counts, "error": "", "why": ""}


@pytest.mark.parametrize(
    ("images", "scales", "power"),
    [
        (ImageFiles([], 16), [1.0], None),
        (OriginalImages([], max_size=20), [1.0, 0.7071, 0.5], 3.0),
    ],
)
def test_shards_hold_what_one_process_computes(
    work, model, paths, images, scales, power
):
    answers = work(images, scales=scales, power=power)
    assert answers == [answer(0, 5), answer(1, 5)]
    images.paths = paths
    expected = combine_scales(
        embed_at_scales(model, images, scales, batch_size=4), power=power
    )
    shards = list(read_shards(work.folder))
    vectors = np.concatenate([shard.vectors for shard in shards])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert [path for shard in shards for path in shard.paths] == paths
    assert [id_ for shard in shards for id_ in shard.ids] == list(
        hash_files(paths, 2).values()
    )
    assert shards[1].labels == [f"l{i}" for i in range(5, 10)]


def test_a_bad_file_costs_nothing_but_itself(work, paths):
    open(paths[1], "wb").close()
    os.remove(paths[3])
    os.remove(paths[4])
    os.mkfifo(paths[4])
    assert work() == [answer(0, 2, 3), answer(1, 5)]
    shard = read_shard(shard_path(work.folder, 0))
    assert (shard.paths, shard.labels) == ([paths[0], paths[2]], ["l0", "l2"])
    skipped = read_about(shard_path(work.folder, 0))["skipped"]
    assert [path for path, _ in skipped] == [paths[i] for i in (1, 3, 4)]
    assert skipped[0][1] == "the file is empty"


def test_a_shard_of_bad_files_is_empty_and_done(work, paths):
    for path in paths[5:]:
        os.truncate(path, 40)
    assert work() == [answer(0, 5), answer(1, 0, 5)]
    assert read_shard(shard_path(work.folder, 1)).vectors.shape == (0, 8)
    assert work(numbers=[1]) == [answer(1, 0, 5)]


def test_a_file_that_is_damaged_in_between_costs_nothing_else(work, paths, monkeypatch):
    """It is whole when it is looked at, and not any more when it is embedded."""

    def look(path, look=images.reason_to_skip):
        reason = look(path)
        if path == paths[2]:
            os.truncate(path, 40)
        return reason

    monkeypatch.setattr(images, "reason_to_skip", look)
    assert work(numbers=[0]) == [answer(0, 4, 1)]
    shard = read_shard(shard_path(work.folder, 0))
    assert shard.paths == [paths[i] for i in (0, 1, 3, 4)]


def test_an_image_that_is_listed_twice_has_two_rows(tmp_path, model, paths):
    twice = [paths[0], paths[1], paths[0]]
    labels = ["crow", "jay", "wren"]
    with (
        ShardFolder(tmp_path / "s", {}, twice, labels, units=8, shard_size=9) as folder,
        model_file(model, folder.path) as place,
    ):
        embedder = worker.ShardEmbedder(
            folder.writer, place, ImageFiles([], 16), {"workers": 1}, []
        )
        assert embedder({"item": 0}) == answer(0, 3)
    (shard,) = read_shards(tmp_path / "s")
    assert (shard.paths, shard.labels) == (twice, labels)
    np.testing.assert_allclose(shard.vectors[0], shard.vectors[2], atol=1e-6)


def test_what_is_done_is_not_done_again(work):
    work()
    before = os.stat(shard_path(work.folder, 1)).st_mtime_ns
    assert work(numbers=[1]) == [answer(1, 5)]
    assert os.stat(shard_path(work.folder, 1)).st_mtime_ns == before


def test_a_shard_that_ends_its_workers_is_given_up(work, paths):
    """Workers that end while they have it, as the kernel ends them, leave a trace."""
    attempts = worker.attempts_path(shard_path(work.folder, 1))
    os.makedirs(work.folder)
    with open(attempts, "wb") as file:
        file.write(b"...")
    first, second = work()
    assert first == answer(0, 5)
    assert second["error"] == "RuntimeError"
    assert f"shard 1, of {paths[5]!r} to {paths[9]!r}" in second["why"]
    assert "3 workers that ended" in second["why"]
    assert not os.path.exists(attempts)
    assert work(numbers=[1]) == [answer(1, 5)]


def test_a_machine_that_does_not_see_the_images_is_told(work):
    (found,) = work(numbers=[0], samples=["/nowhere/a.png"])
    assert found["error"] == "ValueError"
    assert "where '/nowhere/a.png' does not exist. Share" in found["why"]
    assert read_about(shard_path(work.folder, 0)) is None


def test_a_full_disk_is_told_and_costs_a_shard(work, monkeypatch):
    """A limit on the size of files stands for the disk: writing fails as there."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write = shard_folder.write_shard

    def write_in_little_room(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
        try:
            write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    try:
        work(numbers=[0])
        monkeypatch.setattr(shard_folder, "write_shard", write_in_little_room)
        (found,) = work(numbers=[1])
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert found["error"] == "OSError"
    assert "part-000001.parquet" in found["why"]
    assert "Make room" in found["why"]
    monkeypatch.setattr(shard_folder, "write_shard", write)
    assert work() == [answer(0, 5), answer(1, 5)]


def test_a_diverged_model_is_told(work, model, monkeypatch):
    diverged = keras.models.clone_model(model)
    diverged.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    monkeypatch.setattr(worker, "load_model", lambda *_: diverged)
    (found,) = work(numbers=[0])
    assert found["error"] == "ValueError"
    assert "Expected finite embeddings" in found["why"]


def test_a_worker_has_the_same_model(model, tmp_path):
    with model_file(model, str(tmp_path)) as place:
        loaded = worker.load_model(*place)
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert os.listdir(tmp_path) == []


def test_a_saved_model_is_brought_as_well(model, tmp_path):
    version = export_saved_model(model, tmp_path / "exported", image_size=32)
    encoder = open_model(version, needs_size=False).encoder
    before = encoder.layers[1].filepath
    (tmp_path / "shards").mkdir()
    with model_file(encoder, str(tmp_path / "shards")) as place:
        os.rename(tmp_path / "exported", tmp_path / "elsewhere")  # not seen by workers
        loaded = worker.load_model(*place)
    np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=1e-6)
    assert encoder.layers[1].filepath == before


def test_a_program_of_its_own_is_loaded(tmp_path):
    """Keras refuses lambdas of a file; this one is in the memory of the caller."""
    images = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Lambda(lambda x: 2 * x)(pooled))
    with model_file(model, str(tmp_path)) as place:
        np.testing.assert_array_equal(worker.load_model(*place)(IMAGES), model(IMAGES))


def test_another_file_in_its_place_is_refused(model, tmp_path):
    other = retrieval_model("small_resnet", units=8)
    with model_file(model, str(tmp_path)) as (place, digest):
        other.save(os.path.join(place, "model.keras"))
        with pytest.raises(ValueError, match=r"as it was written\. Received: another"):
            worker.load_model(place, digest)
