"""LSTM: a recurrent network that learns to write by predicting the next token, as was done before
GPT.

It reads one token after the other, and all it keeps of them is a state of one size, however long
the text: two vectors in each layer, h and c. Like GPT it models p(x₁ … xₙ) = Π p(xₜ | x₁ … xₜ₋₁),
with the same loss, in nats; a model that knows nothing scores ln V, with V different tokens:

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)

Shapes: B sequences of T tokens in a batch, C the width, V tokens.

Training is backpropagation through time over windows of T tokens. Each window begins with an empty
state, as GPT's begins with an empty context, so that windows may come in any order. (The
other custom is to read the text in order, and to carry the state on from one window to the next.)
When it writes, it carries its state on for as long as it writes.

Papers: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory"; Gers et al. 2000 (forget gate);
Press & Wolf 2017 (tied head); Gal & Ghahramani 2016, Merity et al. 2018 (dropouts). Departures from
1997: the forget gate; gradients flow through the gates, too, where 1997 cut them off; Adam, not
plain gradient descent. c is the paper's state s_c, i and o are its gates y_in and y_out.

    python -m mini.lstm                                 learn to write small stories
    python -m mini.lstm --preset=tales --data=my_novel.txt              learn from your own text
    python -m mini.lstm --resume                        go on where it was stopped
    python -m mini.lstm sample --prompt="About Pia, her friend Ivan, a red lamp"
    python -m mini.lstm evaluate                        the loss by the number of tokens read before

Measured times and scores: README.md. Read next: train_gpt.py; what it changes:
git diff --no-index mini/lstm.py train_gpt.py.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

# texts and tokenizers, the command line, devices, scores, the folder of a run: this file can be
# followed without reading them
from mini.data.text.corpus import check_length, encode, make_tokenizer, piece_starts, read_corpus
from mini.data.text.story_scores import story_report, story_scores, with_reading
from mini.data.text.tokenizers import load_tokenizer
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.metrics import KneserNey, text_report, text_scores
from mini.utils.run import Run, own_checkpoint, restore
from mini.utils.text import check_prompt, print_copying, print_texts

# ---- the network

class LSTMCell(nn.Module):
    """One step. x comes from the layer below, h and c come from the step before.

    σ(z) = 1 / (1 + e⁻ᶻ) makes gates, which are between shut (0) and open (1); ⊙ multiplies entry by
    entry:

        i = σ(Wᵢ x + Uᵢ h + bᵢ)         input gate: how much of g is written
        f = σ(W_f x + U_f h + b_f)      forget gate: how much of c is kept (Gers et al. 2000)
        g = tanh(W_g x + U_g h + b_g)   candidate: what could be written
        o = σ(Wₒ x + Uₒ h + bₒ)         output gate: how much of c is shown
        c ← f ⊙ c + i ⊙ g               changed by addition: where f ≈ 1, gradients live long
        h ← o ⊙ tanh(c)
    """

    def forward(self, from_x, h, c, U_T):
        """The new h and c (B, C). from_x (B, 4C) is W x + b, which is known before h is."""
        gates = torch.addmm(from_x, h, U_T)                     # (W x + b) + U h: (B, 4C)
        i, f, g, o = gates.chunk(4, dim=1)                      # (B, C) each
        i = torch.sigmoid(i)
        f = torch.sigmoid(f)
        g = torch.tanh(g)
        o = torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, c


class LSTMLayer(nn.Module):
    """One recurrent layer: the same cell, step after step."""

    def __init__(self, C: int, weight_drop: float):
        super().__init__()
        self.cell = LSTMCell()
        self.W = nn.Linear(C, 4 * C)                            # Wᵢ, W_f, W_g, Wₒ and the biases
        self.U = nn.Linear(C, 4 * C, bias=False)                # Uᵢ, U_f, U_g, Uₒ
        self.weight_dropout = nn.Dropout(weight_drop)
        nn.init.ones_(self.W.bias[C:2 * C])                     # b_f = 1: at first, remember

    def forward(self, x, h, c):
        """Outputs h₁ … h_T (T, B, C), and the last h and c (B, C), of inputs x (T, B, C)."""
        from_x = self.W(x)                                      # W x + b of all steps: (T, B, 4C)

        # some weights of U are set to 0, the same ones in all steps (Merity et al. 2018); under
        # autocast the products are in bfloat16
        U = self.weight_dropout(self.U.weight).to(from_x.dtype)
        U_T = U.t()                                             # (4C, C) -> (C, 4C)

        outputs = []
        for from_x_t in from_x:                                 # a loop: each step needs the last h
            h, c = self.cell(from_x_t, h, c, U_T)
            outputs.append(h)
        return torch.stack(outputs), h, c


class LSTM(nn.Module):
    """The whole network: embedding, layers, and a head tied to the embedding."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)         # a vector for each token
        self.dropout = nn.Dropout(cfg.dropout)
        layers = [LSTMLayer(cfg.n_embd, cfg.weight_drop) for _ in range(cfg.n_layer)]
        self.layers = nn.ModuleList(layers)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size)        # its bias: how frequent a token is
        self.lm_head.weight = self.wte.weight                   # tied: it reads and writes tokens
        nn.init.normal_(self.wte.weight, std=0.1)               # larger than GPT's: no norm follows

    def forward(self, idx, state=None):
        """Logits (B, T, V) of the token after each of the tokens idx (B, T).

        Before the first token the network is in this state, or in the empty one.
        """
        x, _ = self.hidden(idx, state)
        return self.lm_head(x)

    def hidden(self, idx, state=None):
        """The vectors (B, T, C) from which the head predicts, for tokens idx (B, T); and the state
        after them, h and c of each layer: (n_layer, 2, B, C)."""
        B = idx.size(0)
        x = self.wte(idx.t())                                   # (B, T) -> (T, B) -> (T, B, C)
        x = self.drop(x)
        if state is None:
            state = x.new_zeros(len(self.layers), 2, B, self.cfg.n_embd)
        new_state = []
        for layer, (h, c) in zip(self.layers, state):
            x, h, c = layer(x, h, c)
            x = self.drop(x)
            new_state.append(torch.stack([h, c]))
        x = x.transpose(0, 1)                                   # (T, B, C) -> (B, T, C)
        return x, torch.stack(new_state)

    def drop(self, x):
        """Dropout of x (T, B, C) with one mask for all steps (Gal & Ghahramani 2016)."""
        ones = torch.ones_like(x[:1])                           # (1, B, C)
        mask = self.dropout(ones)                               # 0, or 1 / (1 − p) where x is kept
        return x * mask

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


