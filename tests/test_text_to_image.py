"""mini/text_to_image.py against torch's own attention, diffusers (tests/reference/diffusion.npz), a
distribution of images that is known exactly, and the classic bugs.

Tests marked `paper` know our networks, noise, loss or samplers. Whoever changes one of them on
purpose, in a fork, leaves them out by -m "not paper". All others have to pass even so: with another
U-Net that is made by UNet(cfg, C, S, enlarges) and called by unet(x, t, words, mask, low, aug_t),
with another text encoder that is made by TextEncoder(cfg, V, L) and returns words and mask, with
other weights of the loss, or with another schedule.
"""
import csv
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

import train_diffusion
from mini import text_to_image
from mini.data.images import captions, image_sets
from mini.data.images.captions import Words
from mini.studies import text_to_image as study
from mini.utils.config import UserError
from mini.utils.images import to_float
from mini.utils.png import read_png
from tests.helpers import (alike, cheap_judges, close, find_text, normal, own_captions, read_grid,
                           read_sheet, refused_by, rng_of)

PAD = Words.PAD
TINY = dict(n_images=40, width=32, T=20, batch_size=4, steps=6, warmup=1, n=2, sample_steps=3,
            log_every=1, sample_every=3, eval_every=2, device="cpu", matmul="highest")
C = 3                           # colours
V = 12                          # words
L = 7                           # words in the longest prompt
GOLDEN = np.load(Path(__file__).parent / "reference/diffusion.npz")     # it counts t from 0

paper = pytest.mark.paper
both_stages = pytest.mark.parametrize("stage", [0, 1], ids=["first", "second"])


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "cascade") as (folder, patch):
        patch.setattr(captions, "HELD_OUT", 64)
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 6 steps, 3 of each stage; only its samples/ may be written to.
    """
    folder = place / "trained"
    return folder, text_to_image.train(tiny(out_dir=str(folder)))


def tiny(**changes):
    return text_to_image.Config(**{**TINY, **changes})


def noise_of(cfg):
    """The noise schedule of these settings."""
    return text_to_image.make_schedule(cfg)


def noise_schedule(**changes):
    return noise_of(tiny(**changes))


def no_judge(*_):
    return SimpleNamespace(n=0)


def shake(net):
    """Some weights are 0 at first: change all of them, so that every part of a network matters."""
    for seed, weight in enumerate(net.parameters()):
        weight.data += 0.1 * normal(*weight.shape, seed=seed, dtype=weight.dtype)
    return net


def lively():
    """The networks of two stages, for 16 and for 32 pixels, with weights that matter."""
    return shake(text_to_image.make_nets(tiny(), C, V, L)["nets"])


def prompts(lengths, seed=0):
    """Random prompts (n, L) of these numbers of words, filled up with PAD."""
    tokens = torch.randint(1, V, (len(lengths), L), generator=rng_of(seed))
    for row, n in zip(tokens, lengths):
        row[n:] = PAD
    return tokens


def inputs(stage, n):
    """What the network of a stage is shown with n prompts: x_t and t; low and its level, or None.
    """
    S = 16 * 2**stage
    x = normal(n, C, S, S, dtype=torch.float32)
    t = torch.linspace(1, 20, n).long()
    if stage == 0:
        return x, t, None, None
    low = normal(n, C, 16, 16, seed=1, dtype=torch.float32)
    aug_t = torch.linspace(9, 2, n).long()
    return x, t, low, aug_t


def ask(nets, stage, tokens, x, t, low, aug_t):
    """The answer of the network of a stage."""
    words, mask = nets["encoder"](tokens)
    return nets["unets"][stage](x, t, words, mask, low, aug_t)


def differ(a, b) -> bool:
    """Is the mean difference more than rounding?"""
    return (a - b).abs().mean() > 1e-3 * b.abs().mean()


def alpha_sigma(schedule, t):
    """What is left at times t, or at one time, of an image of 1, and of noise of 1: (n, 1, 1, 1).
    """
    n = len(t) if torch.is_tensor(t) else 1
    one = torch.ones(n, 1, 1, 1, dtype=torch.float64)
    zero = torch.zeros(n, 1, 1, 1, dtype=torch.float64)
    return schedule.add_noise(one, zero, t), schedule.add_noise(zero, one, t)


# ---- what is as in train_diffusion.py

@paper
def test_shared_parts_are_those_of_train_diffusion():
    """Noise, samplers and the blocks of the U-Net are tested in test_diffusion.py. They stand here
    once more so that this file can be read, and taken away, alone. Who corrects one of them has to
    correct the other."""
    names = ["abar_from_betas", "linear_abar", "cosine_abar", "NoiseSchedule", "PredictEps",
             "PredictV", "PredictX0", "make_schedule",
             "zero_init", "time_embedding", "ResBlock", "Attention", "Upsample",
             "widths_of_levels", "draw_times", "update_ema", "ddpm_step", "ddim_step",
             "dpm_solver_step", "half_log_snr", "sample_times", "denoise", "new_noise",
             "lr_factor"]
    differing = []
    for name in names:
        here = getattr(text_to_image, name, None)
        there = getattr(train_diffusion, name, None)
        if not here or not there or inspect.getsource(here) != inspect.getsource(there):
            differing.append(name)
    assert not differing, (
        f"{', '.join(differing)}: not the same in train_diffusion.py and mini/text_to_image.py. "
        "Was a mistake corrected, or a name changed, in one of them only? A fork that wants them "
        "to differ may delete this test")


@paper
def test_a_chain_equals_diffusers(monkeypatch):
    """From noise to the image by DPM-Solver++, with the default schedule: the times, and which
    answer goes where. All other samplers and schedules: see test_diffusion.py."""
    cfg = tiny(T=50, sample_steps=10)
    schedule = noise_of(cfg)
    close(schedule.abar[1:], GOLDEN["cosine/abar"], 1e-12)
    answers = torch.tensor(GOLDEN["x0"])
    want = torch.tensor(GOLDEN["cosine/dpm"])
    times = []
    steps = []

    def predict(xt, t):
        times.append(t)
        steps.append(xt)
        return answers[t - 1]

    images = text_to_image.denoise(predict, want[0], schedule, cfg, rng_of(0))
    assert times == (GOLDEN["times"] + 1).tolist()
    close(torch.stack(steps), want[:-1], 1e-10)
    close(images, want[-1], 1e-10)


def test_update_ema():
    """By hand. In step 0 nothing of the weights at the start is kept, in step 10 a half; from step
    24 on the shares are those asked for: swapped, they keep almost nothing of the old average."""
    ema = nn.Linear(3, 2).double()
    model = nn.Linear(3, 2).double()
    want = ema.weight.detach().clone()
    for step, keep in ((0, 0), (10, 0.5), (24, 0.7), (1000, 0.7)):
        nn.init.normal_(model.weight)
        text_to_image.update_ema(ema, model, step, 0.7)
        want = keep * want + (1 - keep) * model.weight.detach()
        close(ema.weight, want, 1e-12)


# ---- the networks

def part_of(p, name):
    """The weights of a part of a network, by their names in it."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in p.items() if key.startswith(start)}


