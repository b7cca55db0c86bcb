"""The text of mini/assistant.py's dialogues: as it is read, and as tokens.

The assistant has to copy names and numbers that it has never seen. So the text is in small letters;
a word that the phrasings use often is one token, with the space before it; any other word is spelt
in pairs of letters, ki·li·ma·nj·ar·o, of which few come twice in a name, so that it is clear which
comes next. Numbers are spelt digit by digit, but for 000, so that zeros need not be counted.
"""
import re
import string
import unicodedata

# What people type for what the calculator knows.
SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "’": "'", "²": " squared", "³": " cubed",
         "√": "sqrt ", "°": " degrees ", "½": "1/2", "^": "**", "€": " euros", "£": " pounds"}
LARGE = {"thousand": 3, "million": 6, "billion": 9}         # the number of zeros


def as_ascii(text: str) -> str:
    """The text in printable ASCII: without accents, each white space as one space, other characters
    as "?"."""
    for sign, known in SIGNS.items():
        text = text.replace(sign, known)
    decomposed = unicodedata.normalize("NFKD", text)
    letters = (c for c in decomposed if not unicodedata.combining(c))
    return " ".join("".join(c if " " <= c <= "~" or c.isspace() else "?" for c in letters).split())


def as_read(text: str) -> str:
    """The text as the model reads and writes it: in ASCII and in small letters, numbers in digits
    alone (1,234 is 1234, and 2.5 million 2500000)."""
    text = as_ascii(text).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"(\d+)(?:\.(\d{1,3}))? (thousand|million|billion)s?\b", in_digits, text)


def in_digits(found) -> str:
    whole, decimals, large = found.groups()
    decimals = (decimals or "").ljust(LARGE[large], "0")
    return (whole + decimals).lstrip("0") or "0"


def spelled(text: str, sources: list, sentences: list) -> str:
    """The text with its capitals put back: a word is spelled as in the last of the sources that has
    it, and a whole sentence as in the list of sentences."""
    for sentence in sentences:
        if sentence.lower() == text:
            return sentence
    spelling = {}
    for source in sources:
        for word in re.findall(r"[a-z]+", as_ascii(source), re.IGNORECASE):
            spelling[word.lower()] = word
    text = re.sub(r"[a-z]+", lambda found: spelling.get(found[0], found[0]), text)
    starts_a_sentence = re.match(r"(yes|no): ", text, re.IGNORECASE)
    return text.capitalize() if starts_a_sentence and text.islower() else text


class PieceTokenizer:
    """Words in the list `words` are one token each. Token number 0 is the end of a line."""

    def __init__(self, words: list):
        self.words = sorted(set(words))
        letters = string.ascii_lowercase
        pairs = [a + b for a in letters for b in letters]
        characters = [chr(i) for i in range(32, 127) if not chr(i).isupper()]
        pieces = ["\n", *characters, "000", *pairs]
        for word in self.words:
            pieces += [word, " " + word]
        self.pieces = list(dict.fromkeys(pieces))           # "of" is a pair, too
        self.index = {piece: i for i, piece in enumerate(self.pieces)}
        self.vocab_size = len(self.pieces)

    def encode(self, text: str) -> list:
        """Token numbers of a text that `as_read` made; it may also have line ends."""
        ids = []
        # a word with the space before it; three zeros, if groups of three follow; any character
        for found in re.findall(r" ?[a-z]+|000(?=(?:000)*(?!\d))|.", text, re.DOTALL):
            ids += self.encode_run(found)
        return ids

    def encode_run(self, run: str) -> list:
        if run in self.index:
            return [self.index[run]]
        ids = []
        if run.startswith(" "):
            ids.append(self.index[" "])
            run = run[1:]
        for i in range(0, len(run), 2):
            ids.append(self.index[run[i:i + 2]])
        return ids

    def decode(self, ids) -> str:
        return "".join(self.pieces[i] for i in ids)
