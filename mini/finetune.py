"""Fine-tuning: a GPT that has read much learns from a few hundred labels to tell good reviews from
bad ones.

The GPT has learnt to predict the next token (train_gpt.py), which needs no labels. Every token
sees all tokens before it, so the vector h of the last one has seen the whole text. A linear head
turns it into one logit for each class. The loss of a text x with the label y:

    L = −log p(y | x),    p(y | x) = softmax(W_head h)[y]        in nats

The loss of a head that knows nothing is ln(number of classes). Five methods learn from the same
labels. All of them train the head; they differ in what else they train:

    frozen     nothing
    last       the last block
    all        all weights
    lora       a small addition to each weight matrix of the blocks
    scratch    all weights, but they begin at random: what is it worth to have read much?

The addition of LoRA ("low-rank adaptation") is the product of two thin matrices. W stays as it is:

    W′ = W + (α/r) · B A        W (out, in),  B (out, r),  A (r, in)

A begins at random and B at zero, so that training begins with W′ = W. Without any label, a GPT can
still say which of two continuations of a text it finds likelier (zero-shot, see below).

Shapes: B texts of T tokens in a batch, C the width of the GPT, V tokens.

Papers: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training" (§3.2),
https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf, and
Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (§4.1),
https://arxiv.org/abs/2106.09685. Our departures:
- The loss is that of the head alone. Radford et al. add that of predicting the next token (eq. 5).
- Their head reads an extra token at the end of the text, and has dropout before it. Ours reads the
  text's own last token, has no dropout of its own, and begins at zero.
- LoRA is put on all weight matrices of the blocks. Hu et al. put it on W_q and W_v alone.
- AdamW's weight decay acts on all that is trained, on biases and norms, too.
- Our GPT is small. It learns with larger rates than theirs (PEAK_LR), and with warm-up. The vectors
  of its tokens begin with what counting finds out about them (`write_start`).

    python -m mini.finetune                             film reviews; first trains its own GPT, once
    python -m mini.finetune sample --text="The cast was anything but dull." --method=lora
    python -m mini.finetune evaluate                    other, fewer, and more labelled texts
    python -m mini.finetune --reviews=mine.tsv          your own: text, tab, label
    python -m mini.finetune --init_from=gpt2/model.safetensors              published weights

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/llama.py.
"""
import copy
import hashlib
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# the GPT to build on
import train_gpt
# texts and their labels, what is tried without a network, tokenizers, scores, the command line,
# devices, the folder of a run: this file can be followed without reading them
from mini.data.text.baselines import bag_of_words, naive_bayes
from mini.data.text.cooccurrence import cooccurrence_vectors
from mini.data.text.corpus import encode_texts, read_text
from mini.data.text.reviews import load_reviews
from mini.data.text.tokenizers import BPETokenizer, load_tokenizer
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.run import (Run, load_checkpoint, merge_config, own_checkpoint, restore,
                            write_checkpoint, write_json)

# ---- LoRA

