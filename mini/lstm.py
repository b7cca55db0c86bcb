"""LSTM: a recurrent network that learns to write by predicting the next token, as was done before GPT.

It reads one token after the other, and all it keeps of them is a state of one size, however long the text:
two vectors in each layer, h and c. Like GPT it models p(x₁ … xₙ) = Π p(xₜ | x₁ … xₜ₋₁), with the loss

    L = −1/T · Σₜ log p(xₜ₊₁ | x₁ … xₜ)      in nats; a model that knows nothing scores ln V

Truncated backpropagation through time: it learns from windows of T tokens, each begun with an empty state as
GPT's with an empty context, so that windows may start anywhere and training meets what the test will ask.

Papers: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory"; Gers et al. 2000 (forget gate); Press & Wolf
2017 (tied head); Gal & Ghahramani 2016, Merity et al. 2018 (dropouts). Departure: Adam, not plain descent.

    python -m mini.lstm                                 our own tales
    python -m mini.lstm --data=my_novel.txt             your own text
    python -m mini.lstm sample --prompt="The ferry"     let it write on
    python -m mini.lstm evaluate                        what does memory buy? loss by position

Measured times and scores: README.md. Read beside it: git diff --no-index train_gpt.py mini/lstm.py.
"""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.text.corpus import encode_split, make_tokenizer, read_text, split_text
from mini.data.text.tokenizers import load_tokenizer
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.run import Run, own_checkpoint, restore
from mini.utils.text import encode_prompt, pick, print_copying, print_texts


@dataclass
class Config(RunConfig):
    # data
    data: str = "tales"            # tales, shakespeare, or your own: a UTF-8 file or a folder of .txt files
    tokenizer: str = "bpe"         # char, bpe (trained on the data), or a folder with GPT-2's tokenizer
    vocab_size: int = 1024         # tokens of the bpe tokenizer
    # model
    block_size: int = 64           # T, the window: how many tokens gradients flow back through
    n_layer: int = 1               # layers, each reading the h of the one below
    n_embd: int = 440              # C, the width of x, h and c
    # optimisation
    steps: int = 700               # optimiser steps
    batch_size: int = 64           # sequences per step
    lr: float = 0.01               # peak learning rate
    warmup: int = 3                # steps until the rate is at its peak
    hold: float = 0.4              # the fraction of the run after the warm-up without a fall
    beta2: float = 0.99            # Adam's: how much of the old mean squared gradient is kept
    grad_clip: float = 1.0         # largest norm of the gradient (0: no limit)
    dropout: float = 0.5           # of embeddings, and of h on its way to the next layer or the head
    weight_drop: float = 0.3       # dropout of U, the weights on the way of h to the next step
    # run
    out_dir: str = "runs/lstm"     # folder of the run
    # sampling
    prompt: str = ""               # text to continue
    tokens: int = 250              # tokens to write
    samples: int = 1               # texts to write
    temperature: float = 0.6       # 0: always the likeliest token; 1: as the model believes; above: wilder
    top_k: int = 0                 # draw from the k likeliest tokens only (0: all)
    top_p: float = 1.0             # draw from the likeliest tokens that together have this probability

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("tokenizer", "vocab_size", "block_size", "n_layer", "n_embd")


PRESETS = {"gpu": dict(tokenizer="char", n_layer=2, n_embd=816, block_size=256, steps=2000, lr=0.003)}


