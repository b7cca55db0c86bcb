"""Pictures: sheets of images written as PNG files; images read (others than PNG by Pillow) and made square.

PNG is written and read with the standard library and numpy. Section numbers are those of the PNG
specification (W3C, third edition). Gamma and colour profiles are ignored.
"""
import collections
import io
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mini.utils.run import UserError, atomic_open, require

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 100_000_000        # a few bytes can claim to be a picture that fills the memory
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}   # of gray, colour, palette, gray with alpha, colour with alpha
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}     # bits in a sample
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
# the passes of an interlaced picture: first column, first line, and the steps to the next (section 8.1)


def grid(images, columns: int = 8, pad: int = 2) -> np.ndarray:
    """Lay out images, a float tensor (N, C, H, W) in [0, 1] with C = 1 or 3, as one uint8 array (H', W',
    C)."""
    images = torch.as_tensor(images).detach().float().cpu().clamp(0, 1)
    N, C, H, W = images.shape
    columns = min(columns, N)
    sheet = torch.ones(C, -(-N // columns) * (H + pad) + pad, columns * (W + pad) + pad)
    for i, image in enumerate(images):
        y, x = pad + i // columns * (H + pad), pad + i % columns * (W + pad)
        sheet[:, y:y + H, x:x + W] = image
    return (sheet * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


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


def to_size(pixels: np.ndarray, size: int) -> torch.Tensor:
    """Pixels (H, W, C) to a uint8 tensor (C, size, size): the middle square, resized."""
    return make_square(torch.tensor(pixels).permute(2, 0, 1)[None], size)[0]


def make_square(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images (N, C, H, W) to (N, C, size, size): the middle squares, resized with antialiasing."""
    H, W = images.shape[2:]
    side = min(H, W)
    top, left = (H - side) // 2, (W - side) // 2
    images = images[:, :, top:top + side, left:left + side].contiguous()
    if side == size:
        return images
    parts = []
    for part in images.split(256):                          # not all of them as floats at once
        part = F.interpolate(part.float(), size=(size, size), mode="bicubic", antialias=True)
        parts.append(part.round().clamp(0, 255).byte())     # bicubic overshoots at edges
    return torch.cat(parts)


# ---- for the models
def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images in [0, 255] to float32 in [-1, 1], the range of every image model here."""
    return images.float() / 127.5 - 1


def pad(images: torch.Tensor) -> torch.Tensor:
    """Repeat the edges of images (N, C, H, H) until they are (N, C, S, S): S a power of two, at least 16."""
    H = images.size(2)
    S = max(16, 2 ** (H - 1).bit_length())
    at = (torch.arange(S, device=images.device) - (S - H) // 2).clamp(0, H - 1)
    return images[:, :, at][:, :, :, at]


def crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle (N, C, size, size) of images (N, C, S, S): undoes `pad`."""
    edge = (images.size(2) - size) // 2
    return images[:, :, edge:edge + size, edge:edge + size]


def noise(n: int, columns: int, seed: int) -> torch.Tensor:
    """Normal random numbers (n, columns), the same at every call: what samples to be compared begin from."""
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed))


def walks(x: torch.Tensor) -> torch.Tensor:
    """Noise x (n, …) to rows of 8 steps from one noise to another, (n, …): row r goes from x[r] to x[r + 1].
    Each mixture has variance 1, as noise must have."""
    n = len(x)
    row, t = torch.arange(n) // 8, (torch.arange(n) % 8 / 7).view(-1, *[1] * (x.ndim - 1))
    return ((1 - t) * x[row] + t * x[(row + 1) % n]) / ((1 - t) ** 2 + t**2).sqrt()


def plane(n: int):
    """(k · k, 2), k: the largest grid of at most n points that cut N(0, 1) in both directions into equal
    shares, row by row: the first number grows to the right, the second upwards."""
    k = math.isqrt(n)
    at = torch.special.ndtri((torch.arange(k) + 0.5) / k)
    return torch.cartesian_prod(-at, at).flip(1), k


def film(moments: list, pictures: int = 8) -> torch.Tensor:
    """So many of the moments, evenly spread, as images (n · k · pictures, C, H, W), one film below the other.
    A moment is a tuple of k tensors (n, C, H, W), whose films belong together."""
    at = torch.linspace(0, len(moments) - 1, pictures).round().int().tolist()
    return torch.stack([torch.stack(moments[i], dim=1) for i in at], dim=2).flatten(0, 2)


def disturb(images: torch.Tensor, sigma: float, generator) -> torch.Tensor:
    """What a discriminator is shown of images (B, C, H, W): each moved by nothing or a pixel to the right and
    down, its edge repeated, plus normal noise with standard deviation sigma.

    The noise keeps it from winning by what is too small to see (Sønderby et al. 2017, §3). Without the move
    its BatchNorm can subtract, and so hide from it, a checkerboard that all generated images share.
    """
    right, down = (torch.rand(2, len(images), 1, 1, 1, generator=generator) < 0.5).to(images.device)
    images = torch.where(right, torch.cat([images[:, :, :, :1], images[:, :, :, :-1]], dim=3), images)
    images = torch.where(down, torch.cat([images[:, :, :1], images[:, :, :-1]], dim=2), images)
    return images + sigma * torch.randn(images.shape, generator=generator).to(images.device)


@torch.no_grad()
def even_out(G):
    """Take out of a generator's weights what draws checkerboards (Odena, Dumoulin & Olah 2016, "Deconvolution
    and checkerboard artifacts"). A transposed convolution of stride 2 makes 2 × 2 pixels of each, by parts of
    its kernel that have nothing in common; where its input is even, they differ by the sums of these parts.
    Afterwards the sums are alike."""
    for layer in G.modules():
        if isinstance(layer, torch.nn.ConvTranspose2d) and layer.stride == (2, 2):
            I, O, _, _ = layer.weight.shape
            parts = layer.weight.view(I, O, 2, 2, 2, 2)     # rows 2 i + a, columns 2 j + b: part (a, b)
            parts -= parts.mean((2, 4), keepdim=True) - parts.mean((2, 3, 4, 5), keepdim=True)


def sheet(images: torch.Tensor, columns: int = 8) -> np.ndarray:
    """The `grid` of images in [-1, 1]."""
    return grid(images / 2 + 0.5, columns)