class LoRALinear(nn.Module):
    """A linear layer with a low-rank addition: x ↦ W x + (α/r) B A x (Hu et al., eq. 3)."""

    def __init__(self, linear: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.linear = linear                                    # W and its bias
        self.scale = alpha / r
        A = torch.randn(r, linear.in_features)
        self.A = nn.Parameter(A / math.sqrt(linear.in_features))        # A x is about as large as x
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))

    def forward(self, x):
        addition = (x @ self.A.T) @ self.B.T                    # (…, in) -> (…, r) -> (…, out)
        return self.linear(x) + self.scale * addition

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer with W′ = W + (α/r) B A in place of W."""
        self.linear.weight += self.scale * (self.B @ self.A)    # (out, r) @ (r, in) -> (out, in)
        return self.linear


def add_lora(gpt, r: int, alpha: float):
    """Put a LoRALinear in the place of each linear layer in the blocks: in GPT-2's these are q, k
    and v in one, the projection of the attention, and the two layers of the MLP."""
    for block in gpt.h:
        for part in (block.attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, LoRALinear(layer, r, alpha))


def merge_lora(gpt):
    """Put the merged layers in the places of the LoRALinears. The GPT is a plain one again, and no
    slower than before."""
    for block in gpt.h:
        for part in (block.attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, LoRALinear):
                    setattr(part, name, layer.merged())


# ---- the classifier

def text_vector(x, length, pool: str = "last"):
    """A vector (B, C) for each text, from the vectors x (B, T, C) of its tokens.

    length (B,): the number of tokens of each text. What comes after them only fills up the row, and
    the causal mask hides it from the text.
    """
    if pool == "last":                                          # as Radford et al., eq. 3
        row = torch.arange(len(x), device=x.device)
        return x[row, length - 1]                               # (B, T, C) -> (B, C)
    if pool == "mean":                                          # Howard & Ruder 2018 use it, too
        position = torch.arange(x.size(1), device=x.device)
        is_text = position < length[:, None]                    # (B, T)
        total = (x * is_text[:, :, None]).sum(dim=1)            # (B, T, C) -> (B, C)
        return total / length[:, None]
    raise ValueError(f"unknown pool: {pool}")


class Classifier(nn.Module):
    """A GPT with a head for classes in the place of the one for the next token."""

    def __init__(self, gpt, n_classes: int, pool: str = "last"):
        super().__init__()
        self.gpt = gpt
        self.pool = pool
        self.head = nn.Linear(gpt.cfg.n_embd, n_classes, bias=False)
        nn.init.zeros_(self.head.weight)                        # at first all classes are alike

    def forward(self, idx, length):
        """Logits (B, n_classes) of texts idx (B, T), which have length (B,) tokens."""
        x = self.gpt.hidden(idx)                                # (B, T, C)
        return self.head(text_vector(x, length, self.pool))


def classification_loss(logits, y):
    """−log p(y | x) in nats, the mean over the texts, for logits (B, n_classes), labels y (B,)."""
    return F.cross_entropy(logits, y)


@torch.no_grad()
def predict(model, idx, length, at_once: int = 128):
    """Logits (N, n_classes) of texts idx (N, T), on the CPU."""
    was_training = model.training
    model.eval()                                                # no dropout
    device = model.gpt.device
    logits = []
    progress = metrics.Progress("judged", len(idx))
    for x, n in zip(idx.split(at_once), length.split(at_once)):
        x = x[:, :n.max()]
        logits.append(model(x.to(device), n.to(device)).float().cpu())
        progress.add(len(x))
    model.train(was_training)
    return torch.cat(logits)


# ---- the five methods

METHODS = ("frozen", "last", "all", "lora", "scratch")

# AdamW's peak learning rates. They were set by hand, on the made-up reviews, and are the same for
# any number of labels. The fewer weights learn, the larger the steps that they bear.
PEAK_LR = {"frozen": 1e-2, "last": 2e-3, "all": 1e-3, "lora": 5e-3, "scratch": 1e-3}


def make_classifier(method: str, base, n_classes: int, cfg) -> Classifier:
    """The classifier with which a method begins. It holds a copy of the GPT `base`, and only what
    the method trains has requires_grad."""
    torch.manual_seed(cfg.seed)
    if method == "scratch":
        gpt = train_gpt.GPT(base.cfg, base.wte.num_embeddings)
    else:
        gpt = copy.deepcopy(base)
    for module in gpt.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.dropout
    model = Classifier(gpt, n_classes, cfg.pool)

    model.requires_grad_(False)
    model.head.requires_grad_(True)
    if method == "frozen":
        pass                                                    # the head alone
    elif method == "last":
        gpt.h[-1].requires_grad_(True)
        gpt.ln_f.requires_grad_(True)                           # the norm between it and the head
    elif method in ("all", "scratch"):
        gpt.requires_grad_(True)
    elif method == "lora":
        add_lora(gpt, cfg.rank, cfg.alpha)                      # A and B are new, so they learn
    else:
        raise ValueError(f"unknown method: {method}")
    return model.to(base.device)


def trained_tensors(model) -> dict:
    """{name: tensor} of what a method trains; everything else is the base's."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


# ---- batches, the optimiser and its learning rate

