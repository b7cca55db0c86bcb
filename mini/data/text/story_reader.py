"""A reader of the stories: it says where a story contradicts itself.

It reads only the text. The first line says who and what the story is about; then the story is
read sentence by sentence. The reader knows the words of story_words.py, and these rules:

    people     only people of the first line appear; a baker stays a baker, a sister a sister
    animals    a goat stays a goat, keeps its name, and does not bark
    things     a red lamp stays a lamp, and red
    places     all happens where the first line says; what was left in the barn is found there
    days       Monday stays Monday
    numbers    if four of seven eggs are given away, three are left; three days stay three days
    owners     if you give a thing, you had it; if you have it, you got it; if you pay, you owed
    promises   everybody and everything in the first line appears in the story

What it cannot do: it follows names, not pronouns ("she gave it to Una" tells it nothing). For each
kind of counted things it follows only one change by taking away. It notices facts that contradict
each other, not sentences that make no sense.
"""
import re

from mini.data.text.story_words import (ANIMALS, COLOURS, COUNTED, DAYS, MEN, NUMBERS, PETS, PLACES,
                                        RELATIONS, SOUNDS, THINGS, TRADES, UNITS, WOMEN)

KIN = {*RELATIONS, *RELATIONS.values()}                         # friend, sister, brother, …
MANY = {one: many for many, one in COUNTED.items()}             # {egg: eggs}
WHO_SOUNDS = {sound: animal for animal, sounds in SOUNDS.items() for sound in sounds}
VALUE = {word: n for n, word in enumerate(NUMBERS) if n >= 2}   # "one" may stand for anything

# the name of each list in a complaint
LISTS = {"person": {*WOMEN, *MEN}, "pet": {*PETS}, "trade": {*TRADES}, "relation": KIN,
         "animal": {*ANIMALS}, "thing": {*THINGS}, "colour": {*COLOURS}, "place": {*PLACES},
         "counted": {*COUNTED}, "day": {*DAYS}}

# words that say what a number means: AWAY stand before it ("she ate four"), IN_ALL near it, mostly
# after it ("three were left"), BETWEEN stand between it and what is counted ("four of the eggs")
AWAY = {"gave", "give", "given", "sold", "ate", "eaten", "eat", "took", "take", "lent", "lost",
        "dropped", "paid", "broke", "broken", "stole", "stolen", "shared", "spent", "used", "away",
        "fell", "handed", "left", "gone", "missing", "rolled", "threw", "traded", "put",
        "may", "can", "could", "must", "should", "let"}         # as in "you may have four"
BETWEEN = {"more", "of", "the", "her", "his", "little", "long", "whole", "them", "big", "fine",
           "ripe"}
IN_ALL = {"left", "remained", "remain", "altogether", "now"}

# patterns of sentences about who has what
NAME = f"({'|'.join([*WOMEN, *MEN])})"
THING = f"({'|'.join(THINGS)})"
PLACE = f"({'|'.join(PLACES)})"
A_THING = rf"an? (?:\w+ ){{0,2}}{THING}"
THE_THING = rf"(?:the|her|his|my|your|that|this) (?:\w+ )?{THING}"
LEFT = "(?:left|forgot|forgotten|hid|hidden|buried|dropped|lost)"
GAVE = "(?:gave|lent|handed|sold|passed|brought|returned|threw)"
AT_PLACE = rf"(?:in|at|by|near|behind|under) the (?:\w+ )?{PLACE}"


def check(story: str) -> list:
    """The contradictions in a story, a sentence for each: [] if there are none."""
    first_line, _, rest = story.partition("\n")
    reader = Reader(first_line)
    for sentence in split_sentences(rest):
        reader.read(sentence)
    reader.finish()
    return reader.contradictions


def split_sentences(text: str) -> list:
    """The sentences of a text. A speech and its speaker are one sentence: "Yes," said Pia. It ends
    with a full stop (or ! or ?), perhaps in quotation marks, if a capital follows, or at the end of
    a line."""
    ends = r"(?<=[.!?])\s+(?=\"?[A-Z])|(?<=[.!?]\")\s+(?=\"?[A-Z])|\n"
    return [part for part in re.split(ends, text) if part.strip()]


def kind_of_word(word: str) -> str:
    """The list that a word is in: "person", "animal", …; "" if it is in none."""
    for kind, words in LISTS.items():
        if word in words:
            return kind
    return ""


class Words:
    """The words and signs of a sentence by position, in small letters except for names and days; ""
    before the first and after the last."""

    def __init__(self, sentence: str):
        self.words = []
        for word in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", sentence):
            small = MANY.get(word.lower(), word.lower())
            self.words.append(word if kind_of_word(word) else small)

    def __getitem__(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self.words) else ""

    def __len__(self):
        return len(self.words)

    def span(self, start: int, end: int) -> list:
        return self.words[max(0, start):max(0, end)]


