"""Answers of the page: held to the index, to what the command does, to colours."""

import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
from photo_index import (
    SIZE,
    colour_model,
    colour_of,
    encode,
    indexed,
    plain,
    write_colours,
)

from keras_aploss import VectorIndex, embed, load_image, retrieval_model
from keras_aploss.app.image_search import ImageSearch, from_text, to_text
from keras_aploss.app.thumbnails import ImageGoneError
from keras_aploss.search.milvus import MAX_RESULTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def searcher(folder):
    index, model = indexed(folder)
    return ImageSearch(index, model, image_size=SIZE)


@pytest.fixture
def own(tmp_path):
    """A folder that a test may change: its searcher and its index."""
    index, model = indexed(write_colours(tmp_path / "photos", 6))
    return ImageSearch(index, model, image_size=SIZE), index


def noise(size=(50, 31), mode="RGB"):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else size[::-1]
    pixels = np.random.default_rng(1).integers(0, 256, shape, "uint8")
    return PIL.Image.fromarray(pixels, mode)


def turned():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encode(noise(), "JPEG", exif=exif)


FILES = {
    "turned.jpg": turned(),
    "grey.jpg": encode(noise(mode="L"), "JPEG"),
    "clear.png": encode(noise(mode="RGBA"), "PNG"),
    "palette.gif": encode(noise().quantize(16), "GIF"),
    "plain.bmp": encode(noise(), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_upload_is_embedded_as_the_command_does(name, tmp_path):
    model = retrieval_model("small_resnet", units=8)
    index = VectorIndex(units=8)
    index.add(["a"], np.eye(1, 8), ["a.png"])
    path = tmp_path / name
    path.write_bytes(FILES[name])
    expected = embed(model, load_image(path, SIZE)[None], batch_size=16)[0]
    found = ImageSearch(index, model, image_size=SIZE).embed_upload(FILES[name])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "labels", [None, ["crow"], ["crow", ""], ["new\nline"], ["no"]]
)
@pytest.mark.parametrize("expand_by", [0, 4])
def test_pages_together_are_the_ranking_of_the_index(
    folder, searcher, labels, expand_by
):
    index, _ = indexed(folder)  # with four images of one colour: ties
    vector = np.float32(colour_of((200, 100, 50)))
    options = {"labels": labels, "expand_by": expand_by}
    expected = index.search(vector[None], 100, **options)[0]
    assert searcher.count(labels) == len(expected)
    pages = [searcher.search(vector, start, 7, **options) for start in range(0, 35, 7)]
    found = [result for page in pages for result in page]
    assert [(searcher.find(r.key).path, r.label, r.similarity) for r in found] == [
        (image.path, image.label, image.similarity) for image in expected
    ]
    assert [str(folder / r.name) for r in found] == [image.path for image in expected]


def test_a_box_is_what_is_searched_for(searcher, tmp_path):
    left, right = plain((250, 10, 10), (41, 60)), plain((10, 10, 250), (59, 60))
    both = PIL.Image.new("RGB", (100, 60))
    both.paste(left, (0, 0))
    both.paste(right, (41, 0))
    contents = encode(both)
    np.testing.assert_allclose(
        searcher.embed_upload(contents, (0, 0, 0.41, 1)),
        colour_of((250, 10, 10)),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        searcher.embed_upload(contents, (0.41, 0.5, 1, 1)),
        colour_of((10, 10, 250)),
        atol=1e-6,
    )
    # The same as an image that was cropped beforehand.
    cropped = tmp_path / "cropped.png"
    detailed = noise((80, 64))
    detailed.crop((20, 16, 61, 57)).save(cropped)
    found = searcher.embed_upload(
        encode(detailed), (20 / 80, 16 / 64, 61 / 80, 57 / 64)
    )
    np.testing.assert_allclose(found, colour_of(load_image(cropped, SIZE)), atol=1e-6)


def test_the_smallest_box_holds_a_pixel(searcher):
    picture = plain((10, 20, 30), (3, 3))
    picture.putpixel((2, 2), (200, 0, 0))
    found = searcher.embed_upload(encode(picture), (0.999, 0.999, 1, 1))
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 1),
        (0.5, 0, 0.2, 1),
        (-0.1, 0, 1, 1),
        (0, 0, 1, 1.1),
        (0, float("nan"), 1, 1),
    ],
)
def test_other_boxes_are_refused(searcher, box):
    with pytest.raises(ValueError, match="Expected a box"):
        searcher.embed_upload(FILES["plain.bmp"], box)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"hello", "it is not an image, or its header is damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is not an image"),
        (b"<html><img src=x onerror=alert(1)>", "it is not an image"),
        (b"\xff\xd8\xff", "it is not an image, or its header is damaged"),
        (FILES["turned.jpg"][:900], "it is damaged"),
        (FILES["clear.png"][:900], "it is damaged"),
        (FILES["palette.gif"][:300], "it is damaged"),
        (FILES["plain.bmp"][:900], "it is damaged"),
        (encode(noise(), "WEBP"), "its format is WEBP: only JPEG, PNG, GIF and BMP"),
        (encode(noise(), "TIFF"), "its format is TIFF"),
        (
            encode(PIL.Image.new("1", (2000, 1001))),
            "2000 x 1001, over 2,000,000 pixels",
        ),
    ],
)
def test_what_is_no_image_says_why(folder, contents, reason):
    index, model = indexed(folder)
    searcher = ImageSearch(index, model, image_size=SIZE, max_pixels=2_000_000)
    with pytest.raises(ValueError, match=reason):
        searcher.embed_upload(contents)


