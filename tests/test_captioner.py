"""mini/captioner.py against torch's functional attention, loops and exhaustive search, and against the classic bugs."""
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import captioner
from mini.data.images import caption_scores
from mini.data.images.captions import Captioned
from mini.data.images.faces import ATTRIBUTES, WORDINGS, caption, faces
from mini.utils.lettering import labelled, lettering
from mini.utils.png import read_png, write_png
from tests.helpers import as_torch_has_it, close, every_dropout_acts, refused_by

TINY = dict(size=16, patch=8, n_images=60, n_layer=1, n_head=2, n_embd=16, d_ff=32, batch_size=4, steps=6, eval_every=3,
            sample_every=3, log_every=1, warmup=2, beam=2, n=2, device="cpu", dropout=0.1, matmul="highest")


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 12)


def tiny(tmp_path, **changes):
    return captioner.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def small_model(n_target=23, seed=0, **sizes):
    torch.manual_seed(seed)
    model = captioner.Captioner(captioner.Config(**{**dict(size=16, patch=4, n_layer=2, n_head=4, n_embd=32, d_ff=48,
                                                           max_len=12, dropout=0.0),
                                **sizes}), n_target)
    for p in model.parameters():            # biases and norms too, far from their initial values
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def pictures(n, seed=1, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def sentences(lengths, V=23, seed=1):
    """Random ones from BOS to EOS, filled up with PAD: (len(lengths), max(lengths))."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in zip(rows, lengths):
        row[:n] = torch.randint(3, V, (n,), generator=rng)
        row[0], row[n - 1] = captioner.BOS, captioner.EOS
    return rows


# ---- parity

@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_with_padding_equals_torch(masked, dtype, tolerance):
    """Outputs, weights, gradients: against F.multi_head_attention_forward and F.scaled_dot_product_attention."""
    torch.manual_seed(0)
    attention = captioner.Attention(captioner.Config(n_embd=24, n_head=3)).to(dtype).eval()
    for p in attention.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    x, memory = (torch.randn(4, n, 24, dtype=dtype, requires_grad=True) for n in (5, 9))
    hidden = (torch.arange(9) >= torch.tensor([9, 4, 1, 6])[:, None]) if masked else torch.zeros(4, 9, dtype=torch.bool)
    mask = torch.zeros(4, 9, dtype=dtype).masked_fill(hidden, -math.inf)[:, None, None] if masked else 0.0
    W = torch.cat([attention.q.weight, attention.kv.weight]), torch.cat([attention.q.bias, attention.kv.bias])
    want, weights = F.multi_head_attention_forward(
        x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), 24, 3, *W, None, None, False, 0.0,
        attention.out.weight, attention.out.bias, key_padding_mask=hidden, average_attn_weights=False)
    got = attention(x, attention.keys(memory), mask)
    close(got, want.transpose(0, 1), tolerance)
    close(attention.weights, weights, tolerance)
    q = attention.q(x).view(4, 5, 3, 8).transpose(1, 2)
    fused = F.scaled_dot_product_attention(q, *attention.keys(memory), attn_mask=~hidden[:, None, None])
    close(got, attention.out(fused.transpose(1, 2).flatten(2)), tolerance)
    inputs, r = [x, memory, *attention.parameters()], torch.randn(4, 5, 24, dtype=dtype)
    for a, b in zip(torch.autograd.grad((got * r).sum(), inputs), torch.autograd.grad((want.transpose(0, 1) * r).sum(), inputs)):
        assert a.isfinite().all()
        assert (a - b).abs().max() <= tolerance * max(b.abs().max(), 1)     # of the keys' bias it is 0, but for rounding


@pytest.mark.paper
def test_logits_and_every_gradient_equal_torch():
    model = small_model().double()
    sizes = dict(d_model=32, nhead=4, dim_feedforward=48, dropout=0.0, batch_first=True)
    reference = torch.nn.Transformer(batch_first=True, d_model=32, nhead=4, custom_encoder=torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(**sizes), 2, enable_nested_tensor=False), custom_decoder=torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(**sizes), 2)).double()
    reference.load_state_dict(as_torch_has_it(model.state_dict()))
    x, y = pictures(4).double(), sentences([6, 10, 4, 3])
    kernel = model.embed_x.weight.view(32, 3, 4, 4)         # a patch embedding is a convolution with stride P
    seen = F.conv2d(x, kernel, model.embed_x.bias, stride=4).flatten(2).transpose(1, 2) + model.positions_x
    said = F.embedding(y[:, :-1], model.embed_y.weight) * math.sqrt(32) + model.positions_y[:9]
    causal = torch.nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    want = reference(seen, said, tgt_mask=causal) @ model.embed_y.weight.T
    own = [model.embed_x.weight, model.embed_x.bias, model.embed_y.weight, model.positions_x, model.positions_y]
    parameters = dict(reference.named_parameters())
    grads = torch.autograd.grad(captioner.loss_of(want, y[:, 1:], 0.1), [*parameters.values(), *own])
    logits = model(x, y[:, :-1])
    close(logits, want, 1e-10)
    captioner.loss_of(logits, y[:, 1:], 0.1).backward()
    ours = as_torch_has_it({name: p.grad for name, p in model.named_parameters()})
    assert set(ours) == set(parameters)
    for name, grad in zip([*parameters, *own], grads):
        close(ours[name] if name in parameters else name.grad, grad, 1e-10)


def test_patches_by_a_loop():
    x, P = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12), 4
    rows = []
    for image in x:
        rows.append([])
        for top, left in itertools.product(range(0, 8, P), range(0, 12, P)):
            rows[-1].append([image[c, top + i, left + j].item() for c in range(3) for i in range(P) for j in range(P)])
    assert captioner.patches(x, P).tolist() == rows


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    for name, p in captioner.Captioner(captioner.Config(n_embd=128, d_ff=512), 1500).named_parameters():
        if p.ndim == 2:         # embeddings: variance 1 / C; others Xavier's, 2 / (in + out)
            std = 128**-0.5 if name in ("embed_y.weight", "positions_x", "positions_y") else math.sqrt(2 / sum(p.shape))
            assert p.std().item() == pytest.approx(std, rel=0.05), name


# ---- the classic bugs (PEERS: transformers)

@pytest.mark.parametrize("cached", [False, True])
def test_a_word_changes_nothing_before_it(cached):
    model, x, a = small_model(), pictures(1), sentences([11])
    b = a.clone()
    b[0, 6] = 3 + (a[0, 6] - 2) % 20

    def logits(y):
        memory = model.encode(x)
        if not cached:
            return model.decode(y, memory)
        cache = model.new_cache(1)      # 4 words, then 2 at once, then one by one
        pieces = [(0, 4), (4, 6), *((n, n + 1) for n in range(6, 11))]
        return torch.cat([model.decode(y[:, i:j], memory, cache, i) for i, j in pieces], dim=1)

    with torch.no_grad():
        one, other = logits(a), logits(b)
        assert torch.equal(one[:, :6], other[:, :6])
        assert (one[:, 6:] - other[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-4      # and everything after it
        close(one, model(x, a), 1e-5)


def test_what_is_hidden_stays_hidden_however_large_the_scores():
    """A mask of −1e4 instead of −∞ would be outvoted."""
    model, x, y = small_model(), pictures(1), sentences([8])
    for layer in model.decoder:
        torch.nn.init.normal_(layer.attn.q.weight, std=100), torch.nn.init.normal_(layer.attn.kv.weight, std=100)
    other = y.clone()
    other[0, 5:7] = torch.tensor([3, 4])
    with torch.no_grad():
        assert torch.equal(model(x, y)[:, :5], model(x, other)[:, :5])
        assert not torch.equal(model(x, y)[:, 5:], model(x, other)[:, 5:])


def test_an_image_is_described_as_if_alone():
    """No matter how long the others' captions are, what PAD is filled in, how many are described at once."""
    model, lengths, x = small_model(), [6, 9, 4, 3, 2], pictures(5)
    y = sentences(lengths)
    with torch.no_grad():
        together = model(x, y)
        for i, n in enumerate(lengths):
            close(together[i, :n], model(x[i:i + 1], y[i:i + 1, :n])[0], 1e-5)
        assert (together[0, 0] - together[1, 0]).abs().max() > 0.01     # all began with BOS: the images differ
    for search in (captioner.greedy, lambda model, x: captioner.beam_search(model, x, 3)):
        rows = search(model, x)
        for i in range(len(x)):
            alone = search(model, x[i:i + 1])[0]
            assert torch.equal(rows[i, :len(alone)], alone) and (rows[i, len(alone):] == captioner.PAD).all()


def test_where_a_patch_is_matters():
    model, x, y = small_model(), pictures(1), sentences([4])
    with torch.no_grad():
        assert (model(x, y) - model(x.flip(3), y)).abs().max() > 0.01
        turned = x.roll(4, dims=3)                                          # the same patches elsewhere
        assert (model(x, y) - model(turned, y)).abs().max() > 0.01
        model.positions_x.zero_()                                           # without positions: a set of patches
        close(model(turned, y), model(x, y), 1e-4)


def test_dropout_acts_in_training_only_and_in_all_places():
    model, x, y = small_model(dropout=0.5), pictures(2), sentences([4, 6])
    every_dropout_acts(model, 1 + 2 * 2, x, y)
    for module in model.modules():                              # one module serves patches and words: both
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5 if module is model.dropout else 0.0
    assert not torch.equal(model.embed(y), model.embed(y)) and not torch.equal(model.encode(x)[0], model.encode(x)[0])
    # what a sub-layer adds is dropped, not the sum: with p nearly 1 the layer normalises its input alone
    for layer, norms, more in ((model.encoder[0], 2, ()), (model.decoder[0], 3, (torch.zeros(1), torch.zeros(2, 1, 4, 4, 8)))):
        layer.dropout.p, want = 1 - 1e-7, (h := torch.randn(1, 4, 32))
        for n in range(norms):
            want = getattr(layer, f"ln_{n + 1}")(want)
        close(layer(h, *more), want, 1e-5)


# ---- the loss, the learning rate, batches

@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_by_the_formula_leaves_pad_out(smoothing):
    torch.manual_seed(0)
    V, y = 7, torch.tensor([[3, 4, 2, captioner.PAD], [5, 2, captioner.PAD, captioner.PAD]])
    logits = torch.randn(2, 4, V, dtype=torch.float64)
    total, words = 0.0, 0
    for b, t in itertools.product(range(2), range(4)):
        if y[b, t] != captioner.PAD:
            p = np.exp(logits[b, t, 1:].numpy())
            q = np.full(V - 1, smoothing / (V - 1))
            q[y[b, t] - 1] += 1 - smoothing
            total, words = total - (q * np.log(p / p.sum())).sum(), words + 1
    logits[:, :, captioner.PAD], logits[y == captioner.PAD] = 50.0, 1e3         # nothing about PAD matters
    assert captioner.loss_of(logits, y, smoothing).item() == pytest.approx(total / words, rel=1e-12)


def test_learning_rate_rises_and_falls():
    cfg = captioner.Config(lr=0.5, warmup=10, steps=100)
    rates = [captioner.learning_rate(step, cfg) for step in range(101)]
    assert rates[:3] == pytest.approx([0.05, 0.10, 0.15]) and rates[50] == pytest.approx(0.25) and rates[100] == 0
    assert sorted(rates[:10]) == rates[:10] and sorted(rates[10:], reverse=True) == rates[10:]
    assert captioner.learning_rate(0, captioner.Config(warmup=0, steps=1)) > 0


def test_batches_hold_images_with_captions_of_their_own():
    x = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    y = torch.zeros(40, 3, 9, dtype=torch.long)
    y[:, :, 0] = captioner.BOS
    y[:, :, 1], y[:, :, 2] = torch.arange(100, 140)[:, None], torch.arange(3, 6)    # which image, which caption
    y[:20, :, 3:6] = 7
    seen, rng = set(), torch.Generator().manual_seed(0)
    for _ in range(60):
        images, words = captioner.draw_batch(x, y, 8, rng)
        i = words[:, 1] - 100
        assert torch.equal(images, (x[i].float() / 127.5 - 1)) and words.shape[1] in (3, 6)
        assert torch.equal(words, y[i, words[:, 2] - 3, :words.size(1)]) and (words != captioner.PAD).any(0).all()
        seen |= set(zip(i.tolist(), words[:, 2].tolist()))
    assert len(seen) > 110                                                          # of 120


def test_targets_are_the_next_words(tmp_path, monkeypatch):
    seen, decode, loss = [], captioner.Captioner.decode, captioner.loss_of
    monkeypatch.setattr(captioner.Captioner, "decode", lambda self, y, *a: seen.append(y) or decode(self, y, *a))
    monkeypatch.setattr(captioner, "loss_of", lambda logits, y, s: seen.append(y) or loss(logits, y, s))
    captioner.train(tiny(tmp_path, steps=1))
    y, target = seen[:2]
    assert (y[:, 0] == captioner.BOS).all() and torch.equal(y[:, 1:], target[:, :-1])
    assert (target == captioner.EOS).sum() == len(y)


# ---- describing

def test_cached_equals_uncached_and_a_beam_of_1_greedy():
    model, x, sizes = small_model(), pictures(6), []
    plain = model.decode
    model.decode = lambda y, *args: sizes.append(y.size(1)) or plain(y, *args)
    y = captioner.greedy(model, x)
    assert sizes == [1] * y.size(1)                             # only what is new
    assert torch.equal(y, captioner.greedy(model, x, use_cache=False)) and sizes[-1] == y.size(1)
    assert torch.equal(y, captioner.beam_search(model, x, 1))             # a beam of width 1 is greedy
    for k in (1, 3, 5):
        assert torch.equal(captioner.beam_search(model, x, k), captioner.beam_search(model, x, k, use_cache=False))


@pytest.mark.parametrize("alpha, seed", [(0.0, 0), (0.6, 1), (2.0, 2)])
def test_a_full_beam_is_exhaustive_search(alpha, seed):
    """All captions of up to three words from BOS and three more (EOS ends them; without it they are cut off)."""
    model, x = small_model(n_target=6, n_embd=8, n_head=2, max_len=3, seed=seed), pictures(2, seed)
    scored = [[], []]
    for n in range(1, 5):
        ys = [y for y in itertools.product([w for w in range(6) if w != captioner.PAD], repeat=n)
              if captioner.EOS not in y[:-1] and (n == 4 or y[-1] == captioner.EOS)]
        for image, candidates in zip(x, scored):
            words = torch.tensor(ys)
            logits = model(image.expand(len(ys), -1, -1, -1),
                           F.pad(words[:, :-1], (1, 0), value=captioner.BOS)).detach()
            log_p = F.log_softmax(logits[:, :, 1:], dim=2).gather(2, words[:, :, None] - 1).sum((1, 2))
            candidates += zip((log_p / ((5 + n) / 6) ** alpha).tolist(), map(list, ys))
    rows = captioner.beam_search(model, x, 5**4, alpha).tolist()
    assert [[w for w in row if w != captioner.PAD] for row in rows] == [max(candidates)[1] for candidates in scored]


def test_padding_is_never_written():
    model, x = small_model(n_target=6), pictures(3)
    model.embed_y.weight.data[captioner.PAD] = 5.0                        # it would be likely
    log_p = captioner.next_word(model, torch.full((3, 1), captioner.BOS), model.encode(x), None)
    assert (log_p[:, captioner.PAD] == -math.inf).all()
    close(log_p.exp().sum(1), torch.ones(3), 1e-5)


def test_longer_captions_get_their_due_and_ended_ones_take_one_place(monkeypatch):
    """Chances by hand: EOS 0.5 or A 0.472, after A always A. By α = 0 the end wins; by α = 0.3 AAA, which is behind
    after two words, and would fall out of a beam of 2 if the ended caption took both places."""
    A, model = 4, small_model(n_target=6, max_len=3)

    def next_word(model, y, memory, cache):
        p = torch.full((len(y), 6), 1e-9)
        for row, words in zip(p, y.tolist()):
            if words[-1] == captioner.BOS:
                row[captioner.EOS], row[A] = 0.5, 0.472
            else:
                row[A if words[-1] == A else 5] = 0.99 if captioner.EOS in words else 1.0
        return p.log()
    monkeypatch.setattr(captioner, "next_word", next_word)
    x = pictures(1)
    for alpha, best in ((0.0, [captioner.EOS, captioner.PAD, captioner.PAD, captioner.PAD]), (0.3, [A, A, A, A])):
        assert captioner.beam_search(model, x, 2, alpha, use_cache=False)[0].tolist() == best, alpha


def test_flags_reach_the_search(monkeypatch):
    model, calls = small_model().train(), []
    x = (pictures(5) * 127.5 + 127.5).round().byte()
    monkeypatch.setattr(captioner, "beam_search", lambda model, x,
                        *flags: calls.append(flags) or captioner.greedy(model, x))
    rows = captioner.describe(model, x, captioner.Config(beam=3, alpha=1.5), at_once=2)
    assert calls == [(3, 1.5)] * 3
    assert rows == captioner.describe(model, x, captioner.Config(beam=1)) and len(calls) == 3
    assert model.training and not any(captioner.PAD in row for row in rows) and len(rows) == 5


def test_captions_end_at_the_longest_position():
    model = small_model()
    model.embed_y.weight.data[captioner.EOS] = 0.0                    # hardly ever the end
    for y in (captioner.greedy(model, pictures(2)), captioner.beam_search(model, pictures(2), 3)):
        assert y.size(1) == model.cfg.max_len + 1


def test_attention_maps_are_the_weights_while_writing():
    from mini.data.images.captions import Words
    model, words = small_model(), Words([f"w{i}" for i in range(20)])
    image = (pictures(1)[0] * 127.5 + 127.5).round().byte()
    texts, maps = captioner.attention_maps(model, words, image, model.cfg)
    ids = [words.words.index(text) for text in texts]
    assert captioner.EOS not in ids and maps.shape == (len(ids), 4, 4)
    close(maps.sum((1, 2)), torch.ones(len(ids)), 1e-5)
    memory = model.encode(image[None].float() / 127.5 - 1)
    for t in range(len(ids)):                               # one by one, as they were written
        model.decode(torch.tensor([[captioner.BOS, *ids[:t]]]), memory)
        mean = sum(layer.cross.weights[0, :, -1].mean(0) for layer in model.decoder) / 2
        close(maps[t].flatten(), mean, 1e-5)


# ---- scores and pictures

def test_what_full_captions_say_is_read_back():
    labels = torch.cartesian_prod(*(torch.arange(len(values)) for values in ATTRIBUTES.values()))
    for y, wording in zip(labels, itertools.cycle(range(len(WORDINGS)))):
        assert caption_scores.read(caption(y, wording)) == y.tolist()
    assert caption_scores.read("a red blue face with round glasses, no glasses") == [3, -1, -1, -1, -1, 0]


def test_scores_by_hand():
    images, labels = faces(4, 16)
    texts = [[caption(y, k) for k in range(4)] for y in labels]
    part = Captioned(images, labels, ATTRIBUTES, texts, torch.zeros(4, 4, 0))
    said = [texts[0][2], texts[1][0], texts[0][1], ""]
    others = sum(a != b for a, b in zip(labels[0].tolist(), labels[2].tolist()))
    assert others and caption_scores.share_right(said, part) == 0.5
    learn = Captioned(images.flip(0), labels, ATTRIBUTES, [["x"], ["y"], ["z"], ["x"]], None)
    assert caption_scores.baselines(learn, part) == {"most frequent": ["x"] * 4, "nearest image": ["x", "z", "y", "x"]}
    table = caption_scores.scores(said, learn, part)
    assert table["model"]["right"] == 0.5 and table["most frequent"]["right"] == table["nearest image"]["right"] == 0
    same = (labels[0] == labels[2]).tolist()
    assert table["model"]["accuracy"] == dict(zip(ATTRIBUTES, [0.75 if s else 0.5 for s in same]))
    assert caption_scores.scores([t[3] for t in texts], learn, part)["model"]["bleu"] == pytest.approx(100)
    own = Captioned(images[:2], labels[:2, :0], {}, [["A dog!", "one dog"], ["a cat", "a cat"]], None)
    assert caption_scores.share_right(["a dog", "a dog"], own) == 0.5
    assert caption_scores.nearest("one big cat", ["a dog", "a big cat", "cat"]) == "a big cat"


def test_where_an_attribute_is():
    def eyes(image):        # who looks at the upper half only, for every word
        maps = torch.zeros(40, 8, 8)
        maps[:, 3:5] = 1 / 16
        return [word for tell in caption_scores.TELLS.values() for word in tell], maps
    tables = caption_scores.places(eyes, 32, 4, n=8)
    attention, area = tables.values()
    assert attention["glasses"] > 0.5 > area["glasses"] and attention["mouth"] < 0.2 and area["background"] > 0.3


def test_labelled_images():
    images = torch.full((3, 3, 4, 5), 9, dtype=torch.uint8)
    sheet = labelled(images, ["ab cd", "", "x"], columns=2, scale=4, gap=8)     # 20 pixels wide: three letters
    assert sheet.shape == (8 + 2 * (16 + 24 + 8), 8 + 2 * (20 + 8), 3)
    assert (sheet[8:24, 8:28] == 9).all() and (sheet[8:24, 36:56] == 9).all() and (sheet[:, 28:36] == 255).all()
    assert np.array_equal(sheet[24:36, 8:20, 0] == 0, lettering("ab")) and (sheet[24:48, 36:56] == 255).all()
    assert np.array_equal(sheet[36:48, 8:20, 0] == 0, lettering("cd"))


# ---- training

def test_overfits_one_batch():
    model, x, y = small_model(n_layer=1, seed=1), pictures(4), sentences([6, 9, 4, 12])
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(120):
        loss = captioner.loss_of(model(x, y[:, :-1]), y[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(captioner.greedy(model, x), y[:, 1:])


def test_n_test_is_honoured_and_reported(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path, n_test=5))
    assert result["n"] == {"held out": 5, "unseen combinations": 5} and "held out (n = 5)" in capsys.readouterr().out
    captioner.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    assert "describing 5 images, unseen combinations, with a beam of 8" in capsys.readouterr().out


def test_end_to_end(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text()) == result
    assert {"model", "steps", "seconds", "parameters", "device"} <= set(result)
    assert set(result["scores"]) == {"held out", "unseen combinations"}
    assert result["n"] == {"held out": 12, "unseen combinations": 12}
    for table in result["scores"].values():
        assert set(table) == {"model", "most frequent", "nearest image"}
        assert all(set(row) == {"right", "bleu", "accuracy"} for row in table.values())
    log = (run / "log.csv").read_text().splitlines()
    assert log[0] == "step,seconds,loss,lr,right" and len(log) == 7
    out = capsys.readouterr().out
    assert "ln V = ln 44" in out and "60 images with 4 captions" in out and "most frequent" in out
    for name in ("step_000003.png", "step_000006.png", "attention.png"):
        assert read_png(run / "samples" / name).shape[2] == 3
    arguments = [f"--out_dir={run}", "--device=cpu"]
    assert len(captioner.main(["sample", *arguments, "--n=3"])) == 3
    assert read_png(run / "samples/captions.png").shape[1] == 8 + 3 * (16 * 6 + 8)
    for name, pixels in (("grey", np.zeros((40, 30), np.uint8)), ("large", np.full((50, 70, 3), 200, np.uint8))):
        write_png(tmp_path / f"{name}.png", pixels)
        assert len(captioner.main(["sample", *arguments, f"--image={tmp_path}/{name}.png"])) == 1
    tables = captioner.main(["evaluate", *arguments])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert list(tables["held out_right_with_a_beam_of"]) == ["1", "2", "4", "8"]
    assert set(tables["attention_where_the_attribute_is"]) == set(ATTRIBUTES)


def own_captions(tmp_path, n=6):
    lines = []
    for i in range(n):
        write_png(tmp_path / f"{i}.png", np.full((20, 24, 3), 40 * i, np.uint8))
        lines.append(f"{i}.png\tA {'dark' if i < 3 else 'light'} picture.\n")
    (tmp_path / "own.tsv").write_text("".join(lines), "utf-8")
    return str(tmp_path / "own.tsv")


def test_own_captions(tmp_path, capsys):
    data = own_captions(tmp_path)
    result = captioner.train(tiny(tmp_path, data=data, steps=60, lr=0.01, warmup=5, eval_every=0, log_every=0))
    assert result["scores"]["held out"]["model"]["right"] == 1.0 and "unseen combinations" not in result["scores"]
    assert captioner.main(["sample", f"--out_dir={tmp_path}/run", f"--image={tmp_path}/0.png"]) == ["a dark picture"]
    tables = captioner.main(["evaluate", f"--out_dir={tmp_path}/run"])
    assert set(tables) == {"held out_right_with_a_beam_of"}


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, captioner.main)


def test_bad_input(tmp_path, capsys):
    for flags, names in ((["--patch=5"], "patch=5"), (["--n_head=3"], "--n_head must divide"), (["--beam=0"], "no size 0"), (["--n=0"], "0"),
                         (["--smoothing=1"], "smoothing"), (["--max_len=5"], "room for 5"), (["--n_images=0"], "no size 0")):
        assert names in refused(capsys, "--size=16", "--n_images=9", f"--out_dir={tmp_path}/new", *flags)
        assert not (tmp_path / "new").exists()
    captioner.train(tiny(tmp_path, steps=1))
    run = f"--out_dir={tmp_path}/run"
    assert "nobody.png" in refused(capsys, "sample", run, "--image=nobody.png")
    (tmp_path / "text.png").write_bytes(b"not an image")
    assert "text.png: not a" in refused(capsys, "sample", run, f"--image={tmp_path}/text.png")
    write_png(tmp_path / "cut.png", np.zeros((40, 40), np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:50])
    assert "cut.png: not a PNG file, or a damaged one" in refused(capsys, "sample", run, f"--image={tmp_path}/cut.png")
    assert "never seen" in refused(capsys, "--resume", "--steps=9", run, f"--data={own_captions(tmp_path)}")
