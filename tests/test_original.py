"""Images at their own size, against Pillow."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings, strategies as st

from keras_aploss.images import OriginalImages, load_image, scale_image


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    PIL.Image.fromarray(pixels).save(path)
    return path, pixels


def test_whole_images_keep_every_pixel(photo):
    path, pixels = photo
    image = OriginalImages([path])[0]
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0, 30)] * 2), st.tuples(*[st.floats(1.01, 30)] * 2))
def test_boxes_are_cut_as_pillow_cuts_them(photo, corner, size):
    path, _ = photo
    left, top = corner
    box = left, top, left + size[0], min(40.0, top + size[1])
    with PIL.Image.open(path) as image:
        expected = np.asarray(image.crop(box))
    np.testing.assert_array_equal(OriginalImages([path], boxes=[box])[0], expected)


def test_a_box_at_half_a_pixel_is_rounded_to_even(photo):
    path, pixels = photo
    images = OriginalImages([path], boxes=[(0.5, 1.5, 2.5, 3.5)])
    np.testing.assert_array_equal(images[0], pixels[2:4, 0:2])


def test_max_size_shrinks_the_longer_side_like_pillow_and_enlarges_nothing(photo):
    path, pixels = photo
    shrunk = OriginalImages([path], max_size=30)[0]
    resized = PIL.Image.fromarray(pixels).resize((30, 20), PIL.Image.BILINEAR)
    assert shrunk.shape == (20, 30, 3)
    assert np.abs(shrunk.astype(int) - np.asarray(resized)).max() <= 1
    for large in (60, 1000):
        same = OriginalImages([path], max_size=large)[0]
        np.testing.assert_array_equal(same, pixels)


def test_a_box_shrinks_by_the_factor_of_its_whole_image(photo):
    path, pixels = photo
    # 60 x 40 to 30: by half, although the box alone is smaller than 30.
    image = OriginalImages([path], boxes=[(10, 0, 30, 40)], max_size=30)[0]
    cropped = PIL.Image.fromarray(pixels[:, 10:30])
    expected = np.asarray(cropped.resize((10, 20), PIL.Image.BILINEAR))
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_thin_box_keeps_a_pixel(photo):
    path, _ = photo
    boxes = [(3, 0, 4, 40)]
    assert OriginalImages([path], boxes=boxes, max_size=6)[0].shape == (4, 1, 3)


def test_turned_photos_are_upright_and_so_are_their_boxes(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: white comes to the top
    path = tmp_path / "turned.jpg"
    PIL.Image.fromarray(pixels).save(path, exif=exif, quality=100)
    images = OriginalImages([path] * 2, boxes=[None, (0, 0, 20, 8)])
    assert images[0].shape == (30, 20, 3)
    assert images[1].min() > 200


def test_slices_and_indices_keep_boxes_and_size(photo):
    path, _ = photo
    boxes = [None, (0, 0, 20, 10), (0, 0, 10, 30)]
    images = OriginalImages([path] * 3, boxes=boxes, max_size=30)
    assert len(images) == 3
    assert [image.shape[:2] for image in images[1:]] == [(5, 10), (15, 5)]
    assert images[[2, 0]][0].shape[:2] == (15, 5)
    assert images[np.array([False, True, False])].boxes == [(0, 0, 20, 10)]
    assert images[-1].shape[:2] == (15, 5)
    assert images[np.int64(1)].shape[:2] == (5, 10)
    with pytest.raises(IndexError):
        images[3]


@pytest.mark.parametrize(
    "box", [(0, 0, 63, 40), (-2, 0, 5, 5), (0, -2, 5, 5), (0, 0, 5, 42), (70, 0, 80, 9)]
)
def test_a_box_outside_names_path_box_and_size(photo, box):
    path, _ = photo
    images = OriginalImages([path], boxes=[box])
    with pytest.raises(ValueError, match="within its image") as error:
        images[0]
    for part in ("photo.png", str(float(box[2])), "60 x 40"):
        assert part in str(error.value)


def test_a_box_that_counts_from_one_loses_its_last_line_only(photo):
    path, pixels = photo
    image = OriginalImages([path], boxes=[(1, 1, 61, 41)])[0]
    np.testing.assert_array_equal(image, pixels[1:, 1:])
    with pytest.raises(ValueError, match="holds a pixel"):
        OriginalImages([path], boxes=[(60, 0, 61, 40)])[0]


@pytest.mark.parametrize(
    "box",
    [(5, 0, 5, 9), (5, 0, 4, 9), (0, 5, 9, 5.4), (0, 0, np.nan, 9), (0, 0, 9), "wide"],
)
def test_an_empty_box_is_refused_at_once(box):
    with pytest.raises(ValueError, match=r"left < right.*b\.jpg"):
        OriginalImages(["a.jpg", "b.jpg"], boxes=[None, box])


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"len\(paths\)=2, len\(boxes\)=1"):
        OriginalImages(["a.jpg", "b.jpg"], boxes=[None])
    with pytest.raises(ValueError, match="max_size=0"):
        OriginalImages(["a.jpg"], max_size=0)
    with pytest.raises(ValueError, match="list of paths"):
        OriginalImages("a.jpg")


def test_a_bad_file_is_named_as_by_load_image(tmp_path):
    path = tmp_path / "torn.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    messages = []
    for read in (lambda: OriginalImages([path])[0], lambda: load_image(path, 8)):
        with pytest.raises(ValueError, match=r"torn\.png") as error:
            read()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 3))
def test_scaled_sides_are_rounded_and_never_zero(height, width, scale):
    image = np.full((height, width, 3), 7, np.uint8)
    scaled = scale_image(image, scale)
    expected = max(1, round(height * scale)), max(1, round(width * scale)), 3
    assert scaled.shape == expected
    assert (scaled == 7).all()


def test_scaling_is_that_of_pillow(photo):
    _, pixels = photo
    for scale in (0.5, 0.7071, 1.4142):
        size = round(60 * scale), round(40 * scale)
        resized = PIL.Image.fromarray(pixels).resize(size, PIL.Image.BILINEAR)
        difference = scale_image(pixels, scale).astype(int) - np.asarray(resized)
        assert np.abs(difference).max() <= 1


def test_scaling_refuses_what_is_no_image():
    assert scale_image(np.ones((2, 2, 3), np.float32), 1.0).dtype == np.float32
    with pytest.raises(ValueError, match="float32"):
        scale_image(np.ones((2, 2, 3), np.float32), 0.5)
    for scale in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="above 0"):
            scale_image(np.ones((2, 2, 3), np.uint8), scale)
