"""mini/lstm.py against torch.nn.LSTM, against train_gpt.py where both must agree, and against the classic bugs."""
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import lstm
from mini.data.text.tokenizers import CharTokenizer
from mini.lstm import LSTM, Config, generate, lr_factor
from tests.helpers import close, refused_by, same_end

TINY = dict(n_layer=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=3, sample_every=3, log_every=1,
            tokens=20, warmup=1, device="cpu", tokenizer="char", dropout=0.0, weight_drop=0.0)


@pytest.fixture
def text_file(tmp_path):
    """A small text of three sentences over and over, in random order."""
    rng = np.random.RandomState(0)
    words = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(words[i] for i in rng.randint(3, size=150)))
    return str(path)


def tiny(text_file, tmp_path, **changes):
    return Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def make(V=11, wild=False, **sizes):
    """A model with random weights; wild: of normal size, so that gates saturate and beliefs are firm."""
    torch.manual_seed(0)
    model = LSTM(Config(**{**TINY, **sizes}), V)
    for p in model.parameters() if wild else ():
        torch.nn.init.normal_(p)
    return model


def draw(*shape, V=11, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


# ---- parity with torch.nn.LSTM

def torch_lstm(model):
    """torch's own, with the same weights; its second bias, which cuDNN wants, is zero."""
    C, L = model.cfg.n_embd, model.cfg.n_layer
    theirs = torch.nn.LSTM(C, C, L, batch_first=True, dtype=model.wte.weight.dtype)
    with torch.no_grad():
        for k, layer in enumerate(model.layers):
            for name, p in (("weight_ih", layer.W.weight), ("weight_hh", layer.U.weight), ("bias_ih", layer.W.bias)):
                getattr(theirs, f"{name}_l{k}").copy_(p)
            getattr(theirs, f"bias_hh_l{k}").zero_()
    return theirs


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("L, C, B, T", [(1, 8, 3, 9), (2, 8, 3, 9), (3, 5, 1, 12), (4, 16, 5, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_outputs_states_and_every_gradient_equal_torchs_lstm(L, C, B, T, begun, dtype, tolerance):
    model = make(n_layer=L, n_embd=C, wild=True).to(dtype)
    theirs, x, y = torch_lstm(model), draw(B, T), draw(B, T, seed=1)
    first = torch.randn(2, L, B, C, dtype=dtype) if begun else torch.zeros(2, L, B, C, dtype=dtype)
    weigh = torch.randn(2, L, B, C, dtype=dtype)
    ours_first, their_first = first.transpose(0, 1).clone().requires_grad_(), first.clone().requires_grad_()

    logits, loss, state = model(x, y, ours_first if begun else None)
    (loss + (state.transpose(0, 1) * weigh).sum()).backward()
    got = {"logits": logits, "loss": loss, "h": state[:, 0], "c": state[:, 1], "bias": model.lm_head.bias.grad,
           "wte": model.wte.weight.grad}
    for k, layer in enumerate(model.layers):
        got.update({f"W{k}": layer.W.weight.grad, f"U{k}": layer.U.weight.grad, f"b{k}": layer.W.bias.grad})
    model.zero_grad(set_to_none=True)
    out, (h, c) = theirs(model.wte(x), tuple(their_first))
    logits = F.linear(out, model.wte.weight, model.lm_head.bias)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    (loss + (h * weigh[0]).sum() + (c * weigh[1]).sum()).backward()
    want = {"logits": logits, "loss": loss, "h": h, "c": c, "bias": model.lm_head.bias.grad,
            "wte": model.wte.weight.grad}
    for k in range(L):
        want.update({f"W{k}": getattr(theirs, f"weight_ih_l{k}").grad, f"b{k}": getattr(theirs, f"bias_ih_l{k}").grad,
                     f"U{k}": getattr(theirs, f"weight_hh_l{k}").grad})
    if begun:
        got["first"], want["first"] = ours_first.grad.transpose(0, 1), their_first.grad
    for name in got | want:
        close(got[name].detach(), want[name].detach(), tolerance)


def test_training_equals_torchs_lstm_with_the_same_things_dropped():
    """One mask per text for all steps, on the embeddings and each layer's h on its way up; one mask on U; nothing on W,
    on the biases, or on the state that is handed on."""
    model, x = make(n_layer=2, dropout=0.4, weight_drop=0.3).double(), draw(3, 7)
    B, C = 3, 16
    theirs = torch.nn.LSTM(C, C, batch_first=True, dtype=torch.float64)
    torch.manual_seed(5)
    logits, _, state = model(x)
    torch.manual_seed(5)
    ones = torch.ones(1, B, C, dtype=torch.float64)
    h = model.wte(x) * F.dropout(ones, 0.4).transpose(0, 1)     # (B, T, C) * (B, 1, C)
    for k, layer in enumerate(model.layers):
        weights = {"weight_ih_l0": layer.W.weight, "weight_hh_l0": F.dropout(layer.U.weight, 0.3),
                   "bias_ih_l0": layer.W.bias, "bias_hh_l0": torch.zeros(4 * C, dtype=torch.float64)}
        h, last = torch.func.functional_call(theirs, weights, (h,))
        close(state[k], torch.cat(last), 1e-10)
        h = h * F.dropout(ones, 0.4).transpose(0, 1)
    close(logits, F.linear(h, model.wte.weight, model.lm_head.bias), 1e-10)


def test_dropout_acts_in_training_only():
    for changes in (dict(dropout=0.5), dict(weight_drop=0.5)):
        model, tokens = make(**changes), draw(2, 8)
        assert not torch.equal(model(tokens)[0], model(tokens)[0])
        assert torch.equal(model.eval()(tokens)[0], make()(tokens)[0])


def test_half_precision_is_near_and_the_cell_is_kept_in_float32():
    model, x, y = make(n_embd=32, block_size=64), draw(8, 64), draw(8, 64, seed=1)
    grads = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, loss, state = model(x, y)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
        assert state.dtype == grads[-1].dtype == torch.float32
    assert F.cosine_similarity(*grads, dim=0) > 0.999
    state = torch.full((2, 2, 1, 32), 256.0)                # in bfloat16, 256 + 1 is 256
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for layer in model.layers:
            layer.W.weight.zero_(), layer.U.weight.zero_(), layer.W.bias.fill_(100)     # f = i = g = o = 1
        assert model(draw(1, 3), state=state)[2][:, 1].eq(259).all()


# ---- the classic bugs

def test_a_token_changes_nothing_before_it_and_everything_after():
    model = make(n_layer=3).double()
    a = draw(2, 20)
    b = a.clone()
    b[0, 12] = (a[0, 12] + 1) % 11
    one, other = model(a)[0], model(b)[0]
    assert torch.equal(one[0, :12], other[0, :12])
    assert (one[0, 12:] - other[0, 12:]).abs().amax(dim=1).min() > 0
    assert torch.equal(one[1], other[1])                        # nor anything in the text beside it


def test_reading_in_pieces_with_the_state_carried_equals_reading_the_whole():
    model, text = make(n_layer=3, block_size=5).double(), draw(2, 30)      # six times what it would learn from at once
    whole, _, last = model(text)
    for cuts in ([7, 5, 1, 17], [1] * 30, [29, 1]):
        state, logits = None, []
        for piece in text.split(cuts, dim=1):
            out, _, state = model(piece, state=state)
            logits.append(out)
        close(torch.cat(logits, dim=1), whole, 1e-10)
        close(state, last, 1e-10)
    assert (model(text[:, 7:])[0] - whole[:, 7:]).abs().max() > 1e-3        # and the state does matter


def test_batches_and_held_out_windows_are_those_of_gpt():
    tokens = torch.arange(100)
    x, y = lstm.draw_batch(tokens, 8, 50, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 8) and torch.equal(y, x + 1)      # targets are the next tokens
    want = train_gpt.draw_batch(tokens, 8, 50, torch.Generator().manual_seed(0))
    assert torch.equal(x, want[0]) and torch.equal(y, want[1])
    x, y = lstm.draw_batch(torch.arange(9), 8, 3, torch.Generator())
    assert torch.equal(y, torch.arange(1, 9).expand(3, 8))  # a text of one window can be drawn, to its end
    model, tokens = make(block_size=10, dropout=0.5, weight_drop=0.5), draw(48)     # 47 targets: 10 10 10 10 7
    total, count = lstm.held_out_loss(model, tokens, at_once=20)
    assert model.training and count.tolist() == [5] * 7 + [4] * 3
    close(total, train_gpt.held_out_loss(model, tokens)[0], 1e-6)


def test_initialisation():
    torch.manual_seed(0)
    model, V = LSTM(Config(), 1024), 1024
    gpt = train_gpt.GPT(train_gpt.Config(), V)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, gpt)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02, sizes           # at equal parameters, as the README says
    assert model.lm_head.weight is model.wte.weight and abs(model.wte.weight.std() - 0.1) < 0.001
    C = model.cfg.n_embd
    for layer in model.layers:
        f = layer.W.bias.view(4, C) == 1
        assert f[1].all() and not f[[0, 2, 3]].any()            # the forget gate's bias, no other's
        for p in (layer.W.weight, layer.U.weight):
            assert abs(p.abs().max() * math.sqrt(C) - 1) < 0.01
    tokens = draw(4, 64, V=V)
    assert abs(model(tokens, tokens.roll(-1, 1))[1].item() - math.log(V)) < 0.15        # chance, at the start


def test_learning_rate_is_that_of_gpt():
    for sizes in (dict(steps=100, warmup=10, hold=0.5), dict(steps=70, warmup=0, hold=0.0), dict(steps=9, warmup=3, hold=1.0),
                  dict(steps=1, warmup=0), dict(steps=3, warmup=5), dict()):
        cfg, gpt = Config(**sizes), train_gpt.Config(**sizes)
        for step in range(cfg.steps):
            assert lr_factor(step, cfg) == pytest.approx(train_gpt.lr_factor(step, gpt), abs=1e-12), (sizes, step)


# ---- sampling

def test_generated_tokens_equal_those_from_reading_everything_again():
    model, prompt = make(block_size=8, dropout=0.5, weight_drop=0.5, wild=True), draw(3, 5)
    rng, text = torch.Generator().manual_seed(1), prompt
    model.eval()
    for _ in range(40):                                         # far beyond a window
        logits = model(text)[0][:, -1]
        text = torch.cat([text, lstm.pick(logits, 0.9, 4, 0.95, rng)[:, None]], dim=1)
    model.train()
    got = torch.stack(list(generate(model, prompt, 40, 0.9, 4, 0.95, torch.Generator().manual_seed(1))), dim=1)
    assert torch.equal(got, text[:, 5:])


def test_every_token_is_read_once():
    model, seen = make(), []
    plain = model.forward
    model.forward = lambda idx, **kw: seen.append(tuple(idx.shape)) or plain(idx, **kw)
    list(generate(model, draw(2, 30), 20, temperature=0))
    assert seen == [(2, 30), *[(2, 1)] * 19]


def test_a_text_does_not_depend_on_its_batch_mates():
    model, prompts = make(wild=True).double(), draw(4, 6)
    together = torch.stack(list(generate(model, prompts, 15, temperature=0)), dim=1)
    alone = torch.cat([torch.stack(list(generate(model, p[None], 15, temperature=0)), dim=1) for p in prompts])
    assert torch.equal(together, alone) and len(set(map(tuple, together.tolist()))) > 1


def test_every_sampling_option_reaches_the_sampler():
    model, tokenizer = make(V=40, wild=True), CharTokenizer("".join(map(chr, range(60, 100))))
    options = dict(TINY, prompt="A" * 30, tokens=40)            # longer than a window: a state is never full

    def text(**changes):
        return lstm.write(model, tokenizer, Config(**{**options, **changes}))

    greedy = text(temperature=0.0)
    assert text(top_k=1) == text(top_p=1e-6) == text(temperature=1e-3) == greedy
    assert text(temperature=1.0) == text(temperature=1.0) != greedy
    assert text(temperature=1.0, seed=2) != text(temperature=1.0)
    assert greedy[0].startswith("A" * 30) and len(text(samples=3)) == 3 and len(text(tokens=7)[0]) == 37
    assert model.training


# ---- training

def test_overfits_one_batch():
    model, tokens = make(V=20, n_embd=48), draw(4, 17, V=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        _, loss, _ = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_end_to_end(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path, n_layer=1, n_embd=32, steps=120, batch_size=32, eval_every=60, sample_every=50)
    result = lstm.train(cfg)
    assert result["val_loss"] < result["bigram"] < result["chance"] == pytest.approx(math.log(len(set(
        Path(text_file).read_text()))))
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text()) == result and result["model"] == "lstm"
    assert {"steps", "seconds", "parameters", "device", "bits_per_byte", "copied"} <= set(result)
    log = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    assert log[0] == ["step", "seconds", "loss", "lr", "val_loss"] and len(log) == 121
    assert [float(row[3]) for row in log[1:]] == pytest.approx([cfg.lr * lr_factor(step, cfg) for step in range(120)])
    assert float(log[120][4]) == pytest.approx(result["val_loss"])
    assert (run / "samples/step_000050.txt").exists() and (run / "config.json").exists()
    out = capsys.readouterr().out
    assert "ln V" in out and "counting pairs of tokens" in out and "longest run copied" in out
    args = [f"--out_dir={run}", "--device=cpu", "--tokens=30"]
    texts = lstm.main(["sample", *args, "--prompt=the cat", "--samples=2"])
    out = capsys.readouterr().out
    assert all(text in out for text in texts) and out.count("longest run copied") == 2
    assert texts == lstm.main(["sample", *args, "--prompt=the cat", "--samples=2"])
    Path(text_file).rename(tmp_path / "moved.txt")              # the checkpoint is all that `sample` needs
    assert lstm.main(["sample", *args])[0]
    assert "cannot be told" in capsys.readouterr().out
    (tmp_path / "moved.txt").rename(text_file)
    table = lstm.main(["evaluate", *args])["loss_after_so_many_tokens"]
    assert json.loads((run / "evaluate.json").read_text()) == {"loss_after_so_many_tokens": table}
    assert list(table) == ["0–0", "1–1", "2–3", "4–7", "8–15"] and table["8–15"] < table["0–0"]    # the past does help


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_resumed_equals_uninterrupted(text_file, tmp_path, tokenizer):
    changes = dict(dropout=0.1, weight_drop=0.1, tokenizer=tokenizer, vocab_size=270)
    lstm.train(tiny(text_file, tmp_path, out_dir=str(tmp_path / "whole"), **changes))
    lstm.train(tiny(text_file, tmp_path, stop_after=4, **changes))
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["step"] == 4
    lstm.train(tiny(text_file, tmp_path, resume=True, **changes))
    same_end(tmp_path / "whole", tmp_path / "run", 6, "tokenizer")
    (tmp_path / "other.txt").write_text("the cat sat on the mat. " * 50)        # without some of the characters
    lstm.train(tiny(str(tmp_path / "other.txt"), tmp_path, resume=True, steps=7, beta2=0.5, vocab_size=270,
                    tokenizer=tokenizer))
    c = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    a = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)
    assert c["tokenizer"] == a["tokenizer"] and c["optimizers"][0]["param_groups"][0]["betas"] == (0.9, 0.5)


def test_the_gradient_is_clipped_and_new_at_each_step(text_file, tmp_path, monkeypatch):
    norms, clean, step, forward = [], [], torch.optim.Adam.step, LSTM.forward

    def spy(self, *args, **kwargs):
        norms.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm().item())
        return step(self, *args, **kwargs)

    def look(self, *args, **kwargs):
        clean.extend(p.grad is None for p in self.parameters() if self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    monkeypatch.setattr(LSTM, "forward", look)
    for clip in (0.0, 0.01):
        lstm.train(tiny(text_file, tmp_path, grad_clip=clip, steps=2, eval_every=0, sample_every=0))
    assert min(norms[:2]) > 0.02 and norms[2:] == pytest.approx([0.01, 0.01], rel=1e-3) and all(clean)


def test_compile_is_offered_and_a_prompt_may_be_longer_than_a_window(text_file, tmp_path, monkeypatch):
    calls, precisions, plain, prompt = [], [], lstm.autocast, Path(text_file).read_text()[:60]
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(model) or model)
    monkeypatch.setattr(lstm, "autocast", lambda *args: precisions.append(args) or plain(*args))
    result = lstm.train(tiny(text_file, tmp_path, compile=True, prompt=prompt, steps=1, sample_every=1, matmul="high"))
    assert len(calls) == 1 and isinstance(calls[0], LSTM) and precisions == [(torch.device("cpu"), "high")]
    assert (tmp_path / "run/samples/step_000001.txt").read_text().startswith(prompt)
    assert result["copied"] < 10                                # the prompt, which is copied, does not count


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, lstm.main)


