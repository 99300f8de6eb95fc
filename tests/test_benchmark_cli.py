"""`keras-aploss evaluate --benchmark` and `keras-aploss manifest`."""

import re

import numpy as np
import pytest
from benchmark_folders import (
    classic_folder,
    distractors_folder,
    google_folder,
    revisited_folder,
    sop_folder,
)
from command_line import fail, invoke, succeed

from keras_aploss import (
    benchmarks,
    evaluate_benchmark,
    image_manifest,
    read_benchmark,
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(output):
    """The table: headings, and by name the numbers of each row."""
    lines = [line.split() for line in output.splitlines()]
    first = next(i for i, line in enumerate(lines) if line and "mAP" in line[0])
    if not any("mAP" in word for word in lines[first]):
        raise AssertionError(output)
    table = {
        line[0]: [float(number) for number in line[1:]]
        for line in lines[first + 1 :]
        if len(line) > 1 and re.fullmatch(r"[\d.]+", line[-1])
    }
    return lines[first], table


def test_revisited_oxford_from_files_to_the_table(finished_run, tmp_path):
    root = revisited_folder(tmp_path)
    arguments = ("evaluate", finished_run.folder, "--benchmark", "roxford5k")
    output = succeed(*arguments, "--root", root, "--scales", "1,0.5")
    headings, table = rows(output)
    assert headings == ["mAP", "mP@1", "mP@5", "mP@10"]
    folder = tmp_path / "embeddings" / finished_run.folder.name / "roxford5k"
    queries, database = (
        np.load(folder / f"{part}_original_x1_0.5.npy")
        for part in ("queries", "database")
    )
    results = evaluate_benchmark(read_benchmark("roxford5k", root), queries, database)
    assert list(table) == list(results) == ["easy", "medium", "hard"]
    for name, result in results.items():
        expected = [
            result.metrics["map"],
            *(result.metrics[f"mp_at_{k}"] for k in (1, 5, 10)),
        ]
        np.testing.assert_allclose(table[name], expected, atol=0.00051)
    assert "2 (easy), 2 (medium), 1 (hard)" in " ".join(output.split())


def test_distractors_expansion_and_whitening(finished_run, tmp_path):
    root = revisited_folder(tmp_path)
    distractors_folder(tmp_path / "revisitop1m", 30)
    arguments = ("evaluate", finished_run.folder, "--benchmark", "roxford5k")
    arguments += ("--root", root, "--embeddings-dir", "stored")
    _, clean = rows(succeed(*arguments))
    _, of_images = rows(succeed(*arguments, "--distractors", "revisitop1m"))
    stored = "stored/distractors_original_x1.npy"
    assert np.load(stored).shape == (30, 8)
    _, of_file = rows(succeed(*arguments, "--distractors", stored))
    assert of_file == of_images
    assert of_images["medium"][0] < clean["medium"][0]
    options = ("--whitening", stored, "--query-expansion", 2, "--alpha", 1)
    options += ("--database-augmentation", 1, "--distractors", stored)
    _, refined = rows(succeed(*arguments, *options))
    assert refined != of_images
    assert fail(*arguments, "--query-expansion", 6).count("below the 6 images")
    np.savez("pca.npz", mean=np.ones(4), kernel=np.eye(4))
    message = fail(*arguments, "--whitening", "pca.npz")
    assert "whitening of the 8 units of the model. Received: mean.shape=(4,)" in message


def test_other_benchmarks_print_what_is_published(finished_run, tmp_path):
    arguments = ("evaluate", finished_run.folder, "--benchmark")
    root = sop_folder(tmp_path / "sop")
    headings, table = rows_of_classes(succeed(*arguments, "sop", "--root", root))
    assert headings == ["recall@1", "recall@10", "recall@100", "recall@1000", "MAP@R"]
    assert table["test"][1:4] == [1, 1, 1]
    # The size of the run, 16, whose squares are embedded.
    assert list(tmp_path.glob("embeddings/*/sop/test_16_x1.npy"))
    output = succeed(*arguments, "gldv2", "--root", google_folder(tmp_path / "g"))
    headings, table = rows(output)
    assert headings == ["mAP@100"]
    assert list(table) == ["public", "private"]
    root = classic_folder(tmp_path / "c")
    headings, table = rows(succeed(*arguments, "oxford5k", "--root", root))
    assert (headings, list(table)) == (["mAP"], ["classic"])


def rows_of_classes(output):
    lines = [line.split() for line in output.splitlines()]
    first = next(i for i, line in enumerate(lines) if line[:1] == ["recall@1"])
    row = next(line for line in lines[first:] if line[:1] == ["test"])
    return lines[first], {"test": [float(number) for number in row[1:]]}


def test_ctrl_c_says_how_to_go_on(finished_run, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    root = revisited_folder(tmp_path)
    monkeypatch.setattr(benchmarks, "benchmark_embeddings", interrupted)
    arguments = ("evaluate", finished_run.folder, "--benchmark", "roxford5k")
    result = invoke(*arguments, "--root", root)
    assert result.exit_code == 130
    message = " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert "the embeddings so far are in embeddings/run/roxford5k" in message
    assert "Rerun the command to resume" in message


@pytest.fixture
def no_work(monkeypatch):
    """Errors come before any image is embedded."""

    def embedded(*args, **kwargs):
        raise AssertionError("an image was embedded")

    monkeypatch.setattr(benchmarks, "benchmark_embeddings", embedded)
    monkeypatch.setattr(benchmarks, "distractor_embeddings", embedded)


def test_mistakes_are_found_before_any_work(finished_run, tmp_path, no_work):
    revisited_folder(tmp_path)
    sop_folder(tmp_path / "sop")
    np.save("narrow.npy", np.ones((3, 4), np.float32))
    np.save("cut.npy", np.ones((30, 8), np.float32))
    with open("cut.npy", "r+b") as file:
        file.truncate(400)
    for options, message in {
        "--benchmark roxford5k": "Expected `--root DIR`",
        "--benchmark holidays --root .": "Expected one of oxford5k, paris6k",
        "--benchmark rparis6k --root .": "gnd_rparis6k.pkl",
        "--benchmark roxford5k --root . --data x": "Expected no --data",
        "--benchmark roxford5k --root . --image-size 9": "Expected no `--image-size`",
        "--benchmark roxford5k --root . --scales 1,a": "such as 1,0.7071,0.5",
        "--benchmark roxford5k --root . --scales 0": "such as 1,0.7071,0.5",
        "--benchmark roxford5k --root . --whitening x.npz": "x.npz",
        "--benchmark roxford5k --root . --distractors x": "revisitop1m.txt",
        "--benchmark roxford5k --root . --distractors x.npy": "does not exist",
        "--benchmark roxford5k --root . --distractors narrow.npy": "8 units",
        "--benchmark roxford5k --root . --distractors cut.npy": "cut short",
        "--benchmark sop --root sop --max-size 9": "Expected no --max-size with sop",
        "--benchmark sop --root sop --query-expansion 2": "--query-expansion with sop",
        "--root . --max-size 9": "Expected --root, --max-size together",
    }.items():
        stderr = fail("evaluate", finished_run.folder, *options.split())
        assert message in stderr, options
    model = finished_run.folder / "model.keras"
    copy = tmp_path / "alone.keras"
    copy.write_bytes(model.read_bytes())
    stderr = fail("evaluate", copy, "--benchmark", "sop", "--root", "sop")
    assert "Expected `--image-size`" in stderr


def test_help_names_the_benchmarks_and_reproduces_the_paper():
    text = " ".join(succeed("evaluate", "--help").split())
    for name in ("roxford5k", "rparis6k", "gldv2", "sop", "cub200"):
        assert name in text
    assert "--benchmark roxford5k --root" in text


def test_a_manifest_lists_the_images(tmp_path):
    root = sop_folder(tmp_path / "sop")
    output = succeed("manifest", "sop", "--root", root)
    assert "train: 6 images of 2 classes" in output
    assert "test: 6 images of 2 classes" in output
    sets = image_manifest("sop.csv", image_size=16)
    assert {name: len(images.labels) for name, images in sets.items()} == {
        "train": 6,
        "test": 6,
    }
    assert "which exists" in fail("manifest", "sop", "--root", root)
    assert "inaturalist2018" in fail("manifest", "roxford5k", "--root", root)
    assert "train.csv" in fail("manifest", "gldv2", "--root", root)


@pytest.mark.slow
def test_a_manifest_trains(tmp_path):
    succeed("manifest", "sop", "--root", sop_folder(tmp_path / "sop"))
    settings = "--image-size 16 --classes-per-batch 2 --images-per-class 2 --epochs 1"
    succeed("train", "--data", "sop.csv", "--export-to", "", *settings.split())
    assert len(list(tmp_path.glob("runs/*/model.keras"))) == 1
