"""What mini/translator.py and mini/captioner.py must do alike: against torch's own Transformer,
slow loops, exhaustive search, and the classic bugs. What only one of them promises is tested in its own
file.

Tests marked `paper` know the layers, and what the paper says of them. All others must go on passing
with another network, as long as it has encode(src) -> memory, src_mask and decode(tgt, memory,
src_mask) -> logits, and decoder layers with a self_attn.
"""
import inspect
import itertools
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import captioner, speech, translator
from mini.utils.png import read_png
from tests.helpers import (as_torch_has_it, close, encoder_decoder, every_dropout_acts, pictures,
                           sentences)

both = pytest.mark.parametrize("script", [translator, captioner], ids=["translator", "captioner"])
both_precisions = pytest.mark.parametrize("dtype, tolerance",
                                          [(torch.float64, 1e-10), (torch.float32, 1e-5)])
paper = pytest.mark.paper
PAD, BOS, EOS = captioner.PAD, captioner.BOS, captioner.EOS
V = 23                      # words to write
LENGTHS = [7, 3, 11, 1, 5]  # of some sentences


def sources(script, lengths, seed=1):
    """Sentences of these numbers of words to translate, or as many pictures to describe."""
    if script is translator:
        return sentences(lengths, 20, seed=seed)
    return pictures(len(lengths), seed)


def targets(lengths, seed=1):
    """Sentences to be written, from BOS to EOS, filled up with PAD."""
    return sentences(lengths, V, bos=True, seed=seed)


def alone(script, src, i, length):
    """Source i of a batch by itself, without the PAD that the others asked for."""
    return src[i:i + 1, :length] if script is translator else src[i:i + 1]


def loss_of(script):
    return script.translation_loss if script is translator else script.caption_loss


def greedy(script, model, src):
    return script.greedy_decode(model, src)


def cached_greedy(script, model, src):
    return script.greedy_decode(script.CachedDecoder(model), src)


def beam_of_3(script, model, src):
    return script.beam_search(model, src, 3)


def cached_beam_of_3(script, model, src):
    return script.beam_search(script.CachedDecoder(model), src, 3)


every_search = pytest.mark.parametrize("search", [greedy, cached_greedy, beam_of_3,
                                                  cached_beam_of_3], ids=lambda f: f.__name__)


def change_logits(monkeypatch, model, change):
    """From here on `change` is called with all logits (B, T, V) that the model gives."""
    decode = type(model).decode

    def decode_and_change(self, *args, **kwargs):
        logits = decode(self, *args, **kwargs)
        change(logits)
        return logits

    monkeypatch.setattr(type(model), "decode", decode_and_change)


# ---- both files are one

@paper
def test_shared_parts_are_the_same_letter_by_letter():
    """All of the captioner but its encoder stands in the translator, so that the difference of the
    two files is the lesson. Who corrects one of these has to correct the other."""
    names = ["attention", "attention_weights", "causal_mask", "MultiHeadAttention", "FeedForward",
             "EncoderLayer", "DecoderLayer", "cut_padding", "translation_loss", "next_word",
             "greedy_decode", "beam_search", "attention_maps", "CachedSelfAttention",
             "CachedCrossAttention", "CachedDecoder"]
    parts = [(getattr(translator, name, None),
              getattr(captioner, name.replace("translation_", "caption_"), None)) for name in names]
    for method in ("forward", "decode", "embed"):
        names.append(method)
        parts.append((getattr(translator.Transformer, method, None),
                      getattr(captioner.Captioner, method, None)))

    differing = []
    for name, (in_translator, in_captioner) in zip(names, parts):
        if not in_translator or not in_captioner:
            differing.append(name)
            continue
        text = inspect.getsource(in_captioner).replace("caption_loss", "translation_loss")
        if inspect.getsource(in_translator) != text:
            differing.append(name)
    assert not differing, (
        f"{', '.join(differing)}: not the same in mini/translator.py and mini/captioner.py. Was a "
        "mistake corrected, or a name changed, in one of them only? A fork that wants them to "
        "differ may delete this test")


