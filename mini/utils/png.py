"""Picture files: PNG by the standard library and numpy, other formats by Pillow.

The decoder for PNG is kept although Pillow has a faster one, which is used where Pillow is there:
without it a plain install could not read its own samples, and no screenshot. Both give the same
pixels.

Section numbers are those of the PNG specification (W3C, third edition). Gamma and colour
profiles are ignored.
"""
import collections
import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mini.data.files import what_is
from mini.utils.config import UserError, require, require_file
from mini.utils.run import atomic_open

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 100_000_000        # a few bytes can claim to be a picture that fills the memory

# Colour types (section 11.2.1)
GRAY = 0
COLOUR = 2
PALETTE = 3
GRAY_ALPHA = 4
COLOUR_ALPHA = 6
CHANNELS = {GRAY: 1, COLOUR: 3, PALETTE: 1, GRAY_ALPHA: 2, COLOUR_ALPHA: 4}
DEPTHS = {                      # how many bits a sample may have
    GRAY: (1, 2, 4, 8, 16),
    COLOUR: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GRAY_ALPHA: (8, 16),
    COLOUR_ALPHA: (8, 16),
}

# An interlaced picture is stored in seven passes, each with some of the pixels (section 8.1).
# For each pass: its first column and first line, and the steps to the next ones.
ADAM7 = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]
ONE_PASS = [(0, 0, 1, 1)]       # a picture that is not interlaced


# ---- writing

