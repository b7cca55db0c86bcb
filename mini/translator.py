"""The Transformer as it was first published: an encoder reads English, a decoder writes French.

The encoder makes a vector of each word of an English sentence x, after a look at all its other
words. The decoder writes the French sentence y word by word, p(y|x) = Πₜ p(yₜ | y₁ … yₜ₋₁, x). Each
word looks at those before it (causal self-attention), and at the vectors of the encoder
(cross-attention), to find what is to be translated next. The loss of T words is, in nats,

    L = −1/T · Σₜ Σᵥ q(v) log p(v | y₁ … yₜ₋₁, x)

where v is any of the V words of French, and q is what the model should say: the right word yₜ with
probability 1 − ε, and ε spread evenly over all words (label smoothing).

Shapes: B pairs of sentences in a batch, S words in the source, T in the target, C the width, nh
heads of size hs = C / nh.

Paper: Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762, whose
equations and sections are named below. Our departures: each language has whole words of its own,
where the paper has pieces of words that both share; and a moving average of the weights is what
translates, where the paper takes the mean of the last five checkpoints (§6.1).

    python -m mini.translator                                   sentences of a small grammar
    python -m mini.translator sample --text="The old man is reading a letter."
    python -m mini.translator evaluate                          by the beam's width, by length, …
    python -m mini.translator --data=my_pairs.tsv               English, tab, French; or en-fr

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/bert.py.
"""
import copy
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

# pairs of sentences and their words, the command line, devices, scores, pictures, the folder of a
# run: this file can be followed without reading them
from mini.data.text.pairs import (Vocabulary, baselines, encode_pairs, fill_up, load_pairs,
                                  load_vocabularies, make_vocabularies, read_sentences,
                                  save_vocabularies, to_score)
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.lettering import enlarged, heat_maps
from mini.utils.png import write_png
from mini.utils.progress import Progress
from mini.utils.run import Run, own_checkpoint, restore
from mini.utils.translation_metrics import exact_match, translation_report, translation_scores

PAD = Vocabulary.PAD        # 0, fills up short sentences, so that a batch is a rectangle
BOS = Vocabulary.BOS        # 1, begins a target sentence
EOS = Vocabulary.EOS        # 2, ends a sentence

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


def padding_mask(tokens):
    """(B, 1, 1, S): False at the PAD of sentences (B, S). No query of any head looks at it."""
    return (tokens != PAD)[:, None, None]


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

def positional_encoding(n: int, C: int):
    """The positions 0 … n − 1 as vectors (n, C): waves of C/2 lengths, from 2π to 10000 · 2π.

        PE(pos, 2i) = sin(pos / 10000^(2i/C)),   PE(pos, 2i + 1) = cos(pos / 10000^(2i/C))    (§3.5)
    """
    pos = torch.arange(n)[:, None]                              # (n, 1)
    angle = pos / 10000 ** (torch.arange(0, C, 2) / C)          # (n, C/2)
    encoding = torch.empty(n, C)
    encoding[:, 0::2] = angle.sin()
    encoding[:, 1::2] = angle.cos()
    return encoding


