"""A spectrogram with what each character of its transcript looked at, below it."""
import math

import numpy as np

from mini.utils.lettering import CELL_HEIGHT, black_on_white, paste


def gray(x) -> np.ndarray:
    """Numbers from their lowest, white, to their highest, black: uint8."""
    x = np.asarray(x, float)
    x = (x - x.min()) / max(1e-9, x.max() - x.min())
    return np.round(255 * (1 - x)).astype(np.uint8)


def spectrogram_and_attention(mel, attention, characters: list, band: int = 6) -> np.ndarray:
    """The picture, uint8 (H, W). mel (T, M): low bands below; attention (len(characters), S), which
    covers the same time, a row for each character, named on the left. A band is `band` pixels high;
    a piece of sound as wide, or wider, so that the picture is at least 600 pixels wide."""
    mel = np.asarray(mel)
    T, M = mel.shape
    attention = np.asarray(attention)
    rows, S = attention.shape
    height = CELL_HEIGHT * 2 + 2
    left = 12 * 3
    wide = max(band, math.ceil(600 / T))
    above = gray(mel.T[::-1]).repeat(band, axis=0).repeat(wide, axis=1)
    width = above.shape[1]
    sheet = np.full((above.shape[0] + 8 + rows * height, left + width), 255, np.uint8)
    paste(sheet, above, 0, left)
    columns = np.minimum(np.arange(width) * S // width, S - 1)
    for i, character in enumerate(characters):
        y = above.shape[0] + 8 + i * height
        name = black_on_white("_" if character == " " else character[:2], 2)
        paste(sheet, name[:height], y, 4)
        shade = 255 * (1 - attention[i] / max(1e-9, attention[i].max()))
        sheet[y:y + height - 1, left:] = np.round(shade).astype(np.uint8)[columns]
    return sheet