def test_a_result_is_searched_from_by_its_embedding(searcher):
    first = searcher.examples[3]
    vector = searcher.embed_indexed(first.key)
    path = searcher.find(first.key).path
    expected = colour_of(np.asarray(PIL.Image.open(path)))
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    np.testing.assert_array_equal(from_text(to_text(vector)), vector)
    part = searcher.embed_indexed(first.key, (0, 0, 0.5, 0.5))
    np.testing.assert_allclose(part, expected, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", "abc", "AAAA", "äöü", None, 7, "A" * 10, "AAAAAA=="]
)
def test_other_texts_are_no_embeddings(searcher, text):
    with pytest.raises(ValueError, match="Expected"):
        searcher.search(from_text(text))


@pytest.mark.parametrize(
    ("start", "count"),
    [(-1, 5), (0, 0), (0, -1), (MAX_RESULTS, 24), (MAX_RESULTS + 1, 1)],
)
def test_ranks_have_bounds(searcher, start, count):
    with pytest.raises(ValueError, match="Expected results from 0 to 16,384"):
        searcher.search(np.float32([1, 0, 0]), start, count)


def test_examples_come_from_all_over_the_index(searcher):
    keys = [result.key for result in searcher.examples]
    assert len(set(keys)) == len(keys) == 12
    assert {result.label for result in searcher.examples} == set(searcher.labels)
    assert searcher.labels == {"": 7, "crow": 8, "jäy & <b>co": 8, "new\nline": 7}


@pytest.mark.parametrize("key", ["", "x", "../secret", "0" * 32, "/etc/passwd"])
def test_only_keys_of_the_index_lead_to_files(searcher, key):
    for method in (searcher.picture, searcher.embed_indexed, searcher.describe):
        with pytest.raises(ImageGoneError, match="no such image in the index"):
            method(key)


def test_a_file_that_is_gone_or_another_is_not_shown_but_searched_from(own):
    searcher, _ = own
    first = searcher.examples[0]
    assert searcher.picture(first.key).startswith(b"\xff\xd8")
    path = pathlib.Path(searcher.find(first.key).path)
    contents = path.read_bytes()
    path.write_bytes(encode(plain((0, 0, 0))))
    with pytest.raises(ImageGoneError, match="has changed since"):
        searcher.picture(first.key)
    with pytest.raises(ImageGoneError, match="has changed since"):
        searcher.embed_indexed(first.key, (0, 0, 1, 1))
    os.remove(path)
    with pytest.raises(ImageGoneError, match="cannot be opened"):
        searcher.picture(first.key)
    assert searcher.search(searcher.embed_indexed(first.key))[0].key == first.key
    path.write_bytes(contents)
    assert searcher.picture(first.key).startswith(b"\xff\xd8")


def test_an_index_that_changes_is_followed(own, tmp_path):
    searcher, index = own
    new = tmp_path / "photos" / "new.png"
    new.write_bytes(encode(plain((0, 0, 255))))
    vector = np.float32([0, 0, 1])
    index.add(["any id"], vector[None], [str(new)], ["fresh"])
    found = searcher.search(vector)[0]
    assert (found.name, found.label) == ("new.png", "fresh")
    assert searcher.picture(found.key).startswith(b"\xff\xd8")
    np.testing.assert_array_equal(searcher.embed_indexed(found.key), vector)
    index.delete([str(new)])
    with pytest.raises(ImageGoneError, match="not in the index any more"):
        searcher.embed_indexed(found.key)


def test_another_model_and_an_empty_index_are_refused(folder):
    index, model = indexed(folder)
    with pytest.raises(ValueError, match="Expected the model that the index was made"):
        ImageSearch(index, model, image_size=SIZE + 1)
    unnamed = VectorIndex(units=5)
    with pytest.raises(ValueError, match="Expected an index with images"):
        ImageSearch(unnamed, model, image_size=SIZE)
    unnamed.add(["a"], np.eye(1, 5), ["a.png"])
    with pytest.raises(ValueError, match="Expected embeddings of 5 units"):
        ImageSearch(unnamed, colour_model(), image_size=SIZE)


def test_many_may_ask_at_a_time(searcher):
    colours = np.random.default_rng(2).integers(1, 256, (40, 3))

    def work(colour):
        vector = searcher.embed_upload(encode(plain(colour)))
        best = searcher.search(vector)[0]
        return vector, best, searcher.picture(best.key)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, colours))
    for colour, (vector, best, picture) in zip(colours, answers, strict=True):
        np.testing.assert_allclose(vector, colour_of(colour), atol=1e-6)
        assert best == searcher.search(vector)[0]
        assert picture == searcher.picture(best.key)
