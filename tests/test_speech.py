"""mini/speech.py: spectrograms against librosa, CTC against torch and by enumeration, batches,
padding, scores and runs. What it shares with mini/translator.py is in test_encoder_decoder.py; its data in
test_speech_data.py.

Tests marked `paper` state what the papers say. All others must go on passing with another network.
"""
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import speech
from mini.data.speech import recordings as data
from mini.data.speech.recordings import Recordings
from mini.data.speech.rooms import make_noises
from mini.data.speech.wav import read_wav, write_wav
from mini.studies import espeak
from mini.utils.png import read_png
from tests.helpers import (ROOT, as_torch_has_it, close, every_dropout_acts, learnt_by_heart,
                           normal, refused_by, rng_of, same_end, sentences)

BOS, EOS, PAD = speech.BOS, speech.EOS, speech.PAD
GOLDEN = np.load(ROOT / "tests/reference/speech.npz")
V = 11
TINY = dict(n_sentences=12, n_layer=1, n_head=2, n_embd=16, d_ff=32, n_mels=16, batch_size=4,
            steps=6, eval_every=3, sample_every=3, log_every=1, warmup=2, n=2, device="cpu",
            dropout=0.1, matmul="highest")
paper = pytest.mark.paper


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("mini.data.speech.recordings.HELD_OUT", 6)
    monkeypatch.setattr("mini.data.speech.warping.PER_WORD", 1)
    monkeypatch.setattr("mini.data.speech.scores.N_WARPING", 3)
    monkeypatch.setattr("mini.studies.speech.N_WARPING", 3)


def tiny(tmp_path, **changes):
    return speech.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def recogniser(seed=0, **sizes):
    """A small model; biases and norms too are not as at first."""
    torch.manual_seed(seed)
    small = dict(n_layer=2, n_head=4, n_embd=32, d_ff=48, n_mels=16, max_len=12, dropout=0.0)
    model = speech.Recogniser(speech.Config(**{**small, **sizes}), V)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def sounds(lengths, seed=1, M=16):
    """Features (B, T, M) of noise, of so many pieces each, 0 behind the end."""
    x = torch.randn(len(lengths), max(lengths), M, generator=rng_of(seed))
    for row, n in zip(x, lengths):
        row[n:] = 0
    return x


# ---- spectrograms

@paper
def test_log_mel_equals_librosa():
    """With the same windows, and HTK's mel scale; 1e-4 is a power wrong by 0.02 %."""
    ours = speech.log_mel(torch.tensor(GOLDEN["sound"])[None], 40)[0]
    want = torch.tensor(GOLDEN["log_mel"])
    assert ours.shape == want.shape
    close(10 ** ours.double(), 10 ** want, 1e-5)
    assert (ours - want).abs().max() < 1e-3


