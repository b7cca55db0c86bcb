"""Scores of language models (mini/utils/metrics.py, mini/studies/context.py) against slow and simple versions."""
import math
import random
from collections import Counter, defaultdict

import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import lstm
from mini.data.text.corpus import Corpus, longest_copied_run, piece_starts, read_text, split_text
from mini.data.text.tokenizers import CharTokenizer
from mini.studies import attention
from mini.studies.context import by_place, losses_by_context, losses_by_place, powers_of_two
from mini.utils.metrics import KneserNey, bigram_loss, bits_per_byte, text_report, text_scores

# ---- Kneser–Ney

def direct_kneser_ney(tokens, V, order):
    """p(w, context) by the formula of Chen & Goodman (1999), with counts in dictionaries and recursion. What stands
    before the text are signs V, as many as the longest context needs."""
    tokens = [V] * (order - 1) + list(tokens)
    after = [defaultdict(Counter) for _ in range(order)]        # [k][context of length k][w]
    k = order - 1
    for i in range(k, len(tokens)):
        after[k][tuple(tokens[i - k:i])][tokens[i]] += 1
    for k in range(order - 2, -1, -1):                          # how many different tokens stood before it
        for context, followers in after[k + 1].items():
            for w in followers:
                after[k][context[1:]][w] += 1
    discounts = []
    for table in after:
        counts = [n for followers in table.values() for n in followers.values()]
        once, twice = counts.count(1), counts.count(2)
        discounts.append(once / (once + 2 * twice) if once else 0.5)

    def p(w, context):
        k = len(context)
        shorter = p(w, context[1:]) if k else 1 / V
        followers = after[k].get(tuple(context))
        if not followers:
            return shorter
        D, total = discounts[k], sum(followers.values())
        return (max(followers[w] - D, 0) + D * len(followers) * shorter) / total
    return p


