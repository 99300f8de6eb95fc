"""Oxford and Paris, classic and revisited, and their distractors."""

import os
import pickle
import shutil

import numpy as np
import pytest
from benchmark_folders import (
    REVISITED,
    classic_folder,
    distractors_folder,
    golden_ground_truth,
    revisited_folder,
    save_image,
    write_ground_truth,
    write_text,
)
from PIL import Image

from keras_aploss import evaluate_benchmark, read_benchmark
from keras_aploss.benchmarks import read_distractor_paths


def as_lists(protocol):
    return [[group.tolist() for group in groups] for groups in protocol]


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_from_the_pickle_to_the_official_numbers(tmp_path, name, protocol):
    images, queries, entries, golden = golden_ground_truth()
    folder = tmp_path / name / "jpg"
    save_image(folder / f"{images[0]}.jpg")
    for image in images[1:] + queries:
        os.link(folder / f"{images[0]}.jpg", folder / f"{image}.jpg")
    path = tmp_path / name / f"gnd_{name}.pkl"
    write_ground_truth(path, images, queries, entries, protocol)
    benchmark = read_benchmark(name, tmp_path)
    assert benchmark.ks == (1, 5, 10) == tuple(golden["kappas"])
    results = evaluate_benchmark(benchmark, golden["queries"], golden["database"])
    assert list(results) == ["easy", "medium", "hard"]
    for protocol, result in results.items():
        np.testing.assert_allclose(
            result.average_precision, golden[f"{protocol}_ap"], rtol=0, atol=1e-6
        )
        published = [result.metrics[name] for name in benchmark.reported]
        expected = [golden[f"{protocol}_map"], *golden[f"{protocol}_mp"]]
        np.testing.assert_allclose(published, expected, rtol=0, atol=1e-6)


def test_revisited_protocols_boxes_and_paths(tmp_path):
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path))
    assert as_lists(benchmark.protocols["easy"]) == [[[0, 1], [4]], [[3, 2], []]]
    assert as_lists(benchmark.protocols["medium"]) == [[[0, 1, 2], [4]], [[3], []]]
    assert as_lists(benchmark.protocols["hard"]) == [[[2], []], [[3, 0, 1], [4]]]
    assert benchmark.query_boxes == [(5, 5, 35, 35), (0, 0, 60, 40)]
    folder = tmp_path / "roxford5k" / "jpg"
    assert benchmark.query_paths[1] == str(folder / "keble_000091.jpg")
    assert benchmark.database_paths[5] == str(folder / "hall_000005.jpg")
    assert benchmark.interpolation == "trapezoid"
    # The folder of the set itself will do, and numbers of pickles of any kind.
    assert read_benchmark("roxford5k", tmp_path / "roxford5k")[:4] == benchmark[:4]


def test_images_may_lie_with_the_classic_set_or_as_paris_is_unpacked(tmp_path):
    revisited_folder(tmp_path)
    shutil.move(tmp_path / "roxford5k" / "jpg", tmp_path / "oxford5k" / "jpg")
    benchmark = read_benchmark("roxford5k", tmp_path)
    assert benchmark.query_paths[0] == str(
        tmp_path / "oxford5k" / "jpg" / "hall_000090.jpg"
    )
    images = ["paris_defense_000001", "paris_museedorsay_000002"]
    for image in (*images, "paris_defense_000003"):
        landmark = image.split("_")[1]
        save_image(tmp_path / "P" / "paris" / landmark / f"{image}.jpg")
    entry = {"bbx": [0, 0, 9, 9], "easy": [1], "hard": [], "junk": [0]}
    write_ground_truth(
        tmp_path / "P" / "gnd_rparis6k.pkl", images, ["paris_defense_000003"], [entry]
    )
    benchmark = read_benchmark("rparis6k", tmp_path / "P")
    assert benchmark.database_paths[1].endswith(
        os.path.join("paris", "museedorsay", "paris_museedorsay_000002.jpg")
    )


