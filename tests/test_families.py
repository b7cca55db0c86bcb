"""mini/studies/families.py: groups of similar images against a slow, simple version; autoguidance;
diffusion of latents whose distribution is known; the loop of diffusion against that of
train_diffusion.py; the whole comparison, very short. Tests marked `paper` know what the network of
train_diffusion.py answers, or which settings it has."""
import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_diffusion
from mini.data.images import image_sets
from mini.studies import families
from mini.utils.images import to_float
from mini.utils.png import read_png
from mini.utils.run import load_checkpoint
from tests.helpers import cheap_judges

TINY = dict(size=16, n_images=64, width=32, T=20, batch_size=8, steps=11, warmup=1,
            sample_steps=3, device="cpu", matmul="highest")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "families") as (folder, _):
        yield folder


def test_coarse_images_are_means_of_squares():
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    x = to_float(images).view(3, 3, 8, 4, 8, 4).mean(dim=(3, 5))
    assert torch.allclose(families.coarse(images), x.flatten(1), atol=1e-6)


def test_k_means_finds_separate_groups():
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(5, 7))
    truth = rng.integers(0, 5, 300)
    x = torch.tensor(centres[truth] + 0.1 * rng.normal(size=(300, 7)), dtype=torch.float32)
    group = families.k_means(x, 5, seed=3)
    pairs = set(zip(truth.tolist(), group.tolist()))
    assert len(pairs) == 5                              # the same groups, under other numbers
    assert sorted(group.unique().tolist()) == [0, 1, 2, 3, 4]


def test_k_means_ends_where_it_should():
    """Each row is in the group whose mean is nearest, and each mean is that of its group: written
    out row by row."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    group = families.k_means(x, 6, rounds=200)
    means = {k: x[group == k].mean(dim=0) for k in group.unique().tolist()}
    assert len(means) == 6
    for row, k in zip(x, group.tolist()):
        distance = {j: (row - mean).square().sum().item() for j, mean in means.items()}
        assert min(distance, key=distance.get) == k


def test_groups_of_rows_that_are_all_alike():
    group = families.k_means(torch.ones(9, 4), 3)
    assert group.shape == (9,) and len(group.unique()) == 1


def test_the_network_learns_as_in_train_diffusion(tmp_path):
    """The same weights, bit for bit, as those of the script without labels. The early ones are the
    script's, too, when it is stopped there."""
    cfg = train_diffusion.Config(**TINY, label_dropout=1.0, out_dir=str(tmp_path / "run"))
    early_steps = max(1, int(families.EARLY * cfg.steps))
    train_set, _ = image_sets.load_images("faces", 16, 64)
    late, early = families.learn_diffusion(train_set.images, None, 0, cfg)
    for stop_after, ema in ((early_steps, early), (0, late)):
        train_diffusion.train(replace(cfg, stop_after=stop_after, n_test=2))
        saved = load_checkpoint(tmp_path / "run/checkpoint.pt", "diffusion")["model"]
        for name, p in ema.state_dict().items():
            assert torch.equal(p, saved[f"ema.{name}"]), name
    assert any(not torch.equal(a, b) for a, b in zip(early.parameters(), late.parameters()))


@pytest.mark.paper
def test_a_network_is_told_the_group():
    """Its answer depends on the group after some steps, and it has no place for another label."""
    cfg = train_diffusion.Config(**TINY, label_dropout=0.0)
    images = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
    images[10:] = 255
    groups = torch.arange(20) // 10
    late, _ = families.learn_diffusion(images, groups, 2, replace(cfg, steps=40))
    x = torch.zeros(1, 3, 16, 16)
    dark, bright = [late(x, torch.tensor([20]), y[None]) for y in torch.eye(2)]
    assert bright.mean() > dark.mean() + 0.1


def test_autoguidance(monkeypatch):
    """x̂₀ = early + w (late − early), within the range of images."""
    cfg = train_diffusion.Config(**TINY)
    answers = {"late": 0.2, "early": -0.1}
    guesses = []

    def predict(net, schedule, xt, t, y, guidance):
        assert guidance == 1.0
        return torch.full_like(xt, answers[net])

    def denoise(guess, x, schedule, cfg, rng):
        guesses.append(guess(x, 5))
        return x

    monkeypatch.setattr(train_diffusion, "predict_with_guidance", predict)
    monkeypatch.setattr(train_diffusion, "denoise", denoise)
    y = torch.zeros(3, 0)
    for w, expected in ((1.0, 0.2), (2.0, 0.5), (3.0, 0.8), (9.0, 1.0)):
        families.draw_diffusion("late", "early", y, (3, 16), w, cfg)
        assert guesses[-1].shape == (3, 3, 16, 16)
        assert torch.allclose(guesses[-1], torch.tensor(expected), atol=1e-6), w


