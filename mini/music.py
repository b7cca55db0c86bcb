"""Music Transformer: a language model of piano music, with relative attention.

A piece is a sequence of events: a key goes down, a key goes up, time passes, the loudness changes. A model of
the next event is a model of music, just as a model of the next word is a model of texts. The loss is GPT's:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)      in nats; a model that knows nothing scores ln V

The new idea is how positions enter. Music repeats itself: it matters little where an event stands, but much how
far back a similar event was. So no position is added to x. Instead, each head learns a vector eᵣ for each
distance r:

    logit(i, j) = qᵢ · (kⱼ + eᵢ₋ⱼ) / √hs      for the keys j ≤ i, at most T − 1 back

One product and a skew give all qᵢ · eᵢ₋ⱼ (§3.4 of the paper), without a tensor of shape (T, T, hs). Nothing
depends on where the piece began, so the window can slide along a piece that is longer than the window.

Papers: Huang et al. 2018, "Music Transformer"; Oore et al. 2018 (the events). Departures: pre-norm; Muon
trains the matrices (see train_gpt.py); the window slides when it is full.

    python -m mini.music                                        our own tunes
    python -m mini.music --data=my_midis --transpose=5          your folder of .mid files, moved to other keys
    python -m mini.music sample --wav                           .mid, piano roll, and sound
    python -m mini.music sample --primer=piece.mid --primer_seconds=8
    python -m mini.music evaluate                               the loss by the number of events before

Measured times and scores: README.md. Read before: train_gpt.py; what is new here:
git diff --no-index train_gpt.py mini/music.py. Read next: mini/assistant.py.
"""
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.music import midi
from mini.data.music.music_scores import music_report, music_scores
from mini.data.music.tunes import begin_with, read_corpus, save_piece, to_tokens
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.fast_vectors import fast_vectors
from mini.utils.optim import Muon
from mini.utils.run import Run, own_checkpoint, restore


@dataclass
class Config(RunConfig):
    # data
    data: str = "tunes"            # tunes, or a folder of .mid files
    pieces: int = 6000             # number of tunes to make, a tenth of them held out
    transpose: int = 0             # training pieces are raised or lowered at random, by up to so many semitones
    # model
    block_size: int = 384          # T, the window: the number of events that the model sees at once
    n_layer: int = 4               # blocks
    n_head: int = 4                # attention heads in each block
    n_embd: int = 128              # C, the width
    # optimisation
    steps: int = 2200              # optimiser steps
    batch_size: int = 10           # sequences in a step
    muon_lr: float = 0.04          # Muon's peak learning rate, for the matrices of the blocks
    lr: float = 0.01               # AdamW's peak learning rate, for all other parameters
    warmup: int = 10               # steps in which the learning rate rises to its peak
    hold: float = 0.4              # then it stays there for this fraction of the rest, and falls to 0
    momentum: float = 0.85         # of Muon: the weight of old gradients in their moving average
    beta2: float = 0.99            # of AdamW: the weight of old squared gradients in their average
    grad_clip: float = 1.0         # a longer gradient is scaled down to this norm (0: never)
    dropout: float = 0.0           # of embeddings, attention weights, and what blocks add to x
    # run
    out_dir: str = "runs/music"    # folder of the run
    # held-out pieces to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    primer: str = ""               # a .mid file whose beginning is continued ("": none)
    primer_seconds: float = 8.0    # length of this beginning in seconds
    tokens: int = 800              # events to write at most; a piece may end earlier
    samples: int = 4               # pieces to write
    temperature: float = 0.9       # 0: always the likeliest event; 1: the model's probabilities
    top_k: int = 0                 # draw from the k likeliest events only (0: all)
    top_p: float = 0.95            # draw from the fewest events that together have this probability
    cache: bool = True             # keep past keys and values: the same music, faster
    wav: bool = False              # also write the pieces as sound

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("pieces", "transpose", "block_size", "n_layer", "n_head", "n_embd")


PRESETS = {"gpu": dict(n_layer=6, n_head=8, n_embd=512, block_size=1024, batch_size=16, steps=5000,
                       muon_lr=0.02, lr=0.003, dropout=0.2, transpose=3, tokens=2000)}


# ---- the network
def skew(x):
    """Move the products with every distance, (…, T, S), to the columns of their keys: out[t, j] =
    x[t, T − 1 − t + j].

    Column c of x belongs to the distance S − 1 − c. Row t must move T − 1 − t places to the left, one place less
    than the row above it. So a column of padding is added, which makes the rows longer by one. All numbers are
    then written in one line, and the line, without its first T numbers, is cut into rows of the old length. What
    moves in at the end of a row belongs to keys after the query, which the mask hides.
    """
    *rest, T, S = x.shape
    x = F.pad(x, (1, 0)).flatten(-2)                            # (…, T, S) -> (…, T·(S + 1))
    return x[..., T:].view(*rest, T, S)                         # (…, T·S) -> (…, T, S)


