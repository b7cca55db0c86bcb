"""mini/captioner.py: its patches, batches, learning rate, scores and runs. What it must do as
mini/translator.py does, the network and the search, is in test_encoder_decoder.py.

Tests marked `paper` state what the papers say. All others must go on passing with another network.
"""
import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch

from mini import captioner
from mini.data.images import caption_scores
from mini.data.images.captions import Captioned, Words, encode_captions
from mini.data.images.faces import ATTRIBUTES, WORDINGS, caption, faces
from mini.utils import outliers
from mini.utils.lettering import labelled, lettering
from mini.utils.png import read_png, write_png
from tests.helpers import close, encoder_decoder, own_captions, pictures, refused_by, sentences

BOS, EOS, PAD = captioner.BOS, captioner.EOS, captioner.PAD
TINY = dict(size=16, patch=8, n_images=60, n_layer=1, n_head=2, n_embd=16, d_ff=32, batch_size=4,
            steps=6, eval_every=3, sample_every=3, log_every=1, warmup=2, beam=2, n=2,
            device="cpu", dropout=0.1, matmul="highest")


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 12)


def tiny(tmp_path, **changes):
    return captioner.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


# ---- patches

@pytest.mark.paper
def test_patches_by_a_loop():
    """A view without the right permutation cuts images into stripes, and learns nothing of it."""
    images = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    P = 4
    want = []
    for image in images:
        want.append([])
        for top, left in itertools.product(range(0, 8, P), range(0, 12, P)):
            square = image[:, top:top + P, left:left + P]
            want[-1].append([square[c, i, j].item()
                             for c in range(3) for i in range(P) for j in range(P)])
    assert captioner.cut_patches(images, P).tolist() == want


@torch.no_grad()
def test_where_a_patch_is_matters():
    """Without positions an image is a heap of patches, and a mouth may be anywhere."""
    model = encoder_decoder(captioner).eval()
    src = pictures(1)
    tgt = sentences([4], 23, bos=True)
    for other in (src.flip(3), src.roll(4, dims=3)):            # mirrored; the same patches moved
        assert (model(src, tgt) - model(other, tgt)).abs().max() > 0.01


@pytest.mark.paper
@torch.no_grad()
def test_where_a_patch_is_is_told_by_positions_alone():
    model = encoder_decoder(captioner).eval()
    src = pictures(1)
    tgt = sentences([4], 23, bos=True)
    model.src_positions.zero_()
    close(model(src.roll(4, dims=3), tgt), model(src, tgt), 1e-4)


# ---- the learning rate, batches

def test_learning_rate_rises_and_falls():
    cfg = captioner.Config(lr=0.5, warmup=10, steps=100)
    rates = [captioner.learning_rate(step, cfg) for step in range(101)]
    assert rates[:3] == pytest.approx([0.05, 0.10, 0.15])
    assert rates[50] == pytest.approx(0.25)
    assert rates[100] == 0
    assert sorted(rates[:10]) == rates[:10]
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert captioner.learning_rate(0, captioner.Config(warmup=0, steps=1)) > 0


def test_batches_hold_images_with_captions_of_their_own():
    """Any of them, whole, with no column of PAD alone."""
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    captions = torch.zeros(40, 3, 9, dtype=torch.long)
    captions[:, :, 0] = BOS
    captions[:, :, 1] = torch.arange(100, 140)[:, None]         # which image
    captions[:, :, 2] = torch.arange(3, 6)                      # which caption
    captions[:20, :, 3:6] = 7                                   # half of them are longer
    seen = set()
    rng = torch.Generator().manual_seed(0)
    for _ in range(60):
        src, tgt_in, tgt_out = captioner.get_batch(images, captions, 8, rng)
        assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1])      # the same, one word later
        tgt = torch.cat([tgt_in[:, :1], tgt_out], dim=1)
        i = tgt[:, 1] - 100
        assert torch.equal(src, images[i].float() / 127.5 - 1)
        assert tgt.size(1) in (3, 6)
        assert torch.equal(tgt, captions[i, tgt[:, 2] - 3, :tgt.size(1)])
        assert (tgt != PAD).any(dim=0).all()
        seen |= set(zip(i.tolist(), tgt[:, 2].tolist()))
    assert len(seen) > 110                                      # of 120


