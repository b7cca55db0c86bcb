"""Llama: GPT-2 as it is built today, and published weights of this kind that answer questions.

It predicts the next token, and its loss in nats is that of train_gpt.py:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)

Five things in the decoder have changed since GPT-2. Each has a section below, and a flag that puts
GPT-2's back:

    1. positions: q and k are rotated; no vector is added to x      --positions=learned
    2. grouped-query attention: fewer heads for k and v than for q  --n_kv_head=4 (as --n_head)
    3. norms divide by a root mean square, and subtract no mean     --norm=layer
    4. the MLP multiplies two projections (SwiGLU)                  --mlp=gelu
    5. linear layers have no biases, nor have norms                 --bias

All five at once: --preset=gpt2. All else is GPT-2's: git diff --no-index train_gpt.py
mini/llama.py.

Shapes: B texts of T tokens in a batch, C the width, nh heads of size hs for queries, nkv heads of
the same size for keys and values, V tokens to choose from.

Papers: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models",
https://arxiv.org/abs/2302.13971 (1, 3, 4; 5 is in its code), and Touvron et al. 2023, "Llama 2:
Open Foundation and Fine-Tuned Chat Models", https://arxiv.org/abs/2307.09288 (2). Qwen 2 and 2.5
add biases to q, k and v, Qwen 3 has norms of q and k in their place; published weights of them
switch these on by themselves.

Our departures: those of train_gpt.py (a small model without dropout, trained by Muon, with another
schedule of the learning rate); and the head is tied to the embedding, as in the smallest published
models, Llama 3.2 1B among them (in larger ones the head has a matrix of its own: --tied=false).

    python -m mini.llama                                learn to write small stories
    python -m mini.llama sample --prompt="About Pia, her friend Ivan, a red lamp"
    python -m mini.llama sample --compile               the same, faster after a minute of compiling
    python -m mini.llama evaluate                       what does each of the five changes buy?
    python -m mini.llama chat --init_from=SmolLM2-135M-Instruct --max_new_tokens=200
    python -m mini.llama --init_from=SmolLM2-135M-Instruct --chats=mine.tsv --preset=lora

Measured times and scores: README.md. Read before: train_gpt.py, mini/finetune.py. Read next:
mini/music.py.
"""
import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# texts and tokenizers, chats, published weights, the command line, devices, the optimiser Muon,
# scores, the folder of a run: this file can be followed without reading them
from mini.data.llama_weights import read_llama, scaled_frequencies
from mini.data.text.chat import chat_rows, fit_chat, read_chats, stop_tokens
from mini.data.text.corpus import check_length, encode, make_tokenizer, piece_starts, read_corpus
from mini.data.text.story_scores import story_report, story_scores, with_reading
from mini.data.text.tokenizers import load_tokenizer
from mini.utils.chat import chat_lines
from mini.utils.config import RunConfig, UserError, command_line, require, require_positive
from mini.utils.device import autocast, data_parallel, my_share, pick_device, start_processes
from mini.utils.fast_vectors import fast_vectors
from mini.utils.metrics import KneserNey, text_report, text_scores
from mini.utils.optim import Muon
from mini.utils.run import Run, own_checkpoint, restore
from mini.utils.text import check_prompt, print_copying, print_texts, printer

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


# ---- 1. positions are rotations (RoPE: Su et al. 2021, https://arxiv.org/abs/2104.09864)
#
# GPT-2 adds a learnt vector for each position to x: it has to learn each position by itself, and
# has none after the last one it was trained on. RoPE leaves x alone. It turns q and k, two numbers
# at a time, by an angle that grows with the position, R_m for position m. In attention only the
# difference of two positions is left (eq. 16):
#
#     (R_m q)ᵀ (R_n k) = qᵀ R_mᵀ R_n k = qᵀ R_{n−m} k
#
# so that "the word before" looks the same at every place. (Distances longer than those of training
# remain unknown to the network. For longer contexts, published models slow the rotations down.)

def rotate(x, cos, sin):
    """x (…, T, hs) with each pair of numbers turned by an angle, given by cos and sin (T, hs/2).

    A pair are the numbers i and i + hs/2, as in the published weights that transformers reads.
    (Meta's own files, and eq. 34, pair 2i with 2i + 1: the same network, with rows of W_q and W_k
    in another order.)
    """
    a, b = x.chunk(2, dim=-1)                                   # (…, T, hs) -> 2 × (…, T, hs/2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Rotary(nn.Module):
    """Rotates queries and keys by their positions. It has no weights."""

    def __init__(self, cfg):
        super().__init__()
        hs = head_size(cfg)
        exponents = torch.arange(0, hs, 2) / hs                 # 0, 2/hs, …, below 1
        frequencies = 1 / cfg.rope_theta ** exponents           # (hs/2,): 1, …, about 1/θ
        # slower for longer contexts, if published weights say so: else as they are, and scale 1
        frequencies, scale = scaled_frequencies(frequencies, cfg.rope_scaling)
        positions = torch.arange(cfg.block_size)
        angles = positions[:, None] * frequencies               # (T, 1) · (hs/2,) -> (T, hs/2)
        self.register_buffer("cos", scale * angles.cos(), persistent=False)
        self.register_buffer("sin", scale * angles.sin(), persistent=False)

    def forward(self, x, start: int):
        """x (B, nh, T, hs), rotated as is right for the positions start, start + 1, …"""
        end = start + x.size(-2)
        return rotate(x, self.cos[start:end], self.sin[start:end]).type_as(x)


