"""Mixtures of normal distributions, fitted by expectation maximisation (for mini/vae.py).

Dempster, Laird & Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm";
Bishop 2006, "Pattern Recognition and Machine Learning", §9.2.2.
"""
import math

import torch


class Mixture:
    """A mixture of K normal distributions: p(z) = Σₖ wₖ N(z; mₖ, Σₖ).

    weights w (K,), means m (K, D), covs Σ (K, D, D), in float64.
    """

    def __init__(self, weights, means, covs):
        self.weights = weights
        self.means = means
        self.covs = covs

    def log_joint(self, z):
        """log wₖ N(z; mₖ, Σₖ) of each z (n, D) and each of the K distributions: (n, K)."""
        D = z.size(1)
        columns = []
        for w, m, cov in zip(self.weights, self.means, self.covs):
            L = torch.linalg.cholesky(cov)                              # Σ = L Lᵀ
            y = torch.linalg.solve_triangular(L, (z - m).T, upper=False)    # (D, n): L⁻¹ (z − m)
            log_det = 2 * L.diagonal().log().sum()                      # log |Σ|
            log_p = -((y**2).sum(dim=0) + log_det + D * math.log(2 * math.pi)) / 2
            columns.append(w.log() + log_p)                             # (n,)
        return torch.stack(columns, dim=1)

    def log_prob(self, z):
        """log p(z) of each z (n, D): (n,)."""
        return self.log_joint(z).logsumexp(dim=1)

    def sample(self, n: int, seed: int):
        """z (n, D), the same at every call: for each z one of the K distributions is drawn, then z
        from it."""
        rng = torch.Generator().manual_seed(seed)
        eps = torch.randn(n, self.means.size(1), generator=rng, dtype=torch.float64)
        k = torch.multinomial(self.weights, n, replacement=True, generator=rng)     # (n,)
        L = torch.linalg.cholesky(self.covs)[k]                         # (n, D, D)
        z = self.means[k] + (L @ eps[:, :, None]).squeeze(2)            # (n, D, 1) -> (n, D)
        return z.float()

    def state(self) -> dict:
        """What a checkpoint keeps: Mixture(**state) is the same mixture."""
        return {"weights": self.weights, "means": self.means, "covs": self.covs}


def em_step(mixture: Mixture, z):
    """A mixture under which z (n, D) is more probable, and the mean log p(z) under the old one."""
    # E: how probable is it that z comes from distribution k? r = p(k|z)
    log_joint = mixture.log_joint(z)                            # (n, K)
    log_p = log_joint.logsumexp(dim=1, keepdim=True)            # (n, 1)
    r = (log_joint - log_p).exp()                               # (n, K), each row sums to 1

    # M: each distribution gets the mean and the covariance of its share of all z
    n_k = r.sum(dim=0).clamp(min=1e-6)                          # (K,): how many z it has
    means = r.T @ z / n_k[:, None]                              # (K, n) @ (n, D) -> (K, D)
    covs = []
    for k in range(len(n_k)):
        centred = z - means[k]
        covs.append((r[:, k] * centred.T) @ centred / n_k[k])   # (D, n) @ (n, D) -> (D, D)
    covs = torch.stack(covs) + 1e-6 * torch.eye(z.size(1))      # so that each has an inverse
    return Mixture(n_k / n_k.sum(), means, covs), log_p.mean().item()


def fit_mixture(z, n_components: int, seed: int, max_rounds: int = 100) -> Mixture:
    """A mixture fitted to z (n, D) by rounds of `em_step`, until one raises log p(z) by less than
    0.01 nats. At first its means are some of the z, and each covariance is that of all z."""
    z = z.double()
    n, D = z.shape
    rng = torch.Generator().manual_seed(seed)
    means = z[torch.randperm(n, generator=rng)[:n_components]]
    K = len(means)
    centred = z - z.mean(dim=0)
    cov = centred.T @ centred / n + 1e-6 * torch.eye(D)                 # of all z
    mixture = Mixture(torch.ones(K).double() / K, means, cov.expand(K, D, D))

    before = -math.inf
    for _ in range(max_rounds):
        mixture, log_p = em_step(mixture, z)
        if log_p - before < 0.01:
            break
        before = log_p
    return mixture
