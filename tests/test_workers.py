"""Many workers on Ray: the embeddings of one process, whatever ends in between.

The slow ones start Ray. Where `.[test,scale,search]` is installed, run them with

    python -m pytest -m slow tests/test_workers.py tests/test_shards_cli.py

What a worker does is tested without Ray, in `test_worker.py`.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest

from keras_aploss import ImageFiles, extract_embeddings, retrieval_model
from keras_aploss.embeddings import read_shards
from keras_aploss.images import OriginalImages
from keras_aploss.workers import extract_to_shards, extraction
from keras_aploss.workers.cluster import ray_session


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return retrieval_model("small_resnet", units=8)


@pytest.fixture
def paths(tmp_path):
    """Twenty photos of three sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(20):
        paths.append(str(tmp_path / f"photo {number:02d}\nü.png"))
        size = (24 + 8 * (number % 3), 36, 3)
        PIL.Image.fromarray(rng.integers(0, 256, size, "uint8")).save(paths[-1])
    return paths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "Expected `shard_size` of at least 1"),
        ({"batch_size": 1.5}, "Expected `batch_size` of at least 1"),
        ({"labels": ["a"]}, r"len\(images\)=2, len\(labels\)=1"),
        ({"scales": []}, "Expected one scale or more"),
        ({"power": 0}, "Expected `power` above 0"),
        ({"images": np.zeros((2, 8, 8, 3))}, "Received: ndarray"),
        ({"images": OriginalImages(["a"], boxes=[None])}, "without boxes"),
        ({"images": ImageFiles([os.fsdecode(b"\xe9")], 8)}, "names are UTF-8"),
    ],
)
def test_trouble_is_told_before_ray_is_started(model, tmp_path, options, message):
    pytest.importorskip("ray")
    images = options.pop("images", ImageFiles(["a.png", "b.png"], 8))
    with pytest.raises(ValueError, match=message):
        extract_to_shards(model, images, tmp_path / "shards", **options)
    assert not (tmp_path / "shards").exists()


def test_a_model_without_embeddings_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match=r"one output of shape \(B, D\)"):
        extract_to_shards(model, ImageFiles(["a"], 8), tmp_path / "shards")


def test_too_little_room_is_told(model, paths, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"Expected room for 0\.0 MiB"):
        extract_to_shards(model, ImageFiles(paths, 16), tmp_path / "shards")


def test_without_ray_its_extra_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_aploss\[scale\]'"):
        extract_to_shards(model, ImageFiles(["a"], 8), tmp_path / "shards")


@pytest.mark.slow
def test_workers_give_what_one_process_gives(model, paths, tmp_path):
    """Squares; whole images at scales; and a second time, when all is done."""
    pytest.importorskip("ray")
    open(paths[3], "wb").close()
    good = [path for path in paths if path != paths[3]]
    labels = [f"l{number}" for number in range(20)]
    unnamed = str(tmp_path / os.fsdecode(b"caf\xe9.png"))
    cases = {
        "squares": (ImageFiles([*paths, unnamed], 16), {}),
        "whole": (OriginalImages([*paths, unnamed], max_size=30), {"scales": (1, 0.7)}),
    }
    with ray_session() as ray:
        for name, (images, options) in cases.items():
            folder = tmp_path / name
            given = {"labels": [*labels, "x"], "shard_size": 6, "workers": 2}
            report = extract_to_shards(model, images, folder, **given, **options)
            assert (report.embedded, report.shards) == (19, 4)
            assert [path for path, _ in report.skipped] == [paths[3], unnamed]
            one = extract_embeddings(
                model, images[[i for i in range(20) if i != 3]],
                tmp_path / f"{name}.npy", **options,
            )  # fmt: skip
            shards = list(read_shards(folder))
            vectors = np.concatenate([shard.vectors for shard in shards])
            np.testing.assert_allclose(vectors, one, atol=1e-6)
            assert [path for shard in shards for path in shard.paths] == good
            assert shards[0].labels == ["l0", "l1", "l2", "l4", "l5"]
            assert not list(folder.glob(".*"))
        assert ray.is_initialized()  # the caller's Ray is left to the caller
        # An error gives the processors back: the next call would wait for ever.
        text = "Expected to see the images on each machine"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extraction, "_samples", lambda paths: ["/nowhere"])
            with pytest.raises(ValueError, match=text):
                extract_to_shards(model, images, tmp_path / "x", workers=2, **options)
        assert not list((tmp_path / "x").glob(".*"))
        extract_to_shards(model, images, tmp_path / "x", workers=2, **options)
    again = extract_to_shards(model, images, folder, **given, **options)  # without Ray
    assert again == report


@pytest.mark.slow
def test_files_that_are_all_unreadable_are_told(model, paths, tmp_path):
    pytest.importorskip("ray")
    for path in paths:
        os.truncate(path, 30)
    with pytest.raises(ValueError, match=r"one readable image\. Received: 20 files"):
        extract_to_shards(model, ImageFiles(paths, 16), tmp_path / "s", workers=1)
    assert (tmp_path / "s" / "_skipped.csv").read_text().count("photo") == 20


@pytest.mark.slow
def test_two_machines_share_the_work(model, paths, tmp_path):
    """Two nodes of Ray, of one processor each, on this machine."""
    pytest.importorskip("ray")
    program = os.path.join(os.path.dirname(sys.executable), "ray")
    common = "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def ray(*arguments):
        subprocess.run(
            [program, *arguments], check=True, env=environment, capture_output=True
        )

    ray("start", "--head", "--port=6399", "--include-dashboard=false", *common)
    try:
        ray("start", "--address=127.0.0.1:6399", *common)
        with ray_session("127.0.0.1:6399") as joined:
            assert len(joined.nodes()) == 2
            images = ImageFiles(paths, 16)
            report = extract_to_shards(model, images, tmp_path / "s", shard_size=2)
        assert (report.embedded, report.shards) == (20, 10)
        one = extract_embeddings(model, images, tmp_path / "one.npy")
        vectors = [shard.vectors for shard in read_shards(tmp_path / "s")]
        np.testing.assert_allclose(np.concatenate(vectors), one, atol=1e-6)
    finally:
        ray("stop")
