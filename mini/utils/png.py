"""Picture files: PNG written and read by the standard library and numpy, other formats read by Pillow.

Section numbers are those of the PNG specification (W3C, third edition). Gamma and colour profiles are ignored.
"""
import collections
import io
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np

from mini.utils.config import UserError, require
from mini.utils.run import atomic_open

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 100_000_000        # a few bytes can claim to be a picture that fills the memory
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}   # of gray, colour, palette, gray with alpha, colour with alpha
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}     # bits in a sample
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
# the passes of an interlaced picture: first column, first line, and the steps to the next (section 8.1)


def write_png(path, pixels: np.ndarray):
    """Write a uint8 array (H, W), (H, W, 1) or (H, W, 3) as a PNG file (RFC 2083), atomically."""
    H, W = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 and pixels.shape[2] == 3 else 0
    no_filter = np.zeros((H, 1), np.uint8)      # each line begins with the number of its filter
    lines = np.concatenate([no_filter, pixels.reshape(H, -1)], axis=1)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with atomic_open(path) as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, colour_type, 0, 0, 0)))
        file.write(chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b""))


def read_png(path, content: bytes | None = None) -> np.ndarray:
    """The pixels of a PNG file, uint8 (H, W, C): C = 1 for gray, 3 for colour. What is transparent is laid
    over white, 16 bits are rounded to 8. `content`: the bytes, if they have been read already. Raises
    UserError if it is no PNG, or a damaged one."""
    try:
        return _decode_png(Path(path).read_bytes() if content is None else content)
    except (UserError, zlib.error) as error:
        raise UserError(f"{path}: not a PNG file, or a damaged one ({error}); save it again, or take it out "
                        "of the folder") from None


