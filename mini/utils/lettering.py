"""Letters as pixels, so that a picture can have words on its axes without a font or another package.

Our own letters: five pixels wide, seven high, drawn below as they look; accents are put on them.
"""
import textwrap
import unicodedata

import numpy as np

# A line of names, then seven lines of pixels. g, p, q, y, the comma and the semicolon stand two pixels lower.
LETTERS = """
A     B     C     D     E     F     G     H     I     J     K     L     M     N     O     P     Q
.###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...# #...# .###. ####. .###.
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.## ##..# #...# #...# #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# #.#.# #...# #...# #...#
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #..## #...# ####. #...#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #...# #...# #.... #.#.#
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #...# #...# #.... #..#.
#...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...# #...# .###. #.... .##.#
R     S     T     U     V     W     X     Y     Z     a     b     c     d     e     f     g     h
####. .#### ##### #...# #...# #...# #...# #...# ##### ..... #.... ..... ....# ..... ..##. .#### #....
#...# #.... ..#.. #...# #...# #...# #...# #...# ....# ..... #.... ..... ....# ..... .#... #...# #....
#...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. .###. ####. .###. .#### .###. ####. #...# ####.
####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. ....# #...# #.... #...# #...# .#... #...# #...#
#.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#... .#### #...# #.... #...# ##### .#... .#### #...#
#..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #.... #...# #...# #...# #...# #.... .#... ....# #...#
#...# ####. ..#.. .###. ..#.. #...# #...# ..#.. ##### .#### ####. .###. .#### .###. .#... .###. #...#
i     j     k     l     m     n     o     p     q     r     s     t     u     v     w     x     y
..#.. ...#. #.... .##.. ..... ..... ..... ####. .#### ..... ..... .#... ..... ..... ..... ..... #...#
..... ..... #.... ..#.. ..... ..... ..... #...# #...# ..... ..... .#... ..... ..... ..... ..... #...#
.##.. ..##. #..#. ..#.. ##.#. ####. .###. #...# #...# #.##. .#### ####. #...# #...# #...# #...# #...#
..#.. ...#. #.#.. ..#.. #.#.# #...# #...# #...# #...# ##..# #.... .#... #...# #...# #...# .#.#. #...#
..#.. ...#. ##... ..#.. #.#.# #...# #...# ####. .#### #.... .###. .#... #...# #...# #.#.# ..#.. .####
..#.. #..#. #.#.. ..#.. #.#.# #...# #...# #.... ....# #.... ....# .#..# #..## .#.#. #.#.# .#.#. ....#
.###. .##.. #..#. .###. #.#.# #...# .###. #.... ....# #.... ####. ..##. .##.# ..#.. .#.#. #...# .###.
z     œ     æ     0     1     2     3     4     5     6     7     8     9     .     ,     ;     :
..... ..... ..... .###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###. ..... ..... ..... .....
..... ..... ..... #...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...# ..... ..... .##.. .....
##### .#.#. ##.#. #..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...# ..... ..... ..... .##..
...#. #.#.# ..#.# #.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .#### ..... .##.. .##.. .....
..#.. #.### .#### ##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....# ..... ..#.. ..#.. .....
.#... #.#.. #.#.. #...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#. .##.. .#... .#... .##..
##### .#.## .#### .###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.. .##.. ..... ..... .....
!     ?     '     "     -     (     )     <     >     /     □
..#.. .###. ..#.. .#.#. ..... ...#. .#... ...#. .#... ....# #####
..#.. #...# ..#.. .#.#. ..... ..#.. ..#.. ..#.. ..#.. ....# #...#
..#.. ....# .#... ..... ..... .#... ...#. .#... ...#. ...#. #...#
..#.. ...#. ..... ..... .###. .#... ...#. #.... ....# ..#.. #...#
..#.. ..#.. ..... ..... ..... .#... ...#. .#... ...#. .#... #...#
..... ..... ..... ..... ..... ..#.. ..#.. ..#.. ..#.. #.... #...#
..#.. ..#.. ..... ..... ..... ...#. .#... ...#. .#... #.... #####
"""
LOW = "gpqy,;"
ABOVE, BELOW = 3, 2         # lines of a character's cell above and below the seven
CELL = ABOVE + 7 + BELOW, 6
ACCENTS = {                 # combining characters: two lines of pixels
    "\u0300": ".#... ..#..", "\u0301": "...#. ..#..", "\u0302": "..#.. .#.#.", "\u0303": ".##.# #..#.",
    "\u0308": "..... .#.#.", "\u0327": "..#.. .##..",
}