def test_one_piece_by_the_formula():
    """The Fourier transform as the sum that it is."""
    N = speech.WINDOW
    x = normal(1, N)
    n = torch.arange(N, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / N)
    angle = -2 * math.pi * torch.arange(N // 2 + 1)[:, None] * n / N
    power = (torch.polar(torch.ones_like(angle), angle) * (x[0] * hann)).sum(dim=1).abs() ** 2
    want = torch.log10(power @ speech.mel_filters(20).double())
    close(speech.log_mel(x.float(), 20)[0, 0].double(), want, 1e-4)


def test_filters_are_triangles():
    """Each reaches 1 at its centre or nearly so; between two centres neighbours add up to 1."""
    filters = speech.mel_filters(20)
    assert filters.shape == (speech.WINDOW // 2 + 1, 20) and filters.max() <= 1
    first, last = filters.argmax(dim=0)[[0, -1]].tolist()
    between = filters[first + 1:last].sum(dim=1)
    assert torch.allclose(between, torch.ones_like(between))
    assert (filters.argmax(dim=0).diff() > 0).all()


def test_features_do_not_mind_loudness_or_what_is_behind_the_end():
    """An average over the padding, too, would let a recording depend on its batch."""
    sound = torch.randn(2, 5000, generator=rng_of(0))
    n = torch.tensor([5000, 2100])
    sound[1, 2100:] = 0
    both = speech.features(sound, n, 16)
    alone = speech.features(sound[1:, :2100], n[1:], 16)[0]
    T = math.ceil(2100 / speech.HOP)
    assert torch.allclose(both[1, :T], alone[:T], atol=1e-5)
    assert (both[1, T:] == 0).all() and (both[1, :T] != 0).all()
    assert torch.allclose(speech.features(0.01 * sound, n, 16), both, atol=1e-3)
    inside = both[1, :T]
    assert abs(inside.mean()) < 1e-5 and abs(inside.pow(2).mean() - 1) < 1e-3


# ---- batches

def test_a_quiet_room_is_as_good_as_silence():
    """Noise 60 dB below a voice changes hardly anything, though between the words of a synthesiser
    there is nothing at all: were the floor at 80 dB, the mean of all would move."""
    sound = 0.5 * torch.sin(torch.arange(8000) * 0.3)[None]
    sound[:, 2000:6000] = 0
    room = sound + 0.0004 * torch.randn(1, 8000, generator=rng_of(0))
    n = torch.tensor([8000])
    a = speech.features(sound, n, 40)
    assert (a - speech.features(room, n, 40)).abs().max() < 0.15
    with_80 = pytest.MonkeyPatch()
    with_80.setattr(speech, "FLOOR", 8.0)
    b = speech.features(sound, n, 40)
    assert (b - speech.features(room, n, 40)).abs().max() > 0.5
    with_80.undo()


def test_a_batch_is_shifted_and_of_about_one_length():
    n = torch.randint(1000, 9000, (300,), generator=rng_of(0))
    sound = torch.zeros(300, 9000, dtype=torch.int16)
    sound[:, 0] = torch.arange(300)
    tgt = sentences([3 + i % 5 for i in range(300)], V, bos=True)
    x, length, tgt_in, tgt_out = speech.get_batch(sound, n, tgt, 8, rng_of(1))
    i = (x[:, 0] * 32768).round().long()
    assert torch.equal(n[i], length) and x.size(1) == length.max()
    assert length.max() - length.min() < 3000
    whole = torch.cat([tgt_in, tgt_out[:, -1:]], dim=1)
    assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1]) and (tgt_in[:, 0] == BOS).all()
    assert torch.equal(F.pad(whole, (0, tgt.size(1) - whole.size(1))), tgt[i])


def test_speed_changes_pitch_and_length():
    """A tone of 1,000 Hz in a recording that becomes f times as short has f · 1,000 Hz."""
    n = torch.tensor([8000, 8000, 4000])
    sound = torch.sin(2 * math.pi * 1000 * torch.arange(8000) / 8000).repeat(3, 1)
    sound[2, 4000:] = 0
    faster, length = speech.change_speed(sound, n, 0.2, rng_of(3))
    for row, new, old in zip(faster, length, n):
        tone = torch.fft.rfft(row[:new]).abs().argmax() * 8000 / new
        assert abs(tone - 1000 * old / new) < 6
        assert (row[new:] == 0).all() and 0.8 < new / old < 1.26
    same, length = speech.change_speed(sound, n, 0.0, rng_of(3))
    assert torch.equal(length, n) and torch.allclose(same, sound, atol=1e-6)


def test_a_share_is_noisy():
    sound = torch.randn(200, 2000, generator=rng_of(0))
    n = torch.full((200,), 2000)
    noises = make_noises(sound, rng_of(1))
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        noisy = speech.make_noisy(sound, n, share, noises, rng_of(2))
        changed = ((noisy - sound).pow(2).mean(dim=1) > 1e-4).sum()
        assert low <= changed <= high


def test_there_are_positions_for_a_recording_that_is_slowed_down():
    """A long recording, slowed down, was longer than all positions: training crashed when one came."""
    model = recogniser(max_seconds=4, speed=0.5)
    slow = torch.randn(1, 4 * speech.RATE * 2)                  # played at half its speed
    n = torch.tensor([slow.size(1)])
    model.encode(speech.features(slow, n, 16))