def _decode_png(content: bytes) -> np.ndarray:
    chunks = _chunks(content)
    header = chunks.get(b"IHDR", b"")
    require(len(header) == 13, "without a header")
    W, H, depth, colour_type, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    require(W and H and depth in DEPTHS.get(colour_type, ()) and interlace < 2
            and compression == filtering == 0, "its header makes no sense")
    require(W * H <= MAX_PIXELS, f"{W} × {H} pixels are too many")
    channels, passes = CHANNELS[colour_type], []
    for x, y, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        h, w = len(range(y, H, dy)), len(range(x, W, dx))
        if h and w:                             # lines, bytes of a line and its filter, place of the pixels
            passes.append((h, 1 + math.ceil(w * channels * depth / 8), np.s_[y::dy, x::dx]))
    length = sum(h * n for h, n, _ in passes)
    data = zlib.decompressobj().decompress(chunks.get(b"IDAT", b""), length)    # more is not unpacked
    require(len(data) == length, "it lacks pixels")
    samples, at = np.empty((H, W, channels), np.uint16 if depth == 16 else np.uint8), 0
    for h, n, place in passes:
        lines, target = np.frombuffer(data, np.uint8, h * n, at).reshape(h, n), samples[place]
        lines = _unpack(_unfilter(lines, max(1, channels * depth // 8)), depth)
        target[:] = lines[:, :target[0].size].reshape(target.shape)
        at += h * n
    return _colours(samples, colour_type, depth, chunks)


def _chunks(content: bytes) -> dict:
    """{kind: data} of the chunks up to the last, IEND (section 5.3); several of a kind are joined."""
    require(content.startswith(SIGNATURE), "it does not begin like one")
    parts, at, kind = collections.defaultdict(list), len(SIGNATURE), b""
    while kind != b"IEND":
        end = at + 8 + int.from_bytes(content[at:at + 4], "big")
        kind, data, crc = content[at + 4:at + 8], content[at + 8:end], content[end:end + 4]
        require(len(crc) == 4, "it is truncated")
        require(zlib.crc32(kind + data) == int.from_bytes(crc, "big"), "a checksum is wrong")
        parts[kind].append(data)
        at = end + 4
    return {kind: b"".join(data) for kind, data in parts.items()}


def _unfilter(lines: np.ndarray, step: int) -> np.ndarray:
    """Undo the filters (section 9): uint8 lines (h, 1 + n), led by the number of their filter, to (h, n).

    A filter stores by how much a byte differs from what its neighbours predict, `step` bytes away: those on
    the left, above, and above on the left. So all pixels of a diagonal, y + x = d, can be computed at once.
    In a flat array, w + 1 pixels to a line, they lie w pixels apart, and so do their neighbours.
    """
    kinds, h, w = lines[:, :1], len(lines), (lines.shape[1] - 1) // step
    require(kinds.max() <= 4, "an unknown filter")
    if not kinds.any():
        return lines[:, 1:]
    framed = np.zeros((h + 1, w + 1, step), np.uint8)   # above the picture and on its left are zeros
    framed[1:, 1:] = lines[:, 1:].reshape(h, w, step)
    flat = framed.reshape(-1, step)                     # the same memory: first differences, then pixels
    for d in range(h + w - 1):
        first, last = max(0, d - w + 1), min(d, h - 1)              # the lines that the diagonal meets
        at, end = ((y + 1) * (w + 1) + d - y + 1 for y in (first, last))
        left, above, corner = (flat[at - k:end - k + 1:w].astype(np.int16) for k in (1, w + 1, w + 2))
        to_left, to_above = abs(above - corner), abs(left - corner)     # from left + above - corner
        to_corner = abs(left + above - 2 * corner)
        paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left,
                         np.where(to_above <= to_corner, above, corner))
        predicted = np.choose(kinds[first:last + 1], [0, left, above, (left + above) // 2, paeth])
        flat[at:end + 1:w] += predicted.astype(np.uint8)                # modulo 256
    return framed[1:, 1:].reshape(h, -1)


def _unpack(lines: np.ndarray, depth: int) -> np.ndarray:
    """Bytes (h, n) to samples of `depth` bits (section 7.2), unused bits at the end of a line included."""
    if depth == 16:
        return np.ascontiguousarray(lines).view(">u2")
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)           # the first sample is in the high bits
    return ((lines[:, :, None] >> shifts) & (2**depth - 1)).reshape(len(lines), -1)


def _colours(samples: np.ndarray, colour_type: int, depth: int, chunks: dict) -> np.ndarray:
    """Samples (H, W, channels) to uint8 (H, W, 1 or 3): palette (section 11.2.2), transparency (11.3.1.1)."""
    palette, transparent = chunks.get(b"PLTE", b""), chunks.get(b"tRNS", b"")
    if colour_type == 3:
        require(len(palette) % 3 == 0 and samples.max() < len(palette) // 3, "its palette lacks colours")
        colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        alphas = np.frombuffer(transparent.ljust(len(colours), b"\xff"), np.uint8)  # not named there: opaque
        return over_white(colours[samples[:, :, 0]], alphas[samples])
    alpha = 255
    if transparent and colour_type in (0, 2):           # one colour stands for transparent
        require(len(transparent) == 2 * CHANNELS[colour_type], "its transparency makes no sense")
        alpha = 255 * (samples != np.frombuffer(transparent, ">u2")).any(-1, keepdims=True)
    samples = _to_8_bits(samples) if depth == 16 else samples * np.uint8(255 // (2**depth - 1))
    if colour_type in (4, 6):
        samples, alpha = samples[:, :, :-1], samples[:, :, -1:]
    return over_white(samples, alpha)


def _to_8_bits(samples: np.ndarray) -> np.ndarray:
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)      # 65535 = 257 · 255


def over_white(colour: np.ndarray, alpha) -> np.ndarray:
    """uint8 colours (…, C) seen on a white ground; alpha (…, 1): 0 where they are transparent, 255 opaque."""
    colour, alpha = colour.astype(np.uint16), np.asarray(alpha, np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def read_image(path, content: bytes | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (H, W, 1 or 3): PNG by `read_png`, other formats by Pillow (told
    apart by how they begin, whatever the name). `content`: the bytes, if they have been read already. Raises
    UserError if they cannot be read, or if Pillow is needed and is not there."""
    content = Path(path).read_bytes() if content is None else content
    if content.startswith(SIGNATURE):
        return read_png(path, content)
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError(f"{path}: not a PNG file; for others pip install pillow, or convert to PNG") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # Pillow's remarks on odd details
            image = Image.open(io.BytesIO(content))         # of an animation the first picture
            require(image.width * image.height <= MAX_PIXELS, "too many pixels")
            image = ImageOps.exif_transpose(image)          # a camera that was tilted only notes that it was
            if image.mode.startswith("I;16"):               # Pillow would clip 16 bits, not round them
                image = Image.fromarray(_to_8_bits(np.asarray(image)))
            require(image.mode not in ("I", "F"), "32 bits a pixel")
            C = 1 if image.mode in ("1", "L", "LA", "La") else 3
            pixels = np.asarray(image.convert("RGBA"))
    except Exception as error:      # Pillow's decoders raise whatever their format suggests
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not an image, or a damaged one ({reason}); save it again, or take it out "
                        "of the folder") from None
    return over_white(pixels[:, :, :C], pixels[:, :, 3:])
