"""Images to learn from: faces, other sets by name, a folder of pictures, or a file of images.

    load_images     (training ImageSet, held-out ImageSet) of what --data names: for a training run
    read_images     the same images in one ImageSet, not yet split
    draw_labels     the labels that samples should have, by flags such as --hair=blond
    one_hot         labels as a network takes them in

Below them, each kind of file has its reader: MNIST's (IDX), CIFAR-10's (.bin), .npy and .npz.
Folders of pictures are read in image_folder.py, and faces are drawn in faces.py.
"""
import gzip
import math
import re
import tarfile
import unicodedata
import zlib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from mini.data.download import FOLDER, download
from mini.data.files import ARCHIVE, what_is
from mini.data.images.faces import ATTRIBUTES, NUISANCE, draw_parameters, render, visible
from mini.data.images.image_folder import (SUFFIXES, classes_of, find_pictures, held_out_of,
                                           read_pictures)
from mini.utils.config import RunConfig, UserError, printable, require, require_file
from mini.utils.images import make_square, to_size
from mini.utils.metrics import Progress
from mini.utils.png import over_white, read_image
from mini.utils.run import atomic_open

HELD_OUT = 4096         # faces that no model learns from
FACE_SIZE = 32          # the size of faces, if no size is asked for

IDX_IMAGES = b"\0\0\x08\x03"       # how a file of images in MNIST's format begins
GZIP = b"\x1f\x8b"                 # how a gzipped file begins


@dataclass
class ImageSet:
    images: torch.Tensor    # uint8 (N, C, H, W), H = W, C = 1 or 3
    labels: torch.Tensor    # int64 (N, A): for each attribute the number of its value
    attributes: dict        # {attribute: [names of its values]}, A of them; {} without labels
    source: str = "faces"   # what --data named
    # which images the folders of --data hold out, bool (N,), if they say so
    held_out: torch.Tensor | None = None
    # what varies besides the labels, if it is known: float32 (N, K), each in [-1, 1]
    nuisances: torch.Tensor | None = None
    nuisance_names: tuple = ()              # K of them

    def subset(self, index):
        """The images with these numbers, and all that is known of them."""
        nuisances = None if self.nuisances is None else self.nuisances[index]
        return replace(self, images=self.images[index], labels=self.labels[index],
                       nuisances=nuisances, held_out=None)

    def shape(self) -> tuple:
        """What a model of these images depends on: (C, H, attributes)."""
        return self.images.size(1), self.images.size(2), self.attributes

    def has_classes(self) -> bool:
        """Is there an attribute with at least two values?"""
        return any(len(names) > 1 for names in self.attributes.values())


# ---- what is learnt from, and what is held out

def load_images(source: str, size: int = 32, n_faces: int = 20000):
    """(training ImageSet, held-out ImageSet) of what --data names. For "faces", n_faces and
    HELD_OUT faces are drawn on the spot; other images are split (see `split`). Raises UserError as
    read_images does."""
    if source == "faces":
        return load_faces(n_faces, size or FACE_SIZE)
    return split(read_images(source, size))


def split(data: ImageSet):
    """(training ImageSet, held-out ImageSet): nine tenths and one tenth, at random, but always the
    same. If there are folders train and val or test, it is what lies in them, in a random order.
    A single image is in both parts."""
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    if data.held_out is not None:
        is_held_out = data.held_out[order]
        train_part = order[~is_held_out]
        held_out_part = order[is_held_out]
    elif len(order) == 1:
        train_part = order
        held_out_part = order
    else:
        cut = len(order) * 9 // 10
        train_part = order[:cut]
        held_out_part = order[cut:]
    return data.subset(train_part), data.subset(held_out_part)


def load_faces(n: int, size: int):
    """(training ImageSet, held-out ImageSet): n faces, and HELD_OUT others."""
    if n < 1:
        raise UserError(f"--n_images={n}: at least one face is needed to learn from")
    first_held_out = 10**7                      # far above the numbers of training faces
    return draw_faces(n, size, first=0), draw_faces(HELD_OUT, size, first=first_held_out)


def draw_faces(n: int, size: int, first: int) -> ImageSet:
    """The faces number first … first + n − 1, with all that the renderer knows of them."""
    labels, nuisances = draw_parameters(n, seed=1, first=first)
    images = render(labels, nuisances, size)
    return ImageSet(images, labels, ATTRIBUTES,
                    nuisances=visible(nuisances), nuisance_names=tuple(NUISANCE))


