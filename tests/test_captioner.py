"""mini/captioner.py: its patches, batches, scores and runs. What it must do as mini/translator.py does, the network and
the search, is tested in test_encoder_decoder.py."""
import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch

from mini import captioner
from mini.data.images import caption_scores
from mini.data.images.captions import Captioned
from mini.data.images.faces import ATTRIBUTES, WORDINGS, caption, faces
from mini.utils.lettering import labelled, lettering
from mini.utils.png import read_png, write_png
from tests.helpers import close, encoder_decoder, own_captions, pictures, refused_by, sentences

TINY = dict(size=16, patch=8, n_images=60, n_layer=1, n_head=2, n_embd=16, d_ff=32, batch_size=4, steps=6, eval_every=3,
            sample_every=3, log_every=1, warmup=2, beam=2, n=2, device="cpu", dropout=0.1, matmul="highest")


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 12)


def tiny(tmp_path, **changes):
    return captioner.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


# ---- parity

def test_patches_by_a_loop():
    x, P = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12), 4
    rows = []
    for image in x:
        rows.append([])
        for top, left in itertools.product(range(0, 8, P), range(0, 12, P)):
            rows[-1].append([image[c, top + i, left + j].item() for c in range(3) for i in range(P) for j in range(P)])
    assert captioner.patches(x, P).tolist() == rows


# ---- the classic bugs of Transformers

def test_where_a_patch_is_matters():
    model, x, y = encoder_decoder(captioner), pictures(1), sentences([4], 23, bos=True)
    with torch.no_grad():
        assert (model(x, y) - model(x.flip(3), y)).abs().max() > 0.01
        turned = x.roll(4, dims=3)                                          # the same patches elsewhere
        assert (model(x, y) - model(turned, y)).abs().max() > 0.01
        model.positions_x.zero_()                                           # without positions: a set of patches
        close(model(turned, y), model(x, y), 1e-4)


# ---- the loss, the learning rate, batches

def test_learning_rate_rises_and_falls():
    cfg = captioner.Config(lr=0.5, warmup=10, steps=100)
    rates = [captioner.learning_rate(step, cfg) for step in range(101)]
    assert rates[:3] == pytest.approx([0.05, 0.10, 0.15]) and rates[50] == pytest.approx(0.25) and rates[100] == 0
    assert sorted(rates[:10]) == rates[:10] and sorted(rates[10:], reverse=True) == rates[10:]
    assert captioner.learning_rate(0, captioner.Config(warmup=0, steps=1)) > 0


def test_batches_hold_images_with_captions_of_their_own():
    x = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    y = torch.zeros(40, 3, 9, dtype=torch.long)
    y[:, :, 0] = captioner.BOS
    y[:, :, 1], y[:, :, 2] = torch.arange(100, 140)[:, None], torch.arange(3, 6)    # which image, which caption
    y[:20, :, 3:6] = 7
    seen, rng = set(), torch.Generator().manual_seed(0)
    for _ in range(60):
        images, words = captioner.draw_batch(x, y, 8, rng)
        i = words[:, 1] - 100
        assert torch.equal(images, (x[i].float() / 127.5 - 1)) and words.shape[1] in (3, 6)
        assert torch.equal(words, y[i, words[:, 2] - 3, :words.size(1)]) and (words != captioner.PAD).any(0).all()
        seen |= set(zip(i.tolist(), words[:, 2].tolist()))
    assert len(seen) > 110                                                          # of 120


# ---- describing

def test_attention_maps_are_the_weights_while_writing():
    from mini.data.images.captions import Words
    model, words = encoder_decoder(captioner), Words([f"w{i}" for i in range(20)])
    image = (pictures(1)[0] * 127.5 + 127.5).round().byte()
    texts, maps = captioner.attention_maps(model, words, image, model.cfg)
    ids = [words.words.index(text) for text in texts]
    assert captioner.EOS not in ids and maps.shape == (len(ids), 4, 4)
    close(maps.sum((1, 2)), torch.ones(len(ids)), 1e-5)
    memory = model.encode(image[None].float() / 127.5 - 1)
    for t in range(len(ids)):                               # one by one, as they were written
        model.decode(torch.tensor([[captioner.BOS, *ids[:t]]]), memory)
        mean = sum(layer.cross.weights[0, :, -1].mean(0) for layer in model.decoder) / 2
        close(maps[t].flatten(), mean, 1e-5)


# ---- scores and pictures

def test_what_full_captions_say_is_read_back():
    labels = torch.cartesian_prod(*(torch.arange(len(values)) for values in ATTRIBUTES.values()))
    for y, wording in zip(labels, itertools.cycle(range(len(WORDINGS)))):
        assert caption_scores.read(caption(y, wording)) == y.tolist()
    assert caption_scores.read("a red blue face with round glasses, no glasses") == [3, -1, -1, -1, -1, 0]


def test_scores_by_hand():
    images, labels = faces(4, 16)
    texts = [[caption(y, k) for k in range(4)] for y in labels]
    part = Captioned(images, labels, ATTRIBUTES, texts, torch.zeros(4, 4, 0))
    said = [texts[0][2], texts[1][0], texts[0][1], ""]
    others = sum(a != b for a, b in zip(labels[0].tolist(), labels[2].tolist()))
    assert others and caption_scores.share_right(said, part) == 0.5
    learn = Captioned(images.flip(0), labels, ATTRIBUTES, [["x"], ["y"], ["z"], ["x"]], None)
    assert caption_scores.baselines(learn, part) == {"most frequent": ["x"] * 4, "nearest image": ["x", "z", "y", "x"]}
    table = caption_scores.scores(said, learn, part)
    assert table["model"]["right"] == 0.5 and table["most frequent"]["right"] == table["nearest image"]["right"] == 0
    same = (labels[0] == labels[2]).tolist()
    assert table["model"]["accuracy"] == dict(zip(ATTRIBUTES, [0.75 if s else 0.5 for s in same]))
    assert caption_scores.scores([t[3] for t in texts], learn, part)["model"]["bleu"] == pytest.approx(100)
    own = Captioned(images[:2], labels[:2, :0], {}, [["A dog!", "one dog"], ["a cat", "a cat"]], None)
    assert caption_scores.share_right(["a dog", "a dog"], own) == 0.5
    assert caption_scores.nearest("one big cat", ["a dog", "a big cat", "cat"]) == "a big cat"