def head_size(cfg) -> int:
    return cfg.head_size or cfg.n_embd // cfg.n_head


# ---- 2. grouped-query attention (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245)
#
# While a model writes, it keeps the keys and values of all tokens so far, and reads them again for
# each new token. So a group of heads shares them: of Llama 3.2 1B's 32 query heads, each 4 share
# one head of keys and values, and what is kept is a quarter as large. (The first Llama did without,
# and so did the smaller models of Llama 2.)

class CausalSelfAttention(nn.Module):
    """Attention in n_head heads, each with queries of its own; each head of keys and values serves
    a group of n_head / n_kv_head of them.

    cfg is the Config below; n_embd is C. q, k and v have different sizes now, so each has a matrix
    of its own.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.n_kv_head = cfg.n_kv_head
        self.attention = fused_attention if cfg.fused else attention
        hs = head_size(cfg)
        qkv_bias = cfg.bias or cfg.qkv_bias
        self.c_q = nn.Linear(cfg.n_embd, cfg.n_head * hs, bias=qkv_bias)
        self.c_k = nn.Linear(cfg.n_embd, cfg.n_kv_head * hs, bias=qkv_bias)
        self.c_v = nn.Linear(cfg.n_embd, cfg.n_kv_head * hs, bias=qkv_bias)
        self.c_proj = nn.Linear(cfg.n_head * hs, cfg.n_embd, bias=cfg.bias)
        self.q_norm = make_norm(cfg, hs) if cfg.qk_norm else None       # of Qwen 3
        self.k_norm = make_norm(cfg, hs) if cfg.qk_norm else None
        self.rotary = Rotary(cfg) if cfg.positions == "rotary" else None
        self.attn_dropout = nn.Dropout(cfg.dropout)             # on the attention weights
        self.resid_dropout = nn.Dropout(cfg.dropout)            # on what the block adds to x

    def forward(self, x):                                       # (B, T, C) -> (B, T, C)
        q, k, v = self.qkv(x)
        mask = causal_mask(x.size(1), x.device)
        return self.attend(q, k, v, mask)

    def qkv(self, x, start: int = 0):
        """Queries (B, nh, T, hs), keys and values (B, nkv, T, hs) of x (B, T, C), whose first token
        is at the position start."""
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, -1).transpose(1, 2)     # -> (B, nh, T, hs)
        k = self.c_k(x).view(B, T, self.n_kv_head, -1).transpose(1, 2)  # -> (B, nkv, T, hs)
        v = self.c_v(x).view(B, T, self.n_kv_head, -1).transpose(1, 2)
        if self.q_norm is not None:
            q = self.q_norm(q)
            k = self.k_norm(k)
        if self.rotary is not None:                             # v is not rotated: it is what a
            q = self.rotary(q, start)                           # token says, not where it stands
            k = self.rotary(k, start)
        return q, k, v

    def attend(self, q, k, v, mask):
        """Attention in every head, the heads' outputs side by side, and a projection: (B, T, C).

        With nh = 4 and nkv = 2, heads 1 and 2 of the queries look at head 1 of the keys, heads 3
        and 4 at head 2. Plainly, each head of keys and values would be copied for its group,

            k = k.repeat_interleave(group, dim=1)               # k₁ k₂ -> k₁ k₁ k₂ k₂

        and likewise v; then attention is GPT-2's. Without copies: the queries of heads 1 and 2 are
        put one below the other, as if they were one head with 2T tokens. The result is the same.
        """
        B, nh, T, hs = q.shape
        group = nh // self.n_kv_head
        q = q.reshape(B, self.n_kv_head, group * T, hs)         # (B, nh, T, hs) -> (B, nkv, …, hs)
        mask = mask.repeat(group, 1)                            # (T, S) -> (group · T, S)
        y = self.attention(q, k, v, mask, self.attn_dropout)    # (B, nkv, group · T, hs)
        y = y.reshape(B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, nh·hs)
        return self.resid_dropout(self.c_proj(y))


# ---- 3. RMSNorm (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)
#
# LayerNorm subtracts the mean of x, divides by the standard deviation, multiplies by a gain and
# adds a bias. RMSNorm divides by the root of the mean square, and multiplies by a gain (eq. 4).
# That does as well, the paper finds, and is less to compute.

class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · gain, over the last dimension."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))            # the gain

    def forward(self, x):
        # bfloat16 has too few digits for a sum of squares; float64, of a test, stays
        y = x if x.dtype == torch.float64 else x.float()
        y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * y.type_as(x)


def make_norm(cfg, size: int):
    """The norm of the blocks, and before the head. (GPT-2's LayerNorm has a bias: --bias.)"""
    if cfg.norm == "layer":
        return nn.LayerNorm(size, cfg.norm_eps, bias=cfg.bias)
    return RMSNorm(size, cfg.norm_eps)


# ---- 4. SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202)
#
# GELU lets a hidden number pass if it is positive. In SwiGLU a second projection of x, the gate,
# says how much of it passes: the two are multiplied. Why that predicts better, the paper does not
# know ("we attribute their success … to divine benevolence"). It takes three matrices in place of
# two, so each is 2/3 as wide, 8/3 C and not 4 C: as many parameters as before.

class MLP(nn.Module):
    """W_proj (SiLU(W_gate x) ⊙ W_fc x), where SiLU(z) = z σ(z), applied to each position by itself.
    With --mlp=gelu it is GPT-2's: W_proj GELU(W_fc x)."""

    def __init__(self, cfg):
        super().__init__()
        d_ff = mlp_width(cfg)
        self.c_gate = None
        if cfg.mlp == "swiglu":
            self.c_gate = nn.Linear(cfg.n_embd, d_ff, bias=cfg.bias)
        self.c_fc = nn.Linear(cfg.n_embd, d_ff, bias=cfg.bias)
        self.c_proj = nn.Linear(d_ff, cfg.n_embd, bias=cfg.bias)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        if self.c_gate is not None:
            x = F.silu(self.c_gate(x)) * self.c_fc(x)           # (B, T, C) -> (B, T, d_ff)
        else:
            x = F.gelu(self.c_fc(x), approximate="tanh")        # as in the published GPT-2
        x = self.c_proj(x)                                      # (B, T, d_ff) -> (B, T, C)
        return self.dropout(x)


def mlp_width(cfg) -> int:
    """--d_ff, or if that is 0 the width that gives the MLP about 8 C² weights."""
    if cfg.d_ff > 0:
        return cfg.d_ff
    if cfg.mlp == "gelu":
        return 4 * cfg.n_embd
    return 64 * math.ceil(8 * cfg.n_embd / 3 / 64)              # a multiple of 64 is faster


# ---- 5. no biases, and the network
#
# A bias adds the same to every token's vector. Large models were more stable in training without
# biases (Chowdhery et al. 2022, PaLM, §2, https://arxiv.org/abs/2204.02311), and Llama's code has
# none. Above, nn.Linear(…, bias=cfg.bias) says so.

class Block(nn.Module):
    """Attention, then an MLP, each with a residual connection around it: x + f(norm(x))."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1 = make_norm(cfg, cfg.n_embd)
        self.attn = CausalSelfAttention(cfg)
        self.ln_2 = make_norm(cfg, cfg.n_embd)
        self.mlp = MLP(cfg)

    def forward(self, x, attn=None):
        """(B, T, C) -> (B, T, C). attn replaces the block's own attention (see the appendix)."""
        if attn is None:
            attn = self.attn
        x = x + attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class Llama(nn.Module):
    """The whole network. Its parameters have the names of train_gpt.py's."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)         # a vector for each token
        if cfg.positions == "learned":
            self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)     # a vector for each position
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.ln_f = make_norm(cfg, cfg.n_embd)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        if cfg.tied:
            self.lm_head.weight = self.wte.weight               # one matrix for both
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
        x = self.wte(idx)
        if self.cfg.positions == "learned":
            positions = torch.arange(start, start + idx.size(1), device=idx.device)
            x = x + self.wpe(positions)                         # (B, T, C) + (T, C)
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


def estimate_loss(model, documents: list, windows_at_once: int = 16) -> float:
    """The mean loss in nats of predicting all tokens of the documents but the first of each.

    documents: 1-D tensors of token numbers. A document longer than T is read in consecutive
    windows. Each window begins with no context, so its first tokens are harder to predict.
    """
    x, y = windows(documents, model.cfg.block_size)
    return mean_loss(model, x, y, windows_at_once)


def windows(documents: list, T: int):
    """Documents as rows of T tokens, x and targets y (windows, T)."""
    # Cut each document into rows of T. Its last row is filled up at the end: the filling comes
    # after all that is predicted, so it changes nothing, and its own targets are ignored.
    x_rows = []
    y_rows = []
    for tokens in documents:
        n_targets = len(tokens) - 1
        missing = -n_targets % T                                # 10 targets, T = 4: 2 are missing
        x_rows.append(F.pad(tokens[:-1], (0, missing)).view(-1, T))
        y_rows.append(F.pad(tokens[1:], (0, missing), value=IGNORED).view(-1, T))
    return torch.cat(x_rows), torch.cat(y_rows)


@torch.no_grad()
def mean_loss(model, x, y, at_once: int = 16) -> float:
    """The mean loss in nats of the targets y (N, T) that are not IGNORED, after tokens x (N, T)."""
    was_training = model.training
    model.eval()                                                # no dropout
    total = 0.0
    for x_i, y_i in zip(x.split(at_once), y.split(at_once)):
        total += next_token_loss(model(x_i), y_i, reduction="sum").item()
    model.train(was_training)
    return total / (y != IGNORED).sum().item()


def get_chat_batch(x, y, batch_size: int, generator):
    """Random rows of chats x (N, T) and their targets y (N, T), in which all but the answers is
    IGNORED: the loss is that of the answers alone. Returns (B, T'), without columns that only fill
    up."""
    i = torch.randint(len(x), (batch_size,), generator=generator).to(x.device)
    y_i = y[i]
    is_target = (y_i != IGNORED).any(dim=0)                     # (T,): in some of the rows
    longest = is_target.nonzero().max() + 1
    return x[i, :longest], y_i[:, :longest]


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
             on_token=None, stop=()):
    """Continue the tokens idx (B, T): returns (B, T + max_new_tokens), or fewer if a token in stop
    was drawn for each of the B texts at once, which is then the last one. (Chats have B = 1.)

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
        if all(number in stop for number in token.tolist()):
            break

    model.train(was_training)
    return idx


# ---- LoRA: fine-tuning by small additions (Hu et al. 2021; mini/finetune.py explains it)

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


def add_lora(model, r: int, alpha: float):
    """Put a LoRALinear in the place of each linear layer in the blocks. Only these then learn."""
    model.requires_grad_(False)
    for block in model.h:
        for part in (block.attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, LoRALinear(layer, r, alpha))


def merge_lora(model):
    """Put the merged layers in the places of the LoRALinears. The model is a plain one again, and
    no slower than before."""
    for block in model.h:
        for part in (block.attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, LoRALinear):
                    setattr(part, name, layer.merged())
    model.requires_grad_(True)


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), sample_every 500, log_every
    50, seed 1, device auto, matmul medium (how exact products are), compile false, resume false,
    stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "stories"       # stories, all-stories, tales, shakespeare, or your file or folder
    chats: str = ""             # learn from this in place of data: a TSV of question, tab, answer
    tokenizer: str = "bpe"      # char, bpe (trained on the data), or a folder with GPT-2's files
    vocab_size: int = 3072      # V, if the tokenizer is bpe; others bring their own

    # model
    block_size: int = 248       # T, the context, in tokens: the longest story fits in it
    n_layer: int = 2            # blocks
    n_head: int = 4             # heads of queries in each block
    n_kv_head: int = 2          # heads of keys and values; each serves n_head / n_kv_head queries
    n_embd: int = 192           # C, the width
    d_ff: int = 0               # width of the MLP (0: 8/3 C, rounded up; with mlp gelu 4 C)
    positions: Literal["rotary", "learned"] = "rotary"  # how the model knows where a token stands
    norm: Literal["rms", "layer"] = "rms"               # RMSNorm, or LayerNorm
    mlp: Literal["swiglu", "gelu"] = "swiglu"           # with a gate, or without
    bias: bool = False          # biases in linear layers, and in LayerNorm
    tied: bool = True           # the head is the embedding, transposed
    rope_theta: float = 1e4     # θ: the slowest rotation takes some 2π θ tokens for a turn
    dropout: float = 0.0        # of embeddings, attention weights, and what blocks add to x

    # published
    # what published weights need, and --init_from sets by itself: the size of a head, if it is not
    # n_embd / n_head
    head_size: int = 0
    qkv_bias: bool = False      # biases in the projections to q, k and v alone (Qwen 2)
    qk_norm: bool = False       # norms of q and k (Qwen 3)
    norm_eps: float = 1e-5      # ε of the norms
    rope_scaling: str = ""      # slower rotations for a longer context, as in a config.json (JSON)

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
    rank: int = 0               # r of LoRA, which trains only small additions (0: all weights)
    alpha: float = 16.0         # α of LoRA, which scales the additions

    # run
    out_dir: str = "runs/llama"     # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # begin with these weights: a checkpoint.pt, or the folder of a published Llama, SmolLM2,
    # TinyLlama, Qwen 2.5 or Qwen 3
    init_from: str = ""
    fused: bool = False         # torch's fused kernels for attention and for AdamW
    study_steps: int = 0        # for evaluate: steps of each of its trainings (0: steps / 5)

    # sampling
    prompt: str = ""            # text to continue; for chat one question ("": type them)
    system: str = ""            # for chat: what the model is told before the first question
    max_new_tokens: int = 246   # tokens to write
    num_samples: int = 1        # texts to write
    temperature: float = 0.8    # 0: always the likeliest token; 1: the model's probabilities
    top_k: int = 0              # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0          # draw from the fewest tokens that together have this probability
    cache: bool = True          # keep past keys and values: the same text, faster
    # how exact the weights are, for sample and chat: the fewer bytes, the faster they are read
    weights: Literal["float32", "bfloat16", "int8"] = "float32"

    # Not a setting (it has no type): the names of those that a resumed run must keep, since its
    # weights depend on them.
    fixed = ("tokenizer", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "d_ff",
             "positions", "norm", "mlp", "bias", "tied", "rope_theta", "head_size", "qkv_bias",
             "qk_norm", "norm_eps", "rank", "alpha")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # little text, such as our tales or one novel: dropout and weight decay against learning it by
    # heart
    "tales": dict(data="tales", vocab_size=1024, block_size=64, n_layer=4, batch_size=32, lr=0.04,
                  rest_lr=0.01, dropout=0.2, weight_decay=0.3, steps=700, max_new_tokens=250),
    # 10M parameters that learn characters of --data=shakespeare: one GPU, minutes
    "gpu": dict(tokenizer="char", n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                steps=2000, lr=0.02, rest_lr=0.003, dropout=0.2, fused=True, max_new_tokens=1000),
    # the sizes of SmolLM2 135M, from scratch, on much text of your own (--data): one GPU, hours
    "smollm": dict(n_layer=30, n_head=9, n_kv_head=3, n_embd=576, d_ff=1536, block_size=1024,
                   batch_size=32, grad_accum=4, steps=5000, vocab_size=16384, lr=0.02,
                   rest_lr=0.003, fused=True),
    # GPT-2's choice in all five places
    "gpt2": dict(positions="learned", n_kv_head=4, norm="layer", mlp="gelu", bias=True),
    # go on from --init_from in small steps: published weights know most of it already
    "finetune": dict(optimizer="adamw", lr=5e-5, stable_frac=0.0, steps=100, batch_size=4,
                     block_size=256, dropout=0.1, eval_every=50, sample_every=50, log_every=5),
    # the same, but only small additions learn
    "lora": dict(rank=8, optimizer="adamw", lr=1e-3, stable_frac=0.0, steps=100, batch_size=4,
                 block_size=256, dropout=0.1, eval_every=50, sample_every=50, log_every=5),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require(cfg.block_size >= 2, f"--block_size={cfg.block_size} must be at least 2")
    require_positive(cfg, "n_layer", "n_head", "n_kv_head", "n_embd", "batch_size", "grad_accum")
    require_positive(cfg, "max_new_tokens", "num_samples", "top_p", "alpha", "norm_eps")
    require(cfg.head_size > 0 or cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.n_head % cfg.n_kv_head == 0,
            f"--n_head={cfg.n_head} must be a multiple of --n_kv_head={cfg.n_kv_head}")
    require(cfg.positions == "learned" or head_size(cfg) % 2 == 0,
            f"a head of {head_size(cfg)} numbers cannot be rotated in pairs: let --n_embd="
            f"{cfg.n_embd} be a multiple of 2 times --n_head={cfg.n_head}")
    require(cfg.rope_theta > 1, f"--rope_theta={cfg.rope_theta} must be above 1")
    for name in ("d_ff", "head_size", "rank", "study_steps"):
        require(getattr(cfg, name) >= 0, f"--{name}={getattr(cfg, name)} must not be negative")
    require(cfg.rank == 0 or cfg.optimizer == "adamw",
            f"--rank={cfg.rank}: LoRA is trained by AdamW; add --optimizer=adamw, or take "
            "--preset=lora")
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
        learning = [p for p in model.parameters() if p.requires_grad]       # with LoRA, A and B
        return [make_adamw(learning, lr, cfg)]

    matrices = []
    rest = []
    for name, p in model.named_parameters():
        if name.startswith("h.") and p.ndim >= 2:
            matrices.append(p)
        else:
            rest.append(p)

    muon = Muon(matrices, lr, cfg.momentum, cfg.weight_decay)
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
        cfg, checkpoint = own_checkpoint(cfg, "llama")
    elif cfg.init_from:                                         # weights bring their sizes
        cfg, pretrained = read_llama(cfg, longest_context=cfg.block_size)
    device = pick_device(cfg.device)
    rank, n_processes = start_processes(device)                 # 0 and 1 without torchrun
    require(cfg.batch_size % (cfg.grad_accum * n_processes) == 0,
            f"--batch_size={cfg.batch_size} must be a multiple of --grad_accum={cfg.grad_accum} "
            f"times {n_processes} process(es)")

    # the model and its tokenizer: resumed, published, or new
    if not cfg.chats:
        corpus = corpus or read_corpus(cfg.data)                # in parts: train, val, perhaps test
    torch.manual_seed(cfg.seed)                                 # for the initial weights
    if cfg.resume:
        model, tokenizer = from_checkpoint(checkpoint, cfg)
    elif cfg.init_from:
        model, tokenizer = from_checkpoint(pretrained, cfg)
        if cfg.rank > 0:
            add_lora(model, cfg.rank, cfg.alpha)                # now only A and B learn
    else:
        require(not cfg.chats and cfg.rank == 0, "chats and LoRA go on from trained weights: name "
                                                 "them by --init_from")
        tokenizer = make_tokenizer(cfg.tokenizer, corpus, cfg.vocab_size)
        model = Llama(cfg, tokenizer.vocab_size)
    model = model.to(device)
    check_prompt(cfg.prompt, tokenizer, cfg.block_size)

    if cfg.chats:
        # questions and answers, a row each, filled up at the end (N, T); held-out ones, too
        train_chats, val_chats = read_chats(cfg.chats)
        train_x, train_y = chat_rows(train_chats, tokenizer, cfg.block_size, IGNORED, device)
        val_x, val_y = chat_rows(val_chats, tokenizer, cfg.block_size, IGNORED, device)
    else:
        # the texts as token numbers: a list of documents, (n,) each. A story is one document, and
        # your own text is one, too. Each of ours begins with the token that also begins what is
        # sampled
        train_docs = encode(tokenizer, corpus.train, device)
        val_docs = encode(tokenizer, corpus.val, device)        # held out
        check_length(train_docs, val_docs, cfg.block_size)
        train_tokens = torch.cat(train_docs)                    # (N,), one after the other
        starts = piece_starts(train_docs, cfg.block_size)       # beginnings of documents; of long
                                                                # ones every position
        val_x, val_y = windows(val_docs, cfg.block_size)
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
    with Run(cfg, "llama", model, columns, checkpoint if cfg.resume else None, rank) as run:
        V = model.wte.num_embeddings
        if cfg.rank > 0:
            n_learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
            run.say(f"LoRA: {n_learning:,} of them learn")
        if cfg.chats:
            loss_before = mean_loss(model, val_x, val_y)
            if cfg.resume:
                loss_before = checkpoint["loss_before"]
            run.say(f"{len(train_x):,} answers to learn from, {len(val_x):,} held out; before "
                    f"training the loss of these is {loss_before:.4f}")
        else:
            run.say(f"{len(train_tokens):,} tokens to learn from, "
                    f"{sum(map(len, val_docs)):,} held out")
            run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, lr_factor(step, cfg))

            # batch
            if cfg.chats:
                x, y = get_chat_batch(train_x, train_y, cfg.batch_size, data_rng)
            else:
                x, y = get_batch(train_tokens, cfg.block_size, cfg.batch_size, data_rng, starts)
            x, y = my_share(x, y)                               # all of it, if there is one process
            n_targets = (y != IGNORED).sum()

            # loss and backward, in grad_accum equal parts, whose gradients add up; products are in
            # bfloat16, if that is faster on this device, while the weights stay in float32
            loss = 0.0
            for x_i, y_i in zip(x.chunk(cfg.grad_accum), y.chunk(cfg.grad_accum)):
                with autocast(device, cfg.matmul):
                    loss_i = next_token_loss(net(x_i), y_i, "sum") / n_targets
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
                    val_loss = mean_loss(model, val_x, val_y)
                    run.check_finite(done, val_loss=val_loss)

                if val_loss is not None or run.due(done, cfg.log_every):
                    lr = optimizers[0].param_groups[0]["lr"]    # the one that trains the blocks
                    run.log(done, loss=loss, lr=lr, val_loss=val_loss)

                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", write(model, tokenizer)[0])

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if val_loss is not None or stopping:
                    # checkpoint.pt: settings, weights, optimisers, random states, tokenizer
                    before = {"loss_before": loss_before} if cfg.chats else {}
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state(),
                             **before)

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        if run.first >= cfg.steps:                              # resumed, but no step was left
            val_loss = mean_loss(model, val_x, val_y)

        if cfg.chats:
            run.say("\n" + show_answers(model, tokenizer, val_chats[:3]))
            run.say(f"held-out answers: loss {val_loss:.4f} nats per token; before training "
                    f"{loss_before:.4f}")
            return run.finish(val_loss=val_loss, val_loss_before=loss_before)

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

