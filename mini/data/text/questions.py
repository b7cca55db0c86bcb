"""Dialogues for mini/assistant.py: a question, calls of tools with their values, and the answer.

    is the nile longer than the amazon?
    lookup(length of nile)=6650 km
    lookup(length of amazon)=6400 km
    calculator(6650>6400)=yes
    yes: 6650 km against 6400 km

The assistant writes the calls, up to "=", and the last line; the tools write what comes after "=".
How questions are worded stands in phrasings.txt. The same seed gives the same dialogues. Held out
from training are numbers and entities (chosen by a hash, the same in every run), and phrasings. Two
of three entities in training have made-up names and values, so that the model learns to copy a name
that it has never seen, and learns few facts by heart.
"""
import random
import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mini.data.text.corpus import read_file, read_text
from mini.data.text.pieces import as_read
from mini.data.text.tools import (ERROR, NO_ENTRY, NO_FACT, SAME, amount, failed, lookup,
                                  read_facts, run_call, unit)
from mini.utils.progress import Progress

HELD_OUT = ("numbers", "entities", "phrasings")
LONGEST = 230                   # characters of a whole dialogue, at most
LONGEST_QUESTION = 110          # characters of a question, at most
ALONE = "~"                     # stands before an answer without tools

# ---- answers

NO_SUCH_ENTRY = "I have no entry of that name."
NO_SUCH_FACT = "The entry does not say that."
NOT_UNDERSTOOD = "I do not understand the question."
CANNOT = "I cannot: "           # then comes what the calculator said
TOO_LONG = "I give up: this takes too many steps."
REFUSALS = (NO_SUCH_ENTRY, NO_SUCH_FACT, NOT_UNDERSTOOD, TOO_LONG)


def answer_to_failure(value: str) -> str:
    """The answer, if this is the last that a tool said."""
    if value == NO_ENTRY:
        return NO_SUCH_ENTRY
    if value == NO_FACT:
        return NO_SUCH_FACT
    return f"{CANNOT}{value.removeprefix(ERROR)}."


# ---- phrasings

def read_phrasings(path) -> dict:
    """{heading: (training phrasings, held-out phrasings)} of phrasings.txt."""
    phrasings = {}
    for line in read_file(path).splitlines():
        if line.startswith("    new: "):
            held_out.append(line.removeprefix("    new: "))
        elif line.startswith("    "):
            training.append(line.strip())
        elif not line.startswith("#"):
            training, held_out = phrasings[line] = ([], [])
    return phrasings


PHRASES = read_phrasings(Path(__file__).parent / "phrasings.txt")
TALK = [heading for heading in PHRASES if heading[-1] in ".!"]      # these headings are answers
SENTENCES = [*TALK, *REFUSALS]


def expand(text: str, rng) -> str:
    """A phrasing with each (a|b) replaced by one of them, and each [a] by a or by nothing."""
    while found := re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", text):
        options = (found[1] if found[1] is not None else found[2]).split("|")
        if found[2] is not None:
            options = options if rng.random() < 0.4 else [""]
        text = text[:found.start()] + rng.choice(options) + text[found.end():]
    return " ".join(text.split())


# ---- words

SIGN_WORDS = {"**2": "squared", "**3": "cubed", "**": "to the power", "*": "times", "+": "plus",
              "-": "minus", "/": "divided by"}
WHOLE = """how what which if add take subtract deduct multiply divide split share increase raise
    reduce lower decrease double halve square cube""".split()       # so begin whole questions
THINGS = """apples eggs books coins stamps cards pears bricks nails tickets bottles chairs stones
    seeds oranges marbles pencils sweets cakes fish sheep cows roses letters euros plates""".split()
FILLERS = """could would can will you please kindly just also now then so well and let me us I we
    tell give show say find help know need want wonder like think ask hi hello hey dear friend
    question next one more exactly about it that this here what do if to the a for my quickly really
    maybe today calculate compute anna tom sir actually again first""".split()
SYLLABLES = [a + b for a in "b c d f g h j k l m n p r s t v w z br dr gr kh sh st th tr ch".split()
             for b in "a e i o u an en or is ul ay ia ou al er".split()]
SMALL_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split()
NUMBER_WORDS = {**{str(i): word for i, word in enumerate(SMALL_NUMBERS)},
                "30": "thirty", "40": "forty", "50": "fifty", "60": "sixty", "70": "seventy",
                "80": "eighty", "90": "ninety", "100": "a hundred", "1000": "a thousand"}


@lru_cache(maxsize=None)
def english_words() -> list:
    """Words of our tales, for names and for what is not understood."""
    words = set(re.findall(r"[a-z]{3,10}", read_text("tales").lower()))
    return sorted(words - set(known_words()))


@lru_cache(maxsize=None)
def known_words() -> list:
    """The words of the training phrasings, of the answers and of the calls."""
    phrases = [phrase for training, _ in PHRASES.values() for phrase in training]
    phrases = re.sub(r"{\w+}", " ", " ".join([*PHRASES, *phrases]))
    units = [name for names in UNIT_NAMES.values() for name in names]
    more = ["calculator lookup against error cannot arithmetic too large real entry name fact",
            "mount", CANNOT, *SENTENCES, *FILLERS, *THINGS, *NUMBER_WORDS.values(), *units,
            *PROPERTIES]
    return sorted(set(re.findall("[a-z]{2,}", " ".join([phrases, *more]).lower())))


# ---- properties and units

NUMERIC = ("population", "area", "length", "height", "diameter")
PROPERTIES = (*NUMERIC, "size", "capital", "country", "currency", "symbol", "element",
              "atomic number")
