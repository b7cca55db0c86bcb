"""mini/data/images/captions.py: do captions say what is there, all of it or a part; are combinations held back?"""
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.data.images import captions
from mini.data.images.captions import (FULL, HELD_BACK, PARTIAL, Words, describe, fits,
                                       hard_negatives, has_pair, held_back, load_captions,
                                       read_prompts)
from mini.data.images.faces import ATTRIBUTES
from mini.data.text.pairs import fill_up
from mini.utils.png import write_png
from tests.helpers import own_captions, refused

SIZES = [len(values) for values in ATTRIBUTES.values()]
SAYS = {    # {attribute: {value: words that tell it}}
    "hair": {v: rf"\b{v} hair|\b{v} hair in" for v in ATTRIBUTES["hair"]},
    "style": {"bun": r"in a bun", **{v: rf"\b{v} (\w+ )?hair" for v in ("short", "long", "curly")}},
    "skin": {v: rf"\b{v} skin" for v in ATTRIBUTES["skin"]},
    "glasses": {"none": r"\bno glasses|without glasses", "round": "round glasses", "square": "square glasses"},
    "mouth": {"smile": "smil", "neutral": "serious", "open": "surprised|open mouth"},
    "background": {v: rf"\b{v} (background|wall)|something {v}|on {v}," for v in ATTRIBUTES["background"]}}


@pytest.fixture(scope="module")
def parts():
    old, captions.HELD_OUT = captions.HELD_OUT, 400
    yield load_captions("faces", 8, 600)
    captions.HELD_OUT = old


def by_attribute(allowed):
    return [part.tolist() for part in torch.as_tensor(allowed).split(SIZES)]


def test_what_a_caption_says_is_what_is_allowed(parts):
    """Read back by expressions of our own: a caption says a value if only that is allowed, and no value else."""
    generic = 0
    for part in parts:
        assert all(len(texts) == FULL + PARTIAL for texts in part.captions)
        for texts, rows, labels in zip(part.captions, part.allowed, part.labels.tolist()):
            for k, (text, allowed) in enumerate(zip(texts, rows)):
                for (name, values), known, y in zip(ATTRIBUTES.items(), by_attribute(allowed), labels):
                    said = [v for v in values if re.search(SAYS[name][v], text)]
                    possible = [v for v, ok in zip(values, known) if ok]
                    assert values[y] in possible                                # it is true of its face
                    if possible == ["round", "square"]:
                        assert re.search(r"(?<!round )(?<!square )(?<!no )(?<!without )\bglasses", text) and said == []
                        generic += 1
                    else:
                        assert said == (possible if len(possible) == 1 else []), (text, name)
                    assert k >= FULL or len(possible) == 1                      # full ones tell all
                    if name == "glasses" and len(possible) == 3:
                        assert "glasses" not in text
    assert generic > 300


def test_partial_captions_name_any_attributes_and_read_as_english(parts):
    learn, counts, named = parts[0], Counter(), Counter()
    for texts, rows in zip(learn.captions, learn.allowed):
        for text, allowed in zip(texts[FULL:], rows[FULL:]):
            few = tuple(name for name, known in zip(ATTRIBUTES, by_attribute(allowed)) if not all(known))
            counts[len(few)] += 1
            named.update(few)
            assert text == text.strip() and "  " not in text and " ," not in text and text[0].islower()
            assert not re.search(r"\ban? (an?|someone|in|with)\b|\ba (open|[aeiou])|with (on|against|before|in front|$)"
                                 r"|with wearing|and$|,$|and (on|wearing)|wearing no|\{", text), text
            for word in ("someone", "background", "with", "mouth"):
                assert text.split().count(word) <= 1 + (word == "with"), text
    assert set(counts) == {1, 2, 3, 4, 5} and min(counts.values()) > 300 and min(named.values()) > 800
    every = [text for texts in learn.captions for text in texts[FULL:]]
    assert len(set(every)) > 0.6 * len(every)
    for kind in ("^a (face|person)", "^someone", "^(on|against|before|in front)", "wearing", "without", " and ", "^\\w+ hair, ",
                 "^(smiling|serious|surprised) \\w+ (hair|skin|glasses)", "with a smile", "and a serious look"):
        assert any(re.search(kind, text) for text in every), kind


