"""Names of people, towns and firms, and dates.

Some names are ambiguous: May Harper lives in Lincoln, and Chase Lincoln moves in May. Two thousand
are put together from a beginning and an end, as real ones are: Ash-ford, Wal-den. There are towns
and families of each such name, so that a name alone does not tell what it is.

About half of the names, chosen by a hash, are new: they occur in held-out texts only. (Tales and
reviews are not looked through; a few first names stand there.) So about 1,260 are left to learn
from; in addition there are invented names, of random syllables.
"""
import random
import re
import zlib
from functools import lru_cache

WOMEN = (
    "Anna Dora Clara Nina Ruth Emma Alice Vera Jane Helen Laura Rosa Greta Edith Louisa Selma "
    "Ingrid Judith Agnes Amelia Astrid Beatrice Bella Carla Carmen Celia Delia Diana Elena Elsa "
    "Esther Eva Fiona Freya Gloria Hanna Hilda Irene Iris Julia Karin Lucia Maria Martha "
    "Matilda Nadia Nora Olga Paula Petra Rita Sara Silvia Sofia Stella Tamara Teresa Ursula "
    "Viola Wanda Yvonne Florence Paris Sydney Charlotte Chelsea May April June Grace Hope "
    "Verona Adelaide Summer").split()
MEN = (
    "Paul Ivo Hugo Oscar Felix Leo Martin Simon Peter Daniel Victor Adam Boris Conrad Rupert "
    "Anton Marcel Stefan Albert Alfred Arthur Axel Bernard Bruno Carlos David Dennis Edgar "
    "Edwin Emil Eric Ernest Eugene Ferdinand Gerard Gustav Harald Henry Jacob Jonas Joseph "
    "Julian Karl Kurt Lars Louis Lukas Magnus Marco Niels Otto Philip Ralph Robert Rudolf "
    "Samuel Theo Thomas Walter Werner Austin August Mark Will Frank Chase").split()
FAMILIES = (
    "Harper Baker Lincoln Jackson Washington Kent York Wells Bath Preston Burton March Summers "
    "Bell Wood Hill Cole Brook Marsh Stone Lancaster Bolton Hastings Winter Page Frost").split()
TOWNS = (
    "Florence Paris Sydney Charlotte Austin Chelsea Lincoln Jackson Washington Kent York Wells "
    "Bath Preston Burton Verona Adelaide Lancaster Bolton Hastings Lyon Turin Oslo Dublin Porto "
    "Ghent Vienna Prague Madrid Leeds Bergen Geneva Naples Cork Bremen").split()
BEGINNINGS = (
    "Al Ash Bar Ben Ber Bor Bra Bren Cal Car Cor Dal Dar Del Dor El Fal Far Fen Gal Gar Gor "
    "Gren Hal Har Hel Hol Jan Kar Kel Kol Kor Lam Lar Lin Lor Mal Mar Mel Mon Mor Nor Or Pal "
    "Par Pel Por Ral Ren Ros Sal Sel Sor Tal Tar Tel Tor Val Var Vel Wal Wil Zan Zel").split()
ENDS = (
    "berg borg burg by dale den dorf field ford gard ham haven holm hurst kin land ler ley lin "
    "man mann ner port rick sen ser son stad stead ton vik ville well wick win worth").split()
TRADES = (
    "Airlines Bank Brothers Electric Foods Insurance Mills Motors Pharma Press Records Shipping "
    "Steel").split()
MONTHS = (
    "January February March April May June July August September October November December").split()
ORDINARY_WORDS = "Hope Grace Will Mark Page Frost Baker Wood Stone Harper".split()
# parts of the syllables of invented names
ONSETS = "b br d dr f g gr h j k l m n p r s st t tr v w z".split()
VOWELS = "a e i o u".split()
CODAS = ["", "l", "n", "r", "s", "t"]
PRONOUNS = {"His", "Her"}       # also begin sentences of a passage: no names
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def ambiguous_names() -> set:
    """The names of two kinds, and those that are ordinary words or months, too."""
    lists = [set(WOMEN + MEN), set(FAMILIES), set(TOWNS)]
    twice = set()
    for i, names in enumerate(lists):
        for others in lists[i + 1:]:
            twice |= names & others
    return twice | set(MONTHS) | set(ORDINARY_WORDS)


