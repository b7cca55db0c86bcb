"""The multimodal Transformer: an encoder looks at an image, a decoder says in words what is there.

It is the translator with an image in place of the English sentence: the image is cut into patches, which take
the place of the words. The decoder writes the caption y of the image x word by word, p(y|x) =
Π p(yₜ | y₁ … yₜ₋₁, x), and its cross-attention shows where in the image it looked for each word. The loss:

    L = −1/T · Σₜ Σᵥ q(v) log p(v | y₁ … yₜ₋₁, x)       q: 1 − ε for the right word yₜ, and ε spread over all

Papers: Vaswani et al. 2017, "Attention is all you need"; Dosovitskiy et al. 2021, "An image is worth 16×16
words" (ViT: the patches); Xu et al. 2015, "Show, attend and tell" (captions, and where the model looked).
Departures: learnt positions, as in ViT (which, unlike this model, normalises before each sub-layer); the
learning rate falls along half a cosine.

    python -m mini.captioner                            faces and captions, made on the spot
    python -m mini.captioner sample --n=8               held-out faces described; or --image=me.png
    python -m mini.captioner evaluate                   does a beam help? does it look at the right place?
    python -m mini.captioner --data=captions.tsv        your own: an image's path, a tab, its caption

Measured times and scores: README.md.
Read before: mini/translator.py. Read next: train_diffusion.py.
"""
import math
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images import caption_scores
from mini.data.images.captions import FULL, Words, load_captions
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.images import to_float, to_size
from mini.utils.lettering import labelled
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, own_checkpoint, restore

PAD, BOS, EOS = Words.PAD, Words.BOS, Words.EOS


@dataclass
class Config(RunConfig):
    # data
    data: str = "faces"         # faces, or your .tsv file: on each line an image's path, a tab, its caption
    size: int = 32              # height and width of the images in pixels
    n_images: int = 20000       # number of faces to draw for training
    max_len: int = 32           # length of the longest caption in words, commas and colons
    # model
    patch: int = 4              # P, height and width of a patch in pixels
    n_layer: int = 2            # N, layers of the encoder, and of the decoder
    n_head: int = 4             # h, attention heads in each layer
    n_embd: int = 128           # d_model, the width
    d_ff: int = 512             # the width inside the feed-forward networks
    dropout: float = 0.0        # of embeddings, and of what each sub-layer adds to x
    # optimisation
    steps: int = 1500           # optimiser steps
    batch_size: int = 64        # images in a step, each with one of its captions
    lr: float = 1e-3            # Adam's learning rate at the top of the half cosine; the peak is a little lower
    warmup: int = 200           # steps in which the learning rate rises to its peak; then it falls to 0 (half a cosine)
    smoothing: float = 0.1      # ε of label smoothing; with it even a perfect model has a loss (0: none)
    # run
    out_dir: str = "runs/captioner"     # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # held-out images of each set to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    image: str = ""             # picture to describe, of any size ("": n held-out images)
    n: int = 8                  # number of held-out images to describe
    beam: int = 4               # captions that beam search follows at once (1: greedy)
    alpha: float = 0.6          # for beam search: how much longer captions are favoured (0: not at all)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "max_len", "patch", "n_layer", "n_head", "n_embd", "d_ff",
             "dropout")


PRESETS = {"gpu": dict(size=64, n_layer=4, n_head=8, n_embd=256, d_ff=1024, batch_size=256, steps=6000)}


# ---- the network
class Attention(nn.Module):
    """Queries look at the keys that the mask allows, in h heads: softmax(Q Kᵀ/√hs + mask) V (eq. 1)."""

    def __init__(self, cfg):
        super().__init__()
        C, self.n_head = cfg.n_embd, cfg.n_head
        self.q, self.kv, self.out = nn.Linear(C, C), nn.Linear(C, 2 * C), nn.Linear(C, C)
        self.weights = None             # (B, nh, T, S) of the last call outside training, for pictures

    def keys(self, memory):
        """Keys and values (2, B, nh, S, hs) of vectors (B, S, C)."""
        B, S, C = memory.shape
        kv = self.kv(memory).view(B, S, 2, self.n_head, -1)             # (B, S, 2C) -> (B, S, 2, nh, hs)
        return kv.permute(2, 0, 3, 1, 4)                                # -> (2, B, nh, S, hs)

    def forward(self, x, keys, mask=0.0):
        B, T, C = x.shape
        k, v = keys                                                     # (B, nh, S, hs)
        q = self.q(x).view(B, T, self.n_head, -1).transpose(1, 2)       # (B, T, C) -> (B, nh, T, hs)
        att = F.softmax(q @ k.transpose(2, 3) / math.sqrt(q.size(3)) + mask, dim=-1)    # (B, nh, T, S)
        if not self.training:
            self.weights = att
        y = (att @ v).transpose(1, 2).reshape(B, T, C)                  # (B, nh, T, hs) -> (B, T, C)
        return self.out(y)