# ---- labels

@dataclass
class LabelConfig(RunConfig):
    """The flags that say what `sample` draws."""
    # sampling
    hair: str = ""              # for faces: black, brown, blond or red ("": any)
    style: str = ""             # for faces: short, long, curly or bun ("": any)
    skin: str = ""              # for faces: light, medium or dark ("": any)
    glasses: str = ""           # for faces: none, round or square ("": any)
    mouth: str = ""             # for faces: smile, neutral or open ("": any)
    background: str = ""        # for faces: blue, green, pink or grey ("": any)
    label: str = ""             # for other data: the class ("": any)


def draw_labels(cfg, attributes: dict, n: int, otherwise=None) -> torch.Tensor:
    """Labels (n, A) for samples: the values that flags such as --hair=blond ask for. Without a
    flag, they are those of `otherwise` (n, A) if given, or random, but the same at every call.
    Raises UserError for a flag or a value that the data does not have."""
    if n < 1:
        raise UserError(f"--n={n} must be at least 1")
    if otherwise is not None:
        labels = otherwise.clone()
    else:
        rng = torch.Generator().manual_seed(cfg.seed)
        labels = torch.zeros(n, len(attributes), dtype=torch.int64)
        for a, names in enumerate(attributes.values()):
            labels[:, a] = torch.randint(len(names), (n,), generator=rng)

    for name in (*ATTRIBUTES, "label"):
        value = unicodedata.normalize("NFC", getattr(cfg, name))
        if not value:
            continue
        if name not in attributes:
            known = ", ".join(attributes) or "no labels"
            raise UserError(f"--{name}: the model knows {known} only")
        names = attributes[name]
        if value not in names:
            raise UserError(f"--{name}={value}: choose from {', '.join(names)}")
        a = list(attributes).index(name)
        labels[:, a] = names.index(value)
    return labels


def one_hot(labels, attributes: dict) -> torch.Tensor:
    """Labels (B, A) -> float32 (B, V), V the number of values of all attributes: 1 at the value of
    each attribute, 0 elsewhere. An unknown label, -1, becomes 0 at all values."""
    parts = [labels[:, :0]]                                         # (B, 0): nothing yet
    for column, names in zip(labels.T, attributes.values()):
        with_unknown = F.one_hot(column + 1, 1 + len(names))        # column 0: the label is -1
        parts.append(with_unknown[:, 1:])                           # (B, number of values)
    return torch.cat(parts, dim=1).float()


# ---- images of --data, other than faces

class RawImages(NamedTuple):
    """What a file or folder holds."""
    images: torch.Tensor                    # uint8 (N, C, H, W), C = 1 or 3
    values: np.ndarray | None = None        # the label of each image, if there are labels
    names: list | None = None               # values are numbers in this list, if there is one
    held_out: torch.Tensor | None = None    # bool (N,): which ones are held out, if folders say so


def read_images(source: str, size: int = 0) -> ImageSet:
    """The images named by --data: their middle squares, resized to `size`; with size 0 they keep
    their size.

    source is one of
        mnist, fashion-mnist, cifar10, flowers      downloaded once; flowers have no labels, and
                                                    need Pillow
        a folder of pictures        labelled, if each picture lies in the sub-folder of its class
        a picture
        an IDX file, like MNIST's, or a folder of them      with the files of labels beside them
        a .bin file of CIFAR-10, or a folder of them
        a .npy or .npz file

    Raises UserError if there is no such file, no image in it, or a damaged one.
    """
    if size < 0:
        raise UserError(f"images cannot be {size} pixels wide; 0 leaves them as they are")
    raw = _read_named(source, size) if source in SETS else _read_path(source, size)
    if raw.images.numel() == 0:
        raise UserError(f"--data={source}: there is no image in it")
    if len(raw.images) == 1:
        print("note: only 1 image: the model will learn it by heart", flush=True)
    smaller_side = min(raw.images.shape[2:])
    images = make_square(raw.images, size or smaller_side)

    if raw.values is None:
        labels = torch.zeros(len(images), 0, dtype=torch.int64)
        attributes = {}
    elif raw.names is not None:
        labels = torch.from_numpy(raw.values.astype(np.int64)).view(-1, 1)
        attributes = {"label": list(raw.names)}
    else:
        labels, attributes = _as_labels(raw.values, source)
    if len(labels) != len(images):
        raise UserError(f"--data={source}: {len(labels)} labels for {len(images)} images; bring "
                        "the two that belong together")
    return ImageSet(images, labels, attributes, printable(source), raw.held_out)


