"""What does attention buy? GPT beside an LSTM of about as many parameters, on the same tokens, in
the same precision, in about as many minutes.

    python -m mini.studies.attention seeds      the default runs, three seeds each
    python -m mini.studies.attention sizes      less and more text to learn from
    python -m mini.studies.attention tales      the forty-eight tales: little text, literary prose
    python -m mini.studies.attention regularisation     how dropout was chosen for the tales
    python -m mini.studies.attention copying    repeat random tokens: memory and nothing else
    python -m mini.studies.attention curves     loss by place in a story, of the runs of `seeds`
    python -m mini.studies.attention contexts   loss by the context shown, of the runs of `tales`

Each prints a table, and writes it to runs/attention/. It takes from two minutes (copying) to half
an hour (sizes) on two cores.
"""
import json
import sys
from pathlib import Path

import torch

import train_gpt
from mini import lstm
from mini.data.text.corpus import Corpus, encode, read_corpus
from mini.data.text.stories import N_TRAIN, make_stories
from mini.studies.context import (losses_by_context, losses_by_place, powers_of_two,
                                  standard_error)
from mini.utils.charts import line_chart
from mini.utils.config import require_file
from mini.utils.device import autocast
from mini.utils.metrics import table
from mini.utils.png import write_png
from mini.utils.run import write_json

FOLDER = Path("runs/attention")
SCRIPTS = {"GPT": train_gpt, "LSTM": lstm}
SEEDS = (1, 2, 3)

def run(name: str, folder: str, corpus=None, **settings) -> dict:
    """Train GPT or the LSTM in runs/attention/folder, unless that was done before; what result.json
    holds."""
    out_dir = FOLDER / folder
    if (out_dir / "result.json").exists():
        require_file(out_dir / "result.json")
        return json.loads((out_dir / "result.json").read_text("utf-8"))
    script = SCRIPTS[name]
    cfg = script.Config(out_dir=str(out_dir), sample_every=0, eval_every=0, **settings)
    result = script.train(cfg, corpus)
    if "interrupted" in result:
        raise KeyboardInterrupt
    return result


def report(title: str, rows: dict):
    print(f"\n{title}\n{table(rows)}", flush=True)
    write_json(FOLDER / f"{title.split(',')[0].replace(' ', '_')}.json", rows)


def mean_and_error(results: list, key: str):
    """The mean over seeds, and its standard error."""
    values = torch.tensor([float(result[key]) for result in results])
    return values.mean().item(), standard_error(values)


def seeds(data: str = "stories"):
    """The default runs, or those of the preset "tales", with three seeds each, and the paired
    difference: seed by seed."""
    results = {}
    for name in SCRIPTS:
        preset = SCRIPTS[name].PRESETS["tales"] if data == "tales" else {}
        results[name] = []
        for seed in SEEDS:
            results[name].append(run(name, f"{data}_{name}_{seed}", **{**preset, "seed": seed}))
    keys = ["test_loss", "test_kneser_ney", "consistent", "consistent_kneser_ney", "new", "seconds",
            "parameters"]
    rows = {}
    for name, of_name in results.items():
        for key in keys:
            if key in of_name[0]:
                mean, error = mean_and_error(of_name, key)
                rows.setdefault(key, {}).update({name: mean, f"± {name}": error})
    differences = []
    for gpt, of_lstm in zip(results["GPT"], results["LSTM"]):
        differences.append({"d": gpt["test_loss"] - of_lstm["test_loss"]})
    mean, error = mean_and_error(differences, "d")
    report(f"{data}, three seeds (± 1 s.e.)", rows)
    print(f"GPT's test loss less the LSTM's, seed by seed: {mean:.4f} ± {error:.4f}")


def tales():
    seeds("tales")