def test_fits_by_hand(parts):
    learn = parts[0]
    allowed, labels = learn.allowed[:30, 5], learn.labels
    table = fits(allowed, labels, ATTRIBUTES)
    for i in range(30):
        known = by_attribute(allowed[i])
        want = [all(row[y] for row, y in zip(known, face)) for face in labels.tolist()]
        assert table[i].tolist() == want and want[i]
    assert 0.02 < table.float().mean() < 0.5


def test_held_back_pairs_come_in_the_third_part_only_and_their_values_everywhere(parts):
    names = list(ATTRIBUTES)
    for pair in HELD_BACK:
        (a, v), (b, w) = pair.items()
        i, j, v, w = names.index(a), names.index(b), ATTRIBUTES[a].index(v), ATTRIBUTES[b].index(w)
        for part, there in zip(parts, (False, False, True)):
            both = (part.labels[:, i] == v) & (part.labels[:, j] == w)
            assert both.any() == there and (part.labels[:, i] == v).any() and (part.labels[:, j] == w).any()
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    assert 0.05 < held_back(every).double().mean() < 0.15
    assert [held_back(part.labels).double().mean().item() for part in parts] == [0, 0, 1]
    for part in parts:                      # and no caption in the first two parts speaks of such a pair
        texts = [text for row in part.captions for text in row]
        spoken = [re.search(r"red hair", text) and "round glasses" in text for text in texts]
        assert any(spoken) == (part is parts[2])


def said_by(text):
    """{attribute: value} that a caption says, read by our own expressions."""
    return {name: value for name, values in ATTRIBUTES.items() for value in values
            if re.search(SAYS[name][value], text)}


def test_hard_negatives_are_wrong_in_one_value_and_never_say_a_held_back_pair(parts):
    """A model that learns from wrong captions must not meet the held-back pairs there: it is to be
    seen what it makes of them when it has never read of them."""
    learn = parts[0].first(300)
    wrong = hard_negatives(learn)
    assert [len(texts) for texts in wrong] == [FULL + PARTIAL] * 300
    swapped = Counter()
    for texts, negatives, labels in zip(learn.captions, wrong, learn.labels.tolist()):
        face = {name: values[y] for (name, values), y in zip(ATTRIBUTES.items(), labels)}
        for text, negative in zip(texts, negatives):
            true = said_by(text)
            said = said_by(negative)
            assert all(face[name] == value for name, value in true.items())
            differ = [name for name in ATTRIBUTES if true.get(name) != said.get(name)]
            assert len(differ) == 1                             # all others as they were
            assert said[differ[0]] != face[differ[0]]
            assert not any(pair.items() <= said.items() for pair in HELD_BACK)
            swapped[differ[0], said[differ[0]]] += 1
    assert len(swapped) == sum(SIZES)                           # each value is said wrongly
    assert hard_negatives(learn) == wrong                       # the same each time


def test_hard_negatives_keep_all_other_words():
    """A face with one caption and its negative side by side: only the words for one value differ."""
    labels = torch.tensor([3, 0, 1, 0, 0, 1])                   # red, short, medium, none, smile, green
    rng = captions.random.Random(0)
    for seed in range(40):
        true, _ = describe(labels, seed)
        wrong, allowed = describe(labels, seed, swap_rng=rng)
        for text, negative in zip(true, wrong):
            new = set(captions.split(negative)) - set(captions.split(text))
            assert len(new) <= 3, (text, negative)              # "an open mouth", "in a bun"
        assert not fits(torch.tensor(allowed), labels[None], ATTRIBUTES).any()


def test_a_pair_is_had_if_both_values_are():
    labels = torch.tensor([[3, 0, 0, 1, 0, 0], [3, 0, 0, 2, 0, 0], [0, 0, 0, 1, 0, 0]])
    assert has_pair(labels, HELD_BACK[0]).tolist() == [True, False, False]
    assert has_pair(labels, HELD_BACK[1]).tolist() == [False, False, False]
    assert held_back(labels).tolist() == [True, False, False]


def test_the_same_faces_and_captions_each_time_however_many():
    few, many = load_captions("faces", 8, 5), load_captions("faces", 8, 40)
    for a, b in zip(few, many):
        n = len(few[0].images)
        assert torch.equal(a.images[:n], b.images[:n]) and list(a.captions[:n]) == list(b.captions[:n])
        assert torch.equal(a.allowed[:n], b.allowed[:n])
    other = load_captions("faces", 8, 5, seed=2)[0]
    assert not torch.equal(other.labels, few[0].labels)
    assert len(many[0].images) == 40 and many[0].images.shape == (40, 3, 8, 8) and many[0].images.dtype == torch.uint8
    first = Counter(texts[0].split()[0] for texts in load_captions("faces", 8, 200)[0].captions)
    assert len(first) > 4                                           # the first caption is in any of the wordings
    seen = {tuple(image.flatten().tolist()) for part in many for image in part.images[:40]}
    assert len(seen) == 3 * 40


