"""BERT: a Transformer encoder that learns to understand text by predicting words that are hidden from it.

There is no causal mask, so every position sees the whole text. Some tokens are chosen, most of these are
hidden, and the model predicts them; this needs no labels. Then it is fine-tuned for tasks with few labels: a
small head is put on top, and everything is trained for a short time. The loss of the pre-training, over the
set M of chosen positions:

    L = −1/|M| · Σ_{t ∈ M} log p(xₜ | x with M hidden)      in nats; a model that knows nothing scores ln V

Paper: Devlin et al. 2019, "BERT". Departures: Muon, as in train_gpt.py; no next-sentence prediction, which does
not help (Liu et al. 2019). Without it, [CLS] learns nothing, so the sentiment head reads the mean of the words'
vectors.

    python -m mini.bert                                               pre-training, then three tasks
    python -m mini.bert sample --text="The cast was not [MASK]."      or --task=sentiment, entities, answer
    python -m mini.bert evaluate                                      other, fewer, and more labelled texts
    python -m mini.bert --data=my_novel.txt --reviews=mine.tsv        your own text, and lines of text, tab, label
    python -m mini.bert --init_from=bert/model.safetensors --preset=published

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/finetune.py.
"""
import copy
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.safetensors import folder_of
from mini.data.text.tasks import (draw_batch, encode, make_task, predict, pretraining_rows, score,
                                  unlabelled_texts)
from mini.data.text.wordpiece import WordPieceTokenizer
from mini.data.weights import cut_filling, read_bert
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.optim import Muon
from mini.utils.run import (Run, atomic_open, load_checkpoint, merge_config, own_checkpoint, restore,
                            write_json)


@dataclass
class Config(RunConfig):
    # data
    data: str = "tales"            # text without labels: tales, or your own: a file or a folder of .txt files
    reviews: str = "reviews"       # reviews, or your own: a TSV file of text, tab, label
    few: int = 300                 # labelled texts of each task to learn from
    vocab_size: int = 4096         # V, the number of tokens
    # model
    init_from: str = ""            # published model.safetensors, with vocab.txt and config.json ("": none)
    block_size: int = 128          # T, the length of the longest text in tokens
    n_layer: int = 3               # blocks
    n_head: int = 4                # attention heads in each block
    n_embd: int = 128              # C, the width
    d_ff: int = 512                # the width inside the MLP
    # optimisation
    steps: int = 4500              # optimiser steps of pre-training
    batch_size: int = 64           # texts in a step
    muon_lr: float = 0.01          # Muon's peak learning rate, for the matrices of the blocks
    lr: float = 0.001              # AdamW's peak learning rate, for all other parameters
    warmup: int = 50               # steps in which the learning rate rises to its peak
    mask_share: float = 0.15       # share of the tokens that the model has to predict
    grad_clip: float = 1.0         # a longer gradient is scaled down to this norm (0: never)
    dropout: float = 0.0           # dropout in pre-training
    tune_steps: int = 0            # optimiser steps of each task (0: 300, but no more than --steps)
    tune_batch: int = 32           # texts in a step of a task
    tune_lr: float = 1e-3          # AdamW's peak learning rate in a task
    tune_dropout: float = 0.1      # dropout in a task
    # run
    out_dir: str = "runs/bert"     # folder of the run
    # held-out texts of each task to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    task: Literal["fill", "sentiment", "entities", "answer"] = "fill"  # what to do with the text
    text: str = ""                 # a text; for fill, with [MASK] where a word is to be filled in
    question: str = ""             # for answer: a question whose answer is in the text

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("reviews", "few", "vocab_size", "init_from", "block_size", "n_layer", "n_head",
             "n_embd", "d_ff")


PRESETS = {"gpu": dict(vocab_size=16384, block_size=256, n_layer=12, n_head=12, n_embd=768, d_ff=3072,
                       steps=20000, batch_size=128, lr=2e-4, dropout=0.1),
           "published": dict(steps=0, block_size=512, tune_lr=5e-5, tune_batch=16)}
TASKS, N_HELD_OUT = ("sentiment", "entities", "answer"), 300
TUNE_STEPS = 300                    # optimiser steps of each task, if --tune_steps is 0
EXAMPLES = ("The cast was dull. The plot was [MASK].", "The cast was lovely. The plot was [MASK].")