def regularisation():
    """How much dropout and weight decay serve each of them best on the tales: one run for each.

    The presets "tales" hold the settings with the lowest loss on the validation tales.
    """
    tried = {"GPT": [], "LSTM": []}
    for dropout in (0.1, 0.2, 0.3, 0.4, 0.5):
        tried["GPT"].append({"dropout": dropout, "weight_decay": 0.0})
    for weight_decay in (0.1, 0.3, 1.0):
        tried["GPT"].append({"dropout": 0.2, "weight_decay": weight_decay})
    for dropout in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        tried["LSTM"].append({"dropout": dropout})

    rows = {}
    for name, of_name in tried.items():
        for settings in of_name:
            title = ", ".join(f"{key} {value}" for key, value in settings.items())
            folder = f"tales_{name}_{title}".replace(", ", "_").replace(" ", "_")
            result = run(name, folder, **{**SCRIPTS[name].PRESETS["tales"], **settings})
            rows[f"{name}, {title}"] = {"validation": result["val_loss"],
                                        "seconds": result["seconds"]}
    report("regularisation, nats per token on the tales", rows)


def sizes(steps_share: float = 0.5):
    """Fewer and more texts to learn from, half as many steps as usual for each, seed 1.

    Each corpus has a vocabulary of its own, so the losses are in bits per byte of the validation
    texts, which are the same for all.
    """
    stories = read_corpus("stories")
    rows = {}
    for factor in (0.125, 1, 8):
        n = round(factor * N_TRAIN)
        train_texts = [f"\n{story}\n" for story in make_stories(n)[0]]
        corpus = Corpus(train_texts, stories.val, stories.test, stories=True)
        rows[f"{n:,} stories"] = of_size(f"stories_{factor:g}x", corpus, steps_share, {})
    report("sizes of the stories, bits per byte", rows)

    tales = read_corpus("tales")
    rows = {}
    for every in (8, 2, 1):
        train_texts = tales.train[::every]
        corpus = Corpus(train_texts, tales.val, tales.test)
        presets = {name: script.PRESETS["tales"] for name, script in SCRIPTS.items()}
        rows[f"{len(train_texts)} tales"] = of_size(f"tales_every_{every}", corpus, steps_share,
                                                    presets)
    report("sizes of the tales, bits per byte", rows)


def of_size(folder: str, corpus, steps_share: float, presets: dict) -> dict:
    """Both networks learn from the corpus; their losses and that of Kneser–Ney in bits per byte."""
    row = {}
    for name, script in SCRIPTS.items():
        settings = presets.get(name, {})
        steps = settings.get("steps", script.Config.steps)
        settings = {**settings, "steps": round(steps_share * steps)}
        result = run(name, f"{folder}_{name}", corpus, **settings)
        row[name] = result["bits_per_byte"]
        if "consistent" in result:
            row[f"{name}, consistent"] = result["consistent"]
            row[f"{name}, new"] = result["new"]
        per_nat = result["bits_per_byte"] / result["val_loss"]
        row["Kneser–Ney"] = per_nat * result["kneser_ney"]
    return row


def curves():
    """The loss on the test stories by the place in the story, the default runs, three seeds each: a
    table and a picture. The same tokens for both networks, so the difference is paired."""
    corpus = read_corpus("stories")
    losses = {}
    for name, script in SCRIPTS.items():
        of_seeds = []
        for seed in SEEDS:
            cfg = script.Config(out_dir=str(FOLDER / f"stories_{name}_{seed}"))
            model, tokenizer = script.load(cfg)
            documents = encode(tokenizer, corpus.test, model.device)
            of_seed, places = losses_by_place(model, documents)
            of_seeds.append(of_seed)
        losses[name] = torch.stack(of_seeds).mean(0)                        # (n,)
    edges = [1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224]
    rows = {}
    for start, end in zip(edges, [*edges[1:], 1000]):
        here = (places >= start) & (places < end)
        difference = losses["LSTM"][here] - losses["GPT"][here]
        rows[f"{start}–{end - 1}" if end < 1000 else f"from {start}"] = {
            "GPT": losses["GPT"][here].mean().item(), "LSTM": losses["LSTM"][here].mean().item(),
            "LSTM − GPT": difference.mean().item(), "± 1 s.e.": standard_error(difference)}
    report("curves, nats by the number of tokens of the story before it", rows)
    points = {name: (edges, [row[name] for row in rows.values()]) for name in SCRIPTS}
    picture = line_chart(points, "tokens of the story before it", "nats per token", log_x=True)
    write_png(FOLDER / "stories.png", picture)