UNITS = {"population": "people", "area": "km2", "length": "km", "height": "m", "diameter": "km"}
SYNONYMS = {"population": ["population", "number of people", "number of inhabitants"],
            "area": ["area", "surface", "surface area", "land area"],
            "height": ["height", "elevation", "altitude"],
            "currency": ["currency", "money"], "capital": ["capital", "capital city"],
            "symbol": ["symbol", "chemical symbol", "sign"], "length": ["length"]}
ADJECTIVES = {"length": "long", "height": "high", "diameter": "wide", "size": "big"}
OTHER_UNITS = "kg years euros litres hours points degrees dollars tons".split()
WITH_THE = {"Netherlands", "Philippines", "United States", "United Kingdom", "Czech Republic",
            "Moon", "Sun"}
OF_COUNTRIES = ("population", "area", "currency")

# How people write the units, the first as in the answers.
UNIT_NAMES = {
    "feet": ["feet", "ft", "foot"], "miles": ["miles", "mile", "mi"],
    "metres": ["m", "metres", "meters", "metre"],
    "kilometres": ["km", "kilometres", "kilometers", "kilometre", "kms"],
    "centimetres": ["cm", "centimetres", "centimeters"], "inches": ["inches", "inch"],
    "yards": ["yards", "yard"],
    "square miles": ["square miles", "sq mi"],
    "hectares": ["hectares", "ha"], "square metres": ["m2", "square metres"],
    "kilograms": ["kg", "kilograms", "kilos"], "pounds": ["pounds", "lb", "lbs"],
    "grams": ["g", "grams"], "hours": ["hours", "hour"], "minutes": ["minutes", "minute"],
    "seconds": ["seconds", "second"], "days": ["days", "day"], "weeks": ["weeks", "week"],
    "litres": ["litres", "liters", "l"], "gallons": ["gallons", "us gallons"],
    "celsius": ["celsius", "degrees celsius", "c", "degrees c"],
    "fahrenheit": ["fahrenheit", "degrees fahrenheit", "f", "degrees f"]}

# From the unit of a value to others: what the calculator has to do.
FROM_UNIT = {
    "m": {"feet": "{}/0.3048", "kilometres": "{}/1000", "miles": "{}/1609.344",
          "yards": "{}/0.9144", "centimetres": "{}*100", "metres": ""},
    "km": {"miles": "{}/1.609344", "metres": "{}*1000", "feet": "{}*1000/0.3048",
           "kilometres": ""},
    "km2": {"square miles": "{}/2.589988", "hectares": "{}*100", "square metres": "{}*1000000"}}
CONVERSIONS = {
    ("kilometres", "miles"): "{}/1.609344", ("miles", "kilometres"): "{}*1.609344",
    ("metres", "feet"): "{}/0.3048", ("feet", "metres"): "{}*0.3048",
    ("kilometres", "metres"): "{}*1000", ("metres", "kilometres"): "{}/1000",
    ("metres", "centimetres"): "{}*100", ("centimetres", "metres"): "{}/100",
    ("inches", "centimetres"): "{}*2.54", ("centimetres", "inches"): "{}/2.54",
    ("feet", "inches"): "{}*12", ("inches", "feet"): "{}/12", ("yards", "metres"): "{}*0.9144",
    ("miles", "metres"): "{}*1609.344", ("metres", "miles"): "{}/1609.344",
    ("miles", "feet"): "{}*5280", ("kilometres", "feet"): "{}*1000/0.3048",
    ("kilograms", "pounds"): "{}/0.45359237", ("pounds", "kilograms"): "{}*0.45359237",
    ("kilograms", "grams"): "{}*1000", ("grams", "kilograms"): "{}/1000",
    ("hours", "minutes"): "{}*60", ("minutes", "hours"): "{}/60", ("minutes", "seconds"): "{}*60",
    ("seconds", "minutes"): "{}/60", ("hours", "seconds"): "{}*3600", ("days", "hours"): "{}*24",
    ("hours", "days"): "{}/24", ("weeks", "days"): "{}*7", ("days", "weeks"): "{}/7",
    ("gallons", "litres"): "{}*3.785412", ("litres", "gallons"): "{}/3.785412",
    ("celsius", "fahrenheit"): "{}*9/5+32", ("fahrenheit", "celsius"): "({}-32)*5/9"}


# ---- what is held out

def is_held_out(entity: str, name: str, value: str) -> bool:
    """Is this fact held out from training? A quarter of the entities is, with all their facts. A
    capital goes with its country, and a symbol with its element."""
    owner = value if name in ("country", "element", SAME) else entity
    return zlib.crc32(owner.lower().encode()) % 4 == 0


@lru_cache(maxsize=None)
def numbers_in_facts() -> set:
    constants = re.findall(r"[\d.]{3,}", " ".join(CONVERSIONS.values()) + str(FROM_UNIT))
    return {amount(value) for value in read_facts().values()} | set(constants)


@lru_cache(maxsize=None)
def is_new_number(digits: str) -> bool:
    """Is this number held out from training? A tenth of those with three digits or more is, but
    none that occurs in a fact: no training dialogue has it anywhere, not even as a result."""
    return (sum(map(str.isdigit, digits)) >= 3 and zlib.crc32(digits.encode()) % 10 == 0
            and digits not in numbers_in_facts())


def numbers_in(text: str) -> list:
    """The numbers in a text as they are written there, "6650" and "0.5"."""
    return re.findall(r"\d+(?:\.\d+)?", text)


# ---- a dialogue