@torch.no_grad()
def estimate_loss(model, documents: list, windows_at_once: int = 64) -> float:
    """The mean loss in nats of predicting all tokens of the documents but the first of each.

    documents: 1-D tensors of token numbers. A document longer than T is read in consecutive
    windows. Each window begins with no context, so its first tokens are harder to predict.
    """
    was_training = model.training
    model.eval()                                                # no dropout
    T = model.cfg.block_size

    # Cut each document into rows of T. Its last row is filled up at the end: the filling comes
    # after all that is predicted, so it changes nothing, and its own targets are ignored.
    x_rows = []
    y_rows = []
    for tokens in documents:
        n_targets = len(tokens) - 1
        missing = -n_targets % T                                # 10 targets, T = 4: 2 are missing
        x_rows.append(F.pad(tokens[:-1], (0, missing)).view(-1, T))
        y_rows.append(F.pad(tokens[1:], (0, missing), value=IGNORED).view(-1, T))
    x = torch.cat(x_rows)                                       # (windows, T)
    y = torch.cat(y_rows)

    total = 0.0
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        total += next_token_loss(model(x_i), y_i, reduction="sum").item()
    model.train(was_training)
    return total / (y != IGNORED).sum().item()


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


def draw(probs, generator=None):
    """Draw one token (B,) for each row of probabilities (B, V), as torch.multinomial(probs, 1)
    does.

    A random number between 0 and 1 falls between two of the sums of the probabilities so far: that
    token is drawn. torch.multinomial draws a random number for each token, and takes seven times as
    long at GPT-2's 50,257 tokens.
    """
    sums = probs.double().cumsum(dim=-1)                        # (B, V); the last sum is nearly 1
    require(sums[:, -1].isfinite().all(),                       # else one of them is not finite
            "probabilities are not finite: training went wrong; lower --lr")
    u = torch.rand(len(probs), 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
    return torch.searchsorted(sums, u, right=True).squeeze(1)   # (B, 1) -> (B,)


@torch.inference_mode()
def generate(model, idx, max_new_tokens: int, temperature=1.0, top_k=0, top_p=1.0, generator=None,
             on_token=None):
    """Continue the tokens idx (B, T): returns (B, T + max_new_tokens).

    After the first step the model reads one token at a time: the state is all it needs of what was
    before. If given, on_token is called with each new token (B,) as soon as it is drawn, to print
    it.
    """
    was_training = model.training
    model.eval()
    new = idx                                                   # the tokens not read yet
    state = None
    for _ in range(max_new_tokens):
        x, state = model.hidden(new, state)
        logits = model.lm_head(x[:, -1])                        # (B, C) -> (B, V)
        token = sample_token(logits, temperature, top_k, top_p, generator).to(idx.device)
        new = token[:, None]
        idx = torch.cat([idx, new], dim=1)                      # (B, T) -> (B, T + 1)
        if on_token:
            on_token(token)
    model.train(was_training)
    return idx


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), sample_every 500, log_every
    50, seed 1, device auto, matmul medium (how exact products are), compile false, resume false,
    stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "stories"       # stories, all-stories, tales, shakespeare, or your file or folder
    tokenizer: str = "bpe"      # char, bpe (trained on the data), or a folder with GPT-2's files
    vocab_size: int = 3072      # V, if the tokenizer is bpe; others bring their own

    # model
    block_size: int = 248       # T, the window: how many tokens gradients flow back through
    n_layer: int = 1            # layers, each reading the h of the one below
    n_embd: int = 288           # C, the width of x, h and c
    dropout: float = 0.0        # of embeddings, and of h on its way to the next layer or the head
    weight_drop: float = 0.0    # dropout of U, the weights on the way of h to the next step

    # optimisation
    steps: int = 1150           # optimiser steps
    batch_size: int = 16        # sequences in a step
    lr: float = 0.02            # peak learning rate
    warmup: int = 3             # steps in which the learning rate rises to its peak
    stable_frac: float = 0.4    # then it stays there for this fraction of the rest, and falls to 0
    beta2: float = 0.99         # Adam's: the weight of old squared gradients in their average
    grad_clip: float = 1.0      # a longer gradient is scaled down to this norm (0: never)

    # run
    out_dir: str = "runs/lstm"  # folder of the run
    eval_every: int = 500       # steps between evaluations; each saves a checkpoint (0: at the end)

    # sampling
    prompt: str = ""            # text to continue
    max_new_tokens: int = 246   # tokens to write
    num_samples: int = 1        # texts to write
    temperature: float = 0.8    # 0: always the likeliest token; 1: the model's probabilities
    top_k: int = 0              # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0          # draw from the fewest tokens that together have this probability

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("tokenizer", "vocab_size", "block_size", "n_layer", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # little text, such as our tales or one novel: dropout against learning it by heart
    "tales": dict(data="tales", vocab_size=1024, block_size=64, n_embd=440, batch_size=64, lr=0.01,
                  dropout=0.6, weight_drop=0.3, steps=700, max_new_tokens=250),
    # two layers that learn characters: one GPU
    "gpu": dict(tokenizer="char", n_layer=2, n_embd=816, block_size=256, batch_size=64, dropout=0.5,
                weight_drop=0.3, steps=2000, lr=0.003),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "block_size", "n_layer", "n_embd", "batch_size")
    require_positive(cfg, "max_new_tokens", "num_samples", "top_p")
    require(0 <= cfg.dropout < 1, f"--dropout={cfg.dropout} must be from 0 to below 1")
    require(0 <= cfg.weight_drop < 1, f"--weight_drop={cfg.weight_drop} must be from 0 to below 1")
    require(0 <= cfg.stable_frac < 1, f"--stable_frac={cfg.stable_frac} must be from 0 to below 1")
    require(cfg.temperature >= 0, f"--temperature={cfg.temperature} must not be negative")
    require(cfg.top_k >= 0, f"--top_k={cfg.top_k} must not be negative")


