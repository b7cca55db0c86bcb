"""Short stories of a small world, written on the spot. Their people, animals and things come back,
and must stay who and what they are.

A story is made from a plot of stories.txt: a list of sentences, each in several wordings, with gaps
for people and things. The program draws a plot, the people and things that it is about, and a
wording for each sentence. The first line says who and what is in the story. story_reader.py reads
the text alone, and says where a story contradicts itself.

Some combinations are held out from training, so that a story about them must be a new one: a plot
with a thing, a plot with an animal, and the names of two people who meet.

How a plot is written (see stories.txt):

    == the title: X - Y = Z             which numbers it needs (=+ in place of ==: see all_plots)
    {A} had {X} {E}. / ...              a sentence, and after each slash another wording of it
    ?It was (cold|late).                a choice of words; ? means: only in half of the stories
    > end well                          a scene that several plots share, defined by "-- end well"
"""
import random
import re
import zlib
from pathlib import Path

from mini.data.text.story_reader import check  # noqa: F401, for those who look for it here
from mini.data.text.story_words import (ANIMALS, COLOURS, COUNTED, DAYS, MEN, NUMBERS, PETS, PLACES,
                                        RELATIONS, SOUNDS, THINGS, TRADES, UNITS, WOMEN,
                                        with_article)

PLOTS = Path(__file__).parent / "stories.txt"
N_TRAIN = 6000          # stories to learn from
N_HELD_OUT = 300        # validation stories, and as many test stories
SOME_NUMBER = "|".join(NUMBERS[2:])     # "one" may stand for anything


def make_stories(n_train: int = N_TRAIN, n_held_out: int = N_HELD_OUT, seed: int = 0,
                 all_plots: bool = False):
    """Three lists of stories: n_train to learn from, n_held_out to choose settings by (validation),
    and n_held_out to report on (test). Each story of the last two has at least one combination that
    is in no story of the other lists. The same arguments give the same stories.

    all_plots: also use the plots that a small model has no time to learn in three minutes.
    """
    plots, scenes = read_plots(PLOTS, all_plots)
    rng = random.Random(seed)
    parts = {"train": [], "val": [], "test": []}
    wanted = {"train": n_train, "val": n_held_out, "test": n_held_out}
    while any(len(parts[part]) < wanted[part] for part in parts):
        title = rng.choice(list(plots))
        plot = plots[title]
        cast = Cast(rng, plot.numbers)
        story = write_story(plot, cast, scenes, rng)
        part = part_of(combinations(title, plot, cast))
        if part in parts and len(parts[part]) < wanted[part]:
            parts[part].append(story)
    return parts["train"], parts["val"], parts["test"]


def combinations(title: str, plot, cast) -> list:
    """The combinations in a story that may be held out: its plot with each thing and each kind of
    animal, and the names of the two people who meet."""
    found = []
    for letter in "TU":
        if letter in plot.letters:
            found.append(f"{title} {cast.words[letter]['name']}")
    for letter in "PQ":
        if letter in plot.letters:
            found.append(f"{title} {cast.words[letter]['kind']}")
    if "A" in plot.letters and "B" in plot.letters:
        names = sorted([cast.words["A"]["name"], cast.words["B"]["name"]])
        found.append(" ".join(names))
    return found


def part_of(found: list) -> str:
    """'train', 'val' or 'test', by the combinations in a story; 'both' if it would belong to val
    and to test. A hash decides where a combination belongs, the same in every run."""
    remainders = [zlib.crc32(combination.encode()) % 16 for combination in found]
    in_val = 0 in remainders
    in_test = 1 in remainders
    if in_val and in_test:
        return "both"
    return "val" if in_val else "test" if in_test else "train"


# ---- plots

class Plot:
    """A plot of stories.txt. numbers: those that it needs, such as "X - Y = Z"; lines: its
    sentences; letters: those in its gaps."""

    def __init__(self, numbers: str, lines: list):
        self.numbers = numbers
        self.lines = lines
        self.letters = set(re.findall(r"\{(\w)", " ".join(lines)))


