"""Short film reviews, for or against the film: made up by a small grammar, or your own labelled texts.

They are hard to judge by counting words, for the same reasons as real reviews:

    negation      The acting was anything but dull. Not once was I bored.
    contrast      Although the songs were lovely, the plot went nowhere. (The main clause decides: "but"
                  turns the sentence round, "although" does not.)
    expectation   I expected a masterpiece and got a mess.

All sentences of a review agree: all are for the film, or all are against it. Two adjectives joined by "and"
agree, too (as Hatzivassiloglou & McKeown 1997 found in real texts). The long reviews, without labels, mostly say
their opinion directly. So they show which words belong together, and a few labels are enough to tell which group
of words is good, and which is bad.
"""
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mini.data.text.tables import note, read_rows, tell_header, without_ids
from mini.utils.config import require, require_file

NAMES = ["bad", "good"]
N_TEST, N_POOL = 1000, 2000                 # short reviews: held out, and to choose labelled ones from
N_UNLABELLED, LONG = 6000, (6, 9)           # long ones without labels; each has 6 to 9 sentences
TWISTED, STRAIGHT = 0.45, 0.2             # share of sentences with a negation or contrast, short and long

# ---- the words: [those of label 0, those of label 1], the frequent ones first
ADJECTIVES = [
    "dull bad boring weak poor terrible awful flat tired silly predictable clumsy slow dreadful empty "
    "lifeless shallow stale wooden tedious lazy confused bland thin messy pointless forced hollow feeble "
    "dreary muddled crude tiresome unconvincing mediocre sloppy ridiculous uninspired miserable painful "
    "limp dismal sluggish insipid leaden drab laboured pedestrian woeful plodding wretched pitiful "
    "irritating lacklustre pathetic",
    "good superb great funny excellent clever wonderful charming lovely brilliant fresh moving beautiful "
    "lively sharp witty gripping splendid delightful warm thrilling elegant touching vivid graceful "
    "inspired memorable tender subtle entertaining rich assured engaging marvellous dazzling absorbing "
    "impressive convincing flawless stunning imaginative refreshing compelling polished magnificent "
    "terrific heartfelt enchanting ingenious radiant unforgettable captivating exquisite sparkling "
    "masterly"]
THINGS = [
    "mess/bore/disaster/waste of time/failure/disappointment/chore/flop/letdown/shambles/mistake/trial/"
    "ordeal/dud/nuisance/wreck",
    "triumph/joy/delight/masterpiece/pleasure/gem/treat/success/marvel/treasure/wonder/classic/jewel/"
    "winner/feast/revelation"]
DID = [
    "dragged/fell apart/bored me/lost me/grew tiresome/fell flat/annoyed me/left me cold/sent me to sleep/"
    "missed the mark/got on my nerves/wore me out/rang false/ran out of ideas/made me wince/collapsed/"
    "sagged/tried my patience/lost the thread/irritated me",
    "moved me/worked/made me laugh/won me over/surprised me/came alive/delighted me/kept me guessing/shone/"
    "carried me away/hit the mark/held me/rang true/paid off/caught fire/touched me/sparkled/"
    "swept me along/lifted my spirits/enchanted me"]
FELT = ["bored/confused/annoyed/lost/restless/irritated/puzzled/embarrassed/weary",
        "moved/amused/surprised/thrilled/charmed/gripped/touched/enchanted/delighted"]
JUDGED = ["hated/disliked/regretted/could not stand/endured/soon tired of/wanted to escape/"
          "suffered through",
          "loved/enjoyed/admired/adored/cherished/could not get enough of/was taken with/marvelled at"]
ADVICE = ["Save your money/Stay at home/I want my evening back/Do not bother/Once was too often/Avoid it/"
          "I left before the end/Nobody clapped/I would not watch it again/"
          "I cannot think of a reason to go",
          "Go and see it/Do not miss it/I would see it again tomorrow/Take your friends/"
          "I did not want it to end/See it twice/The whole house clapped/I cannot recommend it enough/"
          "I came out smiling/I cannot think of a reason to stay away"]
