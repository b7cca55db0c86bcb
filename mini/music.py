"""Music Transformer: a language model of piano music, with relative attention.

A piece is written as a sequence of events: a key goes down, a key goes up, time passes, the
loudness changes. Three notes, and what becomes of them:

    G 67                ▆▆▆▆▆▆▆▆
    E 64        ▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆
    C 60        ▆▆▆▆▆▆▆▆
                0 s     0.5 s   1 s

    VELOCITY<64> ON<60> ON<64> SHIFT<0.5 s> OFF<60> ON<67> SHIFT<0.5 s> OFF<64> OFF<67>
    372          60     64     305          188     67     305          192     195

Below stand the numbers of the tokens. A key that goes down is its pitch, 0 to 127, and 128 more
when it goes up; then come 100 lengths of time from 256 on, 32 degrees of loudness from 356 on, and
388, PIECE, which begins each piece: V = 389. A model of the next event is a model of music, as a
model of the next word is a model of texts. Its loss is GPT's; a model that knows nothing scores ln
V:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)

The new idea is how positions enter. Music repeats itself, so it matters little where an event
stands, but much how far back a similar event was. No position is added to x. Instead each head
learns a vector eᵣ for each distance r, in events, from a query i back to a key j = i − r:

    score(i, j) = qᵢ · (kⱼ + eᵢ₋ⱼ) / √hs

The eᵣ are the rows of Eʳ in the paper, the qᵢ · eᵢ₋ⱼ its matrix Sʳᵉˡ. They come from one product
and a skew (see `skew`), without a tensor of shape (T, T, hs).

Shapes: B pieces of T events in a batch, C the width, nh heads of size hs = C / nh, V events to
choose from; S keys for T queries. S = T, but where keys are kept from before.

Papers: Huang et al. 2018, "Music Transformer", https://arxiv.org/abs/1809.04281. Relative positions
are from Shaw et al. 2018, https://arxiv.org/abs/1803.02155, the events from Oore et al. 2018, "This
Time with Feeling", https://arxiv.org/abs/1808.03715; they have 125 lengths of time, from 8 ms to 1
s, and we 100, from 10 ms to 1 s, as Huang et al. Our departures: the network is GPT-2's but for the
positions (pre-norm, GELU, tied head); the token PIECE; Muon trains the matrices (see train_gpt.py);
while it writes, the window slides (each event looks at T − 1 events before it, however long the
piece); half of what it learns from begins where a piece begins (--from_beginning); pieces are moved
to other keys (--transpose), but not made faster and slower besides.

    python -m mini.music                                our own tunes
    python -m mini.music --data=my_midis --transpose=5  your .mid files, moved to other keys
    python -m mini.music --resume                       go on where it was stopped
    python -m mini.music sample --wav                   .mid, piano roll, and sound
    python -m mini.music sample --primer=piece.mid --primer_seconds=8
    python -m mini.music evaluate                       the loss by what was read before; which bars
                                                        come back

Measured times and scores: README.md. Read before: train_gpt.py; what is new here:
git diff --no-index train_gpt.py mini/music.py. Read next: mini/assistant.py.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# MIDI files and tunes, the command line, devices, the optimiser Muon, scores, the folder of a run:
# this file can be followed without reading them
from mini.data.music import midi
from mini.data.music.music_scores import loss_baselines, music_report, music_scores
from mini.data.music.tunes import (check_length, check_primer, read_corpus, read_primer, save_piece,
                                   to_tokens)
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.fast_vectors import fast_vectors
from mini.utils.metrics import n_to_score
from mini.utils.optim import Muon
from mini.utils.progress import Progress
from mini.utils.run import Run, own_checkpoint, restore

# ---- relative attention

def relative_attention(q, k, v, E, mask, dropout=None):
    """softmax((q kᵀ + skew(q Eᵀ)) / √hs) v, where each query looks only where the mask allows.

    q: (B, nh, T, hs); k, v: (B, nh, S, hs). E: (nh, S, hs), a vector for each distance from S − 1,
    in the first row, to 0, in the last. mask: (T, S), 0 where a query (row) may look at a key
    (column), else −∞. Returns (B, nh, T, hs). (Huang et al., eq. 3.)
    """
    hs = q.size(-1)
    q = q / math.sqrt(hs)
    content = q @ k.transpose(-2, -1)                       # (B, nh, T, hs) -> (B, nh, T, S)
    by_distance = q @ E.transpose(-2, -1)                   # (B, nh, T, hs) -> (B, nh, T, S)
    scores = content + skew(by_distance)                    # each column now is that of a key
    # The mask comes last: where keys come after their query, skew leaves numbers of no meaning.
    weights = F.softmax(scores + mask, dim=-1)              # e^−∞ = 0; each row sums to 1
    if dropout is not None:
        weights = dropout(weights)
    return weights @ v                                      # (B, nh, T, S) -> (B, nh, T, hs)


def skew(x):
    """Move products by distance, (…, T, S), to the columns of their keys, (…, T, S).

    For three queries a, b, c and three keys; b1 is the product of b with the vector of distance 1:

        x, by distance   a column of 0   as one line, its first T        cut into rows of S:
         2  1  0         on the left     numbers dropped                 by key 0, 1, 2

        a2 a1 a0         0 a2 a1 a0      ·  ·  ·  a0  0 b2 b1 b0          a0  0 b2
        b2 b1 b0         0 b2 b1 b0      0 c2 c1 c0                       b1 b0  0
        c2 c1 c0         0 c2 c1 c0                                       c2 c1 c0

    Each row has to move one place less to the left than the row above it. The column makes rows one
    longer, so in rows of the old length each begins one place later. On the diagonal and below it
    now stands what belongs there: query t and key j, distance t − j. Above it, where a key comes
    after its query, stands what moved in from the next row: it is to be masked. (Huang et al.,
    §3.4; where S > T, the diagonal ends in the last column.)
    """
    T, S = x.shape[-2:]
    x = F.pad(x, (1, 0))                                    # (…, T, S) -> (…, T, S + 1)
    x = x.flatten(-2)                                       # -> (…, T·S + T)
    x = x[..., T:]                                          # -> (…, T·S)
    return x.unflatten(-1, (T, S))                          # -> (…, T, S)


def causal_mask(T: int, window: int, device=None, before: int = 0):
    """(T, T), to be added to scores: 0 where an event looks, at itself and at window − 1 events
    before it; −∞ elsewhere.

    If the keys of more events come before those of the T queries (only in the appendix, below), it
    is (T, before + T). It is in float32, and so is the softmax of the sum, also where products of
    matrices are in bfloat16.
    """
    query = torch.arange(before, before + T, device=device)[:, None]
    key = torch.arange(before + T, device=device)
    distance = query - key                                  # (T, 1) − (S,) -> (T, S)
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros(T, before + T, device=device).masked_fill(hidden, -math.inf)


class RelativeAttention(nn.Module):
    """Attention in n_head heads, each with queries, keys, values and distances of its own.

    cfg is the Config below; n_embd is C, and block_size the window.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.window = cfg.block_size
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        hs = cfg.n_embd // cfg.n_head
        # a vector for each distance from window − 1 (the first row) to 0 (the last)
        self.E = nn.Parameter(0.02 * torch.randn(cfg.n_head, self.window, hs))
        self.attn_dropout = nn.Dropout(cfg.dropout)             # on the attention weights
        self.resid_dropout = nn.Dropout(cfg.dropout)            # on what the block adds to x

    def forward(self, x):                                       # (B, T, C) -> (B, T, C)
        q, k, v = self.qkv(x)
        mask = causal_mask(x.size(1), self.window, x.device)
        return self.attend(q, k, v, mask)

    def qkv(self, x, start: int = 0):
        """Queries, keys and values, (B, nh, T, hs) each, of x (B, T, C).

        start is the position of the first event. It is not needed here, but rotary positions would
        need it.
        """
        B, T, C = x.shape
        hs = C // self.n_head

        q, k, v = self.c_attn(x).split(C, dim=-1)               # (B, T, 3C) -> 3 × (B, T, C)
        q = q.view(B, T, self.n_head, hs).transpose(1, 2)       # (B, T, C) -> (B, nh, T, hs)
        k = k.view(B, T, self.n_head, hs).transpose(1, 2)
        v = v.view(B, T, self.n_head, hs).transpose(1, 2)
        return q, k, v

    def attend(self, q, k, v, mask):
        """Attention in every head, the heads' outputs side by side, and a projection: (B, T, C)."""
        E = self.distances(k.size(2))
        y = relative_attention(q, k, v, E, mask, self.attn_dropout)     # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))

    def distances(self, S: int):
        """The vectors (nh, S, hs) of the distances S − 1, …, 1, 0. Those that are longer than the
        window are 0: the mask hides them."""
        missing = max(0, S - self.window)
        E = F.pad(self.E, (0, 0, missing, 0))                   # rows of zeros, above the first
        return E[:, -S:]