def feed_forward(cfg):                                                  # eq. 2
    return nn.Sequential(nn.Linear(cfg.n_embd, cfg.d_ff), nn.ReLU(), nn.Linear(cfg.d_ff, cfg.n_embd))


class EncoderLayer(nn.Module):
    """Post-norm: the sum of a sub-layer and its input is normalised, LayerNorm(x + Sublayer(x)) (§3.1)."""

    def __init__(self, cfg):
        super().__init__()
        self.attn, self.ff, self.dropout = Attention(cfg), feed_forward(cfg), nn.Dropout(cfg.dropout)
        self.ln_1, self.ln_2 = nn.LayerNorm(cfg.n_embd), nn.LayerNorm(cfg.n_embd)

    def forward(self, x):
        x = self.ln_1(x + self.dropout(self.attn(x, self.attn.keys(x))))
        return self.ln_2(x + self.dropout(self.ff(x)))


class DecoderLayer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.attn, self.cross, self.ff = Attention(cfg), Attention(cfg), feed_forward(cfg)
        self.ln_1, self.ln_2, self.ln_3 = (nn.LayerNorm(cfg.n_embd) for _ in range(3))
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, y, causal, memory, past=None, n=0):
        keys = self.attn.keys(y)
        if past is not None:            # (2, B, nh, max_len + 1, hs): of the n words before, and of these
            past[:, :, :, n:n + y.size(1)] = keys
            keys = past[:, :, :, :n + y.size(1)]
        y = self.ln_1(y + self.dropout(self.attn(y, keys, causal)))
        y = self.ln_2(y + self.dropout(self.cross(y, memory)))
        return self.ln_3(y + self.dropout(self.ff(y)))


def patches(x, P: int):
    """Images (B, 3, H, W) cut into S = (H/P) · (W/P) squares, row by row, each as a list of numbers:
    (B, S, 3 · P · P). In a list, one channel follows the other, each row by row. (ViT, §3.1)"""
    B, C, H, W = x.shape
    x = x.view(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)    # -> (B, rows, columns, C, P, P)
    return x.reshape(B, -1, C * P * P)                                  # -> (B, S, C · P · P)


