import base64
import csv
import dataclasses
import importlib.util
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(script, *arguments):
    """Run an example as its docstring says; return what it printed."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def load(script):
    """An example as a module."""
    path = ROOT / "examples" / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def coloured_photos(folder, *, num_classes, images_per_class):
    """A class is a colour: noisy pictures of it, one folder each."""
    rng = np.random.default_rng(0)
    for number in range(num_classes):
        colour = rng.integers(40, 216, 3)
        (folder / f"colour{number}").mkdir(parents=True)
        for index in range(images_per_class):
            image = np.clip(colour + rng.normal(0, 12, (40, 48, 3)), 0, 255)
            path = folder / f"colour{number}" / f"{index}.png"
            PIL.Image.fromarray(image.astype("uint8")).save(path)


@pytest.mark.slow
def test_quickstart(tmp_path):
    output = run(
        "quickstart.py", "--num-landmarks", 8, "--num-test-landmarks", 6,
        "--epochs", 2, "--export-to", tmp_path,
    )  # fmt: skip
    before, after = re.search(r"mAP +(0\.\d+) -> (0\.\d+)", output).groups()
    assert 0 < float(before) < 1
    assert before != after
    assert len(re.findall(r"val_map: 0\.\d+", output)) == 2
    assert (tmp_path / "quickstart" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_quickstart_keeps_its_promise(tmp_path):
    output = run("quickstart.py", "--export-to", tmp_path)
    before, after = re.search(r"mAP +(0\.\d+) -> (0\.\d+)", output).groups()
    assert float(before) < 0.15
    assert float(after) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_rank_photos(finished_run, tmp_path, capsys, ending):
    coloured_photos(tmp_path / "photos", num_classes=4, images_per_class=3)
    lines = [
        f"photos/colour{label}/{index}.png,{label},{'gallery' if index else 'query'}"
        for label in range(4)
        for index in range(3)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    output = tmp_path / "pictures" / f"rankings{ending}"
    load("rank_photos.py").main(
        finished_run.folder, tmp_path / "list.csv", output,
        rows=2, results=5, size=48, image_size=None, quality=80,
    )  # fmt: skip
    with PIL.Image.open(output) as picture:
        assert picture.format == {".jpg": "JPEG", ".png": "PNG"}[ending]
        size = picture.size
    shown = capsys.readouterr().out
    assert "4 queries of 4 classes" in shown
    assert re.search(r"mAP [01]\.\d{3}, recall@1 [01]\.\d{3}\n", shown)
    assert f"{size[0]} x {size[1]}, {output.stat().st_size:,} B" in shown


def test_convert_omniglot(tmp_path):
    rng = np.random.default_rng(0)
    ink = rng.integers(0, 2, (6, 105, 105), dtype="uint8")
    np.savez_compressed(
        tmp_path / "omniglot_packed.npz",
        bits=np.packbits(ink.reshape(6, -1), axis=1),
        label=np.array([0, 0, 1, 1, 2, 2], "int16"),
        alphabet=np.zeros(6, "int8"),
        drawer=np.array([1, 2] * 3, "int8"),
        is_test=np.array([False] * 4 + [True] * 2),
        class_names=np.array(["Greek/character01", "Greek/character02", "N'Ko/01"]),
    )
    folder = tmp_path / "omniglot"
    load("convert_omniglot.py").convert(tmp_path / "omniglot_packed.npz", folder)
    rows = list(csv.DictReader((folder / "manifest.csv").open(encoding="utf-8")))
    assert [row["label"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 2
    assert rows[4]["class_name"] == "N'Ko/01"
    for row, drawing in zip(rows, ink, strict=True):
        with PIL.Image.open(folder / row["path"]) as image:
            pixels = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(pixels, np.where(drawing == 1, 0, 255))


def test_a_stored_comparison_is_printed_without_training(tmp_path):
    compare = load("compare_losses.py")
    rows = []

    def store(trial, value):
        metrics = dict.fromkeys(compare.METRICS, value)
        result = dict.fromkeys(compare.WHITENING, metrics)
        rows.append({"trial": dataclasses.asdict(trial), "result": result})

    for loss, choices in compare.OPTIONS.items():
        for options in choices:
            for rate, value in ((1e-3, 0.3), (3e-3, 0.4), (9e-3, 0.2)):
                # The last choice is the best.
                value += 0.1 * (options == choices[-1])
                store(compare.make_trial(loss, options, rate, 0, is_final=False), value)
    for loss in compare.OPTIONS:
        options = compare.OPTIONS[loss][-1]
        for seed in compare.SEEDS:
            store(compare.make_trial(loss, options, 3e-3, seed), 0.5 + 0.1 * seed)
    for num_bins, exclude_self in itertools.product(compare.BINS, (False, True)):
        options = {"exclude_self": True} if exclude_self else {}
        options |= {"num_bins": num_bins} if num_bins != 20 else {}
        if options:
            for seed in compare.SEEDS:
                store(compare.make_trial("AP", options, 3e-3, seed), 0.6)
    for pooling in ("average", "max"):
        for seed in compare.SEEDS:
            trial = compare.make_trial("AP", {}, 3e-3, seed, pooling=pooling)
            store(trial, 0.25)
    path, plot = tmp_path / "stored.json", tmp_path / "plot.png"
    path.write_text(json.dumps(rows))
    output = run("compare_losses.py", "no.csv", "--json", path)
    assert "| AP, rate 0.003 | 0.700 ± 0.100 | 0.700 ± 0.100 |" in output
    assert "| triplet hard, soft, not unit length, rate 0.003 | 0.700" in output
    assert "| 40 | 0.600 ± 0.000 |" in output
    assert "| average | 0.250 ± 0.000 |" in output
    assert "| full (power 0.5) | 0.700 ± 0.100 |" in output
    assert json.loads(path.read_text()) == rows
    assert not plot.exists()


@pytest.mark.slow
def test_each_loss_of_the_comparison_trains(tmp_path):
    compare = load("compare_losses.py")
    photos = tmp_path / "photos"
    coloured_photos(photos, num_classes=12, images_per_class=4)
    lines = [
        f"{path.relative_to(tmp_path)},{path.parent.name},"
        + ("train" if int(path.parent.name[6:]) < 8 else "test")
        for path in sorted(photos.rglob("*.png"))
    ]
    csv_path = tmp_path / "list.csv"
    csv_path.write_text("\n".join(["path,label,split", *lines]))
    compare.ARGUMENTS = types.SimpleNamespace(
        data=csv_path, image_size=24, steps=20, flip=True,
        classes_per_batch=4, images_per_class=4,
    )  # fmt: skip
    compare.DATA = compare.read_images(compare.ARGUMENTS)
    assert compare.DATA["is_validation"].sum() == 8
    for loss, choices in compare.OPTIONS.items():
        for options in choices:
            trial = compare.make_trial(loss, options, 3e-3, 1, is_final=False)
            assert compare.train(trial)["none"]["map"] > 0.5
        result = compare.train(compare.make_trial(loss, choices[0], 3e-3, 1))
        assert result["none"]["map"] > 0.5
        assert set(result) >= (set(compare.WHITENING) if loss == "AP" else {"none"})
    again = compare.make_trial("AP", {}, 3e-3, 1)
    first, second = compare.train(again), compare.train(again)
    assert first["none"] == second["none"]


@pytest.mark.slow
def test_train_on_a_folder_then_export_and_serve(tmp_path):
    photos, model = tmp_path / "photos", tmp_path / "run" / "best.keras"
    coloured_photos(photos, num_classes=8, images_per_class=8)
    (photos / "colour0" / "broken.png").write_bytes(b"no image")
    output = run(
        "train_folder.py", photos, "--image-size", 32, "--epochs", 3,
        "--run-dir", model.parent,
    )  # fmt: skip
    assert re.search(r"Left out .*broken\.png: it is not an image", output)
    after = re.search(r"mAP on unseen classes: [01]\.\d+ -> ([01]\.\d+)", output)[1]
    assert float(after) > 0.8
    assert list(model.parent.glob("tensorboard/*/events.*"))

    query = photos / "colour3" / "5.png"
    copy = photos / "colour7" / "copy.png"
    copy.write_bytes(query.read_bytes())
    output = run(
        "export_and_serve.py", model, photos, query, "--image-size", 32,
        "--export-to", tmp_path / "served",
    )  # fmt: skip
    ranking = re.findall(r"^  (-?[01]\.\d{3})  (.*)$", output, re.MULTILINE)
    assert ranking[0] == ("1.000", str(copy))
    assert len(ranking) == 8
    assert str(query) not in dict(ranking).values()
    assert f"-v {tmp_path / 'served'}:/models/served" in output
    request = json.loads((model.parent / "request.json").read_text())
    assert base64.b64decode(request["instances"][0]["b64"]) == query.read_bytes()
