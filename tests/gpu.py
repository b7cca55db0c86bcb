"""python -m tests.gpu: every script on a machine with CUDA, in under five minutes; prints a table, and exits with 1 if
anything failed.

    python -m tests.gpu                             all scripts, then GPT beside nanoGPT's loop
    python -m tests.gpu --only=train_gan,mini.vae   some scripts
    python -m tests.gpu --only=speed                GPT beside nanoGPT's loop alone
    python -m tests.gpu --device=cpu                the same checks with tiny models on a CPU: does this file itself work?

Not a test, and not run by pytest: most machines have no such device. For each script, with its preset `gpu` and few
steps: it trains in bfloat16, is stopped, goes on, ends like a run that was not stopped, samples, and trains with
--compile; its networks give the same outputs on CUDA as on the CPU. Then GPT's preset `gpu` learns Shakespeare
(data/shakespeare.txt; our stories if it is not there) beside nanoGPT's model and loop, written out in `plain_gpt`.
"""
import argparse
import contextlib
import copy
import csv
import importlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves, tree_map

import train_gpt
from mini.data.text.corpus import encode, make_tokenizer, read_corpus

ROOT = Path(__file__).parent.parent
STEPS, STOP = 6, 3
TOLERANCE = 1e-4        # max|CUDA − CPU| ≤ TOLERANCE · max|CPU|, in float32 with exact products
LIMIT = 150             # seconds that one check may take

# Little data, so that the time goes into the steps; the sizes of the networks are those of the preset.
IMAGES = dict(n_images=2000, n_test=64, n=8)
SMALLER_DATA = {
    "train_gan": IMAGES,
    "train_gpt": dict(max_new_tokens=50),
    "train_diffusion": dict(IMAGES, sample_steps=10),
    "mini.classifier": dict(n_images=2000),
    "mini.cgan": IMAGES,
    "mini.cyclegan": dict(n_images=500, n_test=64),
    "mini.vae": IMAGES,
    "mini.lstm": dict(max_new_tokens=50),
    "mini.llama": dict(max_new_tokens=50),
    "mini.translator": dict(data="grammar", n_test=64),
    "mini.bert": dict(vocab_size=2000, few=50, tune_steps=4, n_test=64),
    "mini.finetune": dict(few=100, base_steps=20, n_test=64),
    "mini.music": dict(pieces=100, n_test=4, max_new_tokens=200, num_samples=2),
    "mini.assistant": dict(n_dialogues=2000, n_test=20),
    "mini.clip": dict(n_images=2000),
    "mini.captioner": dict(n_images=2000, n_test=64),
    "mini.speech": dict(n_sentences=300, n_test=64),
    "mini.text_to_image": dict(n_images=500, n_test=16, n=2, sample_steps=10),
    "mini.latent_diffusion": dict(n_images=500, n_test=16, n=2, sample_steps=10),
}
SMALLER_TO_COMPILE = {                  # what would be compiled for minutes, or fill a device that all jobs share
    "mini.text_to_image": dict(size=32, stages=2, width=32, levels=2, stem=2, n_layer=1, batch_size=16),
    "mini.latent_diffusion": dict(size=32, ae_width=32, width=64, depth=2, n_layer=1, batch_size=16),
    "mini.bert": dict(n_layer=2, batch_size=16),
    "mini.translator": dict(n_layer=1),
    "mini.assistant": dict(n_layer=2),
    "mini.captioner": dict(n_layer=1),
    "mini.speech": dict(n_layer=1),
    "mini.cyclegan": dict(blocks=1),
    "mini.clip": dict(n_layer=1, batch_size=64),
    "mini.music": dict(n_layer=2),
    "train_diffusion": dict(levels=2),
}
TO_SAMPLE = {
    "mini.classifier": [f"--image={ROOT}/mini/gallery/face.png"],
    "mini.bert": ["--text=the [MASK]"],
    "mini.finetune": ["--text=The plot dragged."],
    "mini.assistant": ["--prompt=What is 1 plus 2?"],
}


