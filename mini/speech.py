"""Speech recognition: an encoder listens, a decoder writes what was said, letter by letter.

It is mini/translator.py with sound x in place of the English sentence: every 16 ms, how loud it is
in each of M bands of frequency. These lists of numbers take the place of the words. The decoder
writes the transcript y character by character, p(y|x) = Πₜ p(yₜ | y₁ … yₜ₋₁, x). The loss of T
characters is, in nats, with label smoothing as in the translator,

    L = −1/T · Σₜ Σᵥ q(v) log p(v | y₁ … yₜ₋₁, x)

The encoder learns from a second loss, too. With CTC it says a character, or nothing ("blank"), at
each of S moments by itself. A path π of such choices says y if y is left when repeats are merged
and then blanks are dropped: "hh–e" and "h–ee", with – for the blank, both say "he". The loss is
−1/T · log p(y|x), all its paths together:

    p(y|x) = Σ over the paths π of y of Πₛ p(πₛ | x)

Shapes: B recordings in a batch, N samples of sound, M mel bands, S moments of 32 ms that the
decoder looks at, T characters (up to the stem: T pieces of sound), C the width, nh heads of size
hs = C / nh. Where the code is that of mini/translator.py, "words" are characters.

Papers: Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762, whose
equations and sections are named below; Radford et al. 2022 (Whisper: spectrogram, two convolutions,
Transformer), https://arxiv.org/abs/2212.04356; Graves et al. 2006 (CTC),
https://www.cs.toronto.edu/~graves/icml_2006.pdf; Watanabe et al. 2017 (both losses at once),
https://doi.org/10.1109/JSTSP.2017.2763455; Hori, Watanabe & Hershey 2017 (both when writing, too),
https://aclanthology.org/P17-1048. Our departures from Whisper: characters in place of
pieces of words; post-norm; 8,000 samples in a second, not 16,000; windows of 32 ms every 16, not of
25 every 10; silence is 55 dB below the loudest, not 80; recordings are not filled up to 30 seconds;
CTC; and it learns from synthetic speech. Beam search is the decoder's alone, and CTC then chooses
among the transcripts that it has found; Watanabe et al. let both lead the search.

    python -m mini.speech                                   sentences, spoken on the spot
    python -m mini.speech sample --wav=me.wav               what is said in it? or --show=attention
    python -m mini.speech evaluate                          by noise, by the way of decoding
    python -m mini.speech --ctc=1                           the encoder and CTC alone
    python -m mini.speech --data=digits                     your own: WAV files in a folder per word

Measured times and scores: README.md.
Read before: mini/translator.py. Read next: train_diffusion.py.
"""
import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# recordings and their characters, the command line, devices, scores, pictures, the folder of a run:
# this file can be followed without reading them
from mini.data.speech.recordings import RATE, hear, load_held_out, load_speech, noises_of
from mini.data.speech.rooms import add_noise
from mini.data.speech.scores import Characters, headline, report, scores, to_score, word_errors
from mini.data.speech.pictures import spectrogram_and_attention
from mini.data.speech.wav import write_wav
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.png import write_png
from mini.utils.progress import Progress
from mini.utils.run import Run, own_checkpoint, restore

PAD = Characters.PAD        # 0, fills up short transcripts; and in CTC it is the blank
BOS = Characters.BOS        # 1, begins a transcript
EOS = Characters.EOS        # 2, ends a transcript

# ---- from sound to numbers

WINDOW = 256                # samples in a piece of sound: 32 ms, a few periods of a low voice
HOP = 128                   # samples from one piece to the next: 16 ms
FLOOR = 5.5                 # log₁₀ of a power: 55 dB. In Whisper it is 80 dB


def mel(f):
    """Where a frequency f in Hz lies on the mel scale, which is as fine as the ear: steps of 100 Hz
    are large at low frequencies, and small at high ones."""
    return 2595 * torch.log10(1 + f / 700)


