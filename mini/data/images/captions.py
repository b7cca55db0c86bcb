"""Images with captions: cartoon faces described in many ways, or your own; and the words of the captions.

A face has full captions, which name all attributes, and partial ones, which name some, as people type them: "a
smiling face with blond hair". It is known what a caption leaves open (Captioned.allowed), so one can tell which
faces it fits. Some pairs of values (HELD_BACK) never occur together in training.
"""
import difflib
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from mini.data.files import find_file
from mini.data.images.faces import ATTRIBUTES, MOUTHS, WORDINGS, caption, draw_parameters, render
from mini.data.images.image_folder import SUFFIXES, read_pictures
from mini.data.images.image_sets import FACE_SIZE, one_hot
from mini.data.text.pairs import Vocabulary, fill_up
from mini.data.text.tables import read_rows, without_header
from mini.utils.config import UserError, require, require_file

HELD_BACK = [{"hair": "red", "glasses": "round"}, {"style": "curly", "background": "pink"}]     # 14 % of faces
HELD_OUT = 1024         # faces in each of the two sets that no model learns from
FULL, PARTIAL = len(WORDINGS), 4        # number of captions of a face: full ones, and partial ones
MOUTH_NOUNS = {"smile": "a smile", "neutral": "a serious look", "open": "an open mouth"}
WHERE = ["on a {} background", "against a {} background", "before a {} wall", "in front of something {}"]
SAME = {"blonde": "blond", "gray": "grey"}      # spellings


@dataclass
class Captioned:
    images: torch.Tensor    # uint8 (N, 3, S, S)
    labels: torch.Tensor    # int64 (N, A): for each attribute the number of its value
    attributes: dict        # {attribute: [names of its values]}, A of them; none for your own data
    captions: list          # N lists of K strings; for faces, first FULL full ones, then PARTIAL partial ones
    allowed: torch.Tensor   # bool (N, K, V): which of the attributes' V values each caption leaves possible
    seeds: tuple = ()       # N numbers: `describe` worded the captions of a face by its seed; none for your own data

    def first(self, n: int):
        """The first n of the images, with all that belongs to them."""
        return Captioned(self.images[:n], self.labels[:n], self.attributes, self.captions[:n],
                         self.allowed[:n], self.seeds[:n])


def fits(allowed, labels, attributes: dict):
    """Bool (n, m): does caption i fit face j? It does if all A values of the face are among those that the
    caption leaves possible. allowed (n, V): of the captions; labels (m, A): of the faces."""
    return allowed.float() @ one_hot(labels, attributes).T == len(attributes)


# ---- captions that name a few attributes
def partial_caption(value: dict, rng) -> str:
    """A caption that names these values of a face, {attribute: value}. rng, a random.Random, chooses the words.
    With the value "some" for glasses, the caption does not say which glasses."""
    parts, adjective, kind = [], "", rng.random()
    hair, style = value.get("hair", ""), value.get("style", "")
    if hair or style:
        parts.append(f"{hair} hair in a bun" if style == "bun" else f"{style} {hair} hair")
    if "skin" in value:
        parts.append(f"{value['skin']} skin")
    if "glasses" in value:
        parts.append({"none": "no", "some": ""}.get(value["glasses"], value["glasses"]) + " glasses")
    if "mouth" in value and rng.random() < 0.6:
        adjective = MOUTHS[value["mouth"]]
    elif "mouth" in value:
        parts.append(MOUTH_NOUNS[value["mouth"]])
    parts = [" ".join(part.split()) for part in parts]
    rng.shuffle(parts)
    if kind < 0.2:                                              # a list, as in a search
        ground = f"{value['background']} background" if "background" in value else ""
        return rng.choice([", ", " "]).join(filter(None, [adjective, *parts, ground]))
    end = ""
    if parts and parts[-1].endswith("glasses") and rng.random() < 0.5:
        end = f"wearing {parts.pop()}".replace("wearing no", "without")
    noun = rng.choice(["a {} face", "a {} person", "someone {}"]).format(adjective)
    features = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))        # a, b and c
    text = " ".join([noun, f"with {features}" if parts else "", end])
    if "background" in value:
        ground = rng.choice(WHERE).format(value["background"])
        text = f"{ground}, {text}" if kind > 0.9 else f"{text} {ground}"
    return re.sub(" +", " ", text).strip()


