"""GPT-2: a Transformer decoder that learns to write by predicting the next token.

By the chain rule p(x₁ … xₙ) = Π p(xₜ | x₁ … xₜ₋₁), so a model of the next token is a model of whole texts.
The causal mask lets all positions learn at once: none sees what comes after it. The loss:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)      in nats; a model that knows nothing scores ln V

Papers: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Vaswani et al. 2017.
Departure: Muon (Jordan et al. 2024) trains the weight matrices, in a fraction of AdamW's steps.

    python train_gpt.py                                 our own tales
    python train_gpt.py --data=my_novel.txt             your own text
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
from mini.data.weights import load_weights, starting_point
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import pick_device, start_processes
from mini.utils.fast_vectors import fast_vectors
from mini.utils.run import Run, restore
from mini.utils.text import encode_prompt, pick, print_copying, print_texts


@dataclass
class Config(RunConfig):
    # data
    data: str = "tales"            # tales, shakespeare, or your own: a UTF-8 file or a folder of .txt files
    tokenizer: str = "bpe"         # char, bpe (trained on the data), or a folder with GPT-2's tokenizer
    vocab_size: int = 1024         # tokens of the bpe tokenizer
    # model
    block_size: int = 64           # T, the context: how many tokens the model sees at once
    n_layer: int = 4               # blocks
    n_head: int = 4                # attention heads per block
    n_embd: int = 192              # C, the width
    # optimisation
    steps: int = 700               # optimiser steps
    batch_size: int = 32           # sequences per step, over all processes
    grad_accum: int = 1            # compute the batch in so many parts: the same gradient in less memory
    # Muon for weight matrices (AdamW for the rest), or AdamW
    optimizer: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.04          # Muon's peak learning rate
    lr: float = 0.01               # AdamW's peak learning rate
    warmup: int = 3                # steps until the rate is at its peak
    schedule: Literal["linear", "cosine"] = "linear"  # how the rate falls after the warm-up
    hold: float = 0.4              # linear only: the fraction of the run after the warm-up without a fall
    final_lr: float = 0.0          # learning rate at the end, as a fraction of the peak
    momentum: float = 0.85         # Muon's: how much of the old direction is kept
    beta2: float = 0.99            # AdamW's: how much of the old mean squared gradient is kept
    weight_decay: float = 0.0      # of weight matrices and embeddings
    grad_clip: float = 1.0         # largest norm of the gradient (0: no limit)
    dropout: float = 0.2           # of embeddings, attention weights, and what blocks add to the stream
    # run
    out_dir: str = "runs/gpt"      # folder of the run
    init_from: str = ""            # begin with these weights: a checkpoint.pt, or GPT-2's model.safetensors
    fused: bool = False            # torch's fused attention and AdamW instead of the written-out ones
    # sampling
    prompt: str = ""               # text to continue
    tokens: int = 250              # tokens to write
    samples: int = 1               # texts to write
    temperature: float = 0.6       # 0: always the likeliest token; 1: as the model believes; above: wilder
    top_k: int = 0                 # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0             # draw from the likeliest tokens that together have this probability
    cache: bool = True             # keep past keys and values: the same text, faster

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("tokenizer", "vocab_size", "block_size", "n_layer", "n_head", "n_embd")


PRESETS = {
    "gpu": dict(tokenizer="char", n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, steps=2000,
                muon_lr=0.02, lr=0.003, fused=True, tokens=1000),
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=32, grad_accum=4, steps=5000,
                 vocab_size=16384, dropout=0.1, muon_lr=0.02, lr=0.003, fused=True),
    "nanogpt-cpu": dict(tokenizer="char", n_embd=128, batch_size=12, steps=2000, optimizer="adamw", lr=1e-3,
                        final_lr=0.1, schedule="cosine", warmup=100, weight_decay=0.1, dropout=0.0),
    "speedrun": dict(tokenizer="char", n_embd=128, steps=180, dropout=0.0),
    "finetune": dict(optimizer="adamw", lr=5e-5, hold=0.0, steps=100, batch_size=4, block_size=256,
                     dropout=0.1, eval_every=50, sample_every=50, log_every=5),
}


# ---- the network
class CausalSelfAttention(nn.Module):
    """Every position reads from the positions up to itself: softmax(q kᵀ/√hs + mask) v, in n_head heads."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head, self.p, self.fused = cfg.n_head, cfg.dropout, cfg.fused
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, mask, past=None, n=0):     # past: (2, B, nh, block_size, hs), n tokens of it in use
        B, T, C = x.shape
        nh, hs = self.n_head, C // self.n_head
        qkv = self.c_attn(x).view(B, T, 3, nh, hs).permute(2, 0, 3, 1, 4)   # (B, T, 3C) -> (3, B, nh, T, hs)
        q, k, v = qkv                                           # (B, nh, T, hs) each
        if past is not None:                                    # k, v of the n tokens before: S = n + T keys
            past[:, :, :, n:n + T] = qkv[1:]
            k, v = past[:, :, :, :n + T]                        # (B, nh, S, hs)
        if self.fused:      # is_causal would let query t see the first t keys only: wrong once n > 0
            y = F.scaled_dot_product_attention(q, k, v, is_causal=n == 0, attn_mask=mask if n else None,
                                               dropout_p=self.p if self.training else 0.0)
        else:
            att = (q / math.sqrt(hs)) @ k.transpose(2, 3) + mask            # (B, nh, T, S)
            y = self.dropout(F.softmax(att, dim=-1)) @ v                    # (B, nh, T, S) @ (B, nh, S, hs)
        y = y.transpose(1, 2).reshape(B, T, C)                  # (B, nh, T, hs) -> (B, T, C)
        return self.dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Pre-norm: the residual stream x itself is never normalised, only what attention and MLP read of it."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(cfg.n_embd), CausalSelfAttention(cfg)
        self.ln_2, self.mlp = nn.LayerNorm(cfg.n_embd), MLP(cfg)

    def forward(self, x, mask, past=None, n=0):
        x = x + self.attn(self.ln_1(x), mask, past, n)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """The whole network. Its parameters have the names of the published GPT-2 weights."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        C, L = cfg.n_embd, cfg.n_layer
        require(min(C, L, cfg.n_head, cfg.block_size) > 0 == C % cfg.n_head and 0 <= cfg.dropout < 1,
                f"--n_embd={C} must be a multiple of --n_head, every size at least 1, dropout below 1")
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, C)                  # what a token means
        self.wpe = nn.Embedding(cfg.block_size, C)              # where it stands
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList(Block(cfg) for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        self.lm_head = nn.Linear(C, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight                   # tied: one matrix reads and writes tokens
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):                  # 2L branches add up in the residual stream
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * L))
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx, targets=None, cache=None, n=0):
        """Logits (B, T, V) for tokens idx (B, T), and the mean loss in nats for targets (B, T) if given.

        With a cache (see new_cache), idx are the new tokens only; the n before them are in the cache.
        """
        T = idx.size(1)
        x = self.dropout(self.wte(idx) + self.wpe.weight[n:n + T])              # (B, T, C)
        mask = torch.full((T, n + T), -math.inf, device=idx.device).triu(n + 1)  # t sees keys ≤ n + t
        for i, block in enumerate(self.h):
            x = block(x, mask, None if cache is None else cache[i], n)
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    def new_cache(self, B: int):
        """Room for the keys and values of a whole context: (n_layer, 2, B, nh, block_size, hs)."""
        c = self.cfg
        return self.wpe.weight.new_empty(c.n_layer, 2, B, c.n_head, c.block_size, c.n_embd // c.n_head)


# ---- optimisers, and the learning rate as a function of the step
class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024): a matrix moves along U Vᵀ, where U S Vᵀ is the singular
    value decomposition of its momentum; so rare directions are learnt as fast as frequent ones."""

    def __init__(self, params, lr, momentum, weight_decay):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if "m" not in self.state[p]:
                    self.state[p]["m"] = torch.zeros_like(p)
                m = self.state[p]["m"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"])           # Nesterov: look one step ahead
                rows, columns = p.shape
                g = g.view(3 if rows == 3 * columns else 1, -1, columns)    # c_attn: (3C, C) -> q, k, v
                scale = math.sqrt(max(1, g.size(1) / columns))  # so that tall matrices change outputs as much
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(orthogonalise(g).view_as(p), alpha=group["lr"] * scale)


def orthogonalise(G, steps: int = 5):
    """U Vᵀ, nearly, for matrices G = U S Vᵀ (N, rows, columns): Newton–Schulz iteration s ← a·s + b·s³ +
    c·s⁵, on all singular values s at once, takes those in (0, 1] near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315                           # Jordan's: steep at 0; s ends in 1 ± 0.3
    X = G if G.size(1) <= G.size(2) else G.mT
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)             # b·A + c·A A
        X = torch.baddbmm(X, B, X, beta=a)                      # a·X + B X
    return X if G.size(1) <= G.size(2) else X.mT


def make_optimizers(model, cfg):
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest."""
    hidden = [p for p in model.h.parameters() if p.ndim == 2] if cfg.optimizer == "muon" else []
    others = [p for p in model.parameters() if not any(p is q for q in hidden)]
    groups = [{"params": [p for p in others if p.ndim == 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0}]       # biases and norms
    optimizers = [torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, cfg.beta2), fused=cfg.fused)]
    return optimizers + ([Muon(hidden, cfg.muon_lr, cfg.momentum, cfg.weight_decay)] if hidden else [])


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak: linear warm-up, then a fall to final_lr."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    t = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)    # 0 -> 1
    linear, cosine = max(0.0, t - cfg.hold) / max(1e-9, 1 - cfg.hold), (1 - math.cos(math.pi * t)) / 2
    return 1 - (1 - cfg.final_lr) * (cosine if cfg.schedule == "cosine" else linear)