# ---- training

def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak."""
    if step < cfg.warmup:                                           # it rises
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)         # 0 -> 1
    if progress < cfg.stable_frac:                                  # it stays
        return 1.0
    return 1 - (progress - cfg.stable_frac) / (1 - cfg.stable_frac)         # it falls to 0


def train(cfg: Config, corpus=None) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used.

    corpus: the text in parts, in place of that which --data names.
    """
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    if cfg.resume:
        cfg, checkpoint = own_checkpoint(cfg, "lstm")
    device = pick_device(cfg.device)

    # the model and its tokenizer: resumed, or new
    corpus = corpus or read_corpus(cfg.data)                    # in parts: train, val, perhaps test
    torch.manual_seed(cfg.seed)                                 # for initial weights and dropout
    if cfg.resume:
        model, tokenizer = from_checkpoint(checkpoint, cfg)
    else:
        tokenizer = make_tokenizer(cfg.tokenizer, corpus, cfg.vocab_size)
        model = LSTM(cfg, tokenizer.vocab_size)
    model = model.to(device)
    check_prompt(cfg.prompt, tokenizer)

    # the texts as token numbers: a list of documents, (n,) each. A story is one document, and your
    # own text is one, too. Each of ours begins with the token that also begins what is sampled
    train_docs = encode(tokenizer, corpus.train, device)
    val_docs = encode(tokenizer, corpus.val, device)            # held out
    check_length(train_docs, val_docs, cfg.block_size)
    train_tokens = torch.cat(train_docs)                        # (N,), one after the other
    starts = piece_starts(train_docs, cfg.block_size)           # beginnings of documents; of long
                                                                # ones every position
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches

    # optimiser
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr, betas=(0.9, cfg.beta2))
    if cfg.resume:                                              # their averages, all random states
        restore(checkpoint, [optimizer], data_rng)
    if cfg.compile:
        for layer in model.layers:                              # a step, not the loop over them,
            layer.cell = torch.compile(layer.cell)              # since that would take minutes

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    columns = ["loss", "lr", "val_loss"]
    with Run(cfg, "lstm", model, columns, checkpoint if cfg.resume else None) as run:
        V = model.wte.num_embeddings
        run.say(f"{len(train_tokens):,} tokens to learn from, "
                f"{sum(map(len, val_docs)):,} held out")
        run.say(f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = cfg.lr * lr_factor(step, cfg)
            optimizer.param_groups[0]["lr"] = lr

            # batch
            x, y = get_batch(train_tokens, cfg.block_size, cfg.batch_size, data_rng, starts)

            # loss and backward
            with autocast(device, cfg.matmul):
                loss = next_token_loss(model(x), y)
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            loss.backward()

            # step
            if cfg.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                val_loss = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    val_loss = estimate_loss(model, val_docs)
                    run.check_finite(done, val_loss=val_loss)

                if val_loss is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)

                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", write(model, tokenizer)[0])

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if val_loss is not None or stopping:
                    # checkpoint.pt: settings, weights, optimiser, random states, tokenizer
                    run.save(done, model, [optimizer], data_rng, tokenizer=tokenizer.state())

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        if run.first >= cfg.steps:                              # resumed, but no step was left
            val_loss = estimate_loss(model, val_docs)

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