def test_a_group_is_drawn_as_often_as_it_has_images(monkeypatch):
    """Not each group as often as any other: the images would then not be like the data."""
    images = torch.zeros(100, 3, 16, 16, dtype=torch.uint8)
    images[90:] = 255
    train_set = image_sets.ImageSet(images, torch.zeros(100, 0), {})
    drawn = []

    def draw(late, early, y, *_):
        drawn.append(y)
        return y

    monkeypatch.setattr(families, "K", 2)
    monkeypatch.setattr(families, "learn_diffusion", lambda *_: (None, None))
    monkeypatch.setattr(families, "draw_diffusion", draw)
    families.from_groups(train_set, 1, None, SimpleNamespace(size=16, share=1.0))
    assert len(drawn) == 2 and torch.equal(*drawn)              # with autoguidance, and without
    share = drawn[0].mean(dim=0).sort().values
    assert share.sum() == pytest.approx(1) and share[0].item() == pytest.approx(0.1, abs=0.03)


class KnownEncoder(torch.nn.Module):
    """In place of a VAE: image number i has μ = table[i], and σ² = e^logvar in each of D numbers."""

    def __init__(self, table, logvar: float):
        super().__init__()
        self.table = torch.nn.Parameter(table)
        self.logvar = logvar

    def encode(self, x):
        i = ((x[:, 0, 0, 0] + 1) / 2 * 255).round().long()
        mu = self.table[i]
        return mu, torch.full_like(mu, self.logvar)


def numbered_images(n: int):
    images = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n)
    return images


def test_latents_are_like_the_noise_and_can_be_taken_back():
    """A batch has mean 0 and variance 1 in each number, and to_z gives z ~ N(μ, σ²) of images."""
    rng = torch.Generator().manual_seed(0)
    table = torch.tensor([4.0, 250.0]) * torch.randn(200, 2, generator=rng) + 7
    latents = families.Latents(KnownEncoder(table, logvar=2.0), numbered_images(200))
    cfg = train_diffusion.Config(batch_size=100000)
    x0, y, t, eps = latents.get_batch(cfg, rng, torch.device("cpu"))
    assert x0.shape == eps.shape == (100000, 2, 1, 1)
    assert y.shape == (100000, 0) and t.min() == 1 and t.max() == 1000
    assert torch.allclose(x0.mean(dim=(0, 2, 3)), torch.zeros(2), atol=0.01)
    assert torch.allclose(x0.std(dim=0).flatten(), torch.ones(2), atol=0.01)

    z = latents.to_z(x0)
    distance = torch.cdist(z[:, 1:], table[:, 1:])              # by the wide second number
    nearest = distance.argmin(dim=1)
    assert len(nearest.unique()) > 150                          # z of all images, but for neighbours
    alone = torch.cdist(table[:, 1:], table[:, 1:]).fill_diagonal_(math.inf).amin(dim=1) > 40
    assert alone.any()
    for k in alone.nonzero().flatten().tolist():                # σ = e^(2/2)
        of_k = z[nearest == k]
        assert torch.allclose(of_k.mean(dim=0), table[k], atol=0.6)
        assert torch.allclose(of_k.std(dim=0), torch.tensor(np.e).float().expand(2), atol=0.5)


@pytest.mark.paper
def test_diffusion_learns_how_latents_are_distributed(monkeypatch):
    """A quarter of z lies near one place, three quarters near another, and none between: so it is
    with those that are drawn."""
    table = torch.tensor([[-3.0, 2.0, 0.0]] * 5 + [[1.0, -1.0, 8.0]] * 15)
    latents = families.Latents(KnownEncoder(table, logvar=-2.0), numbered_images(20))
    monkeypatch.setattr(families, "MLP", partial(families.MLP, width=64, n_blocks=2))
    cfg = train_diffusion.Config(steps=500, batch_size=128, predict="v", warmup=10, seed=1,
                                 sample_steps=40)
    z = families.draw_latents(families.learn_latents(latents, cfg), latents, 600, cfg)
    assert z.shape == (600, 3)
    near = [(z - place).square().sum(dim=1) < 9 * 3 * np.exp(-2) for place in table[[0, -1]]]
    assert (near[0] | near[1]).float().mean() > 0.95
    assert near[0].float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert z[near[1]].std(dim=0).mean().item() == pytest.approx(np.exp(-1), abs=0.08)


