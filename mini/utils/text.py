"""Writing text token by token: print it as it comes, and read the weights as fast as the memory allows."""
import codecs
import contextlib
import ctypes
import math
import platform
import sys

import torch
import torch.nn.functional as F

from mini.utils.run import UserError, require
from mini.data.text.corpus import read_text, split_text
from mini.utils.metrics import longest_copied_run


def pick(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one token for each row of the logits (B, V): a tensor (B,).

    temperature divides the logits (0: take the likeliest). top_k keeps only the k likeliest tokens (0: all),
    top_p the smallest set of likeliest tokens with at least this probability (Holtzman et al. 2020, §3.1).
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    logits = logits / temperature
    if top_k:
        worst = logits.topk(min(top_k, logits.size(1))).values[:, -1:]
        logits = logits.masked_fill(logits < worst, -math.inf)
    if top_p < 1:
        p, order = F.softmax(logits, dim=1).sort(descending=True)
        enough = p.cumsum(dim=1) - p >= top_p                   # those before it have the probability already
        enough[:, 0] = False                                    # the likeliest always stays
        logits = logits.masked_fill(enough.gather(1, order.argsort()), -math.inf)
    reached = F.softmax(logits, dim=1).double().cumsum(dim=1)  # the token where this passes u is the draw
    u = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64) * reached[:, -1:]
    return torch.searchsorted(reached, u, right=True)[:, 0]


def encode_prompt(cfg, tokenizer) -> list:
    """The tokens to begin from. Raises UserError for a prompt or sampling options that cannot be used."""
    require(min(cfg.tokens, cfg.samples, cfg.top_p) > 0 and min(cfg.temperature, cfg.top_k) >= 0,
            "--tokens, --samples and --top_p must be positive, --temperature and --top_k not negative")
    ids = tokenizer.encode(cfg.prompt or tokenizer.start)
    require(len(ids) <= cfg.block_size, f"--prompt has {len(ids)} tokens, but the context holds only "
                                        f"{cfg.block_size}: keep its end")
    return ids


def print_texts(tokenizer, columns, prompt: str, show: bool) -> list:
    """The texts, as strings, of `columns`, an iterable of token columns (B,), each with the prompt before it.
    With `show` the first is printed as it comes, and the others after it.

    A character that is spread over several tokens comes with the last of them; bytes that are no UTF-8 as
    U+FFFD.
    """
    texts, decoders = [], []
    for column in columns:
        if not texts:
            texts = [prompt] * len(column)
            decoders = [codecs.getincrementaldecoder("utf-8")(errors="replace") for _ in texts]
            print(prompt, end="", flush=True) if show else None
        pieces = [d.decode(tokenizer.token_bytes(i)) for d, i in zip(decoders, column.tolist())]
        texts = [text + piece for text, piece in zip(texts, pieces)]
        print(pieces[0], end="", flush=True) if show else None
    if show:
        print(*["", *texts[1:]], sep="\n\n----\n\n" if len(texts) > 1 else "\n")
    return texts


def print_copying(texts: list, prompt: str, data: str):
    """Say how much of the texts, their prompt left out, is copied from the training part of --data, beside
    what is normal: held-out text."""
    try:
        training, held_out = split_text(read_text(data))
    except UserError as error:
        print(f"(how much of it is copied cannot be told: {error})")
        return
    for text in (text[len(prompt):] for text in texts):
        print(f"longest run copied from the training text: {longest_copied_run(text, training)} characters "
              f"(as much held-out text: {longest_copied_run(held_out[:len(text)], training)})")


@contextlib.contextmanager
def fast_vectors(model):
    """Inside, every nn.Linear of the model multiplies a single vector as fast as the memory can be read.

    W x is the sum of W's columns, weighted by x. On x86, torch's kernel for weighted sums of rows
    (embedding_bag) reads two to three times as fast as its product of a matrix and one vector; so each weight
    is kept a second time, transposed, in slabs of a few outputs each: (O, I) -> (slabs, I + 1, width). The
    last row is the bias, with weight 1. Dropouts, which do nothing here, are passed by: calling 37 of them
    takes 3 % of the time of a token. For inference only.
    """
    replaced = []
    if next(model.parameters()).is_cpu and platform.machine() in ("x86_64", "AMD64"):
        for module in model.modules():                      # forward of an instance hides that of its class
            if isinstance(module, torch.nn.Linear):
                module.forward = _vector_forward(module)
            elif isinstance(module, torch.nn.Dropout):
                module.forward = _unchanged
            else:
                continue
            replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _unchanged(x):
    return x


def _vector_forward(linear):
    (O, I), plain = linear.weight.shape, linear.forward
    wide, threads = "AVX512" in torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    slabs = -(-O // ((384 if wide else 96) * threads)) * threads    # so many sums fit the registers
    width = -(-O // (slabs * 16)) * 16                              # whole registers, whole cache lines
    missing = slabs * width - O
    table = _in_huge_pages(slabs * (I + 1) * width).view(slabs, I + 1, width)
    weight, bias = linear.weight.detach(), torch.zeros(O) if linear.bias is None else linear.bias.detach()
    table[:, :I] = F.pad(weight, (0, 0, 0, missing)).view(slabs, width, I).transpose(1, 2)
    table[:, I] = F.pad(bias, (0, missing)).view(slabs, width)
    table = table.view(-1, width)                                                   # (slabs·(I + 1), width)
    index = torch.arange(len(table), dtype=torch.int32)
    begin = torch.arange(0, len(table), I + 1, dtype=torch.int32)                   # bag s adds up slab s
    weights = torch.ones(slabs, I + 1)
    weights_of_x, weights = weights[:, :I], weights.view(-1)

    def forward(x):
        if x.numel() != I:
            return plain(x)
        weights_of_x.copy_(x.view(I))
        y = torch.embedding_bag(table, index, begin, mode=0, per_sample_weights=weights)[0]
        return y.view(x.shape[:-1] + (-1,))[..., :O]            # (slabs, width) -> (…, O); mode 0 is a sum
    return forward


def _in_huge_pages(n: int):
    """n floats, uninitialised. On Linux in pages of 2 MB, whose addresses the processor finds faster."""
    memory = torch.empty(n)
    if sys.platform == "linux":
        begin, end, MADV_HUGEPAGE = memory.data_ptr(), memory.data_ptr() + 4 * n, 14
        begin = -(-begin // 4096) * 4096                        # the first whole page
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(max(0, end - begin)), MADV_HUGEPAGE)
    return memory
