"""Images with captions: cartoon faces described in many ways, or your own; and the words of the
captions as numbers.

    load_captions       (training, held out, unseen combinations) of what --data names
    Words               the vocabulary: Words.of(captions), encode, decode
    encode_captions     captions as a tensor of word numbers

A face has full captions, which name all attributes, and partial ones, which name some, as people
type them: "a smiling face with blond hair". It is known what a caption leaves open
(Captioned.allowed), so one can tell which faces it fits. Some pairs of values (HELD_BACK) never
occur together in training.
"""
import difflib
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from mini.data.files import find_file
from mini.data.images.faces import ATTRIBUTES, MOUTHS, WORDINGS, caption, draw_parameters, render
from mini.data.images.image_folder import SUFFIXES, read_pictures
from mini.data.images.image_sets import FACE_SIZE, one_hot
from mini.data.text.pairs import Vocabulary, fill_up
from mini.data.text.tables import read_rows, without_header
from mini.utils.config import UserError, require, require_file

FULL = len(WORDINGS)    # number of captions of a face that name all attributes
PARTIAL = 4             # and of those that name some
HELD_OUT = 1024         # faces in each of the two sets that no model learns from

# Pairs of values of which no training face has both; 14 % of all faces have one of the pairs.
HELD_BACK = [{"hair": "red", "glasses": "round"}, {"style": "curly", "background": "pink"}]


@dataclass
class Captioned:
    """N images with K captions each. Of faces, the first FULL captions are full, the others
    partial. Your own images have no attributes: A and V are 0 then."""
    images: torch.Tensor    # uint8 (N, 3, S, S)
    labels: torch.Tensor    # int64 (N, A): for each attribute the number of its value
    attributes: dict        # {attribute: [names of its values]}: A attributes, V values in all
    captions: list          # N lists of K strings
    allowed: torch.Tensor   # bool (N, K, V): which of the values each caption leaves possible
    seeds: tuple = ()       # of faces N numbers: `describe` worded a face's captions by its seed

    def first(self, n: int):
        """The first n of the images, with all that belongs to them."""
        return Captioned(self.images[:n], self.labels[:n], self.attributes, self.captions[:n],
                         self.allowed[:n], self.seeds[:n])


def fits(allowed, labels, attributes: dict):
    """Bool (n, m): does caption i fit face j? It does if all A values of the face are among those
    that the caption leaves possible. allowed (n, V): of the captions; labels (m, A): of the
    faces."""
    n_possible = allowed.float() @ one_hot(labels, attributes).T        # (n, m)
    return n_possible == len(attributes)                                # all A values are


# ---- a caption that names a few attributes

MOUTH_NOUNS = {"smile": "a smile", "neutral": "a serious look", "open": "an open mouth"}
WHERE = ["on a {} background", "against a {} background", "before a {} wall",
         "in front of something {}"]


def partial_caption(value: dict, rng) -> str:
    """A caption that names these values of a face, {attribute: value}. rng, a random.Random,
    chooses the words. With the value "some" for glasses, the caption does not say which glasses."""
    form = rng.random()
    adjective, features = features_of(value, rng)
    background = value.get("background", "")
    if form < 0.2:
        return as_search(adjective, features, background, rng)
    text = as_phrase(adjective, features, rng)
    if background:
        where = rng.choice(WHERE).format(background)
        text = f"{where}, {text}" if form > 0.9 else f"{text} {where}"
    return text


def features_of(value: dict, rng) -> tuple:
    """("smiling", ["curly hair", "no glasses"]): an adjective for the face, or "", and its other
    features, in random order."""
    features = []
    hair = value.get("hair", "")
    style = value.get("style", "")
    if style == "bun":
        features.append(f"{hair} hair in a bun")
    elif hair or style:
        features.append(f"{style} {hair} hair")
    if "skin" in value:
        features.append(f"{value['skin']} skin")
    if "glasses" in value:
        which = {"none": "no", "some": ""}.get(value["glasses"], value["glasses"])
        features.append(f"{which} glasses")
    adjective = ""
    if "mouth" in value:
        if rng.random() < 0.6:
            adjective = MOUTHS[value["mouth"]]
        else:
            features.append(MOUTH_NOUNS[value["mouth"]])
    features = [single_spaces(feature) for feature in features]
    rng.shuffle(features)
    return adjective, features


