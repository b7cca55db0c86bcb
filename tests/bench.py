"""python -m tests.bench NAME: our figure beside a baseline's, measured in the same run, median of several.

    python -m tests.bench gpt --data=shakespeare.txt [--nanogpt=DIR]    time to a held-out loss; one step
    python -m tests.bench generate                                      tokens per second, against the memory's speed
    python -m tests.bench gan                                           one step of DCGAN, 64 × 64, batch 64
    python -m tests.bench cyclegan                                      one step of CycleGAN, 64 × 64 and 32 × 32
    python -m tests.bench families --runs=A,B,C                         which draws best: GAN, VAE or diffusion
    python -m tests.bench lstm                                          one step of the LSTM beside torch.nn.LSTM
    python -m tests.bench translator                                    a step beside torch.nn.Transformer; the cache
    python -m tests.bench diffusion                                     one step of diffusion, 32 × 32, batch 64
    python -m tests.bench llama                                         tokens per second in float32, bfloat16, int8
    python -m tests.bench llama --compile                               also with --compile, after minutes

Not a test: it takes many minutes and wants the machine to itself. --nanogpt names a checkout of nanoGPT, whose model
and optimiser are then trained beside ours by its published recipe for CPUs. For diffusion, denoising-diffusion-pytorch
is measured beside ours if it is installed; for llama and generate, transformers.
"""
import argparse
import csv
import functools
import importlib.metadata
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import train_diffusion
import train_gan
import train_gpt
from mini import cyclegan, llama, lstm, translator, vae
from mini.data.images.faces import ATTRIBUTES, faces
from mini.data.images.image_sets import load_images, one_hot
from mini.data.text.corpus import encode, make_tokenizer, read_corpus
from mini.data.text.pairs import encode_pairs, make_vocabularies, write_pairs
from mini.utils.compiled_llama import CompiledLlama
from mini.utils.config import require
from mini.utils.device import autocast
from mini.utils.fast_vectors import fast_vectors, in_huge_pages
from mini.utils.images import noise, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import own_checkpoint
from train_gpt import GPT, Config

# nanoGPT's recipe for CPUs: its sizes, batch, rates, decay; its cosine is in `nanogpt`
NANOGPT_CPU = dict(tokenizer="char", n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, steps=2000,
                   optimizer="adamw", lr=1e-3, warmup=100, stable_frac=0.0, weight_decay=0.1, dropout=0.0)
TARGET = 1.898      # nats per character on the last tenth of Shakespeare, in windows of 64


def ours(data: str, settings: dict, seed: int, steps: int = 0):
    """(seconds of training, held-out loss, steps) with these settings, through the real train()."""
    options = {**settings, **({"steps": steps} if steps else {})}
    with tempfile.TemporaryDirectory() as folder:
        cfg = Config(**{"data": data, "tokenizer": "char", **options, "seed": seed, "device": "cpu", "log_every": 0,
                        "out_dir": f"{folder}/run", "eval_every": 10**9, "sample_every": 0, "max_new_tokens": 1})
        result = train_gpt.train(cfg)
    return result["seconds"], result["val_loss"], result["steps"]


