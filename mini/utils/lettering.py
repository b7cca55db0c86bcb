"""Letters as pixels, so that a picture can have words on it without a font or a package.

The letters are our own: five pixels wide, seven high, and drawn below as they look. Accents
are added to them.
"""
import math
import textwrap
import unicodedata

import numpy as np

# A line of names, then seven lines of pixels, and so on. The letters in LOW stand two
# pixels lower.
LETTERS = """
A     B     C     D     E     F     G     H     I     J     K     L     M     N     O
.###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...# #...# .###.
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.## ##..# #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# #.#.# #...#
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #..## #...#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #...# #...#
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #...# #...#
#...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...# #...# .###.
P     Q     R     S     T     U     V     W     X     Y     Z     a     b     c     d
####. .###. ####. .#### ##### #...# #...# #...# #...# #...# ##### ..... #.... ..... ....#
#...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....# ..... #.... ..... ....#
#...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. .###. ####. .###. .####
####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. ....# #...# #.... #...#
#.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#... .#### #...# #.... #...#
#.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #.... #...# #...# #...# #...#
#.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. ##### .#### ####. .###. .####
e     f     g     h     i     j     k     l     m     n     o     p     q     r     s
..... ..##. .#### #.... ..#.. ...#. #.... .##.. ..... ..... ..... ####. .#### ..... .....
..... .#... #...# #.... ..... ..... #.... ..#.. ..... ..... ..... #...# #...# ..... .....
.###. ####. #...# ####. .##.. ..##. #..#. ..#.. ##.#. ####. .###. #...# #...# #.##. .####
#...# .#... #...# #...# ..#.. ...#. #.#.. ..#.. #.#.# #...# #...# #...# #...# ##..# #....
##### .#... .#### #...# ..#.. ...#. ##... ..#.. #.#.# #...# #...# ####. .#### #.... .###.
#.... .#... ....# #...# ..#.. #..#. #.#.. ..#.. #.#.# #...# #...# #.... ....# #.... ....#
.###. .#... .###. #...# .###. .##.. #..#. .###. #.#.# #...# .###. #.... ....# #.... ####.
t     u     v     w     x     y     z     œ     æ     0     1     2     3     4     5
.#... ..... ..... ..... ..... #...# ..... ..... ..... .###. ..#.. .###. ##### ...#. #####
.#... ..... ..... ..... ..... #...# ..... ..... ..... #...# .##.. #...# ...#. ..##. #....
####. #...# #...# #...# #...# #...# ##### .#.#. ##.#. #..## ..#.. ....# ..#.. .#.#. ####.
.#... #...# #...# #...# .#.#. #...# ...#. #.#.# ..#.# #.#.# ..#.. ...#. ...#. #..#. ....#
.#... #...# #...# #.#.# ..#.. .#### ..#.. #.### .#### ##..# ..#.. ..#.. ....# ##### ....#
.#..# #..## .#.#. #.#.# .#.#. ....# .#... #.#.. #.#.. #...# ..#.. .#... #...# ...#. #...#
..##. .##.# ..#.. .#.#. #...# .###. ##### .#.## .#### .###. .###. ##### .###. ...#. .###.
6     7     8     9     .     ,     ;     :     !     ?     '     "     -     (     )
..##. ##### .###. .###. ..... ..... ..... ..... ..#.. .###. ..#.. .#.#. ..... ...#. .#...
.#... ....# #...# #...# ..... ..... .##.. ..... ..#.. #...# ..#.. .#.#. ..... ..#.. ..#..
#.... ...#. #...# #...# ..... ..... ..... .##.. ..#.. ....# .#... ..... ..... .#... ...#.
####. ..#.. .###. .#### ..... .##.. .##.. ..... ..#.. ...#. ..... ..... .###. .#... ...#.
#...# .#... #...# ....# ..... ..#.. ..#.. ..... ..#.. ..#.. ..... ..... ..... .#... ...#.
#...# .#... #...# ...#. .##.. .#... .#... .##.. ..... ..... ..... ..... ..... ..#.. ..#..
.###. .#... .###. .##.. .##.. ..... ..... ..... ..#.. ..#.. ..... ..... ..... ...#. .#...
<     >     /     _     +     =     □
...#. .#... ....# ..... ..... ..... #####
..#.. ..#.. ....# ..... ..#.. ..... #...#
.#... ...#. ...#. ..... ..#.. ##### #...#
#.... ....# ..#.. ..... ##### ..... #...#
.#... ...#. .#... ..... ..#.. ##### #...#
..#.. ..#.. #.... ..... ..#.. ..... #...#
...#. .#... #.... ##### ..... ..... #####
"""
LOW = "gpqy,;"

