"""Tables from text files: columns with tabs between them, and what other programs make of that.

Everything that is not read as it stands is said in a line that begins with "note:".
"""
import csv
import io
from pathlib import Path

from mini.data.text.corpus import read_file
from mini.utils.config import printable


def note(place, text: str):
    """Print what was not read as it stands; place: a path, or a line of it."""
    print(f"note: {printable(place)}: {text}")


def read_rows(path) -> list:
    """[(number of the line, its columns), …] of a file, without empty lines, and without white
    space around columns.

    Columns are separated by tabs. A file without any tab is read as CSV, if each line then has
    the same number of columns, two or more. Raises UserError if the file is not UTF-8 text.
    """
    text = read_file(path)
    if "\t" not in text:
        for separator, name in ((",", "commas"), (";", "semicolons"), ("|", "vertical bars")):
            rows = read_csv(text, separator)
            if rows:
                note(path, f"there is no tab in it; read as columns separated by {name}")
                return rows
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append((number, [column.strip() for column in line.split("\t")]))
    return without_quotes(rows, path)


def read_csv(text: str, separator: str) -> list:
    """The rows of a CSV file; or [] if the text is none with this separator.

    A sentence holds commas, too. But with a space after them, and not the same number in each line.
    """
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    rows = []
    number = 1                              # of the line in which the row begins
    try:
        for columns in reader:
            if any(column.strip() for column in columns):
                rows.append((number, columns))
            number = reader.line_num + 1
    except csv.Error:                       # a column of more than 131,072 characters
        return []
    widths = {len(columns) for _, columns in rows}
    spaced = any(column.startswith(" ") for _, columns in rows for column in columns[1:])
    if len(widths) != 1 or widths == {1} or spaced:
        return []
    return [(number, [column.strip() for column in columns]) for number, columns in rows]


def without_quotes(rows: list, path) -> list:
    """The rows, without the quotation marks that CSV programs put around a column: they double the
    marks inside it. A column without a mark inside it keeps its own, unless all lines have some.
    """
    every_row = len(rows) > 1
    n_quoted = 0
    new_rows = []
    for _, columns in rows:
        every_row = every_row and any(is_quoted(column) for column in columns)
    for number, columns in rows:
        new = []
        for column in columns:
            if is_quoted(column) and (every_row or '""' in column[1:-1]):
                column = column[1:-1].replace('""', '"').strip()
                n_quoted += 1
            new.append(column)
        new_rows.append((number, new))
    if n_quoted:
        note(path, f"{n_quoted:,} columns stand in quotation marks, which are taken off")
    return new_rows


def is_quoted(column: str) -> bool:
    """Could a CSV program have put this column in quotation marks?"""
    inside = column[1:-1].replace('""', "")
    return len(column) > 1 and column[0] == column[-1] == '"' and '"' not in inside


def without_ids(rows: list, wanted: int, path) -> list:
    """The rows without columns of whole numbers, mostly different ones, such as Tatoeba and pandas
    number their lines with; only if more than `wanted` columns are there, and enough remain."""
    width = len(rows[0][1]) if rows else 0
    if width <= wanted or any(len(columns) != width for _, columns in rows):
        return rows
    below = rows[1:] or rows                # the first line may be a header
    ids = []
    for i in range(width):
        values = [columns[i] for _, columns in below]
        if all(value.isdecimal() for value in values) and 2 * len(set(values)) > len(values):
            ids.append(i)
    if not ids or width - len(ids) < wanted:
        return rows
    numbers = ", ".join(str(i + 1) for i in ids)
    note(path, f"columns that only number the lines are left out: {numbers} of {width}")
    new_rows = []
    for number, columns in rows:
        new_rows.append((number, [columns[i] for i in range(width) if i not in ids]))
    return new_rows


def without_header(rows: list, words: list, path) -> list:
    """The rows without a first one that names the columns: each of its columns is among the words
    that `words` has at the same place."""
    if not rows or len(rows[0][1]) < len(words):
        return rows
    if any(column.casefold() not in known for column, known in zip(rows[0][1], words)):
        return rows
    tell_header(rows[0], path)
    return rows[1:]


def tell_header(row: tuple, path):
    """Say that a line is left out, as a header."""
    number, columns = row
    note(f"{path}, line {number}", f"left out, as it names the columns: {', '.join(columns)}")