def as_search(adjective: str, features: list, background: str, rng) -> str:
    """A list, as one types it into a search: "smiling, curly hair, pink background"."""
    terms = [adjective, *features]
    if background:
        terms.append(f"{background} background")
    separator = rng.choice([", ", " "])
    return separator.join(term for term in terms if term)


def as_phrase(adjective: str, features: list, rng) -> str:
    """As in "a smiling face with dark skin and curly hair wearing round glasses"."""
    glasses = ""
    if features and features[-1].endswith("glasses") and rng.random() < 0.5:
        glasses = f"wearing {features[-1]}".replace("wearing no", "without")
        features = features[:-1]
    face = rng.choice(["a {} face", "a {} person", "someone {}"]).format(adjective)
    if features:
        face += f" with {enumeration(features)}"
    return single_spaces(f"{face} {glasses}")


def enumeration(parts: list) -> str:
    """As in "a, b and c"."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def single_spaces(text: str) -> str:
    """The text with one space between words, and none around it."""
    return " ".join(text.split())


# ---- all captions of a face

def describe(labels, seed: int, swap_rng=None) -> tuple:
    """(captions, allowed (K, V)) of a face with labels (A,): FULL captions in random order, then
    PARTIAL ones.

    With swap_rng, a random.Random, the same ones word for word, but in each caption one value is
    wrong."""
    rng = random.Random(seed)
    value = {}                              # of the face: {attribute: value}
    for (name, values), number in zip(ATTRIBUTES.items(), labels.tolist()):
        value[name] = values[number]
    captions = []
    allowed = []

    for wording in rng.sample(range(FULL), FULL):
        told = value
        told_labels = labels
        if swap_rng is not None:
            told = swap_one_value(value, swap_rng)
            told_labels = torch.tensor([ATTRIBUTES[name].index(told[name]) for name in ATTRIBUTES])
        captions.append(caption(told_labels, wording))
        allowed.append(allowed_by(told))

    for _ in range(PARTIAL):
        n_told = rng.randint(1, len(ATTRIBUTES) - 1)
        told = {name: value[name] for name in rng.sample(list(ATTRIBUTES), n_told)}
        if told.get("glasses", "none") != "none" and rng.random() < 0.5:
            told["glasses"] = "some"
        if swap_rng is not None:
            told = swap_one_value(told, swap_rng)
        # the wording depends on rng alone, not on the values
        captions.append(partial_caption(told, rng))
        allowed.append(allowed_by(told))
    return captions, allowed


def allowed_by(told: dict) -> list:
    """What a caption leaves possible that tells these values, {attribute: value}: V bools, one for
    each value of each attribute."""
    allowed = []
    for name, values in ATTRIBUTES.items():
        if name not in told:
            allowed += [True] * len(values)
        elif told[name] == "some":
            allowed += [value != "none" for value in values]
        else:
            allowed += [value == told[name] for value in values]
    return allowed


def swap_one_value(told: dict, rng):
    """What a caption tells, {attribute: value}, with one value replaced by a wrong one, which rng,
    a random.Random, chooses; never so that it tells a pair of HELD_BACK."""
    swapped = []
    for name, value in told.items():
        for other in ATTRIBUTES[name]:
            is_wrong = other == "none" if value == "some" else other != value
            changed = {**told, name: other}
            tells_held_back = any(pair.items() <= changed.items() for pair in HELD_BACK)
            if is_wrong and not tells_held_back:
                swapped.append(changed)
    return rng.choice(swapped)


def hard_negatives(part: Captioned) -> list:
    """For each caption of the faces of `part` the same with one value swapped, so that it is not
    true of its face: N lists of K strings. No pair of HELD_BACK is ever told; so `part` must not be
    the set of unseen combinations: where a face has both pairs, no single swap undoes both."""
    rng = random.Random(0)
    negatives = []
    for labels, seed in zip(part.labels, part.seeds):
        captions, _ = describe(labels, seed, swap_rng=rng)
        negatives.append(captions)
    return negatives


# ---- data sets

def has_pair(labels, pair: dict) -> torch.Tensor:
    """Bool (N,): do labels (N, A) of faces have both values of the pair, {attribute: value}?"""
    column = dict(zip(ATTRIBUTES, labels.T))
    has_value = []
    for name, value in pair.items():
        has_value.append(column[name] == ATTRIBUTES[name].index(value))     # (N,)
    return torch.stack(has_value).all(dim=0)


def held_back(labels) -> torch.Tensor:
    """Bool (N,): do labels (N, A) of faces have both values of a pair in HELD_BACK?"""
    return torch.stack([has_pair(labels, pair) for pair in HELD_BACK]).any(dim=0)


def _faces(n: int, size: int, seed: int, first: int, unseen: bool) -> Captioned:
    """The first n faces, from number `first` of the seed on, that have a pair of HELD_BACK
    (unseen), or that have none."""
    n_drawn = n
    while True:
        labels, nuisance = draw_parameters(n_drawn, seed, first)
        index = (held_back(labels) == unseen).nonzero()[:n, 0]
        if len(index) == n:
            break
        n_drawn *= 2
    labels = labels[index]
    nuisance = nuisance[index]
    seeds = tuple(seed * 10**9 + first + i for i in index.tolist())

    captions = []
    allowed = []
    for own_labels, own_seed in zip(labels, seeds):
        own_captions, own_allowed = describe(own_labels, own_seed)
        captions.append(own_captions)
        allowed.append(own_allowed)
    images = render(labels, nuisance, size)
    return Captioned(images, labels, ATTRIBUTES, captions, torch.tensor(allowed), seeds)


def load_captions(source: str = "faces", size: int = 32, n_faces: int = 20000,
                  seed: int = 1) -> tuple:
    """(training, held out, unseen combinations), three Captioned, of what --data names.

    For 'faces' they have n_faces, HELD_OUT and HELD_OUT faces; the first two have none with a pair
    of HELD_BACK, the third only such. For a .tsv file (see read_captions) they are nine tenths, one
    tenth (always the same), and nothing; with size 0, the images keep their size. Raises UserError
    for input that cannot be used."""
    if source == "faces":
        require(n_faces > 0, f"--n_images={n_faces}: at least one face is needed to learn from")
        size = size or FACE_SIZE
        return (_faces(n_faces, size, seed, first=0, unseen=False),
                _faces(HELD_OUT, size, seed, first=10**7, unseen=False),
                _faces(HELD_OUT, size, seed, first=2 * 10**7, unseen=True))

    images, captions = read_captions(source, size)
    N = len(images)
    K = len(captions[0])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    cut = max(1, N * 9 // 10)
    train_part = order[:cut]
    held_out_part = order[cut:]
    if N == 1:
        print("note: only 1 image: the model will learn it by heart, and is scored on it",
              flush=True)
        held_out_part = order
    parts = []
    for index in (train_part, held_out_part, order[:0]):
        no_labels = torch.zeros(len(index), 0, dtype=torch.int64)
        none_allowed = torch.zeros(len(index), K, 0, dtype=torch.bool)
        own_captions = [captions[i] for i in index.tolist()]
        parts.append(Captioned(images[index], no_labels, {}, own_captions, none_allowed))
    return tuple(parts)


def load_full_captions(source: str, size: int, n_faces: int) -> tuple:
    """(training, {"held out": …, "unseen combinations": …}), the Captioned of load_captions. A
    set without images is left out. Of faces they have the captions alone that name every
    attribute."""
    parts = load_captions(source, size, n_faces)
    for part in parts:
        if part.attributes:
            part.captions = [captions[:FULL] for captions in part.captions]
    train_set, held_out, unseen = parts
    others = {"held out": held_out, "unseen combinations": unseen}
    return train_set, {name: part for name, part in others.items() if len(part.images) > 0}


# ---- a file of captions

# How the columns may be called in a file's first line.
HEADER = [{"image", "image_name", "path", "file", "filename", "file_name"},
          {"caption", "text", "comment", "captions"}]


def read_captions(source: str, size: int) -> tuple:
    """(images uint8 (N, 3, size, size), N lists of K captions) of a file with lines of an image's
    path (from the file's folder), a tab, a caption. If an image has fewer captions than others,
    they are repeated. Raises UserError, naming the line."""
    path = Path(source)
    shape = "an image's path, a tab, a caption"
    require_file(path, f"--data={source}: no such file (without --data: faces); bring lines of "
                 f"{shape}")
    captions_of = {}                        # {path of an image: its captions}
    for number, columns in without_header(read_rows(path), HEADER, path):
        place = f"{path}, line {number}"
        require(len(columns) == 2 and all(columns),
                f"{place}: {len(columns)} column(s), one empty? Not {shape}")
        name, text = columns
        image = find_image(path.parent, name)
        require_file(image, f"{place}: no such image: {image}")
        require(split(text), f"{place}: there is no word in {text!r}")
        captions_of.setdefault(image, []).append(text)
    require(captions_of, f"{path}: there is no caption in it; bring lines of {shape}")

    images = read_pictures(list(captions_of), size)
    images = images.expand(-1, 3, -1, -1)           # gray ones get three channels
    K = max(len(texts) for texts in captions_of.values())
    captions = []
    for texts in captions_of.values():
        captions.append([texts[i % len(texts)] for i in range(K)])
    return images, captions


def find_image(folder: Path, name: str) -> Path:
    """The image of that name in the folder. In files of captions like Flickr's, a.jpg#0 and a.jpg#1
    stand for the first and the second caption of a.jpg."""
    image = find_file(folder, name)
    plain, _, number = name.rpartition("#")
    is_numbered = number.isdecimal() and plain.lower().endswith(SUFFIXES)
    if is_numbered and not image.exists():
        return find_file(folder, plain)
    return image


# ---- words

SPELLINGS = {"blonde": "blond", "gray": "grey"}     # of an unknown word, that which may be known


def split(text: str) -> list:
    """A caption's words, in small letters, and its commas and colons; other marks are left out."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    return re.findall(r"[^\W_]+(?:[-'][^\W_]+)*|[,:]", text)