# Published weights are the same network, with other names for its parts (a table of them is in
# mini/data/llama_weights.py):
#
#     model.embed_tokens              wte             model.norm                      ln_f
#     …self_attn.q_proj, k_proj, …    attn.c_q, …     …self_attn.o_proj               attn.c_proj
#     …mlp.gate_proj                  mlp.c_gate      …mlp.up_proj, down_proj     mlp.c_fc, c_proj
#     …input_layernorm                ln_1            …post_attention_layernorm       ln_2
#
# and the text of a conversation has marks, which differ from family to family (see
# mini/data/text/chat.py). That of SmolLM2 and Qwen is, up to where the model goes on:
#
#     <|im_start|>user
#     How many legs has a spider?<|im_end|>
#     <|im_start|>assistant

def from_checkpoint(checkpoint: dict, cfg):
    """(model, tokenizer) of a checkpoint.

    A checkpoint is a dict: "model" (weights by name), "tokenizer", "config", and for a run to go on
    "step", "optimizers" (the averages that they keep) and "rng" (the states of all random numbers).
    """
    tokenizer = load_tokenizer(checkpoint["tokenizer"])
    model = Llama(cfg, tokenizer.vocab_size)
    rank = checkpoint["config"].get("rank", 0)
    if rank > 0:                                                # it was trained by LoRA
        add_lora(model, rank, checkpoint["config"]["alpha"])
    model.load_state_dict(checkpoint["model"])
    if rank > 0 and not cfg.resume:
        merge_lora(model)                                       # W′ = W + (α/r) B A
    return model, tokenizer


