"""mini/music.py: the skew and relative attention against their definitions, causality, cache, and the whole script."""
import math
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import music
from mini.data.music import midi
from mini.data.music.music_scores import music_scores
from mini.data.music.tunes import BEAT, compose
from tests.helpers import close, refused_by

TINY = dict(pieces=12, n_layer=2, n_head=2, n_embd=16, block_size=32, batch_size=4, steps=6, eval_every=3,
            sample_every=3, log_every=1, tokens=40, samples=2, warmup=1, device="cpu", matmul="highest")


def tiny(tmp_path, **changes):
    return music.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def flags(tmp_path, **changes):
    return [f"--{k}={v}" for k, v in {**TINY, "out_dir": tmp_path / "run", **changes}.items()]


def make(V=11, wild=True, **sizes):
    """A model with random weights; wild: of normal size, so that attention is far from uniform."""
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(**{**TINY, **sizes}), V)
    for p in model.parameters() if wild else ():
        torch.nn.init.normal_(p, std=0.5)
    return model


def draw(*shape, V=11, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


refused = partial(refused_by, music.main)


# ---- relative attention

def layer_by_numpy(layer, x, W):
    """The whole layer in float64 by its definition: for each query the keys up to it, at most W − 1 back."""
    weight = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    B, T, C = x.shape
    nh, hs = layer.n_head, C // layer.n_head
    qkv = x @ weight["c_attn.weight"].T + weight["c_attn.bias"]
    q, k, v = (part.reshape(B, T, nh, hs) for part in np.split(qkv, 3, axis=2))
    y = np.zeros((B, T, nh, hs))
    for b in range(B):
        for h in range(nh):
            for i in range(T):
                keys = range(max(0, i - W + 1), i + 1)
                logits = np.array([q[b, i, h] @ (k[b, j, h] + weight["E"][h, W - 1 - (i - j)]) for j in keys])
                p = np.exp((logits - logits.max()) / math.sqrt(hs))
                y[b, i, h] = sum(p_j * v[b, j, h] for p_j, j in zip(p / p.sum(), keys))
    return y.reshape(B, T, C) @ weight["c_proj.weight"].T + weight["c_proj.bias"]


@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("T", [1, 5, 12, 20])
def test_the_whole_layer_equals_its_definition_in_numpy(T, dtype, tolerance):
    W = 12                                                      # shorter than the window, as long, longer
    model = make(block_size=W, n_embd=12, n_head=3).to(dtype)
    x = torch.randn(2, T, 12, dtype=dtype)
    seen, layer = {}, model.h[0].attn
    layer.register_forward_pre_hook(lambda module, args: seen.update(mask=args[1]))
    model(draw(2, T))                                           # for the model's own mask
    got, kv = layer(x, seen["mask"])
    close(got.detach().double(), layer_by_numpy(layer, x.double().numpy(), W), tolerance)
    assert kv.shape == (2, 2, 3, T, 4)


@pytest.mark.paper
def test_gradients_equal_those_of_the_loop():
    layer = music.RelativeAttention(music.Config(**{**TINY, "block_size": 6})).double()
    torch.nn.init.normal_(layer.E)
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    mask = torch.full((6, 6), -math.inf, dtype=torch.float64).triu(1)
    layer(x, mask)[0].square().sum().backward()
    fast, layer.E.grad = layer.E.grad, None
    q, k, v = layer.c_attn(x).view(2, 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
    distance = (torch.arange(6)[:, None] - torch.arange(6)).clamp(min=0)
    relative = torch.einsum("bhid,hijd->bhij", q, layer.E[:, 5 - distance])     # the tensor that the skew saves
    y = F.softmax((q @ k.mT + relative) / math.sqrt(8) + mask, dim=-1) @ v
    layer.c_proj(y.transpose(1, 2).reshape(2, 6, 16)).square().sum().backward()
    close(fast, layer.E.grad, 1e-10)


# ---- causality, the window, the cache

@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("change", [1, 7, 19, 39])
def test_a_token_changes_nothing_before_it(change, cached):
    """Also after the window has slid (T = 12 of 40). With a cache the tokens come in three parts."""
    model, a = make(block_size=12).eval(), draw(2, 40)
    b = a.clone()
    b[:, change] = (b[:, change] + 1) % 11

    def logits(idx):
        if not cached:
            return model(idx)[0]
        cache = []
        return torch.cat([model(part, cache=cache)[0] for part in idx.split([9, 1, 30], dim=1)], dim=1)
    x, y = logits(a), logits(b)
    assert torch.equal(x[:, :change], y[:, :change]) and not torch.equal(x[:, change], y[:, change])


def test_one_layer_sees_a_window_of_tokens_and_no_position():
    model, a = make(n_layer=1, block_size=8).eval(), draw(1, 20)
    b = a.clone()
    b[:, :12] = (b[:, :12] + 1) % 11
    x, y = model(a)[0], model(b)[0]
    assert torch.equal(x[:, 19], y[:, 19]) and not torch.equal(x[:, 18], y[:, 18])     # 12 to 19 are eight
    close(model(a[:, 12:])[0][:, -1], x[:, -1], 1e-5)           # the same eight, at the beginning


@pytest.mark.parametrize("parts", [[1] * 40, [30, 1, 1, 8], [5, 35], [40], [12, 12, 16]])
def test_cached_logits_equal_uncached_ones(parts):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model, idx, cache = make(block_size=12).to(dtype).eval(), draw(2, 40), []
        got = torch.cat([model(part, cache=cache)[0] for part in idx.split(parts, dim=1)], dim=1)
        close(got.detach(), model(idx)[0].detach(), tolerance)
        assert len(cache) == 2 and cache[0].shape == (2, 2, 2, 11, 8)   # the next token sees eleven keys and its own


@pytest.mark.parametrize("options", [dict(temperature=0), dict(), dict(top_k=3), dict(top_p=0.7, temperature=1.3)])
def test_cached_generation_equals_uncached(options):
    model = make(block_size=12).double()
    runs = []
    for use_cache in (True, False):
        generator = torch.Generator().manual_seed(7)
        runs.append(torch.stack(list(music.generate(model, draw(3, 5), 40, generator=generator, use_cache=use_cache,
                                              **options))))
    assert torch.equal(*runs)


def test_generation_uses_its_options():
    model = make()

    def run(**options):
        return torch.stack(list(music.generate(model, draw(3, 5), 30, generator=torch.Generator().manual_seed(7),
                                               **options)))
    likeliest = run(temperature=0)
    for options in (dict(temperature=1e-4), dict(top_k=1), dict(top_p=1e-9)):
        assert torch.equal(run(**options), likeliest)
    assert not torch.equal(run(), likeliest) and not torch.equal(run(temperature=5), run())


# ---- learning

def test_loss_at_the_beginning_and_overfitting_one_batch():
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(**{**TINY, "n_embd": 32}))
    x, y = music.draw_batch(music.to_tokens([compose(0)[0]], "cpu"), 32, 4, 0, torch.Generator().manual_seed(0))
    assert abs(model(x, y)[1].item() - math.log(midi.VOCAB_SIZE)) < 0.1
    optimizers = music.make_optimizers(model, model.cfg)
    assert sum(len(g["params"]) for o in optimizers for g in o.param_groups) == len(list(model.parameters()))
    for _ in range(40):
        _, loss = model(x, y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.5


def test_batches_are_shifted_by_one_and_transposed_as_a_whole():
    notes = compose(1)[0]
    tokens = music.to_tokens([notes], "cpu")
    x, y = music.draw_batch(tokens, 50, 64, 0, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, 1:], y[:, :-1]) and x.shape == (64, 50)
    moved, _ = music.draw_batch(tokens, 50, 64, 3, torch.Generator().manual_seed(0))
    seen = set()
    for plain, other in zip(x, moved):
        change = (other - plain)[plain < midi.SHIFT].unique()
        assert len(change) == 1 and torch.equal(other[plain >= midi.SHIFT], plain[plain >= midi.SHIFT])
        seen.add(change.item())
    assert seen == set(range(-3, 4))
    edge, _ = music.draw_batch(torch.tensor([0, 127, 128, 255] * 20), 8, 50, 12, torch.Generator().manual_seed(0))
    assert ((edge < 128) == (edge % 256 < 128)).all() and edge.min() >= 0 and edge.max() < 256


def test_held_out_loss_counts_every_token_once():
    model, tokens = make(V=11, block_size=8).eval(), draw(30)
    total, count = music.held_out_loss(model, tokens, at_once=16)
    assert count.sum() == 29
    want = sum(F.cross_entropy(model(tokens[None, i:j])[0][0], tokens[i + 1:j + 1], reduction="sum").item()
               for i, j in ((0, 8), (8, 16), (16, 24), (24, 29)))
    assert abs(total.sum().item() - want) < 1e-3


# ---- the script

def test_a_run_from_training_to_sound(tmp_path, capsys):
    result = music.main(flags(tmp_path))
    run = tmp_path / "run"
    assert float((run / "log.csv").read_text().split()[-1].split(",")[-1]) == result["val_loss"]
    assert result["chance"] == math.log(389) and 1 < result["bigram"] < 4 and result["corpus"]["in_key"] > 0.9
    assert (run / "samples/step_000003.mid").exists() and (run / "samples/step_000006.png").exists()
    out = capsys.readouterr().out
    assert "held-out loss" in out and "counting pairs" in out and "look in" in out
    write_primer(tmp_path / "a.mid")
    pieces = music.main(["sample", *flags(tmp_path, samples=3), "--wav", f"--primer={tmp_path}/a.mid",
                         "--primer_seconds=3.84"])
    out = capsys.readouterr().out
    assert len(pieces) == 3 and "only 6 steps" in out and "in key" in out
    wanted = [n for n in compose(3)[0] if n.end < 3.84]
    for i, notes in enumerate(pieces, 1):
        assert (run / f"sample_{i}.png").exists() and (run / f"sample_{i}.wav").exists()
        assert [n for n in notes if n.end < 3.84] == wanted
        assert [n[2:] for n in midi.read_midi(run / f"sample_{i}.mid")[0]] == [n[2:] for n in notes]
    assert pieces[0] != pieces[1]
    assert pieces == music.main(["sample", *flags(tmp_path, samples=3), f"--primer={tmp_path}/a.mid",
                                 "--primer_seconds=3.84", "--cache=0"])
    table = music.main(["evaluate", *flags(tmp_path)])["loss_after_so_many_events"]
    assert list(table) == ["0–0", "1–1", "2–3", "4–7", "8–15", "16–31"]


def write_primer(path):
    midi.write_midi(path, compose(3)[0], BEAT)


def test_a_run_on_a_folder(tmp_path, capsys):
    (tmp_path / "midis").mkdir()
    for i in range(4):
        midi.write_midi(tmp_path / f"midis/{i}.mid", compose(i)[0], 0.6)
    result = music.main(flags(tmp_path, data=tmp_path / "midis", transpose=5, steps=3))
    assert result["steps"] == 3 and result["n"] == 1
    music.main(["sample", f"--out_dir={tmp_path}/run"])
    assert midi.read_midi(tmp_path / "run/sample_1.mid")[1] == 0.6


def test_n_test_is_honoured_and_reported(tmp_path, capsys):
    result = music.main(flags(tmp_path, pieces=40, n_test=2))
    assert result["n"] == 2 and "beside 2 held-out ones" in capsys.readouterr().out
    assert music.main(flags(tmp_path, pieces=40))["n"] == 4


def test_bad_input_is_refused_in_one_line_within_a_second(tmp_path, capsys):
    music.train(tiny(tmp_path, steps=3))
    write_primer(tmp_path / "good.mid")
    (tmp_path / "half.mid").write_bytes((tmp_path / "good.mid").read_bytes()[:-90])
    for command in (["sample", f"--out_dir={tmp_path}/run"], flags(tmp_path, out_dir=tmp_path / "new")):
        before = time.process_time()
        error = refused(capsys, *command, f"--primer={tmp_path}/half.mid")
        assert "cut short" in error and "half.mid" in error and time.process_time() - before < 1
    assert not (tmp_path / "new").exists()
    run = ["sample", f"--out_dir={tmp_path}/run"]
    assert "missing.mid" in refused(capsys, *run, f"--primer={tmp_path}/missing.mid")
    assert "--transpose" in refused(capsys, *flags(tmp_path, transpose=13))
    for flag in ("--tokens=0", "--samples=0", "--temperature=-1", "--top_k=-1", "--top_p=0", "--primer_seconds=0"):
        error = refused(capsys, *run, flag)
        assert "must be positive" in error or "must not be negative" in error
    assert "multiple" in refused(capsys, *flags(tmp_path, n_embd=15))
    assert "block_size" in refused(capsys, *flags(tmp_path, block_size=10**6))


def test_a_model_that_writes_no_notes_is_no_failure(tmp_path, capsys):
    """After a step or two a model may write a single note, or none."""
    assert music_scores([[]], BEAT) == {}
    music.save_piece(tmp_path / "none", [], BEAT, wav=True)
    assert (tmp_path / "none.png").stat().st_size > 0
    music.main(flags(tmp_path, steps=1, tokens=1, samples=1))