def contexts(n: int = 1000):
    """The loss of the same n tokens of the test tales, seen with 1, 2, 4, … tokens before them: the
    runs of `tales`, paired between the lengths and between the two networks."""
    corpus = read_corpus("tales")
    lengths = powers_of_two(train_gpt.PRESETS["tales"]["block_size"])
    losses = {}
    for name, script in SCRIPTS.items():
        of_seeds = []
        for seed in SEEDS:
            cfg = script.Config(out_dir=str(FOLDER / f"tales_{name}_{seed}"))
            model, tokenizer = script.load(cfg)
            tokens = torch.cat(encode(tokenizer, corpus.test, model.device))
            of_seeds.append(losses_by_context(model, tokens, lengths, n))
        losses[name] = torch.stack(of_seeds).mean(0)                        # (lengths, n)
    rows = {}
    for i, length in enumerate(lengths):
        row = {}
        for name, of_name in losses.items():
            row[name] = of_name[i].mean().item()
            longer = of_name[i] - of_name[-1]
            row[f"{name}, less with {lengths[-1]}"] = longer.mean().item()
            row[f"± s.e. {name}"] = standard_error(longer)
        rows[f"{length} tokens"] = row
    report("contexts, nats of the same test tokens by the number of tokens before them", rows)
    points = {name: (lengths, [row[name] for row in rows.values()]) for name in SCRIPTS}
    picture = line_chart(points, "tokens seen before", "nats per token", log_x=True)
    write_png(FOLDER / "tales.png", picture)


def copying(T: int = 64, V: int = 64, steps: int = 600, batch_size: int = 32):
    """T/2 random tokens, and the same again: how many of the second half are predicted right?"""
    rows = {}
    for name, script in SCRIPTS.items():
        for seed in SEEDS:
            sizes = dict(n_head=4) if name == "GPT" else dict(weight_drop=0.0)
            cfg = script.Config(block_size=T, n_layer=2, n_embd=128, dropout=0.0, steps=steps,
                                **sizes)
            torch.manual_seed(seed)
            model = (train_gpt.GPT if name == "GPT" else lstm.LSTM)(cfg, V)
            if name == "GPT":
                optimizers = train_gpt.make_optimizers(model, cfg)
            else:
                optimizers = [torch.optim.Adam(model.parameters(), cfg.lr, betas=(0.9, cfg.beta2))]
            for step in range(steps):
                train_gpt.set_learning_rate(optimizers, script.lr_factor(step, cfg))
                x, y = repeated(batch_size, T, V)
                with autocast(torch.device("cpu"), "medium"):
                    loss = script.next_token_loss(model(x), y)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            model.eval()
            x, y = repeated(500, T, V)
            with torch.no_grad():
                right = (model(x).argmax(-1) == y)[:, T // 2:]
            rows[f"{name}, seed {seed}"] = {"right": right.float().mean().item(), "chance": 1 / V}
            print(rows, flush=True)
    report("copying, share of the second half predicted right", rows)


def repeated(B: int, T: int, V: int):
    """x and y (B, T): T/2 + 1 random tokens, and then the same again from the first on."""
    half = torch.randint(V, (B, T // 2 + 1))
    tokens = torch.cat([half, half], dim=1)[:, :T + 1]
    return tokens[:, :-1], tokens[:, 1:]


def main():
    commands = {"seeds": seeds, "sizes": sizes, "tales": tales, "regularisation": regularisation,
                "copying": copying, "curves": curves, "contexts": contexts}
    wanted = sys.argv[1:]
    if not wanted or any(name not in commands for name in wanted):
        sys.exit(f"{__doc__}\nchoose from: {', '.join(commands)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        commands[name]()


if __name__ == "__main__":
    main()