def test_classic_text_files_and_pickle_agree(tmp_path):
    """The query images are in the database, and count as relevant."""
    root = classic_folder(tmp_path)
    of_texts = read_benchmark("oxford5k", root)
    assert as_lists(of_texts.protocols["classic"]) == [[[0, 1, 3], [4]], [[2], []]]
    assert of_texts.query_paths == [of_texts.database_paths[i] for i in (0, 4)]
    assert of_texts.query_boxes[0] == (5.5, 5.5, 35.5, 35.5)
    assert of_texts.reported == ("map",)
    entries = [
        {"bbx": [5.5, 5.5, 35.5, 35.5], "ok": np.array([0, 1, 3]), "junk": [2]},
        {"bbx": [0, 0, 60, 40], "ok": [4], "junk": np.empty(0)},
    ]
    names = [f"hall_{number:06d}" for number in range(6)]
    write_ground_truth(
        root / "oxford5k" / "gnd_oxford5k.pkl", names, [names[0], names[4]], entries
    )
    of_pickle = read_benchmark("oxford5k", root)
    assert as_lists(of_pickle.protocols["classic"]) == as_lists(
        of_texts.protocols["classic"]
    )
    assert of_pickle[:4] == of_texts[:4]


def test_the_damaged_images_of_paris_are_left_out(tmp_path):
    for image in ("louvre_000001", "louvre_000136", "triomphe_000867", "eiffel_000136"):
        save_image(tmp_path / "jpg" / f"paris_{image}.jpg")
    for part, text in {
        "query": "paris_louvre_000001 0 0 10 10",
        "good": "paris_louvre_000001\n",
        "ok": "paris_eiffel_000136",
        "junk": "\n",
    }.items():
        write_text(tmp_path / f"louvre_1_{part}.txt", text)
    benchmark = read_benchmark("paris6k", tmp_path)
    assert [os.path.basename(path) for path in benchmark.database_paths] == [
        "paris_eiffel_000136.jpg",
        "paris_louvre_000001.jpg",
    ]
    assert as_lists(benchmark.protocols["classic"]) == [[[1, 0]], [[]]]


def test_distractors_relative_to_either_folder(tmp_path):
    root = distractors_folder(tmp_path / "revisitop1m")
    paths = read_distractor_paths(root)
    assert paths[2] == str(root / "jpg" / "0" / "0002.jpg")
    assert read_distractor_paths(tmp_path) == paths
    lines = [f"jpg/{number % 2}/{number:04d}.jpg" for number in range(3)]
    write_text(root / "revisitop1m.txt", "\n".join(lines))
    assert read_distractor_paths(root) == paths
    os.remove(paths[1])
    with pytest.raises(ValueError, match=r"1 of them missing.*0001.jpg.*ptak.felk"):
        read_distractor_paths(root)
    assert read_distractor_paths(root, check_files=False) == paths
    write_text(root / "revisitop1m.txt", "0/0000.jpg\n0/0000.jpg\n")
    with pytest.raises(ValueError, match=r"1 repeated, such as 0/0000\.jpg"):
        read_distractor_paths(root)
    write_text(root / "revisitop1m.txt", "\n")
    with pytest.raises(ValueError, match="empty"):
        read_distractor_paths(root)


