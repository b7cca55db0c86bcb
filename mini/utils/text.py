"""Writing text token by token: show it as it is written, and say how much of it is copied."""
import codecs

from mini.data.text.corpus import longest_copied_run, read_text, split_text
from mini.utils.config import UserError


def check_prompt(prompt: str, tokenizer, longest: int = 0):
    """Raise UserError if the prompt has characters that the tokenizer does not know, or more than
    `longest` tokens (0: any number)."""
    n = len(tokenizer.encode(prompt))
    if 0 < longest < n:
        raise UserError(f"--prompt has {n} tokens, but the context holds only {longest}: keep its "
                        "end")


def printer(tokenizer, prompt: str):
    """Print the prompt; returns a function that prints the first of the tokens (B,) it is given, so
    that the first of B texts can be read while it is written.

    A character that is spread over several tokens comes with the last of them; bytes that are no
    UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    print(prompt, end="", flush=True)

    def on_token(tokens):
        first = tokens[0].item()
        print(decoder.decode(tokenizer.token_bytes(first)), end="", flush=True)
    return on_token


def print_others(texts: list):
    """End the line of the first text, which has been printed as it came, and print the others."""
    print()
    for text in texts[1:]:
        print(f"\n----\n\n{text}")


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