def nanogpt(folder: str, data: str, seed: int, steps: int = 2000):
    """The same for nanoGPT's model, optimiser and recipe: 4 layers, 4 heads, width 128, context 64, batch 12."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", f"{folder}/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    corpus = read_corpus(data)
    tokenizer = make_tokenizer("char", corpus, 0)
    tokens = torch.cat(encode(tokenizer, corpus.train, "cpu"))
    held_out = encode(tokenizer, corpus.val, "cpu")
    torch.manual_seed(seed)
    model = module.GPT(module.GPTConfig(block_size=64, vocab_size=tokenizer.vocab_size, n_layer=4, n_head=4,
                                        n_embd=128, dropout=0.0, bias=False))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    start = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - 100) / (2000 - 100)))
            group["lr"] = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 9e-4 * cosine
        at = torch.randint(len(tokens) - 64, (12,))
        x = torch.stack([tokens[i:i + 64] for i in at])
        y = torch.stack([tokens[i + 1:i + 65] for i in at])
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    seconds = time.perf_counter() - start

    model.cfg, forward = Config(**NANOGPT_CPU), model.forward
    model.forward = lambda idx: forward(idx, idx)[0]    # its forward returns all logits only when it has targets
    return seconds, train_gpt.estimate_loss(model, held_out), steps


def bench_gpt(args):
    def baseline(seed, steps=2000):
        if args.nanogpt:
            return nanogpt(args.nanogpt, args.data, seed, steps)
        return ours(args.data, NANOGPT_CPU, seed, steps)

    print(f"baseline: {'nanoGPT in ' + args.nanogpt if args.nanogpt else 'our file with the recipe nanogpt-cpu'}")
    steps = {"baseline": [], "nanogpt-cpu": []}
    for seed in range(args.pairs):
        for name, run in (("baseline", baseline), ("nanogpt-cpu", lambda s, n: ours(args.data, NANOGPT_CPU, s, n))):
            seconds, _, n = run(seed, 100)
            steps[name].append(1000 * seconds / n)
    ratios = [b / a for a, b in zip(steps["baseline"], steps["nanogpt-cpu"])]
    print(f"one step, {args.pairs} pairs of 100 steps: baseline {statistics.median(steps['baseline']):.1f} ms, our "
          f"nanogpt-cpu {statistics.median(steps['nanogpt-cpu']):.1f} ms, ratio {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")
    rows = []
    for seed in range(1, args.seeds + 1):
        a, b = baseline(seed), ours(args.data, train_gpt.PRESETS["speedrun"], seed)
        rows.append((*a[:2], *b[:2], b[0] / a[0]))
        print(f"seed {seed}: baseline {a[0]:.1f} s to {a[1]:.4f}; our speedrun {b[0]:.1f} s to {b[1]:.4f} in {b[2]} "
              f"steps (target {TARGET}); ratio {b[0] / a[0]:.3f}", flush=True)
    if not args.nanogpt or args.all:
        print("our nanogpt-cpu: {:.1f} s to {:.4f}".format(*ours(args.data, NANOGPT_CPU, 1)[:2]))
    a, x, b, y, ratio = (statistics.median(column) for column in zip(*rows))
    print(f"median of {args.seeds}: baseline {a:.1f} s to {x:.4f}; speedrun {b:.1f} s to {y:.4f}; time ratio {ratio:.3f}")


class Clock:
    """Notes when each token comes; as on_token of a `generate`. The first one, which reads the prompt, starts it."""

    def __init__(self, before=lambda: None, every=1):
        """before: is called before every so many tokens, outside of their times."""
        self.before, self.every, self.times, self.mark = before, every, [], None

    def __call__(self, token):
        if self.mark is not None:
            self.times.append(time.perf_counter() - self.mark)
        if len(self.times) % self.every == 0:
            self.before()
        self.mark = time.perf_counter()


def tokens_per_second(model, prompt: int, new: int, cache=True) -> float:
    """Tokens per second after the first."""
    text, clock = torch.randint(1000 if len(model.wte.weight) > 1000 else 60, (1, prompt)), Clock()
    model = train_gpt.CachedGPT(model) if cache else model
    train_gpt.generate(model, text, new, on_token=clock, temperature=0.8)
    return len(clock.times) / sum(clock.times)


def beside_reading(model, prompt: int, new: int, generate=train_gpt.generate, cached=train_gpt.CachedGPT):
    """(bytes per second of summing half a gigabyte of float32, tokens per second): medians of one sum and four tokens
    in turn, since the memory's speed on a shared machine changes from second to second. (After a sum the caches are
    cold, for the first of the four alone; nobody who writes sums half a gigabyte before each token.)"""
    read, bandwidth = reader()
    clock = Clock(before=read, every=4)
    generate(cached(model), torch.randint(1000, (1, prompt)), new, on_token=clock, temperature=0.8)
    return bandwidth(), 1 / statistics.median(clock.times)


def reader(huge=False):
    """(a function that sums half a gigabyte, one that says at how many bytes per second: the median). huge: of memory in
    pages of 2 MB, as the tables of fast_vectors have it."""
    x, times = half_a_gigabyte(huge), []

    def read():
        start = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - start)
    return read, lambda: x.numel() * 4 / statistics.median(times)


@functools.cache
def half_a_gigabyte(huge: bool):
    """The same memory for all that is compared: how fast it is read depends on where it lies."""
    n = 125_000_000
    return in_huge_pages(4 * n).view(torch.float32).normal_() if huge else torch.randn(n)


@torch.inference_mode()
def products_beside_reading(model, times: int):
    """(bytes per second of a sum, tokens per second), if a token were the products of fast_vectors alone."""
    products = []
    for module in model.modules():
        if "product" in module.__dict__:
            x = torch.randn(getattr(module, "in_features", model.cfg.n_embd))
            products.append((module.product, x.type_as(model.wte.weight)))
    read, bandwidth = reader()
    clock = Clock(before=read, every=4)
    clock(None)
    for _ in range(times):
        for product, x in products:
            product(x)
        clock(None)
    return bandwidth(), 1 / statistics.median(clock.times)


def bench_generate(args):
    torch.manual_seed(0)
    model = GPT(Config(**{**train_gpt.PRESETS["gpt2"], "dropout": 0.0}), 50257)
    size = 4 * sum(p.numel() for p in model.parameters())
    print(f"GPT-2 124M, random weights, float32 ({size / 1e9:.3f} GB), batch 1: 64 tokens after 64")
    rows = []
    for _ in range(args.pairs):
        plain = tokens_per_second(model, 64, 24)
        with fast_vectors(model):
            bandwidth, fast = beside_reading(model, 64, 64)
        uncached = tokens_per_second(model, 64, 8, cache=False)
        rows.append((bandwidth / 1e9, fast, fast * size / bandwidth, plain, uncached))
        print("read {:.1f} GB/s; ours {:.1f} tokens/s = {:.2f} of it; with plain products {:.1f}; "
              "uncached {:.1f}".format(*rows[-1]), flush=True)
    print("median: read {:.1f} GB/s; ours {:.1f} tokens/s = {:.2f} of it; with plain products {:.1f}; uncached "
          "{:.1f}".format(*(statistics.median(column) for column in zip(*rows))))
    if importlib.util.find_spec("transformers"):
        from transformers import GPT2Config, GPT2LMHeadModel
        peer, rates = GPT2LMHeadModel(GPT2Config()).eval(), []
        for _ in range(args.pairs):
            text = torch.randint(1000, (1, 64))
            start = time.perf_counter()
            peer.generate(text, max_new_tokens=64, min_new_tokens=64, do_sample=True, pad_token_id=0)
            rates.append(64 / (time.perf_counter() - start))
        print(f"transformers, the same: {statistics.median(rates):.1f} tokens/s")
    del model
    model = GPT(Config(**{**train_gpt.PRESETS["gpu"], "fused": False, "dropout": 0.0}), 65)
    rows = []
    for _ in range(args.pairs):
        with fast_vectors(model):
            fast = tokens_per_second(model, 1, 255)
        uncached = tokens_per_second(model, 1, 255, cache=False)
        rows.append((fast, uncached, fast / uncached))
    print("preset gpu, 10.77M, 255 characters: cached {:.0f} tokens/s, uncached {:.0f}, ratio {:.1f}".format(
        *(statistics.median(column) for column in zip(*rows))))


def plain_dcgan(width: int, batch: int):
    """The step that everybody writes, in torch's default layout: the networks of Radford et al. 2016 at 64 × 64, D's two
    losses each with a backward pass of its own, G's with the gradients of D's weights computed and thrown away."""
    def up(a, b, stride, padding):
        return [nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]

    def down(a, b):
        return [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]

    w = width
    G = nn.Sequential(*up(100, 8 * w, 1, 0), *up(8 * w, 4 * w, 2, 1), *up(4 * w, 2 * w, 2, 1), *up(2 * w, w, 2, 1),
                      nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False), nn.Tanh())
    D = nn.Sequential(nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True), *down(w, 2 * w),
                      *down(2 * w, 4 * w), *down(4 * w, 8 * w), nn.Conv2d(8 * w, 1, 4, 1, 0, bias=False))
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (G, D))
    one, zero = torch.ones(batch), torch.zeros(batch)

    def step(x):
        opt_d.zero_grad()
        loss_real = F.binary_cross_entropy_with_logits(D(x).view(-1), one)
        loss_real.backward()
        fake = G(torch.randn(batch, 100, 1, 1))
        loss_fake = F.binary_cross_entropy_with_logits(D(fake.detach()).view(-1), zero)
        loss_fake.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = F.binary_cross_entropy_with_logits(D(fake).view(-1), one)
        loss_g.backward()
        opt_g.step()
        return loss_real.item() + loss_fake.item(), loss_g.item()
    return step


def seconds_apart(function, *args, **options) -> float:
    """What a function of this file returns, called in a process of its own: how a Run has the allocator keep its memory
    (mini/utils/run.py) holds for the whole process, and would help the baseline too, which has no such thing."""
    code = f"from tests import bench; print(bench.{function.__name__}(*{args}, **{options}))"
    out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True).stdout
    return float(out.split()[-1])


def plain_gan_step(size: int, width: int, batch: int, steps: int) -> float:
    """Seconds a step of plain_dcgan, after two of which the memory is new."""
    step, x = plain_dcgan(width, batch), torch.rand(batch, 3, size, size) * 2 - 1
    step(x), step(x)
    start = time.perf_counter()
    for _ in range(steps):
        step(x)
    return (time.perf_counter() - start) / steps


def our_gan_step(size: int, width: int, batch: int, steps: int, matmul: str) -> float:
    """The same through the real train(): batches, logging, the average of G and all."""
    images = (np.random.default_rng(0).random((256, size, size, 3)) * 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        cfg = train_gan.Config(data=f"{folder}/images.npy", size=size, ngf=width, ndf=width, batch_size=batch,
                               matmul=matmul, steps=steps + 2, device="cpu", log_every=2, eval_every=10**9,
                               sample_every=0, out_dir=f"{folder}/run")
        train_gan.train(cfg)
        seconds = [float(row["seconds"]) for row in csv.DictReader(open(f"{cfg.out_dir}/log.csv"))]
    return (seconds[-1] - seconds[0]) / steps


def bench_gan(args, *what):
    what, rows = what or (64, 64, 64, 10), []
    line = "plain torch {:.3f} s, ours {:.3f} s, ratio {:.2f}; in float32 {:.3f} s, ratio {:.2f}"
    for _ in range(args.pairs):
        plain = seconds_apart(plain_gan_step, *what)
        own = seconds_apart(our_gan_step, *what, matmul="medium")
        exact = seconds_apart(our_gan_step, *what, matmul="highest")
        rows.append((plain, own, own / plain, exact, exact / plain))
        print("a step: " + line.format(*rows[-1]), flush=True)
    print(f"median of {len(rows)}: " + line.format(*(statistics.median(column) for column in zip(*rows))))


def plain_cyclegan_step(size: int, batch: int, steps: int, **networks) -> float:
    """Seconds a step as everybody writes it, in torch's default layout, with the same networks: six passes through the
    generators one by one, then D_a and D_b, with a pool of 50 each."""
    def pooled(pool, images):
        shown = []
        for image in images.detach():
            if len(pool) < 50:
                pool.append(image)
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(50, ()))
                image, pool[i] = pool[i], image
            shown.append(image)
        return torch.stack(shown)

    cfg = cyclegan.Config(**networks)
    G_ab, G_ba = cyclegan.Generator(cfg, 3), cyclegan.Generator(cfg, 3)
    D_a, D_b = cyclegan.Discriminator(cfg, 3), cyclegan.Discriminator(cfg, 3)
    opt_g = torch.optim.Adam([*G_ab.parameters(), *G_ba.parameters()], 2e-4, (0.5, 0.999))
    opt_d = torch.optim.Adam([*D_a.parameters(), *D_b.parameters()], 2e-4, (0.5, 0.999))
    data, pool_a, pool_b = torch.rand(2, 256, 3, size, size) * 2 - 1, [], []

    def target(x, value):
        return F.mse_loss(x, torch.full_like(x, value))

    def step():
        a, b = (images[torch.randint(256, (batch,))] for images in data)
        for D in (D_a, D_b):
            D.requires_grad_(False)
        fake_b, fake_a = G_ab(a), G_ba(b)
        loss = target(D_b(fake_b), 1.0) + target(D_a(fake_a), 1.0)
        loss = loss + 10 * (F.l1_loss(G_ba(fake_b), a) + F.l1_loss(G_ab(fake_a), b))
        loss = loss + 5 * (F.l1_loss(G_ab(b), b) + F.l1_loss(G_ba(a), a))
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        for D in (D_a, D_b):
            D.requires_grad_(True)
        opt_d.zero_grad()
        for D, real, fake, pool in ((D_a, a, fake_a, pool_a), (D_b, b, fake_b, pool_b)):
            ((target(D(real), 1.0) + target(D(pooled(pool, fake)), 0.0)) / 2).backward()
        opt_d.step()
        return loss.item()

    step(), step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def our_cyclegan_step(size: int, batch: int, steps: int, matmul: str, **networks) -> float:
    """The same through the real train()."""
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate("ab"):
            images = (np.random.default_rng(i).random((260, size, size, 3)) * 255).astype(np.uint8)
            np.save(f"{folder}/{name}.npy", images)
        cfg = cyclegan.Config(data_a=f"{folder}/a.npy", data_b=f"{folder}/b.npy", size=size, batch_size=batch, lr=2e-4,
                              matmul=matmul, steps=steps + 2, device="cpu", log_every=2, eval_every=10**9, sample_every=0,
                              out_dir=f"{folder}/run", **networks)
        cyclegan.train(cfg)
        seconds = [float(row["seconds"]) for row in csv.DictReader(open(f"{cfg.out_dir}/log.csv"))]
    return (seconds[-1] - seconds[0]) / steps


def bench_cyclegan(args, steps=20):
    large = dict(ngf=64, halvings=2, blocks=6, ndf=64, d_halvings=3)
    for size, batch, networks in ((64, 1, large), (32, 16, {})):
        rows = []
        for _ in range(args.pairs):
            plain = seconds_apart(plain_cyclegan_step, size, batch, steps, **networks)
            own, fast = (seconds_apart(our_cyclegan_step, size, batch, steps, matmul=matmul, **networks)
                         for matmul in ("highest", "medium"))
            rows.append((plain, own, own / plain, fast, fast / plain))
        print("{0} × {0}, batch {1}, median of {2}: plain torch {3:.3f} s, ours in float32 {4:.3f} s, ratio {5:.2f}; as it "
              "comes {6:.3f} s, ratio {7:.2f}".format(size, batch, len(rows), *map(statistics.median, zip(*rows))), flush=True)


def bench_diffusion(args, size=32, batch=64):
    """Ours is what train() does at each step; theirs a U-Net at full resolution, dim 32 and multiples 1, 2, 2, and Adam.
    Both without their first two steps. FLOPs are those of products and convolutions in one step, by torch's counter."""
    def ours(matmul):
        cfg = train_diffusion.Config(matmul=matmul, device="cpu")
        nets = train_diffusion.make_nets(cfg, 3, size, ATTRIBUTES)
        optimizers = train_diffusion.make_optimizers(nets["net"], cfg)
        schedule = train_diffusion.make_schedule(cfg)
        rng = torch.Generator().manual_seed(0)

        def step():
            x0, y, t, eps = train_diffusion.get_batch(images, labels, batch, cfg, rng)
            with autocast(torch.device("cpu"), matmul):
                loss = train_diffusion.diffusion_loss(nets["net"], schedule, x0, y, t, eps)
            nets["net"].zero_grad(set_to_none=True)
            loss.backward()
            with autocast(torch.device("cpu"), matmul):
                for optimizer in optimizers:
                    optimizer.step()
            train_diffusion.update_ema(nets["ema"], nets["net"], 1000, cfg.ema)
            return loss.item()
        return step, sum(p.numel() for p in nets["net"].parameters())

    def theirs():
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        model = GaussianDiffusion(Unet(dim=32, dim_mults=(1, 2, 2)), image_size=size, timesteps=1000)
        optimizer, x = torch.optim.Adam(model.parameters(), 1e-4), images[:batch].float() / 255

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = model(x)
            loss.backward()
            optimizer.step()
            return loss.item()
        return step, sum(p.numel() for p in model.parameters())

    images, labels = faces(1024, size)
    labels = one_hot(labels, ATTRIBUTES)
    sides = {"ours": ours("medium"), "ours, --matmul=highest": ours("highest")}
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        sides["denoising-diffusion-pytorch"] = theirs()
    flops, seconds = {}, {name: [] for name in sides}
    for name, (step, _) in sides.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
        step()
    for _ in range(args.pairs):
        for name, (step, _) in sides.items():
            start = time.perf_counter()
            step(), step()
            seconds[name].append((time.perf_counter() - start) / 2)
    for name, (_, parameters) in sides.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[[*sides][-1]])]
        print(f"{name}: {parameters:,} parameters, {flops[name] / 1e9:.0f} GFLOP, a step "
              f"{statistics.median(seconds[name]):.3f} s, ratio to the last {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f} to {max(ratios):.3f})")