# ---- the network

Norm = nn.LayerNorm         # of the blocks, and before the head


class MLP(nn.Module):
    """Two linear layers with GELU between them, applied to each position by itself."""

    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        x = self.c_fc(x)                                        # (B, T, C) -> (B, T, 4C)
        x = F.gelu(x, approximate="tanh")                       # as in the published GPT-2
        x = self.c_proj(x)                                      # (B, T, 4C) -> (B, T, C)
        return self.dropout(x)


class Block(nn.Module):
    """Attention, then an MLP, each with a residual connection around it: x + f(norm(x))."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1 = Norm(cfg.n_embd)
        self.attn = RelativeAttention(cfg)
        self.ln_2 = Norm(cfg.n_embd)
        self.mlp = MLP(cfg)

    def forward(self, x, attn=None):
        """(B, T, C) -> (B, T, C). attn replaces the block's own attention (see the appendix)."""
        if attn is None:
            attn = self.attn
        x = x + attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class MusicTransformer(nn.Module):
    """The whole network: GPT without an embedding of positions."""

    def __init__(self, cfg, vocab_size: int = midi.VOCAB_SIZE):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)         # a vector for each event
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.ln_f = Norm(cfg.n_embd)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight                   # tied: one matrix for both
        self.init_weights()

    def init_weights(self):
        """Matrices and embeddings are drawn from N(0, 0.02²), biases are 0. The vectors of the
        distances, of three dimensions, are as they were drawn above.

        2 n_layer branches add up in x, and so do their variances. So the last matrix of each branch
        is drawn smaller, by 1/√(2 n_layer): x then is about as large for any n_layer (GPT-2, §2.3).
        """
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.cfg.n_layer))
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx):
        """Logits (B, T, V) of the event after each of the events idx (B, T), for any T."""
        x = self.embed(idx, start=0)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))

    def embed(self, idx, start: int):
        """Vectors (B, T, C) of events idx (B, T). start, the position of the first, is not needed
        here: positions enter in attention alone."""
        return self.dropout(self.wte(idx))

    @property
    def device(self):
        return self.wte.weight.device