def test_spec_augment_hides_but_does_not_end():
    """What is hidden must not be 0, since that is how the end of a recording is known."""
    x = sounds([20, 12])
    hidden = speech.spec_augment(x, 4, 6, rng_of(1))
    assert torch.equal((hidden != 0).any(dim=2), (x != 0).any(dim=2))
    changed = hidden != x
    assert 0 < changed.sum() < x.numel() / 2
    assert torch.equal(speech.spec_augment(x, 0, 0, rng_of(1)), x)
    for row in changed:         # whole bands, and whole pieces
        bands = row[:12].all(dim=0)
        pieces = row[:12].all(dim=1)
        assert torch.equal(row[:12], bands[None] | pieces[:, None])
        assert bands.sum() <= 4 and pieces.sum() <= 6


# ---- the network

@torch.no_grad()
def test_padding_changes_nothing():
    """A short recording gives the same, to 1e-5, by itself and beside longer ones: in the stem,
    too, where a bias makes something of the silence behind its end."""
    model = recogniser().eval()
    lengths = [31, 12, 17, 1]
    src = sounds(lengths)
    tgt = sentences([5, 4, 6, 3], V, bos=True)
    logits, ctc_logits, is_sound = model(src, tgt)
    for i, n in enumerate(lengths):
        one, one_ctc, one_is_sound = model(src[i:i + 1, :n], tgt[i:i + 1])
        S = one_ctc.size(1)
        assert S == math.ceil(n / 2) and one_is_sound.all()
        assert is_sound[i].sum() == S
        assert torch.allclose(ctc_logits[i, :S], one_ctc[0], atol=1e-5)
        assert torch.allclose(logits[i], one[0], atol=1e-5)


@torch.no_grad()
def test_a_character_sees_only_those_before_it():
    model = recogniser().eval()
    src = sounds([20])
    tgt = sentences([8], V, bos=True)
    logits = model(src, tgt)[0]
    changed = tgt.clone()
    changed[0, 4] = 3 + (changed[0, 4] - 2) % (V - 3)
    other = model(src, changed)[0]
    assert torch.equal(logits[:, :4], other[:, :4]) and not torch.equal(logits[:, 4], other[:, 4])


@torch.no_grad()
def test_all_of_the_sound_is_heard_and_its_order():
    model = recogniser().eval()
    src = sounds([20])
    tgt = sentences([4], V, bos=True)
    logits = model(src, tgt)[0]
    for t in (0, 9, 19):
        changed = src.clone()
        changed[0, t] += 1
        assert not torch.allclose(model(changed, tgt)[0], logits)
    assert not torch.allclose(model(src.flip(1), tgt)[0], logits)


@paper
def test_transformer_equals_torch():
    """Behind the stem: nn.Transformer, with every gradient of the same names."""
    model = recogniser().double().eval()
    reference = nn.Transformer(32, 4, 2, 2, 48, dropout=0.0, batch_first=True).double().eval()
    reference.encoder.norm = reference.decoder.norm = nn.Identity()
    weights = as_torch_has_it(dict(model.named_parameters()))
    reference.load_state_dict({name: value.detach() for name, value in weights.items()})
    lengths = [21, 9, 14]
    src = sounds(lengths).double()
    tgt = sentences([6, 4, 5], V, bos=True)
    logits = model(src, tgt)[0]
    inside = (src != 0).any(dim=2)
    x = model.stem(src, inside)
    x = x + model.positions[:x.size(1)]
    y = model.embed(model.tgt_embed, tgt)
    mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1), dtype=torch.float64)
    hidden = ~inside[:, ::2]
    out = reference(x, y, tgt_mask=mask, src_key_padding_mask=hidden,
                    memory_key_padding_mask=hidden)
    want = F.linear(out, model.tgt_embed.weight)
    close(logits, want, 1e-10)
    ours = torch.autograd.grad(logits.sin().sum(), list(model.encoder.parameters()))
    theirs = torch.autograd.grad(want.sin().sum(), list(reference.encoder.parameters()))
    ours = as_torch_has_it({name: g for (name, _), g in
                            zip(model.encoder.named_parameters(prefix="encoder"), ours)})
    for (name, _), g in zip(reference.encoder.named_parameters(prefix="encoder"), theirs):
        close(ours[name], g, 1e-9)


