"""The curves of a run as a picture, curves.png, drawn from log.csv; or several runs in one picture.

    python -m mini.utils.curves runs/gpt runs/gpt.1     one colour for each run: runs/curves.png

Each run draws its own picture when it ends. In it the losses share a panel. The columns whose
values are all between 0 and 1, such as accuracies or D(x), share another. Every other column has a
panel of its own. In a picture of several runs each column has its own panel.

"step" is the horizontal axis. Three columns are not drawn: "seconds", which only grows with the
steps, and "lr" and "stage", which follow from the config. Cells that are not numbers are skipped.
"""
import csv
import math
from pathlib import Path

import numpy as np

from mini.utils.charts import line_chart, round_numbers
from mini.utils.config import Parser, errors_in_a_line, printable, require, require_file
from mini.utils.output import guarded_output
from mini.utils.png import write_png

NOT_CURVES = ("step", "seconds", "lr", "stage")
MOST_POINTS = 800       # that are drawn of a curve
PANEL_HEIGHT = 216      # in pixels
SOFTWARE = "mini.utils.curves"      # each picture says that it was made here


# ---- what is drawn

def read_log(path) -> dict:
    """{column: (list of steps, list of values)} of a log.csv, for the columns that have numbers."""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        columns = [column for column in rows.fieldnames or [] if column not in NOT_CURVES]
        curves = {column: ([], []) for column in columns}
        for row in rows:
            step = to_number(row.get("step"))
            for column, (steps, values) in curves.items():
                value = to_number(row[column])
                if not math.isnan(step + value):
                    steps.append(step)
                    values.append(value)
    return {column: thinned(*curve) for column, curve in curves.items() if curve[0]}


def to_number(text) -> float:
    """The number in a cell of the log; NaN if there is none, or if it is too large to draw."""
    try:
        number = float(text or "nan")
    except ValueError:                  # a word
        return math.nan
    return number if abs(number) < 1e100 else math.nan


def thinned(steps: list, values: list) -> tuple:
    """The curve itself; if it has too many points, the lowest and highest of each group of them."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    kept = set()
    all_values = np.array(values)
    for group in np.array_split(np.arange(len(steps)), MOST_POINTS // 2):
        some = all_values[group]
        kept |= {group[some.argmin()], group[some.argmax()]}
    kept = sorted(kept)
    return [steps[i] for i in kept], [values[i] for i in kept]


def panels(log: dict) -> list:
    """Lists of the columns of a log that share a panel."""
    losses, shares, others = [], [], []
    for column, (_, values) in log.items():
        if "loss" in column.lower():
            losses.append(column)
        elif all(0 <= value <= 1 for value in values):
            shares.append(column)
        else:
            others.append([column])
    return [*by_range(log, losses), *([shares] if shares else []), *others]


def by_range(log: dict, columns: list, factor: float = 20) -> list:
    """Lists of columns that fit into one panel: its range is at most `factor` times the range of
    each of its curves, so that none looks flat. (A constant is flat in any case.)"""
    groups = []
    for column in columns:
        for group in groups:
            curves = [log[name][1] for name in [*group, column]]
            spans = [max(values) - min(values) for values in curves]
            height = max(map(max, curves)) - min(map(min, curves))
            if height <= factor * min((span for span in spans if span > 0), default=math.inf):
                group.append(column)
                break
        else:
            groups.append([column])
    return groups


# ---- the picture

def draw_run(log: dict):
    """The picture of a run's log as `read_log` returns it, uint8 (H, 760, 3)."""
    return draw_panels([("", {column: log[column] for column in shared}) for shared in panels(log)])


def draw_runs(logs: dict):
    """The picture of the logs of several runs, {name: log}, uint8 (H, 760, 3)."""
    columns = dict.fromkeys(column for log in logs.values() for column in log)
    return draw_panels([(column, {name: log.get(column, ([], [])) for name, log in logs.items()})
                        for column in columns])


def draw_panels(panels: list):
    """Charts one below the other, over the same steps. panels: (title, curves) of each."""
    all_steps = [step for _, curves in panels for steps, _ in curves.values() for step in steps]
    ticks = round_numbers(min(all_steps), max(all_steps))
    whole = [tick for tick in ticks if tick == int(tick)]       # of a few steps: not 1.5
    charts = []
    for i, (title, curves) in enumerate(panels):
        is_last = i == len(panels) - 1
        x_label = "step" if is_last else ""
        height = PANEL_HEIGHT + 24 if is_last else PANEL_HEIGHT     # 24: for the label
        charts.append(line_chart(curves, x_label, title, height=height, ticks_x=whole or ticks,
                                 legend=True))
    return np.concatenate(charts)


def write_curves(folder) -> bool:
    """Draw curves.png in the folder of a run; False if its log has nothing to draw."""
    log = read_log(Path(folder) / "log.csv")
    if log:
        write_png(Path(folder) / "curves.png", draw_run(log), SOFTWARE)
    return bool(log)


# ---- several runs

def compare(folders: list, out: str = "") -> Path:
    """Draw the runs in these folders in one picture; returns where: `out`, or curves.png beside the
    first folder. Raises UserError if there is nothing to draw, or if a file is there already that
    was not drawn here."""
    paths = [Path(folder) for folder in dict.fromkeys(folders)]
    paths = [path if path.name else path.resolve() for path in paths]       # "." has no name
    names = [path.name for path in paths]
    logs = {}
    for path in paths:
        require_file(path / "log.csv", f"{path}: no log.csv there; name the folder of a run")
        name = path.name if names.count(path.name) == 1 else str(path)
        logs[name] = read_log(path / "log.csv")
    require(any(logs.values()), f"nothing to draw yet in log.csv of {', '.join(logs)}")
    target = Path(out) if out else paths[0].parent / "curves.png"
    require(not target.exists() or is_made_here(target), f"{target} is there already, and does not "
            "say that it was drawn here: rename it, or name another file by --out")
    write_png(target, draw_runs(logs), SOFTWARE)
    return target


def is_made_here(path) -> bool:
    """True for a picture that this file has written."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return SOFTWARE.encode() in file.read(100)


def main(argv=None):
    about = "Draw the curves of several runs in one picture, from the log.csv of each."
    parser = Parser(prog="python -m mini.utils.curves", description=about)
    parser.add_argument("folders", nargs="+", help="folders of runs, such as runs/gpt runs/gpt.1")
    parser.add_argument("--out", default="", metavar="FILE",
                        help="the picture (default: curves.png beside the first folder)")
    with guarded_output(), errors_in_a_line("compare fewer runs at once"):
        args = parser.parse_args(argv)
        print(f"wrote {printable(compare(args.folders, args.out))}")


if __name__ == "__main__":
    main()