def some_text(n, V, seed):
    """Tokens of which some contexts come again and again, some once, some never."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(V) for _ in range(rng.randrange(1, 7))] for _ in range(8)]
    tokens = []
    while len(tokens) < n:
        tokens += rng.choice(phrases) if rng.random() < 0.7 else [rng.randrange(V)]
    return tokens[:n]


@pytest.mark.parametrize("V, order, n", [(5, 5, 300), (30, 5, 400), (30, 2, 200), (3, 4, 60), (1000, 3, 300), (4, 5, 6)])
def test_kneser_ney_equals_a_direct_implementation(V, order, n):
    train, held_out = some_text(n, V - 1, 0), some_text(60, V, 0)       # one token is never seen in training
    model, p = KneserNey(torch.tensor(train), V, order), direct_kneser_ney(train, V, order)
    losses = model.losses(torch.tensor(held_out))
    padded = [V] * (order - 1) + held_out
    for i in range(1, len(held_out)):
        context = padded[i:i + order - 1]
        assert math.exp(-losses[i - 1].item()) == pytest.approx(p(held_out[i], context), rel=1e-10)
    for i in (1, 2, 30):
        probs = model.probs(torch.tensor([held_out[:i]]))[0]
        context = padded[i:i + order - 1]
        assert probs.tolist() == pytest.approx([p(w, context) for w in range(V)], rel=1e-10)


def test_kneser_ney_sums_to_one_and_leaves_nothing_impossible():
    model = KneserNey(torch.tensor(some_text(500, 20, 1)), 25)
    idx = torch.tensor([some_text(6, 25, seed) for seed in range(200)])
    probs = model.probs(idx)
    assert (probs.sum(1) - 1).abs().max() < 1e-12 and probs.min() > 0


def test_kneser_ney_knows_francisco():
    """Frequent, but only ever after "San": after a new word it is less likely than a rarer word of many neighbours."""
    san, francisco, cat, new = 0, 1, 2, 9
    text = [san, francisco] * 20
    for other in range(3, 9):
        text += [other, cat]
    probs = KneserNey(torch.tensor(text), 10).probs(torch.tensor([[new]]))[0]
    assert probs[cat] > probs[francisco] and text.count(francisco) > text.count(cat)


def test_kneser_ney_of_documents_leaves_out_their_first_tokens():
    train = torch.tensor(some_text(400, 9, 2))
    documents = [torch.tensor(some_text(n, 9, n)) for n in (30, 2, 50)]
    model = KneserNey(train, 9)
    losses = model.losses(torch.cat(documents))
    kept = [losses[i - 1].item() for i in range(1, 82) if i not in (30, 32)]
    assert model.loss(documents) == pytest.approx(sum(kept) / len(kept), rel=1e-12)


# ---- the context curve

@pytest.mark.parametrize("module, Model, sizes", [
    (train_gpt, train_gpt.GPT, dict(n_head=2, fused=False)), (lstm, lstm.LSTM, {})])
def test_the_paired_curve_equals_a_slow_loop(module, Model, sizes):
    torch.manual_seed(0)
    model = Model(module.Config(n_layer=2, n_embd=16, block_size=16, dropout=0.3, **sizes), 11)
    tokens = torch.randint(11, (200,))
    contexts = powers_of_two(16)
    assert contexts == [1, 2, 4, 8, 16] and powers_of_two(12) == [1, 2, 4, 8, 12]
    losses = losses_by_context(model, tokens, contexts, n=70)
    assert model.training
    model.eval()
    positions = 16 + torch.randperm(184, generator=torch.Generator().manual_seed(0))[:70]
    for i, context in enumerate(contexts):
        for j, t in enumerate(positions):
            logits = model(tokens[t - context:t][None])[0, -1]
            assert losses[i, j].item() == pytest.approx(-F.log_softmax(logits, 0)[tokens[t]].item(), abs=1e-5)


def test_the_loss_by_place_is_that_of_the_whole_document():
    torch.manual_seed(0)
    model = train_gpt.GPT(train_gpt.Config(n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.3), 11)
    documents = [torch.randint(11, (n,)) for n in (9, 17, 30)]
    losses, places = losses_by_place(model, documents)
    assert places.tolist() == [*range(1, 9), *range(1, 17), *range(1, 17)] and model.training
    mean = train_gpt.estimate_loss(model, [tokens[:17] for tokens in documents])
    assert losses.mean().item() == pytest.approx(mean, rel=1e-5)
    rows = by_place(model, documents)
    assert [*rows] == ["1 to 1 tokens", "2 to 3 tokens", "4 to 7 tokens", "8 to 15 tokens"]
    assert rows["4 to 7 tokens"]["nats"] == pytest.approx(losses[(places >= 4) & (places < 8)].mean().item())


def test_pieces_begin_where_documents_do():
    """A short document is read from its beginning, a long one from anywhere, and no piece runs out of the text."""
    lengths = [3, 20, 8, 9, 5]
    documents = [torch.arange(n) for n in lengths]
    starts = piece_starts(documents, 8)
    assert starts.tolist() == [0, *range(3, 15), 23, 31]          # 45 tokens: the last start is 45 − 9 = 36
    assert piece_starts([torch.arange(30)], 8).tolist() == list(range(22))         # one text: anywhere


# ---- scores

def slow_bigram(train, held_out, V, pull):
    """The formula of the docstring, counted in Python."""
    pairs, firsts, seconds = Counter(zip(train, train[1:])), Counter(train[:-1]), Counter(train[1:])

    def p(b, a):
        p_b = (seconds[b] + 1) / (len(train) - 1 + V)
        return (pairs[a, b] + pull * p_b) / (firsts[a] + pull)
    return -sum(math.log(p(b, a)) for a, b in zip(held_out, held_out[1:])) / (len(held_out) - 1)


@pytest.mark.parametrize("V, pull, dtype", [
    (3, 10.0, torch.int64), (50, 10.0, torch.int64), (50, 0.5, torch.uint8), (60_000, 10.0, torch.int32)])
def test_bigram_against_counting(V, pull, dtype):
    rng = random.Random(V)
    near = [rng.randrange(V) for _ in range(40)]                         # some pairs come often, some never
    train, held_out = ([rng.choice([rng.choice(near[:3]), rng.choice(near), V - 1, rng.randrange(V)])
                        for _ in range(n)] for n in (400, 300))
    ours = bigram_loss(torch.tensor(train, dtype=dtype), torch.tensor(held_out, dtype=dtype), V, pull)
    assert ours == pytest.approx(slow_bigram(train, held_out, V, pull), rel=1e-12)
    if pull == 10:
        assert bigram_loss(torch.tensor(train), torch.tensor(held_out), V) == ours      # the default


def test_bits_per_byte():
    assert bits_per_byte(1000 * math.log(256), "x" * 1000) == pytest.approx(8, rel=1e-12)
    assert bits_per_byte(8 * math.log(2), "é河") == pytest.approx(8 / 5, rel=1e-12)     # bytes, not characters


def test_longest_copied_run_against_brute_force():
    rng = random.Random(0)
    for letters in ("a", "ab", "abc", "abcdefgh"):
        for _ in range(150):
            sample, text = ("".join(rng.choices(letters, k=rng.randrange(25))) for _ in range(2))
            runs = (sample[i:j] for i in range(len(sample)) for j in range(i + 1, len(sample) + 1))
            longest = max((len(run) for run in runs if run in text), default=0)
            assert longest_copied_run(sample, text) == longest, (sample, text)


def test_longest_copied_run_of_real_text():
    training, held_out = split_text(read_text("tales"))
    assert longest_copied_run(f"Q#{training[5_000:7_000]}Q#", training) == 2_000
    assert 10 < longest_copied_run(held_out[:2_000], training) < 60
    assert longest_copied_run("", training) == 0 and longest_copied_run("é", training) == 0


def test_text_scores():
    parts = ("the cat sat on the mat. " * 9, "the mat sat on the cat. é")
    tokenizer = CharTokenizer.train("".join(parts))
    tokens, held_out = (torch.tensor(tokenizer.encode(part)) for part in parts)
    corpus = Corpus([parts[0]], [parts[1]], [])
    baseline = KneserNey(tokens, tokenizer.vocab_size)
    scores = text_scores(2.0, [held_out], tokenizer.vocab_size, baseline, corpus, sample="a cat sat on it")
    assert scores == {
        "val_loss": 2.0, "bits_per_byte": pytest.approx(48 / math.log(2) / 26),
        "chance": pytest.approx(math.log(tokenizer.vocab_size)),
        "kneser_ney": baseline.loss([held_out]), "copied": len(" cat sat on "),
        "copied_held_out": longest_copied_run("the mat sat on ", parts[0])}
    report = text_report(scores)
    for word in ("2.0000", f"{scores['kneser_ney']:.4f}", f"{scores['chance']:.4f}", "12 characters"):
        assert word in report


# ---- what does attention buy?

def test_the_copying_task_repeats_its_first_half():
    x, y = attention.repeated(3, 16, 50)
    assert x.shape == y.shape == (3, 16) and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(y[:, 8:], x[:, :8]) and not torch.equal(x[:, :4], x[:, 4:8])


def test_the_study_runs_both_networks_once(tmp_path, monkeypatch):
    """Tiny runs through both train() functions; a second call finds them done."""
    monkeypatch.setattr(attention, "FOLDER", tmp_path)
    corpus = Corpus(["the cat sat on the mat. " * 40], ["the mat sat on the cat. " * 4], [])
    for name in attention.SCRIPTS:
        sizes = dict(tokenizer="char", n_layer=1, n_embd=16, block_size=16, batch_size=4, steps=2, max_new_tokens=5,
                     device="cpu")
        first = attention.run(name, f"tiny_{name}", corpus, **sizes)
        assert attention.run(name, f"tiny_{name}", corpus, **sizes) == first
        assert (tmp_path / f"tiny_{name}" / "checkpoint.pt").exists()
    rows = {"a": {"GPT": 1.0}}
    attention.report("some title, and more", rows)
    assert (tmp_path / "some_title.json").exists()
    mean, error = attention.mean_and_error([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], "x")
    assert mean == 2 and error == pytest.approx(1 / 3 ** 0.5)