def mel_filters(M: int):
    """(WINDOW/2 + 1, M): how much each frequency of a spectrum counts in each of M bands.

    A band is a triangle: 0 at the centre of the band below, 1 at its own, 0 at that of the band
    above. Centres lie evenly on the mel scale, so high bands are wide.
    """
    f = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    even = torch.linspace(0, mel(f[-1]).item(), M + 2, dtype=torch.float64)
    edges = 700 * (10 ** (even / 2595) - 1)                     # mel⁻¹
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]   # (M,) each
    rising = (f[:, None] - below) / (centre - below)            # (WINDOW/2 + 1, M)
    falling = (above - f[:, None]) / (above - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(sound, M: int):
    """The log-mel spectrogram (B, T, M) of sounds (B, N): log₁₀ of the power in M bands, for each
    of the T = 1 + (N − WINDOW) / HOP pieces."""
    pieces = sound.unfold(1, WINDOW, HOP)                       # (B, N) -> (B, T, WINDOW)
    hann = torch.hann_window(WINDOW, device=sound.device)       # ½ − ½ cos(2πn / WINDOW): soft ends
    spectrum = torch.fft.rfft(pieces * hann)                    # Σₙ x(n) e^(−2πikn/WINDOW)
    power = spectrum.abs() ** 2                                 # (B, T, WINDOW/2 + 1)
    bands = power @ mel_filters(M).to(sound.device)             # -> (B, T, M)
    return torch.log10(bands.clamp(min=1e-10))


def features(sound, n, M: int):
    """What the encoder reads, (B, T, M), of sounds (B, N) of n samples each (B,): the log-mel
    spectrogram of each with mean 0 and variance 1, so that loud and soft voices are alike. What is
    FLOOR below the loudest is as good as silence: else the stillness of a room would move the mean.
    Behind the end all numbers are 0."""
    x = log_mel(F.pad(sound, (0, WINDOW)), M)
    T = torch.arange(x.size(1), device=x.device)
    inside = (T * HOP < n[:, None])[:, :, None]                 # (B, T, 1)
    loudest = x.masked_fill(~inside, -math.inf).amax(dim=(1, 2), keepdim=True)
    x = torch.maximum(x, loudest - FLOOR)
    count = inside.sum(dim=1, keepdim=True) * M
    mean = (x * inside).sum(dim=(1, 2), keepdim=True) / count
    variance = ((x - mean) ** 2 * inside).sum(dim=(1, 2), keepdim=True) / count
    x = (x - mean) / (variance + 1e-5).sqrt()
    return torch.where(inside, x, 0.0)


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


class Stem(nn.Module):
    """Two convolutions over time. The first looks at three neighbouring pieces of sound, the second
    takes every other place: half as many vectors, each of 32 ms (Whisper, §2.2)."""

    def __init__(self, cfg):
        super().__init__()
        self.conv_1 = nn.Conv1d(cfg.n_mels, cfg.n_embd, kernel_size=3, padding=1)
        self.conv_2 = nn.Conv1d(cfg.n_embd, cfg.n_embd, kernel_size=3, stride=2, padding=1)

    def forward(self, x, inside):
        """x (B, T, M) -> (B, S, C), S = T/2, rounded up. inside (B, T): False behind the end."""
        x = x.transpose(1, 2)                                   # (B, T, M) -> (B, M, T)
        x = F.gelu(self.conv_1(x))                              # -> (B, C, T)
        x = x * inside[:, None]         # behind the end as before the start: 0, whatever the batch
        x = F.gelu(self.conv_2(x))                              # -> (B, C, S)
        return x.transpose(1, 2)                                # -> (B, S, C)


class Recogniser(nn.Module):
    """The whole network. tgt_vocab_size: how many characters there are."""

    def __init__(self, cfg, tgt_vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.stem = Stem(cfg)
        self.tgt_embed = nn.Embedding(tgt_vocab_size, cfg.n_embd)
        seconds = cfg.max_seconds / (1 - cfg.speed)             # of a recording that is slowed down
        longest = max(cfg.max_len + 1, math.ceil(seconds * RATE / HOP / 2) + 16)
        positions = positional_encoding(longest, cfg.n_embd)
        self.register_buffer("positions", positions, persistent=False)
        self.encoder = nn.ModuleList([EncoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.decoder = nn.ModuleList([DecoderLayer(cfg) for _ in range(cfg.n_layer)])
        self.ctc_head = nn.Linear(cfg.n_embd, tgt_vocab_size)
        self.dropout = nn.Dropout(cfg.dropout)
        self.init_weights()

    def init_weights(self):
        """Matrices as Glorot & Bengio 2010 draw them, with variance 2 / (inputs + outputs).

        Embeddings have variance 1/C: times √C, as they are used, they are as large as positions.
        As the last layer, the same matrix gives logits of variance 1.
        """
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)
        nn.init.normal_(self.tgt_embed.weight, std=self.cfg.n_embd**-0.5)

    def forward(self, src, tgt):
        """Logits (B, T, V) of the character after each of the characters tgt (B, T), for B sources;
        and for CTC logits (B, S, V) of what each vector of the encoder says, and the mask of those
        vectors (B, S)."""
        memory, src_mask = self.encode(src)
        return self.decode(tgt, memory, src_mask), self.ctc_head(memory), src_mask[:, 0, 0]

    def encode(self, src):
        """What the decoder looks at: memory (B, S, C), a vector for each 32 ms of the sounds, of
        which src (B, T, M) are the features; and src_mask (B, 1, 1, S), which hides what is behind
        their ends."""
        inside = (src != 0).any(dim=2)                          # (B, T, M) -> (B, T)
        src_mask = padding_mask(inside[:, ::2])
        x = self.stem(src, inside)
        x = self.dropout(x + self.positions[:x.size(1)])        # (B, S, C) + (S, C)
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

def get_batch(sound, n, tgt, batch_size: int, generator):
    """B recordings from int16 sound (N, samples), each of n samples (N,), and their transcripts tgt
    (N, T + 1): sound (B, samples') in [-1, 1], n (B,), tgt_in and tgt_out (B, T').

    tgt_in begins with BOS, and tgt_out is the same one character later: tgt_out[b, t] is to be
    predicted from tgt_in[b, :t + 1]. They are of about the same length, so that there is little
    PAD: 8 B are drawn and sorted by length, and one eighth of them is taken.
    """
    i = torch.randint(len(sound), (8 * batch_size,), generator=generator)
    eighth = torch.randint(8, (1,), generator=generator).item()
    by_length = n[i].argsort(stable=True)
    chosen = i[by_length[eighth * batch_size:(eighth + 1) * batch_size]]
    n = n[chosen]
    sound = sound[chosen, :n.max()].float() / 32768
    tgt = cut_padding(tgt[chosen])
    return sound, n, tgt[:, :-1], tgt[:, 1:]


def make_noisy(sound, n, share: float, noises, generator):
    """The recordings (B, N) of n samples (B,), a share of them with noise, 0 to 25 dB below the
    speech."""
    snr = 25 * torch.rand(len(sound), generator=generator)
    snr[torch.rand(len(sound), generator=generator) >= share] = 60      # next to nothing
    return add_noise(sound, n, snr, noises, generator)


def change_speed(sound, n, most: float, generator):
    """The recordings (B, N), played slower or faster by a factor of up to 1 ± `most`, each by its
    own: as on a tape, so the pitch changes, and the speaker seems larger or smaller (Ko et al.
    2015)."""
    B, N = sound.shape
    speed = 1 + most * (2 * torch.rand(B, generator=generator) - 1)
    n = (n / speed).long()
    place = torch.arange(n.max()) * speed[:, None]              # (B, N'), between two samples
    i = place.long().clamp(max=N - 2)
    share = (place - i).clamp(max=1)
    sound = (1 - share) * sound.gather(1, i) + share * sound.gather(1, i + 1)
    inside = torch.arange(sound.size(1)) < n[:, None]
    return sound * inside, n


def spec_augment(x, n_bands: int, n_pieces: int, generator):
    """Features x (B, T, M) with up to n_bands neighbouring bands, and up to n_pieces neighbouring
    pieces of sound, set to their mean, 0, in each recording: the model must not rely on any of them
    (SpecAugment, §2)."""
    B, T, M = x.shape
    hidden = torch.zeros(B, T, M, dtype=torch.bool)
    for size, most, dim in ((M, n_bands, 2), (T, n_pieces, 1)):
        wide = torch.randint(min(most, size // 3) + 1, (B, 1), generator=generator)
        start = (torch.rand(B, 1, generator=generator) * (size - wide)).long()
        at = torch.arange(size)
        hidden |= ((at >= start) & (at < start + wide)).unsqueeze(3 - dim)
    # never 0 itself, which stands for the end of the sound
    return torch.where(hidden.to(x.device) & (x != 0), 1e-6, x)


def cut_padding(tokens):
    """Sentences (B, S) without the columns at the end that hold nothing but PAD."""
    longest = (tokens != PAD).sum(dim=1).max()
    return tokens[:, :longest]


def transcript_loss(logits, tgt, smoothing: float = 0.0):
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


IMPOSSIBLE = -1e30          # log 0, but without NaN in the gradient


def ctc_log_p(logits, is_sound, tgt):
    """log p(y|x) in nats, (B,), for logits (B, S, V) of what is said at each moment, is_sound
    (B, S), and transcripts tgt (B, T), without BOS and EOS. If there are too few moments for one,
    it is IMPOSSIBLE.

    z is the transcript with blanks before, between and behind its characters: 2T + 1 places. A path
    goes through z from left to right. α(s, j) is the probability of all paths that are at place j
    after moment s (Graves et al. 2006, eq. 6 and 7):

        α(s, j) = (α(s − 1, j) + α(s − 1, j − 1) + α(s − 1, j − 2)) · p(zⱼ at moment s)

    the last one only if zⱼ is a character other than zⱼ₋₂: a blank may be left out between two
    different characters, but not between two equal ones. All is done with logarithms.
    """
    B, S, V = logits.shape
    T = tgt.size(1)
    log_p = F.log_softmax(logits.float(), dim=2)
    n = (tgt != PAD).sum(dim=1)                                 # characters in each transcript

    z = tgt.new_full((B, 2 * T + 1), PAD)                       # PAD is the blank
    z[:, 1::2] = tgt
    log_p = log_p.gather(2, z[:, None].expand(B, S, -1))        # (B, S, V) -> (B, S, 2T + 1)
    may_skip = torch.zeros_like(z, dtype=torch.bool)
    may_skip[:, 2:] = (z[:, 2:] != PAD) & (z[:, 2:] != z[:, :-2])

    # a path begins with the blank before the first character, or with that
    log_alpha = torch.full_like(log_p[:, 0], IMPOSSIBLE)
    log_alpha[:, :2] = log_p[:, 0, :2]
    for s in range(1, S):
        stay = log_alpha
        step = F.pad(log_alpha, (1, 0), value=IMPOSSIBLE)[:, :-1]
        skip = F.pad(log_alpha, (2, 0), value=IMPOSSIBLE)[:, :-2]
        skip = torch.where(may_skip, skip, IMPOSSIBLE)
        new = torch.stack([stay, step, skip]).logsumexp(dim=0) + log_p[:, s]
        log_alpha = torch.where(is_sound[:, s, None], new, log_alpha)

    # and it ends with the last character, place 2n − 1, or with the blank behind it
    character = log_alpha.gather(1, (2 * n - 1).clamp(min=0)[:, None])
    character = character.masked_fill(n[:, None] == 0, IMPOSSIBLE)      # nothing is said
    blank = log_alpha.gather(1, 2 * n[:, None])
    return torch.cat([character, blank], dim=1).logsumexp(dim=1)        # (B,)


def ctc_loss(logits, is_sound, tgt):
    """−log p(y|x) in nats, the mean over all characters, for logits (B, S, V), is_sound (B, S) and
    tgt (B, T), as above. What cannot be said in so few moments is left out."""
    log_p = ctc_log_p(logits, is_sound, tgt)                    # (B,)
    n = (tgt != PAD).sum(dim=1)                                 # characters in each transcript
    possible = log_p > IMPOSSIBLE / 2
    return -log_p[possible].sum() / n[possible].sum().clamp(min=1)


def both_losses(output, tgt, cfg):
    """(1 − λ) · transcript_loss + λ · ctc_loss, λ = cfg.ctc, for the output of the network and the
    right characters tgt (B, T), which end with EOS (Watanabe et al. 2017, eq. 14)."""
    logits, ctc_logits, is_sound = output
    loss = 0.0
    if cfg.ctc < 1:
        loss = loss + (1 - cfg.ctc) * transcript_loss(logits, tgt, cfg.smoothing)
    if cfg.ctc > 0:
        said = tgt.masked_fill(tgt == EOS, PAD)
        loss = loss + cfg.ctc * ctc_loss(ctc_logits, is_sound, said)
    return loss


def learning_rate(step: int, cfg) -> float:
    """The learning rate at step 0, 1, …: the lower one of a rising line and of half a cosine that
    falls from lr to 0."""
    rising = (step + 1) / max(1, cfg.warmup)
    falling = (1 + math.cos(math.pi * step / cfg.steps)) / 2
    return cfg.lr * min(rising, falling)


# ---- writing down

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
    """k sentences for each of B sources, (B, k, T), the best first. The likeliest sentence need not
    begin with the likeliest word, so for each source the k best beginnings are followed at once.

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
    return tgt.view(B, k, -1)[:, :, 1:]                         # without BOS


def joint_log_p(model, tgt, memory, src_mask, weight: float):
    """(1 − weight) · log p(y|x) by the decoder + weight · log p(y|x) by CTC, (B,), of transcripts
    tgt (B, T) that end with EOS."""
    tgt_in = F.pad(tgt[:, :-1], (1, 0), value=BOS)              # the same one character later
    logits = model.decode(tgt_in, memory, src_mask).float()     # (B, T, V)
    logits[:, :, PAD] = -math.inf                               # it is no word
    log_p = F.log_softmax(logits, dim=2).gather(2, tgt[:, :, None])[:, :, 0]        # (B, T)
    by_decoder = log_p.masked_fill(tgt == PAD, 0.0).sum(dim=1)  # (B,)

    said = tgt.masked_fill(tgt == EOS, PAD)                     # CTC knows no EOS
    by_ctc = ctc_log_p(model.ctc_head(memory), src_mask[:, 0, 0], said)
    return (1 - weight) * by_decoder + weight * by_ctc


@torch.inference_mode()
def rescore(model, src, candidates, weight: float):
    """For each of B sources the best of k transcripts (B, k, T), by decoder and CTC: (B, T).

    The decoder may skip a word, or write one that is likely but was not said. For CTC, all that was
    said must be in the transcript, in order (Hori et al. 2017, who call this rescoring).
    """
    was_training = model.training
    model.eval()
    memory, src_mask = model.encode(src)
    scores = [joint_log_p(model, tgt, memory, src_mask, weight)
              for tgt in candidates.unbind(dim=1)]              # k × (B,)
    best = torch.stack(scores, dim=1).argmax(dim=1)             # (B, k) -> (B,)
    model.train(was_training)
    return candidates[torch.arange(len(src), device=src.device), best]


@torch.inference_mode()
def ctc_decode(model, src):
    """A transcript for each of B sources, (B, T), by CTC alone: the likeliest character at each
    moment, repeats merged, blanks dropped. (This is the likeliest path, not always the likeliest
    transcript, to which many paths lead; Graves et al., §3.2.)"""
    was_training = model.training
    model.eval()
    memory, src_mask = model.encode(src)
    said = model.ctc_head(memory).argmax(dim=2)                 # (B, S, V) -> (B, S)
    said = said.masked_fill(~src_mask[:, 0, 0], PAD)
    before = F.pad(said[:, :-1], (1, 0), value=PAD)
    keep = (said != PAD) & (said != before)                     # PAD is the blank
    order = (~keep).long().argsort(dim=1, stable=True)          # what is kept comes first
    model.train(was_training)
    return said.masked_fill(~keep, PAD).gather(1, order)


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), sample_every 500, log_every
    50, seed 1, device auto, matmul medium (how exact products are), compile false, resume false,
    stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "sentences"     # sentences, or your folder of WAV files, or .tsv: path, tab, text
    n_sentences: int = 12000    # sentences to speak to learn from
    max_seconds: float = 4.5    # the longest recording
    max_len: int = 40           # characters in the longest transcript

    # model
    n_mels: int = 40            # M, mel bands
    n_layer: int = 3            # N, layers of the encoder, and of the decoder
    n_head: int = 4             # h, attention heads in each layer
    n_embd: int = 128           # d_model, the width
    d_ff: int = 512             # the width inside the feed-forward networks
    dropout: float = 0.0        # of embeddings, and of what each sub-layer adds to x

    # optimisation
    steps: int = 3200           # optimiser steps
    batch_size: int = 32        # recordings in a step
    # learning rate at the top of the half cosine; the peak is a little lower, since it comes after
    # the warm-up
    lr: float = 1.5e-3
    warmup: int = 200           # steps in which the learning rate rises to its peak
    smoothing: float = 0.1      # ε of label smoothing (0: none)
    ctc: float = 0.3            # λ, the share of CTC in the loss (0: none; 1: without a decoder)
    noise: float = 0.5          # the share of the recordings that are learnt from with noise
    speed: float = 0.1          # how much faster or slower recordings are played, at most
    mask_bands: int = 0         # SpecAugment: neighbouring bands that are hidden, at most
    mask_pieces: int = 0        # SpecAugment: neighbouring pieces of sound that are hidden, at most

    # run
    out_dir: str = "runs/speech"        # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # held-out recordings of each set to score (0: all; fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    wav: str = ""               # a WAV file to write down ("": n held-out recordings)
    n: int = 8                  # held-out recordings to write down
    # attention: draw where in the sound each character looked, for the first one
    show: Literal["text", "attention"] = "text"
    # k, transcripts that beam search follows at once, and among which CTC chooses (1: greedy, then
    # CTC has no say)
    beam: int = 4
    alpha: float = 0.6          # of beam search: how much it favours longer ones (0: not at all)

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("n_sentences", "max_seconds", "max_len", "n_mels", "n_layer", "n_head", "n_embd",
             "d_ff", "dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # more sentences, and a wider and deeper network, for one GPU
    "gpu": dict(n_sentences=40000, n_mels=64, n_layer=6, n_head=8, n_embd=384, d_ff=1536,
                batch_size=128, steps=8000, lr=5e-4, warmup=1000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "max_seconds", "max_len", "n_mels", "n_layer", "n_head", "n_embd", "d_ff")
    require_positive(cfg, "batch_size", "beam", "n_sentences", "n")
    require(cfg.max_seconds <= 60, f"--max_seconds={cfg.max_seconds} is too long: 60 at most")
    require(cfg.n_mels <= 80, f"--n_mels={cfg.n_mels} is too many: 80 at most, or bands are empty")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.n_embd % 2 == 0, f"--n_embd={cfg.n_embd} must be even: positions are sin and cos")
    require(0 <= cfg.smoothing < 1, f"--smoothing={cfg.smoothing} must be from 0 to below 1")
    require(0 <= cfg.ctc <= 1, f"--ctc={cfg.ctc} must be from 0 to 1")
    require(0 <= cfg.noise <= 1, f"--noise={cfg.noise} must be from 0 to 1")
    require(0 <= cfg.speed <= 0.5, f"--speed={cfg.speed} must be from 0 to 0.5")
    require(min(cfg.mask_bands, cfg.mask_pieces) >= 0, "--mask_bands and --mask_pieces must be at "
                                                       "least 0")
    require(cfg.alpha >= 0, f"--alpha={cfg.alpha} must be at least 0")


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "speech", wanted=cfg.resume)
    device = pick_device(cfg.device)

    # recordings with transcripts; held_out: {set: Recordings}, as many as are to be scored
    train_set, held_out = load_speech(cfg.data, cfg.n_sentences, cfg.max_seconds, cfg.seed)
    examples = next(iter(held_out.values())).first(cfg.n)
    held_out = to_score(cfg, held_out)
    noises = noises_of(train_set, cfg.seed)

    # the model and its characters: resumed, or new
    torch.manual_seed(cfg.seed)                                 # for the initial weights, dropout
    if cfg.resume:
        model, characters = from_checkpoint(checkpoint, cfg)
    else:
        characters = Characters.of(train_set.texts)
        model = Recogniser(cfg, len(characters))
    model = model.to(device)

    # transcripts as numbers: tgt (N, T + 1)
    tgt = characters.encode_all(train_set.texts, cfg.max_len)

    # optimiser
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches
    if cfg.resume:                                              # its averages, all random states
        restore(checkpoint, [optimizer], data_rng)

    # net is the model as training calls it: as it is, or compiled
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    with Run(cfg, "speech", model, ["loss", "lr", "wer"], checkpoint) as run:
        V = len(characters) - 1                                 # without PAD
        n = {name: len(part) for name, part in held_out.items()}
        sizes = [f"{count:,} {name}" for name, count in n.items()]
        run.say(f"{len(train_set):,} recordings, {train_set.seconds() / 60:.0f} minutes, to learn "
                f"from; held out {', '.join(sizes)}")
        run.say(f"a decoder that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = learning_rate(step, cfg)
            optimizer.param_groups[0]["lr"] = lr

            # batch: faster or slower, noisier, and parts of it hidden
            sound, length, tgt_in, tgt_out = get_batch(train_set.sound, train_set.n, tgt,
                                                       cfg.batch_size, data_rng)
            sound, length = change_speed(sound, length, cfg.speed, data_rng)
            sound = make_noisy(sound, length, cfg.noise, noises, data_rng)
            src = features(sound.to(device), length.to(device), cfg.n_mels)
            src = spec_augment(src, cfg.mask_bands, cfg.mask_pieces, data_rng)

            # loss and backward; products are in bfloat16, if that is faster on this device, while
            # the weights stay in float32
            with autocast(device, cfg.matmul):
                output = net(src, tgt_in.to(device))
            loss = both_losses(output, tgt_out.to(device), cfg)
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            optimizer.zero_grad(set_to_none=True)
            loss.backward()

            # step
            optimizer.step()

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                wer = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    part = next(iter(held_out.values())).first(64)
                    wer = word_errors(write(model, characters, part), part.texts)

                if wer is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, wer=wer)

                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", show(model, characters, examples))

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if wer is not None or stopping:
                    # checkpoint.pt: settings, weights, optimiser, random states, characters
                    run.save(done, model, [optimizer], data_rng, words=characters.state())

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, beside those of time warping, and of the most frequent word
        run.say(f"writing down {sum(n.values()):,} held-out recordings …")
        table = score(model, characters, held_out, train_set)
        draw_attention(model, characters, examples)
        run.say(report(table, n))
        return run.finish(n=n, **headline(table), scores=table)         # result.json


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, characters) of a checkpoint."""
    characters = Characters(checkpoint["words"])
    model = Recogniser(cfg, len(characters))
    model.load_state_dict(checkpoint["model"])
    return model, characters


def load(cfg):
    """(model, characters) of the run in --out_dir; model.cfg has the settings of that run."""
    cfg, checkpoint = own_checkpoint(cfg, "speech")
    model, characters = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), characters


def features_of(model, recordings):
    """What the model reads, (B, T, M), of Recordings."""
    sound = recordings.sound[:, :recordings.n.max()].float() / 32768
    return features(sound.to(model.device), recordings.n.to(model.device), model.cfg.n_mels)


def listen(model, recordings, beam: int = 1, alpha: float = 0.6, weight: float = 0.0,
           at_once: int = 64) -> list:
    """Transcripts of Recordings as lists of numbers up to EOS: by beam search (beam 1: greedy),
    with some weight for CTC; or, if the model has learnt by CTC alone, by that."""
    cached = CachedDecoder(model)                               # the same words: see the appendix
    progress = Progress("written down", len(recordings))
    rows = []
    for start in range(0, len(recordings), at_once):
        part = recordings[start:start + at_once]
        src = features_of(model, part)
        if model.cfg.ctc == 1:
            tgt = ctc_decode(model, src)
        elif beam == 1:
            tgt = greedy_decode(cached, src)
        else:
            candidates = beam_search(cached, src, beam, alpha)  # (B, k, T)
            tgt = rescore(model, src, candidates, weight) if weight > 0 else candidates[:, 0]
        rows += [[i for i in row if i != PAD] for row in tgt.tolist()]
        progress.add(len(part))
    return rows


def write(model, characters, recordings, beam: int = 1, alpha: float = 0.6,
          weight: float = 0.0) -> list:
    """The same as strings."""
    return [characters.decode(row) for row in listen(model, recordings, beam, alpha, weight)]


def score(model, characters, held_out: dict, train_set) -> dict:
    """{set: scores}, beside those of the most frequent word, and of time warping."""
    cfg = model.cfg
    outputs = {name: write(model, characters, part, cfg.beam, cfg.alpha, cfg.ctc)
               for name, part in held_out.items()}

    def to_features(sound, n):
        return features(sound, n, cfg.n_mels)

    return scores(outputs, held_out, train_set, to_features)


def show(model, characters, recordings) -> str:
    """What the model writes down of Recordings, and what was said if that differs."""
    cfg = model.cfg
    text = ""
    lines = write(model, characters, recordings, cfg.beam, cfg.alpha, cfg.ctc)
    for line, right in zip(lines, recordings.texts):
        text += f"{line}\n"
        if right not in ("", line):
            text += f"    said: {right}\n"
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


def draw_attention(model, characters, recordings) -> bool:
    """Draw samples/attention.png: the spectrogram of the first of some Recordings, and below it
    where each character of its transcript looked, the mean over layers and heads. False if nothing
    can be drawn."""
    cfg = model.cfg
    one = recordings.first(1)
    ids = [i for i in listen(model, one, cfg.beam, cfg.alpha, cfg.ctc)[0] if i != EOS]
    if cfg.ctc == 1 or not ids:                                 # CTC has no attention over time
        return False
    src = features_of(model, one)
    maps = attention_maps(model, src, torch.tensor([ids]))
    if not maps or any(weights.size(1) != (src.size(1) + 1) // 2 for weights in maps):
        return False
    texts = [characters.words[i] for i in ids]
    picture = spectrogram_and_attention(src[0].cpu(), torch.stack(maps).mean(dim=0), texts)
    write_png(f"{cfg.out_dir}/samples/attention.png", picture)
    return True


def sample(cfg: Config) -> str:
    """Write down --wav, or some held-out recordings, which it also saves as WAV files."""
    model, characters = load(cfg)
    cfg = model.cfg
    if cfg.wav:
        recordings = hear(cfg.wav, cfg.max_seconds)
    else:
        recordings = next(iter(load_held_out(cfg).values())).first(cfg.n)
        for i, (sound, n) in enumerate(zip(recordings.sound, recordings.n), 1):
            write_wav(f"{cfg.out_dir}/samples/{i}.wav", sound[:n].float() / 32768, RATE)
    text = show(model, characters, recordings)
    print(text, end="")
    if cfg.show == "attention" and draw_attention(model, characters, recordings):
        print(f"where in the sound it looked: {cfg.out_dir}/samples/attention.png")
    return text


def evaluate(cfg: Config) -> dict:
    """Errors by noise, by the beam, by attention and CTC: see mini/studies/speech.py."""
    from mini.studies import speech as study  # only this command needs it
    model, characters = load(cfg)
    return study.evaluate(model, characters)


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
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --d_ff, "
                                      "--n_sentences, --max_seconds or --beam")


if __name__ == "__main__":
    main()