# ---- one script, in a process of its own

class Recorder:
    """While it is on, the first call of each network that `train` makes is kept: {network: (args, keyword args)}."""

    def __init__(self):
        self.calls = {}
        self.inside = False
        self.plain = nn.Module.__call__

    def __enter__(self):
        def call(module, *args, **kwargs):
            if self.inside:                             # a part of a network
                return self.plain(module, *args, **kwargs)
            if module not in self.calls and torch.is_grad_enabled():
                self.calls[module] = tree_map(clone, (args, kwargs))
            self.inside = True
            try:
                return self.plain(module, *args, **kwargs)
            finally:
                self.inside = False
        nn.Module.__call__ = call
        return self

    def __exit__(self, *error):
        nn.Module.__call__ = self.plain


def clone(value):
    """A copy of a tensor, in float32 if it was made in bfloat16; all else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().clone()
    return value.float() if value.dtype == torch.bfloat16 else value


@contextlib.contextmanager
def same_noise():
    """Noise is drawn on the CPU from seed 0, so that it is the same for every device."""
    rng = torch.Generator().manual_seed(0)
    plain = torch.randn_like
    torch.randn_like = lambda x, **_: torch.randn(x.shape, generator=rng).to(x)
    try:
        yield
    finally:
        torch.randn_like = plain


@torch.no_grad()
def difference_from_cpu(calls: dict) -> float:
    """The largest max|device − CPU| / max|CPU| of any output of the recorded calls, in evaluation mode."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    largest = 0.0
    for network, (args, kwargs) in calls.items():
        network.eval()
        with same_noise():
            there = network(*args, **kwargs)
        on_cpu = copy.deepcopy(network).to("cpu")
        args, kwargs = tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, (args, kwargs))
        with same_noise():
            here = on_cpu(*args, **kwargs)
        for a, b in zip(tree_leaves(there), tree_leaves(here)):
            if isinstance(b, torch.Tensor) and b.is_floating_point():
                finite = b.isfinite()                   # −∞ marks what must not be chosen
                a, b = a.cpu().float()[finite], b.float()[finite]
                largest = max(largest, ((a - b).abs().max() / b.abs().max()).item())
    return largest


def call_main(module, *args) -> int:
    """The exit status of a script's command line, which runs in this process."""
    print("$", module.__name__, *args, flush=True)
    try:
        module.main(list(args))
    except SystemExit as leaving:
        return leaving.code or 0
    return 0


