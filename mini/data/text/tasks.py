"""What BERT learns from: rows of tokens without labels, and three tasks with few labels, with baselines."""
import math
import random
from dataclasses import dataclass, replace

import torch
import torch.nn as nn

from mini.data.text import passages
from mini.data.text.baselines import bag_of_words, first_capitalised_span, most_frequent_tag
from mini.data.text.corpus import read_text
from mini.data.text.reviews import load_reviews
from mini.utils.config import require


def encode(pairs, tokenizer, T: int, cut: bool = True):
    """(idx, types, begins), each (N, S), of pairs (words, words of a second text or None).

    idx: the tokens [CLS] first [SEP], or [CLS] first [SEP] second [SEP], filled up with [PAD]. types: 0 in the
    first text, 1 in the second. begins: if a token is the first piece of word number n, n + 1, otherwise 0; it
    counts the words of the second text if there is one. A text of more than T tokens is cut, or if not `cut`
    refused with a UserError. An empty text is always refused."""
    rows = []
    for first, second in pairs:
        require(first if second is None else first and second, "a text is empty; give it at least one word")
        row = [(tokenizer.cls, 0, 0)]
        for kind, words in enumerate([first] if second is None else [first, second]):
            counted = kind == (second is not None)
            for n, word in enumerate(words, 1):
                first_piece, *others = tokenizer.encode_word(word)
                row += [(first_piece, kind, n if counted else 0), *((i, kind, 0) for i in others)]
            row.append((tokenizer.sep, kind, 0))
        require(cut or len(row) <= T,
                f"the text has {len(row)} tokens, and the model has only {T} positions: shorten it")
        rows.append(torch.tensor(row[:T - 1] + row[-1:] if len(row) > T else row))
    filled = nn.utils.rnn.pad_sequence(rows, batch_first=True)                  # (N, S, 3)
    idx, types, begins = filled.unbind(2)
    length = torch.tensor([len(row) for row in rows])
    return idx.masked_fill(torch.arange(idx.size(1)) >= length[:, None], tokenizer.pad), types, begins


def unlabelled_texts(cfg) -> list:
    """All texts without labels: the paragraphs of --data, the reviews, the passages."""
    paragraphs = filter(str.strip, read_text(cfg.data).split("\n\n"))
    return [*paragraphs, *load_reviews(cfg.reviews, cfg.few).unlabelled, *passages.unlabelled()]


def pretraining_rows(texts, tokenizer, T: int):
    """Texts as rows (N, S) of at most T tokens; a long text gives several. Their order is random, but fixed."""
    parts = []
    for text in texts:
        ids = tokenizer.encode(text)
        parts += [ids[i:i + T - 2] for i in range(0, len(ids), T - 2)]
    random.Random(0).shuffle(parts)
    rows = [torch.tensor([tokenizer.cls, *ids, tokenizer.sep]) for ids in parts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)


def draw_batch(rows, length, B: int, generator):
    """B rows (B, S') of about the same length, so that there is little [PAD]: 8 B rows are drawn from rows (N,
    S) and sorted by length, and an eighth of them is taken."""
    i = torch.randint(len(rows), (8 * B,), generator=generator)
    part = torch.randint(8, (1,), generator=generator).item()
    i = i.to(rows.device)
    i = i[length[i].argsort(stable=True)[part * B:(part + 1) * B]]
    return rows[i, :length[i].max()]


@dataclass
class Task:
    """A task's training and test data, and the baseline's predictions for the test."""
    name: str
    learn: tuple        # idx, types, begins, y
    test: tuple         # idx, types, begins
    truth: list         # what is right: labels, lists of tags, (start, end) in words
    baseline: list
    baseline_name: str
    names: list         # names of the outputs

    def cut(self, n: int):
        """The task with only the first n texts of the test."""
        return replace(self, test=tuple(part[:n] for part in self.test), truth=self.truth[:n],
                       baseline=self.baseline[:n])


