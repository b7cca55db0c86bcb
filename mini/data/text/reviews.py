"""Short film reviews, for or against the film: made up by a small grammar, or your own labelled
texts.

    write_reviews   reviews of the grammar
    read_reviews    those of a file
    load_reviews    texts to learn from, held-out texts and texts without labels, of either kind

The made-up ones are hard to judge by counting words, for the same reasons as real reviews:

    negation      The acting was anything but dull. Not once was I bored.
    contrast      Although the songs were lovely, the plot went nowhere.
                  (The main clause decides: "but" turns the sentence round, "although" does not.)
    expectation   I expected a masterpiece and got a mess.

All sentences of a review agree: all are for the film, or all are against it. Two adjectives joined
by "and" agree, too (as Hatzivassiloglou & McKeown 1997 found in real texts). The long reviews,
without labels, mostly say their opinion directly. So they show which words belong together, and a
few labels are enough to tell which group of words is good, and which is bad.
"""
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mini.data.text.tables import note, read_rows, tell_header, without_ids
from mini.utils.config import require, require_file

NAMES = ["bad", "good"]     # of the labels 0 and 1
N_TEST = 1000               # short reviews that are held out
N_POOL = 2000               # short reviews from which the labelled ones are chosen
N_UNLABELLED = 6000         # long reviews without labels
LONG = (6, 9)               # number of sentences in them
TWISTED = 0.45              # share of sentences with a negation or contrast in short reviews
STRAIGHT = 0.2              # and in long ones

# ---- the words: [those of label 0, those of label 1], the frequent ones first.
# They are separated by spaces, or by / where some have a space in them.

ADJECTIVES = [
    "dull bad boring weak poor terrible awful flat tired silly predictable clumsy slow dreadful "
    "empty lifeless shallow stale wooden tedious lazy confused bland thin messy pointless forced "
    "hollow feeble dreary muddled crude tiresome unconvincing mediocre sloppy ridiculous "
    "uninspired miserable painful limp dismal sluggish insipid leaden drab laboured pedestrian "
    "woeful plodding wretched pitiful irritating lacklustre pathetic",
    "good superb great funny excellent clever wonderful charming lovely brilliant fresh moving "
    "beautiful lively sharp witty gripping splendid delightful warm thrilling elegant touching "
    "vivid graceful inspired memorable tender subtle entertaining rich assured engaging "
    "marvellous dazzling absorbing impressive convincing flawless stunning imaginative "
    "refreshing compelling polished magnificent terrific heartfelt enchanting ingenious radiant "
    "unforgettable captivating exquisite sparkling masterly",
]
THINGS = [
    "mess/bore/disaster/waste of time/failure/disappointment/chore/flop/letdown/shambles/mistake/"
    "trial/ordeal/dud/nuisance/wreck",
    "triumph/joy/delight/masterpiece/pleasure/gem/treat/success/marvel/treasure/wonder/classic/"
    "jewel/winner/feast/revelation",
]
DID = [
    "dragged/fell apart/bored me/lost me/grew tiresome/fell flat/annoyed me/left me cold/"
    "sent me to sleep/missed the mark/got on my nerves/wore me out/rang false/ran out of ideas/"
    "made me wince/collapsed/sagged/tried my patience/lost the thread/irritated me",
    "moved me/worked/made me laugh/won me over/surprised me/came alive/delighted me/"
    "kept me guessing/shone/carried me away/hit the mark/held me/rang true/paid off/caught fire/"
    "touched me/sparkled/swept me along/lifted my spirits/enchanted me",
]
FELT = [
    "bored/confused/annoyed/lost/restless/irritated/puzzled/embarrassed/weary",
    "moved/amused/surprised/thrilled/charmed/gripped/touched/enchanted/delighted",
]
JUDGED = [
    "hated/disliked/regretted/could not stand/endured/soon tired of/wanted to escape/"
    "suffered through",
    "loved/enjoyed/admired/adored/cherished/could not get enough of/was taken with/marvelled at",
]
ADVICE = [
    "Save your money/Stay at home/I want my evening back/Do not bother/Once was too often/"
    "Avoid it/I left before the end/Nobody clapped/I would not watch it again/"
    "I cannot think of a reason to go",
    "Go and see it/Do not miss it/I would see it again tomorrow/Take your friends/"
    "I did not want it to end/See it twice/The whole house clapped/I cannot recommend it enough/"
    "I came out smiling/I cannot think of a reason to stay away",
]
ASPECTS = (
    "the acting/the story/the plot/the script/the ending/the music/the direction/the dialogue/"
    "the cast/the jokes+/the actors+/the photography/the songs+/the opening/the leading man/"
    "the leading lady/the costumes+/the romance/the second half/the chase scenes+/the score/"
    "the villain/the dances+/the sets+/the finale")