def check_script(name: str, device: str, flags: list) -> dict:
    """Train, stop, resume, sample and compare; the figures for the table. AssertionError says what is wrong."""
    module = importlib.import_module(name)
    torch.use_deterministic_algorithms(True, warn_only=True)
    train = [*flags, f"--device={device}", f"--steps={STEPS}", "--eval_every=3", "--sample_every=3", "--log_every=1"]

    with Recorder() as recorder:
        assert call_main(module, *train, "--out_dir=run", f"--stop_after={STOP}") == 0, "train failed"
    figures = {"difference": difference_from_cpu(recorder.calls)}
    assert figures["difference"] <= TOLERANCE, f"CUDA and CPU differ by {figures['difference']:.1e} of the largest"
    torch.backends.cudnn.allow_tf32 = True

    assert call_main(module, "--resume", "--out_dir=run", f"--device={device}") == 0, "--resume failed"
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == STEPS and result["device"].startswith(device), result
    assert call_main(module, "sample", "--out_dir=run", *TO_SAMPLE.get(name, []), f"--device={device}") == 0, "no sample"

    assert call_main(module, *train, "--out_dir=whole") == 0, "an uninterrupted run failed"
    # with deterministic algorithms, where torch has them, they are equal; without, sums in another order differ a little
    stopped, whole = (torch.load(f"{folder}/checkpoint.pt", weights_only=True)["model"] for folder in ("run", "whole"))
    figures["resume"] = max(float((stopped[key].float() - whole[key].float()).abs().max()) for key in whole)
    scale = max(float(value.float().abs().max()) for value in whole.values())
    assert figures["resume"] <= 0.05 * scale, f"a resumed run differs by {figures['resume']:.1e}"
    if device == "cuda":
        figures["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return figures


def check_compiled(name: str, device: str, flags: list) -> dict:
    """Train three steps with --compile, the last of them after a resume."""
    module = importlib.import_module(name)
    flags = [*flags, *(f"--{key}={value}" for key, value in SMALLER_TO_COMPILE.get(name, {}).items())]
    train = [*flags, f"--device={device}", "--compile", "--steps=3", "--log_every=1", "--eval_every=0", "--sample_every=0",
             "--out_dir=run"]
    assert call_main(module, *train, "--stop_after=2") == 0, "train --compile failed"
    assert call_main(module, "--resume", "--compile", "--out_dir=run", f"--device={device}") == 0, "--resume --compile"
    return {}


def worker(check: str, name: str, device: str, flags: list):
    """In a process of its own: the last line printed is the JSON of the figures."""
    start = time.perf_counter()
    try:
        figures = {"check_script": check_script, "check_compiled": check_compiled}[check](name, device, flags)
    except AssertionError as error:
        figures = {"failed": str(error)}
    print(json.dumps({**figures, "seconds": time.perf_counter() - start}))


def in_a_process(check: str, name: str, device: str, flags: list) -> dict:
    """The figures of one check; "failed" says why there are none, "printed" what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.gpu", "--worker", check, name, device, *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "PYTHONIOENCODING": "utf-8",
                       "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONWARNINGS": "ignore",
                       "TORCHINDUCTOR_COMPILE_THREADS": "2"}
        data = ROOT / "data"
        if data.exists():
            Path(folder, "data").symlink_to(data)
        try:
            done = subprocess.run(command, cwd=folder, env=environment, text=True, encoding="utf-8", timeout=LIMIT,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except subprocess.TimeoutExpired as late:
            return {"failed": f"no end after {LIMIT} s", "printed": (late.stdout or b"").decode("utf-8", "replace")}
    try:
        figures = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        figures = {"failed": f"exit status {done.returncode}"}
    return {**figures, "printed": done.stdout}


def flags_of(name: str, device: str) -> list:
    """The preset gpu with little data; on a CPU the tiny settings of tests/test_scripts.py."""
    if device == "cuda":
        presets = importlib.import_module(name).PRESETS
        settings = {**({"preset": "gpu"} if "gpu" in presets else {}), **SMALLER_DATA[name]}
        if name in ("train_gpt", "mini.lstm", "mini.llama"):
            settings["data"] = text_to_learn()
        return [f"--{key}={value}" for key, value in settings.items()]
    from tests.test_scripts import SCRIPTS
    script = SCRIPTS[name]
    return [f"--{key}={value}" for key, value in {**SMALLER_DATA[name], **script.settings}.items()]


# How long the checks of a script take together, roughly: those that take longest are begun first.
SECONDS = {"mini.text_to_image": 180, "mini.bert": 150, "mini.clip": 120, "mini.latent_diffusion": 120,
           "mini.cyclegan": 100, "mini.assistant": 90,
           "train_diffusion": 80, "mini.captioner": 75, "mini.speech": 75,
           "mini.translator": 70, "mini.music": 60, "mini.vae": 55}


def text_to_learn() -> str:
    return "shakespeare" if (ROOT / "data/shakespeare.txt").exists() else "stories"


def check_scripts(names: list, device: str) -> int:
    """Run both checks of all scripts, several at a time, and print the table; returns how many failed."""
    jobs = [(check, name) for name in names for check in ("check_script", "check_compiled")]
    longest_first = sorted(jobs, key=lambda job: -SECONDS.get(job[1], 0))
    failed = 0
    print(f"\n{'script':20}{'CUDA less CPU':>15}{'resumed less whole':>20}{'GPU memory':>12}{'seconds':>9}{'--compile':>11}")
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) * 3 // 4)) as pool:
        futures = {(check, name): pool.submit(in_a_process, check, name, device, flags_of(name, device))
                   for check, name in longest_first}
        waiting = list(names)
        while waiting:
            for name in list(waiting):
                both = [futures[check, name] for check in ("check_script", "check_compiled")]
                if all(future.done() for future in both):
                    waiting.remove(name)
                    failed += print_row(name, *(future.result() for future in both))
            time.sleep(0.2)
    return failed


def print_row(name: str, run: dict, compiled: dict) -> int:
    """Print the row of one script, and what failed; returns how many checks did."""
    failed = 0
    cells = [f"{run['difference']:.1e}" if "difference" in run else "-",
             f"{run['resume']:.1e}" if "resume" in run else "-",
             f"{run['GB']:.2f} GB" if "GB" in run else "-",
             f"{run.get('seconds', math.nan):.0f}",
             "failed" if "failed" in compiled else f"{compiled['seconds']:.0f} s"]
    print(f"{name:20}{cells[0]:>15}{cells[1]:>20}{cells[2]:>12}{cells[3]:>9}{cells[4]:>11}")
    for check, figures in (("", run), (" --compile", compiled)):
        if "failed" in figures:
            failed += 1
            print(f"  FAILED{check}: {figures['failed']}")
            for line in figures["printed"].splitlines()[-12:]:
                print(f"    {line[:300]}")
    sys.stdout.flush()
    return failed


# ---- GPT beside nanoGPT's loop

class PlainBlock(nn.Module):
    """A block of GPT-2 as nanoGPT writes it: torch's fused attention, no biases."""

    def __init__(self, C: int, n_head: int, dropout: float):
        super().__init__()
        self.n_head, self.p = n_head, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C, bias=False), nn.GELU(), nn.Linear(4 * C, C, bias=False))
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0)
        x = x + self.drop(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return x + self.drop(self.mlp(self.ln_2(x)))


class PlainGPT(nn.Module):
    """nanoGPT's model: embeddings, blocks, a tied output layer."""

    def __init__(self, V: int, T=256, n_layer=6, n_head=6, C=384, dropout=0.2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(PlainBlock(C, n_head, dropout) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(C, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = 0.02 / math.sqrt(2 * n_layer) if name.endswith(("c_proj.weight", "mlp.2.weight")) else 0.02
                nn.init.normal_(p, std=std)

    def forward(self, idx):
        x = self.drop(self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device)))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


@torch.no_grad()
def held_out_loss(model, tokens, T: int) -> float:
    """The mean loss over all windows of T tokens, side by side."""
    model.eval()
    n = (len(tokens) - 1) // T
    x, y = tokens[:n * T].view(n, T), tokens[1:n * T + 1].view(n, T)
    total = 0.0
    for x_i, y_i in zip(x.split(64), y.split(64)):
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = model(x_i)
        total += F.cross_entropy(logits.float().flatten(0, 1), y_i.flatten(), reduction="sum").item()
    model.train()
    return total / (n * T)


def plain_gpt(train, val, V: int, device, steps: int, compile: bool, B=64, T=256):
    """nanoGPT's training of characters (its sizes, batch, rates, decay; its loop), in so many steps.

    Returns (tokens per second, [(seconds, step, held-out loss), …]). The median of ten steps is taken for the first.
    """
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = PlainGPT(V).to(device)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.99), fused=device.type == "cuda")
    net = torch.compile(model) if compile else model
    used, marks, losses = 0.0, [], []
    start = time.perf_counter()
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - 100) / max(1, steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 9e-4 * cosine
        at = torch.randint(len(train) - T, (B,)).tolist()
        x = torch.stack([train[i:i + T] for i in at]).to(device)
        y = torch.stack([train[i + 1:i + T + 1] for i in at]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 9:
            loss.item()                                 # waits for the device, as its log does
            now = time.perf_counter()
            used += now - start
            marks.append(used)
            if (step + 1) % 250 == 0 or step + 10 >= steps:
                losses.append((used, step + 1, held_out_loss(model, val.to(device), T)))
            start = time.perf_counter()
    per_ten = statistics.median([b - a for a, b in zip(marks, marks[1:])])
    return 10 * B * T / per_ten, losses


def our_gpt(data: str, device: str, compile: bool, folder: str, **settings):
    """Our preset gpu: (tokens per second, [(seconds, step, held-out loss), …]) from its own log."""
    options = {**train_gpt.PRESETS["gpu"], "max_new_tokens": 1, **settings}
    cfg = train_gpt.Config(**options, preset="gpu", data=data, device=device, compile=compile, log_every=10,
                           eval_every=250, sample_every=0, out_dir=folder)
    with contextlib.redirect_stdout(io.StringIO()):
        train_gpt.train(cfg)
    rows = list(csv.DictReader(Path(folder, "log.csv").read_text().splitlines()))
    marks = [float(row["seconds"]) for row in rows]
    per_ten = statistics.median([b - a for a, b in zip(marks, marks[1:])])
    losses = [(float(row["seconds"]), int(row["step"]), float(row["val_loss"])) for row in rows if row["val_loss"]]
    return 10 * cfg.batch_size * cfg.block_size / per_ten, losses


def check_speed(device_name: str, seconds: float):
    """GPT's preset gpu beside nanoGPT's loop: tokens per second, and the held-out loss over time."""
    device = torch.device(device_name)
    os.chdir(ROOT)
    data = text_to_learn()
    corpus = read_corpus(data)
    tokenizer = make_tokenizer("char", corpus, 0)
    train = torch.cat(encode(tokenizer, corpus.train, "cpu"))
    val = torch.cat(encode(tokenizer, corpus.val, "cpu"))
    tiny = {} if device_name == "cuda" else dict(n_layer=1, n_embd=48, batch_size=4)
    print(f"GPT, preset gpu, on {data}: 6 layers, 6 heads, width 384, context 256, batch 64")
    for compile in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            def ours(steps):
                return our_gpt(data, device_name, compile, f"{folder}/{steps}", **{**tiny, "steps": steps})

            def theirs(steps):
                return plain_gpt(train, val, tokenizer.vocab_size, device, steps, compile)

            for who, run in (("ours", ours), ("nanoGPT's loop", theirs)):
                rate, _ = run(60)                       # how many steps are so many seconds?
                tokens = tiny["batch_size"] * 256 if tiny else 64 * 256
                steps = max(60, int(seconds * rate / tokens) // 10 * 10)
                rate, losses = run(steps)
                best = min(losses, key=lambda row: row[2])
                used, step, last = losses[-1]
                how = "with --compile" if compile else "without --compile"
                print(f"{who:15} {how:18} {rate:10,.0f} tokens/s; held-out loss {last:.4f} after {used:.0f} s "
                      f"({step} steps); best {best[2]:.4f} after {best[0]:.0f} s", flush=True)


def main():
    if sys.argv[1:2] == ["--worker"]:
        check, name, device, *flags = sys.argv[2:]
        return worker(check, name, device, flags)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", default="", help="names of scripts, or speed, with commas between them")
    parser.add_argument("--seconds", type=float, default=15, help="of training, of ours and of nanoGPT's loop")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here; --device=cpu tries this file itself with tiny models")
    start = time.perf_counter()
    print(f"torch {torch.__version__}; {torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'}")
    names = args.only.split(",") if args.only else [*SMALLER_DATA, "speed"]
    scripts = [name for name in names if name != "speed"]
    if "speed" in names:
        check_speed(args.device, args.seconds)          # first: it wants the device to itself
    failed = check_scripts(scripts, args.device) if scripts else 0
    print(f"\n{len(scripts)} scripts, {failed} checks failed; {time.perf_counter() - start:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