@paper
def test_the_recogniser_of_speech_has_the_same_parts():
    """mini/speech.py is the translator with another source, and with a second loss. Its own parts
    are tested in test_speech.py."""
    names = ["attention", "attention_weights", "causal_mask", "padding_mask", "MultiHeadAttention",
             "FeedForward", "EncoderLayer", "DecoderLayer", "positional_encoding", "cut_padding",
             "translation_loss", "next_word", "greedy_decode", "beam_search", "attention_maps",
             "CachedSelfAttention", "CachedCrossAttention", "CachedDecoder"]
    differing = []
    for name in names:
        ours = getattr(speech, name.replace("translation_", "transcript_"))
        text = inspect.getsource(ours).replace("transcript_loss", "translation_loss")
        theirs = inspect.getsource(getattr(translator, name))
        if name == "beam_search":                   # in speech.py it returns all k, for `rescore`
            text = text.split('"""')[2].rsplit("return", 1)[0]
            theirs = theirs.split('"""')[2].rsplit("return", 1)[0]
        if theirs != text:
            differing.append(name)
    for name in ("decode", "embed"):
        ours = inspect.getsource(getattr(speech.Recogniser, name))
        if inspect.getsource(getattr(translator.Transformer, name)) != ours:
            differing.append(name)
    assert not differing, (
        f"{', '.join(differing)}: not the same in mini/translator.py and mini/speech.py. Was a "
        "mistake corrected, or a name changed, in one of them only? A fork that wants them to "
        "differ may delete this test")


# ---- the paper: torch's own layers on the same weights

@paper
@both
@both_precisions
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_heads_equals_torch(script, masked, dtype, tolerance):
    """Outputs, weights and every gradient, of queries from one text and keys from another."""
    torch.manual_seed(0)
    attn = script.MultiHeadAttention(script.Config(n_embd=24, n_head=3)).to(dtype)
    for p in attn.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    x = torch.randn(4, 5, 24, dtype=dtype, requires_grad=True)
    memory = torch.randn(4, 9, 24, dtype=dtype, requires_grad=True)
    lengths = torch.tensor([9, 4, 1, 6]) if masked else torch.full((4,), 9)
    visible = torch.arange(9) < lengths[:, None]                # (4, 9)
    mask = visible[:, None, None] if masked else None

    want, weights = F.multi_head_attention_forward(
        x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), 24, 3,
        torch.cat([attn.q.weight, attn.kv.weight]), torch.cat([attn.q.bias, attn.kv.bias]),
        None, None, False, 0.0, attn.out.weight, attn.out.bias, key_padding_mask=~visible,
        average_attn_weights=False)
    want = want.transpose(0, 1)
    got = attn(x, memory, mask)
    close(got, want, tolerance)

    q = attn.project_q(x)
    k, v = attn.project_kv(memory)
    close(script.attention_weights(q, k, mask), weights, tolerance)
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
    close(script.attention(q, k, v, mask), fused, tolerance)

    leaves = [x, memory, *attn.parameters()]
    r = torch.randn(4, 5, 24, dtype=dtype)
    ours = torch.autograd.grad((got * r).sum(), leaves)
    theirs = torch.autograd.grad((want * r).sum(), leaves)
    for a, b in zip(ours, theirs):
        largest = max(b.abs().max(), 1)                         # of the keys' bias it is 0, rounded
        assert (a - b).abs().max() <= tolerance * largest