class Reader:
    """What a reader remembers of a story, and the contradictions that it has found."""

    def __init__(self, first_line: str):
        self.contradictions = []
        self.expected = {kind: set() for kind in LISTS}     # what the first line names
        self.seen = set()           # what has appeared in the story
        self.trade = {}             # {Ben: baker}
        self.relation = {}          # {Pia: sister}
        self.animal = {}            # {Moss: goat}
        self.colour = {}            # {lamp: red}
        self.left_at = ""           # where something was left
        self.per_unit = {}          # {days: 3}
        self.now = {}               # {eggs: how many there are}
        self.spoken_of = {}         # {eggs: numbers that were mentioned}
        self.changed = set()        # counted things that became fewer or more
        self.last_counted = ""
        self.owner = {}             # {lamp: Pia}
        self.holder = {}            # {lamp: who has it now}
        self.debts = set()          # {(who owes, to whom)}

        words = Words(first_line)
        for word in words.words:
            kind = kind_of_word(word)
            if kind in ("person", "pet") and word in self.expected[kind]:
                self.complain(f"two are called {word}")
            if kind:
                self.expected[kind].add(word)
        self.read_bonds(words)
        self.read_numbers(words)

    def complain(self, text: str):
        if text not in self.contradictions:
            self.contradictions.append(text)

    def read(self, sentence: str):
        words = Words(sentence)
        self.read_words(words)
        self.read_bonds(words)
        self.read_sounds(words)
        self.read_numbers(words)
        self.read_places(sentence)
        self.read_owners(sentence)
        self.read_debts(sentence)

    def finish(self):
        """Everything in the first line must have appeared, and it must name somebody."""
        if not self.expected["person"]:
            self.complain("the first line names nobody")
        for kind, expected in self.expected.items():
            for word in sorted(expected - self.seen):
                self.complain(f"the {kind} {word} never comes")

    # ---- who and what there is

    def read_words(self, words):
        """Only people and things that the first line names may appear."""
        for word in words.words:
            kind = kind_of_word(word)
            if kind:
                self.seen.add(word)
                if word not in self.expected[kind]:
                    self.complain(f"nobody spoke of the {kind} {word}")

    def read_bonds(self, words):
        """What belongs together must stay together: a person and a trade or relation, a name and a
        kind of animal, a thing and its colour."""
        for i, word in enumerate(words.words):
            kind = kind_of_word(word)
            if kind == "person":
                for trade in bond(words, i, TRADES):
                    self.note(self.trade, word, trade)
                for relation in bond(words, i, KIN):
                    self.note(self.relation, word, relation)
            elif kind == "pet":
                for animal in bond(words, i, ANIMALS):
                    self.note(self.animal, word, animal)
            elif kind == "thing":
                if words[i - 1] in COLOURS:
                    self.note(self.colour, word, words[i - 1])
                elif words[i + 1] in ("was", "is") and words[i + 2] in COLOURS:
                    self.note(self.colour, word, words[i + 2])

    def note(self, memory: dict, word: str, value: str):
        """Remember that word and value belong to each other, and complain if they change."""
        known = memory.setdefault(word, value)
        if known != value:
            self.complain(f"{word}: {known}, not {value}")
        for other, its_value in memory.items():
            if its_value == value and other != word:
                self.complain(f"{value}: {other}, not {word}")

    def read_sounds(self, words):
        """Only dogs bark: a dog must be in the story, and the animal that barks must be the dog."""
        for i, word in enumerate(words.words):
            if word in WHO_SOUNDS and word not in ANIMALS:
                animal = WHO_SOUNDS[word]
                subject = self.animal.get(words[i - 1], animal)     # without a name: trust the text
                if animal not in self.expected["animal"] or subject != animal:
                    self.complain(f"no {animal} is there that {word}")

    # ---- how many

    def read_numbers(self, words):
        """Days, steps and so on must keep their number; counted things are added up."""
        for i, word in enumerate(words.words):
            if word not in VALUE:
                continue
            n = VALUE[word]
            after = [w for w in words.span(i + 1, i + 4) if w not in BETWEEN]
            noun = after[0] if after else ""
            unit = noun.rstrip("s") + "s"
            if unit in UNITS:
                if self.per_unit.setdefault(unit, n) != n:
                    self.complain(f"it was {NUMBERS[self.per_unit[unit]]} {unit}, not {word}")
                continue
            if noun in COUNTED:
                self.last_counted = noun
            if self.last_counted:
                self.count(self.last_counted, n, words, i)

    def count(self, things: str, n: int, words, i: int):
        """Read what the number n at words[i] says about the counted things. A number without a noun
        ("she took four") counts the things that were counted last."""
        total = self.now.get(things)
        known = self.spoken_of.setdefault(things, set())
        clause = i
        while clause > 0 and words[clause - 1] not in (".", ";", "!", "?"):
            clause -= 1
        before = set(words.span(clause, i))
        after = words.span(i + 1, i + 5)
        result = IN_ALL & set(after) or {"in", "all"} <= set(after) or (
            {"only", "now", "altogether"} & set(words.span(i - 2, i)))
        if total is None:                                   # "Pia had seven eggs": the first number
            self.now[things] = n
            known.add(n)
        elif "more" in after[:2] or words[i - 1] == "another":      # "two more": they are added,
            if n not in known or things not in self.changed:        # unless that was told before
                self.change(things, n, total + n)
        elif result:                                        # "three were left": is that right?
            if n != total:
                self.complain(f"there should be {total} {things}, not {n}")
        elif things not in self.changed and n < total and before & AWAY:    # "Ben took four"
            self.change(things, n, total - n)
        elif n not in known:                                # a number may only be said again
            self.complain(f"nobody spoke of {n} {things}")

    def change(self, things: str, n: int, total: int):
        self.now[things] = total
        self.spoken_of[things] |= {n, total}
        self.changed.add(things)

    # ---- where, and whose

    def read_places(self, sentence: str):
        """A thing that was left at the mill must be found at the mill."""
        left = re.search(rf"\b{LEFT}\b[^;.\"]*? {AT_PLACE}\b", sentence)
        found = re.search(rf"\bfound\b[^;.\"]*? {AT_PLACE}\b", sentence)
        if left:
            self.left_at = left[1]
        if found and self.left_at and found[1] != self.left_at:
            self.complain(f"it was left {PLACES[self.left_at]} the {self.left_at}, not "
                          f"{PLACES[found[1]]} the {found[1]}")

    def read_owners(self, sentence: str):
        """A person who gives a thing must have it, and a person who has it must have got it."""
        for person, thing in re.findall(
                rf"\b{NAME} (?:had|bought|made|found|got|built) {A_THING}\b", sentence):
            self.owner.setdefault(thing, person)
            self.holder.setdefault(thing, person)

        gifts = []          # (who gives, what, to whom)
        for giver, thing, taker in re.findall(
                rf"\b{NAME} (?:\w+ )?{GAVE} {THE_THING} (?:back )?to {NAME}\b", sentence):
            gifts.append((giver, thing, taker))
        for giver, taker, thing in re.findall(
                rf"\b{NAME} (?:\w+ )?{GAVE} {NAME} (?:back )?{THE_THING}\b", sentence):
            gifts.append((giver, thing, taker))
        for taker, thing, giver in re.findall(
                rf"\b{NAME} (?:had )?(?:borrowed|bought|got|took|won) {THE_THING} (?:back )?from "
                rf"{NAME}\b", sentence):
            gifts.append((giver, thing, taker))
        for giver, thing, taker in gifts:
            self.has(giver, thing)
            self.holder[thing] = taker

        for person, thing in re.findall(
                rf"\b{NAME} (?:still |now )?(?:has|had|kept|held) {THE_THING}\b", sentence):
            self.has(person, thing)
        for person, thing in re.findall(rf"\b{NAME}'s (?:\w+ )?{THING}\b", sentence):
            if person not in (self.owner.get(thing, person), self.holder.get(thing)):
                self.complain(f"the {thing} is {self.owner[thing]}'s, not {person}'s")

    def has(self, person: str, thing: str):
        holder = self.holder.get(thing, person)
        if holder != person:
            self.complain(f"{holder} has the {thing}, not {person}")

    def read_debts(self, sentence: str):
        """A person who pays somebody must owe this person something, not the other way round."""
        for debtor, lender in re.findall(
                rf"\b{NAME} (?:still |now )?(?:owed|owes) {NAME}\b", sentence):
            if (lender, debtor) in self.debts:
                self.complain(f"{lender} owes {debtor}, not the other way round")
            self.debts.add((debtor, lender))
        for debtor, lender in re.findall(rf"\b{NAME} (?:had )?(?:re)?paid {NAME}\b", sentence):
            if self.debts and (debtor, lender) not in self.debts:
                self.complain(f"{debtor} owed {lender} nothing")


def bond(words, i: int, values) -> list:
    """The words from `values` that the text links to the name words[i]: "her sister Pia", "a goat
    named Moss", "the baker, Pia", "Pia the baker", "Pia, a baker", "Pia was a baker"."""
    found = []
    if words[i - 1] in values:
        found.append(words[i - 1])
    elif words[i - 1] == "," and words[i - 2] in values and words[i + 1] == ",":
        found.append(words[i - 2])
    elif words[i - 1] in ("named", "called") and words[i - 2] in values:
        found.append(words[i - 2])
    is_a = words[i + 1] in (",", "was") and words[i + 2] in ("a", "an", "the")
    if is_a and words[i + 3] in values:
        if words[i + 4] not in ("named", "called"):     # "Pia, a baker named Ben": he is the baker
            found.append(words[i + 3])
    elif words[i + 1] == "the" and words[i + 2] in values:
        found.append(words[i + 2])
    return found