def encode_labelled(pairs: list, tokenizer, gpt):
    """Pairs of (text, label) as tokens (N, T), filled up at the end, lengths (N,), labels (N,)."""
    texts, labels = zip(*pairs)
    idx, length = encode_texts(texts, tokenizer, gpt.cfg.block_size)
    y = torch.tensor(labels)
    return idx.to(gpt.device), length.to(gpt.device), y.to(gpt.device)


def get_batch(idx, length, y, batch_size: int, generator):
    """Random texts: tokens (B, T), where T is the length of the longest; lengths (B,); labels (B,).
    """
    i = torch.randint(len(y), (batch_size,), generator=generator).to(y.device)
    longest = length[i].max()
    return idx[i, :longest], length[i], y[i]


def replace_tokens(idx, share: float, V: int, generator):
    """The tokens idx (B, T), of which a share is replaced by random other tokens, so that the model
    cannot learn its few texts by heart. (BERT has [MASK] for this, a GPT has no such token.)"""
    if share == 0:
        return idx
    chosen = torch.rand(idx.shape, generator=generator) < share
    shift = torch.randint(1, V, idx.shape, generator=generator)     # never 0: always another token
    other = (idx + shift.to(idx.device)) % V
    return torch.where(chosen.to(idx.device), other, idx)


def make_optimizer(model, lr: float, weight_decay: float):
    """AdamW (Loshchilov & Hutter 2019) for what the method trains."""
    learning = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(learning, lr, weight_decay=weight_decay)


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """The learning rate at a step of a method as a fraction of its peak: it rises to 1, then falls
    in a line to 0."""
    rising = (step + 1) / (warmup + 1)
    falling = (steps - step) / max(1, steps - warmup)
    return min(rising, falling)


def set_learning_rate(optimizer, lr: float):
    for group in optimizer.param_groups:
        group["lr"] = lr


# ---- zero-shot: no label at all

CONTINUATIONS = {"good": " It was a delight.", "bad": " It was a mess."}


@torch.no_grad()
def log_p_of_continuation(gpt, tokenizer, texts, continuation: str):
    """log p(continuation | text) in nats, (N,) for N texts: by the chain rule the sum of the log p
    of the continuation's tokens, each after all that stands before it."""
    was_training = gpt.training
    gpt.eval()
    whole = [text + continuation for text in texts]
    idx, length = encode_texts(whole, tokenizer, gpt.cfg.block_size)        # (N, T), (N,)
    begin = length - len(tokenizer.encode(continuation))                    # (N,)
    position = torch.arange(idx.size(1))
    inside = (position >= begin[:, None]) & (position < length[:, None])    # (N, T)

    sums = []
    progress = metrics.Progress("read", len(idx))
    for x, is_counted in zip(idx.split(64), inside.split(64)):
        logits = gpt(x[:, :-1].to(gpt.device)).float().cpu()                # (B, T − 1, V)
        log_p = F.log_softmax(logits, dim=-1)
        target = x[:, 1:, None]                                             # what comes next
        log_p = log_p.gather(2, target).squeeze(2)                          # (B, T − 1)
        sums.append((log_p * is_counted[:, 1:]).sum(dim=1))
        progress.add(len(x))
    gpt.train(was_training)
    return torch.cat(sums)


def zero_shot(gpt, tokenizer, texts, names: list):
    """Labels (N,): for each text the one whose continuation c it makes likelier than it is anyway,

        argmax_c  log p(c | text) − log p(c)

    (Holtzman et al. 2021, "Surface Form Competition: Why the Highest Probability Answer Isn't
    Always Right", eq. 2). Without the second term, c would win for being common.
    """
    scores = []
    for name in names:
        continuation = CONTINUATIONS[name]
        after_text = log_p_of_continuation(gpt, tokenizer, texts, continuation)     # (N,)
        alone = log_p_of_continuation(gpt, tokenizer, [""], continuation)           # (1,)
        scores.append(after_text - alone)
    return torch.stack(scores, dim=1).argmax(dim=1)                         # (N, n_classes) -> (N,)


# ---- the GPT to build on

BASE_STEPS = 800            # its optimiser steps, if --base_steps is 0
SECONDS_A_STEP = 0.14       # of its training, on two CPU cores


