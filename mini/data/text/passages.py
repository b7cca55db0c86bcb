"""Two tasks on sentences made up by small grammars; the same seed gives the same sentences.

Named entities: which words name a person, a place, an organisation, a date? A word alone does not tell:

    May Harper moved to Lincoln in May.        person person, place, date
    Lincoln left Harper Motors on Monday.      person, organisation, date

Question answering: the answer is some words of a short passage, which tells similar facts about two people:

    Ivo Lang was born in Turin. He studied law. Dora Finch was born in Lyon. …      Where was Dora Finch born?

Half of the names in held-out sentences are not in any training text, so neither word lists nor capitals are
enough.
"""
import random
import re
from dataclasses import dataclass

from mini.utils.config import require

TAGS = ["other", "person", "place", "organisation", "date"]
CODES = {"P": "person", "L": "place", "O": "organisation", "D": "date"}

# ---- names: those before the bar occur in all texts, those after it only in held-out sentences
MEN = ("Paul Ivo Hugo Oscar Felix Leo Martin Simon Peter Daniel Victor Adam Austin August Mark Will Boris "
       "Conrad Rupert Anton Marcel Stefan Frank Chase").split()
FIRST = ("Anna Paul Dora Ivo Clara Hugo Nina Oscar Ruth Felix Emma Leo Alice Martin Vera Simon Jane "
         "Peter Helen Daniel Laura Victor Rosa Adam Florence Paris Sydney Charlotte Austin Chelsea May "
         "April June August Mark Will Grace Hope"
         " | Greta Boris Edith Conrad Louisa Rupert Selma Anton Ingrid Marcel Judith Stefan Verona "
         "Adelaide Summer Frank Chase")
LAST = ("Harper Baker Lang Finch Berg Moreau Novak Stone Keller Brook Marsh Lindt Hayes Carter Vogel "
        "Romano Hill Cole Fisher Lincoln Jackson Washington Kent York Wells Bath Preston Burton March "
        "Summers Bell Wood"
        " | Thorne Okafor Ridley Castell Draper Holm Sutter Voss Pryor Weaver Lancaster Bolton Hastings "
        "Winter Page Frost")
TOWN = ("Lyon Turin Oslo Dublin Porto Ghent Vienna Prague Madrid Leeds Bergen Geneva Naples Cork Bremen "
        "Florence Paris Sydney Charlotte Austin Chelsea Lincoln Jackson Washington Kent York Wells Bath "
        "Preston Burton"
        " | Krakow Utrecht Malmo Seville Basel Tampere Zagreb Bruges Verona Adelaide Lancaster Bolton "
        "Hastings")
TRADE = "Motors Bank Press Shipping Brothers Airlines Electric Steel Foods | Insurance Mills Pharma Records"
MONTH = "January February March April May June July August September October November December"
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"

# ---- named entities: P person, L place, O organisation, D date; a choice is written (this/that)
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
"""

# ---- question answering: sentences about somebody, and questions; {a} is the answer
FACTS = {
    "born": (["{p} was born in {a}", "{p} comes from {a}", "{p} grew up in {a}"],
             ["Where was {q} born?", "Where does {q} come from?"], "town"),
    "lives": (["{p} lives in {a} now", "{p} has a house in {a}", "{p} moved to {a}"],
              ["Where does {q} live?", "Where is the house of {q}?"], "town"),
    "works": (["{p} works for {a}", "{p} has a job at {a}", "{p} is paid by {a}"],
              ["Who does {q} work for?", "Where does {q} have a job?"], "firm"),
    "when": (["{p} was married in {a}", "the wedding of {n} was in {a}"],
             ["When was {q} married?", "When was the wedding of {q}?"], "date"),
    "likes": (["{p} likes {a}", "{p} is fond of {a}"],
              ["What does {q} like?", "What is {q} fond of?"], "thing"),
    "plays": (["{p} plays the {a}", "{p} has learnt the {a}"],
              ["What does {q} play?", "What has {q} learnt?"], "instrument"),
    "friend": (["{p} shares a flat with {a}", "{p} is the cousin of {a}"],
               ["Who shares a flat with {q}?", "Whose cousin is {q}?"], "person"),
}
THING = "apples/old maps/long walks/strong tea/chess/cold winters/black cats/sea air/fresh bread/trains"
INSTRUMENT = "violin/piano/flute/trumpet/guitar/cello/harp/drums/organ/clarinet"


class Names:
    """Draws names. new: half of them come from after the bars."""

    def __init__(self, rng: random.Random, new: bool):
        self.rng, self.new = rng, new

    def one(self, listing: str) -> str:
        known, _, unknown = listing.partition(" | ")
        new = unknown and self.new and self.rng.random() < 0.5
        return self.rng.choice((unknown if new else known).split())

    def person(self) -> str:
        way = self.rng.random()
        return (f"{self.one(FIRST)} {self.one(LAST)}" if way < 0.5 else self.one(FIRST) if way < 0.8
                else self.one(LAST))

    def full(self) -> str:
        return f"{self.one(FIRST)} {self.one(LAST)}"

    def firm(self) -> str:
        name, town, trade = self.one(LAST), self.one(TOWN), self.one(TRADE)
        return self.rng.choice([f"{name} {trade}", f"{name} & Sons", f"{name} and {self.one(LAST)}", name,
                                f"{town} {trade}", f"{town} United", f"the University of {town}"])

    def date(self) -> str:
        year, month = self.rng.randint(1920, 2020), self.one(MONTH)
        day = self.rng.randint(1, 28)
        return self.rng.choice([f"{year}", f"{month} {year}", month, f"{day} {month} {year}"])

    def choose(self, template: str) -> str:
        """The template with one word chosen for each (this/that)."""
        return re.sub(r"\(([^)]*/[^)]*)\)", lambda match: self.rng.choice(match[1].split("/")), template)


def entity_sentence(names: Names):
    """(words, tags): a sentence, and the number of each word's tag."""
    template = names.choose(names.rng.choice(SENTENCES.strip().split("\n")))
    makers = {"P": names.person, "L": lambda: names.one(TOWN), "O": names.firm, "D": names.date,
              "W": lambda: names.one(DAY), "S": lambda: names.one(LAST)}
    words, tags, used = [], [], set()
    for part in re.findall(r"\{.\}|\w+|[^\w\s]", template):
        slot = part.strip("{}")
        text = part
        if part != slot:
            while (text := makers[slot]()) in used:
                pass
            used.add(text)
        tag = TAGS.index({**CODES, "W": "date", "S": "person"}[slot]) if part != slot else 0
        new = text.split()
        if not words and new[0] == "the":                   # "The University of …" begins the sentence
            new[0] = "The"
        words += new
        tags += [tag] * len(new)
    return words, tags