def torch_transformer(weights: dict, dtype):
    """torch.nn.Transformer with the sizes and weights of encoder_decoder(); post-norm, and without
    the last norms, which it adds of its own."""
    sizes = dict(d_model=32, nhead=4, dim_feedforward=48, dropout=0.0, batch_first=True)
    encoder_layer = nn.TransformerEncoderLayer(**sizes)
    decoder_layer = nn.TransformerDecoderLayer(**sizes)
    reference = nn.Transformer(
        batch_first=True, d_model=32, nhead=4,
        custom_encoder=nn.TransformerEncoder(encoder_layer, 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(decoder_layer, 2)).to(dtype)
    reference.load_state_dict(as_torch_has_it(weights))
    return reference


@paper
@both
@both_precisions
def test_logits_and_every_gradient_equal_torch(script, dtype, tolerance, monkeypatch):
    """Of the whole network. Embeddings and positions, which torch's Transformer has not, are those
    of the translator, by its own `embed` (test_translator.py tests that); and for the captioner a
    convolution whose stride is the size of a patch."""
    if dtype == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = encoder_decoder(script).to(dtype)
    reference = torch_transformer(model.state_dict(), dtype)
    src = sources(script, [7, 3, 9, 1])
    tgt = targets([6, 10, 4, 3])
    masks = {"tgt_mask": nn.Transformer.generate_square_subsequent_mask(9, dtype=dtype)}
    if script is translator:
        own = [model.src_embed.weight, model.tgt_embed.weight]
        hidden = torch.zeros(src.shape, dtype=dtype).masked_fill(src == PAD, -math.inf)
        masks["src_key_padding_mask"] = hidden
        masks["memory_key_padding_mask"] = hidden
        x = model.embed(model.src_embed, src)
        y = model.embed(model.tgt_embed, tgt[:, :-1])
    else:
        own = [model.src_embed.weight, model.src_embed.bias, model.tgt_embed.weight,
               model.src_positions, model.positions]
        src = src.to(dtype)
        kernel = model.src_embed.weight.view(32, 3, 4, 4)
        x = F.conv2d(src, kernel, model.src_embed.bias, stride=4)
        x = x.flatten(2).transpose(1, 2) + model.src_positions
        words = F.embedding(tgt[:, :-1], model.tgt_embed.weight)
        y = words * math.sqrt(32) + model.positions[:9]

    want = reference(x, y, **masks) @ model.tgt_embed.weight.T
    parameters = dict(reference.named_parameters())
    loss = loss_of(script)(want, tgt[:, 1:], 0.1)
    theirs = torch.autograd.grad(loss, [*parameters.values(), *own])

    logits = model(src, tgt[:, :-1])
    close(logits, want, tolerance)
    loss_of(script)(logits, tgt[:, 1:], 0.1).backward()
    ours = as_torch_has_it({name: p.grad for name, p in model.named_parameters()})
    assert set(ours) == set(parameters)
    for name, grad in zip([*parameters, *own], theirs):
        close(ours[name] if name in parameters else name.grad, grad, tolerance)


@paper
@both
def test_initialisation(script):
    """Embeddings and learnt positions have variance 1 / C, other matrices 2 / (in + out)."""
    torch.manual_seed(0)
    cfg = script.Config(n_embd=128, d_ff=512)
    if script is translator:
        model = translator.Transformer(cfg, 1000, 1500)
        tables = ["src_embed.weight", "tgt_embed.weight"]
    else:
        model = captioner.Captioner(cfg, 1500)
        tables = ["tgt_embed.weight", "src_positions", "positions"]
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 128**-0.5 if name in tables else math.sqrt(2 / sum(p.shape))
            assert p.std().item() == pytest.approx(std, rel=0.05), name


@paper
@both
def test_dropout_acts_in_all_places(script):
    """On embeddings, and on what each sub-layer adds. It once was on the sum: with p nearly 1, a
    layer then has nothing to normalise; as it should be, it normalises its input alone."""
    model = encoder_decoder(script, dropout=0.5)
    src = sources(script, [5, 3])
    tgt = targets([4, 6])
    every_dropout_acts(model, 1 + 2 * 2, src, tgt)

    for place in model.modules():                               # one for the embeddings of both
        if isinstance(place, nn.Dropout):
            place.p = 0.5 if place is model.dropout else 0.0
    memory, src_mask = model.encode(src)
    assert not torch.equal(memory, model.encode(src)[0])
    logits = model.decode(tgt, memory, src_mask)
    assert not torch.equal(logits, model.decode(tgt, memory, src_mask))

    h = torch.randn(1, 4, 32)
    encoder_layer = model.encoder[0]
    encoder_layer.dropout.p = 1 - 1e-7
    want = encoder_layer.norm_2(encoder_layer.norm_1(h))
    close(encoder_layer(h, None), want, 1e-5)
    decoder_layer = model.decoder[0]
    decoder_layer.dropout.p = 1 - 1e-7
    want = decoder_layer.norm_3(decoder_layer.norm_2(decoder_layer.norm_1(h)))
    close(decoder_layer(h, h, None, None), want, 1e-5)


# ---- the classic bugs of Transformers

@both
def test_masks(script):
    """By hand. With `before`, two new words may look at three older ones."""
    assert script.causal_mask(3).tolist() == [[True, False, False],
                                              [True, True, False],
                                              [True, True, True]]
    assert script.causal_mask(2, before=3).tolist() == [[True, True, True, True, False],
                                                        [True, True, True, True, True]]


@both
def test_what_is_hidden_stays_hidden_however_large_the_scores(script):
    """A mask that adds −1e4, in place of −∞, is outvoted by a score of 1e5."""
    q = torch.full((1, 1, 3, 4), 500.0)
    k = torch.full((1, 1, 3, 4), -500.0)
    k[:, :, 2] = 500.0                                          # the last key fits all queries
    v = torch.eye(3)[None, None]                                # so the result is the weights
    weights = script.attention(q, k, v, script.causal_mask(3))[0, 0]
    close(weights, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), 1e-6)
    assert weights[0, 2] == weights[1, 2] == 0


