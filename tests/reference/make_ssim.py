"""Makes ssim.npz: structural similarity of pairs of images by scipy, for tests/test_cyclegan.py.

python tests/reference/make_ssim.py         (made with scipy 1.17.1, numpy 2.4.6)

Each case NAME/…: `a` and `b` (N, C, H, W) in float32, `peak`, and `ssim` (N,) in float64. As in Wang's ssim_index.m: a
Gaussian window of 11 × 11, σ = 1.5, its sum 1; filtered at valid places only; K = (0.01, 0.03); no correction of the
covariances; the mean of the map. Colour: the mean over the channels. Of images smaller than 11 the window is cut to
their size. Beside it the same by scipy.ndimage.gaussian_filter (a separable window), compared here.
"""
from pathlib import Path

import numpy as np
import scipy
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

print("scipy", scipy.__version__)
rng, golden = np.random.default_rng(0), {}


def window(h, w):
    y, x = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    weights = np.exp(-(x * x + y * y) / (2 * 1.5**2))
    return weights / weights.sum()


def ssim_index(x, y, L):
    """x, y (H, W) in float64."""
    weights = window(min(11, x.shape[0]), min(11, x.shape[1]))
    C1, C2 = (0.01 * L)**2, (0.03 * L)**2

    def means(filtered):
        mu1, mu2 = filtered(x), filtered(y)
        sigma1_sq, sigma2_sq = filtered(x * x) - mu1 * mu1, filtered(y * y) - mu2 * mu2
        sigma12 = filtered(x * y) - mu1 * mu2
        top = (2 * mu1 * mu2 + C1) * (2 * sigma12 + C2)
        return (top / ((mu1 * mu1 + mu2 * mu2 + C1) * (sigma1_sq + sigma2_sq + C2))).mean()

    value = means(lambda z: convolve2d(z, weights[::-1, ::-1], mode="valid"))
    if min(x.shape) >= 11:
        again = means(lambda z: gaussian_filter(z, 1.5, radius=5)[5:-5, 5:-5])
        assert abs(value - again) < 1e-12
    return value


def smooth(N, C, H, W, low, high):
    x = gaussian_filter(rng.normal(size=(N, C, H, W)), (0, 0, 2, 2))
    return low + (high - low) * (x - x.min()) / (x.max() - x.min())


noisy = smooth(2, 3, 20, 20, -1, 1)
cases = {
    "noise on it": (noisy, np.clip(noisy + rng.normal(scale=0.2, size=noisy.shape), -1, 1), 2.0),
    "unrelated": (smooth(2, 1, 16, 16, -1, 1), smooth(2, 1, 16, 16, -1, 1), 2.0),
    "gray, of 255": (smooth(1, 1, 28, 28, 0, 255), smooth(1, 1, 28, 28, 0, 255), 255.0),
    "not square": (smooth(1, 3, 12, 30, 0, 1), smooth(1, 3, 12, 30, 0, 1), 1.0),
    "one place": (smooth(2, 3, 11, 11, 0, 1), smooth(2, 3, 11, 11, 0, 1), 1.0),
    "small": (smooth(2, 3, 8, 8, -1, 1), smooth(2, 3, 8, 8, -1, 1), 2.0),
    "small one way": (smooth(1, 3, 9, 20, -1, 1), smooth(1, 3, 9, 20, -1, 1), 2.0),
    "negative": (noisy, -noisy, 2.0),
    "flat": (np.full((1, 3, 16, 16), 0.5), np.full((1, 3, 16, 16), -0.25), 2.0),
}
for name, (a, b, peak) in cases.items():
    a, b = a.astype(np.float32), b.astype(np.float32)
    value = np.array([np.mean([ssim_index(x.astype(np.float64), y.astype(np.float64), peak) for x, y in zip(*pair)])
                      for pair in zip(a, b)])
    print(f"{name}: {value}")
    golden.update({f"{name}/a": a, f"{name}/b": b, f"{name}/peak": np.float64(peak), f"{name}/ssim": value})
np.savez_compressed(Path(__file__).parent / "ssim.npz", **golden)
