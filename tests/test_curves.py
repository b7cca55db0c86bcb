"""mini/utils/curves.py: what a run's log.csv says stands in its curves.png, and nothing in a log can stop a run."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from mini.utils import curves
from mini.utils.charts import COLOURS, MANY_POINTS
from mini.utils.config import RunConfig
from mini.utils.curves import MOST_POINTS, PANEL_HEIGHT, draw_run, draw_runs, main, panels, read_log
from mini.utils.lettering import black_on_white
from mini.utils.png import read_png, write_png
from mini.utils.run import Run
from tests.helpers import find_text, refused_by

BLACK = (0, 0, 0)


def write_log(folder, header: str, *rows: str):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("\n".join([header, *rows, ""]))
    return folder / "log.csv"


def is_colour(picture, colour):
    return (picture == np.array(colour)).all(axis=2)


def names(picture, panel: int, word: str, colour) -> bool:
    """Does a word stand in this colour above the curves of a panel?"""
    top = panel * PANEL_HEIGHT
    letters = black_on_white(word, 2) < 128
    places = sliding_window_view(is_colour(picture[top:top + 36], colour), letters.shape)
    return bool((places == letters).all(axis=(2, 3)).any())


# ---- what is drawn

def test_losses_share_a_panel_and_so_do_shares(tmp_path):
    path = write_log(tmp_path, "step,seconds,stage,loss,lr,val_loss,D(x),accuracy,kl,note",
                     "10,0.5,1,4.0,0.1,3.5,0.5,0.25,12.0,begun",
                     "20,1.0,1,3.0,0.2,2.5,0.75,1,9.0,done")
    log = read_log(path)
    assert log["loss"] == ([10, 20], [4, 3]) and log["accuracy"] == ([10, 20], [0.25, 1])
    assert panels(log) == [["loss", "val_loss"], ["D(x)", "accuracy"], ["kl"]]
    picture = draw_run(log)
    assert picture.shape == (3 * PANEL_HEIGHT + 24, 760, 3) and picture.dtype == np.uint8
    for panel, shared in enumerate(panels(log)):
        for colour, name in zip(COLOURS, shared):
            assert names(picture, panel, name, colour), name
    assert not names(picture, 0, "kl", COLOURS[0])
    (row, _), = find_text(picture, "step")                      # once, below all panels
    assert row > picture.shape[0] - 30


def test_losses_of_other_sizes_have_their_own_panels():
    """Beside a loss of thousands one of 2 would be a flat line."""
    steps = [1, 2, 3]
    log = {"d_loss": (steps, [0.0, 1.0, 2.0]), "g_loss": (steps, [0.0, 3000.0, 20.0]),
           "cycle_loss": (steps, [0.0, 5.0, 30.0]), "g_val_loss": (steps[:1], [100.0])}
    assert panels(log) == [["d_loss", "cycle_loss"], ["g_loss", "g_val_loss"]]
    assert panels({"loss": ([1], [4.0]), "val_loss": ([1], [5.0])}) == [["loss", "val_loss"]]


def test_a_curve_stands_where_its_numbers_say():
    """Steps 0 to 100 and losses 0 to 10, with ticks at both ends: a diagonal through all of the panel."""
    steps = list(range(101))
    picture = draw_run({"loss": (steps, [step / 10 for step in steps])})
    rows, columns = np.nonzero(is_colour(picture[36:], COLOURS[0]))     # below the name
    rows += 36
    left, right = 70, 760 - 30
    top, bottom = 40, PANEL_HEIGHT - 36
    expected = bottom - (columns - left) / (right - left) * (bottom - top)
    assert len(set(columns)) > 600 and np.abs(rows - expected).max() < 2.5
    for value, row in ((10, top), (0, bottom)):                 # the digits beside the lines
        letters = black_on_white(str(value), 2) < 128
        assert (is_colour(picture[row - 13:row + 11, 18:18 + letters.shape[1]], BLACK) == letters).all()


def test_all_panels_have_the_same_steps_below():
    """Round numbers; also where a curve begins late, as one that is seldom evaluated does."""
    picture = draw_run({"loss": ([3, 500, 997], [5, 3, 2]), "right": ([500, 997], [0.5, 0.6])})
    for step in (200, 1000):
        (row, column), (row_below, column_below) = find_text(picture, str(step))
        assert row_below - row == PANEL_HEIGHT and column == column_below


def test_only_few_points_have_marks():
    def coloured(n):
        picture = draw_run({"loss": (list(range(n)), [1.0] * n)})
        return is_colour(picture[36:], COLOURS[0]).sum()
    assert coloured(MANY_POINTS) > 1.5 * coloured(MANY_POINTS + 1)


def test_of_very_many_points_the_extremes_are_drawn(tmp_path):
    rows = [f"{i},0,{2.0 if i == 4567 else i % 2}" for i in range(10_000)]
    steps, values = read_log(write_log(tmp_path, "step,seconds,loss", *rows))["loss"]
    assert len(steps) <= MOST_POINTS and steps == sorted(steps)
    assert values[steps.index(4567)] == 2.0 and set(values) == {0.0, 1.0, 2.0}


# ---- what a log may hold

def test_cells_that_are_no_numbers_are_skipped(tmp_path):
    path = write_log(tmp_path, "step,seconds,loss,val_loss,right", "1,0,nan,,0.5", "2,0,3.0,inf", "x,0,7,7,7",
                     "3,0,oops,2.0,1e999", "4,0,1.0,,,9,9", "", "5,0,-1e300")
    log = read_log(path)
    assert log == {"loss": ([2, 4], [3, 1]), "val_loss": ([3], [2]), "right": ([1], [0.5])}
    assert draw_run(log).shape == (2 * PANEL_HEIGHT + 24, 760, 3)


@pytest.mark.parametrize("rows", [[], ["1,0,,"], ["a,b,c,d"], ["7,0,nan,nan"]])
def test_a_log_without_numbers_has_no_picture(rows, tmp_path):
    write_log(tmp_path, "step,seconds,loss,val_loss", *rows)
    assert not curves.write_curves(tmp_path) and not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 0.0], [1e-30, 2e-30], [1e50, 1e50], [-1e99, 1e99],
                                    [1e9, 1e9 + 1e-6]])
def test_any_numbers_can_be_drawn(values, tmp_path):
    write_log(tmp_path, "step,seconds,loss", *[f"{step},0,{value}" for step, value in enumerate(values, 7)])
    assert curves.write_curves(tmp_path)
    assert is_colour(read_png(tmp_path / "curves.png")[36:], COLOURS[0]).sum() > 20     # a mark


# ---- several runs

def test_two_runs_in_one_picture(tmp_path, capsys):
    """A panel for each column that either has, a colour for each run, its folder's name beside it."""
    write_log(tmp_path / "runs/gpt", "step,seconds,loss,lr,val_loss", "1,0,4,1,4", "2,0,3,1,3")
    write_log(tmp_path / "runs/gpt.1", "step,seconds,loss,lr,right", "1,0,5,1,0.5", "2,0,4,1,0.6", "3,0,2,1,0.7")
    main([str(tmp_path / "runs/gpt"), str(tmp_path / "runs/gpt.1")])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'runs/curves.png'}\n"
    picture = read_png(tmp_path / "runs/curves.png")
    assert picture.shape == (3 * PANEL_HEIGHT + 24, 760, 3)
    of_gpt, of_gpt_1 = COLOURS[:2]
    drawn = {"loss": (True, True), "val_loss": (True, False), "right": (False, True)}
    for panel, (column, (first, second)) in enumerate(drawn.items()):
        assert names(picture, panel, column, BLACK)
        assert names(picture, panel, "gpt", of_gpt) == first and names(picture, panel, "gpt.1", of_gpt_1) == second
        below = picture[panel * PANEL_HEIGHT + 36:(panel + 1) * PANEL_HEIGHT]
        assert is_colour(below, of_gpt).any() == first and is_colour(below, of_gpt_1).any() == second