# Each character has a cell of pixels: its seven rows, room for accents above them and for a
# cedilla or the letters in LOW below them; five columns, and one of space on the right.
ROWS_ABOVE = 3
ROWS_BELOW = 2
CELL_HEIGHT = ROWS_ABOVE + 7 + ROWS_BELOW
CELL_WIDTH = 6

CEDILLA = "\u0327"
ACCENTS = {                             # Unicode's combining characters: two rows of pixels
    "\u0300": ".#... ..#..",            # grave
    "\u0301": "...#. ..#..",            # acute
    "\u0302": "..#.. .#.#.",            # circumflex
    "\u0303": ".##.# #..#.",            # tilde
    "\u0308": "..... .#.#.",            # diaeresis
    CEDILLA: "..#.. .##..",
}


# ---- letters

def to_pixels(rows: list) -> np.ndarray:
    """Rows of pixels, written as "#" and ".", as an array of bools."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def read_letters() -> dict:
    """{character: its cell, bool (12, 6)} for all characters that are drawn in LETTERS."""
    cells = {}
    lines = LETTERS.strip().split("\n")
    for start in range(0, len(lines), 8):
        names = lines[start].split()
        drawings = [line.split() for line in lines[start + 1:start + 8]]
        for i, name in enumerate(names):
            top = ROWS_ABOVE
            if name in LOW:
                top += ROWS_BELOW
            cell = np.zeros((CELL_HEIGHT, CELL_WIDTH), bool)
            cell[top:top + 7, :5] = to_pixels([drawing[i] for drawing in drawings])
            cells[name] = cell
    return cells


PIXELS = read_letters()


def letter(character: str) -> np.ndarray:
    """The pixels of one character, bool (12, 6): an empty box if it is not among LETTERS."""
    base, *marks = unicodedata.normalize("NFD", character)      # "é" -> "e", combining accent
    if base.isspace():
        return np.zeros((CELL_HEIGHT, CELL_WIDTH), bool)
    if base not in PIXELS or any(mark not in ACCENTS for mark in marks):
        return PIXELS["□"]
    pixels = PIXELS[base].copy()
    if base == "i" and marks:
        pixels[:5] = False              # the accent takes the place of the dot
    for mark in marks:
        if mark == CEDILLA:
            top = 10
        elif base.islower():
            top = 2
        else:
            top = 0
        pixels[top:top + 2, :5] |= to_pixels(ACCENTS[mark].split())
    return pixels


def lettering(text: str) -> np.ndarray:
    """The pixels of a line of text, bool (12, 6 · number of characters)."""
    text = unicodedata.normalize("NFC", text)           # an accented letter is one character
    nothing = np.zeros((CELL_HEIGHT, 0), bool)          # for an empty text
    cells = [letter(character) for character in text]
    return np.concatenate([nothing, *cells], axis=1)


# ---- pictures with words

def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel becomes a square of scale × scale: (H, W, …) -> (scale · H, scale · W, …)."""
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def enlarged(picture: np.ndarray, width: int = 600) -> np.ndarray:
    """A picture, uint8 (H, W) or (H, W, C), enlarged by the smallest whole number that makes it at
    least `width` pixels wide, so that a person can see it."""
    return enlarge(picture, max(1, math.ceil(width / picture.shape[1])))


def paste(sheet: np.ndarray, picture: np.ndarray, y: int, x: int):
    """Put a picture on the sheet, with its upper left corner in row y, column x."""
    height, width = picture.shape[:2]
    sheet[y:y + height, x:x + width] = picture


def black_on_white(text: str, scale: int) -> np.ndarray:
    """A line of text as a gray picture, uint8 (scale · 12, scale · 6 · number of characters)."""
    letters = enlarge(lettering(text), scale)
    return np.where(letters, 0, 255).astype(np.uint8)


def heat_maps(maps, rows: list, columns: list, size: int = 28, scale: int = 2) -> np.ndarray:
    """Tables of numbers in [0, 1] side by side as a picture, uint8 (H, W): white 0, black 1.

    maps: arrays of shape (len(rows), len(columns)); a number is a square of `size` pixels.
    The words of `rows` stand on the left, those of `columns`, turned to read upwards, above
    each map; a pixel of a letter is a square of `scale` pixels.
    """
    row_words = [black_on_white(word, scale) for word in rows]
    column_words = [np.rot90(black_on_white(word, scale)) for word in columns]

    # The first map begins at row y0, column x0; each is followed by a gap as wide as a
    # square.
    x0 = max(word.shape[1] for word in row_words) + size
    y0 = max(word.shape[0] for word in column_words) + size
    height = size * (len(rows) + 1)
    width = size * (len(columns) + 1)
    sheet = np.full((y0 + height, x0 + width * len(maps)), 255, np.uint8)

    gap = size // 4                                     # between a word and the map
    centring = (size - CELL_HEIGHT * scale) // 2        # puts a word in the middle of its row
    for i, word in enumerate(row_words):
        paste(sheet, word, y=y0 + size * i + centring, x=x0 - gap - word.shape[1])
    for m, numbers in enumerate(maps):
        x_map = x0 + width * m
        for j, word in enumerate(column_words):
            paste(sheet, word, y=y0 - gap - word.shape[0], x=x_map + size * j + centring)
        shades = np.round(255 * (1 - np.asarray(numbers, float)))
        squares = enlarge(shades.astype(np.uint8), size)
        squares[::size] = 220                           # light gray lines between the squares
        squares[:, ::size] = 220
        paste(sheet, squares, y=y0, x=x_map)
    return sheet


