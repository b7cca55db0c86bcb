"""Images to learn from: faces, other sets by name, a folder of images, the formats of MNIST and CIFAR-10, .npy
and .npz files."""
import gzip
import math
import re
import tarfile
import unicodedata
import zlib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

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
SMALLEST = 8            # an array (H, W, 3) with sides of so many pixels is an image in colour
IDX_IMAGES, GZIP = b"\0\0\x08\x03", b"\x1f\x8b"      # how such files begin
ARRAYS = {"images": "labels", "x_train": "y_train", "train_images": "train_labels"}     # in .npz files
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
           "Ankle boot"]
SETS = {    # {name: (mirrors, {file on them: its SHA-256})}; kept as data/<name>-<file>
    "mnist": (
        ["https://ossci-datasets.s3.amazonaws.com/mnist/",
         "https://storage.googleapis.com/cvdf-datasets/mnist/"],
        {"train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
         "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
         "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
         "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"}),
    "fashion-mnist": (
        ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
         "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"],
        {"train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
         "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
         "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
         "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"}),
    "cifar10": (
        ["https://www.cs.toronto.edu/~kriz/",
         "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
         "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"],
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}),
    "flowers": (
        ["https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
         "https://thor.robots.ox.ac.uk/datasets/flowers-102/"],
        {"102flowers.tgz": "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246"})}


@dataclass
class ImageSet:
    images: torch.Tensor    # uint8 (N, C, H, W), H = W, C = 1 or 3
    labels: torch.Tensor    # int64 (N, A): for each attribute the number of its value
    attributes: dict        # {attribute: [names of its values]}, A of them; none if there are no labels
    source: str = "faces"   # what --data named
    held_out: torch.Tensor | None = None    # bool (N,): which ones the folders of --data hold out
    nuisances: torch.Tensor | None = None   # float32 (N, K): what varies besides the labels, each in [-1, 1], if known
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


def load_images(source: str, size: int = 32, n_faces: int = 20000):
    """(training ImageSet, held-out ImageSet) of what --data names. For "faces", n_faces and HELD_OUT faces are
    drawn on the spot; other images are split (see `split`). Raises UserError as read_images does."""
    if source != "faces":
        return split(read_images(source, size))
    return load_faces(n_faces, size or FACE_SIZE)