@paper
def test_the_stem_by_loops():
    """Two convolutions with GELU, the second at every other place (Whisper, §2.2)."""
    model = recogniser().double()
    conv_1, conv_2 = model.stem.conv_1, model.stem.conv_2
    x = sounds([9]).double()

    def convolve(x, conv, stride):
        x = F.pad(x, (0, 0, 1, 1))                              # (T + 2, M)
        rows = [sum(conv.weight[:, :, k] @ x[t + k] for k in range(3)) + conv.bias
                for t in range(0, len(x) - 2, stride)]
        return F.gelu(torch.stack(rows))

    want = convolve(convolve(x[0], conv_1, 1), conv_2, 2)
    close(model.stem(x, torch.ones(1, 9, dtype=torch.bool))[0], want, 1e-10)


def test_every_dropout_acts():
    model = recogniser(n_layer=1)
    tgt = sentences([5], V, bos=True)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, src):
            return self.model(src, tgt)[0]

    every_dropout_acts(Logits(), 3, sounds([20]))


# ---- CTC

def ctc_case(B=4, S=14, T=5, seed=0, dtype=torch.float64):
    """Logits, which moments are sound, and transcripts, some with the same character twice."""
    logits = normal(B, S, V, seed=seed, dtype=dtype)
    n = torch.tensor([S, S - 3, S, S - 1])
    is_sound = torch.arange(S) < n[:, None]
    tgt = torch.randint(3, V, (B, T), generator=rng_of(seed + 1))
    tgt[0, 1:3] = tgt[0, 0]                                     # three equal ones
    tgt[1, 3:] = PAD
    tgt[3, 1:] = PAD
    return logits, is_sound, tgt


@paper
@pytest.mark.parametrize("seed", range(4))
def test_ctc_equals_torch(seed):
    """Loss and gradient, in float64. torch's takes float32 logarithms, too; ours computes in
    float32, whatever it is given: 1e-5."""
    logits, is_sound, tgt = ctc_case(seed=seed)
    ours, theirs = (logits.float().clone().requires_grad_() for _ in range(2))
    n = (tgt != PAD).sum(dim=1)
    loss = speech.ctc_loss(ours, is_sound, tgt)
    log_p = theirs.log_softmax(dim=2).transpose(0, 1)           # torch wants (S, B, V)
    want = F.ctc_loss(log_p, tgt, is_sound.sum(dim=1), n, blank=PAD, reduction="sum") / n.sum()
    close(loss, want, 1e-5)
    loss.backward()
    want.backward()
    close(ours.grad, theirs.grad, 1e-5)
    assert (ours.grad[1, -3:] == 0).all()                       # behind the end of the second


@paper
def test_ctc_is_the_sum_over_all_paths():
    """Every one of the 4⁵ paths, merged and without blanks."""
    logits = normal(1, 5, 4, dtype=torch.float32)
    p = logits.softmax(dim=2)[0]
    total = {}
    for path in itertools.product(range(4), repeat=5):
        merged = [k for k, _ in itertools.groupby(path)]
        text = tuple(k for k in merged if k != PAD)
        probability = math.prod(p[s, k].item() for s, k in enumerate(path))
        total[text] = total.get(text, 0.0) + probability
    assert sum(total.values()) == pytest.approx(1)
    is_sound = torch.ones(1, 5, dtype=torch.bool)
    for text in ((1,), (1, 1), (2, 1, 2), (3, 3, 3), (1, 2, 3, 1, 2)):
        loss = speech.ctc_loss(logits, is_sound, torch.tensor([text]))
        assert loss.item() * len(text) == pytest.approx(-math.log(total[text]), rel=1e-5)


def test_ctc_leaves_out_what_cannot_be():
    """Three moments cannot say "aaa", which needs two blanks: no loss from it, and no NaN."""
    logits = normal(2, 3, V, dtype=torch.float32).requires_grad_()
    is_sound = torch.ones(2, 3, dtype=torch.bool)
    tgt = torch.tensor([[5, 5, 5], [4, 6, 7]])
    loss = speech.ctc_loss(logits, is_sound, tgt)
    close(loss, speech.ctc_loss(logits[1:], is_sound[1:], tgt[1:]), 1e-6)
    loss.backward()
    assert logits.grad.isfinite().all() and (logits.grad[0] == 0).all()
    assert speech.ctc_loss(logits[:1], is_sound[:1], tgt[:1]) == 0


