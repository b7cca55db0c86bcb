"""mini/bert.py against transformers (golden files: reference/make_bert.py), numpy, and the classic
bugs."""
import functools
import json
import math
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import bert
from mini.data.text import names, passages, reviews, tasks
from mini.data.text.cooccurrence import cooccurrence_vectors
from mini.data.text.tasks import Rows, encode, make_task, rows_of_texts, score, token_types
from mini.data.text.wordpiece import SPECIAL, WordPieceTokenizer
from mini.data.weights import read_bert
from tests.helpers import (close, every_dropout_acts, learnt_by_heart, paragraphs, refused,
                           refused_by)

REFERENCE = Path(__file__).parent / "reference"
GOLDEN = {name: torch.as_tensor(value) for name, value in np.load(REFERENCE / "bert.npz").items()}
PUBLISHED = REFERENCE / "bert_tiny/model.safetensors"
TINY = dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, block_size=128, vocab_size=500, batch_size=4,
            steps=6, eval_every=3, log_every=1, sample_every=0, warmup=2, few=20, tune_steps=2,
            tune_batch=4, device="cpu", matmul="highest")


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Small sets, so that a run takes a second: fewer reviews, passages and held-out texts."""
    for name, n in dict(N_TEST=30, N_POOL=60, N_UNLABELLED=20).items():
        monkeypatch.setattr(reviews, name, n)
    for name in ("unlabelled", "unlabelled_reports"):
        monkeypatch.setattr(passages, name, functools.partial(getattr(passages, name), 30))
    for name in ("load_entities", "load_questions"):
        few = functools.partial(getattr(passages, name), n_test=30)
        monkeypatch.setattr(passages, name, few)


@pytest.fixture
def drawn(monkeypatch):
    """A list: for each batch that bert.py draws, the number of rows that there are of its kind."""
    sizes = []
    original = bert.get_rows

    def get_rows(rows, *others):
        sizes.append(len(rows))
        return original(rows, *others)
    monkeypatch.setattr(bert, "get_rows", get_rows)
    return sizes


@pytest.fixture
def text_file(tmp_path):
    return paragraphs(tmp_path)["data"]


def tiny(text_file, tmp_path, **changes):
    settings = {**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes}
    return bert.Config(**settings)


def small_model(seed=0, V=50, **sizes):
    torch.manual_seed(seed)
    sizes = {**dict(n_layer=2, n_head=4, n_embd=32, d_ff=48, block_size=24), **sizes}
    model = bert.BERT(bert.Config(**sizes), V)
    for p in model.parameters():            # biases and norms too, far from their initial values
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def plain_rows(idx):
    """Tokens idx (N, T) as Rows of texts that are no reports."""
    return Rows(idx, torch.zeros_like(idx, dtype=torch.bool))


def small_tokenizer():
    pieces = [f"##{c}" for c in "abcde"]
    return WordPieceTokenizer([*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *pieces], lower=False)


# ---- parity with transformers

@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_vectors_logits_and_every_gradient_equal_transformers(dtype, tolerance):
    sizes, weights = read_bert(PUBLISHED)
    model = bert.BERT(bert.Config(**sizes), len(weights["wte.weight"]))
    model.load_state_dict(weights)
    model = model.to(dtype)

    tokens, types, labels = GOLDEN["tokens"], GOLDEN["types"], GOLDEN["labels"]
    is_text = torch.arange(20) < GOLDEN["lengths"][:, None]
    x = model(tokens, types, is_text[:, None, None, :])
    logits = model.mlm_logits(x)
    close(x[is_text], GOLDEN["vectors"][is_text].to(dtype), tolerance)
    close(logits[is_text], GOLDEN["logits"][is_text].to(dtype), tolerance)

    loss = F.cross_entropy(model.mlm_logits(x[labels >= 0]), labels[labels >= 0])
    close(loss, GOLDEN["loss"].to(dtype), tolerance)
    loss.backward()
    for name, p in model.named_parameters():
        theirs = torch.cat([GOLDEN[f"grad/{n}"] for n in names_there(name)])
        close(p.grad, theirs.to(dtype), 1e-5)       # those are kept in float32


def names_there(name: str) -> list:
    """The published names of a parameter of ours, written apart from read_bert's table."""
    whole = {"bias": "cls.predictions.bias",
             "wte.weight": "bert.embeddings.word_embeddings.weight",
             "wpe.weight": "bert.embeddings.position_embeddings.weight",
             "wtt.weight": "bert.embeddings.token_type_embeddings.weight"}
    if name in whole:
        return [whole[name]]
    for ours, theirs in ((r"^ln_e", "bert.embeddings.LayerNorm"),
                         (r"^transform", "cls.predictions.transform.dense"),
                         (r"^ln_transform", "cls.predictions.transform.LayerNorm"),
                         (r"^h", "bert.encoder.layer"),
                         (r"attn.c_proj", "attention.output.dense"),
                         (r"ln_1", "attention.output.LayerNorm"),
                         (r"mlp.c_fc", "intermediate.dense"),
                         (r"mlp.c_proj", "output.dense"),
                         (r"(\d)\.ln_2", r"\1.output.LayerNorm")):
        name = re.sub(ours, theirs, name)
    if "c_attn" in name:
        return [name.replace("attn.c_attn", f"attention.self.{part}")
                for part in ("query", "key", "value")]
    return [name]


