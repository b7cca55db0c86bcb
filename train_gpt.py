"""GPT-2: a Transformer decoder that learns to write by predicting the next token.

A token is a character or a piece of a word. By the chain rule p(x₁ … x_T) = Πₜ p(xₜ | x₁ … xₜ₋₁),
so a model of the next token is a model of whole texts. One pass predicts the next token at every
position at once: a mask hides from each position what comes after it. Of a piece of T + 1 tokens
the first is given, and T are to be predicted. Its loss is the mean over them, in nats (natural
logarithms); that of a batch is the mean over its pieces:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)

A model that knows nothing gives each of V tokens the probability 1/V. Its loss is ln V.

Shapes: B texts of T tokens in a batch, C the width, nh heads of size hs = C / nh, V tokens to
choose from.

Papers: Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762, and
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2). What GPT-2
changes in the decoder of Vaswani et al.: there is no encoder to look at; each branch reads a
normalised copy of its input (pre-norm), and so does the last layer; positions are learnt vectors,
not sines, and embeddings are not multiplied by √C; GELU, not ReLU.

Our departures: a small model without dropout by default; the weight matrices of the blocks are
trained by Muon (Jordan et al. 2024), which needs fewer steps than AdamW (--optimizer=adamw); the
learning rate stays at its peak for a while, then falls in a line to 0. Each piece of text that is
learnt from begins where a document does, as in nanochat, unless the documents are long.

    python train_gpt.py                                 learn to write small stories
    python train_gpt.py --preset=tales --data=my_novel.txt              learn from your own text
    python train_gpt.py --resume                        go on where it was stopped
    python train_gpt.py sample --prompt="About Pia, her friend Ivan, a red lamp"
    python train_gpt.py evaluate                        the loss by the number of tokens read before
    python train_gpt.py --init_from=gpt2/model.safetensors --preset=finetune --data=my_novel.txt

Measured times and scores: README.md. Read next: mini/translator.py.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# texts and tokenizers, published weights, the command line, devices, the optimiser Muon, scores,
# the folder of a run: this file can be followed without reading them
from mini.data.text.corpus import check_length, encode, make_tokenizer, piece_starts, read_corpus
from mini.data.text.story_scores import story_report, story_scores, with_reading
from mini.data.text.tokenizers import load_tokenizer
from mini.data.weights import read_gpt
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, data_parallel, my_share, pick_device, start_processes
from mini.utils.metrics import KneserNey, text_report, text_scores
from mini.utils.optim import Muon
from mini.utils.run import Run, own_checkpoint, restore
from mini.utils.text import check_prompt, print_copying, print_texts

# ---- attention

def attention(q, k, v, mask, dropout=None):
    """softmax(q kᵀ / √hs) v, where each query looks only at the keys that the mask allows.

    q, k, v: (B, nh, T, hs); mask: (T, T), True where a query (row) may look at a key (column).
    Returns (B, nh, T, hs). (Vaswani et al., eq. 1, where hs is d_k. Without the division by √hs the
    scores would be larger the larger hs is, and a softmax of large scores has hardly any gradient.)
    """
    hs = q.size(-1)
    scores = (q / math.sqrt(hs)) @ k.transpose(-2, -1)      # (B, nh, T, hs) -> (B, nh, T, T)
    scores = scores.masked_fill(~mask, -math.inf)           # e^−∞ = 0: no weight
    weights = F.softmax(scores, dim=-1)                     # each row sums to 1
    if dropout is not None:
        weights = dropout(weights)
    return weights @ v                                      # (B, nh, T, T) -> (B, nh, T, hs)


def causal_mask(T: int, device=None, before: int = 0):
    """(T, T): True on the diagonal and below it. A token looks at itself and at earlier tokens.

    If the keys of more tokens come before those of the T queries (only in the appendix, below), it
    is (T, before + T), and all of them may be looked at.
    """
    mask = torch.ones(T, before + T, dtype=torch.bool, device=device)
    return mask.tril(diagonal=before)


def fused_attention(q, k, v, mask, dropout=None):
    """The same by one kernel of torch's, which never stores the weights: faster on a GPU."""
    p = dropout.p if dropout is not None and dropout.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)


