"""Scores of images, and the report of a run.

For a set of generated images: how far it is from real ones (Fréchet distance), whether it
varies as they do (diversity), copies them, or has checkerboards. For an image and the true one:
PSNR and SSIM.
"""
import math

import torch

from mini.utils.config import require
from mini.utils.metrics import shares

# ---- a set of generated images beside a set of real ones

def frechet_distance(a, b) -> float:
    """The Fréchet distance of two sets of feature vectors, seen as normal distributions.

        d² = |μₐ − μ_b|² + tr(Σₐ + Σ_b − 2 (Σₐ^½ Σ_b Σₐ^½)^½)

    a (N, F), b (M, F); μ and Σ are the mean and the covariance of each. The formula is
    Dowson & Landau's (1982); it is used for images since Heusel et al. 2017, eq. 6. Its unit
    is that of the features, squared; 0 means that mean and covariance agree. The distance
    of equal distributions shrinks as N and M grow, so compare only at the same sizes.
    Raises UserError if a set has fewer than two vectors.
    """
    require(min(len(a), len(b)) > 1, "a Fréchet distance needs at least two images on both sides")
    a = a.double().cpu()
    b = b.double().cpu()
    require(a.isfinite().all() and b.isfinite().all(),
            "the images that are to be scored hold numbers that are not finite: the training went "
            "wrong; lower --lr")
    mean_a = a.mean(0)
    mean_b = b.mean(0)

    # The roots of large matrices are slow and inexact, but they can be avoided. With Σ = RᵀR,
    # where R comes from the QR decomposition of the centred vectors,
    #     tr((Σₐ^½ Σ_b Σₐ^½)^½) = the sum of the singular values of Rₐ R_bᵀ,
    # because their squares are the eigenvalues of Σₐ Σ_b, and so those of Σₐ^½ Σ_b Σₐ^½.
    centred_a = (a - mean_a) / math.sqrt(len(a) - 1)
    centred_b = (b - mean_b) / math.sqrt(len(b) - 1)
    R_a = torch.linalg.qr(centred_a, mode="r").R            # (min(N, F), F)
    R_b = torch.linalg.qr(centred_b, mode="r").R            # (min(M, F), F)
    trace_of_root = torch.linalg.svdvals(R_a @ R_b.T).sum()
    trace_a = (R_a**2).sum()                                # tr Σ = tr RᵀR, the sum of all R²
    trace_b = (R_b**2).sum()

    between_means = ((mean_a - mean_b) ** 2).sum()
    return (between_means + trace_a + trace_b - 2 * trace_of_root).item()


def image_report(scores: dict) -> str:
    """The scores that a Judge gives generated images, in words, each beside its baseline."""
    if "frechet" not in scores:
        return ("no Fréchet distance: without labels, with one label for all, or with too few "
                "images, there is no judge")
    text = ("Fréchet distance ({features}) from held-out images, n = {frechet_n:,}: "
            "{frechet:.1f}\n"
            "beside it: {floor_images} {frechet_floor:.1f} (the floor), "
            "untrained {frechet_untrained:.0f}")
    text = text.format(**scores)
    if scores.get("diversity") is not None:
        text += "\ndiversity of images with the same labels (1: as real ones, 0: all alike): "
        text += "{diversity:.2f}".format(**scores)
    if scores.get("diversity_data") is not None:
        text += "; other real images {diversity_data:.2f}".format(**scores)
    if "accuracy" in scores:
        text += "\nread by the judge as it was asked for "
        text += "(in brackets: always the most frequent value)\n"
        text += shares(scores["accuracy"], scores["most_frequent"])
    return text


# ---- diversity: how images with the same labels differ

def variance_within_labels(values, labels):
    """The variance (K,) of values (N, K) among images that have the same labels (N, A).

        s² = Σᵢ (vᵢ − v̄ᵢ)² / (N − G)

    v̄ᵢ is the mean over the images with the same labels as image i, and G the number of different
    labels; an image whose labels no other image has adds nothing to the sum and nothing to N − G.
    None if N = G: then no two images have the same labels.
    """
    N, K = values.shape
    _, group, sizes = labels.unique(dim=0, return_inverse=True, return_counts=True)     # (N,), (G,)
    G = len(sizes)
    if N == G:
        return None
    values = values.double()
    sums = torch.zeros(G, K, dtype=torch.float64).index_add(0, group, values)
    means = sums / sizes[:, None]                           # (G, K)
    return (values - means[group]).square().sum(0) / (N - G)