def bench_lstm(args, steps=5):
    """One training step of the default model beside the same with torch.nn.LSTM (without dropout of U, which it lacks),
    both in the precision that --matmul=medium gives here; then, written by each model with its own sampler, tokens per
    second of the LSTM and of the GPT of as many parameters. Turn by turn, medians."""
    cfg, V, device = lstm.Config(device="cpu"), 1024, torch.device("cpu")
    tokens, rng = torch.randint(V, (100_000,)), torch.Generator().manual_seed(0)

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.head = nn.Embedding(V, cfg.n_embd), nn.Linear(cfg.n_embd, V)
            self.head.weight = self.wte.weight
            self.lstm, self.dropout = nn.LSTM(cfg.n_embd, cfg.n_embd, cfg.n_layer, batch_first=True), nn.Dropout(cfg.dropout)

        def forward(self, x):
            h, _ = self.lstm(self.dropout(self.wte(x)))
            return self.head(self.dropout(h))

    sides, seconds = {"ours": lstm.LSTM(cfg, V), "torch.nn.LSTM": Theirs()}, {"ours": [], "torch.nn.LSTM": []}
    optimizers = {name: torch.optim.Adam(model.parameters()) for name, model in sides.items()}

    def step(name):
        x, y = lstm.get_batch(tokens, cfg.block_size, cfg.batch_size, rng)
        with autocast(device, cfg.matmul):
            loss = lstm.next_token_loss(sides[name](x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(sides[name].parameters(), cfg.grad_clip)
        optimizers[name].step()
        optimizers[name].zero_grad(set_to_none=True)

    for pair in range(args.pairs + 1):                      # the first pair warms up
        for name in sides:
            start = time.perf_counter()
            for _ in range(steps):
                step(name)
            if pair:
                seconds[name].append((time.perf_counter() - start) / steps)
    ratios = [a / b for a, b in zip(*seconds.values())]
    print("a step: " + ", ".join(f"{name} {1000 * statistics.median(times):.0f} ms" for name, times in seconds.items())
          + f"; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

    gpt, rates = train_gpt.GPT(train_gpt.Config(), V), {"LSTM": [], "GPT": []}
    for _ in range(args.pairs):
        for name, model, generate in (("LSTM", sides["ours"], lstm.generate),
                                      ("GPT", train_gpt.CachedGPT(gpt), train_gpt.generate)):
            clock = Clock()
            generate(model, tokens[None, :1], 500, on_token=clock)
            rates[name].append(len(clock.times) / sum(clock.times))
    print("writing 500 tokens: " + ", ".join(f"{name} {statistics.median(rate):.0f} tokens/s" for name, rate in rates.items()))


LLAMAS = {      # some 125M parameters, in few wide layers and in many narrow ones
    "GPT-2's sizes": dict(n_layer=12, n_head=12, n_kv_head=4, n_embd=768, d_ff=2048),
    "SmolLM2's sizes": dict(n_layer=30, n_head=9, n_kv_head=3, n_embd=576, d_ff=1536),
}


def bench_llama(args, new=48, V=49152):
    """Random weights, batch 1, 48 tokens after 64: bytes of weights read in a second, as a share of the bytes that a sum
    reads in the same run; in turn with transformers, if it is installed, in float32 and bfloat16. Both with torch's
    kernel for attention. And what there would be if nothing but the products took time."""
    with_peer = importlib.util.find_spec("transformers") is not None
    versions = f"torch {torch.__version__}"
    if with_peer:
        versions += f", transformers {importlib.metadata.version('transformers')}"
    print(f"{versions}, {torch.get_num_threads()} threads")
    speeds = []
    for huge in (False, True):
        read, bandwidth = reader(huge)
        for _ in range(20):
            read()
        speeds.append(bandwidth() / 1e9)
    print("a sum reads {:.1f} GB/s; in pages of 2 MB, as our tables lie, {:.1f}".format(*speeds))
    for title, sizes in LLAMAS.items():
        torch.manual_seed(0)
        model = llama.Llama(llama.Config(**sizes, block_size=1024, fused=True), V)
        n = sum(p.numel() for p in model.parameters())
        peer = transformers_llama(sizes, V) if with_peer else None
        print(f"{title}: {n:,} parameters, batch 1, {new} tokens after 64", flush=True)
        for weights, size in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
            if weights != "float32":
                model = model.bfloat16()
            runs = {"ours": (model, llama.generate, llama.CachedLlama)}
            if args.compile and weights != "int8":
                compiled = CompiledLlama(model)
                runs["ours, --compile"] = (model, llama.generate, lambda _, reader=compiled: reader)
            if with_peer and weights != "int8":
                assert sum(p.numel() for p in peer.parameters()) == n
                peer = peer.to(getattr(torch, weights))
                runs["transformers"] = (peer, transformers_generate, lambda model: model)
            rows = {name: [] for name in runs}
            with fast_vectors(model, weights):
                rows["our products alone"] = []
                for _ in range(args.pairs):
                    for name in rows:
                        if name in runs:
                            network, generate, cached = runs[name]
                            bandwidth, rate = beside_reading(network, 64, new, generate, cached)
                        else:
                            bandwidth, rate = products_beside_reading(model, new)
                        rows[name].append((bandwidth / 1e9, rate, rate * n * size / bandwidth))
            for name, of_it in rows.items():
                bandwidth, rate, share = (statistics.median(column) for column in zip(*of_it))
                least, most = min(row[2] for row in of_it), max(row[2] for row in of_it)
                print(f"    {weights}: {name} {rate:.1f} tokens/s = {share:.2f} ({least:.2f} to {most:.2f}) of "
                      f"{bandwidth:.1f} GB/s", flush=True)


def transformers_llama(sizes: dict, V: int):
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=V, hidden_size=sizes["n_embd"], intermediate_size=sizes["d_ff"],
                         num_hidden_layers=sizes["n_layer"], num_attention_heads=sizes["n_head"],
                         num_key_value_heads=sizes["n_kv_head"], max_position_embeddings=1024, tie_word_embeddings=True,
                         eos_token_id=None)                 # it never ends a text
    return LlamaForCausalLM(config).eval()


def transformers_generate(peer, idx, new: int, on_token, temperature: float):
    """Its own generate, with the arguments of ours."""
    class Streamer:
        put = staticmethod(lambda ids: on_token(ids) if ids.ndim == 1 else None)    # (1, T) is the prompt
        end = staticmethod(lambda: None)

    peer.generate(idx, max_new_tokens=new, do_sample=True, temperature=temperature, top_k=0, pad_token_id=0,
                  streamer=Streamer())


class PlainTransformer(nn.Module):
    """torch.nn.Transformer with the sizes, embeddings, positions and tied output of ours; post-norm,
    no last norms."""

    def __init__(self, cfg, src_vocab_size: int, tgt_vocab_size: int):
        super().__init__()
        C = cfg.n_embd
        sizes = dict(d_model=C, nhead=cfg.n_head, dim_feedforward=cfg.d_ff, dropout=cfg.dropout,
                     batch_first=True)
        self.src_embed = nn.Embedding(src_vocab_size, C)
        self.tgt_embed = nn.Embedding(tgt_vocab_size, C)
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), cfg.n_layer,
                                        enable_nested_tensor=False)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), cfg.n_layer)
        self.transformer = nn.Transformer(C, cfg.n_head, batch_first=True, custom_encoder=encoder,
                                          custom_decoder=decoder)
        self.register_buffer("positions", translator.positional_encoding(cfg.max_len + 1, C))
        self.dropout = nn.Dropout(cfg.dropout)
        self.scale = math.sqrt(C)

    def forward(self, src, tgt):
        S = src.size(1)
        T = tgt.size(1)
        hidden = src == translator.PAD
        causal = nn.Transformer.generate_square_subsequent_mask(T)
        x = self.dropout(self.src_embed(src) * self.scale + self.positions[:S])
        y = self.dropout(self.tgt_embed(tgt) * self.scale + self.positions[:T])
        y = self.transformer(x, y, tgt_mask=causal, tgt_is_causal=True,
                             src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        return y @ self.tgt_embed.weight.T


def translation_step(make, cfg, words):
    """(a function that takes a training step on a batch, the number of parameters) of the network
    that make(cfg, …) makes."""
    torch.manual_seed(0)
    model = make(cfg, len(words[0]), len(words[1]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9)

    def step(src, tgt_in, tgt_out):
        loss = translator.translation_loss(model(src, tgt_in), tgt_out, cfg.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())


def median_and_range(values) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def bench_translator(args):
    """A training step in float32 on the same padded batches, and greedy decoding of 256 sentences
    with the cache and without."""
    training, held_out = write_pairs(20000)
    words = make_vocabularies(training, 10**6)
    for dropout in (0.1, 0.0):
        cfg = translator.Config(dropout=dropout)
        src, tgt, _ = encode_pairs(training, words, cfg.max_len)
        theirs, n_theirs = translation_step(PlainTransformer, cfg, words)
        ours, n_ours = translation_step(translator.Transformer, cfg, words)
        rng = torch.Generator().manual_seed(0)
        seconds = {theirs: [], ours: []}
        for pair in range(args.pairs + 1):
            batches = [translator.get_batch(src, tgt, cfg.batch_size, rng) for _ in range(10)]
            for step in seconds:
                start = time.perf_counter()
                for batch in batches:
                    step(*batch)
                if pair > 0:                                # the first warms up
                    seconds[step].append((time.perf_counter() - start) / len(batches))
        ratios = [b / a for a, b in zip(*seconds.values())]
        print(f"a training step, batch {cfg.batch_size}, dropout {dropout}: torch.nn.Transformer "
              f"{1000 * statistics.median(seconds[theirs]):.1f} ms ({n_theirs:,} parameters), ours "
              f"{1000 * statistics.median(seconds[ours]):.1f} ms ({n_ours:,}), ratio "
              f"{median_and_range(ratios)}", flush=True)

    torch.manual_seed(0)
    model = translator.Transformer(cfg, len(words[0]), len(words[1]))
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    for step in range(400):         # so that sentences end where sentences do
        optimizer.param_groups[0]["lr"] = translator.learning_rate(step + 1, cfg)
        src_b, tgt_in, tgt_out = translator.get_batch(src, tgt, cfg.batch_size, rng)
        loss = translator.translation_loss(model(src_b, tgt_in), tgt_out)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    some, _, _ = encode_pairs(held_out["sentences"][:256], words, cfg.max_len)
    cached = translator.CachedDecoder(model)
    n = translator.greedy_decode(model, some).size(1)
    assert torch.equal(translator.greedy_decode(cached, some), translator.greedy_decode(model, some))
    seconds = {cached: [], model: []}
    for _ in range(args.pairs):
        for decoder in seconds:
            start = time.perf_counter()
            translator.greedy_decode(decoder, some)
            seconds[decoder].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds.values())]
    print(f"greedy decoding of {len(some)} sentences to {n} words: with cache "
          f"{1000 * statistics.median(seconds[cached]):.0f} ms, without "
          f"{1000 * statistics.median(seconds[model]):.0f} ms, ratio {median_and_range(ratios)}")


