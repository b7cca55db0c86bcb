"""The words of the small world of the stories: its people, animals, things, places and so on.

Each word is in one list only, and has no other meaning in the stories, so that a reader knows what
kind of thing a word names.
"""

WOMEN = ("Asha Bess Clara Dina Edda Flora Greta Hetty Ida Juno Kira Lena Mina Nora Ottilie Pia "
         "Rosa Sana Tilda Una Vera Willa Yara Zoe").split()
MEN = ("Abel Boris Cyril Dov Emil Felix Goran Hugo Ivan Jonas Karim Leo Milo Nils Otto Pavel "
       "Quinn Rafi Samir Tomas Umar Viktor Walter Yusuf").split()
PETS = ("Barley Biscuit Bramble Button Clover Comet Cricket Domino Ginger Juniper Marble Moss "
        "Mustard Nutmeg Pepper Pickle Pip Smoky Sorrel Tansy Teasel Thimble Truffle Waffle").split()

# the sound of an animal, as a verb: (present, past)
SOUNDS = {"cat": ("meow", "meowed"), "crow": ("caw", "cawed"), "dog": ("bark", "barked"),
          "donkey": ("bray", "brayed"), "duck": ("quack", "quacked"),
          "frog": ("croak", "croaked"), "goat": ("bleat", "bleated"),
          "goose": ("honk", "honked"), "hen": ("cluck", "clucked"),
          "mouse": ("squeak", "squeaked"), "owl": ("hoot", "hooted"),
          "parrot": ("squawk", "squawked"), "pig": ("grunt", "grunted"),
          "pony": ("neigh", "neighed"), "calf": ("moo", "mooed"),
          "turkey": ("gobble", "gobbled")}
ANIMALS = list(SOUNDS)

THINGS = ("bag ball basket bell blanket book bowl box broom bucket chair clock coat comb cup drum "
          "fiddle flute hat horn jug kettle kite knife lamp ladder mirror pipe puppet purse quilt "
          "ring rope saddle scarf shawl sledge spade trumpet umbrella wagon whistle").split()
COLOURS = "black blue brown green grey pink purple red white yellow".split()

# things that are counted: {plural: singular}
COUNTED = {"apples": "apple", "buns": "bun", "cakes": "cake", "candles": "candle",
           "carrots": "carrot", "coins": "coin", "eggs": "egg", "figs": "fig",
           "lemons": "lemon", "loaves": "loaf", "nuts": "nut", "onions": "onion",
           "peaches": "peach", "pears": "pear", "plums": "plum", "shells": "shell",
           "turnips": "turnip"}

# places, each with its preposition
PLACES = {"bakery": "at", "barn": "in", "boathouse": "in", "bridge": "by", "chapel": "in",
          "church": "in", "dairy": "in", "ferry": "by", "forge": "at", "garden": "in",
          "harbour": "at", "inn": "at", "library": "in", "lighthouse": "in",
          "market": "at", "meadow": "in", "mill": "at", "orchard": "in", "quarry": "by",
          "school": "at", "stable": "in", "station": "at", "tower": "in", "vineyard": "in",
          "windmill": "by"}

TRADES = ("baker barber blacksmith carpenter clerk cobbler doctor farmer fiddler fisherman "
          "gardener locksmith miller painter potter sailor shepherd tailor teacher weaver").split()
RELATIONS = {"friend": "friend", "neighbour": "neighbour", "cousin": "cousin", "aunt": "uncle",
             "sister": "brother", "grandmother": "grandfather"}             # of women: of men
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
           "fifteen sixteen seventeen eighteen nineteen twenty").split()
UNITS = "days nights weeks months years hours miles steps songs times pages".split()


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