def test_captions_as_numbers():
    words = Words(["a", "red", "blue", "face"])
    tgt = encode_captions([["a red face", "red"], ["blue", "a face"]], words, 5)
    assert tgt.tolist() == [[[BOS, 3, 4, 6, EOS], [BOS, 4, EOS, PAD, PAD]],
                            [[BOS, 5, EOS, PAD, PAD], [BOS, 3, 6, EOS, PAD]]]


# ---- where it looks

@pytest.mark.paper
def test_where_it_looks_is_the_mean_of_the_attention_maps():
    """A word and a map for each word but EOS; the shares of all patches add up to 1."""
    model = encoder_decoder(captioner)
    words = Words([f"w{i}" for i in range(20)])
    image = (pictures(1) * 127.5 + 127.5).round().byte()
    texts, maps = captioner.where_it_looks(model, words, image)
    ids = [words.words.index(text) for text in texts]
    assert len(ids) > 0 and EOS not in ids
    assert maps.shape == (len(ids), 4, 4)
    close(maps.sum(dim=(1, 2)), torch.ones(len(ids)), 1e-5)
    src = image.float() / 127.5 - 1
    first, second = captioner.attention_maps(model, src, torch.tensor([ids]))
    close(maps.flatten(1), (first + second) / 2, 1e-5)


def test_an_empty_caption_has_no_map(monkeypatch):
    """A model that knows little may end a caption at once. Looking at no words was an error."""
    monkeypatch.setattr(captioner, "describe", lambda *args: [[EOS]])
    model = encoder_decoder(captioner)
    words = Words([f"w{i}" for i in range(20)])
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert captioner.where_it_looks(model, words, image) == ([], None)
    assert not captioner.draw_attention(model, words, image)


# ---- scores and pictures

def test_distance_from_the_typical_by_numpy():
    torch.manual_seed(0)
    vectors = torch.randn(400, 5) @ torch.randn(5, 5) + 3
    others = torch.randn(50, 5) + 3
    typical = outliers.fit_typical(vectors, others)
    covariance = np.cov(vectors.T.double().numpy(), bias=True)
    covariance += outliers.RIDGE * np.trace(covariance) / 5 * np.eye(5)
    centred = others.double().numpy() - vectors.double().numpy().mean(axis=0)
    expected = [np.sqrt(f @ np.linalg.inv(covariance) @ f) for f in centred]
    close(outliers.distance_from(typical, others), expected, 1e-4)
    assert typical["limit"] == pytest.approx(max(expected), rel=1e-4)
    assert outliers.fit_typical(vectors[:100], others) is None              # too few to say


def test_it_says_which_pictures_are_no_faces(capsys):
    model = captioner.Captioner(captioner.Config(n_embd=32, n_layer=1), 10)
    images, _ = faces(300, 32)
    known, others = images[:250], images[250:]
    model.typical = outliers.fit_typical(captioner.image_vectors(model, known),
                                         captioner.image_vectors(model, others))
    white = torch.full_like(images[:1], 255)
    captioner.warn_of_unlike(model, torch.cat([others[:4], white]))
    said = capsys.readouterr().out
    assert said.startswith("picture 5 is unlike") and said.count("unlike") == 1
    model.typical = None                                    # of a run with too few images
    captioner.warn_of_unlike(model, white)
    assert capsys.readouterr().out == ""


def test_what_full_captions_say_is_read_back():
    values = [torch.arange(len(names)) for names in ATTRIBUTES.values()]
    wordings = itertools.cycle(range(len(WORDINGS)))
    for labels, wording in zip(torch.cartesian_prod(*values), wordings):
        assert caption_scores.read(caption(labels, wording)) == labels.tolist()
    text = "a red blue face with round glasses, no glasses"
    assert caption_scores.read(text) == [3, -1, -1, -1, -1, 0]


