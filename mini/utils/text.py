"""Writing text token by token: show it as it is written, and say how much of it is copied."""
import codecs

import torch

from mini.data.text.corpus import read_text, split_text
from mini.utils.config import UserError
from mini.utils.metrics import longest_copied_run


def encode_prompt(prompt: str, tokenizer, longest: int = 0) -> list:
    """The tokens of a prompt; without one, the token that begins a text. Raises UserError if they
    are more than `longest` (0: any number), or if the prompt has characters that the tokenizer does
    not know."""
    ids = tokenizer.encode(prompt or tokenizer.start)
    if 0 < longest < len(ids):
        raise UserError(f"--prompt has {len(ids)} tokens, but the context holds only {longest}: "
                        "keep its end")
    return ids


def write_texts(model, tokenizer, generate, show: bool = False) -> list:
    """Continuations of --prompt as strings, the same at every call; with `show`, printed as they
    come. The settings are those of the model's config, `generate` is its script's function."""
    cfg = model.cfg
    stream = TextStream(tokenizer, cfg.prompt, cfg.num_samples, show)
    ids = encode_prompt(cfg.prompt, tokenizer)
    idx = torch.tensor([ids] * cfg.num_samples, device=model.device)        # (B, T)
    generate(model, idx, cfg.max_new_tokens, on_token=stream.add, temperature=cfg.temperature,
             top_k=cfg.top_k, top_p=cfg.top_p, generator=torch.Generator().manual_seed(cfg.seed))
    return stream.finish()


class TextStream:
    """Turns columns of new tokens, one token for each of B texts, into the texts, and can print
    them as they come.

    A character that is spread over several tokens comes with the last of them; bytes that are no
    UTF-8 become U+FFFD. With `show`, the first text is printed token by token, and `finish` prints
    the others after it.
    """

    def __init__(self, tokenizer, prompt: str, B: int, show: bool = False):
        self.tokenizer = tokenizer
        self.texts = [prompt] * B
        self.decoders = [codecs.getincrementaldecoder("utf-8")(errors="replace") for _ in range(B)]
        self.show = show
        if show:
            print(prompt, end="", flush=True)

    def add(self, tokens):
        """Take the next token of each text: a tensor (B,)."""
        for i, token in enumerate(tokens.tolist()):
            piece = self.decoders[i].decode(self.tokenizer.token_bytes(token))
            self.texts[i] += piece
            if self.show and i == 0:
                print(piece, end="", flush=True)

    def finish(self) -> list:
        """The texts, as strings."""
        if self.show:
            print()
            for text in self.texts[1:]:
                print(f"\n----\n\n{text}")
        return self.texts


def print_copying(texts: list, prompt: str, data: str):
    """Say how long a run each text, without its prompt, shares word for word with the training part
    of --data, beside what is normal: that of as much held-out text."""
    try:
        train_text, val_text = split_text(read_text(data))
    except UserError as error:
        print(f"(how much of it is copied cannot be told: {error})")
        return
    for text in texts:
        new = text[len(prompt):]
        copied = longest_copied_run(new, train_text)
        normal = longest_copied_run(val_text[:len(new)], train_text)
        print(f"longest run copied from the training text: {copied} characters "
              f"(as much held-out text: {normal})")
