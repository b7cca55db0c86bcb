"""The Transformer as it was first published: an encoder reads an English sentence, a decoder writes French.

The encoder turns each word of x into a vector, which has attended to all the other words. The decoder writes
the translation word by word, p(y|x) = Π p(yₜ | y₁ … yₜ₋₁, x): each word attends to those written before it
(causal self-attention), and to the encoder's vectors (cross-attention), to find what to translate next. The
loss:

    L = −1/T · Σₜ Σᵥ q(v) log p(v | y₁ … yₜ₋₁, x)       q: 1 − ε for the right word yₜ, and ε spread over all

Paper: Vaswani et al. 2017, "Attention is all you need". As there: sinusoidal positions, normalisation after
each sub-layer, one matrix for the target's embeddings and the output, Adam and its learning rates, label
smoothing, beam search. Departure: each language has whole words of its own, where the paper has pieces of
words that both languages share.

    python -m mini.translator                                       sentences written by a small grammar
    python -m mini.translator sample --text="The old man is reading a letter."
    python -m mini.translator evaluate                              does a beam help? long and short sentences
    python -m mini.translator --data=my_pairs.tsv                   English, tab, French; or --data=en-fr

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/bert.py.
"""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.text.pairs import (Vocabulary, baselines, encode_pairs, fill_up, learn_spacing,
                                  load_pairs, read_sentences)
from mini.data.text.spacing import Spacing
from mini.utils import metrics, translation_metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.lettering import enlarged, heat_maps
from mini.utils.png import write_png
from mini.utils.run import Run, own_checkpoint, restore

PAD, BOS, EOS = Vocabulary.PAD, Vocabulary.BOS, Vocabulary.EOS


@dataclass
class Config(RunConfig):
    # data
    data: str = "grammar"       # grammar, en-fr, or your own: a file with lines of English, a tab, French
    n_pairs: int = 100000       # pairs of sentences that the grammar writes for training
    vocab_size: int = 8000      # words of each language, the most frequent; pairs with others are left out
    max_len: int = 32           # length of the longest sentence in words and punctuation marks
    # model
    n_layer: int = 2            # N, layers of the encoder, and of the decoder
    n_head: int = 4             # h, attention heads in each layer
    n_embd: int = 128           # d_model, the width
    d_ff: int = 512             # the width inside the feed-forward networks
    dropout: float = 0.1        # of embeddings, and of what each sub-layer adds to x
    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 64        # pairs of sentences in a step
    lr: float = 1.0             # a factor for the paper's learning rates
    warmup: int = 400           # steps in which the learning rate rises to its peak
    smoothing: float = 0.1      # ε of label smoothing (0: none)
    # run
    out_dir: str = "runs/translator"    # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)
    # held-out sentences of each set to score (0: all, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    text: str = ""              # a sentence, or a file with one on each line ("": held-out sentences)
    beam: int = 4               # translations that beam search follows at once (1: greedy)
    alpha: float = 0.6          # for beam search: how much longer translations are favoured (0: not at all)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("n_pairs", "vocab_size", "max_len", "n_layer", "n_head", "n_embd", "d_ff", "dropout")


PRESETS = {"gpu": dict(data="en-fr", vocab_size=16000, n_layer=6, n_head=8, n_embd=512, d_ff=2048,
                       batch_size=256, steps=20000, warmup=4000)}


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

    def forward(self, x, keys, mask):
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

    def forward(self, x, mask):
        x = self.ln_1(x + self.dropout(self.attn(x, self.attn.keys(x), mask)))
        return self.ln_2(x + self.dropout(self.ff(x)))


class DecoderLayer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.attn, self.cross, self.ff = Attention(cfg), Attention(cfg), feed_forward(cfg)
        self.ln_1, self.ln_2, self.ln_3 = (nn.LayerNorm(cfg.n_embd) for _ in range(3))
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, y, causal, memory, padding, past=None, n=0):
        keys = self.attn.keys(y)
        if past is not None:            # (2, B, nh, max_len + 1, hs): of the n words before, and of these
            past[:, :, :, n:n + y.size(1)] = keys
            keys = past[:, :, :, :n + y.size(1)]
        y = self.ln_1(y + self.dropout(self.attn(y, keys, causal)))
        y = self.ln_2(y + self.dropout(self.cross(y, memory, padding)))
        return self.ln_3(y + self.dropout(self.ff(y)))


def positions(n: int, C: int):
    """The positions 0 … n − 1 as C numbers each, (n, C): sin and cos of pos / 10000^(2i/C) (§3.5)."""
    angle = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, C, 2) / C)         # (n, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)                # (n, C/2, 2) -> (n, C)


