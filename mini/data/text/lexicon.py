"""The dictionary of the small English–French grammar in grammar.py, and how its words change.

Every form was checked by hand. Regular forms are made by rules; the others are in the tables.
"""
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

# ---- the tables. Forms that the rules below would get wrong stand after a slash: plural, feminine, comparative.
NOUNS = """
person m: man/men homme, boy garçon, king roi, prince prince, knight chevalier, pirate pirate, monk moine,
    postman/postmen facteur, fireman/firemen pompier, fisherman/fishermen pêcheur, giant géant,
    hero/heroes héros
person f: woman/women femme, girl fille, queen reine, princess princesse, lady dame, actress actrice,
    waitress serveuse, witch sorcière, fairy fée, countess comtesse
kin m: father père, brother frère, uncle oncle, son fils, nephew neveu, grandfather grand-père/grands-pères
kin f: mother mère, sister sœur, aunt tante, niece nièce, grandmother grand-mère/grands-mères
animal m: dog chien, cat chat, horse cheval, bird oiseau, pig cochon, rabbit lapin, wolf/wolves loup,
    fox renard, bear ours, lion lion, monkey singe, elephant éléphant, donkey âne, duck canard, snake serpent,
    squirrel écureuil, hedgehog hérisson, eagle aigle
animal f: cow vache, mouse/mice souris, frog grenouille, goat chèvre, hen poule, goose/geese oie,
    turtle tortue, giraffe girafe, spider araignée, ant fourmi
fruit m: lemon citron, melon melon, apricot abricot, pineapple ananas
fruit f: apple pomme, pear poire, cherry cerise, strawberry fraise, peach pêche, orange orange, banana banane
food m: cake gâteau, egg œuf, mushroom champignon, sandwich sandwich, biscuit biscuit, onion oignon
food f: carrot carotte, tomato/tomatoes tomate, olive olive, pancake crêpe
dish m: bread pain, cheese fromage, rice riz, chocolate chocolat, honey miel, butter beurre
dish f: meat viande, soup soupe, jam confiture
drink m: milk lait, wine vin, coffee café, tea thé, juice jus
drink f: water eau, beer bière
text m: book livre, newspaper journal, poem poème, novel roman
text f: letter lettre, story histoire
clothing m: hat chapeau, coat manteau, glove gant, suit costume
clothing f: shirt chemise, dress robe, skirt jupe, scarf/scarves écharpe, shoe chaussure, boot botte,
    sock chaussette, jacket veste, tie cravate, belt ceinture
thing m: knife/knives couteau, mirror miroir, umbrella parapluie, pencil crayon, hammer marteau, toy jouet,
    gift cadeau, telephone téléphone, computer ordinateur, painting tableau, vase vase, necklace collier
thing f: key clé, cup tasse, plate assiette, bottle bouteille, lamp lampe, clock horloge, candle bougie,
    ladder échelle, doll poupée, ring bague, axe hache, sword épée, spoon cuillère, crown couronne
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
building m: castle château, museum musée, theatre théâtre, hotel hôtel, hospital hôpital, shop magasin,
    restaurant restaurant, airport aéroport
building f: house maison, church église, school école, library bibliothèque, factory usine, bank banque,
    bakery boulangerie, prison prison, cathedral cathédrale
room m: attic grenier
room f: kitchen cuisine, bedroom chambre, cellar cave, tent tente
outside m: garden jardin, park parc, market marché, village village
outside f: forest forêt, town ville, cave grotte
way m: bridge pont, lake lac, field champ, desert désert
way f: river rivière, road route, street rue
landmark m: tree arbre, wall mur, mill moulin
landmark f: tower tour, fountain fontaine, statue statue, hill colline, mountain montagne
"""
GROUPS = {      # a name for several classes of nouns
    "someone": "person kin", "living": "person kin animal", "edible": "fruit food dish",
    "goods": "text clothing thing flower container furniture car craft instrument fruit food dish drink",
    "portable": "text clothing thing flower container instrument", "vehicle": "car craft",
    "place": "building outside", "inside": "building room outside",
}
ADJECTIVES = """
before: person animal text clothing thing flower furniture vehicle instrument place way landmark: beautiful
    beau/belle
before: person animal text clothing thing furniture vehicle instrument building landmark: old/older
    vieux/vieille
before: portable vehicle furniture building: new nouveau/nouvelle
before: animal thing fruit container furniture building outside landmark way: small/smaller petit
before: furniture container vehicle building room outside landmark way mirror: large/larger grand
before: animal fruit food container: big/bigger gros/grosse
before: person tree tower: tall/taller grand
before: person kin animal: young/younger jeune
before: person kin: kind gentil/gentille
before: fruit food dish drink text: good bon/bonne
before: dish drink text: bad mauvais
before: clothing thing flower outside: pretty/prettier joli
before: text bridge river road street: long/longer long/longue
after: person kin: happy/happier heureux, sad/sadder triste, rich/richer riche, famous célèbre, polite poli,
    shy/shyer timide, clever/cleverer intelligent, brave/braver courageux, jealous jaloux/jalouse,
    proud/prouder fier/fière, worried inquiet/inquiète, generous généreux, patient patient,
    funny/funnier drôle
after: person kin animal: tired fatigué, sick/sicker malade, curious curieux, lazy/lazier paresseux,
    strong/stronger fort
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
colour: clothing thing container furniture vehicle flower opening: red rouge, blue bleu, green vert,
    yellow jaune, pink rose, purple violet/violette
colour: clothing container furniture vehicle opening animal: black noir, white blanc/blanche, grey gris,
    brown marron!
colour: person text car restaurant museum bank: French français, English anglais, German allemand,
    Italian italien/italienne, American américain, Russian russe
"""     # marron!: never changes
# English: base, past, -ing form ("-": none, or none whose French is certain); French; subjects; objects
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
GOING = """
go went going; aller; living; place; to à
arrive arrived arriving; arriver; living; place; at à
come_back came_back coming_back; revenir; living; place way; from de
enter entered entering; entrer; living; building outside; - dans
stay stayed staying; rester; living; inside; in dans
fall fell falling; tomber; living; lake river fountain; into dans
"""
GIVE = """
give gave giving; donner; someone; portable fruit
show showed showing; montrer; someone; portable
send sent sending; envoyer; someone; text flower thing
lend lent lending; prêter; someone; text thing instrument car
offer offered offering; offrir; someone; flower thing clothing
bring brought bringing; apporter; someone; portable fruit food
"""
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
IDIOMS = [("hungry", "faim"), ("thirsty", "soif"), ("cold", "froid"), ("hot", "chaud"), ("sleepy", "sommeil"),
          ("right", "raison"), ("wrong", "tort"), ("ashamed", "honte")]