@lru_cache(maxsize=None)
def is_new(name: str) -> bool:
    """Does this name occur in held-out texts only? That is decided by a hash, so it is the same in
    every run. A name of two of the short lists (and a month, or an ordinary word) is never new:
    texts to learn from are to show it as both."""
    return name not in AMBIGUOUS and zlib.crc32(name.encode()) % 2 == 0


AMBIGUOUS = ambiguous_names()
MADE = [beginning + end for beginning in BEGINNINGS for end in ENDS]
LISTED = {*WOMEN, *MEN, *FAMILIES, *TOWNS, *MADE}


class Names:
    """Draws names by a random.Random. new: half of them come from the names that are new."""

    def __init__(self, rng: random.Random, new: bool):
        self.rng = rng
        self.new = new
        self.lists = {
            "first": parts(WOMEN + MEN),
            "family": parts(FAMILIES),
            "town": parts(TOWNS),
            "made": parts(MADE),
        }

    def draw(self, kind: str) -> str:
        known, new = self.lists[kind]
        wants_new = self.new and self.rng.random() < 0.5
        return self.rng.choice(new if wants_new and new else known)

    def first(self) -> str:
        return self.draw("first")

    def family(self) -> str:
        """One in four is of the short list; three are made of a beginning and an end."""
        return self.draw("family" if self.rng.random() < 0.25 else "made")

    def town(self) -> str:
        return self.draw("town" if self.rng.random() < 0.25 else "made")

    def full(self) -> str:
        return f"{self.first()} {self.family()}"

    def person(self) -> str:
        """A full name, or a part of it."""
        way = self.rng.random()
        if way < 0.5:
            return self.full()
        if way < 0.8:
            return self.first()
        return self.family()

    def firm(self) -> str:
        family = self.family()
        town = self.town()
        trade = self.rng.choice(TRADES)
        partner = self.family()
        return self.rng.choice([f"{family} {trade}", f"{family} & Sons", f"{family} and {partner}",
                                family, f"{town} {trade}", f"{town} United",
                                f"the University of {town}"])

    def date(self) -> str:
        year = self.rng.randint(1920, 2020)
        month = self.rng.choice(MONTHS)
        day = self.rng.randint(1, 28)
        return self.rng.choice([f"{year}", f"{month} {year}", month, f"{day} {month} {year}"])

    def day(self) -> str:
        return self.rng.choice(DAYS)

    def choose(self, template: str) -> str:
        """The template with one word chosen for each (this/that)."""
        return re.sub(r"\(([^)]*/[^)]*)\)", lambda found: self.rng.choice(found[1].split("/")),
                      template)


class InventedNames(Names):
    """Draws names of random syllables: Mon, Brel, Molbrur. Two in three have one syllable; of these
    there are some 570, and more than 400,000 with two. First names, families and towns are drawn
    alike. No name of the lists above is drawn."""

    def draw(self, kind: str) -> str:
        choice = self.rng.choice
        while True:
            n_syllables = choice((1, 1, 2))             # one more often: names are to be short
            syllables = [choice(ONSETS) + choice(VOWELS) + choice(CODAS)
                         for _ in range(n_syllables)]
            name = "".join(syllables).capitalize()
            if len(name) > 2 and name not in LISTED and name not in PRONOUNS:
                return name


def is_mans(first: str) -> bool:
    """Is this first name a man's? An invented one is if it ends in a consonant, as most do."""
    if first in LISTED:
        return first in MEN
    return first[-1] not in VOWELS


def parts(names: list):
    """(known, new) of some names."""
    return [n for n in names if not is_new(n)], [n for n in names if is_new(n)]
