"""Google Landmarks v2: index, queries and their two parts."""

import numpy as np
import pytest
from benchmark_folders import google_folder, write_text

from keras_aploss import evaluate_benchmark, read_benchmark

SOLUTION = "metadata/retrieval_solution_v2.1.csv"


def mean_ap_at_100(ranked, relevant):
    """The definition in the paper: precision at each hit, over min(R, 100)."""
    hits, total = 0, 0.0
    for rank, image in enumerate(ranked[:100], 1):
        if image in relevant:
            hits += 1
            total += hits / rank
    return total / min(len(relevant), 100)


def test_reads_the_published_form(tmp_path):
    benchmark = read_benchmark("gldv2", google_folder(tmp_path))
    assert benchmark.query_paths[0] == str(tmp_path / "test/a/a/a/aaa1.jpg")
    assert len(benchmark.query_paths) == 2  # one is Ignored
    assert benchmark.query_boxes == [None, None]
    assert len(benchmark.database_paths) == 6
    relevant, junk = benchmark.protocols["public"]
    assert [group.tolist() for group in relevant] == [[0, 2], []]
    relevant, _ = benchmark.protocols["private"]
    assert [group.tolist() for group in relevant] == [[], [5]]
    assert not any(len(group) for group in junk)
    rng = np.random.default_rng(0)
    queries, database = rng.normal(size=(2, 4)), rng.normal(size=(6, 4))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    results = evaluate_benchmark(benchmark, queries, database)
    order = np.argsort(-queries @ database.T, axis=1).tolist()
    for part, (ranked, relevant) in {
        "public": (order[0], [0, 2]),
        "private": (order[1], [5]),
    }.items():
        assert results[part].num_queries == 1
        value = results[part].metrics["map_at_100"]
        assert value == pytest.approx(mean_ap_at_100(ranked, relevant), abs=1e-12)
    assert benchmark.reported == ("map_at_100",)


def test_the_index_may_be_the_list_of_landmarks(tmp_path):
    root = google_folder(tmp_path)
    lines = (root / "metadata" / "index.csv").read_text().splitlines()
    (root / "metadata" / "index.csv").unlink()
    rows = ["id,landmark_id", *(f"{line},7" for line in lines[1:])]
    write_text(root / "index" / "index_image_to_landmark.csv", "\n".join(rows))
    assert len(read_benchmark("gldv2", root).database_paths) == 6


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (SOLUTION, "id,landmarks,Usage\na,b,Public\n", "no images"),
        (SOLUTION, "id,images,Usage\na,0,Secret\n", "Received: Secret"),
        (SOLUTION, "id,images,Usage\na,None,Ignored\n", "Public or Private"),
        (SOLUTION, "id,images,Usage\n", "at least one line"),
        (SOLUTION, "id,images,Usage\na,unknown,Public\n", "1 others.*such as unknown"),
        (
            SOLUTION,
            "id,images,Usage\na,b,c,Public\n",
            "4 cells for 3 columns in line 2",
        ),
        (SOLUTION, 'id,images,Usage\n"a,b,Public\n', "Download the file again"),
        ("metadata/index.csv", "id\naa\naa\n", "1 repeated, such as aa"),
        ("metadata/index.csv", "name\naa\n", "no id"),
        ("metadata/index.csv", "", "no id"),
    ],
)
def test_mistakes_in_the_tables(tmp_path, file, text, message):
    root = google_folder(tmp_path)
    write_text(root / file, text)
    with pytest.raises(ValueError, match=message):
        read_benchmark("gldv2", root)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"github\.com/cvdfoundation/google-landmark"):
        read_benchmark("gldv2", tmp_path)
    root = google_folder(tmp_path)
    (root / "test/a/a/a/aaa1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of them missing.*aaa1.jpg"):
        read_benchmark("gldv2", root)
    (root / "metadata" / "index.csv").write_bytes(b"id\n\xff\xfe\n")
    with pytest.raises(ValueError, match="utf-8"):
        read_benchmark("gldv2", root)
