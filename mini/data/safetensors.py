"""Read the .safetensors format, in which published weights are shared: it holds numbers only, never code.

Layout: 8 bytes, the length N of the header (unsigned, little-endian); N bytes of JSON, {name: {"dtype",
"shape", "data_offsets": [begin, end]}}; then the numbers, offsets counted from the end of the header.
"""
import json
import math
from pathlib import Path

import numpy as np
import torch

from mini.utils.config import UserError, require

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool}


def read_safetensors(path) -> dict:
    """{name: tensor} of a .safetensors file, mapped from the disk rather than read. Raises UserError if
    broken."""
    path = Path(path)
    require(path.exists(), f"{path}: no such file")
    size = path.stat().st_size
    broken = UserError(f"{path}: not a .safetensors file, or a truncated one ({size} bytes); fetch it again")
    if size < 8:
        raise broken
    raw = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))
    start = 8 + int.from_bytes(raw[:8].numpy().tobytes(), "little")
    if start > size:
        raise broken
    try:
        header = json.loads(raw[8:start].numpy().tobytes())
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            length = math.prod(shape) * dtype.itemsize
            if end - begin != length or begin < 0 or start + end > size:
                raise broken
            data = raw[start + begin:start + end]
            if (start + begin) % dtype.itemsize:
                data = data.clone()  # a view must begin at a multiple of the number's size
            tensors[name] = data.view(dtype).view(shape)
        spans = sorted(entry["data_offsets"] for entry in header.values())      # side by side, up to the end
        if [0, *(end for _, end in spans)] != [*(begin for begin, _ in spans), size - start]:
            raise broken
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # of torch's; json's nesting
        raise broken from None
    return tensors
