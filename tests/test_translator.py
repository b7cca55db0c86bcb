"""mini/translator.py: its positions, batches, learning rate, scores and runs; and its study. What
it must do as mini/captioner.py does, the network and the search, is in test_encoder_decoder.py.

Tests marked `paper` state what the paper says. All others must go on passing with another network.
"""
import dataclasses
import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mini import translator
from mini.studies import translator as study
from mini.utils.metrics import Progress, n_to_score
from mini.utils.translation_metrics import (bleu, tokenize_13a, translation_report,
                                            translation_scores, word_by_word)
from tests.helpers import close, encoder_decoder
from tests.helpers import refused as refused_call
from tests.helpers import refused_by, sentences

PAD = translator.PAD
REFERENCE = Path(__file__).parent / "reference"
TINY = dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, max_len=12, batch_size=4, steps=6,
            eval_every=3, sample_every=3, log_every=1, warmup=4, beam=2, device="cpu", dropout=0.1,
            matmul="highest")
# with these it learns the sixty sentences of pairs_file
LONGER = dict(steps=200, eval_every=50, n_embd=32, warmup=40, batch_size=16, lr=0.5)

SUBJECTS = [("the cat", "le chat"), ("a dog", "un chien"), ("Paul", "Paul"),
            ("my mother", "ma mère")]
VERBS = [("sees", "voit"), ("eats", "mange"), ("likes", "aime"), ("takes", "prend"), ("has", "a")]
OBJECTS = [("the apple.", "la pomme."), ("a pear.", "une poire."), ("two eggs.", "deux œufs.")]


@pytest.fixture
def pairs_file(tmp_path):
    """Sixty sentences: four subjects, five verbs, three objects."""
    lines = []
    for (a, le_a), (b, le_b), (c, le_c) in itertools.product(SUBJECTS, VERBS, OBJECTS):
        french = f"{le_a[0].upper()}{le_a[1:]} {le_b} {le_c}"
        lines.append(f"{a.capitalize()} {b} {c}\t{french}\tCC-BY\n")
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def tiny(pairs_file, tmp_path, **changes):
    own = {"data": str(pairs_file), "out_dir": str(tmp_path / "run")}
    return translator.Config(**{**TINY, **own, **changes})


# ---- the paper

@pytest.mark.paper
def test_positions_by_the_formula_are_added_to_scaled_embeddings():
    """Not multiplied by √C, as the paper has them, the embeddings drown in the positions."""
    table = translator.positional_encoding(50, 32)
    for pos, i in itertools.product(range(50), range(16)):
        angle = pos / 10000 ** (2 * i / 32)
        want = pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)
        assert table[pos, 2 * i:2 * i + 2].tolist() == want
    model = encoder_decoder(translator)
    tgt = torch.tensor([[5, 6, 7]])
    want = model.tgt_embed.weight[tgt] * math.sqrt(32) + table[:3]
    close(model.embed(model.tgt_embed, tgt), want, 1e-6)
    close(model.embed(model.tgt_embed, tgt[:, 2:], start=2), want[:, 2:], 1e-6)


@pytest.mark.paper
def test_learning_rate_by_the_formula():
    """Its peak is at the end of the warm-up, and lower in a wider model or after a longer one."""
    cfg = translator.Config(n_embd=512, warmup=4000, lr=1.0)
    for step in (1, 2, 100, 3999, 4000, 4001, 100000):
        want = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert translator.learning_rate(step, cfg) == pytest.approx(want, rel=1e-12)
    assert max(range(1, 9000), key=lambda s: translator.learning_rate(s, cfg)) == 4000
    peak = translator.learning_rate(4000, cfg)
    assert peak == pytest.approx((512 * 4000) ** -0.5)
    half = dataclasses.replace(cfg, lr=0.5)
    assert translator.learning_rate(4000, half) == pytest.approx(peak / 2)
    assert translator.learning_rate(1, translator.Config(warmup=0)) > 0