def test_many_names_take_several_lines():
    log = {"loss": ([1, 2], [1.0, 2.0])}
    picture = draw_runs({f"text_to_image.{i}": log for i in range(7)})
    assert picture.shape[0] == PANEL_HEIGHT + 24 + 2 * 22       # three names in a line
    letters = black_on_white("text_to_image.6", 2) < 128
    assert (is_colour(picture[50:74, 18:18 + letters.shape[1]], COLOURS[6]) == letters).all()


def test_where_the_picture_is_written(tmp_path, capsys, monkeypatch):
    for name in ("a/gpt", "b/gpt"):                             # the same name: both are told by their paths
        write_log(tmp_path / name, "step,seconds,loss", "1,0,4", "2,0,3")
    monkeypatch.chdir(tmp_path)
    main(["a/gpt/", "b/gpt", "--out=both.png"])
    assert names(read_png("both.png"), 0, "b/gpt", COLOURS[1])
    monkeypatch.chdir(tmp_path / "a/gpt")
    main(["."])
    assert names(read_png(tmp_path / "a/curves.png"), 0, "gpt", COLOURS[0])


def test_only_its_own_pictures_are_written_over(tmp_path, capsys):
    """Other files of that name were, a photograph for instance."""
    write_log(tmp_path / "run", "step,seconds,loss", "1,0,4", "2,0,3")
    picture = tmp_path / "curves.png"
    for _ in range(2):
        main([str(tmp_path / "run")])
    assert read_png(picture).shape == (PANEL_HEIGHT + 24, 760, 3)
    main([str(tmp_path / "run"), f"--out={tmp_path / 'run/curves.png'}"])
    curves.write_curves(tmp_path / "run")
    main([str(tmp_path / "run"), f"--out={tmp_path / 'run/curves.png'}"])

    write_png(picture, np.zeros((9, 9), np.uint8))
    (tmp_path / "thesis.txt").write_text("my thesis")
    for path in (picture, tmp_path / "thesis.txt", tmp_path / "run"):
        before = path.read_bytes() if path.is_file() else b""
        assert f"{path} is there already" in refused_by(main, capsys, str(tmp_path / "run"), f"--out={path}")
        assert path.is_dir() or path.read_bytes() == before
    refused_by(main, capsys, str(tmp_path / "run"))