# ---- batches and the loss

def get_batch(tokens, block_size: int, batch_size: int, generator, semitones: int = 0,
              from_beginning: float = 0.0):
    """Random stretches of the music, x (B, T), and the same stretches one event later, y (B, T).

    A share of them, from_beginning, begins where a piece begins. When the model writes, it begins
    there, too. In a stretch that begins anywhere, an event of bar 13 seldom has bar 1 in view.

    Each stretch is raised or lowered at random, by up to so many semitones: a tune is the same in
    another key.
    """
    N = len(tokens) - block_size                                # a stretch can begin before N
    start = torch.randint(N, (batch_size,), generator=generator)
    if from_beginning > 0:
        beginnings = (tokens[:N] == midi.PIECE).nonzero().flatten().cpu()
        chosen = torch.randint(len(beginnings), (batch_size,), generator=generator)
        at_beginning = torch.rand(batch_size, generator=generator) < from_beginning
        start = torch.where(at_beginning, beginnings[chosen], start)
    positions = start[:, None] + torch.arange(block_size + 1)   # (B, 1) + (T + 1,) -> (B, T + 1)
    pieces = tokens[positions.to(tokens.device)]                # (B, T + 1)
    if semitones > 0:
        up = torch.randint(-semitones, semitones + 1, (batch_size, 1), generator=generator)
        pieces = midi.transpose(pieces, up.to(tokens.device))
    x = pieces[:, :-1]
    y = pieces[:, 1:]                                           # y[b, t] follows x[b, t]
    return x, y


IGNORED = -100      # as a target: not to be predicted, only there to fill up a row