def linear(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def layer_norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def written_heads(q, k, v, mask, hs=32):
    """Attention head by head, by torch's own. mask (B, 1, keys)."""
    heads = []
    for start in range(0, q.size(2), hs):
        own = slice(start, start + hs)
        heads.append(F.scaled_dot_product_attention(q[..., own], k[..., own], v[..., own], mask))
    return torch.cat(heads, 2)


def written_text_block(p, x, mask):
    """A TextBlock in torch's functional forms, with the weights p."""
    q, k, v = linear(p, "qkv", layer_norm(p, "norm1", x)).split(x.size(2), dim=2)
    x = x + linear(p, "proj", written_heads(q, k, v, mask))
    h = F.gelu(linear(p, "fc", layer_norm(p, "norm2", x)))
    return x + linear(p, "fc_proj", h)


def written_cross_attention(p, x, words, mask):
    """CrossAttention likewise, pixel by pixel in rows."""
    B, width, H, W = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(B, H * W, width)
    normed = F.group_norm(x, 8, p["norm.weight"], p["norm.bias"])
    q = linear(p, "q", normed.permute(0, 2, 3, 1).reshape(B, H * W, width))
    k, v = linear(p, "kv", words).split(width, dim=2)
    pixels = pixels + linear(p, "proj", written_heads(q, k, v, mask))
    return pixels.reshape(B, H, W, width).permute(0, 3, 1, 2)


def padding():
    """A mask (2, 1, 1, 6) for prompts of four words and of one."""
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.float64)
    mask[0, :, :, 4:] = -math.inf
    mask[1, :, :, 1:] = -math.inf
    return mask


def compare(layer, written, mask, *inputs):
    """The output, and the gradients for inputs and weights, to 1e-10."""
    p = {name: weight.detach().clone().requires_grad_()
         for name, weight in layer.named_parameters()}
    own = [x.clone().requires_grad_() for x in inputs]
    others = [x.clone().requires_grad_() for x in inputs]
    got = layer(*own, mask)
    want = written(p, *others, mask[:, 0])
    close(got, want, 1e-10)
    mix = normal(*got.shape, seed=9)
    got_gradients = torch.autograd.grad((got * mix).sum(), [*own, *layer.parameters()])
    gradients = torch.autograd.grad((want * mix).sum(), [*others, *p.values()])
    for one, other in zip(got_gradients, gradients):
        close(one, other, 1e-10)


@paper
def test_text_block_equals_torch():
    """Heads mixed up, a scale by √D instead of √hs, PAD that is read."""
    block = shake(text_to_image.TextBlock(64).double())
    compare(block, written_text_block, padding(), normal(2, 6, 64))


@paper
def test_cross_attention_equals_torch():
    """The same, and pixels mixed up: the picture is not square. PAD gets no gradient."""
    layer = shake(text_to_image.CrossAttention(64, 48).double())
    x = normal(2, 64, 3, 5)
    words = normal(2, 6, 48, seed=5)
    compare(layer, written_cross_attention, padding(), x, words)

    words.requires_grad_()
    gradient, = torch.autograd.grad(layer(x, words, padding()).sum(), words)
    assert (gradient[0, 4:] == 0).all()
    assert (gradient[1, 1:] == 0).all()
    assert gradient[1, 0].abs().min() > 0


@paper
def test_text_encoder_equals_that_of_each_prompt_without_padding():
    """Word 0, which stands for the whole prompt, comes first, and is never masked."""
    text = lively()["encoder"].double()
    p = dict(text.named_parameters())
    lengths = [3, 7, 0, 1]
    tokens = prompts(lengths)
    words, mask = text(tokens)
    assert mask.shape == (4, 1, 1, 1 + L)
    assert (mask[:, 0, 0, 0] == 0).all()
    for i, n in enumerate(lengths):
        assert (mask[i, 0, 0, 1:1 + n] == 0).all()
        assert (mask[i, 0, 0, 1 + n:] == -math.inf).all()

        numbers = [V, *tokens[i, :n].tolist()]
        x = p["embed.weight"][numbers] + p["position.weight"][:1 + n]
        x = x[None]
        for k in range(tiny().n_layer):
            x = written_text_block(part_of(p, f"blocks.{k}"), x, torch.zeros(1, 1, 1 + n).double())
        x = layer_norm(p, "norm", x)
        close(words[i, :1 + n], x[0], 1e-10)


@paper
@both_stages
def test_the_order_of_words_matters(stage):
    """Without positions, "red hair, blue background" is "blue hair, red background"."""
    nets = lively()
    tokens = prompts([5, 2])
    swapped = tokens[:, [1, 0, 2, 3, 4, 5, 6]]
    given = inputs(stage, 2)
    out = ask(nets, stage, tokens, *given)
    assert not torch.allclose(out, ask(nets, stage, swapped, *given), atol=1e-4)


@paper
@both_stages
def test_networks_at_first(stage):
    """Blocks change nothing, and the output is 0. Small images are seen in smaller squares."""
    nets = text_to_image.make_nets(tiny(), C, V, L)["nets"]
    unet = nets["unets"][stage]
    assert unet.stem == 1 + stage
    assert (ask(nets, stage, prompts([5, 2]), *inputs(stage, 2)) == 0).all()
    words = normal(2, 6, 32, dtype=torch.float32)
    mask = padding().float()
    features = normal(2, 64, 4, 4, dtype=torch.float32)
    e = normal(2, 128, seed=1, dtype=torch.float32)
    assert torch.equal(nets["encoder"].blocks[0](words, mask), words)
    assert torch.equal(unet.down[1][1](features, words, mask), features)
    assert torch.equal(unet.attention(features), features)
    assert torch.equal(unet.middle1(features, e), features)


@paper
def test_the_second_stage_sees_low_behind_x():
    """Each pixel of low becomes a square of 2 × 2, and this picture comes behind x_t. A square of
    2 × 2 pixels is then one pixel with all their colours, in the order that later undoes it."""
    nets = lively()
    x, t, low, aug_t = inputs(1, 2)
    seen = []
    nets["unets"][1].first.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    ask(nets, 1, prompts([5, 2]), x, t, low, aug_t)
    assert seen[0].shape == (2, 2 * 3 * 4, 16, 16)
    channel = 0
    for colour in range(3):
        for row in range(2):
            for column in range(2):
                assert torch.equal(seen[0][:, channel], x[:, colour, row::2, column::2])
                assert torch.equal(seen[0][:, 12 + channel], low[:, colour])
                channel += 1


@both_stages
def test_padding_changes_nothing(stage):
    """A prompt means the same whatever stands beside it in the batch, and however far it is filled
    up: by PAD in a batch with longer prompts. Once a mask was forgotten, and a short prompt drew
    something else alone than it drew in company."""
    nets = lively()
    lengths = [3, 7, 0, 1]
    tokens = prompts(lengths)
    given = inputs(stage, 4)
    together = ask(nets, stage, tokens, *given)
    for i, n in enumerate(lengths):
        own = slice(i, i + 1)
        alone = [part if part is None else part[own] for part in given]
        short = tokens[own, :max(n, 1)]
        close(ask(nets, stage, short, *alone), together[own], 1e-4)
        close(ask(nets, stage, tokens[own], *alone), together[own], 1e-4)