class Transformer(nn.Module):
    def __init__(self, cfg, n_source: int, n_target: int):
        super().__init__()
        C = cfg.n_embd
        self.cfg = cfg
        self.embed_x, self.embed_y = nn.Embedding(n_source, C), nn.Embedding(n_target, C)
        self.register_buffer("positions", positions(cfg.max_len + 1, C), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(cfg) for _ in range(cfg.n_layer))
        self.decoder = nn.ModuleList(DecoderLayer(cfg) for _ in range(cfg.n_layer))
        self.dropout = nn.Dropout(cfg.dropout)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.xavier_uniform_(p)
        for table in (self.embed_x, self.embed_y):                      # times √C, as large as positions
            nn.init.normal_(table.weight, std=C**-0.5)

    def embed(self, table, tokens, n=0):
        x = table(tokens) * math.sqrt(self.cfg.n_embd)                  # (B, T) -> (B, T, C)
        return self.dropout(x + self.positions[n:n + tokens.size(1)])

    def encode(self, x):
        """What the decoder attends to, for sentences x (B, S), filled up with PAD: for each of its layers keys
        and values (2, B, nh, S, hs); and the mask (B, 1, 1, S), −∞ at PAD, which hides PAD from all queries."""
        mask = torch.zeros(x.shape, device=x.device).masked_fill(x == PAD, -math.inf)[:, None, None]
        h = self.embed(self.embed_x, x)                                 # (B, S, C)
        for layer in self.encoder:
            h = layer(h, mask)
        return [layer.cross.keys(h) for layer in self.decoder], mask

    def decode(self, y, memory, padding, cache=None, n=0):
        """Logits (B, T, V) of the word after each of the words y (B, T). With a cache (see new_cache), y holds
        the new words only; the n words before them are in the cache. PAD stands after all words, so the causal
        mask hides it."""
        T = y.size(1)
        causal = torch.full((T, n + T), -math.inf, device=y.device).triu(n + 1)     # t sees keys ≤ n + t
        h = self.embed(self.embed_y, y, n)                              # (B, T, C)
        for i, layer in enumerate(self.decoder):
            h = layer(h, causal, memory[i], padding, None if cache is None else cache[i], n)
        return F.linear(h, self.embed_y.weight)                         # tied: the matrix of the embeddings

    def forward(self, x, y):
        return self.decode(y, *self.encode(x))

    def new_cache(self, B: int):
        """Room for the keys and values of whole translations: (n_layer, 2, B, nh, max_len + 1, hs)."""
        c = self.cfg
        return self.positions.new_empty(c.n_layer, 2, B, c.n_head, len(self.positions), c.n_embd // c.n_head)


# ---- the loss, the learning rate as a function of the step, and batches
def loss_of(logits, y, smoothing: float = 0.0):
    """Cross-entropy in nats per word, of logits (B, T, V) for the right words y (B, T). Label smoothing spreads
    a share ε of the target evenly over all words (§5.4). PAD, number 0, is left out everywhere: as a target, in
    the smoothing, and in p."""
    return F.cross_entropy(logits.flatten(0, 1)[:, 1:], y.flatten() - 1, ignore_index=PAD - 1,
                           label_smoothing=smoothing)


def learning_rate(step: int, cfg) -> float:
    """The learning rate d_model^−½ · min(s^−½, s · warmup^−3/2) at step s = 1, 2, … (eq. 3), times lr."""
    return cfg.lr * cfg.n_embd**-0.5 * min(step**-0.5, step * max(1, cfg.warmup) ** -1.5)


def draw_batch(x, y, B: int, generator):
    """B pairs of about the same length, so that there is little PAD (§5.1): 8 B pairs are drawn from x (N, S),
    y (N, T) and sorted by length, and an eighth of them is taken. Returns (B, S') and (B, T')."""
    i = torch.randint(len(x), (8 * B,), generator=generator)
    part = torch.randint(8, (1,), generator=generator).item()
    x, y = x[i.to(x.device)], y[i.to(y.device)]
    i = (y != PAD).sum(1).argsort(stable=True)[part * B:(part + 1) * B]
    x, y = x[i], y[i]
    return x[:, :(x != PAD).sum(1).max()], y[:, :(y != PAD).sum(1).max()]


# ---- translating
def next_word(model, y, memory, padding, cache):
    """log p (B, V) of the word after y (B, T). The cache, if there is one, holds all words but the last."""
    n = 0 if cache is None else y.size(1) - 1
    logits = model.decode(y[:, n:], memory, padding, cache, n)[:, -1].float()
    logits[:, PAD] = -math.inf                                          # it is no word, and never a target
    return F.log_softmax(logits, dim=1)


@torch.inference_mode()
def greedy(model, x, use_cache: bool = True):
    """Translations (B, T) of x (B, S), by always taking the likeliest word, up to EOS. After it comes PAD."""
    model.eval()
    memory, padding = model.encode(x)
    cache = model.new_cache(len(x)) if use_cache else None
    y, done = x.new_full((len(x), 1), BOS), x.new_zeros(len(x), dtype=torch.bool)
    while y.size(1) < len(model.positions) + 1 and not done.all():
        word = next_word(model, y, memory, padding, cache).argmax(1).masked_fill(done, PAD)
        y, done = torch.cat([y, word[:, None]], dim=1), done | (word == EOS)
    return y[:, 1:]


@torch.inference_mode()
def beam_search(model, x, k: int, alpha: float = 0.6, use_cache: bool = True):
    """Translations (B, T) of x (B, S). For each sentence the k best beginnings are followed at once, also those
    that have ended. The score is log p(y|x) / ((5 + |y|) / 6)^α (Wu et al. 2016, eq. 14); without the divisor
    short translations would win."""
    model.eval()
    memory, padding = model.encode(x.repeat_interleave(k, dim=0))       # row b·k + i: beginning i of sentence b
    B, V, cache = len(x), len(model.embed_y.weight), model.new_cache(k * len(x)) if use_cache else None
    y, done = x.new_full((B * k, 1), BOS), x.new_zeros(B * k, dtype=torch.bool)
    length, log_p = x.new_zeros(B * k), torch.full((B, k), -math.inf, device=x.device)
    log_p[:, 0] = 0                                                     # all k are alike at first: one counts
    while y.size(1) < len(model.positions) + 1 and not done.all():
        new = next_word(model, y, memory, padding, cache)               # (B·k, V)
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


def translate(model, x, cfg, at_once: int = 256) -> list:
    """Translations of x (N, S) as lists of numbers up to EOS, by beam search, or greedy if cfg.beam is 1."""
    training, rows = model.training, []
    progress = metrics.Progress("translated", len(x))
    for part in x.split(at_once):
        part = part[:, :(part != PAD).sum(1).max()].to(model.positions.device)
        y = greedy(model, part) if cfg.beam == 1 else beam_search(model, part, cfg.beam, cfg.alpha)
        rows += [[i for i in row if i != PAD] for row in y.tolist()]
        progress.add(len(part))
    model.train(training)
    return rows


def write(model, words, x, cfg) -> list:                                # the same, as sentences
    return [words[1].decode(row) for row in translate(model, x, cfg)]


@torch.inference_mode()
def attention_maps(model, x, y) -> list:
    """For each layer of the decoder, how much each word of y (1, T), when it was written, attended to each word
    of x (1, S): (T, S), the mean over heads."""
    model.eval()
    device = model.positions.device
    model(x.to(device), F.pad(y[:, :-1], (1, 0), value=BOS).to(device))
    return [layer.cross.weights[0].mean(0).cpu() for layer in model.decoder]        # (1, nh, T, S) -> (T, S)


# ---- the run
def load(cfg, resume: bool = True, data: bool = True):
    """(config, model, words, training pairs, held-out data, checkpoint) of the run in out_dir, or of a new run
    if not `resume`. words: two Vocabularies; held-out data: {name: (x, y, pairs)}, see encode_pairs."""
    cfg, state = own_checkpoint(cfg, "translator", resume)
    sizes = cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.d_ff, cfg.max_len, cfg.batch_size, cfg.beam
    require(min(sizes) > 0 == cfg.n_embd % (2 * cfg.n_head),
            f"--n_embd={cfg.n_embd} must be a multiple of 2 · --n_head={cfg.n_head}, and no size 0")
    require(max(cfg.smoothing, cfg.dropout) < 1 and min(cfg.smoothing, cfg.dropout, cfg.alpha) >= 0,
            "--smoothing and --dropout must be at least 0 and below 1, --alpha at least 0")
    training, held_out = load_pairs(cfg.data, cfg.n_pairs) if data else ([], {})
    if held_out:
        longest = max(len(pairs) for pairs in held_out.values())
        n = metrics.n_to_score(cfg, longest, "held-out sentences of each set")
        held_out = {name: pairs[:n] for name, pairs in held_out.items()}
    if state:
        words = [Vocabulary(known) for known in state["words"]]
        spacing = state.get("spacing")
        words[1].spacing = Spacing(**spacing) if spacing else None
    else:
        words = [Vocabulary.of(sentences, cfg.vocab_size) for sentences in zip(*training)]
        words[1].spacing = learn_spacing([fr for _, fr in training])
    torch.manual_seed(cfg.seed)
    model = Transformer(cfg, *map(len, words))
    if state:
        model.load_state_dict(state["model"])
    test = {name: encode_pairs(pairs, words, cfg.max_len) for name, pairs in held_out.items()}
    return cfg, model.to(pick_device(cfg.device)), words, training, test, state


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, model, words, training, test, state = load(cfg, cfg.resume)
    x, y, pairs = encode_pairs(training, words, cfg.max_len)
    examples = [pair for _, _, held_out in test.values() for pair in held_out[:4]]
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)       # §5.3
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [optimizer], data_rng)
    net, device, V = torch.compile(model) if cfg.compile else model, model.positions.device, len(words[1]) - 1
    x, y, greedily = x.to(device), y.to(device), replace(cfg, beam=1)

    with Run(cfg, "translator", model, ["loss", "lr", "exact_match"], state) as run:
        run.say(f"{len(pairs):,} pairs to learn from ({len(training) - len(pairs):,} too long, or with rare "
                f"words, are left out), held out {', '.join(f'{len(t[0]):,} {n}' for n, t in test.items())}\n"
                f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = optimizer.param_groups[0]["lr"] = learning_rate(step + 1, cfg)
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
            done, exact = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    lines = write(model, words, test["sentences"][0][:256], greedily)
                    exact = translation_metrics.exact_match(lines, [fr for _, fr in test["sentences"][2][:256]])
                if exact is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, exact_match=exact)
                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", show(model, words, examples, greedily).encode())
                stop = run.stopping(done)
                if exact is not None or stop:
                    run.save(done, model, [optimizer], data_rng, words=[v.words[3:] for v in words],
                             spacing=words[1].spacing and words[1].spacing.state(), examples=examples)
            if stop and done < cfg.steps:
                return run.leave(done)

        n = {name: len(x_t) for name, (x_t, _, _) in test.items()}
        run.say(f"translating {sum(n.values()):,} held-out sentences with a beam of {cfg.beam} …")
        outputs = {name: {"model": write(model, words, x_t, cfg), **baselines(words, x, y, x_t)}
                   for name, (x_t, _, _) in test.items()}
        references = {name: [fr for _, fr in held_out] for name, (_, _, held_out) in test.items()}
        scores = translation_metrics.translation_scores(outputs, references)
        draw_attention(model, words, test["sentences"][0][:1], cfg)
        run.say(f"\n{show(model, words, examples, cfg)}\n"
                f"{translation_metrics.translation_report(**scores, n=n)}")
        return run.finish(n=n, **scores)


