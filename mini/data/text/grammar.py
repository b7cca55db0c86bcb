"""The grammar that writes the same sentence in English and in French, both at the same time.

Every English sentence has exactly one French translation. Words with two translations ("you",
"friend", "it") are not in it; the others are always translated in the same way: "ate" is "a mangé",
"was eating" is "mangeait", "is going to eat" is "va manger". All that makes a word-by-word
translation into French hard is in it: gender and number, elision (l'eau, n'est) and its exceptions,
du and au, the places of adjectives and pronouns, ne … pas, and "de" after it.

    Phrase      words in both languages, with what must agree with them
    Mood        tense, negation and adverb of a verb
    Clause      a subject, a verb in its mood, and what follows
    Grammar     draws all of them, and makes sentences: statements, questions, exclamations
"""
import re
from typing import NamedTuple

import numpy as np

from mini.data.text.lexicon import (ADJECTIVE, ETRE, GIVING, IDIOMS, IL, ILS, INTRANSITIVE, JE,
                                    MODALS, MOTION, NAMES, NEVER, NOUN, NOUS, NUMBERS, OFTEN,
                                    OWNERS, PREPOSITIONS, SAY, TIMES, TRANSITIVE, Verb, agreed,
                                    conjugate, elides, english_s, link, nouns_of)


class Phrase(NamedTuple):
    en: list                # words
    fr: list
    person: int = IL
    feminine: bool = False
    nouns: tuple = ()       # in English, singular

    def is_plural(self) -> bool:
        return self.person == ILS


class Mood(NamedTuple):
    # present, now (is eating), past, was (eating), used (to eat), future, near (is going to eat),
    # or one of MODALS
    tense: str
    negation: str = ""      # one of NEVER, or none
    adverb: tuple = ()      # one of OFTEN, (English, French), or none


class Clause(NamedTuple):
    subject: Phrase
    auxiliary: list         # English: what goes before the subject in a question
    en: list                # English: what follows
    fr: list                # French: what follows the subject

    def statement(self):
        """(English words, French words)."""
        en = self.subject.en + self.auxiliary + self.en
        fr = self.subject.fr + self.fr
        return en, fr

    def question(self):
        """(English words, French words)."""
        en = self.auxiliary + self.subject.en + self.en
        fr = ["est-ce", "que"] + self.subject.fr + self.fr
        return en, fr


def _people() -> list:
    """The NAMES as phrases."""
    people = []
    for entry in NAMES.split(", "):
        name, gender = entry.split()
        people.append(Phrase([name], [name], IL, gender == "f"))
    return people


I = Phrase(["I"], ["je"], JE)
HE = Phrase(["he"], ["il"])
SHE = Phrase(["she"], ["elle"], IL, True)
WE = Phrase(["we"], ["nous"], NOUS)
PRONOUNS = [I, HE, SHE, WE]
THERE = Phrase(["there"], ["il"])
PEOPLE = _people()

BE = Verb(("be", "-", "-"), "être", "", (), "")
HAVE = Verb(("be", "-", "-"), "avoir", "", (), "")      # "is" in English: is hungry, a faim
PLAY = Verb(("play", "played", "playing"), "jouer", "someone", nouns_of("instrument"), "")
NEED = Verb(("need", "-", "-"), "avoir", "someone", nouns_of("portable"), "")

FEARED = nouns_of("lion wolf bear snake spider mouse witch giant pirate goose")
# the nouns that have an adjective that can be compared
DESCRIBED = [noun for noun in NOUN.values()
             if any(adjective.more for adjective in ADJECTIVE[noun.en[0]].values())]
NOUN_OF = {form: name for name, noun in NOUN.items() for form in noun.en}
MASS = ("dish", "drink")    # kinds of nouns that have no plural here
OWNED = ("kin animal fruit food dish drink text clothing thing flower container furniture room car "
         "craft instrument").split()

