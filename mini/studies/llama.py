"""What does each of the five changes since GPT-2 buy? mini/llama.py with one of them put back at a
time, with all of them, and with none, for equal minutes, three seeds each, on the same text.

    python -m mini.llama evaluate
    python -m mini.llama evaluate --study_steps=1500        longer runs
"""
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from mini import llama
from mini.data.text.corpus import encode, make_tokenizer, piece_starts, read_corpus
from mini.studies.context import standard_error
from mini.utils.config import require_file
from mini.utils.device import autocast, matmul_precision, pick_device
from mini.utils.metrics import table
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


def seconds_a_step(cfg, settings: dict, corpus, tokenizer) -> dict:
    """{name: the median time of a training step}, the variants taking steps in turn."""
    device = pick_device(cfg.device)
    documents = encode(tokenizer, corpus.train[:500], device)
    tokens = torch.cat(documents)
    starts = piece_starts(documents, cfg.block_size)
    rng = torch.Generator().manual_seed(cfg.seed)
    sides = {}
    for name, changes in settings.items():
        own = replace(cfg, **changes)
        model = llama.Llama(own, tokenizer.vocab_size).to(device)
        sides[name] = (model, llama.make_optimizers(model, own))
    seconds = {name: [] for name in settings}
    for i in range(TIMED_STEPS):
        for name, (model, optimizers) in sides.items():
            x, y = llama.get_batch(tokens, cfg.block_size, cfg.batch_size, rng, starts)
            start = time.perf_counter()
            with autocast(device, cfg.matmul):
                loss = llama.next_token_loss(model(x), y)
            loss.backward()
            with autocast(device, cfg.matmul):
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            loss.item()                                         # a GPU has now finished, too
            if i > 0:                                           # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times or [1.0]) for name, times in seconds.items()}


def test_loss(cfg, corpus, folder) -> float:
    """The loss on the test set after training with these settings, unless that was done before."""
    result = Path(folder) / "result.json"
    if not result.exists():
        unfinished = (Path(folder) / "checkpoint.pt").exists()
        done = llama.train(replace(cfg, out_dir=str(folder), resume=unfinished), corpus)
        if "interrupted" in done:
            raise KeyboardInterrupt
    require_file(result)
    scores = json.loads(result.read_text("utf-8"))
    return scores.get("test_loss", scores["val_loss"])


def evaluate(cfg) -> dict:
    """Print a table, and write it to evaluate.json in the folder of the run. Each training is kept
    in a folder of its own there. An interrupted study goes on."""
    corpus = read_corpus(cfg.data)
    corpus.stories = False                                      # the loss is all that is asked for,
    if corpus.test:                                             # that of the test set
        corpus.val = corpus.val[:20]
    steps = cfg.study_steps or max(1, cfg.steps // 5)
    cfg = replace(cfg, **MODERN, n_kv_head=min(cfg.n_kv_head, max(1, cfg.n_head // 2)), rank=0,
                  init_from="", chats="", batch_size=max(1, cfg.batch_size // 2), eval_every=0,
                  sample_every=0, max_new_tokens=1, prompt="", stop_after=0, steps=steps)
    settings = variants(cfg)
    folder = Path(cfg.out_dir) / f"study-{steps}"
    tokenizer = make_tokenizer(cfg.tokenizer, corpus, cfg.vocab_size)

    timing = folder / "seconds.json"                            # measured once, so that a study
    if not timing.exists():                                     # that goes on keeps its steps
        folder.mkdir(parents=True, exist_ok=True)
        with matmul_precision(pick_device(cfg.device), cfg.matmul):
            write_json(timing, seconds_a_step(cfg, settings, corpus, tokenizer))
    require_file(timing)
    seconds = json.loads(timing.read_text("utf-8"))

    losses = {name: [] for name in settings}
    for seed in SEEDS:                                          # so that all end at the same time
        for name, changes in settings.items():
            as_long = max(1, round(steps * seconds["all five"] / seconds[name]))
            own = replace(cfg, **changes, seed=seed, steps=as_long)
            short = "".join(c if c.isalnum() else "-" for c in name)
            print(f"\n{name}, seed {seed}: {as_long} steps", flush=True)
            losses[name].append(test_loss(own, corpus, folder / f"{short}-{seed}"))

    rows = {}
    for name, of_name in losses.items():
        model = llama.Llama(replace(cfg, **settings[name]), tokenizer.vocab_size)
        worse = torch.tensor(of_name) - torch.tensor(losses["all five"])
        rows[name] = {"parameters": sum(p.numel() for p in model.parameters()),
                      "ms a step": 1000 * seconds[name], "test loss": sum(of_name) / len(of_name),
                      "more than all five": worse.mean().item()}
        if len(SEEDS) > 1:
            rows[name]["± 1 s.e."] = standard_error(worse)
    print("\n" + table(rows))
    write_json(f"{cfg.out_dir}/evaluate.json", {"study": rows, "losses": losses, "steps": steps})
    return rows