# ---- the network
class Layer(nn.Module):
    """At each step x comes from below, h and c from the step before. With σ(z) = 1 / (1 + e⁻ᶻ), which makes
    gates between shut (0) and open (1), and the product ⊙ of each entry by itself:

        i = σ(Wᵢ x + Uᵢ h + bᵢ)         input gate: how much of g is written
        f = σ(W_f x + U_f h + b_f)      forget gate: how much of c is kept (Gers et al. 2000; before, f = 1)
        g = tanh(W_g x + U_g h + b_g)   candidate: what could be written
        o = σ(Wₒ x + Uₒ h + bₒ)         output gate: how much of c is shown
        c ← f ⊙ c + i ⊙ g               changed by addition: while f ≈ 1, gradients live through many steps
        h ← o ⊙ tanh(c)
    """

    def __init__(self, C: int, weight_drop: float):
        super().__init__()
        self.W = nn.Linear(C, 4 * C)                            # of i, f, g and o in one product; b too
        self.U = nn.Linear(C, 4 * C, bias=False)
        self.dropout = nn.Dropout(weight_drop)
        nn.init.ones_(self.W.bias[C:2 * C])                     # f begins near 0.7: at first, remember

    def forward(self, x, h, c):             # x (T, B, C); h and c (B, C)
        from_x = self.W(x)                                      # (T, B, 4C); no x waits for an h: all at once
        U = self.dropout(self.U.weight).to(from_x.dtype).t()    # (C, 4C), dropped and rounded once
        hs = []
        for from_x_t in from_x.unbind():                        # the loop that attention does without
            i, f, g, o = torch.addmm(from_x_t, h, U).chunk(4, dim=1)            # (B, 4C) -> 4 × (B, C)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hs.append(h)
        return torch.stack(hs), h, c                            # (T, B, C), (B, C), (B, C)


class LSTM(nn.Module):
    """The whole network. Its head is tied: one of its own would cost the layers a quarter of the weights."""

    def __init__(self, cfg, vocab_size: int):
        super().__init__()
        C, L, p = cfg.n_embd, cfg.n_layer, (cfg.dropout, cfg.weight_drop)
        require(min(C, L, cfg.block_size, cfg.batch_size) > 0 and 0 <= min(p) <= max(p) < 1,
                f"--n_embd={C} and every other size must be at least 1, dropout from 0 to below 1")
        self.cfg = cfg
        self.wte = nn.Embedding(vocab_size, C)                  # what a token means
        self.dropout = nn.Dropout(cfg.dropout)
        self.layers = nn.ModuleList(Layer(C, cfg.weight_drop) for _ in range(L))
        self.lm_head = nn.Linear(C, vocab_size)                 # its bias: how frequent a token is
        self.lm_head.weight = self.wte.weight                   # tied: one matrix reads and writes tokens
        nn.init.normal_(self.wte.weight, std=0.1)               # GPT's 0.02 is faint: no norm lifts it here

    def forward(self, idx, targets=None, state=None):
        """Logits (B, T, V) for tokens idx (B, T), the mean loss in nats for targets (B, T) if given, and the
        state after them, h and c of each layer (n_layer, 2, B, C); given it, the next call reads on."""
        x, after = self.drop(self.wte(idx.t())), []                             # (B, T) -> (T, B, C)
        state = x.new_zeros(len(self.layers), 2, *x.shape[1:]) if state is None else state
        for layer, (h, c) in zip(self.layers, state):
            x, h, c = layer(x, h, c)
            x = self.drop(x)
            after.append(torch.stack([h, c]))
        logits = self.lm_head(x.transpose(0, 1))                                # (T, B, C) -> (B, T, V)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss, torch.stack(after)

    def drop(self, x):      # dropout with one mask for all steps (Gal & Ghahramani 2016)
        return x * self.dropout(torch.ones_like(x[:1]))                         # (T, B, C) * (1, B, C)


# ---- the learning rate, batches, and the loss on held-out text
def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak: linear warm-up, then a fall to 0."""
    t = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)    # 0 -> 1
    return min((step + 1) / (cfg.warmup + 1), 1.0, (1 - t) / max(1e-9, 1 - cfg.hold))


def draw_batch(tokens, T: int, B: int, generator):
    """B random pieces of the text, x (B, T), and the same pieces one token later, y (B, T)."""
    start = torch.randint(len(tokens) - T, (B,), generator=generator)
    pieces = tokens[(start[:, None] + torch.arange(T + 1)).to(tokens.device)]   # (B, T + 1)
    return pieces[:, :-1], pieces[:, 1:]


@torch.no_grad()
def held_out_loss(model, tokens, at_once: int = 4096):
    """Loss in nats summed at each position of the window, and how many tokens were predicted there: two
    tensors (T,). It predicts tokens[1:] in consecutive windows, each begun with an empty state."""
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
def generate(model, idx, n_tokens: int, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Continue the tokens idx (B, T); yields each new column (B,) as soon as it is drawn."""
    model.eval()
    state = None
    for _ in range(n_tokens):
        logits, _, state = model(idx, state=state)                              # (B, T, V)
        token = pick(logits[:, -1].float().cpu(), temperature, top_k, top_p, generator).to(idx.device)
        idx = token[:, None]                                    # the state is all it needs of what was before
        yield token


