"""Is an input like those that a network was trained on (out-of-distribution detection)? Shown a
digit, a captioner of faces describes a face, and need not be unsure of it."""
import torch

FEWEST = 200        # vectors that must be there, to know what is typical
RIDGE = 0.01        # of the mean variance, added in every direction


def fit_typical(vectors, held_out):
    """What typical vectors are like: {"mean": (C,), "inverse": (C, C), "limit": a number}. None if
    there are fewer than FEWEST.

    vectors: (N, C), a network's inner vectors of N things that it has learnt from. Their mean μ is
    kept, and the inverse of their covariance Σ; RIDGE times the mean variance is added to its
    diagonal first, so that it has an inverse. held_out: (M, C), the vectors of things of the same
    kind that it has not learnt from. The largest of their distances is the limit.
    """
    if len(vectors) < FEWEST:
        return None
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    covariance = centred.T @ centred / len(vectors)                     # (C, C)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mean), device=mean.device)
    # the pseudo-inverse, since all variances may be 0
    typical = {"mean": mean.cpu(), "inverse": torch.linalg.pinv(covariance + ridge).cpu()}
    typical["limit"] = distance_from(typical, held_out).max().item()
    return typical


def distance_from(typical: dict, vectors):
    """√((f − μ)ᵀ Σ⁻¹ (f − μ)), (N,), for vectors f (N, C): how far they are from the centre of the
    typical ones, in standard deviations along each direction (the Mahalanobis distance). About √C
    is usual. Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples
    and adversarial attacks", eq. 2, take minus its square, for the nearest of several classes."""
    centred = vectors.cpu() - typical["mean"]
    squares = ((centred @ typical["inverse"]) * centred).sum(dim=1)     # (N,)
    return squares.clamp(min=0).sqrt()