# ---- words

def test_words_there_and_back(parts):
    words = Words.of(text for part in parts for texts in part.captions for text in texts)
    assert words.words[:3] == ["<pad>", "<bos>", "<eos>"] and Words.PAD == 0 and len(words) == len(words.state()) + 3
    for texts in parts[0].captions[:50]:
        for text in texts:
            ids = words.encode(text)
            assert ids[-1] == Words.EOS and min(ids) >= 2 and words.decode([Words.BOS, *ids, 0, 0]) == text
    again = Words(words.state())
    text = "A face, with RED hair & glasses!"
    assert again.words == words.words and words.decode(again.encode(text)) == "a face, with red hair glasses"
    assert words.encode("grey background, blond") == words.encode("Gray background, blonde.")
    rows = words.encode_all(["glasses", "a smiling face"])
    assert rows.shape == (2, 4) and rows[0].tolist() == [*words.encode("glasses"), 0, 0]
    assert torch.equal(rows, fill_up([words.encode("glasses"), words.encode("a smiling face")]))


def test_unknown_words_are_said_not_dropped(parts):
    words = Words.of(text for texts in parts[0].captions for text in texts)
    message = refused(lambda: words.encode("a man with smilling eyes and a hat, man"), "'man'", "'smilling'", "'eyes'", "'hat'")
    assert "'with'" not in message and message.count("'man'") == 1 and "smiling" in message and "glasses" in message
    refused(lambda: words.encode(" ?! "), "no word")
    refused(lambda: words.encode("red hair, red hair", 4), "red hair, red hair", "room for 4 words")
    assert len(words.encode("red hair, red hair", 5)) == 6
    refused(lambda: words.encode_all(["red hair", "a dragon"]), "'dragon'")


def test_prompts():
    assert read_prompts("glasses") == ["glasses"] and read_prompts("a | b c|d") == ["a", "b c", "d"]
    refused(lambda: read_prompts("a||b"), "empty")


# ---- your own captions

