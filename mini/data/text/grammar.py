"""The grammar that writes the same sentence in English and in French, both at the same time.

Every English sentence has exactly one French translation. Words with two translations ("you", "friend", "it")
are not in it; the others are always translated in the same way: "ate" is "a mangé", "was eating" is "mangeait",
"is going to eat" is "va manger". All that makes a word-by-word translation into French hard is in it: gender and
number, elision (l'eau, n'est) and its exceptions, du and au, the places of adjectives and pronouns, ne … pas, and
"de" after it.
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


class Mood(NamedTuple):
    # present, now (is eating), past, was (eating), used (to eat), future, near (is going to eat), or one of MODALS
    tense: str
    negation: str = ""      # one of NEVER, or none
    adverb: tuple = ()      # one of OFTEN, or none


class Clause(NamedTuple):
    subject: Phrase
    auxiliary: list         # English: what goes before the subject in a question
    en: list                # English: what follows
    fr: list                # French: what follows the subject

    def statement(self):
        return self.subject.en + self.auxiliary + self.en, self.subject.fr + self.fr

    def question(self):
        return self.auxiliary + self.subject.en + self.en, ["est-ce", "que"] + self.subject.fr + self.fr


PRONOUNS = [Phrase(["I"], ["je"], JE), Phrase(["he"], ["il"]), Phrase(["she"], ["elle"], IL, True),
            Phrase(["we"], ["nous"], NOUS)]
THERE = Phrase(["there"], ["il"])
PEOPLE = [Phrase([name], [name], IL, gender == "f") for name, gender in map(str.split, NAMES.split(", "))]
BE, HAVE = (Verb(("be", "-", "-"), fr, "", (), "") for fr in ("être", "avoir"))
PLAY = Verb(("play", "played", "playing"), "jouer", "someone", nouns_of("instrument"), "")
NEED = Verb(("need", "-", "-"), "avoir", "someone", nouns_of("portable"), "")
FEARED = nouns_of("lion wolf bear snake spider mouse witch giant pirate goose")
DESCRIBED = [noun for noun in NOUN.values() if any(a.more for a in ADJECTIVE[noun.en[0]].values())]
NOUN_OF = {form: name for name, noun in NOUN.items() for form in noun.en}
MASS = ("dish", "drink")
OWNED = ("kin animal fruit food dish drink text clothing thing flower container furniture room car craft "
         "instrument").split()
ROLES = {role: kinds.split() for role, kinds in {   # the determiners a noun may have, likely ones repeated
    "subject": "the the the the the this this my my my each all number",
    "object": "the the the a a a this my my number",
    "negated": "the the a a a this my",             # after "ne … pas"
    "other": "the the the the a this my",
    "certain": "the the this my", "own": "a the my my my",
    "bare": "a", "the": "the", "number": "number", "none": "none"}.items()}


# ---- verbs in both languages
def english_verb(verb: Verb, person: int, mood: Mood, asked: bool):
    """(auxiliary, the rest), as in ["did"], ["not", "eat"]; in a question the subject stands between them."""
    (base, past, ing), (tense, negation, adverb) = (form.replace("_", " ") for form in verb.en), mood
    be = ("was", "was", "were", "were") if tense == "was" else ("am", "is", "are", "are")
    auxiliary, main = [], base
    if tense in ("can", "must", "future"):
        auxiliary = ["will" if tense == "future" else tense]
    elif tense in ("now", "was", "near") or base == "be":
        auxiliary = [be[person]]
        main = "" if base == "be" else f"going to {base}" if tense == "near" else ing
    elif tense == "used":
        main = f"used to {base}"
    else:
        if tense in MODALS:
            main = f"{tense} to {base}"
        if asked or negation == "not":
            auxiliary = ["did" if tense == "past" else "does" if person == IL else "do"]
        elif tense == "past":
            main = past
        elif person == IL:
            first, *others = main.split()
            main = " ".join([{"have": "has", "go": "goes"}.get(first) or english_s(first), *others])
    if auxiliary == ["can"] and negation == "not":
        auxiliary, negation = ["cannot"], ""
    return auxiliary, [*negation.split(), *adverb[:1], *main.split()]


def french_verb(verb: Verb, subject: Phrase, mood: Mood, pronoun=()) -> list:
    """The French verb, as in ["ne", "la", "a", "pas", "vue"]. pronoun: an object, (the word, is it feminine?)."""
    tense, negation, adverb = mood
    reflexive, infinitive = verb.fr.startswith("se "), verb.fr.removeprefix("se ")
    before = [("me", "se", "nous", "se")[subject.person]] if reflexive else list(pronoun[:1])
    behind = []
    if tense == "past":
        participle = conjugate(infinitive, "participe")
        if reflexive or infinitive in ETRE:             # agrees with the subject
            helper, participle = "être", agreed(participle, subject.feminine, subject.person == ILS)
        else:                                           # agrees with an object that stands before it
            helper, participle = "avoir", agreed(participle, bool(pronoun) and pronoun[1], False)
        verbs, behind = [*before, conjugate(helper, "présent", subject.person)], [participle]
    elif tense in MODALS or tense == "near":
        verbs = [conjugate(MODALS.get(tense, "aller"), "présent", subject.person)]
        behind = [*before, infinitive]
    else:
        french = {"was": "imparfait", "used": "imparfait", "future": "futur"}.get(tense, "présent")
        verbs = [*before, conjugate(infinitive, french, subject.person)]
    if negation:
        verbs = ["ne", *verbs, NEVER[negation]]
    return [*verbs, *adverb[1:], *behind]


# ---- the grammar
class Grammar:
    """Writes one sentence after the other, the same ones for the same seed.

    For the last sentence, in English: `links` holds each noun with each verb or adjective that goes with it,
    `nouns` holds all nouns, `words` holds all verbs and adjectives.
    """

    def __init__(self, seed: int):
        self.random = np.random.RandomState(seed).random_sample
        self.links, self.nouns, self.words = set(), set(), set()

    def chance(self, p: float) -> bool:
        return self.random() < p

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def relate(self, word: str, *phrases):
        """Note that a verb or an adjective goes with the nouns of some phrases."""
        self.words.add(word)
        self.links.update((noun, word) for phrase in phrases for noun in phrase.nouns)

    # -- phrases
    def noun_phrase(self, nouns, role: str, adjectives: float = 0.3) -> Phrase:
        """One of the nouns with a determiner and perhaps an adjective or two."""
        noun, kind = self.pick(nouns), self.pick(ROLES[role])
        name, feminine, mass = noun.en[0], noun.feminine, noun.kind in MASS
        often = 0.1 if noun.kind == "kin" or role == "other" else 0.4
        plural = not mass and role != "the" and self.chance(often)
        if noun.kind == "kin" and kind != "none":
            kind = "my" if role != "the" and self.chance(0.8) else "the"
        if (kind == "my" and noun.kind not in OWNED or mass and kind in ("each", "all", "number")
                or kind == "a" and role == "other" and (plural or mass)):
            kind = "the"
        plural = plural and kind != "each" or kind in ("all", "number")

        known, before, behind = list(ADJECTIVE[name].values()), [], []
        if known and self.chance(adjectives):
            first = self.pick(known)
            (before if first.position == "before" else behind).append(first)
            colours = [a for a in known if a.position == "colour"]
            if before and colours and self.chance(0.3):
                behind.append(self.pick(colours))
        phrase = Phrase([], [], ILS if plural else IL, feminine, (name,))
        self.nouns.add(name)
        for adjective in before + behind:
            self.relate(adjective.en, phrase)

        en = [a.en for a in before + behind] + [noun.en[plural]]
        fr = [a.fr[feminine][plural] for a in before] + [noun.fr[plural]]
        if before and not feminine and not plural and elides(fr[1]):
            fr[0] = {"beau": "bel", "vieux": "vieil", "nouveau": "nouvel"}.get(fr[0], fr[0])
        the, le = self.determiner(kind, noun, plural, role == "negated", en, fr)
        return phrase._replace(en=the + en, fr=le + fr + [a.fr[feminine][plural] for a in behind])

    def determiner(self, kind: str, noun, plural: bool, negated: bool, en: list, fr: list):
        """The determiner, in both languages, of a noun with its adjectives, en and fr."""
        le = "les" if plural else "la" if noun.feminine else "le"
        if kind == "the":
            return ["the"], [le]
        if kind == "this":
            ce = "ces" if plural else "cette" if noun.feminine else "cet" if elides(fr[0]) else "ce"
            return ["these" if plural else "this"], [ce]
        if kind == "my":
            owner = self.pick(list(OWNERS))
            return [owner], [OWNERS[owner][2 if plural else noun.feminine and not elides(fr[0])]]
        if kind == "each":
            return ["each"], ["chaque"]
        if kind == "all":
            return ["all", "the"], ["toutes" if noun.feminine else "tous", "les"]
        if kind == "number":
            number, nombre = self.pick(NUMBERS)
            return [number], nombre.split()
        if kind == "none":
            return ["no"], ["de"]
        mass = noun.kind in MASS
        a = [] if plural or mass else ["an" if en[0][0] in "aeiou" else "a"]
        if negated or plural and fr[0] not in noun.fr:      # pas de pommes; de belles pommes
            return a, ["de"]
        return a, ["des"] if plural else ["de", le] if mass else ["une" if noun.feminine else "un"]

    def all_of(self, nouns) -> Phrase:
        """A kind of thing in general, for which French has "the": milk, le lait; dogs, les chiens."""
        noun = self.pick(nouns)
        mass = noun.kind in MASS
        le = "les" if not mass else "la" if noun.feminine else "le"
        self.nouns.add(noun.en[0])
        return Phrase([noun.en[not mass]], [le, noun.fr[not mass]], nouns=(noun.en[0],))

    def subject(self, kind: str) -> Phrase:
        """A pronoun, a name, a noun phrase, or two names or relatives."""
        choice = self.random()
        if choice < 0.35:                           # I and we more often: they have verb forms of their own
            return self.pick(PRONOUNS + PRONOUNS[::3])
        if choice < 0.45:
            return self.pick(PEOPLE)
        if choice < 0.51:
            a, b = (self.pick(PEOPLE) if self.chance(0.5) else self.noun_phrase(nouns_of("kin"), "other", 0)
                    for _ in range(2))
            if a.en != b.en:
                return Phrase([*a.en, "and", *b.en], [*a.fr, "et", *b.fr], ILS, a.feminine and b.feminine,
                              a.nouns + b.nouns)
        return self.noun_phrase(nouns_of(kind), "subject")

    def with_preposition(self, en: str, fr: str, phrase: Phrase) -> Phrase:
        return phrase._replace(en=en.split() + phrase.en, fr=fr.split() + phrase.fr)

    def somewhere(self, kind: str) -> Phrase:
        """A place where a thing or a living being of this class may be."""
        choice = self.random()
        if choice < 0.35:
            en_fr, nouns = self.pick(PREPOSITIONS), "building landmark furniture tree bridge lake river"
        elif kind in ("person", "kin", "animal"):
            en_fr, nouns = ("in", "dans"), "inside"
        elif choice < 0.65:
            en_fr, nouns = ("in", "dans"), "container room car"
        else:
            en_fr, nouns = self.pick([("on", "sur"), ("under", "sous")]), "furniture"
        return self.with_preposition(*en_fr, self.noun_phrase(nouns_of(nouns), "other", 0.15))

    # -- clauses
    def mood(self, verb: Verb, subject: Phrase, asked: bool, modals: bool = True) -> Mood:
        """A mood that verb and subject may be in. Participles with être show the sex of "I" and "we" in French,
        but English does not show it, so they are left out."""
        base, past, ing = verb.en
        hidden = subject.person in (JE, NOUS) and (verb.fr.startswith("se ") or verb.fr in ETRE)
        state = past == ing == "-"
        tenses = ["present", "present", "present", "future", "used" if state and not asked else "future"]
        tenses += ["now", "now", "was", "near"] * (ing != "-") + ["past"] * 3 * (past != "-" and not hidden)
        if subject.person in (JE, NOUS):    # they have forms of their own in these tenses
            tenses += ["future", "future"] + ["was", "was"] * (ing != "-")
        tense = self.pick(tenses + list(MODALS) * (modals and not state and self.chance(0.25)))
        everything = subject.en[0] in ("all", "each")       # with "not" it would have two meanings
        if asked or tense == "used" or everything or self.chance(0.6):
            return Mood(tense)
        if tense == "present" and self.chance(0.5):
            return Mood(tense, "", self.pick(OFTEN))
        never = ["never"] * (tense in ("present", "past", "future")) + ["no longer"] * (tense == "present")
        return Mood(tense, self.pick(["not", "not", "not", *never]))

    def clause(self, verb: Verb, subject: Phrase, mood: Mood, asked: bool, *objects, pronoun=()) -> Clause:
        """Verb, objects and perhaps a time. pronoun: an object, (English, French, is it feminine?)."""
        auxiliary, en = english_verb(verb, subject.person, mood, asked)
        fr = french_verb(verb, subject, mood, pronoun[1:])
        en = en + list(pronoun[:1])
        if verb is not BE:
            self.relate(verb.en[0], subject, *objects)
        time = ([], [])
        if mood.tense in TIMES and mood.negation in ("", "not") and not mood.adverb and self.chance(0.15):
            time = self.pick(TIMES[mood.tense])
        return Clause(subject, auxiliary, sum([o.en for o in objects], en) + time[0],
                      sum([o.fr for o in objects], fr) + time[1])

    def does(self, asked=False, subject=None, without_object=False) -> Clause:
        """My sister is reading a letter; Paul sees her."""
        verb = self.pick(list(TRANSITIVE.values()))
        subject = subject or self.subject(verb.subjects)
        mood = self.mood(verb, subject, asked)
        people = any(noun.kind == "person" for noun in verb.objects)
        if without_object:
            return self.clause(verb, subject, mood, asked)
        if people and self.chance(0.25):
            pronouns = [("him", "le", False), ("her", "la", True)]
            if mood.tense != "past":            # the participle would show the sex of "them" and "me"
                pronouns.append(("them", "les", False))
                pronouns += [("me", "me", False)] * (subject.person not in (JE, NOUS))
            return self.clause(verb, subject, mood, asked, pronoun=self.pick(pronouns))
        if people and self.chance(0.15):
            return self.clause(verb, subject, mood, asked, self.pick(PEOPLE))
        role = "negated" if mood.negation else "object"
        if verb.en[0] in ("love", "hate", "know"):
            role = "certain"
        return self.clause(verb, subject, mood, asked, self.noun_phrase(verb.objects, role))

    def acts(self, asked=False, subject=None, place=True) -> Clause:
        """The dog sleeps in the garden; I laughed."""
        verb = self.pick([verb for verb in INTRANSITIVE.values() if verb.objects or place])
        subject, where = subject or self.subject(verb.subjects), []
        if place and verb.objects:
            where = [self.with_preposition("in", "dans", self.noun_phrase(verb.objects, "other", 0.15))]
        return self.clause(verb, subject, self.mood(verb, subject, asked, modals=False), asked, *where)

    def goes(self, asked=False, subject=None) -> Clause:
        """The boys went to the market."""
        verb = self.pick(list(MOTION.values()))
        subject, (en, fr) = subject or self.subject(verb.subjects), verb.prepositions.split()
        where = self.with_preposition(en.strip("-"), fr, self.noun_phrase(verb.objects, "other", 0.15))
        return self.clause(verb, subject, self.mood(verb, subject, asked, verb.fr != "tomber"), asked, where)

    def gives(self, asked=False, subject=None) -> Clause:
        """She will give a flower to the queen."""
        verb = self.pick(list(GIVING.values()))
        subject = subject or self.subject(verb.subjects)
        mood = self.mood(verb, subject, asked)
        what = self.noun_phrase(verb.objects, "negated" if mood.negation else "object", 0.15)
        whom = self.pick(PEOPLE) if self.chance(0.2) else self.noun_phrase(nouns_of("someone"), "other", 0.15)
        return self.clause(verb, subject, mood, asked, what, self.with_preposition("to", "à", whom))

    def plays(self, asked=False, subject=None) -> Clause:
        """He plays the piano: jouer de."""
        subject, what = subject or self.subject("someone"), self.noun_phrase(PLAY.objects, "the", 0)
        return self.clause(PLAY, subject, self.mood(PLAY, subject, asked, modals=False), asked,
                           self.with_preposition("", "de", what))

    def needs(self, asked=False, subject=None) -> Clause:
        """We need the key: avoir besoin de."""
        subject, what = subject or self.subject("someone"), self.noun_phrase(NEED.objects, "other")
        return self.clause(NEED, subject, self.mood(NEED, subject, asked, modals=False), asked,
                           self.with_preposition("", "besoin de", what))

    def likes(self, asked=False, subject=None) -> Clause:
        """Cats love milk: for milk in general French has "the", even after "ne … pas"."""
        verb = TRANSITIVE[self.pick(["love", "hate"])]
        what = self.all_of(nouns_of("animal fruit food dish drink"))
        subject = subject or (self.all_of(nouns_of("animal"))._replace(person=ILS) if self.chance(0.2) else
                              self.subject("living"))
        return self.clause(verb, subject, self.mood(verb, subject, asked, modals=False), asked, what)

    def be(self, subject: Phrase, asked: bool, what: Phrase, avoir=False, no_longer=True) -> Clause:
        """"is", or "has" in French (is hungry, a faim), and what follows. no_longer: "no longer" is allowed."""
        tense = self.pick(["present", "present", "was", "future"])
        mood = Mood(tense)
        if not asked and subject.en[0] not in ("all", "each") and self.chance(0.25):
            mood = Mood(tense, self.pick(["not", "not", "never", "no longer" if no_longer else "not"]))
        elif not asked and tense == "present" and self.chance(0.15):
            mood = Mood(tense, "", self.pick(OFTEN))
        auxiliary, en = english_verb(BE, subject.person, mood, asked)
        fr = french_verb(HAVE if avoir else BE, subject, mood)
        return Clause(subject, auxiliary, en + what.en, fr + what.fr)

    def adjective(self, subject: Phrase, name: str) -> Phrase:
        """An adjective that fits the subject, in its form. For "I" and "we", only one that does not show the
        sex."""
        known = [a for a in ADJECTIVE[name].values() if a.position != "before" or a.more]
        if subject.person in (JE, NOUS):
            known = [a for a in known if a.fr[0] == a.fr[1]]
        adjective = self.pick(known)
        self.relate(adjective.en, subject)
        return Phrase([adjective.en], [adjective.fr[subject.feminine][subject.person in (NOUS, ILS)]])

    def someone_is(self, asked=False, subject=None) -> Clause:
        """She is tired; he is hungry; I am afraid of the dog."""
        subject, choice = subject or self.subject("someone"), self.random()
        if choice < 0.3:
            en, fr = self.pick(IDIOMS)
            self.relate(en, subject)
            return self.be(subject, asked, Phrase([en], [fr]), avoir=True)
        if choice < 0.5:
            what = self.all_of(FEARED) if self.chance(0.5) else self.noun_phrase(FEARED, "other", 0.15)
            self.relate("afraid", what)
            return self.be(subject, asked, self.with_preposition("afraid of", "peur de", what), avoir=True)
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
        adjective = self.pick([a for a in ADJECTIVE[noun.en[0]].values() if a.more])
        others = [n for n in nouns_of(noun.kind) if adjective.en in ADJECTIVE[n.en[0]] and n != noun]
        a, b = (self.noun_phrase(nouns, "other", 0) for nouns in ([noun], others or [noun]))
        self.relate(adjective.en, a, b)
        en, fr = self.pick([(adjective.more + " than", "plus"), (f"as {adjective.en} as", "aussi"),
                            (f"less {adjective.en} than", "moins")])
        fr = [fr, adjective.fr[a.feminine][a.person == ILS], "que", *b.fr]
        return self.be(a, asked, Phrase(en.split() + b.en, fr), no_longer=False)       # "n'est plus plus …"

    def there_is(self, asked=False) -> Clause:
        """There are two cats under the table; there was no dog."""
        role = self.pick(["bare", "bare", "number", "number" if asked else "none"])
        what = self.noun_phrase(nouns_of("person animal portable"), role)
        mood = Mood(self.pick(["present", "was", "future"]))
        where = self.somewhere(NOUN[what.nouns[0]].kind)
        auxiliary, en = english_verb(BE, what.person, mood, asked)
        fr = french_verb(HAVE, THERE, mood._replace(negation="not" if role == "none" else ""), ("y", False))
        return Clause(THERE, auxiliary, en + what.en + where.en, fr + what.fr + where.fr)

    # -- sentences
    CLAUSES = [does] * 8 + [acts] * 4 + [goes] * 4 + [gives] * 3 + [plays, needs, likes]
    CLAUSES += [someone_is] * 3 + [something_is] * 4 + [comparison, there_is, there_is]

    def statement(self):
        clause = self.pick(self.CLAUSES)(self)
        (en, fr), subject, choice = clause.statement(), clause.subject, self.random()
        if choice < 0.08:                           # my mother says that …
            who, say = self.subject("someone"), self.pick(list(SAY))
            verb, mood = Verb((say, "-", "-"), SAY[say], "", (), ""), Mood("present")
            self.relate(say)
            en = [*who.en, *english_verb(verb, who.person, mood, False)[1], "that", *en]
            fr = [*who.fr, *french_verb(verb, who, mood), "que", *fr]
        elif choice < 0.16 and subject in PRONOUNS + PEOPLE:                    # … because he is tired
            who = subject if subject in PRONOUNS else PRONOUNS[1 + subject.feminine]
            why = self.someone_is(subject=who).statement()
            en, fr = [*en, "because", *why[0]], [*fr, "parce", "que", *why[1]]
        elif choice < 0.24 and any(NOUN[n].kind == "person" for n in subject.nouns):    # the man who … is …
            what = self.someone_is(subject=subject)
            en = [*subject.en, "who", *clause.auxiliary, *clause.en, *what.auxiliary, *what.en]
            fr = [*subject.fr, "qui", *clause.fr, *what.fr]
        return [*en, "."], [*fr, "."]

    def yes_or_no(self):
        en, fr = self.pick(self.CLAUSES)(self, asked=True).question()
        why = self.chance(0.2)
        return ["why"] * why + [*en, "?"], ["pourquoi"] * why + [*fr, "?"]

    def what(self):
        en, fr = self.does(asked=True, without_object=True).question()
        return ["what", *en, "?"], ["qu'est-ce", *fr[1:], "?"]

    def who(self):
        write = self.pick([self.does, self.acts, self.goes])
        en, fr = write(subject=Phrase(["who"], ["qui"])).statement()
        return [*en, "?"], [*fr, "?"]

    def where(self):
        if self.chance(0.5):
            en, fr = self.acts(asked=True, place=False).question()
            return ["where", *en, "?"], ["où", *fr, "?"]
        what = self.noun_phrase(nouns_of("living portable building"), "other")
        mood = Mood(self.pick(["present", "was"]))
        return (["where", *english_verb(BE, what.person, mood, True)[0], *what.en, "?"],
                ["où", *french_verb(BE, what, mood), *what.fr, "?"])

    def how_many(self):
        verb = TRANSITIVE[self.pick("eat buy sell see read write have carry draw take".split())]
        countable = [noun for noun in verb.objects if noun.kind not in (*MASS, "kin")]
        subject, what = self.subject(verb.subjects), self.noun_phrase(countable, "number", 0)
        mood = Mood(self.pick(["present", "future", "near"]))       # in the past the participle would agree
        en, fr = self.clause(verb, subject, mood, True).question()
        self.relate(verb.en[0], what)
        return ["how", "many", what.en[-1], *en, "?"], ["combien", "de", what.fr[-1], *fr, "?"]

    def what_a(self):
        nouns = [noun for noun in DESCRIBED if noun.kind not in (*MASS, "kin")]
        what = self.noun_phrase(nouns, "bare", 1)
        quel = agreed("quel" + "l" * what.feminine, what.feminine, what.person == ILS)
        return ["what", *what.en, "!"], [quel, *what.fr[1:], "!"]

    def this_is(self):
        what, no = self.noun_phrase(nouns_of("living goods building"), "own", 0.6), self.chance(0.2)
        plural, ne, pas = what.person == ILS, ["ne"] * no, ["pas"] * no
        ce = ["ce", *ne, "sont", *pas] if plural else ["ce", *ne, "est", *pas] if no else ["c'est"]
        return (["these" if plural else "this", "are" if plural else "is", *["not"] * no, *what.en, "."],
                [*ce, *what.fr, "."])

    SENTENCES = [statement] * 20 + [yes_or_no] * 3 + [what, who, where, how_many, what_a, this_is]

    def sentence(self):
        """(English, French), as printed."""
        twice = True
        while twice:                                # no noun twice: no prince gives a prince to a prince
            self.links, self.nouns, self.words = set(), set(), set()
            en, fr = self.pick(self.SENTENCES)(self)
            nouns = [NOUN_OF[word] for word in en if word in NOUN_OF]
            twice = len(nouns) > len(set(nouns))
        return join(en, " ([.,?!])"), join(link(fr))


def join(words, tight: str = r" ([.,)…%])") -> str:
    """The words as a sentence; by default French, with a space before ? and !. tight: the spaces to remove."""
    text = re.sub(r"(?<=['(]) ", "", re.sub(tight, r"\1", " ".join(words)))
    return text[:1].upper() + text[1:]
