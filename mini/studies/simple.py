"""What one would try first, without a network: the scores of simple methods stand beside those of
the models in mini/gallery/README.md.

    python -m mini.studies.simple linear        attributes of faces, by a linear classifier
    python -m mini.studies.simple colours       CycleGAN's task, by a table of colours
    python -m mini.studies.simple translation   English to French, by the most similar sentence

Each takes a few minutes at most, and writes what it prints to runs/simple/.
"""
import argparse
import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from mini import cyclegan
from mini.data.images.captions import HELD_BACK, has_pair, load_captions
from mini.data.images.domains import load_domains
from mini.data.images.faces import ATTRIBUTES
from mini.data.images.image_sets import load_images, one_hot
from mini.data.text.pairs import make_vocabularies, write_pairs
from mini.text_to_image import resize
from mini.utils.config import require
from mini.utils.domain_judge import SHARES, DomainJudge
from mini.utils.images import to_float
from mini.utils.metrics import table
from mini.utils.run import write_json
from mini.utils.translation_metrics import dice_coefficients

# ---- a linear classifier of pixels

class LinearClassifier:
    """Learns from images x (N, C, H, W) and their labels (N, A) to read the labels of others.

    Ridge regression: X (N, D + 1) are the D pixels of each image less their means, and a 1; Y
    (N, V) is 1 at the values that an image has, and 0 elsewhere. The matrix W (D + 1, V), for which
    |X W − Y|² + penalty · |W|² is smallest, is (XᵀX + penalty I)⁻¹ XᵀY. Of each attribute, the
    value with the largest output is read.
    """

    def __init__(self, x, labels, attributes: dict, penalty: float = 30.0):
        self.sizes = [len(values) for values in attributes.values()]
        self.mean = x.flatten(1).mean(dim=0)
        X = self.inputs(x)                                      # (N, D + 1)
        Y = one_hot(labels, attributes)                         # (N, V)
        XtX = X.T @ X
        XtX.diagonal().add_(penalty)
        self.W = torch.linalg.solve(XtX, X.T @ Y)               # (D + 1, V)

    def inputs(self, x):
        """Pixels less their means, and a 1, for the constant: (N, D + 1)."""
        pixels = x.flatten(1) - self.mean
        return torch.cat([pixels, torch.ones(len(x), 1)], dim=1)

    def read(self, x):
        """Images (N, C, H, W) -> labels (N, A)."""
        outputs = (self.inputs(x) @ self.W).split(self.sizes, dim=1)
        return torch.stack([output.argmax(dim=1) for output in outputs], dim=1)


def shares_right(classifier, x, labels) -> dict:
    """{attribute: share of images in which it is read rightly}; "all": share in which all are."""
    right = classifier.read(x) == labels                        # (N, A)
    shares = dict(zip(ATTRIBUTES, right.double().mean(dim=0).tolist()))
    shares["all"] = right.all(dim=1).double().mean().item()
    return shares


def linear(n_images: int = 20000) -> dict:
    """Rows: held-out faces, as for mini/classifier.py. Then the faces of the models that read
    captions, where n_images faces without a pair of HELD_BACK are learnt from: held-out ones,
    unseen ones, which have such a pair, and those of each pair; at 32 × 32 pixels, and at 16 × 16,
    as mini/text_to_image.py draws them first."""
    rows = {}
    train_set, held_out = load_images("faces", 32, n_images)
    classifier = LinearClassifier(to_float(train_set.images), train_set.labels, ATTRIBUTES)
    rows["faces"] = shares_right(classifier, to_float(held_out.images), held_out.labels)

    train_set, held_out, unseen = load_captions("faces", 32, n_images)
    for size in (32, 16):
        x = resize(to_float(train_set.images), size)
        classifier = LinearClassifier(x, train_set.labels, ATTRIBUTES)
        for name, part in (("held out", held_out), ("unseen", unseen)):
            x = resize(to_float(part.images), size)
            rows[f"{name}, {size}"] = shares_right(classifier, x, part.labels)
        for pair in HELD_BACK:
            chosen = has_pair(unseen.labels, pair)
            x = resize(to_float(unseen.images[chosen]), size)
            name = " and ".join(pair.values())
            rows[f"{name}, {size}"] = shares_right(classifier, x, unseen.labels[chosen])
    print(table(rows, shares=[*ATTRIBUTES, "all"]))
    return rows


# ---- a table of colours

BINS = 16                       # red, green and blue are each sorted into so many bins