def make_task(name: str, cfg, tokenizer) -> Task:
    """The data of a task; cfg.seed draws its labelled texts. Raises UserError for data that cannot be used."""
    def rows(pairs):
        return encode(pairs, tokenizer, cfg.block_size)
    if name == "sentiment":
        data = load_reviews(cfg.reviews, cfg.few, cfg.seed)
        (texts, y), (test, truth) = zip(*data.learn), zip(*data.test)
        x, x_test = (rows([(tokenizer.words(text), None) for text in some]) for some in (texts, test))
        return Task(name, (*x, torch.tensor(y)), x_test, list(truth), bag_of_words(texts, y, test).tolist(),
                    "bag of words", data.names)
    if name == "entities":
        learn, test = passages.load_entities(cfg.few, cfg.seed)
        x, x_test = (rows([(words, None) for words, _ in some]) for some in (learn, test))
        y = torch.full_like(x[0], -100)
        for row, begins, (_, tags) in zip(y, x[2], learn):
            row[begins > 0] = torch.tensor(tags)[begins[begins > 0] - 1]
        guess = most_frequent_tag(learn, [words for words, _ in test], len(passages.TAGS))
        truth = [tags for _, tags in test]
        return Task(name, (*x, y), x_test, truth, guess, "most frequent tag", passages.TAGS)
    learn, test = passages.load_questions(cfg.few, cfg.seed)
    x, x_test = (rows([(q.question, q.passage) for q in some]) for some in (learn, test))
    require(all((begins == q.end).any() for begins, q in zip(x[2], learn)),
            f"--block_size={cfg.block_size} is too short for the passages: some lose their answer; raise it")
    y = torch.tensor([[begins.tolist().index(q.start + 1), begins.tolist().index(q.end)]
                      for begins, q in zip(x[2], learn)])
    guess = [first_capitalised_span(q.passage, q.question) for q in test]
    truth = [(q.start, q.end) for q in test]
    return Task(name, (*x, y), x_test, truth, guess, "first capitals", ["first", "last"])


def spans(tags: list) -> set:
    """{(start, end, tag)} of the runs of each tag except "other" (0)."""
    cuts = [i for i in range(len(tags) + 1) if i in (0, len(tags)) or tags[i] != tags[i - 1]]
    return {(a, b, tags[a]) for a, b in zip(cuts, cuts[1:]) if tags[a]}


def score(task: str, found: list, truth: list) -> float:
    """The share of texts that are right; for sentiment, `found` holds classes or their probabilities. For
    entities F1 = 2 · right / (found + true); an entity is right if both ends and the tag are right."""
    if task == "sentiment":
        found = [p.index(max(p)) if isinstance(p, list) else p for p in found]
    if task != "entities":
        return sum(a == b for a, b in zip(found, truth)) / len(truth)
    pairs = [(spans(a), spans(b)) for a, b in zip(found, truth)]
    return 2 * sum(len(a & b) for a, b in pairs) / max(1, sum(len(a) + len(b) for a, b in pairs))


def best_span(logits, longest: int = 8):
    """(first, last) (B, 2), first ≤ last < first + longest, with the largest sum of logits (B, T, 2)."""
    B, T, _ = logits.shape
    total = logits[:, :, None, 0] + logits[:, None, :, 1]       # (B, T, T)
    allowed = torch.ones(T, T, dtype=torch.bool).triu().tril(longest - 1).to(logits.device)
    best = total.masked_fill(~allowed, -math.inf).flatten(1).argmax(1)          # (B, T·T) -> (B,)
    return torch.stack([best // T, best % T], dim=1)


@torch.no_grad()
def predict(model, idx, types, begins, pad: int, at_once: int = 128) -> list:
    """For each text the probabilities of its classes, the tag of each word, or its answer (start, end)."""
    found = []
    model.eval()
    for part in zip(idx.split(at_once), types.split(at_once), begins.split(at_once)):
        logits, b = model(*(t.to(model.head.weight.device) for t in part), pad).float().cpu(), part[2]
        if model.task == "sentiment":
            found += logits.softmax(1).tolist()
        elif model.task == "entities":
            found += [tags[row > 0].tolist() for tags, row in zip(logits.argmax(2), b)]
        else:
            found += [(row[i].item() - 1, row[j].item()) for (i, j), row in zip(best_span(logits), b)]
    return found