# ---- batches, and the loss on held-out text
def draw_batch(tokens, T: int, B: int, generator):
    """B random pieces of the text, x (B, T), and the same pieces one token later, y (B, T)."""
    start = torch.randint(len(tokens) - T, (B,), generator=generator)
    pieces = tokens[(start[:, None] + torch.arange(T + 1)).to(tokens.device)]   # (B, T + 1)
    return pieces[:, :-1], pieces[:, 1:]


@torch.no_grad()
def held_out_loss(model, tokens, at_once: int = 4096):
    """Loss in nats summed at each position of the context, and how many tokens were predicted there: two
    tensors (T,). It predicts tokens[1:] in consecutive windows, each begun with an empty context."""
    model.eval()
    T = model.cfg.block_size
    pad = -(len(tokens) - 1) % T            # fills up the last window, ignored in the loss
    x = F.pad(tokens[:-1], (0, pad)).view(-1, T)
    y = F.pad(tokens[1:], (0, pad), value=-100).view(-1, T)
    total = torch.zeros(T, dtype=torch.float64)
    for x_i, y_i in zip(x.split(max(1, at_once // T)), y.split(max(1, at_once // T))):
        logits = model(x_i)[0].float()
        loss = F.cross_entropy(logits.flatten(0, 1), y_i.flatten(), ignore_index=-100, reduction="none")
        total += loss.view(-1, T).sum(0).cpu()                  # (B·T,) -> (T,)
    model.train()
    return total, (y >= 0).sum(0).cpu()


# ---- sampling
@torch.inference_mode()
def generate(model, idx, n_tokens: int, temperature=1.0, top_k=0, top_p=1.0, generator=None, use_cache=True):
    """Continue the tokens idx (B, T); yields each new column (B,) as soon as it is drawn.

    A full context starts afresh from its last half: positions are absolute, so it cannot slide.
    """
    model.eval()
    start, cache, n = 0, None, 0                # it sees idx[:, start:], n of them cached
    for _ in range(n_tokens):
        if idx.size(1) - start > model.cfg.block_size:
            start, cache, n = idx.size(1) - max(1, model.cfg.block_size // 2), None, 0
        if use_cache and cache is None:
            cache = model.new_cache(len(idx))
        logits, _ = model(idx[:, start + n:], cache=cache, n=n)                 # (B, T, V)
        token = pick(logits[:, -1].float().cpu(), temperature, top_k, top_p, generator).to(idx.device)
        n = idx.size(1) - start if use_cache else 0
        idx = torch.cat([idx, token[:, None]], dim=1)
        yield token


# ---- the run
def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state, tokenizer, weights = starting_point(cfg, cfg.resume)
    device = pick_device(cfg.device)
    rank, world = start_processes(device)
    torch.manual_seed(cfg.seed)
    text = read_text(cfg.data)
    tokenizer = tokenizer or make_tokenizer(cfg.tokenizer, text, cfg.vocab_size)
    tokens, held_out = encode_split(tokenizer, text, cfg.block_size, device)
    encode_prompt(cfg, tokenizer)                               # refuses a wrong one now, not after hours
    model = load_weights(GPT(cfg, tokenizer.vocab_size), weights).to(device)
    torch.manual_seed(cfg.seed + rank)                          # dropout differs between processes
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # alike in all processes: each takes its share
    if state:
        restore(state, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model
    net = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    B, parts, V, bf16 = cfg.batch_size, cfg.grad_accum, tokenizer.vocab_size, device.type == "cuda"
    require(B > 0 and parts > 0 and B % (parts * world) == 0,
            f"--batch_size={B} must be a multiple of --grad_accum={parts} times {world} process(es)")

    with Run(cfg, "gpt", model, ["loss", "lr", "val_loss"], state, rank) as run:
        run.say(f"{len(tokens):,} tokens to learn from, {len(held_out):,} held out\n"
                f"step 0: a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = factor * (cfg.muon_lr if isinstance(optimizer, Muon) else cfg.lr)
            # batch; this process's share of it
            x, y = draw_batch(tokens, cfg.block_size, B, data_rng)
            x, y = x[rank::world], y[rank::world]
            # loss and backward, in grad_accum parts
            loss = 0.0
            for i, (x_i, y_i) in enumerate(zip(x.chunk(parts), y.chunk(parts))):
                net.require_backward_grad_sync = i == parts - 1     # processes average their gradients once
                with torch.autocast("cuda" if bf16 else "cpu", torch.bfloat16, enabled=bf16):
                    _, loss_i = net(x_i, y_i)
                (loss_i / parts).backward()
                loss += loss_i.item() / parts
            run.check_finite(step, loss=loss)
            # step
            if cfg.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # log; now and then evaluate, sample, save
            done, val_loss = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_loss = held_out_loss(model, held_out)[0].sum().item() / (len(held_out) - 1)
                    run.check_finite(done, val_loss=val_loss)
                if val_loss or run.due(done, cfg.log_every):
                    run.log(done, loss=loss, lr=factor * cfg.lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", write(model, tokenizer, cfg)[0].encode())
                stop = run.stopping(done)
                if val_loss or stop:
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state())
            if stop and done < cfg.steps:
                return run.leave(done)

        total, sample = held_out_loss(model, held_out)[0].sum().item(), write(model, tokenizer, cfg)[0]
        scores = metrics.text_scores(total, tokens, held_out, V, split_text(text), sample[len(cfg.prompt):])
        run.say(f"\n{sample}\n\n{metrics.text_report(**scores)}")
        return run.finish(**scores)


def write(model, tokenizer, cfg, show: bool = False) -> list:
    """cfg.samples continuations of cfg.prompt, the same at every call; with `show`, printed as they come."""
    ids = torch.tensor([encode_prompt(cfg, tokenizer)] * cfg.samples)
    generator = torch.Generator().manual_seed(cfg.seed)
    columns = generate(model, ids.to(model.wte.weight.device), cfg.tokens, cfg.temperature, cfg.top_k,
                       cfg.top_p, generator, cfg.cache)
    texts = print_texts(tokenizer, columns, cfg.prompt, show)
    model.train()           # generate() left it in eval mode
    return texts


def load(cfg):
    """(model, tokenizer, config) as trained in out_dir, or from --init_from."""
    cfg, _, tokenizer, weights = starting_point(cfg, not cfg.init_from, whole_context=True)
    model = load_weights(GPT(cfg, tokenizer.vocab_size), weights)
    return model.to(pick_device(cfg.device)), tokenizer, cfg


def sample(cfg: Config) -> list:
    """Print continuations of --prompt, and how much of them is copied from the training text."""
    model, tokenizer, cfg = load(cfg)
    with fast_vectors(model):
        texts = write(model, tokenizer, cfg, show=True)
    if not cfg.init_from:
        print_copying(texts, cfg.prompt, cfg.data)
    return texts


def evaluate(cfg: Config) -> dict:
    """What looking back buys: held-out loss by the number of tokens before; also in evaluate.json."""
    model, tokenizer, cfg = load(cfg)
    _, held_out = encode_split(tokenizer, read_text(cfg.data), cfg.block_size, model.wte.weight.device)
    table = metrics.by_position(*held_out_loss(model, held_out))
    return metrics.print_tables(cfg, loss_after_so_many_tokens=table)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, memory="--batch_size, or raise --grad_accum")


if __name__ == "__main__":
    main()
