"""mini/latent_diffusion.py against diffusers (tests/reference/latent.npz), torch's own
distributions, a distribution whose velocity is known exactly, and the classic bugs.

Tests marked `paper` know our networks, losses or samplers. Whoever changes one of them on purpose,
in a fork, leaves them out by -m "not paper". All others have to pass even so: with another autoencoder
that has encoder, decoder, mean and std, or with another network that is made by DiT(cfg, c, H) and
called by dit(xt, t, words, mask).
"""
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import latent_diffusion, text_to_image
from mini.data.images import captions
from mini.data.images.captions import Words
from mini.utils.images import to_float
from mini.utils.mixture import Mixture
from mini.utils.png import read_png, write_png
from tests.helpers import (alike, cheap_judges, close, learnt_by_heart, normal, own_captions,
                           read_sheet, refused_by, rng_of)

PAD = Words.PAD
TINY = dict(size=32, n_images=40, z_channels=4, ae_width=16, width=32, depth=2, n_layer=1, ae_batch_size=4,
            batch_size=4, steps=6, warmup=1, n=2, sample_steps=3, log_every=1, sample_every=3,
            eval_every=2, device="cpu", matmul="highest")
C = 3                           # colours
V = 12                          # words
L = 7                           # words in the longest prompt
GOLDEN = np.load(Path(__file__).parent / "reference/latent.npz")

