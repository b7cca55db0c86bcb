"""The dictionary of the small English–French grammar in grammar.py, and how its words change.

Every form was checked by hand. Regular forms are made by rules; the others are in the tables.
"""
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

# ---- the tables

# {class of nouns} {gender in French}: English French, English French, …
# Plurals that the rules below would get wrong stand after a slash.
NOUNS = """
person m: man/men homme, boy garçon, king roi, prince prince, knight chevalier, pirate pirate,
    monk moine, postman/postmen facteur, fireman/firemen pompier, fisherman/fishermen pêcheur,
    giant géant, hero/heroes héros
person f: woman/women femme, girl fille, queen reine, princess princesse, lady dame,
    actress actrice, waitress serveuse, witch sorcière, fairy fée, countess comtesse
kin m: father père, brother frère, uncle oncle, son fils, nephew neveu,
    grandfather grand-père/grands-pères
kin f: mother mère, sister sœur, aunt tante, niece nièce, grandmother grand-mère/grands-mères
animal m: dog chien, cat chat, horse cheval, bird oiseau, pig cochon, rabbit lapin,
    wolf/wolves loup, fox renard, bear ours, lion lion, monkey singe, elephant éléphant,
    donkey âne, duck canard, snake serpent, squirrel écureuil, hedgehog hérisson, eagle aigle
animal f: cow vache, mouse/mice souris, frog grenouille, goat chèvre, hen poule,
    goose/geese oie, turtle tortue, giraffe girafe, spider araignée, ant fourmi
fruit m: lemon citron, melon melon, apricot abricot, pineapple ananas
fruit f: apple pomme, pear poire, cherry cerise, strawberry fraise, peach pêche, orange orange,
    banana banane
food m: cake gâteau, egg œuf, mushroom champignon, sandwich sandwich, biscuit biscuit,
    onion oignon
food f: carrot carotte, tomato/tomatoes tomate, olive olive, pancake crêpe
dish m: bread pain, cheese fromage, rice riz, chocolate chocolat, honey miel, butter beurre
dish f: meat viande, soup soupe, jam confiture
drink m: milk lait, wine vin, coffee café, tea thé, juice jus
drink f: water eau, beer bière
text m: book livre, newspaper journal, poem poème, novel roman
text f: letter lettre, story histoire
clothing m: hat chapeau, coat manteau, glove gant, suit costume
clothing f: shirt chemise, dress robe, skirt jupe, scarf/scarves écharpe, shoe chaussure,
    boot botte, sock chaussette, jacket veste, tie cravate, belt ceinture
thing m: knife/knives couteau, mirror miroir, umbrella parapluie, pencil crayon, hammer marteau,
    toy jouet, gift cadeau, telephone téléphone, computer ordinateur, painting tableau,
    vase vase, necklace collier
thing f: key clé, cup tasse, plate assiette, bottle bouteille, lamp lampe, clock horloge,
    candle bougie, ladder échelle, doll poupée, ring bague, axe hache, sword épée,
    spoon cuillère, crown couronne
flower f: flower fleur, rose rose, tulip tulipe
container m: bag sac, basket panier, drawer tiroir
container f: box boîte, suitcase valise
furniture m: bed lit, bench banc, armchair fauteuil, desk bureau, carpet tapis
furniture f: table table, chair chaise
opening m: gate portail
opening f: door porte, window fenêtre
car m: truck camion, bus bus, tractor tracteur
car f: car voiture
craft m: boat bateau, train train, plane avion, bicycle vélo
instrument m: piano piano, violin violon, drum tambour, accordion accordéon
instrument f: guitar guitare, flute flûte, trumpet trompette, harp harpe
building m: castle château, museum musée, theatre théâtre, hotel hôtel, hospital hôpital,
    shop magasin, restaurant restaurant, airport aéroport
building f: house maison, church église, school école, library bibliothèque, factory usine,
    bank banque, bakery boulangerie, prison prison, cathedral cathédrale
room m: attic grenier
room f: kitchen cuisine, bedroom chambre, cellar cave, tent tente
outside m: garden jardin, park parc, market marché, village village
outside f: forest forêt, town ville, cave grotte
way m: bridge pont, lake lac, field champ, desert désert
way f: river rivière, road route, street rue
landmark m: tree arbre, wall mur, mill moulin
landmark f: tower tour, fountain fontaine, statue statue, hill colline, mountain montagne
"""