def bins(images):
    """The number of the colour, in BINS³ bins, of each pixel of images uint8 (N, 3, H, W):
    (N, H, W)."""
    red, green, blue = (images.long() * BINS // 256).unbind(dim=1)
    return (red * BINS + green) * BINS + blue


def shares_of_colours(images):
    """The share of each colour among all pixels: (BINS³,)."""
    counts = bins(images).flatten().bincount(minlength=BINS**3).double()
    return counts / counts.sum()


class ColourTable:
    """Turns the colours that tell domain X into those that tell domain Y, without pairs.

    X's own colours are more than `more` times as frequent in X as in Y, and Y's own likewise. The
    pixels of X's own colours are sorted by brightness, and so are those of Y's. A pixel of X that
    is brighter than a third of X's gets the mean of the colours that stand near a third of the way
    in Y's order. No other pixel changes. Raises UserError if a domain has no colour of its own.
    """

    def __init__(self, X, Y, more: float = 4.0, n: int = 20000, smooth: int = 200):
        """X, Y: training images, uint8 (N, 3, H, W). n: how many pixels of each to sort; smooth: so
        many neighbours in Y's order on each side are averaged."""
        in_x, in_y = shares_of_colours(X), shares_of_colours(Y)
        self.is_own = in_x > more * in_y + 1e-5                 # (BINS³,)
        of_x = self.pixels(X, self.is_own)
        of_y = self.pixels(Y, in_y > more * in_x + 1e-5)
        require(len(of_x) > 0 and len(of_y) > 0,
                "no colour is far more frequent in one domain than in the other")
        rng = torch.Generator().manual_seed(0)
        of_x = of_x[torch.randperm(len(of_x), generator=rng)[:n]]
        of_y = of_y[torch.randperm(len(of_y), generator=rng)[:n]]
        self.brightness = of_x.sum(dim=1).sort().values         # of X's colours, in order
        of_y = of_y[of_y.sum(dim=1).argsort()]                  # from dark to bright
        rank = torch.arange(len(of_y))
        first = (rank - smooth).clamp(min=0)
        last = (rank + smooth).clamp(max=len(of_y) - 1)
        sums = torch.cat([torch.zeros(1, 3), of_y.double().cumsum(dim=0)])
        self.colours = (sums[last + 1] - sums[first]) / (last + 1 - first)[:, None]

    def pixels(self, images, wanted):
        """The pixels whose colours are wanted: (n, 3)."""
        return images.permute(0, 2, 3, 1)[wanted[bins(images)]].float()

    def translate(self, images):
        """Images of X, uint8 (N, 3, H, W), as images of Y: float (N, 3, H, W) in [-1, 1]."""
        new = images.permute(0, 2, 3, 1).float()                # (N, H, W, 3)
        changing = self.is_own[bins(images)]                    # (N, H, W)
        share = torch.searchsorted(self.brightness, new[changing].sum(dim=1)) / len(self.brightness)
        rank = (share * (len(self.colours) - 1)).round().long()
        new[changing] = self.colours[rank].float()
        return to_float(new.permute(0, 3, 1, 2).round().clamp(0, 255).byte())


def add_difference(X, Y, images):
    """Images of X, uint8 (N, 3, H, W), each plus the difference of the mean images of Y and X:
    float (N, 3, H, W) in [-1, 1]."""
    difference = Y.float().mean(dim=0) - X.float().mean(dim=0)
    return to_float((images + difference).round().clamp(0, 255).byte())


def colours(n_images: int = cyclegan.Config.n_images) -> dict:
    """Rows: a → b, blond hair made black, and b → a, black made blond, from n_images faces each, by
    default those that mini/cyclegan.py learns from; and the mean of both."""
    cfg = replace(cyclegan.Config(), n_images=n_images)
    a, b = load_domains(cfg)
    judge = DomainJudge(cfg, a, b)
    rows = {}
    a, b = judge.domain_a, judge.domain_b                       # with the faces that are scored
    for arrow, x, y in (("a → b", a, b), ("b → a", b, a)):
        added = add_difference(x.train_set, y.train_set, x.held_out)
        rows[f"{arrow}, one picture added"] = judge.scores(added, x, y)
        translated = ColourTable(x.train_set, y.train_set).translate(x.held_out)
        rows[f"{arrow}, table of colours"] = judge.scores(translated, x, y)
    for method in ("one picture added", "table of colours"):
        both = [rows[f"{arrow}, {method}"] for arrow in ("a → b", "b → a")]
        rows[f"mean, {method}"] = {key: (both[0][key] + both[1][key]) / 2 for key in both[0]}
    print(table(rows, SHARES))
    return rows


# ---- a translation memory

class TranslationMemory:
    """Translates a sentence by the NEAREST training sentences that are most like it.

    They have as many words as it, and differ from it in the fewest places. In their French, the
    word that stands for a differing word is replaced by one that may stand for the new word: by
    each of the CANDIDATES words with the largest Dice coefficient, 2 n(e, f) / (n(e) + n(f)), where
    n is the number of pairs that hold these words. What comes of it is ranked by how usual the
    French is and by the Dice coefficient. Of the nearest sentences' results, the one with the
    fewest exchanges is taken; of several, the most usual French.
    """
    CANDIDATES = 6          # French words that may stand for an English one
    NEAREST = 5             # training sentences to try
    BEAM = 5                # results to keep after each exchange

    def __init__(self, pairs: list, n_counted: int = 30000):
        """pairs: (words, words), English and French, of each training sentence; in the first
        n_counted of them it is counted which words stand for each other."""
        self.stands_for = {}                                    # {e: {f: Dice}}
        for e, dice in dice_coefficients(pairs[:n_counted]).items():
            best = sorted(dice, key=lambda f: (dice[f], f), reverse=True)[:self.CANDIDATES]
            self.stands_for[e] = {f: dice[f] for f in best}

        self.bigrams, self.trigrams = Counter(), Counter()
        self.number = {}                                        # {English word: its number}
        self.of_length = defaultdict(list)                      # {number of words: [pair, …]}
        for english, french in pairs:
            words = ["<s>", *french, "</s>"]
            self.bigrams.update(zip(words, words[1:]))
            self.trigrams.update(zip(words, words[1:], words[2:]))
            for e in english:
                self.number.setdefault(e, len(self.number))
            self.of_length[len(english)].append((english, french))
        self.numbers = {}                                       # {length: (sentences, length)}
        for length, some in self.of_length.items():
            rows = [[self.number[e] for e in english] for english, _ in some]
            self.numbers[length] = torch.tensor(rows, dtype=torch.int32)

    def usual(self, french: list) -> float:
        """A score of French, larger for what is usual (it is no probability): the sum, over every
        three words in a row, of log(n(all three) + 0.1 n(the first two) + 0.01)."""
        words = ["<s>", *french, "</s>"]
        total = 0.0
        for three in zip(words, words[1:], words[2:]):
            total += math.log(self.trigrams[three] + 0.1 * self.bigrams[three[:2]] + 0.01)
        return total

    def exchange(self, results: list, old: str, new: str) -> list:
        """The results, lists of French words, with what stands for the English word `old` replaced
        by what may stand for `new`: the BEAM best."""
        scored = []
        for french in results:
            dice = [self.stands_for.get(old, {}).get(f, 0.0) for f in french]
            if max(dice, default=0.0) == 0:
                continue                                        # nothing here stands for `old`
            place = dice.index(max(dice))
            for f, dice_of_f in self.stands_for.get(new, {}).items():
                changed = french[:place] + [f] + french[place + 1:]
                scored.append((self.usual(changed) + 3 * math.log(dice_of_f), changed))
        scored.sort(key=lambda pair: -pair[0])
        return [french for _, french in scored[:self.BEAM]]

    def translate(self, english: list) -> list:
        """English words -> French words; none if no training sentence can be used."""
        some = self.of_length.get(len(english))
        if some is None:
            return []
        asked = torch.tensor([self.number.get(e, -1) for e in english])
        n_different = (self.numbers[len(english)] != asked).sum(dim=1)
        nearest = n_different.argsort(stable=True)[:self.NEAREST].tolist()
        found = []
        for i in nearest:
            like, french = some[i]
            results = [french]
            for old, new in zip(like, english):
                if old != new:
                    results = self.exchange(results, old, new)
            if results:
                found.append((n_different[i].item(), -self.usual(results[0]), results[0]))
        return min(found)[2] if found else []


def translation(n_pairs: int = 100000, n_test: int = 500) -> dict:
    """Rows: new sentences and new combinations, n_test of each, exactly right."""
    pairs, held_out = write_pairs(n_pairs)
    words = make_vocabularies(pairs, size=10**9)                # every word

    def split_both(pair):
        return [vocabulary.split(sentence) for vocabulary, sentence in zip(words, pair)]

    memory = TranslationMemory([split_both(pair) for pair in pairs])
    rows = {}
    for name, some in held_out.items():
        right = 0
        for english, french in some[:n_test]:
            right += words[1].write(memory.translate(words[0].split(english))) == french
        rows[name] = {"exactly right": right / len(some[:n_test])}
    print(table(rows, shares=["exactly right"]))
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["linear", "colours", "translation"])
    parser.add_argument("--out_dir", default="runs/simple", help="folder for the tables")
    args = parser.parse_args(argv)
    studies = {"linear": linear, "colours": colours, "translation": translation}
    rows = studies[args.study]()
    Path(args.out_dir).mkdir(parents=True, exist_ok=True)
    write_json(f"{args.out_dir}/{args.study}.json", rows)


if __name__ == "__main__":
    main()
