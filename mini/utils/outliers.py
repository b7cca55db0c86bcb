"""Is something like what a network has learnt from? A network answers any question: shown a digit,
a captioner of faces describes a face. The probability of its answer hardly gives it away."""
import torch

FEWEST = 200        # vectors that must be there, to know what is typical
RIDGE = 0.01        # of the mean variance, added in every direction


def fit_typical(vectors, others):
    """What typical vectors are like: {"mean": (C,), "inverse": (C, C), "limit": a number}. None if
    there are fewer than FEWEST.

    vectors: (N, C), a network's inner vectors of N things that it has learnt from. Their mean μ is
    kept, and the inverse of their covariance Σ, to which RIDGE is added first: else there may be
    none. others: (M, C), the vectors of such things that it has not learnt from. The largest of
    their distances is the limit.
    """
    if len(vectors) < FEWEST:
        return None
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    covariance = centred.T @ centred / len(vectors)                     # (C, C)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mean), device=mean.device)
    typical = {"mean": mean.cpu(), "inverse": torch.linalg.pinv(covariance + ridge).cpu()}
    typical["limit"] = distance_from(typical, others).max().item()
    return typical


def distance_from(typical: dict, vectors):
    """√((f − μ)ᵀ Σ⁻¹ (f − μ)), (N,), for vectors f (N, C): how far they are from the centre of the
    typical ones, in standard deviations along each direction (the Mahalanobis distance). So do Lee
    et al. 2018, "A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks", eq. 2, here with one class."""
    centred = vectors.cpu() - typical["mean"]
    squares = ((centred @ typical["inverse"]) * centred).sum(dim=1)     # (N,)
    return squares.clamp(min=0).sqrt()