# A name for several classes of nouns.
GROUPS = {
    "someone": "person kin", "living": "person kin animal", "edible": "fruit food dish",
    "goods": "text clothing thing flower container furniture car craft instrument fruit food dish "
             "drink",
    "portable": "text clothing thing flower container instrument", "vehicle": "car craft",
    "place": "building outside", "inside": "building room outside",
}

# {position}: {classes of nouns, groups or single nouns}: English French, …
# The position in French is before the noun; after it; after it, and never compared ("plain"); or
# after it, as all colours and nationalities are, which are never compared either ("colour").
# Feminine forms that the rules would get wrong stand after a slash, and so do comparatives. Of
# those before the noun, only adjectives with a comparative here are compared.
ADJECTIVES = """
before:
    person animal text clothing thing flower furniture vehicle instrument place way landmark:
    beautiful beau/belle
before: person animal text clothing thing furniture vehicle instrument building landmark:
    old/older vieux/vieille
before: portable vehicle furniture building: new nouveau/nouvelle
before: animal thing fruit container furniture building outside landmark way:
    small/smaller petit
before: furniture container vehicle building room outside landmark way mirror:
    large/larger grand
before: animal fruit food container: big/bigger gros/grosse
before: person tree tower: tall/taller grand
before: person kin animal: young/younger jeune
before: person kin: kind gentil/gentille
before: fruit food dish drink text: good bon/bonne
before: dish drink text: bad mauvais
before: clothing thing flower outside: pretty/prettier joli
before: text bridge river road street: long/longer long/longue
after: person kin: happy/happier heureux, sad/sadder triste, rich/richer riche, famous célèbre,
    polite poli, shy/shyer timide, clever/cleverer intelligent, brave/braver courageux,
    jealous jaloux/jalouse, proud/prouder fier/fière, worried inquiet/inquiète,
    generous généreux, patient patient, funny/funnier drôle
after: person kin animal: tired fatigué, sick/sicker malade, curious curieux,
    lazy/lazier paresseux, strong/stronger fort
after: animal: wild/wilder sauvage, dangerous dangereux
after: animal vehicle: fast/faster rapide, slow/slower lent
after: thing container furniture: heavy/heavier lourd, strange/stranger étrange, fragile fragile
after: thing clothing vehicle furniture: expensive cher/chère, precious précieux
after: thing clothing container vehicle room way: dirty/dirtier sale
plain: container room building street: empty vide
after: text: interesting intéressant, boring ennuyeux, difficult difficile, short/shorter court
after: fruit: ripe/riper mûr
after: fruit food dish: delicious délicieux
after: dish drink: hot/hotter chaud, cold/colder froid
after: building: modern moderne, famous célèbre
after: room outside street: dark/darker sombre, quiet/quieter tranquille
after: bridge river road street: narrow/narrower étroit, dangerous dangereux
colour: clothing thing container furniture vehicle flower opening: red rouge, blue bleu,
    green vert, yellow jaune, pink rose, purple violet/violette
colour: clothing container furniture vehicle opening animal: black noir, white blanc/blanche,
    grey gris, brown marron!
colour: person text car restaurant museum bank: French français, English anglais,
    German allemand, Italian italien/italienne, American américain, Russian russe
"""     # marron!: never changes

