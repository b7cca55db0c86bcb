"""GPT-2: a Transformer decoder that learns to write by predicting the next token.

By the chain rule p(x₁ … xₙ) = Π p(xₜ | x₁ … xₜ₋₁), so a model of the next token is a model of whole
texts. One pass predicts the next token at every position at once: a mask hides from each position
what comes after it. The loss is the mean over all positions, in nats; a model that knows nothing
scores ln V, where V is the number of different tokens:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)

Papers: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2);
Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762.
Departures: Muon trains the weight matrices of the blocks, in a fraction of AdamW's steps
(--optimizer=adamw trains everything by AdamW); the learning rate falls in a line, not a cosine.

    python train_gpt.py                                 learn from our own tales
    python train_gpt.py --data=my_novel.txt             learn from your own text
    python train_gpt.py sample --prompt="The ferry"     let it write on
    python train_gpt.py evaluate                        what does context buy? loss by position
    python train_gpt.py --init_from=gpt2/model.safetensors --preset=finetune --data=my_novel.txt

Measured times and scores: README.md. Read next: train_diffusion.py, mini/lstm.py, mini/bert.py.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.text.corpus import encode_split, make_tokenizer, read_text, split_text
from mini.data.text.tokenizers import load_tokenizer
from mini.data.weights import read_gpt
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import (data_parallel, matmul_precision, my_share, pick_device,
                               start_processes)
from mini.utils.fast_vectors import fast_vectors
from mini.utils.metrics import text_report, text_scores
from mini.utils.optim import Muon
from mini.utils.run import Run, load_checkpoint, merge_config, own_checkpoint, restore
from mini.utils.text import encode_prompt, print_copying, write_texts

# ---- attention

def attention(q, k, v, dropout: float = 0.0):
    """softmax(q kᵀ / √hs + mask) v: what each position reads from itself and those before it.

    q, k, v: (B, nh, T, hs), with nh heads of size hs; returns (B, nh, T, hs). In sampling with a
    cache, q has the last T of the S positions only, k and v have all S. (Vaswani et al., eq. 1)
    """
    T, S, hs = q.size(-2), k.size(-2), q.size(-1)
    scores = (q / math.sqrt(hs)) @ k.mT                 # (B, nh, T, hs) @ (B, nh, hs, S)
    scores = scores.masked_fill(~causal_mask(T, S, q.device), -math.inf)
    weights = F.softmax(scores, dim=-1)                 # (B, nh, T, S): each row sums to 1
    weights = F.dropout(weights, dropout)
    return weights @ v                                  # (B, nh, T, S) @ (B, nh, S, hs)


def causal_mask(T: int, S: int, device):
    """(T, S): True where a query may look at a key, because the key is not after it."""
    mask = torch.ones(T, S, dtype=torch.bool, device=device)
    return mask.tril(S - T)                             # query t stands at position S − T + t


def fused_attention(q, k, v, dropout: float = 0.0):
    """The same by torch's fused kernel, which never stores the weights: faster on a GPU."""
    T, S = q.size(-2), k.size(-2)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    mask = causal_mask(T, S, q.device)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, attn_mask=mask)


