"""The picture at the top of README.md: what the models make, each as its default run gave it.

    python -m mini.studies.banner       after train_gpt.py; writes mini/gallery/banner.png

The faces, captions and piano roll are cut from the pictures of the gallery. The story is the
beginning of the first without a contradiction that the default run of train_gpt.py writes.
"""
import textwrap
from pathlib import Path

import numpy as np

import train_gpt
from mini.data.text.story_reader import check
from mini.data.text.story_scores import first_story
from mini.utils.lettering import black_on_white, paste
from mini.utils.png import read_png, write_png

GALLERY = Path(__file__).parents[1] / "gallery"
WIDTH = 842             # of the banner, in pixels: eight faces fit in a row
GAP = 10                # between its parts, and at the edges
LINE_HEIGHT = 24
LETTER_WIDTH = 12


def part_of(name: str, top: int, height: int) -> np.ndarray:
    """Some rows of a picture of the gallery, no wider than the banner: (height, width, 3)."""
    picture = read_png(GALLERY / name)
    return picture[top:top + height, :WIDTH - 2 * GAP]


def story() -> str:
    """The first story without a contradiction that the run in runs/gpt writes."""
    model, tokenizer = train_gpt.load(train_gpt.Config())
    stories = [first_story(text) for text in train_gpt.write(model, tokenizer, n=256)]
    return next(text for text in stories if not check(text))


def first_lines_of(text: str, n: int = 5) -> np.ndarray:
    """The beginning of a text as a picture, in n lines as wide as the banner: (H, width, 3)."""
    width = WIDTH - 2 * GAP
    lines = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, width // LETTER_WIDTH - 4)
    lines = lines[:n]
    lines[-1] += " ..."
    picture = np.full((LINE_HEIGHT * len(lines), width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        paste(picture, black_on_white(line, scale=2)[:, :, None], y=LINE_HEIGHT * i, x=0)
    return picture


def stack(parts: list) -> np.ndarray:
    """Pictures one below the other on a white sheet of the banner's width, in the middle."""
    height = sum(part.shape[0] + GAP for part in parts) + GAP
    sheet = np.full((height, WIDTH, 3), 255, np.uint8)
    y = GAP
    for part in parts:
        paste(sheet, part, y=y, x=(WIDTH - part.shape[1]) // 2)
        y += part.shape[0] + GAP
    return sheet


def main():
    faces = part_of("diffusion.png", top=0, height=104)             # the first row
    captioned = part_of("captions.png", top=0, height=240)          # the first four
    roll = part_of("music.png", top=0, height=215)
    write_png(GALLERY / "banner.png", stack([faces, captioned, first_lines_of(story()), roll]))
    print(f"wrote {GALLERY / 'banner.png'}")


if __name__ == "__main__":
    main()