class Transformer(nn.Module):
    """The whole network. src_vocab_size and tgt_vocab_size: how many words each language has."""

    def __init__(self, cfg, src_vocab_size: int, tgt_vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.src_embed = nn.Embedding(src_vocab_size, cfg.n_embd)
        self.tgt_embed = nn.Embedding(tgt_vocab_size, cfg.n_embd)
        positions = positional_encoding(cfg.max_len + 1, cfg.n_embd)    # + 1: for BOS, or for EOS
        self.register_buffer("positions", positions, persistent=False)
        self.encoder = nn.ModuleList([EncoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.decoder = nn.ModuleList([DecoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.dropout = nn.Dropout(cfg.dropout)
        self.init_weights()

    def init_weights(self):
        """Matrices as Glorot & Bengio 2010 draw them, with variance 2 / (inputs + outputs).

        Embeddings have variance 1/C: times √C, as they are used, they are as large as positions.
        As the last layer, the same matrix gives logits of variance 1.
        """
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.xavier_uniform_(p)
        for embed in (self.src_embed, self.tgt_embed):
            nn.init.normal_(embed.weight, std=self.cfg.n_embd**-0.5)

    def forward(self, src, tgt):
        """Logits (B, T, V) of the word after each of the words tgt (B, T), for B sources."""
        memory, src_mask = self.encode(src)
        return self.decode(tgt, memory, src_mask)

    def encode(self, src):
        """What the decoder looks at: memory (B, S, C), a vector for each word of src (B, S), and
        src_mask (B, 1, 1, S), which hides PAD."""
        src_mask = padding_mask(src)
        x = self.embed(self.src_embed, src)
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
    """B pairs from src (N, S) and tgt (N, T + 1), as src (B, S'), tgt_in and tgt_out (B, T').

    tgt_in begins with BOS, and tgt_out is the same one word later: tgt_out[b, t] is to be predicted
    from tgt_in[b, :t + 1]. The pairs are of about the same length, so that there is little PAD
    (§5.1): 8 B pairs are drawn and sorted by length, and one eighth of them is taken.
    """
    i = torch.randint(len(src), (8 * batch_size,), generator=generator)
    eighth = torch.randint(8, (1,), generator=generator).item()
    src = src[i.to(src.device)]
    tgt = tgt[i.to(tgt.device)]
    by_length = (tgt != PAD).sum(dim=1).argsort(stable=True)
    chosen = by_length[eighth * batch_size:(eighth + 1) * batch_size]
    src = cut_padding(src[chosen])
    tgt = cut_padding(tgt[chosen])
    return src, tgt[:, :-1], tgt[:, 1:]


def cut_padding(tokens):
    """Sentences (B, S) without the columns at the end that hold nothing but PAD."""
    longest = (tokens != PAD).sum(dim=1).max()
    return tokens[:, :longest]


def translation_loss(logits, tgt, smoothing: float = 0.0):
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
    """lr · C^−½ · min(s^−½, s · warmup^−3/2) at step s = 1, 2, … (eq. 3, where lr is 1).

    It rises for `warmup` steps, to lr · (C · warmup)^−½, and falls from then on.
    """
    warmup = max(1, cfg.warmup)
    return cfg.lr * cfg.n_embd**-0.5 * min(step**-0.5, step * warmup**-1.5)


@torch.no_grad()
def update_ema(ema, model, step: int, decay: float):
    """ema ← decay · ema + (1 − decay) · model, for all weights.

    The learning rate never falls to 0, so the weights keep moving around a good place. Their
    average is nearer to it. At first decay is step / (step + 10): step 0 copies the model, and then
    the average is mostly of the last tenth of the steps, so that the start is soon forgotten. Once
    this is more than --ema, decay is --ema.
    """
    decay = min(decay, step / (step + 10))
    for average, parameter in zip(ema.parameters(), model.parameters()):
        average.lerp_(parameter, 1 - decay)


# ---- translating

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
    data: str = "grammar"       # grammar, en-fr, or your file with lines of English, a tab, French
    n_pairs: int = 100000       # pairs of sentences that the grammar writes to learn from
    # words of each language, the most frequent; pairs with other words are left out
    vocab_size: int = 8000
    max_len: int = 32           # words and punctuation marks in the longest sentence

    # model
    n_layer: int = 2            # N, layers of the encoder, and of the decoder
    n_head: int = 4             # h, attention heads in each layer
    n_embd: int = 128           # d_model, the width; the peak learning rate moves with it (see lr)
    d_ff: int = 512             # the width inside the feed-forward networks
    dropout: float = 0.1        # of embeddings, and of what each sub-layer adds to x

    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 64        # pairs of sentences in a step
    # a factor, 1 in the paper, and not the rate itself: the peak rate is lr · (n_embd · warmup)^−½,
    # so a wider model or a longer warm-up makes it lower
    lr: float = 1.0
    # steps in which the learning rate rises to its peak, which is lower the longer it rises: see lr
    warmup: int = 400
    smoothing: float = 0.1      # ε of label smoothing (0: none)
    ema: float = 0.998          # weight of the old average in the moving average of the weights

    # run
    out_dir: str = "runs/translator"    # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # held-out sentences of each set to score (0: all; fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    text: str = ""              # a sentence, or a file with one on each line ("": held-out ones)
    beam: int = 4               # k, translations that beam search follows at once (1: greedy)
    alpha: float = 0.6          # of beam search: how much it favours longer ones (0: not at all)

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("n_pairs", "vocab_size", "max_len", "n_layer", "n_head", "n_embd", "d_ff", "dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # the sizes of the paper's base model, for one GPU, on real sentences: --data=en-fr says how to
    # get them
    "gpu": dict(data="en-fr", vocab_size=16000, n_layer=6, n_head=8, n_embd=512, d_ff=2048,
                batch_size=256, steps=20000, warmup=4000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "max_len", "n_layer", "n_head", "n_embd", "d_ff", "batch_size", "beam")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.n_embd % 2 == 0, f"--n_embd={cfg.n_embd} must be even: positions are sin and cos")
    require(0 <= cfg.smoothing < 1, f"--smoothing={cfg.smoothing} must be from 0 to below 1")
    require(cfg.alpha >= 0, f"--alpha={cfg.alpha} must be at least 0")


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "translator", wanted=cfg.resume)
    device = pick_device(cfg.device)

    # pairs of sentences; held_out: {set: pairs}, as many as are to be scored
    train_pairs, held_out = load_pairs(cfg.data, cfg.n_pairs)
    held_out = to_score(cfg, held_out)

    # the model and the words of both languages: resumed, or new
    torch.manual_seed(cfg.seed)                                 # for the initial weights, dropout
    if cfg.resume:
        model, words = from_checkpoint(checkpoint, cfg)
    else:
        words = make_vocabularies(train_pairs, cfg.vocab_size)
        model = Transformer(cfg, len(words[0]), len(words[1]))
    model = model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False).eval()     # the moving average of its weights
    if cfg.resume:
        ema.load_state_dict(checkpoint["ema"])

    # sentences as numbers: src (N, S), tgt (N, T + 1); pairs with rare words are left out
    src, tgt, pairs = encode_pairs(train_pairs, words, cfg.max_len)
    src = src.to(device)
    tgt = tgt.to(device)
    test = {name: encode_pairs(part, words, cfg.max_len) for name, part in held_out.items()}
    examples = [pair for _, _, kept in test.values() for pair in kept[:4]]

    # optimiser (§5.3)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches
    if cfg.resume:                                              # its averages, all random states
        restore(checkpoint, [optimizer], data_rng)

    # net is the model as training calls it: as it is, or compiled
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    with Run(cfg, "translator", model, ["loss", "lr", "exact_match"], checkpoint) as run:
        V = len(words[1]) - 1                                   # without PAD
        sizes = [f"{len(kept):,} {name}" for name, (_, _, kept) in test.items()]
        run.say(f"{len(pairs):,} pairs to learn from ({len(train_pairs) - len(pairs):,} too long, "
                f"or with rare words, are left out), held out {', '.join(sizes)}")
        run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = learning_rate(step + 1, cfg)
            optimizer.param_groups[0]["lr"] = lr

            # batch
            src_b, tgt_in, tgt_out = get_batch(src, tgt, cfg.batch_size, data_rng)

            # loss and backward; products are in bfloat16, if that is faster on this device, while
            # the weights stay in float32
            with autocast(device, cfg.matmul):
                loss = translation_loss(net(src_b, tgt_in), tgt_out, cfg.smoothing)
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            optimizer.zero_grad(set_to_none=True)
            loss.backward()

            # step
            optimizer.step()
            update_ema(ema, model, step, cfg.ema)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                share = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    share = share_right(ema, words, test["sentences"], n=256)

                if share is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, exact_match=share)

                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", show(ema, words, examples, beam=1))

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if share is not None or stopping:
                    # checkpoint.pt: settings, weights and their average, optimiser, random states,
                    # words, examples
                    run.save(done, model, [optimizer], data_rng, ema=ema.state_dict(),
                             examples=examples, **save_vocabularies(words))

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, beside those of copying the source, and of replacing word by word
        n = {name: len(kept) for name, (_, _, kept) in test.items()}
        run.say(f"translating {sum(n.values()):,} held-out sentences with a beam of {cfg.beam} …")
        scores = score(ema, words, test, src, tgt)
        draw_attention(ema, words, test["sentences"][0][:1])
        run.say("\n" + show(ema, words, examples, cfg.beam, cfg.alpha))
        run.say(translation_report(**scores, n=n))
        return run.finish(n=n, **scores)                        # result.json


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, words) of a checkpoint. words: the Vocabulary of the source, and of the target."""
    words = load_vocabularies(checkpoint)
    model = Transformer(cfg, len(words[0]), len(words[1]))
    model.load_state_dict(checkpoint["model"])
    return model, words


def load(cfg):
    """(model, words, checkpoint) of the run in --out_dir. The model has the moving average of the
    weights, and the settings of that run: model.cfg."""
    cfg, checkpoint = own_checkpoint(cfg, "translator")
    model, words = from_checkpoint(checkpoint, cfg)
    model.load_state_dict(checkpoint["ema"])
    return model.to(pick_device(cfg.device)), words, checkpoint


def translate(model, src, beam: int = 1, alpha: float = 0.6, at_once: int = 256) -> list:
    """Translations of src (N, S) as lists of numbers up to EOS, by beam search (beam 1: greedy)."""
    cached = CachedDecoder(model)                               # the same words: see the appendix
    progress = Progress("translated", len(src))
    rows = []
    for part in src.split(at_once):
        part = cut_padding(part).to(model.device)
        if beam == 1:
            tgt = greedy_decode(cached, part)
        else:
            tgt = beam_search(cached, part, beam, alpha)
        rows += [[i for i in row if i != PAD] for row in tgt.tolist()]
        progress.add(len(part))
    return rows


def write(model, words, src, beam: int = 1, alpha: float = 0.6) -> list:
    """The same as sentences. Each is spaced as its language is: words[1] has learnt how."""
    return [words[1].decode(row) for row in translate(model, src, beam, alpha)]


def share_right(model, words, test, n: int) -> float:
    """The share of the first n sentences of a held-out set that greedy decoding gets right."""
    src, _, pairs = test
    return exact_match(write(model, words, src[:n]), [right for _, right in pairs[:n]])


def score(model, words, test: dict, train_src, train_tgt) -> dict:
    """The translation_scores of each held-out set, beside those of copying the source, and of
    replacing it word by word. test: {set: (src, tgt, pairs)}."""
    cfg = model.cfg
    outputs = {}
    references = {}
    for name, (src, _, pairs) in test.items():
        ours = write(model, words, src, cfg.beam, cfg.alpha)
        outputs[name] = {"model": ours, **baselines(words, train_src, train_tgt, src)}
        references[name] = [right for _, right in pairs]
    return translation_scores(outputs, references)


def show(model, words, pairs: list, beam: int = 1, alpha: float = 0.6) -> str:
    """The source of some pairs, its translation, and the right one if it is known and differs."""
    src = fill_up([words[0].encode(source, model.cfg.max_len) for source, _ in pairs])
    text = ""
    for (source, right), line in zip(pairs, write(model, words, src, beam, alpha)):
        text += f"{source}\n    {line}\n"
        if right not in ("", line):
            text += f"    right: {right}\n"
    return text


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


def draw_attention(model, words, src) -> bool:
    """Draw samples/attention.png, the attention_maps of src (1, S) and its translation by the
    settings in model.cfg. If the encoder does not give a vector for each word, nothing is drawn."""
    cfg = model.cfg
    src = cut_padding(src)
    tgt = fill_up(translate(model, src, cfg.beam, cfg.alpha))
    maps = attention_maps(model, src, tgt)
    shape = (tgt.size(1), src.size(1))
    if not maps or any(weights.shape != shape for weights in maps):
        return False
    rows = [words[1].words[i] for i in tgt[0].tolist()]
    columns = [words[0].words[i] for i in src[0].tolist()]
    picture = enlarged(heat_maps(maps, rows, columns))
    write_png(f"{cfg.out_dir}/samples/attention.png", picture)
    return True


def sample(cfg: Config) -> str:
    """Translate --text, or some held-out sentences, and draw what the words of the first one looked
    at."""
    model, words, checkpoint = load(cfg)
    cfg = model.cfg
    pairs = checkpoint["examples"]
    if cfg.text:
        pairs = [(sentence, "") for sentence in read_sentences(cfg.text)]
    text = show(model, words, pairs, cfg.beam, cfg.alpha)
    print(text, end="")
    if draw_attention(model, words, fill_up([words[0].encode(pairs[0][0], cfg.max_len)])):
        print(f"what looked at what: {cfg.out_dir}/samples/attention.png")
    return text


def evaluate(cfg: Config) -> dict:
    """What is right by the beam's width, by length, by newness: see mini/studies/translator.py."""
    from mini.studies import translator as study  # only this command needs it
    model, words, _ = load(cfg)
    return study.evaluate(model, words)


# ---- appendix: the same words, faster

# The causal mask hides from a word all that comes after it. So its keys and values never change,
# and can be kept; those of the source do not change either. For each new word, the decoder then has
# to read this word alone. Without this appendix the search would find the same, eight times slower.

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
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --d_ff, --n_pairs "
                                      "or --beam")


if __name__ == "__main__":
    main()