@both
@pytest.mark.parametrize("cached", [False, True])
def test_a_word_changes_nothing_before_it(script, cached):
    """A decoder that sees the word it has to predict gets a loss of nearly 0, and writes nonsense.
    """
    model = encoder_decoder(script).eval()
    src = sources(script, [5])
    a = targets([11])
    b = a.clone()
    b[0, 6] = 3 + (a[0, 6] - 2) % 20                            # another word

    @torch.no_grad()
    def logits_of(tgt):
        if not cached:
            return model(src, tgt)
        decoder = script.CachedDecoder(model)
        memory = decoder.encode(src)
        ends = [4, 6, 7, 8, 9, 10, 11]                          # 4 words, 2, then one by one
        return torch.cat([decoder.decode(tgt[:, :end], *memory) for end in ends], dim=1)

    one = logits_of(a)
    other = logits_of(b)
    assert torch.equal(one[:, :6], other[:, :6])
    after = (one[:, 6:] - other[:, 6:]).abs().amax(dim=(0, 2))
    assert after.min() > 1e-5                                   # but all that comes after it
    close(one, model(src, a), 1e-5)


@both
@every_search
def test_each_sentence_is_written_as_if_alone(script, search):
    """No matter how long the others are, what PAD is filled in, how many are in the batch. Without
    the mask of PAD, or with the mask on queries in place of keys, the short ones come out wrong."""
    model = encoder_decoder(script).eval()
    src = sources(script, LENGTHS)
    rows = search(script, model, src)
    for i, length in enumerate(LENGTHS):
        row = search(script, model, alone(script, src, i, length))[0]
        assert torch.equal(rows[i, :len(row)], row)
        assert (rows[i, len(row):] == PAD).all()


@both
@torch.no_grad()
def test_logits_are_those_of_each_sentence_alone(script):
    model = encoder_decoder(script).eval()
    src = sources(script, LENGTHS)
    tgt = targets([6, 9, 4, 3, 2])
    together = model(src, tgt)
    for i, length in enumerate(LENGTHS):
        n = int((tgt[i] != PAD).sum())
        one = model(alone(script, src, i, length), tgt[i:i + 1, :n])
        close(together[i, :n], one[0], 1e-5)


