"""`keras-aploss extract`: a file of embeddings, its lists, and how it goes on."""

import pathlib
import signal

import numpy as np
import pytest
from command_line import fail, read_table, start, succeed, wait_until, write_photos
from PIL import Image

from keras_aploss import ImageFiles, embed
from keras_aploss.runs.checkpoint import load_model


@pytest.fixture
def photos(tmp_path):
    """Six photos at two depths, and two files that are none."""
    names = [f"{'deeper/' * (number > 3)}{number}.png" for number in range(6)]
    return write_photos(tmp_path / "photos", names)


def test_a_folder_gives_a_row_for_each_image(finished_run, photos, tmp_path):
    output = tmp_path / "new" / "photos.npy"
    shown = succeed("extract", finished_run.folder, photos, "--output", output)
    embeddings = np.load(output)
    assert embeddings.shape == (6, 8)
    paths = [path for (path,) in read_table(f"{output}.csv")[1:]]
    assert len(paths) == 6
    expected = embed(
        load_model(finished_run.folder / "model.keras"), ImageFiles(paths, 16)
    )
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    skipped = read_table(f"{output}.skipped.csv")[1:]
    assert {pathlib.Path(path).name for path, _ in skipped} == {
        "broken.jpg",
        "other.webp",
    }
    assert "2 files left out" in shown


def test_whole_images_at_scales_have_unit_length(finished_run, photos, tmp_path):
    output = tmp_path / "whole.npy"
    sizes = "--max-size", 32, "--scales", "1,0.5"
    succeed("extract", finished_run.folder, photos, "--output", output, *sizes)
    embeddings = np.load(output)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    plain = tmp_path / "plain.npy"
    succeed("extract", finished_run.folder, photos, "--output", plain)
    assert np.abs(np.load(plain) - embeddings).max() > 1e-3


def test_a_list_is_kept_in_its_order(finished_run, photos, tmp_path):
    names = ["3.png", "0.png", "deeper/4.png"]
    (photos / "list.txt").write_text("\n".join(names) + "\n")
    (photos / "list.csv").write_text("\n".join(["path", *names]))
    for kind in ("txt", "csv"):
        output = tmp_path / f"{kind}.npy"
        given = finished_run.folder, photos / f"list.{kind}", "--output", output
        succeed("extract", *given)
        assert [path for (path,) in read_table(f"{output}.csv")[1:]] == [
            str(photos / name) for name in names
        ]
    np.testing.assert_array_equal(
        np.load(tmp_path / "txt.npy"), np.load(tmp_path / "csv.npy")
    )


def test_trouble_is_a_sentence_before_any_work(finished_run, photos, tmp_path):
    output = tmp_path / "photos.npy"
    given = finished_run.folder, photos, "--output", output
    assert "such as 1,0.7071,0.5" in fail("extract", *given, "--scales", "1,a")
    both = "--max-size", 32, "--image-size", 16
    assert "Received both" in fail("extract", *given, *both)
    text = tmp_path / "photos.txt"
    wrong = "extract", finished_run.folder, photos, "--output", text
    assert "ends in '.npy'" in fail(*wrong)
    (tmp_path / "list.csv").write_text("file,label\na.png,1\n")
    listed = "extract", finished_run.folder, tmp_path / "list.csv"
    assert "no path" in fail(*listed, "--output", output)
    (tmp_path / "empty").mkdir()
    nothing = "extract", finished_run.folder, tmp_path / "empty", "--output", output
    assert "which has none" in fail(*nothing)
    assert not list(tmp_path.glob("photos.npy*"))
    np.save(output, np.zeros((2, 2)))
    assert "extracted here" in fail("extract", *given)


def test_another_setting_is_named(finished_run, photos, tmp_path):
    output = tmp_path / "photos.npy"
    given = finished_run.folder, photos, "--output", output
    succeed("extract", *given)
    before = output.read_bytes()
    assert "scales=[1.0]" in fail("extract", *given, "--scales", "1,0.5")
    succeed("extract", *given)
    assert output.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_extraction_goes_on(number, finished_run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(600):
        pixels = rng.integers(0, 256, (64, 64, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")

    def arguments(name):
        scales = "--original-size", "--scales", "1,2,3"
        output = "--output", tmp_path / name
        return "extract", finished_run.folder, folder, *output, *scales

    process = start(tmp_path, *arguments("stopped.npy"))
    wait_until(process, (tmp_path / "stopped.npy.json").exists)
    process.send_signal(number)
    process.wait(60)
    assert not (tmp_path / "stopped.npy").exists()
    assert (tmp_path / "stopped.npy.partial").exists()
    succeed(*arguments("stopped.npy"))
    succeed(*arguments("unbroken.npy"))
    stopped = (tmp_path / "stopped.npy").read_bytes()
    assert stopped == (tmp_path / "unbroken.npy").read_bytes()
