"""mini/utils/charts.py: a curve stands where its numbers say."""
import numpy as np
import pytest

from mini.utils.charts import COLOURS, line_chart, round_numbers


def where(picture, colour):
    """Rows and columns of the pixels of exactly this colour."""
    return np.nonzero((picture == np.array(colour)).all(axis=2))


def test_a_curve_stands_where_its_numbers_say():
    picture = line_chart({"a": ([1, 2, 4, 8], [0.0, 1.0, 2.0, 3.0])}, "x", "y", log_x=True, width=700, height=400)
    assert picture.shape == (400, 700, 3) and picture.dtype == np.uint8
    rows, columns = where(picture, COLOURS[0])
    curve = columns < 700 - 150                                 # without its name
    slope = np.polyfit(columns[curve], rows[curve], 1)
    assert np.abs(np.polyval(slope, columns[curve]) - rows[curve]).max() < 6       # 0, 1, 2, 3 over log 1, 2, 4, 8: a line
    assert slope[0] < 0 and rows[curve].max() - rows[curve].min() > 290             # upwards, from the lowest tick to the top


def test_names_of_curves_do_not_cover_each_other():
    picture = line_chart({"one": ([0, 1], [0, 1.0]), "two": ([0, 1], [0.2, 1.0])}, "x", "y")
    one, two = (where(picture, colour) for colour in COLOURS[:2])
    names = [rows[columns > 760 - 140] for rows, columns in (one, two)]
    assert len(names[0]) and len(names[1])
    assert names[0].max() < names[1].min() or names[1].max() < names[0].min()


@pytest.mark.parametrize("low, high", [(0, 1), (0.23, 0.31), (-5, 1000), (2, 2), (1e-6, 3e-6)])
def test_round_numbers_span_what_they_must(low, high):
    ticks = round_numbers(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