def read_plots(path, all_plots: bool = True):
    """({title: Plot}, {title of a scene: its lines}) of a file."""
    plots = {}
    scenes = {}
    for block in re.split(r"^(?===|=\+|--)", Path(path).read_text("utf-8"), flags=re.M):
        lines = [line.strip() for line in block.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            continue
        title, _, numbers = lines[0][2:].partition(":")
        if lines[0].startswith("==") or lines[0].startswith("=+") and all_plots:
            plots[title.strip()] = Plot(numbers.strip(), lines[1:])
        elif lines[0].startswith("--"):
            scenes[title.strip()] = lines[1:]
    return plots, scenes


# ---- who and what a story is about

class Cast:
    """What the gaps stand for, drawn at random, and never the same word twice from a list.

    words: {letter: {form: word}}; {B:rel} in a plot is words["B"]["rel"], and {B} is its "name".
    Only the letters that occur in a plot's own lines count, not those in its scenes.
    A, B, C are people, P and Q pets, T and U things, L, K and J places, E and F things that are
    counted, D and G days of the week, X, Y, Z and W numbers.
    """

    def __init__(self, rng, numbers: str = ""):
        self.words = {}
        self.used = set()           # "A:name", "B:rel", …: what the story has told so far
        self.draw_people(rng)
        for letter, name, kind in zip("PQ", rng.sample(PETS, 2), rng.sample(ANIMALS, 2)):
            call, sound = SOUNDS[kind]
            self.words[letter] = {"name": name, "kind": kind, "call": call, "sound": sound}
        for letter, thing, colour in zip("TU", rng.sample(THINGS, 2), rng.sample(COLOURS, 2)):
            self.words[letter] = {"name": thing, "colour": colour, "full": f"{colour} {thing}"}
        for letter, place in zip("LKJ", rng.sample(list(PLACES), 3)):
            self.words[letter] = {"name": place, "at": f"{PLACES[place]} the {place}",
                                  "to": f"to the {place}", "the": f"the {place}"}
        for letter, many in zip("EF", rng.sample(list(COUNTED), 2)):
            self.words[letter] = {"name": many, "one": COUNTED[many]}
        for letter, day in zip("DG", rng.sample(DAYS, 2)):
            self.words[letter] = {"name": day}
        for letter, n in draw_numbers(rng, numbers).items():
            self.words[letter] = {"name": NUMBERS[n]}

    def draw_people(self, rng):
        people = zip("ABC", rng.sample(WOMEN, 3), rng.sample(MEN, 3),
                     rng.sample(list(RELATIONS), 3), rng.sample(TRADES, 3))
        for letter, woman, man, relation, trade in people:
            if rng.random() < 0.5:
                words = {"name": woman, "he": "she", "him": "her", "his": "her",
                         "himself": "herself", "child": "girl", "man": "woman", "kid": "daughter",
                         "rel": relation}
            else:
                words = {"name": man, "he": "he", "him": "him", "his": "his", "himself": "himself",
                         "child": "boy", "man": "man", "kid": "son", "rel": RELATIONS[relation]}
            self.words[letter] = {**words, "trade": trade}

    def fill(self, gap: str) -> str:
        """The word for a gap: for example, "A:his" gives "his" or "her", "A:His" the same with a
        capital, "T:a full" gives "a red lamp"."""
        letter, _, form = gap.partition(":")
        capital = form[:1].isupper()
        form = form[0].lower() + form[1:] if form else "name"
        article = form.startswith("a ")
        if article:
            form = form[2:]
        if form == "cap":           # {X:Cap}: a name or a number with a capital
            form = "name"
        word = self.words[letter][form]
        self.note(letter, form)
        if article:
            word = with_article(word)
        return word[0].upper() + word[1:] if capital else word

    def note(self, letter: str, form: str):
        """Remember what the story has told: the "full" name of a thing also tells its colour."""
        if letter in "TU" and form == "full":
            self.used |= {f"{letter}:name", f"{letter}:colour"}
        elif letter in "LKJ" or form == "one":
            self.used.add(f"{letter}:name")
        elif letter in "PQ" and form != "name":
            self.used.add(f"{letter}:kind")
        else:
            self.used.add(f"{letter}:{form}")


def draw_numbers(rng, rule: str) -> dict:
    """{letter: number} by a rule such as "X - Y = Z"; W is any number. Sums are small: two or three
    are added or taken away."""
    W = rng.randint(2, 9)
    Y = rng.randint(2, 3)
    if "-" in rule:
        X = rng.randint(5, 9)       # so that at least two are left, and the plural is right
        return {"X": X, "Y": Y, "Z": X - Y, "W": W}
    if "+" in rule:
        X = rng.randint(2, 6)
        return {"X": X, "Y": Y, "Z": X + Y, "W": W}
    return {"X": rng.randint(2, 9), "W": W}


# ---- telling

def write_story(plot: Plot, cast: Cast, scenes: dict, rng) -> str:
    """A story, after its first line, which says who and what it is about."""
    story = tell(plot.lines, cast, scenes, rng)
    return f"{first_line(cast, story)}\n{story}"


def first_line(cast: Cast, story: str) -> str:
    """The line that says who and what is in the story: "About Pia, her sister Una, a goat named
    Moss, a red lamp, the mill, seven pears and Monday."."""
    parts = []
    for letter in "ABC":
        words = cast.words[letter]
        if f"{letter}:rel" in cast.used:
            parts.append(f"{cast.words['A']['his']} {words['rel']} {words['name']}")
        elif f"{letter}:trade" in cast.used:
            parts.append(f"{with_article(words['trade'])} named {words['name']}")
        elif f"{letter}:name" in cast.used:
            parts.append(words["name"])
    for letter in "PQ":
        words = cast.words[letter]
        if f"{letter}:name" in cast.used:
            parts.append(f"{with_article(words['kind'])} named {words['name']}")
        elif f"{letter}:kind" in cast.used:
            parts.append(with_article(words["kind"]))
    for letter in "TU":
        words = cast.words[letter]
        if f"{letter}:colour" in cast.used:
            parts.append(with_article(words["full"]))
        elif f"{letter}:name" in cast.used:
            parts.append(with_article(words["name"]))
    for letter in "LKJ":
        if f"{letter}:name" in cast.used:
            parts.append(cast.words[letter]["the"])
    for letter in "EF":
        if f"{letter}:name" in cast.used:
            counted = cast.words[letter]["name"]
            so_many = re.search(rf"\b({SOME_NUMBER}) {counted}\b", story, re.I)
            parts.append(so_many[0].lower() if so_many else counted)
    for letter in "DG":
        if f"{letter}:name" in cast.used:
            parts.append(cast.words[letter]["name"])
    spans = re.findall(rf"\b({SOME_NUMBER}) ({'|'.join(UNITS)})\b", story.lower())
    parts += [" ".join(span) for span in dict.fromkeys(spans)]
    return f"About {', '.join(parts[:-1])} and {parts[-1]}."


def tell(lines: list, cast: Cast, scenes: dict, rng) -> str:
    """One story: a wording for each sentence, with its gaps filled."""
    sentences = []
    for line in lines:
        if line.startswith("?"):
            if rng.random() < 0.5:
                continue
            line = line[1:].strip()
        if line.startswith(">"):
            sentences.append(tell(scenes[line[1:].strip()], cast, scenes, rng))
            continue
        wording = choose_words(rng.choice(line.split(" / ")), rng)
        sentence = re.sub(r"\{([^}]*)\}", lambda gap: cast.fill(gap[1]), wording)
        sentence = re.sub(r"\s+", " ", sentence).strip()
        first_letter = re.search(r"\w", sentence)
        if first_letter:
            i = first_letter.start()
            sentences.append(sentence[:i] + sentence[i].upper() + sentence[i + 1:])
    return " ".join(sentences)


def choose_words(text: str, rng) -> str:
    """The text with a word for each choice, as in "a (cup|glass) of milk"; inner choices first."""
    while "(" in text:
        text = re.sub(r"\(([^()]*)\)", lambda choice: rng.choice(choice[1].split("|")), text)
    return text
