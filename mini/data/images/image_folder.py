"""Folders of pictures: which files there are, their classes, and the pictures themselves, which are
read once and kept in runs/cache."""
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch

from mini.data.files import list_files, places
from mini.utils.config import printable, require, require_file
from mini.utils.images import to_size
from mini.utils.metrics import Progress
from mini.utils.png import read_image
from mini.utils.run import atomic_open

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")

CACHE = Path("runs/cache")
KEEP_FROM = 2.0         # seconds; pictures that are read in less time are not kept
CACHE_BYTES = 4e9       # if the cache grows larger, what was not used for longest is deleted
VERSION = 1             # of what is done to pictures here: a new number makes the cache void


def find_pictures(folder) -> list:
    """A Place (see mini/data/files.py) for each picture in a folder. If those to learn from lie in
    folders of classes, held-out ones that do not are left out, since nothing can be asked of them.
    Raises UserError if there is no picture."""
    found = places(folder, list_files(folder, SUFFIXES, "image"))
    classes = {place.folders for place in found if place.split == "train"}
    if len(classes) > 1 and all(len(folders) == 1 for folders in classes):
        labelled = [place for place in found if place.folders]
        n_others = len(found) - len(labelled)
        if n_others > 0:
            print(printable(f"note: {folder}: left out: {n_others:,} held-out images that lie in "
                            "no folder of a class"), flush=True)
        found = labelled
    return found


def classes_of(found: list):
    """The class of each picture, an array of names: the folder in which it lies. None if a picture
    lies in no folder or deeper, or if there is only one class. The names are printed."""
    if any(len(place.folders) != 1 for place in found):
        return None
    classes = np.array([place.folders[0] for place in found])
    names, counts = np.unique(classes, return_counts=True)
    if len(names) == 1:
        return None
    some = [f"{printable(name)} {count:,}" for name, count in zip(names, counts)]
    if len(some) > 20:
        some[20:] = ["…"]
    print(f"note: {len(names)} classes, by their folders: {', '.join(some)}", flush=True)
    return classes


def held_out_of(found: list):
    """Which of the pictures lie in a folder val or test, beside one called train: bool (N,). None
    if there are no such folders."""
    splits = [place.split for place in found]
    if len(set(splits)) == 1:           # all of them "", or all that are left are "train"
        return None
    held_out = torch.tensor([split != "train" for split in splits])
    print(f"note: held out are the {held_out.sum():,} pictures in the folders val and test; "
          f"{(~held_out).sum():,} in train are learnt from", flush=True)
    return held_out


def read_pictures(paths: list, size: int) -> torch.Tensor:
    """The middle squares of pictures, resized: uint8 (N, C, size, size). With size 0 they are left
    as they are. C is 3 if one of them is in colour, otherwise 1.

    What takes long to read is kept, for as long as the files do not change. Raises UserError for a
    file that cannot be read, and for different sizes if the size is 0.
    """
    cache = _cache_file(paths, size)
    images = _read_cache(cache, len(paths))
    if images is not None:
        return images

    start = time.perf_counter()
    progress = Progress("images read:", len(paths), seconds=4.0, first=1.5)
    images = []
    for path in paths:
        image = to_size(read_image(path), size)
        first = images[0] if images else image
        require(image.shape[1:] == first.shape[1:],
                f"--size=0 leaves images as they are, but {path} is {image.shape[2]} pixels wide "
                f"(in its middle square) and {paths[0]} {first.shape[2]}: give them one size, for "
                "instance --size=32")
        images.append(image)
        progress.add()
    C = max(len(image) for image in images)     # if one is in colour, gray ones get three channels
    images = torch.stack([image.expand(C, -1, -1) for image in images])

    seconds = time.perf_counter() - start
    if seconds >= KEEP_FROM:
        _write_cache(cache, images, seconds)
    return images


# ---- what was read is kept

def _cache_file(paths: list, size: int) -> Path:
    """Where pictures of this size are kept. The name depends on the files' names, sizes and times
    of change, so that none of them needs to be opened."""
    key = hashlib.sha256(f"{VERSION} {size}".encode())
    for path in paths:
        facts = os.stat(path)
        key.update(os.fsencode(os.path.abspath(path)))
        key.update(f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return CACHE / f"images-{size}-{key.hexdigest()[:16]}.npy"


def _read_cache(cache: Path, n: int):
    """The images that are kept there, or None."""
    try:
        require_file(cache)
        with open(cache, "rb") as file:
            images = np.load(file, allow_pickle=False)
        os.utime(cache)                         # it was used just now
    except Exception:           # not there, or damaged: the pictures themselves are there still
        return None
    if images.ndim != 4 or len(images) != n or images.dtype != np.uint8:
        return None
    print(f"note: {n:,} images taken from {cache}, where they were kept; "
          "delete it to have them read anew", flush=True)
    return torch.from_numpy(images)


def _write_cache(cache: Path, images: torch.Tensor, seconds: float):
    """Keep images for the next start. If that fails, they are read again then."""
    if images.numel() > CACHE_BYTES:
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(cache) as file:
            np.save(file, images.numpy())
        _delete_oldest(cache.parent)
    except OSError as error:
        print(printable(f"note: the images are not kept for the next start ({error})"), flush=True)
        return
    print(f"note: {len(images):,} images read in {seconds:.0f} s, and kept in {cache} for the next "
          "start; it may be deleted at any time", flush=True)


def _delete_oldest(folder: Path):
    """Delete what was not used for longest, until the cache is small enough."""
    def last_use(path):
        return path.stat().st_mtime

    total = 0
    for path in sorted(folder.glob("images-*.npy"), key=last_use, reverse=True):
        total += path.stat().st_size
        if total > CACHE_BYTES:
            path.unlink()
