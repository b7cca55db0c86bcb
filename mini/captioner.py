"""The multimodal Transformer: an encoder looks at an image, a decoder says what is there.

It is mini/translator.py with an image x in place of the English sentence: the image is cut into
patches, and they take the place of the words. The decoder writes the caption y word by word, p(y|x)
= Πₜ p(yₜ | y₁ … yₜ₋₁, x). Each word looks at those before it (causal self-attention), and at the
vectors of the encoder (cross-attention), which show where in the image it looked. The loss of T
words is, in nats,

    L = −1/T · Σₜ Σᵥ q(v) log p(v | y₁ … yₜ₋₁, x)

where v is any of the V words of captions, and q is what the model should say: the right word yₜ
with probability 1 − ε, and ε spread evenly over all words (label smoothing).

Shapes: B images of size × size pixels in a batch, S patches of P × P pixels in an image, T words in
a caption, C the width, nh heads of size hs = C / nh.

Papers: Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762, whose
equations and sections are named below; Dosovitskiy et al. 2021, "An image is worth 16×16 words"
(ViT: the patches), https://arxiv.org/abs/2010.11929; Xu et al. 2015, "Show, attend and tell"
(captions, and where the model looked), https://arxiv.org/abs/1502.03044. Our departures: positions
are learnt, as in ViT (which also has a class token, GELU, and normalises before each sub-layer, not
after it); no dropout by default; the learning rate falls along half a cosine; no checkpoints are
averaged.

    python -m mini.captioner                            faces and captions, made on the spot
    python -m mini.captioner sample --n=8               held-out faces described; or --image=me.png
    python -m mini.captioner evaluate                   by the beam's width; where does it look?
    python -m mini.captioner --data=captions.tsv        your own: an image's path, a tab, a caption

Measured times and scores: README.md.
Read before: mini/translator.py. Read next: mini/speech.py.
"""
import copy
import math
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn as nn
import torch.nn.functional as F

# images with captions and their words, the command line, devices, scores, pictures, the folder of a
# run: this file can be followed without reading them
from mini.data.images.caption_scores import report, scores, share_right, to_score
from mini.data.images.captions import Words, encode_captions, load_full_captions
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import to_float, to_size
from mini.utils.lettering import labelled
from mini.utils.outliers import distance_from, fit_typical
from mini.utils.png import read_image, write_png
from mini.utils.progress import Progress
from mini.utils.run import Run, own_checkpoint, restore

PAD = Words.PAD             # 0, fills up short captions, so that a batch is a rectangle
BOS = Words.BOS             # 1, begins a caption
EOS = Words.EOS             # 2, ends a caption

# ---- attention

def attention_weights(q, k, mask):
    """softmax(q kᵀ / √hs), (B, nh, T, S): how much each query looks at each key. A row sums to 1.

    q: (B, nh, T, hs); k: (B, nh, S, hs); in self-attention S = T. mask: True where a query (row)
    may look at a key (column), of a shape that can be expanded to (B, nh, T, S); or None, if it may
    look at all of them. (hs is the paper's d_k. Without √hs, the scores would be larger the larger
    hs is, and a softmax of large scores has hardly any gradient.)
    """
    hs = q.size(-1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)            # (B, nh, T, hs) -> (B, nh, T, S)
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, -math.inf)     # e^−∞ = 0: no weight
    return F.softmax(scores, dim=-1)


def attention(q, k, v, mask):
    """softmax(q kᵀ / √hs) v: for each query a mean of the values v (B, nh, S, hs), weighted by how
    well their keys fit the query: (B, nh, T, hs). (eq. 1)"""
    return attention_weights(q, k, mask) @ v                    # (B, nh, T, S) -> (B, nh, T, hs)


def causal_mask(T: int, device=None, before: int = 0):
    """(T, T): True on the diagonal and below it. A word looks at itself and at earlier words.

    If the keys of more words come before those of the T queries (only in the appendix, below), it
    is (T, before + T), and all of them may be looked at.
    """
    mask = torch.ones(T, before + T, dtype=torch.bool, device=device)
    return mask.tril(diagonal=before)


