"""Fetch a file by name once, check its SHA-256, and keep it in `data/`."""
import hashlib
import http.client
import urllib.request
from pathlib import Path

from mini.utils.config import UserError, require_file
from mini.utils.run import atomic_open

FOLDER = Path("data")


def download(name: str, urls, sha256: str, timeout: float = 30) -> Path:
    """The path data/<name>, downloaded from the first of the mirrors `urls` that serves the right bytes.

    A file that is already there is used if its SHA-256 is right. Raises UserError if it is wrong, or if no
    mirror answers; the message says where to put the file by hand.
    """
    path = FOLDER / name
    if path.exists():
        require_file(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path}: its SHA-256 is not the one we expect; delete it to download it again")
        return path
    troubles = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                data = answer.read()
        except (OSError, http.client.HTTPException) as error:   # HTTPException: it was cut off, or is no HTTP
            troubles.append(str(getattr(error, "reason", error)) or type(error).__name__)
            continue
        if hashlib.sha256(data).hexdigest() == sha256:  # an error page in place of the file is not kept
            FOLDER.mkdir(exist_ok=True)
            with atomic_open(path) as file:
                file.write(data)
            return path
        troubles.append("it sent another file")
    raise UserError(f"cannot download {name} ({'; '.join(troubles)}); with no network, fetch {urls[0]} "
                    f"elsewhere and put it at {path}")
