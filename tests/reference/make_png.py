"""Makes png/*.png, small pictures of every kind that PNG knows, and png.npz, the pixels that others read from them.

Made with pypng 0.20220715.0 and Pillow 13.0.0:  python tests/reference/make_png.py

c<colour type>d<bits> (i: interlaced, t: with transparency), size_* and filter_* are packed here by hand, since no
package writes all of them; their lines take the five filters in turn. pillow_* are written by Pillow, pypng_* by
pypng. png.npz holds for each {name: uint8 (H, W, 1 or 3)}: what pypng reads, rounded to 8 bits, laid over white.
resized/<size> are by Pillow's bicubic filter from the middle square of pillow_rgb.

Checked here: these are the pixels that were packed, and Pillow reads the same. Except that of 16 bits it keeps the
upper eight, and is off by up to 2; and that it overlooks the transparent colour of 2, 4 and 16 bits.
"""
import itertools
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import png
from PIL import Image

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "png"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
# ^ row, column, steps down, steps to the right


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def predict(kind, a, b, c):
    """From the bytes on the left, above, and above on the left (PNG specification, section 9.2 and 9.4)."""
    if kind < 4:
        return [0, a, b, (a + b) // 2][kind]
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def pack(samples, depth, filters):
    """The filtered lines of samples (h, w, channels), byte by byte."""
    step, above, packed = max(1, samples.shape[2] * depth // 8), None, b""
    for row in samples:
        bits = "".join(f"{int(sample):0{depth}b}" for sample in row.flatten())
        bits += "0" * (-len(bits) % 8)
        line = [int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)]
        above, kind = above or [0] * len(line), next(filters)
        packed += bytes([kind]) + bytes(
            (byte - predict(kind, line[i - step] if i >= step else 0, above[i],
                            above[i - step] if i >= step else 0)) % 256 for i, byte in enumerate(line))
        above = line
    return packed


def write(name, samples, colour, depth, interlace=False, filters=None, palette=None, transparency=None, extra=b"",
          cut=10**6):
    H, W = samples.shape[:2]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlace else [samples]
    data = zlib.compress(b"".join(pack(part, depth, filters) for part in parts if part.size), 9)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, colour, 0, 0, interlace))
    content += chunk(b"PLTE", palette) if palette else b""
    content += chunk(b"tRNS", transparency) if transparency else b""
    content += b"".join(chunk(b"IDAT", data[i:i + cut]) for i in range(0, len(data), cut))
    (FOLDER / f"{name}.png").write_bytes(content + extra + chunk(b"IEND", b""))
    intended[name] = seen(samples, colour, depth, palette, transparency)


def seen(samples, colour, depth, palette, transparency):
    """The pixels meant by the samples."""
    samples, alpha = np.asarray(samples), np.ones(samples.shape[:2])[:, :, None]
    if colour == 3:
        alphas = list(transparency or b"") + [255] * 256
        alpha = np.array([[[alphas[index] / 255] for (index,) in row] for row in samples])
        samples = np.array([[list(palette[3 * index:3 * index + 3]) for (index,) in row] for row in samples])
    elif transparency:
        key = np.array(struct.unpack(f">{len(transparency) // 2}H", transparency))
        alpha = 1.0 - (samples == key).all(2, keepdims=True)
    light = (samples / (255 if colour == 3 else 2**depth - 1) * 255).round()
    if colour in (4, 6):
        light, alpha = light[:, :, :-1], light[:, :, -1:] / 255
    return (light * alpha + 255 * (1 - alpha)).round()


def waves(H, W, channels, top, phase=0.0):
    """Smooth, so that no filter is idle, with some noise, and the extremes at hand."""
    y, x, c = np.mgrid[:H, :W, :channels]
    values = 0.5 + 0.45 * np.sin(y / 2.3 + c + phase) * np.cos(x / 3.1 - 2 * c) + rng.normal(0, 0.04, y.shape)
    values[0, 0], values[-1, -1] = 0, 1
    return (values.clip(0, 1) * top).round().astype(int)