class MultiHeadAttention(nn.Module):
    """Attention in n_head heads, each with queries, keys and values of its own (§3.2.2).

    cfg is the Config below; n_embd is C, which the paper calls d_model.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.q = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.kv = nn.Linear(cfg.n_embd, 2 * cfg.n_embd)         # k and v in one product
        self.out = nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x, memory, mask):
        """x (B, T, C) looks at memory (B, S, C), which is x itself in self-attention: (B, T, C)."""
        k, v = self.project_kv(memory)
        q = self.project_q(x)
        return self.attend(q, k, v, mask)

    def project_q(self, x, start: int = 0):
        """Queries (B, nh, T, hs) of x (B, T, C).

        start is the position of the first word. It is not needed here, but rotary positions would
        need it.
        """
        return self.split_heads(self.q(x))

    def project_kv(self, memory, start: int = 0):
        """Keys and values, (B, nh, S, hs) each, of memory (B, S, C)."""
        k, v = self.kv(memory).chunk(2, dim=-1)                 # (B, S, 2C) -> 2 × (B, S, C)
        return self.split_heads(k), self.split_heads(v)

    def split_heads(self, x):
        B, T, C = x.shape
        x = x.view(B, T, self.n_head, C // self.n_head)         # (B, T, C) -> (B, T, nh, hs)
        return x.transpose(1, 2)                                # -> (B, nh, T, hs)

    def attend(self, q, k, v, mask):
        """Attention in every head, the heads' outputs side by side, and a projection: (B, T, C)."""
        y = attention(q, k, v, mask)                            # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, C)
        return self.out(y)


# ---- layers

Norm = nn.LayerNorm


