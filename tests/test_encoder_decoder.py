"""What mini/translator.py and mini/captioner.py must do alike, against torch's own Transformer, numpy and exhaustive
search, and against the classic bugs: the encoder and the decoder, the loss, greedy and beam search. What only one of
them promises is tested in its own file."""
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import captioner, translator
from tests.helpers import (as_torch_has_it, close, encoder_decoder, every_dropout_acts, pictures,
                           sentences)

both = pytest.mark.parametrize("script", [translator, captioner], ids=["translator", "captioner"])
PAD, BOS, EOS = captioner.PAD, captioner.BOS, captioner.EOS


def inputs(script, lengths, seed=1):
    """Sentences of so many words to translate, or as many pictures to describe."""
    return sentences(lengths, 20, seed=seed) if script is translator else pictures(len(lengths), seed)


def encoded(model, x):
    """What the decoder needs besides words: the memory, and for sentences the mask of PAD."""
    memory = model.encode(x)
    return memory if isinstance(memory, tuple) else (memory,)


# ---- parity

@both
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_with_padding_equals_torch(script, masked, dtype, tolerance):
    """Outputs, weights, gradients: against F.multi_head_attention_forward and F.scaled_dot_product_attention."""
    torch.manual_seed(0)
    attention = script.Attention(script.Config(n_embd=24, n_head=3)).to(dtype).eval()
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
    leaves, r = [x, memory, *attention.parameters()], torch.randn(4, 5, 24, dtype=dtype)
    for a, b in zip(torch.autograd.grad((got * r).sum(), leaves),
                    torch.autograd.grad((want.transpose(0, 1) * r).sum(), leaves)):
        assert a.isfinite().all()
        assert (a - b).abs().max() <= tolerance * max(b.abs().max(), 1)     # of the keys' bias: 0, rounded