def base_steps(cfg) -> int:
    """The number of optimiser steps of the GPT to build on: --base_steps; if that is 0, BASE_STEPS,
    but at most twice --steps, so that a short trial needs no long preparation."""
    if cfg.base_steps > 0:
        return cfg.base_steps
    return min(BASE_STEPS, 2 * max(1, cfg.steps))


def write_start(path, text: str, block_size: int):
    """Write the checkpoint with which the GPT to build on begins: a new GPT, whose token vectors
    come from counting (see mini/data/text/cooccurrence.py), so that rare words mean something from
    the start."""
    tokenizer = BPETokenizer.train(text, vocab_size=4096)
    base_cfg = train_gpt.Config(vocab_size=tokenizer.vocab_size, block_size=block_size, n_layer=4,
                                n_head=4, n_embd=192)
    torch.manual_seed(base_cfg.seed)
    gpt = train_gpt.GPT(base_cfg, tokenizer.vocab_size)
    tokens = torch.tensor([tokenizer.encode(text)])                         # (1, N)
    is_counted = torch.ones(tokenizer.vocab_size, dtype=torch.bool)         # each token
    vectors = cooccurrence_vectors(tokens, is_counted, base_cfg.n_embd)     # (V, C)
    gpt.wte.weight.data.copy_(vectors)
    write_checkpoint(path, {"name": "gpt", "config": asdict(base_cfg), "model": gpt.state_dict(),
                            "tokenizer": tokenizer.state()})


def make_base(cfg, unlabelled: list):
    """(GPT, tokenizer) to build on: that of --init_from; or one that is trained here, once, and
    kept under runs/.

    It reads our tales and the unlabelled texts: of our reviews, or of the user's own file all texts
    but the held-out ones. (train_gpt.py holds back the last tenth of this, to measure its loss.)
    """
    if cfg.init_from:
        return train_gpt.load(train_gpt.Config(init_from=cfg.init_from, device=cfg.device))

    steps = base_steps(cfg)
    text = "\n".join([*read_text("tales").split("\n\n"), *unlabelled])
    key = f"{steps} {cfg.block_size} {text}"                    # another text, another GPT
    folder = Path(f"runs/base-{hashlib.sha256(key.encode()).hexdigest()[:8]}")
    if not (folder / "result.json").exists():
        seconds = SECONDS_A_STEP * steps
        print(f"first a GPT is trained to build on, once: {steps} steps on the tales and "
              f"{len(unlabelled):,} texts without their labels, some {seconds:.0f} s on two cores; "
              f"it is kept in {folder}", flush=True)
        folder.parent.mkdir(exist_ok=True)
        source = Path(f"{folder}.txt")
        source.write_text(text, "utf-8")
        start = Path(f"{folder}.pt")
        write_start(start, text, cfg.block_size)
        own = train_gpt.Config(
            data=str(source), init_from=str(start), out_dir=str(folder), device=cfg.device,
            resume=(folder / "checkpoint.pt").exists(),         # it was stopped the last time
            steps=steps, batch_size=32, lr=0.04, rest_lr=0.01, log_every=20)
        result = train_gpt.train(own)
        if "interrupted" in result:
            raise KeyboardInterrupt
    return train_gpt.load(train_gpt.Config(out_dir=str(folder), device=cfg.device))


def base_from_checkpoint(checkpoint, cfg):
    """(GPT, tokenizer) on which a run has built."""
    base_cfg = merge_config(train_gpt.Config(), {"config": checkpoint["sizes"]})
    tokenizer = load_tokenizer(checkpoint["tokenizer"])
    base = train_gpt.GPT(base_cfg, tokenizer.vocab_size)
    base.load_state_dict(checkpoint["base"])
    return base.to(pick_device(cfg.device)), tokenizer


# ---- settings