class Captioner(nn.Module):
    def __init__(self, cfg, n_target: int):
        super().__init__()
        C = cfg.n_embd
        self.cfg = cfg
        self.embed_x, self.embed_y = nn.Linear(3 * cfg.patch**2, C), nn.Embedding(n_target, C)
        self.positions_x = nn.Parameter(torch.empty((cfg.size // cfg.patch)**2, C))     # of patches
        self.positions_y = nn.Parameter(torch.empty(cfg.max_len + 1, C))                # of words
        self.encoder = nn.ModuleList(EncoderLayer(cfg) for _ in range(cfg.n_layer))
        self.decoder = nn.ModuleList(DecoderLayer(cfg) for _ in range(cfg.n_layer))
        self.dropout = nn.Dropout(cfg.dropout)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.xavier_uniform_(p)
        for table in (self.embed_y.weight, self.positions_x, self.positions_y):         # words are used · √C
            nn.init.normal_(table, std=C**-0.5)

    def embed(self, y, n=0):
        y = self.embed_y(y) * math.sqrt(self.cfg.n_embd)                # (B, T) -> (B, T, C)
        return self.dropout(y + self.positions_y[n:n + y.size(1)])

    def encode(self, x):
        """What the decoder attends to, for images x (B, 3, size, size) in [-1, 1]: for each of its layers keys
        and values (2, B, nh, S, hs) of the S patches. All images have S patches, so there is no PAD."""
        h = self.dropout(self.embed_x(patches(x, self.cfg.patch)) + self.positions_x)           # (B, S, C)
        for layer in self.encoder:
            h = layer(h)
        return [layer.cross.keys(h) for layer in self.decoder]

    def decode(self, y, memory, cache=None, n=0):
        """Logits (B, T, V) of the word after each of the words y (B, T). With a cache (see new_cache), y holds
        the new words only; the n words before them are in the cache. PAD stands after all words, so the causal
        mask hides it."""
        T = y.size(1)
        causal = torch.full((T, n + T), -math.inf, device=y.device).triu(n + 1)     # t sees keys ≤ n + t
        h = self.embed(y, n)                                            # (B, T, C)
        for i, layer in enumerate(self.decoder):
            h = layer(h, causal, memory[i], None if cache is None else cache[i], n)
        return F.linear(h, self.embed_y.weight)                         # tied: the matrix of the embeddings

    def forward(self, x, y):
        return self.decode(y, self.encode(x))

    def new_cache(self, B: int):
        """Room for the keys and values of whole captions: (n_layer, 2, B, nh, max_len + 1, hs)."""
        (L, C), c = self.positions_y.shape, self.cfg
        return self.positions_y.new_empty(c.n_layer, 2, B, c.n_head, L, C // c.n_head)


# ---- the loss, the learning rate as a function of the step, and batches
def loss_of(logits, y, smoothing: float = 0.0):
    """Cross-entropy in nats per word, of logits (B, T, V) for the right words y (B, T). Label smoothing spreads
    a share ε of the target evenly over all words (§5.4). PAD, number 0, is left out everywhere: as a target, in
    the smoothing, and in p."""
    return F.cross_entropy(logits.flatten(0, 1)[:, 1:], y.flatten() - 1, ignore_index=PAD - 1,
                           label_smoothing=smoothing)


def learning_rate(step: int, cfg) -> float:
    """The learning rate at step 0, 1, …: the lower one of a rising line and half a cosine from lr to 0."""
    return cfg.lr * min((step + 1) / max(1, cfg.warmup), (1 + math.cos(math.pi * step / cfg.steps)) / 2)


def draw_batch(x, y, B: int, generator):
    """B images of x (N, 3, H, W), in [-1, 1], each with one of its K captions y (N, K, T): (B, T')."""
    N, K, _ = y.shape
    i, k = torch.randint(N, (B,), generator=generator), torch.randint(K, (B,), generator=generator)
    x, y = x[i.to(x.device)], y[i.to(y.device), k.to(y.device)]
    return to_float(x), y[:, :(y != PAD).sum(1).max()]


# ---- describing
def next_word(model, y, memory, cache):
    """log p (B, V) of the word after y (B, T). The cache, if there is one, holds all words but the last."""
    n = 0 if cache is None else y.size(1) - 1
    logits = model.decode(y[:, n:], memory, cache, n)[:, -1].float()
    logits[:, PAD] = -math.inf                                          # it is no word, and never a target
    return F.log_softmax(logits, dim=1)


@torch.inference_mode()
def greedy(model, x, use_cache: bool = True):
    """Captions (B, T) of x (B, 3, H, W), by always taking the likeliest word, up to EOS. After it comes PAD."""
    model.eval()
    memory = model.encode(x)
    cache = model.new_cache(len(x)) if use_cache else None
    y, done = x.new_full((len(x), 1), BOS, dtype=torch.long), x.new_zeros(len(x), dtype=torch.bool)
    while y.size(1) < len(model.positions_y) + 1 and not done.all():
        word = next_word(model, y, memory, cache).argmax(1).masked_fill(done, PAD)
        y, done = torch.cat([y, word[:, None]], dim=1), done | (word == EOS)
    return y[:, 1:]


@torch.inference_mode()
def beam_search(model, x, k: int, alpha: float = 0.6, use_cache: bool = True):
    """Captions (B, T) of x (B, 3, H, W). For each image the k best beginnings are followed at once, also those
    that have ended. The score is log p(y|x) / ((5 + |y|) / 6)^α (Wu et al. 2016, eq. 14); without the divisor
    short captions would win."""
    model.eval()
    memory = model.encode(x.repeat_interleave(k, dim=0))                # row b·k + i: beginning i of image b
    B, V, cache = len(x), len(model.embed_y.weight), model.new_cache(k * len(x)) if use_cache else None
    y, done = x.new_full((B * k, 1), BOS, dtype=torch.long), x.new_zeros(B * k, dtype=torch.bool)
    length, log_p = torch.zeros_like(y[:, 0]), torch.full((B, k), -math.inf, device=x.device)
    log_p[:, 0] = 0                                                     # all k are alike at first: one counts
    while y.size(1) < len(model.positions_y) + 1 and not done.all():
        new = next_word(model, y, memory, cache)                        # (B·k, V)
        new[done] = -math.inf                                           # after the end comes PAD, with p = 1
        new[done, PAD] = 0
        length = length + ~done
        total = log_p.view(B * k, 1) + new
        score = total / ((5 + length[:, None]) / 6) ** alpha
        best = score.view(B, k * V).topk(k).indices                     # (B·k, V) -> (B, k · V) -> (B, k)
        log_p = total.view(B, k * V).gather(1, best)
        row = (best // V + k * torch.arange(B, device=x.device)[:, None]).flatten()     # the old beginning
        word = (best % V).flatten()                                                     # (B, k) -> (B·k,)
        y, done, length = torch.cat([y[row], word[:, None]], dim=1), done[row] | (word == EOS), length[row]
        cache = cache[:, :, row] if use_cache else None
    return y.view(B, k, -1)[:, 0, 1:]                                   # (B·k, T) -> (B, k, T) -> (B, T)


def describe(model, images, cfg, at_once: int = 256) -> list:
    """Captions of uint8 images (N, 3, H, W) as lists of numbers, by beam search, or greedy if cfg.beam is 1."""
    training, rows = model.training, []
    progress = metrics.Progress("described", len(images))
    for part in images.split(at_once):
        x = to_float(part.to(model.positions_y.device))
        y = greedy(model, x) if cfg.beam == 1 else beam_search(model, x, cfg.beam, cfg.alpha)
        rows += [[i for i in row if i != PAD] for row in y.tolist()]
        progress.add(len(part))
    model.train(training)
    return rows


def write(model, words, images, cfg) -> list:                           # the same, as strings
    return [words.decode(row) for row in describe(model, images, cfg)]


@torch.inference_mode()
def attention_maps(model, words, image, cfg):
    """(words, maps): the words of the caption that the model writes for an image, uint8 (3, H, W), and how much
    each word, when it was written, attended to each patch: (T, H/P, W/P), the mean over all heads of all layers
    of the decoder."""
    ids = [i for i in describe(model, image[None], cfg)[0] if i != EOS]
    y = torch.tensor([[BOS, *ids[:-1]]], device=model.positions_y.device)
    model.eval()(to_float(image[None].to(y.device)), y)
    maps = torch.cat([layer.cross.weights[0] for layer in model.decoder]).mean(0).cpu()         # (T, S)
    return [words.words[i] for i in ids], maps.unflatten(1, (image.size(1) // cfg.patch, -1))


# ---- the run
def load(cfg, resume: bool = True, n_images: int | None = 1):
    """(config, model, words, [training data], held-out data, checkpoint) of the run in out_dir, or of a new run
    if not `resume`. Held-out data: {name: Captioned}. n_images: faces to draw for training (0: no data; None:
    as many as the config says, which may be the checkpoint's)."""
    cfg, state = own_checkpoint(cfg, "captioner", resume)
    if n_images is None:
        n_images = cfg.n_images
    sizes = (cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.d_ff, cfg.max_len, cfg.size, cfg.patch, cfg.batch_size,
             cfg.n_images, cfg.beam, cfg.n)
    require(min(sizes) > 0 == cfg.n_embd % cfg.n_head + cfg.size % cfg.patch,
            f"no size 0; --n_head must divide --n_embd={cfg.n_embd}, --patch={cfg.patch} the --size")
    require(max(cfg.smoothing, cfg.dropout) < 1 and min(cfg.smoothing, cfg.dropout, cfg.alpha) >= 0,
            "--smoothing and --dropout must be at least 0 and below 1, --alpha at least 0")
    parts = load_captions(cfg.data, cfg.size, n_images) if n_images else ()
    for part in parts:                  # for faces, only the captions that name every attribute
        part.captions = [texts[:FULL if part.attributes else None] for texts in part.captions]
    words = Words(state["words"]) if state else Words.of(chain(*parts[0].captions))
    test = {name: p for name, p in zip(("held out", "unseen combinations"), parts[1:]) if len(p.images)}
    torch.manual_seed(cfg.seed)
    model = Captioner(cfg, len(words))
    if state:
        model.load_state_dict(state["model"])
    return cfg, model.to(pick_device(cfg.device)), words, parts[:1], test, state


def to_score(cfg, test: dict) -> dict:
    """Each held-out set {name: Captioned} with as many images as metrics.n_to_score says."""
    n = metrics.n_to_score(cfg, len(test["held out"].images), "held-out images of each set")
    return {name: part.first(n) for name, part in test.items()}


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, model, words, (learn,), test, state = load(cfg, cfg.resume, n_images=None)
    N, K, device = len(learn.images), len(learn.captions[0]), model.positions_y.device
    y = F.pad(words.encode_all(list(chain(*learn.captions)), cfg.max_len), (1, 0), value=BOS)     # (N · K, T)
    x, y, V = learn.images.to(device), y.view(N, K, -1).to(device), len(words) - 1
    examples = test["held out"].images[:cfg.n]
    test = to_score(cfg, test)
    held_out, greedily = test["held out"], replace(cfg, beam=1)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "captioner", model, ["loss", "lr", "right"], state) as run:
        run.say(f"{N:,} images with {K} captions each to learn from; "
                f"{', '.join(f'{len(part.images):,} {name}' for name, part in test.items())}\n"
                f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = optimizer.param_groups[0]["lr"] = learning_rate(step, cfg)
            # batch
            x_b, y_b = draw_batch(x, y, cfg.batch_size, data_rng)
            # loss, backward, step
            with autocast(device, cfg.matmul):
                loss = loss_of(net(x_b, y_b[:, :-1]), y_b[:, 1:], cfg.smoothing)
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            # evaluate, log, sample and save, each when it is due
            done, right = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    lines = write(model, words, held_out.images[:256], greedily)
                    right = caption_scores.share_right(lines, held_out)
                if right is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, right=right)
                if run.due(done, cfg.sample_every):
                    write_png(run.folder / f"samples/step_{done:06d}.png",
                              labelled(examples, write(model, words, examples, greedily)))
                stop = run.stopping(done)
                if right is not None or stop:
                    run.save(done, model, [optimizer], data_rng, words=words.state())
            if stop and done < cfg.steps:
                return run.leave(done)

        n = {name: len(part.images) for name, part in test.items()}
        run.say(f"describing {sum(n.values()):,} held-out images with a beam of {cfg.beam} …")
        scores = {name: caption_scores.scores(write(model, words, p.images, cfg), learn, p)
                  for name, p in test.items()}
        draw_attention(model, words, examples[0], cfg)
        run.say(caption_scores.report(scores, n))
        return run.finish(n=n, scores=scores)


def draw_attention(model, words, image, cfg):
    """Draw into samples/attention.png: an image, and for each word of its caption where the model looked."""
    texts, maps = attention_maps(model, words, image, cfg)
    light = F.interpolate((maps / maps.amax((1, 2), keepdim=True))[:, None], scale_factor=cfg.patch)
    seen = (image * (0.15 + 0.85 * light)).byte()                       # (T, 1, H, W) -> (T, 3, H, W)
    seen = labelled(torch.cat([image[None], seen]), ["", *texts], columns=7, scale=3)
    write_png(f"{cfg.out_dir}/samples/attention.png", seen)


def sample(cfg: Config) -> list:
    """Describe --image, or some held-out images, and draw where the model looked for the first caption."""
    cfg, model, words, _, test, _ = load(cfg, n_images=0 if cfg.image else 1)
    images = to_size(read_image(cfg.image), cfg.size).expand(1, 3, -1, -1) if cfg.image else \
        test["held out"].images[:cfg.n]
    lines = write(model, words, images, cfg)
    write_png(f"{cfg.out_dir}/samples/captions.png", labelled(images, lines))
    draw_attention(model, words, images[0], cfg)
    print(*lines, f"look in {cfg.out_dir}/samples: captions.png; of the first, attention.png", sep="\n")
    return lines


def evaluate(cfg: Config) -> dict:
    """The share of captions that are right, by the width of the beam; for faces also whether the model looks at
    what it names (see caption_scores.places). Also in evaluate.json."""
    (cfg, model, words, _, test, _), tables = load(cfg), {}
    for name, part in to_score(cfg, test).items():
        by_width = tables[f"{name}_right_with_a_beam_of"] = {}
        for k in (1, 2, 4, 8):
            n = len(part.images)
            print(f"describing {n:,} images, {name}, with a beam of {k} …", flush=True)
            lines = write(model, words, part.images, replace(cfg, beam=k))
            by_width[str(k)] = caption_scores.share_right(lines, part)
    if test["held out"].attributes:
        tables |= caption_scores.places(lambda image: attention_maps(model, words, image, cfg),
                                        cfg.size, cfg.patch)
    return metrics.print_tables(cfg, **tables)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --d_ff, --size, "
                                      "--n_images or --beam")


if __name__ == "__main__":
    main()