def _as_labels(values: np.ndarray, source: str):
    """(labels int64 (N, A), {attribute: names of its values}) of an array of labels, which may be

        (N,) or (N, 1)      one label for each image
        (N, K)              one-hot: a single 1 in each row, at the place of the class
        any other (N, A)    the values of A attributes, which are called label1, label2 and so on

    Raises UserError for other arrays."""
    require(values.ndim in (1, 2) and values.dtype.kind in "buifUS",
            f"--data={source}: an array of {values.dtype} of shape {values.shape} is no labels; "
            "bring whole numbers or names of shape (N,), or (N, A) for A attributes")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f":
        values = _whole_numbers(values, source)

    columns = values.reshape(len(values), -1)                           # (N, A)
    if _is_one_hot(columns):
        columns = columns.argmax(axis=1)[:, None]                       # (N, 1)
    N, A = columns.shape
    labels = np.zeros((N, A), np.int64)
    attributes = {}
    for a in range(A):
        attribute = "label" if A == 1 else f"label{a + 1}"
        names, labels[:, a] = np.unique(columns[:, a], return_inverse=True)
        attributes[attribute] = [str(name) for name in names]
    return torch.from_numpy(labels), attributes


def _whole_numbers(values: np.ndarray, source: str) -> np.ndarray:
    """Labels that are stored as floats, as int64. Raises UserError if one is no whole number."""
    is_whole = np.isfinite(values) & (values == np.round(values))
    odd = values[~is_whole]
    require(not odd.size,
            f"--data={source}: a label is {odd[:1]}; bring whole numbers or names")
    large = values[abs(values) >= 2.0**63]
    require(not large.size,
            f"--data={source}: a label is {large[:1]}, too large for a whole number of 64 bits")
    return values.astype(np.int64)


def _is_one_hot(columns: np.ndarray) -> bool:
    """Has each row of an array (N, K) a single 1, and else only 0?"""
    K = columns.shape[1]
    if K < 2 or columns.dtype.kind == "U":
        return False
    only_0_and_1 = np.isin(columns, (0, 1)).all()
    return bool(only_0_and_1 and (columns.sum(axis=1) == 1).all())


# ---- sets by name

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck"]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

