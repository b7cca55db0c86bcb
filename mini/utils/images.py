"""Images as tensors: made square, scaled to [-1, 1], padded and cropped, and laid out in grids."""
import math

import numpy as np
import torch
import torch.nn.functional as F


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


# ---- grids
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


def sheet(images: torch.Tensor, columns: int = 8) -> np.ndarray:
    """The `grid` of images in [-1, 1]."""
    return grid(images / 2 + 0.5, columns)
