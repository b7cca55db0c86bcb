"""Makes frechet.npz: Fréchet distances between sets of vectors by scipy, for tests/test_metrics_images.py.

python tests/reference/make_frechet.py      (made with scipy 1.17.1, numpy 2.4.6)

Each case NAME/…: `a` (N, F) and `b` (M, F) in float32, and `distance` in float64 by the formula that pytorch-fid uses,
|μₐ − μ_b|² + tr(Σₐ) + tr(Σ_b) − 2 tr((Σₐ Σ_b)^½) with scipy.linalg.sqrtm. Where a covariance has no full rank, sqrtm
is inaccurate (pytorch-fid adds 1e-6 to the diagonal, which changes the answer); there the trace of the root is the sum
of the singular values of Aᵀ B, A and B the centred vectors divided by √(N − 1): tr((Σₐ Σ_b)^½) = ‖A Bᵀ‖₁, by
scipy.linalg.svdvals. Where both work they are compared.
"""
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg

print("scipy", scipy.__version__)
rng, golden = np.random.default_rng(0), {}


def vectors(N, F, mean=0.0, scale=1.0):
    """Correlated, of differing variances."""
    mixed = rng.normal(size=(N, F)) @ (rng.normal(size=(F, F)) * np.geomspace(1, 0.1, F))
    return (mean + scale * mixed).astype(np.float32)


cases = {
    "same size": (vectors(60, 6), vectors(60, 6, 0.5)),
    "other sizes": (vectors(40, 8), vectors(90, 8, -1, 3)),
    "two features": (vectors(30, 2), vectors(20, 2)),
    "far from the origin": (vectors(50, 5, 1000), vectors(50, 5, 1001)),
    "wide": (vectors(100, 24), vectors(70, 24, 0.2)),
    "few vectors of many numbers": (vectors(8, 20), vectors(12, 20, 0.3)),
    "two vectors": (vectors(2, 4), vectors(2, 4)),
}
flat = vectors(40, 6)
flat[:, 3], flat[:, 4] = 7, flat[:, 0] - flat[:, 1]         # one number is constant, one follows from others
cases["flat"] = (flat, vectors(50, 6, 1))
for name, (a, b) in cases.items():
    A, B = a.astype(np.float64), b.astype(np.float64)
    difference = A.mean(0) - B.mean(0)
    S, T = np.cov(A, rowvar=False), np.cov(B, rowvar=False)
    centred = ((X - X.mean(0)) / np.sqrt(len(X) - 1) for X in (A, B))
    root = scipy.linalg.svdvals(np.dot(*(X if i == 0 else X.T for i, X in enumerate(centred)))).sum()
    if min(np.linalg.matrix_rank(S), np.linalg.matrix_rank(T)) == S.shape[0]:
        by_sqrtm = np.trace(scipy.linalg.sqrtm(S @ T).real)
        assert abs(by_sqrtm - root) < 1e-10 * root, name
        root = by_sqrtm
    distance = difference @ difference + np.trace(S) + np.trace(T) - 2 * root
    print(f"{name}: {distance:.6f}")
    golden.update({f"{name}/a": a, f"{name}/b": b, f"{name}/distance": np.float64(distance)})
np.savez_compressed(Path(__file__).parent / "frechet.npz", **golden)
