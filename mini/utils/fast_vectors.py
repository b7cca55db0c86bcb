"""A language model on a CPU 2.4 times as fast: a matrix times one vector, as fast as memory can be
read.

When a model writes token by token, it multiplies each of its matrices by a single vector: the
numbers of the matrix are read once and used once, so the speed of memory is the limit. On x86,
torch's product of a matrix and a vector stays far below this limit. The faster kernel computes the
same. Fewer bytes a number are read sooner: bfloat16 has two, int8 has one.
"""
import contextlib
import ctypes
import platform
import sys

import torch
import torch.nn.functional as F


# Layers of one module that multiply the same vector, in mini/llama.py: one product does for them.
JOINED = (("c_q", "c_k", "c_v"), ("c_gate", "c_fc"))


@contextlib.contextmanager
def fast_vectors(model, weights: str = "float32"):
    """A context in which every nn.Linear of the model multiplies a single vector faster.

    weights: how its numbers are kept for that, as float32, bfloat16 or int8. Each nn.Linear also
    has a function `product` meanwhile, for vectors (I,) only. If layers multiply the same vector
    (see JOINED), their module has it in place of them, and it returns the outputs of all of them,
    one after the other; they themselves are as slow as before.

    It is for inference only, and for CPUs of the x86 kind; elsewhere nothing changes, nor with
    weights = "" (for a model that is fast in another way: no weight is then kept a second time).
    Dropouts, which do nothing in evaluation mode, are skipped: to call 37 of them takes 3 % of a
    token's time.
    """
    replaced = []

    def replace(module, name: str, function):
        setattr(module, name, function)                     # hides a method of the class
        replaced.append((module, name))

    if weights and next(model.parameters()).is_cpu and platform.machine() in ("x86_64", "AMD64"):
        memory = Memory()
        joined = set()
        for module in model.modules():                      # in the order in which they are used
            for names in JOINED:
                layers = [getattr(module, name, None) for name in names]
                if all(isinstance(layer, torch.nn.Linear) for layer in layers):
                    replace(module, "product", make_product(layers, weights, memory))
                    joined.update(layers)
            if isinstance(module, torch.nn.Linear) and module not in joined:
                replace(module, "product", make_product([module], weights, memory))
                replace(module, "forward", make_forward(module))
            elif isinstance(module, torch.nn.Dropout):
                replace(module, "forward", unchanged)
    try:
        yield
    finally:
        for module, name in replaced:
            delattr(module, name)                           # now the class's method is used again


def unchanged(x):
    return x


def make_forward(linear):
    """A forward function for an nn.Linear with a `product`, which it takes for single vectors."""
    plain_forward = linear.forward

    def forward(x):
        if x.numel() != linear.in_features:
            return plain_forward(x)
        return linear.product(x.view(-1)).view(x.shape[:-1] + (-1,))    # (…, I) -> (…, O)
    return forward


def make_product(layers: list, weights: str, memory):
    """A function of a vector x (I,) that returns the outputs (O,) of these nn.Linear, one after the
    other: the same, but faster.

    W x is the sum of W's columns, weighted by the entries of x. torch's kernel for weighted sums of
    rows, embedding_bag, reads two to three times as fast as its product of a matrix and a vector.
    So each weight is kept a second time, transposed, and cut into slabs of a few outputs each:
    (O, I) -> (slabs, I + 1, width). The last row of a slab is the bias, whose weight is 1.

    In int8 each row of a slab is kept as whole numbers from 0 to 255 with a scale and an offset of
    its own: w ≈ scale · n + offset. Every weight is then off by at most half a step of its row.
    """
    weight = torch.cat([layer.weight.detach() for layer in layers]).float()
    bias = torch.cat([bias_of(layer) for layer in layers])
    O, I = weight.shape
    slabs, width = cut(O)
    missing = slabs * width - O                             # outputs that fill up the last slab

    weight = F.pad(weight, (0, 0, 0, missing))              # (slabs · width, I)
    bias = F.pad(bias, (0, missing))
    table = torch.empty(slabs, I + 1, width)
    table[:, :I] = weight.view(slabs, width, I).transpose(1, 2)
    table[:, I] = bias.view(slabs, width)
    table = table.view(-1, width)                                       # (slabs · (I + 1), width)

    rows = torch.arange(len(table), dtype=torch.int32)
    first_row = torch.arange(0, len(table), I + 1, dtype=torch.int32)   # where each slab begins
    factors = torch.ones(slabs, I + 1)
    if weights == "bfloat16":
        table = table.bfloat16()
        factors = factors.bfloat16()
    elif weights == "int8":
        table = torch.ops.quantized.embedding_bag_byte_prepack(table)   # (…, width + 8) bytes
    table = memory.keep(table)
    x_goes_here = factors[:, :I]
    factors = factors.view(-1)

    def product(x):
        x_goes_here.copy_(x)
        if weights == "int8":
            sums = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
                table, rows, first_row, mode=0, per_sample_weights=factors)
        else:
            sums = torch.embedding_bag(table, rows, first_row, mode=0,  # 0: a sum
                                       per_sample_weights=factors)[0]   # (slabs, width)
        sums = sums.view(-1)
        if missing:
            sums = sums[:O]
        return sums.type_as(x)
    return product


def bias_of(linear):
    if linear.bias is None:
        return torch.zeros(linear.out_features)
    return linear.bias.detach().float()


def cut(O: int):
    """(slabs, width): how O outputs are cut, the same number of slabs for each thread. Without a
    rest, if there is a way: else the last slab is filled up."""
    threads = torch.get_num_threads()
    wide_registers = "AVX512" in torch.backends.cpu.get_cpu_capability()
    largest_width = 384 if wide_registers else 96           # so many sums fit into the registers
    fewest = -(-O // (largest_width * threads)) * threads
    slabs = fewest
    while O % (16 * slabs) and slabs < 2 * fewest:          # whole cache lines of 16 numbers
        slabs += threads
    if O % (16 * slabs):
        slabs = fewest
    width = -(-O // (slabs * 16)) * 16
    return slabs, width


class Memory:
    """Keeps tables one after the other, on Linux in pages of 2 MB, whose addresses are found
    faster."""

    def __init__(self, block: int = 2**26):
        self.block = block                                  # bytes taken from the system at once
        self.free = torch.empty(0, dtype=torch.uint8)

    def keep(self, table):
        """A copy of the table that lies in this memory."""
        n = table.nbytes
        room = -(-n // 64) * 64                             # whole cache lines
        if room > len(self.free):
            self.free = in_huge_pages(max(room, self.block))
        place = self.free[:n].view(table.dtype).view(table.shape)
        self.free = self.free[room:]
        return place.copy_(table)


def in_huge_pages(n: int):
    """n bytes, uninitialised, that begin with a page of 2 MB, if there are such pages."""
    huge = 2**21
    memory = torch.empty(n + huge, dtype=torch.uint8)
    start = -memory.data_ptr() % huge
    memory = memory[start:start + n]
    if sys.platform == "linux":
        MADV_HUGEPAGE = 14
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(n), MADV_HUGEPAGE)
    return memory


def into_huge_pages(model):
    """Move the weights of a model into pages of 2 MB, each as a tensor of its own: torch.compile
    refused parts of one."""
    memory = Memory()
    for p in model.parameters():
        p.data = torch.from_dlpack(memory.keep(p.detach()))