def write_png(path, pixels: np.ndarray, software: str = ""):
    """Write a uint8 array (H, W), (H, W, 1) or (H, W, 3) as a PNG file, atomically. software: what
    made the picture; the file says it, among its first bytes (section 11.3.3)."""
    H, W = pixels.shape[:2]
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    colour_type = COLOUR if is_colour else GRAY
    header = struct.pack(">IIBBBBB", W, H, 8, colour_type, 0, 0, 0)
    no_filter = np.zeros((H, 1), np.uint8)      # each line begins with its filter's number
    lines = np.concatenate([no_filter, pixels.reshape(H, -1)], axis=1)

    with atomic_open(path) as file:
        file.write(SIGNATURE)
        file.write(_chunk(b"IHDR", header))
        if software:
            file.write(_chunk(b"tEXt", b"Software\0" + software.encode("latin-1")))
        file.write(_chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)))
        file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and checksum (section 5.3)."""
    length = struct.pack(">I", len(data))
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return length + kind + data + checksum


# ---- reading

def read_png(path, content: bytes | None = None) -> np.ndarray:
    """The pixels of a PNG file, uint8 (H, W, C): C = 1 for gray, 3 for colour.

    Transparent pixels are laid over white, and 16 bits are rounded to 8. content: the bytes
    of the file, if they have been read already. Raises UserError if it is no PNG file, or a
    damaged one.
    """
    if content is None:
        require_file(path)
        content = Path(path).read_bytes()
    try:
        return _decode_png(content)
    except (UserError, zlib.error) as error:
        raise UserError(f"{path}: not a PNG file, or a damaged one ({error}); save it again, "
                        "or take it out of the folder") from None


def _decode_png(content: bytes) -> np.ndarray:
    """The pixels, uint8 (H, W, 1 or 3), of the bytes of a PNG file."""
    chunks = _read_chunks(content)
    header = _read_header(chunks)
    passes = _passes(header)

    # Only as many bytes are unpacked as the pixels need: a few bytes can unpack to very many.
    n_bytes = sum(h * line_length for h, line_length, _ in passes)
    compressed = chunks.get(b"IDAT", b"")
    data = zlib.decompressobj().decompress(compressed, n_bytes)
    require(len(data) == n_bytes, "it lacks pixels")

    # Pillow does not round 16 bits as we do, and puts up with damaged palettes.
    pixels = None
    if header.depth == 8 and header.colour_type != PALETTE and b"tRNS" not in chunks:
        pixels = _decode_by_pillow(content)
    if pixels is None:
        samples = _decode_passes(header, passes, data)
        pixels = _to_gray_or_colour(samples, header, chunks)
    return _turn(pixels, _orientation(chunks.get(b"eXIf", b"")))


def _decode_by_pillow(content: bytes):
    """The pixels of a PNG file, several times as fast as by `_decode_passes`; None if there is no
    Pillow, or if it finds fault with the file: then `_decode_passes` says with what."""
    try:
        from PIL import Image
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _pixels_of(Image.open(io.BytesIO(content)))
    except Exception:
        return None


def _decode_passes(header, passes: list, data: bytes) -> np.ndarray:
    """The samples, uint8 or uint16 (H, W, channels), of the unpacked bytes of all passes."""
    channels = CHANNELS[header.colour_type]
    bytes_per_pixel = max(1, channels * header.depth // 8)
    dtype = np.uint16 if header.depth == 16 else np.uint8
    samples = np.empty((header.height, header.width, channels), dtype)
    start = 0
    for h, line_length, place in passes:
        lines = np.frombuffer(data, np.uint8, count=h * line_length, offset=start)
        lines = lines.reshape(h, line_length)
        lines = _unfilter(lines, bytes_per_pixel)
        lines = _unpack(lines, header.depth)
        target = samples[place]                             # (h, w, channels), a view
        n_samples = target[0].size                          # the rest fills up the last byte
        target[:] = lines[:, :n_samples].reshape(target.shape)
        start += h * line_length
    return samples


def _read_chunks(content: bytes) -> dict:
    """{kind: data} of the chunks up to the last, IEND (section 5.3).

    The data of several chunks of one kind are joined.
    """
    require(content.startswith(SIGNATURE), "it does not begin like one")
    parts = collections.defaultdict(list)
    start = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(content[start:start + 4], "big")
        end = start + 8 + length
        kind = content[start + 4:start + 8]
        data = content[start + 8:end]
        checksum = content[end:end + 4]
        require(len(checksum) == 4, "it is truncated")
        is_right = zlib.crc32(kind + data) == int.from_bytes(checksum, "big")
        require(is_right, "a checksum is wrong")
        parts[kind].append(data)
        start = end + 4
    return {kind: b"".join(data) for kind, data in parts.items()}


class Header(NamedTuple):
    width: int
    height: int
    depth: int                  # bits of a sample
    colour_type: int
    interlaced: bool


def _read_header(chunks: dict) -> Header:
    """What the chunk IHDR says (section 11.2.1)."""
    data = chunks.get(b"IHDR", b"")
    require(len(data) == 13, "without a header")
    fields = struct.unpack(">IIBBBBB", data)
    W, H, depth, colour_type, compression, filtering, interlace = fields
    makes_sense = (
        W > 0 and H > 0
        and depth in DEPTHS.get(colour_type, ())
        and compression == 0
        and filtering == 0
        and interlace in (0, 1)
    )
    require(makes_sense, "its header makes no sense")
    require(W * H <= MAX_PIXELS, f"{W} × {H} pixels are too many")
    return Header(W, H, depth, colour_type, interlaced=interlace == 1)


def _passes(header: Header) -> list:
    """For each pass: how many lines it has, the bytes of a line, and where its pixels go."""
    bits_per_pixel = CHANNELS[header.colour_type] * header.depth
    passes = []
    starts_and_steps = ADAM7 if header.interlaced else ONE_PASS
    for x, y, x_step, y_step in starts_and_steps:
        w = len(range(x, header.width, x_step))
        h = len(range(y, header.height, y_step))
        if w > 0 and h > 0:                     # a small picture has no pixel in some passes
            line_length = 1 + math.ceil(w * bits_per_pixel / 8)     # 1: the filter
            place = np.s_[y::y_step, x::x_step]
            passes.append((h, line_length, place))
    return passes


def _unfilter(lines: np.ndarray, step: int) -> np.ndarray:
    """The lines without their filters: uint8 (h, 1 + n) to (h, n) (section 9).

    Each line begins with the number of its filter.

    A filter stores by how much a byte differs from the prediction of its neighbours: of the
    bytes one pixel (`step` bytes) to the left, above, and above on the left. So a pixel needs
    only pixels of earlier diagonals, and all pixels of one diagonal, y + x = d, can be
    computed at once. In a flat array with w + 1 pixels in a line, the pixels of a diagonal
    lie w pixels apart, and so do their neighbours.
    """
    filters = lines[:, :1]
    require(filters.max() <= 4, "an unknown filter")
    if not filters.any():
        return lines[:, 1:]
    h = len(lines)
    w = (lines.shape[1] - 1) // step
    framed = np.zeros((h + 1, w + 1, step), np.uint8)   # with zeros above and on the left
    framed[1:, 1:] = lines[:, 1:].reshape(h, w, step)
    flat = framed.reshape(-1, step)     # the same memory, in which differences become pixels

    for d in range(h + w - 1):
        first = max(0, d - w + 1)                       # the lines that the diagonal meets
        last = min(d, h - 1)
        # Line y, column d − y of the picture lies in line y + 1, column d − y + 1 of the
        # frame.
        start = (first + 1) * (w + 1) + (d - first + 1)
        end = (last + 1) * (w + 1) + (d - last + 1)
        left = flat[start - 1:end:w].astype(np.int16)
        above = flat[start - w - 1:end - w:w].astype(np.int16)
        corner = flat[start - w - 2:end - w - 1:w].astype(np.int16)
        average = (left + above) // 2
        paeth = _paeth(left, above, corner)
        predicted = np.choose(filters[first:last + 1], [0, left, above, average, paeth])
        flat[start:end + 1:w] += predicted.astype(np.uint8)     # modulo 256
    return framed[1:, 1:].reshape(h, -1)


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The one of three neighbours that is nearest to left + above − corner (section 9.4)."""
    to_left = abs(above - corner)
    to_above = abs(left - corner)
    to_corner = abs(left + above - 2 * corner)
    above_or_corner = np.where(to_above <= to_corner, above, corner)
    left_is_nearest = (to_left <= to_above) & (to_left <= to_corner)
    return np.where(left_is_nearest, left, above_or_corner)


