"""mini/clip.py against transformers' CLIPModel, against numpy and loops, and against the classic bugs."""
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import clip
from mini.data.images import captions
from mini.data.images.captions import load_captions
from mini.utils.png import read_png, write_png
from tests.helpers import close, find_text, own_captions, read_grid, refused_by

GOLDEN = dict(np.load(Path(__file__).parent / "reference/clip.npz"))
SMALL = dict(n_layer=2, n_head=2, n_embd=12, n_joint=8, patch=4)
TINY = dict(n_layer=1, n_head=2, n_embd=16, n_joint=8, size=8, patch=4, n_images=24, batch_size=6, steps=6, eval_every=3,
            sample_every=3, log_every=1, warmup=2, device="cpu", matmul="highest")


@pytest.fixture(autouse=True)
def few_faces(tmp_path, monkeypatch):
    """Each test in a folder of its own, with few held-out faces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captions, "HELD_OUT", 20)


def tiny(**changes):
    return clip.Config(**{**TINY, "out_dir": "run", **changes})


def golden_model(dtype):
    model = clip.CLIP(clip.Config(**SMALL), 3, 12, *GOLDEN["weight/text.words.weight"].shape[:1], 9).to(dtype)
    model.load_state_dict({name.removeprefix("weight/"): torch.tensor(value, dtype=dtype)
                           for name, value in GOLDEN.items() if name.startswith("weight/")})
    return model, torch.tensor(GOLDEN["images"], dtype=dtype), torch.tensor(GOLDEN["tokens"]).long()


@pytest.mark.paper
def test_initialisation():
    """As CLIP has it: vectors of width C begin with the length 1, words and their positions smaller."""
    torch.manual_seed(0)
    cfg = clip.Config(n_layer=1, n_head=2, n_embd=400, n_joint=300, patch=4)
    model = clip.CLIP(cfg, 3, 80, 500, 100)
    stds = {model.image.token: 400**-0.5, model.image.positions: 400**-0.5, model.image.project.weight: 400**-0.5,
            model.text.words.weight: 0.02, model.text.positions: 0.01, model.text.project.weight: 400**-0.5}
    for parameter, std in stds.items():
        assert abs(parameter.std().item() / std - 1) < 0.12          # of the 400 numbers of the token: three deviations
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07))


def small_model():
    """A model with random weights, images of 12 × 12 and captions of four lengths, in float64."""
    torch.manual_seed(0)
    model = clip.CLIP(clip.Config(**SMALL), 3, 12, 13, 9).double()
    for p in model.parameters():            # biases and norms too, far from their initial values
        p.data.add_(0.2 * torch.randn_like(p))
    tokens = torch.full((4, 9), clip.PAD)
    for row, n in zip(tokens, (6, 9, 4, 7)):
        row[:n] = torch.cat([torch.tensor([clip.BOS]), torch.randint(3, 13, (n - 2,)), torch.tensor([clip.EOS])])
    return model, torch.randn(4, 3, 12, 12).double(), tokens


# ---- parity

@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 2e-7), (torch.float32, 1e-5)])
def test_towers_logits_loss_and_every_gradient_equal_transformers(dtype, tolerance):
    model, images, tokens = golden_model(dtype)
    u, v = model(images, tokens)
    close(u.detach(), GOLDEN["u"], tolerance)
    close(v.detach(), GOLDEN["v"], tolerance)
    close((model.log_scale.exp() * u @ v.T).detach(), GOLDEN["logits"], tolerance)
    loss = clip.loss_of(u, v, model.log_scale, clip.same_caption(tokens))
    close(loss.detach(), GOLDEN["loss"], tolerance)
    loss.backward()
    for name, p in model.named_parameters():
        want = torch.tensor(GOLDEN[f"grad/{name}"]).double()
        if name.endswith("attn.qkv.bias"):      # keys' biases change no softmax: only rounding is left there
            C = len(want) // 3
            assert p.grad[C:2 * C].abs().max() < 1e-5 * want.abs().max()
        close(p.grad, want, 3 * tolerance)


# ---- the loss

def test_the_loss_by_loops_with_equal_captions():
    """Equal captions in a batch are no false negatives: neither softmax counts them."""
    torch.manual_seed(0)
    u, v = (F.normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    tokens = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 2, 0], [1, 5, 2]])
    s, total, twins = math.exp(1.5) * (u @ v.T).double().numpy(), 0.0, {0, 2, 4}
    for i in range(5):
        wrong = [j for j in range(5) if j != i and not {i, j} <= twins]
        total -= s[i, i] - np.log(np.exp(s[i, [i, *wrong]]).sum())          # image i finds its caption
        total -= s[i, i] - np.log(np.exp(s[[i, *wrong], i]).sum())          # caption i its image
    assert clip.loss_of(u, v, torch.tensor(1.5),
                        clip.same_caption(tokens)).item() == pytest.approx(total / 10, rel=1e-5)
    # a model that is right about everything has no loss left, equal captions or not
    u = v = F.one_hot(torch.tensor([0, 1, 0, 2, 0])).float()
    assert clip.loss_of(u, v, torch.tensor(math.log(100)), clip.same_caption(tokens)).item() < 1e-6


@pytest.mark.paper
def test_the_scale_begins_at_one_over_007_and_never_exceeds_100(monkeypatch):
    assert clip.CLIP(clip.Config(), 3, 32, 50, 20).log_scale.item() == pytest.approx(math.log(1 / 0.07))
    # a loss that falls as the scale grows, and nothing else
    monkeypatch.setattr(clip, "loss_of", lambda u, v, log_scale, q: -9.0 * log_scale + 0 * u.sum() + 0 * v.sum())
    clip.train(tiny(steps=5, lr=1.0, warmup=0, eval_every=0, sample_every=0))
    state = torch.load("run/checkpoint.pt", weights_only=True)
    assert state["model"]["log_scale"].item() == pytest.approx(math.log(100), rel=1e-6)


# ---- the classic bugs of Transformers

def test_a_word_changes_nothing_before_it_even_for_huge_scores():
    """Guards the causal mask: −∞, for −1e4 would be outvoted."""
    model, _, tokens = small_model()
    seen, other = [], tokens.clone()
    other[1, 5] = 11 if tokens[1, 5] != 11 else 10
    model.text.blocks[-1].register_forward_hook(lambda m, args, out: seen.append(out.detach()))
    for _ in range(2):
        model.text(tokens), model.text(other)
        for block in model.text.blocks:
            torch.nn.init.normal_(block.attn.qkv.weight, std=100)
    a, b, huge, huge_b = seen
    assert torch.equal(a[1, :5], b[1, :5]) and (a[1, 5:] - b[1, 5:]).abs().amax(1).min() > 1e-6
    assert torch.equal(huge[1, :5], huge_b[1, :5]) and not torch.equal(huge[1], huge_b[1])


def test_a_caption_has_the_same_vector_alone_and_among_longer_ones():
    """Guards the pooling at EOS and the padding behind it, whatever stands there."""
    model, _, tokens = small_model()
    together = model.text(tokens).detach()
    for row, want in zip(tokens, together):
        n = int((row != clip.PAD).sum())
        close(model.text(row[None, :n])[0].detach(), want, 1e-12)
        filled = row.clone()
        filled[n:] = torch.tensor([clip.EOS, 3, 7, 3, 4, 5])[:len(row) - n]
        close(model.text(filled[None])[0].detach(), want, 1e-12)
        other = row.clone()
        other[1] = 4 if row[1] != 4 else 6
        assert (model.text(other[None])[0] - want).abs().max() > 1e-4       # and each word counts


# ---- recall, zero-shot, batches, the learning rate

def test_recall_and_chance_by_simulation():
    torch.manual_seed(0)
    right = torch.rand(40, 12) < 0.15
    right[torch.arange(40), torch.arange(40) % 12] = True
    similarity = torch.randn(40, 12)
    row = clip.recall(similarity, right)
    for k in (1, 5):
        hits = [right[i, similarity[i].argsort(descending=True)[:k]].any() for i in range(40)]
        assert row[f"@{k}"] == pytest.approx(np.mean(hits))
        simulated = np.mean([clip.recall(torch.rand(40, 12), right)[f"@{k}"] for _ in range(400)])
        assert row[f"chance@{k}"] == pytest.approx(simulated, abs=0.02)
    assert clip.recall(right.float(), right)["@1"] == 1 and clip.recall(right.float() * -1, right)["@1"] == 0


class Oracle:
    """Encoders that know the labels: what the scores say of a perfect model, and of one that confuses two values."""

    def __init__(self, part, monkeypatch, colour_blind=False):
        self.text = type("Text", (), {"positions": torch.zeros(40)})()
        self.image, self.part, self.blind = None, part, colour_blind
        monkeypatch.setattr(clip, "embed", lambda encoder, inputs: self.vectors(inputs))
        monkeypatch.setattr(clip, "numbers", lambda words, texts, L=0: texts)

    def vectors(self, inputs):
        if isinstance(inputs, torch.Tensor):
            return F.normalize(self.one_hot(self.part.labels[:len(inputs)]), dim=1)
        rows = []
        for text in inputs:
            words = set(captions.split(text.replace("a smile", "smiling").replace("an open mouth", "surprised")))
            names = {"smile": "smiling", "neutral": "serious", "open": "surprised"}
            row = [float(names.get(v, v) in words) for values in captions.ATTRIBUTES.values() for v in values]
            rows.append(row)
            row[11] = float({"no", "without"} & words != set())             # glasses: none
        return F.normalize(self.recoloured(torch.tensor(rows)), dim=1)

    def one_hot(self, labels):
        return self.recoloured(captions.one_hot(labels, captions.ATTRIBUTES))

    def recoloured(self, rows):
        if self.blind:                          # red hair is seen as brown
            rows[:, 1], rows[:, 3] = rows[:, 1] + rows[:, 3], 0
        return rows


def test_scores_of_one_who_knows_all_and_of_one_who_confuses_red_and_brown(monkeypatch):
    monkeypatch.setattr(captions, "HELD_OUT", 300)
    learn, held_out, unseen = load_captions("faces", 8, 300)
    for part in (held_out, unseen):
        model = Oracle(part, monkeypatch)
        for row in clip.retrieval(model, None, part).values():
            assert row["@1"] == row["@5"] == 1 and 1 / 256 < row["chance@1"] < 0.03 < 5 / 256 + 0.03 and row["chance@5"] < 0.15
        table = clip.zero_shot(model, None, learn, part)
        assert all(row["model"] == 1 > row["baseline"] for row in table.values()) and len(table) == 7
        assert table["all six"]["baseline"] == 1 / 1728
        said = learn.labels[:, 3].mode().values
        assert table["glasses"]["baseline"] == pytest.approx((part.labels[:, 3] == said).double().mean().item())
        table = clip.zero_shot(Oracle(part, monkeypatch, colour_blind=True), None, learn, part)
        red = (part.labels[:, 0] == 3).double().mean().item()
        assert table["hair"]["model"] == pytest.approx(1 - red, abs=1e-9) and table["skin"]["model"] == 1
        assert table["all six"]["model"] == pytest.approx(1 - red, abs=1e-9)


def test_batches_hold_different_images_each_with_one_of_its_captions():
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 3, 4, 4)
    tokens = torch.zeros(30, 3, 9, dtype=torch.long)
    tokens[:, :, 0], tokens[:, :, 1] = torch.arange(100, 130)[:, None], torch.arange(3) + 1
    tokens[0, 0, 5] = 7
    rng, seen, widths = torch.Generator().manual_seed(0), set(), set()
    for _ in range(60):
        x, y = clip.draw_batch(images, tokens, 8, rng)
        which = ((x[:, 0, 0, 0] + 1) * 127.5).round().long()
        assert torch.equal(y[:, 0], which + 100) and len(set(which.tolist())) == 8 and x.abs().max() <= 1
        seen |= {tuple(row) for row in y[:, :2].tolist()}
        widths.add(y.size(1))
    assert len(seen) == 90 and widths == {2, 3}         # no wider than the longest caption of the batch
    assert len(clip.draw_batch(images, tokens, 99, rng)[0]) == 30


@pytest.mark.paper
def test_learning_rate_and_adamw_as_in_the_paper():
    cfg = clip.Config(steps=1000, warmup=100, lr=0.5)
    assert clip.learning_rate(0, cfg) == pytest.approx(0.5 / 101) and clip.learning_rate(100, cfg) == pytest.approx(0.5)
    assert clip.learning_rate(550, cfg) == pytest.approx(0.25) and clip.learning_rate(999, cfg) < 1e-5
    clip.train(tiny())
    state = torch.load("run/checkpoint.pt", weights_only=True)
    groups = state["optimizers"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-6 for group in groups)
    flat = [name for name, value in state["model"].items() if value.ndim < 2]
    assert len(groups[1]["params"]) == len(flat) and "log_scale" in flat


# ---- runs

def test_overfits_one_batch():
    learn = load_captions("faces", 8, 12)[0]
    words = captions.Words.of(text for texts in learn.captions for text in texts)
    tokens = clip.numbers(words, [texts[0] for texts in learn.captions])
    assert (tokens[:, 0] == clip.BOS).all() and ((tokens == clip.EOS).sum(1) == 1).all()
    torch.manual_seed(0)
    cfg = tiny(n_embd=32, lr=3e-3, weight_decay=0.0)
    model = clip.CLIP(cfg, 3, 8, len(words), tokens.size(1))
    optimizer = clip.make_optimizer(model, cfg)
    for _ in range(150):
        loss = clip.loss_of(*model(learn.images / 127.5 - 1, tokens), model.log_scale, clip.same_caption(tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 < math.log(12)
    found = clip.nearest(model, words, [texts[0] for texts in learn.captions], learn.images, 1)
    assert torch.equal(found, learn.images)


def test_end_to_end(capsys):
    whole = clip.train(tiny())
    assert set(whole["recall"]) == set(whole["zero_shot"]) == {"held out", "combinations never seen"}
    out = capsys.readouterr().out
    assert "chance@1" in out and "baseline" in out and out.rstrip().splitlines()[-1].startswith("look in run")
    assert read_png("run/samples/step_000006.png").shape[2] == 3


def test_sample_and_evaluate(capsys):
    clip.train(tiny(steps=3))
    flags = ["--out_dir=run", "--device=cpu"]
    clip.main(["sample", "--prompt=a face with red hair and glasses", *flags])
    out = capsys.readouterr().out
    assert "the nearest of 41 images" in out and "only 3 steps" in out
    assert read_grid("run/samples/search.png", 8, 8).shape == (2 * 10 + 2, 8 * 10 + 2, 3)      # 16 images
    clip.main(["sample", "--prompt=glasses | a smiling face|no glasses", *flags])
    assert read_grid("run/samples/search.png", 8, 8).shape == (3 * 10 + 2, 8 * 10 + 2, 3)
    assert len(find_text(read_png("run/samples/search.png"), "no glasses")) == 1            # beside its row
    clip.main(["sample", *flags])
    write_png("me.png", np.zeros((20, 13, 3), np.uint8))
    capsys.readouterr()
    text = clip.main(["sample", "--image=me.png", *flags])
    known = {text for texts in load_captions("faces", 8, 1)[1].captions for text in texts}
    lines = text.split("\n")
    cosines = [float(line.split()[0]) for line in lines[:5]]
    assert all(line.split("  ", 1)[1] in known for line in lines[:5]) and cosines == sorted(cosines, reverse=True)
    assert len(lines) == 11 and "round" in lines[8]
    tables = clip.main(["evaluate", *flags])
    assert json.loads(Path("run/evaluate.json").read_text()) == tables and tables["held_out:_chance@1_among"]["16"] < 0.2


def test_the_nearest_come_first_and_are_the_right_ones(monkeypatch):
    monkeypatch.setattr(captions, "HELD_OUT", 200)
    part = load_captions("faces", 8, 1)[1]
    model = Oracle(part, monkeypatch)
    found = clip.nearest(model, None, ["red hair and square glasses", "a pink background"], part.images, 4)
    red = [i for i, y in enumerate(part.labels.tolist()) if y[0] == 3 and y[3] == 2]
    pink = [i for i, y in enumerate(part.labels.tolist()) if y[5] == 2]
    for image, fit in zip(found, [red] * 4 + [pink] * 4):
        assert any(torch.equal(image, part.images[i]) for i in fit)
    found, chance = clip.partial_captions(model, None, part)
    assert list(found) == list(chance) and min(found.values()) > 0.8 and chance["3"] < chance["1"] < 0.45


def captions_of(i):
    return [f"grey number{i}, twice seen"] * (1 + i % 2)


def test_own_captions(capsys):
    own_captions(Path(), captions_of)
    result = clip.train(tiny(data="own.tsv", steps=3))
    assert set(result["recall"]) == {"held out"} and result["zero_shot"] == {} and result["n"] == {"held out": 1}
    clip.main(["sample", "--prompt=grey number3", "--out_dir=run", "--device=cpu"])
    assert "the nearest of 6 images" in capsys.readouterr().out
    clip.main(["sample", "--image=2.png", "--out_dir=run", "--device=cpu"])
    tables = clip.main(["evaluate", "--out_dir=run", "--device=cpu"])
    assert list(tables["held_out:_@1_among"]) == ["1"]          # not 16: of few images all, and not nothing


# ---- bad input: one line, exit status 2, no traceback

refuses = partial(refused_by, clip.main)


def test_bad_input(capsys):
    flags = [f"--{key}={value}" for key, value in TINY.items()]
    assert "multiple of --patch=3" in refuses(capsys, *flags, "--patch=3")
    for name in ("n_head", "patch", "n_layer", "batch_size"):
        assert "at least 1" in refuses(capsys, *flags, f"--{name}=0")
    assert not Path("runs").exists()
    clip.train(tiny(steps=1))
    use = ["sample", "--out_dir=run", "--device=cpu"]
    error = refuses(capsys, *use, "--prompt=a man with a hat and red hair")
    assert "'man', 'hat'" in error and "'red'" not in error and "glasses" in error         # said, not dropped
    assert "no word" in refuses(capsys, *use, "--prompt=!?") and "empty" in refuses(capsys, *use, "--prompt=face|")
    assert "room for" in refuses(capsys, *use, "--prompt=" + "red " * 60)
    assert "none.png" in refuses(capsys, *use, "--image=none.png")
    Path("text.png").write_text("not a picture")
    assert "text.png" in refuses(capsys, *use, "--image=text.png")
    own_captions(Path(), captions_of)
    assert "never seen 'number" in refuses(capsys, "--resume", "--out_dir=run", "--data=own.tsv", "--steps=4")
