"""The text of mini/assistant.py's dialogues: as tokens, and at the terminal.

The assistant has to copy names and numbers that it has never seen. So a known word is one token, with the space
before it, and all other text is spelt, character by character. In this way any ASCII text can be written.
"""
import re
import sys
import unicodedata


def as_ascii(text: str) -> str:
    """The text in printable ASCII: without accents, each white space as one space, other characters as "?"."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))


class PieceTokenizer:
    """words: the known words. Token number 0 is the end of a line."""

    def __init__(self, words: list):
        self.words = sorted(set(words))
        known = [space + word for word in self.words for space in ("", " ")]
        self.pieces = ["\n", *map(chr, range(32, 127)), *known]
        self.index = {piece: i for i, piece in enumerate(self.pieces)}
        self.vocab_size = len(self.pieces)

    def encode(self, text: str) -> list:
        """Token numbers of a text that `as_ascii` made; it may also have line ends."""
        ids = []
        for run in re.findall(r" ?[A-Za-z]+|.", text, re.DOTALL):
            ids += [self.index[piece] for piece in ([run] if run in self.index else run)]
        return ids

    def decode(self, ids) -> str:
        return "".join(self.pieces[i] for i in ids)


def transcript(question: str, answer: str, steps: list) -> str:
    """A dialogue for the terminal: calls and answer, indented, below the question if there is one."""
    lines = [*filter(None, [question]), *(f"    {call} = {value}" for call, value in steps), f"  {answer}"]
    return "".join(f"{line}\n" for line in lines)


def chat_lines():
    """The questions typed on standard input, until it ends; empty lines are left out."""
    print("Ask for a number or a fact; each question stands alone. Ctrl-D ends.")
    sys.stdin.reconfigure(errors="replace")             # bytes that are no text do no harm
    while print("> ", end="", flush=True) or (line := sys.stdin.readline()):
        if line.strip():
            yield line.strip()
    print()
