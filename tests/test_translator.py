"""mini/translator.py against torch.nn.Transformer, against numpy and exhaustive search, and against the classic bugs."""
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
from tests.helpers import as_torch_has_it, close, every_dropout_acts
from tests.helpers import refused as refused_call
from tests.helpers import refused_by

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


def small_model(n_source=20, n_target=23, seed=0, **sizes):
    torch.manual_seed(seed)
    cfg = translator.Config(**{**dict(n_layer=2, n_head=4, n_embd=32, d_ff=48, max_len=12, dropout=0.0), **sizes})
    model = translator.Transformer(cfg, n_source, n_target)
    for p in model.parameters():            # biases and norms too, far from their initial values
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def sentences(lengths, V, bos=False, seed=1):
    """Random ones, filled up with PAD, the last word EOS: (len(lengths), max(lengths))."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in zip(rows, lengths):
        row[:n] = torch.randint(3, V, (n,), generator=rng)
        row[n - 1] = translator.EOS
        if bos:
            row[0] = translator.BOS
    return rows


# ---- parity with torch.nn.Transformer

@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_and_every_gradient_equal_torch(dtype, tolerance):
    model = small_model().to(dtype)
    sizes = dict(d_model=32, nhead=4, dim_feedforward=48, dropout=0.0, batch_first=True)
    reference = torch.nn.Transformer(batch_first=True, d_model=32, nhead=4, custom_encoder=torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(**sizes), 2, enable_nested_tensor=False), custom_decoder=torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(**sizes), 2)).to(dtype)
    reference.load_state_dict(as_torch_has_it(model.state_dict()))
    x, y = sentences([7, 3, 9, 1], 20), sentences([6, 10, 4, 3], 23, bos=True)
    hidden = torch.zeros(x.shape, dtype=dtype).masked_fill(x == translator.PAD, -math.inf)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(9, dtype=dtype)
    want = reference(model.embed(model.embed_x, x), model.embed(model.embed_y, y[:, :-1]), tgt_mask=causal,
                     src_key_padding_mask=hidden, memory_key_padding_mask=hidden) @ model.embed_y.weight.T
    embeddings, parameters = [model.embed_x.weight, model.embed_y.weight], dict(reference.named_parameters())
    grads = torch.autograd.grad(translator.loss_of(want, y[:, 1:], 0.1), [*parameters.values(), *embeddings])
    logits = model(x, y[:, :-1])
    close(logits.detach(), want.detach(), tolerance)
    translator.loss_of(logits, y[:, 1:], 0.1).backward()
    ours = as_torch_has_it({name: p.grad for name, p in model.named_parameters()})
    assert set(ours) == set(parameters)
    for name, grad in zip([*parameters, *embeddings], grads):
        close(ours[name] if name in parameters else name.grad, grad, tolerance)


def test_attention_is_the_formula_in_numpy():
    torch.manual_seed(0)
    attention = translator.Attention(translator.Config(n_embd=6, n_head=1)).double().eval()
    x, memory, hidden = torch.randn(1, 3, 6).double(), torch.randn(1, 5, 6).double(), torch.tensor([0, 0, 0, 1, 0]) == 1
    W = {name: p.detach().numpy() for name, p in attention.named_parameters()}
    q = x[0].numpy() @ W["q.weight"].T + W["q.bias"]
    k, v = np.split(memory[0].numpy() @ W["kv.weight"].T + W["kv.bias"], 2, axis=1)
    weights = np.exp(np.where(hidden, -np.inf, q @ k.T / np.sqrt(6)))
    weights /= weights.sum(1, keepdims=True)
    mask = torch.zeros(1, 1, 1, 5).masked_fill(hidden, -math.inf)
    close(attention(x, attention.keys(memory), mask)[0].detach(), weights @ v @ W["out.weight"].T + W["out.bias"], 1e-12)
    close(attention.weights[0, 0].detach(), weights, 1e-12)


@pytest.mark.paper
def test_positions_by_the_formula_are_added_to_scaled_embeddings():
    table, model, y = translator.positions(50, 32), small_model(), torch.tensor([[5, 6, 7]])
    for pos, i in itertools.product(range(50), range(16)):
        angle = pos / 10000 ** (2 * i / 32)
        assert table[pos, 2 * i:2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)
    want = (model.embed_y.weight[y] * math.sqrt(32) + table[:3]).detach()
    close(model.embed(model.embed_y, y).detach(), want, 1e-6)
    close(model.embed(model.embed_y, y[:, 2:], 2).detach(), want[:, 2:], 1e-6)


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    for name, p in translator.Transformer(translator.Config(n_embd=128, d_ff=512), 1000, 1500).named_parameters():
        if p.ndim == 2:         # embeddings: variance 1 / C; others Xavier's, 2 / (in + out)
            std = 128**-0.5 if name.startswith("embed") else math.sqrt(2 / sum(p.shape))
            assert p.std().item() == pytest.approx(std, rel=0.03), name


# ---- the classic bugs (PEERS: transformers)

@pytest.mark.parametrize("cached", [False, True])
def test_a_word_changes_nothing_before_it(cached):
    model, x = small_model(), sentences([5], 20)
    a = sentences([11], 23, bos=True)
    b = a.clone()
    b[0, 6] = 3 + (a[0, 6] - 2) % 20

    def logits(y):
        memory, padding = model.encode(x)
        if not cached:
            return model.decode(y, memory, padding)
        cache = model.new_cache(1)      # 4 words, then 2 at once, then one by one
        pieces = [(0, 4), (4, 6), *((n, n + 1) for n in range(6, 11))]
        return torch.cat([model.decode(y[:, i:j], memory, padding, cache, i) for i, j in pieces], dim=1)

    with torch.no_grad():
        one, other = logits(a), logits(b)
        assert torch.equal(one[:, :6], other[:, :6])
        assert (one[:, 6:] - other[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-4      # and everything after it
        close(one, model(x, a), 1e-5)


def test_what_is_hidden_stays_hidden_however_large_the_scores():
    """A mask of −1e4 instead of −∞ would be outvoted."""
    model = small_model()
    for layer in [*model.encoder, *model.decoder]:
        for attention in {layer.attn, getattr(layer, "cross", layer.attn)}:
            torch.nn.init.normal_(attention.q.weight, std=100), torch.nn.init.normal_(attention.kv.weight, std=100)
    x, y = sentences([7], 20), sentences([8], 23, bos=True)
    other = y.clone()
    other[0, 5:7] = torch.tensor([3, 4])
    padded = F.pad(x, (0, 4), value=translator.PAD)
    with torch.no_grad():
        assert torch.equal(model(x, y)[:, :5], model(x, other)[:, :5])
        assert not torch.equal(model(x, y)[:, 5:], model(x, other)[:, 5:])
        close(model(padded, y), model(x, y), 1e-4)


def test_the_padding_mask_is_on_keys_and_no_row_is_nan():
    model, x = small_model(), sentences([7, 3, 1], 20)
    mask = model.encode(x)[1]
    assert mask.shape == (3, 1, 1, 7) and torch.equal(mask[:, 0, 0],
                                                      torch.zeros(3, 7).masked_fill(x == translator.PAD, -math.inf))
    translator.loss_of(model(x, sentences([4, 4, 4], 23, bos=True)), sentences([4, 2, 3], 23)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_sentence_is_translated_as_if_alone():
    model, lengths = small_model(), [7, 3, 11, 1, 5]
    x, y = sentences(lengths, 20), sentences([6, 9, 4, 3, 2], 23, bos=True)
    with torch.no_grad():
        together = model(x, y)
        for i, n in enumerate(lengths):
            m = int((y[i] != translator.PAD).sum())
            close(together[i, :m], model(x[i:i + 1, :n], y[i:i + 1, :m])[0], 1e-5)
    for search in (translator.greedy, lambda model, x: translator.beam_search(model, x, 3)):
        rows = search(model, x)
        for i, n in enumerate(lengths):
            alone = search(model, x[i:i + 1, :n])[0]
            assert torch.equal(rows[i, :len(alone)], alone) and (rows[i, len(alone):] == translator.PAD).all()


def test_dropout_acts_in_training_only_and_in_all_places():
    model = small_model(dropout=0.5)
    x, y = sentences([5, 3], 20), sentences([4, 6], 23, bos=True)
    every_dropout_acts(model, 1 + 2 * 2, x, y)
    # what a sub-layer adds is dropped, not the sum: with p nearly 1 the layer normalises its input alone
    for layer, norms, more in ((model.encoder[0], 2, ()), (model.decoder[0], 3, (torch.zeros(2, 1, 4, 4, 8), torch.zeros(1)))):
        layer.dropout.p, want = 1 - 1e-7, (h := torch.randn(1, 4, 32))
        for n in range(norms):
            want = getattr(layer, f"ln_{n + 1}")(want)
        close(layer(h, torch.zeros(1), *more).detach(), want.detach(), 1e-5)


# ---- the loss, the learning rate, batches

@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_by_the_formula(smoothing):
    torch.manual_seed(0)
    V, y = 7, torch.tensor([[3, 4, 2, translator.PAD], [5, 2, translator.PAD, translator.PAD]])
    logits = torch.randn(2, 4, V, dtype=torch.float64)
    total, words = 0.0, 0
    for b, t in itertools.product(range(2), range(4)):
        if y[b, t] != translator.PAD:
            p = np.exp(logits[b, t, 1:].numpy())
            p /= p.sum()
            q = np.full(V - 1, smoothing / (V - 1))
            q[y[b, t] - 1] += 1 - smoothing
            total, words = total - (q * np.log(p)).sum(), words + 1
    assert translator.loss_of(logits, y, smoothing).item() == pytest.approx(total / words, rel=1e-12)
    other = logits.clone()
    other[:, :, translator.PAD], other[y == translator.PAD] = 50.0, 1e3           # nothing about PAD matters
    assert translator.loss_of(other, y, smoothing).item() == pytest.approx(total / words, rel=1e-12)


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


def test_targets_are_the_next_words(pairs_file, tmp_path, monkeypatch):
    seen, decode, loss = [], translator.Transformer.decode, translator.loss_of
    monkeypatch.setattr(translator.Transformer, "decode", lambda self, y, *a: seen.append(y) or decode(self, y, *a))
    monkeypatch.setattr(translator, "loss_of", lambda logits, y, s: seen.append(y) or loss(logits, y, s))
    translator.train(tiny(pairs_file, tmp_path, steps=1))
    y, target = seen[:2]
    assert (y[:, 0] == translator.BOS).all() and torch.equal(y[:, 1:], target[:, :-1])
    assert (target == translator.EOS).sum() == len(y)


# ---- translating

def test_cached_equals_uncached_and_a_beam_of_1_greedy():
    model, x, sizes = small_model(), sentences([7, 3, 11, 1, 5, 9], 20), []
    plain = model.decode
    model.decode = lambda y, *args: sizes.append(y.size(1)) or plain(y, *args)
    y = translator.greedy(model, x)
    assert sizes == [1] * y.size(1)                             # only what is new
    assert torch.equal(y, translator.greedy(model, x, use_cache=False)) and sizes[-1] == y.size(1)
    assert torch.equal(y, translator.beam_search(model, x, 1))             # a beam of width 1 is greedy
    for k in (1, 3, 5):
        assert torch.equal(translator.beam_search(model, x, k), translator.beam_search(model, x, k, use_cache=False))


def test_greedy_is_always_the_likeliest_word_but_pad():
    model, x = small_model(), sentences([7, 3], 20)
    model.embed_y.weight.data[translator.PAD] = 100 * torch.randn(32)      # would often be the likeliest
    for i, row in enumerate(translator.greedy(model, x).tolist()):
        y = [translator.BOS]
        while row and y[-1] != translator.EOS:
            y.append(row.pop(0))
            logits = model(x[i:i + 1], torch.tensor([y[:-1]]))[0, -1]
            assert y[-1] == 1 + logits[1:].argmax()
        assert row == [translator.PAD] * len(row) and (y[-1] == translator.EOS or len(y) == model.cfg.max_len + 2)
    for row in translator.beam_search(model, x, 3).tolist():
        assert translator.PAD not in row[:row.index(translator.EOS) if translator.EOS in row else None]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_beam_is_exhaustive_search(alpha, seed):
    """All translations of up to three words from BOS and three more (EOS ends them; without it they are cut off)."""
    model = small_model(n_target=6, n_embd=8, n_head=2, max_len=3, seed=seed)
    x = sentences([3, 2], 20, seed=seed)
    scored = [[], []]
    for n in range(1, 5):
        ys = [y for y in itertools.product([w for w in range(6) if w != translator.PAD], repeat=n)
              if translator.EOS not in y[:-1] and (n == 4 or y[-1] == translator.EOS)]
        for row, candidates in zip(x, scored):
            words = torch.tensor(ys)
            y = F.pad(words[:, :-1], (1, 0), value=translator.BOS)
            logits = model(row[None, :int((row != translator.PAD).sum())].expand(len(y), -1), y).detach()
            log_p = F.log_softmax(logits[:, :, 1:], dim=2).gather(2, words[:, :, None] - 1).sum((1, 2))
            candidates += zip((log_p / ((5 + n) / 6) ** alpha).tolist(), map(list, ys))
    assert len(scored[0]) == 1 + 4 + 16 + 64 * 5
    rows = translator.beam_search(model, x, 5**4, alpha).tolist()
    assert [[w for w in row if w != translator.PAD] for row in rows] == [max(candidates)[1] for candidates in scored]


def test_what_has_ended_takes_one_place_in_the_beam():
    """By hand, α = 5: "3 4" beats EOS in the end; until then it is third if words may follow EOS (0.6 · 0.9), or second."""
    table = {(): [0, 0, 0.6, 0.4, 0], (translator.EOS,): [0, 0, 0.1, 0.9, 0], (3,): [0, 0, 0, 0.35, 0.65]}

    class ByHand(translator.Transformer):
        def decode(self, y, *rest):
            rows = [table.get(tuple(row[1:]), [0, 0, 0.98, 0.01, 0.01]) for row in y.tolist()]
            return torch.tensor(rows).log().clamp(min=-1e9)[:, None]

    model = ByHand(translator.Config(n_layer=1, n_embd=4, n_head=2, max_len=3), 4, 5)
    assert translator.beam_search(model, torch.tensor([[3, translator.EOS]]), 2, 5.0,
                                  use_cache=False)[0, :3].tolist() == [3, 4, translator.EOS]


def test_flags_reach_the_search(monkeypatch):
    model, x, calls = small_model().train(), sentences([3] * 5, 20), []
    monkeypatch.setattr(translator, "beam_search", lambda model, x,
                        *flags: calls.append(flags) or translator.greedy(model, x))
    rows = translator.translate(model, x, translator.Config(beam=3, alpha=1.5), at_once=2)
    assert calls == [(3, 1.5)] * 3
    assert rows == translator.translate(model, x, translator.Config(beam=1)) and len(calls) == 3
    assert model.training and not any(translator.PAD in row for row in rows) and len(rows) == 5


def test_translations_end_at_the_longest_position():
    model = small_model()
    model.embed_y.weight.data[translator.EOS] = 0.0                    # hardly ever the end
    for y in (translator.greedy(model, sentences([4, 2], 20)), translator.beam_search(model, sentences([4, 2], 20), 3)):
        assert y.size(1) == model.cfg.max_len + 1


def test_attention_maps_are_the_weights_while_writing():
    model, x, y = small_model(), sentences([6], 20), sentences([7], 23)
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

def test_overfits_one_batch():
    model = small_model(n_layer=1, seed=1)
    x, y = sentences([7, 3, 11, 5], 20), sentences([6, 9, 4, 12], 23, bos=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.003, (0.9, 0.98), 1e-9)
    for _ in range(120):
        loss = translator.loss_of(model(x, y[:, :-1]), y[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(translator.greedy(model, x), y[:, 1:])


def test_end_to_end(pairs_file, tmp_path, capsys, monkeypatch):
    result = translator.train(tiny(pairs_file, tmp_path, steps=150, eval_every=50, sample_every=70, n_embd=32, warmup=40,
                                   batch_size=16, lr=0.5))
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text()) == result
    assert {"model", "steps", "seconds", "parameters", "device"} <= set(result)
    shares = result["exact_match"]["sentences"]
    assert shares["model"] > 0.9 > shares["word by word"] >= shares["copying"] == 0.0
    assert result["bleu"]["sentences"]["model"] > result["bleu"]["sentences"]["copying"]
    log = (run / "log.csv").read_text().splitlines()
    assert log[0] == "step,seconds,loss,lr,exact_match" and len(log) == 151
    assert float(log[-1].split(",")[-1]) > 0.9 and log[-2].split(",")[-1] == ""
    assert "\n    " in (run / "samples/step_000070.txt").read_text("utf-8")
    assert read_png(run / "samples/attention.png").shape[2] == 1
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
    for content, words in ((b"caf\xe9\tcafe\n", "UTF-8"), (b"Go.\tVa !\nRun.\n", "line 2: 1 column"), (b"\n", "not two pairs"),
                           (b"Go.\tVa !\nRun.\tCours !\ta\n", "line 2: 3 columns, but 2"), (new_words, "bring more pairs")):
        path.write_bytes(content)
        assert words in refused(capsys, *run, f"--data={path}")
    assert "below 1000" in refused(capsys, *run, "--n_pairs=10") and not (tmp_path / "run").exists()


def test_bad_sizes(pairs_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1", f"--data={pairs_file}"]
    for flags, word in (("n_embd=6 n_embd=0 n_head=0 n_layer=0 d_ff=0 batch_size=0 beam=0 max_len=0 n_embd=12", "--n_head"),
                        ("smoothing=1 smoothing=-0.1 dropout=1 dropout=-0.1 alpha=-1", "at least 0"), ("max_len=1", "--max_len")):
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
