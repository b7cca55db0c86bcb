"""An assistant that uses tools: a small GPT that learns what to ask a calculator and an encyclopedia.

A language model is poor at arithmetic, and knows no fact that it was not trained on. But it can learn to
write calls. At "=" the loop runs the tool and adds its answer to the text. Then the model goes on writing:

    What is the population of France divided by the area of Spain?      the user's line
    lookup(population of France)=66000000                               the model up to "=", then the tool
    lookup(area of Spain)=506000
    calculator(66000000/506000)=130.4348
    130.4348                                                            a line without "=": the answer

The network is train_gpt's. The tokens are chosen so that any name and any number can be copied
(mini/data/text/pieces.py). The loss is over the tokens that the assistant writes, M. What the user and the
tools write is read, but it is never a target:

    L = −1/|M| · Σ_{t ∈ M} log p(xₜ | x₁ … xₜ₋₁)

Papers: Schick et al. 2023, "Toolformer"; Cobbe et al. 2021 (a calculator at "="). Departure: templates write
the dialogues (mini/data/text/questions.py), not people or a large model. So the right answers are known.

    python -m mini.assistant                                    train
    python -m mini.assistant sample                             a chat; Ctrl-D ends it
    python -m mini.assistant sample --prompt="How high is Mont Blanc divided by 7?"
    python -m mini.assistant sample --data=my_facts.tsv         other facts, without training again
    python -m mini.assistant evaluate                           by kind, by length of numbers and of chains

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/clip.py.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.text.pieces import PieceTokenizer, as_ascii, chat_lines, transcript
from mini.data.text.questions import (ALONE, DO_NOT_KNOW, HELD_OUT, Writer, known_words, share,
                                      tables)
from mini.data.text.tools import FACTS, read_facts, run_call
from mini.utils import metrics
from mini.utils.config import RunConfig, UserError, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.optim import Muon
from mini.utils.run import Run, own_checkpoint, restore
from train_gpt import GPT, CachedGPT


@dataclass
class Config(RunConfig):
    # data
    n_dialogues: int = 60000       # dialogues to learn from
    alone: float = 0.1             # share of the dialogues that are answered without tools, for comparison
    # model
    block_size: int = 192          # T, the context, in tokens: a whole dialogue must fit in it
    n_layer: int = 4               # blocks
    n_head: int = 4                # attention heads in each block
    n_embd: int = 128              # C, the width
    # optimisation
    steps: int = 2300              # optimiser steps
    batch_size: int = 64           # dialogues in a step
    muon_lr: float = 0.03          # Muon's peak learning rate, for the matrices of the blocks
    lr: float = 0.006              # AdamW's peak learning rate, for all other parameters
    warmup: int = 20               # steps in which the learning rate rises to its peak
    hold: float = 0.4              # then it stays there for this fraction of the rest, and falls to 0
    momentum: float = 0.9          # of Muon: the weight of old gradients in their moving average
    beta2: float = 0.99            # of AdamW: the weight of old squared gradients in their average
    weight_decay: float = 0.0      # of matrices and embeddings
    grad_clip: float = 1.0         # a longer gradient is scaled down to this norm (0: never)
    # of embeddings, attention weights, and what blocks add to x (0 is enough: no dialogue is seen often)
    dropout: float = 0.0
    # run
    out_dir: str = "runs/assistant"     # folder of the run
    fused: bool = True             # torch's fused kernels for attention and for AdamW
    # questions in each held-out set (0: 500, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    prompt: str = ""               # one question ("": a chat)
    data: str = "facts"            # facts (ours), or your file: lines of entity, tab, property, tab, value
    tools: bool = True             # use the tools (false: answer without them)
    max_calls: int = 5             # largest number of calls for one answer
    cache: bool = True             # keep past keys and values: the same text, faster

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("n_dialogues", "alone", "block_size", "n_layer", "n_head", "n_embd")


PRESETS = {"gpu": dict(n_dialogues=400000, n_layer=6, n_head=6, n_embd=384, batch_size=256, steps=3000)}
SETS = {**{name: (name,) for name in HELD_OUT}, "all three": HELD_OUT}          # what is new in each test
WAYS = ("with tools", "without")
N_TEST = 500                        # questions in each held-out set, if --n_test is 0
IGNORED = -100                      # as a target: not to be predicted


# ---- dialogues as tokens
def encode_dialogues(tokenizer, dialogues: list):
    """x and y (N, T) of dialogues, each a list of (text, does the assistant write it?). y holds the next token
    where the assistant writes it, and IGNORED elsewhere."""
    x, y = [], []
    for pieces in dialogues:
        tokens = [(token, mine) for text, mine in pieces for token in tokenizer.encode(text)]
        ids, mine = torch.tensor(tokens).short().unbind(1)      # 2 bytes each
        x.append(ids[:-1]), y.append(ids.where(mine == 1, IGNORED)[1:])
    pad = nn.utils.rnn.pad_sequence
    return pad(x, batch_first=True), pad(y, batch_first=True, padding_value=IGNORED)


def draw_batch(x, y, B: int, generator):
    """B dialogues x, y (B, T') of about the same length, so that there is little padding: 8 B dialogues are
    drawn and sorted by length, and an eighth of them is taken."""
    i = torch.randint(len(x), (8 * B,), generator=generator).to(x.device)
    part = torch.randint(8, (1,), generator=generator).item()
    length, order = lengths(y[i]).sort(stable=True)
    i, T = i[order[part * B:(part + 1) * B]], length[(part + 1) * B - 1]
    return x[i, :T].long(), y[i, :T].long()


def lengths(y):                 # (N, T) -> (N,): the last target is the end of a dialogue
    return ((y != IGNORED) * torch.arange(1, y.size(1) + 1, device=y.device)).amax(1)


def assistant_loss(logits, y):
    """−log p(y) in nats, as a mean over the tokens that the assistant writes; logits (B, T, V), y (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED)


# ---- the loop that runs the tools
@torch.inference_mode()
def respond(model, question: str, cfg, facts=FACTS):
    """(answer, [(call, the tool's value), …]) to a question, by always taking the likeliest token.

    The answer is DO_NOT_KNOW if the context is full before the answer ends, or if cfg.max_calls are not enough.
    Raises UserError for an empty question, and for one longer than half of the context.
    """
    text, T, line, steps = as_ascii(question), model.cfg.block_size, "", []
    ids = model.tokenizer.encode(f"{text}\n{'' if cfg.tools else ALONE}")
    require(text, "there is no question")
    require(len(ids) <= T // 2, f"the question has {len(text):,} characters, too many: ask for less")
    model.eval()
    reader = CachedGPT(model) if cfg.cache else model
    while len(ids) <= T:
        logits = reader(torch.tensor([ids], device=model.device))[0, -1]        # (V,)
        ids.append(int(logits.argmax()))
        line += model.tokenizer.decode(ids[-1:])
        if line[-1] == "\n":
            return line[:-1], steps
        if line[-1] == "=" and cfg.tools:                       # a call is complete: run it
            if len(steps) == cfg.max_calls:
                return DO_NOT_KNOW, steps
            value = run_call(line[:-1], facts)
            steps.append((line[:-1], value))
            ids, line = ids + model.tokenizer.encode(as_ascii(value) + "\n"), ""
    return DO_NOT_KNOW, steps


# ---- scores
@torch.inference_mode()
def all_right(model, x, y, at_once: int = 128) -> list:
    """For each of the dialogues x, y (N, T): would the model write exactly this, all calls and the answer? It
    reads the right text here, all at once. If it predicts right at every position, `respond` writes the same."""
    model.eval()
    right = []
    progress = metrics.Progress("dialogues read:", len(x))
    for x_i, y_i in zip(x.split(at_once), y.split(at_once)):
        T = lengths(y_i).max()
        best = model(x_i[:, :T].long()).argmax(2)                                    # (B, T, V) -> (B, T)
        right += ((best == y_i[:, :T]) | (y_i[:, :T] == IGNORED)).all(1).tolist()
        progress.add(len(x_i))
    model.train()
    return right


def held_out_sets(cfg, model) -> dict:
    """{name: held_out_set} of all SETS, with as many questions as --n_test says (see Config)."""
    n = cfg.n_test or metrics.n_to_score(cfg, N_TEST, "questions of each held-out set")
    return {name: held_out_set(name, n, model) for name in SETS}


def held_out_set(name: str, n: int, model) -> dict:
    """n questions in which something is new: {"dialogues": these, and for each of WAYS: [x, y]}."""
    writer = Writer(seed=1, new=SETS[name])
    dialogues, test = [writer.write() for _ in range(n)], {}
    for way, pieces in zip(WAYS, ([d.pieces() for d in dialogues], [d.alone() for d in dialogues])):
        test[way] = [t.to(model.device) for t in encode_dialogues(model.tokenizer, pieces)]
    return {"dialogues": dialogues, **test}


# ---- optimisers, and the learning rate as a function of the step
def make_optimizers(model, cfg):
    """[AdamW, Muon]: Muon for the matrices inside the blocks, AdamW for all other parameters."""
    qkv = [block.attn.c_attn.weight for block in model.h]
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    matrices = [p for p in matrices if not any(p is q for q in qkv)]
    rest = [p for p in model.parameters() if not any(p is q for q in matrices + qkv)]
    decayed = {"params": [p for p in rest if p.ndim == 2], "weight_decay": cfg.weight_decay}
    others = {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}       # biases, norms
    groups = [{"params": matrices}, {"params": qkv, "n_matrices": 3}]   # q, k and v, stored as one
    betas = (0.9, cfg.beta2)
    return [torch.optim.AdamW([decayed, others], lr=cfg.lr, betas=betas, fused=cfg.fused),
            Muon(groups, cfg.muon_lr, cfg.momentum, cfg.weight_decay)]


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak: it rises, stays, and falls linearly to 0."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)     # 0 -> 1
    return 1 - max(0.0, progress - cfg.hold) / max(1e-9, 1 - cfg.hold)


# ---- the run
def load(cfg, resume: bool = True):
    """(config, model, checkpoint) of the run in out_dir, or of a new run if not `resume`."""
    cfg, state = own_checkpoint(cfg, "assistant", resume)
    require(min(cfg.n_dialogues, cfg.batch_size, cfg.max_calls) > 0 <= cfg.alone < 1,
            "no size may be 0; --alone is a share below 1")
    require_positive(cfg, "n_layer", "n_head", "n_embd")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(0 <= cfg.dropout < 1, f"--dropout={cfg.dropout} must be from 0 to below 1")
    require(cfg.n_test >= 0, f"--n_test={cfg.n_test} must be at least 0")
    require(cfg.block_size >= Config.block_size, "--block_size is too short for some dialogues")
    torch.manual_seed(cfg.seed)
    tokenizer = PieceTokenizer(state["words"] if state else known_words())
    (model := GPT(cfg, tokenizer.vocab_size)).tokenizer = tokenizer
    if state:
        model.load_state_dict(state["model"])
    return cfg, model.to(pick_device(cfg.device)), state


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    require(cfg.data == "facts", "--data is for sample: other facts need no training")
    cfg, model, state = load(cfg, cfg.resume)
    device, V = model.device, model.tokenizer.vocab_size
    dialogues = Writer(seed=0).training_set(cfg.n_dialogues, cfg.alone)
    x, y = (t.to(device) for t in encode_dialogues(model.tokenizer, dialogues))
    test = held_out_sets(cfg, model)
    n_test = len(test["all three"]["dialogues"])
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "assistant", model, ["loss", "lr", "right"], state) as run:
        run.say(f"{len(x):,} dialogues to learn from, "
                f"{n_test:,} in each of {len(test)} held-out sets\n"
                f"a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg)
            for optimizer, peak in zip(optimizers, (cfg.lr, cfg.muon_lr)):
                for group in optimizer.param_groups:
                    group["lr"] = factor * peak
            # batch
            x_b, y_b = draw_batch(x, y, cfg.batch_size, data_rng)
            # loss over what the assistant writes, backward
            with autocast(device, cfg.matmul):
                loss = assistant_loss(net(x_b), y_b)
            run.check_finite(step, loss=loss.item())
            loss.backward()
            # step
            if cfg.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # evaluate, log, sample and save, each when it is due
            done, right = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    right = share(all_right(model, *(t[:200] for t in test["all three"]["with tools"])))
                if right is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr, right=right)
                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", show(model, test, cfg).encode())
                stop = run.stopping(done)
                if right is not None or stop:
                    run.save(done, model, optimizers, data_rng, words=model.tokenizer.words)
            if stop and done < cfg.steps:
                return run.leave(done)

        run.say(f"scoring {n_test:,} questions of each held-out set, with tools and without …")
        scores = {name: {way: share(all_right(model, *t[way])) for way in WAYS} for name, t in test.items()}
        run.say(f"\n{show(model, test, cfg)}\n" + "\n".join(
            f"new {name}: {row['with tools']:.1%} right (all calls and the answer); the same model without "
            f"tools: {row['without']:.1%}" for name, row in scores.items()))
        return run.finish(n=n_test, exact_match=scores)


def show(model, test: dict, cfg, n: int = 2) -> str:
    """The model's answers to the first questions; below a wrong answer stands the right one."""
    text = ""
    for d in (d for t in test.values() for d in t["dialogues"][:n]):
        answer, steps = respond(model, d.question, cfg)
        text += transcript(d.question, answer, steps) + f"  wrong: {d.answer}\n" * (answer != d.answer)
    model.train()
    return text


def sample(cfg: Config):
    """Answer --prompt, or chat: a question on each line, until the input ends. Returns the last answer."""
    (cfg, model, _), answer = load(cfg), ""
    read_facts(facts := FACTS if cfg.data == "facts" else cfg.data)         # so a wrong file is refused now
    for question in [cfg.prompt] if cfg.prompt else chat_lines():
        try:
            answer, steps = respond(model, question, cfg, facts)
            print(transcript(question if cfg.prompt else "", answer, steps), end="", flush=True)
        except UserError as error:
            require(not cfg.prompt, str(error))          # the error ends the program, but not a chat
            print(f"  ({error})", flush=True)
    return answer


def evaluate(cfg: Config) -> dict:
    """The share of right dialogues in all held-out sets together, by kind, by number of calls, and by the
    longest number in the question; and the share of right answers of `respond` itself. Also in evaluate.json."""
    cfg, model, _ = load(cfg)
    test = held_out_sets(cfg, model)
    right = {way: [ok for t in test.values() for ok in all_right(model, *t[way])] for way in WAYS}
    by_group = tables([d for t in test.values() for d in t["dialogues"]], right)
    answers = {}
    for name, t in test.items():
        dialogues, right_answers = t["dialogues"][:100], []
        print(f"answering {len(dialogues)} questions, new: {name} …", flush=True)
        progress = metrics.Progress("answered", len(dialogues))
        for d in dialogues:
            right_answers.append(respond(model, d.question, cfg)[0] == d.answer)
            progress.add()
        answers[name] = share(right_answers)
    return metrics.print_tables(cfg, **by_group, right_answers_of_the_loop=answers)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd or "
                                      "--n_dialogues")


if __name__ == "__main__":
    main()