@both
@torch.no_grad()
def test_what_is_written_depends_on_what_is_read(script):
    """All begin with BOS: what differs comes through the encoder."""
    model = encoder_decoder(script).eval()
    logits = model(sources(script, LENGTHS), torch.full((5, 1), BOS))
    assert (logits[0] - logits[1]).abs().max() > 0.001


@both
def test_dropout_acts_in_training_only(script):
    model = encoder_decoder(script, dropout=0.5)
    src = sources(script, [5, 3])
    tgt = targets([4, 6])
    model.train()
    assert not torch.equal(model(src, tgt), model(src, tgt))
    model.eval()
    assert torch.equal(model(src, tgt), model(src, tgt))


# ---- the loss

@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_by_the_formula_leaves_pad_out(script, smoothing, double):
    """In a loop, and by torch's function on the logits without PAD. PAD once had a share of what
    smoothing spreads, so the model learnt to write it."""
    torch.manual_seed(0)
    tgt = torch.tensor([[3, 4, 2, PAD], [5, 2, PAD, PAD]])
    logits = torch.randn(2, 4, 7)                               # number 0 is PAD: six are words
    losses = []
    for b, t in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        log_p = torch.log_softmax(logits[b, t, 1:], dim=0).tolist()
        loss = 0.0
        for v in range(6):
            q = smoothing / 6
            if v + 1 == tgt[b, t]:
                q += 1 - smoothing
            loss -= q * log_p[v]
        losses.append(loss)
    want = pytest.approx(sum(losses) / 5, rel=1e-12)
    loss = loss_of(script)
    assert loss(logits, tgt, smoothing).item() == want
    assert F.cross_entropy(logits[:, :, 1:].flatten(0, 1), tgt.flatten() - 1, ignore_index=-1,
                           label_smoothing=smoothing).item() == want

    logits[:, :, PAD] = 50.0                                    # nothing about PAD matters
    logits[tgt == PAD] = 1e3
    assert loss(logits, tgt, smoothing).item() == want


@both
def test_no_gradient_is_nan(script):
    """A row of the mask that hides everything gives 0 / 0, and spoils all weights at once."""
    model = encoder_decoder(script)
    tgt = targets([4, 3, 2])
    loss = loss_of(script)(model(sources(script, [7, 3, 1]), tgt[:, :-1]), tgt[:, 1:], 0.1)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@both
def test_targets_are_the_next_words(script, tmp_path, monkeypatch):
    """As `train` calls the network and the loss. Shifted by none, it learns to copy; shifted by
    two, to skip words."""
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 12)
    monkeypatch.setattr("mini.data.text.pairs.HELD_OUT", 20)
    network = translator.Transformer if script is translator else captioner.Captioner
    forward = network.forward
    loss = loss_of(script)
    read = []
    asked = []
    monkeypatch.setattr(network, "forward",
                        lambda self, src, tgt: read.append(tgt) or forward(self, src, tgt))
    monkeypatch.setattr(script, loss.__name__,
                        lambda logits, tgt, s: asked.append((tgt, s)) or loss(logits, tgt, s))
    sizes = dict(n_layer=1, n_head=2, n_embd=16, d_ff=16, batch_size=4, beam=1, steps=1, n_test=2)
    data = dict(n_pairs=1000) if script is translator else dict(n_images=60, size=16)
    script.train(script.Config(**data, **sizes, smoothing=0.3, device="cpu",
                               out_dir=str(tmp_path)))
    tgt_in = read[0]
    tgt_out, smoothing = asked[0]
    assert (tgt_in[:, 0] == BOS).all()
    assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1])
    assert (tgt_out == EOS).sum() == len(tgt_out)
    assert smoothing == 0.3


