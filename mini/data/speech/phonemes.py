"""The sounds of English as an acoustic phonetician measures them, and 60 words made of them.

A sound is described by its formants, the resonances of throat and mouth: their frequencies in Hz
are what tells one vowel from another. Those of ten vowels were measured by Peterson & Barney 1952
on 33 men ("Control methods used in a study of the vowels", table II); those of the diphthongs and
consonants are about the ones with which Klatt 1980 ("Software for a cascade/parallel formant
synthesizer", tables II and III) speaks. Names of sounds are ARPAbet, as in dictionaries for speech
recognition: IY is the vowel of "see", TH the first sound of "three".
"""
from typing import NamedTuple

MEN = {
    # F1, F2, F3 of Peterson & Barney's men, as in
    "IY": (270, 2290, 3010),        # heed
    "IH": (390, 1990, 2550),        # hid
    "EH": (530, 1840, 2480),        # head
    "AE": (660, 1720, 2410),        # had
    "AA": (730, 1090, 2440),        # hod
    "AO": (570, 840, 2410),         # hawed
    "UH": (440, 1020, 2240),        # hood
    "UW": (300, 870, 2240),         # who'd
    "AH": (640, 1190, 2390),        # hud
    "ER": (490, 1350, 1690),        # heard
}
WOMEN = {
    # the same of their 28 women; the synthesiser does not use them: a test compares with them
    "IY": (310, 2790, 3310),
    "IH": (430, 2480, 3070),
    "EH": (610, 2330, 2990),
    "AE": (860, 2050, 2850),
    "AA": (850, 1220, 2810),
    "AO": (590, 920, 2710),
    "UH": (470, 1160, 2680),
    "UW": (370, 950, 2670),
    "AH": (760, 1400, 2780),
    "ER": (500, 1640, 1960),
}

# Two other accents. Hillenbrand et al. 1995 measured 45 men of Michigan ("Acoustic characteristics
# of American English vowels", table V); Hawkins & Midgley 2005 young men of Southern England
# ("Formant frequencies of RP monophthongs in four age groups of speakers"): these are about their
# F1 and F2, with F3 of Wells 1962. In Michigan "had" is near "head"; in England "had" is open,
# "who'd" is made further in front, no r is left in "heard", and "go" (OW) begins like that.
MICHIGAN = {
    "IY": (342, 2322, 3000),
    "IH": (427, 2034, 2684),
    "EH": (580, 1799, 2605),
    "AE": (588, 1952, 2601),
    "AA": (768, 1333, 2522),
    "AO": (652, 997, 2538),
    "UH": (469, 1122, 2434),
    "UW": (378, 997, 2343),
    "AH": (623, 1200, 2550),
    "ER": (474, 1379, 1710),
}
ENGLAND = {
    "IY": (276, 2338, 3088),
    "IH": (393, 2174, 2696),
    "EH": (600, 1914, 2636),
    "AE": (917, 1473, 2460),
    "AA": (604, 1040, 2340),
    "AO": (392, 630, 2635),
    "UH": (413, 1285, 2440),
    "UW": (289, 1616, 2320),
    "AH": (658, 1208, 2537),
    "ER": (494, 1373, 2436),
    "OW": (510, 1330, 2400),
}
ACCENTS = [MEN, MICHIGAN, ENGLAND]

# ---- sounds as segments

class Segment(NamedTuple):
    """A stretch of time in which the mouth aims at one position. Levels are in dB, 0 for the voice
    of a vowel; OFF is silence."""
    seconds: float
    F1: float
    F2: float
    F3: float
    voice: float = 0.0          # level of the pulses of the vocal folds
    breath: float = -60.0       # level of noise made in the throat, which all formants shape
    hiss: float = -60.0         # level of noise made at teeth or lips, which one resonance shapes
    hiss_at: float = 2500.0     # the frequency of that resonance in Hz
    hiss_width: float = 1000.0  # its bandwidth in Hz
    zero: float = 270.0         # what the nose takes away; 270 Hz: nothing (see synthesiser.py)
    # how far F2 follows the next vowel: 0 not at all, 1 all the way (locus equations, see below)
    follow: float = 0.0
    stretch: float = 1.0        # how much of a change of speed this segment takes part in


OFF = -60.0
WEAK = -7.0                     # the voice of "z" and "v" is below it, that of "n" and "l" is not
SHUT = -20.0                    # the voice while the mouth is shut, of "b", "d" and "g"