@both_stages
def test_an_empty_prompt_is_no_nan(stage):
    """If all words were masked, the softmax would be 0/0: in sampling, which also asks what comes
    without a prompt, and in the gradients of every batch in which a prompt was dropped."""
    nets = lively()
    out = ask(nets, stage, prompts([0, 4]), *inputs(stage, 2))
    out.square().sum().backward()
    assert out.isfinite().all()
    for network in (nets["encoder"], nets["unets"][stage]):
        for name, weight in network.named_parameters():
            if weight.grad is not None:
                assert weight.grad.isfinite().all(), name


@both_stages
def test_every_weight_is_trained(stage):
    """Once the zeros are left that some layers begin with, every weight has a gradient, those of
    the text encoder, too."""
    nets = lively()
    ask(nets, stage, prompts([5, 2]), *inputs(stage, 2)).square().sum().backward()
    for network in (nets["encoder"], nets["unets"][stage]):
        for name, weight in network.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.abs().max() > 0, name


@both_stages
def test_the_network_sees_all_that_it_is_given(stage):
    """A network that is not told the time, or a second stage that is not told how much noise there
    is in low, still learns something, and its images are worse for no reason that one could see."""
    nets = lively()
    tokens = prompts([5, 2])
    x, t, low, aug_t = inputs(stage, 2)
    out = ask(nets, stage, tokens, x, t, low, aug_t)
    assert out.shape == x.shape
    assert differ(ask(nets, stage, tokens, x + 1, t, low, aug_t), out)
    assert differ(ask(nets, stage, tokens, x, t.flip(0), low, aug_t), out)
    assert differ(ask(nets, stage, tokens.flip(0), x, t, low, aug_t), out)
    if stage == 1:
        assert differ(ask(nets, stage, tokens, x, t, low + 1, aug_t), out)
        assert differ(ask(nets, stage, tokens, x, t, low, aug_t + 5), out)
        assert differ(ask(nets, stage, tokens, x, aug_t, low, t), out)  # which level is which


# ---- the loss

class Answers:
    """A network that keeps what it was asked, and answers the same to everything."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, *inputs):
        self.asked.append(inputs)
        return self.answer


def any_text(tokens):
    """A text encoder, for networks that read no words: (words, mask)."""
    return tokens, tokens == PAD


def test_the_right_answer_costs_nothing():
    """And a wrong one for any image does. The network sees each image at its own time, and all that
    belongs to it."""
    schedule = noise_schedule()
    x0 = normal(4, 3, 4, 4)
    eps = normal(4, 3, 4, 4, seed=1)
    low = normal(4, 3, 2, 2, seed=2)
    tokens = prompts([5, 2, 0, 7])
    t = torch.tensor([1, 7, 13, 20])
    aug_t = torch.tensor([0, 9, 3, 5])
    right = schedule.target(x0, eps, t).float()

    def loss(answer):
        unet = Answers(answer)
        value = text_to_image.diffusion_loss(unet, any_text, schedule, x0, tokens, t, eps, low,
                                             aug_t)
        return value, unet

    nothing, unet = loss(right)
    assert nothing < 1e-10
    for i in range(4):
        wrong = right.clone()
        wrong[i] += 1
        assert loss(wrong)[0] > nothing + 1e-3

    seen_xt, seen_t, words, mask, seen_low, seen_level = unet.asked[0]
    for i in range(4):
        own = slice(i, i + 1)
        close(seen_xt[own], schedule.add_noise(x0[own], eps[own], t[i].item()), 1e-6)
    assert torch.equal(seen_t, t)
    assert torch.equal(words, tokens)
    assert torch.equal(mask, tokens == PAD)
    assert torch.equal(seen_low, low)
    assert torch.equal(seen_level, aug_t)


@paper
def test_loss_by_hand(double):
    """A weight that is σ², or not of this image's t; a mean over the wrong numbers."""
    schedule = noise_schedule(T=1000, max_weight=5.0)
    x0 = normal(4, 3, 4, 4)
    eps = normal(4, 3, 4, 4, seed=1)
    out = normal(4, 3, 4, 4, seed=2)
    t = torch.tensor([1, 301, 601, 901])
    unet = Answers(out)
    got = text_to_image.diffusion_loss(unet, any_text, schedule, x0, prompts([1] * 4), t, eps)
    xt = unet.asked[0][0]
    want = 0.0
    for b in range(4):
        abar = schedule.abar[t[b]].item()
        close(xt[b], math.sqrt(abar) * x0[b] + math.sqrt(1 - abar) * eps[b], 1e-12)
        weight = min(5.0, 1 / (1 - abar))
        want += weight * (out[b] - x0[b]).square().sum().item() / out.numel()
    assert math.isclose(got, want, rel_tol=1e-10)


def test_the_loss_is_taken_in_float32():
    """The network may answer in bfloat16; the noise schedule is kept in float64."""
    x0 = normal(2, 1, 4, 4, dtype=torch.float32)
    unet = Answers(x0.bfloat16())
    loss = text_to_image.diffusion_loss(unet, any_text, noise_schedule(), x0, prompts([1, 2]),
                                        torch.tensor([1, 6]), x0)
    assert loss.dtype == torch.float32


# ---- the batches

def get_batch(images, tokens, B, S, cfg, seed, enlarges=False):
    """A batch for the first or the second of two stages, with images of S × S pixels."""
    k = 1 if enlarges else 0
    own = replace(cfg, size=S if enlarges else 2 * S)
    return text_to_image.get_batch(images, tokens, B, k, own, noise_of(cfg), rng_of(seed))


def test_a_batch():
    """An image beside one of its own captions, each of them in turn; pixels in [-1, 1], made small
    by means; noise for each number; all of it by the rng."""
    images = torch.arange(50, dtype=torch.uint8) * 5
    images = images.view(50, 1, 1, 1).expand(50, 3, 8, 8)       # image i has the colour 5 i
    tokens = torch.zeros(50, 3, 2, dtype=torch.long)
    for i in range(50):
        for k in range(3):
            tokens[i, k] = 10 * i + k + 1                       # and these words in its caption k
    cfg = tiny(T=1000, prompt_dropout=0.0)
    batch = get_batch(images, tokens, 40, 4, cfg, seed=3)
    x0, y, t, eps, low, aug_t = batch

    number = y[:, 0].div(10, rounding_mode="floor")
    assert x0.shape == (40, 3, 4, 4)
    assert x0.dtype == torch.float32
    close(x0[:, 0, 0, 0], number * 5 / 127.5 - 1, 1e-6)
    assert len(number.unique()) > 20

    assert y.shape == (40, 2)
    assert torch.equal(y[:, 0], y[:, 1])
    assert set((y[:, 0] % 10).tolist()) == {1, 2, 3}

    assert t.shape == (40,)
    assert eps.shape == x0.shape
    assert abs(eps.std() - 1) < 0.05
    assert len(eps.unique()) > 1900                             # of 1,920
    assert low is None
    assert aug_t is None

    again = get_batch(images, tokens, 40, 4, cfg, seed=3)
    other = get_batch(images, tokens, 40, 4, cfg, seed=4)
    for i in range(4):
        assert torch.equal(batch[i], again[i])
    assert not torch.equal(x0, other[0])
    assert not torch.equal(eps, other[3])


