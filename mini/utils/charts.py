"""Curves as a picture, without a plotting package."""
import math

import numpy as np

from mini.utils.lettering import CELL_WIDTH, black_on_white

COLOURS = [(31, 119, 180), (214, 69, 65), (44, 140, 60), (140, 86, 190), (120, 120, 120),
           (230, 130, 20), (20, 160, 170), (130, 80, 60), (220, 100, 170), (150, 150, 20)]
MANY_POINTS = 40        # a curve with more of them has no marks


def line_chart(curves: dict, x_label: str, y_label: str, log_x: bool = False, width: int = 760,
               height: int = 460, ticks_x: list | None = None,
               legend: bool = False) -> np.ndarray:
    """A picture (height, width, 3), uint8, of curves {name: (list of x, list of y)}.

    Each curve has a mark at each of its points, if there are at most MANY_POINTS, and its name in
    its colour at the right. A curve without points is not drawn; the others keep their colours.

    log_x: the same factor is the same distance, as for 1, 2, 4, …; x must then be above 0.
    ticks_x: the numbers on the x-axis, which reaches from the first to the last of them at least;
    without them, some of the x are chosen.
    legend: the names stand above the curves, behind y_label. If they need more than one line, the
    picture is higher.
    """
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(curves)}
    curves = {name: points for name, points in curves.items() if len(points[0])}
    scale_x = math.log if log_x else float
    all_x = {x for x_list, _ in curves.values() for x in x_list}
    if ticks_x is None:
        ticks_x = sorted(all_x)[::max(1, math.ceil(len(all_x) / 10))]
    xs = [scale_x(x) for x in all_x.union(ticks_x)]
    ys = [y for _, y_list in curves.values() for y in y_list]
    ticks_y = round_numbers(min(ys), max(ys))
    low, high = ticks_y[0], ticks_y[-1]
    span_x = max(xs) - min(xs) or 1

    # margins in pixels
    left, right, top, bottom = 70, 150, 40, 60
    label_row, number_row = 12, -6
    if legend:
        right = 30
        label_row, number_row = 6, -13
        places = legend_places(curves, y_label, label_row, width)
        more_lines = places[-1][0] - label_row                  # their height
        top += more_lines
        height += more_lines
    if not x_label:
        bottom = 36

    def to_pixel(x, y):
        column = left + (scale_x(x) - min_x) / span_x * (width - left - right)
        row = top + (high - y) / (high - low) * (height - top - bottom)
        return column, row

    min_x = min(xs)
    picture = np.full((height, width, 3), 255, np.uint8)

    # the grid and its numbers
    for x in ticks_x:
        column, _ = to_pixel(x, low)
        picture[top:height - bottom, round(column)] = 225
        write(picture, f"{x:g}", height - bottom + 10, round(column), centre=True)
    for y in ticks_y:
        _, row = to_pixel(ticks_x[0], y)
        picture[round(row), left:width - right] = 225
        number = f"{y:g}"
        length = 2 * CELL_WIDTH * len(number)
        write(picture, number, round(row) + number_row, min(left - 52, left - 4 - length))
    write(picture, x_label, height - 26, (left + width - right) // 2, centre=True)
    write(picture, y_label, label_row, 18)

    # the curves
    order = list(curves)
    if not legend:                                              # by where they end, from the top
        order.sort(key=lambda name: to_pixel(curves[name][0][-1], curves[name][1][-1])[1])
    names_end = -20
    for name in order:
        points = [to_pixel(x, y) for x, y in zip(*curves[name])]
        draw_line(picture, points, colours[name])
        if len(points) <= MANY_POINTS:
            draw_discs(picture, points, 4.0, colours[name])
        if not legend:
            names_end = max(round(points[-1][1]) - 6, names_end + 20)   # below the name above it
            write(picture, name, names_end, round(points[-1][0]) + 12, colour=colours[name])
    if legend:
        for name, (row, column) in zip(curves, places):
            write(picture, name, row, column, colour=colours[name])
    return picture


def legend_places(names, title: str, row: int, width: int) -> list:
    """The (row, column) of each name. They stand one behind the other, the first behind a title, in
    as many lines as they need; `row` is that of the first line."""
    column = 18
    if title:
        column += 2 * CELL_WIDTH * (len(title) + 2)
    places = []
    for name in names:
        length = 2 * CELL_WIDTH * len(name)
        if column + length > width - 18 and column > 18:
            row += 22
            column = 18
        places.append((row, column))
        column += length + 4 * CELL_WIDTH
    return places


def round_numbers(low: float, high: float) -> list:
    """Five or so numbers such as 0.5, 1.0, 1.5, …, from at most `low` to at least `high`."""
    span = high - low or 1.0
    span = max(span, 1e-9 * max(abs(low), abs(high)))       # less is lost in rounding
    magnitude = math.floor(math.log10(span / 4))
    step = 10 ** magnitude
    for factor in (1, 2, 5, 10):
        if span / (factor * step) <= 6:
            break
    step *= factor
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    digits = max(10, 2 - magnitude)
    return [round(i * step, digits) for i in range(first, last + 1)]


def draw_line(picture, points: list, colour):
    """A line of some two pixels' width through the points (column, row), in place: discs one beside
    the other."""
    centres = []
    for start, end in zip(points, points[1:]):
        n = math.ceil(math.dist(start, end)) + 1
        t = np.arange(n)[:, None] / max(1, n - 1)
        centres.append(np.array(start) + t * np.subtract(end, start))
    if centres:
        draw_discs(picture, np.concatenate(centres), 1.0, colour)


def draw_discs(picture, centres, radius: float, colour):
    """Filled discs with soft edges, in place; centres (n, 2): column and row of each.

    A pixel at the edges of several discs is mixed with the colour once for each of them. To do this
    for all pixels at once, first each is mixed for the first of its discs, then each that has a
    second one for the second, and so on.
    """
    column, row = np.array(centres, float).T[:, :, None, None]      # (n, 1, 1) each
    reach = math.ceil(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    rows = row.astype(int) + offsets[:, None]                       # (n, k, 1)
    columns = column.astype(int) + offsets                          # (n, 1, k)
    opacity = np.clip(radius + 0.5 - np.hypot(rows - row, columns - column), 0, 1)  # (n, k, k)
    height, width = picture.shape[:2]
    is_seen = ((opacity > 0) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))
    pixel = (rows * width + columns)[is_seen]
    opacity = opacity[is_seen]

    # How many discs at the same pixel came before?
    order = np.argsort(pixel, kind="stable")
    pixel, opacity = pixel[order], opacity[order, None]
    number = np.arange(len(pixel))
    is_other = np.diff(pixel, prepend=-1) != 0                      # than the one before
    before = number - np.maximum.accumulate(np.where(is_other, number, 0))
    for turn in range(before.max(initial=-1) + 1):
        now = before == turn
        place = np.divmod(pixel[now], width)
        mixed = picture[place] * (1 - opacity[now]) + np.array(colour) * opacity[now]
        picture[place] = mixed.round()


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