def test_scores_by_hand():
    """Two of four captions are right: one is of another face, one is empty."""
    images, labels = faces(4, 16)
    texts = [[caption(y, wording) for wording in range(4)] for y in labels]
    part = Captioned(images, labels, ATTRIBUTES, texts, torch.zeros(4, 4, 0))
    said = [texts[0][2], texts[1][0], texts[0][1], ""]
    assert labels[0].tolist() != labels[2].tolist()
    assert caption_scores.share_right(said, part) == 0.5

    train_set = Captioned(images.flip(0), labels, ATTRIBUTES, [["x"], ["y"], ["z"], ["x"]], None)
    assert caption_scores.baselines(train_set, part) == {
        "most frequent": ["x"] * 4, "nearest image": ["x", "z", "y", "x"]}
    table = caption_scores.scores(said, train_set, part)
    assert table["model"]["right"] == 0.5
    assert table["most frequent"]["right"] == table["nearest image"]["right"] == 0
    same = (labels[0] == labels[2]).tolist()
    assert list(table["model"]["accuracy"].values()) == [0.75 if s else 0.5 for s in same]
    perfect = caption_scores.scores([t[3] for t in texts], train_set, part)
    assert perfect["model"]["bleu"] == pytest.approx(100)


def test_scores_of_own_captions_by_hand():
    """Without attributes, a caption is right if it is one of its image's, word for word."""
    images, labels = faces(2, 16)
    own = Captioned(images, labels[:, :0], {}, [["A dog!", "one dog"], ["a cat", "a cat"]], None)
    assert caption_scores.share_right(["a dog", "a dog"], own) == 0.5
    assert caption_scores.nearest("one big cat", ["a dog", "a big cat", "cat"]) == "a big cat"


def test_where_an_attribute_is():
    def eyes(image):        # who looks at the upper half only, for every word
        maps = torch.zeros(40, 8, 8)
        maps[:, 3:5] = 1 / 16
        return [word for tell in caption_scores.TELLS.values() for word in tell], maps

    attention, area = caption_scores.places(eyes, 32, 4, n=8).values()
    assert attention["glasses"] > 0.5 > area["glasses"]
    assert attention["mouth"] < 0.2
    assert area["background"] > 0.3


def test_labelled_images():
    """20 pixels wide, with room for three letters below; enlarged by 10, to over 600."""
    images = torch.full((3, 3, 4, 5), 9, dtype=torch.uint8)
    sheet = labelled(images, ["ab cd", "", "x"], columns=2, scale=4, gap=8)
    assert sheet.shape == (1040, 640, 3)
    sheet = sheet[::10, ::10]
    assert sheet.shape == (8 + 2 * (16 + 24 + 8), 8 + 2 * (20 + 8), 3)
    assert (sheet[8:24, 8:28] == 9).all()
    assert (sheet[8:24, 36:56] == 9).all()
    assert (sheet[:, 28:36] == 255).all()
    assert np.array_equal(sheet[24:36, 8:20, 0] == 0, lettering("ab"))
    assert np.array_equal(sheet[36:48, 8:20, 0] == 0, lettering("cd"))
    assert (sheet[24:48, 36:56] == 255).all()


# ---- training, and using what was trained

def test_n_test_is_honoured_and_reported(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path, n_test=5))
    assert result["n"] == {"held out": 5, "unseen combinations": 5}
    assert "held out (n = 5)" in capsys.readouterr().out
    captioner.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    out = capsys.readouterr().out
    assert "describing 5 images, unseen combinations, with a beam of 8" in out


