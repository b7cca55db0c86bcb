"""Fine-tuning: a GPT that has read much learns from a few hundred labels to tell good reviews from bad ones.

The vector of the last token has seen the whole text. A linear head turns it into the logits of the classes.

    L = −log softmax(W_head · h_T)[label]      in nats; a head that knows nothing scores ln(number of classes)

Besides the head, each method trains other weights: none (frozen), those of the last block (last), all weights
(all), or a small addition to each weight matrix (lora). Without any labels, the GPT can say which of two
continuations it finds likelier (zero-shot). The addition of LoRA is

    W′ = W + (α/r) · B A,    A (r, in) random, B (out, r) zero at first, so training begins with W′ = W

Papers: Radford et al. 2018 (GPT, §3.2; departure: only the head's loss); Hu et al. 2021, "LoRA".

    python -m mini.finetune                                       film reviews; first trains its own GPT, once
    python -m mini.finetune sample --text="The cast was anything but dull."
    python -m mini.finetune evaluate                              other, fewer, and more labelled texts
    python -m mini.finetune --reviews=mine.tsv                    your own: text, tab, label
    python -m mini.finetune --init_from=gpt2/model.safetensors    published weights

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/music.py.
"""
import copy
import hashlib
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

import train_gpt
from mini.data.text.baselines import bag_of_words
from mini.data.text.corpus import encode_texts, read_text
from mini.data.text.reviews import load_reviews
from mini.data.text.tokenizers import load_tokenizer
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.run import Run, merge_config, own_checkpoint, restore, write_json


@dataclass
class Config(RunConfig):
    # data
    reviews: str = "reviews"    # reviews, or your own: a TSV file of text, tab, label
    few: int = 300              # labelled texts to learn from (0: all)
    # model
    # the GPT to build on: a checkpoint.pt of train_gpt.py, or GPT-2's model.safetensors ("": trains one)
    init_from: str = ""
    # optimiser steps of the GPT that it trains itself (0: 800, but at most ten times --steps)
    base_steps: int = 0
    block_size: int = 96        # T, the context of this GPT, in tokens
    rank: int = 8               # r of LoRA, the rank of the additions
    alpha: float = 16.0         # α of LoRA, which scales the additions
    # optimisation
    steps: int = 200            # optimiser steps of each method
    batch_size: int = 32        # texts in a step
    warmup: int = 20            # steps in which the learning rate rises to its peak; then it falls linearly to 0
    dropout: float = 0.1        # of embeddings, attention weights, and what blocks add to x
    # run
    out_dir: str = "runs/finetune"  # folder of the run
    # held-out texts to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    text: str = ""              # a text to classify
    method: Literal["frozen", "last", "all", "lora", "scratch"] = "all"  # the method whose weights are used

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("reviews", "few", "init_from", "base_steps", "block_size", "rank", "alpha")


PRESETS = {}
RATES = dict(frozen=1e-2, last=2e-3, all=1e-3, lora=5e-3, scratch=1e-3)     # AdamW's peak learning rates
BASE_STEPS = 800                    # optimiser steps of the GPT to build on, if --base_steps is 0
SECONDS_A_STEP = 0.2                # of its training, on two CPU cores
CONTINUATIONS = {"good": " It was a delight.", "bad": " It was a mess."}    # zero-shot