def test_its_errors_are_single_lines(capsys):
    assert r"no\n\x1bfolder" in refused_by(main, capsys, "no\n\x1bfolder")
    assert r"--o\nt" in refused_by(main, capsys, "folder", "--o\nt")


@pytest.mark.parametrize("bad", ["empty", "nowhere", "begun"])
def test_a_folder_without_a_log_is_refused(bad, tmp_path, capsys):
    write_log(tmp_path / "good", "step,seconds,loss", "1,0,4", "2,0,3")
    write_log(tmp_path / "begun", "step,seconds,loss")
    (tmp_path / "empty").mkdir()
    folders = [tmp_path / "begun"] if bad == "begun" else [tmp_path / "good", tmp_path / bad]
    with pytest.raises(SystemExit) as leaving:
        main([str(folder) for folder in folders])
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and bad in err
    assert ("nothing to draw yet" if bad == "begun" else "no log.csv there") in err
    assert not (tmp_path / "curves.png").exists()


def test_a_place_that_cannot_be_written_to(tmp_path, capsys):
    write_log(tmp_path / "run", "step,seconds,loss", "1,0,4", "2,0,3")
    with pytest.raises(SystemExit) as leaving:
        main([str(tmp_path / "run"), f"--out={tmp_path}/nowhere/a.png"])
    assert leaving.value.code == 2 and "nowhere" in capsys.readouterr().err


# ---- of a run

def make_run(tmp_path):
    cfg = dataclasses.replace(RunConfig(), out_dir=str(tmp_path / "run"), steps=4)
    return Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss"])


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_draws_its_curves(stopped, tmp_path, capsys):
    """At its end, and where it is interrupted; the last line says where to look."""
    with make_run(tmp_path) as run:
        for step in range(1, 4):
            run.log(step, loss=1 / step)
        run.leave(3) if stopped else run.finish()
    log = read_log(tmp_path / "run/log.csv")
    assert (read_png(tmp_path / "run/curves.png") == draw_run(log)).all()
    assert log["loss"] == ([1, 2, 3], [1, 0.5, 1 / 3])
    assert stopped or "curves.png" in capsys.readouterr().out.splitlines()[-1]


def test_trouble_in_drawing_stops_no_run(tmp_path, capsys, monkeypatch):
    """It becomes a line; result.json is there."""
    def fail(folder):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(curves, "write_curves", fail)
    with make_run(tmp_path) as run:
        run.log(4, loss=math.pi)
        run.finish()
    lines = capsys.readouterr().out.splitlines()
    assert "curves.png could not be drawn" in lines[-2] and "No space left" in lines[-2]
    assert (tmp_path / "run/result.json").exists() and not (tmp_path / "run/curves.png").exists()