def load(cfg):
    """(model, tokenizer) of --init_from if it is given, else as trained in --out_dir."""
    if cfg.init_from:
        cfg, checkpoint = read_llama(cfg)
    else:
        cfg, checkpoint = own_checkpoint(cfg, "llama")
    model, tokenizer = from_checkpoint(checkpoint, cfg)
    if cfg.weights != "float32":
        model = model.bfloat16()
    return model.to(pick_device(cfg.device)), tokenizer


def make_reader(model, compiled: bool = False):
    """What reads tokens for `generate`: the model, or, with --cache, a reader that keeps keys and
    values (the appendix), or a compiled one."""
    if compiled:
        from mini.utils.compiled_llama import CompiledLlama     # only --compile needs it
        return CompiledLlama(model)
    return CachedLlama(model) if model.cfg.cache else model


def write(model, tokenizer, on_token=None, n: int = 0, reader=None) -> list:
    """n texts (0: num_samples) that continue --prompt, by the settings in model.cfg: the same at
    every call. After the end of a story, the next one begins. reader: see `make_reader`."""
    cfg = model.cfg
    ids = tokenizer.encode(tokenizer.start + cfg.prompt)        # start: a token that begins texts
    idx = torch.tensor([ids] * (n or cfg.num_samples), device=model.device)     # (B, T)
    rng = torch.Generator().manual_seed(cfg.seed)
    reader = reader or make_reader(model)
    idx = generate(reader, idx, cfg.max_new_tokens, temperature=cfg.temperature, top_k=cfg.top_k,
                   top_p=cfg.top_p, generator=rng, on_token=on_token)
    new = idx[:, len(ids):].tolist()
    return [cfg.prompt + tokenizer.decode(row) for row in new]