# {name: (mirrors, {file on each of them: its SHA-256})}. A file is kept as data/<name>-<file>.
SETS = {
    "mnist": (
        [
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        {
            "train-images-idx3-ubyte.gz":
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz":
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz":
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz":
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": (
        [
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ],
        {
            "train-images-idx3-ubyte.gz":
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz":
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz":
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz":
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": (
        [
            "https://www.cs.toronto.edu/~kriz/",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
            "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
        ],
        {
            "cifar-10-binary.tar.gz":
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        },
    ),
    "flowers": (
        [
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            "https://thor.robots.ox.ac.uk/datasets/flowers-102/",
        ],
        {
            "102flowers.tgz":
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        },
    ),
}

def _read_named(name: str, size: int) -> RawImages:
    """One of the SETS, downloaded if it is not in data/ yet."""
    if name == "flowers":
        return _read_flowers(size)
    paths = _download(name)
    if name == "cifar10":
        with tarfile.open(paths[0]) as archive:
            return _read_cifar(_contents(archive))
    raw = _read_idx_files([path for path in paths if "images" in path.name])
    if name == "fashion-mnist":
        raw = raw._replace(names=FASHION)
    return raw


def _download(name: str) -> list:
    """The paths of a set's files under data/."""
    mirrors, files = SETS[name]
    paths = []
    for file, sha256 in files.items():
        urls = [mirror + file for mirror in mirrors]
        paths.append(download(f"{name}-{file}", urls, sha256))
    return paths


def _contents(archive) -> dict:
    """{path: content} of the files in an open tar archive. They are read in the archive's own
    order, which is the fast one, and only into memory."""
    contents = {}
    for member in archive:
        if member.isfile():
            contents[Path(member.name)] = archive.extractfile(member).read()
    return contents


def _read_flowers(size: int) -> RawImages:
    """The 8,189 photographs of flowers in one size. They are kept as data/flowers-<size>.npy, since
    reading them takes minutes."""
    require(size > 0, "--data=flowers --size=0: the photographs differ in size; give them "
            "one, for instance --size=32")
    cache = FOLDER / f"flowers-{size}.npy"
    if cache.is_file():
        return _read_arrays(cache)

    path = _download("flowers")[0]
    photographs = {}                        # {name of the file: uint8 (3, size, size)}
    with tarfile.open(path) as archive:
        print("note: reading the photographs takes minutes, once for each size", flush=True)
        members = [member for member in archive if member.name.endswith(".jpg")]
        progress = Progress("photographs read:", len(members))
        for member in members:
            content = archive.extractfile(member).read()
            photographs[member.name] = to_size(read_image(member.name, content), size)
            progress.add()
    images = torch.stack([photographs[name] for name in sorted(photographs)])
    with atomic_open(cache) as file:
        np.save(file, images.numpy())
    return RawImages(images)


# ---- your own files and folders

def _read_path(source: str, size: int) -> RawImages:
    """The images of a file or folder. Raises UserError if there is no such path, or for a file of
    another kind."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"--data={source}: no such file or folder (by name there are: faces, "
                        f"{', '.join(SETS)})")
    if path.is_dir():
        return _read_folder(path, size)
    require_file(path)
    with open(path, "rb") as file:
        begin = file.read(512)
    suffix = path.suffix.lower()
    is_known = suffix in (*SUFFIXES, ".npy", ".npz", ".bin") or begin.startswith(IDX_IMAGES)
    if begin and not is_known:
        _refuse_other_kinds(path, begin)

    if begin.startswith((IDX_IMAGES, GZIP)) or "idx3" in path.name:
        return _read_idx_files([path])
    if suffix in (".npy", ".npz"):
        return _read_arrays(path)
    if suffix == ".bin":
        return _read_cifar_files([path])
    if suffix in SUFFIXES:
        return RawImages(read_pictures([path], size))
    raise UserError(f"{path}: not images as we know them; bring a folder of images, an IDX "
                    "file, a .bin file of CIFAR-10, .npy or .npz")


def _refuse_other_kinds(path: Path, begin: bytes):
    """Raise UserError if the file, of which these are the first bytes, is an archive or a web page.
    A gzipped file is judged by what is packed in it."""
    if begin.startswith(GZIP):
        try:
            gzip_format = 31                            # zlib's number for it
            begin = zlib.decompressobj(wbits=gzip_format).decompress(begin, 512)
        except zlib.error:
            return
    only_zeros = not begin.strip(b"\0")
    kind = "" if only_zeros else what_is(begin)
    if path.name.lower().endswith((".tar", ".tgz", ".tar.gz")):
        kind = ARCHIVE
    require(not kind, f"{path}: not images, but {kind}")


def _read_folder(folder: Path, size: int) -> RawImages:
    """The images of a folder: MNIST's files, CIFAR-10's batches, or else pictures."""
    # Hidden files are left out: macOS puts a file ._name beside each file.
    # Of a file that is there gzipped and unpacked, only one is read: they have the same key.
    idx_files = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and fnmatch(path.name, "*-images?idx3-ubyte*"):
            idx_files[path.name.removesuffix(".gz")] = path
    if idx_files:
        sets = {re.split("train|t10k|test", name)[0] for name in idx_files}
        require(len(sets) == 1, f"{folder}: there are several sets in it; name one of the files")
        training_first = sorted(idx_files.values(),
                                key=lambda path: ("train" not in path.name, path.name))
        return _read_idx_files(training_first)

    batches = [*folder.glob("[!.]*_batch*.bin"),
               *folder.glob("cifar-10-batches-bin/[!.]*_batch*.bin")]
    batches = [path for path in batches if path.is_file()]
    if batches:
        return _read_cifar_files(batches)

    pictures = find_pictures(folder)
    classes = classes_of(pictures)
    held_out = held_out_of(pictures)
    images = read_pictures([place.path for place in pictures], size)
    return RawImages(images, classes, held_out=held_out)


# ---- IDX, the format of MNIST

def _read_idx_files(paths: list) -> RawImages:
    """The images of some files, one after the other. They have labels if each of the files has its
    labels beside it: train-labels-idx1-ubyte beside train-images-idx3-ubyte."""
    images = []
    values = []
    for path in paths:
        images.append(_read_idx(path, dimensions=3))                # (n, H, W)
        label_path = _label_file(path)
        if label_path:
            values.append(_read_idx(label_path, dimensions=1))      # (n,)
    sizes = {array.shape[1:] for array in images}
    require(len(sizes) == 1, f"{paths[0].parent}: its images differ in size")
    all_images = torch.from_numpy(np.concatenate(images)).unsqueeze(1)      # (N, 1, H, W)
    if len(values) < len(paths):
        return RawImages(all_images)
    return RawImages(all_images, np.concatenate(values))


def _label_file(path: Path):
    """The path of the labels, gzipped or not, that belong to a file of images; or None."""
    name = path.name.removesuffix(".gz")
    label_name = name.replace("images", "labels").replace("idx3", "idx1")
    if label_name == name:
        return None
    for suffix in ("", ".gz"):
        label_path = path.with_name(label_name + suffix)
        if label_path.is_file():
            return label_path
    return None


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file, gzipped or not. The file holds the bytes 0, 0, 8 and the number of
    dimensions; the size of each dimension in 4 bytes, big-endian; and the array's bytes
    (yann.lecun.com/exdb/mnist). Raises UserError for any other content."""
    content = path.read_bytes()
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            content = b""                               # refused below
    require(not content.startswith(b"\x93NUMPY"),
            f"{path}: a .npy file that was compressed; unpack it (gunzip), and name the file that "
            "comes out")

    header = 4 + 4 * dimensions                         # bytes before the array
    shape = []
    for at in range(4, header, 4):
        shape.append(int.from_bytes(content[at:at + 4], "big"))
    begins_right = content[:4] == bytes([0, 0, 8, dimensions])
    require(begins_right and len(content) == header + math.prod(shape),
            f"{path}: not an IDX file of {dimensions} dimensions, or a truncated one; fetch it "
            "again")
    return np.frombuffer(content, np.uint8)[header:].reshape(shape)


# ---- CIFAR-10, its binary version (www.cs.toronto.edu/~kriz/cifar.html)

RECORD = 1 + 3 * 32 * 32    # bytes of an image: its label, then its pixels, all red ones first


def _read_cifar_files(batches: list) -> RawImages:
    """The images in .bin files, with the names of the classes, if their file lies beside them."""
    contents = {path: path.read_bytes() for path in batches}
    names = batches[0].with_name("batches.meta.txt")
    if names.is_file():
        contents[names] = names.read_bytes()
    return _read_cifar(contents)


def _read_cifar(contents: dict) -> RawImages:
    """The images and labels of {path: content of the file}. Raises UserError for a .bin file of
    another kind."""
    records = []
    names = CIFAR10
    for path in sorted(contents):                   # data_batch_1 to data_batch_5, then test_batch
        if path.suffix == ".bin":
            content = np.frombuffer(contents[path], np.uint8)
            is_whole = content.size > 0 and content.size % RECORD == 0
            require(is_whole and content[::RECORD].max() < len(CIFAR10),
                    f"{path}: not a .bin file of CIFAR-10, or a truncated one; fetch it again")
            records.append(content.reshape(-1, RECORD))
        elif path.name == "batches.meta.txt":
            names = contents[path].decode(errors="replace").split()
    if len(names) != len(CIFAR10):
        names = CIFAR10
    records = np.concatenate(records)               # (N, RECORD)
    labels = records[:, 0]                          # (N,)
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return RawImages(torch.from_numpy(images), labels, names)


# ---- .npy and .npz, the formats of NumPy

# The names of the arrays in an .npz file: {that of the images: that of their labels}.
ARRAYS = {"images": "labels", "x_train": "y_train", "train_images": "train_labels"}
SMALLEST = 8            # an array (H, W, 3) with sides of so many pixels is an image in colour


def _read_arrays(path: Path) -> RawImages:
    """What is in a .npy or .npz file. Raises UserError for other content, and says what it is."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return RawImages(_as_images(loaded, path))
            return _read_npz(loaded, path)
    except UserError:
        raise
    except Exception as error:      # errors of zip, zlib and numpy: for the user they mean the same
        _refuse_objects(error, f"{path}: it holds")
        kind = _kind_of(path)
        require(not kind, f"{path}: not arrays, but {kind}")
        raise UserError(f"{path}: not a .npy or .npz file of numbers, or a damaged one "
                        f"({type(error).__name__}); save it again") from None


def _read_npz(arrays, path: Path) -> RawImages:
    """The images, and the labels if there are any, in an .npz file that numpy has opened. Other
    arrays in it are not read: they may be no numbers."""
    names = arrays.files
    known = [name for name in ARRAYS if name in names]
    require(known or len(names) == 1, f"{path}: which array holds the images? Name it 'images' "
            f"(there are: {', '.join(names) or 'none'})")
    image_name = known[0] if known else names[0]
    images = _as_images(_read_array(arrays, image_name, path), path)
    label_name = ARRAYS.get(image_name)
    if label_name not in names:
        return RawImages(images)
    return RawImages(images, _read_array(arrays, label_name, path))


def _read_array(arrays, name: str, path: Path) -> np.ndarray:
    """One array of an .npz file."""
    try:
        return arrays[name]
    except ValueError as error:
        _refuse_objects(error, f"{path}: its array {name!r} holds")
        raise


def _refuse_objects(error: Exception, holds: str):
    """Raise UserError if numpy's error is that an array holds Python objects. It does not load
    them, since that could run any program. holds: how the message begins."""
    if "Object arrays" in str(error):
        raise UserError(f"{holds} Python objects, not numbers (of different lengths?); make it one "
                        "array of numbers, or of strings for names, and save it again") from None


def _kind_of(path: Path) -> str:
    """What a file of arrays is instead, or ''. A damaged .npz file counts as damaged, although it
    is an archive."""
    with open(path, "rb") as file:
        begin = file.read(512)
    kind = what_is(begin) if begin else ""
    is_npz = path.suffix.lower() == ".npz"
    return "" if is_npz and kind == ARCHIVE else kind


def _as_images(array: np.ndarray, path: Path) -> torch.Tensor:
    """An array (N, H, W), (N, H, W, C) or (N, C, H, W), or one image in colour (H, W, C), as uint8
    (N, 1 or 3, H, W). An alpha channel is laid over white. Raises UserError for other arrays."""
    holds_numbers = array.dtype.kind in "buif"
    is_known = holds_numbers and array.size > 0 and array.ndim in (3, 4)
    if is_known:
        array = _channels_first(array, path)                        # (N, C, H, W)
    require(is_known and array.shape[1] <= 4,
            f"{path}: {array.dtype} of shape {array.shape} are no images; "
            "bring numbers of shape (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.dtype != np.uint8:
        array = _as_bytes(array, path)
    if array.shape[1] in (2, 4):                        # the last channel is alpha
        array = over_white(array[:, :-1], array[:, -1:])
    return torch.from_numpy(array)


def _channels_first(array: np.ndarray, path: Path) -> np.ndarray:
    """An array (N, H, W), (H, W, C), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if array.ndim == 3:
        n, height, width = array.shape
        if n in (3, 4) and min(height, width) >= SMALLEST:
            print(f"note: {printable(str(path))}: shape {array.shape} is taken for {n} gray "
                  f"images; one image in colour has the shape {(1, *array.shape)}", flush=True)
        is_one_in_colour = min(n, height) >= SMALLEST and width in (3, 4)
        array = array[None] if is_one_in_colour else array[:, None]
    channels_last = array.shape[1] > 4
    return array.transpose(0, 3, 1, 2) if channels_last else array


def _as_bytes(array: np.ndarray, path: Path) -> np.ndarray:
    """Pixels as uint8: integers from 0 to 255, or floats from 0 to 1. Raises UserError for pixels
    outside of these ranges."""
    low = array.min()
    high = array.max()
    top = 1 if array.dtype.kind in "bf" else 255
    require(0 <= low and high <= top, f"{path}: its pixels ({array.dtype}) reach from {low} to "
            f"{high}; scale them to lie between 0 and {top}")
    return (array * (255.0 / top)).round().astype(np.uint8)