# A consonant before "ee" is made with the tongue further in front than one before "oo". Lindblom
# 1963 measured it: where the voice sets in, F2 = locus + slope · (F2 of the vowel − locus), a line
# for each place in the mouth. `follow` is that slope, and F2 of the segment the locus.
LIPS, TEETH, GUM, PALATE = 0.7, 0.4, 0.35, 0.75


def vowel(seconds, F1, F2, F3, **more) -> list:
    return [Segment(seconds, F1, F2, F3, **more)]


def glide(seconds, start, end) -> list:
    """A diphthong: from one vowel to another."""
    return [Segment(0.5 * seconds, *start), Segment(0.5 * seconds, *end)]


def stop(place, voiced, burst_at, burst_width, burst) -> list:
    """A plosive: the mouth is shut, opens with a burst, and breath follows if it is voiceless."""
    F1, F2, F3, follow = place
    common = dict(follow=follow, hiss_at=burst_at, hiss_width=burst_width)
    if voiced:
        return [Segment(0.055, F1, F2, F3, voice=SHUT, stretch=0.5, **common),
                Segment(0.012, F1, F2, F3, voice=-14, hiss=burst - 3, stretch=0, **common)]
    return [Segment(0.065, F1, F2, F3, voice=OFF, stretch=0.5, **common),
            Segment(0.014, F1, F2, F3, voice=OFF, hiss=burst, stretch=0, **common),
            Segment(0.038, F1 + 150, F2, F3, voice=OFF, breath=-14, hiss=burst - 10, stretch=0.3,
                    **common)]


def fricative(seconds, F1, F2, F3, hiss, at, width, voiced=False, follow=0.4) -> list:
    return [Segment(seconds, F1, F2, F3, voice=-8 if voiced else OFF, hiss=hiss, hiss_at=at,
                    hiss_width=width, follow=follow, stretch=0.6)]


def nasal(seconds, F2, F3, zero, follow) -> list:
    return [Segment(seconds, 270, F2, F3, voice=-5, zero=zero, follow=follow, stretch=0.6)]


def approximant(seconds, F1, F2, F3) -> list:
    return [Segment(seconds, F1, F2, F3, voice=-3, stretch=0.6)]


AT_LIPS = (200, 900, 2150, LIPS)
AT_GUM = (200, 1750, 2650, GUM)
AT_PALATE = (200, 1900, 2300, PALATE)

SOUNDS = {
    # about 0.6 of the durations of Klatt 1979, who gives them for vowels before a pause
    "IY": vowel(0.100, *MEN["IY"]),
    "IH": vowel(0.085, *MEN["IH"]),
    "EH": vowel(0.095, *MEN["EH"]),
    "AE": vowel(0.135, *MEN["AE"]),
    "AA": vowel(0.135, *MEN["AA"]),
    "AO": vowel(0.135, *MEN["AO"]),
    "UH": vowel(0.095, *MEN["UH"]),
    "UW": vowel(0.115, *MEN["UW"]),
    "AH": vowel(0.090, *MEN["AH"]),
    "ER": vowel(0.110, *MEN["ER"]),
    "AX": vowel(0.060, 500, 1400, 2400),                        # the first sound of "about"
    "EY": glide(0.140, (480, 1800, 2520), (330, 2150, 2650)),   # day
    "AY": glide(0.165, (680, 1180, 2500), (400, 1980, 2550)),   # five
    "OW": glide(0.145, (540, 1050, 2300), (400, 850, 2300)),    # go
    "AW": glide(0.165, (680, 1250, 2500), (420, 930, 2350)),    # brown

    "P": stop(AT_LIPS, False, 900, 1500, -13),
    "B": stop(AT_LIPS, True, 700, 1500, -14),
    "T": stop(AT_GUM, False, 3600, 1000, -8),
    "D": stop(AT_GUM, True, 3500, 1000, -10),
    "K": stop(AT_PALATE, False, 1900, 500, -8),
    "G": stop(AT_PALATE, True, 1900, 500, -10),

    # hiss is so loud that s and f are some 20 to 30 dB below a vowel, below 4 kHz
    "F": fricative(0.090, 340, 1100, 2100, -14, 1500, 4000, follow=LIPS),
    "V": fricative(0.055, 220, 1100, 2100, -22, 1500, 4000, True, follow=LIPS),
    "TH": fricative(0.085, 320, 1350, 2550, -15, 3300, 2500, follow=TEETH),
    "DH": fricative(0.045, 270, 1350, 2550, -24, 3300, 2500, True, follow=TEETH),
    "S": fricative(0.105, 320, 1450, 2550, 2, 3850, 500, follow=GUM),
    "Z": fricative(0.075, 250, 1450, 2550, -7, 3850, 500, True, follow=GUM),
    "SH": fricative(0.110, 300, 1800, 2700, 5, 2700, 600, follow=GUM),
    "CH": [*stop(AT_GUM, False, 2900, 700, -7)[:2],
           *fricative(0.065, 350, 1800, 2700, 4, 2700, 600)],
    "JH": [*stop(AT_GUM, True, 2900, 700, -9),
           *fricative(0.045, 260, 1800, 2700, -3, 2700, 600, True)],
    "HH": [Segment(0.060, 450, 1400, 2450, voice=OFF, breath=-12, follow=0.95, stretch=0.6)],

    "M": nasal(0.070, 1100, 2150, 420, LIPS),
    "N": nasal(0.065, 1600, 2550, 520, GUM),
    "NG": nasal(0.075, 1900, 2300, 480, PALATE),
    "L": approximant(0.065, 340, 1100, 2750),
    "R": approximant(0.065, 330, 1080, 1400),
    "W": approximant(0.060, 290, 640, 2150),
    "Y": approximant(0.055, 270, 2150, 3000),
}

