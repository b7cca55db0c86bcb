"""mini/translator.py: its positions, batches, scores and runs. What it must do as mini/captioner.py does, the network
and the search, is tested in test_encoder_decoder.py."""
import dataclasses
import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import translator
from mini.utils.metrics import Progress, n_to_score
from mini.utils.png import read_png
from mini.utils.translation_metrics import (bleu, tokenize_13a, translation_report,
                                            translation_scores, word_by_word)
from tests.helpers import close, encoder_decoder
from tests.helpers import refused as refused_call
from tests.helpers import refused_by, sentences

REFERENCE = Path(__file__).parent / "reference"
TINY = dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, max_len=12, batch_size=4, steps=6, eval_every=3, sample_every=3,
            log_every=1, warmup=4, beam=2, device="cpu", dropout=0.1, matmul="highest")


@pytest.fixture
def pairs_file(tmp_path):
    """Sixty sentences: four subjects, five verbs, three objects."""
    en = itertools.product(["the cat", "a dog", "Paul", "my mother"], ["sees", "eats", "likes", "takes", "has"],
                           ["the apple.", "a pear.", "two eggs."])
    fr = itertools.product(["le chat", "un chien", "Paul", "ma mère"], ["voit", "mange", "aime", "prend", "a"],
                           ["la pomme.", "une poire.", "deux œufs."])
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{a.capitalize()} {b} {c}\t{d[0].upper() + d[1:]} {e} {f}\tCC-BY\n"
                            for (a, b, c), (d, e, f) in zip(en, fr)), encoding="utf-8")
    return str(path)


def tiny(pairs_file, tmp_path, **changes):
    return translator.Config(**{**TINY, "data": pairs_file, "out_dir": str(tmp_path / "run"), **changes})


# ---- parity with torch.nn.Transformer

@pytest.mark.paper
def test_positions_by_the_formula_are_added_to_scaled_embeddings():
    table, model, y = translator.positions(50, 32), encoder_decoder(translator), torch.tensor([[5, 6, 7]])
    for pos, i in itertools.product(range(50), range(16)):
        angle = pos / 10000 ** (2 * i / 32)
        assert table[pos, 2 * i:2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)
    want = (model.embed_y.weight[y] * math.sqrt(32) + table[:3]).detach()
    close(model.embed(model.embed_y, y).detach(), want, 1e-6)
    close(model.embed(model.embed_y, y[:, 2:], 2).detach(), want[:, 2:], 1e-6)


# ---- the classic bugs of Transformers