@pytest.mark.paper
def test_training_uses_the_schedule_and_the_papers_adam(pairs_file, tmp_path):
    translator.train(tiny(pairs_file, tmp_path, lr=2.0))
    rows = (tmp_path / "run/log.csv").read_text().split()[1:]
    rates = [float(row.split(",")[3]) for row in rows]
    want = [2 * 16**-0.5 * min(s**-0.5, s * 4**-1.5) for s in range(1, 7)]
    assert rates == pytest.approx(want)
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    group, = checkpoint["optimizers"][0]["param_groups"]
    assert group["betas"] == (0.9, 0.98)
    assert group["eps"] == 1e-9
    assert group["lr"] == pytest.approx(want[-1])


def test_a_moving_average_of_the_weights_translates(pairs_file, tmp_path, monkeypatch):
    """decay · ema + (1 − decay) · model, where decay is step / (step + 10), and at most --ema;
    written out here once more. Scores, samples and what is loaded are those of the average."""
    made = []
    update = translator.update_ema

    def record(ema, model, step, decay):
        update(ema, model, step, decay)
        made.append((ema, {name: weight.clone() for name, weight in model.state_dict().items()}))

    used = []
    write = translator.write
    monkeypatch.setattr(translator, "update_ema", record)
    monkeypatch.setattr(translator, "write", lambda model, *args: used.append(model) or write(model, *args))
    translator.train(tiny(pairs_file, tmp_path, ema=0.25, sample_every=3, eval_every=3))
    assert len(made) == 6
    assert used and all(model is made[0][0] for model in used)
    assert not made[0][0].training

    want = {}
    for step, (_, weights) in enumerate(made):
        decay = [0, 1 / 11, 2 / 12, 3 / 13, 0.25, 0.25][step]
        for name, weight in weights.items():
            want[name] = decay * want.get(name, 0) + (1 - decay) * weight.double()
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    loaded = translator.load(tiny(pairs_file, tmp_path))[0].state_dict()
    for name, weight in checkpoint["ema"].items():
        torch.testing.assert_close(weight.double(), want[name], rtol=1e-6, atol=1e-7)
        assert torch.equal(weight, loaded[name])
    assert any(not torch.equal(weight, checkpoint["model"][name])
               for name, weight in checkpoint["ema"].items())


# ---- masks and batches

def test_padding_mask():
    """True at words, for all heads and all queries."""
    mask = translator.padding_mask(torch.tensor([[5, 6, 2], [7, 2, PAD]]))
    assert mask.tolist() == [[[[True, True, True]]], [[[True, True, False]]]]


@torch.no_grad()
def test_more_padding_changes_nothing():
    model = encoder_decoder(translator).eval()
    src = sentences([7, 3, 5], 20)
    tgt = sentences([4, 6, 2], 23, bos=True)
    more = torch.nn.functional.pad(src, (0, 4), value=PAD)
    close(model(more, tgt), model(src, tgt), 1e-5)