def next_token_loss(logits, y, reduction: str = "mean"):
    """−log p(y) in nats, for logits (B, T, V) and the tokens y (B, T) that are to be predicted."""
    logits = logits.flatten(0, 1)                               # (B, T, V) -> (B·T, V)
    return F.cross_entropy(logits, y.flatten(), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def estimate_loss(model, documents: list, windows_at_once: int = 10) -> float:
    """The mean loss in nats of predicting all tokens of the documents but the first of each.

    documents: 1-D tensors of token numbers. A document longer than T is read in consecutive
    windows. Each window begins with no context, so its first tokens are harder to predict.
    """
    was_training = model.training
    model.eval()                                                # no dropout
    T = model.cfg.block_size

    # Cut each document into rows of T. Its last row is filled up at the end: the filling comes
    # after all that is predicted, so it changes nothing, and its own targets are ignored.
    x_rows = []
    y_rows = []
    for tokens in documents:
        n_targets = len(tokens) - 1
        missing = -n_targets % T                                # 10 targets, T = 4: 2 are missing
        x_rows.append(F.pad(tokens[:-1], (0, missing)).view(-1, T))
        y_rows.append(F.pad(tokens[1:], (0, missing), value=IGNORED).view(-1, T))
    x = torch.cat(x_rows)                                       # (windows, T)
    y = torch.cat(y_rows)

    total = 0.0
    progress = Progress("windows of held-out music read:", len(x))
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        total += next_token_loss(model(x_i), y_i, reduction="sum").item()
        progress.add(len(x_i))
    model.train(was_training)
    return total / (y != IGNORED).sum().item()


# ---- sampling

def sample_token(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one token (B,) for each row of logits (B, V).

    temperature divides the logits: below 1, likely tokens become likelier; 0 takes the likeliest.
    top_k > 0 allows only the k likeliest tokens. top_p < 1 allows only the fewest tokens that
    together have at least this probability (nucleus sampling, Holtzman et al. 2020, §3.1).
    """
    logits = logits.float().cpu()                               # where the generator is
    if temperature < 1e-6:                                      # dividing by less might overflow
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k > 0:
        top = logits.topk(min(top_k, logits.size(-1))).values   # (B, k), the largest first
        logits = logits.masked_fill(logits < top[:, -1:], -math.inf)
    if top_p < 1:
        logits = logits.masked_fill(~nucleus(logits, top_p), -math.inf)
    probs = F.softmax(logits, dim=-1)
    return draw(probs, generator)                               # as torch.multinomial does, faster


def nucleus(logits, top_p: float):
    """(B, V): True for the fewest likeliest tokens that together have at least probability top_p.

    With probabilities 0.2, 0.5, 0.3 and top_p = 0.7 these are the second and the third.
    """
    p, order = F.softmax(logits, dim=-1).sort(descending=True)  # 0.5, 0.3, 0.2; tokens 1, 2, 0
    p_of_likelier = p.cumsum(dim=-1) - p                        # 0.0, 0.5, 0.8
    needed = p_of_likelier < top_p                              # True, True, False
    return torch.zeros_like(needed).scatter(1, order, needed)   # by token: False, True, True


@torch.inference_mode()
def generate(model, idx, max_new_tokens: int, temperature=1.0, top_k=0, top_p=1.0, generator=None,
             on_token=None):
    """Continue the events idx (B, T): returns (B, T + max_new_tokens).

    If given, on_token is called with each new event (B,) as soon as it is drawn.
    """
    was_training = model.training
    model.eval()

    for _ in range(max_new_tokens):
        logits = model(idx)[:, -1]                              # (B, T, V) -> (B, V)
        token = sample_token(logits, temperature, top_k, top_p, generator).to(idx.device)
        idx = torch.cat([idx, token[:, None]], dim=1)           # (B, T) -> (B, T + 1)
        if on_token:
            on_token(token)

    model.train(was_training)
    return idx


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), eval_every 200, sample_every
    500, log_every 50, seed 1, device auto, matmul medium (how exact products are), compile false,
    resume false, stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "tunes"         # tunes, or a folder of .mid files
    pieces: int = 6000          # number of tunes to make, a tenth of them held out
    # pieces to learn from are raised or lowered at random, by up to so many semitones
    transpose: int = 0
    from_beginning: float = 0.5     # share of a batch that begins where a piece begins

    # model
    block_size: int = 600       # T, the window: how many events the model sees at once
    n_layer: int = 4            # blocks
    n_head: int = 4             # attention heads in each block
    n_embd: int = 128           # C, the width
    dropout: float = 0.0        # of embeddings, attention weights, and what blocks add to x

    # optimisation
    steps: int = 2200           # optimiser steps
    batch_size: int = 6         # sequences in a step
    # what trains the weight matrices of the blocks; AdamW trains the rest, or everything
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 0.0             # its peak learning rate (0: its own, in PEAK_LR below)
    rest_lr: float = 0.01       # with muon: AdamW's peak learning rate
    warmup: int = 10            # steps in which the learning rate rises to its peak
    stable_frac: float = 0.4    # then it stays there for this fraction of the rest, and falls to 0
    momentum: float = 0.85      # of Muon: the weight of old gradients in their moving average
    beta2: float = 0.99         # of AdamW: the weight of old squared gradients in their average
    weight_decay: float = 0.0   # of matrices, embeddings and the vectors of distances
    grad_clip: float = 1.0      # a longer gradient is scaled down to this norm (0: never)

    # run
    out_dir: str = "runs/music"     # folder of the run
    # held-out pieces to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    primer: str = ""            # a .mid file whose beginning is continued ("": none)
    primer_seconds: float = 8.0     # length of this beginning in seconds
    max_new_tokens: int = 800   # events to write at most; a piece may end earlier
    num_samples: int = 4        # pieces to write
    temperature: float = 0.9    # 0: always the likeliest event; 1: the model's probabilities
    top_k: int = 0              # draw from the k likeliest events only (0: all)
    top_p: float = 0.95         # draw from the fewest events that together have this probability
    cache: bool = True          # keep past keys and values: the same music, faster
    wav: bool = False           # also write the pieces as sound

    # Not a setting (it has no type): the names of those that a resumed run must keep: the shapes of
    # its weights depend on them, or what it has learnt from.
    fixed = ("pieces", "transpose", "block_size", "n_layer", "n_head", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # performances of minutes, in a folder of your own (--data): one GPU
    "gpu": dict(n_layer=6, n_head=8, n_embd=512, block_size=1024, batch_size=16, steps=5000,
                lr=0.02, rest_lr=0.003, dropout=0.2, transpose=3, max_new_tokens=2000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require(cfg.block_size >= 2, f"--block_size={cfg.block_size} must be at least 2")
    require_positive(cfg, "n_layer", "n_head", "n_embd", "batch_size")
    require_positive(cfg, "max_new_tokens", "num_samples", "top_p", "primer_seconds")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(0 <= cfg.transpose <= 12, f"--transpose={cfg.transpose} must be from 0 to 12")
    require(0 <= cfg.from_beginning <= 1,
            f"--from_beginning={cfg.from_beginning} must be from 0 to 1")
    require(0 <= cfg.dropout < 1, f"--dropout={cfg.dropout} must be from 0 to below 1")
    require(0 <= cfg.stable_frac < 1, f"--stable_frac={cfg.stable_frac} must be from 0 to below 1")
    require(cfg.temperature >= 0, f"--temperature={cfg.temperature} must not be negative")
    require(cfg.top_k >= 0, f"--top_k={cfg.top_k} must not be negative")


# ---- optimisers and the learning rate

PEAK_LR = {"muon": 0.04, "adamw": 0.001}


def make_optimizers(model, cfg) -> list:
    """[Muon for the weight matrices of the blocks, AdamW for the rest], or [AdamW for all].

    Muon averages the gradients of a matrix, as momentum does, and makes all singular values of this
    average equal (U S Vᵀ -> U Vᵀ), so that a few strong directions do not drown the others.
    """
    lr = cfg.lr or PEAK_LR[cfg.optimizer]
    if cfg.optimizer == "adamw":
        return [make_adamw(list(model.parameters()), lr, cfg)]

    qkv = []
    matrices = []
    rest = []
    for name, p in model.named_parameters():
        if name.endswith("attn.c_attn.weight"):
            qkv.append(p)
        elif name.startswith("h.") and p.ndim == 2:          # not the vectors of distances
            matrices.append(p)
        else:
            rest.append(p)

    groups = [{"params": matrices},
              {"params": qkv, "n_matrices": 3}]         # q, k and v in one: Muon takes them apart
    muon = Muon(groups, lr, cfg.momentum, cfg.weight_decay)
    return [muon, make_adamw(rest, cfg.rest_lr, cfg)]


def make_adamw(parameters: list, lr: float, cfg):
    """AdamW (Loshchilov & Hutter 2019); biases and norms, of one dimension, do not decay."""
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr, betas=(0.9, cfg.beta2))


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak."""
    if step < cfg.warmup:                                           # it rises
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)         # 0 -> 1
    if progress < cfg.stable_frac:                                  # it stays
        return 1.0
    return 1 - (progress - cfg.stable_frac) / (1 - cfg.stable_frac)         # it falls to 0


def set_learning_rate(optimizers: list, factor: float):
    """Set every learning rate to this fraction of its peak, which is the one it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * optimizer.defaults["lr"]


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    if cfg.resume:
        cfg, checkpoint = own_checkpoint(cfg, "music")
    device = pick_device(cfg.device)
    check_primer(cfg.primer, cfg.primer_seconds)

    # the music as token numbers, (N,): one piece after the other, each begun by PIECE
    train_pieces, val_pieces, beat = read_corpus(cfg.data, cfg.pieces)      # beat: in seconds
    val_pieces = val_pieces[:n_to_score(cfg, len(val_pieces), "held-out pieces")]
    train_tokens = to_tokens(train_pieces, device)
    val_tokens = to_tokens(val_pieces, device)                  # held out, read as one document
    check_length(train_tokens, cfg.block_size)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches

    # the model: resumed, or new
    torch.manual_seed(cfg.seed)                                 # for initial weights and dropout
    if cfg.resume:
        model, beat = from_checkpoint(checkpoint, cfg)
    else:
        model = MusicTransformer(cfg)
    model = model.to(device)

    # optimisers
    optimizers = make_optimizers(model, cfg)
    if cfg.resume:                                              # their averages, all random states
        restore(checkpoint, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    columns = ["loss", "lr", "val_loss"]
    run = Run(cfg, "music", model, columns, checkpoint if cfg.resume else None)
    with run:
        V = model.wte.num_embeddings
        run.say(f"{len(train_tokens):,} events to learn from, {len(val_tokens):,} held out")
        run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, lr_factor(step, cfg))

            # batch
            x, y = get_batch(train_tokens, cfg.block_size, cfg.batch_size, data_rng, cfg.transpose,
                             cfg.from_beginning)

            # loss and backward; products are in bfloat16, if that is faster on this device, while
            # the weights stay in float32
            with autocast(device, cfg.matmul):
                loss = next_token_loss(net(x), y)
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            loss.backward()

            # step
            if cfg.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                val_loss = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    val_loss = estimate_loss(model, [val_tokens])
                    run.check_finite(done, val_loss=val_loss)

                if val_loss is not None or run.due(done, cfg.log_every):
                    lr = optimizers[0].param_groups[0]["lr"]    # the one that trains the blocks
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)

                if run.due(done, cfg.sample_every):
                    path = run.folder / "samples" / f"step_{done:06d}"
                    save_piece(path, write(model)[0], beat)     # .mid, and .png, a piano roll

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if val_loss is not None or stopping:
                    # checkpoint.pt: settings, weights, optimisers, random states, beat
                    run.save(done, model, optimizers, data_rng, beat=beat)

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        if run.first >= cfg.steps:                              # resumed, but no step was left
            val_loss = estimate_loss(model, [val_tokens])

        # scores, each beside its baseline: the loss beside those of counting, what it writes beside
        # pieces that were held out
        run.say(f"scoring {cfg.num_samples} pieces beside {len(val_pieces):,} held-out ones …")
        scores = {"val_loss": val_loss}
        scores.update(loss_baselines(train_tokens, val_tokens, V))
        scores["samples"] = music_scores(write(model), beat)
        scores["corpus"] = music_scores(val_pieces, beat)
        run.say(music_report(**scores))
        return run.finish(n=len(val_pieces), **scores)          # result.json


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, seconds per beat) of a checkpoint.

    A checkpoint is a dict: "model" (weights by name), "beat", "config", and for a run to go on
    "step", "optimizers" (the averages that they keep) and "rng" (the states of all random numbers).
    """
    model = MusicTransformer(cfg)
    model.load_state_dict(checkpoint["model"])
    return model, checkpoint["beat"]


def load(cfg):
    """(model, seconds per beat) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "music")
    model, beat = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), beat


def write(model) -> list:
    """num_samples pieces by the settings in model.cfg, the same at every call: each is a list of
    notes, with those of the primer. A piece ends where the model begins the next one."""
    cfg = model.cfg
    ids = read_primer(cfg.primer, cfg.primer_seconds)           # at least PIECE, which begins each
    idx = torch.tensor([ids] * cfg.num_samples, device=model.device)        # (B, T)
    rng = torch.Generator().manual_seed(cfg.seed)
    progress = Progress("events written:", cfg.max_new_tokens)
    if cfg.cache:
        model = CachedMusicTransformer(model)                   # the same events: see the appendix
    idx = generate(model, idx, cfg.max_new_tokens, temperature=cfg.temperature, top_k=cfg.top_k,
                   top_p=cfg.top_p, generator=rng, on_token=lambda _: progress.add())
    return [midi.decode(row) for row in idx.tolist()]


def sample(cfg: Config) -> list:
    """Write pieces into out_dir, and print how well they keep to a key and a metre."""
    model, beat = load(cfg)
    cfg = model.cfg
    with fast_vectors(model):                                   # on a CPU, if it is one piece
        pieces = write(model)
    suffixes = ".mid, .png, .wav" if cfg.wav else ".mid, .png"
    for i, notes in enumerate(pieces, start=1):
        path = Path(cfg.out_dir) / f"sample_{i}"
        save_piece(path, notes, beat, cfg.wav)
        seconds = max((note.end for note in notes), default=0.0)
        print(f"{path}{suffixes}: {len(notes)} notes, {seconds:.1f} s")
    print(music_report(samples=music_scores(pieces, beat)))
    return pieces


def evaluate(cfg: Config) -> dict:
    """What the model does with what came before: see mini/studies/music.py."""
    from mini.studies import music as study  # only this command needs it
    model, beat = load(cfg)
    return study.evaluate(model, beat)


# ---- appendix: the same events, faster

def draw(probs, generator=None):
    """Draw one token (B,) for each row of probabilities (B, V), as torch.multinomial does.

    A random number between 0 and 1 falls between two of the sums of the probabilities so far: that
    token is drawn. torch.multinomial draws a random number for each token, and takes seven times as
    long at GPT-2's 50,257 tokens.
    """
    sums = probs.double().cumsum(dim=-1)                        # (B, V); the last sum is nearly 1
    require(sums[:, -1].isfinite().all(),                       # else one of them is not finite
            "probabilities are not finite: training went wrong; lower --lr")
    u = torch.rand(len(probs), 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
    return torch.searchsorted(sums, u, right=True).squeeze(1)   # (B, 1) -> (B,)


# The mask hides from an event all that comes after it. So its keys and values never change, and can
# be kept. For each new event the model then has to read this event alone, not the whole piece.
# Nothing depends on where the piece began, so the oldest keys can go as new ones come.

class CachedAttention:
    """Attention that keeps the keys and values of the last events that it has read."""

    def __init__(self, attn):
        self.attn = attn
        self.n = 0                                              # events read
        self.k = None
        self.v = None

    def __call__(self, x):
        """(B, T, C) -> (B, T, C) for T new events."""
        T = x.size(1)
        q, k, v = self.attn.qkv(x, start=self.n)                # of the new events
        if self.n > 0:
            k = torch.cat([self.k, k], dim=2)                   # (B, nh, S, hs)
            v = torch.cat([self.v, v], dim=2)
        self.n += T

        window = self.attn.window
        self.k = k[:, :, -(window - 1):]                        # what the next event will see,
        self.v = v[:, :, -(window - 1):]                        # besides itself
        mask = causal_mask(T, window, x.device, before=k.size(2) - T)
        return self.attn.attend(q, k, v, mask)


class CachedMusicTransformer(nn.Module):
    """A model for `generate`: cached(idx) is model(idx)[:, -1:], but it reads each event only once.

    Between two calls, events may be added to idx. If idx is no longer than before, it is taken for
    a new piece.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.cfg = model.cfg
        self.n = 0                                              # events read
        self.train(model.training)                              # in the mode of the model

    def forward(self, idx):
        """Logits (B, 1, V) of the event after idx (B, T)."""
        if self.n == 0 or idx.size(1) <= self.n:
            self.n = 0
            self.attns = [CachedAttention(block.attn) for block in self.model.h]

        new = idx[:, self.n:]
        x = self.model.embed(new, start=self.n)
        for block, attn in zip(self.model.h, self.attns):
            x = block(x, attn)
        self.n = idx.size(1)
        return self.model.lm_head(self.model.ln_f(x[:, -1:]))


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd, "
                                      "--pieces or --num_samples")


if __name__ == "__main__":
    main()
