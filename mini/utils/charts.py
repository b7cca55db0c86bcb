"""Curves as a picture, without a plotting package."""
import math

import numpy as np

from mini.utils.lettering import black_on_white

COLOURS = [(31, 119, 180), (214, 69, 65), (44, 140, 60), (140, 86, 190), (120, 120, 120)]


def line_chart(curves: dict, x_label: str, y_label: str, log_x: bool = False, width: int = 760,
               height: int = 460) -> np.ndarray:
    """A picture (height, width, 3), uint8, of curves {name: (list of x, list of y)}.

    Each curve has a mark at each of its points, and its name in its colour at the right. log_x: the
    same factor is the same distance, as for 1, 2, 4, …; x must then be above 0.
    """
    scale_x = math.log if log_x else float
    xs = [scale_x(x) for x_list, _ in curves.values() for x in x_list]
    ys = [y for _, y_list in curves.values() for y in y_list]
    ticks_y = round_numbers(min(ys), max(ys))
    left, right, top, bottom = 70, 150, 40, 60              # margins in pixels
    low, high = ticks_y[0], ticks_y[-1]
    span_x = max(xs) - min(xs) or 1

    def to_pixel(x, y):
        column = left + (scale_x(x) - min(xs)) / span_x * (width - left - right)
        row = top + (high - y) / (high - low) * (height - top - bottom)
        return column, row

    picture = np.full((height, width, 3), 255, np.uint8)

    # the grid and its numbers
    some_x = sorted({x for x_list, _ in curves.values() for x in x_list})
    some_x = some_x[::max(1, math.ceil(len(some_x) / 10))]
    for x in some_x:
        column, _ = to_pixel(x, low)
        picture[top:height - bottom, round(column)] = 225
        write(picture, f"{x:g}", height - bottom + 10, round(column), centre=True)
    for y in ticks_y:
        _, row = to_pixel(some_x[0], y)
        picture[round(row), left:width - right] = 225
        write(picture, f"{y:g}", round(row) - 6, left - 52)
    write(picture, x_label, height - 26, (left + width - right) // 2, centre=True)
    write(picture, y_label, 12, 18)

    # the curves
    names_end = -20
    by_end = sorted(curves, key=lambda name: to_pixel(curves[name][0][-1], curves[name][1][-1])[1])
    for name in by_end:
        colour = COLOURS[list(curves).index(name) % len(COLOURS)]
        points = [to_pixel(x, y) for x, y in zip(*curves[name])]
        for start, end in zip(points, points[1:]):
            draw_line(picture, start, end, colour)
        for column, row in points:
            draw_disc(picture, column, row, 4.0, colour)
        names_end = max(round(points[-1][1]) - 6, names_end + 20)   # below the name above it
        write(picture, name, names_end, round(points[-1][0]) + 12, colour=colour)
    return picture


def round_numbers(low: float, high: float) -> list:
    """Five or so numbers such as 0.5, 1.0, 1.5, …, from at most `low` to at least `high`."""
    span = high - low or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    for factor in (1, 2, 5, 10):
        if span / (factor * step) <= 6:
            break
    step *= factor
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(i * step, 10) for i in range(first, last + 1)]


def draw_disc(picture, column: float, row: float, radius: float, colour):
    """A filled disc with a soft edge, in place."""
    reach = math.ceil(radius) + 1
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    part = picture[top:int(row) + reach + 1, left:int(column) + reach + 1]
    rows, columns = np.mgrid[:part.shape[0], :part.shape[1]]
    distance = np.hypot(rows + top - row, columns + left - column)
    opacity = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    part[:] = (part * (1 - opacity) + np.array(colour) * opacity).round()


def draw_line(picture, start, end, colour):
    """A line of some two pixels' width, in place: discs one beside the other."""
    n = math.ceil(math.dist(start, end)) + 1
    for i in range(n):
        t = i / max(1, n - 1)
        draw_disc(picture, start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1]),
                  1.0, colour)


def write(picture, text: str, row: int, column: int, colour=(0, 0, 0), centre: bool = False):
    """Write a text, its upper left corner (or its upper middle) at this place; what would stand
    outside the picture is left out."""
    letters = black_on_white(text, 2)
    if centre:
        column -= letters.shape[1] // 2
    row = min(max(0, row), picture.shape[0] - letters.shape[0])
    column = min(max(0, column), max(0, picture.shape[1] - letters.shape[1]))
    letters = letters[:, :picture.shape[1] - column]
    part = picture[row:row + letters.shape[0], column:column + letters.shape[1]]
    part[letters < 128] = colour