def test_batches_hold_pairs_of_like_length_whole():
    """Source and target belong together, nothing of either is cut off, no column is PAD alone. By
    chance the lengths in a batch would spread over 8 or 9."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 12, (300,), generator=rng).tolist()
    src = sentences(lengths, 50)
    tgt = sentences(lengths, 50, bos=True)
    src[:, 0] = torch.arange(100, 400)                          # which pair it is
    tgt[:, 1] = torch.arange(100, 400)
    spreads = []
    seen = set()
    for _ in range(400):
        src_b, tgt_in, tgt_out = translator.get_batch(src, tgt, 8, rng)
        i = src_b[:, 0] - 100
        assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1])      # the same, one word later
        tgt_b = torch.cat([tgt_in[:, :1], tgt_out], dim=1)
        for part, whole in ((src_b, src[i]), (tgt_b, tgt[i])):
            n = part.size(1)
            assert torch.equal(part, whole[:, :n])
            assert (whole[:, n:] == PAD).all()
            assert (part != PAD).any(dim=0).all()
        n_words = (tgt_b != PAD).sum(dim=1)
        spreads.append((n_words.max() - n_words.min()).item())
        seen.update(i.tolist())
    assert np.mean(spreads) < 3
    assert len(seen) == 300


# ---- scores

def test_bleu_equals_sacrebleu():
    golden = json.loads((REFERENCE / "bleu.json").read_text("utf-8"))
    for case in golden["corpora"]:
        want = pytest.approx(case["bleu"], rel=1e-9, abs=1e-9)
        assert bleu(case["outputs"], case["references"]) == want, case
    for case in golden["tokens"]:
        assert tokenize_13a(case["text"]) == case["tokens"].split()


def test_bleu_of_short_sentences():
    """None has four words; perfect ones got 0."""
    assert bleu(["Va !", "Oui"], ["Va !", "Oui"]) == pytest.approx(100)
    assert bleu(["Oui"], ["Oui"]) == pytest.approx(100)
    assert 0 < bleu(["Va !", "Oui"], ["Va !", "Non"]) < 100
    assert bleu(["Oui"], ["Non"]) == 0
    assert bleu([""], ["Va !"]) == 0


def test_word_by_word():
    """A word that goes with everything, as z does, translates nothing in particular."""
    pairs = [(["a", "a"], ["x"]), (["b"], ["x", "y"])]
    assert word_by_word(pairs) == {"a": "x", "b": "y"}
    pairs = [("a", "xz"), ("a", "z"), *[("b", "z")] * 4]
    assert word_by_word(pairs) == {"a": "x", "b": "z"}
    pairs = [(["the", "cat"], ["le", "chat"]), (["the", "dog"], ["le", "chien"]),
             (["a", "cat"], ["un", "chat"]), (["a", "dog"], ["un", "chien"])]
    assert word_by_word(pairs) == {"the": "le", "a": "un", "cat": "chat", "dog": "chien"}


def test_scores_and_report():
    references = ["Le chat dort ici .", "Oui"]
    outputs = {"model": ["Le chat dort ici .", "Non"], "copying": ["The cat", "No"]}
    scores = translation_scores({"sentences": outputs}, {"sentences": references})
    assert scores["exact_match"] == {"sentences": {"model": 0.5, "copying": 0.0}}
    assert scores["bleu"]["sentences"]["model"] == bleu(outputs["model"], references)
    report = translation_report(**scores, n={"sentences": 2})
    assert "held-out sentences (n = 2): model 50.0% exactly right" in report


# ---- training, and using what was trained

def test_end_to_end(pairs_file, tmp_path, capsys, monkeypatch):
    """It learns sixty sentences, and `sample` and `evaluate` find all they need in the folder."""
    result = translator.train(tiny(pairs_file, tmp_path, **LONGER, sample_every=70))
    run = tmp_path / "run"
    shares = result["exact_match"]["sentences"]
    assert shares["model"] > 0.9 > shares["word by word"] >= shares["copying"] == 0.0
    scores = result["bleu"]["sentences"]
    assert scores["model"] > scores["copying"]
    assert result["n"] == {"sentences": 6}

    log = (run / "log.csv").read_text().splitlines()
    assert float(log[-1].split(",")[-1]) > 0.9                  # exact_match
    assert log[-2].split(",")[-1] == ""                         # not due
    assert "\n    " in (run / "samples/step_000070.txt").read_text("utf-8")
    out = capsys.readouterr().out
    for text in ("ln V = ln 21", "54 pairs", "word by word", "held-out sentences (n = 6): model",
                 "translating 6 held-out sentences"):
        assert text in out

    arguments = [f"--out_dir={run}", "--device=cpu"]
    moved = Path(pairs_file).rename(tmp_path / "moved.tsv")     # `sample` does not need the data
    text = translator.main(["sample", *arguments, "--text=my mother  eats two eggs."])
    assert text == "my mother  eats two eggs.\n    Ma mère mange deux œufs.\n"
    (tmp_path / "letter.txt").write_text("Paul sees the apple.\n\nA dog has a pear.\r\n")
    text = translator.main(["sample", *arguments, f"--text={tmp_path}/letter.txt", "--beam=1"])
    assert text == ("Paul sees the apple.\n    Paul voit la pomme.\n"
                    "A dog has a pear.\n    Un chien a une poire.\n")
    assert translator.main(["sample", *arguments]).count("\n    ") >= 4     # held-out examples
    moved.rename(pairs_file)
    beams = []
    write = study.write
    monkeypatch.setattr(study, "write", lambda *args: beams.append(args[3]) or write(*args))
    tables = translator.main(["evaluate", *arguments])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert list(tables["sentences_right_with_a_beam_of"]) == ["1", "2", "4", "8"]
    assert beams == [1, 2, 4, 8]
    assert tables["sentences_right_with_a_beam_of"]["1"] > 0.9
    assert list(tables["sentences_right_of_so_many_words"]) == ["5–8"]
    near, right = tables["sentences_by_newness"].values()       # there are no others
    assert near == 1.0 and right > 0.9


@pytest.mark.paper
def test_pictures_of_attention_are_drawn(pairs_file, tmp_path, capsys):
    """At the end of a run, and by `sample`, which says so."""
    translator.train(tiny(pairs_file, tmp_path, steps=1))
    picture = tmp_path / "run/samples/attention.png"
    picture.unlink()
    capsys.readouterr()
    translator.main(["sample", f"--out_dir={tmp_path}/run", "--device=cpu", "--text=A dog eats."])
    assert picture.exists()
    assert "samples/attention.png" in capsys.readouterr().out


def test_what_is_right_is_called_so(monkeypatch):
    """Behind a wrong translation stood "wrong:", and then the right one."""
    outputs = ["Le chat dort .", "Le chien mange .", "Bonjour ."]
    words = [translator.Vocabulary(["the", "cat", "dog", "."]), None]
    monkeypatch.setattr(translator, "write", lambda *args: outputs)
    pairs = [("The cat.", "Le chat dort ."), ("The dog.", "Le chien dort ."), ("Cat.", "")]
    assert translator.show(encoder_decoder(translator), words, pairs) == (
        "The cat.\n    Le chat dort .\n"
        "The dog.\n    Le chien mange .\n    right: Le chien dort .\n"
        "Cat.\n    Bonjour .\n")


def test_another_language_keeps_its_spaces(tmp_path, capsys):
    """A space before ? belongs to the French of the grammar alone. A user's own language got it,
    too, in outputs and in references, in training, in `sample` and in `evaluate`."""
    subjects = {"the cat": "mok' tar", "a dog": "vo", "Paul": "paul"}
    verbs = {"sees": "ki", "eats": "lo", "likes": "du", "takes": "ze"}
    objects = {"apples": "re", "pears": "pa", "eggs": "ti", "milk": "su"}
    lines = [f"{a.capitalize()} {b} {c}?\t{subjects[a]} {verbs[b]}, {objects[c]}?\n"
             for a, b, c in itertools.product(subjects, verbs, objects)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines))
    result = translator.train(tiny(path, tmp_path, **LONGER))
    assert result["exact_match"]["sentences"]["model"] > 0.9
    assert result["bleu"]["sentences"]["model"] > 90

    arguments = [f"--out_dir={tmp_path}/run", "--device=cpu"]
    text = translator.main(["sample", *arguments, "--text=The cat eats milk?"])
    assert text == "The cat eats milk?\n    mok' tar lo, su?\n"
    examples = translator.main(["sample", *arguments])
    assert " ?" not in examples and "?\n" in examples
    tables = translator.main(["evaluate", *arguments])
    assert tables["sentences_right_with_a_beam_of"]["1"] > 0.9


def test_the_grammar_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mini.data.text.pairs.HELD_OUT", 20)
    sizes = ["--n_layer=1", "--n_embd=16", "--n_head=2", "--d_ff=16"]
    result = translator.main(["--n_pairs=1000", "--steps=2", "--batch_size=4", *sizes,
                              "--device=cpu", f"--out_dir={tmp_path}/run"])
    assert set(result["exact_match"]) == {"sentences", "combinations"} == set(result["bleu"])
    assert "20 sentences, 20 combinations" in capsys.readouterr().out


def test_a_short_run_is_scored_on_its_share_and_says_so(capsys):
    """Untrained, it writes to the greatest length: 2,000 sentences took several times as long as
    three steps."""
    usual = translator.Config.steps
    for changes, n in (({}, 1000), (dict(steps=2 * usual), 1000), (dict(steps=0), 1000),
                       (dict(n_test=7, steps=3), 7), (dict(n_test=2000, steps=3), 1000)):
        assert n_to_score(translator.Config(**changes), 1000, "sentences") == n
        assert not capsys.readouterr().out
    for steps, n in ((usual // 2, 500), (3, 100)):
        assert n_to_score(translator.Config(steps=steps), 1000, "sentences") == n
        note = f"scored on {n} of the 1,000 sentences; --n_test=1000 scores all"
        assert note in capsys.readouterr().out
    assert n_to_score(translator.Config(steps=3), 60, "sentences") == 60
    assert not capsys.readouterr().out
    refused_call(lambda: n_to_score(translator.Config(n_test=-1), 60, "sentences"), "--n_test=-1")


def test_n_test_is_honoured_and_reported(pairs_file, tmp_path, capsys):
    result = translator.train(tiny(pairs_file, tmp_path, n_test=4))
    assert result["n"] == {"sentences": 4}
    assert "held-out sentences (n = 4)" in capsys.readouterr().out
    translator.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    out = capsys.readouterr().out
    assert "translating 4 held-out sentences with a beam of 8" in out
    translator.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu", "--n_test=3"])
    assert "translating 3 held-out sentences with a beam of 8" in capsys.readouterr().out


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
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert [len(words) for words in checkpoint["words"]] == [16, 16]
    left_out = int(out.split(" too long")[0].split("(")[1])
    assert left_out > 10
    assert f"{55 - left_out} pairs to learn from" in out


# ---- the study

def test_sentences_one_word_from_a_training_sentence():
    """Against comparing each with each. Another length is another sentence; so is the same one."""
    rng = torch.Generator().manual_seed(0)

    def some(n):
        lengths = torch.randint(2, 6, (n,), generator=rng).tolist()
        return sentences(lengths, 7, seed=n)

    src = some(40)
    train_src = some(60)
    pad = torch.nn.functional.pad
    a = pad(src, (0, 6 - src.size(1)))
    b = pad(train_src, (0, 6 - train_src.size(1)))
    equal = (a[:, None] == b).all(dim=2).any(dim=1)
    src = src[~equal]                                           # held-out sentences are new
    same_length = (a[:, None] != PAD).sum(dim=2) == (b != PAD).sum(dim=1)
    one_differs = (a[:, None] != b).sum(dim=2) == 1
    want = (same_length & one_differs).any(dim=1)[~equal]
    assert 0 < want.sum() < len(want)
    assert study.differs_in_one_word(src, train_src) == want.tolist()


def test_what_is_right_by_length_and_newness():
    src = sentences([3, 5, 6, 7], 20)                           # 2, 4, 5 and 6 words, and EOS
    by_length = study.right_by_length(src, [True, False, True, True])
    assert by_length == {"1–4": 0.5, "5–8": 1.0}
    table = study.right_by_newness([True, False, True, False], [True, False, True, True])
    assert list(table.values()) == [0.5, 1.0, 0.5]
    assert len(study.right_by_newness([False, False], [True, False])) == 2


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, translator.main)


def test_bad_data(tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1"]
    assert "grammar, en-fr" in refused(capsys, *run, "--data=en")
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"caf\xe9\tcafe\n")
    assert "UTF-8" in refused(capsys, *run, f"--data={path}")
    path.write_text("".join(f"word{i}.\tmot{i}.\n" for i in range(20)))     # nothing is known
    assert "bring more pairs" in refused(capsys, *run, f"--data={path}")
    assert "below 1000" in refused(capsys, *run, "--n_pairs=10")
    assert not (tmp_path / "run").exists()


def test_bad_sizes(pairs_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1", f"--data={pairs_file}"]
    for name in ("n_embd", "n_head", "n_layer", "d_ff", "batch_size", "beam", "max_len"):
        assert f"--{name}=0 must be at least 1" in refused(capsys, *run, f"--{name}=0")
    for flags, words in ((["--n_embd=6"], "--n_embd=6 must be a multiple of --n_head=4"),
                         (["--n_embd=9", "--n_head=3"], "--n_embd=9 must be even"),
                         (["--smoothing=1"], "--smoothing=1.0"),
                         (["--smoothing=-0.1"], "--smoothing=-0.1"),
                         (["--alpha=-1"], "--alpha=-1.0"),
                         (["--dropout=1"], "--dropout=1.0"),
                         (["--dropout=-0.1"], "--dropout=-0.1"),
                         (["--max_len=1"], "--max_len")):
        assert words in refused(capsys, *run, *flags)
    assert not (tmp_path / "run").exists()


def test_bad_text(pairs_file, tmp_path, capsys):
    translator.train(tiny(pairs_file, tmp_path, steps=1))
    run = ["sample", f"--out_dir={tmp_path}/run", "--device=cpu"]
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
    assert "'x" in refused(capsys, *run, "--text=" + "x" * 5000)    # too long for a file's name