def bench_families(args):
    """Which family draws best: runs of train_gan.py, mini/vae.py and train_diffusion.py (--label_dropout=1) on faces, judged alike."""
    @torch.no_grad()
    def sure(images):
        """In what share of images is the judge sure, by more than 0.9, of all attributes?"""
        p = [logits.softmax(1).amax(1) for logits in judge.model.eval()(images)[0]]
        return (torch.stack(p) > 0.9).all(0).float().mean().item()

    n, (learn, held_out) = 2048, load_images("faces")
    judge = Judge(train_gan.Config(device="cpu"), learn, held_out, n=n)
    judge.prepare()
    print(f"face features, n = {n:,}: training images {judge.frechet(learn.images):.1f} (the floor), the judge is sure of "
          f"{sure(to_float(learn.images[:n])):.1%}")
    for folder in args.runs.split(","):
        result = json.loads(Path(folder, "result.json").read_text())
        name, own = result["model"], {"out_dir": folder, "device": "cpu"}
        if name == "gan":
            nets, cfg = train_gan.load(train_gan.Config(**own))
            images = train_gan.generate(nets["ema"], noise(n, cfg.z_dim, cfg.seed))
        elif name == "vae":
            model, _ = vae.load(vae.Config(**own))
            images = vae.generate(model, vae.sample_z(model, n))
        else:
            net, cfg, (C, S, _) = train_diffusion.load(train_diffusion.Config(**own))
            require(cfg.label_dropout == 1, f"{folder}: train it without labels, with --label_dropout=1")
            with autocast(torch.device("cpu"), cfg.matmul):
                images = train_diffusion.generate(net, torch.zeros(n, 0), C, S, cfg)
        write_png(f"{folder}/samples/judged.png", sheet(images[:16]))
        print(f"{name}: {judge.frechet(images):.1f}, sure of {sure(images):.1%}, after {result['steps']:,} steps, {result['seconds']:.0f} s; "
              f"{result['parameters']:,} parameters; {folder}/samples/judged.png", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["gpt", "generate", "gan", "diffusion", "cyclegan", "families", "lstm",
                                         "llama", "translator"])
    parser.add_argument("--data", default="shakespeare")
    parser.add_argument("--runs", default="runs/gan,runs/vae,runs/diffusion", help="families: folders of trained runs")
    parser.add_argument("--nanogpt", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="llama: also compiled, which takes minutes")
    parser.add_argument("--all", action="store_true", help="also a whole run of our own file with that recipe")
    args = parser.parse_args()
    {"gpt": bench_gpt, "generate": bench_generate, "gan": bench_gan,
     "diffusion": bench_diffusion, "cyclegan": bench_cyclegan, "families": bench_families,
     "lstm": bench_lstm, "llama": bench_llama, "translator": bench_translator}[args.name](args)


if __name__ == "__main__":
    main()