# The determiners that a noun may have in each of its roles, likely ones repeated.
ROLES = {
    "subject": "the the the the the this this my my my each all number".split(),
    "object": "the the the a a a this my my number".split(),
    "negated": "the the a a a this my".split(),         # after "ne … pas"
    "other": "the the the the a this my".split(),
    "certain": "the the this my".split(),
    "own": "a the my my my".split(),
    "bare": ["a"],
    "the": ["the"],
    "number": ["number"],
    "none": ["none"],
}


# ---- verbs in both languages

def english_verb(verb: Verb, person: int, mood: Mood, asked: bool):
    """(auxiliary, the rest), as in ["did"], ["not", "eat"]; in a question the subject stands
    between them."""
    base, past, ing = [form.replace("_", " ") for form in verb.en]
    tense, negation, adverb = mood
    auxiliary = []
    main = base
    if tense == "future":
        auxiliary = ["will"]
    elif tense in ("can", "must"):
        auxiliary = [tense]
    elif tense in ("now", "was", "near") or base == "be":
        forms = ("was", "was", "were", "were") if tense == "was" else ("am", "is", "are", "are")
        auxiliary = [forms[person]]
        if base == "be":
            main = ""
        elif tense == "near":
            main = f"going to {base}"
        else:
            main = ing
    elif tense == "used":
        main = f"used to {base}"
    else:                                               # present, past, want or hope
        if tense in MODALS:
            main = f"{tense} to {base}"
        needs_do = asked or negation == "not"
        if needs_do and tense == "past":
            auxiliary = ["did"]
        elif needs_do:
            auxiliary = ["does" if person == IL else "do"]
        elif tense == "past":
            main = past
        elif person == IL:
            main = third_person(main)
    if auxiliary == ["can"] and negation == "not":
        auxiliary = ["cannot"]
        negation = ""
    return auxiliary, [*negation.split(), *adverb[:1], *main.split()]


def third_person(verb: str) -> str:
    """The form with he, she or it: "hope to eat" becomes "hopes to eat"."""
    first, *others = verb.split()
    irregular = {"have": "has", "go": "goes"}
    first = irregular.get(first) or english_s(first)
    return " ".join([first, *others])


def french_verb(verb: Verb, subject: Phrase, mood: Mood, pronoun=()) -> list:
    """The French verb, as in ["ne", "la", "a", "pas", "vue"]. pronoun: an object, (the word, is it
    feminine?)."""
    tense, negation, adverb = mood
    is_reflexive = verb.fr.startswith("se ")
    infinitive = verb.fr.removeprefix("se ")
    before = list(pronoun[:1])                          # what goes directly before the verb
    if is_reflexive:
        before = [("me", "se", "nous", "se")[subject.person]]

    # verbs: what stands between "ne" and "pas"; behind: what follows "pas"
    if tense == "past":
        participle = conjugate(infinitive, "participe")
        if is_reflexive or infinitive in ETRE:          # agrees with the subject
            helper = "être"
            participle = agreed(participle, subject.feminine, subject.is_plural())
        else:                                           # agrees with an object that is before it
            helper = "avoir"
            is_feminine = pronoun[1] if pronoun else False
            participle = agreed(participle, is_feminine, False)
        verbs = [*before, conjugate(helper, "présent", subject.person)]
        behind = [participle]
    elif tense in MODALS or tense == "near":
        helper = MODALS.get(tense, "aller")
        verbs = [conjugate(helper, "présent", subject.person)]
        behind = [*before, infinitive]
    else:
        french_tenses = {"was": "imparfait", "used": "imparfait", "future": "futur"}
        french_tense = french_tenses.get(tense, "présent")
        verbs = [*before, conjugate(infinitive, french_tense, subject.person)]
        behind = []
    if negation:
        verbs = ["ne", *verbs, NEVER[negation]]
    return [*verbs, *adverb[1:], *behind]


# ---- the grammar

