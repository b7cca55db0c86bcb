"""Which term of CycleGAN's loss is needed for what? The same training without some of them.

    python -m mini.cyclegan evaluate
    python -m mini.cyclegan evaluate --ablation_steps=1000      shorter runs, all of the same length
"""
from dataclasses import replace
from pathlib import Path

from mini import cyclegan
from mini.utils.domain_judge import SHARES, accuracy_report
from mini.utils.metrics import table
from mini.utils.run import write_json

VARIANTS = {
    "full": {},
    "no cycle": {"lambda_cycle": 0.0},
    "no identity": {"lambda_identity": 0.0},
    "neither": {"lambda_cycle": 0.0, "lambda_identity": 0.0},
}


def evaluate(cfg, nets, judge) -> dict:
    """Print a table of the scores of training without the cycle term, without the identity term,
    and without both, as means over both directions; write it to evaluate.json.

    The networks of the run itself are the full training, unless --ablation_steps asks for runs of
    another length. Each run, with its samples, is kept in a folder of its own in out_dir. An
    interrupted run goes on.
    """
    rows = {}
    for name, weights in VARIANTS.items():
        if name == "full" and cfg.ablation_steps == 0:
            scores = cyclegan.score(nets["G_AB"], nets["G_BA"], judge)
        else:
            scores = scores_of_variant(cfg, name, weights, judge)
        rows[name] = mean_of_directions(scores)
    rows["copied"] = mean_of_directions(cyclegan.score_copying(judge))
    print(table(rows, shares=SHARES))
    if not judge.knows_truth:
        print(accuracy_report(judge.own_accuracy()))
    write_json(f"{cfg.out_dir}/evaluate.json", rows)
    return rows


def scores_of_variant(cfg, name: str, weights: dict, judge) -> dict:
    """Train with these weights of the terms, and return the scores of both directions. All runs are
    scored on the same images as the judge has, however few steps they have."""
    steps = cfg.ablation_steps or cfg.steps
    folder = Path(cfg.out_dir, f"{name.replace(' ', '-')}-{steps}")
    n_test = max(len(judge.domain_a.held_out), len(judge.domain_b.held_out))
    unfinished = (folder / "checkpoint.pt").exists()
    own = replace(cfg, steps=steps, n_test=n_test, stop_after=0, out_dir=str(folder),
                  resume=unfinished, **weights)
    result = cyclegan.train(own)
    if "interrupted" in result:
        raise KeyboardInterrupt
    return {direction: result["scores"][direction] for direction in ("a → b", "b → a")}


def mean_of_directions(scores: dict) -> dict:
    """The mean of each score over the two directions, the rows of `scores`."""
    one, other = scores.values()
    return {name: (one[name] + other[name]) / 2 for name in one}