class CausalSelfAttention(nn.Module):
    """Attention in n_head heads, each with queries, keys and values of its own."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.fused = cfg.fused
        self.p = cfg.dropout
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        q, k, v = self.qkv(x)
        return self.attend(q, k, v)

    def qkv(self, x):
        """Queries, keys and values, (B, nh, T, hs) each, of x (B, T, C)."""
        B, T, C = x.shape
        hs = C // self.n_head
        q, k, v = self.c_attn(x).split(C, dim=-1)               # (B, T, 3C) -> 3 × (B, T, C)
        q = q.view(B, T, self.n_head, hs).transpose(1, 2)       # (B, T, C) -> (B, nh, T, hs)
        k = k.view(B, T, self.n_head, hs).transpose(1, 2)
        v = v.view(B, T, self.n_head, hs).transpose(1, 2)
        return q, k, v

    def attend(self, q, k, v):
        """What the heads read, side by side and projected: (B, T, C)."""
        dropout = self.p if self.training else 0.0
        if self.fused:
            y = fused_attention(q, k, v, dropout)
        else:
            y = attention(q, k, v, dropout)
        y = y.transpose(1, 2).flatten(2)                        # (B, nh, T, hs) -> (B, T, C)
        return self.dropout(self.c_proj(y))


# ---- the network

class MLP(nn.Module):
    """What each position makes, by itself, of what it has read."""

    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        x = self.c_fc(x)                                        # (B, T, C) -> (B, T, 4C)
        x = F.gelu(x, approximate="tanh")
        x = self.c_proj(x)                                      # (B, T, 4C) -> (B, T, C)
        return self.dropout(x)


class Block(nn.Module):
    """Attention, then an MLP. Both read a normalised copy of x and add to x itself (pre-norm)."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1 = nn.LayerNorm(cfg.n_embd)
        self.attn = CausalSelfAttention(cfg)
        self.ln_2 = nn.LayerNorm(cfg.n_embd)
        self.mlp = MLP(cfg)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """The whole network. Its parameters have the names of the published GPT-2 weights."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)         # a vector for each token
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)     # a vector for each position
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.ln_f = nn.LayerNorm(cfg.n_embd)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight                   # tied: it reads and writes tokens
        self.init_weights()

    def init_weights(self):
        """Matrices from N(0, 0.02²), biases 0. The last matrix of each branch begins smaller: the
        2 n_layer branches add up in x, whose size should not grow with n_layer (GPT-2, §2.3)."""
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.cfg.n_layer))
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx):
        """Logits (B, T, V) of the token after each of the tokens idx (B, T), T ≤ block_size."""
        return self.lm_head(self.hidden(idx))

    def hidden(self, idx):
        """The vectors (B, T, C) from which the head predicts, for tokens idx (B, T)."""
        x = self.embed(idx)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def embed(self, idx, start: int = 0):
        """Vectors (B, T, C) of tokens idx (B, T) at the positions start, start + 1, …"""
        positions = torch.arange(start, start + idx.size(1), device=idx.device)
        x = self.wte(idx) + self.wpe(positions)                 # (B, T, C) + (T, C)
        return self.dropout(x)

    @property
    def device(self):
        return self.wte.weight.device


# ---- batches and the loss

def get_batch(tokens, block_size: int, batch_size: int, generator):
    """Random pieces of the text, x (B, T), and the same pieces one token later, y (B, T)."""
    start = torch.randint(len(tokens) - block_size, (batch_size,), generator=generator)
    places = start[:, None] + torch.arange(block_size + 1)      # (B, 1) + (T + 1,) -> (B, T + 1)
    pieces = tokens[places.to(tokens.device)]
    x = pieces[:, :-1]
    y = pieces[:, 1:]                                           # y[b, t] follows x[b, t]
    return x, y


def next_token_loss(logits, y, reduction: str = "mean"):
    """−log p(y) in nats, for logits (B, T, V) and the tokens y (B, T); y = −100 is not counted."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)


