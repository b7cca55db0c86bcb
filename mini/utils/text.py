"""Writing text token by token: draw a token, print the text as it comes, say how much of it is copied."""
import codecs
import math

import torch
import torch.nn.functional as F

from mini.data.text.corpus import read_text, split_text
from mini.utils.config import UserError, require
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