class RelativeAttention(nn.Module):
    """softmax((q kᵀ + skew(q Eᵀ))/√hs + mask) v, in n_head heads."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.E = nn.Parameter(torch.randn(cfg.n_head, cfg.block_size, cfg.n_embd // cfg.n_head) * 0.02)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, mask, past=None):      # past: keys and values before x, (2, B, nh, n, hs)
        B, T, C = x.shape
        nh, hs = self.n_head, C // self.n_head
        qkv = self.c_attn(x).view(B, T, 3, nh, hs).permute(2, 0, 3, 1, 4)   # (B, T, 3C) -> (3, B, nh, T, hs)
        q, kv = qkv[0] / math.sqrt(hs), qkv[1:]
        if past is not None:
            kv = torch.cat([past, kv], dim=3)                   # (2, B, nh, S, hs), S = n + T keys
        k, v = kv
        # E's last row is for distance 0; zeros stand for distances that are masked
        S = k.size(2)
        E = F.pad(self.E, (0, 0, max(0, S - self.E.size(1)), 0))[:, -S:]    # (nh, S, hs)
        att = q @ k.transpose(2, 3) + skew(q @ E.transpose(1, 2))           # (B, nh, T, S)
        att = F.softmax(att + mask, dim=-1)
        y = self.dropout(att) @ v                               # (B, nh, T, S) @ (B, nh, S, hs)
        y = y.transpose(1, 2).reshape(B, T, C)                  # (B, nh, T, hs) -> (B, T, C)
        return self.dropout(self.c_proj(y)), kv


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Pre-norm: x itself is never normalised, only the copies of it that attention and MLP read."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(cfg.n_embd), RelativeAttention(cfg)
        self.ln_2, self.mlp = nn.LayerNorm(cfg.n_embd), MLP(cfg)

    def forward(self, x, mask, past=None):
        y, kv = self.attn(self.ln_1(x), mask, past)
        x = x + y
        x = x + self.mlp(self.ln_2(x))
        return x, kv


class MusicTransformer(nn.Module):
    """The whole network: GPT without an embedding of positions."""

    def __init__(self, cfg, vocab_size: int = midi.VOCAB_SIZE):
        super().__init__()
        C, L = cfg.n_embd, cfg.n_layer
        require(min(C, L, cfg.n_head, cfg.block_size, cfg.batch_size) > 0 == C % cfg.n_head
                and 0 <= cfg.dropout < 1,
                f"--n_embd={C} must be a multiple of --n_head, every size at least 1, dropout below 1")
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, C)                  # a vector for each event
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList(Block(cfg) for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        self.lm_head = nn.Linear(C, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight                   # tied: one matrix for both
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):                  # smaller, since 2L branches add up in x
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * L))
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx, targets=None, cache=None):
        """(logits (B, T, V) of the next token after each of idx (B, T), the mean loss in nats for targets
        (B, T), if given).

        A cache is a list, empty at first, which this call fills. With it, idx holds the new tokens only; the
        keys and values of earlier tokens, as many as the window holds, are in the cache.
        """
        T, W = idx.size(1), self.cfg.block_size
        n = cache[0].size(3) if cache else 0                    # number of keys in the cache
        x = self.dropout(self.wte(idx))                                         # (B, T, C)
        back = n + torch.arange(T, device=idx.device)[:, None] - torch.arange(n + T, device=idx.device)
        mask = torch.zeros(T, n + T, device=idx.device).masked_fill((back < 0) | (back >= W), -math.inf)
        for i, block in enumerate(self.h):
            x, kv = block(x, mask, cache[i] if n else None)
            if cache is not None:
                cache[i:i + 1] = [kv[:, :, :, max(0, n + T - W + 1):]]          # what the next token will see
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


# ---- optimisers, and the learning rate as a function of the step
def make_optimizers(model, cfg):
    """[AdamW, Muon]: Muon for the matrices inside the blocks, AdamW for all other parameters."""
    qkv = [block.attn.c_attn.weight for block in model.h]
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    matrices = [p for p in matrices if not any(p is q for q in qkv)]
    rest = [p for p in model.parameters() if not any(p is q for q in matrices + qkv)]
    groups = [{"params": matrices}, {"params": qkv, "n_matrices": 3}]   # q, k and v, stored as one
    return [torch.optim.AdamW(rest, lr=cfg.lr, betas=(0.9, cfg.beta2), weight_decay=0.0),
            Muon(groups, cfg.muon_lr, cfg.momentum)]


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak: it rises, stays, and falls linearly to 0."""
    t = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)    # 0 -> 1
    return min((step + 1) / (cfg.warmup + 1), 1.0, (1 - t) / max(1e-9, 1 - cfg.hold))