def test_ctc_of_nothing_said():
    """Of an empty transcript there is one path: blanks alone."""
    logits = normal(2, 3, V, dtype=torch.float32)
    is_sound = torch.tensor([[True] * 3, [True, True, False]])
    tgt = torch.tensor([[PAD, PAD], [5, PAD]])
    log_p = speech.ctc_log_p(logits, is_sound, tgt)
    blanks = F.log_softmax(logits[0], dim=1)[:, PAD]
    close(log_p[0], blanks.sum(), 1e-6)
    close(log_p[1:], speech.ctc_log_p(logits[1:], is_sound[1:], tgt[1:, :1]), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_best_of_some_transcripts(weight):
    """The likelihoods of decoder and CTC, added up for each of them alone: by F.cross_entropy and
    F.ctc_loss."""
    model = recogniser()
    src = sounds([30, 24, 27])
    candidates = torch.tensor([[[5, 6, EOS, PAD], [7, EOS, PAD, PAD], [8, 8, 8, EOS]],
                               [[9, EOS, PAD, PAD], [5, 5, EOS, PAD], [6, 7, EOS, PAD]],
                               [[EOS, PAD, PAD, PAD], [4, 5, 6, EOS], [4, 5, EOS, PAD]]])
    want = []
    all_memory, all_src_mask = model.encode(src)
    ours = [speech.joint_log_p(model, tgt, all_memory, all_src_mask, weight)
            for tgt in candidates.unbind(dim=1)]
    for b in range(3):
        memory, src_mask = model.encode(src[b:b + 1])
        n = int(src_mask.sum())
        log_p = F.log_softmax(model.ctc_head(memory), dim=2).transpose(0, 1)
        scores = []
        for tgt in candidates[b]:
            tgt = tgt[tgt != PAD]
            tgt_in = torch.cat([torch.tensor([BOS]), tgt[:-1]])[None]
            logits = model.decode(tgt_in, memory, src_mask)[0, :, 1:]
            by_decoder = -F.cross_entropy(logits, tgt - 1, reduction="sum").item()
            by_ctc = -F.ctc_loss(log_p, tgt[None, :-1], [n], [len(tgt) - 1], reduction="sum").item()
            scores.append((1 - weight) * by_decoder + weight * by_ctc)
        close(torch.stack(ours)[:, b], torch.tensor(scores), 1e-4)
        want.append(candidates[b, scores.index(max(scores))].tolist())
    assert speech.rescore(model, src, candidates, weight).tolist() == want


def test_ctc_decoding_by_hand(monkeypatch):
    model = recogniser()
    said = torch.tensor([[3, 3, 0, 3, 4, 4, 0], [0, 5, 5, 0, 0, 7, 8]])
    mask = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    monkeypatch.setattr(model, "encode", lambda src: (src, mask[:, None, None]))
    monkeypatch.setattr(model.ctc_head, "forward", lambda _: F.one_hot(said, V).float())
    assert speech.ctc_decode(model, None).tolist() == [[3, 3, 4, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0]]


# ---- losses

def test_the_share_of_ctc():
    output = normal(2, 4, V, dtype=torch.float32), normal(2, 9, V, seed=1, dtype=torch.float32), \
        torch.ones(2, 9, dtype=torch.bool)
    tgt = torch.tensor([[5, 6, EOS, PAD], [7, 8, 9, EOS]])
    without_eos = torch.tensor([[5, 6, PAD, PAD], [7, 8, 9, PAD]])

    def loss(ctc):
        return speech.both_losses(output, tgt, speech.Config(ctc=ctc))

    attention = speech.transcript_loss(output[0], tgt, 0.1)
    ctc = speech.ctc_loss(output[1], output[2], without_eos)
    close(loss(0.0), attention)
    close(loss(1.0), ctc)
    close(loss(0.3), 0.7 * attention + 0.3 * ctc)


@pytest.mark.parametrize("ctc", [0.0, 0.5, 1.0])
def test_one_batch_is_learnt_by_heart(ctc):
    """And then written down without a mistake, by the way of writing that was learnt."""
    model = recogniser(n_layer=1, ctc=ctc, smoothing=0.0)
    src = sounds([30, 24, 27, 30])
    tgt = sentences([6, 4, 5, 6], V, bos=True)

    def loss_of():
        return speech.both_losses(model(src, tgt[:, :-1]), tgt[:, 1:], model.cfg)

    assert learnt_by_heart(model, loss_of, 100, lr=0.008) < 0.05
    decode = speech.ctc_decode if ctc == 1 else speech.greedy_decode
    texts = [[i for i in row if i > EOS] for row in decode(model, src).tolist()]
    assert texts == [[i for i in row if i > EOS] for row in tgt.tolist()]


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 3])
def test_decoding_from_a_cache_changes_nothing(k):
    model = recogniser()
    src = sounds([30, 24, 9])
    cached = speech.CachedDecoder(model)
    if k == 1:
        a, b = speech.greedy_decode(model, src), speech.greedy_decode(cached, src)
    else:
        a, b = speech.beam_search(model, src, k), speech.beam_search(cached, src, k)
    assert torch.equal(a, b)


