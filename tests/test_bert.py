"""mini/bert.py against transformers (golden files: reference/make_bert.py), numpy, and the classic bugs."""
import functools
import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import bert
from mini.data.text import passages, reviews
from mini.data.text.baselines import bag_of_words, first_capitalised_span, most_frequent_tag
from mini.data.text.tasks import (best_span, draw_batch, encode, make_task, pretraining_rows, score,
                                  spans)
from mini.data.text.wordpiece import SPECIAL, WordPieceTokenizer
from mini.data.weights import read_bert
from tests.helpers import (close, every_dropout_acts, learnt_by_heart, paragraphs, refused,
                           refused_by)

REFERENCE = Path(__file__).parent / "reference"
GOLDEN = {name: torch.as_tensor(value) for name, value in np.load(REFERENCE / "bert.npz").items()}
PUBLISHED = REFERENCE / "bert_tiny/model.safetensors"
TINY = dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, block_size=80, vocab_size=500, batch_size=4, steps=6, eval_every=3,
            log_every=1, sample_every=0, warmup=2, few=20, tune_steps=2, tune_batch=4, device="cpu", matmul="highest")


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Small sets, so that a run takes a second: fewer reviews, passages and held-out texts."""
    for name, n in dict(N_TEST=30, N_POOL=60, N_UNLABELLED=20).items():
        monkeypatch.setattr(reviews, name, n)
    monkeypatch.setattr(passages, "unlabelled", functools.partial(passages.unlabelled, 30))
    for name in ("load_entities", "load_questions"):
        monkeypatch.setattr(passages, name, functools.partial(getattr(passages, name), n_test=30))


@pytest.fixture
def text_file(tmp_path):
    return paragraphs(tmp_path)["data"]


def tiny(text_file, tmp_path, **changes):
    return bert.Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def small_model(seed=0, V=50, **sizes):
    torch.manual_seed(seed)
    model = bert.BERT(bert.Config(**{**dict(n_layer=2, n_head=4, n_embd=32, d_ff=48, block_size=24), **sizes}), V)
    for p in model.parameters():            # biases and norms too, far from their initial values
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def published():
    sizes, weights = read_bert(PUBLISHED)
    model = bert.BERT(bert.Config(**sizes), len(weights["wte.weight"]))
    model.load_state_dict(weights)
    return model


def small_tokenizer():
    return WordPieceTokenizer([*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcde")], False)


# ---- parity with transformers

@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_vectors_logits_and_every_gradient_equal_transformers(dtype, tolerance):
    model = published().to(dtype)
    tokens, types, labels = GOLDEN["tokens"], GOLDEN["types"], GOLDEN["labels"]
    there = torch.arange(20) < GOLDEN["lengths"][:, None]
    x = model(tokens, types, ~there)
    logits = model.name_tokens(x)
    close(x[there].detach(), GOLDEN["vectors"][there].to(dtype), tolerance)
    close(logits[there].detach(), GOLDEN["logits"][there].to(dtype), tolerance)
    loss = F.cross_entropy(model.name_tokens(x[labels >= 0]), labels[labels >= 0])
    close(loss.detach(), GOLDEN["loss"].to(dtype), tolerance)
    loss.backward()
    for name, p in model.named_parameters():
        theirs = [GOLDEN[f"grad/{n}"] for n in names_there(name)]
        close(p.grad, torch.cat(theirs).to(dtype), 1e-5)    # those are kept in float32


def names_there(name: str) -> list:
    """The published names of a parameter of ours, written apart from read_bert's table."""
    name = {"bias": "cls.predictions.bias", "wte.weight": "bert.embeddings.word_embeddings.weight",
            "wpe.weight": "bert.embeddings.position_embeddings.weight",
            "wtt.weight": "bert.embeddings.token_type_embeddings.weight"}.get(name, name)
    for ours, theirs in ((r"^ln_e", "bert.embeddings.LayerNorm"), (r"^transform", "cls.predictions.transform.dense"),
                         (r"^ln_f", "cls.predictions.transform.LayerNorm"), (r"^h", "bert.encoder.layer"),
                         (r"attn.c_proj", "attention.output.dense"), (r"ln_1", "attention.output.LayerNorm"),
                         (r"mlp.c_fc", "intermediate.dense"), (r"mlp.c_proj", "output.dense"),
                         (r"(\d)\.ln_2", r"\1.output.LayerNorm")):
        name = re.sub(ours, theirs, name)
    return [name.replace("attn.c_attn", f"attention.self.{part}") for part in ("query", "key", "value")] \
        if "c_attn" in name else [name]