@dataclass
class Dialogue:
    kind: str                   # arithmetic, look-up, …: see Writer.KINDS
    question: str
    answer: str
    steps: list = field(default_factory=list)       # [(call, the tool's value), …]

    def pieces(self) -> list:
        """[(text, does the assistant write it?), …], as the model reads them."""
        pieces = [(f"{as_read(self.question)}\n", False)]
        for call, value in self.steps:
            pieces.append((f"{as_read(call)}=", True))
            pieces.append((f"{as_read(value)}\n", False))
        return [*pieces, (f"{as_read(self.answer)}\n", True)]

    def alone(self) -> list:
        """The same without tools: only the question and the answer."""
        return [(f"{as_read(self.question)}\n{ALONE}", False), (f"{as_read(self.answer)}\n", True)]

    def text(self) -> str:
        return "".join(text for text, _ in self.pieces())


@dataclass
class Term:
    """Something in a question that has a value."""
    text: str                   # how the question says it
    expression: str             # what the calculator gets for it
    unit: str = ""              # with a space before it
    steps: list = field(default_factory=list)       # the look-ups that it takes


def plural(noun: str) -> str:
    if noun.startswith("number of"):
        return noun.replace("number", "numbers")
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def entity_of(call: str) -> str:
    """The entity in a look-up."""
    return call.partition(" of ")[2].removesuffix(")")


def comparable(entity: str, value: str, other) -> bool:
    """Is this another entity than that of `other`, which Writer.look_up returned, and has its value
    the same unit?"""
    _, other_value, steps = other
    if entity.lower() == entity_of(steps[-1][0]).lower():
        return False
    return failed(value) or failed(other_value) or unit(value) == unit(other_value)