intended, rng = {}, np.random.default_rng(0)
shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir()
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16),
         (6, 8), (6, 16)]
for number, (colour, depth) in enumerate(KINDS):
    top = min(2**depth - 1, 40 if colour == 3 else 2**16)
    palette = rng.integers(0, 256, 3 * (top + 1)).astype(np.uint8).tobytes() if colour == 3 else None
    for suffix in ("", "i", "t", "it"):
        samples = waves(10, 13, CHANNELS[colour], top, phase=number)
        transparency = None
        if "t" in suffix and colour in (4, 6):
            continue
        if "t" in suffix and colour == 3:           # the first few colours, from transparent to nearly opaque
            transparency = bytes(range(0, 256, 256 // (top + 2)))[:max(1, top // 2)]
        elif "t" in suffix:
            key = samples[3, 4].copy()
            samples[5:7, 2:9] = key
            samples[5, 3:6, 0] ^= 1                 # close to the transparent colour, but opaque
            transparency = struct.pack(f">{len(key)}H", *key)
        filters = itertools.islice(itertools.cycle(range(5)), number, None)
        write(f"c{colour}d{depth}{suffix}", samples, colour, depth, "i" in suffix, filters, palette, transparency)
for H, W in [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (3, 5), (5, 4)]:      # interlaced, with passes that are empty
    write(f"size_{H}x{W}", waves(H, W, 3, 255), 2, 8, True, itertools.islice(itertools.cycle(range(5)), H, None))
for kind in range(5):                               # each filter alone, on noise; many IDAT chunks, and a remark
    write(f"filter_{kind}", rng.integers(0, 256, (7, 6, 3)), 2, 8, False, itertools.repeat(kind),
          extra=chunk(b"tEXt", b"Title\0noise"), cut=50)

picture = Image.fromarray(waves(20, 24, 3, 255).astype(np.uint8))
picture.save(FOLDER / "pillow_rgb.png")
picture.quantize(20).save(FOLDER / "pillow_palette.png", transparency=3)
picture.convert("L").save(FOLDER / "pillow_gray.png", optimize=True)
Image.fromarray(waves(20, 24, 4, 255).astype(np.uint8), "RGBA").save(FOLDER / "pillow_rgba.png")
with open(FOLDER / "pypng_interlaced.png", "wb") as file:
    png.Writer(14, 9, greyscale=False, alpha=True, bitdepth=16, interlace=True).write(
        file, waves(9, 14, 4, 65535).reshape(9, -1).tolist())

golden = {}
for path in sorted(FOLDER.glob("*.png")):
    W, H, rows, info = png.Reader(str(path)).asDirect()
    samples = np.array([list(row) for row in rows]).reshape(H, W, info["planes"]) / (2**info["bitdepth"] - 1)
    C = 1 if info["greyscale"] else 3
    colour = (samples * 255).round()
    alpha = colour[:, :, C:] / 255 if info["alpha"] else np.ones((H, W, 1))
    golden[path.stem] = (colour[:, :, :C] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)

    if path.stem in intended:
        assert (intended[path.stem] == golden[path.stem]).all(), path
    image = Image.open(path)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = np.asarray(image.convert("RGBA")) / 255
    other = (255 * (image[:, :, :3] * image[:, :, 3:] + 1 - image[:, :, 3:])).round()
    if path.stem.rstrip("it") not in ("c0d2", "c0d4", "c0d16", "c2d16") or "t" not in path.stem:
        assert abs(other - golden[path.stem]).max() <= (2 if info["bitdepth"] == 16 else 0), path

square = picture.crop((2, 0, 22, 20))               # the middle of it
for size in (7, 24):
    golden[f"resized/{size}"] = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
np.savez_compressed(HERE / "png.npz", **golden)