# ---- the run
def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "lstm", cfg.resume)
    device = pick_device(cfg.device)
    torch.manual_seed(cfg.seed)
    text = read_text(cfg.data)
    tokenizer = (load_tokenizer(state["tokenizer"]) if state else
                 make_tokenizer(cfg.tokenizer, text, cfg.vocab_size))
    tokens, held_out = encode_split(tokenizer, text, cfg.block_size, device)
    encode_prompt(replace(cfg, block_size=math.inf), tokenizer)     # refuses a wrong one now, not after hours
    model = LSTM(cfg, tokenizer.vocab_size).to(device)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, cfg.beta2))
    V, data_rng = tokenizer.vocab_size, torch.Generator().manual_seed(cfg.seed)
    if state:
        model.load_state_dict(state["model"])
        restore(state, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "lstm", model, ["loss", "lr", "val_loss"], state) as run:
        run.say(f"{len(tokens):,} tokens to learn from, {len(held_out):,} held out\n"
                f"step 0: a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = cfg.lr * lr_factor(step, cfg)
            optimizer.param_groups[0]["lr"] = lr
            # batch
            x, y = draw_batch(tokens, cfg.block_size, cfg.batch_size, data_rng)
            # loss and backward
            with autocast(device, cfg.matmul):
                _, loss, _ = net(x, y)
            run.check_finite(step, loss=loss.item())
            loss.backward()
            # step
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            # log; now and then evaluate, sample, save
            done, val_loss = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_loss = held_out_loss(model, held_out)[0].sum().item() / (len(held_out) - 1)
                    run.check_finite(done, val_loss=val_loss)
                if val_loss or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", write(model, tokenizer, cfg)[0].encode())
                stop = run.stopping(done)
                if val_loss or stop:
                    run.save(done, model, [optimizer], data_rng, tokenizer=tokenizer.state())
            if stop and done < cfg.steps:
                return run.leave(done)

        total, sample = held_out_loss(model, held_out)[0].sum().item(), write(model, tokenizer, cfg)[0]
        scores = metrics.text_scores(total, tokens, held_out, V, split_text(text), sample[len(cfg.prompt):])
        run.say(f"\n{sample}\n\n{metrics.text_report(**scores)}")
        return run.finish(**scores)


def write(model, tokenizer, cfg, show: bool = False) -> list:
    """cfg.samples continuations of cfg.prompt, the same at every call; with `show`, printed as they come."""
    ids = encode_prompt(replace(cfg, block_size=math.inf), tokenizer)   # of any length: a state is never full
    ids = torch.tensor([ids] * cfg.samples, device=model.wte.weight.device)
    columns = generate(model, ids, cfg.tokens, cfg.temperature, cfg.top_k, cfg.top_p,
                       torch.Generator().manual_seed(cfg.seed))
    texts = print_texts(tokenizer, columns, cfg.prompt, show)
    model.train()           # generate() left it in eval mode
    return texts


def load(cfg):
    """(model, tokenizer, config) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "lstm")
    tokenizer = load_tokenizer(state["tokenizer"])
    model = LSTM(cfg, tokenizer.vocab_size)
    model.load_state_dict(state["model"])
    return model.to(pick_device(cfg.device)), tokenizer, cfg


def sample(cfg: Config) -> list:
    """Print continuations of --prompt, and how much of them is copied from the training text."""
    model, tokenizer, cfg = load(cfg)
    texts = write(model, tokenizer, cfg, show=True)
    print_copying(texts, cfg.prompt, cfg.data)
    return texts


def evaluate(cfg: Config) -> dict:
    """What memory buys: held-out loss by the number of tokens before; also in evaluate.json."""
    model, tokenizer, cfg = load(cfg)
    _, held_out = encode_split(tokenizer, read_text(cfg.data), cfg.block_size, model.wte.weight.device)
    table = metrics.by_position(*held_out_loss(model, held_out))
    return metrics.print_tables(cfg, loss_after_so_many_tokens=table)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__)


if __name__ == "__main__":
    main()
