"""mini/vae.py against torch.distributions, numerical integration of a model whose evidence is known, mixtures that are
known, a network and a training loop written out here, and the classic bugs."""
import csv
import functools
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import (Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal, Normal,
                                 kl_divergence)

from mini import vae
from mini.data.images import image_sets
from mini.studies import vae as study
from mini.utils import device
from mini.utils.images import in_batches, noise, plane, to_float
from mini.utils.judge import Judge
from mini.utils.mixture import Mixture, em_step, fit_mixture
from mini.utils.optim import muon_and_adam, newton_schulz
from mini.utils.png import read_png
from tests import helpers
from tests.helpers import alike, cheap_judges, find_text, normal, read_sheet, refused_by

TINY = dict(size=16, n_images=64, z_dim=3, width=4, batch_size=4, steps=4, n=8, log_every=1, sample_every=2,
            eval_every=2, device="cpu", matmul="highest")
FACES = image_sets.ATTRIBUTES


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "vae") as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 4 steps, not to be written to."""
    return place / "trained", vae.train(tiny(place, out_dir=str(place / "trained")))


@pytest.fixture(scope="module")
def lively(trained):
    """The folder of a run whose z matters: of its three numbers two tell much, and one nothing."""
    folder, x = shutil.copytree(trained[0], trained[0].with_name("lively")), to_float(load()[0].images)
    net, state = loaded(folder)
    for seed in range(40):                          # BatchNorm gets to know what comes from N(0, 1)
        net.train()(x, noise(64, 3, seed)), net.decode(noise(64, 3, seed))
    *_, to_z, _ = net.encoder.parameters()          # weight and bias of the last layer
    to_z.mul_(torch.tensor([2.0, 2, 0.02, 1, 1, 1]).view(6, *[1] * (to_z.ndim - 1)))
    *_, to_pixels, _ = net.decoder.parameters()
    to_pixels.mul_(2)
    state["model"] = net.state_dict()
    state["mixture"] = study.standard_normal(3).state()
    torch.save(state, folder / "checkpoint.pt")
    return folder


@pytest.fixture
def arrays(tmp_path):
    """Images of noise in files, gray, 13 × 13: without labels; and with three, of which one is seldom."""
    images = np.random.default_rng(0).integers(0, 256, (40, 13, 13), dtype=np.uint8)
    np.save(tmp_path / "gray.npy", images)
    np.savez(tmp_path / "gray.npz", images=images, labels=np.maximum(np.arange(40) % 2, 2 * (np.arange(40) == 6)))
    return tmp_path


def tiny(folder=None, **changes):
    return vae.Config(**{**TINY, "out_dir": f"{folder}/run", **changes})


def command(folder, *args):
    return vae.main([*args, f"--out_dir={folder}", "--device=cpu", "--matmul=highest"])


def load(data="faces", size=16):
    return image_sets.load_images(str(data), size, 64)


def loaded(folder):
    """(network, outside training; checkpoint)."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    net = vae.VAE(vae.Config(**state["config"]), *state["shape"][:2])
    net.load_state_dict(state["model"])
    return net.eval().requires_grad_(False), state


def read_log(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def close(a, b, tolerance=1e-10):
    helpers.close(a, b, tolerance)


def spread(net):
    """Weights such that every part of a network matters, and none is zero."""
    for i, p in enumerate(net.parameters()):
        p.data = normal(*p.shape, seed=i, dtype=p.dtype) * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5)
    return net


def log_prob(x, x_hat, var, likelihood):
    """log p(x|z) of each image, by torch.distributions."""
    p = Normal(x_hat, var**0.5) if likelihood == "gaussian" else Bernoulli(logits=x_hat, validate_args=False)
    return p.log_prob(x if likelihood == "gaussian" else (x + 1) / 2).sum((1, 2, 3))


# ---- the two terms
def test_both_terms_equal_torch_distributions():
    """For each image sums over all pixels, or all of z: a mean would shift the balance. KL is 0 only for N(0, 1)."""
    x = normal(4, 3, 5, 6).tanh()
    mean = normal(4, 3, 5, 6, seed=1)
    for var in (torch.tensor(0.3, dtype=torch.float64), normal(4, 3, 5, 6, seed=2).exp()):
        want = log_prob(x, mean, var, "gaussian")
        close(vae.log_normal(x, mean, var), want)
        close(vae.log_normal(x.float(), mean.float(), var.float()), want.float(), 1e-5)
    for shades in (x, x.sign()):
        close(vae.Bernoulli().log_prob(shades, mean), log_prob(shades, mean, None, "bernoulli"))
    mu = normal(6, 5)
    logvar = 2 * normal(6, 5, seed=1)
    want = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
    close(vae.kl_divergence(mu, logvar), want)
    close(vae.kl_divergence(mu.float(), logvar.float()), want.float(), 1e-5)
    assert (vae.kl_divergence(torch.zeros(3, 5), torch.zeros(3, 5)) == 0).all() and (want > 0).all()


# ---- a model whose evidence is known: z ~ N(0, 1), x|z ~ N(1.3 z − 0.4, 0.25), so x ~ N(−0.4, 1.3² + 0.25)
POSTERIORS = {"another": (lambda x: 0.3 + 0.2 * x, 0.5), "exact": (lambda x: 1.3 * (x + 0.4) / 1.94, 0.25 / 1.94)}


class Line:
    """The model in place of a VAE; q(z|x) is normal, with this mean and variance."""
    def __init__(self, q="another"):
        self.mu_of, self.var_of_q = POSTERIORS[q]
        self.likelihood = vae.Gaussian().eval()
        self.likelihood.var = torch.tensor(0.25, dtype=torch.float64)

    def encode(self, x):
        return self.mu_of(x), torch.full_like(x, math.log(self.var_of_q))

    def decode(self, z):
        return 1.3 * z - 0.4

    def __call__(self, x, eps):
        return vae.VAE.forward(self, x, eps)


