"""Scores of images: distances between sets of them and between pairs, variety, and the report of a run."""
import math

import torch

from mini.utils.config import require
from mini.utils.metrics import shares


def frechet_distance(a, b) -> float:
    """How far apart two sets of feature vectors (N, F) and (M, F) are, each seen as one normal distribution:

        |μₐ − μ_b|² + tr(Σₐ + Σ_b − 2 (Σₐ^½ Σ_b Σₐ^½)^½)    (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

    In the features' unit squared; 0 if mean and covariance agree. It shrinks as N and M grow: compare only
    at the same sizes. Raises UserError if there are fewer than two vectors.
    """
    require(min(len(a), len(b)) > 1, "a Fréchet distance needs at least two images on both sides")
    a, b = a.double().cpu(), b.double().cpu()
    mean_a, mean_b = a.mean(0), b.mean(0)
    # With Σ = RᵀR, the trace of the root is the sum of the singular values of Rₐ R_bᵀ
    R_a = torch.linalg.qr((a - mean_a) / math.sqrt(len(a) - 1), mode="r").R
    R_b = torch.linalg.qr((b - mean_b) / math.sqrt(len(b) - 1), mode="r").R
    root = torch.linalg.svdvals(R_a @ R_b.T).sum()
    return (((mean_a - mean_b) ** 2).sum() + (R_a**2).sum() + (R_b**2).sum() - 2 * root).item()


def image_report(scores: dict) -> str:
    """The scores that a Judge (judge.py) gives to generated images, in words."""
    if not scores:
        return "no Fréchet distance: without labels, or with too few images, there is no judge"
    text = ("Fréchet distance ({features}) from held-out images, n = {frechet_n:,}: {frechet:.1f}\n"
            "beside it: training images {frechet_floor:.1f} (the floor), untrained {frechet_untrained:.0f}")
    text = text.format(**scores)
    if "accuracy" in scores:
        text += "\nread by the judge as it was asked for (in brackets: always the most frequent value)\n"
        text += shares(scores["accuracy"], scores["most_frequent"])
    return text


def finest_pattern(images) -> float:
    """The mean power of images (N, C, H, W), H and W even, in patterns that change sign at every pixel, in
    rows, columns or both: what a checkerboard is made of, and little else."""
    power = torch.fft.rfft2(images.double()).abs().square().mean((0, 1))    # (H, W/2 + 1)
    i, j = images.size(2) // 2, images.size(3) // 2
    return (2 * power[i].sum() - power[i, 0] - 2 * power[i, j] + power[:, j].sum()).item()


def variety(samples, held_out, training, n: int = 512):
    """Do generated images vary as real ones do, and are they more than copies? Returns tables for
    `print_tables`, and the first eight samples with the training image nearest to each, (16, C, H, W).

    All images are (N, C, H, W) in [-1, 1]. Distances are root mean squares over the pixels, of a range of 1.
    """
    pixels, training_pixels = samples[0].numel(), training.flatten(1) / 2
    between, nearest = {}, {}
    for name, images in (("samples", samples[:n]), ("held out", held_out[:n])):
        flat = images.flatten(1) / 2
        pairs = max(1, len(flat) * (len(flat) - 1) // 2)
        between[name] = torch.pdist(flat).sum().item() / pairs / math.sqrt(pixels)
        distance, which = torch.cdist(flat, training_pixels).min(dim=1)
        nearest[name] = distance.mean().item() / math.sqrt(pixels)
        like = which if name == "samples" else like
    tables = {"mean_distance_of_two_images": between, "mean_distance_to_the_nearest_training_image": nearest}
    if samples.size(2) % 2 == samples.size(3) % 2 == 0:
        share = finest_pattern(samples[:n]) / max(finest_pattern(held_out[:n]), 1e-30)
        tables["power_in_checkerboards,_relative"] = {"samples": share, "held out": 1.0}
    return tables, torch.cat([samples[:8], training[like[:8]]])


def psnr(a, b, peak: float = 2.0):
    """Peak signal-to-noise ratio in dB of each image of a (N, C, H, W) from the one of b: 10 log₁₀ (peak² /
    mean squared error), float64 (N,); infinite where they are equal. peak: the range of the pixels."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * (peak**2 / error).log10()


def ssim(a, b, peak: float = 2.0):
    """Structural similarity of each image of a (N, C, H, W) and the one of b, float64 (N,), at most 1:

        (2 μₐμ_b + c₁)(2 σₐ_b + c₂) / ((μₐ² + μ_b² + c₁)(σₐ² + σ_b² + c₂))    (Wang et al. 2004, eq. 13)

    with means, variances and covariance in a window of 11 × 11 pixels, weighted by a normal distribution with
    σ = 1.5 (§III.C), at every place where it lies in the image; the mean over these places and the channels.
    c₁ = (0.01 peak)², c₂ = (0.03 peak)². Of smaller images the window is as large as they are.
    """
    def average(size):
        """(places, size): how a line of pixels is weighted in the window at each place."""
        half = (min(11, size) - 1) / 2
        d = torch.arange(size, dtype=torch.float64) - half - torch.arange(size - 2 * half)[:, None]
        weights = torch.where(d.abs() <= half, torch.exp(-d**2 / (2 * 1.5**2)), 0)
        return (weights / weights.sum(1, keepdim=True)).to(a.device)

    rows, columns, a, b = average(a.size(2)), average(a.size(3)), a.double(), b.double()
    μ_a, μ_b, aa, bb, ab = (rows @ x @ columns.T for x in (a, b, a * a, b * b, a * b))
    c_1, c_2 = (0.01 * peak)**2, (0.03 * peak)**2
    similar = ((2 * μ_a * μ_b + c_1) * (2 * (ab - μ_a * μ_b) + c_2)
               / ((μ_a**2 + μ_b**2 + c_1) * (aa - μ_a**2 + bb - μ_b**2 + c_2)))
    return similar.flatten(1).mean(1)
