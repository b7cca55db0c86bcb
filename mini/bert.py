"""BERT: a Transformer encoder that learns to understand text by filling in words hidden from it.

There is no causal mask: every position sees the whole text, to its left and to its right. A text is
read as tokens, words or pieces of words, with some special ones: a row begins with [CLS], each text
ends with [SEP], [PAD] fills up a row, and [MASK] stands where a word is hidden. ([UNK] stands for a
word that the tokenizer cannot read.)

    [CLS] The cast was not dull . [SEP] [PAD] [PAD]                   one text
    [CLS] Ivo moved to Turin . [SEP] Where does Ivo live ? [SEP]      two texts (the paper has the
                                                                      question first)

In *pre-training* some words are chosen, and the model has to predict them. It is shown [MASK] in
place of most of them:

    text      [CLS] The cast was not dull . [SEP]
    shown     [CLS] The cast was not [MASK] . [SEP]
    predict                          dull

This needs no labels. M is the set of the chosen positions, x the text, and x̃ the text as it is
shown. The loss:

    L = −1/|M| · Σ_{t ∈ M} log p(xₜ | x̃)      in nats

A model that knows nothing gives each of V tokens the probability 1/V. Its loss is ln V.

Then the model is *fine-tuned* for a task with few labels: a small head is put on top of it, and
both are trained for a short time. There are three tasks. Is a film review good or bad? Is a word of
a sentence part of a name: of a person, a place, an organisation? Which words of a passage answer a
question?

The file has five parts: the network; pre-training; fine-tuning; what we add to the paper; settings
and the run, where `train` has the training loop. **The first three are BERT**, with few changes,
each named where it is made. What we add, in the fourth part, is for one purpose: the paper's models
read billions of words for days, and learn a task from thousands of labels; ours reads for minutes
on a CPU, and has 300 labels.

The texts are written by small programs of ours, unless you bring your own by --data and --reviews:
tales, film reviews, sentences with names, passages with questions, and pairs of "reports" that tell
the same facts in other words (see part four). They are far simpler than real ones, and so the
scores are far higher; mini/gallery/README.md also has the scores on real reviews. The texts of the
tasks come from the same programs, but are drawn anew: hardly any of them is among the texts of
pre-training, and half of the names in the held-out ones are in no text that it learns from.

Shapes: B rows of T tokens in a batch (a row is one text or two, as above), C the width, nh heads of
size hs = C / nh, V tokens.

Paper: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", https://arxiv.org/abs/1810.04805. All our departures are listed at the head of part
four.

    python -m mini.bert                                             pre-training, then three tasks
    python -m mini.bert --scratch                                   also without pre-training
    python -m mini.bert sample --text="The cast was not [MASK]."
    python -m mini.bert sample --task=sentiment --text="The acting was anything but dull."
    python -m mini.bert sample --task=answer --text="Ivo lives …" --question="Where does Ivo live?"
    python -m mini.bert evaluate                                    with fewer labels, and with more
    python -m mini.bert --data=my_novel.txt                         your own text without labels
    python -m mini.bert --reviews=mine.tsv              your own: text, tab, label; this task alone
    python -m mini.bert --reviews=mine.tsv --all_tasks=1                        all three
    python -m mini.bert --init_from=bert/model.safetensors --preset=published

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/finetune.py.
"""
import copy
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

# Texts as tokens and the tasks (tasks.py), the tokenizer, published weights, baselines and scores,
# the command line (`require` refuses a wrong setting), devices, the optimiser Muon, the folder of a
# run. The file can be followed without reading them, if you know three classes of tasks.py:
#
# Rows      texts without labels, all of one kind, two tensors (N, T): idx, the tokens, filled up
#           with [PAD]; is_gap, which only concerns reports (see `hide`)
# Tokens    texts of a task, three tensors (N, T): idx, token_type_ids, and word_number, which says
#           where words begin (see part three)
# Task      what a task has: learn (Tokens) and their labels y, test (Tokens) and their truth, names
#           of the outputs, predictions of the baselines
#
# x[i] are some of the texts of Rows or Tokens, x.cut(n) their first n positions.
from mini.data.safetensors import folder_of
from mini.data.text import passages, tasks
from mini.data.text.cooccurrence import cooccurrence_vectors
from mini.data.text.reviews import load_reviews
from mini.data.text.wordpiece import WordPieceTokenizer
from mini.data.weights import cut_filling, read_bert
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.optim import Muon
from mini.utils.run import (Run, atomic_open, load_checkpoint, merge_config, own_checkpoint,
                            restore, write_json)


# ==== part one: the network

# ---- attention

def attention(q, k, v, mask, dropout):
    """softmax(q kᵀ / √hs) v, where each query looks only at the keys that the mask allows. dropout:
    an nn.Dropout, for the attention weights.

    q, k, v: (B, nh, T, hs); mask: (B, 1, 1, T), True where a key may be looked at. Returns
    (B, nh, T, hs).
    """
    hs = q.size(-1)
    scores = (q / math.sqrt(hs)) @ k.transpose(-2, -1)      # (B, nh, T, hs) -> (B, nh, T, T)
    # 0 where a key may be looked at, −∞ elsewhere: e^−∞ = 0, so it gets no weight
    bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    weights = F.softmax(scores + bias, dim=-1)              # each row sums to 1
    weights = dropout(weights)
    return weights @ v                                      # (B, nh, T, T) -> (B, nh, T, hs)


def padding_mask(idx, pad: int):
    """(B, 1, 1, T) for tokens idx (B, T): False at [PAD], which only fills up a row. It is a mask
    of keys, the same for every head and every query."""
    return (idx != pad)[:, None, None, :]


