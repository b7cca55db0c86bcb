"""The .safetensors format, and which files of a folder hold the weights of a network.

A .safetensors file holds numbers only, never code: 8 bytes, the length N of the header (unsigned,
little-endian); N bytes of JSON, {name: {"dtype", "shape", "data_offsets": [begin, end]}}; then the
numbers, with offsets counted from the end of the header.
"""
import json
import math
import re
from pathlib import Path

import numpy as np
import torch

from mini.utils.config import UserError, require, require_file
from mini.utils.run import stand_in

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
          "U8": torch.uint8, "BOOL": torch.bool}

# Files of weights in other formats, by how their names end
OTHERS = {".bin": "a Python pickle, which can run any code when it is opened",
          ".pth": "a Python pickle, which can run any code when it is opened",
          ".pkl": "a Python pickle, which can run any code when it is opened",
          ".ckpt": "a Python pickle, which can run any code, or TensorFlow's",
          ".h5": "TensorFlow's",
          ".msgpack": "Flax's",
          ".gguf": "llama.cpp's",
          ".onnx": "ONNX's"}

# … and by how their content begins
BEGINNINGS = {b"PK\3\4": "a zip file or a Python pickle",
              b"\x80\2": "a Python pickle",
              b"\x89HDF": "an HDF5 file",
              b"GGUF": "a GGUF file"}


def folder_of(path) -> Path:
    """The folder in which the files of a published model are: path, or that of the file path."""
    path = Path(path)
    return path if path.is_dir() else path.parent


def weight_files(path) -> list:
    """The .safetensors files that hold the weights which path names.

    path is a file, or one of several shards (model-00001-of-00002.safetensors), or their index
    (model.safetensors.index.json), or the folder that they are in. Raises UserError if one is
    missing, and if it is of another format.
    """
    path = Path(path)
    if path.is_dir():
        path = choose_file(path)
    index = path.with_name(f"{path.name}.index.json")
    if not path.exists() and index.exists():
        path = index
    require(path.suffix != ".pt", f"{path}: a checkpoint, not published weights; to use a run that "
                                  f"you have trained, name its folder by --out_dir={path.parent}")
    kind = OTHERS.get(Path(path.name.removesuffix(".index.json")).suffix)
    require(not kind, f"{path}: such a file is {kind}; take model.safetensors from the same place")

    names = [path.name]
    shard = re.fullmatch(r"(.+)-\d+-of-(\d+)\.safetensors", path.name)
    if path.name.endswith(".index.json"):
        names = read_index(path)
    elif shard:
        start, n = shard.groups()
        names = [f"{start}-{i:0{len(n)}}-of-{n}.safetensors" for i in range(1, int(n) + 1)]
    files = [path.with_name(name) for name in names]
    for file in files:
        reason = "no such file"
        if len(files) > 1:
            reason += f"; it is one of {len(files)} that hold these weights together: fetch it, too"
        require_file(file, f"{file}: {reason}")
    return files


def choose_file(folder: Path) -> Path:
    """The file of weights in a folder. Raises UserError if there is none, or no telling which."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).exists():
            return folder / name
    files = sorted(folder.glob("*.safetensors"))
    shards = [file for file in files if re.search(r"-of-\d+\.safetensors$", file.name)]
    if len(files) == 1 or shards:
        return (shards or files)[0]
    others = [file for file in sorted(folder.iterdir()) if file.suffix in (".pt", *OTHERS)]
    if others and not files:
        return others[0]                    # it will be said why this is none
    names = ", ".join(sorted(file.name for file in folder.iterdir())[:5])
    raise UserError(f"{folder}: no model.safetensors in this folder, which holds "
                    f"{names or 'nothing'}; name the file, or fetch it")


def read_index(path) -> list:
    """The names of the shards in a model.safetensors.index.json."""
    require_file(path)
    try:
        names = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
        safe = all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        safe = False
    require(safe and names, f"{path}: not the index of weights in several .safetensors files; "
                            "fetch it again")
    return names


def read_weights(path) -> dict:
    """{name: tensor} of all the files that hold the weights which path names."""
    tensors = {}
    for file in weight_files(path):
        tensors |= read_safetensors(file)
    return tensors


def read_safetensors(path) -> dict:
    """{name: tensor} of a .safetensors file, which is mapped from the disk, not read at once.
    Raises UserError if it is broken."""
    path = Path(path)
    require_file(path)
    size = path.stat().st_size
    broken = UserError(f"{path}: not a .safetensors file, or a truncated one ({size} bytes); "
                       "fetch it again")
    if size < 8:
        raise broken
    raw = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))
    beginning = raw[:100].numpy().tobytes()
    if beginning[8:9] != b"{":                              # where a header begins
        kind = stand_in(beginning) or other_format(beginning)
        require(not kind, f"{path}: {kind}")
    start = 8 + int.from_bytes(raw[:8].numpy().tobytes(), "little")     # where the numbers begin
    if start > size:
        raise broken
    try:
        header = json.loads(raw[8:start].numpy().tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            check_dtype(path, name, entry["dtype"])
        tensors = {name: read_tensor(raw, start, entry) for name, entry in header.items()}
        spans = sorted(entry["data_offsets"] for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise broken from None                              # RuntimeError: of torch's view
    begins = [begin for begin, _ in spans]
    ends = [end for _, end in spans]
    if begins + [size - start] != [0] + ends:               # side by side, up to the file's end
        raise broken
    return tensors


def other_format(content: bytes) -> str:
    """What a file is that is none, by its first bytes; "" if they do not say it."""
    for beginning, kind in BEGINNINGS.items():
        if content.startswith(beginning):
            return f"{kind}, whatever its name says; take model.safetensors from the same place"
    return ""


def check_dtype(path, name: str, dtype: str):
    """Raise UserError for numbers that we do not read: of 8 bits, or unsigned ones."""
    if re.fullmatch(r"[A-Z]+\d+(_\w+)?", dtype):
        require(dtype in DTYPES, f"{path}: {name} holds numbers of the type {dtype}, which are not "
                                 "read here; take the file with F32, F16 or BF16 numbers")


def read_tensor(raw, start: int, entry: dict):
    """The tensor of one entry of the header; raw: the bytes of the whole file, a uint8 tensor.
    Raises ValueError if the entry contradicts itself."""
    dtype = DTYPES[entry["dtype"]]
    shape = entry["shape"]
    begin, end = entry["data_offsets"]
    if begin < 0 or start + end > len(raw) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError
    data = raw[start + begin:start + end]
    if (start + begin) % dtype.itemsize:
        data = data.clone()                 # a view must begin at a multiple of the number's size
    return data.view(dtype).view(shape)