@torch.no_grad()
def estimate_loss(model, tokens, tokens_at_once: int = 4096) -> float:
    """The mean loss in nats of predicting tokens[1:], in windows that each begin with no
    context."""
    was_training = model.training
    model.eval()                                                # no dropout
    T = model.cfg.block_size
    n_targets = len(tokens) - 1
    missing = -n_targets % T                                    # fills up the last window
    x = F.pad(tokens[:-1], (0, missing)).view(-1, T)            # (n_targets,) -> (windows, T)
    y = F.pad(tokens[1:], (0, missing), value=-100).view(-1, T)
    windows_at_once = max(1, tokens_at_once // T)
    total = 0.0
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        logits = model(x_i).float()
        total += next_token_loss(logits, y_i, reduction="sum").item()
    model.train(was_training)
    return total / n_targets


# ---- sampling

def sample_token(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one token (B,) for each row of logits (B, V).

    temperature divides the logits: below 1, likely tokens become likelier; 0 takes the likeliest.
    top_k keeps only the k likeliest tokens (0: all). top_p keeps the fewest likeliest tokens that
    together have this probability (1: all); it is nucleus sampling, Holtzman et al. 2020, §3.1.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k > 0:
        top = logits.topk(min(top_k, logits.size(-1))).values   # (B, k), the largest first
        smallest = top[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p < 1:
        p, order = F.softmax(logits, dim=-1).sort(descending=True)
        p_before = p.cumsum(dim=-1) - p                         # of all likelier tokens
        drop = p_before >= top_p                                # they are enough without it
        drop[:, 0] = False                                      # the likeliest always stays
        drop = torch.zeros_like(drop).scatter(1, order, drop)   # sorted -> by token number
        logits = logits.masked_fill(drop, -math.inf)
    probs = F.softmax(logits, dim=-1)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1)


@torch.inference_mode()
def generate(model, idx, max_new_tokens: int, on_token=None, **options):
    """Continue the tokens idx (B, T): returns (B, T + max_new_tokens).

    The plain loop: for each new token the model reads the whole context again. A full context
    forgets its older half. on_token, if given, is called with each new column (B,) as it is drawn;
    the options are those of sample_token.
    """
    was_training = model.training
    model.eval()
    start = 0                                                   # the context is idx[:, start:]
    for _ in range(max_new_tokens):
        if idx.size(1) - start > model.cfg.block_size:
            start = idx.size(1) - max(1, model.cfg.block_size // 2)
        logits = model(idx[:, start:])[:, -1]                   # (B, T, V) -> (B, V)
        token = sample_token(logits.float().cpu(), **options).to(idx.device)
        idx = torch.cat([idx, token[:, None]], dim=1)           # (B, T) -> (B, T + 1)
        if on_token:
            on_token(token)
    model.train(was_training)
    return idx


# ---- sampling with a cache: the same tokens, faster

class KVCache:
    """Keys and values of the n tokens read so far, in every block.

    The mask hides from a token all that comes after it, so its keys and values never change. For a
    new token the model needs the new q, k and v, and these.
    """

    def __init__(self, model, B: int):
        cfg = model.cfg
        shape = (cfg.n_layer, B, cfg.n_head, cfg.block_size, cfg.n_embd // cfg.n_head)
        self.k = torch.empty(shape, device=model.device, dtype=model.wte.weight.dtype)
        self.v = torch.empty_like(self.k)
        self.n = 0

    def extend(self, layer: int, k, v):
        """Store k and v (B, nh, T, hs) of T new tokens; returns those of all n + T tokens."""
        end = self.n + k.size(2)
        self.k[layer, :, :, self.n:end] = k
        self.v[layer, :, :, self.n:end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


def logits_with_cache(model, idx, cache):
    """Logits (B, V) of the token after idx (B, T): the tokens that are not in the cache yet.

    It walks through the blocks as GPT.hidden does, but for keys and values asks the cache.
    """
    x = model.embed(idx, start=cache.n)
    for layer, block in enumerate(model.h):
        q, k, v = block.attn.qkv(block.ln_1(x))                 # of the T new tokens
        k, v = cache.extend(layer, k, v)                        # of all S = n + T tokens
        x = x + block.attn.attend(q, k, v)
        x = x + block.mlp(block.ln_2(x))
    cache.n += idx.size(1)
    return model.lm_head(model.ln_f(x[:, -1]))


@torch.inference_mode()
def generate_with_cache(model, idx, max_new_tokens: int, on_token=None, **options):
    """What `generate` returns; but after the first step the model reads one token at a time."""
    was_training = model.training
    model.eval()
    start = 0
    cache = KVCache(model, len(idx))
    for _ in range(max_new_tokens):
        if idx.size(1) - start > model.cfg.block_size:
            start = idx.size(1) - max(1, model.cfg.block_size // 2)
            cache = KVCache(model, len(idx))                    # every position has changed
        logits = logits_with_cache(model, idx[:, start + cache.n:], cache)
        token = sample_token(logits.float().cpu(), **options).to(idx.device)
        idx = torch.cat([idx, token[:, None]], dim=1)
        if on_token:
            on_token(token)
    model.train(was_training)
    return idx


# ---- settings

@dataclass
class Config(RunConfig):
    """Further fields come from RunConfig: preset, eval_every, sample_every, log_every, seed,
    device, matmul, compile, resume, stop_after."""
    # data
    data: str = "tales"         # tales, shakespeare, or your own: a UTF-8 file or a folder of .txt
    tokenizer: str = "bpe"      # char, bpe (trained on the data), or a folder with GPT-2's files
    vocab_size: int = 1024      # tokens of the bpe tokenizer
    # model
    block_size: int = 64        # T, the context: how many tokens the model sees at once
    n_layer: int = 4            # blocks
    n_head: int = 4             # attention heads in each block
    n_embd: int = 192           # C, the width
    dropout: float = 0.2        # of embeddings, attention weights, and what blocks add to x
    # optimisation
    steps: int = 700            # optimiser steps
    batch_size: int = 32        # sequences in a step, over all processes
    grad_accum: int = 1         # compute the batch in so many parts: the same gradient, less memory
    # what trains the weight matrices of the blocks; AdamW trains the rest
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 0.0             # peak learning rate of these matrices (0: that of LEARNING_RATES)
    rest_lr: float = 0.01       # with muon: AdamW's peak rate for embeddings, biases and norms
    warmup: int = 3             # steps in which the learning rate rises to its peak
    stable_frac: float = 0.4    # fraction of the other steps at the peak; then it falls to 0
    momentum: float = 0.85      # muon: the weight of old gradients in their moving average
    beta2: float = 0.99         # adamw: the weight of old squared gradients in theirs
    weight_decay: float = 0.0   # of matrices and embeddings
    grad_clip: float = 1.0      # a longer gradient is scaled down to this norm (0: never)
    # run
    out_dir: str = "runs/gpt"   # folder of the run
    init_from: str = ""         # begin with these weights: a checkpoint.pt or model.safetensors
    fused: bool = False         # torch's fused attention and AdamW, not the written-out ones
    # sampling
    prompt: str = ""            # text to continue
    max_new_tokens: int = 250   # tokens to write
    num_samples: int = 1        # texts to write
    temperature: float = 0.6    # 0: always the likeliest token; 1: as the model believes
    top_k: int = 0              # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0          # draw from the likeliest tokens with this probability together

    # what a resumed run must keep, since the saved weights depend on it
    fixed = ("tokenizer", "vocab_size", "block_size", "n_layer", "n_head", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        check(self)


LEARNING_RATES = {"muon": 0.04, "adamw": 0.002}

PRESETS = {
    # 10.8M parameters that learn characters: one GPU, minutes
    "gpu": dict(tokenizer="char", n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                steps=2000, lr=0.02, rest_lr=0.003, fused=True, max_new_tokens=1000),
    # the size of the published GPT-2, from scratch, on much text of your own: one GPU, hours
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=32, grad_accum=4,
                 steps=5000, vocab_size=16384, dropout=0.1, lr=0.02, rest_lr=0.003, fused=True),
    # Shakespeare's characters to nanoGPT's loss on a CPU, as soon as possible
    "speedrun": dict(tokenizer="char", n_embd=128, steps=180, dropout=0.0),
    # go on from --init_from in small steps: published weights know most of it already
    "finetune": dict(optimizer="adamw", lr=5e-5, stable_frac=0.0, steps=100, batch_size=4,
                     block_size=256, dropout=0.1, eval_every=50, sample_every=50, log_every=5),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "block_size", "n_layer", "n_head", "n_embd", "batch_size", "grad_accum")
    require_positive(cfg, "max_new_tokens", "num_samples", "top_p")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(0 <= cfg.dropout < 1, f"--dropout={cfg.dropout} must be from 0 to below 1")
    require(0 <= cfg.stable_frac < 1, f"--stable_frac={cfg.stable_frac} must be from 0 to below 1")
    require(cfg.temperature >= 0, f"--temperature={cfg.temperature} must not be negative")
    require(cfg.top_k >= 0, f"--top_k={cfg.top_k} must not be negative")


# ---- optimisers and the learning rate

def make_optimizers(model, cfg) -> list:
    """[Muon for the weight matrices of the blocks, AdamW for the rest], or [AdamW for all]."""
    lr = cfg.lr or LEARNING_RATES[cfg.optimizer]
    rest = list(model.parameters())
    rest_lr = lr
    optimizers = []
    if cfg.optimizer == "muon":
        qkv = [block.attn.c_attn.weight for block in model.h]
        matrices = [p for p in model.h.parameters() if p.ndim == 2]
        matrices = without(matrices, qkv)
        groups = [{"params": matrices},
                  {"params": qkv, "n_matrices": 3}]             # q, k and v, stored as one
        optimizers.append(Muon(groups, lr, cfg.momentum, cfg.weight_decay))
        rest = without(rest, qkv + matrices)
        rest_lr = cfg.rest_lr
    groups = [{"params": [p for p in rest if p.ndim == 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
    betas = (0.9, cfg.beta2)
    optimizers.append(torch.optim.AdamW(groups, lr=rest_lr, betas=betas, fused=cfg.fused))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def without(parameters: list, others: list) -> list:
    """The parameters that are not among the others."""
    ids = {id(p) for p in others}
    return [p for p in parameters if id(p) not in ids]


def lr_factor(step: int, cfg) -> float:
    """The learning rate as a fraction of its peak: it rises, stays, and falls to 0 in a line."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)         # 0 -> 1
    return 1 - max(0.0, progress - cfg.stable_frac) / (1 - cfg.stable_frac)


def set_learning_rate(optimizers: list, factor: float):
    """Set every learning rate to this fraction of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]


# ---- training

def backward(net, x, y, parts: int) -> float:
    """Add the gradient of the loss on the batch x, y (B, T) to the parameters; returns the loss.

    The batch is computed in equal parts, one after the other, whose gradients add up.
    """
    loss = 0.0
    for i, (x_i, y_i) in enumerate(zip(x.chunk(parts), y.chunk(parts))):
        net.require_backward_grad_sync = i == parts - 1         # processes average once, at the end
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            loss_i = next_token_loss(net(x_i), y_i)
        (loss_i / parts).backward()
        loss += loss_i.item() / parts
    return loss


def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: a run that goes on has its own, and published weights bring their sizes
    checkpoint = None
    if cfg.resume:
        checkpoint = load_checkpoint(f"{cfg.out_dir}/checkpoint.pt", "gpt")
        cfg = merge_config(cfg, checkpoint)
    elif cfg.init_from:
        checkpoint = read_gpt(cfg.init_from, longest_context=cfg.block_size)
        cfg = merge_config(cfg, checkpoint)
    device = pick_device(cfg.device)
    rank, n_processes = start_processes(device)                 # 0 and 1 without torchrun
    require(cfg.batch_size % (cfg.grad_accum * n_processes) == 0,
            f"--batch_size={cfg.batch_size} must be a multiple of --grad_accum={cfg.grad_accum} "
            f"times {n_processes} process(es)")

    # the model and its tokenizer: new, or as they were
    text = read_text(cfg.data)
    torch.manual_seed(cfg.seed)
    if checkpoint is None:
        tokenizer = make_tokenizer(cfg.tokenizer, text, cfg.vocab_size)
        model = GPT(cfg, tokenizer.vocab_size)
    else:
        model, tokenizer = from_checkpoint(checkpoint, cfg)
    model = model.to(device)
    encode_prompt(cfg.prompt, tokenizer, cfg.block_size)        # refused now, not after training

    # data
    train_tokens, val_tokens = encode_split(tokenizer, text, cfg.block_size, device)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # the same in all processes

    # optimisers
    optimizers = make_optimizers(model, cfg)
    torch.manual_seed(cfg.seed + rank)                          # dropout differs between processes
    if cfg.resume:
        restore(checkpoint, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model
    net = data_parallel(net)

    columns = ["loss", "lr", "val_loss"]
    with (matmul_precision(cfg.matmul),
          Run(cfg, "gpt", model, columns, checkpoint if cfg.resume else None, rank) as run):
        V = model.wte.num_embeddings
        run.say(f"{len(train_tokens):,} tokens to learn from, {len(val_tokens):,} held out")
        run.say(f"step 0: a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        val_loss = None
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, lr_factor(step, cfg))
            # batch
            x, y = get_batch(train_tokens, cfg.block_size, cfg.batch_size, data_rng)
            x, y = my_share(x, y)
            # loss and backward
            loss = backward(net, x, y, cfg.grad_accum)
            run.check_finite(step, loss=loss)
            # step
            if cfg.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # log; now and then evaluate, sample, save
            done = step + 1
            with run.untimed():
                val_loss = None
                if run.due(done, cfg.eval_every):
                    val_loss = estimate_loss(model, val_tokens)
                    run.check_finite(done, val_loss=val_loss)
                if val_loss is not None or run.due(done, cfg.log_every):
                    lr = optimizers[0].param_groups[0]["lr"]
                    run.log(done, loss=loss, lr=lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every):
                    written = write_texts(model, tokenizer, generate_with_cache)[0]
                    run.write_sample(done, ".txt", written.encode())
                stopping = run.stopping(done)
                if val_loss is not None or stopping:
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state())
            if stopping and done < cfg.steps:
                return run.leave(done)

        if val_loss is None:                                    # resumed after the last step
            val_loss = estimate_loss(model, val_tokens)
        written = write_texts(model, tokenizer, generate_with_cache)[0]
        scores = text_scores(val_loss * (len(val_tokens) - 1), train_tokens, val_tokens, V,
                             split_text(text), written[len(cfg.prompt):])
        run.say(f"\n{written}\n\n{text_report(**scores)}")
        return run.finish(**scores)


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, tokenizer) of a checkpoint; cfg becomes the model's config."""
    model = GPT(cfg, len(checkpoint["model"]["wte.weight"]))
    model.load_state_dict(checkpoint["model"])
    return model, load_tokenizer(checkpoint["tokenizer"])


def load(cfg):
    """(model, tokenizer) of --init_from if it is given, else as trained in --out_dir."""
    if cfg.init_from:
        checkpoint = read_gpt(cfg.init_from)
        cfg = merge_config(cfg, checkpoint)
    else:
        cfg, checkpoint = own_checkpoint(cfg, "gpt")
    model, tokenizer = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), tokenizer


def sample(cfg: Config) -> list:
    """Print continuations of --prompt, and how much of them is copied from the training text."""
    model, tokenizer = load(cfg)
    with fast_vectors(model):                                   # on a CPU: the same text, faster
        texts = write_texts(model, tokenizer, generate_with_cache, show=True)
    if not cfg.init_from:
        print_copying(texts, model.cfg.prompt, model.cfg.data)
    return texts


def evaluate(cfg: Config) -> dict:
    """What does context buy? The study mini/studies/context.py; also in evaluate.json."""
    from mini.studies.context import loss_by_context
    model, tokenizer = load(cfg)
    return loss_by_context(model, tokenizer)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        memory="--batch_size, or raise --grad_accum")


if __name__ == "__main__":
    main()