# English: base, past, -ing form ("-": none, or none whose French is certain); French; subjects;
# objects
VERBS = """
eat ate eating; manger; living; edible
drink drank drinking; boire; someone; drink
prepare prepared preparing; préparer; someone; dish drink
buy bought buying; acheter; someone; goods
sell sold selling; vendre; someone; goods building
read - reading; lire; someone; text
write wrote writing; écrire; someone; text
translate translated translating; traduire; someone; text
finish finished finishing; finir; someone; text
understand understood -; comprendre; someone; someone text
wear wore wearing; porter; someone; clothing
carry carried carrying; porter; someone; thing container furniture instrument
wash washed washing; laver; someone; clothing car
find found -; trouver; living; portable fruit animal
lose lost -; perdre; someone; portable
look_for looked_for looking_for; chercher; living; portable living
hide hid hiding; cacher; someone; thing text container
break broke breaking; casser; someone; thing furniture
repair repaired repairing; réparer; someone; vehicle furniture instrument clock
draw drew drawing; dessiner; someone; animal building landmark flower
paint painted painting; peindre; someone; furniture opening landmark building
watch watched watching; regarder; living; person animal vehicle
see saw -; voir; living; living portable vehicle place way landmark
hear heard -; entendre; living; living vehicle instrument
meet met -; rencontrer; someone; living
help helped helping; aider; someone; someone
follow followed following; suivre; living; living vehicle
thank thanked thanking; remercier; someone; someone
invite invited inviting; inviter; someone; someone
punish punished punishing; punir; someone; someone
protect protected protecting; protéger; living; living building
call called calling; appeler; someone; someone animal
feed fed feeding; nourrir; someone; animal
visit visited visiting; visiter; someone; place
leave left leaving; quitter; living; inside
build built building; construire; someone; building landmark
cross crossed crossing; traverser; living; way outside
open opened opening; ouvrir; someone; opening container
close closed closing; fermer; someone; opening container
push pushed pushing; pousser; living; furniture car
pull pulled pulling; tirer; living; furniture
touch touched touching; toucher; living; thing furniture animal
pick picked picking; cueillir; someone; flower fruit
take took taking; prendre; someone; portable
steal stole stealing; voler; someone; thing car
borrow borrowed borrowing; emprunter; someone; text thing car instrument
choose chose choosing; choisir; someone; clothing text thing flower
receive received -; recevoir; someone; text thing flower
forget forgot -; oublier; someone; portable
drive drove driving; conduire; someone; car
describe described describing; décrire; someone; place animal landmark
admire admired admiring; admirer; someone; someone building text
know - -; connaître; someone; someone text place
love - -; aimer; living; living text
hate - -; détester; living; living text
have - -; avoir; someone; goods animal kin
"""

# The same, of verbs without an object: at the end, where it may happen.
ALONE = """
sleep slept sleeping; dormir; living; inside
sing sang singing; chanter; someone; inside
dance danced dancing; danser; someone; inside
walk walked walking; marcher; living; outside street field desert
run ran running; courir; living; outside street field desert
swim swam swimming; nager; living;
work worked working; travailler; someone; building
play played playing; jouer; living; inside
wait waited waiting; attendre; living; inside
laugh laughed laughing; rire; someone;
smile smiled smiling; sourire; someone;
cry cried crying; pleurer; someone; inside
dream dreamt dreaming; rêver; living;
rest rested resting; se reposer; living; inside
wake_up woke_up waking_up; se réveiller; living;
get_up got_up getting_up; se lever; living;
live - -; habiter; someone; inside
"""

# The same, of verbs of motion: at the end, the prepositions before the place ("-": none).
GOING = """
go went going; aller; living; place; to à
arrive arrived arriving; arriver; living; place; at à
come_back came_back coming_back; revenir; living; place way; from de
enter entered entering; entrer; living; building outside; - dans
stay stayed staying; rester; living; inside; in dans
fall fell falling; tomber; living; lake river fountain; into dans
"""

# The same, of verbs with two objects: what is given; the other one is a person.
GIVE = """
give gave giving; donner; someone; portable fruit
show showed showing; montrer; someone; portable
send sent sending; envoyer; someone; text flower thing
lend lent lending; prêter; someone; text thing instrument car
offer offered offering; offrir; someone; flower thing clothing
bring brought bringing; apporter; someone; portable fruit food
"""