class Grammar:
    """Writes one sentence after the other, the same ones for the same seed.

    For the last sentence, in English: `links` holds each noun with each verb or adjective that goes
    with it, `nouns` holds all nouns, `words` holds all verbs and adjectives.
    """

    def __init__(self, seed: int):
        self.random = np.random.RandomState(seed).random_sample
        self.links = set()
        self.nouns = set()
        self.words = set()

    def chance(self, p: float) -> bool:
        return self.random() < p

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def relate(self, word: str, *phrases):
        """Note that a verb or an adjective goes with the nouns of some phrases."""
        self.words.add(word)
        for phrase in phrases:
            self.links.update((noun, word) for noun in phrase.nouns)

    # -- phrases

    def noun_phrase(self, nouns, role: str, adjectives: float = 0.3) -> Phrase:
        """One of the nouns with a determiner and perhaps an adjective or two."""
        noun = self.pick(nouns)
        kind, plural = self.determiner_kind(noun, role)
        before, behind = self.pick_adjectives(noun, adjectives)     # where they stand in French

        name = noun.en[0]
        phrase = Phrase([], [], ILS if plural else IL, noun.feminine, (name,))
        self.nouns.add(name)
        for adjective in before + behind:
            self.relate(adjective.en, phrase)

        en = [adjective.en for adjective in before + behind] + [noun.english(plural)]
        fr = [adjective.french(noun.feminine, plural) for adjective in before]
        fr.append(noun.french(plural))
        if before and not noun.feminine and not plural and elides(fr[1]):
            special = {"beau": "bel", "vieux": "vieil", "nouveau": "nouvel"}
            fr[0] = special.get(fr[0], fr[0])
        the, le = self.determiner(kind, noun, plural, role == "negated", en, fr)
        fr += [adjective.french(noun.feminine, plural) for adjective in behind]
        return phrase._replace(en=the + en, fr=le + fr)

    def determiner_kind(self, noun, role: str):
        """(one of the determiners in ROLES, is the noun in the plural?)."""
        kind = self.pick(ROLES[role])
        is_mass = noun.kind in MASS
        is_kin = noun.kind == "kin"
        share_of_plurals = 0.1 if is_kin or role == "other" else 0.4
        plural = not is_mass and role != "the" and self.chance(share_of_plurals)
        if is_kin and kind != "none":
            kind = "my" if role != "the" and self.chance(0.8) else "the"

        not_owned = kind == "my" and noun.kind not in OWNED
        not_counted = is_mass and kind in ("each", "all", "number")
        of_some = kind == "a" and role == "other" and (plural or is_mass)       # "de" comes before
        if not_owned or not_counted or of_some:
            kind = "the"
        if kind == "each":
            plural = False
        if kind in ("all", "number"):
            plural = True
        return kind, plural

    def pick_adjectives(self, noun, share: float):
        """(adjectives before the noun, adjectives behind it), as French places them: with the
        probability `share` there is one, sometimes with a colour behind the noun."""
        known = list(ADJECTIVE[noun.en[0]].values())
        if not known or not self.chance(share):
            return [], []
        adjective = self.pick(known)
        if adjective.position != "before":
            return [], [adjective]
        colours = [other for other in known if other.position == "colour"]
        if colours and self.chance(0.3):
            return [adjective], [self.pick(colours)]
        return [adjective], []

    def determiner(self, kind: str, noun, plural: bool, negated: bool, en: list, fr: list):
        """The determiner, in both languages, of a noun with its adjectives, en and fr."""
        if kind == "the":
            return ["the"], [definite_article(noun, plural)]
        if kind == "this":
            if plural:
                return ["these"], ["ces"]
            if noun.feminine:
                return ["this"], ["cette"]
            return ["this"], ["cet" if elides(fr[0]) else "ce"]
        if kind == "my":
            owner = self.pick(list(OWNERS))
            mon, ma, mes = OWNERS[owner]
            if plural:
                return [owner], [mes]
            return [owner], [ma if noun.feminine and not elides(fr[0]) else mon]
        if kind == "each":
            return ["each"], ["chaque"]
        if kind == "all":
            return ["all", "the"], ["toutes" if noun.feminine else "tous", "les"]
        if kind == "number":
            number, nombre = self.pick(NUMBERS)
            return [number], nombre.split()
        if kind == "none":
            return ["no"], ["de"]

        # kind == "a": a, some, or nothing
        is_mass = noun.kind in MASS
        a = []
        if not plural and not is_mass:
            a = ["an" if en[0][0] in "aeiou" else "a"]
        adjective_first = fr[0] not in noun.fr
        if negated or (plural and adjective_first):         # pas de pommes; de belles pommes
            return a, ["de"]
        if plural:
            return a, ["des"]
        if is_mass:
            return a, ["de", definite_article(noun, plural)]
        return a, ["une" if noun.feminine else "un"]

    def all_of(self, nouns) -> Phrase:
        """A kind of thing in general, for which French has "the": milk, le lait; dogs, les
        chiens."""
        noun = self.pick(nouns)
        name = noun.en[0]
        plural = noun.kind not in MASS
        self.nouns.add(name)
        le = definite_article(noun, plural)
        return Phrase([noun.english(plural)], [le, noun.french(plural)], nouns=(name,))

    def subject(self, kind: str) -> Phrase:
        """A pronoun, a name, a noun phrase, or two names or relatives."""
        choice = self.random()
        if choice < 0.35:
            # I and we more often: they have verb forms of their own
            return self.pick([*PRONOUNS, I, WE])
        if choice < 0.45:
            return self.pick(PEOPLE)
        if choice < 0.51:
            a = self.someone()
            b = self.someone()
            if a.en != b.en:
                return Phrase([*a.en, "and", *b.en], [*a.fr, "et", *b.fr], ILS,
                              a.feminine and b.feminine, a.nouns + b.nouns)
        return self.noun_phrase(nouns_of(kind), "subject")

    def someone(self) -> Phrase:
        """A name or a relative."""
        if self.chance(0.5):
            return self.pick(PEOPLE)
        return self.noun_phrase(nouns_of("kin"), "other", 0)

    def somewhere(self, kind: str) -> Phrase:
        """A place where a thing or a living being of this class may be."""
        choice = self.random()
        if choice < 0.35:
            en, fr = self.pick(PREPOSITIONS)
            nouns = "building landmark furniture tree bridge lake river"
        elif kind in ("person", "kin", "animal"):
            en, fr = "in", "dans"
            nouns = "inside"
        elif choice < 0.65:
            en, fr = "in", "dans"
            nouns = "container room car"
        else:
            en, fr = self.pick([("on", "sur"), ("under", "sous")])
            nouns = "furniture"
        return self.with_preposition(en, fr, self.noun_phrase(nouns_of(nouns), "other", 0.15))

    def with_preposition(self, en: str, fr: str, phrase: Phrase) -> Phrase:
        return phrase._replace(en=en.split() + phrase.en, fr=fr.split() + phrase.fr)

    # -- moods

    def mood(self, verb: Verb, subject: Phrase, asked: bool, modals: bool = True) -> Mood:
        """A mood that verb and subject may be in. Participles with être show the sex of "I" and
        "we" in French, but English does not show it, so they are left out."""
        tense = self.tense(verb, subject, asked, modals)
        is_universal = subject.en[0] in ("all", "each")     # with "not" it would have two meanings
        if asked or tense == "used" or is_universal or self.chance(0.6):
            return Mood(tense)
        if tense == "present" and self.chance(0.5):
            return Mood(tense, "", self.pick(OFTEN))
        negations = ["not", "not", "not"]
        if tense in ("present", "past", "future"):
            negations.append("never")
        if tense == "present":
            negations.append("no longer")
        return Mood(tense, self.pick(negations))

    def tense(self, verb: Verb, subject: Phrase, asked: bool, modals: bool) -> str:
        """A tense or one of MODALS, likely ones repeated."""
        _, past, ing = verb.en
        has_past = past != "-"
        has_ing = ing != "-"
        is_state = not has_past and not has_ing             # love, know
        is_i_or_we = subject.person in (JE, NOUS)
        shows_sex = is_i_or_we and (verb.fr.startswith("se ") or verb.fr in ETRE)

        tenses = ["present", "present", "present", "future"]
        tenses.append("used" if is_state and not asked else "future")
        if has_ing:
            tenses += ["now", "now", "was", "near"]
        if has_past and not shows_sex:
            tenses += ["past", "past", "past"]
        if is_i_or_we:                                      # they have forms of their own in these
            tenses += ["future", "future"]
            if has_ing:
                tenses += ["was", "was"]
        if modals and not is_state and self.chance(0.25):
            tenses += list(MODALS)
        return self.pick(tenses)

    # -- clauses

    def clause(self, verb: Verb, subject: Phrase, mood: Mood, asked: bool, *objects,
               pronoun=()) -> Clause:
        """Verb, objects and perhaps a time. pronoun: an object, (English, French, is it
        feminine?)."""
        auxiliary, en = english_verb(verb, subject.person, mood, asked)
        fr = french_verb(verb, subject, mood, pronoun[1:])
        en = en + list(pronoun[:1])
        if verb is not BE:
            self.relate(verb.en[0], subject, *objects)
        for phrase in objects:
            en = en + phrase.en
            fr = fr + phrase.fr
        has_room_for_time = mood.negation in ("", "not") and not mood.adverb
        if mood.tense in TIMES and has_room_for_time and self.chance(0.15):
            en_time, fr_time = self.pick(TIMES[mood.tense])
            en = en + en_time
            fr = fr + fr_time
        return Clause(subject, auxiliary, en, fr)

    def does(self, asked=False, subject=None, without_object=False) -> Clause:
        """My sister is reading a letter; Paul sees her."""
        verb = self.pick(list(TRANSITIVE.values()))
        subject = subject or self.subject(verb.subjects)
        mood = self.mood(verb, subject, asked)
        if without_object:
            return self.clause(verb, subject, mood, asked)

        takes_people = any(noun.kind == "person" for noun in verb.objects)
        if takes_people and self.chance(0.25):
            pronouns = [("him", "le", False), ("her", "la", True)]
            if mood.tense != "past":        # the participle would show the sex of "them" and "me"
                pronouns.append(("them", "les", False))
                if subject.person not in (JE, NOUS):
                    pronouns.append(("me", "me", False))
            return self.clause(verb, subject, mood, asked, pronoun=self.pick(pronouns))
        if takes_people and self.chance(0.15):
            return self.clause(verb, subject, mood, asked, self.pick(PEOPLE))
        role = "negated" if mood.negation else "object"
        if verb.en[0] in ("love", "hate", "know"):
            role = "certain"
        return self.clause(verb, subject, mood, asked, self.noun_phrase(verb.objects, role))

    def acts(self, asked=False, subject=None, place=True) -> Clause:
        """The dog sleeps in the garden; I laughed."""
        verb = self.pick([verb for verb in INTRANSITIVE.values() if verb.objects or place])
        subject = subject or self.subject(verb.subjects)
        where = []
        if place and verb.objects:
            location = self.noun_phrase(verb.objects, "other", 0.15)
            where = [self.with_preposition("in", "dans", location)]
        mood = self.mood(verb, subject, asked, modals=False)
        return self.clause(verb, subject, mood, asked, *where)

    def goes(self, asked=False, subject=None) -> Clause:
        """The boys went to the market."""
        verb = self.pick(list(MOTION.values()))
        subject = subject or self.subject(verb.subjects)
        en, fr = verb.prepositions.split()
        location = self.noun_phrase(verb.objects, "other", 0.15)
        where = self.with_preposition(en.strip("-"), fr, location)
        mood = self.mood(verb, subject, asked, modals=verb.fr != "tomber")
        return self.clause(verb, subject, mood, asked, where)

    def gives(self, asked=False, subject=None) -> Clause:
        """She will give a flower to the queen."""
        verb = self.pick(list(GIVING.values()))
        subject = subject or self.subject(verb.subjects)
        mood = self.mood(verb, subject, asked)
        what = self.noun_phrase(verb.objects, "negated" if mood.negation else "object", 0.15)
        if self.chance(0.2):
            whom = self.pick(PEOPLE)
        else:
            whom = self.noun_phrase(nouns_of("someone"), "other", 0.15)
        return self.clause(verb, subject, mood, asked, what, self.with_preposition("to", "à", whom))

    def plays(self, asked=False, subject=None) -> Clause:
        """He plays the piano: jouer de."""
        subject = subject or self.subject("someone")
        what = self.noun_phrase(PLAY.objects, "the", 0)
        mood = self.mood(PLAY, subject, asked, modals=False)
        return self.clause(PLAY, subject, mood, asked, self.with_preposition("", "de", what))

    def needs(self, asked=False, subject=None) -> Clause:
        """We need the key: avoir besoin de."""
        subject = subject or self.subject("someone")
        what = self.noun_phrase(NEED.objects, "other")
        mood = self.mood(NEED, subject, asked, modals=False)
        return self.clause(NEED, subject, mood, asked, self.with_preposition("", "besoin de", what))

    def likes(self, asked=False, subject=None) -> Clause:
        """Cats love milk: for milk in general French has "the", even after "ne … pas"."""
        verb = TRANSITIVE[self.pick(["love", "hate"])]
        what = self.all_of(nouns_of("animal fruit food dish drink"))
        if subject is None and self.chance(0.2):
            subject = self.all_of(nouns_of("animal"))._replace(person=ILS)
        elif subject is None:
            subject = self.subject("living")
        mood = self.mood(verb, subject, asked, modals=False)
        return self.clause(verb, subject, mood, asked, what)

    def be(self, subject: Phrase, asked: bool, what: Phrase, avoir=False,
           no_longer=True) -> Clause:
        """"is", or "has" in French (is hungry, a faim), and what follows. no_longer: "no longer" is
        allowed."""
        tense = self.pick(["present", "present", "was", "future"])
        mood = Mood(tense)
        is_universal = subject.en[0] in ("all", "each")     # with "not" it would have two meanings
        if not asked and not is_universal and self.chance(0.25):
            negations = ["not", "not", "never", "no longer" if no_longer else "not"]
            mood = Mood(tense, self.pick(negations))
        elif not asked and tense == "present" and self.chance(0.15):
            mood = Mood(tense, "", self.pick(OFTEN))
        auxiliary, en = english_verb(BE, subject.person, mood, asked)
        fr = french_verb(HAVE if avoir else BE, subject, mood)
        return Clause(subject, auxiliary, en + what.en, fr + what.fr)

    def adjective(self, subject: Phrase, name: str) -> Phrase:
        """An adjective that fits the subject, in its form. For "I" and "we", only one that does not
        show the sex. name: the noun whose adjectives it may have."""
        known = [adjective for adjective in ADJECTIVE[name].values()
                 if adjective.position != "before" or adjective.more]
        if subject.person in (JE, NOUS):
            known = [adjective for adjective in known if adjective.fr[0] == adjective.fr[1]]
        adjective = self.pick(known)
        self.relate(adjective.en, subject)
        french = adjective.french(subject.feminine, plural=subject.person in (NOUS, ILS))
        return Phrase([adjective.en], [french])

    def someone_is(self, asked=False, subject=None) -> Clause:
        """She is tired; he is hungry; I am afraid of the dog."""
        subject = subject or self.subject("someone")
        choice = self.random()
        if choice < 0.3:
            en, fr = self.pick(IDIOMS)
            self.relate(en, subject)
            return self.be(subject, asked, Phrase([en], [fr]), avoir=True)
        if choice < 0.5:
            if self.chance(0.5):
                what = self.all_of(FEARED)
            else:
                what = self.noun_phrase(FEARED, "other", 0.15)
            self.relate("afraid", what)
            of_what = self.with_preposition("afraid of", "peur de", what)
            return self.be(subject, asked, of_what, avoir=True)
        return self.be(subject, asked, self.adjective(subject, "man"))

    def something_is(self, asked=False) -> Clause:
        """The soup was cold; the key is on the table."""
        if self.chance(0.5):
            subject = self.noun_phrase(DESCRIBED, "subject", 0.15)
            return self.be(subject, asked, self.adjective(subject, subject.nouns[0]))
        subject = self.noun_phrase(nouns_of("living portable"), "subject")
        return self.be(subject, asked, self.somewhere(NOUN[subject.nouns[0]].kind))

    def comparison(self, asked=False) -> Clause:
        """My house is older than this church."""
        noun = self.pick(DESCRIBED)
        known = ADJECTIVE[noun.en[0]].values()
        adjective = self.pick([adjective for adjective in known if adjective.more])
        others = [other for other in nouns_of(noun.kind)
                  if adjective.en in ADJECTIVE[other.en[0]] and other != noun]
        a = self.noun_phrase([noun], "other", 0)
        b = self.noun_phrase(others or [noun], "other", 0)
        self.relate(adjective.en, a, b)
        en, fr = self.pick([
            (f"{adjective.more} than", "plus"),
            (f"as {adjective.en} as", "aussi"),
            (f"less {adjective.en} than", "moins"),
        ])
        french = adjective.french(a.feminine, a.is_plural())
        what = Phrase(en.split() + b.en, [fr, french, "que", *b.fr])
        return self.be(a, asked, what, no_longer=False)         # not "n'est plus plus …"

    def there_is(self, asked=False) -> Clause:
        """There are two cats under the table; there was no dog."""
        role = self.pick(["bare", "bare", "number", "number" if asked else "none"])
        what = self.noun_phrase(nouns_of("person animal portable"), role)
        tense = self.pick(["present", "was", "future"])
        where = self.somewhere(NOUN[what.nouns[0]].kind)
        auxiliary, en = english_verb(BE, what.person, Mood(tense), asked)
        french_mood = Mood(tense, "not" if role == "none" else "")
        fr = french_verb(HAVE, THERE, french_mood, ("y", False))
        return Clause(THERE, auxiliary, en + what.en + where.en, fr + what.fr + where.fr)

    # likely ones repeated
    CLAUSES = [does] * 8 + [acts] * 4 + [goes] * 4 + [gives] * 3 + [plays, needs, likes]
    CLAUSES += [someone_is] * 3 + [something_is] * 4 + [comparison, there_is, there_is]

    # -- sentences: (English words, French words)

    def statement(self):
        """A clause, perhaps inside another one: My mother says that I sing."""
        clause = self.pick(self.CLAUSES)(self)
        subject = clause.subject
        en, fr = clause.statement()
        choice = self.random()
        if choice < 0.08:                                       # my mother says that …
            who = self.subject("someone")
            say = self.pick(list(SAY))
            verb = Verb((say, "-", "-"), SAY[say], "", (), "")
            self.relate(say)
            _, says = english_verb(verb, who.person, Mood("present"), asked=False)
            dit = french_verb(verb, who, Mood("present"))
            en = [*who.en, *says, "that", *en]
            fr = [*who.fr, *dit, "que", *fr]
        elif choice < 0.16 and subject in PRONOUNS + PEOPLE:    # … because he is tired
            who = subject
            if subject in PEOPLE:
                who = SHE if subject.feminine else HE
            en_why, fr_why = self.someone_is(subject=who).statement()
            en = [*en, "because", *en_why]
            fr = [*fr, "parce", "que", *fr_why]
        elif choice < 0.24 and any(NOUN[name].kind == "person" for name in subject.nouns):
            what = self.someone_is(subject=subject)             # the man who … is …
            en = [*subject.en, "who", *clause.auxiliary, *clause.en, *what.auxiliary, *what.en]
            fr = [*subject.fr, "qui", *clause.fr, *what.fr]
        return [*en, "."], [*fr, "."]

    def yes_or_no(self):
        """Is she tired? Why is she tired?"""
        en, fr = self.pick(self.CLAUSES)(self, asked=True).question()
        if self.chance(0.2):
            en = ["why", *en]
            fr = ["pourquoi", *fr]
        return [*en, "?"], [*fr, "?"]

    def what(self):
        """What is she reading?"""
        en, fr = self.does(asked=True, without_object=True).question()
        return ["what", *en, "?"], ["qu'est-ce", *fr[1:], "?"]

    def who(self):
        """Who is reading a letter?"""
        clause = self.pick([self.does, self.acts, self.goes])
        en, fr = clause(subject=Phrase(["who"], ["qui"])).statement()
        return [*en, "?"], [*fr, "?"]

    def where(self):
        """Where does he work? Where is the key?"""
        if self.chance(0.5):
            en, fr = self.acts(asked=True, place=False).question()
            return ["where", *en, "?"], ["où", *fr, "?"]
        what = self.noun_phrase(nouns_of("living portable building"), "other")
        mood = Mood(self.pick(["present", "was"]))
        auxiliary, _ = english_verb(BE, what.person, mood, asked=True)
        verb = french_verb(BE, what, mood)
        return ["where", *auxiliary, *what.en, "?"], ["où", *verb, *what.fr, "?"]

    def how_many(self):
        """How many apples does she eat?"""
        verbs = "eat buy sell see read write have carry draw take".split()
        verb = TRANSITIVE[self.pick(verbs)]
        subject = self.subject(verb.subjects)
        what = self.noun_phrase(countable(verb.objects), "number", 0)
        mood = Mood(self.pick(["present", "future", "near"]))   # in the past, "mangées"
        en, fr = self.clause(verb, subject, mood, asked=True).question()
        self.relate(verb.en[0], what)
        return ["how", "many", what.en[-1], *en, "?"], ["combien", "de", what.fr[-1], *fr, "?"]

    def what_a(self):
        """What a beautiful horse!"""
        what = self.noun_phrase(countable(DESCRIBED), "bare", 1)
        quel = agreed("quell" if what.feminine else "quel", what.feminine, what.is_plural())
        return ["what", *what.en, "!"], [quel, *what.fr[1:], "!"]

    def this_is(self):
        """This is my house; these are not apples."""
        what = self.noun_phrase(nouns_of("living goods building"), "own", 0.6)
        is_negated = self.chance(0.2)
        if what.is_plural():
            en = ["these", "are"]
            fr = ["ce", "sont"]
        else:
            en = ["this", "is"]
            fr = ["ce", "est"] if is_negated else ["c'est"]
        if is_negated:
            en = [*en, "not"]
            ce, est = fr
            fr = [ce, "ne", est, "pas"]
        return [*en, *what.en, "."], [*fr, *what.fr, "."]

    # likely ones repeated
    SENTENCES = [statement] * 20 + [yes_or_no] * 3 + [what, who, where, how_many, what_a, this_is]

    def sentence(self):
        """(English, French), as printed. No noun is twice in it: no prince gives a prince to a
        prince."""
        while True:
            self.links = set()
            self.nouns = set()
            self.words = set()
            en, fr = self.pick(self.SENTENCES)(self)
            nouns = [NOUN_OF[word] for word in en if word in NOUN_OF]
            if len(nouns) == len(set(nouns)):
                return join(en, " ([.,?!])"), join(link(fr))


def definite_article(noun, plural: bool) -> str:
    """The French article of a noun: le, la or les."""
    if plural:
        return "les"
    return "la" if noun.feminine else "le"


def countable(nouns) -> list:
    """Those of the nouns that one counts: apples, but no milk, and no mothers."""
    return [noun for noun in nouns if noun.kind not in (*MASS, "kin")]


def join(words, tight: str = r" ([.,)…%])") -> str:
    """The words as a sentence; by default French, with a space before ? and !. tight: the spaces to
    remove."""
    text = " ".join(words)
    text = re.sub(tight, r"\1", text)
    text = re.sub(r"(?<=['(]) ", "", text)          # and behind an apostrophe or a bracket
    return text[:1].upper() + text[1:]