def from_checkpoint(checkpoint: dict, cfg):
    """(model, tokenizer) of a checkpoint.

    A checkpoint is a dict: "model" (weights by name), "tokenizer", "config", and for a run to go on
    "step", "optimizers" (the averages that they keep) and "rng" (the states of all random numbers).
    """
    tokenizer = load_tokenizer(checkpoint["tokenizer"])
    model = LSTM(cfg, tokenizer.vocab_size)
    model.load_state_dict(checkpoint["model"])
    return model, tokenizer


def load(cfg):
    """(model, tokenizer) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "lstm")
    model, tokenizer = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), tokenizer


def write(model, tokenizer, on_token=None, n: int = 0) -> list:
    """n texts (0: num_samples) that continue --prompt, by the settings in model.cfg: the same at
    every call. After the end of a story, the next one begins."""
    cfg = model.cfg
    ids = tokenizer.encode(tokenizer.start + cfg.prompt)        # start: a token that begins texts
    idx = torch.tensor([ids] * (n or cfg.num_samples), device=model.device)     # (B, T)
    rng = torch.Generator().manual_seed(cfg.seed)
    idx = generate(model, idx, cfg.max_new_tokens, temperature=cfg.temperature, top_k=cfg.top_k,
                   top_p=cfg.top_p, generator=rng, on_token=on_token)
    new = idx[:, len(ids):].tolist()
    return [cfg.prompt + tokenizer.decode(row) for row in new]


def sample(cfg: Config) -> list:
    """Print texts that continue --prompt, and how much of them is copied from the training text."""
    model, tokenizer = load(cfg)
    texts = print_texts(write, model, tokenizer)
    print_copying(texts, model.cfg.prompt, model.cfg.data)
    return texts


def evaluate(cfg: Config) -> dict:
    """The held-out loss by what is read before: see mini/studies/context.py."""
    from mini.studies import context  # only this command needs it
    model, tokenizer = load(cfg)
    return context.evaluate(model, tokenizer)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd or "
                                      "--num_samples")


if __name__ == "__main__":
    main()