def test_published_weights_of_other_models_are_refused(tmp_path):
    refused(lambda: read_bert(tmp_path / "none.safetensors"), "none.safetensors", "no such file")
    refused(lambda: read_bert(REFERENCE / "gpt2_a/model.safetensors"), "gpt2_a",
            "not the weights of a BERT")
    refused(lambda: read_bert(tmp_path / "pytorch_model.bin"), "pickle")
    shutil.copy(PUBLISHED, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    refused(lambda: read_bert(tmp_path / PUBLISHED.name), "roberta")


def test_published_weights_are_cut_to_a_shorter_context():
    sizes, weights = read_bert(PUBLISHED, longest=10)
    assert sizes == dict(n_layer=2, n_head=4, n_embd=16, block_size=10, d_ff=40,
                         conv_width=0)
    assert len(weights["wpe.weight"]) == 10


# ---- the classic bugs of Transformers

def test_padding_changes_nothing_however_large_the_scores():
    """The mask is on keys, and −∞: with −1e4 in its place, large scores shine through. And no row
    of the softmax is NaN."""
    model = small_model()
    for name, p in model.named_parameters():
        if name.startswith("h.") and p.ndim == 2:
            p.data.mul_(30)
    lengths = [9, 4, 1]
    is_text = torch.arange(9) < torch.tensor(lengths)[:, None]
    idx = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    types = torch.zeros_like(idx)
    mask = bert.padding_mask(idx.where(is_text, 0), pad=0)
    with torch.no_grad():
        together = model(idx.where(is_text, 0), types, mask)
        other = model(idx.where(is_text, 7), types, mask)
        assert together.isfinite().all()
        assert torch.equal(together[is_text], other[is_text])
        for i, n in enumerate(lengths):
            own = idx[i:i + 1, :n]
            alone = model(own, types[:1, :n], bert.padding_mask(own, pad=0))
            close(together[i, :n], alone[0], 1e-4)


def test_every_position_sees_the_text_on_both_sides():
    model = small_model()
    idx = torch.randint(5, 50, (1, 9), generator=torch.Generator().manual_seed(0))
    changed = idx.clone()
    changed[0, 4] = idx[0, 4] % 44 + 6
    with torch.no_grad():
        mask = bert.padding_mask(idx, pad=0)
        types = torch.zeros_like(idx)
        differ = (model(idx, types, mask) != model(changed, types, mask)).any(dim=-1)
    assert differ.all()


def test_the_words_of_the_tasks_are_read_by_an_uncased_tokenizer():
    """They are handed over as words, with capitals and accents; each name was [UNK]."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = WordPieceTokenizer([*SPECIAL, *letters, *(f"##{c}" for c in letters)], lower=True)
    for split_names in (False, True):
        tokens = encode([(["Zoë", "[MASK]", "Ab"], ["EF"])], tokenizer, 20, split_names=split_names)
        assert [tokenizer.tokens[i] for i in tokens.idx[0]] == [
            "[CLS]", "z", "##o", "##e", "[MASK]", "a", "##b", "[SEP]", "e", "##f", "[MASK]", "[SEP]"]


def test_filling_in_knows_the_second_of_two_texts(monkeypatch):
    """Pre-training has vectors for the first text and for the second."""
    tokenizer = small_tokenizer()
    model = small_model(V=tokenizer.vocab_size)
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args: seen.append(args) or forward(*args))
    bert.fill_in(model, tokenizer, "a b [SEP] c [MASK]")
    (_, types, _), = seen
    assert types.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_a_short_convolution_reads_the_vectors_around():
    """Against a sum by hand; [PAD] counts as nothing, as what is beyond the ends of the row."""
    torch.manual_seed(0)
    conv = bert.ShortConv(6, 5)
    x = torch.randn(2, 9, 6)
    n_tokens = [9, 4]
    is_text = torch.arange(9) < torch.tensor(n_tokens)[:, None]
    want = torch.zeros(2, 9, 6)
    for b, n in enumerate(n_tokens):
        for t in range(9):
            for i in range(-2, 3):
                if 0 <= t + i < n:
                    want[b, t] += conv.weight[:, i + 2] * x[b, t + i]
    close(conv(x, is_text[:, None, None, :]), want, 1e-6)


def test_without_the_convolution_it_is_the_network_of_the_paper():
    names_of = {width: {name for name, _ in small_model(conv_width=width).named_parameters()}
                for width in (0, 3)}
    assert {name.split(".", 2)[2] for name in names_of[3] - names_of[0]} == {
        "conv.weight", "ln_0.weight", "ln_0.bias"}
    refused(lambda: bert.check(bert.Config(conv_width=4)), "--conv_width=4", "odd")
    refused(lambda: bert.check(bert.Config(conv_width=-1)), "--conv_width=-1", "odd")


def test_dropout_acts_in_training_only():
    idx = torch.randint(5, 50, (2, 9))
    model = small_model(dropout=0.5)
    n = sum(isinstance(module, torch.nn.Dropout) for module in model.modules())
    every_dropout_acts(model, n, idx, torch.zeros_like(idx), bert.padding_mask(idx, pad=0))


# ---- what is hidden

@pytest.mark.paper
def test_what_is_hidden_follows_the_80_10_10_rule_and_spares_special_tokens():
    """Shares within five standard deviations."""
    tokenizer = small_tokenizer()
    V = tokenizer.vocab_size
    rng = torch.Generator().manual_seed(0)
    idx = torch.randint(0, V - 5, (1000, 100), generator=rng)          # no pieces inside a word
    shown, chosen = bert.mask_tokens(idx, tokenizer, 0.15, rng)
    ordinary = idx >= len(SPECIAL)
    assert not chosen[~ordinary].any()
    assert torch.equal(shown[~chosen], idx[~chosen])

    n = chosen.sum().item()
    assert n / ordinary.sum() == pytest.approx(0.15, abs=0.006)
    hidden = (shown == tokenizer.mask)[chosen]
    kept = (shown == idx)[chosen]
    assert hidden.sum() / n == pytest.approx(0.8 + 0.1 / V, abs=0.017)
    assert kept.sum() / n == pytest.approx(0.1 + 0.1 / V, abs=0.013)
    others = shown[chosen][~hidden & ~kept]
    assert len(others.unique()) >= V - 2            # all tokens but [MASK], perhaps but one more


def test_all_pieces_of_a_word_are_hidden_together():
    """If only "##ing" is hidden in "sing", it is guessed from the piece beside it, and the text
    around it teaches nothing."""
    tokenizer = small_tokenizer()
    rng = torch.Generator().manual_seed(0)
    idx = torch.randint(5, tokenizer.vocab_size, (200, 40), generator=rng)
    idx[:, 0] = tokenizer.cls
    _, chosen = bert.mask_tokens(idx, tokenizer, 0.3, rng)
    is_piece = ~tokenizer.begins_word[idx]
    is_piece[:, 1] = False                          # a piece right after [CLS] belongs to no word
    assert is_piece.sum() > 500
    assert torch.equal(chosen[is_piece], chosen.roll(1, dims=1)[is_piece])


def test_the_loss_is_on_the_chosen_tokens_alone():
    tokenizer = small_tokenizer()
    model = small_model(V=tokenizer.vocab_size)
    idx = torch.randint(5, 30, (4, 12), generator=torch.Generator().manual_seed(0))
    idx[0, 5] = idx[:, -1] = tokenizer.sep                  # the first row holds two texts
    types = token_types(idx, tokenizer.sep)
    assert types.tolist() == [[0] * 6 + [1] * 6] + [[0] * 12] * 3
    batch = bert.hide(plain_rows(idx), tokenizer, 0.3, torch.Generator().manual_seed(1))
    _, types_of_batch, shown, chosen = batch
    assert torch.equal(types_of_batch, types)

    logits = model.mlm_logits(model(shown, types, bert.padding_mask(idx, tokenizer.pad)))
    log_p = F.log_softmax(logits, dim=2).gather(2, idx[:, :, None])
    got = bert.mlm_loss(model, batch, tokenizer.pad)
    close(got, -log_p[chosen].mean(), 1e-5)
    none = batch._replace(chosen=torch.zeros_like(chosen))
    assert bert.mlm_loss(model, none, tokenizer.pad).item() == 0        # not NaN


# ---- where the token vectors begin

def test_vectors_of_words_that_stand_near_the_same_words_are_similar():
    """Against the plain table of all pairs, and its exact singular values."""
    tokenizer = small_tokenizer()
    V = tokenizer.vocab_size
    rng = torch.Generator().manual_seed(0)
    # a and b stand beside x, c and d beside y: never together, but in the same company
    rows = []
    for _ in range(300):
        group, word = torch.randint(2, (2,), generator=rng).tolist()
        first = "abcd"[2 * group + word]
        rows.append([tokenizer.cls, tokenizer.index[first], tokenizer.index["xy"[group]],
                     5 + torch.randint(10, 20, (1,), generator=rng).item(), tokenizer.sep])
    rows = torch.tensor(rows)
    torch.manual_seed(0)
    vectors = cooccurrence_vectors(rows, ~tokenizer.is_special, V, window=2)
    a, b, c = [vectors[tokenizer.index[word]] for word in "abc"]
    assert F.cosine_similarity(a, b, dim=0) > 0.7 > 0.3 > F.cosine_similarity(a, c, dim=0)

    n = np.zeros((V, V))
    for row in rows.tolist():
        for i, first in enumerate(row):
            for j, second in enumerate(row):
                special = {first, second} & set(range(len(SPECIAL)))
                if 0 < abs(i - j) <= 2 and not special:
                    n[first, second] += 1 / abs(i - j)
    p_b = n.sum(axis=0)**0.75
    p_b /= p_b.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ppmi = np.maximum(np.nan_to_num(np.log(n / (n.sum(axis=1, keepdims=True) * p_b))), 0)
    U, S, _ = np.linalg.svd(ppmi)
    occurs = n.sum(axis=0) > 0
    want = (U * np.sqrt(S))[occurs]
    want -= want.mean(axis=0)
    want = torch.tensor(want / want.std(ddof=1) * 0.1)
    assert vectors[~occurs].std().item() == pytest.approx(0.1, rel=0.2)     # random
    vectors = vectors[occurs].double()
    products = vectors @ vectors.T                          # whatever sign each column has
    close(products, want @ want.T, 1e-4)


# ---- rows and batches

def test_rows_of_one_text_and_of_two():
    tokenizer = small_tokenizer()
    tokens = encode([(["ab", "c"], None), (["z"], ["x", "ye"])], tokenizer, 20)
    assert [[tokenizer.tokens[i] for i in row] for row in tokens.idx] == [
        ["[CLS]", "a", "##b", "c", "[SEP]", "[PAD]", "[PAD]", "[PAD]"],
        ["[CLS]", "z", "[SEP]", "x", "y", "##e", "[MASK]", "[SEP]"]]
    assert tokens.token_type_ids.tolist() == [[0] * 8, [0, 0, 0, 1, 1, 1, 1, 1]]
    assert tokens.word_number.tolist() == [[0, 1, 0, 2, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, tasks.GAP, 0]]
    assert torch.equal(token_types(tokens.idx, tokenizer.sep)[1], tokens.token_type_ids[1])


def test_long_texts_are_cut_or_refused(capsys):
    tokenizer = small_tokenizer()
    tokens = encode([(["a"] * 30, None)], tokenizer, 10)
    assert tokens.idx.shape == (1, 10) and tokens.idx[0, -1] == tokenizer.sep
    assert capsys.readouterr().out == "note: 1 of 1 texts are longer than 10 tokens, and lose their end\n"
    encode([(["a"] * 8, None)], tokenizer, 10)
    assert capsys.readouterr().out == ""
    refused(lambda: encode([(["a"] * 30, None)], tokenizer, 10, cut=False),
            "32 tokens", "10 positions")
    tokens = encode([(["a"] * 30, ["x", "y"])], tokenizer, 10)         # the question stays whole
    assert [tokenizer.tokens[i] for i in tokens.idx[0]] == [
        "[CLS]", *"aaaa", "[SEP]", "x", "y", "[MASK]", "[SEP]"]
    refused(lambda: encode([(["a"] * 30, ["x"] * 7)], tokenizer, 10), "10 positions")
    refused(lambda: encode([([], None)], tokenizer, 10), "empty")
    refused(lambda: encode([(["a"], [])], tokenizer, 10), "empty")
    rows = rows_of_texts(["abc", "z" * 25], tokenizer, 10)
    assert (rows.idx == tokenizer.cls).sum(dim=1).tolist() == [1] * len(rows)
    assert rows.idx.size(1) <= 10 and not rows.is_gap.any()


def test_a_fact_is_hidden_by_one_mask_and_its_first_piece_is_predicted():
    tokenizer = small_tokenizer()
    pair = passages.TwoReports(["x", "b"], ["a", "xeb", "c", "z", "y", "ze"], [(1, 3), (5, 6)])
    rows = tasks.rows_of_reports([pair, pair], tokenizer, 20)
    batch = bert.hide(rows[:1], tokenizer, 0.4, torch.Generator())
    read = [[tokenizer.tokens[i] for i in tokens[0]] for tokens in (batch.idx, batch.shown)]
    assert read == [["[CLS]", "x", "b", "[SEP]", "a", "x", "z", "y", "z", "[SEP]"],
                    ["[CLS]", "x", "b", "[SEP]", "a", "[MASK]", "z", "y", "[MASK]", "[SEP]"]]
    assert batch.token_type_ids.tolist() == [[0] * 4 + [1] * 6]
    assert batch.chosen[0].nonzero().flatten().tolist() == [5, 8]
    refused(lambda: tasks.rows_of_reports([pair], tokenizer, 9), "block_size=9", "reports")


def test_a_sentence_of_a_report_as_a_question():
    tokenizer = small_tokenizer()
    second = ["d", "a", "xe", "y", ".", "a", "z", "b", "bb", "."]
    pair = passages.TwoReports(["x", "."], second, [(2, 3), (6, 8)])
    seen = set()
    for seed in range(20):
        words = tasks.words_of_cloze(pair, random.Random(seed))
        [answer] = [word for word, is_gap in words if is_gap]
        assert words[-2] == (answer, True)
        seen.add(" ".join(word for word, _ in words))
    assert seen == {"[CLS] x . [SEP] d a y ? xe [SEP]", "[CLS] x . [SEP] a bb ? z [SEP]"}
    pair = passages.TwoReports(["x", "."], ["d", "a", "xe", "y", "."], [(2, 3)])
    rows = tasks.rows_of_reports([pair] * 8, tokenizer, 20, as_clozes=True)
    assert [row.nonzero().flatten().tolist() for row in rows.is_gap] == [[6], [6], [8], [8]] * 2
    assert (rows.idx[:, 6] == tokenizer.index["x"]).tolist() == [True, True, False, False] * 2


def test_pairs_of_reports_as_rows():
    """In every other one names are in pieces; what is too long is left out; each fact that is
    hidden stands in the first report, where it can be looked up."""
    texts = passages.unlabelled()
    tokenizer = WordPieceTokenizer.train(texts, 2000)
    pairs = passages.unlabelled_reports()
    rows = tasks.rows_of_reports(pairs, tokenizer, 400)
    assert len(rows) == len(pairs)
    for n, (idx, is_gap, pair) in enumerate(zip(rows.idx, rows.is_gap, pairs)):
        facts = [pair.second[start] for start, _ in pair.gaps]
        pieces = [tokenizer.encode_word(word, split_names=n % 2 == 1) for word in facts]
        assert idx[is_gap].tolist() == [first for first, *_ in pieces]
        assert all(word in pair.first for word in facts)
        of_first = idx[:(idx == tokenizer.sep).nonzero()[0]].tolist()
        assert set(idx[is_gap].tolist()) <= set(of_first)
        assert idx[idx != tokenizer.pad][-1] == tokenizer.sep
    lengths = (rows.idx != tokenizer.pad).sum(dim=1)
    middle = lengths.median().item()
    shorter = tasks.rows_of_reports(pairs, tokenizer, middle)
    assert len(shorter) == (lengths <= middle).sum() and shorter.idx.size(1) == middle


def test_batches_hold_rows_of_about_the_same_length():
    length = torch.arange(1, 101)
    rows = plain_rows((torch.arange(100) < length[:, None]).long() * length[:, None])
    rng = torch.Generator().manual_seed(0)
    seen = torch.zeros(101)
    for _ in range(200):
        idx = bert.get_rows(rows, 16, 0, rng).idx
        n = (idx > 0).sum(dim=1)
        assert idx.shape == (16, n.max()) and (idx[:, 0] == n).all()
        assert n.max() - n.min() < 50
        seen += torch.bincount(n, minlength=101)
    assert (seen[1:] > 0).all()


# ---- heads and scores

def test_the_heads_read_words_alone():
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[0, 1, 2, 0, 3, 0, 0, 0, 0]] * 2)
    head = bert.SentimentHead(2, 3)                         # two vectors of two numbers
    torch.nn.init.normal_(head.linear.weight)
    close(head(x, words), head.linear(x[:, [1, 2, 4]].mean(dim=1)), 1e-5)
    assert bert.EntityHead(4, 5)(x, words).shape == (2, 9, 5)
    words[0, 6] = words[1, 7] = tasks.GAP
    head = bert.AnswerHead(4)
    torch.nn.init.normal_(head.last.weight)
    logits = head(x, words)
    assert torch.equal(logits.isfinite(), (words > 0)[:, :, None].expand(2, 9, 2))
    for row, gap in ((0, 6), (1, 7)):                       # at first: how like the guess is it?
        close(logits[row, [1, 2, 4], 0], x[row, [1, 2, 4]] @ x[row, gap] / 2, 1e-5)
        want = x[row, [1, 2, 4]] @ (head.last.weight @ x[row, gap]) / 2
        close(logits[row, [1, 2, 4], 1], want, 1e-5)


def test_answers_are_compared_by_what_the_model_would_fill_in():
    tokenizer = small_tokenizer()
    model = small_model()
    tuned = bert.FineTuned(model, "answer", 2).eval()
    tokens = encode([(["a", "b"], ["x"])], tokenizer, 10)
    mask = bert.padding_mask(tokens.idx, tokenizer.pad)
    x = model(tokens.idx, tokens.token_type_ids, mask)
    guesses = model.ln_transform(F.gelu(model.transform(x)))
    close(model.mlm_logits(x), guesses @ model.wte.weight.T + model.bias, 1e-5)
    is_word = tokens.word_number > 0
    logits = tuned(tokens, tokenizer.pad)[is_word]
    close(logits, tuned.head(guesses, tokens.word_number)[is_word], 1e-5)


def test_reviews_are_read_word_by_word_too():
    """The head is given what a token is by itself, of the size of what it has become in the text."""
    tokenizer = small_tokenizer()
    model = small_model()
    tuned = bert.FineTuned(model, "sentiment", 2).eval()
    torch.nn.init.normal_(tuned.head.linear.weight)
    tokens = encode([(["a", "b"], None), (["x"], None)], tokenizer, 10)
    x = model(tokens.idx, tokens.token_type_ids, bert.padding_mask(tokens.idx, tokenizer.pad))
    alone = model.wte.weight[tokens.idx]
    alone = (alone - alone.mean(dim=2, keepdim=True)) / alone.std(dim=2, correction=0, keepdim=True)
    both = torch.cat([alone, x], dim=2)
    want = torch.stack([both[0, 1:3].mean(dim=0), both[1, 1]]) @ tuned.head.linear.weight.T
    close(tuned(tokens, tokenizer.pad), want + tuned.head.linear.bias, 1e-4)


def test_the_bert_and_the_head_learn_at_rates_of_their_own(text_file, tmp_path, monkeypatch):
    cfg = tiny(text_file, tmp_path, few=8, tune_steps=1, tune_batch=8)
    tokenizer = WordPieceTokenizer.train(passages.unlabelled(), 500)
    rates = {}
    original = torch.optim.AdamW

    def adamw(parameters, lr, **others):
        parameters = list(parameters)
        rates[sum(p.numel() for p in parameters)] = lr
        return original(parameters, lr, **others)
    monkeypatch.setattr(torch.optim, "AdamW", adamw)
    for task, scales in (("sentiment", (0.3, 3)), ("entities", (1, 1)), ("answer", (1, 1))):
        rates.clear()
        model = bert.BERT(cfg, tokenizer.vocab_size)
        tuned = bert.fine_tune(model, make_task(task, cfg, tokenizer), 1e-3, cfg, tokenizer)
        sizes = [sum(p.numel() for p in part.parameters()) for part in (tuned.bert, tuned.head)]
        assert rates == pytest.approx({n: scale * 1e-3 for n, scale in zip(sizes, scales)})


@pytest.mark.paper
def test_the_vocabulary_is_larger_for_own_texts(text_file, tmp_path, monkeypatch):
    """Real texts have more words. Whatever --vocab_size says is done."""
    reviews_file = tmp_path / "mine.tsv"
    reviews_file.write_text("".join(f"it was {w} {i}\t{w}\n" for i in range(30) for w in "ab"))
    sizes = []
    original = WordPieceTokenizer.train

    def train(texts, vocab_size):
        sizes.append(vocab_size)
        return original(texts, 500)
    monkeypatch.setattr(bert.WordPieceTokenizer, "train", train)
    ours = dict(data="tales", steps=1, vocab_size=0)
    for settings in (ours, ours | dict(data=str(text_file)), ours | dict(reviews=str(reviews_file)),
                     ours | dict(vocab_size=700)):
        bert.train(tiny(text_file, tmp_path, **settings))
    assert sizes == [2048, 4096, 4096, 700]


def test_two_models_together_by_the_product_of_their_probabilities():
    tokenizer = small_tokenizer()
    tuned = bert.FineTuned(small_model(), "sentiment", 3).eval()
    torch.nn.init.normal_(tuned.head.linear.weight, std=0.2)
    texts = [(list(text), None) for text in ("ab", "x", "bax", "aab", "xx", "b", "ba", "xab")]
    tokens = encode(texts, tokenizer, 10)
    rng = torch.Generator().manual_seed(0)
    other = torch.randn(8, 3, generator=rng).log_softmax(dim=1)
    with torch.no_grad():
        product = tuned(tokens, tokenizer.pad).softmax(dim=1) * other.exp()
    want = product.argmax(dim=1).tolist()
    for at_once in (3, 128):
        assert bert.predict(tuned, tokens, tokenizer.pad, other, at_once) == want
    assert want != bert.predict(tuned, tokens, tokenizer.pad)
    assert want != other.argmax(dim=1).tolist()


def test_the_losses_of_the_heads():
    """Without any knowledge each is the logarithm of the number of choices."""
    loss = bert.AnswerHead(4).loss(torch.zeros(2, 8, 2), torch.tensor([[1, 2], [0, 7]]))
    assert loss.item() == pytest.approx(math.log(8))
    y = torch.tensor([[1, -100], [-100, -100]])
    loss = bert.EntityHead(4, 5).loss(torch.zeros(2, 2, 5), y)
    assert loss.item() == pytest.approx(math.log(5))
    logits = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    by_hand = -F.log_softmax(logits, dim=1)
    want = (by_hand[0, 1, 0] + by_hand[0, 2, 1] + by_hand[1, 0, 0] + by_hand[1, 7, 1]) / 4
    close(bert.AnswerHead(4).loss(logits, torch.tensor([[1, 2], [0, 7]])), want, 1e-6)


def test_the_best_span_by_exhaustive_search():
    head = bert.AnswerHead(4)
    head.longest = 4
    logits = torch.randn(20, 12, 2, generator=torch.Generator().manual_seed(0))
    logits[:, :3] = -math.inf
    words = torch.arange(12).clamp(min=2).sub(2).expand(20, 12)        # 0, 0, 0, 1, 2, …, 9
    for row, (start, end) in zip(logits, head.decide(logits, words)):
        spans = [(i, j) for i in range(3, 12) for j in range(i, min(i + 4, 12))]
        best = max(spans, key=lambda span: (row[span[0], 0] + row[span[1], 1]).item())
        assert (start, end) == (best[0] - 3, best[1] - 2)


def test_scores():
    assert tasks.entities_of([0, 1, 1, 2, 0, 2]) == {(1, 3, 1), (3, 4, 2), (5, 6, 2)}
    assert tasks.entities_of([]) == set()
    assert score("sentiment", [1, 0, 1], [1, 1, 1]) == pytest.approx(2 / 3)
    assert score("answer", [(1, 2), (3, 5)], [(1, 2), (3, 4)]) == 0.5
    # found: 2 entities, of which 1 is right; there are 2
    assert score("entities", [[1, 1, 0, 2]], [[1, 1, 0, 1]]) == 0.5


# ---- the passages

def test_passages_are_alike_by_seed_and_hold_their_answers():
    for load in (passages.load_entities, passages.load_questions):
        assert load(5, 1) == load(5, 1)
        assert load(5, 1)[0] != load(5, 2)[0]
        assert load(5, 1)[1] == load(9, 2)[1]
    for q in sum(passages.load_questions(200, 0), []):
        assert 0 < q.start < q.end <= len(q.passage) and q.question[-1] == "?"
    for words, tags in sum(passages.load_entities(200, 0), []):
        assert len(words) == len(tags) and max(tags) < len(passages.TAGS)


def test_new_names_are_in_no_text_to_learn_from():
    every = names.WOMEN + names.MEN + names.FAMILIES + names.TOWNS + names.MADE
    new = {name for name in every if names.is_new(name)}
    assert 0.4 < len(new) / len(every) < 0.6
    seen = {word for words, _ in passages.load_entities(500, 0)[0] for word in words}
    seen |= {word for q in passages.load_questions(500, 0)[0] for word in q.passage + q.question}
    for text in passages.unlabelled():
        seen |= set(re.findall(r"\w+", text))
    for pair in passages.unlabelled_reports():
        seen |= {*pair.first, *pair.second}
    assert not new & seen
    test = passages.load_entities(1, 0)[1]
    assert sum(bool(new & set(words)) for words, _ in test) > len(test) / 3


def test_in_half_of_the_reports_every_name_is_invented():
    n_invented = 0
    for pair in passages.unlabelled_reports():          # 30 (see the fixture above)
        capitals = {word for word in pair.second if word[0].isupper()}
        firsts = {pair.second[0]} | {pair.second[i + 1] for i, word in enumerate(pair.second[:-1]) if word == "."}
        firsts -= {"The"}                               # "The wedding of …"
        assert firsts <= capitals and firsts
        is_listed = {first in names.LISTED for first in firsts}
        assert len(is_listed) == 1                      # in one report all are invented, or none
        n_invented += is_listed == {False}
        if is_listed == {False}:
            assert not capitals & (names.LISTED - {*names.MONTHS})
    assert 8 < n_invented < 22


def test_invented_names_have_a_gender_and_are_many():
    drawn = names.InventedNames(random.Random(0), new=False)
    found = {draw() for draw in [drawn.first, drawn.family, drawn.town] * 2000}
    assert len(found) > 2000 and not found & names.LISTED
    assert not found & {"He", "She", "His", "Her", "The"}
    assert names.is_mans("Molbrur") and not names.is_mans("Sturi")
    assert all(names.is_mans(name) for name in names.MEN if name not in names.WOMEN)
    assert not any(names.is_mans(name) for name in names.WOMEN if name not in names.MEN)


def test_reports_tell_every_fact_where_they_say():
    drawn = names.Names(random.Random(0), new=False)
    for _ in range(100):
        people, facts = passages.facts_of_two(drawn)
        assert [kind for kind, _ in facts[0][:2]] == [kind for kind, _ in facts[1][:2]]
        words, where = passages.tell(people, facts, drawn.rng)
        told = {}
        for name, known in zip(people, facts):
            assert name in " ".join(words)
            for kind, text in known:
                told[name, kind] = text.split()
        assert {key: words[start:end] for key, (start, end) in where.items()} == told
        words, _ = passages.tell(people, facts, drawn.rng, always_named=True)
        for name, known in zip(people, facts):
            assert " ".join(words).count(name) == len(known)
            assert not {"He", "he", "She", "she", "His", "his", "Her", "her"} & set(words)


def test_both_of_two_reports_tell_the_same():
    drawn = names.Names(random.Random(0), new=False)
    n_named = 0
    for _ in range(200):
        pair = passages.two_reports(drawn)
        first, second = passages.join(pair.first), passages.join(pair.second)
        assert sorted(re.findall("[0-9]+", first)) == sorted(re.findall("[0-9]+", second))
        for start, end in pair.gaps:
            fact = passages.join(pair.second[start:end])
            assert fact in first and fact in second
        pronouns = r"\b(?:he|she|his|her)\b"
        assert not re.search(pronouns, second, re.IGNORECASE)
        n_named += not re.search(pronouns, first, re.IGNORECASE)
    assert 0.35 < n_named / 200 < 0.65                  # at random, every other one


def test_one_word_has_several_tags():
    learn, _ = passages.load_entities(2000, 0)
    found = {}
    for words, tags in learn:
        for word, tag in zip(words, tags):
            found.setdefault(word, set()).add(passages.TAGS[tag])
    assert found["May"] >= {"person", "date", "other"}
    assert found["Florence"] >= {"person", "place"}
    assert found["Harper"] >= {"person", "organisation"}


# ---- learning

@pytest.mark.parametrize("task", bert.HEADS)
def test_every_head_overfits_a_few_texts(task, text_file, tmp_path):
    cfg = tiny(text_file, tmp_path, few=8, tune_steps=60, tune_batch=8, tune_dropout=0.0,
               n_embd=32)
    tokenizer = WordPieceTokenizer.train(passages.unlabelled(), 500)
    data = make_task(task, cfg, tokenizer)
    torch.manual_seed(0)
    model = bert.fine_tune(bert.BERT(cfg, tokenizer.vocab_size), data, 3e-3, cfg, tokenizer)
    model.eval()
    assert model.head.loss(model(data.learn, tokenizer.pad), data.y).item() < 0.3


def test_one_batch_is_learnt_by_heart():
    tokenizer = small_tokenizer()
    model = small_model(V=tokenizer.vocab_size)
    rng = torch.Generator().manual_seed(0)
    idx = torch.randint(5, 30, (4, 16), generator=rng)
    batch = bert.hide(plain_rows(idx), tokenizer, 0.3, rng)

    def loss():
        return bert.mlm_loss(model, batch, tokenizer.pad)
    assert learnt_by_heart(model, loss, 60) < 0.05


# ---- the run

def test_sampling(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path)
    bert.train(cfg)
    out = f"--out_dir={cfg.out_dir}"
    [row, other] = bert.main(["sample", out, "--text=the [MASK] saw the [MASK]"])
    shares = [float(p) for p in re.findall(r"([\d.]+)%", row)]
    assert len(shares) == 5 == other.count("%")
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.1

    found = bert.main(["sample", out, "--task=sentiment", "--text=It was a mess."])
    assert [line.split()[0] for line in found] == ["bad", "good"]
    found = bert.main(["sample", out, "--task=entities", "--text=May left Lyon."])
    assert [line.split()[0] for line in found] == ["May", "left", "Lyon", "."]
    found = bert.main(["sample", out, "--task=answer", "--text=May lives in Lyon.",
                       "--question=Where does May live?"])
    assert found[0] in "May lives in Lyon ."

    for argv, words in ((["--text="], "which text"), (["--text=no mask"], "[MASK]"),
                        (["--text=" + "a " * 140 + "[MASK]"], "positions"),
                        (["--task=answer", "--text=May left."], "which question"),
                        (["--task=entities", "--text= "], "which text")):
        assert words in refused_by(bert.main, capsys, "sample", out, *argv)
    shutil.copy(tmp_path / "run/sentiment.pt", tmp_path / "run/entities.pt")
    error = refused_by(bert.main, capsys, "sample", out, "--task=entities", "--text=May left.")
    assert "entities.pt" in error and "sentiment" in error


@pytest.mark.paper
def test_published_weights_are_tuned_and_fill_blanks(text_file, tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(PUBLISHED.parent, folder)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    letters = [*alphabet, *(f"##{c}" for c in alphabet)]
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *letters, *".,?'"]))
    weights = f"{folder}/model.safetensors"
    [row] = bert.main(["sample", f"--init_from={weights}", "--text=the [MASK]", "--device=cpu"])
    assert row.count("%") == 5
    refused(lambda: bert.train(tiny(text_file, tmp_path, init_from=weights, steps=0)), "positions")


def test_bad_reviews(text_file, tmp_path, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text("one\tgood\ntwo three\n")
    flags = [f"--reviews={path}", f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    assert "line 2" in refused_by(bert.main, capsys, *flags)


def test_reports_come_first_then_tales_and_reviews_then_all_kinds(text_file, tmp_path, drawn):
    """Told apart by the number of their rows: reports have the fewest here, tales and reviews the
    most. Of the last 320 batches 50, 15 and 35 % should be of tales and reviews, made-up texts and
    reports, within four standard deviations."""
    bert.train(tiny(text_file, tmp_path, steps=400, reports_first=0.1, texts_first=0.1, log_every=0,
                    eval_every=0, n_embd=8, d_ff=8, n_test=5, keep=False))
    assert len(drawn) == 400
    n_reports, n_made_up, n_own = sorted(set(drawn))
    assert set(drawn[:40]) == {n_reports} and set(drawn[40:80]) == {n_own}
    for n, share in ((n_own, 0.5), (n_made_up, 0.15), (n_reports, 0.35)):
        spread = math.sqrt(320 * share * (1 - share))
        assert abs(drawn[80:].count(n) - 320 * share) < 4 * spread


def test_vectors_of_tokens_rest_while_reports_alone_are_read(text_file, tmp_path):
    """Adam would move those of tokens that reports do not have as fast as all others."""
    after = {}
    for steps in (1, 2, 3):
        bert.train(tiny(text_file, tmp_path, steps=4, reports_first=0.5, texts_first=0.25,
                        stop_after=steps))
        after[steps] = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["model"]
    for name, rests in (("wte.weight", True), ("bias", True), ("h.0.conv.weight", False)):
        assert torch.equal(after[1][name], after[2][name]) == rests
        assert not torch.equal(after[2][name], after[3][name])
    assert after[2]["bias"].eq(0).all()


def test_what_was_learnt_from_reports_is_kept(text_file, tmp_path, monkeypatch):
    """The vectors of tokens stay, and each step of tuning adds the loss of a batch of reports."""
    cfg = tiny(text_file, tmp_path, few=8, tune_steps=3)
    tokenizer = WordPieceTokenizer.train(passages.unlabelled(), 500)
    task = make_task("answer", cfg, tokenizer)
    torch.manual_seed(0)
    model = bert.BERT(cfg, tokenizer.vocab_size)
    batches = []
    original = bert.mlm_loss

    def mlm_loss(model, batch, pad):
        batches.append(batch)
        return original(model, batch, pad)
    monkeypatch.setattr(bert, "mlm_loss", mlm_loss)
    kept = bert.fine_tune(model, task, 1e-3, cfg, tokenizer, keep=True).bert
    assert len(batches) == 3 and all(batch.chosen.any() for batch in batches)
    assert [len(batch.idx) for batch in batches] == 3 * [cfg.tune_batch // 2]
    assert all((batch.shown[batch.chosen] == tokenizer.mask).all() for batch in batches)
    plain = bert.fine_tune(model, task, 1e-3, cfg, tokenizer).bert
    assert len(batches) == 3
    for name in ("wte", "wpe", "wtt"):
        before = getattr(model, name).weight
        assert torch.equal(getattr(kept, name).weight, before)
        assert not torch.equal(getattr(plain, name).weight, before)
    # attention weights are dropped while nothing is to be kept, the rest always
    assert [block.attn.attn_dropout.p for block in kept.h] == cfg.n_layer * [0]
    for dropout in (kept.dropout, kept.h[0].attn.resid_dropout, kept.h[0].mlp.dropout,
                    plain.h[0].attn.attn_dropout):
        assert dropout.p == cfg.tune_dropout > 0
    # the mlm bias gets a gradient from the reports alone
    assert not torch.equal(kept.bias, model.bias)
    close(plain.bias, model.bias, 1e-9)


def test_own_reviews_are_read_without_their_labels_too(text_file, tmp_path):
    """The base once read our texts and not the thousands of the user's own file: on those, a bag of
    words was better."""
    path = tmp_path / "mine.tsv"
    lines = [f"it was {w} number {i}\t{w}\n" for i in range(30) for w in ("fine", "poor", "odd")]
    path.write_text("".join(lines))
    cfg = tiny(text_file, tmp_path, reviews=str(path), steps=2)
    texts = tasks.unlabelled_texts(cfg)
    assert sum(text.startswith("it was") for text in texts) == 81       # a tenth is held out
    result = bert.train(cfg)
    found = ["pre-trained", "pre-trained and naive Bayes", "bag of words", "naive Bayes", "naive Bayes, EM"]
    assert list(result["scores"]["sentiment"]) == found
    result = bert.train(replace(cfg, resume=True, scratch=True))
    assert list(result["scores"]["sentiment"]) == [*found[:2], "from scratch", *found[2:]]


def test_own_reviews_alone_are_read_and_learnt(text_file, tmp_path, drawn, capsys):
    """With half of the steps on made-up texts, film reviews were read worse than by naive Bayes."""
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"it was {w} number {i}\t{w}\n" for i in range(30) for w in ("a", "b")))
    flags = dict(reviews=str(path), steps=12, reports_first=0.25, n_test=5)
    result = bert.train(tiny(text_file, tmp_path, **flags))
    assert len(drawn) == 12 and len(set(drawn)) == 1
    assert list(result["scores"]) == ["sentiment"]
    assert not (tmp_path / "run/answer.pt").exists()
    assert "no made-up text" in capsys.readouterr().out
    cfg, model, _ = bert.load(bert.Config(out_dir=str(tmp_path / "run")))
    bert.choose_trained(model, 0, cfg)                      # nothing rests, as no reports come first
    assert model.wte.weight.requires_grad and model.bias.requires_grad
    table = bert.evaluate(bert.Config(out_dir=str(tmp_path / "run")))
    assert list(table) == ["sentiment"] and list(table["sentiment"]) == [
        "20, seed 1", "20, seed 2", "20, seed 3", "6, seed 1", "54, seed 1"]        # of 60 a tenth is held out
    asked = bert.Config(out_dir=str(tmp_path / "run"), task="answer", text="a", question="a")
    refused(lambda: bert.sample(asked), "no model tuned for answer", "--all_tasks")

    refused(lambda: bert.check(bert.Config(data=str(path), reviews=str(path))), "--data", "--reviews")
    other_name = path.parent / "." / ".." / path.parent.name / path.name                # of the same file
    refused(lambda: bert.check(bert.Config(data=str(path), reviews=f"{other_name}")), "--data", "--reviews")

    # going on after the end: what was tuned from the old weights is gone
    bert.main(["--resume", "--steps=14", "--stop_after=1", f"--out_dir={tmp_path}/run"])
    assert not (tmp_path / "run/sentiment.pt").exists()

    drawn.clear()
    result = bert.train(tiny(text_file, tmp_path, all_tasks=True, **flags))
    assert len(set(drawn[:12])) > 1 and list(result["scores"]) == ["sentiment", "entities", "answer"]


def test_few_0_learns_from_all_own_reviews(text_file, tmp_path):
    """The other two tasks have no such end, and once refused to begin."""
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"it was {w} number {i}\t{w}\n" for i in range(30) for w in ("a", "b")))
    cfg = tiny(text_file, tmp_path, reviews=str(path), few=0)
    tokenizer = WordPieceTokenizer.train(passages.unlabelled(), 500)
    assert len(make_task("sentiment", cfg, tokenizer).y) == 54          # a tenth is held out
    assert len(make_task("entities", cfg, tokenizer).y) == 2 * tasks.FEW


def test_n_test_is_honoured_and_reported(text_file, tmp_path, capsys):
    result = bert.train(tiny(text_file, tmp_path, steps=2, n_test=7))
    assert result["n"] == {"sentiment": 7, "entities": 7, "answer": 7}
    assert result["tune_steps"] == {"sentiment": 2, "entities": 2, "answer": 2}
    assert "held-out answer (n = 7)" in capsys.readouterr().out
    result = bert.train(tiny(text_file, tmp_path, steps=2))
    assert result["n"] == {"sentiment": 30, "entities": 30, "answer": 30}


def test_a_task_is_not_trained_for_longer_than_the_model():
    def steps(keeping, n_rows, **settings):
        task = SimpleNamespace(y=torch.zeros(n_rows))
        return bert.tune_steps(bert.Config(**settings), task, keeping)
    for keep, usual in ((False, bert.TUNE_STEPS), (True, bert.KEEP_STEPS)):
        assert steps(keep, 300) == usual == steps(keep, 300, **bert.PRESETS["published"])
        assert steps(keep, 10000) == 4 * 10000 // 32 > usual
        assert steps(keep, 300, steps=3) == 3
        assert steps(keep, 300, steps=3, tune_steps=9) == 9



def test_evaluate(text_file, tmp_path):
    cfg = tiny(text_file, tmp_path, few=9)
    bert.train(cfg)
    tables = bert.evaluate(bert.Config(out_dir=cfg.out_dir, device="cpu"))
    assert [len(rows) for rows in tables.values()] == [5, 5, 5]
    assert json.loads((tmp_path / "run/evaluate.json").read_text()) == tables
    assert all("from scratch" in scores for rows in tables.values() for scores in rows.values())