NAMES = "Marie f, Paul m, Julie f, Louis m, Anne f, Pierre m, Sophie f, Olivier m, Alice f, Thomas m"
WHEN = {    # the words for a time that go with each tense
    "present": "every_day tous_les_jours, in_the_morning le_matin, in_the_evening le_soir, at_night la_nuit",
    "now": "today aujourd'hui, now maintenant, this_evening ce_soir",
    "past": "yesterday hier, this_morning ce_matin, last_week la_semaine_dernière",
    "was": "yesterday hier, this_morning ce_matin, last_night la_nuit_dernière",
    "used": "in_the_morning le_matin, every_day tous_les_jours, at_night la_nuit",
    "future": "tomorrow demain, next_week la_semaine_prochaine, next_year l'année_prochaine, soon bientôt",
    "near": "tomorrow demain, next_week la_semaine_prochaine, soon bientôt, this_evening ce_soir",
}
OFTEN = [("often", "souvent"), ("always", "toujours"), ("sometimes", "parfois"), ("rarely", "rarement")]
NEVER = {"not": "pas", "never": "jamais", "no longer": "plus"}
PREPOSITIONS = [("behind", "derrière"), ("in front of", "devant"), ("near", "près de"),
                ("far from", "loin de"), ("next to", "à côté de")]
NUMBERS = [("two", "deux"), ("three", "trois"), ("four", "quatre"), ("five", "cinq"), ("six", "six"),
           ("ten", "dix"), ("several", "plusieurs"), ("many", "beaucoup de")]
MODALS = {"want": "vouloir", "hope": "espérer", "can": "pouvoir", "must": "devoir"}
OWNERS = {"my": ("mon", "ma", "mes"), "his": ("son", "sa", "ses"), "her": ("son", "sa", "ses"),
          "our": ("notre", "notre", "nos"), "their": ("leur", "leur", "leurs")}
CONTRACTIONS = {("de", "le"): "du", ("de", "les"): "des", ("à", "le"): "au", ("à", "les"): "aux"}
ETRE = ("aller", "arriver", "revenir", "entrer", "rester", "tomber")     # their past is made with être
SAY = {"say": "dire", "think": "penser", "know": "savoir", "hope": "espérer"}
ASPIRATED = ("hach", "harp", "hériss", "héros")     # le héros, not l'héros; all other h here are mute

JE, IL, NOUS, ILS = range(4)    # persons: I; he, she or it; we; they


# ---- how words change
def english_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb."""
    if word.endswith("y") and word[-2] not in "aeou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def french_plural(word: str) -> str:
    if word[-1] in "sx":
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith(("eau", "eu")) and word != "bleu" else "s")


def french_feminine(word: str) -> str:
    return word if word[-1] == "e" else word[:-1] + "se" if word[-1] == "x" else word + "e"


def agreed(word: str, feminine: bool, plural: bool) -> str:
    """A participle, given in the masculine, in the form that agrees."""
    word += "e" * feminine
    return french_plural(word) if plural else word


def elides(word: str) -> bool:
    """Does le become l' before this word? It does before vowels, and before h except in ASPIRATED."""
    first = unicodedata.normalize("NFD", word.lower())[0]
    return first in "aeiouyœ" or first == "h" and not word.startswith(ASPIRATED)


def link(words: list) -> list:
    """Elision and contraction: je aime -> j'aime, de le -> du, à le homme -> à l'homme."""
    out = []
    for word, following in zip(words, [*words[1:], "."]):
        if word in ("le", "la", "je", "me", "se", "ne", "de", "que") and elides(following):
            word = word[:-1] + "'"
        if out and (out[-1], word) in CONTRACTIONS:
            word = CONTRACTIONS[out.pop(), word]
        out.append(word)
    return out