class Words(Vocabulary):
    """Words and their numbers, after PAD, BOS and EOS. No word is ever dropped; unknown words are
    refused."""

    @classmethod
    def of(cls, captions):
        """All words of some captions, the most frequent first."""
        count = Counter(word for text in captions for word in split(text))
        return cls([word for word, _ in count.most_common()])

    def state(self) -> list:
        """For a checkpoint: Words(state) gives these words again."""
        return self.words[3:]

    def split(self, text: str) -> list:
        """The words of a caption, in the spelling that is known."""
        words = []
        for word in split(text):
            words.append(word if word in self.index else SPELLINGS.get(word, word))
        return words

    def encode(self, text: str, longest: int = 0) -> list:
        """The numbers of a caption's words, then EOS; at most `longest` words (0: any number).
        Raises UserError if there is no word, if there are too many, or for unknown words; it then
        names similar known ones."""
        words = self.split(text)
        unknown = [word for word in dict.fromkeys(words) if word not in self.index]
        if not words:
            raise UserError(f"{text!r}: there is no word in it")
        if unknown:
            similar = []
            for word in unknown:
                similar += difflib.get_close_matches(word, self.index, n=2)
            telling = [word for word in self.index if len(word) > 3]
            examples = list(dict.fromkeys([*similar, *telling]))[:24]       # each of them once
            raise UserError(f"the model has never seen {', '.join(map(repr, unknown[:8]))}; some "
                            f"of the {len(self.index)} words that it knows: {', '.join(examples)}")
        if 0 < longest < len(words):
            raise UserError(f"{text[:60]!r} …: there is room for {longest} words")
        return self.numbers(text)

    def decode(self, ids) -> str:
        """The caption of some numbers, without a space before a comma or a colon."""
        return re.sub(" ([,:])", r"\1", " ".join(self.spell(ids)))

    def encode_all(self, texts: list, longest: int = 0) -> torch.Tensor:
        """One or more captions as a tensor (n, L): each ends with EOS and is filled up with PAD."""
        return fill_up([self.encode(text, longest) for text in texts])


def encode_captions(captions: list, words: Words, longest: int) -> torch.Tensor:
    """N lists of K captions as a tensor (N, K, T + 1): each begins with BOS, ends with EOS, and is
    filled up with PAD."""
    texts = [text for own_captions in captions for text in own_captions]
    tokens = words.encode_all(texts, longest)                               # (N · K, T)
    tokens = F.pad(tokens, (1, 0), value=Words.BOS)                         # (N · K, T + 1)
    return tokens.view(len(captions), -1, tokens.size(1))


def read_prompts(text: str) -> list:
    """The prompts in --prompt, which are separated by |."""
    prompts = [prompt.strip() for prompt in text.split("|")]
    require(all(prompts), f"--prompt={text!r}: one of the prompts between the | is empty")
    return prompts