def diversity(values, labels, real_values, real_labels):
    """How much images with the same labels vary, beside real ones: the mean over K numbers that
    describe an image of s² / s²(real), where s² is the variance within labels.

    values (N, K): what was estimated of each image besides its labels (N, A): the place of a face,
    its tilt and so on. real_values (M, K) and real_labels (M, A): the same of held-out images. It
    is 1 if the images vary as real ones do, ½ if half of the numbers do and the others are fixed
    (or if each varies with half the variance), and 0 if there is one picture for each label.

    It is the variance within labels, since a model could draw for each label a picture that it
    knows by heart: these pictures differ, too. It is a ratio of variances, not of standard
    deviations, since estimates are not exact: that of a fixed number varies a little with all the
    others. This adds a tenth of a standard deviation, say, but only a hundredth of a variance. The
    estimates for a good image and for a bad one vary alike, so read diversity beside the Fréchet
    distance. None if no two of the images, or of the real ones, have the same labels.
    """
    variance = variance_within_labels(values, labels)
    real_variance = variance_within_labels(real_values, real_labels)
    if variance is None or real_variance is None:
        return None
    ratios = variance / real_variance.clamp(min=1e-12)      # (K,)
    return ratios.mean().item()


# ---- variety, copies, checkerboards

def mean_pairwise_distance(images) -> float:
    """The mean distance between two of the images (N, C, H, W): 0 if all are the same picture.

    The distance of two images is the root mean square of the differences of their pixels.
    """
    flat = images.flatten(1)                                # (N, C, H, W) -> (N, C·H·W)
    N, numbers = flat.shape
    n_pairs = N * (N - 1) // 2
    total = torch.pdist(flat).sum().item()                  # each a root of a sum, not of a mean
    return total / max(1, n_pairs) / math.sqrt(numbers)


def nearest_images(images, training):
    """(mean distance from an image to its nearest training image, indices (N,) of these).

    images (N, C, H, W), training (M, C, H, W). The distance is that of
    `mean_pairwise_distance`: 0 if every image is a copy.
    """
    numbers = images[0].numel()
    distances = torch.cdist(images.flatten(1), training.flatten(1))     # (N, M)
    nearest, index = distances.min(dim=1)                               # (N,) each
    return nearest.mean().item() / math.sqrt(numbers), index