ASPECTS = ("the acting/the story/the plot/the script/the ending/the music/the direction/the dialogue/"
           "the cast/the jokes+/the actors+/the photography/the songs+/the opening/the leading man/"
           "the leading lady/the costumes+/the romance/the second half/the chase scenes+/the score/"
           "the villain/the dances+/the sets+/the finale")
NEUTRAL = ("I saw it on a Tuesday/It runs for two hours/My sister came along/It is set in a small town/"
           "The hall was half full/It was made by a young director/I had read the book before/"
           "It is the second film of three/It rained that night/The story begins on a ship/"
           "It was filmed in the north/We sat in the third row")
NOT = "not/never/hardly/far from/anything but/by no means/nowhere near"  # these negate an adjective


def _words(listing: str) -> list:
    return listing.split("/") if "/" in listing else listing.split()


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class Writer:
    """Draws sentences that are for (p = 1) or against (p = 0) the film."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def one(self, listing) -> str:
        """One of the words or phrases, the first ones more often, as in any language."""
        words = _words(listing)
        return words[int(len(words) * self.rng.random() ** 1.5)]

    def any(self, *makers):
        return self.rng.choice(makers)()

    def two(self, listing, joined: str = "and", share: float = 0.5) -> str:
        """One of the words, or two that agree: "dull and lifeless"."""
        first, second = self.one(listing), self.one(listing)
        return f"{first} {joined} {second}" if first != second and self.rng.random() < share else first

    def aspect(self, but: str = ""):
        """("the songs", "were"): an aspect of the film other than `but`."""
        while (noun := self.one(ASPECTS)).rstrip("+") == but:
            pass
        return noun.rstrip("+"), "were" if noun.endswith("+") else "was"

    def clause(self, p: int, but: str = "", negated: float = 0.25):
        """(clause, the aspect that it is about). The clause begins with a small letter, and has no full stop.
        With the probability `negated` it is a negation of words of the other label."""
        noun, was = self.aspect(but)
        one, way = self.one, self.rng.random()
        if self.rng.random() < negated:
            text = (f"{noun} {was} {one(NOT)} {self.two(ADJECTIVES[1 - p], 'or')}" if way < 0.65 else
                    f"{noun} never {one(DID[1 - p])}")
        elif way < 0.7:
            adverb = one("really/quite/simply/truly/always") if self.rng.random() < 0.4 else ""
            text = f"{noun} {was} {adverb} {self.two(ADJECTIVES[p])}"
        else:
            text = f"{noun} {self.two(DID[p])}" if way < 0.9 else f"I {one(JUDGED[p])} {noun}"
        return " ".join(text.split()), noun

    def contrast(self, p: int) -> str:
        """One clause for the film, and one against it: the main clause, or the one after "but", agrees with p."""
        against, noun = self.clause(1 - p)
        main, _ = self.clause(p, noun)
        return self.any(lambda: f"{against}, but {main}", lambda: f"although {against}, {main}",
                        lambda: f"{main}, although {against}", lambda: f"{against}; still, {main}",
                        lambda: f"{main}, even if {against}",
                        lambda: f"for all the film's {self.one(ADJECTIVES[1 - p])} moments, {main}")

    def expectation(self, p: int) -> str:
        thing, other = article(self.one(THINGS[p])), article(self.one(THINGS[1 - p]))
        good, bad = self.one(ADJECTIVES[p]), self.one(ADJECTIVES[1 - p])
        return self.any(lambda: f"I expected {other} and got {thing}",
                        lambda: f"I had heard that it was {bad}; it was {good}",
                        lambda: f"they call it {bad}, and they are wrong",
                        lambda: f"what could have been {other} turned out to be {thing}",
                        lambda: f"I was told that it was {other}, and it was nothing of the kind")

    def denial(self, p: int) -> str:
        other, bad = article(self.one(THINGS[1 - p])), self.one(ADJECTIVES[1 - p])
        return self.any(lambda: f"this was hardly {article(bad)} film",
                        lambda: f"nobody could call it {other}",
                        lambda: f"it was {article(self.one(THINGS[p]))}, not {other}",
                        lambda: f"it was more {self.one(ADJECTIVES[p])} than {bad}",
                        lambda: f"not once was I {self.one(FELT[1 - p])}")

    def verdict(self, p: int) -> str:
        good, better = self.one(ADJECTIVES[p]), self.one(ADJECTIVES[p])
        return self.any(lambda: f"it was {article(self.one(THINGS[p]))}",
                        lambda: f"it was {article(good)} film",
                        lambda: f"{article(good)} film, and {article(better)} one",
                        lambda: f"{self.two(ADJECTIVES[p], share=1)}, from the first scene to the last",
                        lambda: f"I was {self.one(FELT[p])} from beginning to end",
                        lambda: self.one(ADVICE[p]))

    def sentence(self, p: int, twisted: float) -> str:
        """A sentence; with the probability `twisted` it has a negation, a contrast or an expectation."""
        makers = ((lambda p: self.clause(p, negated=1)[0], self.contrast, self.expectation, self.denial)
                  if self.rng.random() < twisted else
                  (lambda p: self.clause(p, negated=0)[0],) * 2 + (self.verdict,))
        text = self.rng.choice(makers)(p)
        return text[0].upper() + text[1:] + "."

    def review(self, p: int, fewest: int, most: int, twisted: float) -> str:
        """A review of `fewest` to `most` sentences, sometimes with one more that is neither for nor against."""
        sentences = [self.sentence(p, twisted) for _ in range(self.rng.randint(fewest, most))]
        if self.rng.random() < 0.3:
            sentences.insert(self.rng.randrange(len(sentences) + 1), self.one(NEUTRAL) + ".")
        return " ".join(sentences)


# ---- the set
@dataclass
class Reviews:
    learn: list         # a few pairs (text, label) to learn from
    test: list          # held-out pairs (text, label)
    unlabelled: list    # texts without labels, none of them held out
    names: list         # names of the labels


def write_reviews(n: int, seed: int = 0, fewest: int = 1, most: int = 3, twisted: float = TWISTED) -> list:
    """n different reviews of `fewest` to `most` sentences as (text, label). The labels 0 and 1 alternate. The
    same seed gives the same reviews."""
    writer, found = Writer(random.Random(seed)), {}
    while len(found) < n:
        label = len(found) % 2
        found.setdefault(writer.review(label, fewest, most, twisted), label)
    return list(found.items())


# How columns of texts and of labels are called in a file's first line.
TEXT_NAMES = set("text texts sentence review comment message content document body title tweet".split())
LABEL_NAMES = set("label labels class category sentiment target tag topic rating score stars y".split())


def read_reviews(path) -> list:
    """(text, label name) of each line of a file: text, tab, label; or label, tab, text, if the first column has few
    values and the second many. A first line that names the columns is left out, and labels that differ only in
    capitals are one. A line says each of this. Raises UserError, naming the line, for a line of another form."""
    require_file(path, f"--reviews={path}: no such file (by name there is: reviews)")
    rows = without_ids(read_rows(path), 2, path)
    for number, columns in rows:
        n = len(columns)
        hint = "" if n < 2 else " (with cut -f1,3 file > new, for instance, only the columns 1 and 3 remain)"
        require(n == 2, f"{path}, line {number}: {n} columns, where text, tab, label are wanted{hint}")
    if label_comes_first(rows):
        note(path, f"the labels are taken from the first column, as it has few different values")
        rows = [(number, columns[::-1]) for number, columns in rows]
    if is_header(rows):
        tell_header(rows[0], path)
        rows = rows[1:]
    for number, (text, label) in rows:
        require(text and label, f"{path}, line {number}: the {'label' if text else 'text'} is empty")
    require(rows, f"{path}: there are no lines of text, tab, label in it")
    pairs = [(text, label) for _, (text, label) in rows]
    return one_spelling(pairs, path)


def label_comes_first(rows: list) -> bool:
    """Has the first column few different values, as labels have, and the second many, as texts have?"""
    rows = rows[1:]                                             # the first line may be a header
    first = {columns[0] for _, columns in rows}
    second = {columns[1] for _, columns in rows}
    return len(rows) >= 4 and 2 * len(first) <= len(rows) and len(second) > max(len(first), len(rows) / 2)


def is_header(rows: list) -> bool:
    """Does the first row name the columns? Its label is then in no other row; and it is a usual name for labels,
    or all the other labels occur more than once."""
    if not rows:
        return False
    text, name = rows[0][1]
    count = Counter(label for _, (_, label) in rows[1:])
    if name in count:
        return False
    if name.casefold() in LABEL_NAMES:
        return True
    return len(rows) > 8 and min(count.values()) > 1 and " " not in text


def one_spelling(pairs: list, path) -> list:
    """The pairs, with labels that differ only in capitals and spaces written in their most frequent spelling."""
    count = Counter(label for _, label in pairs)
    spelling = {}
    for label, _ in count.most_common():
        spelling.setdefault("".join(label.casefold().split()), label)
    new = [(text, spelling["".join(label.casefold().split())]) for text, label in pairs]
    changed = sorted({label for label in count if label not in spelling.values()})
    if changed:
        note(path, f"labels that differ only in capitals or spaces are taken for one: "
              f"{', '.join(map(repr, changed[:8]))} for {', '.join(map(repr, list(spelling.values())[:8]))}")
    return new


def load_reviews(source: str = "reviews", few: int = 300, seed: int = 0) -> Reviews:
    """The built-in reviews, or those of a TSV file (see read_reviews; a tenth is held out). `few` texts to learn
    from (0: all) are drawn by the seed; the held-out ones are always the same. Raises UserError for a bad file,
    for one with a single label, or if there is not at least one text for each label to learn from."""
    rng = random.Random(seed)
    if source == "reviews":
        names, pairs = NAMES, write_reviews(N_TEST + N_POOL)
        rest = write_reviews(N_UNLABELLED, 1, *LONG, STRAIGHT)
        test, pool = pairs[:N_TEST], pairs[N_TEST:]
    else:
        pairs = read_reviews(source)
        names = sorted({name for _, name in pairs})
        require(len(names) > 1, f"{source}: every label is {names[0]!r}; at least two are needed")
        require(len(pairs) < 20 or 2 * len(names) <= len(pairs),
                f"{source}: {len(names)} different labels in {len(pairs)} lines, like {names[0][:40]!r}: numbers, or "
                "texts? A label is one of a few names, each of which stands in many lines")
        twice = len(pairs) - len(dict(pairs))
        if twice:
            note(source, f"{twice} lines repeat the text of another; of each, the last label counts")
        pairs = [(text, names.index(name)) for text, name in dict(pairs).items()]
        random.Random(0).shuffle(pairs)
        cut = max(1, len(pairs) // 10)
        test, pool, rest = pairs[:cut], pairs[cut:], []
    unlabelled = [text for text, _ in pool + rest]
    rng.shuffle(pool)
    learn = pool[:few] if few > 0 else pool
    known = {names[label] for _, label in learn}
    missing = [name for name in names if name not in known]
    require(not missing, f"the {len(learn)} texts to learn from hold {len(known)} of {len(names)} labels (not "
            f"{', '.join(map(repr, missing[:8]))}): more texts are needed")
    return Reviews(learn, test, unlabelled, names)