def describe(labels, seed: int, swap_rng=None) -> tuple:
    """(captions, allowed (K, V)) of a face with labels (A,): FULL captions in random order, then PARTIAL ones.

    With swap_rng, a random.Random, the same ones word for word, but in each caption one value is wrong."""
    rng = random.Random(seed)
    value = {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), labels.tolist())}
    captions, told = [], []

    def say(true: dict) -> dict:
        told.append(true if swap_rng is None else swap_one_value(true, swap_rng))
        return told[-1]

    for wording in rng.sample(range(FULL), FULL):
        said = say(value)
        y = labels
        if swap_rng is not None:
            y = torch.tensor([values.index(said[name]) for name, values in ATTRIBUTES.items()])
        captions.append(caption(y, wording))
    for _ in range(PARTIAL):
        names = rng.sample(list(ATTRIBUTES), rng.randint(1, len(ATTRIBUTES) - 1))
        true = {name: value[name] for name in names}
        if true.get("glasses", "none") != "none" and rng.random() < 0.5:
            true["glasses"] = "some"
        captions.append(partial_caption(say(true), rng))        # its words depend on rng, not on the values
    return captions, [[known.get(name, v) == v or known[name] == "some" and v != "none"
                       for name, values in ATTRIBUTES.items() for v in values] for known in told]


def swap_one_value(told: dict, rng):
    """What a caption tells, {attribute: value}, with one value replaced by a wrong one, which rng, a random.Random,
    chooses; never so that it tells a pair of HELD_BACK."""
    swapped = []
    for name, value in told.items():
        for other in ATTRIBUTES[name]:
            wrong = other == "none" if value == "some" else other != value
            changed = {**told, name: other}
            if wrong and not any(pair.items() <= changed.items() for pair in HELD_BACK):
                swapped.append(changed)
    return rng.choice(swapped)


def hard_negatives(part: Captioned) -> list:
    """For each caption of the faces of `part` the same with one value swapped, so that it is not true of its face:
    N lists of K strings. No pair of HELD_BACK is ever told."""
    rng = random.Random(0)
    return [describe(y, seed, swap_rng=rng)[0] for y, seed in zip(part.labels, part.seeds)]


# ---- data sets
def has_pair(labels, pair: dict) -> torch.Tensor:
    """Bool (N,): do labels (N, A) of faces have both values of the pair, {attribute: value}?"""
    column = dict(zip(ATTRIBUTES, labels.T))
    has = [column[name] == ATTRIBUTES[name].index(value) for name, value in pair.items()]
    return torch.stack(has).all(0)


def held_back(labels) -> torch.Tensor:
    """Bool (N,): do labels (N, A) of faces have both values of a pair in HELD_BACK?"""
    return torch.stack([has_pair(labels, pair) for pair in HELD_BACK]).any(0)


def _faces(n: int, size: int, seed: int, first: int, unseen: bool) -> Captioned:
    """The first n faces, from number `first` of the seed on, that are held back (unseen), or that are not."""
    m = n
    while (kept := (held_back(draw_parameters(m, seed, first)[0]) == unseen).nonzero()[:n, 0]).numel() < n:
        m *= 2
    labels, nuisance = (part[kept] for part in draw_parameters(m, seed, first))
    seeds = tuple(seed * 10**9 + first + i for i in kept.tolist())
    captions, allowed = zip(*(describe(y, own) for y, own in zip(labels, seeds)))
    images = render(labels, nuisance, size)
    return Captioned(images, labels, ATTRIBUTES, [*captions], torch.tensor(allowed), seeds)


