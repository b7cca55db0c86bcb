"""Dialogues for mini/assistant.py: a question, calls of tools with their values, and the answer.

    What is the population of France divided by the area of Spain?
    lookup(population of France)=66000000
    lookup(area of Spain)=506000
    calculator(66000000/506000)=130.4348
    130.4348

The assistant writes the calls, up to "=", and the last line; the tools write what comes after "=". Everything
is made from phrasings.txt; the same seed gives the same dialogues. Held out are numbers and entities (chosen by
a hash, the same in every run) and phrasings, each by itself and all together. Two of three entities in training
are made-up names with made-up values, so that the model learns to copy any name, and little by heart.
"""
import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from mini.data.text.corpus import read_file
from mini.data.text.tools import ERROR, UNKNOWN, read_facts, run_call
from mini.utils.metrics import Progress

HELD_OUT = ("numbers", "entities", "phrasings")
RARE = 4                        # one of so many numbers or entities is held out
MADE_UP = 0.66                  # share of entities in training that are made up
LONGEST = 256                   # characters of a whole dialogue, at most
ALONE = "~"                     # stands before an answer without tools
DO_NOT_KNOW = "I don't know."
UNIT = {"area": " km2", "length": " km", "height": " m", "diameter": " km"}         # of an answer
NUMERIC = ("population", "area", "length", "height", "diameter", "atomic number")
WITH_THE = {"Netherlands", "Philippines", "United States", "United Kingdom", "Czech Republic", "Moon", "Sun"}
THINGS = "apples eggs books coins stamps cards pears bricks nails tickets bottles chairs stones seeds".split()
FILLERS = """could would can will you please kindly just also now then so well and let me us I we tell give
    show say find help know need want wonder like think ask hi hello hey dear friend question next one more
    exactly about it that this here what do if to the a for my quickly really maybe today calculate compute
    evaluate I'd we'd I'm let's""".split()
SYLLABLES = [a + b for a in "b c d f g h j k l m n p r s t v w z br dr gr kh sh st th tr ch".split()
             for b in "a e i o u an en or is ul ay ia ou al er".split()]


def read_phrasings(path) -> dict:
    """{heading: (training phrasings, held-out phrasings)} of phrasings.txt."""
    phrasings = {}
    for line in read_file(path).splitlines():
        if line.startswith("    "):
            lists.append([]) if line.startswith("    new:") else None
            lists[-1].extend(filter(None, map(str.strip, line.replace("new:", "").split("|"))))
        elif not line.startswith("#"):
            lists = phrasings[line] = [[]]
    return phrasings


PHRASES = read_phrasings(Path(__file__).parent / "phrasings.txt")
PROPERTIES = sorted({name for _, name in read_facts()})
COMPARISONS = [heading for heading in PHRASES if re.match(r"[a-z]+ [-+/] [a-z]+$", heading)]
TALK = [heading for heading in PHRASES if heading[-1] in ".!"]          # these are answers


def known_words() -> list:
    """The words of the training phrasings, of the answers and of the calls."""
    phrases = [phrase for training, _ in PHRASES.values() for phrase in training]
    more = "calculator lookup unknown error cannot not arithmetic division by zero too large long no real km"
    return re.findall("[A-Za-z]{2,}", " ".join([*PHRASES, *phrases, *FILLERS, *THINGS, more]))


def held_out(thing) -> bool:
    """Is this number or name held out from training? One of RARE is, by a hash, but no single digit."""
    return len(str(thing)) > 1 and zlib.crc32(str(thing).encode()) % RARE == 0


@dataclass
class Dialogue:
    kind: str                   # arithmetic, look-up, chain, unknown, talk
    question: str
    answer: str
    steps: list = field(default_factory=list)       # [(call, the tool's value), …]

    def pieces(self) -> list:
        """[(text, does the assistant write it?), …]."""
        calls = [piece for call, value in self.steps for piece in ((f"{call}=", True), (f"{value}\n", False))]
        return [(f"{self.question}\n", False), *calls, (f"{self.answer}\n", True)]

    def alone(self) -> list:
        """The same for a dialogue without tools: only the question and the answer."""
        return [(f"{self.question}\n{ALONE}", False), (f"{self.answer}\n", True)]


def share(right: list) -> float:
    return sum(right) / len(right)


def tables(dialogues: list, right: dict) -> dict:
    """{title: {group: share of right dialogues}}; right: {way: [is it right?, for each dialogue]}."""
    groups = {"kind": lambda d: d.kind, "calls": lambda d: str(len(d.steps)),
              "digits": lambda d: str(max(map(len, re.findall(r"\d+", d.question)), default=0))}
    return {f"right_{way.replace(' ', '_')}_by_{name}": {
                key: share([ok for d, ok in zip(dialogues, rows) if group(d) == key])
                for key in sorted({group(d) for d in dialogues})}
            for name, group in groups.items() for way, rows in right.items()}