def split(data: ImageSet):
    """(training ImageSet, held-out ImageSet): nine tenths and one tenth, at random, but always the same; or, if
    there are folders train and val or test, what lies in them, in a random order."""
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    if data.held_out is not None:
        is_held_out = data.held_out[order]
        train_part = order[~is_held_out]
        held_out_part = order[is_held_out]
    else:
        cut = max(1, len(order) * 9 // 10)
        train_part = order[:cut]
        held_out_part = order[cut:] if cut < len(order) else order      # a single image is both
    return data.subset(train_part), data.subset(held_out_part)


def load_faces(n: int, size: int):
    """(training ImageSet, held-out ImageSet): n faces, and HELD_OUT others."""
    if n < 1:
        raise UserError(f"--n_images={n}: at least one face is needed to learn from")
    first_held_out = 10**7                                  # a number far above those of training faces
    return draw_faces(n, size, first=0), draw_faces(HELD_OUT, size, first=first_held_out)


def draw_faces(n: int, size: int, first: int) -> ImageSet:
    """The faces number first … first + n − 1, with all that the renderer knows of them."""
    labels, nuisances = draw_parameters(n, seed=1, first=first)
    return ImageSet(render(labels, nuisances, size), labels, ATTRIBUTES,
                    nuisances=visible(nuisances), nuisance_names=tuple(NUISANCE))


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
    """Labels (n, A) for samples: the values that flags such as --hair=blond ask for. Without a flag, they are
    those of `otherwise` (n, A) if given, or random, but the same at every call. Raises UserError for a flag or a
    value that the data does not have."""
    if n < 1:
        raise UserError(f"--n={n} must be at least 1")
    rng = torch.Generator().manual_seed(cfg.seed)
    labels = torch.zeros(n, len(attributes), dtype=torch.int64)
    for column, names in zip(labels.T, attributes.values()):
        column[:] = torch.randint(len(names), (n,), generator=rng)
    if otherwise is not None:
        labels = otherwise.clone()
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
        labels[:, list(attributes).index(name)] = names.index(value)
    return labels


def one_hot(labels, attributes: dict) -> torch.Tensor:
    """Labels (B, A) -> (B, V), V the number of values of all attributes: 1 at the value of each attribute, 0
    elsewhere. An unknown label, -1, becomes 0 at all values."""
    parts = [F.one_hot(column + 1, 1 + len(names))[:, 1:]
             for column, names in zip(labels.T, attributes.values())]
    return torch.cat(parts or [labels[:, :0]], dim=1).float()


def read_images(source: str, size: int = 0) -> ImageSet:
    """The images named by --data: their middle squares, resized to `size`; with size 0 they keep their size.

    source: 'mnist', 'fashion-mnist', 'cifar10', 'flowers' (unlabelled; needs Pillow), which are downloaded
    once; a folder of images, which are labelled if each lies in the sub-folder of its class; one image; an IDX
    file, like MNIST's, or a folder of them, with the files of labels beside them; a .bin file of CIFAR-10, or a
    folder of them; a .npy or .npz file. Raises UserError if there is no such file, no image in it, or a damaged
    one.
    """
    if size < 0:
        raise UserError(f"images cannot be {size} pixels wide; 0 leaves them as they are")
    if source in SETS:
        images, values, names = _read_named(source, size)
        held_out = None
    else:
        images, values, names, *more = _read_path(source, size)
        held_out = more[0] if more else None
    if not images.numel():
        raise UserError(f"--data={source}: there is no image in it")
    if len(images) == 1:
        print("note: only 1 image: the model will learn it by heart", flush=True)
    images = make_square(images, size or min(images.shape[2:]))
    if values is None:
        labels, attributes = torch.zeros(len(images), 0, dtype=torch.int64), {}
    elif names is not None:
        labels, attributes = torch.from_numpy(values.astype(np.int64)).view(-1, 1), {"label": list(names)}
    else:
        labels, attributes = _as_labels(values, source)
    if len(labels) != len(images):
        raise UserError(f"--data={source}: {len(labels)} labels for {len(images)} images; bring "
                        "the two that belong together")
    return ImageSet(images, labels, attributes, printable(source), held_out)


def _as_labels(values: np.ndarray, source: str):
    """(labels int64 (N, A), {attribute: names of its values}) of an array of labels: (N,) or (N, 1), one for
    each image; (N, K) with a single 1 in each row, at the place of the class; or any other (N, A), the values of
    A attributes, which are called label1, label2 and so on. Raises UserError for other arrays."""
    require(values.ndim in (1, 2) and values.dtype.kind in "buifUS",
            f"--data={source}: an array of {values.dtype} of shape {values.shape} is no labels; bring whole numbers "
            "or names of shape (N,), or (N, A) for A attributes")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f":
        odd = values[~np.isfinite(values) | (values != np.round(values))]
        require(not odd.size, f"--data={source}: a label is {odd[:1]}; bring whole numbers or names")
        large = values[abs(values) >= 2.0**63]
        require(not large.size, f"--data={source}: a label is {large[:1]}, too large for a whole number of 64 bits")
        values = values.astype(np.int64)
    columns = values.reshape(len(values), -1)
    A = columns.shape[1]
    is_numbers = columns.dtype.kind != "U"
    if is_numbers and A > 1 and np.isin(columns, (0, 1)).all() and (columns.sum(1) == 1).all():
        columns = columns.argmax(1)[:, None]                        # one-hot
        A = 1
    labels = np.zeros((len(values), A), np.int64)
    attributes = {}
    for i in range(A):
        names, labels[:, i] = np.unique(columns[:, i], return_inverse=True)
        attributes["label" if A == 1 else f"label{i + 1}"] = [str(name) for name in names]
    return torch.from_numpy(labels), attributes


# ---- each of these returns (images uint8 (N, C, H, W), the label of each image or None, their names or None);
# that of a folder also which ones are held out, bool (N,) or None

def _read_named(name: str, size: int):
    require(size > 0 or name != "flowers", "--data=flowers --size=0: the photographs differ in size; give them "
            "one, for instance --size=32")
    cache = FOLDER / f"flowers-{size}.npy"
    if name == "flowers" and cache.is_file():
        return _read_arrays(cache)
    mirrors, files = SETS[name]
    paths = [download(f"{name}-{file}", [mirror + file for mirror in mirrors], sha256)
             for file, sha256 in files.items()]
    if name.endswith("mnist"):
        images, values, _ = _read_idx_files([path for path in paths if "images" in path.name])
        return images, values, FASHION if name == "fashion-mnist" else None
    with tarfile.open(paths[0]) as archive:         # read in its own order, and only into memory
        if name == "cifar10":
            return _read_cifar({Path(member.name): archive.extractfile(member).read()
                                for member in archive if member.isfile()})
        print("note: reading the photographs takes minutes, once for each size", flush=True)
        flowers = {}
        members = [member for member in archive if member.name.endswith(".jpg")]
        progress = Progress("photographs read:", len(members))
        for member in members:
            content = archive.extractfile(member).read()
            flowers[member.name] = to_size(read_image(member.name, content), size)
            progress.add()
    images = torch.stack([flowers[name] for name in sorted(flowers)])
    with atomic_open(cache) as file:
        np.save(file, images.numpy())
    return images, None, None


def _read_path(source: str, size: int):
    path = Path(source)
    if not path.exists():
        raise UserError(f"--data={source}: no such file or folder (by name there are: faces, "
                        f"{', '.join(SETS)})")
    if path.is_dir():
        return _read_folder(path, size)
    require_file(path)
    suffix = path.suffix.lower()
    with open(path, "rb") as file:
        begin = file.read(512)
    if suffix not in (*SUFFIXES, ".npy", ".npz", ".bin") and not begin.startswith(IDX_IMAGES) and begin:
        _refuse_other_kinds(path, begin)
    if begin.startswith((IDX_IMAGES, GZIP)) or "idx3" in path.name:
        return _read_idx_files([path])
    if suffix in (".npy", ".npz"):
        return _read_arrays(path)
    if suffix == ".bin":
        return _read_cifar_files([path])
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: not images as we know them; bring a folder of images, an IDX "
                        "file, a .bin file of CIFAR-10, .npy or .npz")
    return read_pictures([path], size), None, None