def test_the_rows_are_means_of_the_seeds():
    scores = [{"Fréchet distance": 10.0, "diversity": 0.5},
              {"Fréchet distance": 13.0, "diversity": 0.5}]
    row = families.row_of(scores)
    assert row["Fréchet distance"] == 11.5 and row["± distance"] == pytest.approx(1.5)
    assert row["± diversity"] == 0
    assert families.row_of(scores[:1]) == scores[0]     # of one seed the error is not known


@pytest.fixture
def arrays_without_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    return tmp_path / "images.npz"


@pytest.mark.paper
@pytest.mark.parametrize("labels", [True, False])
def test_the_comparison(labels, tmp_path, monkeypatch, capsys):
    """All models, very short; and a second time, when nothing is trained again."""
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    known = {"labels": np.arange(60) % 3} if labels else {}
    np.savez(tmp_path / "images.npz", images=images, **known)
    monkeypatch.setattr(families, "N_DRAWN", 8)
    monkeypatch.setattr(families, "N_VARIED", 12)
    command = [f"--data={tmp_path}/images.npz", "--size=16", f"--out_dir={tmp_path}/out",
               "--seeds", "1", "2", "--share=0.001"]
    families.main(command)
    printed = capsys.readouterr().out
    names = ["GAN", "VAE", "diffusion", "diffusion, autoguidance", "diffusion, groups",
             "diffusion, groups, autoguidance", "VAE for latents", "diffusion of latents"]
    picture = read_png(tmp_path / "out/seed_2.png")
    assert picture.shape[0] > 8 * 16
    for name in names:
        assert f"seed 2, {name}" in printed
    if labels:
        study = json.loads((tmp_path / "out/study.json").read_text("utf-8"))
        assert list(study["rows"]) == [*names, "training images"]
        assert all(len(study["seeds"][name]) == 2 for name in names)
    else:
        assert not (tmp_path / "out/study.json").exists()

    # how many are drawn; and the VAE for latents has a weight of its own for the KL
    for model, n in (("gan", 12), ("vae", 12), ("latents", 12), ("diffusion", 8), ("groups", 8)):
        kept = torch.load(tmp_path / f"out/{model}_2.pt", weights_only=True)["images"]
        assert {len(images) for images in kept.values()} == {n}, model
    for model, beta in (("vae", 1.0), ("latents", families.BETA)):
        saved = load_checkpoint(tmp_path / f"out/{model}_2/checkpoint.pt", "vae")
        assert saved["config"]["beta"] == beta != 0

    # one VAE, two ways to draw z
    of_latents = torch.load(tmp_path / "out/latents_2.pt", weights_only=True)["images"]
    assert not torch.equal(of_latents["VAE for latents"], of_latents["diffusion of latents"])

    def train_again(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(families, "MODELS", dict.fromkeys(families.MODELS, train_again))
    families.main(command)
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed")]
    assert again == [line for line in printed.splitlines() if line.startswith("seed")]
    for changed in ("--share=0.002", "--size=17"):              # other images are wanted: new ones
        with pytest.raises(AssertionError, match="trained again"):
            families.main([*command, changed])


@pytest.mark.parametrize("model", ["gan", "vae", "latents"])
def test_an_interrupted_run_is_not_kept(model, arrays_without_labels, tmp_path, monkeypatch):
    """Ctrl-C in a run ends the study: nothing is drawn, scored or kept."""
    script = families.train_gan if model == "gan" else families.vae
    monkeypatch.setattr(script, "train", lambda cfg: {"steps": 3, "interrupted": 2})
    with pytest.raises(SystemExit, match="interrupted"):
        families.main([f"--data={arrays_without_labels}", "--size=16", f"--out_dir={tmp_path}/out",
                       "--seeds", "1", "--models", model])
    assert not list((tmp_path / "out").glob("*.pt"))


def test_other_pictures_under_the_same_name(arrays_without_labels, tmp_path, monkeypatch):
    """Images that were drawn from other training images are not taken; those of an older form, which
    do not say what they were made with, neither."""
    calls = []

    def draw(train_set, *_):
        calls.append(train_set)
        return {"a row": torch.zeros(8, 3, 16, 16)}

    monkeypatch.setattr(families, "MODELS", {"vae": draw})
    command = [f"--data={arrays_without_labels}", "--size=16", f"--out_dir={tmp_path}/out",
               "--seeds", "1", "--models", "vae"]
    families.main(command)
    families.main(command)
    assert len(calls) == 1
    images = np.load(arrays_without_labels)["images"]
    np.savez(arrays_without_labels, images=255 - images)
    families.main(command)
    assert len(calls) == 2
    torch.save({"a row": torch.zeros(8, 3, 16, 16)}, tmp_path / "out/vae_1.pt")
    families.main(command)
    assert len(calls) == 3