def changed(key, value, query=0):
    entries = [dict(entry) for entry in REVISITED["entries"]]
    entries[query][key] = value
    return {"entries": entries}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("easy", [0, 6]), "indices from 0 to 6, for hall_000090"),
        (changed("easy", [0, -1]), "indices from -1"),
        (changed("easy", [0, 0]), "an index twice"),
        (changed("junk", [0]), "as relevant and as junk, for hall_000090"),
        (changed("junk", [2]), "as relevant and as junk, for hall_000090"),
        (changed("easy", [0.5]), "dtype float64"),
        (changed("bbx", [1, 2, 3]), "Is it the ground truth of roxford5k"),
        (changed("bbx", [1, 2, 3, float("nan")]), "a box of"),
        (changed("bbx", [1, 2, 3, 2**2000]), "OverflowError"),
        (changed("bbx", [5, 5, 62, 30]), r"inside its image of 60 x 40.*hall_000090"),
        (changed("bbx", [5, 5, 5, 30]), "inside its image"),
        (changed("bbx", [-3, 5, 50, 30]), "inside its image"),
        ({"entries": [{"ok": [1], "bbx": [1, 1, 9, 9]}] * 2}, "KeyError: 'easy'"),
        ({"entries": REVISITED["entries"][:1]}, r"len\(qimlist\)=2, len\(gnd\)=1"),
        ({"queries": [], "entries": []}, "Expected queries. Received: none"),
        ({"images": [*REVISITED["images"][:5], "hall_000000"]}, "1 repeated"),
        ({"queries": ["hall_000090", "hall_000003"]}, "1 in both, such as hall_000003"),
        ({"queries": ["a", "a"], "entries": REVISITED["entries"][:1] * 2}, "repeated"),
        ({"entries": 7}, "TypeError"),
    ],
)
def test_mistakes_in_the_ground_truth(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_benchmark("roxford5k", revisited_folder(tmp_path, **changes))


def test_a_box_may_end_a_pixel_outside(tmp_path):
    changes = changed("bbx", [-1, -0.5, 61, 40.9])
    benchmark = read_benchmark("roxford5k", revisited_folder(tmp_path, **changes))
    assert benchmark.query_boxes[0] == (-1, -0.5, 61, 40.9)


def test_a_box_is_that_of_the_upright_image(tmp_path):
    root = revisited_folder(tmp_path, **changed("bbx", [0, 0, 40, 60]))
    with pytest.raises(ValueError, match="inside its image of 60 x 40"):
        read_benchmark("roxford5k", root)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(
        root / "roxford5k" / "jpg" / "hall_000090.jpg", exif=exif
    )
    read_benchmark("roxford5k", root)


def test_missing_and_damaged_images(tmp_path):
    root = revisited_folder(tmp_path)
    folder = root / "roxford5k" / "jpg"
    (folder / "hall_000090.jpg").write_bytes(b"<html>302 Found</html>")
    with pytest.raises(ValueError, match=r"readable image of roxford5k.*hall_000090"):
        read_benchmark("roxford5k", root)
    (folder / "hall_000002.jpg").unlink()
    (folder / "hall_000003.jpg").unlink()
    with pytest.raises(ValueError, match=r"8 images.*2 of them missing.*hall_000002"):
        read_benchmark("roxford5k", root)
    benchmark = read_benchmark("roxford5k", root, check_files=False)
    assert len(benchmark.database_paths) == 6


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("roxford5k", "revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl"),
        ("rparis6k", "revisitop/data/datasets/rparis6k/gnd_rparis6k.pkl"),
        ("oxford5k", "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/"),
        ("paris6k", "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"),
    ],
)
def test_a_missing_file_is_named_with_its_source_and_place(tmp_path, name, url):
    with pytest.raises(ValueError, match=f"gnd_{name}.pkl") as raised:
        read_benchmark(name, tmp_path)
    assert url in str(raised.value)
    assert f"put it at {tmp_path}/{name}/gnd_{name}.pkl" in str(raised.value)


def test_mistakes_in_the_text_files(tmp_path):
    root = classic_folder(tmp_path)
    folder = root / "oxford5k" / "gt"
    write_text(folder / "hall_1_ok.txt", "hall_000077\n")
    with pytest.raises(ValueError, match=r"hall_1_\*.txt lists.*such as hall_000077"):
        read_benchmark("oxford5k", root)
    (folder / "hall_1_ok.txt").unlink()
    with pytest.raises(ValueError, match=r"hall_1_ok.txt.*oxbuildings"):
        read_benchmark("oxford5k", root)
    write_text(folder / "hall_1_query.txt", "oxc1_hall_000000 5 5\n")
    with pytest.raises(ValueError, match=r"image x1 y1 x2 y2.*line 1"):
        read_benchmark("oxford5k", root)
    write_text(folder / "hall_1_query.txt", "oxc1_hall_000000 5 5 9 wide\n")
    with pytest.raises(ValueError, match="wide"):
        read_benchmark("oxford5k", root)
    shutil.rmtree(root / "oxford5k" / "jpg")
    with pytest.raises(ValueError, match="no JPEG file"):
        read_benchmark("oxford5k", root)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch run",)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = revisited_folder(tmp_path)
    path = root / "roxford5k" / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps({"gnd": Hostile()}))
    with pytest.raises(ValueError, match=rf"names {os.name}.system"):
        read_benchmark("roxford5k", root)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="Is it the ground truth of roxford5k"):
        read_benchmark("roxford5k", root)
    assert not (tmp_path / "run").exists()


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"oxford5k.*inaturalist2018.*name='holidays'"):
        read_benchmark("holidays", ".")
