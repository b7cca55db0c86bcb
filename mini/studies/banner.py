"""The picture at the top of README.md: what four models make, each as its default run gives it.

    python train_diffusion.py                   and the default runs of mini.captioner, train_gpt.py
                                                and mini.music
    python -m mini.studies.banner               writes mini/gallery/banner.png
"""
import textwrap
from pathlib import Path

import numpy as np
import torch

import train_diffusion
import train_gpt
from mini import captioner, music
from mini.data.images.image_sets import draw_labels, one_hot
from mini.data.music.midi import piano_roll
from mini.data.text.story_reader import check
from mini.data.text.story_scores import first_story
from mini.utils.device import pick_device
from mini.utils.lettering import black_on_white, enlarge, paste
from mini.utils.png import write_png
from mini.utils.run import own_checkpoint

WIDTH = 830             # of the banner, in pixels
GAP = 10                # around each part
LINE_HEIGHT = 26        # of a line of text
LETTER_WIDTH = 12

FILE = Path(__file__).parents[1] / "gallery" / "banner.png"


def row_of_faces(n: int = 8) -> np.ndarray:
    """n faces by the diffusion model, with random labels, side by side: (H, W, 3)."""
    cfg, state = own_checkpoint(train_diffusion.Config(), "diffusion")
    shape = state["shape"]
    attributes = shape[-1]
    net = train_diffusion.make_nets(cfg, shape, state)["average"].to(pick_device(cfg.device))
    y = one_hot(draw_labels(cfg, attributes, n), attributes)
    with torch.no_grad():
        images = train_diffusion.draw(net, y, shape, cfg)           # (n, C, size, size)
    pixels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    return side_by_side([large(image, 3) for image in pixels])


def captioned_face(i: int = 0):
    """A held-out face (H, W, 3), and what the captioner says of it."""
    cfg, model, words, _, test, _ = captioner.load(captioner.Config())
    images = test["held out"].images[i:i + 1]
    line, = captioner.write(model, words, images, cfg)
    return large(images[0].numpy(), 4), line


def story() -> str:
    """The first story without a contradiction that the default run of train_gpt.py writes."""
    model, tokenizer = train_gpt.load(train_gpt.Config())
    stories = [first_story(text) for text in train_gpt.write(model, tokenizer, n=256)]
    return next(text for text in stories if not check(text))


def bars_of_music(n_bars: int = 8) -> np.ndarray:
    """The piano roll of the first bars of the first piece: (H, W, 3)."""
    model, beat, cfg = music.load(music.Config(samples=1))
    notes, = music.write(model, cfg)
    bar = 4 * beat
    return piano_roll(notes, bar, seconds=n_bars * bar)


# ---- layout

def large(image, scale: int) -> np.ndarray:
    """An image (3, H, W), uint8, with each pixel as a square: (scale · H, scale · W, 3)."""
    return image.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)


def side_by_side(pictures: list) -> np.ndarray:
    """Pictures of equal height in a row, GAP white pixels between them."""
    height = pictures[0].shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    parts = []
    for picture in pictures:
        parts += [picture, gap]
    return np.concatenate(parts[:-1], axis=1)


def lines_of(text: str, width: int) -> np.ndarray:
    """A text as a picture of this width, broken into lines: (H, width, 3)."""
    lines = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, width // LETTER_WIDTH)
    picture = np.full((LINE_HEIGHT * len(lines), width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        paste(picture, black_on_white(line, scale=2)[:, :, None], y=LINE_HEIGHT * i, x=0)
    return picture


def stack(parts: list) -> np.ndarray:
    """Pictures one below the other on a white sheet of the banner's width."""
    height = sum(part.shape[0] + GAP for part in parts) + GAP
    sheet = np.full((height, WIDTH, 3), 255, np.uint8)
    y = GAP
    for part in parts:
        paste(sheet, part[:, :WIDTH - 2 * GAP], y=y, x=GAP)
        y += part.shape[0] + GAP
    return sheet


def main():
    inner = WIDTH - 2 * GAP
    face, caption = captioned_face()
    caption_lines = lines_of(f'"{caption}"', inner - face.shape[1] - GAP)
    beside = np.full((face.shape[0], inner, 3), 255, np.uint8)
    paste(beside, face, y=0, x=0)
    middle = (face.shape[0] - caption_lines.shape[0]) // 2
    paste(beside, caption_lines, y=middle, x=face.shape[1] + GAP)

    roll = bars_of_music()
    factor = max(1, inner // roll.shape[1])
    roll = np.stack([enlarge(roll[:, :, channel], factor) for channel in range(3)], axis=2)

    banner = stack([row_of_faces(), beside, lines_of(story(), inner), roll])
    write_png(FILE, banner)
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
