"""Two tasks on sentences made up by small grammars; the same seed gives the same sentences.

Named entities: which words name a person, a place, an organisation, a date? A word alone does not
tell:

    May Harper moved to Lincoln in May.        person person, place, date
    Lincoln left Harper Motors in May.         person, organisation, date

Question answering: the answer is some words of a short passage, which tells similar facts about two
people:

    Ivo Lang was born in Turin. He plays the harp. Dora Finch was born in Lyon. …
    Where was Dora Finch born?

Half of the names in held-out sentences are not in any of these texts to learn from (see names.py),
so neither word lists nor capitals are enough.

For pre-training there are also texts without labels, at the end of this file, and pairs of reports:
passages that tell the same facts.
"""
import random
import re
from dataclasses import dataclass

from mini.data.text.names import InventedNames, Names, is_mans
from mini.utils.config import require

TAGS = ["other", "person", "place", "organisation", "date"]

# ---- named entities
# What stands for a name: its tag, and the method of Names that draws it.
SLOTS = {
    "{P}": ("person", Names.person),
    "{S}": ("person", Names.family),            # after Mr or Mrs
    "{L}": ("place", Names.town),
    "{O}": ("organisation", Names.firm),
    "{D}": ("date", Names.date),
    "{W}": ("date", Names.day),
}
# A choice is written (this/that).
SENTENCES = """
{P} was born in {L} in {D}.
{P} moved (to/from) {L} (in/after/before) {D}.
{P} (met/married/called/visited/helped) {P} in {L}.
{P} works for {O} in {L}.
{P} (joined/left) {O} in {D}.
{O} was founded in {D}.
{O} (opened/closed) (an office/a shop/a factory) in {L} in {D}.
{O} (bought/sued/owns/advised) {O}.
{O} (hired/dismissed/praised/paid) {P} in {D}.
{P} bought a house in {L} from {P}.
{L} is a (quiet/busy/small) town north of {L}.
The road from {L} to {L} was closed until {D}.
The train to {L} leaves on {W}.
On {W}, {P} (spoke to/wrote to/waited for) {P}.
In {D}, {O} moved its head office to {L}.
"I like {L}," said {P}.
"Ask {P}," {P} said.
{P} and {P} live near {L}.
{P} is the (director/founder/owner/chair) of {O}.
Shares of {O} (fell/rose) on {W}.
The letter from {P} reached {L} in {D}.
It rained in {L} (from/until) {D}.
It may (rain/snow) in {L} on {W}.
{P} may (leave/sue/join) {O} in {D}.
May I (visit/call/pay) {P} on {W}?
Will {P} (march/walk) to {L} in {D}?
He will (mark/page) the papers that {P} sent from {L}.
She gave up hope when {P} left {L}.
(Hope/Grace) is not enough, said {P}.
The frost came to {L} in {D}.
The baker in {L} knows {P}.
The bank was robbed on {W}, says {O}.
{L}, where {P} grew up, has changed since {D}.
{P}, who lives in {L}, works for {O}.
(Mr/Mrs/Dr) {S} (teaches/lives/works) in {L}.
My (aunt/brother/teacher/neighbour), {P}, comes from {L}.
{O} (makes/sells/sends) (boats/bread/maps/clocks) to {L}.
Nobody at {O} had heard of {P}.
People in {L} are proud of {P}.
Between {D} and {D}, {P} wrote four books.
The (press/group/stone/wood) was sold in {L}.
""".strip().split("\n")


def entity_sentence(names: Names):
    """(words, tags): a sentence, and the number of each word's tag."""
    template = names.choose(names.rng.choice(SENTENCES))
    words = []
    tags = []
    used = set()
    for part in re.findall(r"\{.\}|\w+|[^\w\s]", template):
        tag = "other"
        text = part
        if part in SLOTS:
            tag, draw = SLOTS[part]
            while text == part or text in used:             # no name twice
                text = draw(names)
            used.add(text)
        new = text.split()
        if not words and new[0] == "the":                   # "The University of …" comes first
            new[0] = "The"
        words += new
        tags += [TAGS.index(tag)] * len(new)
    return words, tags