# ---- the network
class LoRA(nn.Module):
    """A linear layer and a low-rank addition: x ↦ W x + (α/r) B A x (Hu et al. 2021, eq. 3)."""

    def __init__(self, linear: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.linear, self.scale = linear, alpha / r
        self.A = nn.Parameter(torch.randn(r, linear.in_features) / math.sqrt(linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T      # (…, in) -> (…, r) -> (…, out)


class Classifier(nn.Module):
    """A GPT with a head for classes in place of the one for the next token."""

    def __init__(self, gpt, n_classes: int):
        super().__init__()
        self.gpt, self.head = gpt, nn.Linear(gpt.cfg.n_embd, n_classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, idx, length):
        """Logits (B, n_classes) for texts idx (B, T), of which the first `length` (B,) tokens count. The tokens
        that fill up a row stand after the text, where the causal mask hides them from the text."""
        x = self.gpt.hidden(idx)                                                    # (B, T, C)
        last = x[torch.arange(len(x), device=x.device), length - 1]                 # (B, T, C) -> (B, C)
        return self.head(last)


def matrices(gpt):
    """(module, name, layer) of the linear layers inside the blocks."""
    return [(part, name, layer) for block in gpt.h for part in (block.attn, block.mlp)
            for name, layer in part.named_children() if name.startswith("c_")]


def prepare(method: str, base, n_classes: int, cfg) -> Classifier:
    """The classifier with which a method begins: a copy of the base, or for "scratch" a new GPT. Only what the
    method trains gets gradients."""
    require(min(cfg.rank, cfg.batch_size) > 0 <= cfg.dropout < 1, "sizes must be > 0, dropout below 1")
    torch.manual_seed(cfg.seed)
    gpt = train_gpt.GPT(base.cfg, len(base.wte.weight)) if method == "scratch" else copy.deepcopy(base)
    for module in gpt.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.dropout
    model = Classifier(gpt, n_classes).requires_grad_(method in ("all", "scratch"))
    model.head.requires_grad_(True)
    for part in (gpt.h[-1], gpt.ln_f) if method == "last" else ():
        part.requires_grad_(True)
    for part, name, linear in matrices(gpt) if method == "lora" else ():
        setattr(part, name, LoRA(linear, cfg.rank, cfg.alpha))
    return model.to(base.device)


def merge(model: Classifier) -> Classifier:
    """The model with LoRA's additions added to its matrices for good: its GPT is a plain one again."""
    for part, name, layer in matrices(model.gpt):
        if isinstance(layer, LoRA):
            layer.linear.weight.data += layer.scale * layer.B @ layer.A             # (out, r) @ (r, in)
            setattr(part, name, layer.linear)
    return model


# ---- classifying texts
@torch.no_grad()
def predict(model, idx, length, at_once: int = 128):
    """Logits (N, n_classes) of texts (N, T)."""
    model.eval()
    device, logits = model.head.weight.device, []
    progress = metrics.Progress("judged", len(idx))
    for x, n in zip(idx.split(at_once), length.split(at_once)):
        logits.append(model(x[:, :n.max()].to(device), n.to(device)).float().cpu())
        progress.add(len(x))
    return torch.cat(logits)


@torch.no_grad()
def zero_shot(base, tokenizer, texts, names: list):
    """Labels (N,): for each text the continuation c that it makes likelier, argmax_c log p(c | text) − log p(c)
    (Holtzman et al. 2021, "Surface form competition", eq. 2)."""
    base.eval()
    scores = []
    for tail in (CONTINUATIONS[name] for name in names):
        idx, n = encode_texts([text + tail for text in ("", *texts)], tokenizer, base.cfg.block_size)
        t, begin = torch.arange(idx.size(1)), n[:, None] - len(tokenizer.encode(tail))
        target = idx.where((t >= begin) & (t < n[:, None]), -100)[:, 1:]            # (N + 1, T − 1)
        log_p = []
        progress = metrics.Progress("read", len(idx))
        for x, y in zip(idx.split(64), target.split(64)):
            logits = base(x[:, :-1].to(base.device)).float().cpu()
            log_p.append(-F.cross_entropy(logits.mT, y, reduction="none").sum(1))
            progress.add(len(x))
        log_p = torch.cat(log_p)
        scores.append(log_p[1:] - log_p[0])
    return torch.stack(scores).argmax(dim=0)


# ---- the GPT to build on
def base_steps(cfg) -> int:
    """The number of optimiser steps of the GPT to build on: --base_steps; if that is 0, BASE_STEPS, but
    at most ten times the steps of the run itself, so that a short trial needs no long preparation."""
    require(cfg.base_steps >= 0, f"--base_steps={cfg.base_steps} must be at least 0")
    if cfg.base_steps > 0:
        return cfg.base_steps
    return min(BASE_STEPS, 10 * max(1, cfg.steps))


def make_base(cfg, state=None):
    """(GPT, tokenizer) to build on: from a checkpoint, from --init_from, or trained here and kept under runs/."""
    if state:
        saved = merge_config(train_gpt.Config(), {"config": state["sizes"]})
        tokenizer = load_tokenizer(state["tokenizer"])
        base = train_gpt.GPT(saved, tokenizer.vocab_size)
        base.load_state_dict(state["base"])
        return base.to(pick_device(cfg.device)), tokenizer
    if cfg.init_from:
        return train_gpt.load(train_gpt.Config(init_from=cfg.init_from, device=cfg.device))
    text = "\n".join([*read_text("tales").split("\n\n"), *load_reviews(cfg.reviews, few=0).unlabelled])
    steps = base_steps(cfg)
    name = f"{steps} {cfg.block_size} {text}"
    folder = Path(f"runs/base-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
    own = train_gpt.Config(data=f"{folder}.txt", out_dir=str(folder), steps=steps, log_every=20,
                           device=cfg.device, block_size=cfg.block_size, vocab_size=1024, n_layer=4, n_head=4,
                           n_embd=192, batch_size=32, lr=0.04, rest_lr=0.01, dropout=0.0,
                           resume=(folder / "checkpoint.pt").exists())
    if not (folder / "result.json").exists():
        seconds = SECONDS_A_STEP * steps
        print(f"first a GPT is trained to build on, once: {steps} steps, some {seconds:.0f} s on "
              f"two cores; it is kept in {folder}", flush=True)
        Path("runs").mkdir(exist_ok=True)
        Path(own.data).write_text(text, "utf-8")
        if "interrupted" in train_gpt.train(own):
            raise KeyboardInterrupt
    return train_gpt.load(train_gpt.Config(out_dir=str(folder), device=cfg.device))


# ---- the run
def train(cfg: Config) -> dict:
    """Train by every method, on the same batches, and return what result.json holds. Raises UserError for input
    that cannot be used."""
    cfg, state = own_checkpoint(cfg, "finetune", cfg.resume)
    if not state and not cfg.init_from:
        cfg = replace(cfg, base_steps=base_steps(cfg))  # so that the checkpoint holds the number
    data = load_reviews(cfg.reviews, cfg.few, cfg.seed)
    n_test = metrics.n_to_score(cfg, len(data.test), "held-out texts")
    require(not state or state["names"] == data.names,
            f"the checkpoint's head is for other labels than {', '.join(data.names)}")
    base, tokenizer = make_base(cfg, state)
    device, T = base.device, base.cfg.block_size
    test = data.test[:n_test]
    (texts, y), (test_texts, test_y) = ((x, torch.tensor(y)) for x, y in (zip(*data.learn), zip(*test)))
    (x, length), test = (encode_texts(some, tokenizer, T) for some in (texts, test_texts))
    models = nn.ModuleDict({method: prepare(method, base, len(data.names), cfg) for method in RATES})
    optimizers = [torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
                  for model in models.values()]
    data_rng, seconds = torch.Generator().manual_seed(cfg.seed), dict.fromkeys(models, 0.0)
    if state:
        models.load_state_dict(state["model"])
        restore(state, optimizers, data_rng)
        seconds = state["each"]

    with Run(cfg, "finetune", base, list(RATES), state) as run:
        if not cfg.init_from and cfg.base_steps < BASE_STEPS:
            run.say(f"note: the GPT to build on had {cfg.base_steps} steps, not {BASE_STEPS}")
        run.say(f"{len(y)} labelled texts, {len(test_y)} held out; a head that knows nothing has loss "
                f"ln {len(data.names)} = {math.log(len(data.names)):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = min((step + 1) / (cfg.warmup + 1), (cfg.steps - step) / max(1, cfg.steps - cfg.warmup))
            # batch
            i, losses = torch.randint(len(y), (cfg.batch_size,), generator=data_rng), {}
            tokens, n, target = x[i, :length[i].max()].to(device), length[i].to(device), y[i].to(device)
            for (method, model), optimizer in zip(models.train().items(), optimizers):
                start, optimizer.param_groups[0]["lr"] = time.perf_counter(), factor * RATES[method]
                # loss, backward, step
                with autocast(device, cfg.matmul):
                    loss = F.cross_entropy(model(tokens, n), target)
                run.check_finite(step, **{method: loss.item()})
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses[method], seconds[method] = loss.item(), seconds[method] + time.perf_counter() - start
            # log and save, each when it is due
            done = step + 1
            with run.untimed():
                if run.due(done, cfg.log_every):
                    run.log(done, **losses)
                stop = run.stopping(done)
                if stop or run.due(done, cfg.eval_every):
                    run.save(done, models, optimizers, data_rng, names=data.names, each=seconds,
                             base=base.state_dict(), sizes=asdict(base.cfg), tokenizer=tokenizer.state())
            if stop and done < cfg.steps:
                return run.leave(done)

        run.say(f"judging {len(test_y):,} held-out texts by each method …")
        found = {method: predict(model, *test).argmax(1) for method, model in models.items()}
        found |= {"bag of words": bag_of_words(texts, y, test_texts), "most frequent": y.mode()[0]}
        if set(data.names) == set(CONTINUATIONS):
            found["zero-shot"] = zero_shot(base, tokenizer, test_texts, data.names)
        sizes = {name: sum(p.numel() for g in o.param_groups for p in g["params"])
                 for name, o in zip(models, optimizers)}
        rows = {name: {"trained": sizes.get(name, 0), "seconds": seconds.get(name, 0.0),
                       "accuracy": (labels == test_y).float().mean().item()}
                for name, labels in found.items()}
        run.say(f"\nn = {len(test_y):,}\n{metrics.table(rows, shares=['accuracy'])}")
        return run.finish(few=len(texts), n=len(test_y), table=rows)


def sample(cfg: Config) -> dict:
    """{label: probability} for --text, by the weights of --method; also printed."""
    require(cfg.text, 'which text? Name it by --text="The cast was not dull."')
    cfg, state = own_checkpoint(cfg, "finetune")
    base, tokenizer = make_base(cfg, state)
    model, own = prepare(cfg.method, base, len(state["names"]), cfg), f"{cfg.method}."
    model.load_state_dict({k.removeprefix(own): p for k, p in state["model"].items() if k.startswith(own)})
    logits = predict(merge(model), *encode_texts([cfg.text], tokenizer, base.cfg.block_size))
    seen = dict(zip(state["names"], F.softmax(logits[0], dim=0).tolist()))
    print("  ".join(f"{name} {p:.1%}" for name, p in seen.items()))
    return seen


def evaluate(cfg: Config) -> dict:
    """Accuracy with other random labelled texts, and with fewer and more of them; also in evaluate.json."""
    (cfg, _), tables = own_checkpoint(cfg, "finetune"), {}
    for few, seed in ((cfg.few, 1), (cfg.few, 2), (cfg.few, 3), (cfg.few // 3, 1), (cfg.few * 3, 1)):
        own = replace(cfg, few=few, seed=seed, resume=False, out_dir=f"{cfg.out_dir}/few{few}-seed{seed}")
        if "interrupted" in (result := train(own)):
            return result
        tables[f"{few}, seed {seed}"] = {name: row["accuracy"] for name, row in result["table"].items()}
    print(metrics.table(tables, shares=list(result["table"])))
    write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size or --rank")


if __name__ == "__main__":
    main()