@pytest.mark.paper
@both
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_and_every_gradient_equal_torch(script, dtype, tolerance):
    model = encoder_decoder(script).to(dtype)
    sizes = dict(d_model=32, nhead=4, dim_feedforward=48, dropout=0.0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(**sizes), 2, enable_nested_tensor=False)
    decoder = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(**sizes), 2)
    reference = torch.nn.Transformer(batch_first=True, d_model=32, nhead=4, custom_encoder=encoder,
                                     custom_decoder=decoder).to(dtype)
    reference.load_state_dict(as_torch_has_it(model.state_dict()))
    x, y = inputs(script, [7, 3, 9, 1]), sentences([6, 10, 4, 3], 23, bos=True)
    masks = {"tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(9, dtype=dtype)}
    if script is translator:
        own = [model.embed_x.weight, model.embed_y.weight]
        hidden = torch.zeros(x.shape, dtype=dtype).masked_fill(x == PAD, -math.inf)
        masks |= {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden}
        seen, said = model.embed(model.embed_x, x), model.embed(model.embed_y, y[:, :-1])
    else:
        own = [model.embed_x.weight, model.embed_x.bias, model.embed_y.weight, model.positions_x, model.positions_y]
        x, kernel = x.to(dtype), model.embed_x.weight.view(32, 3, 4, 4)     # a convolution with stride P
        seen = F.conv2d(x, kernel, model.embed_x.bias, stride=4).flatten(2).transpose(1, 2) + model.positions_x
        said = F.embedding(y[:, :-1], model.embed_y.weight) * math.sqrt(32) + model.positions_y[:9]
    want, parameters = reference(seen, said, **masks) @ model.embed_y.weight.T, dict(reference.named_parameters())
    grads = torch.autograd.grad(script.loss_of(want, y[:, 1:], 0.1), [*parameters.values(), *own])
    logits = model(x, y[:, :-1])
    close(logits, want, tolerance)
    script.loss_of(logits, y[:, 1:], 0.1).backward()
    ours = as_torch_has_it({name: p.grad for name, p in model.named_parameters()})
    assert set(ours) == set(parameters)
    for name, grad in zip([*parameters, *own], grads):
        close(ours[name] if name in parameters else name.grad, grad, tolerance)


@pytest.mark.paper
@both
def test_initialisation(script):
    torch.manual_seed(0)
    cfg = script.Config(n_embd=128, d_ff=512)
    model = translator.Transformer(cfg, 1000, 1500) if script is translator else captioner.Captioner(cfg, 1500)
    tables = {translator: ("embed_x.weight", "embed_y.weight"),
              captioner: ("embed_y.weight", "positions_x", "positions_y")}[script]
    for name, p in model.named_parameters():
        if p.ndim == 2:         # embeddings: variance 1 / C; others Xavier's, 2 / (in + out)
            std = 128**-0.5 if name in tables else math.sqrt(2 / sum(p.shape))
            assert p.std().item() == pytest.approx(std, rel=0.03 if script is translator else 0.05), name


# ---- the classic bugs of Transformers

@both
@pytest.mark.parametrize("cached", [False, True])
def test_a_word_changes_nothing_before_it(script, cached):
    model, x, a = encoder_decoder(script), inputs(script, [5]), sentences([11], 23, bos=True)
    b = a.clone()
    b[0, 6] = 3 + (a[0, 6] - 2) % 20

    def logits(y):
        memory = encoded(model, x)
        if not cached:
            return model.decode(y, *memory)
        cache = model.new_cache(1)      # 4 words, then 2 at once, then one by one
        pieces = [(0, 4), (4, 6), *((n, n + 1) for n in range(6, 11))]
        return torch.cat([model.decode(y[:, i:j], *memory, cache, i) for i, j in pieces], dim=1)

    with torch.no_grad():
        one, other = logits(a), logits(b)
        assert torch.equal(one[:, :6], other[:, :6])
        assert (one[:, 6:] - other[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-4      # and everything after it
        close(one, model(x, a), 1e-5)


@both
def test_what_is_hidden_stays_hidden_however_large_the_scores(script):
    """A mask of −1e4 instead of −∞ would be outvoted."""
    model, x, y = encoder_decoder(script), inputs(script, [7]), sentences([8], 23, bos=True)
    for layer in [*model.encoder, *model.decoder]:
        for attention in {layer.attn, getattr(layer, "cross", layer.attn)}:
            torch.nn.init.normal_(attention.q.weight, std=100), torch.nn.init.normal_(attention.kv.weight, std=100)
    other = y.clone()
    other[0, 5:7] = torch.tensor([3, 4])
    with torch.no_grad():
        assert torch.equal(model(x, y)[:, :5], model(x, other)[:, :5])
        assert not torch.equal(model(x, y)[:, 5:], model(x, other)[:, 5:])
        if script is translator:
            close(model(F.pad(x, (0, 4), value=PAD), y), model(x, y), 1e-4)


@both
def test_each_is_translated_or_described_as_if_alone(script):
    """No matter how long the others are, what PAD is filled in, how many are in the batch."""
    model, lengths, x = encoder_decoder(script), [7, 3, 11, 1, 5], inputs(script, [7, 3, 11, 1, 5])
    y = sentences([6, 9, 4, 3, 2], 23, bos=True)

    def alone(i):
        return x[i:i + 1, :lengths[i]] if script is translator else x[i:i + 1]

    with torch.no_grad():
        together = model(x, y)
        for i in range(5):
            m = int((y[i] != PAD).sum())
            close(together[i, :m], model(alone(i), y[i:i + 1, :m])[0], 1e-5)
        assert (together[0, 0] - together[1, 0]).abs().max() > 0.01     # all began with BOS: what is read differs
    for search in (script.greedy, lambda model, x: script.beam_search(model, x, 3)):
        rows = search(model, x)
        for i in range(5):
            row = search(model, alone(i))[0]
            assert torch.equal(rows[i, :len(row)], row) and (rows[i, len(row):] == PAD).all()


@both
def test_dropout_acts_in_training_only_and_in_all_places(script):
    model, x, y = encoder_decoder(script, dropout=0.5), inputs(script, [5, 3]), sentences([4, 6], 23, bos=True)
    every_dropout_acts(model, 1 + 2 * 2, x, y)
    if script is captioner:                                     # one module serves patches and words: both
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5 if module is model.dropout else 0.0
        assert not torch.equal(model.embed(y), model.embed(y))
        assert not torch.equal(model.encode(x)[0], model.encode(x)[0])
    # what a sub-layer adds is dropped, not the sum: with p nearly 1 the layer normalises its input alone
    mask = (torch.zeros(1),) if script is translator else ()
    for layer, norms, more in ((model.encoder[0], 2, mask),
                               (model.decoder[0], 3, (torch.zeros(1), torch.zeros(2, 1, 4, 4, 8), *mask))):
        layer.dropout.p, h = 1 - 1e-7, torch.randn(1, 4, 32)
        want = h
        for n in range(norms):
            want = getattr(layer, f"ln_{n + 1}")(want)
        close(layer(h, *more), want, 1e-5)


# ---- the loss

@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_by_the_formula_leaves_pad_out(script, smoothing):
    torch.manual_seed(0)
    V, y = 7, torch.tensor([[3, 4, 2, PAD], [5, 2, PAD, PAD]])
    logits = torch.randn(2, 4, V, dtype=torch.float64)
    total, words = 0.0, 0
    for b, t in itertools.product(range(2), range(4)):
        if y[b, t] != PAD:
            p = np.exp(logits[b, t, 1:].numpy())
            q = np.full(V - 1, smoothing / (V - 1))
            q[y[b, t] - 1] += 1 - smoothing
            total, words = total - (q * np.log(p / p.sum())).sum(), words + 1
    assert script.loss_of(logits, y, smoothing).item() == pytest.approx(total / words, rel=1e-12)
    logits[:, :, PAD], logits[y == PAD] = 50.0, 1e3                 # nothing about PAD matters
    assert script.loss_of(logits, y, smoothing).item() == pytest.approx(total / words, rel=1e-12)


@both
def test_targets_are_the_next_words(script, tmp_path, monkeypatch):
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 12)
    monkeypatch.setattr("mini.data.text.pairs.HELD_OUT", 20)
    model = translator.Transformer if script is translator else captioner.Captioner
    seen, decode, loss = [], model.decode, script.loss_of
    monkeypatch.setattr(model, "decode", lambda self, y, *a: seen.append(y) or decode(self, y, *a))
    monkeypatch.setattr(script, "loss_of", lambda logits, y, s: seen.append(y) or loss(logits, y, s))
    data = dict(n_pairs=1000) if script is translator else dict(n_images=60, size=16)
    script.train(script.Config(**data, n_layer=1, n_head=2, n_embd=16, d_ff=16, batch_size=4, beam=1, steps=1, n_test=2,
                               device="cpu", out_dir=str(tmp_path)))
    y, target = seen[:2]
    assert (y[:, 0] == BOS).all() and torch.equal(y[:, 1:], target[:, :-1]) and (target == EOS).sum() == len(y)


@both
def test_overfits_one_batch(script):
    model, x = encoder_decoder(script, n_layer=1, seed=1), inputs(script, [7, 3, 11, 5])
    y = sentences([6, 9, 4, 12], 23, bos=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.003, (0.9, 0.98), 1e-9)
    for _ in range(120):
        loss = script.loss_of(model(x, y[:, :-1]), y[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(script.greedy(model, x), y[:, 1:])


# ---- translating, describing

@both
def test_cached_equals_uncached_and_a_beam_of_1_greedy(script):
    model, x, sizes = encoder_decoder(script), inputs(script, [7, 3, 11, 1, 5, 9]), []
    plain = model.decode
    model.decode = lambda y, *args: sizes.append(y.size(1)) or plain(y, *args)
    y = script.greedy(model, x)
    assert sizes == [1] * y.size(1)                             # only what is new
    assert torch.equal(y, script.greedy(model, x, use_cache=False)) and sizes[-1] == y.size(1)
    assert torch.equal(y, script.beam_search(model, x, 1))      # a beam of width 1 is greedy
    for k in (1, 3, 5):
        assert torch.equal(script.beam_search(model, x, k), script.beam_search(model, x, k, use_cache=False))


@both
def test_greedy_is_always_the_likeliest_word_but_pad(script):
    model, x = encoder_decoder(script), inputs(script, [7, 3])
    model.embed_y.weight.data[PAD] = 100 * torch.randn(32)      # would often be the likeliest
    for i, row in enumerate(script.greedy(model, x).tolist()):
        y = [BOS]
        while row and y[-1] != EOS:
            y.append(row.pop(0))
            logits = model(x[i:i + 1], torch.tensor([y[:-1]]))[0, -1]
            assert y[-1] == 1 + logits[1:].argmax()
        assert row == [PAD] * len(row) and (y[-1] == EOS or len(y) == model.cfg.max_len + 2)
    for row in script.beam_search(model, x, 3).tolist():
        assert PAD not in row[:row.index(EOS) if EOS in row else None]
    log_p = script.next_word(model, torch.full((2, 1), BOS), *encoded(model, x), None)
    assert (log_p[:, PAD] == -math.inf).all()
    close(log_p.exp().sum(1), torch.ones(2), 1e-5)


@both
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_beam_is_exhaustive_search(script, alpha, seed):
    """All texts of up to three words from BOS and three more (EOS ends them; without it they are cut off)."""
    model = encoder_decoder(script, n_target=6, n_embd=8, n_head=2, max_len=3, seed=seed)
    x, scored = inputs(script, [3, 2], seed), [[], []]
    for n in range(1, 5):
        ys = [y for y in itertools.product([w for w in range(6) if w != PAD], repeat=n)
              if EOS not in y[:-1] and (n == 4 or y[-1] == EOS)]
        words = torch.tensor(ys)
        for one, length, candidates in zip(x, (3, 2), scored):
            one = one[:length] if script is translator else one
            logits = model(one.expand(len(ys), *one.shape), F.pad(words[:, :-1], (1, 0), value=BOS)).detach()
            log_p = F.log_softmax(logits[:, :, 1:], dim=2).gather(2, words[:, :, None] - 1).sum((1, 2))
            candidates += zip((log_p / ((5 + n) / 6) ** alpha).tolist(), map(list, ys))
    assert len(scored[0]) == 1 + 4 + 16 + 64 * 5
    rows = script.beam_search(model, x, 5**4, alpha).tolist()
    assert [[w for w in row if w != PAD] for row in rows] == [max(candidates)[1] for candidates in scored]


@both
def test_longer_texts_get_their_due_and_ended_ones_take_one_place(script, monkeypatch):
    """Chances by hand: EOS 0.5 or A 0.472, after A always A. By α = 0 the end wins; by α = 0.3 AAA, which is behind
    after two words, and would fall out of a beam of 2 if the ended text took both places."""
    A, model = 4, encoder_decoder(script, n_target=6, max_len=3)

    def next_word(model, y, *memory_and_cache):
        p = torch.full((len(y), 6), 1e-9)
        for row, words in zip(p, y.tolist()):
            if words[-1] == BOS:
                row[EOS], row[A] = 0.5, 0.472
            else:
                row[A if words[-1] == A else 5] = 0.99 if EOS in words else 1.0
        return p.log()
    monkeypatch.setattr(script, "next_word", next_word)
    for alpha, best in ((0.0, [EOS, PAD, PAD, PAD]), (0.3, [A, A, A, A])):
        assert script.beam_search(model, inputs(script, [3]), 2, alpha, use_cache=False)[0].tolist() == best, alpha


@both
def test_flags_reach_the_search(script, monkeypatch):
    model, calls, x = encoder_decoder(script).train(), [], inputs(script, [3] * 5)
    search, write = (script.translate, x) if script is translator else (script.describe, (x * 127.5 + 127.5).byte())
    monkeypatch.setattr(script, "beam_search", lambda model, x, *flags: calls.append(flags) or script.greedy(model, x))
    rows = search(model, write, script.Config(beam=3, alpha=1.5), at_once=2)
    assert calls == [(3, 1.5)] * 3
    assert rows == search(model, write, script.Config(beam=1)) and len(calls) == 3
    assert model.training and not any(PAD in row for row in rows) and len(rows) == 5


@both
def test_texts_end_at_the_longest_position(script):
    model, x = encoder_decoder(script), inputs(script, [4, 2])
    model.embed_y.weight.data[EOS] = 0.0                        # hardly ever the end
    for y in (script.greedy(model, x), script.beam_search(model, x, 3)):
        assert y.size(1) == model.cfg.max_len + 1
