"""mini/lstm.py: against torch.nn.LSTM, against train_gpt.py where both must agree, and against the classic bugs.

Tests marked `paper` hold the network to the one that the docstring describes; all the others must go on passing in a
fork. What every script must do alike is tested in test_scripts.py.
"""
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
from tests.helpers import close, refused_by

TINY = dict(n_layer=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=3, sample_every=3, log_every=1,
            max_new_tokens=20, warmup=1, device="cpu", tokenizer="char", dropout=0.0, weight_drop=0.0)


@pytest.fixture
def text_file(tmp_path):
    """A small text: three sentences over and over, in random order."""
    rng = np.random.RandomState(0)
    sentences = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences[i] for i in rng.randint(3, size=150)))
    return str(path)


def tiny(text_file, tmp_path, **changes):
    return lstm.Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def make(V=11, wild=False, **sizes):
    """A model with random weights; wild: of normal size, so that gates saturate and beliefs are firm."""
    torch.manual_seed(0)
    model = lstm.LSTM(lstm.Config(**{**TINY, **sizes}), V)
    if wild:
        for p in model.parameters():
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


@pytest.mark.paper
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("L, C, B, T", [(1, 8, 3, 9), (2, 8, 3, 9), (3, 5, 1, 12), (4, 16, 5, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_outputs_states_and_every_gradient_equal_torchs_lstm(L, C, B, T, begun, dtype, tolerance):
    model = make(n_layer=L, n_embd=C, wild=True).to(dtype)
    theirs, x, y = torch_lstm(model), draw(B, T), draw(B, T, seed=1)
    first = torch.randn(2, L, B, C, dtype=dtype) if begun else torch.zeros(2, L, B, C, dtype=dtype)
    weigh = torch.randn(2, L, B, C, dtype=dtype)
    ours_first, their_first = first.transpose(0, 1).clone().requires_grad_(), first.clone().requires_grad_()

    x_top, state = model.hidden(x, ours_first if begun else None)
    logits = model.lm_head(x_top)
    loss = lstm.next_token_loss(logits, y)
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


@pytest.mark.paper
def test_training_equals_torchs_lstm_with_the_same_things_dropped():
    """One mask per text for all steps, on the embeddings and each layer's h on its way up; one mask on U; nothing on W,
    on the biases, or on the state that is handed on."""
    model, x = make(n_layer=2, dropout=0.4, weight_drop=0.3).double(), draw(3, 7)
    B, C = 3, 16
    theirs = torch.nn.LSTM(C, C, batch_first=True, dtype=torch.float64)
    torch.manual_seed(5)
    top, state = model.hidden(x)
    logits = model.lm_head(top)
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
        assert not torch.equal(model(tokens), model(tokens))
        assert torch.equal(model.eval()(tokens), make()(tokens))


def test_half_precision_is_near_and_the_state_is_kept_in_float32():
    model, x, y = make(n_embd=32, block_size=64), draw(8, 64), draw(8, 64, seed=1)
    grads = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            top, state = model.hidden(x)
            loss = lstm.next_token_loss(model.lm_head(top), y)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
        assert state.dtype == grads[-1].dtype == torch.float32
    assert F.cosine_similarity(*grads, dim=0) > 0.999


@pytest.mark.paper
def test_the_cell_is_a_sum_in_float32():
    model = make(n_embd=32, block_size=64)
    state = torch.full((2, 2, 1, 32), 256.0)                # in bfloat16, 256 + 1 is 256
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for layer in model.layers:
            layer.W.weight.zero_(), layer.U.weight.zero_(), layer.W.bias.fill_(100)     # f = i = g = o = 1
        assert model.hidden(draw(1, 3), state)[1][:, 1].eq(259).all()


# ---- the classic bugs

def test_a_token_changes_nothing_before_it_and_everything_after():
    model = make(n_layer=3).double()
    a = draw(2, 20)
    b = a.clone()
    b[0, 12] = (a[0, 12] + 1) % 11
    one, other = model(a), model(b)
    assert torch.equal(one[0, :12], other[0, :12])
    assert (one[0, 12:] - other[0, 12:]).abs().amax(dim=1).min() > 0
    assert torch.equal(one[1], other[1])                        # nor anything in the text beside it


def test_reading_in_pieces_with_the_state_carried_equals_reading_the_whole():
    model = make(n_layer=3, block_size=5).double()
    text = draw(2, 30)                                          # six times what it would learn from at once
    whole, last = model.hidden(text)
    for cuts in ([7, 5, 1, 17], [1] * 30, [29, 1]):
        state, parts = None, []
        for piece in text.split(cuts, dim=1):
            x, state = model.hidden(piece, state)
            parts.append(x)
        close(torch.cat(parts, dim=1), whole, 1e-10)
        close(state, last, 1e-10)
    assert (model.hidden(text[:, 7:])[0] - whole[:, 7:]).abs().max() > 1e-3     # and the state does matter
    close(model(text[:, 7:], model.hidden(text[:, :7])[1]), model(text)[:, 7:], 1e-10)


def test_batches_the_loss_and_the_learning_rate_are_those_of_gpt():
    """So that the two files differ in the network alone."""
    tokens = torch.arange(100)
    batches = [module.get_batch(tokens, 8, 50, torch.Generator().manual_seed(0)) for module in (lstm, train_gpt)]
    assert torch.equal(batches[0][1], batches[0][0] + 1)        # targets are the next tokens
    assert all(torch.equal(a, b) for a, b in zip(*batches))
    model, tokens = make(block_size=10, dropout=0.5, weight_drop=0.5), draw(48)     # 47 targets: 10 10 10 10 7
    assert lstm.estimate_loss(model, [tokens], windows_at_once=2) == pytest.approx(
        train_gpt.estimate_loss(model, [tokens]), rel=1e-6)
    assert model.training
    for sizes in (dict(steps=100, warmup=10, stable_frac=0.5), dict(steps=70, warmup=0, stable_frac=0.0),
                  dict(steps=1, warmup=0), dict(steps=3, warmup=5), dict(steps=700)):
        cfg, gpt = lstm.Config(**sizes), train_gpt.Config(**sizes)
        for step in range(cfg.steps):
            assert lstm.lr_factor(step, cfg) == train_gpt.lr_factor(step, gpt), (sizes, step)


def test_tokens_are_sampled_as_by_gpt():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    for options in (dict(), dict(temperature=0.5), dict(temperature=0), dict(top_k=3), dict(top_p=0.6)):
        draws = [module.sample_token(logits, generator=torch.Generator().manual_seed(1), **options)
                 for module in (lstm, train_gpt)]
        assert torch.equal(*draws), options


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    model, V = lstm.LSTM(lstm.Config(), 3005), 3005          # as many tokens as the stories have
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
    loss = lstm.next_token_loss(model(tokens), tokens.roll(-1, 1))
    assert abs(loss.item() - math.log(V)) < 0.15                # at the start it knows nothing


# ---- sampling

def test_generated_tokens_equal_those_from_reading_everything_again():
    model = make(block_size=8, dropout=0.5, weight_drop=0.5, wild=True)
    prompt = draw(3, 5)
    options = dict(temperature=0.9, top_k=4, top_p=0.95)
    rng = torch.Generator().manual_seed(1)
    text = prompt
    model.eval()
    for _ in range(40):                                         # far beyond a window
        token = lstm.sample_token(model(text)[:, -1], generator=rng, **options)
        text = torch.cat([text, token[:, None]], dim=1)
    model.train()
    columns = []
    rng = torch.Generator().manual_seed(1)
    got = lstm.generate(model, prompt, 40, on_token=columns.append, generator=rng, **options)
    assert torch.equal(got, text) and torch.equal(torch.stack(columns, dim=1), text[:, 5:])
    assert model.training                                       # it puts back what was there


def test_every_token_is_read_once(monkeypatch):
    model, seen = make(), []
    plain = model.hidden
    monkeypatch.setattr(model, "hidden", lambda idx, state: seen.append(tuple(idx.shape)) or plain(idx, state))
    lstm.generate(model, draw(2, 30), 20, temperature=0)
    assert seen == [(2, 30), *[(2, 1)] * 19]


def test_a_text_does_not_depend_on_its_batch_mates():
    model, prompts = make(wild=True).double(), draw(4, 6)
    together = lstm.generate(model, prompts, 15, temperature=0)
    for prompt, text in zip(prompts, together):
        assert torch.equal(lstm.generate(model, prompt[None], 15, temperature=0)[0], text)
    assert len(set(map(tuple, together[:, 6:].tolist()))) > 1


def test_every_sampling_option_reaches_the_sampler():
    model, tokenizer = make(V=40, wild=True), CharTokenizer("".join(map(chr, range(60, 100))))
    options = dict(TINY, prompt="A" * 30, max_new_tokens=40)    # longer than a window: a state is never full

    def text(**changes):
        model.cfg = lstm.Config(**{**options, **changes})
        return lstm.write(model, tokenizer)

    greedy = text(temperature=0.0)
    assert text(top_k=1) == text(top_p=1e-6) == text(temperature=1e-5) == greedy
    assert text(temperature=1.0) == text(temperature=1.0) != greedy
    assert text(temperature=1.0, seed=2) != text(temperature=1.0)
    assert greedy[0].startswith("A" * 30) and len(text(num_samples=3)) == 3 and len(text(max_new_tokens=7)[0]) == 37


# ---- training

def test_overfits_one_batch():
    model, tokens = make(V=20, n_embd=48), draw(4, 17, V=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        loss = lstm.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_end_to_end(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path, n_layer=1, n_embd=32, steps=120, batch_size=32, eval_every=60, sample_every=50)
    result = lstm.train(cfg)
    run = tmp_path / "run"
    characters = len(set(Path(text_file).read_text()))
    assert result["chance"] == pytest.approx(math.log(characters))
    assert max(result["val_loss"], result["kneser_ney"]) < result["chance"] / 2
    assert {"bits_per_byte", "copied", "copied_held_out"} <= set(result)
    log = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    assert [float(row[3]) for row in log[1:]] == pytest.approx([cfg.lr * lstm.lr_factor(step, cfg) for step in range(120)])
    assert float(log[120][4]) == result["val_loss"]
    out = capsys.readouterr().out
    assert "ln V" in out and "by counting" in out and "longest run copied" in out

    flags = [f"--out_dir={run}", "--device=cpu", "--max_new_tokens=30"]
    texts = lstm.main(["sample", *flags, "--prompt=the cat", "--num_samples=2"])
    out = capsys.readouterr().out
    assert all(text in out for text in texts) and out.count("longest run copied") == 2
    assert texts == lstm.main(["sample", *flags, "--prompt=the cat", "--num_samples=2"])
    Path(text_file).rename(tmp_path / "moved.txt")              # the checkpoint is all that `sample` needs
    assert lstm.main(["sample", *flags])[0]
    assert "cannot be told" in capsys.readouterr().out
    (tmp_path / "moved.txt").rename(text_file)
    table = lstm.main(["evaluate", *flags])
    assert json.loads((run / "evaluate.json").read_text()) == {"loss_by_context": table}
    assert list(table) == ["1 tokens", "2 tokens", "4 tokens", "8 tokens", "16 tokens"]
    assert table["16 tokens"]["nats"] < table["1 tokens"]["nats"]       # the past does help


def test_a_resumed_run_keeps_its_tokenizer(text_file, tmp_path):
    """Though the text that it goes on with lacks some of the characters."""
    lstm.train(tiny(text_file, tmp_path))
    before = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["tokenizer"]
    (tmp_path / "other.txt").write_text("the cat sat on the mat. " * 50)
    lstm.train(tiny(str(tmp_path / "other.txt"), tmp_path, resume=True, steps=7))
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["tokenizer"] == before


def test_the_gradient_is_clipped_and_new_at_each_step(text_file, tmp_path, monkeypatch):
    norms, clean = [], []
    step, forward = torch.optim.Adam.step, lstm.LSTM.forward

    def spy(self, *args, **kwargs):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args, **kwargs)

    def look(self, *args, **kwargs):
        clean.extend(p.grad is None for p in self.parameters() if self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    monkeypatch.setattr(lstm.LSTM, "forward", look)
    for clip in (0.0, 0.01):
        lstm.train(tiny(text_file, tmp_path, grad_clip=clip, steps=2, eval_every=0, sample_every=0))
    assert min(norms[:2]) > 0.02 and norms[2:] == pytest.approx([0.01, 0.01], rel=1e-3) and all(clean)


def test_products_are_as_exact_as_asked_for_and_a_prompt_may_be_longer_than_a_window(text_file, tmp_path, monkeypatch):
    precisions, plain = [], lstm.autocast
    monkeypatch.setattr(lstm, "autocast", lambda *args: precisions.append(args) or plain(*args))
    prompt = Path(text_file).read_text()[:60]
    result = lstm.train(tiny(text_file, tmp_path, prompt=prompt, steps=1, sample_every=1, matmul="high"))
    assert precisions == [(torch.device("cpu"), "high")]
    assert (tmp_path / "run/samples/step_000001.txt").read_text().startswith(prompt)
    assert result["copied"] < 10                                # the prompt, which is copied, does not count


def test_bad_sizes(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    for flag, rule in (("--n_embd=0", "at least 1"), ("--n_layer=0", "at least 1"), ("--batch_size=-1", "at least 1"),
                       ("--dropout=1.0", "below 1"), ("--weight_drop=-0.1", "from 0"), ("--stable_frac=1.0", "below 1"),
                       ("--temperature=-1.0", "not be negative"), ("--num_samples=0", "at least 1")):
        error = refused(capsys, *run, flag)
        assert flag.split("=")[0] in error and rule in error
    assert not (tmp_path / "run").exists()


refused = partial(refused_by, lstm.main)