class CausalSelfAttention(nn.Module):
    """Attention in n_head heads, each with queries, keys and values of its own.

    cfg is the Config below; n_embd is C. c_attn, c_proj and c_fc are named as in the published
    GPT-2.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.attention = fused_attention if cfg.fused else attention
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.attn_dropout = nn.Dropout(cfg.dropout)             # on the attention weights
        self.resid_dropout = nn.Dropout(cfg.dropout)            # on what the block adds to x

    def forward(self, x):                                       # (B, T, C) -> (B, T, C)
        q, k, v = self.qkv(x)
        mask = causal_mask(x.size(1), x.device)
        return self.attend(q, k, v, mask)

    def qkv(self, x, start: int = 0):
        """Queries, keys and values, (B, nh, T, hs) each, of x (B, T, C).

        start is the position of the first token. It is not needed here, but rotary positions would
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
        y = self.attention(q, k, v, mask, self.attn_dropout)    # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))


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
        self.attn = CausalSelfAttention(cfg)
        self.ln_2 = Norm(cfg.n_embd)
        self.mlp = MLP(cfg)

    def forward(self, x, attn=None):
        """(B, T, C) -> (B, T, C). attn replaces the block's own attention (see the appendix)."""
        if attn is None:
            attn = self.attn
        x = x + attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """The whole network. Its parameters have the names of the published GPT-2 weights."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)         # a vector for each token
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)     # a vector for each position, learnt
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.ln_f = Norm(cfg.n_embd)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight                   # tied: one matrix for both
        self.init_weights()

    def init_weights(self):
        """Matrices and embeddings are drawn from N(0, 0.02²), biases are 0.

        2 n_layer branches add up in x, and so do their variances. So the last matrix of each branch
        is drawn smaller, by 1/√(2 n_layer): x then is about as large for any n_layer (GPT-2, §2.3).
        """
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.cfg.n_layer))
            elif p.ndim >= 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx):
        """Logits (B, T, V) of the token after each of the tokens idx (B, T), T ≤ block_size."""
        return self.lm_head(self.hidden(idx))

    def hidden(self, idx):
        """The vectors (B, T, C) from which the head predicts, for tokens idx (B, T)."""
        x = self.embed(idx, start=0)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def embed(self, idx, start: int):
        """Vectors (B, T, C) of tokens idx (B, T) at the positions start, start + 1, …"""
        positions = torch.arange(start, start + idx.size(1), device=idx.device)
        x = self.wte(idx) + self.wpe(positions)                 # (B, T, C) + (T, C)
        return self.dropout(x)

    @property
    def device(self):
        return self.wte.weight.device


# ---- batches and the loss

def get_batch(tokens, block_size: int, batch_size: int, generator, starts=None):
    """Random pieces of the text, x (B, T), and the same pieces one token later, y (B, T).

    starts (1-D) says where a piece may begin, if not anywhere. A piece that begins where a document
    does has read all that its later tokens refer to; after its end comes the next document.
    """
    if starts is None:
        starts = torch.arange(len(tokens) - block_size)
    start = starts[torch.randint(len(starts), (batch_size,), generator=generator)]
    positions = start[:, None] + torch.arange(block_size + 1)   # (B, 1) + (T + 1,) -> (B, T + 1)
    pieces = tokens[positions.to(tokens.device)]                # (B, T + 1)
    x = pieces[:, :-1]
    y = pieces[:, 1:]                                           # y[b, t] follows x[b, t]
    return x, y


IGNORED = -100      # as a target: not to be predicted, only there to fill up a row


def next_token_loss(logits, y, reduction: str = "mean"):
    """−log p(y) in nats, for logits (B, T, V) and the tokens y (B, T) that are to be predicted."""
    logits = logits.flatten(0, 1)                               # (B, T, V) -> (B·T, V)
    return F.cross_entropy(logits, y.flatten(), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def estimate_loss(model, documents: list, windows_at_once: int = 64) -> float:
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
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        total += next_token_loss(model(x_i), y_i, reduction="sum").item()
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
    """Continue the tokens idx (B, T): returns (B, T + max_new_tokens).

    A full context forgets its older half (the appendix says why). If given, on_token is called with
    each new token (B,) as soon as it is drawn, to print it.
    """
    was_training = model.training
    model.eval()
    start = 0                                                   # the context is idx[:, start:]

    for _ in range(max_new_tokens):
        if idx.size(1) - start > model.cfg.block_size:
            start = idx.size(1) - model.cfg.block_size // 2
        logits = model(idx[:, start:])[:, -1]                   # (B, T, V) -> (B, V)
        token = sample_token(logits, temperature, top_k, top_p, generator).to(idx.device)
        idx = torch.cat([idx, token[:, None]], dim=1)           # (B, T) -> (B, T + 1)
        if on_token:
            on_token(token)

    model.train(was_training)
    return idx


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), sample_every 500, log_every
    50, seed 1, device auto, matmul medium (how exact products are), compile false, resume false,
    stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "stories"       # stories, all-stories, tales, shakespeare, or your file or folder
    tokenizer: str = "bpe"      # char, bpe (trained on the data), or a folder with GPT-2's files
    vocab_size: int = 3072      # V, if the tokenizer is bpe; others bring their own

    # model
    block_size: int = 248       # T, the context, in tokens: the longest story fits in it
    n_layer: int = 2            # blocks
    n_head: int = 4             # attention heads in each block
    n_embd: int = 192           # C, the width
    dropout: float = 0.0        # of embeddings, attention weights, and what blocks add to x

    # optimisation
    steps: int = 1500           # optimiser steps
    batch_size: int = 16        # sequences in a step, over all processes
    grad_accum: int = 1         # divide the batch into so many parts: same gradient, less memory
    # what trains the weight matrices of the blocks; AdamW trains the rest, or everything
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 0.0             # its peak learning rate (0: its own, in PEAK_LR below)
    rest_lr: float = 0.025      # with muon: AdamW's peak learning rate
    warmup: int = 3             # steps in which the learning rate rises to its peak
    stable_frac: float = 0.4    # then it stays there for this fraction of the rest, and falls to 0
    momentum: float = 0.85      # of Muon: the weight of old gradients in their moving average
    beta2: float = 0.99         # of AdamW: the weight of old squared gradients in their average
    weight_decay: float = 0.0   # of matrices and embeddings
    grad_clip: float = 1.0      # a longer gradient is scaled down to this norm (0: never)

    # run
    out_dir: str = "runs/gpt"   # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    init_from: str = ""         # begin with these weights: a checkpoint.pt or model.safetensors
    fused: bool = False         # torch's fused kernels for attention and for AdamW

    # sampling
    prompt: str = ""            # text to continue
    max_new_tokens: int = 246   # tokens to write
    num_samples: int = 1        # texts to write
    temperature: float = 0.8    # 0: always the likeliest token; 1: the model's probabilities
    top_k: int = 0              # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0          # draw from the fewest tokens that together have this probability
    cache: bool = True          # keep past keys and values: the same text, faster

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("tokenizer", "vocab_size", "block_size", "n_layer", "n_head", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # little text, such as our tales or one novel: dropout and weight decay against learning it by
    # heart
    "tales": dict(data="tales", vocab_size=1024, block_size=64, n_layer=4, batch_size=32, lr=0.04,
                  rest_lr=0.01, dropout=0.2, weight_decay=0.3, steps=700, max_new_tokens=250),
    # 10.8M parameters that learn characters of --data=shakespeare: one GPU, minutes
    "gpu": dict(tokenizer="char", n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                steps=2000, lr=0.02, rest_lr=0.003, dropout=0.2, fused=True, max_new_tokens=1000),
    # the smallest GPT-2's sizes, from scratch, on much text of your own (--data): one GPU, hours
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=32, grad_accum=4,
                 steps=5000, vocab_size=16384, dropout=0.1, lr=0.02, rest_lr=0.003, fused=True),
    # a small model of the characters of --data=shakespeare, on a CPU, as soon as possible
    "speedrun": dict(tokenizer="char", n_layer=4, n_embd=128, block_size=64, batch_size=32, lr=0.04,
                     rest_lr=0.01, steps=180),
    # go on from --init_from in small steps: published weights know most of it already
    "finetune": dict(optimizer="adamw", lr=5e-5, stable_frac=0.0, steps=100, batch_size=4,
                     block_size=256, dropout=0.1, eval_every=50, sample_every=50, log_every=5),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require(cfg.block_size >= 2, f"--block_size={cfg.block_size} must be at least 2")
    require_positive(cfg, "n_layer", "n_head", "n_embd", "batch_size", "grad_accum")
    require_positive(cfg, "max_new_tokens", "num_samples", "top_p")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(0 <= cfg.dropout < 1, f"--dropout={cfg.dropout} must be from 0 to below 1")
    require(0 <= cfg.stable_frac < 1, f"--stable_frac={cfg.stable_frac} must be from 0 to below 1")
    require(cfg.temperature >= 0, f"--temperature={cfg.temperature} must not be negative")
    require(cfg.top_k >= 0, f"--top_k={cfg.top_k} must not be negative")


# ---- optimisers and the learning rate

PEAK_LR = {"muon": 0.025, "adamw": 0.001}


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
        elif name.startswith("h.") and p.ndim >= 2:
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
    return torch.optim.AdamW(groups, lr, betas=(0.9, cfg.beta2), fused=cfg.fused)


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

def train(cfg: Config, corpus=None) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used.

    corpus: the text in parts, in place of that which --data names.
    """
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    if cfg.resume:
        cfg, checkpoint = own_checkpoint(cfg, "gpt")
    elif cfg.init_from:                                         # weights bring their sizes
        cfg, pretrained = read_gpt(cfg, longest_context=cfg.block_size)
    device = pick_device(cfg.device)
    rank, n_processes = start_processes(device)                 # 0 and 1 without torchrun
    require(cfg.batch_size % (cfg.grad_accum * n_processes) == 0,
            f"--batch_size={cfg.batch_size} must be a multiple of --grad_accum={cfg.grad_accum} "
            f"times {n_processes} process(es)")

    # the model and its tokenizer: resumed, published, or new
    corpus = corpus or read_corpus(cfg.data)                    # in parts: train, val, perhaps test
    torch.manual_seed(cfg.seed)                                 # for the initial weights
    if cfg.resume:
        model, tokenizer = from_checkpoint(checkpoint, cfg)
    elif cfg.init_from:
        model, tokenizer = from_checkpoint(pretrained, cfg)
    else:
        tokenizer = make_tokenizer(cfg.tokenizer, corpus, cfg.vocab_size)
        model = GPT(cfg, tokenizer.vocab_size)
    model = model.to(device)
    check_prompt(cfg.prompt, tokenizer, cfg.block_size)

    # the texts as token numbers: a list of documents, (n,) each. A story is one document, and your
    # own text is one, too. Each of ours begins with the token that also begins what is sampled
    train_docs = encode(tokenizer, corpus.train, device)
    val_docs = encode(tokenizer, corpus.val, device)            # held out
    check_length(train_docs, val_docs, cfg.block_size)
    train_tokens = torch.cat(train_docs)                        # (N,), one after the other
    starts = piece_starts(train_docs, cfg.block_size)           # beginnings of documents; of long
                                                                # ones every position
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches

    # optimisers
    optimizers = make_optimizers(model, cfg)
    torch.manual_seed(cfg.seed + rank)                          # for dropout
    if cfg.resume:                                              # their averages, all random states
        restore(checkpoint, optimizers, data_rng)

    # net is the model as training calls it: as it is, compiled, or one copy of several
    net = torch.compile(model) if cfg.compile else model
    net = data_parallel(net)

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    columns = ["loss", "lr", "val_loss"]
    with Run(cfg, "gpt", model, columns, checkpoint if cfg.resume else None, rank) as run:
        V = model.wte.num_embeddings
        run.say(f"{len(train_tokens):,} tokens to learn from, "
                f"{sum(map(len, val_docs)):,} held out")
        run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, lr_factor(step, cfg))

            # batch
            x, y = get_batch(train_tokens, cfg.block_size, cfg.batch_size, data_rng, starts)
            x, y = my_share(x, y)                               # all of it, if there is one process

            # loss and backward, in grad_accum equal parts, whose gradients add up; products are in
            # bfloat16, if that is faster on this device, while the weights stay in float32
            loss = 0.0
            for x_i, y_i in zip(x.chunk(cfg.grad_accum), y.chunk(cfg.grad_accum)):
                with autocast(device, cfg.matmul):
                    loss_i = next_token_loss(net(x_i), y_i) / cfg.grad_accum
                loss_i.backward()
                loss += loss_i.item()
            run.check_finite(step, loss=loss)                   # NaN stops here, weights still good

            # step
            if cfg.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            with autocast(device, cfg.matmul):                  # Muon's products of matrices, too
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                val_loss = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    val_loss = estimate_loss(model, val_docs)
                    run.check_finite(done, val_loss=val_loss)

                if val_loss is not None or run.due(done, cfg.log_every):
                    lr = optimizers[0].param_groups[0]["lr"]    # the one that trains the blocks
                    run.log(done, loss=loss, lr=lr, val_loss=val_loss)

                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", write(model, tokenizer)[0])

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if val_loss is not None or stopping:
                    # checkpoint.pt: settings, weights, optimisers, random states, tokenizer
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state())

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        if run.first >= cfg.steps:                              # resumed, but no step was left
            val_loss = estimate_loss(model, val_docs)

        # what it writes: of stories enough to count how many hold together
        texts = write(model, tokenizer, n=256 if corpus.stories else 0)
        shown = [with_reading(text) for text in texts[:2]] if corpus.stories else texts[:1]
        run.say("\n" + "\n\n".join(shown) + "\n")

        # scores, each beside its baseline: the loss beside that of Kneser–Ney, which predicts a
        # token from the four before it by counting; copying beside that of text nobody copied
        baseline = KneserNey(train_tokens, V)
        scores = text_scores(val_loss, val_docs, V, baseline, corpus,
                             sample=texts[0][len(cfg.prompt):])
        if corpus.test:                                         # it was used for nothing else
            test_docs = encode(tokenizer, corpus.test, device)
            scores["test_loss"] = estimate_loss(model, test_docs)
            scores["test_kneser_ney"] = baseline.loss(test_docs)
        run.say(text_report(scores))
        if corpus.stories:
            scores.update(story_scores(texts, corpus, baseline, tokenizer, cfg.temperature))
            run.say(story_report(scores))
        return run.finish(**scores)                             # result.json


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, tokenizer) of a checkpoint.

    A checkpoint is a dict: "model" (weights by name), "tokenizer", "config", and for a run to go on
    "step", "optimizers" (the averages that they keep) and "rng" (the states of all random numbers).
    """
    tokenizer = load_tokenizer(checkpoint["tokenizer"])
    model = GPT(cfg, tokenizer.vocab_size)
    model.load_state_dict(checkpoint["model"])
    return model, tokenizer


def load(cfg):
    """(model, tokenizer) of --init_from if it is given, else as trained in --out_dir."""
    if cfg.init_from:
        cfg, checkpoint = read_gpt(cfg)
    else:
        cfg, checkpoint = own_checkpoint(cfg, "gpt")
    model, tokenizer = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), tokenizer


def write(model, tokenizer, on_token=None, n: int = 0) -> list:
    """n texts (0: num_samples) that continue --prompt, by the settings in model.cfg: the same at
    every call. After the end of a story, the next one begins."""
    cfg = model.cfg
    ids = tokenizer.encode(tokenizer.start + cfg.prompt)        # start: a token that begins texts
    idx = torch.tensor([ids] * (n or cfg.num_samples), device=model.device)     # (B, T)
    rng = torch.Generator().manual_seed(cfg.seed)
    if cfg.cache:
        model = CachedGPT(model)                                # the same tokens: see the appendix
    idx = generate(model, idx, cfg.max_new_tokens, temperature=cfg.temperature, top_k=cfg.top_k,
                   top_p=cfg.top_p, generator=rng, on_token=on_token)
    new = idx[:, len(ids):].tolist()
    return [cfg.prompt + tokenizer.decode(row) for row in new]


def sample(cfg: Config) -> list:
    """Print texts that continue --prompt, and how much of them is copied from the training text."""
    model, tokenizer = load(cfg)
    texts = print_texts(write, model, tokenizer)
    if not cfg.init_from:
        print_copying(texts, model.cfg.prompt, model.cfg.data)
    return texts


def evaluate(cfg: Config) -> dict:
    """The held-out loss by what is read before: see mini/studies/context.py."""
    from mini.studies import context  # only this command needs it
    model, tokenizer = load(cfg)
    return context.evaluate(model, tokenizer)


# ---- appendix: the same tokens, faster

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


# The mask hides from a token all that comes after it. So its keys and values never change, and can
# be kept. For each new token the model then has to read this token alone, not the whole context.
# (This is why `generate` forgets half of a full context at once: after that every token has another
# position, and all keys and values must be computed anew.)

class CachedAttention:
    """Attention that keeps the keys and values of the n tokens that it has read."""

    def __init__(self, attn, block_size: int):
        self.attn = attn
        self.block_size = block_size
        self.n = 0

    def __call__(self, x):
        """(B, T, C) -> (B, T, C) for T new tokens, which look at all n + T tokens."""
        q, k, v = self.attn.qkv(x, start=self.n)                # of the new tokens
        B, nh, T, hs = k.shape
        if self.n == 0:
            self.k = k.new_empty(B, nh, self.block_size, hs)
            self.v = k.new_empty(B, nh, self.block_size, hs)
        end = self.n + T
        self.k[:, :, self.n:end] = k
        self.v[:, :, self.n:end] = v

        mask = causal_mask(T, x.device, before=self.n)          # (T, n + T)
        self.n = end
        return self.attn.attend(q, self.k[:, :, :end], self.v[:, :, :end], mask)


class CachedGPT(nn.Module):
    """A GPT for `generate`: cached(idx) is model(idx)[:, -1:], but it reads each token only once.

    Between two calls, tokens may be added to idx. If idx is no longer than before, it is taken for
    a new text.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.cfg = model.cfg
        self.n = 0                                              # tokens read
        self.train(model.training)                              # in the mode of the model

    def forward(self, idx):
        """Logits (B, 1, V) of the token after idx (B, T)."""
        if self.n == 0 or idx.size(1) <= self.n:
            self.n = 0
            T = self.cfg.block_size
            self.attns = [CachedAttention(block.attn, T) for block in self.model.h]

        new = idx[:, self.n:]
        x = self.model.embed(new, start=self.n)
        for block, attn in zip(self.model.h, self.attns):
            x = block(x, attn)
        self.n = idx.size(1)
        return self.model.lm_head(self.model.ln_f(x[:, -1:]))


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, parallel=True,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd or "
                                      "--num_samples, or raise --grad_accum")


if __name__ == "__main__":
    main()
