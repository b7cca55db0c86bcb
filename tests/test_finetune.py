"""mini/finetune.py: LoRA, which weights learn, the last token, zero-shot, resume; each beside a second way to get it."""
import dataclasses
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import finetune
from mini.data.text.corpus import encode_texts
from mini.data.text.tokenizers import CharTokenizer
from tests.helpers import close, labelled_texts_and_a_base, learnt_by_heart
from tests.helpers import refused as refused_call
from tests.helpers import refused_by

V = 13


def make_base(block_size=12, **changes):
    torch.manual_seed(0)
    cfg = train_gpt.Config(**{**dict(n_layer=2, n_head=2, n_embd=16, block_size=block_size, dropout=0.3), **changes})
    base = train_gpt.GPT(cfg, V)
    for p in base.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return base


def draw(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def wild_head(model):
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    return model


# ---- LoRA

def test_lora_is_the_formula():
    torch.manual_seed(1)
    linear = torch.nn.Linear(6, 10).double()
    layer = finetune.LoRA(linear, r=3, alpha=12.0).double()
    torch.nn.init.normal_(layer.B)
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    W = linear.weight + 12 / 3 * layer.B @ layer.A
    close(layer(x), x @ W.T + linear.bias, 1e-12)


def test_lora_begins_as_the_frozen_model_and_merged_equals_unmerged():
    base, cfg = make_base(), finetune.Config(rank=4, alpha=8.0)
    idx, n = draw(5, 12), torch.tensor([12, 3, 7, 1, 12])
    frozen, lora = (wild_head(finetune.prepare(method, base, 3, cfg)) for method in ("frozen", "lora"))
    assert torch.equal(finetune.predict(frozen, idx, n), finetune.predict(lora, idx, n))          # B = 0
    layers = [layer for _, _, layer in finetune.matrices(lora.gpt)]
    assert len(layers) == 8 and all(isinstance(layer, finetune.LoRA) for layer in layers)
    for layer in layers:
        torch.nn.init.normal_(layer.B, std=0.1)
    before = finetune.predict(lora, idx, n)
    assert (before - finetune.predict(frozen, idx, n)).abs().max() > 0.1
    close(finetune.predict(finetune.merge(lora), idx, n), before)
    assert not any(isinstance(layer, finetune.LoRA) for _, _, layer in finetune.matrices(lora.gpt))
    assert lora.gpt.state_dict().keys() == base.state_dict().keys()             # a plain GPT again


# ---- what learns

def test_only_what_the_method_trains_changes():
    cfg, idx = finetune.Config(rank=2), draw(6, 12)
    n, y = torch.tensor([12, 5, 9, 2, 12, 1]), torch.tensor([0, 1, 0, 1, 1, 0])
    for method in finetune.RATES:
        base = make_base()
        saved = {name: p.clone() for name, p in base.state_dict().items()}
        model = finetune.prepare(method, base, 2, cfg)
        before = {name: p.clone() for name, p in model.state_dict().items()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):                                      # at first the head is 0, and hides the rest
            F.cross_entropy(model(idx, n), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        changed = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
        wanted = {"frozen": ("head",), "last": ("head", "gpt.h.1.", "gpt.ln_f"), "all": ("",), "scratch": ("",),
                  "lora": ("head", *(f"gpt.h.{i}.{p}.{w}" for i in (0, 1) for p in ("attn.c_proj", "mlp.c_fc",
                           "mlp.c_proj", "attn.c_attn") for w in "AB"))}[method]
        assert changed == {name for name in before if name.startswith(wanted)}, method
        assert all(torch.equal(p, saved[name]) for name, p in base.state_dict().items()), method    # a copy learns
        same = all(torch.equal(before[f"gpt.{name}"], p) for name, p in saved.items() if f"gpt.{name}" in before)
        assert same == (method != "scratch")


@pytest.mark.paper
def test_the_fraction_of_weights_that_lora_trains():
    base, cfg = make_base(), finetune.Config(rank=3)
    model, C = finetune.prepare("lora", base, 2, cfg), 16
    per_block = 3 * ((C + 3 * C) + (C + C) + (C + 4 * C) + (4 * C + C))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * per_block + 2 * C


def test_dropout_is_the_runs_and_acts_in_training_only():
    idx, n = draw(2, 12), torch.tensor([12, 4])
    for fused in (False, True):
        model = wild_head(finetune.prepare("all", make_base(fused=fused), 2, finetune.Config(dropout=0.5)))
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
        assert not torch.equal(model(idx, n), model(idx, n))
        assert torch.equal(finetune.predict(model, idx, n), finetune.predict(model, idx, n))


# ---- the last token

def test_logits_are_the_heads_of_gpts_last_vector():
    base = make_base().eval()
    model = wild_head(finetune.Classifier(base, 3)).eval()
    idx = draw(4, 9)
    vectors = []
    base.ln_f.register_forward_hook(lambda module, inputs, output: vectors.append(output))
    base(idx)
    close(model(idx, torch.full((4,), 9)), vectors[0][:, -1] @ model.head.weight.T)


def test_what_fills_a_row_up_and_batch_mates_change_nothing():
    model = wild_head(finetune.prepare("all", make_base(), 2, finetune.Config()))
    idx, n = draw(5, 12), torch.tensor([12, 1, 7, 3, 11])
    together = finetune.predict(model, idx, n)
    for row, length, logits in zip(idx, n, together):
        close(finetune.predict(model, row[None, :length], length[None])[0], logits)
    other = torch.where(torch.arange(12) < n[:, None], idx, draw(5, 12, seed=9))
    close(finetune.predict(model, other, n), together)
    close(finetune.predict(model, idx, n, at_once=2), together)


def test_texts_as_tokens(capsys):
    tokenizer = CharTokenizer.train("\nabcdefgh")
    x, n = encode_texts(["abc", "a", "abcdefgh"], tokenizer, 6)
    assert n.tolist() == [4, 2, 6] and [tokenizer.decode(r[:k].tolist()) for r, k in zip(x, n)] == ["\nabc", "\na",
                                                                                                   "cdefgh"]
    assert "1 of 3 texts are longer than 6 tokens" in capsys.readouterr().out
    refused_call(lambda: encode_texts(["abc", ""], tokenizer, 6), "a text is empty")


# ---- zero-shot

def test_zero_shot_is_the_likelier_continuation_by_bayes(monkeypatch):
    tokenizer = CharTokenizer.train("\nabcdefghijk")
    monkeypatch.setattr(finetune, "CONTINUATIONS", {"bad": "ab", "good": "hij"})
    base = make_base().eval()
    texts = ["", "d", "kk", "edc", "gggg", "abcde", "hhhhhhh", "acegi"]

    def log_p(text, continuation):      # token by token, from the chain rule
        ids, total = tokenizer.encode("\n" + text), 0.0
        for token in tokenizer.encode(continuation):
            total += F.log_softmax(base(torch.tensor([ids]))[0, -1].double(), dim=0)[token].item()
            ids.append(token)
        return total
    found = finetune.zero_shot(base, tokenizer, texts, ["bad", "good"]).tolist()
    wanted = [int(log_p(t, "hij") - log_p("", "hij") > log_p(t, "ab") - log_p("", "ab")) for t in texts]
    assert found[1:] == wanted[1:] and len(set(found[1:])) == 2     # for "" it is a tie


def test_an_interrupted_evaluation_leaves_without_a_traceback(own, tmp_path, capsys):
    finetune.main(flags(own, tmp_path / "run", steps=1))
    assert finetune.evaluate(finetune.Config(out_dir=f"{tmp_path}/run", stop_after=1, steps=3, device="cpu")) == {
        "model": "finetune", "steps": 1, "interrupted": 0}


# ---- the run

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Flags of a tiny run: own reviews, and a base trained for a few steps."""
    folder = tmp_path_factory.mktemp("finetune")
    return dict(**labelled_texts_and_a_base(folder), few=40, batch_size=4, steps=4, warmup=1, log_every=1, device="cpu")


def flags(own, out_dir, **more):
    return [f"--{k}={v}" for k, v in {**own, "out_dir": out_dir, **more}.items()]


def test_overfits_one_batch():
    model = finetune.prepare("all", make_base(), 2, finetune.Config(dropout=0.0))
    idx, n, y = draw(8, 12), torch.randint(1, 13, (8,)), torch.tensor([0, 1] * 4)
    assert learnt_by_heart(model, lambda: F.cross_entropy(model(idx, n), y), 60) < 0.05


def test_end_to_end(own, tmp_path, capsys):
    result = finetune.main(flags(own, tmp_path / "run"))
    out = capsys.readouterr().out
    assert set(result["table"]) == {*finetune.RATES, "zero-shot", "bag of words", "most frequent"}
    assert "ln 2 = 0.693" in out and "bag of words" in out and result["few"] == 40
    assert result["n"] == 12 and "judging 12 held-out texts" in out
    trained = {name: row["trained"] for name, row in result["table"].items()}
    assert trained["frozen"] == 16 * 2 < trained["last"] < trained["all"] == trained["scratch"]
    for row in result["table"].values():
        assert 0 <= row["accuracy"] <= 1
    assert all(result["table"][method]["seconds"] > 0 for method in finetune.RATES)
    log = (tmp_path / "run/log.csv").read_text().split("\n")
    first = dict(zip(log[0].split(","), log[1].split(",")))
    assert all(abs(float(first[method]) - math.log(2)) < 1e-4 for method in finetune.RATES)      # the head begins at 0
    for method in ("all", "lora"):
        seen = finetune.main(["sample", f"--out_dir={tmp_path}/run", "--text=The plot dragged.", f"--method={method}"])
        assert set(seen) == {"bad", "good"} and sum(seen.values()) == pytest.approx(1)


def test_n_test_is_honoured_and_reported(own, tmp_path, capsys):
    result = finetune.main(flags(own, tmp_path / "run", n_test=5))
    assert result["n"] == 5 and "n = 5" in capsys.readouterr().out


def test_a_short_run_makes_do_with_a_short_base():
    usual = [finetune.Config(), finetune.Config(steps=1000), finetune.Config(steps=80)]
    assert [finetune.base_steps(cfg) for cfg in usual] == [finetune.BASE_STEPS] * 3
    assert finetune.base_steps(finetune.Config(steps=3)) == 30
    assert finetune.base_steps(finetune.Config(steps=3, base_steps=7)) == 7


def test_the_own_base_is_made_once_and_learns_no_held_out_review(tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    calls, plain = [], train_gpt.train
    monkeypatch.setattr(train_gpt, "train", lambda cfg: calls.append(cfg) or plain(cfg))
    cfg = finetune.Config(**{**own, "init_from": "", "base_steps": 1, "block_size": 16})
    a, b = finetune.make_base(cfg), finetune.make_base(cfg)
    assert len(calls) == 1 and torch.equal(a[0].wte.weight, b[0].wte.weight) and a[0].cfg.block_size == 16
    finetune.make_base(dataclasses.replace(cfg, base_steps=2))      # a longer one is another: both are kept
    assert [made.steps for made in calls] == [1, 2] and calls[0].out_dir != calls[1].out_dir
    text = Path(calls[0].data).read_text("utf-8")
    data = finetune.load_reviews(own["reviews"], 40)
    assert all(t in text for t in data.unlabelled) and not any(t in text for t, _ in data.test if len(t) > 60)


# ---- bad input: one line, exit status 2

refused = partial(refused_by, finetune.main)


def test_bad_input(own, tmp_path, capsys):
    run = flags(own, tmp_path / "run")
    assert "from 0 to below 1" in refused(capsys, *run, "--dropout=2")
    assert "must be" in refused(capsys, *run, "--rank=0") and "must be" in refused(capsys, *run, "--batch_size=0")
    assert not (tmp_path / "run").exists()


def test_bad_checkpoints(own, tmp_path, capsys):
    run, where = flags(own, tmp_path / "run", steps=1), f"--out_dir={tmp_path}/run"
    finetune.main(run)
    capsys.readouterr()
    assert "which text" in refused(capsys, "sample", where)
    assert "text is empty" in refused(capsys, "sample", where, "--text= ")
    assert "choose from" in refused(capsys, "sample", where, "--text=a", "--method=some")
    other = tmp_path / "other.tsv"
    other.write_text("".join(f"text {i}\t{'red' if i % 2 else 'blue'}\n" for i in range(60)))
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    state["config"]["reviews"] = str(other)                         # the file has changed meanwhile
    torch.save(state, tmp_path / "run/checkpoint.pt")
    assert "head is for other labels" in refused(capsys, where, "--resume", "--steps=2")
    torch.save({**state, "name": "bert"}, tmp_path / "run/checkpoint.pt")
    assert "not of 'gpt'" in refused(capsys, *run, f"--init_from={tmp_path}/run/checkpoint.pt")


def test_a_text_that_is_too_long_is_judged_by_its_end(own, tmp_path, capsys):
    finetune.main(flags(own, tmp_path / "run", steps=1))
    long = "The plot dragged. " * 60
    seen = finetune.main(["sample", f"--out_dir={tmp_path}/run", f"--text={long}"])
    assert "longer than 32 tokens" in capsys.readouterr().out and sum(seen.values()) == pytest.approx(1)