@pytest.fixture
def own(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(20):
        write_png(tmp_path / f"in/{i}.png", np.full((10 + i, 14, 1 + 2 * (i % 2)), 10 * i, np.uint8))
    lines = [f"in/{i}.png\tNumber {i}" for i in range(20)]
    path = tmp_path / "captions.tsv"

    def write(*more):
        path.write_text("\n".join([*lines, "", *more]) + "\n", encoding="utf-8")
        return str(path)
    return write


def test_own_captions(own):
    learn, held_out, unseen = load_captions(own("in/3.png\tthree, again", "in/3.png\tdrei"), 12)
    assert [len(part.images) for part in (learn, held_out, unseen)] == [18, 2, 0]
    assert unseen.images.shape == (0, 3, 12, 12) and unseen.captions == [] and learn.attributes == {}
    for part in (learn, held_out):
        assert part.labels.shape == (len(part.images), 0) and part.images.shape[1:] == (3, 12, 12)
        for image, texts in zip(part.images, part.captions):
            i = int(image[0, 6, 6]) // 10
            assert len(texts) == 3 and set(texts) == {f"Number {i}", *(["three, again", "drei"] if i == 3 else [])}
    again = load_captions(own("in/3.png\tthree, again", "in/3.png\tdrei"), 12)
    assert again[0].captions == learn.captions


def test_one_image_is_both(own, tmp_path, capsys):
    """The scores on it were called those of a held-out image, and nothing said what it is."""
    Path(own()).write_text("in/3.png\tthree")
    learn, held_out, _ = load_captions(str(tmp_path / "captions.tsv"), 8)
    assert torch.equal(learn.images, held_out.images) and len(learn.images) == 1
    assert "only 1 image" in capsys.readouterr().out


def test_names_as_other_systems_write_them(own, tmp_path):
    """'é' as one character or two, and folders set apart by a backslash, are the same image."""
    write_png(tmp_path / "in/cafe\u0301.png", np.full((14, 14), 7, np.uint8))
    lines = [f"in{slash}{name}.png\t{name} {slash}" for slash in "/\\" for name in ("cafe\u0301", "caf\u00e9")]
    Path(own()).write_text("\n".join(lines), "utf-8")
    learn, _, _ = load_captions(str(tmp_path / "captions.tsv"), 8)
    assert learn.images.shape == (1, 3, 8, 8) and (learn.images == 7).all() and len(learn.captions[0]) == 4


def test_own_captions_as_they_are(own, tmp_path):
    refused(lambda: load_captions(own(), 0), "--size=0", "in/1.png is 11", "in/0.png 10", "--size=32")
    (tmp_path / "captions.tsv").write_text("in/5.png\tfive\nin/4.png\tfour\nin/6.png\tsix")
    assert load_captions(str(tmp_path / "captions.tsv"), 8)[0].images.shape[1:] == (3, 8, 8)
    (tmp_path / "captions.tsv").write_text("in/5.png\tfive\nin/7.png\tseven")
    write_png(tmp_path / "in/7.png", np.zeros((14, 20), np.uint8))
    assert load_captions(str(tmp_path / "captions.tsv"), 0)[0].images.shape[1:] == (3, 14, 14)


def test_a_header_and_commas(own, tmp_path, capsys):
    path = Path(own())
    plain = load_captions(str(path), 12)
    path.write_text("Image\tCaption\n" + path.read_text())
    assert load_captions(str(path), 12)[0].captions == plain[0].captions
    assert "line 1: left out" in capsys.readouterr().out
    path.write_text(path.read_text().replace("\t", ","))
    assert load_captions(str(path), 12)[0].captions == plain[0].captions
    assert "separated by commas" in capsys.readouterr().out


def test_bad_files(own, tmp_path):
    refused(lambda: load_captions(str(tmp_path / "none.tsv")), "none.tsv", "no such file")
    path = own("in/99.png\tgone")
    refused(lambda: load_captions(path), "captions.tsv, line 22", "99.png")
    for line in ("in/3.png", "in/3.png\t", "\tthree", "in/3.png\tthree\tmore"):
        path = own(line)
        refused(lambda: load_captions(path), "line 22", "column(s)")
    path = own("in/3.png\t?!")
    refused(lambda: load_captions(path), "line 22", "no word")
    Path(path).write_text("\n\n")
    refused(lambda: load_captions(path), "captions.tsv", "no caption")
    Path(path).write_bytes(b"in/3.png\t\xff\xfe\n")
    refused(lambda: load_captions(path), "UTF-8")
    (tmp_path / "in/bad.png").write_text("not a picture")
    path = own("in/bad.png\tbad")
    refused(lambda: load_captions(path), "bad.png")
    refused(lambda: load_captions("faces", 8, 0), "--n_images=0")
    Path(path).write_text("in/3.png\tthree\n")
    learn, held_out, _ = load_captions(path, 8)
    assert torch.equal(learn.images, held_out.images)


def test_numbered_captions_like_those_of_flickr(tmp_path):
    """0.png#0 and 0.png#1 are two captions of 0.png, unless there is a file of that very name."""
    own_captions(tmp_path, lambda i: [], n=2)
    for separator in ("\t", ","):
        lines = [f"{name}{separator}a {name[0]} {n} man" for name, n in (("0.png#0", 0), ("0.png#1", 1), ("1.PNG#0", 2))]
        (tmp_path / "1.PNG").write_bytes((tmp_path / "1.png").read_bytes())
        (tmp_path / "own.tsv").write_text("\n".join(lines))
        images, texts = captions.read_captions(str(tmp_path / "own.tsv"), 8)
        assert images[:, 0, 0, 0].tolist() == [0, 40] and texts == [["a 0 0 man", "a 0 1 man"], ["a 1 2 man"] * 2]
    write_png(tmp_path / "0.png#1", np.full((20, 24, 3), 200, np.uint8))
    images, texts = captions.read_captions(str(tmp_path / "own.tsv"), 8)
    assert images[:, 0, 0, 0].tolist() == [0, 200, 40]
    for name in ("0.png#", "0.png#x", "0#0", "notes.txt#0", "5.png#0"):
        (tmp_path / "notes.txt").write_text("")
        (tmp_path / "own.tsv").write_text(f"{name}\ta man")
        refused(lambda: captions.read_captions(str(tmp_path / "own.tsv"), 8), "line 1", "no such image")
