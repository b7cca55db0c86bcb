"""A Llama that reads single tokens by C++, which torch.compile makes of it: for --compile.

On a CPU, a model that writes token by token should be as fast as its weights can be read from
memory. `CachedLlama.read_one` in mini/llama.py calls some fifteen functions of torch's in each
block, and while they run no weights are read. torch.compile makes C++ of a whole block: each
product becomes a loop that multiplies and adds, and so does what lies between two of them. For
that, a block is written once more, for one token and as a formula: nothing is changed in it, and
what has to be kept is returned.

It needs a C++ compiler, and takes minutes the first time; torch keeps what it has compiled.
"""
import math
import time

import torch
import torch.nn.functional as F

from mini.llama import CachedLlama, rotate
from mini.utils.config import require
from mini.utils.fast_vectors import into_huge_pages


def product(linear, x):
    """linear(x) for a single vector: (I,) -> (O,), summed in float32.

    It becomes a loop over pairs of rows, one from each half of the matrix, so that what x is
    computed from is computed once for two.
    """
    x = x.float()
    halves = linear.weight.float().tensor_split(2)
    y = torch.cat([(rows * x).sum(dim=-1) for rows in halves])
    if linear.bias is not None:
        y = y + linear.bias
    return y.type_as(linear.weight)


@getattr(torch.compiler, "nested_compile_region", lambda function: function)    # since torch 2.8
def block_of_one(block, x, past, cos, sin):
    """The vector x (C,) of one token after a block, and its key and value (2, nkv, hs).

    past (2, nkv, n, hs): the keys and values of the n tokens before it. cos, sin (hs/2,): its
    rotation, or None. (Compiled once, since all blocks are alike.)
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


def read_compiled(model, token, past, position, cos, sin):
    """Logits (V,) of what follows a token (1,), and its keys and values (n_layer, 2, nkv, hs). past
    (n_layer, 2, nkv, n, hs) are those before it."""
    x = model.wte(token)
    if model.cfg.positions == "learned":
        x = x + model.wpe(position)
    x = x.view(-1)                                              # (1, C) -> (C,)
    new = []
    for block, past_of_block in zip(model.h, past):
        x, new_of_block = block_of_one(block, x, past_of_block, cos, sin)
        new.append(new_of_block)
    return product(model.lm_head, model.ln_f(x)), torch.stack(new)


class CompiledLlama(CachedLlama):
    """A CachedLlama that reads single tokens by a compiled function. It is compiled at once."""

    def __init__(self, model):
        """Raises UserError if the model is not on a CPU, if its weights are to be int8,
        or without --cache."""
        require(model.device.type == "cpu", "--compile speeds up sample and chat on a CPU only: "
                "leave it out, or add --device=cpu")
        require(model.cfg.weights != "int8", "--compile does not know --weights=int8: take "
                "float32 or bfloat16, or leave it out")
        require(model.cfg.cache, "--compile keeps keys and values: leave out --cache=false, or it")
        super().__init__(model)
        into_huge_pages(model)
        torch.compiler.reset()                                  # of a model of other sizes, say
        # without size_asserts: to check ten sizes in each block took 3 % of a token's time
        self.read_compiled = torch.compile(read_compiled, options={"size_asserts": False})
        print("compiling: minutes the first time, then less ...", flush=True)
        start = time.perf_counter()
        with torch.inference_mode():                            # as in `generate`
            for T in (2, 3):                # two tokens are read at once, then one by what compiles
                self(torch.zeros(1, T, dtype=torch.long))
        self.read = torch.empty(0, 0, dtype=torch.long)         # forget the tokens of the trial
        print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)

    def forward(self, idx):
        """Logits (B, 1, V) of the token after idx (B, T)."""
        n = self.n_known(idx)
        if len(idx) > 1 or idx.size(1) > n + 1 or n < 2:        # the compiler takes sizes 0 and 1
            return super().forward(idx)                         # for constants
        self.read = idx
        past = self.kv[:, :, 0, :, :n]                          # (n_layer, 2, nkv, n, hs)
        torch._dynamo.mark_dynamic(past, 3)                     # compile it once, and for any n
        token = idx[0, -1:].clone()                             # always a tensor of the same kind
        position = torch.tensor([n])
        cos = sin = None
        if self.cfg.positions == "rotary":
            rotary = self.model.h[0].attn.rotary
            cos = rotary.cos[n]
            sin = rotary.sin[n]
        logits, new = self.read_compiled(self.model, token, past, position, cos, sin)
        self.kv[:, :, 0, :, n] = new
        return logits.view(1, 1, -1)
