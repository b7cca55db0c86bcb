"""What does each of the five changes since GPT-2 buy? mini/llama.py with one of them put back at a
time, with all of them, and with none, for equal steps, three seeds each, on the same text.

    python -m mini.llama evaluate
    python -m mini.llama evaluate --study_steps=1500        longer runs
"""
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn as nn

from mini import llama
from mini.data.text.corpus import encode, make_tokenizer, piece_starts, read_corpus
from mini.studies.context import standard_error
from mini.utils.config import require_file
from mini.utils.device import autocast, matmul_precision, pick_device
from mini.utils.metrics import table
from mini.utils.progress import Progress
from mini.utils.run import write_json

SEEDS = (1, 2, 3)
TIMED_STEPS = 10        # of each variant, in turn, to learn how long a step takes

MODERN = dict(positions="rotary", norm="rms", mlp="swiglu", bias=False)


def variants(cfg) -> dict:
    """{name: the settings in which it differs from all five changes}."""
    return {
        "all five": {},
        "1. learned positions": dict(positions="learned"),
        "2. a head of k and v for each of q": dict(n_kv_head=cfg.n_head),
        "3. LayerNorm": dict(norm="layer"),
        "4. GELU": dict(mlp="gelu", d_ff=0),
        "5. biases": dict(bias=True),
        "none of the five (GPT-2)": dict(positions="learned", n_kv_head=cfg.n_head, norm="layer",
                                         mlp="gelu", d_ff=0, bias=True),
    }


@dataclass
class Texts:
    """What all variants learn from, and are tested on."""
    tokens: torch.Tensor        # (N,), to learn from
    starts: torch.Tensor        # where pieces begin
    test_x: torch.Tensor        # (windows, T)
    test_y: torch.Tensor
    vocab_size: int


def read_texts(cfg) -> Texts:
    device = pick_device(cfg.device)
    corpus = read_corpus(cfg.data)
    tokenizer = make_tokenizer(cfg.tokenizer, corpus, cfg.vocab_size)
    documents = encode(tokenizer, corpus.train, device)
    test_docs = encode(tokenizer, corpus.test or corpus.val, device)
    return Texts(torch.cat(documents), piece_starts(documents, cfg.block_size),
                 *llama.windows(test_docs, cfg.block_size), tokenizer.vocab_size)


class Trial:
    """A variant in training; each step is as in mini/llama.py."""

    def __init__(self, cfg, texts: Texts):
        self.cfg = cfg
        self.texts = texts
        self.device = pick_device(cfg.device)
        torch.manual_seed(cfg.seed)
        self.model = llama.Llama(cfg, texts.vocab_size).to(self.device)
        self.optimizers = llama.make_optimizers(self.model, cfg)
        self.rng = torch.Generator().manual_seed(cfg.seed)

    def step(self, number: int):
        cfg = self.cfg
        llama.set_learning_rate(self.optimizers, llama.lr_factor(number, cfg))
        x, y = llama.get_batch(self.texts.tokens, cfg.block_size, cfg.batch_size, self.rng,
                               self.texts.starts)
        with autocast(self.device, cfg.matmul):
            loss = llama.next_token_loss(self.model(x), y)
        loss.backward()
        if cfg.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), cfg.grad_clip)
        with autocast(self.device, cfg.matmul):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return loss.item()


def seconds_a_step(cfg, settings: dict, texts: Texts) -> dict:
    """{name: the median time of a training step}, the variants taking steps in turn."""
    trials = {name: Trial(replace(cfg, **changes), texts) for name, changes in settings.items()}
    seconds = {name: [] for name in settings}
    for i in range(TIMED_STEPS + 1):                            # the first warms up
        for name, trial in trials.items():
            start = time.perf_counter()
            trial.step(i)
            if i > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def test_loss_of(cfg, texts: Texts, name: str) -> float:
    """The loss on the test set after training with these settings."""
    trial = Trial(cfg, texts)
    progress = Progress(f"{name}, seed {cfg.seed}: step", cfg.steps)
    for number in range(cfg.steps):
        trial.step(number)
        progress.add()
    return llama.mean_loss(trial.model, texts.test_x, texts.test_y)


def evaluate(cfg) -> dict:
    """Print a table, and write it to evaluate.json in the folder of the run. What is done is kept
    in study-STEPS.json there: an interrupted study goes on."""
    steps = cfg.study_steps or max(1, cfg.steps // 5)
    n_kv_head = min(cfg.n_kv_head, max(1, cfg.n_head // 2))
    batch_size = max(1, cfg.batch_size // 2)
    cfg = replace(cfg, **MODERN, n_kv_head=n_kv_head, batch_size=batch_size, rank=0, steps=steps)
    settings = variants(cfg)
    file = Path(cfg.out_dir) / f"study-{steps}.json"
    done = {"seconds": {}, "losses": {}}
    if file.exists():
        require_file(file)
        done = json.loads(file.read_text("utf-8"))

    with matmul_precision(pick_device(cfg.device), cfg.matmul):
        texts = read_texts(cfg)
        if not done["seconds"]:
            done["seconds"] = seconds_a_step(cfg, settings, texts)
        for seed in SEEDS:
            for name, changes in settings.items():
                key = f"{name}, seed {seed}"
                if key not in done["losses"]:
                    own = replace(cfg, **changes, seed=seed)
                    done["losses"][key] = test_loss_of(own, texts, name)
                    write_json(file, done)
                    print(f"{key}: {done['losses'][key]:.4f}", flush=True)

    rows = {}
    for name, changes in settings.items():
        losses = torch.tensor([done["losses"][f"{name}, seed {seed}"] for seed in SEEDS])
        worse = losses - torch.tensor([done["losses"][f"all five, seed {seed}"] for seed in SEEDS])
        model = llama.Llama(replace(cfg, **changes), texts.vocab_size)
        rows[name] = {"parameters": sum(p.numel() for p in model.parameters()),
                      "ms a step": 1000 * done["seconds"][name], "test loss": losses.mean().item(),
                      "more than all five": worse.mean().item()}
        if len(SEEDS) > 1:
            rows[name]["± 1 s.e."] = standard_error(worse)
    print("\n" + table(rows))
    write_json(f"{cfg.out_dir}/evaluate.json", {"study": rows, "steps": steps, **done})
    return rows
