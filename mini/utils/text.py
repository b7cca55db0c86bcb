"""Writing text token by token: print it while it is written, and say how much of it is copied."""
import codecs

from mini.data.text.corpus import longest_copied_run, read_corpus
from mini.utils.config import UserError
from mini.utils.fast_vectors import fast_vectors


def check_prompt(prompt: str, tokenizer, longest: int = 0):
    """Raise UserError if the prompt has characters that the tokenizer does not know, or more than
    `longest` tokens (0: any number)."""
    n = len(tokenizer.encode(tokenizer.start + prompt))
    if 0 < longest < n:
        raise UserError(f"--prompt has {n - 1} tokens, but with the token that begins a text the "
                        f"context holds only {longest - 1} of them: keep its end")


def print_texts(write, model, tokenizer, weights: str = "float32") -> list:
    """Print the texts that write(model, tokenizer, on_token) returns, and return them. The first is
    printed while it is written. On a CPU, the products of the model are faster meanwhile; weights:
    see fast_vectors."""
    check_prompt(model.cfg.prompt, tokenizer)       # before it is printed
    on_token = printer(tokenizer, model.cfg.prompt)
    with fast_vectors(model, weights):
        texts = write(model, tokenizer, on_token)
    print()
    for text in texts[1:]:
        print(f"\n----\n\n{text}")
    return texts


def printer(tokenizer, prompt: str, silent=()):
    """Print the prompt; returns a function that prints the first of the tokens (B,) it is given,
    unless it is one of the silent ones.

    A character that is spread over several tokens is printed with the last of them; bytes that are
    not UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    print(prompt, end="", flush=True)

    def on_token(tokens):
        first = tokens[0].item()
        if first not in silent:
            print(decoder.decode(tokenizer.token_bytes(first)), end="", flush=True)
    return on_token


def print_copying(texts: list, prompt: str, data: str):
    """Print how long a passage each text, without its prompt, shares word for word with the
    training part of --data, and for comparison the same for held-out text of equal length."""
    try:
        corpus = read_corpus(data)
    except UserError as error:
        print(f"(how much of it is copied cannot be told: {error})")
        return
    train_text = "".join(corpus.train)
    val_text = "".join(corpus.val)
    for text in texts:
        new = text[len(prompt):]
        copied = longest_copied_run(new, train_text)
        normal = longest_copied_run(val_text[:len(new)], train_text)
        print(f"longest run copied from the training text: {copied} characters "
              f"(as much held-out text: {normal})")
