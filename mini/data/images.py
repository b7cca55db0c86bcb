"""Pictures: sheets of images, written as PNG files with the standard library."""
import struct
import zlib

import numpy as np
import torch

from mini.common import atomic_open


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