NEUTRAL = (
    "I saw it on a Tuesday/It runs for two hours/My sister came along/It is set in a small town/"
    "The hall was half full/It was made by a young director/I had read the book before/"
    "It is the second film of three/It rained that night/The story begins on a ship/"
    "It was filmed in the north/We sat in the third row")
NOT = "not/never/hardly/far from/anything but/by no means/nowhere near"     # before an adjective


def _words(listing: str) -> list:
    return listing.split("/") if "/" in listing else listing.split()


# ---- the grammar

def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class Writer:
    """Draws sentences that are for (p = 1) or against (p = 0) the film. So words[p] say what the
    sentence says, and words[1 - p] the opposite."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    # -- words

    def one(self, listing) -> str:
        """One of the words or phrases, the first ones more often, as in any language."""
        words = _words(listing)
        return words[int(len(words) * self.rng.random() ** 1.5)]

    def two(self, listing, joined: str = "and", share: float = 0.5) -> str:
        """One of the words, or two that agree: "dull and lifeless". share: of two."""
        first = self.one(listing)
        second = self.one(listing)
        if first != second and self.rng.random() < share:
            return f"{first} {joined} {second}"
        return first

    def any(self, *makers):
        """What one of the functions returns, chosen at random. They are functions, not texts, so
        that words are drawn for the chosen one alone."""
        maker = self.rng.choice(makers)
        return maker()

    def aspect(self, but: str = ""):
        """("the songs", "were"): an aspect of the film other than `but`."""
        while True:
            noun = self.one(ASPECTS)
            is_plural = noun.endswith("+")
            noun = noun.rstrip("+")
            if noun != but:
                return noun, "were" if is_plural else "was"

    # -- sentences, without a capital and a full stop

    def clause(self, p: int, but: str = "", negated: float = 0.25):
        """(clause, the aspect that it is about, which is not `but`). With the probability `negated`
        it is a negation of words of the other label."""
        noun, was = self.aspect(but)
        form = self.rng.random()
        if self.rng.random() < negated:
            if form < 0.65:
                text = f"{noun} {was} {self.one(NOT)} {self.two(ADJECTIVES[1 - p], 'or')}"
            else:
                text = f"{noun} never {self.one(DID[1 - p])}"
        elif form < 0.7:
            adverb = ""
            if self.rng.random() < 0.4:
                adverb = self.one("really/quite/simply/truly/always") + " "
            text = f"{noun} {was} {adverb}{self.two(ADJECTIVES[p])}"
        elif form < 0.9:
            text = f"{noun} {self.two(DID[p])}"
        else:
            text = f"I {self.one(JUDGED[p])} {noun}"
        return text, noun

    def plain(self, p: int) -> str:
        """A clause without a negation."""
        text, _ = self.clause(p, negated=0)
        return text

    def negation(self, p: int) -> str:
        """A clause that negates words of the other label."""
        text, _ = self.clause(p, negated=1)
        return text

    def contrast(self, p: int) -> str:
        """One clause for the film, and one against it: the main clause, or the one after "but",
        agrees with p."""
        against, noun = self.clause(1 - p)
        main, _ = self.clause(p, noun)
        return self.any(
            lambda: f"{against}, but {main}",
            lambda: f"although {against}, {main}",
            lambda: f"{main}, although {against}",
            lambda: f"{against}; still, {main}",
            lambda: f"{main}, even if {against}",
            lambda: f"for all the film's {self.one(ADJECTIVES[1 - p])} moments, {main}",
        )

    def expectation(self, p: int) -> str:
        """What was expected, and what it turned out to be, which agrees with p."""
        thing = article(self.one(THINGS[p]))
        expected_thing = article(self.one(THINGS[1 - p]))
        adjective = self.one(ADJECTIVES[p])
        expected = self.one(ADJECTIVES[1 - p])
        return self.any(
            lambda: f"I expected {expected_thing} and got {thing}",
            lambda: f"I had heard that it was {expected}; it was {adjective}",
            lambda: f"they call it {expected}, and they are wrong",
            lambda: f"what could have been {expected_thing} turned out to be {thing}",
            lambda: f"I was told that it was {expected_thing}, and it was nothing of the kind",
        )

    def denial(self, p: int) -> str:
        """What the film is not: words of the other label."""
        denied_thing = article(self.one(THINGS[1 - p]))
        denied = self.one(ADJECTIVES[1 - p])
        return self.any(
            lambda: f"this was hardly {article(denied)} film",
            lambda: f"nobody could call it {denied_thing}",
            lambda: f"it was {article(self.one(THINGS[p]))}, not {denied_thing}",
            lambda: f"it was more {self.one(ADJECTIVES[p])} than {denied}",
            lambda: f"not once was I {self.one(FELT[1 - p])}",
        )

    def verdict(self, p: int) -> str:
        """What the film is, said directly."""
        adjective = self.one(ADJECTIVES[p])
        another = self.one(ADJECTIVES[p])
        return self.any(
            lambda: f"it was {article(self.one(THINGS[p]))}",
            lambda: f"it was {article(adjective)} film",
            lambda: f"{article(adjective)} film, and {article(another)} one",
            lambda: f"{self.two(ADJECTIVES[p], share=1)}, from the first scene to the last",
            lambda: f"I was {self.one(FELT[p])} from beginning to end",
            lambda: self.one(ADVICE[p]),
        )

    # -- reviews

    def sentence(self, p: int, twisted: float) -> str:
        """A sentence; with the probability `twisted` it has a negation, a contrast or an
        expectation."""
        if self.rng.random() < twisted:
            makers = [self.negation, self.contrast, self.expectation, self.denial]
        else:
            makers = [self.plain, self.plain, self.verdict]
        maker = self.rng.choice(makers)
        text = maker(p)
        return text[0].upper() + text[1:] + "."

    def review(self, p: int, fewest: int, most: int, twisted: float) -> str:
        """A review of `fewest` to `most` sentences, sometimes with one more that is neither for nor
        against."""
        n = self.rng.randint(fewest, most)
        sentences = [self.sentence(p, twisted) for _ in range(n)]
        if self.rng.random() < 0.3:
            place = self.rng.randrange(n + 1)
            sentences.insert(place, self.one(NEUTRAL) + ".")
        return " ".join(sentences)


def write_reviews(n: int, seed: int = 0, fewest: int = 1, most: int = 3,
                  twisted: float = TWISTED) -> list:
    """n different reviews of `fewest` to `most` sentences as (text, label). The labels 0 and 1
    alternate. The same seed gives the same reviews."""
    writer = Writer(random.Random(seed))
    label_of = {}                           # {text: its label}
    while len(label_of) < n:
        label = len(label_of) % 2
        text = writer.review(label, fewest, most, twisted)
        label_of.setdefault(text, label)
    return list(label_of.items())


# ---- a file of labelled texts

# How the column of labels may be called in a file's first line.
LABEL_NAMES = set("label labels class category sentiment target tag topic rating score stars "
                  "y".split())


def read_reviews(path) -> list:
    """(text, label name) of each line of a file: text, tab, label; or label, tab, text, if the
    first column has few values and the second many. A first line that names the columns is left
    out, and labels that differ only in capitals are one. A line says each of this. Raises
    UserError, naming the line, for a line of another form."""
    require_file(path, f"--reviews={path}: no such file (by name there is: reviews)")
    rows = without_ids(read_rows(path), 2, path)        # [(number of the line, its columns), …]
    for number, columns in rows:
        n = len(columns)
        hint = ""
        if n > 2:
            hint = " (with cut -f1,3 file > new, for instance, only the columns 1 and 3 remain)"
        require(n == 2, f"{path}, line {number}: {n} columns, where text, tab, label are "
                f"wanted{hint}")
    if label_comes_first(rows):
        note(path, "the labels are taken from the first column, as it has few different values")
        rows = [(number, [text, label]) for number, (label, text) in rows]
    if is_header(rows):
        tell_header(rows[0], path)
        rows = rows[1:]
    for number, (text, label) in rows:
        require(text, f"{path}, line {number}: the text is empty")
        require(label, f"{path}, line {number}: the label is empty")
    require(rows, f"{path}: there are no lines of text, tab, label in it")
    pairs = [(text, label) for _, (text, label) in rows]
    return one_spelling(pairs, path)


def label_comes_first(rows: list) -> bool:
    """Has the first column few different values, as labels have, and the second many, as texts
    have?"""
    rows = rows[1:]                                             # the first line may be a header
    n_first = len({columns[0] for _, columns in rows})
    n_second = len({columns[1] for _, columns in rows})
    few_in_first = 2 * n_first <= len(rows)
    many_in_second = n_second > n_first and 2 * n_second > len(rows)
    return len(rows) >= 4 and few_in_first and many_in_second


def is_header(rows: list) -> bool:
    """Does the first row name the columns? Its label is then in no other row; and it is a usual
    name for labels, or all the other labels occur more than once."""
    if not rows:
        return False
    text, label = rows[0][1]
    count = Counter(columns[1] for _, columns in rows[1:])      # {label: in how many other rows}
    if label in count:
        return False
    if label.casefold() in LABEL_NAMES:
        return True
    return len(rows) > 8 and min(count.values()) > 1 and " " not in text


def one_spelling(pairs: list, path) -> list:
    """The pairs, with labels that differ only in capitals and spaces written in their most frequent
    spelling."""
    def key(label):
        return "".join(label.casefold().split())

    count = Counter(label for _, label in pairs)
    spelling = {}                           # {key: the most frequent label that has it}
    for label, _ in count.most_common():
        spelling.setdefault(key(label), label)
    kept = list(spelling.values())
    changed = sorted(label for label in count if label not in kept)
    if changed:
        note(path, "labels that differ only in capitals or spaces are taken for one: "
             f"{', '.join(map(repr, changed[:8]))} for {', '.join(map(repr, kept[:8]))}")
    return [(text, spelling[key(label)]) for text, label in pairs]


# ---- the set of a run

@dataclass
class Reviews:
    learn: list         # a few pairs (text, label) to learn from
    test: list          # held-out pairs (text, label)
    unlabelled: list    # texts without labels, none of them held out
    names: list         # names of the labels


def load_reviews(source: str = "reviews", few: int = 300, seed: int = 0) -> Reviews:
    """The built-in reviews, or those of a TSV file (see read_reviews; a tenth is held out). `few`
    texts to learn from (0: all) are drawn by the seed, at least one of each label (see `draw_few`);
    the held-out ones are always the same. Raises UserError for a bad file, for one with a single
    label, or if there is not at least one text for each label to learn from."""
    if source == "reviews":
        names = NAMES
        pairs = write_reviews(N_TEST + N_POOL)
        test = pairs[:N_TEST]
        pool = pairs[N_TEST:]
        fewest, most = LONG
        long_ones = write_reviews(N_UNLABELLED, seed=1, fewest=fewest, most=most, twisted=STRAIGHT)
    else:
        names, pairs = load_own(source)
        cut = max(1, len(pairs) // 10)
        test = pairs[:cut]
        pool = pairs[cut:]
        long_ones = []
    unlabelled = [text for text, _ in pool + long_ones]

    random.Random(seed).shuffle(pool)
    learn = draw_few(pool, few) if few > 0 else pool
    known = {names[label] for _, label in learn}
    missing = [name for name in names if name not in known]
    require(not missing, f"the {len(learn)} texts to learn from hold {len(known)} of {len(names)} "
            f"labels (not {', '.join(map(repr, missing[:8]))}): more texts are needed")
    return Reviews(learn, test, unlabelled, names)


def draw_few(pool: list, few: int) -> list:
    """The first `few` of the pairs (text, label), which are in random order already. If they have
    no text of some label, as is likely if one is rare: the first text of each label, and then
    others until there are `few`."""
    n_labels = len({label for _, label in pool})
    learn = pool[:few]
    if len({label for _, label in learn}) == n_labels:
        return learn
    first = {}                                          # {label: its first pair}
    for pair in pool:
        first.setdefault(pair[1], pair)
    one_of_each = list(first.values())
    others = [pair for pair in pool if pair not in one_of_each]
    return (one_of_each + others)[:few]


def load_own(source: str) -> tuple:
    """(names of the labels, pairs (text, label) in a random, but fixed order) of a file. A text
    that stands there twice counts once."""
    named = read_reviews(source)                        # pairs (text, name of the label)
    names = sorted({name for _, name in named})
    require(len(names) > 1, f"{source}: every label is {names[0]!r}; at least two are needed")
    require(len(named) < 20 or 2 * len(names) <= len(named),
            f"{source}: {len(names)} different labels in {len(named)} lines, like "
            f"{names[0][:40]!r}: numbers, or texts? A label is one of a few names, each of which "
            "stands in many lines")
    name_of = dict(named)                               # {text: name of its label}
    n_repeated = len(named) - len(name_of)
    if n_repeated > 0:
        note(source, f"{n_repeated} lines repeat the text of another; of each, the last label "
             "counts")
    number = {name: i for i, name in enumerate(names)}
    pairs = [(text, number[name]) for text, name in name_of.items()]
    random.Random(0).shuffle(pairs)
    return names, pairs