def test_published_weights_of_other_models_are_refused(tmp_path):
    refused(lambda: read_bert(tmp_path / "none.safetensors"), "none.safetensors", "no such file")
    refused(lambda: read_bert(REFERENCE / "gpt2_a/model.safetensors"), "gpt2_a", "not the weights of a BERT")
    refused(lambda: read_bert(tmp_path / "pytorch_model.bin"), "pickle")
    shutil.copy(PUBLISHED, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    refused(lambda: read_bert(tmp_path / PUBLISHED.name), "roberta")
    sizes, weights = read_bert(PUBLISHED, longest=10)
    assert sizes == dict(n_layer=2, n_head=4, n_embd=16, block_size=10, d_ff=40) and len(weights["wpe.weight"]) == 10


# ---- the classic bugs of Transformers

def test_filling_changes_nothing_however_large_the_scores():
    """The mask is on keys, −∞ and not −1e4, and no row is NaN."""
    model = small_model()
    for block in model.h:
        torch.nn.init.normal_(block.attn.c_attn.weight, std=30)
    lengths = [9, 4, 1]
    there = torch.arange(9) < torch.tensor(lengths)[:, None]
    idx = torch.randint(5, 50, (3, 9)).where(there, 0)
    with torch.no_grad():
        together = model(idx, torch.zeros_like(idx), ~there)
        other = model(idx.where(there, 7), torch.zeros_like(idx), ~there)
        assert torch.equal(together[there], other[there]) and together.isfinite().all()
        for i, n in enumerate(lengths):
            alone = model(idx[i:i + 1, :n], torch.zeros(1, n, dtype=torch.long), torch.zeros(1, n) > 0)
            close(together[i, :n], alone[0], 1e-4)


def test_dropout_acts_in_training_only():
    idx, none = torch.randint(5, 50, (2, 9)), torch.zeros(2, 9, dtype=torch.long)
    every_dropout_acts(small_model(dropout=0.5), 5, idx, none, none > 0)


def test_what_is_hidden_follows_the_80_10_10_rule_and_spares_pad_and_specials():
    tokenizer, rng = small_tokenizer(), torch.Generator().manual_seed(0)
    idx = torch.randint(0, tokenizer.vocab_size, (1000, 100), generator=rng)
    shown, chosen = bert.hide(idx, tokenizer, 0.15, rng)
    ordinary = idx >= len(SPECIAL)
    assert not chosen[~ordinary].any() and torch.equal(shown[~chosen], idx[~chosen])
    n = chosen.sum().item()                                 # each share: 5 standard deviations wide at most
    assert n / ordinary.sum() == pytest.approx(0.15, abs=0.006)
    masked, kept = (shown == tokenizer.mask)[chosen], (shown == idx)[chosen]
    V = tokenizer.vocab_size
    assert masked.sum() / n == pytest.approx(0.8 + 0.1 / V, abs=0.017)
    assert kept.sum() / n == pytest.approx(0.1 + 0.1 / V, abs=0.013)
    others = shown[chosen][~masked & ~kept]
    assert len(others.unique()) == V - 1 and len(bert.hide(idx, tokenizer, 1.0, rng)[1][~ordinary].unique()) == 1


def test_the_loss_is_on_the_chosen_tokens_alone():
    model, tokenizer = small_model(V=small_tokenizer().vocab_size), small_tokenizer()
    idx = torch.randint(5, 30, (4, 12))
    idx[0, 5] = idx[:, -1] = tokenizer.sep                  # the first row holds two texts
    shown, chosen = bert.hide(idx, tokenizer, 0.3, torch.Generator().manual_seed(1))
    types = torch.zeros_like(idx)
    types[0, 6:] = 1
    logits = model.name_tokens(model(shown, types, idx == 0))
    want = -F.log_softmax(logits, 2).gather(2, idx[:, :, None])[chosen].mean()
    close(bert.masked_loss(model, idx, shown, chosen, tokenizer).detach(), want.detach(), 1e-5)
    assert bert.masked_loss(model, idx, shown, chosen & False, tokenizer).item() == 0        # none chosen: 0, not NaN


# ---- rows, heads, scores

def test_rows_of_one_text_and_of_two():
    tokenizer = small_tokenizer()
    idx, types, begins = encode([(["ab", "c"], None), (["z"], ["x", "ye"])], tokenizer, 20)
    assert [[tokenizer.tokens[i] for i in row] for row in idx] == [
        ["[CLS]", "a", "##b", "c", "[SEP]", "[PAD]", "[PAD]"], ["[CLS]", "z", "[SEP]", "x", "y", "##e", "[SEP]"]]
    assert types.tolist() == [[0] * 7, [0, 0, 0, 1, 1, 1, 1]]
    assert begins.tolist() == [[0, 1, 0, 2, 0, 0, 0], [0, 0, 0, 1, 2, 0, 0]]
    idx, _, _ = encode([(["a"] * 30, None)], tokenizer, 10)
    assert idx.shape == (1, 10) and idx[0, -1] == tokenizer.sep
    refused(lambda: encode([(["a"] * 30, None)], tokenizer, 10, cut=False), "32 tokens", "10 positions")
    refused(lambda: encode([([], None)], tokenizer, 10), "empty")
    refused(lambda: encode([(["a"], [])], tokenizer, 10), "empty")
    rows = pretraining_rows(["abc", "z" * 25], tokenizer, 10)
    assert (rows == tokenizer.cls).sum(1).tolist() == [1] * len(rows) and rows.size(1) <= 10


def test_batches_hold_rows_of_about_the_same_length():
    length = torch.arange(1, 101)
    rows = (torch.arange(100) < length[:, None]).long() * length[:, None]
    rng, seen = torch.Generator().manual_seed(0), torch.zeros(101)
    for _ in range(200):
        idx = draw_batch(rows, length, 16, rng)
        n = (idx > 0).sum(1)
        assert idx.shape == (16, n.max()) and (idx[:, 0] == n).all() and n.max() - n.min() < 50
        seen += torch.bincount(n, minlength=101)
    assert (seen[1:] > 0).all()


def test_the_heads_read_words_alone():
    V, idx = 50, torch.randint(5, 50, (2, 9))
    types, begins = torch.zeros_like(idx), torch.tensor([[0, 1, 2, 0, 3, 0, 0, 0, 0]] * 2)
    for task, shape in (("sentiment", (2, 3)), ("entities", (2, 9, 3)), ("answer", (2, 9, 3))):
        model = bert.Tuned(small_model(V=V), task, 3, 0.0)
        torch.nn.init.normal_(model.head.weight)
        logits, x = model(idx, types, begins, 0), model.bert(idx, types, idx == 0)
        assert logits.shape == shape
        if task == "sentiment":
            close(logits.detach(), model.head(x[:, [1, 2, 4]].mean(1)).detach(), 1e-5)
        if task == "answer":
            assert torch.equal(logits[:, :, 0].isfinite(), begins > 0)


def test_the_best_span_by_exhaustive_search():
    logits = torch.randn(20, 12, 2, generator=torch.Generator().manual_seed(0))
    logits[:, :3] = -math.inf
    for row, (a, b) in zip(logits, best_span(logits, longest=4).tolist()):
        assert (a, b) == max(((i, j) for i in range(3, 12) for j in range(i, min(i + 4, 12))),
                             key=lambda ij: (row[ij[0], 0] + row[ij[1], 1]).item())


def test_scores():
    assert spans([0, 1, 1, 2, 0, 2]) == {(1, 3, 1), (3, 4, 2), (5, 6, 2)} and spans([]) == set()
    assert score("sentiment", [1, 0, 1], [1, 1, 1]) == pytest.approx(2 / 3)
    assert score("answer", [(1, 2), (3, 5)], [(1, 2), (3, 4)]) == 0.5
    # found: 2 spans, 1 right; there: 2
    assert score("entities", [[1, 1, 0, 2]], [[1, 1, 0, 1]]) == 0.5
    assert bert.task_loss("answer", torch.zeros(2, 8, 2),
                          torch.tensor([[1, 2], [0, 7]])).item() == pytest.approx(math.log(8))
    y = torch.tensor([[1, -100], [-100, -100]])
    assert bert.task_loss("entities", torch.zeros(2, 2, 5), y).item() == pytest.approx(math.log(5))


def test_baselines():
    labels = bag_of_words(["good film", "good play", "bad film", "bad play"], [1, 1, 0, 0], ["a good thing", "so bad"])
    assert labels.tolist() == [1, 0]
    learn = [(["May", "left", "Oslo"], [1, 0, 2]), (["in", "May", "May"], [0, 3, 3]), (["Ruth", "met", "Anna"], [1, 0, 1])]
    assert most_frequent_tag(learn, [["May", "Oslo", "Zoe", "sang"]], 4) == [[3, 2, 1, 0]]
    words = "Ivo Lang lives in Turin . Dora Finch works".split()
    assert first_capitalised_span(words, ["Where", "Ivo", "Lang"]) == (4, 5) and first_capitalised_span(["a"], []) == (0, 1)


# ---- the passages

def test_passages_are_alike_by_seed_and_hold_their_answers():
    for load in (passages.load_entities, passages.load_questions):
        assert load(5, 1) == load(5, 1) and load(5, 1)[0] != load(5, 2)[0] and load(5, 1)[1] == load(9, 2)[1]
    for q in sum(passages.load_questions(200, 0), []):
        assert 0 < q.start < q.end <= len(q.passage) and q.question[-1] == "?"
    for words, tags in sum(passages.load_entities(200, 0), []):
        assert len(words) == len(tags) and max(tags) < len(passages.TAGS)


def test_held_out_names_are_in_no_text_to_learn_from():
    new = {name for listing in (passages.FIRST, passages.LAST, passages.TOWN, passages.TRADE)
           for name in listing.partition(" | ")[2].split()}
    seen = {word for words, _ in passages.load_entities(500, 0)[0] for word in words}
    seen |= {word for q in passages.load_questions(500, 0)[0] for word in q.passage + q.question}
    seen |= {word for text in passages.unlabelled() for word in re.findall(r"\w+", text)}
    assert not new & seen
    test = passages.load_entities(1, 0)[1]
    assert sum(bool(new & set(words)) for words, _ in test) > len(test) / 3


def test_reports_tell_every_fact_where_they_say():
    names = passages.Names(random.Random(0), False)
    for _ in range(100):
        people, facts = passages.facts_of_two(names)
        assert [kind for kind, _ in facts[0][:2]] == [kind for kind, _ in facts[1][:2]]
        words, where = passages.tell(people, facts, names.rng)
        assert {key: words[a:b] for key, (a, b) in where.items()} == {
            (name, kind): text.split() for name, told in zip(people, facts) for kind, text in told}
        assert all(name in " ".join(words) for name in people)
        first, second = passages.two_reports(names).split(" [SEP] ")
        assert sorted(re.findall("[0-9]+", first)) == sorted(re.findall("[0-9]+", second))
        assert {*re.findall("[A-Z][a-z]+ [A-Z][a-z]+", first)} & {*re.findall("[A-Z][a-z]+ [A-Z][a-z]+", second)}


def test_one_word_has_several_tags():
    learn, _ = passages.load_entities(2000, 0)
    tags = {}
    for words, row in learn:
        for word, tag in zip(words, row):
            tags.setdefault(word, set()).add(passages.TAGS[tag])
    assert tags["May"] >= {"person", "date", "other"} and tags["Florence"] >= {"person", "place"}
    assert tags["Harper"] >= {"person", "organisation"}


# ---- learning

@pytest.mark.parametrize("task", bert.TASKS)
def test_every_head_overfits_a_few_texts(task, text_file, tmp_path):
    cfg = tiny(text_file, tmp_path, few=8, tune_steps=60, tune_batch=8, tune_lr=3e-3, tune_dropout=0.0, n_embd=32)
    tokenizer = WordPieceTokenizer.train(bert.unlabelled_texts(cfg), 500)
    data = make_task(task, cfg, tokenizer)
    torch.manual_seed(0)
    model = bert.tune(bert.BERT(cfg, tokenizer.vocab_size), data, cfg, tokenizer.pad)
    *x, y = data.learn
    model.eval()
    assert bert.task_loss(task, model(*x, tokenizer.pad), y).item() < 0.3


def test_one_batch_is_learnt_by_heart():
    tokenizer = small_tokenizer()
    model, rng = small_model(V=tokenizer.vocab_size), torch.Generator().manual_seed(0)
    idx = torch.randint(5, tokenizer.vocab_size, (4, 16), generator=rng)
    shown, chosen = bert.hide(idx, tokenizer, 0.3, rng)
    assert learnt_by_heart(model, lambda: bert.masked_loss(model, idx, shown, chosen, tokenizer), 60) < 0.05


# ---- the run

def test_sampling(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path)
    bert.train(cfg)
    out = f"--out_dir={cfg.out_dir}"
    [row, other] = bert.main(["sample", out, "--text=the [MASK] saw the [MASK]"])
    shares = [float(p) for p in re.findall(r"([\d.]+)%", row)]
    assert len(shares) == 5 == other.count("%") and shares == sorted(shares, reverse=True) and sum(shares) <= 100.1
    found = bert.main(["sample", out, "--task=sentiment", "--text=It was a mess."])
    assert [line.split()[0] for line in found] == ["bad", "good"]
    found = bert.main(["sample", out, "--task=entities", "--text=May left Lyon."])
    assert [line.split()[0] for line in found] == ["May", "left", "Lyon", "."]
    found = bert.main(["sample", out, "--task=answer", "--text=May lives in Lyon.", "--question=Where does May live?"])
    assert found[0] in "May lives in Lyon ."
    for argv, words in ((["--text="], "which text"), (["--text=no mask"], "[MASK]"), (["--text=" + "a " * 90 + "[MASK]"], "positions"),
                        (["--task=answer", "--text=May left."], "empty"), (["--task=entities", "--text= "], "which text")):
        assert words in refused_by(bert.main, capsys, "sample", out, *argv)
    shutil.copy(tmp_path / "run/sentiment.pt", tmp_path / "run/entities.pt")
    error = refused_by(bert.main, capsys, "sample", out, "--task=entities", "--text=May left.")
    assert "entities.pt" in error and "sentiment" in error


@pytest.mark.paper
def test_published_weights_are_tuned_and_fill_blanks(text_file, tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(PUBLISHED.parent, folder)
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *letters, *".,?'"]))
    [row] = bert.main(["sample", f"--init_from={folder}/model.safetensors", "--text=the [MASK]", "--device=cpu"])
    assert row.count("%") == 5
    refused(lambda: bert.train(tiny(text_file, tmp_path, init_from=f"{folder}/model.safetensors", steps=0)), "block_size")