@dataclass
class Question:
    passage: list       # words
    question: list      # words
    start: int          # the answer is passage[start:end]
    end: int


def facts_of_two(names: Names):
    """([a, b], [facts of a, facts of b]): two full names, and two or three facts (kind, text) for each. The
    first two facts are of the same kinds for both people, so that a question fits either of them."""
    rng, used = names.rng, set()
    kinds = rng.sample(list(FACTS), 3)
    makers = {"town": lambda: names.one(TOWN), "firm": names.firm, "date": names.date, "person": names.full,
              "thing": lambda: rng.choice(THING.split("/")),
              "instrument": lambda: rng.choice(INSTRUMENT.split("/"))}

    def fresh(maker):                                       # none of its words has been used, except small ones
        while not used.isdisjoint((text := maker()).split()):
            pass
        used.update({*text.split()} - {"the", "University", "of", "and", "&", "Sons", "United"})
        return text
    people = [fresh(names.full), fresh(names.full)]
    return people, [[(kind, fresh(makers[FACTS[kind][2]])) for kind in kinds[:2 + (rng.random() < 0.5)]]
                    for _ in people]


def tell(people: list, facts: list, rng):
    """(words of a passage, {(name, kind): (start, end) of the fact's text}); the facts are in random order."""
    words, where = [], {}
    for name, told in zip(people, facts):
        he, his = ("He", "His") if name.split()[0] in MEN else ("She", "Her")
        for i, (kind, text) in enumerate(rng.sample(told, len(told))):
            template = rng.choice(FACTS[kind][0])
            if i and "wedding of" in template:
                template = template.replace("the wedding of {n}", f"{his} wedding")
            template = template.format(p=he if i else name, n=name, a="{a}")
            sentence = split_words(template[0].upper() + template[1:] + ".")
            at = sentence.index("{a}")
            where[name, kind] = len(words) + at, len(words) + at + len(text.split())
            words += sentence[:at] + text.split() + sentence[at + 1:]
    return words, where


def question(names: Names) -> Question:
    """A passage about two people, and a question about one fact of one of them."""
    people, facts = facts_of_two(names)
    words, where = tell(people, facts, names.rng)
    asked = names.rng.randrange(2)
    kind = names.rng.choice(facts[asked][:2])[0]
    text = names.rng.choice(FACTS[kind][1]).format(q=people[asked])
    return Question(words, split_words(text), *where[people[asked], kind])


def two_reports(names: Names) -> str:
    """Two passages with the same facts about the same people, in other words and in another order, with [SEP]
    between them."""
    people, facts = facts_of_two(names)
    way = names.rng.choice((1, -1))                         # who comes first in the second report
    first, second = (join(tell(people[::step], facts[::step], names.rng)[0]) for step in (1, way))
    return f"{first} [SEP] {second}"


def split_words(text: str) -> list:
    return re.findall(r"\{a\}|\w+|[^\w\s]", text)


def join(words: list) -> str:
    """The words as a text, without spaces before punctuation marks."""
    text = re.sub(r" ([.,?;!])", r"\1", " ".join(words))
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', text)


def load_entities(few: int = 300, seed: int = 0, n_test: int = 500):
    """(training, held out): lists of (words, tags). The held-out list is always the same."""
    require(few > 0, f"--few={few}: at least one labelled text is needed")
    learn, test = Names(random.Random(f"learn {seed}"), False), Names(random.Random("test"), True)
    return [entity_sentence(learn) for _ in range(few)], [entity_sentence(test) for _ in range(n_test)]


def load_questions(few: int = 300, seed: int = 0, n_test: int = 500):
    """(training, held out): lists of Questions. The held-out list is always the same."""
    require(few > 0, f"--few={few}: at least one labelled text is needed")
    learn, test = Names(random.Random(f"learn {seed}"), False), Names(random.Random("test"), True)
    return [question(learn) for _ in range(few)], [question(test) for _ in range(n_test)]


def unlabelled(n: int = 3000) -> list:
    """n texts of each kind without labels: entity sentences; questions and passages, with [SEP] between them
    (the answer is not marked); and two_reports. None is held out, and no name in them is a held-out one."""
    names = Names(random.Random("unlabelled"), False)
    rows = [" ".join(join(entity_sentence(names)[0]) for _ in range(3)) for _ in range(n)]
    asked = [question(names) for _ in range(n)]
    rows += [f"{join(q.question)} [SEP] {join(q.passage)}" for q in asked]
    return rows + [two_reports(names) for _ in range(n)]