def test_the_padding_mask_is_on_keys_and_no_row_is_nan():
    model, x = encoder_decoder(translator), sentences([7, 3, 1], 20)
    mask = model.encode(x)[1]
    assert mask.shape == (3, 1, 1, 7) and torch.equal(mask[:, 0, 0],
                                                      torch.zeros(3, 7).masked_fill(x == translator.PAD, -math.inf))
    translator.loss_of(model(x, sentences([4, 4, 4], 23, bos=True)), sentences([4, 2, 3], 23)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# ---- the loss, the learning rate, batches

@pytest.mark.paper
def test_learning_rate_by_the_formula():
    cfg = translator.Config(n_embd=512, warmup=4000, lr=1.0)
    for step in (1, 2, 100, 3999, 4000, 4001, 100000):
        want = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert translator.learning_rate(step, cfg) == pytest.approx(want, rel=1e-12)
    assert max(range(1, 9000), key=lambda s: translator.learning_rate(s, cfg)) == 4000
    half = dataclasses.replace(cfg, lr=0.5)
    assert translator.learning_rate(10, half) == pytest.approx(translator.learning_rate(10, cfg) / 2)
    assert translator.learning_rate(1, translator.Config(warmup=0)) > 0


@pytest.mark.paper
def test_training_uses_the_schedule_and_the_papers_adam(pairs_file, tmp_path):
    translator.train(tiny(pairs_file, tmp_path, lr=2.0))
    rates = [float(line.split(",")[3]) for line in (tmp_path / "run/log.csv").read_text().split()[1:]]
    want = [2 * 16**-0.5 * min(s**-0.5, s * 4**-1.5) for s in range(1, 7)]
    assert rates == pytest.approx(want)
    group, = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["optimizers"][0]["param_groups"]
    assert group["betas"] == (0.9, 0.98) and group["eps"] == 1e-9 and group["lr"] == pytest.approx(want[-1])


def test_batches_hold_pairs_of_like_length_whole():
    lengths = torch.randint(2, 12, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    x, y = sentences(lengths, 50), sentences(lengths, 50, bos=True)
    x[:, 0] = y[:, 1] = torch.arange(100, 400)                  # which pair it is
    rng, spreads, seen = torch.Generator().manual_seed(0), [], set()
    for _ in range(400):
        pair = translator.draw_batch(x, y, 8, rng)
        i = pair[0][:, 0] - 100
        for part, whole in zip(pair, (x, y)):
            n = part.size(1)
            assert torch.equal(part, whole[i, :n]) and (whole[i, n:] == translator.PAD).all()
            assert (part != translator.PAD).any(0).all()
        n = (pair[1] != translator.PAD).sum(1)
        spreads.append((n.max() - n.min()).item())
        seen.update(i.tolist())
    assert np.mean(spreads) < 3 and len(seen) == 300            # random batches would spread over 8 or 9


# ---- translating

def test_attention_maps_are_the_weights_while_writing():
    model, x, y = encoder_decoder(translator), sentences([6], 20), sentences([7], 23)
    maps = translator.attention_maps(model, x, y)
    assert [m.shape for m in maps] == [(y.size(1), 6)] * 2
    memory, padding = model.encode(x)
    for t in range(y.size(1)):                                  # one by one, as they were written
        model.decode(F.pad(y[:, :t], (1, 0), value=translator.BOS), memory, padding)
        for layer, table in zip(model.decoder, maps):
            close(table[t], layer.cross.weights[0, :, -1].mean(0).detach(), 1e-5)
            layer.cross.weights = None
    model.train()(x, y)
    assert model.decoder[0].cross.weights is None               # training keeps none


# ---- scores

def test_bleu_equals_sacrebleu():
    for case in json.loads((REFERENCE / "bleu.json").read_text("utf-8"))["corpora"]:
        assert bleu(case["outputs"], case["references"]) == pytest.approx(case["bleu"], rel=1e-9, abs=1e-9), case
    for case in json.loads((REFERENCE / "bleu.json").read_text("utf-8"))["tokens"]:
        assert tokenize_13a(case["text"]) == case["tokens"].split()


def test_bleu_of_short_sentences():
    """None has four words; perfect ones got 0."""
    assert bleu(["Va !", "Oui"], ["Va !", "Oui"]) == pytest.approx(100) == bleu(["Oui"], ["Oui"])
    assert 0 < bleu(["Va !", "Oui"], ["Va !", "Non"]) < 100 and bleu(["Oui"], ["Non"]) == 0 == bleu([""], ["Va !"])


def test_baselines_scores_and_report():
    assert word_by_word([(["a", "a"], ["x"]), (["b"], ["x", "y"])]) == {"a": "x", "b": "y"}
    assert word_by_word([("a", "xz"), ("a", "z"), *[("b", "z")] * 4]) == {"a": "x", "b": "z"}    # z goes with everything
    words = ("the cat, the dog, a cat, a dog", "le chat, le chien, un chat, un chien")
    pairs = list(zip(*([line.split() for line in side.split(", ")] for side in words)))
    assert word_by_word(pairs) == {"the": "le", "a": "un", "cat": "chat", "dog": "chien"}
    outputs = {"sentences": {"model": ["Le chat dort ici .", "Non"], "copying": ["The cat", "No"]}}
    scores = translation_scores(outputs, {"sentences": ["Le chat dort ici .", "Oui"]})
    assert scores["exact_match"] == {"sentences": {"model": 0.5, "copying": 0.0}}
    assert scores["bleu"]["sentences"]["model"] == bleu(outputs["sentences"]["model"], ["Le chat dort ici .", "Oui"])
    assert "held-out sentences (n = 2): model 50.0% exactly right" in translation_report(**scores, n={"sentences": 2})


# ---- training

def test_end_to_end(pairs_file, tmp_path, capsys, monkeypatch):
    result = translator.train(tiny(pairs_file, tmp_path, steps=150, eval_every=50, sample_every=70, n_embd=32, warmup=40,
                                   batch_size=16, lr=0.5))
    run = tmp_path / "run"
    shares = result["exact_match"]["sentences"]
    assert shares["model"] > 0.9 > shares["word by word"] >= shares["copying"] == 0.0
    assert result["bleu"]["sentences"]["model"] > result["bleu"]["sentences"]["copying"]
    log = (run / "log.csv").read_text().splitlines()
    assert float(log[-1].split(",")[-1]) > 0.9 and log[-2].split(",")[-1] == ""
    assert "\n    " in (run / "samples/step_000070.txt").read_text("utf-8")
    assert read_png(run / "samples/attention.png").shape[2] == 1
    assert read_png(run / "samples/attention.png").shape[1] >= 600          # large enough to be seen
    out = capsys.readouterr().out
    assert "ln V = ln 21" in out and "54 pairs" in out and "word by word" in out and "held-out sentences (n = 6): model" in out
    assert result["n"] == {"sentences": 6} and "translating 6 held-out sentences" in out
    arguments = [f"--out_dir={run}", "--device=cpu"]
    Path(pairs_file).rename(tmp_path / "moved.tsv")             # the checkpoint is all that `sample` needs
    assert translator.main(["sample", *arguments, "--text=my mother  eats two eggs."]) == (
        "my mother  eats two eggs.\n    Ma mère mange deux œufs.\n")
    (tmp_path / "letter.txt").write_text("Paul sees the apple.\n\nA dog has a pear.\r\n")
    text = translator.main(["sample", *arguments, f"--text={tmp_path}/letter.txt", "--beam=1"])
    assert text == "Paul sees the apple.\n    Paul voit la pomme.\nA dog has a pear.\n    Un chien a une poire.\n"
    assert translator.main(["sample", *arguments]).count("\n    ") >= 4     # examples
    assert "attention.png" in capsys.readouterr().out
    (tmp_path / "moved.tsv").rename(pairs_file)
    beams, write = [], translator.write
    monkeypatch.setattr(translator, "write", lambda *args: beams.append(args[3].beam) or write(*args))
    tables = translator.main(["evaluate", *arguments])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert list(tables["sentences_right_with_a_beam_of"]) == ["1", "2", "4", "8"] == list(map(str, beams))
    assert tables["sentences_right_with_a_beam_of"]["1"] > 0.9
    assert list(tables["sentences_right_of_so_many_words"]) == ["5–8"]


def test_another_language_keeps_its_spaces(tmp_path, capsys):
    """Its references stand as in the file; what is written is spaced alike, also from the checkpoint."""
    subjects = {"the cat": "mok' tar", "a dog": "vo", "Paul": "paul"}
    verbs = {"sees": "ki", "eats": "lo", "likes": "du", "takes": "ze"}
    objects = {"apples": "re", "pears": "pa", "eggs": "ti", "milk": "su"}
    lines = [f"{a.capitalize()} {b} {c}?\t{subjects[a]} {verbs[b]}, {objects[c]}?\n"
             for a, b, c in itertools.product(subjects, verbs, objects)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines))
    result = translator.train(tiny(str(path), tmp_path, steps=150, eval_every=50, n_embd=32, warmup=40, batch_size=16, lr=0.5))
    assert result["exact_match"]["sentences"]["model"] > 0.9
    text = translator.main(["sample", f"--out_dir={tmp_path}/run", "--device=cpu", "--text=The cat eats milk?"])
    assert text == "The cat eats milk?\n    mok' tar lo, su?\n"
    assert result["bleu"]["sentences"]["model"] > 90


def test_the_grammar_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mini.data.text.pairs.HELD_OUT", 20)
    result = translator.main(["--n_pairs=1000", "--steps=2", "--batch_size=4", "--n_layer=1", "--n_embd=16", "--n_head=2",
                              "--d_ff=16", "--device=cpu", f"--out_dir={tmp_path}/run"])
    assert set(result["exact_match"]) == set(result["bleu"]) == {"sentences", "combinations"}
    assert "20 sentences, 20 combinations" in capsys.readouterr().out


def test_a_short_run_is_scored_on_its_share_and_says_so(capsys):
    """Untrained, it writes to the greatest length: 2,000 sentences took several times as long as three steps."""
    usual = translator.Config.steps
    for changes, n in (({}, 1000), (dict(steps=2 * usual), 1000), (dict(steps=0), 1000), (dict(n_test=7, steps=3), 7),
                       (dict(n_test=2000, steps=3), 1000)):
        cfg = translator.Config(**changes)
        assert n_to_score(cfg, 1000, "sentences") == n and not capsys.readouterr().out
    for cfg, n in ((translator.Config(steps=usual // 2), 500), (translator.Config(steps=3), 100)):
        assert n_to_score(cfg, 1000, "sentences") == n
        assert f"scored on {n} of the 1,000 sentences; --n_test=1000 scores all" in capsys.readouterr().out
    assert n_to_score(translator.Config(steps=3), 60, "sentences") == 60 and not capsys.readouterr().out
    refused_call(lambda: n_to_score(translator.Config(n_test=-1), 60, "sentences"), "--n_test=-1")


def test_n_test_is_honoured_and_reported(pairs_file, tmp_path, capsys):
    result = translator.train(tiny(pairs_file, tmp_path, n_test=4))
    assert result["n"] == {"sentences": 4} and "held-out sentences (n = 4)" in capsys.readouterr().out
    translator.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    assert "translating 4 held-out sentences with a beam of 8" in capsys.readouterr().out


def test_long_scoring_says_how_far_it_is(capsys):
    progress = Progress("translated", 3, seconds=0.0)
    for _ in range(3):
        progress.add()
    assert capsys.readouterr().out == "    translated 1 of 3\n    translated 2 of 3\n"
    Progress("translated", 3).add()
    assert capsys.readouterr().out == ""


def test_rare_words_and_long_sentences_are_left_out_and_counted(pairs_file, tmp_path, capsys):
    """Of the French verbs, the rarest words, three go, and with them every pair that has one."""
    text = Path(pairs_file).read_text("utf-8")
    long = " ".join(["apple"] * 20)
    Path(pairs_file).write_text(text + f"{long}.\tpomme.\tCC-BY\n", encoding="utf-8")
    translator.train(tiny(pairs_file, tmp_path, vocab_size=16, steps=1))
    out = capsys.readouterr().out
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert [len(words) for words in state["words"]] == [16, 16]
    left_out = int(out.split(" too long")[0].split("(")[1])
    assert left_out > 10 and f"{55 - left_out} pairs to learn from" in out


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, translator.main)


def test_bad_data(tmp_path, capsys):
    run, path = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1"], tmp_path / "pairs.tsv"
    assert "grammar, en-fr" in refused(capsys, *run, "--data=en")
    new_words = "".join(f"word{i}.\tmot{i}.\n" for i in range(20)).encode()     # nothing held out is known
    for content, words in ((b"caf\xe9\tcafe\n", "UTF-8"), (new_words, "bring more pairs")):
        path.write_bytes(content)
        assert words in refused(capsys, *run, f"--data={path}")
    assert "below 1000" in refused(capsys, *run, "--n_pairs=10") and not (tmp_path / "run").exists()


def test_bad_sizes(pairs_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1", f"--data={pairs_file}"]
    for flags, word in (("n_embd=6 n_embd=0 n_head=0 n_layer=0 d_ff=0 batch_size=0 beam=0 max_len=0 n_embd=12", "--n_head"),
                        ("smoothing=1 smoothing=-0.1 alpha=-1", "at least 0"), ("dropout=1 dropout=-0.1", "below 1"), ("max_len=1", "--max_len")):
        for flag in flags.split():
            assert word in refused(capsys, *run, f"--{flag}")
    assert not (tmp_path / "run").exists()


def test_bad_text(pairs_file, tmp_path, capsys):
    translator.train(tiny(pairs_file, tmp_path, steps=1))
    run = ["sample", f"--out_dir={tmp_path}/run", "--device=cpu"]
    capsys.readouterr()
    message = refused(capsys, *run, "--text=The zebra sees a unicorn.")
    assert "'zebra', 'unicorn'" in message and "'a'" not in message
    assert "'Flibber', 'wug'" in refused(capsys, *run, "--text=Flibber wug")
    message = refused(capsys, *run, "--text=" + "apple " * 13)
    assert "13 words" in message and "positions for 12" in message
    assert "no sentence" in refused(capsys, *run, "--text= ")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "no sentence" in refused(capsys, *run, f"--text={tmp_path}/empty.txt")
    (tmp_path / "latin.txt").write_bytes("Où ?".encode("latin-1"))
    assert "not UTF-8" in refused(capsys, *run, f"--text={tmp_path}/latin.txt")
    assert "'x" in refused(capsys, *run, "--text=" + "x" * 5000)        # no name of a file could be so long