def test_bad_reviews(text_file, tmp_path, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text("one\tgood\ntwo three\n")
    flags = [f"--reviews={path}", f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    assert "line 2" in refused_by(bert.main, capsys, *flags)
    path.write_text("".join(f"it was {w} number {i}\t{w}\n" for i in range(30) for w in ("fine", "poor", "odd")))
    result = bert.train(tiny(text_file, tmp_path, reviews=str(path), steps=2))
    assert set(result["scores"]["sentiment"]) == {"learnt", "scratch", "baseline"}


def test_n_test_is_honoured_and_reported(text_file, tmp_path, capsys):
    result = bert.train(tiny(text_file, tmp_path, steps=2, n_test=7))
    assert result["n"] == {"sentiment": 7, "entities": 7, "answer": 7} and result["tune_steps"] == 2
    assert "held-out answer (n = 7)" in capsys.readouterr().out
    result = bert.train(tiny(text_file, tmp_path, steps=2))
    assert result["n"] == {"sentiment": 30, "entities": 30, "answer": 30}


def test_a_task_is_not_trained_for_longer_than_the_model():
    published = bert.Config(**bert.PRESETS["published"])
    assert bert.tune_steps(bert.Config()) == bert.tune_steps(published) == bert.TUNE_STEPS
    assert bert.tune_steps(bert.Config(steps=3)) == 3 and bert.tune_steps(bert.Config(steps=3, tune_steps=9)) == 9


def test_evaluate(text_file, tmp_path):
    cfg = tiny(text_file, tmp_path, few=9)
    bert.train(cfg)
    tables = bert.evaluate(bert.Config(out_dir=cfg.out_dir, device="cpu"))
    assert [len(rows) for rows in tables.values()] == [5, 5, 5] and json.loads((tmp_path / "run/evaluate.json").read_text()) == tables