def load_entities(few: int = 300, seed: int = 0, n_test: int = 500):
    """(training, held out): lists of (words, tags). The held-out list is always the same."""
    require(few > 0, f"--few={few}: at least one labelled text is needed")
    learn = Names(random.Random(f"learn {seed}"), new=False)
    test = Names(random.Random("test"), new=True)
    return ([entity_sentence(learn) for _ in range(few)],
            [entity_sentence(test) for _ in range(n_test)])


# ---- question answering

@dataclass
class Fact:
    """What can be told of somebody. {p} is the person's name or "he" or "she", {w} "the wedding of"
    and the name, or "his wedding" or "her wedding", {a} the answer to the questions, and {q} the
    name in the questions."""
    told: list
    asked: list
    answer: str         # the kind of answer, see draw_answer


# All wordings of a kind count as the same here, even where English distinguishes them: who moved to
# a town lives there, and a cousin shares the flat.
FACTS = {
    "born": Fact(["{p} was born in {a}", "{p} comes from {a}", "{p} grew up in {a}"],
                 ["Where was {q} born?", "Where does {q} come from?"], "town"),
    "lives": Fact(["{p} lives in {a} now", "{p} has a house in {a}", "{p} moved to {a}"],
                  ["Where does {q} live?", "Where is the house of {q}?"], "town"),
    "works": Fact(["{p} works for {a}", "{p} has a job at {a}", "{p} is paid by {a}"],
                  ["Who does {q} work for?", "Where does {q} have a job?"], "firm"),
    "married": Fact(["{p} was married in {a}", "{w} was in {a}"],
                    ["When was {q} married?", "When was the wedding of {q}?"], "date"),
    "likes": Fact(["{p} likes {a}", "{p} is fond of {a}"],
                  ["What does {q} like?", "What is {q} fond of?"], "thing"),
    "plays": Fact(["{p} plays the {a}", "{p} has learnt the {a}"],
                  ["What does {q} play?", "What has {q} learnt?"], "instrument"),
    "friend": Fact(["{p} shares a flat with {a}", "{p} is the cousin of {a}"],
                   ["Who shares a flat with {q}?", "Whose cousin is {q}?"], "person"),
}
THINGS = ["apples", "old maps", "long walks", "strong tea", "chess", "cold winters", "black cats",
          "sea air", "fresh bread", "trains"]
INSTRUMENTS = "violin piano flute trumpet guitar cello harp drums organ clarinet".split()
SMALL = set("the University of and & Sons United".split())      # may be in the names of two firms


@dataclass
class Question:
    passage: list       # words
    question: list      # words
    start: int          # the answer is passage[start:end]
    end: int


def draw_answer(names: Names, kind: str) -> str:
    if kind == "thing":
        return names.rng.choice(THINGS)
    if kind == "instrument":
        return names.rng.choice(INSTRUMENTS)
    makers = {"town": names.town, "firm": names.firm, "date": names.date, "person": names.full}
    return makers[kind]()


def facts_of_two(names: Names):
    """([a, b], [facts of a, facts of b]): two full names, and two or three facts (kind, text) for
    each. The first two facts are of the same kinds for both people, so that a question fits either
    of them."""
    used = set()

    def fresh(draw, *args):
        """Something that has no word in common with what was drawn before, except small ones."""
        text = draw(*args)
        while not used.isdisjoint(text.split()):
            text = draw(*args)
        used.update(set(text.split()) - SMALL)
        return text

    kinds = names.rng.sample(list(FACTS), 3)
    people = [fresh(names.full), fresh(names.full)]
    facts = []
    for _ in people:
        n = 3 if names.rng.random() < 0.5 else 2
        facts.append([(kind, fresh(draw_answer, names, FACTS[kind].answer)) for kind in kinds[:n]])
    return people, facts