def test_where_an_attribute_is():
    def eyes(image):        # who looks at the upper half only, for every word
        maps = torch.zeros(40, 8, 8)
        maps[:, 3:5] = 1 / 16
        return [word for tell in caption_scores.TELLS.values() for word in tell], maps
    tables = caption_scores.places(eyes, 32, 4, n=8)
    attention, area = tables.values()
    assert attention["glasses"] > 0.5 > area["glasses"] and attention["mouth"] < 0.2 and area["background"] > 0.3


def test_labelled_images():
    images = torch.full((3, 3, 4, 5), 9, dtype=torch.uint8)
    sheet = labelled(images, ["ab cd", "", "x"], columns=2, scale=4, gap=8)     # 20 pixels wide: three letters
    assert sheet.shape == (1040, 640, 3)                                        # enlarged by 10, to over 600
    sheet = sheet[::10, ::10]
    assert sheet.shape == (8 + 2 * (16 + 24 + 8), 8 + 2 * (20 + 8), 3)
    assert (sheet[8:24, 8:28] == 9).all() and (sheet[8:24, 36:56] == 9).all() and (sheet[:, 28:36] == 255).all()
    assert np.array_equal(sheet[24:36, 8:20, 0] == 0, lettering("ab")) and (sheet[24:48, 36:56] == 255).all()
    assert np.array_equal(sheet[36:48, 8:20, 0] == 0, lettering("cd"))


# ---- training

def test_n_test_is_honoured_and_reported(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path, n_test=5))
    assert result["n"] == {"held out": 5, "unseen combinations": 5} and "held out (n = 5)" in capsys.readouterr().out
    captioner.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    assert "describing 5 images, unseen combinations, with a beam of 8" in capsys.readouterr().out


def test_end_to_end(tmp_path, capsys):
    result = captioner.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert set(result["scores"]) == {"held out", "unseen combinations"}
    assert result["n"] == {"held out": 12, "unseen combinations": 12}
    for table in result["scores"].values():
        assert set(table) == {"model", "most frequent", "nearest image"}
        assert all(set(row) == {"right", "bleu", "accuracy"} for row in table.values())
    out = capsys.readouterr().out
    assert "ln V = ln 44" in out and "60 images with 4 captions" in out and "most frequent" in out
    for name in ("step_000003.png", "step_000006.png", "attention.png"):
        assert read_png(run / "samples" / name).shape[2] == 3
    arguments = [f"--out_dir={run}", "--device=cpu"]
    assert len(captioner.main(["sample", *arguments, "--n=3"])) == 3
    assert read_png(run / "samples/captions.png").shape[1] == 2 * (8 + 3 * (16 * 6 + 8))    # to over 600
    for name, pixels in (("grey", np.zeros((40, 30), np.uint8)), ("large", np.full((50, 70, 3), 200, np.uint8))):
        write_png(tmp_path / f"{name}.png", pixels)
        assert len(captioner.main(["sample", *arguments, f"--image={tmp_path}/{name}.png"])) == 1
    tables = captioner.main(["evaluate", *arguments])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert list(tables["held out_right_with_a_beam_of"]) == ["1", "2", "4", "8"]
    assert set(tables["attention_where_the_attribute_is"]) == set(ATTRIBUTES)


def captions_of(i):
    return [f"A {'dark' if i < 3 else 'light'} picture."]


def test_own_captions(tmp_path, capsys):
    data = own_captions(tmp_path, captions_of)
    result = captioner.train(tiny(tmp_path, data=data, steps=60, lr=0.01, warmup=5, eval_every=0, log_every=0))
    assert result["scores"]["held out"]["model"]["right"] == 1.0 and "unseen combinations" not in result["scores"]
    assert captioner.main(["sample", f"--out_dir={tmp_path}/run", f"--image={tmp_path}/0.png"]) == ["a dark picture"]
    tables = captioner.main(["evaluate", f"--out_dir={tmp_path}/run"])
    assert set(tables) == {"held out_right_with_a_beam_of"}


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, captioner.main)


def test_bad_input(tmp_path, capsys):
    for flags, names in ((["--patch=5"], "patch=5"), (["--n_head=3"], "--n_head must divide"), (["--beam=0"], "no size 0"), (["--n=0"], "0"),
                         (["--smoothing=1"], "smoothing"), (["--max_len=5"], "room for 5"), (["--n_images=0"], "no size 0")):
        assert names in refused(capsys, "--size=16", "--n_images=9", f"--out_dir={tmp_path}/new", *flags)
        assert not (tmp_path / "new").exists()
    captioner.train(tiny(tmp_path, steps=1))
    run = f"--out_dir={tmp_path}/run"
    assert "nobody.png" in refused(capsys, "sample", run, "--image=nobody.png")
    data = own_captions(tmp_path, captions_of)
    assert "never seen" in refused(capsys, "--resume", "--steps=9", run, f"--data={data}")