class Writer:
    """Writes dialogues. new: names from HELD_OUT that say what in them is new to a model trained on the dialogues
    of Writer(0)."""

    def __init__(self, seed: int, new=()):
        self.rng, self.new, self.training = random.Random(seed), new, not new
        self.made_up_share = 0.0 if new else MADE_UP
        self.facts = {}                                             # {property: {entity: value}}
        for (entity, name), value in read_facts().items():
            if held_out(entity) == ("entities" in new):
                self.facts.setdefault(name, {})[entity] = value

    # ---- words, numbers and names
    def phrase(self, heading: str) -> str:
        return self.rng.choice(PHRASES[heading]["phrasings" in self.new])

    def number(self, longest: int = 6) -> str:
        """A number of at most so many digits; rarely with a decimal."""
        while True:
            digits = self.rng.randint(1 + ("numbers" in self.new and longest > 1), longest)
            n = self.rng.randrange(10**(digits - 1) if digits > 1 else 0, 10**digits)
            if held_out(n) == ("numbers" in self.new) or longest == 1:
                return f"{n}.{self.rng.randint(1, 9)}" if self.rng.random() < 0.05 else str(n)

    def made_up_name(self) -> str:
        def word():
            if self.rng.random() < 0.25:                            # random letters
                return "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=self.rng.randint(2, 9)))
            return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(1, 4)))
        start = self.rng.choice(["Mount ", "New ", "South ", "Rio "] + 36 * [""])
        name = start + " ".join(word().capitalize() for _ in range(1 + (self.rng.random() < 0.25)))
        return name if self.rng.random() < 0.95 else f"{name} {self.rng.randint(2, 99)}"

    def made_up_value(self, name: str) -> str:
        if name not in NUMERIC:
            return self.made_up_name()
        value = str(self.rng.randint(1, 999) * 10**self.rng.randint(0, 6) if self.rng.random() < 0.7
                    else self.rng.randrange(10**self.rng.randint(1, 8)))
        return self.made_up_value(name) if held_out(value) else value

    def entity(self, name: str):
        """(entity, the same as the question writes it, value) for a property."""
        if self.rng.random() < self.made_up_share:
            entity, value = self.made_up_name(), self.made_up_value(name)
        else:
            entity, value = self.rng.choice(list(self.facts[name].items()))
        return *self.written(entity, name), value

    def written(self, entity: str, name: str):
        """(entity, perhaps in small letters; the same with its article, if it has one)."""
        the = name == "length" or entity in WITH_THE or self.training and self.rng.random() < 0.1
        if name in ("symbol", "atomic number") or self.rng.random() < 0.1:
            entity = entity.lower()
        return entity, ("the " if the else "") + entity

    def named(self, name: str, shown: str) -> str:                  # the population of France
        return self.phrase("property").format(p=name, E=shown)

    def framed(self, x: str) -> str:                                # What is …?
        return self.phrase("frame").format(x=x)

    def filled(self, question: str) -> str:
        """The question; in training sometimes with words before it that change nothing, so that the model learns
        to ignore such words, also unseen ones."""
        if not self.training or self.rng.random() < 0.75:
            return question
        words = " ".join(self.rng.choices(FILLERS, k=self.rng.randint(1, 4))).capitalize()
        if re.match("(What|How|Which|Tell|Name|Do|Can|Find|Compute|Give|Work) ", question):
            question = question[0].lower() + question[1:]
        return words + self.rng.choice([" ", ", ", ": "]) + question

    # ---- a dialogue of each kind
    def arithmetic(self) -> Dialogue:
        a, b, op = self.number(), self.number(), self.rng.choice("+-*/")
        b = self.number(3) if op in "*/" and self.rng.random() < 0.7 else b
        kind = self.rng.choices(["words", "story", "percent", "expression", "chain"], [40, 20, 10, 15, 15])[0]
        if kind == "words":
            question, call = self.framed(self.phrase(op).format(a=a, b=b)), f"{a}{op}{b}"
        elif kind == "story":
            a, b, n = a.split(".")[0], b.split(".")[0], self.rng.choice(THINGS)
            question, call = self.phrase(f"story {op}").format(a=a, b=b, n=n), f"{a}{op}{b}"
        elif kind == "percent":
            question, call = self.framed(f"{a}% of {b}"), f"{a}*{b}/100"
        elif kind == "expression":                                  # copied exactly, even if it is impossible
            call = self.expression()
            question = self.framed(self.rng.choice([call, call, f"calculator({call})"]))
        else:                                                       # one after the other
            c, then = self.number(3), self.rng.choice("+-*/")
            x = f"{self.phrase(op).format(a=a, b=b)}, then {self.phrase(f'then {then}').format(c=c)}"
            return self.finish("chain", self.framed(x), [], [f"{a}{op}{b}", "{0}" + then + c])
        return self.finish("arithmetic", question, [], [call])

    def expression(self) -> str:
        if self.rng.random() < 0.2:                                 # 9**9**9: soon too large
            return "**".join(self.rng.choices([self.number(1), self.number(1)], k=self.rng.randint(2, 4)))
        text = self.number(4)
        for _ in range(self.rng.randint(1, 3)):
            op = self.rng.choice(["+", "-", "*", "/", "+", "-", "*", "**", "%", "//"])
            right = self.number(1 if op == "**" and self.rng.random() < 0.7 else 4)
            text = f"({text}){op}{right}" if self.rng.random() < 0.25 else f"{text}{op}{right}"
        text += "/0" if self.rng.random() < 0.1 else ""
        return f"calculator({text})*{self.number(2)}" if self.rng.random() < 0.1 else text

    def look_up(self) -> Dialogue:
        name = self.rng.choice(PROPERTIES)
        entity, shown, value = self.entity(name)
        answer, call = value + UNIT.get(name, ""), f"lookup({name} of {entity})"
        return Dialogue("look-up", self.ask(name, shown), answer, [(call, value)])

    def unknown(self) -> Dialogue:
        """A question about a name that is not in the encyclopedia."""
        name = self.rng.choice(PROPERTIES)
        entity, shown = self.written(self.made_up_name(), name)
        call = f"lookup({name} of {entity})"
        return Dialogue("unknown", self.ask(name, shown), DO_NOT_KNOW, [(call, UNKNOWN)])

    def ask(self, name: str, shown: str) -> str:
        own = self.rng.random() < 0.6
        question = self.phrase(name).format(E=shown) if own else self.framed(self.named(name, shown))
        name_first = question.startswith(shown) and not shown.startswith("the ")    # it must be copied exactly
        return question if name_first or self.rng.random() < 0.2 else question[0].upper() + question[1:]

    def chain(self) -> Dialogue:
        kind = self.rng.choices(["comparison", "with a number", "of two"], [40, 25, 35])[0]
        if kind == "comparison":
            first, op, second = self.rng.choice(COMPARISONS).split()
            one, other = self.entity(first), self.entity(second)
            while first == second and other[0].lower() == one[0].lower():
                other = self.entity(second)
            if first != second:                                     # of the same entity
                true = {name.lower(): value for name, value in self.facts[second].items()}
                other = (*one[:2], true.get(one[0].lower()) or self.made_up_value(second))
            question = self.phrase(f"{first} {op} {second}").format(E=one[1], F=other[1])
        else:
            first, second, op = self.rng.choice(NUMERIC), self.rng.choice(NUMERIC), self.rng.choice("+-*//")
            one, other, n = self.entity(first), self.entity(second), self.number(4)
            b = n if kind == "with a number" else self.named(second, other[1])
            question = self.framed(self.phrase(op).format(a=self.named(first, one[1]), b=b))
            if kind == "with a number":
                return self.finish("chain", question, [(first, one)], ["{0}" + op + n])
        lost = self.rng.random() if self.made_up_share else 1.0     # one of them may be unknown
        one = (*one[:2], UNKNOWN) if lost < 0.07 else one
        other = (*other[:2], UNKNOWN) if 0.07 < lost < 0.15 else other
        return self.finish("chain", question, [(first, one), (second, other)], ["{0}" + op + "{1}"])

    def talk(self) -> Dialogue:
        answer = self.rng.choice(TALK + [DO_NOT_KNOW] * 4)
        return Dialogue("talk", self.phrase(answer), answer)

    def finish(self, kind: str, question: str, look_ups: list, expressions: list) -> Dialogue:
        """The dialogue that looks up, then computes. {0} and {1} stand for the values found, or {0} for the last
        result."""
        steps, values = [], []
        for name, (entity, _, value) in look_ups:
            steps.append((f"lookup({name} of {entity})", value))
            values.append(value)
            if value == UNKNOWN:
                return Dialogue(kind, question, DO_NOT_KNOW, steps)
        for expression in expressions:
            call = f"calculator({expression.format(*values)})"
            values = [run_call(call)]
            steps.append((call, values[0]))
            if values[0].startswith(ERROR):
                return Dialogue(kind, question, f"I cannot: {values[0].removeprefix(ERROR)}.", steps)
        return Dialogue(kind, question, values[0], steps)

    def write(self) -> Dialogue:
        """The next dialogue, of a kind in which something is new if it should be."""
        kinds = [self.arithmetic] * 4 + [self.chain] * 4 + [self.look_up] * 3 + [self.unknown, self.talk]
        kinds = {("numbers",): kinds[:4], ("entities",): kinds[4:12]}.get(tuple(self.new), kinds)
        while True:
            dialogue = self.rng.choice(kinds)()
            if dialogue.kind != "talk":
                dialogue.question = self.filled(dialogue.question)
            size = sum(len(text) for text, _ in dialogue.pieces())
            if size <= LONGEST and len(dialogue.question) <= LONGEST // 2:
                return dialogue

    def training_set(self, n: int, alone: float) -> list:
        """The pieces of n dialogues. A share `alone` of them is answered without tools; all facts in these are
        true."""
        dialogues = []
        progress = Progress("dialogues written:", n)
        for _ in range(n):
            self.made_up_share = 0.0 if self.rng.random() < alone else MADE_UP
            dialogues.append(self.write().pieces() if self.made_up_share else self.write().alone())
            progress.add()
        return dialogues