def integrals(x, q):
    """log p(x), the ELBO and the bound with two z, by the trapezoidal rule in numpy."""
    def density(x, mean, var):
        return np.exp(-(x - mean)**2 / (2 * var)) / np.sqrt(2 * np.pi * var)

    (mu, var), (z, step) = POSTERIORS[q], np.linspace(-7, 7, 561, retstep=True)
    z = z[density(z, mu(x), var) > 1e-30]
    q, joint = density(z, mu(x), var), density(x, 1.3 * z - 0.4, 0.25) * density(z, 0, 1)
    w = joint / q
    two = (q[:, None] * q * np.log((w[:, None] + w) / 2)).sum() * step**2
    return np.log(joint.sum() * step), (q * np.log(w)).sum() * step, two


@pytest.mark.parametrize("q", POSTERIORS)
@pytest.mark.parametrize("x", [-2.0, 0.3, 1.9])
def test_the_bounds_equal_numerical_integration(x, q, monkeypatch):
    """The ELBO, as elbo_terms has it and as the bound with one z; and the bound with two, nearer to log p(x). A mean
    of logarithms, a sum not divided by k, one z twice. With the exact q, p(x, z) / q(z|x) is p(x) for every z."""
    log_evidence = -(x + 0.4)**2 / (2 * 1.94) - math.log(2 * math.pi * 1.94) / 2
    evidence, elbo, two = integrals(x, q)
    assert evidence == pytest.approx(log_evidence, abs=1e-10)
    assert elbo < two < evidence if q == "another" else elbo == pytest.approx(log_evidence, abs=1e-10)
    eps = torch.linspace(-8, 8, 161, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(eps).exp() * 0.1
    log_p, rate = vae.elbo_terms(Line(q), torch.full((161, 1), x, dtype=torch.float64), eps[:, None])
    assert (weights * (log_p - rate)).sum().item() == pytest.approx(elbo, abs=1e-10)
    for k, want in ((1, elbo), (2, two)):
        zs = iter(torch.cartesian_prod(*[eps] * k).view(-1, k, 1).unbind(1))
        monkeypatch.setattr(torch, "randn", lambda shape, **_: next(zs))
        bound = study.tighter_bound(Line(q), torch.full((161**k, 1), x, dtype=torch.float64), k, None)
        assert (functools.reduce(torch.kron, [weights] * k) * bound).sum().item() == pytest.approx(want, abs=1e-10)
        assert q == "another" or (bound - log_evidence).abs().max() < 1e-10


def test_the_bound_tightens_and_gets_to_the_evidence():
    """Means over 4,000 draws: each larger than the one before, none above log p(x) but by chance."""
    x, rng, means = torch.full((4000, 1), 1.2, dtype=torch.float64), torch.Generator().manual_seed(0), []
    for k in (1, 2, 4, 16, 64, 500):
        bound = study.tighter_bound(Line(), x, k, rng)
        means.append(bound.mean().item())
        assert means[-1] < integrals(1.2, "exact")[0] + 4 * bound.std() / 4000**0.5
    assert (np.diff(means) > 0).all() and abs(means[-1] - integrals(1.2, "exact")[0]) < 0.005


# ---- the mixture
def known_mixture():
    """Three normal distributions in the plane that overlap little."""
    factors = torch.tensor([[[1, 0], [0, 1]], [[0.5, 0], [0.4, 0.1]], [[0.2, 0], [-0.6, 0.8]]], dtype=torch.float64)
    return Mixture(weights=torch.tensor([2, 3, 5]).double() / 10,
                       means=torch.tensor([[0, 0], [6, 1], [-2, 7]]).double(),
                       covs=factors @ factors.mT)


def by_torch(mixture):
    return MixtureSameFamily(Categorical(mixture.weights), MultivariateNormal(mixture.means, mixture.covs))


def test_a_mixture_has_the_density_that_torch_gives_it():
    z = 4 * normal(50, 2)
    close(known_mixture().log_prob(z), by_torch(known_mixture()).log_prob(z))
    close(study.standard_normal(5).log_prob(normal(50, 5)), Normal(0.0, 1.0).log_prob(normal(50, 5)).sum(1))


def test_the_linear_model_is_probabilistic_pca():
    """log p(x) by its covariance, written out; new images are spread as it says, but for the noise of each pixel."""
    torch.manual_seed(0)
    spread = torch.cat([torch.tensor([0.5, 0.35, 0.25]), torch.linspace(0.06, 0.03, 9)])
    axes = torch.linalg.qr(torch.randn(12, 12))[0]
    train, x = (((torch.randn(n, 12) * spread) @ axes.T * 0.4 + 0.1).view(n, 3, 2, 2) for n in (500, 40))
    log_p, new = study.linear_model(train, x, z_dim=3, n=20_000, seed=0)
    flat = train.flatten(1).double()
    mean, cov = flat.mean(0), torch.cov(flat.T, correction=0)
    variances, directions = torch.linalg.eigh(cov)
    sigma2 = variances[:9].mean()
    along = directions[:, 9:]
    signal = along @ torch.diag(variances[9:] - sigma2) @ along.T
    normal = torch.distributions.MultivariateNormal(mean, signal + sigma2 * torch.eye(12).double())
    assert log_p == pytest.approx(normal.log_prob(x.flatten(1).double()).mean().item(), abs=1e-4)
    assert new.shape == (20_000, 3, 2, 2) and new.dtype == torch.float32 and new.abs().max() < 1
    assert (new.flatten(1).mean(0) - mean).abs().max() < 0.005
    assert (torch.cov(new.flatten(1).T) - signal).abs().max() < 0.03 * signal.abs().max()
    # it is the best of its kind: W and sigma changed a little make the training images less probable
    best = normal.log_prob(flat).mean()
    for factor in (0.95, 1.05):
        for changed in (factor * signal + sigma2 * torch.eye(12), signal + factor * sigma2 * torch.eye(12)):
            assert torch.distributions.MultivariateNormal(mean, changed).log_prob(flat).mean() < best



def test_samples_of_a_mixture_have_its_mean_and_its_covariance():
    """L and Lᵀ mixed up, one component for all z, a variance taken for a standard deviation."""
    mixture = known_mixture()
    z = mixture.sample(200_000, seed=1)
    assert z.dtype == torch.float32 and torch.equal(z, mixture.sample(200_000, seed=1))
    nearest = torch.cdist(z.double(), mixture.means).argmin(dim=1)
    for k in range(3):
        mine = z[nearest == k].double()                         # nearly all of them are of distribution k
        assert len(mine) / len(z) == pytest.approx(mixture.weights[k].item(), abs=0.01)
        assert (mine.mean(0) - mixture.means[k]).abs().max() < 0.02
        assert (mine.T.cov() - mixture.covs[k]).abs().max() < 0.05


def test_a_mixture_is_found_again():
    """Fitted to many z of a mixture that is known, it is that mixture, in some order."""
    known = known_mixture()
    found = fit_mixture(known.sample(20_000, seed=2), n_components=3, seed=0)
    order = torch.cdist(known.means, found.means).argmin(dim=1)
    assert order.sort().values.tolist() == [0, 1, 2]
    assert (found.weights[order] - known.weights).abs().max() < 0.01
    assert (found.means[order] - known.means).abs().max() < 0.05
    assert (found.covs[order] - known.covs).abs().max() < 0.1


@pytest.mark.parametrize("n_components", [1, 4, 20])
def test_em_never_lowers_the_likelihood(n_components):
    """That is its theorem. A wrong responsibility, mean or covariance breaks it sooner or later."""
    z = torch.cat([normal(150, 3), 0.3 * normal(100, 3, seed=1) + 2, normal(50, 3, seed=2) ** 3])
    mixture = fit_mixture(z, n_components, seed=0, max_rounds=1)
    before = mixture.log_prob(z).mean().item()
    first = before
    for _ in range(60):
        mixture, of_old = em_step(mixture, z)
        assert of_old == pytest.approx(before, abs=1e-9)
        before = mixture.log_prob(z).mean().item()
        assert before >= of_old - 1e-5                          # 1e-6 is added to each variance
        assert mixture.weights.sum().item() == pytest.approx(1)
    assert before > first + 0.1 or n_components == 1


def test_one_distribution_is_the_mean_and_the_covariance():
    z = normal(200, 4) @ normal(4, 4, seed=1) + 3
    mixture = fit_mixture(z, n_components=1, seed=0)
    close(mixture.means[0], z.mean(0))
    close(mixture.covs[0], z.T.cov(correction=0), 1e-5)


@pytest.mark.parametrize("n, D, K", [(1, 3, 30), (2, 3, 30), (40, 8, 30), (50, 2, 50)])
def test_a_mixture_of_few_or_equal_codes_is_finite(n, D, K):
    """Fewer codes than distributions, or all alike, as when no image tells anything."""
    for z in (normal(n, D), torch.ones(n, D)):
        mixture = fit_mixture(z, K, seed=0)
        assert mixture.sample(8, seed=0).isfinite().all() and mixture.log_prob(z.double()).isfinite().all()


def test_the_prior_is_fitted_to_z_not_to_mu():
    """z ~ q(z|x), with its noise: the spread of mu alone would be too small."""
    net = vae.VAE(tiny(), 3, 16).eval()
    mu = normal(5000, 3, dtype=torch.float32)
    net.encode = lambda x: (mu[:len(x)], torch.full_like(mu[:len(x)], math.log(4.0)))
    mixture = vae.fit_prior(net, torch.zeros(256, 3, 16, 16), n_components=1)
    assert (mixture.covs[0].diagonal() > 3).all()               # 1 + 4, if there are many


# ---- the network
class Written:
    """The layout, in torch's functional forms, with copies of a network's weights and buffers."""

    def __init__(self, net, cfg, S):
        self.cfg, self.S, self.training = cfg, S, net.training
        self.p = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.weights = [self.p[name].requires_grad_() for name, _ in net.named_parameters()]

    def norm(self, h, name):
        assert h.size(1) == self.cfg.width * self.S // 2 // h.size(2)
        rest = [self.p[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(h, *rest, self.training)

    def encode(self, x):
        before = (self.S - x.size(2)) // 2
        h, i = F.pad(x, (before, self.S - x.size(2) - before) * 2, mode="replicate"), 0
        while h.size(2) > 4:
            h = self.norm(F.conv2d(h, self.p[f"encoder.layers.{i}.weight"], stride=2, padding=1), f"encoder.layers.{i + 1}")
            h, i = torch.where(h > 0, h, 0.2 * h), i + 3
        h = F.conv2d(h, self.p[f"encoder.layers.{i}.weight"], self.p[f"encoder.layers.{i}.bias"])[:, :, 0, 0]
        return h[:, :self.cfg.z_dim], h[:, self.cfg.z_dim:]

    def decode(self, z, size):
        h, i, before = F.conv_transpose2d(z[:, :, None, None], self.p["decoder.layers.0.weight"]), 3, (self.S - size) // 2
        h = self.norm(h, "decoder.layers.1").clamp(min=0)
        while h.size(2) < self.S:
            h = F.conv_transpose2d(h, self.p[f"decoder.layers.{i}.weight"], stride=2, padding=1)
            h, i = self.norm(h, f"decoder.layers.{i + 1}").clamp(min=0), i + 3
        h = F.conv2d(h, self.p[f"decoder.layers.{i}.weight"], self.p[f"decoder.layers.{i}.bias"], padding=1)
        return h[:, :, before:before + size, before:before + size]

    def terms(self, x, eps):
        mu, logvar = self.encode(x)
        x_hat, var = self.decode(mu + eps * logvar.exp()**0.5, x.size(2)), self.p.get("likelihood.var")
        if self.training and self.cfg.likelihood == "gaussian":
            var = ((x - x_hat)**2).mean().detach()
            self.p["likelihood.var"] = 0.95 * self.p["likelihood.var"] + 0.05 * var
        rate = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
        return log_prob(x, x_hat, var, self.cfg.likelihood), rate


@pytest.mark.paper
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("C, size, S", [(3, 16, 16), (1, 28, 32), (3, 13, 16), (3, 32, 32), (1, 64, 64)])
def test_network(C, size, S, likelihood, double):
    """Both terms and all gradients, weighted by image, so that none may pass through s²; in training with the batch's
    numbers, then with the running ones that it has left. The bound, too, with new z for each image and each k."""
    cfg = tiny(likelihood=likelihood, width=2)
    net, x = spread(vae.VAE(cfg, C, size)), normal(3, C, size, size).tanh()
    eps, rng = normal(3, 3), torch.Generator()
    for training in (True, False):
        written = Written(net.train(training), cfg, S)
        mix, own, other = normal(2, 3, seed=9), eps.clone().requires_grad_(), eps.clone().requires_grad_()
        got, want = torch.stack(vae.elbo_terms(net, x, own)), torch.stack(written.terms(x, other))
        close(got, want)
        for a, b in zip(torch.autograd.grad((got * mix).sum(), [own, *net.parameters()]),
                        torch.autograd.grad((want * mix).sum(), [other, *written.weights])):
            close(a, b, 1e-9)
        assert not any(buffer.requires_grad for buffer in net.buffers())
        for name, buffer in net.named_buffers():
            if "num_batches" not in name:
                close(buffer, written.p[name])
    mu, logvar = written.encode(x)
    close(torch.cat(net.encode(x)), torch.cat([mu, logvar]))
    q, log_w, _ = Normal(mu, (logvar / 2).exp()), [], rng.manual_seed(5)
    for _ in range(2):
        z = q.mean + q.stddev * torch.randn(3, 3, generator=rng)
        log_p = log_prob(x, written.decode(z, size), written.p.get("likelihood.var"), likelihood)
        log_w.append(log_p + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(1))
    close(study.tighter_bound(net, x, 2, rng.manual_seed(5)), torch.stack(log_w).logsumexp(0) - math.log(2))
    for p in net.decoder.layers[-1].parameters():          # drawn are means in [-1, 1], of a coin 2 p − 1
        p.data *= 30
    x_hat = 30 * written.decode(eps, size)
    close(vae.generate(net, eps), (x_hat / 2).tanh() if likelihood == "bernoulli" else x_hat.clamp(-1, 1))
    assert (x_hat.abs() > 1).any() and vae.generate(net, eps).shape == x.shape


@pytest.mark.paper
@pytest.mark.parametrize("C, size", [(1, 28), (3, 13)])
def test_the_papers_network(C, size, double):
    """Appendix C: μ, log σ² and the decoder's output are W₂ tanh(W₁ x + b₁) + b₂; colours and pixels keep their places."""
    cfg = tiny(network="mlp", width=7)
    net = spread(vae.VAE(cfg, C, size))
    x, eps = normal(3, C, size, size).tanh(), normal(3, 3)
    w = [p.detach() for p in net.parameters()]
    mu, logvar = (x.reshape(3, -1) @ w[0].T + w[1]).tanh().matmul(w[2].T).add(w[3]).split(3, dim=1)
    z = mu + eps * logvar.exp().sqrt()
    want = ((z @ w[4].T + w[5]).tanh() @ w[6].T + w[7]).reshape(3, C, size, size)
    for got, other in zip(net(x, eps), (want, mu, logvar)):
        close(got, other)
    assert sum(p.numel() for p in w) == 7 * (2 * C * size**2 + 1 + 6 + 3 + 1) + 6 + C * size**2


@pytest.mark.paper
def test_the_papers_preset(arrays):
    """Its network is trained, with one flag; Muon, which has no kernel to train there, is left out."""
    paper = vae.PRESETS["paper"]
    assert paper["likelihood"] == "bernoulli" and paper["prior"] == "standard" and paper["data"] == "mnist"
    gray = dict(data=f"{arrays}/gray.npy", size=0)
    for flags in (dict(paper, batch_size=8, **gray), dict(network="mlp", optimizer="muon", **gray)):
        result = vae.train(tiny(arrays, **flags))
        assert math.isfinite(result["elbo"])
    command(arrays / "run", "sample", "--prior=standard")


def test_s2_is_the_best_of_all(double):
    """Rybkin et al. 2021: with more than the batch's mean squared error, or less, log p(x|z) is lower."""
    net, x, eps = vae.VAE(tiny(), 3, 16), normal(4, 3, 16, 16).tanh(), normal(4, 3)
    net.decode = lambda z: x / 2
    log_p, mse = vae.elbo_terms(net, x, eps)[0], (x / 2).square().mean()
    close(log_p, log_prob(x, x / 2, mse, "gaussian"))
    assert all(log_prob(x, x / 2, mse * by, "gaussian").sum() < log_p.sum() for by in (0.98, 1.02))
    net.decode = lambda z: x                        # no error at all: s² is that of rounding to one of 256 shades
    close(vae.elbo_terms(net, x, eps)[0], torch.full((4,), -3 * 16 * 16 * math.log(2 * math.pi * vae.LEAST_VAR) / 2))
    assert vae.LEAST_VAR == pytest.approx((2 / 255)**2 / 12, rel=0.03)


def test_no_image_depends_on_the_others(double):
    """Not in `in_batches`, which takes the running numbers, leaves them alone, and keeps the order of images."""
    net = spread(vae.VAE(tiny(), 1, 16))
    images = torch.randint(0, 256, (600, 1, 16, 16)).byte()
    eps = normal(600, 3)
    vae.elbo_terms(net, normal(4, 1, 16, 16), normal(4, 3))
    before = {name: x.clone() for name, x in net.named_buffers()}
    together = in_batches(net, lambda x, eps: vae.elbo_terms(net, x, eps), images, eps)
    assert net.training and len(together) == 2 and not any(terms.requires_grad for terms in together)
    net.eval()
    for i in (0, 255, 256, 599):
        alone = vae.elbo_terms(net, images[i:i + 1] / 127.5 - 1, eps[i:i + 1])
        for terms, term in zip(together, alone):
            close(terms[i:i + 1], term.detach())
    assert all(torch.equal(x, before[name]) for name, x in net.named_buffers())


def test_mean_codes_by_plain_loops(monkeypatch):
    """A value that no image has, or a label that is not known, must not spoil the others."""
    labels = torch.tensor([[0, 2], [1, 0], [0, 0], [0, -1], [1, 2]])
    z = normal(5, 3)
    monkeypatch.setattr(study, "codes", lambda model, images: z.float())
    data = SimpleNamespace(labels=labels, images=None, attributes=dict(a="xy", b="xyz"))
    want = []
    for column, value in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        mine = [z[i] for i in range(5) if labels[i, column] == value]
        want.append(sum(mine) / max(1, len(mine)) if mine else torch.zeros(3))
    close(study.mean_codes(None, data), torch.stack(want).float(), 1e-5)


# ---- training
@pytest.mark.paper
@pytest.mark.parametrize("likelihood, beta, muon_lr", [("gaussian", 10.0, 0), ("gaussian", 1.0, 0.1),
                                                       ("bernoulli", 0.5, 0)])
def test_three_steps_equal_a_training_loop_written_out(likelihood, beta, muon_lr, arrays, double):
    """A wrong weight, rate or logged number; stale gradients; the same noise again; s² or a running mean not saved."""
    cfg = tiny(arrays, data=f"{arrays}/gray.npy", size=0, steps=3, likelihood=likelihood, beta=beta, lr=0.02, seed=7,
               optimizer="muon" if muon_lr else "adam", muon_lr=muon_lr or 1.0)
    vae.train(cfg)
    torch.manual_seed(cfg.seed)
    written, rng = Written(vae.VAE(cfg, 1, 13), cfg, 16), torch.Generator().manual_seed(cfg.seed)
    learn, rows = to_float(load(cfg.data, 0)[0].images), read_log(arrays / "run")
    kernels = [name for name in written.p if muon_lr and written.p[name].ndim == 4
               and not name.startswith(("encoder.layers.0.", "decoder.layers.9."))]
    optimizer = torch.optim.Adam([w for name, w in written.p.items() if w.requires_grad and name not in kernels])
    momentum = {name: 0.0 for name in kernels}
    for step in range(3):
        x, eps = learn[torch.randint(36, (4,), generator=rng)], torch.randn(4, 3, generator=rng)
        log_p, rate = written.terms(x, eps)
        loss = (beta * rate - log_p).sum() / 4
        optimizer.param_groups[0]["lr"] = 0.02 * (1, 2 / 3, 1 / 3)[step]
        optimizer.zero_grad()
        for name in kernels:
            written.p[name].grad = None
        loss.backward()
        optimizer.step()
        for name in kernels:                        # a kernel (rows, …) is a matrix
            w, grad = written.p[name].data, written.p[name].grad
            momentum[name] = 0.9 * momentum[name] + 0.1 * grad
            change = newton_schulz((0.1 * grad + 0.9 * momentum[name]).flatten(1)[None])[0]
            scale = max(1, change.size(0) / change.size(1)) ** 0.5
            w -= muon_lr * (1, 2 / 3, 1 / 3)[step] * scale * change.view_as(w)
        for key, value in dict(loss=loss, log_p=log_p.mean(), kl=rate.mean()).items():
            assert float(rows[step][key]) == pytest.approx(value.item(), rel=1e-9), (step, key)
    state = torch.load(arrays / "run/checkpoint.pt", weights_only=True)["model"]
    assert set(state) == set(written.p)
    for name in state:
        assert state[name] == 3 if "num_batches" in name else close(state[name], written.p[name].detach(), 1e-9) is None


def test_end_to_end(trained):
    """A run's files; scores of the last weights, not with a batch's BatchNorm; pictures from fixed z."""
    folder, result = trained
    learn, held_out = load()
    net, checkpoint = loaded(folder)
    assert result["parameters"] == sum(p.numel() for p in net.parameters())
    assert checkpoint["shape"] == (3, 16, FACES)

    rows = read_log(folder)
    assert [bool(row["val_elbo"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["val_elbo"]) == pytest.approx(result["elbo"], rel=1e-6)       # whatever beta
    log_p, kl = vae.elbo_terms(net, to_float(held_out.images), noise(64, 3, 1))
    for key, value in dict(log_p=log_p, kl=kl, elbo=log_p - kl).items():
        assert result[key] == pytest.approx(value.double().mean().item(), rel=1e-5)

    mixture = Mixture(**checkpoint["mixture"])
    fitted_to_last_weights = vae.fit_prior(net, learn.images, vae.Config.components)
    for name, tensor in fitted_to_last_weights.state().items():
        close(mixture.state()[name], tensor, 1e-5)
    made = net.decode(mixture.sample(64, seed=1)).clamp(-1, 1)
    judge = Judge(tiny(), learn, held_out, n=512)
    assert result["frechet_n"] == 64
    assert result["frechet"] == pytest.approx(judge.frechet(made), rel=1e-3)
    assert result["frechet_untrained"] != pytest.approx(result["frechet"], rel=1e-2)

    shown = net.decode(mixture.sample(8, seed=1)).clamp(-1, 1)
    assert alike(read_sheet(folder / "samples/step_000004.png")[0], shown)
    assert not alike(read_sheet(folder / "samples/step_000002.png")[0], shown)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("n, shades", [(40, 256), (20, 1), (1, 256)])
def test_the_baseline_by_hand(n, shades, likelihood, tmp_path, capsys):
    """The mean image of the training set, and what is left of its variance, for images held out; finite even where it
    is never wrong: all images black, or only one. With the smallest sizes there are."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, shades, (n, 13, 13), dtype=np.uint8))
    smallest = dict(z_dim=1, width=2, n=1, batch_size=2, beta=0.0, steps=1, size=0)
    result = vae.train(tiny(tmp_path, data=f"{tmp_path}/x.npy", likelihood=likelihood, **smallest))
    out, (learn, held_out) = capsys.readouterr().out, (x.images.double() / 255 for x in load(tmp_path / "x.npy", 0))
    mean = learn.mean(0)
    p, var = mean.clamp(1e-4, 1 - 1e-4), 4 * ((learn - mean)**2).mean().clamp(min=vae.LEAST_VAR / 4)
    want = held_out * p.log() + (1 - held_out) * (1 - p).log()
    if likelihood == "gaussian":
        want = -(4 * (held_out - mean)**2 / var + (2 * math.pi * var).log()) / 2
    assert result["mean_image"] == pytest.approx(want.sum().item() / len(held_out), rel=1e-5, abs=1e-3)
    assert all(f"{result[key]:.1f}" in out for key in ("elbo", "log_p", "kl", "mean_image"))
    assert command(tmp_path / "run", "evaluate")["used_of_z"]["of"] == 1 and math.isfinite(result["elbo"])


@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_every_weight_is_trained_once(network):
    """Not twice, by two optimisers, and none forgotten."""
    net = vae.VAE(tiny(network=network), 3, 16)
    trained = [p for each in muon_and_adam(net.encoder, net.decoder, 0.1, 0.1)
               for group in each.param_groups for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, net.parameters()))


def test_muon_trains_all_kernels_but_those_next_to_pixels():
    """Of a network of your own, too, whatever its layers are called."""
    conv = functools.partial(torch.nn.Conv2d, kernel_size=3)
    encoder = torch.nn.Sequential(conv(1, 2), conv(2, 3), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    decoder = torch.nn.Sequential(conv(4, 3), torch.nn.Sequential(conv(3, 2), conv(2, 1)), torch.nn.Tanh())
    muon, adam = ([p for group in each.param_groups for p in group["params"]]
                  for each in muon_and_adam(encoder, decoder, 0.1, 0.1))
    assert list(map(id, muon)) == list(map(id, (encoder[1].weight, decoder[0].weight, decoder[1][0].weight)))
    assert len(adam) == 12 - 3


def test_overfits_one_batch():
    """Four faces, each with its own place in z: the error falls to a tenth. Another network may need more steps."""
    torch.manual_seed(1)
    net = vae.VAE(tiny(width=16, z_dim=8), 3, 16)
    x = to_float(load()[0].images[:4])
    eps = normal(4, 8, dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    errors = []
    while len(errors) < 800 and not (errors and errors[-1] < 0.1 * errors[0]):
        log_p, kl = vae.elbo_terms(net, x, eps)
        optimizer.zero_grad()
        (0.1 * kl - log_p).mean().backward()        # little, so that no network forgets z at the start
        optimizer.step()
        errors.append((x - net.decode(net.encode(x)[0])).square().mean().item())
    assert errors[-1] < 0.1 * errors[0]


def test_images_without_labels(arrays, capsys):
    """Gray, of 13 × 13 pixels: they are enough, but there is no judge, and no attribute to change."""
    result, run = vae.train(tiny(arrays, data=f"{arrays}/gray.npy", size=0, steps=2)), arrays / "run"
    assert "no Fréchet distance" in capsys.readouterr().out and "frechet" not in result
    assert torch.load(run / "checkpoint.pt", weights_only=True)["shape"] == (1, 13, {})
    for show, rows in (("samples", 1), ("reconstruct", 2), ("walk", 1)):
        command(run, "sample", f"--show={show}")
        assert read_sheet(run / f"samples/{show}.png", size=13).shape == (rows, 8, 1, 13, 13)
    assert "no image would change" in refused_by_main(capsys, "sample", f"--out_dir={run}", "--show=arithmetic")
    assert "no labels" in refused_by_main(capsys, "sample", f"--out_dir={run}", "--show=arithmetic", "--hair=red")
    assert list(command(run, "evaluate")) == ["log_p(x)_at_least", "used_of_z", "log_p(z)_of_validation_codes"]


def test_one_attribute_with_a_value_that_is_not_held_out(arrays):
    """No row for what cannot be counted: that value, and other attributes, of which there are none."""
    vae.train(tiny(arrays, data=f"{arrays}/gray.npz", size=0, steps=1))
    assert load(arrays / "gray.npz", 0)[1].labels.unique().tolist() == [0, 1]
    tables = command(arrays / "run", "evaluate")
    assert list(tables["read_as_changed"]) == ["label: 0 → 1", "label: 1 → 2"] and "others_kept" not in tables
    assert all(math.isfinite(value) for rows in tables.values() for value in rows.values())


def test_presets_and_bfloat16(tmp_path, monkeypatch):
    """The preset fits the network. In training its products are in bfloat16, in evaluation not; sums stay in float32."""
    cfg, outside, inside = vae.Config(**vae.PRESETS["gpu"]), set(), set()
    assert vae.VAE(cfg, 3, cfg.size).encode(torch.zeros(2, 3, 64, 64))[0].shape == (2, cfg.z_dim)
    monkeypatch.setattr(device, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    forward, decode = vae.VAE.forward, vae.ConvDecoder.forward
    monkeypatch.setattr(vae.VAE, "forward",
                        lambda *args: (out := forward(*args), outside.update(x.dtype for x in out))[0])
    monkeypatch.setattr(vae.ConvDecoder, "forward",
                        lambda net, z: (out := decode(net, z), inside.add((net.training, out.dtype)))[0])
    vae.train(tiny(tmp_path, steps=2))
    assert outside == {torch.float32} and inside == {(True, torch.bfloat16), (False, torch.float32)}


# ---- sample and evaluate
def codes(net, images):
    return net.encode(to_float(images))[0]


def test_samples(lively, capsys, monkeypatch):
    """From z of the mixture that was saved, or from N(0, 1) if asked, the same at every call with a seed; the data are not needed."""
    monkeypatch.setattr(vae, "load_images", lambda *_: pytest.fail("the data are not needed"))
    net, path = loaded(lively)[0], lively / "samples/samples.png"
    for seed in (1, 2, 1):
        command(lively, "sample", f"--seed={seed}", "--n=16")
        got = read_sheet(path).flatten(0, 1)
        assert alike(got, net.decode(study.standard_normal(3).sample(16, seed))) and f"wrote {path}" in capsys.readouterr().out
    command(lively, "sample", "--prior=standard", "--n=16")
    assert alike(read_sheet(path).flatten(0, 1), net.decode(noise(16, 3, 1)))
    assert got.std(0).mean() > 0.05                 # these weights draw different pictures, here and below


def test_a_mixture_that_was_not_asked_for_in_training(tmp_path, monkeypatch):
    """It is fitted only to be drawn from: not in a run with --prior=standard, but when `sample` asks for it, also to go on."""
    with monkeypatch.context() as patch:
        patch.setattr(vae, "fit_prior", lambda *_: pytest.fail("nobody has asked for a mixture"))
        vae.train(tiny(tmp_path, steps=3, prior="standard"))
        command(tmp_path / "run", "sample")
    net, state = loaded(tmp_path / "run")
    assert state["mixture"] is None and alike(read_sheet(tmp_path / "run/samples/samples.png")[0], net.decode(noise(8, 3, 1)))
    command(tmp_path / "run", "sample", "--prior=mixture")
    z = vae.fit_prior(net, load()[0].images, vae.Config.components).sample(8, 1)
    assert alike(read_sheet(tmp_path / "run/samples/samples.png")[0], net.decode(z))
    vae.main(["--resume", "--prior=mixture", f"--out_dir={tmp_path}/run", "--steps=3"])      # only the scores
    vae.main(["--resume", "--prior=mixture", f"--out_dir={tmp_path}/run", "--steps=4"])
    assert loaded(tmp_path / "run")[1]["mixture"]


def test_reconstructions(lively, tmp_path):
    """Held-out images, exact, each above what is decoded from its μ. What to show may have been said in training."""
    command(lively, "sample", "--show=reconstruct", "--n=24")
    shown = read_sheet(lively / "samples/reconstruct.png").view(3, 2, 8, 3, 16, 16)
    net, x = loaded(lively)[0], load()[1].images[:24]
    for i, want in enumerate(net.decode(codes(net, x))):
        given, decoded = shown[i % 3, :, i // 3]
        assert alike(given, to_float(x[i])) and alike(decoded, want)
    vae.train(tiny(tmp_path, show="reconstruct", steps=1))
    command(tmp_path / "run", "sample")
    assert read_sheet(tmp_path / "run/samples/reconstruct.png").shape[:2] == (2, 8)


@pytest.mark.parametrize("n, rows", [(5, 1), (24, 3)])
def test_a_walk_leads_from_one_held_out_image_to_the_next(n, rows, lively):
    command(lively, "sample", "--show=walk", f"--n={n}")
    shown, net = read_sheet(lively / "samples/walk.png"), loaded(lively)[0]
    mu = codes(net, load()[1].images)
    z = [((7 - i) * mu[row] + i * mu[row + 1]) / math.hypot(7 - i, i) for row in range(rows) for i in range(8)]
    assert alike(shown.flatten(0, 1), net.decode(torch.stack(z))) and not alike(shown[0, 0], shown[0, 7])


def test_a_map(tmp_path):
    """Columns and rows at equal shares of N(0, 1): the first number grows to the right, the second upwards. `plane`
    puts each point in the middle of a cell, all of equal probability; at most n of them."""
    for n in (1, 3, 4, 24, 25, 64, 200):
        z, k = plane(n)
        share, row = Normal(0.0, 1.0).cdf(z.double()).view(k, k, 2), (torch.arange(k).double() + 0.5) / k
        assert k == int(n**0.5)
        assert (share[..., 0] - row).abs().max() < 1e-6 and (share[..., 1] - (1 - row)[:, None]).abs().max() < 1e-6
    vae.train(tiny(tmp_path, z_dim=2, steps=20, beta=0.1))
    command(tmp_path / "run", "sample", "--show=map", "--n=11")
    shown, net = read_sheet(tmp_path / "run/samples/map.png", columns=3), loaded(tmp_path / "run")[0]
    at = Normal(0.0, 1.0).icdf(torch.tensor([1 / 6, 3 / 6, 5 / 6]))
    z = [[at[column], at[2 - row]] for row in range(3) for column in range(3)]
    assert alike(shown.flatten(0, 1), net.decode(torch.tensor(z)))
    assert not alike(shown[0, 0], shown[0, 2]) and not alike(shown[0, 0], shown[2, 0])


@pytest.mark.parametrize("asked", [dict(glasses="round"), dict(hair="red", mouth="open")], ids=str)
def test_arithmetic(asked, lively):
    """From 0 to 7 fifths of the way, of the first held-out images that are not yet so; 5 fifths is the difference of
    the mean codes of the training images with the new value and of those with the old."""
    command(lively, "sample", "--show=arithmetic", "--n=24", *(f"--{key}={value}" for key, value in asked.items()))
    shown, net, (learn, held_out) = read_sheet(lively / "samples/arithmetic.png"), loaded(lively)[0], load()
    mu, z, want = codes(net, learn.images), codes(net, held_out.images), []
    for i in range(24):
        step = torch.zeros(3)
        for name, value in asked.items():
            column = learn.labels[:, list(FACES).index(name)]
            new, old = FACES[name].index(value), held_out.labels[i, list(FACES).index(name)]
            step += mu[column == new].mean(0) - mu[column == old].mean(0)
        want += [torch.stack([z[i] + j / 5 * step for j in range(8)])] if step.any() else []
    assert shown.shape[:2] == (3, 8) and all(alike(row, net.decode(z)) for row, z in zip(shown, want))
    assert not any(alike(row[0], row[5]) for row in shown)
    assert len(find_text(read_png(lively / "samples/arithmetic.png"), "7/5")) == 1          # above the last column


def test_evaluate(lively, monkeypatch, capsys):
    """Every number by hand. What the judge reads is made up here, from every pixel and every label asked for."""
    def read(model, images, labels):
        waves = (images.flatten(1).double() @ normal(768, 6, seed=3) / 10 + labels).sin()
        assert model == "the judge" and images.abs().max() <= 1
        return dict(zip(FACES, waves.mean(0).tolist()))

    monkeypatch.setattr(study, "Judge", lambda cfg, *data, n: SimpleNamespace(
        n=64, accuracy=functools.partial(read, "the judge"), frechet=lambda images: images.square().sum().item()))
    tables, net, (learn, held_out) = command(lively, "evaluate"), loaded(lively)[0], load()
    assert json.loads((lively / "evaluate.json").read_text()) == tables and "read as changed" in capsys.readouterr().out
    mu, z, x, labels = codes(net, learn.images), codes(net, held_out.images), to_float(held_out.images), held_out.labels
    rng = torch.Generator().manual_seed(1)
    bounds = {f"k = {k}": study.tighter_bound(net, x, k, rng).mean().item() for k in (1, 5, 50, 500)}
    assert tables["log_p(x)_at_least"] == pytest.approx(bounds, rel=1e-5)
    assert tables["used_of_z"] == {"numbers": 2, "of": 3} and (z.var(0) > 0.01).tolist() == [True, True, False]
    images = net.decode(z).clamp(-1, 1)
    priors = {"N(0, 1)": study.standard_normal(3)}
    priors |= {f"K = {K}": vae.fit_prior(net, learn.images, K) for K in (1, 10, 30, 60)}
    distances = {row: net.decode(prior.sample(64, 1)).clamp(-1, 1).square().sum().item() for row, prior in priors.items()}
    distances["encoded and decoded"] = images.square().sum().item()
    log_p, new = study.linear_model(to_float(learn.images), x, 3, 64, 1)
    distances["linear model"] = new.square().sum().item()
    assert tables["log_p(x)_of_a_linear_model"] == {"of all": pytest.approx(log_p, rel=1e-5)}
    assert tables["Fréchet_distance"] == pytest.approx(distances, rel=1e-4)
    mu_x, logvar = net.encode(x)
    codes_x = (mu_x + (logvar / 2).exp() * noise(64, 3, 1)).double()
    log_p = {row: prior.log_prob(codes_x).mean().item() for row, prior in priors.items()}
    assert tables["log_p(z)_of_validation_codes"] == pytest.approx(log_p, rel=1e-4)
    assert tables["read_right_if_only_decoded"] == pytest.approx(read("the judge", images, labels), abs=1e-5)
    changed, kept = {}, {}
    for column, (name, values) in enumerate(FACES.items()):
        for old in range(len(values)):
            new, mine = (old + 1) % len(values), labels[:, column] == old
            row, to = f"{name}: {values[old]} → {values[new]}", labels[mine].clone()
            to[:, column] = new
            step = mu[learn.labels[:, column] == new].mean(0) - mu[learn.labels[:, column] == old].mean(0)
            seen = read("the judge", net.decode(z[mine] + step).clamp(-1, 1), to)
            changed[row], kept[row] = seen.pop(name), sum(seen.values()) / 5
    assert tables["read_as_changed"] == pytest.approx(changed, abs=1e-4)
    assert tables["others_kept"] == pytest.approx(kept, abs=1e-4) and len(kept) == 21


# ---- bad input: one line, exit status 2, no traceback, nothing lost
def refused_by_main(capsys, *args):
    return refused_by(vae.main, capsys, *args, "--device=cpu")


@pytest.mark.parametrize("flag", ["z_dim=0", "width=1", "n=0", "batch_size=1", "lr=0", "lr=nan", "muon_lr=0", "components=0", "beta=-1", "beta=nan",
                                  "n_images=0", "size=7", "likelihood=poisson", "prior=flat", "optimizer=sgd", "show=nothing", "data=nowhere"])
def test_bad_sizes_and_names(flag, tmp_path, capsys):
    sizes = [f"--{key}={value}" for key, value in TINY.items() if not flag.startswith(f"{key}=")]
    err = refused_by_main(capsys, *sizes, f"--out_dir={tmp_path}/run", f"--{flag}")
    assert f"--{flag.split('=')[0]}" in err or "--beta at least 0, the others above 0" in err
    assert not (tmp_path / "run").exists()


def test_flags_and_data_that_do_not_fit(trained, arrays, capsys):
    run = ["sample", f"--out_dir={trained[0]}"]
    assert "--glasses=round" in refused_by_main(capsys, *run, "--show=arithmetic")     # what to add was not said
    assert "--z_dim=2" in refused_by_main(capsys, *run, "--show=map")
    assert "none, round, square" in refused_by_main(capsys, *run, "--show=arithmetic", "--glasses=oval")
    older = torch.load(trained[0] / "checkpoint.pt", weights_only=True)
    del older["mixture"]
    (arrays / "older").mkdir()
    torch.save(older, arrays / "older/checkpoint.pt")
    assert "no 'mixture'" in refused_by_main(capsys, "sample", f"--out_dir={arrays}/older")
    for args in (["sample", "--show=walk"], ["evaluate"], ["--resume"]):
        args = *args, f"--out_dir={trained[0]}", f"--data={arrays}/gray.npz"
        assert "another size" in refused_by_main(capsys, *args)