# ---- the network
class SelfAttention(nn.Module):
    """Every position looks at all that are not [PAD]: softmax(q kᵀ/√hs + mask) v, in n_head heads."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, mask):
        B, T, C = x.shape
        nh, hs = self.n_head, C // self.n_head
        qkv = self.c_attn(x).view(B, T, 3, nh, hs).permute(2, 0, 3, 1, 4)   # (B, T, 3C) -> (3, B, nh, T, hs)
        q, k, v = qkv                                           # (B, nh, T, hs) each
        att = (q / math.sqrt(hs)) @ k.transpose(2, 3) + mask    # (B, nh, T, T)
        y = self.dropout(F.softmax(att, dim=-1)) @ v            # (B, nh, T, T) @ (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)                  # (B, nh, T, hs) -> (B, T, C)
        return self.dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, cfg.d_ff)
        self.c_proj = nn.Linear(cfg.d_ff, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Post-norm, as first published: x itself is normalised, after each addition. GPT-2 has x + attn(ln(x))."""

    def __init__(self, cfg):
        super().__init__()
        self.attn, self.ln_1 = SelfAttention(cfg), nn.LayerNorm(cfg.n_embd, eps=1e-12)
        self.mlp, self.ln_2 = MLP(cfg), nn.LayerNorm(cfg.n_embd, eps=1e-12)

    def forward(self, x, mask):
        x = self.ln_1(x + self.attn(x, mask))
        x = self.ln_2(x + self.mlp(x))
        return x


