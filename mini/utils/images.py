"""Images as tensors: made square, scaled to [-1, 1], padded, cropped, laid out in grids."""
import math

import numpy as np
import torch
import torch.nn.functional as F

from mini.utils.lettering import enlarged, with_names


def to_size(pixels: np.ndarray, size: int) -> torch.Tensor:
    """The middle square of a picture, resized: uint8 (H, W, C) -> uint8 (C, size, size). With size
    0 it keeps its own."""
    size = size or min(pixels.shape[:2])
    image = torch.tensor(pixels).permute(2, 0, 1)           # (H, W, C) -> (C, H, W)
    return make_square(image[None], size)[0]


def make_square(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle squares of images, resized: uint8 (N, C, H, W) -> uint8 (N, C, size, size).

    They are resized with antialiasing: each new pixel is an average over all that it
    replaces.
    """
    H, W = images.shape[2:]
    side = min(H, W)
    top = (H - side) // 2
    left = (W - side) // 2
    images = images[:, :, top:top + side, left:left + side]
    images = images.contiguous()
    if side == size:
        return images
    parts = []
    for part in images.split(256):                          # not all as floats at once
        part = F.interpolate(part.float(), size=(size, size), mode="bicubic", antialias=True)
        part = part.round().clamp(0, 255)                   # bicubic overshoots at edges
        parts.append(part.byte())
    return torch.cat(parts)


# ---- for the models
def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images in [0, 255] as float32 in [-1, 1], the range of every image model here."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def in_batches(model, function, *inputs, size: int = 256):
    """What function(*inputs) returns, a tensor or several, on the CPU: computed on the model's
    device, for so many rows at a time. uint8 images become floats first. The model is in evaluation
    mode: BatchNorm uses its running means and variances, so no image depends on the others."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    outputs = []
    for start in range(0, len(inputs[0]), size):
        rows = [x[start:start + size].to(device) for x in inputs]
        rows = [to_float(x) if x.dtype == torch.uint8 else x for x in rows]
        outputs.append(function(*rows))
    model.train(was_training)
    if torch.is_tensor(outputs[0]):
        return torch.cat(outputs).cpu()
    return [torch.cat(parts).cpu() for parts in zip(*outputs)]


def padded_size(size: int) -> int:
    """The smallest power of two that is at least `size` and 16: a network can halve it until 4 is
    left."""
    return max(16, 2 ** (size - 1).bit_length())


def pad(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, H) made larger by repeating their edges: (N, C, S, S), S = padded_size(H).
    """
    H = images.size(2)
    S = padded_size(H)
    edge = (S - H) // 2
    index = torch.arange(S, device=images.device) - edge    # −edge … S − edge − 1
    index = index.clamp(0, H - 1)                           # 0 0 0 1 2 … H−1 H−1 H−1
    images = images[:, :, index]                            # (N, C, H, H) -> (N, C, S, H)
    return images[:, :, :, index]                           # -> (N, C, S, S)


def crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle (N, C, size, size) of images (N, C, S, S): undoes `pad`."""
    edge = (images.size(2) - size) // 2
    return images[:, :, edge:edge + size, edge:edge + size]


def noise(n: int, columns: int, seed: int) -> torch.Tensor:
    """Normal random numbers (n, columns), the same at every call: samples can be compared."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, columns, generator=generator)


def walks(x: torch.Tensor) -> torch.Tensor:
    """Walks from noise to noise: (n, …) -> (n, …), in rows of 8 steps.

        ((1 − t) · x[r] + t · x[r + 1]) / √((1 − t)² + t²),    t = 0, 1/7, …, 1

    Row r goes from x[r] to x[r + 1]. A mixture of two noises has a smaller variance than
    noise; the division makes it 1 again.
    """
    n = len(x)
    step = torch.arange(n)
    row = step // 8
    next_row = (row + 1) % n
    t = step % 8 / 7                                        # (n,)
    ones = [1] * (x.ndim - 1)
    t = t.view(n, *ones)                                    # -> (n, 1, …), to multiply x by
    mixture = (1 - t) * x[row] + t * x[next_row]
    variance = (1 - t) ** 2 + t**2
    return mixture / variance.sqrt()


def plane(n: int):
    """A square grid of points in the plane, (k · k, 2), and k: the largest with k · k ≤ n.

    In both directions the points divide the normal distribution into equal shares, so they
    lie closer where noise is more frequent. They come row by row: the first number grows to
    the right, the second upwards.
    """
    k = math.isqrt(n)
    shares = (torch.arange(k) + 0.5) / k                    # 0.5/k, 1.5/k, …: below each point
    points = torch.special.ndtri(shares)                    # the inverse of Φ
    pairs = torch.cartesian_prod(-points, points)           # (k · k, 2): upwards, rightwards
    return pairs.flip(1), k                                 # rightwards, upwards


def film(moments: list, pictures: int = 8) -> torch.Tensor:
    """Some of the moments, evenly spread, side by side: images (n · k · pictures, C, H, W).

    A moment is a tuple of k tensors (n, C, H, W). Each of the n · k images becomes a row of
    so many pictures; the k rows of an n stand one below the other.
    """
    chosen = torch.linspace(0, len(moments) - 1, pictures).round().int().tolist()
    columns = [torch.stack(moments[i], dim=1) for i in chosen]      # each (n, k, C, H, W)
    rows = torch.stack(columns, dim=2)                      # (n, k, pictures, C, H, W)
    return rows.flatten(0, 2)                               # -> (n · k · pictures, C, H, W)


@torch.no_grad()
def remove_checkerboard(G):
    """Take out of the weights of a generator what draws checkerboards.

    Odena, Dumoulin & Olah 2016, "Deconvolution and checkerboard artifacts", say where they come
    from, and advise to resize, then to convolve. This remedy is ours, and costs no time. A
    transposed convolution of stride 2 makes 2 × 2 pixels of each pixel, every one of them by a
    part of the kernel of its own. Where the input is even, these pixels differ as the sums of
    the parts do. Afterwards the sums are alike.
    """
    for layer in G.modules():
        if isinstance(layer, torch.nn.ConvTranspose2d) and layer.stride == (2, 2):
            I, O, _, _ = layer.weight.shape
            # Row 2i + a, column 2j + b of a 4 × 4 kernel belongs to part (a, b).
            parts = layer.weight.view(I, O, 2, 2, 2, 2)             # (I, O, i, a, j, b)
            mean_of_part = parts.mean((2, 4), keepdim=True)         # (I, O, 1, 2, 1, 2)
            mean_of_all = parts.mean((2, 3, 4, 5), keepdim=True)    # (I, O, 1, 1, 1, 1)
            parts -= mean_of_part - mean_of_all         # parts is a view: this changes the weights


# ---- grids
def grid(images, columns: int = 8, pad: int = 2) -> np.ndarray:
    """Images laid out in rows on a white sheet: one uint8 array (H', W', C).

    images: a float tensor (N, C, H, W) in [0, 1] with C = 1 or 3; pad: the pixels between
    them.
    """
    images = torch.as_tensor(images).detach().float().cpu().clamp(0, 1)
    N, C, H, W = images.shape
    columns = min(columns, N)
    rows = math.ceil(N / columns)
    sheet = torch.ones(C, rows * (H + pad) + pad, columns * (W + pad) + pad)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        y = pad + row * (H + pad)
        x = pad + column * (W + pad)
        sheet[:, y:y + H, x:x + W] = image
    sheet = (sheet * 255).round().to(torch.uint8)
    return sheet.permute(1, 2, 0).numpy()                   # (C, H', W') -> (H', W', C)


def sheet(images: torch.Tensor, columns: int = 8, row_names: list | None = None,
          column_names: list | None = None) -> np.ndarray:
    """A picture to look at: the `grid` of images in [-1, 1], `enlarged`, with the names of its rows
    on the left and those of its columns above, if there are any."""
    picture = enlarged(grid(images / 2 + 0.5, columns))
    if row_names or column_names:
        columns = min(columns, len(images))
        rows = math.ceil(len(images) / columns)
        picture = with_names(picture, rows, columns, row_names or [], column_names or [])
    return picture