def labelled(images, texts: list, columns: int = 4, scale: int = 6, gap: int = 8) -> np.ndarray:
    """Images with their texts below them, as one picture, uint8 (H', W', 3).

    images: uint8 (N, 3, H, W). A pixel becomes a square of `scale` pixels; a text is broken
    into lines as wide as its image; `gap` pixels lie between the images. All of it is
    `enlarged` if there are few.
    """
    large = np.asarray(images).repeat(scale, axis=2).repeat(scale, axis=3)
    large = large.transpose(0, 2, 3, 1)                 # (N, 3, H, W) -> (N, H, W, 3)
    N, H, W, _ = large.shape

    characters = max(1, W // CELL_WIDTH)                # that fit below an image
    captions = [textwrap.wrap(text, characters) for text in texts]
    most_lines = max(len(lines) for lines in captions)
    cell_height = H + CELL_HEIGHT * most_lines + gap    # of an image, its text and the gap
    cell_width = W + gap
    n_rows = math.ceil(N / columns)
    n_columns = min(N, columns)
    shape = (n_rows * cell_height + gap, n_columns * cell_width + gap, 3)
    sheet = np.full(shape, 255, np.uint8)

    for i, (image, lines) in enumerate(zip(large, captions)):
        row, column = divmod(i, columns)
        y = gap + row * cell_height
        x = gap + column * cell_width
        paste(sheet, image, y, x)
        for n, line in enumerate(lines):
            text = black_on_white(line, scale=1)[:, :, None]        # (12, width, 1)
            paste(sheet, text, y=y + H + CELL_HEIGHT * n, x=x)
    return enlarged(sheet)


def text_block(text: str, characters: int, scale: int = 2) -> np.ndarray:
    """A text in lines of at most so many characters, as a gray picture, uint8 (H, W)."""
    lines = [black_on_white(line, scale) for line in textwrap.wrap(text, characters)]
    width = max((line.shape[1] for line in lines), default=0)
    block = np.full((CELL_HEIGHT * scale * len(lines), width), 255, np.uint8)
    for i, line in enumerate(lines):
        paste(block, line, y=CELL_HEIGHT * scale * i, x=0)
    return block


def with_names(picture: np.ndarray, n_rows: int, n_columns: int, row_names: list,
               column_names: list, gap: int = 10) -> np.ndarray:
    """A grid of images, uint8 (H, W, C), with the names of its rows on the left and those of its
    columns above: uint8 (H', W', C).

    Names are broken into lines. Those of columns are as wide as their columns; those of rows are
    as wide as it takes to fit into the height of a row. If there are fewer names than rows, the
    last rows have none.
    """
    H, W, C = picture.shape
    row_height = H // n_rows
    scale = 2 if row_height >= 2 * CELL_HEIGHT else 1
    most_lines = max(1, row_height // (scale * CELL_HEIGHT))
    characters = 16
    while any(len(textwrap.wrap(name, characters)) > most_lines for name in row_names):
        characters += 1
    on_left = [text_block(name, characters, scale) for name in row_names]
    characters = max(1, W // n_columns // (scale * CELL_WIDTH))
    above = [text_block(name, characters, scale) for name in column_names]

    # The grid begins at row y0, column x0.
    x0 = max((block.shape[1] + 2 * gap for block in on_left), default=0)
    y0 = max((block.shape[0] + gap for block in above), default=0)
    sheet = np.full((y0 + H, x0 + W, C), 255, np.uint8)
    paste(sheet, picture, y0, x0)
    for i, block in enumerate(on_left[:n_rows]):
        h = block.shape[0]
        middle = y0 + H * (2 * i + 1) // (2 * n_rows)
        top = min(max(0, middle - h // 2), y0 + H - h)
        paste(sheet, block[:, :, None], y=top, x=gap)
    for i, block in enumerate(above[:n_columns]):
        h, w = block.shape
        middle = x0 + W * (2 * i + 1) // (2 * n_columns)
        left = min(middle - w // 2, x0 + W - w)
        paste(sheet, block[:, :, None], y=y0 - h, x=left)
    return sheet