paper = pytest.mark.paper


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "latent") as (folder, patch):
        patch.setattr(captions, "HELD_OUT", 64)
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 6 steps, 3 of each part; only its samples/ may be written to."""
    folder = place / "trained"
    return folder, latent_diffusion.train(tiny(out_dir=str(folder)))


def tiny(**changes):
    return latent_diffusion.Config(**{**TINY, "ae_share": 0.5, **changes})


def shake(net):
    """Some weights are 0 at first: change all of them, so that every part of a network matters."""
    for seed, weight in enumerate(net.parameters()):
        weight.data += 0.1 * normal(*weight.shape, seed=seed, dtype=weight.dtype)
    return net


def new_nets(**changes):
    return latent_diffusion.make_nets(tiny(**changes), C, V, L)["nets"]


def lively(**changes):
    """Networks with weights that matter."""
    return shake(new_nets(**changes))


def prompts(lengths, seed=0):
    """Random prompts (n, L) of these numbers of words, filled up with PAD."""
    tokens = torch.randint(1, V, (len(lengths), L), generator=rng_of(seed))
    for row, n in zip(tokens, lengths):
        row[n:] = PAD
    return tokens


def golden(name):
    return torch.tensor(GOLDEN[name])


def ask(nets, tokens, x, t):
    """The velocity that the Transformer answers."""
    words, mask = nets["encoder"](tokens)
    return nets["dit"](x, t, words, mask)


def differ(a, b) -> bool:
    """Is the mean difference more than rounding?"""
    return (a - b).abs().mean() > 1e-3 * b.abs().mean()


# ---- what is as in text_to_image.py

@paper
def test_shared_parts_are_those_of_text_to_image():
    """They are tested there. They stand here once more so that this file can be read, and taken
    away, alone. Who corrects one of them has to correct the other."""
    names = ["zero_init", "time_embedding", "TextBlock", "TextEncoder", "Upsample", "drop_prompts",
             "update_ema", "load_data", "read_prompts", "lr_factor"]
    differing = []
    for name in names:
        here = getattr(latent_diffusion, name, None)
        there = getattr(text_to_image, name, None)
        if not here or not there or inspect.getsource(here) != inspect.getsource(there):
            differing.append(name)
    assert not differing, (
        f"{', '.join(differing)}: not the same in mini/text_to_image.py and "
        "mini/latent_diffusion.py. Was a mistake corrected, or a name changed, in one of them "
        "only? A fork that wants them to differ may delete this test")


# ---- the autoencoder

def test_an_untrained_block_of_the_autoencoder_changes_nothing():
    x = normal(2, 16, 4, 6, dtype=torch.float32)
    assert torch.equal(latent_diffusion.ConvBlock(16)(x), x)


@pytest.mark.parametrize("stem, levels, H", [(4, 1, 8), (4, 2, 4), (2, 3, 4), (1, 1, 32)])
def test_sizes_of_latents(stem, levels, H):
    cfg = tiny(stem=stem, ae_levels=levels, patch=1)
    autoencoder = latent_diffusion.Autoencoder(cfg, C)
    x = normal(2, C, 32, 32, dtype=torch.float32)
    assert latent_diffusion.latent_size(cfg) == H
    latents = autoencoder.to_latents(x)
    assert latents.shape == (2, cfg.z_channels, H, H)
    images = autoencoder.to_images(latents)
    assert images.shape == x.shape
    assert images.abs().max() <= 1


@paper
def test_autoencoder_loss_by_hand(double):
    """KL by torch's own distributions; edges by a loop; noise that is a standard deviation, not a
    variance."""
    x = normal(2, 1, 3, 4)
    x_hat = normal(2, 1, 3, 4, seed=1)
    mu = normal(2, 2, 2, 2, seed=2)
    logvar = normal(2, 2, 2, 2, seed=3)
    loss = latent_diffusion.autoencoder_loss(lambda *_: (x_hat, mu, logvar), x, None, 0.5, 0.1)

    differences = {"right": [], "below": []}
    for b in range(2):
        for row in range(3):
            for column in range(4):
                here = (x_hat - x)[b, 0, row, column]
                if column < 3:
                    differences["right"].append(((x_hat - x)[b, 0, row, column + 1] - here)**2)
                if row < 2:
                    differences["below"].append(((x_hat - x)[b, 0, row + 1, column] - here)**2)
    edges = sum(torch.stack(values).mean() for values in differences.values())
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
    want = (x_hat - x).square().mean() + 0.5 * edges + 0.1 * kl
    assert math.isclose(loss, want, rel_tol=1e-10)


def test_noise_in_latents_has_the_standard_deviation_that_is_paid_for():
    """The decoder must see what the KL divergence counts: μ + σ ε."""
    autoencoder = latent_diffusion.Autoencoder(tiny(), C)
    mu = torch.full((1, 4, 8, 8), 2.0)
    logvar = torch.full((1, 4, 8, 8), -3.0)
    autoencoder.encoder.forward = lambda x: (mu, logvar)
    seen = []
    autoencoder.decoder.forward = seen.append
    eps = normal(1, 4, 8, 8, dtype=torch.float32)
    autoencoder(torch.zeros(1, C, 32, 32), eps)
    close(seen[0], 2 + math.exp(-1.5) * eps, 1e-6)


def test_latents_have_variance_1():
    """The flow's noise has it. Once the mean was left in: an image that was half noise was still a
    clear one, and the network was hardly ever asked about the rest. And decoding undoes the
    scaling: if it did not, all images would be pale."""
    autoencoder = lively()["autoencoder"]
    images = torch.randint(0, 256, (300, C, 32, 32), generator=rng_of(1)).byte()
    latents = latent_diffusion.encode_all(autoencoder, images)
    close(latents.mean((0, 2, 3)), torch.zeros(4) + 1e-30, 1e30 * 1e-5)
    variances = latents.var((0, 2, 3))
    assert math.isclose(variances.mean(), 1, rel_tol=1e-5)
    mu, _ = autoencoder.encoder(to_float(images))
    close(variances / variances[0], mu.var((0, 2, 3)) / mu[:, 0].var(), 1e-4)   # one scale for all
    assert latents.shape == (300, 4, 8, 8)

    x = to_float(images[:5])
    close(autoencoder.to_latents(x), latents[:5], 1e-4)
    mu, _ = autoencoder.encoder(x)
    close(autoencoder.to_images(latents[:5]), autoencoder.decoder(mu).clamp(-1, 1), 1e-4)

    again = latent_diffusion.encode_all(autoencoder, images)        # not scaled twice
    close(again, latents, 1e-5)


@paper
@pytest.mark.parametrize("stem, levels", [(4, 1), (2, 2)])
def test_the_autoencoder_starts_with_principal_components(stem, levels):
    """Against a singular value decomposition, which no linear code of c numbers can beat (Eckart &
    Young 1936). A mean that is left out, smallest components in place of the largest, a code that
    is scaled and not scaled back, or component by component; convolutions that disturb the start.
    """
    cfg = tiny(stem=stem, ae_levels=levels)
    autoencoder = latent_diffusion.Autoencoder(cfg, C)
    x = to_float(captions.load_captions("faces", 32, 40)[0].images)
    latent_diffusion.start_with_principal_components(autoencoder, x)
    mu, logvar = autoencoder.encoder(x)
    assert logvar.max() < -5                                        # little noise
    error = (autoencoder.decoder(mu) - x).square().sum().item()

    squares = x.unfold(2, 4, 4).unfold(3, 4, 4)                     # (n, C, H, H, 4, 4)
    squares = squares.permute(0, 2, 3, 1, 4, 5).reshape(-1, C * 16).double()
    singular_values = torch.linalg.svdvals(squares - squares.mean(0))
    assert math.isclose(error, singular_values[4:].square().sum(), rel_tol=1e-3)
    want = singular_values[:4].square().flip(0)                     # the largest are the last
    close(mu.var((0, 2, 3)), 4 * want / want.sum(), 1e-2)


@pytest.mark.parametrize("stem, contrast", [(1, 1.0), (4, 0.0)])
def test_fewer_components_than_channels(stem, contrast):
    """In squares of one pixel there are only three; in images of one colour there are none."""
    autoencoder = latent_diffusion.Autoencoder(tiny(stem=stem), C)
    x = 0.5 + contrast * normal(2, C, 32, 32, dtype=torch.float32)
    latent_diffusion.start_with_principal_components(autoencoder, x)
    mu, _ = autoencoder.encoder(x)
    assert mu.isfinite().all()
    assert autoencoder.decoder(mu).isfinite().all()


@paper
def test_training_starts_with_principal_components(place):
    """Networks and averages; without a step for the autoencoder they stay."""
    folder = place / "components"
    latent_diffusion.train(tiny(out_dir=str(folder), steps=2, ae_share=0.0, stop_after=1))
    autoencoder = latent_diffusion.Autoencoder(tiny(), C)
    x = to_float(captions.load_captions("faces", 32, 40)[0].images)
    latent_diffusion.start_with_principal_components(autoencoder, x)
    for nets in ("nets", "ema"):
        for part in ("encoder", "decoder"):
            weight = saved(folder)["model"][f"{nets}.autoencoder.{part}.linear.weight"]
            close(weight, getattr(autoencoder, part).linear.weight, 1e-5)


def test_the_autoencoder_learns_two_images_by_heart():
    cfg = tiny(ae_width=32)
    torch.manual_seed(0)
    autoencoder = latent_diffusion.Autoencoder(cfg, C)
    x = to_float(captions.load_captions("faces", 32, 2)[0].images)
    eps = normal(2, 4, 8, 8, dtype=torch.float32)

    def loss():
        return latent_diffusion.autoencoder_loss(autoencoder, x, eps, 0.0, 0.0)

    assert loss() > 0.3
    assert learnt_by_heart(autoencoder, loss, 80) < 0.06


# ---- the Transformer

@paper
def test_block_equals_diffusers():
    """The order of shift, scale and gate; a scale that is not 1 + scale; a norm left out; a gate
    before the projection; PAD that is read."""
    block = latent_diffusion.DiTBlock(32, hs=16).double()
    weights = {}
    for name in GOLDEN:
        if name.startswith("block/") and name.endswith(("weight", "bias")):
            weights[name.removeprefix("block/")] = golden(name).double()
    block.load_state_dict(weights)
    mask = torch.zeros(2, 1, 1, 5).double()
    mask = mask.masked_fill(golden("block/mask")[:, None, None] == 0, -math.inf)
    e = F.silu(golden("block/e"))
    out = block(golden("block/x"), e, golden("block/words"), mask)
    close(out, golden("block/out"), 1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torch(masked):
    q = normal(2, 3, 64)
    k = normal(2, 5, 64, seed=1)
    v = normal(2, 5, 64, seed=2)
    mask = torch.zeros(2, 1, 1, 5).double()
    if masked:
        mask[1, :, :, 2:] = -math.inf

    def heads(x):
        return x.unflatten(2, (2, 32)).transpose(1, 2)

    want = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), mask)
    close(latent_diffusion.attention(q, k, v, 32, mask), want.transpose(1, 2).flatten(2), 1e-12)


@paper
def test_an_untrained_transformer_is_the_identity():
    """adaLN-zero (Peebles & Xie 2023, §3.2): whatever the time and the words, each block returns
    what it is given, and the velocity is 0."""
    nets = new_nets()
    x = normal(2, 16, 32, dtype=torch.float32)
    e = normal(2, 32, seed=1, dtype=torch.float32)
    words = normal(2, 6, 32, seed=2, dtype=torch.float32)
    mask = torch.zeros(2, 1, 1, 6)
    for block in nets["dit"].blocks:
        assert torch.equal(block(x, e, words, mask), x)
    xt = normal(2, 4, 8, 8, dtype=torch.float32)
    assert (ask(nets, prompts([5, 2]), xt, torch.tensor([0.2, 0.7])) == 0).all()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_come_back_to_where_they_were(patch):
    """A network whose blocks do nothing, and whose last layer undoes the first. Rows and columns
    swapped on the way back give pictures in which each patch is turned over: noise, at first, and
    it is learnt with trouble."""
    cfg = tiny(patch=patch, width=128)
    dit = latent_diffusion.DiT(cfg, 4, 8)
    n = 4 * patch**2
    dit.norm = nn.Identity()
    nn.init.zeros_(dit.position.weight)
    nn.init.zeros_(dit.first.bias)
    nn.init.eye_(dit.first.weight)
    nn.init.eye_(dit.last.weight)
    assert dit.first.weight.shape == (128, n)
    x = normal(2, 4, 8, 8, dtype=torch.float32)
    words = torch.zeros(2, 3, 128)
    close(dit(x, torch.tensor([0.1, 0.9]), words, torch.zeros(2, 1, 1, 3)), x, 1e-6)


def test_the_network_sees_all_that_it_is_given():
    """The picture, the time, the words and their order."""
    nets = lively()
    tokens = prompts([5, 2])
    swapped = tokens[:, [1, 0, 2, 3, 4, 5, 6]]
    x = normal(2, 4, 8, 8, dtype=torch.float32)
    t = torch.tensor([0.2, 0.7])
    out = ask(nets, tokens, x, t)
    assert out.shape == x.shape
    assert differ(ask(nets, tokens, x.flip(3), t).flip(3), out)     # it knows where a patch is
    assert differ(ask(nets, tokens, x + 1, t), out)
    assert differ(ask(nets, tokens, x, t.flip(0)), out)
    assert differ(ask(nets, tokens.flip(0), x, t), out)
    assert differ(ask(nets, swapped, x, t), out)


@paper
def test_times_are_told_apart():
    """The embedding is made for times of some hundreds. Given 0 … 1 as they are, all but a few of
    its numbers are the same for all times."""
    dit = latent_diffusion.DiT(tiny(width=128), 4, 8)
    seen = []
    dit.time.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    t = torch.tensor([0.4, 0.5])
    dit(torch.zeros(2, 4, 8, 8), t, torch.zeros(2, 3, 128), torch.zeros(2, 1, 1, 3))
    assert ((seen[0][0] - seen[0][1]).abs() > 0.05).double().mean() > 0.6


def test_padding_changes_nothing():
    """A prompt means the same whatever stands beside it in the batch, and however far it is filled
    up."""
    nets = lively()
    lengths = [3, 7, 0, 1]
    tokens = prompts(lengths)
    x = normal(4, 4, 8, 8, dtype=torch.float32)
    t = torch.linspace(0.1, 0.9, 4)
    together = ask(nets, tokens, x, t)
    for i, n in enumerate(lengths):
        own = slice(i, i + 1)
        short = tokens[own, :max(n, 1)]
        close(ask(nets, short, x[own], t[own]), together[own], 1e-4)


def test_an_empty_prompt_is_no_nan():
    """If all words were masked, the softmax would be 0/0."""
    nets = lively()
    x = normal(2, 4, 8, 8, dtype=torch.float32)
    out = ask(nets, prompts([0, 4]), x, torch.tensor([0.2, 0.7]))
    out.square().sum().backward()
    assert out.isfinite().all()
    for network in (nets["encoder"], nets["dit"]):
        for name, weight in network.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().max() > 0, name


# ---- the flow

@paper
def test_noise_equals_diffusers():
    x0 = golden("x0")[:5, None]
    eps = golden("eps")[:5, None]
    got = latent_diffusion.add_noise(x0, eps, golden("sigmas")[:5])
    close(got[:, 0], golden("noised"), 1e-12)


@paper
@pytest.mark.parametrize("sampler, calls", [("euler", 5), ("heun", 9)])
def test_samplers_equal_diffusers(sampler, calls):
    """The times, which answer goes where, and how many there are. Heun's second velocity is that at
    the end of Euler's step, and the last step is Euler's."""
    asked = []

    def velocity(xt, t):
        asked.append(t)
        return golden("v")[len(asked) - 1]

    cfg = tiny(sampler=sampler, sample_steps=5)
    x = latent_diffusion.denoise(velocity, golden("eps")[0], cfg)
    close(x, golden(sampler)[-1], 1e-12)
    times = golden("sigmas").tolist()[:-1]
    if sampler == "heun":
        times = [times[0], *[t for t in times[1:] for _ in range(2)]]
    assert np.allclose(asked, times)
    assert len(asked) == calls


def test_the_right_velocity_costs_nothing_and_leads_to_the_data():
    """In one step, from any time. ε − x₀ with the wrong sign, or noise at t = 0, would not."""
    x0 = normal(4, 4, 8, 8)
    eps = normal(4, 4, 8, 8, seed=1)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0]).double()
    asked = []

    def dit(xt, t, words, mask):
        asked.append((xt, t, words, mask))
        return eps - x0

    tokens = prompts([5, 2, 0, 7])
    loss = latent_diffusion.flow_loss(dit, lambda y: (y, y == PAD), x0, tokens, t, eps)
    assert loss < 1e-10
    xt, seen_t, words, mask = asked[0]
    assert torch.equal(seen_t, t)
    assert torch.equal(words, tokens)
    assert torch.equal(mask, tokens == PAD)
    for i in range(4):
        time = t[i].item()
        close(xt[i], (1 - time) * x0[i] + time * eps[i], 1e-12)
        velocity = eps[i] - x0[i]
        close(latent_diffusion.euler_step(lambda *_: velocity, xt[i], time, 0.0), x0[i], 1e-10)
    close(latent_diffusion.add_noise(x0, eps, 0.0), x0, 1e-12)
    close(latent_diffusion.add_noise(x0, eps, 1.0), eps, 1e-12)


def test_loss_by_hand():
    """The mean over all numbers of one answer for all."""
    x0 = normal(2, 1, 2, 2)
    eps = normal(2, 1, 2, 2, seed=1)
    out = normal(2, 1, 2, 2, seed=2)
    got = latent_diffusion.flow_loss(lambda *_: out, lambda y: (y, y), x0, None, torch.ones(2), eps)
    want = sum((o - (e - x)) ** 2 for o, e, x in
               zip(out.flatten().tolist(), eps.flatten().tolist(), x0.flatten().tolist())) / 8
    assert math.isclose(got, want, rel_tol=1e-6)


class ExactVelocity:
    """E[ε − x₀ | x_t] of a mixture of normal distributions in two dimensions, for which it is
    known: given the distribution k, x₀ and x_t are jointly normal. x: (n, 1, 1, 2)."""

    def __init__(self):
        weights = torch.tensor([0.5, 0.3, 0.2]).double()
        means = torch.tensor([[1.0, 0.5], [-1.5, 1.0], [0.3, -1.4]]).double()
        covs = torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.2]],
                             [[0.3, -0.15], [-0.15, 0.2]]]).double()
        self.data = Mixture(weights, means, covs)
        centred = means - self.mean
        self.cov = torch.einsum("k,kij->ij", weights, covs) + (weights * centred.T) @ centred

    @property
    def mean(self):
        return self.data.weights @ self.data.means

    def __call__(self, xt, t):
        x = xt.flatten(1)
        noisy_means = (1 - t) * self.data.means
        noisy_covs = (1 - t) ** 2 * self.data.covs + t**2 * torch.eye(2).double()
        noisy = Mixture(self.data.weights, noisy_means, noisy_covs)
        share = torch.softmax(noisy.log_joint(x), dim=1)            # (n, K): from which was it?
        x0 = 0.0
        for k in range(3):
            gain = (1 - t) * self.data.covs[k] @ torch.linalg.inv(noisy_covs[k])
            x0_k = self.data.means[k] + (x - noisy_means[k]) @ gain.T
            x0 = x0 + share[:, k:k + 1] * x0_k
        eps = (x - (1 - t) * x0) / t
        return (eps - x0).view(xt.shape)


@pytest.mark.parametrize("sampler, steps", [("euler", 250), ("heun", 30)])
def test_exact_velocity_recovers_the_distribution(sampler, steps):
    """Mean and covariance within 2 %. Times in the wrong order, or a step too few, show here."""
    velocity = ExactVelocity()
    noise = normal(40000, 1, 1, 2)
    noise = noise / noise.std(0)                                    # less chance in the comparison
    noise = noise - noise.mean(0)
    x = latent_diffusion.denoise(velocity, noise, tiny(sampler=sampler, sample_steps=steps))
    x = x.flatten(1)
    scale = velocity.cov.diagonal().sqrt()
    assert ((x.mean(0) - velocity.mean).abs() < 0.02 * scale).all()
    assert ((x.T.cov() - velocity.cov).abs() < 0.02 * torch.outer(scale, scale)).all()


def test_heun_is_of_second_order():
    """With twice as many steps its error is a quarter, but for the last step, which is Euler's; so
    here it stops at t = 0.2."""
    velocity = ExactVelocity()
    noise = normal(50, 1, 1, 2)

    def chain(step, n):
        x = noise
        for i in range(n):
            x = step(velocity, x, 1 - 0.8 * i / n, 1 - 0.8 * (i + 1) / n)
        return x

    best = chain(latent_diffusion.heun_step, 640)
    cases = (latent_diffusion.euler_step, 1.7, 2.3), (latent_diffusion.heun_step, 3.2, 5)
    for step, least, most in cases:
        ratio = (chain(step, 20) - best).abs().mean() / (chain(step, 40) - best).abs().mean()
        assert least < ratio < most, (step, ratio)


# ---- the batches

def test_a_batch():
    """A latent beside one of its own captions, each of them in turn; noise for each number; all of
    it by the rng."""
    latents = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 4, 2, 2)
    tokens = torch.zeros(50, 3, 2, dtype=torch.long)
    for i in range(50):
        for k in range(3):
            tokens[i, k] = 10 * i + k + 1
    cfg = tiny(prompt_dropout=0.0)
    batch = latent_diffusion.get_batch(latents, tokens, 40, cfg, rng_of(3))
    x0, y, t, eps = batch
    number = y[:, 0].div(10, rounding_mode="floor")
    assert torch.equal(x0[:, 0, 0, 0], number.float())
    assert len(number.unique()) > 20
    assert set((y[:, 0] % 10).tolist()) == {1, 2, 3}
    assert t.shape == (40,)
    assert 0 <= t.min() < t.max() <= 1
    assert eps.shape == x0.shape
    assert abs(eps.std() - 1) < 0.1
    again = latent_diffusion.get_batch(latents, tokens, 40, cfg, rng_of(3))
    other = latent_diffusion.get_batch(latents, tokens, 40, cfg, rng_of(4))
    for i in range(4):
        assert torch.equal(batch[i], again[i])
    assert not torch.equal(x0, other[0])
    assert not torch.equal(eps, other[3])


def test_a_batch_has_prompts_dropped():
    tokens = prompts([5]).expand(9, 2, L)
    cfg = tiny(prompt_dropout=0.25)
    y = latent_diffusion.get_batch(torch.zeros(9, 4, 2, 2), tokens, 4000, cfg, rng_of(0))[1]
    kept = (y == tokens[0, 0]).all(1).double().mean()
    dropped = (y == PAD).all(1).double().mean()
    assert kept + dropped == 1
    assert 0.7 <= kept <= 0.8


@paper
@pytest.mark.parametrize("stratified", [True, False])
def test_logit_normal_times(stratified):
    """The logit of t is N(0, 1): a tenth of all times is below 0.217, a tenth above 0.783."""
    t = latent_diffusion.draw_times(20000, tiny(stratified=stratified), rng_of(0)).double()
    logit = (t / (1 - t)).log()
    assert abs(logit.mean()) < 0.03
    assert abs(logit.std() - 1) < 0.03
    for share in (0.1, 0.5, 0.9):
        below = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share)).sigmoid()
        assert abs((t < below).double().mean() - share) < 0.01


@pytest.mark.parametrize("times", ["logit-normal", "uniform"])
def test_times_end_at_1(monkeypatch, times):
    """(B − 1 + u) / B rounds to 1 in float32 if u is close to 1, and N(0, 1) has no number with
    that share below it. The time is then 1, and not NaN."""
    for u in (1 - 2**-24, 0.0):
        monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, u))
        t = latent_diffusion.draw_times(256, tiny(times=times), rng_of(0))
        assert t.isfinite().all()
        assert t.min() >= 0
        assert t.max() <= 1


# ---- guidance, and pictures to begin with

@pytest.mark.parametrize("w, calls", [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_guidance(w, calls):
    """0: without the prompt, 1: with it, else u + w (c − u)."""
    asked = []

    def dit(xt, t, words, mask):
        asked.append((t, mask))
        return (0.3 * xt + words.view(-1, 1, 1, 1)).bfloat16()      # as under autocast

    x = normal(3, 1, 2, 2, dtype=torch.float32)
    cond = (torch.tensor([1.0, 5.0, -0.5]), "mask of the prompts")
    uncond = (torch.zeros(3), "mask of nothing")
    got = latent_diffusion.velocity_with_guidance(dit, x, 0.6, cond, uncond, w)
    assert got.dtype == torch.float32
    close(got, 0.3 * x + w * cond[0].view(-1, 1, 1, 1), 0.02)
    assert len(asked) == calls
    for t, _ in asked:
        close(t, torch.full((3,), 0.6), 1e-6)
    masks = {mask for _, mask in asked}
    assert (cond[1] in masks) == (w != 0)
    assert (uncond[1] in masks) == (w != 1)


def test_a_prompt_without_guidance_leaves_no_trace():
    nets = lively()
    one = latent_diffusion.generate(nets, prompts([5, 3]), tiny(guidance=0.0))
    other = latent_diffusion.generate(nets, prompts([1, 7], seed=4), tiny(guidance=0.0))
    assert torch.equal(one, other)
    guided = latent_diffusion.generate(nets, prompts([5, 3]), tiny(guidance=3.0))
    assert differ(guided, one)


def test_no_image_depends_on_the_others():
    nets = lively()
    tokens = prompts([5, 2, 0])
    together = latent_diffusion.generate(nets, tokens, tiny())
    alone = latent_diffusion.generate(nets, tokens[:1], tiny())
    close(alone, together[:1], 1e-3)
    assert differ(together[1], together[2])


def test_a_picture_is_changed_as_much_as_strength_says():
    """With a network that says that nothing moves, what remains is the picture with the noise of
    the time --strength. With 1 it is noise alone, the same as without a picture."""
    nets = new_nets()
    latents = normal(2, 4, 8, 8, seed=5, dtype=torch.float32)
    tokens = prompts([5, 2])
    eps = latent_diffusion.generate_latents(nets, tokens, tiny())
    for strength in (0.01, 0.5, 1.0):
        got = latent_diffusion.generate_latents(nets, tokens, tiny(strength=strength), latents)
        close(got, (1 - strength) * latents + strength * eps, 1e-5)


def test_from_a_picture_the_first_time_is_strength():
    nets = new_nets()
    times = []
    cfg = tiny(strength=0.6, sample_steps=3)
    latent_diffusion.generate_latents(nets, prompts([5]), cfg, torch.zeros(1, 4, 8, 8),
                                      watch=lambda xt, t, v: times.append(t))
    assert np.allclose(times, [0.6, 0.4, 0.2])


# ---- training

def test_each_weight_has_one_optimiser():
    nets = new_nets()
    optimizers = latent_diffusion.make_optimizers([nets["encoder"], nets["dit"]], tiny())
    numbers = [id(p) for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    weights = [*nets["encoder"].parameters(), *nets["dit"].parameters()]
    assert sorted(numbers) == sorted(id(p) for p in weights)


def test_learns_two_pictures_by_their_prompts():
    """From the same noise one prompt leads to one latent, the other to the other."""
    cfg = tiny(width=64, guidance=1.0, sample_steps=10)
    nets = latent_diffusion.make_nets(cfg, C, V, L)["nets"]
    latents = normal(2, 4, 8, 8, seed=7, dtype=torch.float32)
    tokens = prompts([4, 6])
    both = nn.ModuleList([nets["encoder"], nets["dit"]])
    rng = rng_of(0)

    def loss():
        i = torch.arange(16) % 2
        t = latent_diffusion.draw_times(16, cfg, rng)
        eps = torch.randn(16, 4, 8, 8, generator=rng)
        batch = latents[i], tokens[i], t, eps
        return latent_diffusion.flow_loss(nets["dit"], nets["encoder"], *batch)

    first = loss().item()
    last = learnt_by_heart(both, loss, 150, lr=0.003)
    assert last < 0.3 * first
    drawn = latent_diffusion.generate_latents(nets, tokens, cfg)
    for i in range(2):
        assert (drawn[i] - latents[i]).square().mean() < 0.3
        assert (drawn[i] - latents[1 - i]).square().mean() > 1


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def changed(before, after, start) -> bool:
    names = [name for name in before["model"] if name.startswith(start)]
    assert names
    return any(not torch.equal(before["model"][name], after["model"][name]) for name in names)


def test_end_to_end(trained):
    """Both parts, their rows in the log, pictures of reconstructions and then of samples; the
    scores of what was drawn beside real faces."""
    folder, result = trained
    rows = (folder / "log.csv").read_text().splitlines()
    parts = [line.split(",")[2] for line in rows[1:]]
    assert parts == ["autoencoder"] * 3 + ["flow"] * 3
    assert (folder / "samples/step_000003.png").exists()
    assert (folder / "samples/step_000006.png").exists()
    assert result == json.loads((folder / "result.json").read_text())
    assert result["psnr"] > 0
    names = set(result["scores"])
    for name in ("held out", "unseen"):
        assert {name, f"{name}, decoded", f"{name}, real", f"{name}, same labels",
                f"{name}, other faces"} <= names
    assert saved(folder)["step"] == 6


def test_each_part_trains_its_own_networks(place):
    """And no other: a decoder that changed after the latents were made would not know them. Once
    one optimiser had all weights, and its momentum moved the autoencoder on."""
    folder = place / "parts"
    settings = dict(out_dir=str(folder), eval_every=0, sample_every=0, steps=12, ae_share=0.25)
    latent_diffusion.train(tiny(**settings, stop_after=2))
    two = saved(folder)
    latent_diffusion.train(tiny(**settings, resume=True, stop_after=1))
    three = saved(folder)
    latent_diffusion.train(tiny(**settings, resume=True, stop_after=1))
    four = saved(folder)
    latent_diffusion.train(tiny(**settings, resume=True, stop_after=4))
    eight = saved(folder)
    for nets in ("nets", "ema"):
        for network in ("encoder", "dit"):
            assert not changed(two, three, f"{nets}.{network}")
            # not after a step or two: until three layers are no longer 0, no gradient comes here
            assert changed(three, eight, f"{nets}.{network}")
        assert changed(two, three, f"{nets}.autoencoder")
        for part in ("encoder", "decoder"):
            assert not changed(three, four, f"{nets}.autoencoder.{part}")
        assert not changed(four, eight, f"{nets}.autoencoder")
    assert changed(three, four, "ema.autoencoder.std")              # latents are scaled in between


def test_the_decoder_is_that_of_the_latents(trained):
    """Images are encoded, decoded and drawn by the average of the weights, all three."""
    folder, result = trained
    cfg, checkpoint = tiny(out_dir=str(folder)), saved(folder)
    ema, _, _ = latent_diffusion.load(cfg)
    images = captions.load_captions("faces", 32, 40)[1].images
    psnr = latent_diffusion.evaluate_psnr(ema["autoencoder"], images, cfg)
    assert math.isclose(psnr, result["psnr"], rel_tol=1e-5)
    learnt_from = to_float(captions.load_captions("faces", 32, 40)[0].images)
    latents = ema["autoencoder"].to_latents(learnt_from)
    assert math.isclose(latents.var((0, 2, 3)).mean(), 1, rel_tol=1e-3)
    assert abs(checkpoint["model"]["ema.autoencoder.std"].item() - 1) > 1e-4    # it was set


def test_the_learning_rate_rises_anew_in_the_second_part(trained):
    folder, _ = trained
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    rates = [float(row[4]) for row in rows]
    assert rates[:3] == rates[3:]


# ---- using what was trained

def command(folder, *args):
    return latent_diffusion.main([*args, f"--out_dir={folder}"])


def test_samples(trained, capsys):
    """A row for each prompt, drawn by the average of the weights."""
    folder, _ = trained
    command(folder, "sample", "--prompt=red hair|a smiling face", "--n=3", "--seed=5")
    out = capsys.readouterr().out
    assert "red hair\na smiling face\nwrote" in out
    picture = read_sheet(folder / "samples/samples.png", columns=3, size=32)
    assert picture.shape[:2] == (2, 3)
    cfg = tiny(out_dir=str(folder), n=3, seed=5)
    nets, _, checkpoint = latent_diffusion.load(cfg)
    words = Words(checkpoint["words"])
    _, tokens = latent_diffusion.read_prompts(replace(cfg, prompt="red hair|a smiling face"), words,
                                              [], checkpoint["shape"][3])
    alike(picture.flatten(0, 1), latent_diffusion.generate(nets, tokens, cfg))


def test_a_picture_of_ones_own(trained, tmp_path, capsys):
    """--image with little noise gives what the autoencoder makes of the picture."""
    folder, _ = trained
    pixels = np.arange(40 * 40 * 3).reshape(40, 40, 3).astype(np.uint8)
    write_png(tmp_path / "own.png", pixels)
    command(folder, "sample", f"--image={tmp_path / 'own.png'}", "--strength=0.0001", "--prompt=",
            "--n=4")
    picture = read_sheet(folder / "samples/samples.png", columns=4, size=32)
    cfg = tiny(out_dir=str(folder), image=str(tmp_path / "own.png"), n=4)
    nets, _, _ = latent_diffusion.load(cfg)
    latents = latent_diffusion.load_picture(cfg, nets, 4)
    alike(picture[0], nets["autoencoder"].to_images(latents))


def test_steps_are_shown_from_noise_to_image(trained):
    """The last moment of each row is the image."""
    folder, _ = trained
    command(folder, "sample", "--show=steps", "--prompt=red hair", "--n=2", "--sample_steps=16")
    steps = read_sheet(folder / "samples/steps.png", columns=8, size=32)
    command(folder, "sample", "--prompt=red hair", "--n=2", "--sample_steps=16")
    images = read_sheet(folder / "samples/samples.png", columns=2, size=32)
    assert steps.shape[0] == 2
    for i in range(2):
        alike(steps[i, -1], images[0, i])


def captions_of(i):
    return [f"a grey square number {i}"]


def test_own_captions(tmp_path, capsys):
    """No labels, no judge; but reconstructions are scored."""
    data = own_captions(tmp_path, captions_of)
    cfg = tiny(data=data, size=16, steps=4, out_dir=str(tmp_path / "run"))
    result = latent_diffusion.train(cfg)
    assert result["scores"] == {}
    assert result["psnr"] > 0
    assert "no labels, no judge" in capsys.readouterr().out
    command(tmp_path / "run", "sample", "--prompt=a grey square")


def test_bad_input(trained, tmp_path, capsys):
    folder, _ = trained
    cases = [
        (["train", "--size=63"], "--size=63 must be a multiple of"),
        (["train", "--width=48"], "--width=48 must be a multiple of 32"),
        (["train", "--ae_width=12"], "--ae_width=12 must be a multiple of 8"),
        (["train", "--patch=3"], "must be a multiple of 12"),
        (["train", "--ae_share=1.5"], "--ae_share=1.5"),
        (["train", "--sample_steps=0"], "--sample_steps=0"),
        (["train", "--strength=0"], "--strength=0"),
        (["train", "--times=cosine"], "--times"),
        (["train", "--kl_weight=-1"], "--kl_weight=-1"),
        (["sample", "--prompt=a purple zebra"], "never seen 'purple', 'zebra'"),
        (["sample", f"--image={tmp_path / 'none.png'}"], "none.png"),
        (["sample", "--depth=3"], "--depth=3: the weights were made with 2"),
    ]
    for args, words in cases:
        place = folder if args[0] == "sample" else tmp_path / "new"
        error = refused_by(latent_diffusion.main, capsys, *args, f"--out_dir={place}")
        assert words in error, (args, error)
    assert not (tmp_path / "new").exists()