CORONAL = {"T", "D", "N", "L", "S", "SH", "CH", "Y"}            # made with the front of the tongue
VOICELESS = {"P", "T", "K", "F", "TH", "S", "SH", "CH"}
VOWELS = {*MEN, "AX", "EY", "AY", "OW", "AW"}

# ---- words

# A pronunciation: sounds, and 1 behind the vowel that carries the stress. Some words have more than
# one (behind a bar), as people do: with the r of "four", or without it.
LEXICON = """
zero     Z IY1 R OW | Z IH1 R OW
one      W AH1 N
two      T UW1
three    TH R IY1
four     F AO1 R | F AO1
five     F AY1 V
six      S IH1 K S
seven    S EH1 V AX N
eight    EY1 T
nine     N AY1 N

red      R EH1 D
green    G R IY1 N
blue     B L UW1
black    B L AE1 K
white    W AY1 T
brown    B R AW1 N
yellow   Y EH1 L OW

mara     M AA1 R AX
tom      T AA1 M | T AO1 M
lena     L EY1 N AX | L IY1 N AX
ben      B EH1 N
nora     N AO1 R AX
paul     P AO1 L
vera     V EH1 R AX | V IY1 R AX
sam      S AE1 M
jane     JH EY1 N
hugo     HH Y UW1 G OW

has      HH AE1 Z
sees     S IY1 Z
wants    W AA1 N T S | W AO1 N T S
finds    F AY1 N D Z
sells    S EH1 L Z
likes    L AY1 K S

lamp     L AE1 M P
dog      D AO1 G | D AA1 G
book     B UH1 K
boat     B OW1 T
key      K IY1
shoe     SH UW1
bird     B ER1 D
chair    CH EH1 R | CH EH1 AX
lamps    L AE1 M P S
dogs     D AO1 G Z | D AA1 G Z
books    B UH1 K S
boats    B OW1 T S
keys     K IY1 Z
shoes    SH UW1 Z
birds    B ER1 D Z
chairs   CH EH1 R Z | CH EH1 AX Z

the      DH AX
is       IH1 Z
and      AE N D | AX N D | AX N
at       AE T | AX T
call     K AO1 L
where    W EH1 R | W EH1 AX
old      OW1 L D
new      N UW1 | N Y UW1
small    S M AO1 L
big      B IH1 G
not      N AA1 T | N AO1 T
"""


def read_lexicon(text: str) -> dict:
    """{word: [pronunciations]}, each a list of (sound, stressed)."""
    lexicon = {}
    for line in filter(None, text.splitlines()):
        word, sounds = line.split(None, 1)
        lexicon[word] = []
        for way in sounds.split("|"):
            named = [(name.rstrip("1"), name.endswith("1")) for name in way.split()]
            lexicon[word].append(named)
    return lexicon


WORDS = read_lexicon(LEXICON)
