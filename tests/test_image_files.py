import numpy as np
import pytest
from image_bytes import encode, photo, write_photos

from keras_aploss.images import (
    ImageFiles,
    decode_image,
    find_unreadable,
    load_image,
    resize_image,
)


@pytest.fixture
def paths(tmp_path):
    return write_photos(tmp_path)


def test_load_image_is_decode_then_resize(paths):
    for path in paths:
        expected = resize_image(decode_image(path.read_bytes()), 24)
        image = load_image(path, 24)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)


def test_a_size_may_be_an_integer_of_numpy_and_too_large_for_memory(paths):
    assert load_image(paths[0], np.int64(20)).shape == (20, 20, 3)
    with pytest.raises(ValueError, match=r"a\.jpg.*not enough memory"):
        load_image(paths[0], 1_000_000)


def test_load_image_keeps_the_aspect_without_crop(paths):
    assert load_image(paths[0], 20, crop=False).shape == (20, 30, 3)


def test_load_image_names_the_file_and_the_trouble(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(photo(), "JPEG")[:-200])
    with pytest.raises(ValueError, match=r"cut\.jpg.*damaged.*truncated"):
        load_image(path, 24)
    strip = tmp_path / "strip.png"
    strip.write_bytes(encode(photo(1, 5000), "PNG"))
    assert load_image(strip, 24).shape == (24, 24, 3)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "nowhere.jpg", 24)


@pytest.mark.parametrize("size", [(10, 6000), (6000, 10), (8, 100_000)])
def test_a_strip_that_passes_the_check_never_ends_a_run(tmp_path, size):
    path = tmp_path / "strip.png"
    path.write_bytes(encode(photo(*size), "PNG"))
    assert find_unreadable([path]) == []
    shape = (480, 1920, 3) if size[1] > size[0] else (1920, 480, 3)
    assert load_image(path, 480, crop=False).shape == shape
    (image,) = ImageFiles([path], 480, crop=False).load()
    assert image.shape == shape


def test_the_middle_of_a_strip_is_kept(tmp_path):
    path = tmp_path / "strip.png"
    strip = photo(10, 101)
    path.write_bytes(encode(strip, "PNG"))
    middle = strip.crop((30, 0, 70, 10))
    np.testing.assert_array_equal(load_image(path, 10, crop=False), middle)


def test_image_files_behaves_as_a_sequence(paths):
    files = ImageFiles(paths, 16)
    assert len(files) == 5
    assert files.paths == [str(path) for path in paths]
    np.testing.assert_array_equal(files[np.int64(3)], load_image(paths[3], 16))
    np.testing.assert_array_equal(files[-1], load_image(paths[4], 16))
    with pytest.raises(IndexError):
        files[5]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(1, 4), [1, 2, 3]),
        ([4, 0, 0], [4, 0, 0]),
        (np.array([2, -1]), [2, 4]),
        (np.array([True, False, False, True, False]), [0, 3]),
        ([], []),
    ],
)
def test_image_files_are_selected_lazily(paths, key, expected):
    chosen = ImageFiles(paths, 16, crop=False)[key]
    assert isinstance(chosen, ImageFiles)
    assert chosen.paths == [str(paths[i]) for i in expected]
    assert (chosen.image_size, chosen.crop) == (16, False)


@pytest.mark.parametrize("workers", [1, 4, None])
def test_loading_at_once_keeps_the_order(paths, workers):
    files = ImageFiles(paths * 4, 16)
    images = files.load(workers=workers)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.stack([files[i] for i in range(20)]))
    assert ImageFiles([], 16).load().shape == (0, 16, 16, 3)


def test_loading_whole_images_keeps_their_shapes(paths):
    images = ImageFiles(paths, 20, crop=False).load()
    assert [image.shape for image in images][:3] == [
        (20, 30, 3),
        (20, 25, 3),
        (20, 21, 3),
    ]
    np.testing.assert_array_equal(images[1], load_image(paths[1], 20, crop=False))


def test_loading_at_once_reports_progress_only_when_asked(paths, capsys):
    ImageFiles(paths, 16).load()
    assert capsys.readouterr().out == ""
    ImageFiles(paths, 16).load(verbose=1)
    assert "5/5" in capsys.readouterr().out


def test_loading_at_once_names_a_bad_file(paths):
    paths[2].write_bytes(b"BM nonsense")
    with pytest.raises(ValueError, match=r"c\.bmp"):
        ImageFiles(paths, 16).load()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImageFiles("a.jpg", 16), r"Write \[path\]"),
        (lambda: ImageFiles(["a.jpg"], 0), "image_size=0"),
        (lambda: ImageFiles(["a.jpg"], 16.0), r"image_size=16\.0"),
        (lambda: load_image("a.jpg", -1), "image_size=-1"),
        (lambda: find_unreadable(["a.jpg"], max_pixels=0), "max_pixels=0"),
        (lambda: find_unreadable("a.jpg"), r"Write \[path\]"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