def load_captions(source: str = "faces", size: int = 32, n_faces: int = 20000, seed: int = 1) -> tuple:
    """(training, held out, unseen combinations), three Captioned, of what --data names.

    With size 0, your own images keep their size.

    For 'faces' they have n_faces, HELD_OUT and HELD_OUT faces; the first two have none with a pair of HELD_BACK,
    the third only such. For a .tsv file (see read_captions) they are nine tenths, one tenth (always the same),
    and nothing. Raises UserError for input that cannot be used."""
    if source == "faces":
        require(n_faces > 0, f"--n_images={n_faces}: at least one face is needed to learn from")
        parts = (n_faces, 0, False), (HELD_OUT, 10**7, False), (HELD_OUT, 2 * 10**7, True)
        return tuple(_faces(n, size or FACE_SIZE, seed, first, unseen) for n, first, unseen in parts)
    images, captions = read_captions(source, size)
    if len(images) == 1:
        print("note: only 1 image: the model will learn it by heart, and is scored on it", flush=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cut = max(1, len(order) * 9 // 10)
    parts = order[:cut], order[cut:] if cut < len(order) else order, order[:0]      # a single image is both
    nothing = torch.zeros(len(images), len(captions[0]), 0, dtype=torch.bool)
    return tuple(Captioned(images[i], nothing[i, 0].long(), {}, [captions[j] for j in i], nothing[i])
                 for i in parts)


def load_full_captions(source: str, size: int, n_faces: int) -> tuple:
    """(training, {"held out": …, "unseen combinations": …}), the Captioned of load_captions. A set without images
    is left out. Of faces they have the captions alone that name every attribute."""
    parts = load_captions(source, size, n_faces)
    for part in parts:
        if part.attributes:
            part.captions = [texts[:FULL] for texts in part.captions]
    train_set, *others = parts
    named = dict(zip(("held out", "unseen combinations"), others))
    return train_set, {name: part for name, part in named.items() if len(part.images)}


# How the columns may be called in a file's first line.
HEADER = [{"image", "image_name", "path", "file", "filename", "file_name"}, {"caption", "text", "comment", "captions"}]


def read_captions(source: str, size: int) -> tuple:
    """(images uint8 (N, 3, size, size), N lists of K captions) of a file with lines of an image's path (from the
    file's folder), a tab, a caption. If an image has fewer captions than others, they are repeated. Raises
    UserError, naming the line."""
    path, captions, shape = Path(source), {}, "an image's path, a tab, a caption"
    require_file(path, f"--data={source}: no such file (without --data: faces); bring lines of {shape}")
    for number, fields in without_header(read_rows(path), HEADER, path):
        place = f"{path}, line {number}"
        require(len(fields) == 2 and all(fields), f"{place}: {len(fields)} column(s), one empty? Not {shape}")
        image = find_image(path.parent, fields[0])
        require_file(image, f"{place}: no such image: {image}")
        require(split(fields[1]), f"{place}: there is no word in {fields[1]!r}")
        captions.setdefault(image, []).append(fields[1])
    require(captions, f"{path}: there is no caption in it; bring lines of {shape}")
    images = read_pictures(list(captions), size).expand(-1, 3, -1, -1)
    K = max(map(len, captions.values()))
    return images, [[texts[i % len(texts)] for i in range(K)] for texts in captions.values()]


def find_image(folder: Path, name: str) -> Path:
    """The image of that name in the folder. In files of captions like Flickr's, a.jpg#0 and a.jpg#1 stand for the
    first and the second caption of a.jpg."""
    image = find_file(folder, name)
    plain, _, number = name.rpartition("#")
    if not image.exists() and number.isdecimal() and plain.lower().endswith(SUFFIXES):
        return find_file(folder, plain)
    return image


# ---- words
def split(text: str) -> list:
    """A caption's words, in small letters, and its commas and colons; other marks are left out."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    return re.findall(r"[^\W_]+(?:[-'][^\W_]+)*|[,:]", text)


class Words(Vocabulary):
    """Words and their numbers, after PAD, BOS and EOS. No word is ever dropped; unknown words are refused."""

    @classmethod
    def of(cls, captions):
        """All words of some captions, the most frequent first."""
        count = Counter(word for text in captions for word in split(text))
        return cls([word for word, _ in count.most_common()])

    def state(self) -> list:            # for a checkpoint: Words(state) gives these words again
        return self.words[3:]

    def _split(self, text: str) -> list:
        return [word if word in self.index else SAME.get(word, word) for word in split(text)]

    def encode(self, text: str, longest: int = 0) -> list:
        """The numbers of a caption's words, then EOS; at most `longest` words (0: any number). Raises UserError
        if there is no word, if there are too many, or for unknown words; it then names similar known ones."""
        words = self._split(text)
        if not words:
            raise UserError(f"{text!r}: there is no word in it")
        if unknown := [word for word in dict.fromkeys(words) if word not in self.index]:
            near = [known for word in unknown for known in difflib.get_close_matches(word, self.index, n=2)]
            some = dict.fromkeys([*near, *(word for word in self.index if len(word) > 3)])
            raise UserError(f"the model has never seen {', '.join(map(repr, unknown[:8]))}; some of the "
                            f"{len(self.index)} words that it knows: {', '.join(list(some)[:24])}")
        if 0 < longest < len(words):
            raise UserError(f"{text[:60]!r} …: there is room for {longest} words")
        return self.numbers(text)

    def decode(self, ids) -> str:
        return re.sub(" ([,:])", r"\1", " ".join(self.spell(ids)))

    def encode_all(self, texts: list, longest: int = 0) -> torch.Tensor:
        """One or more captions as a tensor (n, L): each ends with EOS and is filled up with PAD."""
        return fill_up([self.encode(text, longest) for text in texts])


def encode_captions(captions: list, words: Words, longest: int) -> torch.Tensor:
    """N lists of K captions as a tensor (N, K, T + 1): each begins with BOS, ends with EOS, and is filled up with
    PAD."""
    texts = [text for of_image in captions for text in of_image]
    tokens = words.encode_all(texts, longest)                                   # (N · K, T)
    tokens = torch.nn.functional.pad(tokens, (1, 0), value=Words.BOS)
    return tokens.view(len(captions), -1, tokens.size(1))


def read_prompts(text: str) -> list:
    """The prompts in --prompt, which are separated by |."""
    prompts = [prompt.strip() for prompt in text.split("|")]
    require(all(prompts), f"--prompt={text!r}: one of the prompts between the | is empty")
    return prompts
