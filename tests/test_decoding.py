import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st
from image_bytes import encode, jpeg_of_scans

from keras_aploss.images import decode_image
from keras_aploss.images.decoding import _turn_upright
from keras_aploss.images.limits import MAX_SCANS

HEIGHT, WIDTH = 37, 53


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def decode(contents):
    return decode_image(contents, max_pixels=1_000_000)


def photo(height=HEIGHT, width=WIDTH):
    """A smooth picture without any symmetry, plus a little noise."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    colours = np.stack([x, y**2, np.sin(4 * x * y) ** 2], axis=-1)
    noise = np.random.default_rng(0).normal(0, 0.03, colours.shape)
    return PIL.Image.fromarray(np.uint8(np.clip(colours + noise, 0, 1) * 255))


def by_pillow(contents):
    """The reference: upright, over white, RGB."""
    picture = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(contents)))
    if picture.mode == "I;16":  # Pillow's own conversion clips it to 255
        return np.repeat(np.asarray(picture)[..., None] >> 8, 3, axis=-1)
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", picture.size, "white")
        picture = PIL.Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def assert_same_pixels(contents, tolerance=0):
    expected = by_pillow(contents).astype(int)
    for image in (decode(contents), decode_image(contents)):
        assert image.dtype == tf.uint8
        assert image.shape == expected.shape
        assert np.abs(image.numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded_to_the_pixels_of_pillow(subsampling, progressive):
    contents = encode(
        photo(), "JPEG", quality=85, subsampling=subsampling, progressive=progressive
    )
    assert_same_pixels(contents)


def test_grey_and_cmyk_jpegs():
    assert_same_pixels(encode(photo().convert("L"), "JPEG"))
    assert_same_pixels(encode(photo().convert("CMYK"), "JPEG", quality=95), 12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_png_modes(mode):
    picture = photo()
    if "A" in mode:
        picture.putalpha(photo().convert("L").rotate(180))
    assert_same_pixels(encode(picture.convert(mode), "PNG"), 1 if "A" in mode else 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128])])
def test_png_palettes(bits, transparency):
    options = {} if transparency is None else {"transparency": transparency}
    palette_picture = photo().quantize(2**bits)
    assert_same_pixels(encode(palette_picture, "PNG", bits=bits, **options), 1)


def png_chunk(name, body):
    return (
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
    )


@pytest.mark.parametrize(
    ("mode", "colour"), [("1", 0), ("L", 90), ("RGB", (90, 60, 30))]
)
@pytest.mark.parametrize("profile", [b"", bytes(100_000)])
def test_png_with_a_transparent_colour(mode, colour, profile):
    picture = photo().convert(mode)
    picture.paste(colour, (5, 5, 30, 20))
    options = {"icc_profile": profile} if profile else {}
    contents = encode(picture, "PNG", transparency=colour, **options)
    assert (decode(contents)[10, 10].numpy() == 255).all()
    assert_same_pixels(contents)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_grey_levels_spans_black_to_white(bits):
    levels = np.uint8(np.arange(8 * 16).reshape(8, 16) % 2**bits)
    digits = (levels[..., None] >> np.arange(bits)[::-1]) & 1  # (8, 16, bits)
    rows = np.packbits(digits.reshape(8, -1), axis=1)
    scan_lines = b"".join(b"\0" + row.tobytes() for row in rows)
    contents = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, bits, 0, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(scan_lines))
        + png_chunk(b"IEND", b"")
    )
    expected = np.repeat(levels[..., None] * (255 // (2**bits - 1)), 3, axis=-1)
    np.testing.assert_array_equal(decode(contents), expected)


def test_png_of_16_bits():
    grey = np.uint16(np.linspace(0, 65535, HEIGHT * WIDTH)).reshape(HEIGHT, WIDTH)
    assert_same_pixels(encode(PIL.Image.fromarray(grey), "PNG"), 1)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_bmp_modes(mode):
    picture = photo().quantize(200) if mode == "P" else photo().convert(mode)
    contents = encode(picture, "BMP")
    image = decode(contents).numpy().astype(int)
    expected = np.asarray(PIL.Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_array_equal(image, expected)


def test_bmp_from_the_top_down_is_not_upside_down():
    contents = bytearray(encode(photo(), "BMP"))
    assert_same_pixels(bytes(contents))
    contents[22:26] = struct.pack("<i", -HEIGHT)
    np.testing.assert_array_equal(decode(bytes(contents)), np.asarray(photo())[::-1])


def test_bmp_of_one_bit_is_refused_with_the_reason():
    with pytest.raises(tf.errors.InvalidArgumentError, match="8, 24 or 32 bits"):
        decode(encode(photo().convert("1"), "BMP"))


def test_gif_gives_its_first_frame():
    first = photo().quantize(64)
    others = [first.rotate(90), first.rotate(180)]
    contents = encode(
        first, "GIF", save_all=True, append_images=others, comment=b"c" * 700
    )
    assert PIL.Image.open(io.BytesIO(contents)).n_frames == 3
    assert_same_pixels(contents)


def transparent_gif(colour, local=False):
    """A GIF in which one colour of its palette, which every photo here has, is none."""
    contents = bytearray(encode(photo().quantize(64), "GIF", transparency=colour))
    if local:  # the palette goes behind the descriptor of the frame
        palette, place = contents[13 : 13 + 192], contents.index(b"\x2c\0\0\0\0")
        flags = contents[10] & 7
        contents[10] &= 0x78
        contents[place + 9] |= 0x80 | flags
        contents[place + 10 : place + 10] = palette
        del contents[13 : 13 + 192]
    return bytes(contents)


@pytest.mark.parametrize("local", [False, True])
def test_a_transparent_gif_is_set_on_white(local):
    contents = transparent_gif(7, local)
    alpha = PIL.Image.open(io.BytesIO(contents)).convert("RGBA").getchannel("A")
    assert alpha.getextrema() == (0, 255)
    assert_same_pixels(contents)


def test_a_transparent_colour_that_a_gif_lacks_changes_nothing():
    contents = bytearray(transparent_gif(7))
    contents[contents.index(b"\x21\xf9\x04") + 6] = 200  # of 64
    np.testing.assert_array_equal(
        decode(bytes(contents)), by_pillow(encode(photo().quantize(64), "GIF"))
    )


def test_a_frame_of_a_gif_is_whole_wherever_its_picture_shows_it():
    whole = encode(photo().quantize(64), "GIF")
    contents = bytearray(whole)
    contents[6:10] = struct.pack("<2H", WIDTH + 9, HEIGHT + 9)
    place = contents.index(b"\x2c\0\0\0\0")
    contents[place + 1 : place + 5] = struct.pack("<2H", 7, 4)
    np.testing.assert_array_equal(decode(bytes(contents)), by_pillow(whole))


def test_gif_frames_after_the_first_are_never_looked_at():
    contents = encode(photo().quantize(64), "GIF")
    monster = b"\x2c" + struct.pack("<4HB", 0, 0, 65535, 65535, 0) + b"\x08\x01"
    np.testing.assert_array_equal(
        decode(contents[:-1] + monster + b";"), by_pillow(contents)
    )


def tiff_block(orientation, order, *, entries_before=2):
    """A TIFF block whose only directory holds an orientation among other tags."""
    other = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    count = struct.pack(order + "H", entries_before + 1)
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return header + count + other * entries_before + entry + bytes(4)


def with_segments(*segments):
    """A JPEG with segments (marker, body) put right behind its first marker."""
    contents = encode(photo(), "JPEG", quality=90)
    inserted = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in segments
    )
    return contents[:2] + inserted + contents[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_as_by_pillow(orientation, order):
    block = tiff_block(orientation, order)
    contents = with_segments((0xE1, b"Exif\0\0" + block))
    assert PIL.Image.open(io.BytesIO(contents)).getexif()[0x0112] == orientation
    assert_same_pixels(contents)
    turned = orientation >= 5
    assert decode(contents).shape == (
        (WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH)
    ) + (3,)


def with_chunk(body, before=b"IDAT"):
    """A PNG with a chunk eXIf before its pixels, or its end."""
    contents = encode(photo(), "PNG", compress_level=1)
    start = contents.index(before) - 4
    return contents[:start] + png_chunk(b"eXIf", body) + contents[start:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_png_is_undone_as_by_pillow(orientation):
    upright = by_pillow(encode(photo(), "PNG"))
    for order, prefix, before in [
        ("<", b"", b"IDAT"), (">", b"", b"IEND"), (">", b"Exif\0\0", b"IDAT"),
    ]:  # fmt: skip
        contents = with_chunk(prefix + tiff_block(orientation, order), before)
        assert_same_pixels(contents)
        assert (orientation == 1) == np.array_equal(decode(contents), upright)


def test_a_transparent_png_is_turned_and_set_on_white():
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    for picture in (photo().convert("RGBA"), photo().quantize(16)):
        if picture.mode == "RGBA":
            picture.putalpha(photo().convert("L"))
        options = {"transparency": 3} if picture.mode == "P" else {}
        contents = encode(picture, "PNG", exif=exif, **options)
        assert decode(contents).shape == (WIDTH, HEIGHT, 3)
        assert_same_pixels(contents, 1)


def test_malformed_exif_of_a_png_means_upright():
    upright = decode(encode(photo(), "PNG"))
    for block in MALFORMED:
        np.testing.assert_array_equal(decode(with_chunk(block)), upright)
    word = PIL.PngImagePlugin.PngInfo()
    word.add_text("Comment", "eXIf" + "x" * 50)
    np.testing.assert_array_equal(
        decode(encode(photo(), "PNG", pnginfo=word) + with_chunk(b"")[-30:]), upright
    )


def test_lengths_of_png_chunks_may_lie():
    contents = with_chunk(tiff_block(6, "<"))
    position = contents.index(b"eXIf") - 4
    for length in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        lie = contents[:position] + struct.pack(">I", length) + contents[position + 4 :]
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(lie)


def test_exif_is_found_behind_other_segments_and_padding():
    block = b"Exif\0\0" + tiff_block(6, ">", entries_before=30)
    contents = with_segments(
        (0xFE, b"a comment \xff\xda \xff\xe1 with markers inside"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        (0xE2, bytes(60_000)),
        (0xE1, block),
    )
    assert_same_pixels(contents)
    assert decode(contents).shape == (WIDTH, HEIGHT, 3)
    padded = contents[:2] + b"\xff\xff" + contents[2:]
    assert decode(padded).shape == (WIDTH, HEIGHT, 3)


def test_exif_is_a_segment_and_not_a_word():
    block = b"Exif\0\0" + tiff_block(6, ">")
    comment = with_segments((0xFE, block), (0xE2, b"\xff\xe1" + block))
    assert decode(comment).shape == (HEIGHT, WIDTH, 3)
    after_the_image = encode(photo(), "JPEG") + block
    assert decode(after_the_image).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("segments", "is_turned"), [(15, True), (17, False)])
def test_exif_is_looked_for_in_the_first_mebibyte(segments, is_turned):
    block = b"Exif\0\0" + tiff_block(6, ">")
    contents = with_segments(*[(0xE2, bytes(65_533))] * segments, (0xE1, block))
    assert decode(contents).shape[0] == (WIDTH if is_turned else HEIGHT)


def called(node):
    """The names of the functions that a node of a graph calls, as it is or in turns."""
    for value in node.attr.values():
        yield from (f.name for f in [value.func, *value.list.func] if f.name)


def test_what_few_files_need_stays_out_of_the_graph_of_all():
    # The executor visits each node of a branch that is not taken: those of functions
    # that are called from the graph, in turns, and inlined.
    graph = decode.get_concrete_function().graph.as_graph_def()
    functions = {f.signature.name: f for f in graph.library.function}
    never = {name for name, f in functions.items() if f.attr["_noinline"].b}
    assert len(never) >= 5  # orientation, PNG, GIF, BMP, and the choice among them
    operations, nodes = [], list(graph.node)
    while nodes:
        node = nodes.pop()
        operations.append(node.op)
        for name in set(called(node)) - never:
            nodes += functions[name].node_def
    assert operations.count("DecodeJpeg") == 1
    assert "DecodeRaw" not in operations
    assert not [name for name in operations if "While" in name]


def test_turned_images_of_any_size_share_a_trace():
    for size in ((20, 30), (30, 20), (40, 50)):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        turned = encode(photo(*size), "JPEG", exif=exif)
        assert decode_image(turned).shape == (size[1], size[0], 3)
    assert _turn_upright.experimental_get_tracing_count() == 1


MALFORMED = [
    b"",
    b"I",
    b"II*\0",
    b"XX" + tiff_block(6, "<")[2:],
    b"IM" + tiff_block(6, "<")[2:],
    tiff_block(6, "<").replace(b"*", b"+"),
    tiff_block(0, "<"),
    tiff_block(9, ">"),
    tiff_block(65535, "<"),
    tiff_block(6, "<")[:-8],  # the value lies outside the segment
    b"II*\0" + struct.pack("<I", 0),
    b"II*\0" + struct.pack("<I", 2**32 - 1) + bytes(40),
    b"MM\0*" + struct.pack(">IH", 8, 65535) + bytes(40),
]


@pytest.mark.parametrize("block", MALFORMED)
def test_malformed_exif_means_upright(block):
    contents = with_segments((0xE1, b"Exif\0\0" + block))
    np.testing.assert_array_equal(
        decode(contents), decode(encode(photo(), "JPEG", quality=90))
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_any_exif_block_leaves_the_image_decodable(block, start):
    shape = decode(with_segments((0xE1, b"Exif\0\0" + start + block))).shape
    assert sorted(shape) == sorted((HEIGHT, WIDTH, 3))


FILES = {
    "JPEG": with_segments((0xE1, b"Exif\0\0" + tiff_block(5, "<"))),
    "PNG": encode(photo(), "PNG"),
    "PNG turned": with_chunk(tiff_block(6, ">")),
    "PNG palette": encode(photo().quantize(16), "PNG", transparency=3),
    "GIF": encode(photo().quantize(32), "GIF"),
    "BMP": encode(photo(), "BMP"),
    "BMP palette": encode(photo().quantize(32), "BMP"),
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
def test_damaged_files_give_pixels_or_an_error_and_nothing_else(name, changes, end):
    contents = bytearray(FILES[name])
    for position, value in changes:
        contents[position] = value
    try:
        image = decode(bytes(contents[:end] if end else contents))
    except tf.errors.InvalidArgumentError:
        return
    assert image.dtype == tf.uint8
    assert image.shape[2] == 3
    assert np.prod(image.shape[:2]) <= 1_000_000


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("share", [0.02, 0.3, 0.98])
def test_truncated_files_are_errors(name, share):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(FILES[name][: int(len(FILES[name]) * share)])


def enlarge(name, position, pattern, height, width):
    contents = bytearray(FILES[name])
    struct.pack_into(pattern, contents, position, width, height)
    return bytes(contents)


@pytest.mark.parametrize(
    "contents",
    [
        enlarge("PNG", 16, ">II", 30_000, 30_000),
        enlarge("PNG", 16, ">II", 2**31, 2**31),
        enlarge("JPEG", FILES["JPEG"].index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
        enlarge("GIF", FILES["GIF"].index(b"\x2c\0\0\0\0") + 5, "<HH", 60_000, 60_000),
        enlarge("BMP", 18, "<ii", 2**31 - 1, 2**31 - 1),
        enlarge("PNG", 16, ">II", 0, 7),
    ],
)
def test_enormous_and_empty_images_are_refused_by_their_header(contents):
    with pytest.raises(tf.errors.InvalidArgumentError, match="header that declares"):
        decode(contents)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    assert_same_pixels(jpeg_of_scans(MAX_SCANS))
    many = jpeg_of_scans(MAX_SCANS + 1)
    broken = many[:-2] + b"\xff\xda\0"  # it would be refused for that, if decoded
    for contents in (many, many * 20, broken):
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most 500 scans"):
            decode(contents)


def test_scans_are_counted_where_pixels_are_not_progressive_too():
    """A scan for each colour in turn: the decoder reads all there are."""
    contents = encode(photo(), "JPEG")
    start = contents.index(b"\xff\xda")
    one = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    repeated = contents[:start] + (one + bytes(40)) * (MAX_SCANS + 1) + b"\xff\xd9"
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 500 scans"):
        decode(repeated)


def test_what_looks_like_a_scan_within_other_data_is_none():
    contents = with_segments((0xE2, b"\xff\xda\x0c" * 20_000))
    assert_same_pixels(contents)
    assert_same_pixels(contents + b"\xff\xda" * 10_000)  # a film behind the photo


@pytest.mark.parametrize("name", ["TIFF", "WEBP", "PPM"])
def test_other_formats_are_refused_with_advice(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Convert other formats"):
        decode(encode(photo(), name))


@pytest.mark.parametrize("contents", [b"", b"\0", b"\xff\xd8", b"hello " * 50])
def test_bytes_that_are_no_image_are_refused(contents):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected the bytes of"):
        decode_image(contents)


def test_decoding_in_a_dataset_equals_eager_decoding():
    dataset = tf.data.Dataset.from_tensor_slices(list(FILES.values())).map(decode_image)
    for contents, image in zip(FILES.values(), dataset, strict=True):
        np.testing.assert_array_equal(image, decode_image(contents))