class FeedForward(nn.Module):
    """max(0, x W₁ + b₁) W₂ + b₂, for each position by itself (eq. 2)."""

    def __init__(self, cfg):
        super().__init__()
        self.w_1 = nn.Linear(cfg.n_embd, cfg.d_ff)
        self.w_2 = nn.Linear(cfg.d_ff, cfg.n_embd)

    def forward(self, x):
        x = self.w_1(x)                                         # (B, T, C) -> (B, T, d_ff)
        x = F.relu(x)
        return self.w_2(x)                                      # (B, T, d_ff) -> (B, T, C)


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network. Each is added to its input, and the sum is
    normalised: norm(x + f(x)), which is called post-norm (§3.1). GPT-2 has x + f(norm(x))."""

    def __init__(self, cfg):
        super().__init__()
        self.self_attn = MultiHeadAttention(cfg)
        self.feed_forward = FeedForward(cfg)
        self.norm_1 = Norm(cfg.n_embd)
        self.norm_2 = Norm(cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, src_mask):
        """(B, S, C) -> (B, S, C)."""
        x = self.norm_1(x + self.dropout(self.self_attn(x, x, src_mask)))
        x = self.norm_2(x + self.dropout(self.feed_forward(x)))
        return x


class DecoderLayer(nn.Module):
    """Between the two, cross-attention: queries from the target, keys and values from the source.
    """

    def __init__(self, cfg):
        super().__init__()
        self.self_attn = MultiHeadAttention(cfg)
        self.cross_attn = MultiHeadAttention(cfg)
        self.feed_forward = FeedForward(cfg)
        self.norm_1 = Norm(cfg.n_embd)
        self.norm_2 = Norm(cfg.n_embd)
        self.norm_3 = Norm(cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, memory, tgt_mask, src_mask):
        """(B, T, C) -> (B, T, C); memory (B, S, C) is what the encoder made of the source."""
        x = self.norm_1(x + self.dropout(self.self_attn(x, x, tgt_mask)))
        x = self.norm_2(x + self.dropout(self.cross_attn(x, memory, src_mask)))
        x = self.norm_3(x + self.dropout(self.feed_forward(x)))
        return x


# ---- the network

def cut_patches(images, P: int):
    """Images (B, 3, H, W) as S = (H/P) · (W/P) squares, row by row, each a list of 3 · P · P
    numbers: (B, S, 3·P·P). In a list one channel follows the other, each row by row (ViT, §3.1)."""
    B, C, H, W = images.shape
    x = images.view(B, C, H // P, P, W // P, P)
    x = x.permute(0, 2, 4, 1, 3, 5)                             # -> (B, rows, columns, C, P, P)
    return x.reshape(B, -1, C * P * P)                          # -> (B, S, C·P·P)


class Captioner(nn.Module):
    """The whole network. tgt_vocab_size: how many words the captions have."""

    def __init__(self, cfg, tgt_vocab_size: int):
        super().__init__()
        self.cfg = cfg
        n_patches = (cfg.size // cfg.patch) ** 2
        self.src_positions = nn.Parameter(torch.empty(n_patches, cfg.n_embd))
        self.positions = nn.Parameter(torch.empty(cfg.max_len + 1, cfg.n_embd))     # + 1: for BOS
        self.src_embed = nn.Linear(3 * cfg.patch**2, cfg.n_embd)
        self.tgt_embed = nn.Embedding(tgt_vocab_size, cfg.n_embd)
        self.encoder = nn.ModuleList([EncoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.decoder = nn.ModuleList([DecoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.dropout = nn.Dropout(cfg.dropout)
        self.init_weights()

    def init_weights(self):
        """Matrices as Glorot & Bengio 2010 draw them, with variance 2 / (inputs + outputs).

        Embeddings and positions have variance 1/C. As the last layer, the words' matrix gives
        logits of variance 1.
        """
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.xavier_uniform_(p)
        for p in (self.tgt_embed.weight, self.src_positions, self.positions):
            nn.init.normal_(p, std=self.cfg.n_embd**-0.5)

    def forward(self, src, tgt):
        """Logits (B, T, V) of the word after each of the words tgt (B, T), for B sources."""
        memory, src_mask = self.encode(src)
        return self.decode(tgt, memory, src_mask)

    def encode(self, src):
        """What the decoder looks at: memory (B, S, C), a vector for each patch of the images src
        (B, 3, size, size) in [-1, 1]; and no mask, since all images have as many patches."""
        x = self.src_embed(cut_patches(src, self.cfg.patch))    # (B, S, 3·P·P) -> (B, S, C)
        x = self.dropout(x + self.src_positions)                # (B, S, C) + (S, C)
        src_mask = None
        for layer in self.encoder:
            x = layer(x, src_mask)
        return x, src_mask

    def decode(self, tgt, memory, src_mask, start: int = 0):
        """Logits (B, T, V) of the word after each of the words tgt (B, T).

        PAD stands behind all words, so the causal mask hides it from them. start, the position of
        the first word, is 0 but in the appendix.
        """
        tgt_mask = causal_mask(tgt.size(1), tgt.device)
        x = self.embed(self.tgt_embed, tgt, start)
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask, src_mask)
        return F.linear(x, self.tgt_embed.weight)               # tied: one matrix for both (§3.4)

    def embed(self, embedding, tokens, start: int = 0):
        """Vectors (B, T, C) of tokens (B, T) at the positions start, start + 1, …"""
        x = embedding(tokens) * math.sqrt(self.cfg.n_embd)
        x = x + self.positions[start:start + tokens.size(1)]    # (B, T, C) + (T, C)
        return self.dropout(x)

    @property
    def device(self):
        return self.tgt_embed.weight.device


# ---- batches, the loss, the learning rate

def get_batch(src, tgt, batch_size: int, generator):
    """B of the images src (N, 3, H, W), in [-1, 1], each with one of its K captions tgt
    (N, K, T + 1): src (B, 3, H, W), tgt_in and tgt_out (B, T').

    tgt_in begins with BOS, and tgt_out is the same one word later: tgt_out[b, t] is to be predicted
    from tgt_in[b, :t + 1].
    """
    N, K, _ = tgt.shape
    i = torch.randint(N, (batch_size,), generator=generator)
    which = torch.randint(K, (batch_size,), generator=generator)
    src = to_float(src[i.to(src.device)])
    tgt = cut_padding(tgt[i.to(tgt.device), which.to(tgt.device)])
    return src, tgt[:, :-1], tgt[:, 1:]


def cut_padding(tokens):
    """Sentences (B, S) without the columns at the end that hold nothing but PAD."""
    longest = (tokens != PAD).sum(dim=1).max()
    return tokens[:, :longest]


def caption_loss(logits, tgt, smoothing: float = 0.0):
    """−Σᵥ q(v) log p(v) in nats, the mean over all words, for logits (B, T, V) and the right words
    tgt (B, T); q(v) is smoothing / V for every word, and 1 − smoothing more for the right one
    (§5.4).

    PAD is left out everywhere: where it is the target, nothing is to be predicted; and since it is
    no word, it has no share in p and q. It is number 0, so the words begin at 1.
    """
    is_word = tgt != PAD
    log_p = F.log_softmax(logits[is_word].float()[:, 1:], dim=1)        # (n, V − 1), for n words
    right = log_p.gather(1, tgt[is_word][:, None] - 1)                  # (n, 1)
    q = smoothing / log_p.size(1)                                       # of every word
    return -((1 - smoothing) * right.mean() + q * log_p.sum(dim=1).mean())


def learning_rate(step: int, cfg) -> float:
    """The learning rate at step 0, 1, …: the lower one of a rising line and of half a cosine that
    falls from lr to 0."""
    rising = (step + 1) / max(1, cfg.warmup)
    falling = (1 + math.cos(math.pi * step / cfg.steps)) / 2
    return cfg.lr * min(rising, falling)


# ---- describing

def next_word(model, tgt, memory, src_mask):
    """log p (B, V) of the word after tgt (B, T)."""
    logits = model.decode(tgt, memory, src_mask)[:, -1].float()         # (B, T, V) -> (B, V)
    logits[:, PAD] = -math.inf                                  # it is no word, and never a target
    return F.log_softmax(logits, dim=1)


@torch.inference_mode()
def greedy_decode(model, src):
    """A sentence for each of B sources, (B, T): always the likeliest next word, up to EOS, and then
    PAD."""
    was_training = model.training
    model.eval()                                                # no dropout
    memory, src_mask = model.encode(src)
    tgt = torch.full((len(src), 1), BOS, device=src.device)
    ended = torch.zeros(len(src), dtype=torch.bool, device=src.device)

    while tgt.size(1) <= model.cfg.max_len + 1 and not ended.all():
        word = next_word(model, tgt, memory, src_mask).argmax(dim=1)    # (B, V) -> (B,)
        word = word.masked_fill(ended, PAD)
        tgt = torch.cat([tgt, word[:, None]], dim=1)            # (B, T) -> (B, T + 1)
        ended = ended | (word == EOS)

    model.train(was_training)
    return tgt[:, 1:]                                           # without BOS


@torch.inference_mode()
def beam_search(model, src, k: int, alpha: float = 0.6):
    """A sentence for each of B sources, (B, T). The likeliest sentence need not begin with the
    likeliest word, so for each source the k best beginnings are followed at once.

    A beginning, or a sentence that has ended, is scored by log p(y|x) / ((5 + |y|) / 6)^alpha
    (Wu et al. 2016, eq. 14; here §6.1). Without the divisor, short sentences would win.
    """
    was_training = model.training
    model.eval()
    B = len(src)
    device = src.device
    memory, src_mask = model.encode(src.repeat_interleave(k, dim=0))

    # row b·k + i of what follows is beginning i of sentence b
    tgt = torch.full((B * k, 1), BOS, device=device)
    ended = torch.zeros(B * k, dtype=torch.bool, device=device)
    n_words = torch.zeros(B * k, dtype=torch.long, device=device)       # |y|, with EOS
    log_p = torch.full((B, k), -math.inf, device=device)        # log p(y|x)
    log_p[:, 0] = 0                                             # all k are alike: one counts

    while tgt.size(1) <= model.cfg.max_len + 1 and not ended.all():
        # every beginning with every word behind it; behind EOS comes PAD, with p = 1
        log_p_of_word = next_word(model, tgt, memory, src_mask)         # (B·k, V)
        log_p_of_word[ended] = -math.inf
        log_p_of_word[ended, PAD] = 0
        new_log_p = log_p.view(B * k, 1) + log_p_of_word
        n_words = n_words + ~ended
        score = new_log_p / ((5 + n_words[:, None]) / 6) ** alpha

        # the k best of the k · V of a sentence: number i·V + v is beginning i with word v behind it
        V = score.size(1)
        best = score.view(B, k * V).topk(k).indices             # (B·k, V) -> (B, k·V) -> (B, k)
        log_p = new_log_p.view(B, k * V).gather(1, best)        # (B, k)
        word = (best % V).flatten()                             # (B, k) -> (B·k,)
        beginning = best // V                                   # (B, k), each from 0 to k − 1
        row = beginning + k * torch.arange(B, device=device)[:, None]
        row = row.flatten()                                     # (B, k) -> (B·k,)

        tgt = torch.cat([tgt[row], word[:, None]], dim=1)       # (B·k, T) -> (B·k, T + 1)
        ended = ended[row] | (word == EOS)
        n_words = n_words[row]
        if isinstance(model, CachedDecoder):
            model.reorder(row)                                  # what it remembers moves along

    model.train(was_training)
    return tgt.view(B, k, -1)[:, 0, 1:]                         # of each sentence the best


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), sample_every 500, log_every
    50, seed 1, device auto, matmul medium (how exact products are), compile false, resume false,
    stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "faces"         # faces, or your .tsv file: an image's path, a tab, its caption
    size: int = 32              # height and width of the images in pixels
    n_images: int = 20000       # faces to draw to learn from
    max_len: int = 32           # words, commas and colons in the longest caption

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
    # learning rate at the top of the half cosine; the peak is a little lower, since it comes after
    # the warm-up
    lr: float = 1e-3
    warmup: int = 200           # steps in which the learning rate rises to its peak
    # ε of label smoothing; with it even a perfect model has a loss (0: none)
    smoothing: float = 0.1

    # run
    out_dir: str = "runs/captioner"     # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # held-out images of each set to score (0: all; fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    image: str = ""             # picture to describe, of any size ("": n held-out images)
    n: int = 8                  # held-out images to describe
    beam: int = 4               # k, captions that beam search follows at once (1: greedy)
    alpha: float = 0.6          # of beam search: how much it favours longer ones (0: not at all)

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("size", "n_images", "max_len", "patch", "n_layer", "n_head", "n_embd", "d_ff",
             "dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # larger faces, and a wider and deeper network, for one GPU
    "gpu": dict(size=64, n_layer=4, n_head=8, n_embd=256, d_ff=1024, batch_size=256, steps=6000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "max_len", "n_layer", "n_head", "n_embd", "d_ff", "batch_size", "beam")
    require_positive(cfg, "size", "patch", "n_images", "n")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.size % cfg.patch == 0,
            f"--size={cfg.size} must be a multiple of --patch={cfg.patch}")
    require(0 <= cfg.smoothing < 1, f"--smoothing={cfg.smoothing} must be from 0 to below 1")
    require(cfg.alpha >= 0, f"--alpha={cfg.alpha} must be at least 0")


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "captioner", wanted=cfg.resume)
    device = pick_device(cfg.device)

    # images with captions; held_out: {set: Captioned}, as many as are to be scored
    train_set, held_out = load_full_captions(cfg.data, cfg.size, cfg.n_images)
    examples = held_out["held out"].images[:cfg.n]
    held_out = to_score(cfg, held_out)

    # the model and its words: resumed, or new
    torch.manual_seed(cfg.seed)                                 # for the initial weights, dropout
    if cfg.resume:
        model, words = from_checkpoint(checkpoint, cfg)
    else:
        words = Words.of(chain(*train_set.captions))
        model = Captioner(cfg, len(words))
    model = model.to(device)

    # images src (N, 3, H, W), and captions as numbers: tgt (N, K, T + 1), K captions of each image
    src = train_set.images.to(device)
    tgt = encode_captions(train_set.captions, words, cfg.max_len).to(device)

    # optimiser
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches
    if cfg.resume:                                              # its averages, all random states
        restore(checkpoint, [optimizer], data_rng)

    # net is the model as training calls it: as it is, or compiled
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    with Run(cfg, "captioner", model, ["loss", "lr", "right"], checkpoint) as run:
        V = len(words) - 1                                      # without PAD
        n = {name: len(part.images) for name, part in held_out.items()}
        sizes = [f"{count:,} {name}" for name, count in n.items()]
        run.say(f"{len(src):,} images with {tgt.size(1)} captions each to learn from; "
                f"{', '.join(sizes)}")
        run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = learning_rate(step, cfg)
            optimizer.param_groups[0]["lr"] = lr

            # batch
            src_b, tgt_in, tgt_out = get_batch(src, tgt, cfg.batch_size, data_rng)

            # loss and backward; products are in bfloat16, if that is faster on this device, while
            # the weights stay in float32
            with autocast(device, cfg.matmul):
                loss = caption_loss(net(src_b, tgt_in), tgt_out, cfg.smoothing)
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            optimizer.zero_grad(set_to_none=True)
            loss.backward()

            # step
            optimizer.step()

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                share = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    part = held_out["held out"].first(256)
                    share = share_right(write(model, words, part.images), part)

                if share is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, right=share)

                if run.due(done, cfg.sample_every):
                    sheet = labelled(examples, write(model, words, examples))
                    write_png(run.folder / f"samples/step_{done:06d}.png", sheet)

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if share is not None or stopping:
                    # checkpoint.pt: settings, weights, optimiser, random states, words, and what
                    # its images are like
                    typical = fit_typical(image_vectors(model, src[:2000]),
                                          image_vectors(model, held_out["held out"].images))
                    run.save(done, model, [optimizer], data_rng, words=words.state(),
                             typical=typical)

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, beside those of the most frequent caption, and of the nearest image's
        run.say(f"describing {sum(n.values()):,} held-out images with a beam of {cfg.beam} …")
        table = score(model, words, held_out, train_set)
        draw_attention(model, words, examples[:1])
        run.say(report(table, n))
        return run.finish(n=n, scores=table)                    # result.json


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, words) of a checkpoint."""
    words = Words(checkpoint["words"])
    model = Captioner(cfg, len(words))
    model.load_state_dict(checkpoint["model"])
    return model, words


def load(cfg):
    """(model, words) of the run in --out_dir; model.cfg has the settings of that run."""
    cfg, checkpoint = own_checkpoint(cfg, "captioner")
    model, words = from_checkpoint(checkpoint, cfg)
    model.typical = checkpoint.get("typical")                   # None: of an older version
    return model.to(pick_device(cfg.device)), words


def describe(model, src, beam: int = 1, alpha: float = 0.6, at_once: int = 256) -> list:
    """Captions of images src, uint8 (N, 3, H, W), as lists of numbers up to EOS, by beam search
    (beam 1: greedy)."""
    cached = CachedDecoder(model)                               # the same words: see the appendix
    progress = Progress("described", len(src))
    rows = []
    for part in src.split(at_once):
        part = to_float(part.to(model.device))                  # in [-1, 1]
        if beam == 1:
            tgt = greedy_decode(cached, part)
        else:
            tgt = beam_search(cached, part, beam, alpha)
        rows += [[i for i in row if i != PAD] for row in tgt.tolist()]
        progress.add(len(part))
    return rows


def write(model, words, src, beam: int = 1, alpha: float = 0.6) -> list:
    """The same as strings."""
    return [words.decode(row) for row in describe(model, src, beam, alpha)]


def score(model, words, held_out: dict, train_set) -> dict:
    """{set: scores}, beside those of the most frequent caption, and of the nearest image's."""
    cfg = model.cfg
    table = {}
    for name, part in held_out.items():
        ours = write(model, words, part.images, cfg.beam, cfg.alpha)
        table[name] = scores(ours, train_set, part)
    return table


@torch.no_grad()
def image_vectors(model, src):
    """A vector of each of N images src, uint8 (N, 3, H, W): the mean of what the encoder makes of
    it, (N, C)."""
    was_training = model.training
    model.eval()
    vectors = []
    for part in src.split(256):
        memory, _ = model.encode(to_float(part.to(model.device)))       # (B, S, C)
        vectors.append(memory.mean(dim=1).float())
    model.train(was_training)
    return torch.cat(vectors)


def warn_of_unlike(model, src):
    """Say which of the images src are unlike those that the model has learnt from. They are
    described nevertheless, as if they were like them."""
    if model.typical is None:
        return
    limit = model.typical["limit"]
    for number, d in enumerate(distance_from(model.typical, image_vectors(model, src)), start=1):
        if d > limit:
            print(f"picture {number} is unlike those that it has learnt from: its distance from "
                  f"their centre is {d:.1f}, that of held-out images at most {limit:.1f}. Do not "
                  "believe its caption")


@torch.inference_mode()
def attention_maps(model, src, tgt) -> list:
    """For each layer of the decoder: how much each word of tgt (1, T), when it was written, looked
    at each of the S vectors that the encoder made of one source: (T, S), the mean over heads.

    A forward keeps no weights. So they are computed here once more, from what goes into each
    cross-attention; torch calls a hook with that, before the module runs.
    """
    maps = []

    def add_map(cross_attn, inputs):
        x, memory, src_mask = inputs
        q = cross_attn.project_q(x)
        k, _ = cross_attn.project_kv(memory)
        weights = attention_weights(q, k, src_mask)             # (1, nh, T, S)
        maps.append(weights[0].mean(dim=0).float().cpu())       # -> (T, S)

    layers = [layer for layer in model.decoder if hasattr(layer, "cross_attn")]
    hooks = [layer.cross_attn.register_forward_pre_hook(add_map) for layer in layers]
    was_training = model.training
    model.eval()
    tgt_in = F.pad(tgt[:, :-1], (1, 0), value=BOS)              # what was read for each word of tgt
    model(src.to(model.device), tgt_in.to(model.device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return maps


def where_it_looks(model, words, src):
    """(words, maps): the words of the caption of an image src, uint8 (1, 3, H, W), and how much
    each word looked at each patch: (T, H/P, W/P), the mean over layers and heads.

    The vector of a patch has read the other patches, too, in the encoder: so the map shows which
    vectors a word was written from, and only roughly which pixels. If the encoder does not give a
    vector for each patch, maps is None.
    """
    cfg = model.cfg
    ids = describe(model, src, cfg.beam, cfg.alpha)[0]
    ids = [i for i in ids if i != EOS]
    if not ids:                                                 # an empty caption
        return [], None
    maps = attention_maps(model, to_float(src), torch.tensor([ids]))
    texts = [words.words[i] for i in ids]
    side = src.size(2) // cfg.patch
    if not maps or any(weights.size(1) != side * side for weights in maps):
        return texts, None
    return texts, torch.stack(maps).mean(dim=0).unflatten(1, (side, side))


def draw_attention(model, words, src) -> bool:
    """Draw samples/attention.png: an image src, uint8 (1, 3, H, W), and for each word of its
    caption the image once more, bright where the model looked. False if nothing can be drawn."""
    cfg = model.cfg
    texts, maps = where_it_looks(model, words, src)
    if maps is None or not texts:
        return False
    light = maps / maps.amax(dim=(1, 2), keepdim=True)          # at most 1
    light = F.interpolate(light[:, None], scale_factor=cfg.patch)       # (T, 1, H, W)
    seen = (src * (0.15 + 0.85 * light)).byte()                 # (T, 3, H, W)
    picture = labelled(torch.cat([src, seen]), ["", *texts], columns=7, scale=3)
    write_png(f"{cfg.out_dir}/samples/attention.png", picture)
    return True


def sample(cfg: Config) -> list:
    """Describe --image, or some held-out images, and draw where the model looked in the first."""
    model, words = load(cfg)
    cfg = model.cfg
    if cfg.image:
        src = to_size(read_image(cfg.image), cfg.size).expand(1, 3, -1, -1)
    else:
        _, held_out = load_full_captions(cfg.data, cfg.size, n_faces=1)
        src = held_out["held out"].images[:cfg.n]
    warn_of_unlike(model, src)
    texts = write(model, words, src, cfg.beam, cfg.alpha)
    write_png(f"{cfg.out_dir}/samples/captions.png", labelled(src, texts))
    print(*texts, f"look in {cfg.out_dir}/samples: captions.png", sep="\n")
    if draw_attention(model, words, src[:1]):
        print(f"where it looked in the first: {cfg.out_dir}/samples/attention.png")
    return texts


def evaluate(cfg: Config) -> dict:
    """What is right by the beam's width, and where it looks: see mini/studies/captioner.py."""
    from mini.studies import captioner as study  # only this command needs it
    model, words = load(cfg)
    return study.evaluate(model, words)


# ---- appendix: the same words, faster

# The causal mask hides from a word all that comes after it. So its keys and values never change,
# and can be kept; those of the source do not change either. For each new word, the decoder then has
# to read this word alone. Without this appendix the search would find the same, but slower.

class CachedSelfAttention(nn.Module):
    """Self-attention that keeps the keys and values of the words that it has read."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn
        self.forget()

    def forget(self):
        self.n = 0                                              # words read
        self.k = None                                           # (B, nh, n, hs)
        self.v = None

    def forward(self, x, memory, mask):
        """(B, T, C) -> (B, T, C) for T new words, which look at all n + T words. memory is x."""
        q = self.attn.project_q(x, start=self.n)
        k, v = self.attn.project_kv(memory, start=self.n)
        if self.n > 0:
            k = torch.cat([self.k, k], dim=2)                   # (B, nh, n + T, hs)
            v = torch.cat([self.v, v], dim=2)
        mask = causal_mask(x.size(1), x.device, before=self.n)
        self.n += x.size(1)
        self.k = k
        self.v = v
        return self.attn.attend(q, k, v, mask)

    def reorder(self, row):
        self.k = self.k[row]
        self.v = self.v[row]


class CachedCrossAttention(nn.Module):
    """Cross-attention that computes the keys and values of memory only once."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn
        self.forget()

    def forget(self):
        self.n = 0                                              # words read
        self.kv = None                                          # 2 × (B, nh, S, hs)

    def forward(self, x, memory, mask):
        """(B, T, C) -> (B, T, C) for T new words."""
        if self.kv is None:
            self.kv = self.attn.project_kv(memory)
        k, v = self.kv
        q = self.attn.project_q(x, start=self.n)
        self.n += x.size(1)
        return self.attn.attend(q, k, v, mask)


class CachedDecoder(nn.Module):
    """A model for greedy_decode and beam_search, whose decode(tgt, …) is model.decode(tgt, …) for
    the words that it has not read. `encode` begins anew.

    It is a copy of the modules of the model, not of its weights, with other attention in it. So it
    follows whatever is changed in the layers.
    """

    def __init__(self, model):
        super().__init__()
        self.cfg = model.cfg
        not_copied = {id(p): p for p in model.parameters()}
        self.model = copy.deepcopy(model, not_copied)
        for layer in self.model.decoder:
            layer.self_attn = CachedSelfAttention(layer.self_attn)
            if hasattr(layer, "cross_attn"):                    # a fork may do without
                layer.cross_attn = CachedCrossAttention(layer.cross_attn)
        self.train(model.training)                              # in the mode of the model

    def encode(self, src):
        self.n = 0                                              # words read
        for layer in self.model.decoder:
            layer.self_attn.forget()
            if hasattr(layer, "cross_attn"):
                layer.cross_attn.forget()
        return self.model.encode(src)

    def decode(self, tgt, memory, src_mask):
        """Logits (B, T − n, V) of the words after the new ones of tgt (B, T)."""
        new = tgt[:, self.n:]
        logits = self.model.decode(new, memory, src_mask, start=self.n)
        self.n = tgt.size(1)
        return logits

    def reorder(self, row):
        """Go on with row[0], row[1], … of the beginnings: beam search keeps some of them twice, and
        others not. (All rows of a sentence have the same memory.)"""
        for layer in self.model.decoder:
            layer.self_attn.reorder(row)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --d_ff, --size, "
                                      "--n_images or --beam")


if __name__ == "__main__":
    main()