def test_end_to_end(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert set(result["scores"]) == {"held out", "unseen combinations"}
    assert result["n"] == {"held out": 12, "unseen combinations": 12}
    for table in result["scores"].values():
        assert set(table) == {"model", "most frequent", "nearest image"}
        assert all(set(row) == {"right", "bleu", "accuracy"} for row in table.values())
    out = capsys.readouterr().out
    for text in ("ln V = ln 44", "60 images with 4 captions", "most frequent"):
        assert text in out
    for name in ("step_000003.png", "step_000006.png"):
        assert read_png(run / "samples" / name).shape[2] == 3

    arguments = [f"--out_dir={run}", "--device=cpu"]
    assert len(captioner.main(["sample", *arguments, "--n=3"])) == 3
    width = read_png(run / "samples/captions.png").shape[1]
    assert width == 2 * (8 + 3 * (16 * 6 + 8))                  # enlarged, to over 600
    for name, pixels in (("grey", np.zeros((40, 30), np.uint8)),
                         ("large", np.full((50, 70, 3), 200, np.uint8))):
        write_png(tmp_path / f"{name}.png", pixels)
        texts = captioner.main(["sample", *arguments, f"--image={tmp_path}/{name}.png"])
        assert len(texts) == 1

    tables = captioner.main(["evaluate", *arguments])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert list(tables["held out_right_with_a_beam_of"]) == ["1", "2", "4", "8"]


@pytest.mark.paper
def test_it_is_measured_where_it_looks(tmp_path, capsys):
    """For faces, since it is known where their attributes are."""
    captioner.train(tiny(tmp_path, steps=40, lr=0.01))          # until it writes words
    picture = tmp_path / "run/samples/attention.png"
    picture.unlink()
    arguments = [f"--out_dir={tmp_path}/run", "--device=cpu"]
    captioner.main(["sample", *arguments])
    assert picture.exists()
    assert "samples/attention.png" in capsys.readouterr().out
    tables = captioner.main(["evaluate", *arguments, "--n_test=2"])
    assert set(tables["attention_where_the_attribute_is"]) == set(ATTRIBUTES)
    assert set(tables["share_of_the_image_that_this_is"]) == set(ATTRIBUTES)


def captions_of(i):
    return [f"A {'dark' if i < 3 else 'light'} picture."]


def test_own_captions(tmp_path, capsys):
    data = own_captions(tmp_path, captions_of)
    result = captioner.train(tiny(tmp_path, data=data, steps=60, lr=0.01, warmup=5, eval_every=0,
                                  log_every=0))
    assert result["scores"]["held out"]["model"]["right"] == 1.0
    assert "unseen combinations" not in result["scores"]
    use = [f"--out_dir={tmp_path}/run"]
    assert captioner.main(["sample", *use, f"--image={tmp_path}/0.png"]) == ["a dark picture"]
    tables = captioner.main(["evaluate", *use])
    assert set(tables) == {"held out_right_with_a_beam_of"}


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, captioner.main)


def test_bad_input(tmp_path, capsys):
    for flags, words in ((["--patch=5"], "--size=16 must be a multiple of --patch=5"),
                         (["--n_head=3"], "--n_embd=128 must be a multiple of --n_head=3"),
                         (["--beam=0"], "--beam=0 must be at least 1"),
                         (["--n=0"], "--n=0 must be at least 1"),
                         (["--patch=0"], "--patch=0 must be at least 1"),
                         (["--smoothing=1"], "--smoothing=1.0"),
                         (["--max_len=5"], "room for 5"),
                         (["--n_images=0"], "--n_images=0 must be at least 1")):
        small = ["--size=16", "--n_images=9", f"--out_dir={tmp_path}/new"]
        assert words in refused(capsys, *small, *flags)
        assert not (tmp_path / "new").exists()
    captioner.train(tiny(tmp_path, steps=1))
    run = f"--out_dir={tmp_path}/run"
    assert "nobody.png" in refused(capsys, "sample", run, "--image=nobody.png")
    data = own_captions(tmp_path, captions_of)
    assert "never seen" in refused(capsys, "--resume", "--steps=9", run, f"--data={data}")