@both
def test_overfits_one_batch(script):
    """What cannot learn one batch by heart cannot learn."""
    model = encoder_decoder(script, n_layer=1, seed=1)
    src = sources(script, [7, 3, 11, 5])
    tgt = targets([6, 9, 4, 12])
    optimizer = torch.optim.Adam(model.parameters(), 0.003, betas=(0.9, 0.98), eps=1e-9)
    for _ in range(150):
        loss = loss_of(script)(model(src, tgt[:, :-1]), tgt[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(script.greedy_decode(model, src), tgt[:, 1:])


# ---- translating, describing

@both
@every_search
def test_the_mode_of_the_model_is_put_back(script, search):
    """Dropout stayed off for the rest of the training after the first evaluation."""
    model = encoder_decoder(script, dropout=0.5).train()
    src = sources(script, LENGTHS)
    assert torch.equal(search(script, model, src), search(script, model, src))      # no dropout
    assert model.training
    model.eval()
    search(script, model, src)
    assert not model.training


@both
def test_cached_equals_plain(script):
    """The plain search is right by its look, the cached one is eight times faster."""
    model = encoder_decoder(script)
    src = sources(script, [7, 3, 11, 1, 5, 9])
    cached = script.CachedDecoder(model)
    plain = script.greedy_decode(model, src)
    assert torch.equal(script.greedy_decode(cached, src), plain)
    for k in (1, 3, 5):
        want = script.beam_search(model, src, k)
        assert torch.equal(script.beam_search(cached, src, k), want)
    assert torch.equal(script.beam_search(model, src, 1), plain)        # a beam of 1 is greedy
    again = script.greedy_decode(cached, src[:2])               # nothing is left of the last ones
    assert torch.equal(again, script.greedy_decode(model, src[:2]))


@both
def test_cached_reads_each_word_once_and_follows_the_weights(script, monkeypatch):
    """It is a copy of the modules, not of the weights: those of a model that learns on are its own.
    """
    model = encoder_decoder(script)
    src = sources(script, [7, 3])
    cached = script.CachedDecoder(model)
    n_read = []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, tgt, *args, **kwargs: (
        n_read.append(tgt.size(1)) or decode(self, tgt, *args, **kwargs)))
    tgt = script.greedy_decode(cached, src)
    assert n_read == [1] * tgt.size(1)
    monkeypatch.undo()

    for p in model.parameters():
        p.data.normal_()
    assert not torch.equal(script.greedy_decode(model, src), tgt)
    assert torch.equal(script.greedy_decode(cached, src), script.greedy_decode(model, src))
    assert {id(p) for p in cached.parameters()} == {id(p) for p in model.parameters()}


@both
def test_greedy_is_always_the_likeliest_word_but_pad(script, monkeypatch):
    """PAD is never a target, so nothing keeps its logit low."""
    model = encoder_decoder(script).eval()
    src = sources(script, [7, 3])
    change_logits(monkeypatch, model, lambda logits: logits[:, :, PAD].fill_(50.0))
    for i, row in enumerate(script.greedy_decode(model, src).tolist()):
        tgt = [BOS]
        while row and tgt[-1] != EOS:
            tgt.append(row.pop(0))
            logits = model(src[i:i + 1], torch.tensor([tgt[:-1]]))[0, -1]
            assert tgt[-1] == 1 + logits[1:].argmax()
        assert row == [PAD] * len(row)
        assert tgt[-1] == EOS or len(tgt) == model.cfg.max_len + 2
    for row in script.beam_search(model, src, 3).tolist():
        end = row.index(EOS) if EOS in row else None
        assert PAD not in row[:end]
    log_p = script.next_word(model, torch.full((2, 1), BOS), *model.encode(src))
    assert (log_p[:, PAD] == -math.inf).all()
    close(log_p.exp().sum(dim=1), torch.ones(2), 1e-5)


@both
@pytest.mark.parametrize("search", [greedy, beam_of_3], ids=lambda f: f.__name__)
def test_behind_the_end_comes_pad_while_others_go_on(script, search, monkeypatch):
    """The first ends after its second word, the second never. What the network says behind an end
    is no part of the sentence."""
    model = encoder_decoder(script)

    def end_the_first(logits):
        n = len(logits) // 2                                    # rows of each
        logits[:, :, EOS] = -50.0
        logits[:n, 1:2, EOS] = 50.0

    change_logits(monkeypatch, model, end_the_first)
    first, second = search(script, model, sources(script, [4, 2])).tolist()
    assert len(first) == model.cfg.max_len + 1
    assert first[1] == EOS and set(first[2:]) == {PAD}
    assert PAD not in first[:1] + second and EOS not in second


@both
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_beam_is_exhaustive_search(script, alpha, seed):
    """A beam with room for all beginnings finds the best of all sentences of up to three words.

    They are written with BOS and three more (EOS ends them; without it they are cut off)."""
    model = encoder_decoder(script, n_target=6, n_embd=8, n_head=2, max_len=3, seed=seed).eval()
    lengths = (3, 2)
    src = sources(script, lengths, seed)
    words = [w for w in range(6) if w != PAD]
    scored = [[], []]                                           # of each source: (score, sentence)
    for n in range(1, 5):
        every = [list(y) for y in itertools.product(words, repeat=n)
                 if EOS not in y[:-1] and (n == 4 or y[-1] == EOS)]
        tgt = torch.tensor(every)
        tgt_in = F.pad(tgt[:, :-1], (1, 0), value=BOS)
        for i, length in enumerate(lengths):
            one = alone(script, src, i, length)
            logits = model(one.expand(len(every), *one.shape[1:]), tgt_in).detach()
            log_p = F.log_softmax(logits[:, :, 1:], dim=2)
            log_p = log_p.gather(2, tgt[:, :, None] - 1).sum(dim=(1, 2))
            scored[i] += zip((log_p / ((5 + n) / 6) ** alpha).tolist(), every)
    assert len(scored[0]) == 1 + 4 + 16 + 64 * 5
    rows = script.beam_search(model, src, 5**4, alpha).tolist()
    for row, candidates in zip(rows, scored):
        assert [w for w in row if w != PAD] == max(candidates)[1]


@both
def test_longer_texts_get_their_due_and_ended_ones_take_one_place(script, monkeypatch):
    """By hand: first EOS with p = 0.5 or A with 0.472, and after A always A.

    By α = 0 the end wins. By α = 0.3 AAAA does, which is behind after two words: it would fall out
    of a beam of 2 if the text that has ended took both places."""
    A = 4
    model = encoder_decoder(script, n_target=6, max_len=3)

    def next_word(model, tgt, memory, src_mask):
        p = torch.full((len(tgt), 6), 1e-9)
        for row, words in zip(p, tgt.tolist()):
            if words[-1] == BOS:
                row[EOS] = 0.5
                row[A] = 0.472
            elif words[-1] == A:
                row[A] = 1.0
            else:                                               # also behind EOS: it must not count
                row[5] = 0.99
        return p.log()

    monkeypatch.setattr(script, "next_word", next_word)
    src = sources(script, [3])
    for alpha, best in ((0.0, [EOS, PAD, PAD, PAD]), (0.3, [A, A, A, A])):
        assert script.beam_search(model, src, 2, alpha)[0].tolist() == best, alpha


@both
def test_flags_reach_the_search(script, monkeypatch):
    """Sources are taken `at_once` at a time; what is filled up is cut off."""
    model = encoder_decoder(script).train()
    src = sources(script, [3] * 5)
    if script is translator:
        search = translator.translate
    else:
        search = captioner.describe
        src = (src * 127.5 + 127.5).byte()
    calls = []

    def beam_search(model, src, k, alpha):
        calls.append((len(src), k, alpha))
        return script.greedy_decode(model, src)

    monkeypatch.setattr(script, "beam_search", beam_search)
    rows = search(model, src, 3, 1.5, at_once=2)
    assert calls == [(2, 3, 1.5), (2, 3, 1.5), (1, 3, 1.5)]
    assert rows == search(model, src)
    assert len(calls) == 3                                      # a beam of 1 is greedy
    assert len(rows) == 5 and not any(PAD in row for row in rows)
    assert model.training


@both
@every_search
def test_sentences_end_at_the_longest_position(script, search, monkeypatch):
    """There are no positions for more words."""
    model = encoder_decoder(script)
    change_logits(monkeypatch, model, lambda logits: logits[:, :, EOS].fill_(-50.0))    # no end
    assert search(script, model, sources(script, [4, 2])).size(1) == model.cfg.max_len + 1


# ---- pictures of attention

@paper
@both
def test_attention_maps_are_the_weights_while_writing(script):
    """A map of the whole sentence has in row t what was looked at when word t was written: that of
    a sentence which is only t words long has it in its last row."""
    model = encoder_decoder(script).train()
    src = sources(script, [6])
    tgt = targets([8])[:, 1:]
    maps = script.attention_maps(model, src, tgt)
    S = 6 if script is translator else 16
    assert [m.shape for m in maps] == [(7, S), (7, S)]
    for t in range(1, 8):
        for whole, part in zip(maps, script.attention_maps(model, src, tgt[:, :t])):
            close(part[-1], whole[t - 1], 1e-5)
    for weights in maps:
        close(weights.sum(dim=1), torch.ones(7), 1e-5)
    assert model.training and not model.decoder[0].cross_attn._forward_pre_hooks


@paper
@both
def test_attention_maps_are_those_of_torch(script):
    """For the last of its layers, from what goes into it."""
    model = encoder_decoder(script).eval()
    src = sources(script, [6])
    tgt = targets([8])[:, 1:]
    attn = model.decoder[-1].cross_attn
    inputs = []
    hook = attn.register_forward_pre_hook(lambda module, args: inputs.append(args))
    model(src, F.pad(tgt[:, :-1], (1, 0), value=BOS))
    hook.remove()
    x, memory, _ = inputs[0]
    _, want = F.multi_head_attention_forward(
        x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), 32, 4,
        torch.cat([attn.q.weight, attn.kv.weight]), torch.cat([attn.q.bias, attn.kv.bias]),
        None, None, False, 0.0, attn.out.weight, attn.out.bias)
    close(script.attention_maps(model, src, tgt)[-1], want[0], 1e-5)