def shares_kept_and_dropped(y, tokens):
    """The share of prompts that are still there as a whole, and of those with no word left."""
    kept = (y == tokens).all(1).double().mean().item()
    dropped = (y == PAD).all(1).double().mean().item()
    return kept, dropped


@pytest.mark.parametrize("p, least, most", [(0.0, 1, 1), (1.0, 0, 0), (0.25, 0.7, 0.8)])
def test_prompts_are_dropped_whole(p, least, most):
    """All words of a prompt at once. Once a word was dropped here and another there: then almost no
    prompt is empty, and guidance has nothing to start from. The prompts of the data stay as they
    are."""
    tokens = prompts([5]).repeat(4000, 1)
    before = tokens.clone()
    y = text_to_image.drop_prompts(tokens, p, rng_of(0))
    kept, dropped = shares_kept_and_dropped(y, before)
    assert kept + dropped == 1
    assert least <= kept <= most
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("enlarges", [False, True])
def test_a_batch_has_prompts_dropped(enlarges):
    """In both stages: both are guided."""
    images = torch.zeros(9, 3, 4, 4, dtype=torch.uint8)
    tokens = prompts([5]).expand(9, 2, L)
    y = get_batch(images, tokens, 4000, 4, tiny(prompt_dropout=0.25), 0, enlarges)[1]
    kept, dropped = shares_kept_and_dropped(y, tokens[0, 0])
    assert kept + dropped == 1
    assert 0.7 <= kept <= 0.8


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("B, T", [(8, 1000), (7, 50), (1, 20), (20, 20)])
def test_times(B, T, stratified):
    """From 1 to T, and the same from the same rng."""
    cfg = tiny(T=T, stratified=stratified)
    for seed in range(20):
        t = text_to_image.draw_times(B, cfg, rng_of(seed))
        assert t.shape == (B,)
        assert t.dtype == torch.int64
        assert t.min() >= 1
        assert t.max() <= T
        assert torch.equal(t, text_to_image.draw_times(B, cfg, rng_of(seed)))


def test_times_end_at_T(monkeypatch):
    """(B − 1 + u) / B rounds to 1 in float32 if u is close to 1: t would be T + 1, which there is
    not. With u = 0 times begin at 1."""
    for u in (1 - 2**-24, 0.0):
        monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, u))
        t = text_to_image.draw_times(256, tiny(T=1000), rng_of(0))
        assert t.min() >= 1
        assert t.max() <= 1000


@paper
def test_times_are_spread_evenly():
    """One in each of B equal parts of 1 … T."""
    t = text_to_image.draw_times(40, tiny(T=1000), rng_of(3))
    for i in range(40):
        assert 25 * i < t[i] <= 25 * (i + 1)


def test_resize():
    """Smaller by means; larger without colours that there are not, though bicubic interpolation
    overshoots at edges."""
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    means = x.view(2, 3, 2, 2, 2, 2).mean((3, 5))
    close(text_to_image.resize(x, 2), means, 1e-6)
    assert torch.equal(text_to_image.resize(x, 4), x)
    larger = text_to_image.resize(9 * x, 8)
    assert larger.shape == (2, 3, 8, 8)
    assert larger.abs().max() <= 1


# ---- low: in training and in sampling it is in [-1, 1], and then gets noise of the level that the
# network is told

GRAY = torch.tensor(204, dtype=torch.uint8)     # 0.6, if pixels go from -1 to 1