def checkerboard_power(images) -> float:
    """The mean power of images (N, C, H, W), H and W even, at the finest frequencies.

    These are the patterns that change sign from each row to the next, or from each column
    to the next, or both. A checkerboard consists of them; little else does.
    """
    H, W = images.shape[2:]
    spectrum = torch.fft.rfft2(images.double())             # (N, C, H, W/2 + 1)
    power = spectrum.abs().square().mean((0, 1))            # (H, W/2 + 1)

    # Row H/2 of the spectrum belongs to the change from row to row, column W/2 to that from
    # column to column. rfft2 leaves out the columns above W/2, whose power is that of the
    # columns 1 to W/2 − 1, mirrored: in the row these count twice.
    row = power[H // 2]                                     # (W/2 + 1,)
    column = power[:, W // 2]                               # (H,)
    row_total = 2 * row.sum() - row[0] - row[-1]
    column_total = column.sum()
    counted_in_both = row[-1]                               # where row and column cross
    return (row_total + column_total - counted_in_both).item()


def variety(samples, held_out, training, n: int = 512):
    """(tables, neighbours): do generated images vary as real ones do, and are they copies?

    Three tables for `print_tables`, each with the held-out images as the baseline: the mean
    distance of two images, the mean distance to the nearest training image, and the power
    of checkerboards (only of images with an even number of rows and columns). neighbours
    (16, C, H, W): the first eight samples, then the training image nearest to each of them.

    All images are (N, C, H, W) in [-1, 1]; only the first n of samples and held_out are
    used.
    """
    # Distances are those of pixels with a range of 1, as in [0, 1]; here the range is 2.
    halved_samples = samples[:n] / 2
    halved_held_out = held_out[:n] / 2
    halved_training = training / 2

    between = {
        "samples": mean_pairwise_distance(halved_samples),
        "held out": mean_pairwise_distance(halved_held_out),
    }
    samples_to_nearest, nearest_index = nearest_images(halved_samples, halved_training)
    held_out_to_nearest, _ = nearest_images(halved_held_out, halved_training)
    tables = {
        "mean_distance_of_two_images": between,
        "mean_distance_to_the_nearest_training_image": {
            "samples": samples_to_nearest,
            "held out": held_out_to_nearest,
        },
    }
    H, W = samples.shape[2:]
    if H % 2 == 0 and W % 2 == 0:
        usual = max(checkerboard_power(held_out[:n]), 1e-30)    # not 0, as for images in one colour
        relative = checkerboard_power(samples[:n]) / usual
        tables["power_in_checkerboards,_relative"] = {"samples": relative, "held out": 1.0}

    neighbours = torch.cat([samples[:8], training[nearest_index[:8]]])
    return tables, neighbours


# ---- an image beside the true one

def psnr(a, b, peak: float = 2.0):
    """The peak signal-to-noise ratio of each image of a to that of b: float64 (N,), in dB.

        PSNR = 10 log₁₀ (peak² / mean squared error)

    a and b (N, C, H, W); peak: the range of the pixels. Infinite where the images are
    equal.
    """
    squared_error = (a.double() - b.double()).square()
    mse = squared_error.flatten(1).mean(1)                  # (N, C, H, W) -> (N,)
    return 10 * (peak**2 / mse).log10()


def ssim_windows(size: int, window: int = 11, sigma: float = 1.5):
    """The weights of all windows along a line of `size` pixels: float64 (places, size).

    Row i holds the weights of the window that begins at pixel i: a normal distribution
    around the middle of the window, 0 outside, and 1 in total (Wang et al. 2004, §III.C).
    There is a row for every place where the window lies inside the line. If the line is
    shorter than the window, the window is as long as the line.
    """
    window = min(window, size)
    half = (window - 1) / 2
    places = size - window + 1
    middle = torch.arange(places, dtype=torch.float64)[:, None] + half      # (places, 1)
    pixel = torch.arange(size, dtype=torch.float64)                         # (size,)
    distance = pixel - middle                                               # (places, size)
    weights = torch.exp(-distance**2 / (2 * sigma**2))
    weights = torch.where(distance.abs() <= half, weights, 0)
    return weights / weights.sum(1, keepdim=True)


def ssim(a, b, peak: float = 2.0):
    """The structural similarity of each image of a to that of b: float64 (N,), at most 1.

        SSIM = (2 μₐμ_b + c₁)(2 σₐ_b + c₂) / ((μₐ² + μ_b² + c₁)(σₐ² + σ_b² + c₂))

    Wang et al. 2004, eq. 13. a and b (N, C, H, W); peak: the range of the pixels; c₁ =
    (0.01 peak)², c₂ = (0.03 peak)². Means μ, variances σ² and the covariance σₐ_b are those
    in a window of 11 × 11 pixels (see `ssim_windows`). The result is the mean over all
    places of the window and all channels.
    """
    a = a.double()
    b = b.double()
    H, W = a.shape[2:]
    row_weights = ssim_windows(H).to(a.device)              # (H', H), H' places
    column_weights = ssim_windows(W).to(a.device)           # (W', W)

    def local_mean(x):
        """The weighted mean in each window: (N, C, H, W) -> (N, C, H', W')."""
        return row_weights @ x @ column_weights.T

    mean_a = local_mean(a)
    mean_b = local_mean(b)
    var_a = local_mean(a * a) - mean_a**2
    var_b = local_mean(b * b) - mean_b**2
    cov = local_mean(a * b) - mean_a * mean_b

    c_1 = (0.01 * peak) ** 2
    c_2 = (0.03 * peak) ** 2
    numerator = (2 * mean_a * mean_b + c_1) * (2 * cov + c_2)
    denominator = (mean_a**2 + mean_b**2 + c_1) * (var_a + var_b + c_2)
    similarity = numerator / denominator                    # (N, C, H', W')
    return similarity.flatten(1).mean(1)                    # -> (N,)
