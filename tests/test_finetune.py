"""mini/finetune.py: LoRA, what each method trains, the vector of a text, zero-shot, one method
after another; each beside a second way to get it."""
import csv
import dataclasses
import gc
import json
import math
import shutil
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import finetune
from mini.data.text.corpus import encode_texts
from mini.data.text.reviews import load_reviews
from mini.data.text.tokenizers import CharTokenizer
from mini.utils.config import UserError
from tests.helpers import close, labelled_texts_and_a_base, learnt_by_heart, refused, refused_by

V = 13
BASELINES = {"zero-shot", "naive Bayes, EM", "naive Bayes", "bag of words", "most frequent"}
refused_by_main = partial(refused_by, finetune.main)


def small_gpt(**changes):
    """A GPT with weights that are not as at first, so that nothing hides behind a zero."""
    torch.manual_seed(0)
    sizes = dict(n_layer=2, n_head=2, n_embd=16, block_size=12, dropout=0.3)
    gpt = train_gpt.GPT(train_gpt.Config(**{**sizes, **changes}), V)
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return gpt


def classifier(method="all", base=None, n_classes=2, **settings):
    """What a method begins with, but for the head, which is not zero: zero would hide the rest."""
    cfg = finetune.Config(**settings)
    model = finetune.make_classifier(method, base or small_gpt(), n_classes, cfg)
    rng = torch.Generator().manual_seed(5)
    for p in model.head.parameters():
        torch.nn.init.normal_(p, generator=rng)
    return model