def _refuse_other_kinds(path: Path, begin: bytes):
    """Raise UserError if the file, of which these are the first bytes, is an archive or a web page."""
    if begin.startswith(GZIP):
        try:
            begin = zlib.decompressobj(wbits=31).decompress(begin, 512)     # 31: in the format of gzip
        except zlib.error:
            return
    kind = what_is(begin) if begin.strip(b"\0") else ""
    if path.name.lower().endswith((".tar", ".tgz", ".tar.gz")):
        kind = ARCHIVE
    require(not kind, f"{path}: not images, but {kind}")


def _read_folder(folder: Path, size: int):
    visible = [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]     # macOS adds files ._name
    files = [path for path in visible if fnmatch(path.name, "*-images?idx3-ubyte*")]
    idx = {path.name.removesuffix(".gz"): path for path in files}       # packed and unpacked: only one of them
    if idx:
        sets = {re.split("train|t10k|test", name)[0] for name in idx}
        require(len(sets) == 1, f"{folder}: there are several sets in it; name one of the files")
        return _read_idx_files(sorted(idx.values(), key=lambda path: ("train" not in path.name, path.name)))
    batches = [*folder.glob("[!.]*_batch*.bin"), *folder.glob("cifar-10-batches-bin/[!.]*_batch*.bin")]
    batches = [path for path in batches if path.is_file()]
    if batches:
        return _read_cifar_files(batches)
    pictures = find_pictures(folder)
    classes = classes_of(pictures)
    held_out = held_out_of(pictures)
    images = read_pictures([place.path for place in pictures], size)
    return images, classes, None, held_out


def _read_idx_files(paths):
    images, values = [], []
    for path in paths:
        images.append(_read_idx(path, 3))
        name = path.name.removesuffix(".gz")
        label_name = name.replace("images", "labels").replace("idx3", "idx1")
        beside = [path.with_name(label_name + suffix) for suffix in ("", ".gz") if label_name != name]
        values += [_read_idx(file, 1) for file in beside if file.is_file()][:1]
    require(len({array.shape[1:] for array in images}) == 1, f"{paths[0].parent}: its images differ in size")
    images = torch.from_numpy(np.concatenate(images)).unsqueeze(1)
    return images, np.concatenate(values) if len(values) == len(paths) else None, None


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file, gzipped or not. The file holds the bytes 0, 0, 8 and the number of dimensions; the
    size of each dimension in 4 bytes, big-endian; and the array's bytes (yann.lecun.com/exdb/mnist)."""
    content, start = path.read_bytes(), 4 + 4 * dimensions
    try:
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error):
        content = b""
    require(not content.startswith(b"\x93NUMPY"),
            f"{path}: a .npy file that was compressed; unpack it (gunzip), and name the file that comes out")
    shape = [int.from_bytes(content[at:at + 4], "big") for at in range(4, start, 4)]
    require(content[:4] == bytes([0, 0, 8, dimensions]) and len(content) == start + math.prod(shape),
            f"{path}: not an IDX file of {dimensions} dimensions, or a truncated one; fetch it again")
    return np.frombuffer(content, np.uint8)[start:].reshape(shape)