def _read_letters() -> dict:
    letters, lines = {}, LETTERS.strip().split("\n")
    for names, *rows in (lines[i:i + 8] for i in range(0, len(lines), 8)):
        for i, name in enumerate(names.split()):
            pixels = np.zeros(CELL, bool)
            top = ABOVE + BELOW * (name in LOW)
            pixels[top:top + 7, :5] = [[pixel == "#" for pixel in row.split()[i]] for row in rows]
            letters[name] = pixels
    return letters


PIXELS = _read_letters()


def letter(character: str) -> np.ndarray:
    """The pixels of one character, bool (12, 6): an empty box if it is not among LETTERS."""
    base, *marks = unicodedata.normalize("NFD", character)
    if base.isspace():
        return np.zeros(CELL, bool)
    if base not in PIXELS or not ACCENTS.keys() >= set(marks):
        return PIXELS["□"]
    pixels = PIXELS[base].copy()
    if base == "i" and marks:
        pixels[:5] = False                  # the accent takes the place of the dot
    for mark in marks:
        top = 10 if mark == "\u0327" else 2 if base.islower() else 0
        pixels[top:top + 2, :5] |= [[pixel == "#" for pixel in row] for row in ACCENTS[mark].split()]
    return pixels


def lettering(text: str) -> np.ndarray:
    """The pixels of a line of text, bool (12, 6 · its characters)."""
    text = unicodedata.normalize("NFC", text)
    return np.concatenate([np.zeros((CELL[0], 0), bool), *map(letter, text)], axis=1)


def heat_maps(maps, rows: list, columns: list, size: int = 28, scale: int = 2) -> np.ndarray:
    """Tables of numbers in [0, 1] side by side as a picture, uint8 (H, W): white for 0, black for 1.

    maps: (len(rows), len(columns)) each; a number is a square of `size` pixels. The words of `rows` stand on
    the left, those of `columns`, turned, on top; a pixel of a letter is a square of `scale` pixels.
    """
    def drawn(words):
        large = [lettering(word).repeat(scale, 0).repeat(scale, 1) for word in words]
        return [np.where(letters, 0, 255).astype(np.uint8) for letters in large]

    left, tops = drawn(rows), [np.rot90(word) for word in drawn(columns)]
    x0, y0 = max(word.shape[1] for word in left) + size, max(word.shape[0] for word in tops) + size
    wide = size * (len(columns) + 1)                                    # a map and the gap behind it
    sheet = np.full((y0 + size * (len(rows) + 1), x0 + wide * len(maps)), 255, np.uint8)
    edge = (size - CELL[0] * scale) // 2                                # to the middle of a row or column
    for i, word in enumerate(left):
        y, x = y0 + size * i + edge, x0 - size // 4 - word.shape[1]
        sheet[y:y + word.shape[0], x:x + word.shape[1]] = word
    for m, numbers in enumerate(maps):
        shades = np.round(255 * (1 - np.asarray(numbers, float))).astype(np.uint8)
        for j, word in enumerate(tops):
            y, x = y0 - size // 4 - word.shape[0], x0 + wide * m + size * j + edge
            sheet[y:y + word.shape[0], x:x + word.shape[1]] = word
        squares = shades.repeat(size, 0).repeat(size, 1)
        squares[::size], squares[:, ::size] = 220, 220                  # lines between them
        sheet[y0:y0 + squares.shape[0], x0 + wide * m:x0 + wide * m + squares.shape[1]] = squares
    return sheet


def labelled(images, texts: list, columns: int = 4, scale: int = 6, gap: int = 8) -> np.ndarray:
    """Images, uint8 (N, 3, H, W), each with its text below, as one picture, uint8 (H', W', 3). A pixel
    becomes a square of `scale` pixels; a text is broken into lines as wide as its image."""
    large = np.asarray(images).repeat(scale, 2).repeat(scale, 3).transpose(0, 2, 3, 1)
    N, H, W, _ = large.shape
    broken = [textwrap.wrap(text, max(1, W // CELL[1])) for text in texts]
    high, wide = H + CELL[0] * max(map(len, broken)) + gap, W + gap
    sheet = np.full((-(-N // columns) * high + gap, min(N, columns) * wide + gap, 3), 255, np.uint8)
    for i, (image, lines) in enumerate(zip(large, broken)):
        y, x = gap + i // columns * high, gap + i % columns * wide
        sheet[y:y + H, x:x + W] = image
        for n, line in enumerate(lines):
            letters = lettering(line)
            top = y + H + CELL[0] * n
            sheet[top:top + CELL[0], x:x + letters.shape[1]][letters] = 0
    return sheet