def test_low_in_training():
    """A small picture of the same image, with levels of noise from 0 to max_aug_level."""
    cfg = tiny(T=1000, max_aug_level=0.5)
    schedule = noise_of(cfg)
    images = GRAY.expand(3, 3, 32, 32)
    tokens = prompts([5]).expand(3, 2, L)
    x0, _, t, eps, low, aug_t = get_batch(images, tokens, 1500, 32, cfg, 0, enlarges=True)
    assert x0.shape == (1500, 3, 32, 32)
    assert low.shape == (1500, 3, 16, 16)
    assert aug_t.min() <= 5
    assert 495 <= aug_t.max() <= 500
    assert abs(torch.corrcoef(torch.stack([aug_t, t]))[0, 1]) < 0.15    # levels of its own

    some = aug_t > 0                                    # without noise there is none to measure
    alpha, sigma = alpha_sigma(schedule, aug_t[some])
    z = (low[some] - alpha * 0.6) / sigma
    assert z.mean().abs() < 0.01
    assert abs(z.std() - 1) < 0.01
    little = aug_t[some] < 50
    assert abs(z[little].std() - 1) < 0.01
    clean = low[~some]
    assert torch.allclose(clean, torch.tensor(0.6))

    both = torch.stack([z.flatten(), eps[some][:, :, :16, :16].flatten().double()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.01           # and noise of its own


def test_low_is_a_small_picture_of_the_same_image():
    """Without noise one can see it. Once low was of another image of the batch."""
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=rng_of(1)).byte()
    tokens = prompts([5]).expand(9, 2, L)
    x0, _, _, _, low, aug_t = get_batch(images, tokens, 16, 8, tiny(max_aug_level=0.0), 0, True)
    assert (aug_t == 0).all()
    close(low, x0.view(16, 3, 4, 2, 4, 2).mean((3, 5)), 1e-5)


class Black(nn.Module):
    """A network that keeps what it was asked, and says that the answer is 0."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, words, mask, low=None, aug_t=None):
        self.asked.append((x, t, words, mask, low, aug_t))
        return torch.zeros_like(x)


def test_low_in_sampling():
    """The picture of the stage before is disturbed with aug_level, by different noise in each
    image. All steps see the same disturbed picture."""
    cfg = tiny(T=1000, aug_level=0.1, sample_steps=2)
    unet = Black()
    images = torch.full((200, 3, 16, 16), 0.6)
    text_to_image.generate_stage(unet, any_text, prompts([5] * 200), C, 32, cfg, images)
    low = unet.asked[0][4]
    for *_, seen, aug_t in unet.asked:
        assert aug_t.tolist() == [100] * 200
        assert torch.equal(seen, low)

    alpha, sigma = alpha_sigma(noise_of(cfg), 100)
    z = (low - alpha * 0.6) / sigma
    assert z.mean().abs() < 0.02
    assert abs(z.std() - 1) < 0.02
    assert len(z[:, 0, 0, 0].unique()) == 200


# ---- sampling

class Exact(nn.Module):
    """The exact answer for normal images x₀ (n, 1, 2, 2) with mean m and covariance V, of which low
    is the mean of the four pixels: E[x₀ | x_t, low with noise], as what `schedule.predict` says."""
    m = torch.tensor([0.1, -0.1, 0.05, 0.0]).double()
    V = 0.06 * torch.tensor([[1.0, 0.6, 0.5, 0.2],
                             [0.6, 1.0, 0.3, 0.5],
                             [0.5, 0.3, 1.0, 0.6],
                             [0.2, 0.5, 0.6, 1.0]]).double()
    A = torch.full((1, 4), 0.25).double()                   # low = A x₀

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def given_low(self, low, level):
        """Mean (n, 4) and covariance (4, 4) of x₀, given low with noise of this level; and the gain
        K: how much the mean changes with low."""
        alpha, sigma = alpha_sigma(self.schedule, level)
        alpha = alpha.item()
        sigma = sigma.item()
        variance = alpha**2 * self.A @ self.V @ self.A.T + sigma**2     # of low with noise
        K = alpha * self.V @ self.A.T / variance
        mean = self.m + (low.flatten(1).double() - alpha * self.A @ self.m) @ K.T
        return mean, self.V - alpha * K @ self.A @ self.V, K

    def forward(self, x, t, words, mask, low, aug_t):
        mean, covariance, _ = self.given_low(low, aug_t[0].item())
        alpha, sigma = alpha_sigma(self.schedule, t[0].item())
        alpha = alpha.item()
        sigma = sigma.item()
        total = alpha**2 * covariance + sigma**2 * torch.eye(4).double()    # of x_t
        gain = alpha * covariance @ torch.linalg.inv(total)
        xt = x.flatten(1).double()
        x0 = mean + (xt - alpha * mean) @ gain.T
        eps = (xt - alpha * x0) / sigma
        return self.schedule.target(x0.view(x.shape), eps.view(x.shape), t)


@pytest.mark.parametrize("aug_level", [0.05, 0.5])
def test_exact_answers_recover_the_conditional_distribution(aug_level):
    """Pictures of which one knows the small picture, but for the noise on it: mean and covariance
    within 3 % of the largest. If the network were told another level than that of the noise, or if
    there were no noise, they would be too much like the small picture, or too little."""
    n = 20000
    cfg = tiny(T=1000, aug_level=aug_level, sampler="dpm", sample_steps=250, guidance=3.0)
    schedule = noise_of(cfg)
    unet = Exact(schedule)
    low = torch.full((n, 1, 1, 1), 0.4)
    images = text_to_image.generate_stage(unet, any_text, prompts([1] * n), 1, 2, cfg, low)

    level = int(1000 * aug_level)
    alpha, sigma = alpha_sigma(schedule, level)
    mean, covariance, K = unet.given_low(alpha * low[:1], level)    # if the noise happens to be 0
    covariance = covariance + sigma.item()**2 * K @ K.T             # and with all that it may be
    x = images.flatten(1).double()
    assert (x.mean(0) - mean[0]).abs().max() < 0.03 * covariance.max()**0.5
    assert (x.T.cov() - covariance).abs().max() < 0.03 * covariance.max()


class Linear(Black):
    """A network that keeps what it was asked, and answers linearly."""

    def forward(self, x, t, words, mask, low=None, aug_t=None):
        super().forward(x, t, words, mask, low, aug_t)
        return 0.3 * x + words.view(-1, 1, 1, 1)


@pytest.mark.parametrize("w, calls", [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_guidance(w, calls):
    """0: without the prompt, 1: with it, else u + w (c − u). It is done in the network's answer,
    and only then is x̂₀ moved into [-1, 1]. Both are shown low, and each its own mask."""
    schedule = noise_schedule(T=1000)
    x = 4 * normal(3, 1, 4, 4, dtype=torch.float32)
    cond = (torch.tensor([1.0, 5.0, -0.5]), "mask of the prompts")
    uncond = (torch.zeros(3), "mask of nothing")
    unet = Linear()
    got = text_to_image.predict_with_guidance(unet, schedule, x, 600, cond, uncond, w, "low",
                                              "aug_t")

    answer = 0.3 * x
    answer_cond = 0.3 * x + cond[0].view(-1, 1, 1, 1)
    want = schedule.predict_x0(answer + w * (answer_cond - answer), x, 600)
    assert want.abs().max() > 1.1
    close(got, want.clamp(-1, 1), 1e-5)

    assert len(unet.asked) == calls
    masks = set()
    for _, t, words, mask, low, aug_t in unet.asked:
        assert t.dtype == torch.int64
        assert t.tolist() == [600, 600, 600]
        assert low == "low"
        assert aug_t == "aug_t"
        assert mask == (uncond[1] if (words == 0).all() else cond[1])
        masks.add(mask)
    assert (cond[1] in masks) == (w != 0)
    assert (uncond[1] in masks) == (w != 1)


def test_x0_is_taken_in_float32():
    """Under autocast the network answers in bfloat16; guidance subtracts numbers that are almost
    alike, and x_t goes on in float32."""
    x = normal(2, 1, 4, 4, dtype=torch.float32)
    unet = Answers(x.bfloat16())
    words = any_text(prompts([1, 2]))
    for w in (0.0, 1.0, 2.0):
        x0 = text_to_image.predict_with_guidance(unet, noise_schedule(), x, 5, words, words, w)
        assert x0.dtype == torch.float32


@both_stages
def test_the_guided_network_is_asked_with_and_without_the_prompts(stage):
    """In the order of guidance: what stands for nothing is PAD, and not the prompts themselves."""
    unet = Black()
    tokens = prompts([5, 3])
    cfg = tiny(guidance=2.0, sample_steps=1)
    low = None if stage == 0 else torch.zeros(2, C, 16, 16)
    text_to_image.generate_stage(unet, any_text, tokens, C, 16 * 2**stage, cfg, low)
    asked = [words for _, _, words, _, _, _ in unet.asked]
    assert len(asked) == 2
    assert any(torch.equal(words, tokens) for words in asked)
    assert any((words == PAD).all() for words in asked)


def test_a_prompt_without_guidance_or_words_leaves_no_trace():
    """With guidance 0 all prompts draw the same; and an empty prompt draws this with any guidance.
    Without that, guidance 0 would not be what it is compared with."""
    nets = lively()
    one = prompts([5, 3])
    other = prompts([6, 2], seed=1)
    empty = prompts([0, 0])

    def draw(tokens, w):
        return text_to_image.generate(nets, tokens, C, tiny(guidance=w))[-1]

    nothing = draw(one, 0.0)
    assert torch.equal(draw(other, 0.0), nothing)
    assert not torch.allclose(draw(one, 1.0), draw(other, 1.0))
    assert not torch.allclose(draw(one, 1.0), nothing)
    for w in (0.0, 1.0, 3.0):
        close(draw(empty, w), nothing, 1e-5)


def test_stages_follow_each_other():
    """The second enlarges what the first has drawn. All is the same when drawn again, whatever else
    drew random numbers in between, and other images come from another --seed."""
    nets = lively()
    tokens = prompts([5, 3, 0])
    cfg = tiny()
    first, second = text_to_image.generate(nets, tokens, C, cfg)
    assert first.shape == (3, C, 16, 16)
    assert second.shape == (3, C, 32, 32)
    for images in (first, second):
        assert not images.requires_grad
        assert images.abs().max() <= 1
        assert differ(images[0], images[1])

    torch.manual_seed(77)
    again = text_to_image.generate(nets, tokens, C, cfg)
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)

    with torch.no_grad():
        encoder = nets["encoder"]
        small = text_to_image.generate_stage(nets["unets"][0], encoder, tokens, C, 16, cfg)
        larger = text_to_image.generate_stage(nets["unets"][1], encoder, tokens, C, 32, cfg, first)
    assert torch.equal(small, first)
    assert torch.equal(larger, second)

    other = text_to_image.generate(nets, tokens, C, tiny(seed=2))
    assert differ(other[0], first)
    assert differ(other[1], second)


def test_no_image_depends_on_the_others(double):
    """They come in the order of their prompts, and each is drawn as if it were alone: by a sampler
    that adds no noise on the way, for this is drawn for all together."""
    nets = lively()
    tokens = prompts([5, 3, 0])
    cfg = tiny(sampler="dpm")
    together = text_to_image.generate(nets, tokens, C, cfg)
    alone = text_to_image.generate(nets, tokens[:1], C, cfg)
    for images, image in zip(together, alone):
        close(image, images[:1], 1e-6)
    swapped = text_to_image.generate(nets, tokens[[0, 2, 1]], C, cfg)
    for images, others in zip(together, swapped):
        close(others[:1], images[:1], 1e-6)
        assert differ(others[1], images[1])


def test_every_stage_has_noise_of_its_own():
    """If the seed were the same for both, x_T of the large image would be that of the small one
    with its rows mixed up; and the noise on low must not be that which the image begins with. Nor
    is any image given that of another."""
    cfg = tiny()
    first = Black()
    second = Black()
    nets = {"encoder": any_text, "unets": [first, second]}
    drawn = text_to_image.generate(nets, prompts([5, 5]), C, cfg)
    x_T = first.asked[0][0]
    larger_x_T, _, _, _, low, aug_t = second.asked[0]
    alpha, sigma = alpha_sigma(noise_of(cfg), aug_t[0].item())
    noise_of_low = (low - alpha * drawn[0]) / sigma

    noises = []
    for noise in (x_T, larger_x_T, noise_of_low):
        assert abs(noise.std() - 1) < 0.1
        noises.append(noise[0].flatten()[:768].double())
        noises.append(noise[1].flatten()[:768].double())
    correlations = torch.corrcoef(torch.stack(noises)) - torch.eye(6).double()
    assert correlations.abs().max() < 0.15                  # four standard deviations


@paper
def test_noise_on_the_way_is_not_that_of_the_beginning(monkeypatch):
    """One seed for both would add x_T to itself: too much noise at the first step of ddpm. It is
    the same when drawn again, whatever else drew random numbers in between."""
    began = []
    came = []
    plain = text_to_image.ddpm_step

    def spy(schedule, xt, x0, t, s, z, variance):
        began.append(xt)
        came.append(z)
        return plain(schedule, xt, x0, t, s, z, variance)

    monkeypatch.setattr(text_to_image, "ddpm_step", spy)
    cfg = tiny(sampler="ddpm", sample_steps=2)
    for seed in (1, 2):
        torch.manual_seed(seed)
        text_to_image.generate_stage(Black(), any_text, prompts([5, 5]), C, 16, cfg)
    assert len(came) == 4
    for z in came[:2]:
        both = torch.stack([began[0].flatten(), z.flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 0.12
    assert not torch.equal(came[0], came[1])
    assert torch.equal(came[0], came[2])
    assert torch.equal(came[1], came[3])


@both_stages
def test_watch_sees_every_step(stage):
    """From noise on; the last x̂₀ is the image."""
    nets = lively()
    tokens = prompts([5, 3])
    cfg = tiny()
    seen = []

    def watch(xt, x0):
        seen.append((xt, x0))

    text = nets["encoder"]
    with torch.no_grad():
        unet = nets["unets"][stage]
        low = None if stage == 0 else torch.zeros(2, C, 16, 16)
        S = 16 * 2**stage
        images = text_to_image.generate_stage(unet, text, tokens, C, S, cfg, low, watch)
    assert len(seen) == 3
    assert abs(seen[0][0].std() - 1) < 0.1
    close(seen[-1][1], images, 1e-5)


# ---- a run

def test_each_weight_has_one_optimiser():
    """A weight that is in no list is never trained, one that is in both is trained twice. Muon has
    matrices only, and no embeddings: a word that is not in the batch must not move."""
    nets = lively()
    learning = [nets["unets"][0], nets["encoder"]]
    weights = [weight for network in learning for weight in network.parameters()]
    embeddings = [module.weight for module in nets["encoder"].modules()
                  if isinstance(module, nn.Embedding)]
    assert embeddings

    muon, adam = text_to_image.make_optimizers(learning, tiny())
    of_muon = {id(weight) for weight in muon.param_groups[0]["params"]}
    of_adam = {id(weight) for weight in adam.param_groups[0]["params"]}
    assert not of_muon & of_adam
    assert of_muon | of_adam == {id(weight) for weight in weights}
    for weight in weights:
        if weight.ndim < 2:
            assert id(weight) in of_adam
    for weight in embeddings:
        assert id(weight) in of_adam

    optimizers = text_to_image.make_optimizers(learning, tiny(optimizer="adam"))
    assert len(optimizers) == 1
    of_adam = {id(weight) for weight in optimizers[0].param_groups[0]["params"]}
    assert of_adam == {id(weight) for weight in weights}


def test_learns_two_pictures_by_their_prompts():
    """At time T there is nothing but noise, new in each step: which of the two it is can only be
    known from the words. A network that does not hear of them answers with the mean of both
    pictures, and the loss stays as it was."""
    cfg = tiny(T=1000, size=16, stages=1)
    schedule = noise_of(cfg)
    nets = text_to_image.make_nets(cfg, C, V, L)["nets"]
    unet = nets["unets"][0]
    encoder = nets["encoder"]
    picture = torch.linspace(-1, 1, 16).expand(C, 16, 16)
    x0 = torch.stack([picture, -picture]).repeat(2, 1, 1, 1)
    tokens = prompts([3, 2]).repeat(2, 1)
    t = torch.full((4,), 1000)
    optimizer = torch.optim.Adam(nets.parameters(), 2e-3, (0.9, 0.99))
    losses = []
    for step in range(1000):                        # ours needs 34; others may need more
        eps = normal(4, C, 16, 16, seed=step, dtype=torch.float32)
        loss = text_to_image.diffusion_loss(unet, encoder, schedule, x0, tokens, t, eps)
        losses.append(loss.item())
        if losses[-1] < 0.05 * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def sheet_shape(rows, columns, size=32):
    return rows * (size + 2) + 2, columns * (size + 2) + 2, 3


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def read_log(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def test_end_to_end(trained):
    """Scores of both stages beside their baselines, a line in the log for every step, pictures from
    each stage."""
    run, result = trained
    kinds = ["16", "16, real", "32", "32, real", "other faces"]
    rows = {f"{name}, {kind}" for name in ("held out", "unseen") for kind in kinds}
    assert set(result["scores"]) == rows
    assert result["n"] == 40
    assert set(result["scores"]["held out, 32"]) == {*image_sets.ATTRIBUTES, "mean", "Fréchet"}
    assert len(result["val_loss"]) == 2

    log = read_log(run)
    assert [row["stage"] for row in log] == ["1"] * 3 + ["2"] * 3
    evaluated = [bool(row["val_loss"]) for row in log]
    assert evaluated == [False, True, True, True, False, True]      # and where a stage ends
    rates = [row["lr"] for row in log]
    assert rates[:3] == rates[3:]                   # each stage begins anew
    small = read_grid(run / "samples/step_000003.png", 2, 16)
    large = read_grid(run / "samples/step_000006.png", 2, 32)
    assert small.shape == sheet_shape(8, 2, 16)
    assert large.shape == sheet_shape(8, 2)


@paper
def test_the_learning_rate(trained):
    """It rises and falls within each stage. Muon's does so, too: the rate of one alone would stay
    at its peak until the end."""
    run, _ = trained
    peak = text_to_image.Config.lr
    rates = [float(row["lr"]) / peak for row in read_log(run)]
    assert np.allclose(rates, [1 / 2, 1, 1 / 2] * 2)

    last = [optimizer["param_groups"][0]["lr"] for optimizer in saved(run)["optimizers"]]
    muon_peak = text_to_image.Config.muon_lr
    assert np.allclose(last, [muon_peak / 2, peak / 2] * 2)


def test_samples_of_a_run_are_those_of_the_average(trained):
    """The picture that training writes at its end is what `generate` draws with the averaged
    networks for held-out captions, n for each."""
    run, _ = trained
    nets, tokens = examples_of(saved(run))
    images = text_to_image.generate(nets, tokens.repeat_interleave(2, 0), C, tiny())[-1]
    shown = read_sheet(run / "samples/step_000006.png", 2, 32)
    assert shown.shape[:2] == (8, 2)
    assert alike(shown.flatten(0, 1), images)


def loaded(checkpoint):
    """(the averaged networks, Words) of a checkpoint."""
    cfg = text_to_image.Config(**checkpoint["config"])
    colours, _, n_words, longest = checkpoint["shape"]
    nets = text_to_image.make_nets(cfg, colours, n_words, longest, checkpoint)["ema"]
    return nets, Words(checkpoint["words"])


def examples_of(checkpoint):
    """(the averaged networks, the eight held-out captions (8, L) that they draw) of a checkpoint.
    """
    nets, words = loaded(checkpoint)
    rows = words.encode_all(checkpoint["examples"])
    missing = checkpoint["shape"][3] - rows.size(1)
    return nets, F.pad(rows, (0, missing), value=PAD)


def changed(before, after, part) -> bool:
    """Is any weight of this part other than before?"""
    names = [name for name in before if name.startswith(part)]
    assert names, part
    return any(not torch.equal(before[name], after[name]) for name in names)


def test_the_encoder_learns_with_the_first_stage_only(place, monkeypatch):
    """A run is left after the first of two stages, and goes on. First the text encoder and the
    first U-Net change, and their averages. Then nothing but the second U-Net and its average does,
    and the words it reads are those of the averaged text encoder, which `sample` will use."""
    monkeypatch.setattr(text_to_image, "judge_of_faces", no_judge)
    folder = place / "parts"
    settings = dict(out_dir=str(folder), size=16)
    text_to_image.train(tiny(**settings, stop_after=3))
    checkpoint = saved(folder)
    first = checkpoint["model"]
    colours, _, n_words, longest = checkpoint["shape"]
    fresh = text_to_image.make_nets(tiny(size=16), colours, n_words, longest).state_dict()

    read = []
    plain = text_to_image.diffusion_loss

    def spy(unet, text, *args):
        weights = {}
        for name, weight in text.state_dict().items():
            weights[f"ema.encoder.{name}"] = weight.clone()
        read.append(weights)
        return plain(unet, text, *args)

    monkeypatch.setattr(text_to_image, "diffusion_loss", spy)
    text_to_image.train(tiny(**settings, resume=True))
    last = saved(folder)["model"]

    assert len(read) >= 3
    for weights in read:
        assert not changed(weights, first, "ema.encoder")
    for kind in ("nets", "ema"):
        assert changed(fresh, first, f"{kind}.encoder")
        assert changed(fresh, first, f"{kind}.unets.0")
        assert not changed(fresh, first, f"{kind}.unets.1")
        assert not changed(first, last, f"{kind}.encoder")
        assert not changed(first, last, f"{kind}.unets.0")
        assert changed(first, last, f"{kind}.unets.1")


# ---- sample and evaluate

def command(folder, *args):
    return text_to_image.main([*args, f"--out_dir={folder}", "--device=cpu", "--matmul=highest"])


def test_samples(trained, capsys):
    """A row for each prompt, with its name; the second is empty. They are drawn by the averaged
    networks."""
    run, _ = trained
    checkpoint = saved(run)
    prompt = "a smiling face with blond hair"
    command(run, "sample", f"--prompt={prompt} | ", "--n=3", "--guidance=2")
    assert f"{prompt}\nno prompt\nwrote" in capsys.readouterr().out

    nets, words = loaded(checkpoint)
    tokens = torch.full((6, checkpoint["shape"][3]), PAD)
    numbers = words.encode(prompt)
    tokens[:3, :len(numbers)] = torch.tensor(numbers)
    images = text_to_image.generate(nets, tokens, C, tiny(guidance=2.0))[-1]
    path = run / "samples/samples.png"
    assert alike(read_sheet(path, 3, 32).flatten(0, 1), images)

    picture = read_png(path)
    places = find_text(picture, "a smiling face")   # the first line of the name
    assert len(places) == 1
    row, _ = places[0]
    assert row < picture.shape[0] / 2               # beside its row


def test_stages_are_shown_from_noise_to_image(trained):
    """A row for each image: four moments of each stage. The last of them are what the stage has
    drawn, the small image with large pixels."""
    run, _ = trained
    command(run, "sample", "--n=1", "--show=stages")
    path = run / "samples/stages.png"
    assert read_grid(path, 8, 32).shape == sheet_shape(8, 8)        # of eight captions
    shown = read_sheet(path, 8, 32)

    nets, tokens = examples_of(saved(run))
    first, second = text_to_image.generate(nets, tokens, C, tiny())
    assert alike(shown[:, 3], first.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert alike(shown[:, 7], second)
    for noise in (shown[:, 0, :, ::2, ::2], shown[:, 4]):
        assert 0.6 < noise.std() < 0.8              # normal numbers, cut off at -1 and 1


def test_evaluate(trained, capsys, monkeypatch):
    """Which settings are compared; and the rows whose small pictures are real ones."""
    run, _ = trained
    real = to_float(captions.load_captions("faces", 32, 40)[1].images[-40:])
    calls = []
    given = []

    def generate(nets, tokens, colours, cfg):
        calls.append((cfg.guidance, cfg.sample_steps))
        return [real]

    def generate_stage(unet, encoder, prompts, colours, size, cfg, low):
        assert size == 32
        calls.append((cfg.guidance, cfg.sample_steps, cfg.aug_level))
        given.append(low)
        return real

    monkeypatch.setattr(text_to_image, "generate", generate)
    monkeypatch.setattr(text_to_image, "generate_stage", generate_stage)
    rows = command(run, "evaluate")
    assert json.loads((run / "evaluate.json").read_text()) == rows
    assert "PSNR" in capsys.readouterr().out

    own = text_to_image.Config(**saved(run)["config"])
    settings = [(w, steps) for w in study.GUIDANCE for steps in study.STEPS]
    levels = [(own.guidance, own.sample_steps, level) for level in (0.0, own.aug_level)]
    assert calls == settings + levels
    means = real.view(40, 3, 16, 2, 16, 2).mean((3, 5))
    for low in given:
        close(low, means, 1e-5)
    without_noise = "real, enlarged, s 0"
    with_noise = f"real, enlarged, s {own.aug_level:g}"
    assert list(rows)[-3:] == [without_noise, with_noise, "real, bicubic"]
    assert rows[without_noise]["PSNR"] == math.inf
    assert 15 < rows["real, bicubic"]["PSNR"] < math.inf
    assert read_grid(run / "samples/evaluate.png", 8, 32).shape == sheet_shape(len(rows), 8)


def test_evaluate_without_noise_on_low(trained, monkeypatch):
    """With --aug_level=0 there is nothing to compare noise on low with; the names of the pictures
    must not be shifted by that."""
    run, _ = trained
    images = torch.zeros(40, C, 32, 32)
    monkeypatch.setattr(text_to_image, "generate", lambda *args: [images])
    monkeypatch.setattr(text_to_image, "generate_stage", lambda *args: images)
    monkeypatch.setattr(text_to_image, "judge_images", lambda *args: {"mean": 0.5})
    rows = command(run, "evaluate", "--aug_level=0")
    assert read_grid(run / "samples/evaluate.png", 8, 32).shape == sheet_shape(len(rows), 8)


def test_stages_of_a_long_chain_fit_into_memory(monkeypatch):
    """Four moments of each stage are shown. With 64 images of 64 pixels, and the 1,000 steps of
    ddpm, all moments are 3 GB."""
    kept = []
    plain = study.film

    def film(moments, pictures):
        kept.append(len(moments))
        return plain(moments, pictures)

    monkeypatch.setattr(study, "film", film)
    nets = {"encoder": any_text, "unets": [Black(), Black()]}
    study.show_stages(nets, ["a face"], prompts([2, 2]), C, tiny(T=1000, sample_steps=250))
    assert len(kept) == 2
    assert max(kept) <= 20


def captions_of(i):
    """One caption of an image, or two."""
    shade = "dark" if i < 3 else "bright"
    both = [f"a {shade} square", f"number{i}"]
    return both[:1 + i % 2]


def test_own_captions(tmp_path, capsys):
    """They are learnt, sampled, and not scored, since no judge can read such images."""
    run = tmp_path / "run"
    data = own_captions(tmp_path, captions_of)
    result = text_to_image.train(tiny(data=data, out_dir=str(run), size=16, steps=2))
    assert result["scores"] == {}
    assert "no judge" in capsys.readouterr().out
    command(run, "sample", "--prompt=a bright square|number3", "--n=2")
    assert read_grid(run / "samples/samples.png", 2, 16).shape == sheet_shape(2, 2, 16)
    refused(capsys, "labels", "evaluate", f"--out_dir={run}", "--device=cpu")
    refused(capsys, "'smiling'", "sample", f"--out_dir={run}", "--prompt=a smiling square")


# ---- bad input: one line, exit status 2, no traceback, nothing lost

def refused(capsys, words, *args):
    assert words in refused_by(text_to_image.main, capsys, *args)


def test_the_limits_are_those_of_the_run(trained, tmp_path):
    """Not those of the defaults: a network that knows 2,000 times may take 1,500 steps, though T is
    1,000 unless it is given; and one that has seen more noise on low may be given more."""
    run, _ = trained
    checkpoint = saved(run)
    checkpoint["config"].update(T=2000, max_aug_level=0.9)
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    typed = text_to_image.Config(out_dir=str(tmp_path), sample_steps=1500, aug_level=0.8)
    _, cfg, _ = text_to_image.load(typed)
    assert cfg.T == 2000
    assert cfg.sample_steps == 1500
    assert cfg.aug_level == 0.8


def test_all_prompts_may_be_dropped():
    """As --label_dropout=1 of train_diffusion.py: a model that draws without words."""
    assert tiny(prompt_dropout=1.0).prompt_dropout == 1


def test_bad_prompts_data_and_flags(trained, tmp_path, capsys):
    own = [f"--out_dir={trained[0]}", "--device=cpu"]
    refused(capsys, "'zebra', 'unicorn'", "sample", *own,
            "--prompt=a smiling face | a zebra unicorn zebra")
    refused(capsys, "room for", "sample", *own, "--prompt=" + "face " * 60)
    refused(capsys, "--n=0", "sample", *own, "--n=0")
    refused(capsys, "from 1 to 20", "sample", *own, "--sample_steps=21")    # of this run's T
    refused(capsys, "--aug_level=1", "sample", *own, "--aug_level=1")
    refused(capsys, "at most 0.5", "sample", *own, "--aug_level=0.6")       # of this run's training
    data = own_captions(tmp_path, captions_of)
    refused(capsys, "leave out --data", *own, "--resume", f"--data={data}", "--steps=9")


@pytest.mark.parametrize("flag", [
    "width=33", "width=0", "levels=0", "levels=9", "stem=3", "stem=0", "stages=0", "stages=9",
    "T=0", "n=0", "batch_size=0", "n_layer=0", "max_weight=0", "max_aug_level=1", "aug_level=-1",
    "aug_level=0.6", "prompt_dropout=1.1", "prompt_dropout=-1", "eta=-1", "eta=2", "beta2=1",
    "lr=0", "muon_lr=0", "optimizer=sgd", "sample_steps=0", "sample_steps=21", "sampler=euler",
    "schedule=square", "predict=noise", "variance=medium", "n_images=0", "prompt=zebra", "size=30",
    "size=0"])
def test_bad_sizes(flag, tmp_path, capsys, monkeypatch):
    """Refused before anything is written."""
    monkeypatch.setattr(text_to_image, "judge_of_faces", no_judge)
    name, value = flag.split("=")
    settings = {**TINY, "out_dir": tmp_path / "run", name: value}
    words = "'zebra'" if name == "prompt" else f"--{name}"
    refused(capsys, words, *(f"--{key}={value}" for key, value in settings.items()))
    assert not (tmp_path / "run").exists()