@lru_cache(maxsize=None)
def conjugate(verb: str, tense: str, person: int = IL) -> str:
    """The présent, imparfait, futur or (masculine) participe of a verb given by its infinitive."""
    stem, ending = verb[:-2], verb[-2:]
    if verb in IRREGULARS:
        present, participle, future = IRREGULARS[verb]
    elif ending == "er":
        soft = stem + "e" * (stem[-1] == "g")           # before o and a: mangeons, mangeait
        present, participle, future = (stem + "e", stem + "e", soft + "ons", stem + "ent"), stem + "é", verb
    elif ending == "ir":
        present = stem + "is", stem + "it", stem + "issons", stem + "issent"
        participle, future = stem + "i", verb
    else:
        present, participle, future = (stem + "s", stem, stem + "ons", stem + "ent"), stem + "u", verb[:-1]
    if tense == "présent":
        return present[person]
    if tense == "participe":
        return participle
    if tense == "futur":
        return future + ("ai", "a", "ons", "ont")[person]
    stem = "ét" if verb == "être" else present[NOUS].removesuffix("ons")
    if person == NOUS:                                  # but mangions
        stem = re.sub("ge$", "g", stem)
    return stem + ("ais", "ait", "ions", "aient")[person]


# ---- reading the tables
class Noun(NamedTuple):
    en: tuple           # singular, plural
    fr: tuple
    feminine: bool
    kind: str           # its class in NOUNS


class Adjective(NamedTuple):
    en: str
    more: str           # the comparative in English; "" if it is not compared
    fr: tuple           # (masculine, its plural), (feminine, its plural)
    position: str       # in French: before or behind the noun; a colour or nationality always behind


class Verb(NamedTuple):
    en: tuple           # base, past, -ing form; "-": it has none
    fr: str
    subjects: str       # a class or group
    objects: tuple      # nouns; for verbs without an object, places where it may happen
    prepositions: str   # before these nouns: English, French


def rows(table: str, separator: str) -> list:
    """The lines of a table, cut into fields; an indented line continues the one before it."""
    return [[field.strip() for field in row.split(separator)]
            for row in re.sub("\n +", " ", table.strip()).split("\n")]


def with_forms(entry: str, *rules) -> list:
    """'man/men homme' -> [('man', 'men'), ('homme', 'hommes')]; a missing form is made by the rule."""
    words = [word.split("/") for word in entry.split()]
    return [tuple(word) if len(word) == 2 else (*word, rule(*word)) for word, rule in zip(words, rules)]


def _read_nouns() -> dict:
    nouns = {}
    for title, entries in rows(NOUNS, ":"):
        kind, gender = title.split()
        for entry in entries.split(", "):
            noun = Noun(*with_forms(entry, english_s, french_plural), gender == "f", kind)
            nouns[noun.en[0]] = noun
    return nouns


@lru_cache(maxsize=None)
def nouns_of(kinds: str) -> tuple:
    """All nouns of some classes, groups of classes, or single nouns, separated by blanks."""
    found = []
    for kind in kinds.split():
        found += nouns_of(GROUPS[kind]) if kind in GROUPS else \
            [noun for noun in NOUN.values() if kind in (noun.kind, noun.en[0])]
    return tuple(found)


def _read_adjectives() -> dict:
    """{noun: {adjective: Adjective}}: the adjectives that make sense with each noun."""
    known = {name: {} for name in NOUN}
    for position, kinds, entries in rows(ADJECTIVES, ":"):
        for entry in entries.split(", "):
            (en, more), (m, f) = with_forms(entry.removesuffix("!"), "more {}".format, french_feminine)
            forms = (m, french_plural(m)), (f, french_plural(f))
            if entry.endswith("!"):                     # marron never changes
                forms = (m, m), (m, m)
            compared = position == "after" or position == "before" and "/" in entry.split()[0]
            for noun in nouns_of(kinds):
                known[noun.en[0]].setdefault(en, Adjective(en, more if compared else "", forms, position))
    return known


def _read_verbs(table: str) -> dict:
    """{base form in English: Verb}; verbs of two words are joined, like look_for."""
    verbs = {}
    for forms, fr, subjects, objects, *prepositions in rows(table, ";"):
        forms = tuple(forms.split())
        verbs[forms[0]] = Verb(forms, fr, subjects, nouns_of(objects), *(prepositions or [""]))
    return verbs


NOUN = _read_nouns()
ADJECTIVE = _read_adjectives()
IRREGULARS = {verb: (tuple(present.split()), participle, future) for verb, forms in rows(IRREGULAR, ":")
              for present, participle, future in [forms.split(", ")]}
TRANSITIVE, INTRANSITIVE, MOTION, GIVING = map(_read_verbs, (VERBS, ALONE, GOING, GIVE))
TIMES = {tense: [[words.replace("_", " ").split() for words in time.split()] for time in times.split(", ")]
         for tense, times in WHEN.items()}
