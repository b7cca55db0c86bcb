"""Fetch a file by name once, check its SHA-256, and keep it in `data/`."""
import hashlib
import http.client
import urllib.request
from pathlib import Path

from mini.utils.config import UserError, require_file
from mini.utils.run import atomic_open

FOLDER = Path("data")


def download(name: str, urls, sha256: str, timeout: float = 30) -> Path:
    """The path data/<name>, downloaded from the first of the mirrors `urls` that serves the right
    bytes.

    A file that is already there is used if its SHA-256 is right. Raises UserError if it is wrong,
    or if no mirror answers; the message says where to put the file by hand.
    """
    path = FOLDER / name
    if path.exists():
        require_file(path)
        if sha256_of(path.read_bytes()) != sha256:
            raise UserError(f"{path}: its SHA-256 is not the one we expect; delete it to download "
                            "it again")
        return path

    troubles = []                               # why each mirror failed
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            # HTTPException: the answer was cut off, or it is no HTTP
            reason = str(getattr(error, "reason", error))
            troubles.append(reason or type(error).__name__)
            continue
        if sha256_of(content) != sha256:        # an error page in place of the file, for instance
            troubles.append("it sent another file")
            continue
        FOLDER.mkdir(exist_ok=True)
        with atomic_open(path) as file:
            file.write(content)
        return path
    raise UserError(f"cannot download {name} ({'; '.join(troubles)}); with no network, fetch "
                    f"{urls[0]} elsewhere and put it at {path}")


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