def sample(cfg: Config) -> list:
    """Print texts that continue --prompt, and how much of them is copied from the training text."""
    model, tokenizer = load(cfg)
    require(not cfg.compile or model.cfg.num_samples == 1, "--compile is for one text at a time: "
            f"leave it out, or take --num_samples=1 in place of {model.cfg.num_samples}")
    check_prompt(model.cfg.prompt, tokenizer)                   # compiling may take a minute
    reader = make_reader(model, cfg.compile)                    # as typed now, not in training
    writer = functools.partial(write, reader=reader)
    texts = print_texts(writer, model, tokenizer, weights="" if cfg.compile else cfg.weights)
    if not cfg.init_from:
        print_copying(texts, model.cfg.prompt, model.cfg.data)
    return texts


def reply(model, tokenizer, messages: list, generator=None, on_token=None, tools=None) -> str:
    """The model's answer to a conversation, by the settings in model.cfg.

    messages: [{"role": "system", "user" or "assistant", "content": text}, …]; tools: what it may
    call (see mini/data/text/chat.py). The oldest questions and answers are forgotten if they do not
    fit in the context. model may be a CachedLlama, which reads only what is new.
    """
    cfg = model.cfg
    longest = max(cfg.block_size - cfg.max_new_tokens, cfg.block_size // 2)
    ids = fit_chat(messages, tokenizer, longest, tools)
    idx = torch.tensor([ids], device=model.device)              # (1, T)
    stop = stop_tokens(tokenizer)
    idx = generate(model, idx, cfg.max_new_tokens, temperature=cfg.temperature, top_k=cfg.top_k,
                   top_p=cfg.top_p, generator=generator, on_token=on_token, stop=stop)
    new = idx[0, len(ids):].tolist()
    if new[-1] in stop:
        new.pop()
    return tokenizer.decode(new).strip()


def chat(cfg: Config) -> list:
    """Answer --prompt, or talk: a question on each line, until the input ends. Returns the
    messages."""
    model, tokenizer = load(cfg)
    compiled = cfg.compile                                      # as typed now, not in training
    reader = make_reader(model, compiled)
    cfg = model.cfg
    rng = torch.Generator().manual_seed(cfg.seed)
    messages = [{"role": "system", "content": cfg.system}] if cfg.system else []
    with fast_vectors(model, "" if compiled else cfg.weights):
        for question in [cfg.prompt] if cfg.prompt else chat_lines("Ask something;"):
            asked = [*messages, {"role": "user", "content": question}]
            on_token = printer(tokenizer, "", stop_tokens(tokenizer))
            try:
                answer = reply(reader, tokenizer, asked, rng, on_token)     # printed as it comes
            except UserError as error:                          # the question is too long
                require(not cfg.prompt, str(error))
                print(f"({error})")
                continue
            print()
            messages = [*asked, {"role": "assistant", "content": answer}]
    return messages


def show_answers(model, tokenizer, chats: list) -> str:
    """Some questions, the model's answers, and the true ones."""
    text = ""
    for question, answer in chats:
        messages = [{"role": "user", "content": question}]
        found = reply(CachedLlama(model), tokenizer, messages)
        text += f"{question}\n    {found}\n    (true: {answer})\n"
    return text


def evaluate(cfg: Config) -> dict:
    """What does each of the five changes buy? See mini/studies/llama.py."""
    from mini.studies import llama as study  # only this command needs it
    cfg, _ = own_checkpoint(cfg, "llama")
    return study.evaluate(cfg)


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
# (This is why `generate` forgets half of a full context at once: the keys of all blocks but the
# first come from vectors that had read what is forgotten, so all of them must be computed anew.)

class CachedAttention:
    """Attention that keeps the keys and values of the n tokens that it has read."""

    def __init__(self, attn, kv):
        self.attn = attn
        self.k = kv[0]                                          # (B, nkv, block_size, hs)
        self.v = kv[1]
        self.n = 0

    def __call__(self, x):
        """(B, T, C) -> (B, T, C) for T new tokens, which look at all n + T tokens."""
        T = x.size(1)
        q, k, v = self.attn.qkv(x, start=self.n)                # of the new tokens
        end = self.n + T
        self.k[:, :, self.n:end] = k
        self.v[:, :, self.n:end] = v

        mask = causal_mask(T, x.device, before=self.n)          # (T, n + T)
        self.n = end
        return self.attn.attend(q, self.k[:, :, :end], self.v[:, :, :end], mask)


def normed(norm, x):
    """norm(x) for a single vector x (C,): if it is an RMSNorm, with a number in place of tensors of
    one number each."""
    if isinstance(norm, nn.LayerNorm):
        return norm(x)
    length = torch.linalg.vector_norm(x, dtype=torch.float32).item()
    mean_square = length * length / x.numel()
    return norm.weight * (x * (1 / math.sqrt(mean_square + norm.eps)))


class CachedLlama(nn.Module):
    """A Llama for `generate`: cached(idx) is model(idx)[:, -1:], but it reads each token only once.

    It remembers the tokens that it has read. Those at the beginning of idx that are the same are
    not read again, also if idx is another text: in a chat all that was said before.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.cfg = model.cfg
        self.read = torch.empty(0, 0, dtype=torch.long)         # the tokens that it has read (B, n)
        self.train(model.training)                              # in the mode of the model

    def forward(self, idx):
        """Logits (B, 1, V) of the token after idx (B, T)."""
        n = self.n_known(idx)
        if n == 0:
            self.forget(B=len(idx))
        new = idx[:, n:]
        self.read = idx
        fast = hasattr(self.model.h[0].attn, "product")         # inside of fast_vectors
        if fast and new.numel() == 1:
            x = self.read_one(new, n)
        else:
            x = self.read_all(new, n)
        return self.model.lm_head(self.model.ln_f(x[:, -1:]))

    def forget(self, B: int):
        """Make place for the keys and values of B texts."""
        cfg = self.cfg
        self.kv = self.model.wte.weight.new_empty(cfg.n_layer, 2, B, cfg.n_kv_head, cfg.block_size,
                                                  head_size(cfg))
        self.attns = [CachedAttention(block.attn, self.kv[i])
                      for i, block in enumerate(self.model.h)]

    def read_all(self, new, n: int):
        """The vectors (B, T, C) after all blocks of T new tokens, which follow n known ones."""
        x = self.model.embed(new, start=n)
        for block, attn in zip(self.model.h, self.attns):
            attn.n = n                                          # forget what comes after them
            x = block(x, attn)
        return x

    def read_one(self, token, n: int):
        """The vector (1, 1, C) after all blocks of one new token (1, 1) of the only text, which
        follows n known ones: the same, with the products of fast_vectors.

        For a single vector most calls of torch's cost more than what they compute. So here are
        fewer of them. And one product does for q, k and v, and one for the two halves of SwiGLU.
        """
        nh = self.cfg.n_head
        nkv = self.cfg.n_kv_head
        hs = head_size(self.cfg)
        if self.cfg.positions == "rotary":
            cos, sin = self.rotation(n)                         # (nh + 2 nkv, hs)
        new_kv = self.kv[..., n, :]                             # (n_layer, 2, 1, nkv, hs)
        all_kv = self.kv[..., :n + 1, :]                        # (n_layer, 2, 1, nkv, n + 1, hs)

        x = self.model.embed(token, start=n).view(-1)           # (C,)
        for block, kv, (k, v) in zip(self.model.h, new_kv, all_kv):
            attn = block.attn
            heads = attn.product(normed(block.ln_1, x)).view(-1, hs)    # (nh + 2 nkv, hs)
            if attn.q_norm is not None:
                q, new_k, new_v = heads.split([nh, nkv, nkv])
                heads = torch.cat([attn.q_norm(q), attn.k_norm(new_k), new_v])
            if self.cfg.positions == "rotary":                  # x cos ± (its other half) sin
                heads = torch.addcmul(heads * cos, heads.roll(hs // 2, dims=1), sin)
            kv.copy_(heads[nh:].view(kv.shape))
            q = heads[:nh].view(1, nkv, -1, hs)                 # in groups, as in `attend`
            y = F.scaled_dot_product_attention(q, k, v)         # the newest token looks at all
            x = x + attn.c_proj.product(y.view(-1))

            mlp = block.mlp
            hidden = normed(block.ln_2, x)
            if mlp.c_gate is not None:
                gate, hidden = mlp.product(hidden).chunk(2)
                hidden = F.silu(gate) * hidden
            else:
                hidden = F.gelu(mlp.c_fc.product(hidden), approximate="tanh")
            x = x + mlp.c_proj.product(hidden)
        return x.view(1, 1, -1)

    def rotation(self, n: int):
        """cos and ± sin (nh + 2 nkv, hs) for the heads of q, k and v at position n: those of v are
        not rotated, so cos is 1, and sin 0."""
        nh = self.cfg.n_head
        nkv = self.cfg.n_kv_head
        rotary = self.model.h[0].attn.rotary
        cos = rotary.cos[n].repeat(2)                           # (hs/2,) -> (hs,)
        sin = torch.cat([-rotary.sin[n], rotary.sin[n]])
        rotated = torch.arange(nh + 2 * nkv)[:, None] < nh + nkv
        return torch.where(rotated, cos, 1), torch.where(rotated, sin, 0)

    def n_known(self, idx) -> int:
        """How many tokens at the beginning of idx it has read; never all, since the last one has to
        be read for the next."""
        if len(self.read) != len(idx):                          # another number of texts
            return 0
        n = min(self.read.size(1), idx.size(1) - 1)
        same = (self.read[:, :n] == idx[:, :n]).all(dim=0)      # (n,)
        return same.long().cumprod(dim=0).sum().item()          # up to the first that differs

    @property
    def device(self):
        return self.model.device


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate, "chat": chat}
    return command_line(Config, PRESETS, commands, argv, __doc__, parallel=True,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd or "
                                      "--num_samples, or raise --grad_accum")


if __name__ == "__main__":
    main()
