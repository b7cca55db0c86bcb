"""A Llama that reads single tokens by C++, which torch makes of it: for --compile.

On a CPU, a model that writes token by token should be as fast as its weights can be read from
memory. `CachedLlama.read_one` in mini/llama.py calls some fifteen functions of torch's in each
block, and while they run no weights are read. Here torch makes C++ of a whole block: each product
becomes a loop that multiplies and adds, and so does what lies between two of them. For that, a
block is written once more, for one token and as a formula: nothing is changed in it, and what has
to be kept is returned.

Some blocks are compiled ahead of time, by AOTInductor, with their weights as inputs: all blocks are
alike, so the same C++ does for the next ones. What torch.compile makes would be called through
Python that checks its inputs, which took a quarter of a token's time.

It needs a C++ compiler and torch 2.6 or later (we tried 2.13), and takes a minute the first time;
what has been compiled is kept where torch.compile keeps what it makes.
"""
import contextlib
import hashlib
import math
import os
import time
import warnings
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.llama import CachedLlama, rotate
from mini.utils.config import require
from mini.utils.fast_vectors import into_huge_pages


def product(linear, x):
    """linear(x) for a single vector: (I,) -> (O,), summed in float32.

    It becomes a loop over the rows of the matrix, eight together, one from each eighth of it (if
    the eighths are equal; else some loops of fewer): memory is read faster at several places in
    turn. as_strided changes nothing, but for it the compiler stores x; else it computes x again for
    each row.
    """
    x = x.float()
    x = x.as_strided(x.shape, x.stride())
    parts = linear.weight.float().tensor_split(8)
    y = torch.cat([(rows * x).sum(dim=-1) for rows in parts])
    if linear.bias is not None:
        y = y + linear.bias
    return y.type_as(linear.weight)


def block_of_one(block, x, past, cos=None, sin=None):
    """The vector x (C,) of one token after a block, and its key and value (2, nkv, hs).

    past (2, nkv, n, hs): the keys and values of the n tokens before it. cos, sin (hs/2,): its
    rotation, if the model rotates.
    """
    attn = block.attn
    nkv, n, hs = past.shape[1:]
    old_k = past.select(0, 0)[:, None]                          # (nkv, 1, n, hs)
    old_v = past.select(0, 1)[:, None]

    normed_x = block.ln_1(x)
    q = product(attn.c_q, normed_x).view(nkv, -1, 1, hs)        # (nkv, group, 1, hs)
    k = product(attn.c_k, normed_x).view(nkv, 1, 1, hs)         # (nkv, 1, 1, hs)
    v = product(attn.c_v, normed_x).view(nkv, 1, 1, hs)         # (nkv, 1, 1, hs)
    if attn.q_norm is not None:
        q = attn.q_norm(q)
        k = attn.k_norm(k)
    if cos is not None:
        q = rotate(q, cos, sin).type_as(x)
        k = rotate(k, cos, sin).type_as(x)

    # attention, as products and sums, too
    q = q.float() / math.sqrt(hs)
    old_scores = (q * old_k.float()).sum(dim=-1)                # (nkv, group, n)
    own_score = (q * k.float()).sum(dim=-1)                     # (nkv, group, 1)
    scores = torch.cat([old_scores, own_score], dim=-1)         # (nkv, group, n + 1)
    weights = F.softmax(scores, dim=-1)[..., None]              # (nkv, group, n + 1, 1)
    y = (weights[:, :, :n] * old_v.float()).sum(dim=-2)         # -> (nkv, group, hs)
    y = y + weights[:, :, -1] * v[:, :, 0].float()              # (nkv, group, hs)
    x = x + product(attn.c_proj, y.flatten().type_as(x))

    mlp = block.mlp
    normed_x = block.ln_2(x)
    hidden = product(mlp.c_fc, normed_x)
    if mlp.c_gate is not None:
        hidden = F.silu(product(mlp.c_gate, normed_x)) * hidden
    else:
        hidden = F.gelu(hidden, approximate="tanh")
    x = x + product(mlp.c_proj, hidden)
    return x, torch.stack([k.view(nkv, hs), v.view(nkv, hs)])