class SelfAttention(nn.Module):
    """Attention in n_head heads. Every position looks at all positions that are not [PAD].

    cfg is the Config in part five: n_layer, n_head, n_embd (C), d_ff and dropout. The names c_attn,
    c_proj and, in the MLP, c_fc are those of GPT-2's published weights, as in train_gpt.py.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)     # q, k and v in one product
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.attn_dropout = nn.Dropout(cfg.dropout)             # on the attention weights
        self.resid_dropout = nn.Dropout(cfg.dropout)            # on what the block adds to x

    def forward(self, x, mask):                                 # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        hs = C // self.n_head

        q, k, v = self.c_attn(x).split(C, dim=-1)               # (B, T, 3C) -> 3 × (B, T, C)
        q = q.view(B, T, self.n_head, hs).transpose(1, 2)       # (B, T, C) -> (B, nh, T, hs)
        k = k.view(B, T, self.n_head, hs).transpose(1, 2)
        v = v.view(B, T, self.n_head, hs).transpose(1, 2)

        y = attention(q, k, v, mask, self.attn_dropout)         # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))


# ---- the network

def make_norm(cfg):
    return nn.LayerNorm(cfg.n_embd, eps=1e-12)                  # as in the published BERT


class MLP(nn.Module):
    """Two linear layers with GELU between them, applied to each position by itself."""

    def __init__(self, cfg):
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, cfg.d_ff)
        self.c_proj = nn.Linear(cfg.d_ff, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x):
        x = self.c_fc(x)                                        # (B, T, C) -> (B, T, d_ff)
        x = F.gelu(x)
        x = self.c_proj(x)                                      # (B, T, d_ff) -> (B, T, C)
        return self.dropout(x)


class Block(nn.Module):
    """Attention, then an MLP. Post-norm: the sum x + f(x) is normalised (Vaswani et al. 2017,
    "Attention is all you need"), where GPT-2 has x + f(norm(x)).

    We add a convolution before them (see part four). With conv_width = 0 there is none, as in the
    paper."""

    def __init__(self, cfg):
        super().__init__()
        self.conv = None
        if cfg.conv_width > 0:
            self.conv = ShortConv(cfg.n_embd, cfg.conv_width)
            self.ln_0 = make_norm(cfg)
        self.attn = SelfAttention(cfg)
        self.ln_1 = make_norm(cfg)
        self.mlp = MLP(cfg)
        self.ln_2 = make_norm(cfg)

    def forward(self, x, mask):
        if self.conv is not None:
            x = self.ln_0(x + self.conv(x, mask))
        x = self.ln_1(x + self.attn(x, mask))
        x = self.ln_2(x + self.mlp(x))
        return x


class BERT(nn.Module):
    """The whole network: vectors of tokens, positions and token types, the blocks, and the head of
    pre-training. (read_bert() in mini/data/weights.py says which published weight is which.)"""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        C = cfg.n_embd
        self.cfg = cfg
        # three embeddings: of tokens, positions and token types
        self.wte = nn.Embedding(vocab_size, C)                  # a vector for each token
        self.wpe = nn.Embedding(cfg.block_size, C)              # a vector for each position, learnt
        self.wtt = nn.Embedding(2, C)                           # one for each of two texts
        self.ln_e = make_norm(cfg)
        self.dropout = nn.Dropout(cfg.dropout)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])

        # the head of pre-training; its output matrix is wte (tied)
        self.transform = nn.Linear(C, C)
        self.ln_transform = make_norm(cfg)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        init_weights(self)                                      # see part four

    def forward(self, idx, token_type_ids, mask):
        """Vectors (B, T, C) of tokens idx (B, T).

        token_type_ids (B, T): 0 in the first text, 1 in the second; at [PAD] either value, since
        nobody looks there. mask: see `padding_mask`.
        """
        positions = torch.arange(idx.size(1), device=idx.device)
        x = self.wte(idx) + self.wtt(token_type_ids) + self.wpe(positions)      # (B, T, C)
        x = self.dropout(self.ln_e(x))
        for block in self.h:
            x = block(x, mask)
        return x

    def mlm_transform(self, x):
        """From the vectors x (…, C) of the last block, what the model guesses to stand there, as
        vectors (…, C): the more alike one is to a token's vector in wte, by their dot product, the
        likelier the token is."""
        x = self.transform(x)
        x = F.gelu(x)
        return self.ln_transform(x)

    def mlm_logits(self, x):
        """Logits (…, V) of all tokens at the positions whose vectors are x (…, C): guess · wte +
        bias."""
        return F.linear(self.mlm_transform(x), self.wte.weight, self.bias)

    @property
    def device(self):
        return self.wte.weight.device


# ==== part two: pre-training

# ---- what is hidden, and what is predicted

class Batch(NamedTuple):
    """B rows of T tokens, and what is hidden of them: four tensors (B, T)."""
    idx: torch.Tensor               # x, the tokens
    token_type_ids: torch.Tensor    # 0 in the first text, 1 in the second
    shown: torch.Tensor             # x̃, the tokens as the model sees them
    chosen: torch.Tensor            # True at the positions in M, where it has to predict the token


def mask_tokens(idx, tokenizer, share: float, generator):
    """(shown, chosen) for tokens idx (B, T): what the model is shown, and where it must predict.

    Each word is chosen with the probability `share`, but never a special token. Of the chosen words
    80 % become [MASK], 10 % become random tokens (of all V), and 10 % stay as they are. In the
    tasks no words are hidden, so the model must learn to make good vectors of words that it sees,
    too (§3.1, "Masked LM"). It cannot know which of the words that it sees it will have to predict
    (§A.1).

    Whole words are chosen, as in the authors' own second release: a visible piece of a word gives
    the others away. And we choose 40 % of them, where the paper chooses 15 % of the tokens: each
    text gives more to learn. (Wettig et al. 2022, "Should you mask 15% in masked language
    modeling?", found 40 % best for a large model.)
    """
    is_special = tokenizer.is_special.to(idx.device)[idx]               # (B, T)
    chosen = (random_by_word(idx, tokenizer, generator) < share) & ~is_special

    # one number for each word: below 0.8 [MASK], below 0.9 random tokens, else as it is
    way = random_by_word(idx, tokenizer, generator)
    random_tokens = torch.randint(tokenizer.vocab_size, idx.shape, generator=generator)
    shown = idx
    shown = torch.where(chosen & (way < 0.8), tokenizer.mask, shown)
    shown = torch.where(chosen & (way >= 0.8) & (way < 0.9), random_tokens.to(idx.device), shown)
    return shown, chosen


def random_by_word(idx, tokenizer, generator):
    """A random number from 0 to 1 for each word, copied to all its pieces: (B, T), for tokens idx
    (B, T).

        idx             [CLS]  dis  ##app  ##oint  ##ing  .
        begins_word       1     1     0       0      0    1         (a special token counts as one)
        word              1     2     2       2      2    3
    """
    begins_word = tokenizer.begins_word.to(idx.device)[idx]             # (B, T)
    word = begins_word.long().cumsum(dim=1)                             # (B, T): 1 … T
    B, T = idx.shape
    u = torch.rand(B, T + 1, generator=generator).to(idx.device)        # u[b, w] is for word w
    return u.gather(1, word)                                            # u[b, word[b, t]]


def predict_chosen(model, batch: Batch, pad: int):
    """Logits (|M|, V) for the chosen positions; the model sees what is shown."""
    # (the mask is made from idx: a word may be shown as a random token, and that may be [PAD])
    x = model(batch.shown, batch.token_type_ids, padding_mask(batch.idx, pad))      # (B, T, C)
    return model.mlm_logits(x[batch.chosen]).float()                    # (|M|, C) -> (|M|, V)


def mlm_loss(model, batch: Batch, pad: int):
    """−log p(xₜ) in nats, the mean over the chosen positions; 0 if there are none."""
    logits = predict_chosen(model, batch, pad)
    total = F.cross_entropy(logits, batch.idx[batch.chosen], reduction="sum")
    return total / batch.chosen.sum().clamp(min=1)


@torch.no_grad()
def estimate_loss(model, batches: list, pad: int) -> float:
    """The mean of the losses of these batches, one for each kind of text, held out. (Training reads
    some kinds more often, so its loss cannot be compared with this one.)"""
    was_training = model.training
    model.eval()                                                        # no dropout
    losses = [mlm_loss(model, batch, pad).item() for batch in batches]
    model.train(was_training)
    return sum(losses) / len(losses)


def get_rows(rows, batch_size: int, pad: int, generator):
    """B = batch_size of the Rows, of about the same length, so that few tokens are [PAD].

    8 B rows are drawn (one may come twice), sorted by length, and cut into eight groups: the
    shortest B, the next B, … the longest B. One group is taken at random. So each row is as likely
    as any other. The group is cut to its longest row, so T differs from batch to batch.
    """
    i = torch.randint(len(rows), (8 * batch_size,), generator=generator)
    eighth = torch.randint(8, (1,), generator=generator).item()
    drawn = rows[i.to(rows.idx.device)]                                 # 8 B rows
    length = (drawn.idx != pad).sum(dim=1)
    group = length.argsort(stable=True)[eighth * batch_size:(eighth + 1) * batch_size]
    return drawn[group].cut(length[group].max())                        # B rows


# Pre-training repeats, for each step (`train` in part five, which also logs and saves):
#
#     set_learning_rate(optimizers, lr_factor(step, cfg.steps, cfg.warmup))
#     rows = get_rows(…)                                    # B texts
#     shown, chosen = mask_tokens(rows.idx, …)
#     loss = mlm_loss(model, Batch(rows.idx, token_type_ids, shown, chosen), pad)
#     loss.backward()
#     optimizer.step()

# ---- learning rates

def lr_factor(step: int, steps: int, warmup: int, stable_frac: float = 0.4) -> float:
    """The learning rate at a step as a fraction of its peak. In the paper it falls right after it
    has risen (stable_frac = 0)."""
    if step < warmup:                                           # it rises
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)         # 0 -> 1
    if progress < stable_frac:                                  # it stays
        return 1.0
    return 1 - (progress - stable_frac) / (1 - stable_frac)     # it falls linearly to 0


def set_learning_rate(optimizers: list, factor: float):
    """Set every learning rate to this fraction of its peak, which the optimiser keeps in
    `defaults`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * optimizer.defaults["lr"]


@torch.no_grad()
def fill_in(model, tokenizer, text: str, k: int = 5) -> list:
    """A line for each [MASK] in the text: the k likeliest tokens and their probabilities."""
    words = tokenizer.words(text)
    tokens = tasks.encode([(words, None)], tokenizer, model.cfg.block_size, cut=False)
    tokens = tokens.to(model.device)
    hidden = tokens.idx == tokenizer.mask                               # (1, T)
    require(hidden.any(), 'nothing to fill in: write [MASK] into --text="the cast was [MASK]"')

    model.eval()
    token_type_ids = tasks.token_types(tokens.idx, tokenizer.sep)       # 1 after a typed [SEP]
    x = model(tokens.idx, token_type_ids, padding_mask(tokens.idx, tokenizer.pad))
    probs = F.softmax(model.mlm_logits(x[hidden]).float(), dim=-1)      # (masks, V)
    top = probs.topk(min(k, tokenizer.vocab_size))
    lines = []
    for ids, p in zip(top.indices.tolist(), top.values.tolist()):
        lines.append("  ".join(f"{tokenizer.tokens[i]} {p_i:.1%}" for i, p_i in zip(ids, p)))
    return lines


# ==== part three: fine-tuning

# word_number, in Tokens, says where words begin. It is n at the first piece of the n-th word of a
# text, counted from 1, and 0 elsewhere:
#
#     idx             [CLS]  Ivo  lives  in  Tu  ##rin  .  [SEP]
#     word_number       0     1     2     3   4    0    5    0

# ---- the heads

# Each has the same three functions: `forward` gives logits, `loss` compares them with the labels y,
# and `decide` says what they mean. (Not every head needs all of the arguments.) lr_scales are two
# factors of the peak learning rate: that for the BERT, and that for the head.
#
# The paper finds an answer by the same means as EntityHead finds names: a linear layer with two
# outputs at each word, x · S for "the answer begins here" and x · E for "it ends here", and softmax
# over the words of the passage (§4.2). Ours does more: see AnswerHead in part four.

class SentimentHead(nn.Module):
    """A class for the whole text, from the mean over its words (punctuation marks count as words).

    The paper's head is given the vector of [CLS] alone, which next-sentence prediction has trained
    to hold the whole text. In ours nothing has.

    And for each word ours is given two vectors (of its first piece), side by side: that of the last
    block, and that of the token, which is the same in every text. (In trials the last block's alone
    did about as well, mini/studies/README.md.)
    """

    # the head learns fast; the BERT learns slowly, to keep what it knows
    lr_scales = (0.3, 3.0)

    def __init__(self, C: int, n_classes: int):
        super().__init__()
        self.linear = nn.Linear(2 * C, n_classes)
        # zeros: at first all classes are equally probable
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, word_number):
        """Logits (B, n_classes), from x (B, T, 2C)."""
        is_word = (word_number > 0)[:, :, None]                         # (B, T, 1)
        # each text has a word: `encode` sees to it
        mean = (x * is_word).sum(dim=1) / is_word.sum(dim=1)            # (B, T, 2C) -> (B, 2C)
        return self.linear(mean)

    def loss(self, logits, y):
        """y (B,): the right class."""
        return F.cross_entropy(logits, y)

    def decide(self, logits, word_number) -> list:
        """For each text its class."""
        return logits.argmax(dim=-1).tolist()