# French verbs: the present with je, il, nous and ils; the participle; the stem of the future.
IRREGULAR = """
avoir: ai a avons ont, eu, aur
être: suis est sommes sont, été, ser
aller: vais va allons vont, allé, ir
acheter: achète achète achetons achètent, acheté, achèter
appeler: appelle appelle appelons appellent, appelé, appeller
boire: bois boit buvons boivent, bu, boir
conduire: conduis conduit conduisons conduisent, conduit, conduir
connaître: connais connaît connaissons connaissent, connu, connaîtr
construire: construis construit construisons construisent, construit, construir
courir: cours court courons courent, couru, courr
cueillir: cueille cueille cueillons cueillent, cueilli, cueiller
devoir: dois doit devons doivent, dû, devr
dire: dis dit disons disent, dit, dir
dormir: dors dort dormons dorment, dormi, dormir
écrire: écris écrit écrivons écrivent, écrit, écrir
décrire: décris décrit décrivons décrivent, décrit, décrir
envoyer: envoie envoie envoyons envoient, envoyé, enverr
espérer: espère espère espérons espèrent, espéré, espérer
lever: lève lève levons lèvent, levé, lèver
lire: lis lit lisons lisent, lu, lir
offrir: offre offre offrons offrent, offert, offrir
ouvrir: ouvre ouvre ouvrons ouvrent, ouvert, ouvrir
peindre: peins peint peignons peignent, peint, peindr
pouvoir: peux peut pouvons peuvent, pu, pourr
prendre: prends prend prenons prennent, pris, prendr
comprendre: comprends comprend comprenons comprennent, compris, comprendr
protéger: protège protège protégeons protègent, protégé, protéger
recevoir: reçois reçoit recevons reçoivent, reçu, recevr
rire: ris rit rions rient, ri, rir
sourire: souris sourit sourions sourient, souri, sourir
savoir: sais sait savons savent, su, saur
suivre: suis suit suivons suivent, suivi, suivr
traduire: traduis traduit traduisons traduisent, traduit, traduir
revenir: reviens revient revenons reviennent, revenu, reviendr
voir: vois voit voyons voient, vu, verr
vouloir: veux veut voulons veulent, voulu, voudr
"""

IDIOMS = [                  # to be … is avoir …
    ("hungry", "faim"), ("thirsty", "soif"), ("cold", "froid"), ("hot", "chaud"),
    ("sleepy", "sommeil"), ("right", "raison"), ("wrong", "tort"), ("ashamed", "honte"),
]
NAMES = ("Marie f, Paul m, Julie f, Louis m, Anne f, Pierre m, Sophie f, Olivier m, Alice f, "
         "Thomas m")
WHEN = {    # the words for a time that go with each tense
    "present": "every_day tous_les_jours, in_the_morning le_matin, in_the_evening le_soir, "
               "at_night la_nuit",
    "now": "today aujourd'hui, now maintenant, this_evening ce_soir",
    "past": "yesterday hier, this_morning ce_matin, last_week la_semaine_dernière",
    "was": "yesterday hier, this_morning ce_matin, last_night la_nuit_dernière",
    "used": "in_the_morning le_matin, every_day tous_les_jours, at_night la_nuit",
    "future": "tomorrow demain, next_week la_semaine_prochaine, next_year l'année_prochaine, "
              "soon bientôt",
    "near": "tomorrow demain, next_week la_semaine_prochaine, soon bientôt, this_evening ce_soir",
}
OFTEN = [("often", "souvent"), ("always", "toujours"), ("sometimes", "parfois"),
         ("rarely", "rarement")]
NEVER = {"not": "pas", "never": "jamais", "no longer": "plus"}
PREPOSITIONS = [("behind", "derrière"), ("in front of", "devant"), ("near", "près de"),
                ("far from", "loin de"), ("next to", "à côté de")]
NUMBERS = [("two", "deux"), ("three", "trois"), ("four", "quatre"), ("five", "cinq"),
           ("six", "six"), ("ten", "dix"), ("several", "plusieurs"), ("many", "beaucoup de")]
MODALS = {"want": "vouloir", "hope": "espérer", "can": "pouvoir", "must": "devoir"}
OWNERS = {                  # masculine, feminine, plural
    "my": ("mon", "ma", "mes"), "his": ("son", "sa", "ses"), "her": ("son", "sa", "ses"),
    "our": ("notre", "notre", "nos"), "their": ("leur", "leur", "leurs"),
}
CONTRACTIONS = {("de", "le"): "du", ("de", "les"): "des", ("à", "le"): "au", ("à", "les"): "aux"}
ETRE = ("aller", "arriver", "revenir", "entrer", "rester", "tomber")    # their past is with être
SAY = {"say": "dire", "think": "penser", "know": "savoir", "hope": "espérer"}
ASPIRATED = ("hach", "harp", "hériss", "héros")     # le héros, not l'héros; all other h are mute