def tell(people: list, facts: list, rng, always_named: bool = False):
    """(words of a passage, {(name, kind): (start, end)}); words[start:end] is the fact's text. The
    facts of each person are in random order. A person is named in the first sentence about
    them, and is "he" or "she" in the others; always_named: named in all of them, so that each fact
    stands beside its name."""
    words = []
    where = {}
    for name, known in zip(people, facts):
        is_man = is_mans(name.split()[0])
        for i, (kind, text) in enumerate(rng.sample(known, len(known))):
            if i == 0 or always_named:
                subject, wedding = name, f"the wedding of {name}"
            elif is_man:
                subject, wedding = "he", "his wedding"
            else:
                subject, wedding = "she", "her wedding"
            template = rng.choice(FACTS[kind].told)
            # {a} stays one word for now: so we know where the fact goes
            sentence = split_words(template.format(p=subject, w=wedding, a="{a}") + ".")
            sentence[0] = sentence[0][0].upper() + sentence[0][1:]
            at = sentence.index("{a}")
            start = len(words) + at
            where[name, kind] = start, start + len(text.split())
            words += sentence[:at] + text.split() + sentence[at + 1:]
    return words, where


def question(names: Names) -> Question:
    """A passage about two people, and a question about one fact of one of them."""
    people, facts = facts_of_two(names)
    words, where = tell(people, facts, names.rng)
    asked = names.rng.randrange(2)
    kind, _ = names.rng.choice(facts[asked][:2])
    text = names.rng.choice(FACTS[kind].asked).format(q=people[asked])
    start, end = where[people[asked], kind]
    return Question(words, split_words(text), start, end)


@dataclass
class TwoReports:
    """Two passages with the same facts about the same people, each in words and order of its own
    (which may be the same by chance)."""
    first: list         # words
    second: list        # words
    # (start, end) for each fact of the second, in order: second[start:end] is what can be hidden
    gaps: list


def two_reports(names: Names) -> TwoReports:
    """The second report, in which facts can be hidden, names its person in each sentence. Half
    of the first reports do so, too: there each fact stands beside its name, which is easier. The
    others go on with "he" or "she", as the passages with questions do."""
    people, facts = facts_of_two(names)
    first, _ = tell(people, facts, names.rng, always_named=names.rng.random() < 0.5)
    if names.rng.random() < 0.5:                            # who comes first in the second report?
        people = people[::-1]
        facts = facts[::-1]
    second, where = tell(people, facts, names.rng, always_named=True)
    return TwoReports(first, second, sorted(where.values()))


def load_questions(few: int = 300, seed: int = 0, n_test: int = 500):
    """(training, held out): lists of Questions. The held-out list is always the same."""
    require(few > 0, f"--few={few}: at least one labelled text is needed")
    learn = Names(random.Random(f"learn {seed}"), new=False)
    test = Names(random.Random("test"), new=True)
    return [question(learn) for _ in range(few)], [question(test) for _ in range(n_test)]


# ---- texts without labels

def split_words(text: str) -> list:
    return re.findall(r"\{a\}|\w+|[^\w\s]", text)


def join(words: list) -> str:
    """The words as a text, without spaces before punctuation marks."""
    text = re.sub(r" ([.,?;!])", r"\1", " ".join(words))
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', text)


def unlabelled(n: int = 3000) -> list:
    """Texts without labels: n of three entity sentences each, and n of a passage and a question
    after it, with [SEP] between them (the answer is not marked). They are drawn apart from those of
    the tasks, and no name in them is new."""
    names = Names(random.Random("unlabelled"), new=False)
    texts = []
    for _ in range(n):
        sentences = [join(entity_sentence(names)[0]) for _ in range(3)]
        texts.append(" ".join(sentences))
    for _ in range(n):
        asked = question(names)
        texts.append(f"{join(asked.passage)} [SEP] {join(asked.question)}")
    return texts


def unlabelled_reports(n: int = 60000) -> list:
    """n TwoReports, without labels, and without names that are new. In about half of them all names
    are invented: of the other names there are 1,260, and a model that knew these alone found fewer
    facts in texts with new names."""
    rng = random.Random("reports")
    known = Names(rng, new=False)
    invented = InventedNames(rng, new=False)
    return [two_reports(rng.choice((known, invented))) for _ in range(n)]