@dataclass
class Config(RunConfig):
    # It also has the fields that mean the same in every script: preset, eval_every (steps between
    # checkpoints), log_every, seed, device, matmul, resume, stop_after (see mini/utils/config.py).
    #
    # data
    reviews: str = "reviews"    # reviews, or your own: a TSV file of text, tab, label
    few: int = 300              # labelled texts to learn from (0: all)
    # model
    # the GPT to build on: a checkpoint.pt of train_gpt.py, or GPT-2's model.safetensors ("": trains
    # one)
    init_from: str = ""
    # optimiser steps of the GPT that it trains itself (0: 800, but at most twice --steps)
    base_steps: int = 0
    block_size: int = 96        # T, the context of this GPT, in tokens
    # the vector of a text: that of its last token, or the mean of all its tokens' vectors
    pool: Literal["last", "mean"] = "last"
    rank: int = 8               # r of LoRA, the rank of the additions
    alpha: float = 16.0         # α of LoRA, which scales the additions
    # optimisation
    steps: int = 1000           # optimiser steps, shared evenly by the five methods
    # if --steps is not below its default, each method takes at least so many passes over the
    # labelled texts
    passes: int = 4
    batch_size: int = 32        # texts in a step
    warmup: int = 20            # steps of a method in which its learning rate rises to its peak
    weight_decay: float = 0.01  # AdamW's, of all that is trained
    dropout: float = 0.1        # of embeddings, attention weights, and what blocks add to x
    tune_mask: float = 0.0      # share of the tokens that are replaced by others while it learns
    # run
    out_dir: str = "runs/finetune"  # folder of the run
    # held-out texts to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    text: str = ""              # a text to classify
    # the method whose weights are used
    method: Literal["frozen", "last", "all", "lora", "scratch"] = "all"

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("reviews", "few", "init_from", "base_steps", "block_size", "pool", "rank", "alpha")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "batch_size", "rank", "alpha")
    require(cfg.block_size >= 2, f"--block_size={cfg.block_size} must be at least 2")
    require(cfg.few >= 0, f"--few={cfg.few} must be at least 0")
    require(cfg.base_steps >= 0, f"--base_steps={cfg.base_steps} must be at least 0")
    require(cfg.passes >= 0, f"--passes={cfg.passes} must be at least 0")
    require(0 <= cfg.tune_mask <= 1, f"--tune_mask={cfg.tune_mask} must be from 0 to 1")


def total_steps(cfg, n_texts: int) -> int:
    """The optimiser steps of all methods together: --steps, or if that is fewer than --passes over
    the labelled texts by each method, as many as these take. A run with --steps below its default
    is a short trial, and stays short."""
    if cfg.steps < type(cfg).steps:
        return cfg.steps
    steps_of_each = math.ceil(cfg.passes * n_texts / cfg.batch_size)
    return max(cfg.steps, len(METHODS) * steps_of_each)


# ---- training