JE, IL, NOUS, ILS = range(4)    # persons: I; he, she or it; we; they


# ---- how words change

def english_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb."""
    if word.endswith("y") and word[-2] not in "aeou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word + "s"


def french_plural(word: str) -> str:
    """The plural of a noun or an adjective: cheval, chevaux."""
    if word[-1] in "sx":
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    if word.endswith(("eau", "eu")) and word != "bleu":
        return word + "x"
    return word + "s"


def french_feminine(word: str) -> str:
    """The feminine of an adjective: heureux, heureuse."""
    if word[-1] == "e":
        return word
    if word[-1] == "x":
        return word[:-1] + "se"
    return word + "e"


def agreed(word: str, feminine: bool, plural: bool) -> str:
    """A participle, given in the masculine, in the form that agrees."""
    if feminine:
        word += "e"
    return french_plural(word) if plural else word


def elides(word: str) -> bool:
    """Does le become l' before this word? It does before vowels, and before h except in
    ASPIRATED."""
    first = unicodedata.normalize("NFD", word.lower())[0]       # without its accent
    if first == "h":
        return not word.startswith(ASPIRATED)
    return first in "aeiouyœ"


def link(words: list) -> list:
    """Elision and contraction: je aime -> j'aime, de le -> du, à le homme -> à l'homme."""
    linked = []
    for word, following in zip(words, [*words[1:], "."]):
        can_elide = word in ("le", "la", "je", "me", "se", "ne", "de", "que")
        if can_elide and elides(following):
            word = word[:-1] + "'"
        if linked and (linked[-1], word) in CONTRACTIONS:
            before = linked.pop()
            word = CONTRACTIONS[before, word]
        linked.append(word)
    return linked


@lru_cache(maxsize=None)
def conjugate(verb: str, tense: str, person: int = IL) -> str:
    """The présent, imparfait, futur or (masculine) participe of a verb given by its infinitive."""
    present, participle, future = principal_parts(verb)
    if tense == "présent":
        return present[person]
    if tense == "participe":
        return participle
    if tense == "futur":
        return future + ("ai", "a", "ons", "ont")[person]

    # the imparfait has the stem of nous in the present: nous buvons, je buvais
    stem = "ét" if verb == "être" else present[NOUS].removesuffix("ons")
    if person == NOUS:                                  # mangeait, but mangions
        stem = re.sub("ge$", "g", stem)
    return stem + ("ais", "ait", "ions", "aient")[person]


def principal_parts(verb: str) -> tuple:
    """(the present with je, il, nous and ils, the masculine participle, the stem of the future)."""
    if verb in IRREGULARS:
        return IRREGULARS[verb]
    stem = verb[:-2]
    ending = verb[-2:]
    if ending == "er":
        soft = stem + "e" if stem[-1] == "g" else stem          # before o and a: mangeons, mangeait
        return (stem + "e", stem + "e", soft + "ons", stem + "ent"), stem + "é", verb
    if ending == "ir":
        return (stem + "is", stem + "it", stem + "issons", stem + "issent"), stem + "i", verb
    return (stem + "s", stem, stem + "ons", stem + "ent"), stem + "u", verb[:-1]


# ---- reading the tables

class Noun(NamedTuple):
    en: tuple           # singular, plural
    fr: tuple
    feminine: bool
    kind: str           # its class in NOUNS

    def english(self, plural: bool) -> str:
        return self.en[1] if plural else self.en[0]

    def french(self, plural: bool) -> str:
        return self.fr[1] if plural else self.fr[0]


class Adjective(NamedTuple):
    en: str
    more: str           # the comparative in English; "" if it is not compared
    fr: tuple           # (masculine, its plural), (feminine, its plural)
    position: str       # that in ADJECTIVES: "before", "after", "plain" or "colour"

    def french(self, feminine: bool, plural: bool) -> str:
        singular_form, plural_form = self.fr[1] if feminine else self.fr[0]
        return plural_form if plural else singular_form


class Verb(NamedTuple):
    en: tuple           # base, past, -ing form; "-": it has none
    fr: str
    subjects: str       # a class or group
    objects: tuple      # nouns; for verbs without an object, places where it may happen
    prepositions: str   # before these nouns: English, French


def rows(table: str, separator: str) -> list:
    """The lines of a table, cut into fields; an indented line continues the one before it."""
    lines = re.sub("\n +", " ", table.strip()).split("\n")
    return [[field.strip() for field in line.split(separator)] for line in lines]


def with_forms(entry: str, *rules) -> list:
    """'man/men homme' -> [('man', 'men'), ('homme', 'hommes')]; a missing form is made by the
    rule, one for each word."""
    forms = []
    for word, rule in zip(entry.split(), rules):
        form, *second = word.split("/")
        forms.append((form, second[0] if second else rule(form)))
    return forms


def _read_nouns() -> dict:
    """{English: Noun}."""
    nouns = {}
    for title, entries in rows(NOUNS, ":"):
        kind, gender = title.split()
        for entry in entries.split(", "):
            en, fr = with_forms(entry, english_s, french_plural)
            nouns[en[0]] = Noun(en, fr, gender == "f", kind)
    return nouns


@lru_cache(maxsize=None)
def nouns_of(kinds: str) -> tuple:
    """All nouns of some classes, groups of classes, or single nouns, separated by blanks."""
    found = []
    for kind in kinds.split():
        if kind in GROUPS:
            found += nouns_of(GROUPS[kind])
        else:
            found += [noun for noun in NOUN.values() if kind in (noun.kind, noun.en[0])]
    return tuple(found)


def _read_adjectives() -> dict:
    """{noun: {adjective: Adjective}}: the adjectives that make sense with each noun."""
    known = {name: {} for name in NOUN}
    for position, kinds, entries in rows(ADJECTIVES, ":"):
        for entry in entries.split(", "):
            never_changes = entry.endswith("!")
            english, french = with_forms(entry.removesuffix("!"), "more {}".format,
                                         french_feminine)
            base, comparative = english
            masculine, feminine = french
            forms = ((masculine, french_plural(masculine)), (feminine, french_plural(feminine)))
            if never_changes:
                forms = ((masculine, masculine), (masculine, masculine))
            comparative_is_given = "/" in entry.split()[0]
            is_compared = position == "after" or (position == "before" and comparative_is_given)
            adjective = Adjective(base, comparative if is_compared else "", forms, position)
            for noun in nouns_of(kinds):
                known[noun.en[0]].setdefault(base, adjective)
    return known


def _read_verbs(table: str) -> dict:
    """{base form in English: Verb}; verbs of two words are joined, like look_for."""
    verbs = {}
    for english, french, subjects, objects, *prepositions in rows(table, ";"):
        forms = tuple(english.split())
        preposition = prepositions[0] if prepositions else ""
        verbs[forms[0]] = Verb(forms, french, subjects, nouns_of(objects), preposition)
    return verbs


def _read_irregular() -> dict:
    """{infinitive: its principal_parts}."""
    verbs = {}
    for verb, forms in rows(IRREGULAR, ":"):
        present, participle, future = forms.split(", ")
        verbs[verb] = (tuple(present.split()), participle, future)
    return verbs


def _read_times() -> dict:
    """{tense: [[English words, French words], …]}."""
    times = {}
    for tense, entries in WHEN.items():
        times[tense] = []
        for entry in entries.split(", "):
            en, fr = entry.split()
            times[tense].append([en.replace("_", " ").split(), fr.replace("_", " ").split()])
    return times


NOUN = _read_nouns()
ADJECTIVE = _read_adjectives()
IRREGULARS = _read_irregular()
TRANSITIVE = _read_verbs(VERBS)
INTRANSITIVE = _read_verbs(ALONE)
MOTION = _read_verbs(GOING)
GIVING = _read_verbs(GIVE)
TIMES = _read_times()