class BERT(nn.Module):
    """The whole network. read_bert() in mini/data/weights.py says which published weight is which."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        C = cfg.n_embd
        require_positive(cfg, "batch_size", "tune_batch")
        require(min(C, cfg.n_layer, cfg.n_head, cfg.block_size, cfg.d_ff) > 0 == C % cfg.n_head
                and 0 <= cfg.dropout < 1 > cfg.tune_dropout >= 0,
                f"--n_embd={C} must be a multiple of --n_head, every size at least 1, dropout below 1")
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, C)                  # a vector for each token
        self.wpe = nn.Embedding(cfg.block_size, C)              # a vector for each position, learnt
        self.wtt = nn.Embedding(2, C)                           # a vector for question (0) and passage (1)
        self.ln_e = nn.LayerNorm(C, eps=1e-12)
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.transform, self.ln_f = nn.Linear(C, C), nn.LayerNorm(C, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))       # of the output, whose matrix is wte (tied)
        for name, p in self.named_parameters():
            if p.ndim == 2:             # the paper's 0.02 is for C = 768; so matrices keep the size of vectors
                nn.init.normal_(p, std=p.size(1)**-0.5 if name.startswith("h.") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx, types, filling):
        """Vectors (B, T, C) of tokens idx (B, T); types (B, T): the text, 0 or 1, in which a token stands;
        filling: where idx is [PAD]."""
        mask = torch.zeros(idx.shape, device=idx.device).masked_fill(filling, -math.inf)[:, None, None]
        x = self.wte(idx) + self.wpe.weight[:idx.size(1)] + self.wtt(types)     # (B, T, C)
        x = self.dropout(self.ln_e(x))
        for block in self.h:
            x = block(x, mask)                                  # mask (B, 1, 1, T): of keys, for every query
        return x

    def name_tokens(self, x):
        """Logits (…, V) of the original token at each position, from the vectors x (…, C) there."""
        return F.linear(self.ln_f(F.gelu(self.transform(x))), self.wte.weight, self.bias)


# ---- pre-training: what is hidden, and what is predicted
def hide(idx, tokenizer, share: float, generator):
    """(shown, chosen) for tokens idx (B, T): what the model is shown, and where it must predict the token. A
    share of the tokens is chosen, but never [PAD] or another special token. Of the chosen ones 80 % become
    [MASK], 10 % become a random token, and 10 % stay (§3.1)."""
    special = torch.isin(idx, torch.tensor(tokenizer.special, device=idx.device))
    chance, way = torch.rand(2, *idx.shape, generator=generator).to(idx.device)
    other = torch.randint(tokenizer.vocab_size, idx.shape, generator=generator).to(idx.device)
    chosen = (chance < share) & ~special
    shown = idx.masked_fill(chosen & (way < 0.8), tokenizer.mask)
    return torch.where(chosen & (way >= 0.8) & (way < 0.9), other, shown), chosen


def masked_loss(model, idx, shown, chosen, tokenizer):
    """The mean loss in nats over the chosen positions only; 0 if there are none."""
    ends = (idx == tokenizer.sep).int()                         # the second text begins after the first [SEP]
    x = model(shown, (ends.cumsum(1) - ends).clamp(max=1), idx == tokenizer.pad)
    logits = model.name_tokens(x[chosen]).float()               # (B, T, C) -> (|M|, C) -> (|M|, V)
    return F.cross_entropy(logits, idx[chosen], reduction="sum") / chosen.sum().clamp(min=1)


def lr_factor(step: int, steps: int, warmup: int, hold: float = 0.4) -> float:
    """The learning rate at a step as a fraction of its peak: it rises, stays, and falls linearly to 0."""
    t = (step - warmup) / max(1, steps - warmup)                # 0 -> 1 after the warm-up
    return min((step + 1) / (warmup + 1), 1 - max(0.0, t - hold) / max(1e-9, 1 - hold))


# ---- three tasks, three heads
class Tuned(nn.Module):
    """A BERT with one linear layer on top.

    sentiment   logits (B, classes) from the mean of the words' vectors (those of their first pieces)
    entities    logits (B, T, tags) from each vector; those of a word's first piece count
    answer      logits (B, T, 2): is this the answer's first word, or its last? −∞ outside the passage
    """

    def __init__(self, bert, task: str, n_out: int, dropout: float = 0.0):
        super().__init__()
        self.bert, self.task, self.head = bert, task, nn.Linear(bert.cfg.n_embd, n_out)
        for module in bert.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def forward(self, idx, types, begins, pad: int):
        words = begins[:, :, None] > 0                          # (B, T, 1)
        logits = self.head(self.bert(idx, types, idx == pad))   # (B, T, C) -> (B, T, n_out)
        if self.task == "sentiment":                            # the head is linear, so the mean may come last
            return (logits * words).sum(1) / words.sum(1)       # (B, T, classes) -> (B, classes)
        return logits.masked_fill(~words, -math.inf) if self.task == "answer" else logits


def task_loss(task: str, logits, y):
    """The mean cross-entropy in nats; y: classes (B,), or tags (B, T) with −100 for none, or the first and last
    position of the answers (B, 2)."""
    if task == "answer":
        logits, y = logits.transpose(1, 2), y[:, :2]            # (B, T, 2) -> (B, 2, T): choose one of T
    return F.cross_entropy(logits.flatten(0, -2).float(), y.flatten())


def tune_steps(cfg) -> int:
    """The number of optimiser steps of each task: --tune_steps; if that is 0, TUNE_STEPS, but no more
    than pre-training has. (Published weights, used with --steps=0, had their pre-training elsewhere.)"""
    require(cfg.tune_steps >= 0, f"--tune_steps={cfg.tune_steps} must be at least 0")
    if cfg.tune_steps > 0:
        return cfg.tune_steps
    return TUNE_STEPS if cfg.steps == 0 else min(TUNE_STEPS, cfg.steps)


def tune(bert, task, cfg, pad: int):
    """A copy of a BERT, trained on the labelled texts of a task."""
    torch.manual_seed(cfg.seed)
    device = bert.bias.device
    model = Tuned(copy.deepcopy(bert), task.name, len(task.names), cfg.tune_dropout).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    *x, y = [part.to(device) for part in task.learn]
    length, data_rng = (x[0] != pad).sum(1), torch.Generator().manual_seed(cfg.seed)
    steps = tune_steps(cfg)
    progress = metrics.Progress(f"{task.name}: step", steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cfg.tune_lr * lr_factor(step, steps, steps // 10)
        i = torch.randint(len(y), (cfg.tune_batch,), generator=data_rng).to(y.device)
        S = length[i].max()                                     # y (B, T) of entities is cut to S too
        with autocast(y.device, cfg.matmul):
            logits = model(*(part[i, :S] for part in x), pad)
        loss = task_loss(task.name, logits, y[i, :S] if y.ndim == 2 else y[i])
        require(loss.isfinite(), f"the loss of {task.name} is {loss.item()}: lower --tune_lr")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.add()
    return model


def compare(bert, fresh, task, cfg, pad: int):
    """({"learnt", "scratch", "baseline": held-out score}, tuned model): fine-tuned after pre-training, trained
    from scratch, and the baseline."""
    tuned = [tune(model, task, cfg, pad) for model in (bert, fresh)]
    found = [*(predict(model, *task.test, pad) for model in tuned), task.baseline]
    scores = (score(task.name, guesses, task.truth) for guesses in found)
    return dict(zip(("learnt", "scratch", "baseline"), scores)), tuned[0]


# ---- filling in
@torch.no_grad()
def fill_in(model, tokenizer, text: str, k: int = 5) -> list:
    """A line for each [MASK] in the text: the k likeliest tokens and their probabilities."""
    rows = encode([(tokenizer.words(text), None)], tokenizer, model.cfg.block_size, cut=False)
    idx, types, _ = (part.to(model.bias.device) for part in rows)
    x = model.eval()(idx, types, idx == tokenizer.pad)[idx == tokenizer.mask]       # (B, T, C) -> (masks, C)
    require(len(x), 'nothing to fill in: write [MASK] into --text="the cast was [MASK]"')
    p, i = model.name_tokens(x).float().softmax(1).topk(min(k, tokenizer.vocab_size))
    rows = zip(i.tolist(), p.tolist())
    return ["  ".join(f"{tokenizer.tokens[j]} {q:.1%}" for j, q in zip(*row)) for row in rows]


# ---- the run
def start(cfg, from_run: bool):
    """(config, model, tokenizer, checkpoint) of the run in out_dir if from_run, or of --init_from, or new."""
    cfg, state = own_checkpoint(cfg, "bert", from_run)
    weights = state and state["model"]
    if state:
        tokenizer = WordPieceTokenizer.from_state(state["tokenizer"])
    elif cfg.init_from:
        sizes, weights = read_bert(cfg.init_from, cfg.block_size)
        cfg = replace(cfg, **sizes)
        path = folder_of(cfg.init_from) / "vocab.txt"
        tokenizer = WordPieceTokenizer.read(path)
        cut_filling(weights, ("wte.weight", "bias"), tokenizer.vocab_size, path)
    else:
        tokenizer = WordPieceTokenizer.train(unlabelled_texts(cfg), cfg.vocab_size)
    torch.manual_seed(cfg.seed)
    model = BERT(cfg, tokenizer.vocab_size)
    if weights:
        model.load_state_dict(weights)
    return cfg, model.to(pick_device(cfg.device)), tokenizer, state


def load_tasks(cfg, tokenizer) -> list:
    """The three tasks, with as many held-out texts as are scored (see metrics.n_to_score)."""
    tasks = [make_task(name, cfg, tokenizer) for name in TASKS]
    longest = max(len(task.truth) for task in tasks)
    n = metrics.n_to_score(cfg, longest, "held-out texts of each task")
    return [task.cut(n) for task in tasks]


def train(cfg: Config) -> dict:
    """Pre-train, tune for each task; return what result.json holds. Raises UserError for bad input."""
    cfg, model, tokenizer, state = start(cfg, cfg.resume)
    device, pad, V = model.bias.device, tokenizer.pad, tokenizer.vocab_size
    tasks = load_tasks(cfg, tokenizer)                          # so that wrong data is refused now, not later
    torch.manual_seed(cfg.seed)
    fresh = BERT(cfg, len(model.bias)).to(device)               # what "from scratch" begins with
    rows = pretraining_rows(unlabelled_texts(cfg), tokenizer, cfg.block_size).to(device)
    held_out, rows = rows.tensor_split([max(1, min(len(rows) // 50, N_HELD_OUT))])
    hidden = hide(held_out, tokenizer, cfg.mask_share, torch.Generator().manual_seed(0))
    length = (rows != pad).sum(1)
    qkv = [block.attn.c_attn.weight for block in model.h]
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    matrices = [p for p in matrices if not any(p is q for q in qkv)]
    others = [p for p in model.parameters() if not any(p is q for q in matrices + qkv)]
    groups = [{"params": matrices}, {"params": qkv, "n_matrices": 3}]   # q, k and v, stored as one
    optimizers = [torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
                  Muon(groups, cfg.muon_lr, momentum=0.9)]
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "bert", model, ["loss", "lr", "val_loss"], state) as run:
        run.say(f"{int(length.sum()):,} tokens in {len(rows):,} rows; {len(held_out)} rows held out\n"
                f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg.steps, cfg.warmup)
            for optimizer, lr in zip(optimizers, (cfg.lr, cfg.muon_lr)):
                optimizer.param_groups[0]["lr"] = factor * lr
            # batch
            idx = draw_batch(rows, length, cfg.batch_size, data_rng)
            shown, chosen = hide(idx, tokenizer, cfg.mask_share, data_rng)
            # loss, backward, step
            with autocast(device, cfg.matmul):
                loss = masked_loss(net, idx, shown, chosen, tokenizer)
            run.check_finite(step, loss=loss.item())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # evaluate, log and save, each when it is due
            done, val_loss = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    with torch.no_grad():
                        val_loss = masked_loss(model.eval(), held_out, *hidden, tokenizer).item()
                    model.train()
                if val_loss is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr, val_loss=val_loss)
                stop = run.stopping(done)
                if val_loss is not None or stop:
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state())
            if stop and done < cfg.steps:
                return run.leave(done)

        with torch.no_grad():
            val_loss, scores = masked_loss(model.eval(), held_out, *hidden, tokenizer).item(), {}
        filled = "\n".join(f"{text}\n    {fill_in(model, tokenizer, text)[0]}" for text in EXAMPLES)
        run.write_sample(cfg.steps, ".txt", filled.encode())
        run.say(f"\n{filled}\nheld-out loss {val_loss:.4f} nats per token; knowing nothing {math.log(V):.4f}")
        for task in tasks:
            n = len(task.truth)
            run.say(f"tuning for {task.name}: {tune_steps(cfg)} steps from the pre-trained weights, "
                    f"as many from scratch; then {n:,} held-out texts …")
            row, tuned = compare(model, fresh, task, cfg, pad)
            if run.signal:
                return run.leave(cfg.steps)
            scores[task.name] = row
            run.say(f"held-out {task.name} (n = {n:,}): pre-trained {row['learnt']:.1%}; "
                    f"from scratch {row['scratch']:.1%}; {task.baseline_name} {row['baseline']:.1%}")
            with atomic_open(run.folder / f"{task.name}.pt") as file:
                torch.save({"name": f"bert for {task.name}", "config": asdict(cfg), "names": task.names,
                            "tokenizer": tokenizer.state(), "model": tuned.state_dict()}, file)
        return run.finish(val_loss=val_loss, chance=math.log(V), few=cfg.few,
                          tune_steps=tune_steps(cfg),
                          n={task.name: len(task.truth) for task in tasks}, scores=scores)


def sample(cfg: Config):
    """Do --task with --text; print the result, and return it."""
    require(cfg.text.strip(), 'which text? Name it by --text="the cast was not [MASK]"')
    if cfg.task == "fill":
        _, model, tokenizer, _ = start(cfg, not cfg.init_from)
        print(*(found := fill_in(model, tokenizer, cfg.text)), sep="\n")
        return found
    state = load_checkpoint(Path(cfg.out_dir) / f"{cfg.task}.pt", f"bert for {cfg.task}")
    tokenizer, names = WordPieceTokenizer.from_state(state["tokenizer"]), state["names"]
    saved = merge_config(Config(), state)
    model = Tuned(BERT(saved, tokenizer.vocab_size), cfg.task, len(names))
    model.load_state_dict(state["model"])
    words, asked = tokenizer.words(cfg.text), tokenizer.words(cfg.question)
    pair = (asked, words) if cfg.task == "answer" else (words, None)
    [found] = predict(model, *encode([pair], tokenizer, model.bert.cfg.block_size, cut=False), tokenizer.pad)
    found = {"sentiment": lambda: [f"{name} {p:.1%}" for name, p in zip(names, found)],
             "entities": lambda: [f"{word:>16}  {names[tag]}" for word, tag in zip(words, found)],
             "answer": lambda: [" ".join(words[slice(*found)])]}[cfg.task]()
    print(*found, sep="\n")
    return found


def evaluate(cfg: Config) -> dict:
    """Scores with other random labelled texts, and with fewer and more of them; also in evaluate.json."""
    (cfg, model, tokenizer, _), tables = start(cfg, True), {name: {} for name in TASKS}
    n = max(len(task.truth) for task in load_tasks(cfg, tokenizer))
    for few, seed in ((cfg.few, 1), (cfg.few, 2), (cfg.few, 3), (cfg.few // 3, 1), (cfg.few * 3, 1)):
        cfg = replace(cfg, few=few, seed=seed)
        torch.manual_seed(seed)
        fresh = BERT(cfg, len(model.bias)).to(model.bias.device)
        for task in (make_task(name, cfg, tokenizer).cut(n) for name in TASKS):
            print(f"{few} labelled texts, seed {seed}: tuning for {task.name} …", flush=True)
            tables[task.name][f"{few}, seed {seed}"] = compare(model, fresh, task, cfg, tokenizer.pad)[0]
    for name, rows in tables.items():
        print(f"{name}, by labelled texts\n{metrics.table(rows, shares=['learnt', 'scratch', 'baseline'])}")
    write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --tune_batch, --block_size, --n_layer, "
                                      "--n_embd or --d_ff")


if __name__ == "__main__":
    main()