def draw(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def lora_layers(gpt):
    return [module for module in gpt.modules() if isinstance(module, finetune.LoRALinear)]


# ---- LoRA

def test_lora_is_the_formula():
    torch.manual_seed(1)
    linear = torch.nn.Linear(6, 10).double()
    layer = finetune.LoRALinear(linear, r=3, alpha=12.0).double()
    torch.nn.init.normal_(layer.B)
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    W = linear.weight + 12 / 3 * layer.B @ layer.A
    wanted = x @ W.T + linear.bias
    close(layer(x), wanted, 1e-12)
    close(layer.merged()(x), wanted, 1e-12)


def test_lora_begins_as_the_frozen_model():
    """B = 0, so W′ = W to the last bit. If A were 0 as well, nothing would ever be learnt."""
    idx, length = draw(5, 12), torch.tensor([12, 3, 7, 1, 12])
    frozen = classifier("frozen")
    lora = classifier("lora")
    assert torch.equal(finetune.predict(frozen, idx, length), finetune.predict(lora, idx, length))
    assert all(layer.A.abs().min() > 0 for layer in lora_layers(lora))


def test_merged_lora_is_a_plain_gpt_that_says_the_same():
    base = small_gpt()
    idx, length = draw(5, 12), torch.tensor([12, 3, 7, 1, 12])
    frozen = finetune.predict(classifier("frozen", base), idx, length)
    model = classifier("lora", base, rank=4)
    for layer in lora_layers(model):
        torch.nn.init.normal_(layer.B, std=0.1)
    before = finetune.predict(model, idx, length)
    assert (before - frozen).abs().max() > 0.1
    finetune.merge_lora(model.gpt)
    close(finetune.predict(model, idx, length), before)
    assert not lora_layers(model)
    assert model.gpt.state_dict().keys() == base.state_dict().keys()


@pytest.mark.paper
def test_the_number_of_weights_that_lora_trains():
    """r (in + out) for each of four matrices in each of two blocks, and the head."""
    model = classifier("lora", rank=3)
    C = 16
    per_block = 3 * ((C + 3 * C) + (C + C) + (C + 4 * C) + (4 * C + C))
    n_trained = sum(p.numel() for p in finetune.trained_tensors(model).values())
    assert len(lora_layers(model)) == 8
    assert n_trained == 2 * per_block + 2 * C


# ---- what learns

def learns(method: str, name: str) -> bool:
    """Does a method train the parameter of this name? Written apart from make_classifier."""
    if name.startswith("head."):
        return True
    if method == "frozen":
        return False
    if method == "last":
        return name.startswith(("gpt.h.1.", "gpt.ln_f."))
    if method == "lora":
        return name.endswith((".A", ".B"))
    return True


@pytest.mark.parametrize("method", finetune.METHODS)
def test_only_what_the_method_trains_changes(method):
    """And the base never does: all methods begin with it."""
    base = small_gpt()
    of_base = {name: p.clone() for name, p in base.state_dict().items()}
    model = classifier(method, base, rank=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = finetune.make_optimizer(model, 0.1, weight_decay=0.01)
    idx, length = draw(6, 12), torch.tensor([12, 5, 9, 2, 12, 1])
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    for _ in range(2):                              # in the first step LoRA's B hides its A
        finetune.classification_loss(model(idx, length), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != learns(method, name), name
    assert all(torch.equal(p, of_base[name]) for name, p in base.state_dict().items())


@pytest.mark.parametrize("method", finetune.METHODS)
def test_all_begin_with_the_base_but_scratch(method):
    base = small_gpt()
    model = classifier(method, base)
    finetune.merge_lora(model.gpt)
    ours, its = model.gpt.wte.weight, base.wte.weight
    assert torch.equal(ours, its) == (method != "scratch")
    assert ours.data_ptr() != its.data_ptr()


@pytest.mark.paper
@pytest.mark.parametrize("method", finetune.METHODS)
def test_the_head_begins_at_zero(method):
    """So the loss of the first step is ln(number of classes), whatever the GPT says."""
    model = finetune.make_classifier(method, small_gpt(), 3, finetune.Config())
    loss = finetune.classification_loss(model(draw(4, 9), torch.full((4,), 9)), draw(4) % 3)
    assert loss.item() == pytest.approx(math.log(3))


def test_the_loss_is_that_of_the_right_class():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([2, 0, 1, 1, 2])
    by_hand = [math.log(row.exp().sum()) - row[label].item() for row, label in zip(logits, y)]
    close(finetune.classification_loss(logits, y), torch.tensor(sum(by_hand) / 5))


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_is_the_runs_and_acts_in_training_only(fused):
    """The base's own is 0.3."""
    model = classifier(base=small_gpt(fused=fused), dropout=0.5).train()
    idx, length = draw(2, 12), torch.tensor([12, 4])
    places = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert {place.p for place in places} == {0.5}
    assert not torch.equal(model(idx, length), model(idx, length))
    assert torch.equal(finetune.predict(model, idx, length), finetune.predict(model, idx, length))
    assert model.training                           # as it was before


def test_one_batch_is_learnt_by_heart():
    model = classifier(dropout=0.0)
    idx, length, y = draw(8, 12), torch.randint(1, 13, (8,)), torch.tensor([0, 1] * 4)

    def loss():
        return finetune.classification_loss(model(idx, length), y)
    assert learnt_by_heart(model, loss, 60) < 0.05


def test_the_learning_rate_rises_and_falls():
    factors = [finetune.lr_factor(step, 10, warmup=3) for step in range(10)]
    close(torch.tensor(factors), torch.tensor([1/4, 2/4, 3/4, 1, 6/7, 5/7, 4/7, 3/7, 2/7, 1/7]))
    assert finetune.lr_factor(1, 2, warmup=20) == 2 / 21        # shorter than its warm-up


# ---- the vector of a text

@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_vector_of_a_text_by_a_loop(pool):
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0))
    length = torch.tensor([9, 1, 4, 8])
    wanted = []
    for vectors, n in zip(x, length):
        vectors = vectors[:n]
        wanted.append(vectors[-1] if pool == "last" else sum(vectors) / n)
    close(finetune.text_vector(x, length, pool), torch.stack(wanted))


def test_another_way_to_pool_is_refused():
    with pytest.raises(ValueError, match="unknown pool"):
        finetune.text_vector(torch.zeros(1, 2, 3), torch.tensor([2]), "max")
    refused(lambda: finetune.Config(pool="max"), "choose from last, mean")


def test_the_head_reads_what_the_gpt_predicts_from():
    model = classifier(n_classes=3).eval()
    idx = draw(4, 9)
    last = model.gpt.hidden(idx)[:, -1]
    close(model(idx, torch.full((4,), 9)), model.head(last))


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_what_fills_a_row_up_and_batch_mates_change_nothing(pool):
    model = classifier(pool=pool)
    idx, length = draw(5, 12), torch.tensor([12, 1, 7, 3, 11])
    together = finetune.predict(model, idx, length)
    for row, n, logits in zip(idx, length, together):
        close(finetune.predict(model, row[None, :n], n[None])[0], logits)
    is_text = torch.arange(12) < length[:, None]
    other = torch.where(is_text, idx, draw(5, 12, seed=9))
    close(finetune.predict(model, other, length), together)
    close(finetune.predict(model, idx, length, at_once=2), together)


def test_texts_as_tokens(capsys):
    tokenizer = CharTokenizer.train("\nabcdefgh")
    idx, length = encode_texts(["abc", "a", "abcdefgh"], tokenizer, 6)
    texts = [tokenizer.decode(row[:n].tolist()) for row, n in zip(idx, length)]
    assert texts == ["\nabc", "\na", "cdefgh"]
    assert "1 of 3 texts are longer than 6 tokens" in capsys.readouterr().out
    refused(lambda: encode_texts(["abc", ""], tokenizer, 6), "a text is empty")


# ---- batches

def test_a_batch_holds_texts_with_their_labels():
    """And is as wide as its longest text."""
    length = torch.arange(1, 13).repeat(4)
    idx = length[:, None].expand(-1, 12)            # each token says how long its text is
    rng = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        x, n, y = finetune.get_batch(idx, length, 100 + length, 5, rng)
        assert x.shape == (5, n.max())
        assert torch.equal(x[:, 0], n) and torch.equal(y, 100 + n)
        seen.update(n.tolist())
    assert seen == set(range(1, 13))


def test_replaced_tokens_are_others():
    rng = torch.Generator().manual_seed(0)
    idx = draw(500, 40)
    new = finetune.replace_tokens(idx, 0.3, V, rng)
    differs = new != idx
    assert differs.float().mean() == pytest.approx(0.3, abs=0.02)
    assert new.min() == 0 and new.max() == V - 1
    counts = torch.bincount(new[differs], minlength=V) / differs.sum()
    assert (counts - 1 / V).abs().max() < 0.02      # each is as likely as any other
    assert (finetune.replace_tokens(idx, 1.0, V, rng) != idx).all()


def test_if_none_is_replaced_no_random_number_is_drawn():
    rng = torch.Generator().manual_seed(0)
    idx = draw(3, 4)
    assert torch.equal(finetune.replace_tokens(idx, 0.0, V, rng), idx)
    assert torch.equal(rng.get_state(), torch.Generator().manual_seed(0).get_state())


# ---- zero-shot

def test_zero_shot_is_the_likelier_continuation_by_bayes(monkeypatch):
    tokenizer = CharTokenizer.train("\nabcdefghijk")
    monkeypatch.setattr(finetune, "CONTINUATIONS", {"bad": "ab", "good": "hij"})
    gpt = small_gpt().eval()
    texts = ["d", "kk", "edc", "gggg", "abcde", "hhhhhhh", "acegi"]

    def log_p(continuation, text):                  # token by token, by the chain rule
        ids = tokenizer.encode("\n" + text)
        total = 0.0
        for token in tokenizer.encode(continuation):
            logits = gpt(torch.tensor([ids]))[0, -1]
            total += F.log_softmax(logits.double(), dim=0)[token].item()
            ids.append(token)
        return total

    for c in ("ab", "hij"):
        found = finetune.log_p_of_continuation(gpt, tokenizer, texts, c)
        close(found, torch.tensor([log_p(c, text) for text in texts]))
    wanted = []
    for text in texts:
        bad = log_p("ab", text) - log_p("ab", "")
        good = log_p("hij", text) - log_p("hij", "")
        wanted.append(int(good > bad))
    assert set(wanted) == {0, 1}
    assert finetune.zero_shot(gpt, tokenizer, texts, ["bad", "good"]).tolist() == wanted


# ---- the run

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Settings of a tiny run: own reviews, a base trained for a few steps, two steps a method."""
    folder = tmp_path_factory.mktemp("finetune")
    return dict(**labelled_texts_and_a_base(folder), few=40, batch_size=4, steps=10, warmup=1,
                log_every=1, device="cpu", matmul="highest")


@pytest.fixture(scope="module")
def whole(own, tmp_path_factory):
    """The folder of a run that came to its end. Nobody may write to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finetune.train(finetune.Config(**own, out_dir=str(folder)))
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flags(own, out_dir, **changes):
    settings = {**own, "out_dir": out_dir, **changes}
    return [f"--{key}={value}" for key, value in settings.items()]


def read(path):
    return torch.load(path, weights_only=True)


def read_log(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_end_to_end(own, tmp_path, capsys):
    result = finetune.main(flags(own, tmp_path / "run"))
    out = capsys.readouterr().out
    table = result["table"]
    assert set(table) == {*finetune.METHODS, *BASELINES}
    assert result["few"] == 40 and result["n"] == 12
    assert "ln 2 = 0.693" in out and "judging 12 held-out texts" in out
    assert all(f"{name} " in out for name in table)
    assert all(0 <= row["accuracy"] <= 1 for row in table.values())
    assert all(table[method]["seconds"] > 0 for method in finetune.METHODS)
    trained = {name: row["trained"] for name, row in table.items()}
    assert 0 < trained["frozen"] < trained["last"] < trained["all"] == trained["scratch"]
    assert all(trained[name] == 0 for name in BASELINES)


def test_the_methods_share_the_steps(whole):
    log = read_log(whole)
    order = [method for method in finetune.METHODS for _ in range(2)]
    assert [row["method"] for row in log] == order
    peaks = [f"{finetune.PEAK_LR[method]}" for method in finetune.METHODS]
    assert [row["lr"] for row in log if int(row["step"]) % 2 == 0] == peaks


def test_every_method_sees_the_same_batches(own, tmp_path, monkeypatch):
    """Otherwise the better one may just have been lucky. It holds for replaced tokens, too."""
    seen = []
    plain = finetune.replace_tokens

    def spy(*args):
        seen.append(plain(*args))
        return seen[-1]

    monkeypatch.setattr(finetune, "replace_tokens", spy)
    finetune.train(finetune.Config(**own, out_dir=str(tmp_path / "run"), tune_mask=0.3))
    first, second = seen[:2]
    assert len(seen) == 10 and not torch.equal(first[:, :5], second[:, :5])
    assert all(torch.equal(x, first) for x in seen[0::2])
    assert all(torch.equal(x, second) for x in seen[1::2])


def test_a_methods_file_holds_what_it_trained(whole, own):
    """And with the base it is the classifier as it was trained: here that of the last method, which
    is in the checkpoint, too."""
    base, _ = train_gpt.load(train_gpt.Config(init_from=own["init_from"], device="cpu"))
    cfg = finetune.Config(**own, out_dir=str(whole))
    for method in finetune.METHODS:
        saved = read(whole / f"{method}.pt")["model"]
        model = finetune.make_classifier(method, base, 2, cfg)
        names = {name for name, _ in model.named_parameters()}
        assert saved.keys() == {name for name in names if learns(method, name)}
    model, _ = finetune.load_method("scratch", base, 2, cfg)
    assert same_tensors(model.state_dict(), read(whole / "checkpoint.pt")["model"])


def test_stopped_after_every_step_it_ends_like_one_that_was_not(own, tmp_path):
    """Bit for bit, in the middle of a method and between two: weights, log and accuracies. 12 steps
    for five methods: 2, 2, 2, 3, 3."""
    settings = {**own, "steps": 12, "tune_mask": 0.2}
    result = finetune.train(finetune.Config(**settings, out_dir=str(tmp_path / "whole")))
    out_dir = str(tmp_path / "parts")
    finetune.train(finetune.Config(**settings, out_dir=out_dir, stop_after=1))
    for step in range(2, 12):
        torch.manual_seed(99)                       # what else happened since
        left = finetune.train(finetune.Config(out_dir=out_dir, resume=True, stop_after=1))
        assert left["steps"] == step and "interrupted" in left
    resumed = finetune.train(finetune.Config(out_dir=out_dir, resume=True))

    logs = []
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        logs.append([{**row, "seconds": ""} for row in read_log(folder)])
    assert logs[0] == logs[1] and len(logs[0]) == 12
    for name in (*finetune.METHODS, "checkpoint"):
        a, b = [read(tmp_path / part / f"{name}.pt")["model"] for part in ("whole", "parts")]
        assert same_tensors(a, b), name
    for name, row in result["table"].items():
        assert row["accuracy"] == resumed["table"][name]["accuracy"]
    seconds = [resumed["table"][method]["seconds"] for method in finetune.METHODS]
    assert sum(seconds) == pytest.approx(resumed["seconds"], abs=0.1)


def test_a_kill_between_checkpoint_and_file_loses_nothing(own, tmp_path, whole):
    """The checkpoint says that the method is done, and its file is not there yet."""
    folder = tmp_path / "run"
    finetune.train(finetune.Config(**own, out_dir=str(folder), stop_after=4))
    (folder / "last.pt").unlink()
    finetune.train(finetune.Config(out_dir=str(folder), resume=True))
    a, b = [read(path / "last.pt")["model"] for path in (folder, whole)]
    assert same_tensors(a, b)


def test_with_more_steps_the_methods_that_are_done_stay_as_they_are(run, whole):
    finetune.train(finetune.Config(out_dir=str(run), resume=True, steps=12))
    assert [row["method"] for row in read_log(run)][-4:] == ["scratch"] * 4
    for method in finetune.METHODS:
        a, b = [read(folder / f"{method}.pt")["model"] for folder in (run, whole)]
        assert same_tensors(a, b) == (method != "scratch")


def test_with_fewer_steps_than_are_done_it_only_scores(own, tmp_path):
    out_dir = str(tmp_path / "run")
    finetune.train(finetune.Config(**own, out_dir=out_dir, stop_after=5))
    result = finetune.train(finetune.Config(out_dir=out_dir, resume=True, steps=4))
    assert len(read_log(tmp_path / "run")) == 5 and set(result["table"]) > set(finetune.METHODS)


def test_there_is_one_model_at_a_time(own, tmp_path, monkeypatch):
    """Once all five were in memory, with their optimisers. A loss that is kept holds on to its
    graph, and this to all parameters, as a group of the optimiser does."""
    made = []
    plain_model = finetune.make_classifier
    plain_optimizer = finetune.make_optimizer

    def make_classifier(*args):
        gc.collect()
        alive = [reference() for reference in made if reference() is not None]
        assert not alive, f"{len(alive)} parameters or optimisers of an earlier method are alive"
        model = plain_model(*args)
        made.extend(weakref.ref(p) for p in model.parameters())
        return model

    def make_optimizer(*args, **kwargs):
        optimizer = plain_optimizer(*args, **kwargs)
        made.append(weakref.ref(optimizer))
        return optimizer

    monkeypatch.setattr(finetune, "make_classifier", make_classifier)
    monkeypatch.setattr(finetune, "make_optimizer", make_optimizer)
    settings = finetune.Config(**own, out_dir=str(tmp_path / "run"), stop_after=3)
    finetune.train(settings)
    finetune.train(dataclasses.replace(settings, resume=True, stop_after=0))
    assert len(made) > 100


def test_of_many_texts_each_method_takes_some_passes():
    default = finetune.Config()
    assert finetune.total_steps(default, 300) == default.steps      # enough for 300 texts
    assert finetune.total_steps(default, 10000) == 5 * 1250         # 4 passes, 32 texts a step
    assert finetune.total_steps(finetune.Config(passes=0), 10000) == default.steps
    assert finetune.total_steps(finetune.Config(steps=9000), 10000) == 9000
    assert finetune.total_steps(finetune.Config(steps=999), 10000) == 999       # a trial


def test_the_steps_that_the_passes_take_are_said_and_kept(own, tmp_path, monkeypatch, capsys):
    """Resumed, the run once had the steps of --steps again, and another learning rate."""
    monkeypatch.setattr(finetune.Config, "steps", 5)                # as if this were the default
    out_dir = str(tmp_path / "run")
    own = {**own, "steps": 5, "batch_size": 8, "passes": 0}
    assert finetune.train(finetune.Config(**own, out_dir=out_dir))["steps"] == 5
    capsys.readouterr()
    finetune.train(finetune.Config(**{**own, "passes": 1}, out_dir=out_dir, stop_after=3))
    out = capsys.readouterr().out
    assert "25 steps, not 5" in out and out.index("25 steps") < out.index("step 1/25")
    result = finetune.train(finetune.Config(out_dir=out_dir, resume=True))
    assert result["steps"] == 25 == len(read_log(tmp_path / "run"))
    assert json.loads((tmp_path / "run/config.json").read_text())["steps"] == 25


def test_own_texts_in_three_classes_all_labels_used(own, tmp_path):
    path = tmp_path / "mine.tsv"
    lines = [f"it was {word}, number {i}\t{word}\n" for i in range(30)
             for word in ("fine", "poor", "odd")]
    path.write_text("".join(lines))
    settings = {**own, "reviews": str(path), "few": 0, "out_dir": str(tmp_path / "run")}
    result = finetune.train(finetune.Config(**settings))
    assert result["few"] == 81 and result["n"] == 9             # a tenth is held out
    assert set(result["table"]) == {*finetune.METHODS, *BASELINES} - {"zero-shot"}
    assert result["table"]["naive Bayes"]["accuracy"] == 1.0
    seen = finetune.sample(finetune.Config(out_dir=settings["out_dir"], text="it was odd"))
    assert set(seen) == {"fine", "poor", "odd"} and sum(seen.values()) == pytest.approx(1)


def test_n_test_is_honoured_and_reported(own, tmp_path, capsys):
    result = finetune.main(flags(own, tmp_path / "run", n_test=5))
    assert result["n"] == 5 and "n = 5" in capsys.readouterr().out


# ---- the GPT to build on

def test_a_short_run_makes_do_with_a_short_base():
    for steps in (1000, 5000, 400):
        assert finetune.base_steps(finetune.Config(steps=steps)) == finetune.BASE_STEPS
    assert finetune.base_steps(finetune.Config(steps=15)) == 30
    assert finetune.base_steps(finetune.Config(steps=3, base_steps=7)) == 7


def test_the_own_base_reads_all_own_texts_but_the_held_out_ones(own, tmp_path, monkeypatch, capsys):
    """It once read our tales and reviews, and never the thousands of the user's own file: on those,
    a bag of words was better than any method. And it is made once."""
    monkeypatch.chdir(tmp_path)
    made = []
    plain = train_gpt.train

    def spy(cfg):
        said = capsys.readouterr().out              # before it begins
        assert f"a GPT is trained to build on, once: {cfg.steps} steps" in said and " s on " in said
        made.append(cfg)
        return plain(cfg)

    monkeypatch.setattr(train_gpt, "train", spy)
    monkeypatch.setattr(finetune, "read_text", lambda name: f"Here are the {name}.\n\nA fox ran.")
    settings = {**own, "init_from": "", "block_size": 16, "steps": 5, "out_dir": "run"}
    finetune.train(finetune.Config(**settings, base_steps=1))
    data = load_reviews(own["reviews"], few=40)
    text = Path(made[0].data).read_text("utf-8")
    lines = set(text.split("\n"))
    assert {"Here are the tales.", "A fox ran."} <= lines
    assert set(data.unlabelled) <= lines and len(data.unlabelled) == 108
    assert not lines & {review for review, _ in data.test}

    cfg = finetune.Config(**settings, base_steps=1)
    a, _ = finetune.make_base(cfg, data.unlabelled)
    b, _ = finetune.make_base(cfg, data.unlabelled)
    assert len(made) == 1 and same_tensors(a.state_dict(), b.state_dict())
    assert a.cfg.block_size == 16
    assert "had 1 steps, not 800" in capsys.readouterr().out

    # a longer one is another: both are kept
    finetune.make_base(dataclasses.replace(cfg, base_steps=2), data.unlabelled)
    assert [cfg.steps for cfg in made] == [1, 2] and made[0].out_dir != made[1].out_dir


# ---- using what was trained

def test_sampling_by_every_method(run, capsys):
    """What is printed is what the head says of the text, LoRA merged or not."""
    text = "The plot dragged."
    cfg = finetune.Config(out_dir=str(run), device="cpu")
    cfg, checkpoint = finetune.own_checkpoint(cfg, "finetune")
    base, tokenizer = finetune.base_from_checkpoint(checkpoint, cfg)
    idx, length = encode_texts([text], tokenizer, base.cfg.block_size)
    for method in finetune.METHODS:
        seen = finetune.main(["sample", f"--out_dir={run}", f"--text={text}", f"--method={method}"])
        model, _ = finetune.load_method(method, base, 2, cfg)
        wanted = F.softmax(finetune.predict(model, idx, length)[0], dim=0)
        close(torch.tensor([seen["bad"], seen["good"]]), wanted)
        printed = capsys.readouterr().out
        assert f"bad {seen['bad']:.1%}" in printed


def test_a_text_that_is_too_long_is_judged_by_its_end(run, capsys):
    long = "The plot dragged. " * 60
    seen = finetune.main(["sample", f"--out_dir={run}", f"--text={long}"])
    assert "longer than 32 tokens" in capsys.readouterr().out
    assert sum(seen.values()) == pytest.approx(1)


def test_evaluate(run):
    """The last part was called 120 texts, though of the 120 a tenth is held out."""
    tables = finetune.evaluate(finetune.Config(out_dir=str(run), device="cpu"))
    assert list(tables) == ["40, seed 1", "40, seed 2", "40, seed 3", "13, seed 1", "108, seed 1"]
    for row in tables.values():
        assert set(row) == {*finetune.METHODS, *BASELINES}
    assert json.loads((run / "evaluate.json").read_text()) == tables


def test_an_interrupted_evaluation_leaves_without_a_traceback(run):
    left = finetune.evaluate(finetune.Config(out_dir=str(run), stop_after=1, device="cpu"))
    assert left == {"model": "finetune", "steps": 1, "interrupted": 0}


# ---- bad input: one line, exit status 2

@pytest.mark.parametrize("wrong", ["--dropout=2", "--rank=0", "--alpha=0", "--batch_size=0",
                                   "--few=-1", "--passes=-1", "--tune_mask=2", "--block_size=1",
                                   "--base_steps=-1", "--weight_decay=-1"])
def test_settings_that_make_no_sense(wrong, own, tmp_path, capsys):
    error = refused_by_main(capsys, *flags(own, tmp_path / "run"), wrong)
    assert wrong in error and "must" in error
    assert not (tmp_path / "run").exists()


def test_sampling_what_is_not_there(run, capsys):
    where = f"--out_dir={run}"
    assert "which text" in refused_by_main(capsys, "sample", where)
    assert "text is empty" in refused_by_main(capsys, "sample", where, "--text= ")
    assert "choose from" in refused_by_main(capsys, "sample", where, "--text=a", "--method=some")


def test_a_method_that_is_not_trained_yet(own, tmp_path, capsys):
    finetune.main(flags(own, tmp_path / "run", stop_after=5))           # in the middle of the third
    where = f"--out_dir={tmp_path / 'run'}"
    assert finetune.main(["sample", where, "--text=a", "--method=last"])
    error = refused_by_main(capsys, "sample", where, "--text=a", "--method=all")
    assert "all.pt" in error and "not trained yet" in error


def test_a_file_of_another_method(run, capsys):
    where = f"--out_dir={run}"
    shutil.copy(run / "frozen.pt", run / "lora.pt")
    error = refused_by_main(capsys, "sample", where, "--text=a", "--method=lora")
    assert "lora.pt" in error and "finetune by frozen" in error
    saved = read(run / "all.pt")
    saved["model"].popitem()
    torch.save(saved, run / "all.pt")
    error = refused_by_main(capsys, "sample", where, "--text=a", "--method=all")
    assert "all.pt" in error and "other parameters" in error


def test_checkpoints_that_do_not_fit(own, run, tmp_path, capsys):
    path = run / "checkpoint.pt"
    checkpoint = read(path)
    torch.save({**checkpoint, "method": "some"}, path)
    assert "'some' is no method" in refused_by_main(capsys, f"--out_dir={run}", "--resume")

    other = tmp_path / "other.tsv"                                      # the file has changed
    other.write_text("".join(f"text {i}\t{'red' if i % 2 else 'blue'}\n" for i in range(60)))
    checkpoint["config"]["reviews"] = str(other)
    torch.save(checkpoint, path)
    error = refused_by_main(capsys, f"--out_dir={run}", "--resume", "--steps=12")
    assert "head is for other labels" in error

    error = refused_by_main(capsys, *flags(own, tmp_path / "new", init_from=path))
    assert "not of 'gpt'" in error


def test_there_must_be_a_text_for_each_label(own, tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"text {i}\t{'rare' if i == 5 else 'usual'}\n" for i in range(40)))
    with pytest.raises(UserError, match="more texts are needed|every label"):
        finetune.train(finetune.Config(**{**own, "reviews": str(path), "few": 1},
                                       out_dir=str(tmp_path / "run")))