def to_draw(script):
    """(words, a source) of which a picture can be drawn."""
    src = sources(script, [3])
    if script is translator:
        src_words = translator.Vocabulary([f"v{i}" for i in range(17)])
        tgt_words = translator.Vocabulary([f"w{i}" for i in range(V - 3)])
        return [src_words, tgt_words], src
    return captioner.Words([f"w{i}" for i in range(V - 3)]), (src * 127.5 + 127.5).byte()


@paper
@both
def test_a_picture_of_attention(script, tmp_path, monkeypatch):
    """Large enough to be seen, of a text that does not end at once."""
    model = encoder_decoder(script, out_dir=str(tmp_path), beam=2)
    change_logits(monkeypatch, model, lambda logits: logits[:, :, EOS].fill_(-50.0))
    words, src = to_draw(script)
    (tmp_path / "samples").mkdir()
    assert script.draw_attention(model, words, src)
    assert read_png(tmp_path / "samples/attention.png").shape[1] >= 600


@both
def test_where_there_is_nothing_to_draw_nothing_is_drawn(script, tmp_path, monkeypatch):
    """A student's encoder with one vector for all of the source, or a decoder that does not look
    at it: after an hour of training, the picture of attention ended the run in a traceback."""
    model = encoder_decoder(script, out_dir=str(tmp_path), beam=2)
    words, src = to_draw(script)
    network = type(model)
    encode = network.encode

    def one_vector(self, src):
        memory, _ = encode(self, src)
        return memory.mean(dim=1, keepdim=True), None

    monkeypatch.setattr(network, "encode", one_vector)
    assert not script.draw_attention(model, words, src)

    for layer in model.decoder:
        if hasattr(layer, "cross_attn"):
            del layer.cross_attn
    monkeypatch.setattr(script.DecoderLayer, "forward", (
        lambda self, x, memory, tgt_mask, src_mask: self.self_attn(x, x, tgt_mask)))
    assert not script.draw_attention(model, words, src)
    assert not (tmp_path / "samples").exists()