def test_the_learning_rate():
    cfg = speech.Config(lr=1.0, warmup=10, steps=100)
    rates = [speech.learning_rate(step, cfg) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] and rates[-1] < 0.001


# ---- training, and using what was trained

def test_end_to_end(tmp_path, capsys):
    result = speech.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert {"wer", "wer_unseen", "wer_10db", "wer_0db", "wer_warping"} <= set(result)
    assert result["n"] == dict.fromkeys(
        ["unseen voices", "unseen combinations", "10 dB", "0 dB"], 6)
    assert set(result["scores"]["unseen voices"]) == {"model", "most frequent word", "time warping"}
    out = capsys.readouterr().out
    for text in ("ln V = ln", "12 recordings", "time warping"):
        assert text in out
    arguments = [f"--out_dir={run}", "--device=cpu"]
    speech.main(["sample", *arguments, "--n=3"])
    for i in (1, 2, 3):
        rate, samples = read_wav(run / f"samples/{i}.wav")
        assert rate == 8000 and len(samples) > 4000
    text = speech.main(["sample", *arguments, f"--wav={run}/samples/1.wav", "--beam=2"])
    assert text.count("\n") == 1
    tables = speech.main(["evaluate", *arguments, "--n_test=2"])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert set(tables["words_wrong,_20 dB"]) == {
        "beam of 1", "beam of 4", "beam of 4, CTC chooses", "CTC alone", "warping"}


def test_attention_is_drawn(tmp_path, capsys):
    speech.train(tiny(tmp_path, steps=30, lr=0.01, eval_every=0))
    picture = tmp_path / "run/samples/attention.png"
    picture.unlink(missing_ok=True)
    speech.main(["sample", f"--out_dir={tmp_path}/run", "--device=cpu", "--show=attention"])
    assert "attention.png" in capsys.readouterr().out and read_png(picture).shape[0] > 100


def test_stopped_and_resumed_is_the_same(tmp_path):
    """Bit for bit, with noise, speed and hidden bands, all by chance."""
    augmented = dict(mask_bands=3, mask_pieces=5)
    speech.train(tiny(tmp_path, out_dir=str(tmp_path / "whole"), **augmented))
    speech.train(tiny(tmp_path, stop_after=2, **augmented))
    speech.train(tiny(tmp_path, resume=True, **augmented))
    same_end(tmp_path / "whole", tmp_path / "run", 6, "words")


def test_n_test_is_honoured(tmp_path):
    assert set(speech.train(tiny(tmp_path, n_test=5, steps=1))["n"].values()) == {5}


def own_words(folder, n=8):
    """Recordings of "low" and "high", tones of two pitches."""
    for word, f in (("low", 300), ("high", 1500)):
        (folder / word).mkdir(parents=True)
        for i in range(n):
            t = torch.arange(3000 + 100 * i) / 8000
            write_wav(folder / word / f"{i}.wav", 0.5 * torch.sin(2 * math.pi * f * t), 8000)
    return str(folder)


def test_own_recordings(tmp_path, capsys):
    own = own_words(tmp_path / "words")
    result = speech.train(tiny(tmp_path, data=own, steps=80, lr=0.01, eval_every=0, log_every=0,
                               noise=0.0, warmup=10, dropout=0.0))
    assert result["wer"] == 0 and result["n"] == {"held out": 1}
    text = speech.main(["sample", f"--out_dir={tmp_path}/run", f"--wav={own}/high/1.wav"])
    assert text == "high\n"