class Writer:
    """Writes dialogues. new: names from HELD_OUT that say what in them is new to a model that is
    trained on the dialogues of Writer(0)."""

    def __init__(self, seed: int, new=()):
        self.rng = random.Random(seed)
        self.new = new
        self.training = not new
        self.made_up_share = 0.66 if self.training else 0.0
        self.entities = {}                          # {property: {entity: value}}
        second_names = {}
        for (entity, name), value in read_facts().items():
            if name == SAME:
                second_names.setdefault(value, []).append(entity)
        for (entity, name), value in read_facts().items():
            if name == SAME or is_held_out(entity, name, value) != ("entities" in new):
                continue
            of_name = self.entities.setdefault(name, {})
            of_name[entity] = value
            if self.training:
                of_name.update({other: value for other in second_names.get(entity, ())})
        self.entities["size"] = {**self.entities["area"], **self.entities["diameter"]}
        self.sizes = [self.entities[name] for name in ("area", "area", "diameter")]

    # ---- words, numbers and names

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def phrase(self, heading: str, **parts) -> str:
        """A phrasing of this heading, in training sometimes with a typing error."""
        phrasings = PHRASES[heading]["phrasings" in self.new] or PHRASES[heading][0]
        text = expand(self.rng.choice(phrasings), self.rng)
        if self.training and self.chance(0.12):
            text = self.mistyped(text)
        if "{w}" in text and "w" not in parts:
            text = re.sub("{w}", lambda _: self.word(), text)
        return text.format(**parts) if parts else text

    def mistyped(self, text: str) -> str:
        """The text with one of its words left out, or one letter wrong."""
        words = text.split(" ")
        short = [i for i, word in enumerate(words) if word in ("the", "of", "a", "is", "in", "to")]
        if short and len(words) > 1 and self.chance(0.4):
            del words[self.rng.choice(short)]
            return " ".join(words)
        longer = [i for i, word in enumerate(words) if re.fullmatch("[a-z]{4,}", word)]
        if not longer:
            return text
        i = self.rng.choice(longer)
        word = words[i]
        at = self.rng.randrange(1, len(word) - 1)
        letter = self.rng.choice("abcdefghijklmnopqrstuvwxyz")
        words[i] = self.rng.choice([word[:at] + word[at + 1:],                          # left out
                                    word[:at] + word[at] + word[at:],                   # twice
                                    word[:at] + letter + word[at + 1:],                 # another
                                    word[:at] + word[at + 1] + word[at] + word[at + 2:]])
        return " ".join(words)

    def word(self) -> str:
        """A word that means nothing here."""
        if self.chance(0.75):
            return self.rng.choice(english_words())
        return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(1, 3)))

    def number(self, longest: int = 6) -> str:
        """A number of at most so many digits; sometimes with a decimal."""
        while True:
            digits = self.rng.randint(3 if "numbers" in self.new else 1, max(3, longest))
            if not self.new:
                digits = self.rng.randint(1, longest)
            low = 10**(digits - 1) if digits > 1 else 0
            text = str(self.rng.randrange(low, 10**digits))
            if digits > 2 and self.chance(0.15):
                text = text[0] + self.rng.choice(["0", text[1]]) + "0" * (digits - 2)
            if self.chance(0.07):
                text += f".{self.rng.randrange(1, 10)}"
            elif self.chance(0.03):
                text += f".{self.rng.randrange(10, 100)}"
            if is_new_number(text) == ("numbers" in self.new):
                return text

    def said(self, digits: str) -> str:
        """A number as a question may have it: some in words."""
        if "numbers" in self.new or not self.chance(0.25):
            return digits
        if digits in NUMBER_WORDS:
            return NUMBER_WORDS[digits]
        if re.fullmatch("[2-9][1-9]", digits):                      # twenty-one
            tens, ones = NUMBER_WORDS[digits[0] + "0"], NUMBER_WORDS[digits[1]]
            return tens + self.rng.choice("- ") + ones
        if re.fullmatch("[2-9]00(0)?", digits):
            large = "hundred" if len(digits) == 3 else "thousand"
            return f"{NUMBER_WORDS[digits[0]]} {large}"
        return digits

    def made_up_name(self) -> str:
        kind = self.rng.random()
        if kind < 0.12:
            name = self.rng.choice(english_words())
        elif kind < 0.2:
            name = " ".join(self.rng.choices(english_words() + known_words(), k=2))
        elif kind < 0.4:
            letters = "aaabcdeeefghiiijklmnoopqrstuuvwxyz"
            name = "".join(self.rng.choices(letters, k=self.rng.randint(2, 10)))
        else:
            name = "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(1, 5)))
        if self.chance(0.15):
            name += " " + "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(1, 3)))
        if self.chance(0.12):
            titles = ["mount", "new", "south", "rio", "mt", "river", "north", "saint", "mont", "el"]
            name = f"{self.rng.choice(titles)} {name}"
        if self.chance(0.04):
            name += f" {self.rng.randint(2, 99)}"
        return name

    def made_up_value(self, name: str) -> str:
        if name in UNITS or name == "size":
            unit_of_name = UNITS.get(name) or self.rng.choice(["km", "km2", "km2", "m"])
            return f"{self.made_up_amount()} {unit_of_name}"
        if name == "atomic number":
            return str(self.rng.randint(1, 118))
        if name in PROPERTIES or self.chance(0.5):
            return self.made_up_name()
        value = self.made_up_amount()
        if self.chance(0.7):
            value += " " + (self.rng.choice(OTHER_UNITS) if self.chance(0.5) else self.word())
        return value

    def made_up_amount(self) -> str:
        while True:
            amount = str(self.rng.randrange(10**self.rng.randint(1, 8)))
            if self.chance(0.6):
                amount = str(self.rng.randint(1, 999) * 10**self.rng.randint(0, 6))
            if not is_new_number(amount):
                return amount

    def entity(self, name: str):
        """(entity, value) for a property. The value may be NO_ENTRY or NO_FACT."""
        if not self.chance(self.made_up_share):
            of_name = self.rng.choice(self.sizes) if name == "size" else self.entities[name]
            return self.rng.choice(list(of_name.items()))
        fate = self.rng.random()
        value = self.made_up_value(name)
        if fate < 0.06:
            value = NO_ENTRY
        elif fate < 0.09:
            value = NO_FACT
        return self.made_up_name(), value

    def look_up(self, name: str, other=None):
        """(entity as the question writes it, its value, the steps that look it up). other: what
        this returned for another entity, to which it should be compared."""
        if name in OF_COUNTRIES and self.chance(0.06):
            return self.look_up_by_capital(name)
        entity, value = self.entity(name)
        while other and not comparable(entity, value, other):
            entity, value = self.entity(name)
        shown = entity
        if entity in WITH_THE or name == "length" and self.chance(0.8) or self.chance(0.04):
            shown = f"the {entity}"
        title = {"length": "river", "height": "mountain"}.get(name)
        if title and self.training and self.chance(0.04):
            shown = f"the {title} {entity}"
            entity = f"{title} {entity}"
        return shown, value, [(f"lookup({name} of {entity})", value)]

    def look_up_by_capital(self, name: str):
        """The same for the country whose capital is …: two steps."""
        city, country = self.entity("country")
        shown = self.phrase("country then", E=city)
        steps = [(f"lookup(country of {city})", country)]
        if failed(country):
            return shown, country, steps
        value = lookup(f"{name} of {country}")
        if self.chance(self.made_up_share):
            value = self.made_up_value(name)
        steps.append((f"lookup({name} of {country})", value))
        return shown, value, steps

    def property_word(self, name: str) -> str:
        """How a question names a property."""
        word = self.rng.choice(SYNONYMS.get(name, [name])) if self.chance(0.4) else name
        return self.mistyped(word) if self.training and self.chance(0.03) else word

    # ---- terms: what has a value

    def property_term(self, name: str) -> Term:
        """The height of …"""
        shown, value, steps = self.look_up(name)
        text = self.phrase("property", p=self.property_word(name), E=shown)
        return Term(text, amount(value), unit(value), steps)

    def number_term(self, longest: int = 6) -> Term:
        digits = self.number(longest)
        return Term(self.said(digits), digits)

    def scaled(self, term: Term) -> Term:
        """Twice a term, half of it, …; its unit stays."""
        headings = ["*2", "*3", "/2", "/3", "/4", "*{n}", "*{n}", "%", "/10", "*1.5", "*2", "/2",
                    "/5", "*2/3", "*3/4"]
        heading = self.rng.choice(headings)
        if "numbers" in self.new:
            heading = self.rng.choice(["*{n}", "%"])
        n = self.number(3)
        if heading == "%":
            text = self.phrase("%", a=n, b=term.text)
            return Term(text, f"{term.expression}*{n}/100", term.unit, term.steps)
        text = self.phrase(heading, a=term.text, n=self.said(n))
        expression = f"{term.expression}{heading.format(n=n)}"
        return Term(text, expression, term.unit, term.steps)

    def framed(self, x: str) -> str:
        """What is …? Some phrasings are whole questions, or orders, themselves."""
        if x.split()[0] in WHOLE and self.chance(0.8):
            return x
        return self.phrase("frame", x=x)

    # ---- dialogues of each kind

    def arithmetic(self) -> Dialogue:
        makers = [self.two_numbers, self.one_number, self.percentage, self.several_numbers,
                  self.story, self.expression, self.conversion, self.number_comparison,
                  self.one_after_the_other]
        return self.rng.choices(makers, [34, 12, 9, 5, 13, 12, 8, 5, 10])[0]()

    def two_numbers(self) -> Dialogue:
        op = self.rng.choice(["+", "-", "*", "/", "+", "-", "*", "/", "**"])
        if op == "**" and "numbers" in self.new:                    # it would be too large
            op = "*"
        a, b = self.number(), self.number()
        if op in "*/" and self.chance(0.6):
            b = self.number(3)
        if op == "**":
            a, b = self.number(2), self.number(2 if self.chance(0.3) else 1)
        if op == "/" and self.training and self.chance(0.04):
            b = "0"
        if op == "-" and self.chance(0.25):
            text = self.phrase("difference", a=self.said(a), b=self.said(b))
            return self.computed("arithmetic", self.framed(text), f"{a}-{b}", unsigned=True)
        if op in "+-*/" and self.chance(0.03):
            text = self.phrase(op, a=self.rng.choice(["-", "minus "]) + a, b=self.said(b))
            return self.computed("arithmetic", self.framed(text), f"-{a}{op}{b}")
        text = self.phrase(op, a=self.said(a), b=self.said(b))
        return self.computed("arithmetic", self.framed(text), f"{a}{op}{b}")

    def one_number(self) -> Dialogue:
        headings = ["**2", "**3", "**0.5", "**0.5", "**0.5", "**(1/3)"]
        if self.chance(0.6):
            term = self.scaled(self.number_term(4))
            return self.computed("arithmetic", self.framed(term.text), term.expression)
        op = self.rng.choice(headings)
        a = self.number(4)
        if self.chance(0.06):                                       # the root of −4 is no number
            text = self.phrase(op, a=self.rng.choice(["-", "minus "]) + a)
            return self.computed("arithmetic", self.framed(text), f"(-{a}){op}")
        text = self.phrase(op, a=self.said(a))
        return self.computed("arithmetic", self.framed(text), f"{a}{op}")

    def percentage(self) -> Dialogue:
        a, b = self.number(2), self.number(4)
        heading, expression = self.rng.choice([("%", "{b}*{a}/100"), ("%", "{b}*{a}/100"),
                                               ("%+", "{b}*(1+{a}/100)"), ("%-", "{b}*(1-{a}/100)"),
                                               ("%?", "{a}/{b}*100")])
        text = self.framed(self.phrase(heading, a=self.said(a), b=self.said(b)))
        sign = " %" if heading == "%?" else ""
        return self.computed("arithmetic", text, expression.format(a=a, b=b), unit=sign)

    def several_numbers(self) -> Dialogue:
        heading, expression = self.rng.choice([
            ("mean", "({a}+{b})/2"), ("mean of three", "({a}+{b}+{c})/3"),
            ("sum of three", "{a}+{b}+{c}"), ("product of three", "{a}*{b}*{c}"),
            ("sum of four", "{a}+{b}+{c}+{d}"), ("rest", "{a}%{b}")])
        numbers = {name: self.number(4 if name == "a" else 3) for name in "abcd"}
        shown = {name: self.said(number) for name, number in numbers.items()}
        text = self.framed(self.phrase(heading, **shown))
        return self.computed("arithmetic", text, expression.format(**numbers))

    def story(self) -> Dialogue:
        op = self.rng.choice("+-*/")
        a, b = self.number(4), self.number(3)
        a, b = a.split(".")[0], b.split(".")[0]
        things = self.rng.choice(THINGS)
        if self.training and self.chance(0.4):
            things = self.rng.choice(english_words()).removesuffix("s") + "s"
        text = self.phrase(f"story {op}", a=self.said(a), b=self.said(b), n=things)
        return self.computed("arithmetic", text, f"{a}{op}{b}")

    def expression(self) -> Dialogue:
        """A formula is copied as it is, even if it is impossible."""
        if self.chance(0.07):                                       # 9**9**9: soon too large
            text = "**".join(self.number(1) for _ in range(self.rng.randint(2, 4)))
        else:
            text = self.number(4)
            for _ in range(self.rng.randint(1, 4)):
                op = self.rng.choice("+ - * / + - * / ** %".split())
                right = self.number(1 if op == "**" else 4)
                if self.chance(0.08) and op != "**":
                    right += self.rng.choice(["**2", "**3"])
                if self.chance(0.15):
                    right = f"({right}{self.rng.choice('+-*/')}{self.number(3)})"
                text = f"{text}{op}{right}"
                if self.chance(0.2):
                    text = f"({text})"
            text += "/0" if self.chance(0.04) else ""
            text = "-" + text if self.chance(0.05) else text
        shown = text
        if self.chance(0.12):
            root = self.number(3)
            shown = self.rng.choice(["sqrt({})", "sqrt {}", "root({})"]).format(root)
            text = f"{root}**0.5"
            if self.chance(0.5):
                more = self.rng.choice("+-*/") + self.number(3)
                shown += more
                text += more
        if self.chance(0.35):
            shown = re.sub(r"(\*\*|[-+*/%])", r" \1 ", shown).strip()
        if self.chance(0.15):
            shown = re.sub(r"(?<!\*)\*(?!\*)", "x", shown)
        elif self.chance(0.2) and "(" not in shown:
            for sign, word in SIGN_WORDS.items():
                shown = shown.replace(sign, f" {word} ")
        question = self.framed(shown) if self.chance(0.6) else shown
        question += self.rng.choice(["=", " =", " = ?"]) if self.chance(0.1) else ""
        return self.computed("arithmetic", question, text)

    def conversion(self) -> Dialogue:
        old, new = self.rng.choice(list(CONVERSIONS))
        a = self.number(4)
        heading = "convert"
        if self.chance(0.15) and "numbers" not in self.new:         # how many feet are in a mile?
            a = "1"
            heading = "convert one"
        text = self.phrase(heading, a=self.said(a), u=self.rng.choice(UNIT_NAMES[old]),
                           v=self.rng.choice(UNIT_NAMES[new]))
        return self.computed("units", text, CONVERSIONS[old, new].format(a),
                             unit=f" {UNIT_NAMES[new][0]}")

    def number_comparison(self) -> Dialogue:
        heading = self.rng.choice(["is more", "is less", "which more", "which less"])
        terms = [self.number_term(5), self.number_term(5)]
        steps = []
        if heading.startswith("is") and self.chance(0.3):           # is 17 times 3 more than 50?
            op = self.rng.choice("+-*/")
            a, b = self.number(3), self.number(2)
            call = f"calculator({a}{op}{b})"
            value = run_call(call)
            steps = [(call, value)]
            text = self.phrase(op, a=self.said(a), b=self.said(b))
            terms[0] = Term(text, value, "", steps)
            if failed(value):
                return Dialogue("comparison", text, answer_to_failure(value), steps)
        text = self.phrase(f"{heading} numbers", a=terms[0].text, b=terms[1].text)
        return self.compared(text, heading, terms, ["", ""])

    def one_after_the_other(self) -> Dialogue:
        op = self.rng.choice("+-*/")
        then = self.rng.choice([*"+-*/", *"+-*/", "**2", "*2", "/2"])
        a, b, c = self.number(4), self.number(3), self.number(3)
        second = self.phrase(f"then {then}", c=self.said(c))
        c = c if then in "+-*/" else ""
        comma = self.rng.choice([", then ", ", then ", " then ", ", ", " and then ", ", and then ",
                                 " and ", " "])
        if self.chance(0.25) and not self.new:
            term = self.property_term(self.rng.choice(NUMERIC))
            return self.computed("chain", self.framed(term.text + comma + second),
                                 f"{term.expression}{then}{c}", steps=term.steps, unit=term.unit)
        first = self.phrase(op, a=self.said(a), b=self.said(b))
        return self.computed("chain", self.framed(first + comma + second), f"{a}{op}{b}",
                             f"{{}}{then}{c}")

    def fact(self) -> Dialogue:
        """One property of one entity; in training also properties that the encyclopedia lacks."""
        name = self.rng.choice(PROPERTIES)
        if self.training and self.chance(0.2):
            return self.other_fact()
        if name == "element" and self.chance(0.4):
            return self.element_by_number()
        shown, value, steps = self.look_up(name)
        if name == "capital" and self.chance(0.15):                 # the answer is the capital
            city = value if self.chance(0.5) and not failed(value) else self.made_up_name()
            if self.chance(0.3):
                city = self.rng.choice(list(self.entities["country"]))
            return self.looked_up(self.phrase("is it capital", E=shown, w=city), value, steps)
        kind = self.rng.random()
        if kind < 0.55 or name == "size":
            text = self.phrase(name, E=shown)
        elif kind < 0.7 and name not in ("country", "element"):
            text = self.phrase("terse", p=self.property_word(name), E=shown)
        else:
            text = self.framed(self.phrase("property", p=self.property_word(name), E=shown))
        return self.looked_up(text, value, steps)

    def element_by_number(self) -> Dialogue:
        """Which element has atomic number 79?"""
        known = self.entities["element"]
        n = self.rng.choice([name for name in known if name.isdecimal()])
        value = known[n]
        if self.chance(self.made_up_share):
            n = str(self.rng.randint(1, 118))
            value = self.made_up_name() if self.chance(0.9) else NO_ENTRY
        text = self.phrase("element by number", E=n)
        return self.looked_up(text, value, [(f"lookup(element of {n})", value)])

    def other_fact(self) -> Dialogue:
        """A property of one's own facts (--data), or one that is nowhere."""
        name = self.word()
        if self.chance(0.2):
            name += " " + self.word()
        entity = self.made_up_name()
        if self.chance(0.4):
            entity = self.rng.choice(list(self.entities[self.rng.choice(NUMERIC)]))
        value = self.made_up_value(name)
        if self.chance(0.5):
            value = NO_FACT if self.chance(0.5) else NO_ENTRY
        shown = f"the {entity}" if entity in WITH_THE or self.chance(0.15) else entity
        text = self.framed(self.phrase("property", p=name, E=shown))
        return self.looked_up(text, value, [(f"lookup({name} of {entity})", value)])

    def missing(self) -> Dialogue:
        """A name that is not in the encyclopedia, or an entity without this property."""
        name = self.rng.choice(PROPERTIES)
        entity = self.made_up_name()
        if self.chance(0.5):
            entity = self.rng.choice(list(self.entities[self.rng.choice(PROPERTIES)]))
        value = lookup(f"{name} of {entity}")
        shown = f"the {entity}" if entity in WITH_THE else entity
        text = self.phrase(name, E=shown)
        return self.looked_up(text, value, [(f"lookup({name} of {entity})", value)])

    def in_unit(self) -> Dialogue:
        """The height of … in feet. What to compute follows from the unit of the value."""
        name = self.rng.choice(["length", "height", "diameter", "area", "size", "size",
                                "population"])
        shown, value, steps = self.look_up(name)
        if name == "population":
            text = self.phrase("in unit population", E=shown)
            return self.computed("units", text, f"{amount(value)}/1000000", steps=steps,
                                 unit=" million people")
        old = unit(value).strip() or self.rng.choice(list(FROM_UNIT))
        new = self.rng.choice(list(FROM_UNIT[old]))
        text = self.phrase(f"in unit {name}", E=shown, u=self.rng.choice(UNIT_NAMES[new]))
        text = self.framed(text) if self.chance(0.3) else text
        expression = FROM_UNIT[old][new]
        if failed(value) or not expression:                         # it is in this unit already
            return self.looked_up(text, value, steps)
        return self.computed("units", text, expression.format(amount(value)), steps=steps,
                             unit=f" {UNIT_NAMES[new][0]}")

    def with_number(self) -> Dialogue:
        """Twice the height of …, the length of … plus 100, …"""
        name = self.rng.choice([*NUMERIC, "size"])
        if name in ADJECTIVES and self.chance(0.15):       # twice as high as …
            shown, value, steps = self.look_up(name)
            op = self.rng.choice(["*2", "/2"])
            heading = "twice as" if op == "*2" else "half as"
            text = self.phrase(heading, adj=ADJECTIVES[name], E=shown, p=name)
            return self.computed("scaled", text, f"{amount(value)}{op}", steps=steps,
                                 unit=unit(value))
        term = self.property_term(name)
        if self.chance(0.65):
            term = self.scaled(term)
            text, expression, new = self.sometimes_in_unit(self.framed(term.text), term.expression,
                                                           term.unit)
            return self.computed("scaled", text, expression, steps=term.steps, unit=new)
        n, op = self.number(4), self.rng.choice("+-*/")
        shown = self.said(n)
        if op in "+-" and self.chance(0.2):
            shown += term.unit
        text = self.framed(self.phrase(op, a=term.text, b=shown))
        if op in "-/" and text.find(shown) < text.find(term.text) or f"{term.text}x" in text:
            return self.with_number()       # "5 less than the height" is kept for numbers alone
        return self.computed("scaled", text, f"{term.expression}{op}{n}", steps=term.steps,
                             unit=term.unit)

    def two_facts(self) -> Dialogue:
        """How much longer, how many times, together, on average, people per square kilometre."""
        kind = self.rng.choice(["own", "own", "p", "p", "density"])
        if kind == "density":
            shown, population, steps = self.look_up("population")
            place = entity_of(steps[-1][0])
            area = self.made_up_value("area")
            if not failed(population) and not failed(lookup(f"area of {place}")):
                area = lookup(f"area of {place}")
            steps = [*steps, (f"lookup(area of {place})", area)]
            text = self.phrase("population / area", E=shown)
            return self.computed("two facts", text, f"{amount(population)}/{amount(area)}",
                                 steps=steps, unit=" people per km2")
        names = [*NUMERIC, "size"] if kind == "own" else NUMERIC
        while True:
            name = self.rng.choice(names)
            op = self.rng.choice(["-", "-", "+", "/", "mean", "%", "difference"])
            heading = f"{name} {op} {name}" if kind == "own" else f"p {op} p"
            if op in ("mean", "%", "difference") and kind == "p":
                heading = f"p {op}"
            if heading in PHRASES:
                break
        one, a, steps_1 = first = self.look_up(name)
        other, b, steps_2 = self.look_up(name, other=first)
        word = self.property_word(name)
        text = self.phrase(heading, E=one, F=other, p=word, ps=plural(word))
        if kind == "p":
            text = self.framed(text)
        x, y = amount(a), amount(b)
        expression = {"mean": f"({x}+{y})/2", "%": f"{x}/{y}*100",
                      "difference": f"{x}-{y}"}.get(op, f"{x}{op}{y}")
        unit_of_result = {"/": "", "%": " %"}.get(op, unit(a))
        text, expression, unit_of_result = self.sometimes_in_unit(text, expression, unit_of_result)
        return self.computed("two facts", text, expression, steps=steps_1 + steps_2,
                             unit=unit_of_result, unsigned=op == "difference")

    def sometimes_in_unit(self, text: str, expression: str, old: str):
        """(text, expression, unit) of a result, which the question sometimes wants in another."""
        others = FROM_UNIT.get(old.strip(), {})
        if not others or not self.chance(0.15):
            return text, expression, old
        new = self.rng.choice([name for name, change in others.items() if change])
        text += f" in {self.rng.choice(UNIT_NAMES[new])}"
        return text, others[new].format(f"({expression})"), f" {UNIT_NAMES[new][0]}"

    def comparison(self) -> Dialogue:
        """Is … longer than …? Which is …, … or …?"""
        heading = self.rng.choice(["is more", "is more", "is less", "which more", "which more",
                                   "which less"])
        name = self.rng.choice([*NUMERIC, "size", "size"])
        own = f"{heading} {name}"
        general = f"{heading} p"
        if heading == "is more" and self.chance(0.2) and f"is more n {name}" in PHRASES:
            shown, value, steps = self.look_up(name)
            limit = self.number(8 if name == "population" else 4).split(".")[0]
            terms = [Term(shown, amount(value), unit(value), steps),
                     Term(limit, limit, unit(value))]
            text = self.phrase(f"is more n {name}", E=shown, a=limit)
            return self.compared(text, heading, terms, ["", ""])
        if own not in PHRASES and general not in PHRASES or name == "size" and own not in PHRASES:
            return self.comparison()
        one, a, steps_1 = first = self.look_up(name)
        other, b, steps_2 = self.look_up(name, other=first)
        if general in PHRASES and name != "size" and (own not in PHRASES or self.chance(0.3)):
            text = self.phrase(general, E=one, F=other, p=self.property_word(name))
        else:
            text = self.phrase(own, E=one, F=other)
        terms = [Term(one, amount(a), unit(a), steps_1), Term(other, amount(b), unit(b), steps_2)]
        names = [entity_of(steps[-1][0]) for steps in (steps_1, steps_2)]
        return self.compared(text, heading, terms, names)

    def talk(self) -> Dialogue:
        answer = self.rng.choice([heading for heading in TALK if heading != NOT_UNDERSTOOD])
        return Dialogue("talk", self.phrase(answer), answer)

    def not_understood(self) -> Dialogue:
        pair = [self.entity(self.rng.choice(PROPERTIES))[0] for _ in range(2)]
        shown = [f"the {name}" if name in WITH_THE or self.chance(0.2) else name for name in pair]
        numbers = {name: self.said(self.number(4)) for name in "abc"}
        text = self.phrase(NOT_UNDERSTOOD, E=shown[0], F=shown[1], p=self.rng.choice(NUMERIC),
                           **numbers)
        return Dialogue("not understood", text, NOT_UNDERSTOOD)

    # ---- the calls and the answer

    def looked_up(self, question: str, value: str, steps: list) -> Dialogue:
        answer = answer_to_failure(value) if failed(value) else value
        return Dialogue("missing" if failed(value) else "look-up", question, answer, steps)

    def computed(self, kind: str, question: str, *expressions, steps=(), unit: str = "",
                 unsigned: bool = False) -> Dialogue:
        """The look-ups, then one calculation after another, {} standing for the last result; then
        the answer. unsigned: it has no minus, as a difference between two has none."""
        done = []
        for call, value in steps:
            done.append((call, value))
            if failed(value):
                return Dialogue("missing", question, answer_to_failure(value), done)
        value = ""
        for expression in expressions:
            call = f"calculator({expression.format(value)})"
            value = run_call(call)
            done.append((call, value))
            if failed(value):
                return Dialogue(kind, question, answer_to_failure(value), done)
        if unsigned:
            value = value.removeprefix("-")
        return Dialogue(kind, question, value + unit, done)

    def compared(self, question: str, heading: str, terms: list, names: list) -> Dialogue:
        """Two terms beside each other; names: of the two entities, "" if they are numbers."""
        sign = ">" if heading.endswith("more") else "<"
        steps = []
        for term in terms:
            for call, value in term.steps:
                steps.append((call, value))
                if failed(value):
                    return Dialogue("missing", question, answer_to_failure(value), steps)
        a, b = terms
        call = f"calculator({a.expression}{sign}{b.expression})"
        value = run_call(call)
        steps.append((call, value))
        if failed(value):
            return Dialogue("comparison", question, answer_to_failure(value), steps)
        both = [f"{term.expression}{term.unit}" for term in terms]
        if heading.startswith("is"):
            return Dialogue("comparison", question, f"{value}: {both[0]} against {both[1]}", steps)
        winner, loser = (0, 1) if value == "yes" else (1, 0)
        answer = f"{both[winner]} against {both[loser]}"
        answer = f"{names[winner]}: {answer}" if names[winner] else both[winner]
        return Dialogue("comparison", question, answer, steps)

    # ---- the next dialogue, and a set of them

    KINDS = {"arithmetic": 30, "fact": 17, "in_unit": 6, "with_number": 9, "two_facts": 12,
             "comparison": 12, "missing": 3, "talk": 3, "not_understood": 9}

    def write(self) -> Dialogue:
        """The next dialogue, of a kind in which something is new if it should be."""
        kinds = dict(self.KINDS)
        if self.new == ("numbers",):
            kinds = {"arithmetic": 1}
        if self.new == ("entities",):
            kinds = {kind: kinds[kind] for kind in ("fact", "in_unit", "with_number", "two_facts",
                                                    "comparison")}
        while True:
            kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
            dialogue = getattr(self, kind)()
            if not dialogue.question.strip():                       # all of it was left out
                continue
            dialogue.question = self.dressed(dialogue.question)
            text = dialogue.text()
            if len(text) > LONGEST or len(dialogue.question) > LONGEST_QUESTION:
                continue
            if "numbers" in self.new:
                if not all(map(is_new_number, numbers_in(dialogue.question))):
                    continue
            elif self.training and any(map(is_new_number, numbers_in(text))):
                continue
            return dialogue

    def dressed(self, question: str) -> str:
        """The question with a mark at its end; in training sometimes with words before it that
        change nothing, so that the model learns to ignore such words."""
        question = " ".join(question.split())
        if self.training and self.chance(0.08):
            words = " ".join(self.rng.choices(FILLERS, k=self.rng.randint(1, 3)))
            if self.chance(0.2):
                words = self.word()
            question = words + self.rng.choice([" ", ", ", ": "]) + question
        if question[-1] in "?!.=":
            return question
        return question + self.rng.choice(["?", "?", "?", "", "", ".", "!", " ?"])

    def training_set(self, n: int, alone: float) -> list:
        """The pieces of n dialogues. A share `alone` of them is answered without tools; all facts
        in these are true."""
        dialogues = []
        progress = Progress("dialogues written:", n)
        for _ in range(n):
            without_tools = self.chance(alone)
            self.made_up_share = 0.0 if without_tools else 0.66
            dialogue = self.write()
            dialogues.append(dialogue.alone() if without_tools else dialogue.pieces())
            progress.add()
        return dialogues
