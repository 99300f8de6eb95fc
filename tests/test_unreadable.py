import io
import os
import pathlib
import queue
import re
import struct
import threading
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st
from image_bytes import encode, jpeg_of_scans, photo, write_photos

from keras_aploss.images import SkippedImage, decode_image, find_unreadable, load_image
from keras_aploss.images.unreadable import reason_to_skip


@pytest.fixture
def paths(tmp_path):
    return write_photos(tmp_path)


NOT_TO_BE_READ = {
    "pipe.jpg": (os.mkfifo, "pipe"),
    "folder.jpg": (os.mkdir, "it is a folder"),
    "device.jpg": (lambda path: os.symlink(os.devnull, path), "device"),
    "empty.jpg": (lambda path: path.touch(), "empty"),
}


@pytest.mark.parametrize("name", NOT_TO_BE_READ)
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path, name):
    prepare, reason = NOT_TO_BE_READ[name]
    path = tmp_path / name
    prepare(path)
    answers = queue.Queue()

    def ask():
        answers.put(find_unreadable([path]))
        try:
            load_image(path, 24)
        except ValueError as error:
            answers.put(str(error))

    # A daemon: one that waits for the pipe must not keep the tests from ending.
    threading.Thread(target=ask, daemon=True).start()
    (skipped,) = answers.get(timeout=60)
    assert reason in skipped.reason
    message = answers.get(timeout=60)
    assert name in message
    assert reason in message


def sparse_file(path, mebibytes, start=b""):
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(mebibytes * 2**20)
    return path


def test_a_large_file_is_judged_before_it_is_read(tmp_path, monkeypatch):
    def refuse(path):
        raise RuntimeError(f"{path} was read whole")

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    zeros = sparse_file(tmp_path / "zeros.jpg", 300)
    enormous = sparse_file(tmp_path / "enormous.bmp", 513, encode(photo(), "BMP"))
    reasons = [skipped.reason for skipped in find_unreadable([zeros, enormous])]
    assert reasons == [
        "it is not an image, or its header is damaged",
        "it is too large: 513 MiB, over 512 MiB",
    ]
    with pytest.raises(ValueError, match=r"enormous\.bmp.*over 512 MiB"):
        load_image(enormous, 24)


def huge_png(width, height):
    contents = bytearray(encode(PIL.Image.new("RGB", (10, 10)), "PNG"))
    struct.pack_into(">II", contents, 16, width, height)
    struct.pack_into(">I", contents, 29, zlib.crc32(contents[12:29]))
    return bytes(contents)


def animation(format_name):
    frames = [photo(seed=seed) for seed in range(3)]
    return encode(frames[0], format_name, save_all=True, append_images=frames[1:])


NOISE = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
BAD = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"<html>404 not found</html>" * 9, "not an image"),
    "cut.jpg": (encode(photo(), "JPEG")[:-150], "truncated"),
    "cut.png": (encode(PIL.Image.fromarray(NOISE), "PNG")[:-900], "truncated"),
    "cut.gif": (encode(photo(), "GIF")[:-400], "truncated"),
    "header.png": (encode(photo(), "PNG")[:20], "damaged"),
    "bomb.png": (huge_png(30_000, 30_000), "more than 100,000,000 pixels"),
    "large.png": (huge_png(12_000, 9_000), "declares 12000 x 9000"),
    "moving.gif": (animation("GIF"), "animation"),
    "moving.png": (animation("PNG"), "animation"),
    "scans.jpg": (jpeg_of_scans(501), "more than 500 scans"),
    "print.jpg": (encode(photo().convert("CMYK"), "JPEG"), "CMYK"),
    "pixel.gif": (encode(photo(1, 1), "GIF"), "too small: 1 x 1"),
    "scan.tiff": (encode(photo(), "TIFF"), "format is TIFF"),
    "web.jpg": (encode(photo(), "WEBP"), "format is WEBP"),
    "one_bit.bmp": (encode(photo().convert("1"), "BMP"), "8, 24 or 32 bits"),
}


def test_every_bad_file_is_found_with_its_reason(tmp_path, paths):
    for name, (contents, _) in BAD.items():
        (tmp_path / name).write_bytes(contents)
    (tmp_path / "folder.jpg").mkdir()
    bad_paths = [str(tmp_path / name) for name in BAD]
    others = [str(tmp_path / "folder.jpg"), str(tmp_path / "absent.jpg")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file is judged, never warned of
        found = find_unreadable([*paths[:2], *bad_paths, *paths[2:], *others])
    assert [skipped.path for skipped in found] == bad_paths + others
    for skipped, (_, expected) in zip(found, BAD.values(), strict=False):
        assert isinstance(skipped, SkippedImage)
        assert expected in skipped.reason
        assert not re.search(r"\n|\[\[|\{\{|\[Op:", skipped.reason)
    assert found[-2].reason == "it is a folder"
    assert found[-1].reason == "the file does not exist"


def test_good_files_are_not_skipped(tmp_path, paths):
    assert find_unreadable(paths) == []
    assert find_unreadable([]) == []


def test_a_picture_pair_of_a_phone_is_a_good_jpeg(tmp_path):
    path = tmp_path / "phone.jpg"
    pair = [photo(), photo(seed=1)]
    path.write_bytes(encode(pair[0], "MPO", save_all=True, append_images=pair[1:]))
    with PIL.Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert find_unreadable([path]) == []
    assert load_image(path, 24).shape == (24, 24, 3)


def test_limits_are_arguments(paths):
    assert len(find_unreadable(paths, max_pixels=40 * 60)) == 4
    assert len(find_unreadable(paths, min_side=41)) == 1


def test_progress_is_shown_only_when_asked(paths, capsys):
    find_unreadable(paths)
    assert capsys.readouterr().out == ""
    find_unreadable(paths, verbose=1)
    assert "5/5" in capsys.readouterr().out


GOOD = [
    encode(photo(), "JPEG"),
    encode(photo(), "JPEG", progressive=True),
    encode(photo(), "PNG"),
    encode(photo().quantize(8), "PNG", transparency=1),
    encode(photo(), "GIF"),
    encode(photo(), "BMP"),
    BAD["moving.gif"][0],
    BAD["scan.tiff"][0],
]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8),
    st.integers(0, 4000),
)
def test_a_file_that_passes_the_check_can_be_loaded(fuzz_path, good, changes, cut):
    contents = bytearray(good)
    for position, value in changes:
        contents[position % len(contents)] = value
    fuzz_path.write_bytes(contents[: len(contents) - cut % len(contents)])
    found = find_unreadable([fuzz_path], min_side=1, max_pixels=100_000, workers=1)
    if not found:
        assert load_image(fuzz_path, 16).shape == (16, 16, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]),
    st.binary(max_size=200),
)
def test_no_bytes_make_the_check_raise(fuzz_path, start, rest):
    fuzz_path.write_bytes(start + rest)
    (skipped,) = find_unreadable([fuzz_path], workers=1)
    assert skipped.reason


@pytest.fixture(scope="module")
def fuzz_path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "image"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(GOOD[:2]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
def test_a_jpeg_checked_without_its_pixels_is_one_that_is_decoded(good, changes, cut):
    contents = bytearray(good)
    for position, value in changes:
        contents[position % len(contents)] = value
    contents = bytes(contents[: len(contents) - cut])
    reason = reason_to_skip(contents, 100_000, 1)
    try:
        decode_image(contents, max_pixels=100_000)
    except tf.errors.InvalidArgumentError:
        assert reason
    else:
        with PIL.Image.open(io.BytesIO(contents)) as image:
            image.load()
            assert not reason or image.mode == "CMYK"