def show(model, words, pairs: list, cfg) -> str:
    """The English of some pairs, its translation, and the right French if it is known and differs."""
    x = fill_up([words[0].encode(en, cfg.max_len) for en, _ in pairs])
    return "".join(f"{en}\n    {line}\n" + (f"    wrong: {fr}\n" if fr not in ("", line) else "")
                   for (en, fr), line in zip(pairs, write(model, words, x, cfg)))


def draw_attention(model, words, x, cfg):
    """Draw into samples/attention.png: the attention_maps of a sentence x (1, S) and its translation."""
    x, y = x[:, x[0] != PAD], fill_up(translate(model, x, cfg))
    rows, columns = ([v.words[i] for i in ids[0].tolist()] for v, ids in zip(words[::-1], (y, x)))
    picture = enlarged(heat_maps(attention_maps(model, x, y), rows, columns))
    write_png(f"{cfg.out_dir}/samples/attention.png", picture)


def sample(cfg: Config) -> str:
    """Translate --text, or some held-out sentences, and draw what the words of the first one attended to."""
    cfg, model, words, _, _, state = load(cfg, data=False)
    pairs = [(line, "") for line in read_sentences(cfg.text)] if cfg.text else state["examples"]
    text = show(model, words, pairs, cfg)
    draw_attention(model, words, fill_up([words[0].encode(pairs[0][0], cfg.max_len)]), cfg)
    print(f"{text}what attended to what: {cfg.out_dir}/samples/attention.png")
    return text


def evaluate(cfg: Config) -> dict:
    """The share of held-out sentences whose translation is exactly right, by the width of the beam, and for the
    widest beam by the number of words; also in evaluate.json."""
    (cfg, model, words, _, test, _), tables = load(cfg), {}
    for name, (x, _, pairs) in test.items():
        by_width, by_length = {}, {}
        tables |= {f"{name}_right_with_a_beam_of": by_width, f"{name}_right_of_so_many_words": by_length}
        for k in (1, 2, 4, 8):
            print(f"translating {len(x):,} held-out {name} with a beam of {k} …", flush=True)
            right = [a == fr for a, (_, fr) in zip(write(model, words, x, replace(cfg, beam=k)), pairs)]
            by_width[str(k)] = sum(right) / len(right)
        for low in range(1, cfg.max_len + 1, 4):
            some = [ok for n, ok in zip((x != PAD).sum(1) - 1, right) if low <= n < low + 4]
            by_length.update({f"{low}–{low + 3}": sum(some) / len(some)} if some else {})
    return metrics.print_tables(cfg, **tables)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --d_ff, --n_pairs or --beam")


if __name__ == "__main__":
    main()