class Blocks(nn.Module):
    """Some blocks, one after the other, for one token."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x, past, *rotation):
        """x (C,) after all of them, and the keys and values (blocks, 2, nkv, hs). past: those of
        the n tokens before it, (blocks, 2, nkv, n, hs)."""
        new = []
        for block, past_of_block in zip(self.blocks, past):
            x, new_of_block = block_of_one(block, x, past_of_block, *rotation)
            new.append(new_of_block)
        return x, torch.stack(new)


class Head(nn.Module):
    """Logits (V,) of what follows a token, from its vector x (C,) after all blocks."""

    def __init__(self, model):
        super().__init__()
        self.ln_f = model.ln_f
        self.lm_head = model.lm_head

    def forward(self, x):
        return product(self.lm_head, self.ln_f(x))


def export(module, inputs: list, dynamic_shapes: list):
    """A module as a graph of torch's functions, whose inputs are those of the module and then its
    weights."""
    names = [name for name, _ in module.named_parameters()]
    weights = [p.detach() for p in module.parameters()]

    class WithWeights(nn.Module):
        def forward(self, inputs, weights):
            return torch.func.functional_call(module, dict(zip(names, weights)), tuple(inputs))

    shapes = (dynamic_shapes, [None] * len(weights))
    return torch.export.export(WithWeights(), (inputs, weights), dynamic_shapes=shapes)


def compiled(graph):
    """A function of a list of tensors, the inputs of the graph, in C++. The file where it is kept
    has a name that depends on the graph, and so on every size in it and on the source."""
    from torch._inductor.codecache import cache_dir             # here, since it takes a while
    what = f"{graph} {torch.__version__} {torch.backends.cpu.get_cpu_capability()} " \
           f"{torch.get_num_threads()}"
    name = hashlib.sha256(what.encode()).hexdigest()
    path = Path(cache_dir()) / f"mini_llama_{name}.pt2"

    def load():                             # to call the package itself takes 85 µs more each time
        return torch._inductor.aoti_load_package(str(path)).loader.run

    if path.exists():
        with contextlib.suppress(Exception):                    # a damaged file is written anew
            return load()
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{name}_{os.getpid()}.pt2")           # another process may write it, too
    try:
        torch._inductor.aoti_compile_and_package(graph, package_path=str(own))
        os.replace(own, path)                                   # now that it is complete
    finally:
        own.unlink(missing_ok=True)
    return load()


class CompiledLlama(CachedLlama):
    """A CachedLlama that reads single tokens by compiled functions, which are compiled when it is
    made."""

    def __init__(self, model):
        """Raises UserError if the model is not on a CPU, if its weights are to be int8, without
        --cache, if LoRA's additions are not merged, if torch is too old, or if the context is too
        short for a range of lengths."""
        require(model.device.type == "cpu", "--compile speeds up sample and chat on a CPU only: "
                "leave it out, or add --device=cpu")
        require(model.cfg.weights != "int8", "--compile does not know --weights=int8: take "
                "float32 or bfloat16, or leave it out")
        require(model.cfg.cache, "--compile keeps keys and values: leave out --cache=false, or it")
        require(isinstance(model.h[0].attn.c_q, nn.Linear), "--compile needs LoRA's additions in "
                "the weights, where --resume does not put them: leave one of the two out")
        require(hasattr(torch._inductor, "aoti_compile_and_package"),
                f"--compile of sample and chat needs torch 2.6, this is {torch.__version__}: leave "
                "it out")
        require(model.cfg.block_size >= 4, f"--compile needs a --block_size of 4 or more, not "
                f"{model.cfg.block_size}: leave it out")
        super().__init__(model)
        into_huge_pages(model)
        n_layer = len(model.h)
        self.together = next(n for n in (3, 2, 1) if n_layer % n == 0)      # blocks in a call
        groups = [Blocks(model.h[i:i + self.together]) for i in range(0, n_layer, self.together)]
        head = Head(model)
        self.group_weights = [[p.detach() for p in group.parameters()] for group in groups]
        self.head_weights = [p.detach() for p in head.parameters()]

        print("compiling: a minute the first time, then seconds ...", flush=True)
        start = time.perf_counter()
        self.forget(B=1)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)      # about torch's own code
            x = self.embed(torch.zeros(1, dtype=torch.long), 0)
            rotation = self.rotation_at(0)
            past = self.kv[:self.together, :, 0, :, :2]         # (blocks, 2, nkv, n, hs) for n = 2
            # for any n, but 0 and 1, which the compiler takes for constants
            n = torch.export.Dim("n", min=2, max=model.cfg.block_size - 1)
            dynamic_shapes = [None, {3: n}, *(None for _ in rotation)]
            self.run_blocks = compiled(export(groups[0], [x, past, *rotation], dynamic_shapes))
            self.run_head = compiled(export(head, [x], [None]))
        print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)

    def forward(self, idx):
        """Logits (B, 1, V) of the token after idx (B, T)."""
        n = self.n_known(idx)
        if len(idx) > 1 or idx.size(1) > n + 1 or n < 2:
            return super().forward(idx)
        self.read = idx
        x = self.embed(idx[0, -1:], n)                          # (C,)
        rotation = self.rotation_at(n)
        kv = self.kv[:, :, 0]                                   # (n_layer, 2, nkv, block_size, hs)
        new = []
        for past, weights in zip(kv[:, :, :, :n].split(self.together), self.group_weights):
            x, new_of_group = self.run_blocks([x, past, *rotation, *weights])
            new.append(new_of_group)                            # (blocks, 2, nkv, hs)
        kv[:, :, :, n] = torch.cat(new)
        logits, = self.run_head([x, *self.head_weights])        # (V,)
        return logits.view(1, 1, -1)

    def embed(self, token, n: int):
        """The vector (C,) of a token (1,) at position n."""
        return self.model.embed(token[None], start=n).view(-1)

    def rotation_at(self, n: int) -> list:
        """[cos, sin] of position n, (hs/2,) each; nothing with learnt positions."""
        if self.cfg.positions != "rotary":
            return []
        rotary = self.model.h[0].attn.rotary
        return [rotary.cos[n], rotary.sin[n]]