def test_bad_flags_and_data(text_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1", "--block_size=8"]
    (tmp_path / "empty.txt").write_text("")
    assert "no text" in refused(capsys, *run, f"--data={tmp_path}/empty.txt")
    (tmp_path / "short.txt").write_text("short")
    assert "--block_size" in refused(capsys, *run, f"--data={tmp_path}/short.txt")
    assert "no such file" in refused(capsys, *run, f"--data={tmp_path}/none.txt")
    run.append(f"--data={text_file}")
    assert "did you mean --n_layer" in refused(capsys, *run, "--n_layers=3")
    for wrong in ("--n_embd=0", "--n_layer=0", "--block_size=0", "--batch_size=0", "--n_embd=-3", "--dropout=1",
                  "--dropout=-0.1", "--weight_drop=1.5", "--weight_drop=-1"):
        assert "must be at least 1, dropout" in refused(capsys, *run, wrong)
    assert "'é'" in refused(capsys, *run, "--tokenizer=char", "--prompt=thé")   # before it trains, not after
    assert "must be positive" in refused(capsys, *run, "--tokens=0")
    assert not (tmp_path / "run").exists()


def test_bad_prompt_and_bad_checkpoint(text_file, tmp_path, capsys):
    run, path = [f"--out_dir={tmp_path}/run", f"--data={text_file}", "--device=cpu"], tmp_path / "run/checkpoint.pt"
    for command in (["sample"], ["evaluate"], ["--resume"]):
        assert "no checkpoint" in refused(capsys, *command, *run)
    lstm.train(tiny(text_file, tmp_path, steps=2))
    capsys.readouterr()
    assert "'é'" in refused(capsys, "sample", *run, "--prompt=thé")
    assert "must be positive" in refused(capsys, "sample", *run, "--top_p=0")
    assert "leave the flag out" in refused(capsys, *run, "--resume", "--n_embd=32")
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        for command in (["sample"], ["--resume"]):
            assert "truncated" in refused(capsys, *command, *run)
    path.write_bytes(whole)
    state = torch.load(path, weights_only=True)
    torch.save({**state, "name": "gpt"}, path)
    for command in (["sample"], ["evaluate"], ["--resume"]):
        assert "'gpt'" in refused(capsys, *command, *run)


def test_a_loss_that_is_not_a_number_stops_the_run(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run", *(f"--{k}={v}" for k, v in TINY.items())]
    lstm.main(run)
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    error = refused(capsys, *run, "--resume", "--steps=40", "--lr=1e38", "--grad_clip=0")
    assert "error: loss is" in error and "lower the learning rate" in error     # at the step, not at the evaluation
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before
