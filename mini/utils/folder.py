"""The place of a run: which folders may be moved aside, and a lock so that two runs cannot share
one."""
import json
import os
import re
import sys
from pathlib import Path

from mini.utils.config import UserError, require, require_file

LOCK = ".lock"
OUR_FILES = ("config.json", "log.csv", "curves.png", "checkpoint.pt", "result.json",
             "evaluate.json")
OUR_SETTINGS = {"out_dir", "steps", "seed", "stop_after"}   # they are in each config.json


def is_run(folder: Path) -> bool:
    """True if the folder holds a run of ours: the config.json that each run begins with."""
    try:
        require_file(folder / "config.json")
        settings = json.loads((folder / "config.json").read_text("utf-8"))
    except (UserError, OSError, ValueError):
        return False
    return isinstance(settings, dict) and OUR_SETTINGS <= set(settings)


def is_leftover(path: Path) -> bool:
    """True for the unfinished copy of one of our files, which a killed run leaves behind:
    checkpoint.pt.1234.tmp, where 1234 was the number of its process."""
    name = "|".join(map(re.escape, OUR_FILES))
    return re.fullmatch(rf"({name})\.\d+\.tmp", path.name) is not None and path.is_file()


def is_empty(folder: Path) -> bool:
    """True if there is nothing in the folder but what a run that was killed at once can leave."""
    return all(path.name == LOCK or is_leftover(path) for path in folder.iterdir())


def check_folder(out_dir) -> Path:
    """The folder of that name. Raises UserError if a run must not write there: only a folder that
    is new, empty or a run of ours will do, and never the one that the user works in."""
    require(str(out_dir).strip(), "--out_dir is empty: name a folder, such as --out_dir=runs/mine")
    folder = Path(out_dir)
    try:
        here = Path.cwd().resolve()
        place = folder.resolve()
        require(place != here and place not in here.parents,
                f"--out_dir={out_dir} is the folder that you work in, or one above it; a run needs "
                "a folder of its own, such as --out_dir=runs/mine")
        if not folder.exists():
            return folder
        require(folder.is_dir(), f"--out_dir={out_dir} is a file; name a folder")
        if is_run(folder) or is_empty(folder):
            return folder
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError, RuntimeError) as error:     # no permission, links in a ring
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--out_dir={out_dir}: {reason}") from None
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise UserError(f"--out_dir={out_dir} holds files that are not a run ({shown}); they stay as "
                    "they are. Name another folder")


def rename_aside(folder: Path) -> Path:
    """Rename a folder to the first free name of NAME.1, NAME.2, …, and return its new place. Of a
    link the folder that it leads to is renamed, and a new one takes its place."""
    place = folder.resolve()
    n = 1
    while os.path.lexists(place.with_name(f"{place.name}.{n}")):
        n += 1
    aside = place.with_name(f"{place.name}.{n}")
    try:
        place.rename(aside)
        place.mkdir()
    except OSError as error:                # it is a mounted drive, or a program has it open
        raise UserError(f"{folder}: the older run there could not be renamed ({error.strerror}); "
                        "name another folder by --out_dir") from None
    return aside if folder.is_symlink() else folder.with_name(aside.name)


class Lock:
    """Keeps other runs out of a folder, until `release` or the end of the process, however it ends.

    Raises UserError if another run has it. Where the file system has no locks, there is none.
    """

    def __init__(self, folder: Path):
        if (folder / LOCK).exists():
            require_file(folder / LOCK)
        self.file = open(folder / LOCK, "a+b")
        try:
            if sys.platform == "win32":
                import msvcrt
                self.file.seek(0)
                msvcrt.locking(self.file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.file.close()
            raise UserError(f"{folder}: another run is writing there at this moment; wait for it, "
                            "or name another folder by --out_dir") from None
        except OSError:
            pass

    def release(self):
        self.file.close()