def _read_cifar_files(batches):
    names = batches[0].with_name("batches.meta.txt")
    return _read_cifar({path: path.read_bytes() for path in [*batches, names] if path.is_file()})


def _read_cifar(files: dict):
    """The images and labels of {path: content}, CIFAR-10's binary version (www.cs.toronto.edu/~kriz/cifar.html).
    An image is one byte, its label, followed by 3 · 32 · 32 bytes, the red ones first."""
    records, names, length = [], CIFAR10, 1 + 3 * 32 * 32
    for path in sorted(files):                          # data_batch_1 to data_batch_5, then test_batch
        if path.suffix == ".bin":
            content = np.frombuffer(files[path], np.uint8)
            require(content.size and content.size % length == 0 and content[::length].max() < len(CIFAR10),
                    f"{path}: not a .bin file of CIFAR-10, or a truncated one; fetch it again")
            records.append(content.reshape(-1, length))
        elif path.name == "batches.meta.txt":
            names = files[path].decode(errors="replace").split()
    records = np.concatenate(records)
    names = names if len(names) == len(CIFAR10) else CIFAR10
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)), records[:, 0], names


def _read_arrays(path: Path):
    """What is in a .npy or .npz file. Only the arrays that are needed are read from it: there may be others
    beside them that are no numbers."""
    key = ""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _as_images(loaded, path), None, None
            names = loaded.files
            key = next((key for key in ARRAYS if key in names), next(iter(names), ""))
            require(key in ARRAYS or len(names) == 1, f"{path}: which array holds the images? Name it 'images' "
                    f"(there are: {', '.join(names) or 'none'})")
            images = _as_images(loaded[key], path)
            key = ARRAYS.get(key, "")
            labels = loaded[key] if key in names else None
    except UserError:
        raise
    except Exception as error:      # errors of zip, zlib and numpy: for the user they mean the same
        if "Object arrays" in str(error):
            array = f"its array {key!r} holds" if key else "it holds"
            raise UserError(f"{path}: {array} Python objects, not numbers (of different lengths?); make it one "
                            "array of numbers, or of strings for names, and save it again") from None
        kind = _kind_of(path)
        require(not kind, f"{path}: not arrays, but {kind}")
        raise UserError(f"{path}: not a .npy or .npz file of numbers, or a damaged one "
                        f"({type(error).__name__}); save it again") from None
    return images, labels, None


def _kind_of(path: Path) -> str:
    """What a file of arrays is instead, or ''. An .npz file is an archive, a damaged one too."""
    with open(path, "rb") as file:
        begin = file.read(512)
    kind = what_is(begin) if begin else ""
    return "" if kind == ARCHIVE and path.suffix.lower() == ".npz" else kind


def _as_images(array: np.ndarray, path: Path) -> torch.Tensor:
    """An array (N, H, W), (N, H, W, C) or (N, C, H, W) as uint8 (N, 1 or 3, H, W)."""
    known = array.ndim in (3, 4) and array.size and array.dtype.kind in "buif"      # it holds numbers
    if known and array.ndim == 3 and min(array.shape[1:]) >= SMALLEST and len(array) in (3, 4):
        print(f"note: {printable(str(path))}: shape {array.shape} is taken for {len(array)} gray images; one image "
              f"in colour has the shape {(1, *array.shape)}", flush=True)
    if known and array.ndim == 3 and min(array.shape[:2]) >= SMALLEST and array.shape[2] in (3, 4):
        array = array[None]                             # a single image in colour, not H gray ones
    if known:
        array = array[:, None] if array.ndim == 3 else array
        array = array.transpose(0, 3, 1, 2) if array.shape[1] > 4 else array
    require(known and array.shape[1] <= 4, f"{path}: {array.dtype} of shape {array.shape} are no images; "
            "bring numbers of shape (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.dtype != np.uint8:
        low, high, top = array.min(), array.max(), 1 if array.dtype.kind in "bf" else 255
        require(0 <= low and high <= top, f"{path}: its pixels ({array.dtype}) reach from {low} to {high}; "
                f"scale them to lie between 0 and {top}")
        array = (array * (255.0 / top)).round().astype(np.uint8)
    if array.shape[1] in (2, 4):                        # the last channel is alpha
        array = over_white(array[:, :-1], array[:, -1:])
    return torch.from_numpy(array)