class EntityHead(nn.Module):
    """A tag for each word, from the vector of its first piece (§5.3): other, person, place,
    organisation, or date."""

    lr_scales = (1.0, 1.0)

    def __init__(self, C: int, n_tags: int):
        super().__init__()
        self.linear = nn.Linear(C, n_tags)

    def forward(self, x, word_number):
        """Logits (B, T, n_tags)."""
        return self.linear(x)

    def loss(self, logits, y):
        """y (B, T): the right tag at the first piece of each word, elsewhere −100, which is left
        out."""
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)

    def decide(self, logits, word_number) -> list:
        """For each text the tags of its words."""
        tags = logits.argmax(dim=-1)                                    # (B, T)
        return [row[is_first].tolist() for row, is_first in zip(tags, word_number > 0)]


class FineTuned(nn.Module):
    """A BERT with the head of a task on top."""

    def __init__(self, bert, task: str, n_out: int):
        super().__init__()
        self.bert = bert
        self.task = task
        self.head = HEADS[task](bert.cfg.n_embd, n_out)

    def forward(self, tokens, pad: int):
        """The head's logits for Tokens (see mini/data/text/tasks.py)."""
        x = self.bert(tokens.idx, tokens.token_type_ids, padding_mask(tokens.idx, pad))
        if self.task == "sentiment":
            # the tokens' own vectors, without their positions; normalised, as x is
            alone = self.bert.wte(tokens.idx)                   # (B, T, C)
            alone = F.layer_norm(alone, alone.shape[2:], eps=1e-12)
            x = torch.cat([alone, x], dim=2)                    # (B, T, 2C)
        elif self.task == "answer":
            x = self.bert.mlm_transform(x)                       # what it would fill in
        return self.head(x, tokens.word_number).float()


# ---- fine-tuning

# 300 texts are read some forty times (answers 85 times, see KEEP_STEPS), at a rate of 1e-3 times
# lr_scales. (The paper has many more texts, which it reads two to four times, at 5e-5 or less,
# §A.3; but its models are far larger. Its code exempts biases and norms from weight decay; ours
# decays all parameters.)
TUNE_STEPS = 400            # optimiser steps of a task, if --tune_steps is 0
KEEP_STEPS = 800            # the same while it also reads reports (see `reports_loss`)
TUNE_PASSES = 4             # or so many passes over the labelled rows, if these are more steps