def _unpack(lines: np.ndarray, depth: int) -> np.ndarray:
    """Samples of `depth` bits from bytes (h, n), with unused ones at the end (section 7.2)."""
    if depth == 16:
        return np.ascontiguousarray(lines).view(">u2")
    # The first sample of a byte is in its high bits: 2 bits are found 6, 4, 2 and 0 bits up.
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
    samples = (lines[:, :, None] >> shifts) & (2**depth - 1)    # (h, n) -> (h, n, 8/depth)
    return samples.reshape(len(lines), -1)


def _to_gray_or_colour(samples: np.ndarray, header: Header, chunks: dict) -> np.ndarray:
    """Pixels, uint8 (H, W, 1 or 3), from samples (H, W, channels); transparency over white."""
    transparent = chunks.get(b"tRNS", b"")
    if header.colour_type == PALETTE:
        return _look_up_colours(samples, chunks.get(b"PLTE", b""), transparent)

    alpha = 255
    if transparent and header.colour_type in (GRAY, COLOUR):
        # One colour stands for transparent (section 11.3.1.1).
        n_bytes = 2 * CHANNELS[header.colour_type]
        require(len(transparent) == n_bytes, "its transparency makes no sense")
        transparent_colour = np.frombuffer(transparent, ">u2")
        alpha = 255 * (samples != transparent_colour).any(-1, keepdims=True)
    if header.depth == 16:
        samples = _to_8_bits(samples)
    else:
        samples = samples * np.uint8(255 // (2**header.depth - 1))
    if header.colour_type in (GRAY_ALPHA, COLOUR_ALPHA):
        alpha = samples[:, :, -1:]
        samples = samples[:, :, :-1]
    return over_white(samples, alpha)


def _look_up_colours(samples: np.ndarray, palette: bytes, transparent: bytes) -> np.ndarray:
    """The colours, uint8 (H, W, 3), that have these numbers (H, W, 1) in the palette.

    Sections 11.2.2 and 11.3.1.1.
    """
    n_colours = len(palette) // 3
    require(len(palette) % 3 == 0 and samples.max() < n_colours, "its palette lacks colours")
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    alphas = transparent.ljust(n_colours, b"\xff")      # colours not named there are opaque
    alphas = np.frombuffer(alphas, np.uint8)
    return over_white(colours[samples[:, :, 0]], alphas[samples])


def _to_8_bits(samples: np.ndarray) -> np.ndarray:
    """uint16 samples as uint8, rounded: 65535 becomes 255, and 65535 = 257 · 255."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(exif: bytes) -> int:
    """How the camera was held, 1 (upright) to 8: tag 0x0112 of Exif (CIPA DC-008, §4.6.5)."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(order + "I", exif, 4)[0]
        n_tags = struct.unpack_from(order + "H", exif, start)[0]
        for i in range(n_tags):
            place = start + 2 + 12 * i
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, place)
            if tag == 0x0112:
                return value
    except struct.error:                # it is cut short
        pass
    return 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) put upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def over_white(colour: np.ndarray, alpha) -> np.ndarray:
    """uint8 colours (…, C) laid over white; alpha (…, 1): 0 transparent, 255 opaque."""
    if np.min(alpha) == 255:
        return colour
    colour = colour.astype(np.uint16)
    alpha = np.asarray(alpha, np.uint16)
    mixed = colour * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)      # + 127: rounded


# ---- any format

def read_image(path, content: bytes | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (H, W, 1 or 3): PNG by `read_png`, others by Pillow.

    Formats are told apart by how the file begins, whatever its name. content: the bytes of
    the file, if they have been read already. Raises UserError if they cannot be read, or if
    Pillow is needed and is not there.
    """
    if content is None:
        require_file(path)
        content = Path(path).read_bytes()
    if content.startswith(SIGNATURE):
        return read_png(path, content)
    kind = what_is(content)
    require(not kind, f"{path}: not an image, but {kind}; or take it out of the folder")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError(f"{path}: not a PNG file; for others pip install pillow, "
                        "or convert to PNG") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # Pillow's remarks on odd details
            image = Image.open(io.BytesIO(content))     # the first picture of an animation
            require(image.width * image.height <= MAX_PIXELS, "too many pixels")
            image = ImageOps.exif_transpose(image)      # a camera notes its tilt in the file
            if image.mode.startswith("I;16"):           # Pillow would clip 16 bits, not round
                image = Image.fromarray(_to_8_bits(np.asarray(image)))
            require(image.mode not in ("I", "F"), "32 bits a pixel")
            return _pixels_of(image)
    except Exception as error:      # each of Pillow's decoders raises its own kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "BytesIO" in reason:
            reason = "of no format that Pillow knows"
        raise UserError(f"{path}: not an image, or a damaged one ({reason}); save it again, "
                        "or take it out of the folder") from None


def _pixels_of(image) -> np.ndarray:
    """The pixels, uint8 (H, W, 1 or 3), of an image of Pillow's."""
    C = 1 if image.mode in ("1", "L", "LA", "La") else 3
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        pixels = np.asarray(image)
        return pixels.reshape(image.height, image.width, C)
    pixels = np.asarray(image.convert("RGBA"))
    return over_white(pixels[:, :, :C], pixels[:, :, 3:])