def train(cfg: Config) -> dict:
    """Train by one method after another, on the same batches; returns what result.json holds.
    Raises UserError for input that cannot be used."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "finetune", cfg.resume)
    data = load_reviews(cfg.reviews, cfg.few, cfg.seed)
    steps = total_steps(cfg, len(data.learn))
    if steps > cfg.steps:
        print(f"note: {steps:,} steps, not {cfg.steps:,}, so that each of {len(METHODS)} methods "
              f"takes {cfg.passes} passes over {len(data.learn):,} labelled texts", flush=True)
    cfg = replace(cfg, steps=steps)                             # the checkpoint holds the number
    if not cfg.init_from:
        cfg = replace(cfg, base_steps=base_steps(cfg))          # of this, too

    # the GPT to build on
    if checkpoint:
        require(checkpoint["names"] == data.names,
                f"the checkpoint's head is for other labels than {', '.join(data.names)}")
        base, tokenizer = base_from_checkpoint(checkpoint, cfg)
    else:
        base, tokenizer = make_base(cfg, data.unlabelled)
    device = base.device
    V = base.wte.num_embeddings
    n_classes = len(data.names)

    # the texts, all on the device
    idx, length, y = encode_labelled(data.learn, tokenizer, base)
    n_test = metrics.n_to_score(cfg, len(data.test), "held-out texts")
    data.test = data.test[:n_test]

    # what is left to do: the methods, the step with which the first of them begins, and how many
    # seconds of training came before it
    methods = METHODS
    first = 0
    seconds_before = 0.0
    if checkpoint:
        method = checkpoint["method"]
        require(method in METHODS, f"{cfg.out_dir}: a damaged checkpoint: {method!r} is no method")
        methods = METHODS[METHODS.index(method):]
        first = checkpoint["first"]
        seconds_before = checkpoint["seconds_before"]

    # run keeps the folder out_dir: it prints and logs, and writes checkpoint and result
    with Run(cfg, "finetune", base, ["method", "loss", "lr"], checkpoint) as run:
        if not cfg.init_from and cfg.base_steps < BASE_STEPS:
            run.say(f"note: the GPT to build on had {cfg.base_steps} steps, not {BASE_STEPS}")
        run.say(f"{len(y):,} labelled texts, {n_test:,} held out; a head that knows nothing has "
                f"loss ln {n_classes} = {math.log(n_classes):.3f}")
        for number, method in enumerate(methods):
            # model and optimiser; every method begins with the same random states
            model = make_classifier(method, base, n_classes, cfg).train()
            optimizer = make_optimizer(model, PEAK_LR[method], cfg.weight_decay)
            data_rng = torch.Generator().manual_seed(cfg.seed)  # for batches: the same for all
            torch.manual_seed(cfg.seed)                         # for dropout
            if checkpoint:
                model.load_state_dict(checkpoint["model"])
                restore(checkpoint, [optimizer], data_rng)      # its averages, all random states
                checkpoint = None                               # the next method begins anew

            # its steps: of the steps that are left, an equal share for each method that is left (if
            # a run goes on with other --steps, the methods that are done stay as they are)
            done = max(run.first, first)
            end = max(done, first + (cfg.steps - first) // (len(methods) - number))
            n_trained = sum(p.numel() for p in trained_tensors(model).values())
            run.say(f"{method}: {n_trained:,} parameters learn in {end - first:,} steps")
            stopping = False
            while done < end and not stopping:
                # learning rate
                lr = PEAK_LR[method] * lr_factor(done - first, end - first, cfg.warmup)
                set_learning_rate(optimizer, lr)

                # batch
                x, n, target = get_batch(idx, length, y, cfg.batch_size, data_rng)
                x = replace_tokens(x, cfg.tune_mask, V, data_rng)

                # loss, backward, step; products are in bfloat16, if that is faster on this device
                with autocast(device, cfg.matmul):
                    loss = classification_loss(model(x, n), target)
                loss.backward()
                loss = loss.item()              # a number: the tensor would keep the model alive
                run.check_finite(done, loss=loss)               # NaN stops here, weights still good
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

                # log and save, each when it is due
                done += 1
                with run.untimed():                             # this is not training time
                    if run.due(done, cfg.log_every):
                        run.log(done, method=method, loss=loss, lr=lr)
                    stopping = run.stopping(done)               # after Ctrl-C, or --stop_after
                    if stopping or done == end or run.due(done, cfg.eval_every):
                        run.save(done, model, [optimizer], data_rng, method=method, first=first,
                                 seconds_before=seconds_before, names=data.names,
                                 base=base.state_dict(), sizes=asdict(base.cfg),
                                 tokenizer=tokenizer.state())

            # what it has learnt goes to a file, and the model goes: there is never more than one
            if done == end:
                save_method(method, model, cfg, seconds=run.clock() - seconds_before)
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume
            del model, optimizer
            first = end
            seconds_before = run.seconds

        run.say(f"judging {n_test:,} held-out texts by each method …")
        rows = score(cfg, base, tokenizer, data)
        run.say(f"\nn = {n_test:,}\n{metrics.table(rows, shares=['accuracy'])}")
        return run.finish(few=len(y), n=n_test, table=rows)     # result.json


def save_method(method: str, model, cfg, seconds: float):
    """Write METHOD.pt into the folder of the run: what the method has trained. For LoRA these are
    A, B and the head, and the file is small."""
    write_checkpoint(Path(cfg.out_dir) / f"{method}.pt",
                     {"name": f"finetune by {method}", "config": asdict(cfg), "seconds": seconds,
                      "model": trained_tensors(model)})


def load_method(method: str, base, n_classes: int, cfg):
    """(classifier, seconds of its training) from METHOD.pt and the GPT on which it was built."""
    path = Path(cfg.out_dir) / f"{method}.pt"
    require(path.exists(), f"{path}: no such file; the method {method} is not trained yet, which "
                           "--resume goes on with")
    saved = load_checkpoint(path, f"finetune by {method}")
    model = make_classifier(method, base, n_classes, cfg)
    require(saved["model"].keys() == trained_tensors(model).keys(),
            f"{path}: the method {method} trained other parameters then; train anew")
    model.load_state_dict(saved["model"], strict=False)         # all others are the base's
    return model, saved["seconds"]


# ---- scores

def score(cfg, base, tokenizer, data) -> dict:
    """{name: {"trained": number of parameters, "seconds" of training, "accuracy" on the held-out
    texts}} of the five methods, one after another, and of what is tried without labels, or without
    a network."""
    texts, y = zip(*data.learn)
    test_texts, truth = zip(*data.test)
    truth = torch.tensor(truth)
    idx, length, _ = encode_labelled(data.test, tokenizer, base)

    def row(found, trained=0, seconds=0.0):
        accuracy = (found == truth).float().mean().item()
        return {"trained": trained, "seconds": seconds, "accuracy": accuracy}

    rows = {}
    for method in METHODS:
        model, seconds = load_method(method, base, len(data.names), cfg)
        n_trained = sum(p.numel() for p in trained_tensors(model).values())
        found = predict(model, idx, length).argmax(dim=1)
        del model
        rows[method] = row(found, n_trained, seconds)

    if set(data.names) == set(CONTINUATIONS):
        rows["zero-shot"] = row(zero_shot(base, tokenizer, test_texts, data.names))
    rows["naive Bayes, EM"] = row(naive_bayes(texts, y, test_texts, data.unlabelled))
    rows["naive Bayes"] = row(naive_bayes(texts, y, test_texts))
    rows["bag of words"] = row(bag_of_words(texts, y, test_texts))
    rows["most frequent"] = row(torch.tensor(y).mode().values)
    return rows


# ---- using what was trained

def sample(cfg: Config) -> dict:
    """{label: probability} for --text, by the weights of --method; also printed."""
    require(cfg.text, 'which text? Name it by --text="The cast was not dull."')
    cfg, checkpoint = own_checkpoint(cfg, "finetune")
    names = checkpoint["names"]
    base, tokenizer = base_from_checkpoint(checkpoint, cfg)
    model, _ = load_method(cfg.method, base, len(names), cfg)
    merge_lora(model.gpt)                                       # without LoRA it changes nothing

    idx, length = encode_texts([cfg.text], tokenizer, base.cfg.block_size)
    logits = predict(model, idx, length)[0]
    probs = F.softmax(logits, dim=0).tolist()
    print("  ".join(f"{name} {p:.1%}" for name, p in zip(names, probs)))
    return dict(zip(names, probs))


def evaluate(cfg: Config) -> dict:
    """Accuracy with other random labelled texts, and with fewer and more of them; also in
    evaluate.json."""
    cfg, _ = own_checkpoint(cfg, "finetune")
    n_all = len(load_reviews(cfg.reviews, few=0).learn)         # there are no more
    few = min(cfg.few or n_all, n_all)
    third = max(1, few // 3)
    thrice = min(3 * few, n_all)
    tables = {}
    parts = [(few, 1), (few, 2), (few, 3), (third, 1), (thrice, 1)]
    for n, seed in dict.fromkeys(parts):                        # each only once
        print(f"{n} labelled texts, seed {seed}", flush=True)
        folder = f"{cfg.out_dir}/few{n}-seed{seed}"
        own = replace(cfg, few=n, seed=seed, resume=False, out_dir=folder)
        result = train(own)
        if "interrupted" in result:
            return result
        table = result["table"]
        tables[f"{n}, seed {seed}"] = {name: row["accuracy"] for name, row in table.items()}
    columns = list(next(iter(tables.values())))
    print(metrics.table(tables, shares=columns))
    write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size or --rank")


if __name__ == "__main__":
    main()