def tune_steps(cfg, task, keep: bool) -> int:
    """The number of optimiser steps for a task: --tune_steps. If that is 0, the larger of
    TUNE_STEPS (or KEEP_STEPS) and TUNE_PASSES passes over its labelled rows, but at most --steps,
    so that a short trial stays short. (--steps=0, for published weights, is no limit.)"""
    if cfg.tune_steps > 0:
        return cfg.tune_steps
    steps = max(KEEP_STEPS if keep else TUNE_STEPS, TUNE_PASSES * len(task.y) // cfg.tune_batch)
    return min(steps, cfg.steps) if cfg.steps > 0 else steps


def fine_tune(bert, task, lr: float, cfg, tokenizer, keep: bool = False) -> FineTuned:
    """A copy of the BERT with the head of a task, both trained on the task's labelled texts. lr:
    the peak learning rate, to be multiplied by the head's lr_scales.

    keep, for answers: it also reads reports, so as not to forget how to look up facts (see
    `prepare_to_keep` and `reports_loss` in part four).
    """
    torch.manual_seed(cfg.seed)                                 # for the head, and for dropout
    model = FineTuned(copy.deepcopy(bert), task.name, len(task.names)).to(bert.device).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.tune_dropout
    if keep:
        prepare_to_keep(model.bert)
        reports = task.reports.to(bert.device)
    bert_scale, head_scale = model.head.lr_scales
    how = dict(weight_decay=cfg.tune_decay, fused=has_fused(bert.device))
    optimizers = [                      # two: set_learning_rate knows one peak for each
        torch.optim.AdamW(model.bert.parameters(), bert_scale * lr, **how),
        torch.optim.AdamW(model.head.parameters(), head_scale * lr, **how),
    ]
    tokens = task.learn.to(bert.device)
    y = task.y.to(bert.device)
    length = (tokens.idx != tokenizer.pad).sum(dim=1)
    data_rng = torch.Generator().manual_seed(cfg.seed)
    steps = tune_steps(cfg, task, keep)

    progress = metrics.Progress(f"{task.name}: step", steps)
    for step in range(steps):
        # learning rate
        set_learning_rate(optimizers, lr_factor(step, steps, warmup=steps // 10))
        # batch
        i = torch.randint(len(y), (cfg.tune_batch,), generator=data_rng).to(bert.device)
        longest = length[i].max()
        x_i = tokens[i].cut(longest)
        y_i = y[i, :longest] if task.name == "entities" else y[i]       # a tag for each token
        # loss, backward, step
        with autocast(bert.device, cfg.matmul):
            logits = model(x_i, tokenizer.pad)
        loss = model.head.loss(logits, y_i)
        if keep:
            loss = loss + reports_loss(model.bert, reports, cfg, tokenizer, data_rng)
        require(loss.isfinite(), f"the loss of {task.name} is {loss.item()}: lower --tune_lr, or "
                                 "--scratch_lr for the model that was not pre-trained")
        loss.backward()
        if cfg.grad_clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        progress.add()
    return model


@torch.no_grad()
def predict(model, tokens, pad: int, others_log_p=None, at_once: int = 128) -> list:
    """What a fine-tuned model decides for Tokens: for each text its class, its tags, or its
    answer's (start, end).

    others_log_p (N, n_classes), for reviews only: log p(class | text) by another model. If given,
    the class is the one that is most probable by the product of both models' probabilities (a
    product of experts, Hinton 2002). Logits are log p(class | text) but for a constant in each
    text, so adding log p multiplies the probabilities. (Both know how frequent the classes are, so
    this counts twice.)
    """
    model.eval()
    found = []
    for start in range(0, len(tokens), at_once):
        part = tokens[start:start + at_once]
        part = part.cut((part.idx != pad).sum(dim=1).max()).to(model.bert.device)
        logits = model(part, pad)
        if others_log_p is not None:
            logits = logits + others_log_p[start:start + at_once].to(logits.device)
        found += model.head.decide(logits, part.word_number)
    return found


# ==== part four: what we add to the paper

# All departures, and where they are:
#
# network         A block begins with a convolution (`ShortConv`). The MLP is twice as wide as the
#                 rest, not four times (d_ff). The positions begin as sinusoids, the tokens' vectors
#                 with counts of which tokens stand near each other, and the weights of the blocks
#                 are larger at first (`init_weights`, `start_with_counts`).
# pre-training    Whole words are hidden, 40 % of them (`mask_tokens`). There is no next-sentence
#                 prediction, as in RoBERTa (Liu et al. 2019, §4.2), where a model trained without
#                 it was as good or better. No dropout: a text is read some nine times at most, on
#                 average. Muon beside AdamW (`make_optimizers`); the learning rate stays at its
#                 peak for a while (`lr_factor`).
# texts           Some are like those of the tasks; the kinds come in a certain order, and at first
#                 the tokens' vectors do not learn (`kind_of_batch`, `choose_trained`). Of pairs of
#                 reports nothing but facts is hidden (`hide`).
# fine-tuning     The class of a review comes from the mean over all words, not from [CLS], and from
#                 the tokens' own vectors, too (`SentimentHead`); there is no pooler.
#                 The question stands after the passage and ends with a [MASK] (`AnswerHead`); the
#                 model goes on reading reports (`reports_loss`), and its embeddings rest
#                 (`prepare_to_keep`). Sentences and passages are given twice, once with names in
#                 pieces, such as "Tu ##rin" (`tasks.encode_both_ways`). Learning rates are larger,
#                 and there are more passes over the labels (TUNE_STEPS). A result with naive Bayes
#                 is given beside that without (`predict`).
#
# Why most of this: by filling in hidden words, a small model learns in minutes which words go
# together, and which sentences agree. What it did not learn in this way is to look something up:
#
#     Ivo Lang lives in Turin . Dora Finch lives in Lyon .          Where does Dora Finch live ?
#
# It knew that a place was asked for, and guessed which one. What was tried, mostly in one run each,
# is told in mini/studies/README.md.

# ---- a convolution in each block

class ShortConv(nn.Module):
    """A depthwise convolution over the positions: each of the C channels by itself,

        y[t, c] = Σᵢ w[c, i + h] · x[t + i, c],     i = −h … h,  h = width // 2

    So the vector of Turin, in "Ivo Lang plays the harp. He lives in Turin", holds something of Ivo
    Lang: ten positions on either side (the default) mostly reach back to the name. In trials of 600
    steps with five positions on either side, the right one of two persons' facts was the likelier
    one in 76 to 95 % of the gaps; without a convolution in half of them, as by guessing (one run
    each, mini/studies/README.md). Allen-Zhu 2025, "Physics of language models: part 4.1", puts such
    convolutions, over four positions, before attention and elsewhere, and calls them canon layers.
    """

    def __init__(self, C: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(C, width))
        nn.init.normal_(self.weight, std=1 / width)     # so y begins smaller than x; it is added

    def forward(self, x, mask):
        """x (B, T, C) -> (B, T, C). mask: see `padding_mask`."""
        C, width = self.weight.shape
        is_text = mask[:, 0, 0, :, None]                        # (B, T, 1)
        x = x * is_text                                         # zeros at [PAD]
        # as if the row were an image one pixel high: on a CPU conv1d takes three times as long
        image = x.transpose(1, 2)[:, :, None]                   # (B, T, C) -> (B, C, 1, T)
        kernel = self.weight[:, None, None, :]                  # (C, 1, 1, width)
        y = F.conv2d(image, kernel, padding=(0, width // 2), groups=C)
        return y[:, :, 0].transpose(1, 2)                       # (B, C, 1, T) -> (B, T, C)


# ---- weights at the start, and what trains them

def init_weights(model):
    """The authors draw all weights from N(0, 0.02²). So do we for the token types and for
    `transform`; biases are 0, too.

    The linear layers of the blocks are drawn so that their outputs are about as large as their
    inputs. An output is a sum over n inputs; if the weights have the standard deviation s, it is
    some s √n times as large as one input. Here s = 1/√n. With s = 0.02 it is 0.55 times as large
    for the authors' n = 768, but only 0.23 times for our 128.

    The vectors of tokens are drawn from N(0, 0.1²); by default `start_with_counts` then puts others
    in their place. Those of positions begin as sinusoids, about as large.
    """
    for block in model.h:
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
    nn.init.normal_(model.wtt.weight, std=0.02)
    nn.init.normal_(model.transform.weight, std=0.02)
    nn.init.zeros_(model.transform.bias)
    nn.init.normal_(model.wte.weight, std=0.1)
    with torch.no_grad():
        model.wpe.weight.copy_(0.1 * sinusoids(*model.wpe.weight.shape))


def sinusoids(n: int, C: int):
    """The positions 0 … n − 1 as vectors (n, C): waves of different lengths (Vaswani et al., §3.5).

    The vectors of positions are learnt. If they begin at random, each pair of positions has to be
    learnt by itself. With waves, the dot product of two of them says how far apart they are.
    """
    position = torch.arange(n)[:, None]                                 # (n, 1)
    frequency = 10000 ** (-torch.arange(0, C, 2) / C)                   # (C/2,), rounded up
    angle = position * frequency                                        # (n, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :C]


@torch.no_grad()
def start_with_counts(model, rows, tokenizer):
    """Give the tokens vectors that come from counting how often they stand near each other in
    these rows: tokens in the same company get similar vectors (mini/data/text/cooccurrence.py).

    The rows are tales and reviews alone, where good words and bad words stand in different company.
    Tokens that do not occur there get random vectors as large as the others.

    In a trial of 4,400 steps, 94.9 % of the reviews were classified rightly with counted vectors,
    and 75.2 % with random ones of the same size (one run each, mini/studies/README.md).
    """
    is_counted = ~tokenizer.is_special                                              # (V,)
    vectors = cooccurrence_vectors(rows.idx, is_counted, model.cfg.n_embd)          # (V, C)
    model.wte.weight.copy_(vectors)


def make_optimizers(model, cfg) -> list:
    """Muon for the weight matrices of the blocks, AdamW for all the rest.

    Muon changes a matrix W by about −lr · P Qᵀ, where P S Qᵀ is the singular value decomposition of
    its momentum, the running mean of the gradients. So weak directions count as much as strong
    ones, and training needs fewer steps; see mini/utils/optim.py. (The weights (C, width) of a
    convolution are trained as a matrix, too; AdamW was not tried for them.)

    AdamW's rate is 0.001: in trials with five times as much, the tokens' vectors lost what they
    begin with (see `start_with_counts`). Its β₂ is 0.98, as in RoBERTa, and there is no weight
    decay, since texts are read few times.
    """
    qkv = []
    matrices = []
    for block in model.h:
        for name, p in block.named_parameters():
            if name.endswith("c_attn.weight"):
                qkv.append(p)
            elif p.ndim >= 2:
                matrices.append(p)
    of_muon = set(qkv + matrices)
    rest = [p for p in model.parameters() if p not in of_muon]

    groups = [{"params": matrices},
              {"params": qkv, "n_matrices": 3}]         # q, k and v in one: Muon takes them apart
    muon = Muon(groups, cfg.muon_lr, momentum=0.9)
    adamw = torch.optim.AdamW(rest, cfg.lr, betas=(0.9, 0.98), weight_decay=0.0,
                              fused=has_fused(model.device))
    return [muon, adamw]


def has_fused(device) -> bool:
    """Can AdamW take a parameter's step in one pass through memory (fused)? It computes the same,
    but for rounding; on a CPU it took less than half of the time."""
    return device.type in ("cpu", "cuda")


# ---- reports: pairs of made-up texts that tell the same facts

def hide(rows, tokenizer, share: float, generator) -> Batch:
    """Rows as a batch for pre-training. Either all rows are of reports, or none is.

    In pairs of reports all facts of the second are hidden, and nothing else, each behind one
    [MASK], whatever its length. What is to be predicted is the first piece of the fact (see
    `tasks.Rows`), which can be looked up in the first report:

        first    [CLS] Ivo Lang likes old maps . He lives in Turin . Dora Finch …
        second   [SEP] Ivo Lang has a house in [MASK] . Ivo Lang is fond of [MASK] . Dora Finch …
        predict                                Turin                        old

    (Ram et al. 2021, "Few-shot question answering by pretraining span selection", hide what a text
    says twice in the same way.) In other texts words are hidden by `mask_tokens`, which says what
    `share` is.
    """
    # the types come from idx, not from what is shown: a random token that is shown may be [SEP]
    token_type_ids = tasks.token_types(rows.idx, tokenizer.sep)
    if rows.is_gap.any():                                               # reports
        chosen = rows.is_gap
        shown = rows.idx.masked_fill(chosen, tokenizer.mask)
    else:
        shown, chosen = mask_tokens(rows.idx, tokenizer, share, generator)
    return Batch(rows.idx, token_type_ids, shown, chosen)


# ---- in which order it reads the kinds of text

# The kinds of text: tales and reviews, or your own (--data, --reviews); sentences with names, and
# passages with a question; pairs of reports.
TEXTS, PASSAGES, REPORTS = range(3)
KINDS = ("text and reviews", "sentences, passages and questions", "reports")


def kind_of_batch(step: int, cfg, generator) -> int:
    """Which kind of text the batch of a step holds.

    At first reports alone: so it soon learns to look up whose fact is whose. Then --data and
    reviews alone: from them it learns that all sentences of a review agree, in praise or in blame.
    (Meanwhile it forgets what it knew of facts, but has it again when it reads all kinds.) Then
    55 % of the batches hold these, 12 % sentences and passages, and 33 % reports. A run for the
    user's own reviews reads nothing but these and --data.

    In trials, the kind that came second was hardly learnt. Reviews were learnt, though, when the
    vectors of tokens did not move while reports came first: see `choose_trained`.
    """
    u = torch.rand((), generator=generator).item()
    if reads_own(cfg):
        return TEXTS
    if step < cfg.reports_first * cfg.steps:
        return REPORTS
    if step < (cfg.reports_first + cfg.texts_first) * cfg.steps or u < 0.55:
        return TEXTS
    if u < 0.67:
        return PASSAGES
    return REPORTS


def choose_trained(model, step: int, cfg):
    """While the model reads reports alone, its vectors of tokens stay as they are, and so do the
    biases of the tokens.

    A token that reports do not have is never right there, so its gradient is tiny, but always in
    the same direction: away from what is guessed. Adam divides a gradient by its usual size, so
    such tokens would move as fast as all others, all in one direction, and what their vectors know
    from counting would be lost.
    """
    reads_reports_alone = not reads_own(cfg) and step < cfg.reports_first * cfg.steps
    model.wte.weight.requires_grad_(not reads_reports_alone)
    model.bias.requires_grad_(not reads_reports_alone)


# ---- answers

class AnswerHead(nn.Module):
    """The first and the last word of the answer, each chosen among all words of the passage
    (§4.2).

    The question ends with [MASK], as if the answer had been hidden there:

        [CLS] Ivo moved to Turin . [SEP] Where does Ivo live ? [MASK] [SEP]

    With reports the model has practised just this: one [MASK] hides something, and the text before
    it says what. (Ram et al. 2021, see `hide`, put such a token into the question, too. Schick &
    Schütze 2021, "Exploiting cloze questions for few shot text classification and natural language
    inference", phrase other tasks as the filling of a gap.) That a gap after a question stands for
    its answer, it learns in fine-tuning: in pre-training it reads questions, too, but without
    answers.

    There is one [MASK], the *gap*, however many words and pieces the answer has. In word_number it
    is marked by GAP, which is −1:

        idx             [CLS]  Ivo  lives  in  Tu  ##rin  .  [SEP]  Where  …  ?  [MASK]  [SEP]
        word_number       0     1     2     3   4    0    5    0      0    0  0    GAP     0

    The logit of word t is

        g_t · W g / √C

    g (C,) is what the model guesses at the gap, g_t (C,) what it guesses at the first piece of word
    t (see BERT.mlm_transform). If it guesses "Turin" at the gap, g is like g_t where "Turin"
    stands: for where a word can be seen, the model should guess just this word, as 10 % of the
    words that pre-training chooses are shown as they are.

    There is one matrix W for the first word of the answer and one for the last. Both begin as the
    identity. That suits the first word, which is what the gap hides in reports; the last word is at
    first expected at the same place, and fine-tuning has to learn where an answer ends.

    In the paper the logit is x_t · S for the first word and x_t · E for the last, with x_t from the
    last block; the vectors S and E are the same for all questions. Then x_t itself must say whether
    word t was asked for, which the model has not had to know in pre-training.
    """

    lr_scales = (1.0, 1.0)
    longest = 8             # words of an answer: ours are shorter; a longer one is never found

    def __init__(self, C: int, n_out: int = 2):         # n_out is always 2: first and last
        super().__init__()
        self.first = nn.Linear(C, C, bias=False)
        self.last = nn.Linear(C, C, bias=False)
        nn.init.eye_(self.first.weight)
        nn.init.eye_(self.last.weight)

    def forward(self, x, word_number):
        """Logits (B, T, 2), from the model's guesses x (B, T, C) at all tokens: is the answer's
        first word here, and is its last? −∞ where no word of the passage begins."""
        C = x.size(2)
        g = x[word_number == tasks.GAP]                                 # (B, C), one in each text
        first = x @ self.first(g)[:, :, None]                           # (B, T, C) -> (B, T, 1)
        last = x @ self.last(g)[:, :, None]
        logits = torch.cat([first, last], dim=2) / math.sqrt(C)         # (B, T, 2)
        return logits.masked_fill((word_number <= 0)[:, :, None], -math.inf)

    def loss(self, logits, y):
        """y (B, 2): the positions of the answer's first and last word. The mean of two
        cross-entropies."""
        # the T positions are the classes: softmax over dim 1, for the first and for the last word
        return F.cross_entropy(logits, y)

    def decide(self, logits, word_number) -> list:
        """For each text the answer as (start, end): the words number start, …, end − 1 of the
        passage, counted from 0. Of all spans that are not too long, it is the one whose two logits
        have the largest sum."""
        T = logits.size(1)
        first = logits[:, :, 0]                                         # (B, T)
        last = logits[:, :, 1]
        total = first[:, :, None] + last[:, None, :]                    # (B, T, T)
        # from word i to word j; where no word begins, total is −∞ already
        n_words = word_number[:, None, :] - word_number[:, :, None] + 1     # (B, T, T)
        allowed = (n_words >= 1) & (n_words <= self.longest)
        total = total.masked_fill(~allowed, -math.inf)
        best = total.flatten(1).argmax(dim=1).tolist()                  # (B, T·T) -> (B,)
        spans = []
        for place, numbers in zip(best, word_number.tolist()):
            first_word = numbers[place // T]                            # counted from 1
            last_word = numbers[place % T]
            spans.append((first_word - 1, last_word))
        return spans


HEADS = {"sentiment": SentimentHead, "entities": EntityHead, "answer": AnswerHead}


def prepare_to_keep(bert):
    """From now on the vectors of tokens, positions and texts stay as they are: AdamW passes over
    what has no gradient. Otherwise the vectors of the names in 300 labelled passages would move
    away from those of all other names.

    And no attention weights are dropped any more, only to save time: in each block a CPU has to
    draw B · nh · T² random numbers for it. (A step without any dropout took two thirds of the
    time.)
    """
    for embedding in (bert.wte, bert.wpe, bert.wtt):
        embedding.weight.requires_grad_(False)
    for block in bert.h:
        block.attn.attn_dropout.p = 0.0


def reports_loss(bert, reports, cfg, tokenizer, generator):
    """The loss of a batch of reports, half as many as there are questions. It is added to that of
    the answers, so that the model goes on looking up facts and does not just learn 300 answers by
    heart: an auxiliary objective, as in Radford et al. 2018, "Improving language understanding by
    generative pre-training", §3.2.

    In half of these reports a cloze stands in place of the second one: one of its sentences, with
    its fact taken out and the gap behind it, as behind a question (`tasks.words_of_cloze`):

        Dora Finch lives in now ? [MASK]
    """
    drawn = get_rows(reports, max(1, cfg.tune_batch // 2), tokenizer.pad, generator)
    batch = hide(drawn, tokenizer, cfg.mask_share, generator)
    with autocast(bert.device, cfg.matmul):
        return mlm_loss(bert, batch, tokenizer.pad)


# ==== part five: settings, and the run

N_HELD_OUT = 100            # rows of each kind that are held out (2 % of them, if that is fewer)
EXAMPLES = ("The cast was dull. The plot was [MASK].", "The cast was lovely. The plot was [MASK].")


@dataclass
class Config(RunConfig):
    # It also has the fields that mean the same in every script: preset, sample_every, log_every,
    # seed, device, matmul, compile, resume, stop_after (see mini/utils/config.py).
    #
    # data
    data: str = "tales"            # text without labels: tales, or your own: a file, or a folder
    reviews: str = "reviews"       # reviews, or your own: a TSV file of text, tab, label
    # labelled texts of each task to learn from (0: all reviews; of the other tasks still 300)
    few: int = 300
    # with your own reviews: read the made-up texts, too, and learn all three tasks (with ours it
    # always does)
    all_tasks: bool = False
    # V, the number of tokens (0: 2,048; with your own texts, which have more words, 4,096)
    vocab_size: int = 0
    # model
    # published model.safetensors, with vocab.txt and config.json beside it ("": none)
    init_from: str = ""
    block_size: int = 128          # the longest text in tokens, the largest T
    n_layer: int = 3               # blocks
    n_head: int = 4                # attention heads in each block
    n_embd: int = 128              # C, the width
    d_ff: int = 256                # the width inside the MLP
    conv_width: int = 21           # positions that a convolution reads, an odd number (0: none)
    # optimisation
    steps: int = 5300              # optimiser steps of pre-training
    batch_size: int = 32           # rows in a step: a text, a part of one, or a pair of reports
    # share of the steps in which it reads reports alone (none for your own reviews, see reads_own)
    reports_first: float = 0.08
    texts_first: float = 0.08      # share in which it then reads --data and reviews alone
    muon_lr: float = 0.015         # Muon's peak learning rate, for the matrices of the blocks
    lr: float = 0.001              # AdamW's peak learning rate, for all other parameters
    warmup: int = 50               # steps in which the learning rate rises to its peak
    mask_share: float = 0.4        # share of the words to be predicted (but not in reports)
    grad_clip: float = 1.0         # a longer gradient is scaled down to this norm (0: never)
    dropout: float = 0.0           # dropout in pre-training
    cooccurrence: bool = True      # begin with vectors of tokens that come from counting
    # fine-tuning
    # optimiser steps of each task (0: 400, or 800 while it also reads reports, or four passes
    # over its rows if that is more; but no more than --steps)
    tune_steps: int = 0
    tune_batch: int = 32           # rows in a step of a task
    # AdamW's peak learning rate in a task (for reviews 0.3 times this; 3 times this for its head)
    tune_lr: float = 1e-3
    # compare with a model that was not pre-trained, too (the command evaluate always does)
    scratch: bool = False
    scratch_lr: float = 1e-3       # AdamW's peak learning rate in a task for that model
    tune_dropout: float = 0.1      # dropout in a task
    tune_decay: float = 0.01       # AdamW's weight decay in a task
    # keep what was learnt from reports while it learns to answer (see fine_tune)
    keep: bool = True
    # run
    out_dir: str = "runs/bert"     # folder of the run
    # steps between evaluations; each saves a checkpoint (0: at the end)
    eval_every: int = 500
    # held-out texts of each task to score (0: all, or proportionally fewer if --steps is below its
    # default)
    n_test: int = 0
    # sampling
    # what to do with the text (sentiment: good or bad, or which of the labels of your own reviews)
    task: Literal["fill", "sentiment", "entities", "answer"] = "fill"
    text: str = ""                 # a text; for fill, with [MASK] where a word is to be filled in
    question: str = ""             # for answer: a question whose answer is in the text

    # Fields that a resumed run must keep as they were: the shapes of the saved weights depend on
    # them, or what is learnt from. (--data may change: one may go on with other text.)
    fixed = ("reviews", "few", "all_tasks", "vocab_size", "init_from", "block_size", "n_layer",
             "n_head", "n_embd", "d_ff", "conv_width")


# The settings of other runs. gpu: layers, heads and widths of the paper's smaller model, with our
# convolutions (not tried by us). published: weights that the paper's authors have pre-trained need
# no steps of ours, have no convolutions, and are tuned with a rate from the paper's range (§A.3),
# times lr_scales.
PRESETS = {
    "gpu": dict(vocab_size=16384, block_size=256, n_layer=12, n_head=12, n_embd=768, d_ff=3072,
                steps=20000, batch_size=128, muon_lr=0.005, lr=2e-4, dropout=0.1, tune_lr=1e-4,
                scratch_lr=1e-4),
    "published": dict(steps=0, block_size=512, tune_lr=5e-5, scratch_lr=5e-5, tune_batch=16,
                      keep=False),
}


def check(cfg):
    """Raise UserError for settings that cannot work."""
    require_positive(cfg, "batch_size", "tune_batch", "n_layer", "n_head", "n_embd", "d_ff",
                     "block_size")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.conv_width == 0 or (cfg.conv_width > 0 and cfg.conv_width % 2 == 1),
            f"--conv_width={cfg.conv_width} must be odd, or 0 for no convolution")
    require(cfg.block_size > 2,
            f"--block_size={cfg.block_size} must be above 2, for [CLS] and [SEP]")
    require(cfg.tune_steps >= 0, f"--tune_steps={cfg.tune_steps} must be at least 0")
    require(cfg.few >= 0, f"--few={cfg.few} must be at least 0 (0: all)")
    require(Path(cfg.data).resolve() != Path(cfg.reviews).resolve(),
            f"--data and --reviews are both {cfg.data}: the labels would be read beside the texts; "
            "leave --data out (the texts of --reviews are read anyway)")
    for name in ("mask_share", "texts_first", "reports_first"):
        value = getattr(cfg, name)
        require(0 <= value <= 1, f"--{name}={value} must be from 0 to 1")


def compare(bert, task, cfg, tokenizer):
    """(scores, tuned model) of a task. scores is a dict: what the pre-trained BERT gets on its
    held-out texts, and each of the task's baselines, such as naive Bayes, which need no network
    (mini/data/text/baselines.py).

    For reviews also what the pre-trained BERT, which reads words in context, and naive Bayes, which
    counts them, get together (see `predict`; the command sample uses the BERT alone).

    With --scratch also what a BERT gets that begins at random, and learns from the same labels. (It
    has read nothing before, has no counted vectors, and reads no reports while it learns to answer,
    for which it has TUNE_STEPS. By default its rates are the same, too.)
    """
    tuned = fine_tune(bert, task, cfg.tune_lr, cfg, tokenizer, keeps(cfg, task))
    found = {"pre-trained": predict(tuned, task.test, tokenizer.pad)}
    if task.bayes is not None:
        found["pre-trained and naive Bayes"] = predict(tuned, task.test, tokenizer.pad, task.bayes)
    if cfg.scratch:
        torch.manual_seed(cfg.seed)
        fresh = BERT(bert.cfg, tokenizer.vocab_size).to(bert.device)
        tuned_fresh = fine_tune(fresh, task, cfg.scratch_lr, cfg, tokenizer)
        found["from scratch"] = predict(tuned_fresh, task.test, tokenizer.pad)
    found |= task.baselines
    scores = {name: tasks.score(task.name, guesses, task.truth) for name, guesses in found.items()}
    return scores, tuned


def reads_own(cfg) -> bool:
    """True if the run is for the user's own reviews: it reads these and --data, no made-up texts,
    and learns no other task. (With --all_tasks half of the steps read made-up texts. In a trial
    with real film reviews, fewer of them were then classified rightly: mini/gallery/README.md.)"""
    return cfg.reviews != "reviews" and not cfg.all_tasks


def keeps(cfg, task) -> bool:
    """True if the pre-trained BERT goes on reading reports while it learns this task."""
    return cfg.keep and task.reports is not None


def task_names(cfg) -> list:
    return ["sentiment"] if reads_own(cfg) else list(HEADS)


def load_tasks(cfg, tokenizer) -> list:
    """The tasks of a run. A short one is scored on fewer of their held-out texts (see
    metrics.n_to_score)."""
    made = [tasks.make_task(name, cfg, tokenizer) for name in task_names(cfg)]
    longest = max(len(task.truth) for task in made)
    n = metrics.n_to_score(cfg, longest, "held-out texts of each task")
    return [task.first(n) for task in made]


# ---- training

def split_rows(rows) -> tuple:
    """(held-out rows, rows to learn from). (Of a paragraph that is longer than a row, one part may
    be held out and another not.)"""
    n_held_out = max(1, min(len(rows) // 50, N_HELD_OUT))
    return rows[:n_held_out], rows[n_held_out:]


def load_rows(cfg, texts: list, made_up: list, tokenizer, device) -> tuple:
    """Each kind of text as rows of tokens: ({kind: Rows to learn from}, [a Batch of rows held out
    of each kind]). What is hidden of the latter is drawn once, so that each evaluation asks for the
    same words."""
    T = cfg.block_size
    rows_of_kind = {TEXTS: tasks.rows_of_texts(texts, tokenizer, T)}
    if not reads_own(cfg):
        rows_of_kind[PASSAGES] = tasks.rows_of_texts(made_up, tokenizer, T)
        reports = passages.unlabelled_reports()
        rows_of_kind[REPORTS] = tasks.rows_of_reports(reports, tokenizer, T)
    to_learn = {}
    held_out = []
    eval_rng = torch.Generator().manual_seed(0)
    for kind, rows in rows_of_kind.items():
        first, others = split_rows(rows)
        to_learn[kind] = others.to(device)
        held_out.append(hide(first.to(device), tokenizer, cfg.mask_share, eval_rng))
    return to_learn, held_out


def announce(run, cfg, to_learn: dict, held_out: list, tokenizer):
    """Say what the run learns from, and the loss of a model that knows nothing."""
    V = tokenizer.vocab_size
    n_tokens = sum((rows.idx != tokenizer.pad).sum().item() for rows in to_learn.values())
    n_held_out = sum(len(batch.idx) for batch in held_out)
    counts = [f"{len(rows):,} rows of {KINDS[kind]}" for kind, rows in to_learn.items()]
    run.say(f"{n_tokens:,} tokens: {', '.join(counts)}; {n_held_out} rows are held out")
    if reads_own(cfg):
        run.say("your own reviews: no made-up text is read, and no other task is learnt; "
                "--all_tasks=1 does both")
    run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")


def tune_and_save(run, model, task, cfg, tokenizer) -> dict:
    """The scores of a task; the model tuned for it is saved in the folder of the run."""
    n = len(task.truth)
    from_scratch = ""
    if cfg.scratch:
        from_scratch = f", {tune_steps(cfg, task, keep=False)} from scratch"
    run.say(f"tuning for {task.name}: {tune_steps(cfg, task, keeps(cfg, task))} steps from the "
            f"pre-trained weights{from_scratch}; then {n:,} held-out texts …")
    scores, tuned = compare(model, task, cfg, tokenizer)
    found = "; ".join(f"{name} {share:.1%}" for name, share in scores.items())
    run.say(f"held-out {task.name} (n = {n:,}): {found}")
    with atomic_open(run.folder / f"{task.name}.pt") as file:
        torch.save({"name": f"bert for {task.name}", "config": asdict(cfg), "names": task.names,
                    "tokenizer": tokenizer.state(), "model": tuned.state_dict()}, file)
    return scores


def train(cfg: Config) -> dict:
    """Pre-train, then tune for each task; returns what result.json holds. Raises UserError for
    input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    checkpoint = None
    if cfg.resume:
        cfg, checkpoint = own_checkpoint(cfg, "bert")
    elif cfg.init_from:                                         # weights bring their sizes
        cfg, checkpoint = read_published(cfg)
    check(cfg)
    device = pick_device(cfg.device)

    # the model and its tokenizer: resumed, published, or new
    texts = tasks.unlabelled_texts(cfg)                         # paragraphs of --data, and reviews
    made_up = [] if reads_own(cfg) else passages.unlabelled()   # sentences, passages, questions
    torch.manual_seed(cfg.seed)                                 # for the initial weights
    if checkpoint:
        model, tokenizer = from_checkpoint(checkpoint, cfg)
    else:
        # (without reports: they have the words of passages, and names to be cut into pieces)
        V = cfg.vocab_size
        if V == 0:
            all_ours = cfg.data == "tales" and cfg.reviews == "reviews"
            V = 2048 if all_ours else 4096
        tokenizer = WordPieceTokenizer.train(texts + made_up, V)
        model = BERT(cfg, tokenizer.vocab_size)
    model = model.to(device)
    to_tune = load_tasks(cfg, tokenizer)                        # wrong data is refused now

    # rows to learn from, {kind: Rows}, and those held out, a Batch of each kind
    to_learn, held_out = load_rows(cfg, texts, made_up, tokenizer, device)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for batches, and what is hidden
    if cfg.cooccurrence and not checkpoint:
        start_with_counts(model, to_learn[TEXTS], tokenizer)

    optimizers = make_optimizers(model, cfg)
    torch.manual_seed(cfg.seed)                                 # for dropout
    if cfg.resume:              # the optimisers' averages and all random states, as they were saved
        restore(checkpoint, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model        # as training calls it

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    columns = ["loss", "lr", "val_loss"]
    with Run(cfg, "bert", model, columns, checkpoint if cfg.resume else None) as run:
        announce(run, cfg, to_learn, held_out, tokenizer)
        if run.first < cfg.steps:                   # what was tuned from older weights is stale
            for name in HEADS:
                (run.folder / f"{name}.pt").unlink(missing_ok=True)
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, lr_factor(step, cfg.steps, cfg.warmup))

            # batch
            choose_trained(model, step, cfg)
            kind = kind_of_batch(step, cfg, data_rng)
            drawn = get_rows(to_learn[kind], cfg.batch_size, tokenizer.pad, data_rng)
            batch = hide(drawn, tokenizer, cfg.mask_share, data_rng)

            # loss and backward; products are in bfloat16, if that is faster on this device
            with autocast(device, cfg.matmul):
                loss = mlm_loss(net, batch, tokenizer.pad)
            loss.backward()
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good

            # step
            if cfg.grad_clip > 0:               # (the length of Muon's steps does not depend on it)
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            with autocast(device, cfg.matmul):                  # Muon's products of matrices, too
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            # evaluate, log and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                val_loss = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    val_loss = estimate_loss(model, held_out, tokenizer.pad)
                if val_loss is not None or run.due(done, cfg.log_every):
                    lr = optimizers[0].param_groups[0]["lr"]    # Muon's
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if val_loss is not None or stopping:
                    run.save(done, model, optimizers, data_rng, tokenizer=tokenizer.state())
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # what it fills in, and the loss beside that of a model that knows nothing
        chance = math.log(tokenizer.vocab_size)
        filled = "\n".join(f"{text}\n    {fill_in(model, tokenizer, text)[0]}" for text in EXAMPLES)
        run.write_sample(cfg.steps, ".txt", filled.encode())
        if run.first >= cfg.steps:                              # no step was left, or --steps=0
            val_loss = estimate_loss(model, held_out, tokenizer.pad)
        run.say(f"\n{filled}\nheld-out loss {val_loss:.4f} nats; "
                f"knowing nothing {chance:.4f}")

        # the tasks
        scores = {}
        for task in to_tune:
            scores[task.name] = tune_and_save(run, model, task, cfg, tokenizer)
            if run.signal:                                      # the terminal was closed
                return run.leave(cfg.steps)
        return run.finish(val_loss=val_loss, chance=chance, few=cfg.few,
                          tune_steps={t.name: tune_steps(cfg, t, keeps(cfg, t)) for t in to_tune},
                          n={t.name: len(t.truth) for t in to_tune}, scores=scores)


# ---- using what was trained

def read_published(cfg):
    """(config, checkpoint) of the published weights --init_from, with their vocab.txt."""
    sizes, weights = read_bert(cfg.init_from, cfg.block_size)
    path = folder_of(cfg.init_from) / "vocab.txt"
    tokenizer = WordPieceTokenizer.read(path)
    cut_filling(weights, ("wte.weight", "bias"), tokenizer.vocab_size, path)    # rows of no token
    return replace(cfg, **sizes), {"model": weights, "tokenizer": tokenizer.state()}


def from_checkpoint(checkpoint: dict, cfg):
    """(model, tokenizer) of a checkpoint."""
    tokenizer = WordPieceTokenizer.from_state(checkpoint["tokenizer"])
    model = BERT(cfg, tokenizer.vocab_size)
    model.load_state_dict(checkpoint["model"])
    return model, tokenizer


def load(cfg):
    """(config, model, tokenizer) of the run in --out_dir; if there is none, of --init_from."""
    if cfg.init_from and not (Path(cfg.out_dir) / "checkpoint.pt").exists():
        cfg, checkpoint = read_published(cfg)
    else:
        cfg, checkpoint = own_checkpoint(cfg, "bert")
    check(cfg)
    model, tokenizer = from_checkpoint(checkpoint, cfg)
    return cfg, model.to(pick_device(cfg.device)), tokenizer


def sample(cfg: Config) -> list:
    """Do --task with --text; print the result, and return it."""
    require(cfg.text.strip(), 'which text? Name it by --text="the cast was not [MASK]"')
    if cfg.task == "fill":
        _, model, tokenizer = load(cfg)
        lines = fill_in(model, tokenizer, cfg.text)
    else:
        lines = do_task(cfg)
    print(*lines, sep="\n")
    return lines


def do_task(cfg) -> list:
    """The lines that say what the model tuned for --task finds in --text."""
    device = pick_device(cfg.device)
    path = Path(cfg.out_dir) / f"{cfg.task}.pt"
    hint = "" if cfg.task == "sentiment" else " (with your own --reviews add --all_tasks=1)"
    require(path.exists(), f"{path}: no model tuned for {cfg.task} there; train first{hint}, or "
                           "name the folder by --out_dir")
    state = load_checkpoint(path, f"bert for {cfg.task}")
    tokenizer = WordPieceTokenizer.from_state(state["tokenizer"])
    names = state["names"]
    bert = BERT(merge_config(Config(), state), tokenizer.vocab_size)
    model = FineTuned(bert, cfg.task, len(names))
    model.load_state_dict(state["model"])
    model.to(device).eval()

    words = tokenizer.words(cfg.text)
    pair = (words, None)
    if cfg.task == "answer":
        require(cfg.question.strip(), 'which question? Ask it by --question="Where does Ivo live?"')
        pair = (words, tokenizer.words(cfg.question))
    # a text that is too long is refused here, not cut
    tokens = tasks.encode([pair], tokenizer, bert.cfg.block_size, cut=False).to(device)
    with torch.no_grad():
        logits = model(tokens, tokenizer.pad)
    found = model.head.decide(logits, tokens.word_number)[0]
    if cfg.task == "sentiment":
        probs = F.softmax(logits[0], dim=-1).tolist()
        return [f"{name} {p:.1%}" for name, p in zip(names, probs)]
    if cfg.task == "entities":
        return [f"{word:>16}  {names[tag]}" for word, tag in zip(words, found)]
    start, end = found
    return [" ".join(words[start:end])]


def evaluate(cfg: Config) -> dict:
    """Scores with other random labelled texts, and with fewer and more of them; also in
    evaluate.json. All are of one pre-trained model, so they do not say how much pre-training itself
    differs from seed to seed."""
    cfg, model, tokenizer = load(cfg)
    tables = {name: {} for name in task_names(cfg)}
    n_all = len(load_reviews(cfg.reviews, few=0).learn)         # there are no more reviews
    few = min(cfg.few or tasks.FEW, n_all)
    third = max(1, few // 3)
    thrice = min(3 * few, n_all)
    draws = [(few, 1), (few, 2), (few, 3), (third, 1), (thrice, 1)]
    for few, seed in dict.fromkeys(draws):                      # each only once
        own = replace(cfg, few=few, seed=seed, scratch=True)
        for task in load_tasks(own, tokenizer):
            print(f"{few} labelled texts, seed {seed}: tuning for {task.name} …", flush=True)
            tables[task.name][f"{few}, seed {seed}"] = compare(model, task, own, tokenizer)[0]
    for name, rows in tables.items():
        columns = next(iter(rows.values()))
        print(f"{name}, by labelled texts\n{metrics.table(rows, shares=list(columns))}")
    write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --tune_batch, --block_size, --n_layer, "
                                      "--n_embd or --d_ff")


if __name__ == "__main__":
    main()