# ---- batches, and the loss on held-out pieces
def draw_batch(tokens, T: int, B: int, transpose: int, generator):
    """Random pieces of the music, x (B, T), and the same pieces one event later, y (B, T). Each is raised or
    lowered at random by up to `transpose` semitones, since a tune is the same in another key."""
    start = torch.randint(len(tokens) - T, (B,), generator=generator)
    pieces = tokens[(start[:, None] + torch.arange(T + 1)).to(tokens.device)]   # (B, T + 1)
    if transpose:
        up = torch.randint(-transpose, transpose + 1, (B, 1), generator=generator).to(tokens.device)
        pitch = pieces % midi.NOTE_OFF                          # the same for note-on and note-off
        moved = pieces - pitch + (pitch + up).clamp(0, midi.NOTE_OFF - 1)
        pieces = torch.where(pieces < midi.SHIFT, moved, pieces)
    return pieces[:, :-1], pieces[:, 1:]


@torch.no_grad()
def held_out_loss(model, tokens, at_once: int = 4096):
    """(loss, count), two tensors (T,): the sum of the losses in nats at each position of the window, and how
    many tokens were predicted there. tokens[1:] are predicted in consecutive windows, each of which begins with
    no context."""
    model.eval()
    T = model.cfg.block_size
    pad = -(len(tokens) - 1) % T            # fills up the last window, ignored in the loss
    x = F.pad(tokens[:-1], (0, pad)).view(-1, T)
    y = F.pad(tokens[1:], (0, pad), value=-100).view(-1, T)
    total = torch.zeros(T, dtype=torch.float64)
    progress = metrics.Progress("held-out stretches read:", len(x))
    for x_i, y_i in zip(x.split(max(1, at_once // T)), y.split(max(1, at_once // T))):
        logits = model(x_i)[0].float()
        loss = F.cross_entropy(logits.flatten(0, 1), y_i.flatten(), ignore_index=-100, reduction="none")
        total += loss.view(-1, T).sum(0).cpu()                  # (B·T,) -> (T,)
        progress.add(len(x_i))
    model.train()
    return total, (y >= 0).sum(0).cpu()


# ---- sampling
def sample_token(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one event (B,) for each row of logits (B, V).

    temperature divides the logits: below 1, likely events become likelier; 0 takes the likeliest.
    top_k keeps only the k likeliest events (0: all). top_p keeps the fewest likeliest events that
    together have this probability (1: all); it is nucleus sampling, Holtzman et al. 2020, §3.1.
    """
    if temperature < 1e-6:                                      # dividing by less might overflow
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k > 0:
        top = logits.topk(min(top_k, logits.size(-1))).values   # (B, k), the largest first
        smallest = top[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p < 1:
        p, order = F.softmax(logits, dim=-1).sort(descending=True)
        p_before = p.cumsum(dim=-1) - p                         # of all likelier events
        drop = p_before >= top_p                                # they are enough without it
        drop[:, 0] = False                                      # the likeliest always stays
        drop = torch.zeros_like(drop).scatter(1, order, drop)   # sorted -> by event number
        logits = logits.masked_fill(drop, -math.inf)
    probs = F.softmax(logits, dim=-1)
    return draw(probs, generator)                               # as torch.multinomial does, faster


def draw(probs, generator=None):
    """Draw one token (B,) for each row of probabilities (B, V), as torch.multinomial(probs, 1) does.

    A random number between 0 and 1 falls between two of the sums of the probabilities so far: that
    token is drawn. torch.multinomial draws a random number for each token, and takes seven times as
    long at GPT-2's 50,257 tokens.
    """
    require(probs.isfinite().all(), "probabilities are not finite: training went wrong; lower --lr")
    sums = probs.double().cumsum(dim=-1)                        # (B, V); the last sum is nearly 1
    u = torch.rand(len(probs), 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
    return torch.searchsorted(sums, u, right=True).squeeze(1)   # (B, 1) -> (B,)


@torch.inference_mode()
def generate(model, idx, n_tokens: int, temperature=1.0, top_k=0, top_p=1.0, generator=None, use_cache=True):
    """Continue the tokens idx (B, T); yields each new column (B,) as soon as it is drawn."""
    model.eval()
    cache, new = [] if use_cache else None, idx
    for _ in range(n_tokens):
        logits, _ = model(new, cache=cache)                                     # (B, T, V)
        token = sample_token(logits[:, -1].float().cpu(), temperature, top_k, top_p, generator)
        token = token.to(idx.device)
        new = token[:, None] if use_cache else torch.cat([new, token[:, None]], dim=1)
        yield token


# ---- the run
def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "music", cfg.resume)
    device = pick_device(cfg.device)
    torch.manual_seed(cfg.seed)
    begin_with(cfg)                                             # so that a wrong primer is refused now
    pieces, held_out_pieces, beat = read_corpus(cfg.data, cfg.pieces)
    n_test = metrics.n_to_score(cfg, len(held_out_pieces), "held-out pieces")
    held_out_pieces = held_out_pieces[:n_test]
    tokens, held_out = to_tokens(pieces, device), to_tokens(held_out_pieces, device)
    require(len(tokens) > cfg.block_size, f"only {len(tokens)} events to learn from, too few for a "
            f"window of {cfg.block_size}: bring more music, or lower --block_size")
    model = MusicTransformer(cfg).to(device)
    optimizers = make_optimizers(model, cfg)
    V, data_rng = midi.VOCAB_SIZE, torch.Generator().manual_seed(cfg.seed)
    if state:
        model.load_state_dict(state["model"])
        restore(state, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "music", model, ["loss", "lr", "val_loss"], state) as run:
        run.say(f"{len(tokens):,} events to learn from, {len(held_out):,} held out\n"
                f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg)
            for optimizer, lr in zip(optimizers, (cfg.lr, cfg.muon_lr)):
                for group in optimizer.param_groups:
                    group["lr"] = factor * lr
            # batch
            x, y = draw_batch(tokens, cfg.block_size, cfg.batch_size, cfg.transpose, data_rng)
            # loss and backward
            with autocast(device, cfg.matmul):
                _, loss = net(x, y)
            run.check_finite(step, loss=loss.item())
            loss.backward()
            # step
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # evaluate, log, sample and save, each when it is due
            done, val_loss = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_loss = held_out_loss(model, held_out)[0].sum().item() / (len(held_out) - 1)
                    run.check_finite(done, val_loss=val_loss)
                if val_loss is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every):
                    save_piece(run.folder / "samples" / f"step_{done:06d}", write(model, cfg)[0], beat)
                stop = run.stopping(done)
                if val_loss is not None or stop:
                    run.save(done, model, optimizers, data_rng, beat=beat)
            if stop and done < cfg.steps:
                return run.leave(done)

        run.say(f"scoring {cfg.samples} pieces of the model beside {n_test:,} held-out ones …")
        val_loss = held_out_loss(model, held_out)[0].sum().item() / (len(held_out) - 1)
        scores = {"val_loss": val_loss, "chance": math.log(V),
                  "bigram": metrics.bigram_loss(tokens, held_out, V),
                  "samples": music_scores(write(model, cfg), beat),
                  "corpus": music_scores(held_out_pieces, beat)}
        run.say(music_report(**scores))
        return run.finish(n=n_test, **scores)


def write(model, cfg) -> list:
    """cfg.samples pieces, the same at every call: each is a list of notes, with those of the primer."""
    first = begin_with(cfg)
    ids = torch.tensor([first] * cfg.samples, device=model.wte.weight.device)
    generator = torch.Generator().manual_seed(cfg.seed)
    columns = generate(model, ids, cfg.tokens, cfg.temperature, cfg.top_k, cfg.top_p, generator, cfg.cache)
    progress = metrics.Progress("events written:", cfg.tokens)
    events = []
    for column in columns:
        events.append(column)
        progress.add()
    rows = torch.stack(events, dim=1).tolist()                  # (B, tokens)
    model.train()           # generate() left it in eval mode
    return [midi.decode(first + row) for row in rows]


def load(cfg):
    """(model, seconds per beat, config) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "music")
    model = MusicTransformer(cfg)
    model.load_state_dict(state["model"])
    return model.to(pick_device(cfg.device)), state["beat"], cfg


def sample(cfg: Config) -> list:
    """Write pieces into out_dir, and print how well they keep to a key and a metre."""
    model, beat, cfg = load(cfg)
    with fast_vectors(model):
        pieces = write(model, cfg)
    for i, notes in enumerate(pieces, 1):
        path = Path(cfg.out_dir) / f"sample_{i}"
        save_piece(path, notes, beat, cfg.wav)
        print(f"{path}.mid, .png{', .wav' if cfg.wav else ''}: {len(notes)} notes, "
              f"{max((n.end for n in notes), default=0):.1f} s")
    print(music_report(samples=music_scores(pieces, beat)))
    return pieces


def evaluate(cfg: Config) -> dict:
    """The held-out loss by the number of events that the model has read before; also in evaluate.json."""
    model, _, cfg = load(cfg)
    _, pieces, _ = read_corpus(cfg.data, cfg.pieces)
    pieces = pieces[:metrics.n_to_score(cfg, len(pieces), "held-out pieces")]
    print(f"reading {len(pieces):,} held-out pieces …", flush=True)
    held_out = to_tokens(pieces, model.wte.weight.device)
    table = metrics.by_position(*held_out_loss(model, held_out))
    return metrics.print_tables(cfg, loss_after_so_many_events=table)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd, "
                                      "--pieces or --samples")


if __name__ == "__main__":
    main()