def test_ctc_alone(tmp_path):
    """Without a decoder, from training to the tables."""
    own = own_words(tmp_path / "words")
    result = speech.train(tiny(tmp_path, data=own, steps=2, ctc=1.0))
    assert "wer_warping" in result and not (tmp_path / "run/samples/attention.png").exists()
    tables = speech.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    assert set(tables["words_wrong,_held out"]) == {"CTC alone", "warping"}


def test_recordings_are_sorted_back():
    """Those of about one length are spoken together; the order must be that of the texts."""
    written = [["one"], "mara has seven red lamps".split(), ["two"]]
    made = data.spoken_sentences(written, data.make_voices(3, 0), 0)
    assert made.texts == [" ".join(words) for words in written]
    assert made.n[1] > 2 * made.n[0] and isinstance(made, Recordings)


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, speech.main)


def test_bad_settings(tmp_path, capsys):
    for flags, words in ((["--n_head=3"], "--n_embd=128 must be a multiple of --n_head=3"),
                         (["--beam=0"], "--beam=0 must be at least 1"),
                         (["--ctc=1.5"], "--ctc=1.5 must be from 0 to 1"),
                         (["--noise=-1"], "--noise=-1.0"),
                         (["--speed=0.9"], "--speed=0.9"),
                         (["--n_mels=200"], "--n_mels=200"),
                         (["--mask_bands=-1"], "--mask_bands"),
                         (["--smoothing=1"], "--smoothing=1.0"),
                         (["--max_seconds=0"], "--max_seconds=0.0 must be above 0"),
                         (["--max_len=5"], "room for 5"),
                         (["--n_sentences=0"], "--n_sentences=0 must be at least 1"),
                         (["--data=nobody"], "nobody: no such file or folder")):
        assert words in refused(capsys, "--n_sentences=3", f"--out_dir={tmp_path}/new", *flags)
        assert not (tmp_path / "new").exists()


def test_bad_recordings(tmp_path, capsys):
    speech.train(tiny(tmp_path, steps=1))
    use = ["sample", f"--out_dir={tmp_path}/run"]
    write_wav(tmp_path / "silent.wav", torch.zeros(8000), 8000)
    write_wav(tmp_path / "long.wav", torch.zeros(600 * 8000), 8000)
    (tmp_path / "text.wav").write_text("hello\n" * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "silent.wav").read_bytes()[:900])
    golden = ROOT / "tests/reference/wav"
    for name, words in (("silent.wav", "nothing to be heard"), ("long.wav", "600.0 seconds"),
                        ("text.wav", "not a WAV file"), ("empty.wav", "an empty file"),
                        ("cut.wav", "cut short"), ("none.wav", "no such file"),
                        (golden / "ima_adpcm.wav", "IMA ADPCM"), (golden / "a_law.wav", "A-law")):
        error = refused(capsys, *use, f"--wav={tmp_path / name}")
        assert words in error and str(name) in error


def test_words_by_another_synthesiser(tmp_path, capsys, monkeypatch):
    """Without espeak-ng one line says what is missing. With it (here a stand-in that writes the
    same sound for all) each word is said by each voice, and written down."""
    speech.train(tiny(tmp_path, steps=1))
    flags = [f"--out_dir={tmp_path}/run", f"--files={tmp_path}/files"]
    monkeypatch.setattr(espeak.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit):
        espeak.main(flags)
    assert "espeak-ng is not installed" in capsys.readouterr().err

    def run(command, check):
        write_wav(command[command.index("-w") + 1], torch.sin(torch.arange(4000) / 8), 8000)

    monkeypatch.setattr(espeak.shutil, "which", lambda _: "espeak-ng")
    monkeypatch.setattr(espeak.subprocess, "run", run)
    monkeypatch.setattr(espeak, "WORDS", ["red", "lamp"])
    monkeypatch.setattr(espeak, "VOICES", {"one": ["en-us", "en-gb"], "two": ["en-029"]})
    rows = espeak.main(flags)
    assert {name: row["words"] for name, row in rows.items()} == {"voices one": 4, "voices two": 2}
    assert len(list((tmp_path / "files/one").glob("*.wav"))) == 4
