"""What mini/bert.py learns from: rows of tokens without labels, and three tasks with few labels,
each with its score and with what an expert would try first, without a network."""
import random
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from mini.data.text import baselines, passages
from mini.data.text.corpus import read_text
from mini.data.text.reviews import load_reviews
from mini.data.text.wordpiece import CLS, SEP
from mini.utils.config import require

# ---- texts as tokens

GAP = -1        # in Tokens.word_number, see there

@dataclass
class Tokens:
    """Texts as tokens, three tensors (N, T).

    idx: the tokens [CLS] text [SEP], or [CLS] text [SEP] question [MASK] [SEP], filled up with
    [PAD]. The [MASK] stands for the answer.
    token_type_ids: 0 in the text, 1 in the question.
    word_number: n for the first piece of the text's n-th word, counted from 1; GAP for the [MASK]
    of the answer; 0 for all other tokens.

        idx              [CLS]  Ivo  lives  in  Tu  ##rin  .  [SEP]  Where  …  ?  [MASK]  [SEP]
        token_type_ids     0     0     0     0   0    0    0    0      1    1  1    1       1
        word_number        0     1     2     3   4    0    5    0      0    0  0   GAP      0
    """
    idx: torch.Tensor
    token_type_ids: torch.Tensor
    word_number: torch.Tensor

    def __len__(self):
        return len(self.idx)

    def __getitem__(self, i):
        """The texts i, a slice or a tensor of numbers; columns that hold only [PAD] stay."""
        return Tokens(self.idx[i], self.token_type_ids[i], self.word_number[i])

    def to(self, device):
        return Tokens(self.idx.to(device), self.token_type_ids.to(device),
                      self.word_number.to(device))

    def cut(self, length: int):
        """The first `length` columns."""
        return self[:, :length]


def encode(pairs: list, tokenizer, longest: int, cut: bool = True,
           split_names: bool = False) -> Tokens:
    """The Tokens of pairs (words of a text, words of a question or None).

    split_names: names are cut into pieces, see WordPieceTokenizer.encode_word. If there are more
    than `longest` tokens, the end of the text is cut off, and a line says so; with cut=False, it is
    a UserError. An empty text is always one.
    """
    rows = []
    n_cut = 0
    for text, question in pairs:
        require(text and (question is None or question),
                "a text is empty; give it at least one word")
        row = [(tokenizer.cls, 0, 0)]
        row += encode_words(text, tokenizer, 0, True, split_names)
        row.append((tokenizer.sep, 0, 0))
        after = []
        if question is not None:
            after += encode_words(question, tokenizer, 1, False, split_names)
            after += [(tokenizer.mask, 1, GAP), (tokenizer.sep, 1, 0)]
        n = len(row) + len(after)
        room = longest - len(after)
        require(n <= longest or (cut and room > 2),
                f"the text has {n} tokens, and the model has only {longest} positions: shorten it")
        if n > longest:
            row = row[:room - 1] + row[-1:]                 # the last one is [SEP]
            n_cut += 1
        rows.append(torch.tensor(row + after))              # (length, 3)
    if n_cut > 0:
        print(f"note: {n_cut} of {len(pairs)} texts are longer than {longest} tokens, and lose "
              "their end")
    filling = torch.tensor([tokenizer.pad, 0, 0])
    width = max(map(len, rows))
    filled = filling.repeat(len(rows), width, 1)            # (N, T, 3)
    for n, row in enumerate(rows):
        filled[n, :len(row)] = row
    return Tokens(*filled.unbind(dim=2))


def encode_words(words: list, tokenizer, token_type: int, counted: bool, split_names: bool) -> list:
    """(token, token type, number of the word or 0) of each piece of the words."""
    row = []
    for n, word in enumerate(words, start=1):
        first, *others = tokenizer.encode_word(word, split_names)
        row.append((first, token_type, n if counted else 0))
        row += [(piece, token_type, 0) for piece in others]
    return row


def encode_both_ways(pairs: list, tokenizer, longest: int) -> Tokens:
    """The Tokens of pairs, as `encode` gives them, twice: first all as they are, then all with
    names (and other words of three letters or more with a capital) cut into pieces. For texts to
    learn from: held-out texts have names that the tokenizer does not know, and cuts."""
    whole = encode(pairs, tokenizer, longest)
    split = encode(pairs, tokenizer, longest, split_names=True)
    width = max(whole.idx.size(1), split.idx.size(1))
    parts = []
    for name, filling in (("idx", tokenizer.pad), ("token_type_ids", 0), ("word_number", 0)):
        tensors = [getattr(tokens, name) for tokens in (whole, split)]
        filled = [F.pad(t, (0, width - t.size(1)), value=filling) for t in tensors]
        parts.append(torch.cat(filled))
    return Tokens(*parts)


def token_types(idx, sep: int):
    """The token_type_ids (B, T) of tokens idx (B, T): 1 after the first [SEP]."""
    is_sep = (idx == sep).long()
    before = is_sep.cumsum(dim=1) - is_sep                  # how many [SEP] stand before each token
    return before.clamp(max=1)


# ---- texts without labels

def unlabelled_texts(cfg) -> list:
    """Texts without labels: the paragraphs of --data, and the reviews."""
    paragraphs = [text for text in read_text(cfg.data).split("\n\n") if text.strip()]
    return paragraphs + load_reviews(cfg.reviews, cfg.few).unlabelled


@dataclass
class Rows:
    """Texts without labels as tokens, two tensors (N, T).

    idx: [CLS] text [SEP], or [CLS] text [SEP] second text [SEP], filled up with [PAD]. In the
    second of two reports, and behind a cloze, each fact is cut to one token, the first piece of its
    first word.
    is_gap: True at these tokens. The model is shown [MASK] in their place, and has to predict them:
    there is one gap for a fact of any length, as for the answer to a question.
    """
    idx: torch.Tensor
    is_gap: torch.Tensor

    def __len__(self):
        return len(self.idx)

    def __getitem__(self, i):
        """The rows i; like any index of a tensor (N, T), i may choose columns, too."""
        return Rows(self.idx[i], self.is_gap[i])

    def cut(self, length: int):
        """The first `length` columns."""
        return self[:, :length]

    def to(self, device):
        return Rows(self.idx.to(device), self.is_gap.to(device))


def rows_of_texts(texts: list, tokenizer, longest: int) -> Rows:
    """Texts as rows of at most `longest` tokens; a long text gives several. Their order is random,
    but fixed."""
    parts = []
    for text in texts:
        ids = tokenizer.encode(text)
        for start in range(0, len(ids), longest - 2):
            parts.append(ids[start:start + longest - 2])
    random.Random(0).shuffle(parts)
    rows = [torch.tensor([tokenizer.cls, *ids, tokenizer.sep]) for ids in parts]
    idx = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)
    return Rows(idx, torch.zeros_like(idx, dtype=torch.bool))


def rows_of_reports(reports: list, tokenizer, longest: int, as_clozes: bool = False) -> Rows:
    """Pairs of reports as rows; as_clozes: half of the pairs with a cloze in place of the second
    report, see words_of_cloze.

    In every second pair names (and other words of three letters or more with a capital) are cut
    into pieces, as in encode_both_ways. Pairs of more than `longest` tokens are left out; by
    default 8 % of them.
    """
    rng = random.Random(0)
    rows = []
    for n, pair in enumerate(reports):
        if as_clozes and n % 4 >= 2:
            words = words_of_cloze(pair, rng)
        else:
            words = words_of_reports(pair)
        row = []
        for word, is_gap in words:
            pieces = tokenizer.encode_word(word, split_names=n % 2 == 1)
            if is_gap:
                pieces = pieces[:1]
            row += [(piece, is_gap) for piece in pieces]
        if len(row) <= longest:
            rows.append(torch.tensor(row))              # (length, 2): token; 1 in a gap, else 0
    require(len(rows) > 1,
            f"--block_size={longest} is too short for the pairs of reports: raise it")
    idx = pad_sequence([row[:, 0] for row in rows], batch_first=True, padding_value=tokenizer.pad)
    is_gap = pad_sequence([row[:, 1] for row in rows], batch_first=True, padding_value=0)
    return Rows(idx, is_gap.bool())


def words_of_reports(pair) -> list:
    """(word, is_gap) for the words of a row of TwoReports, with [CLS] and [SEP]. Of each fact of
    the second report only the first word is kept."""
    words = [(CLS, False)]
    words += [(word, False) for word in pair.first]
    words.append((SEP, False))
    ends = dict(pair.gaps)                              # {start of a fact: its end}
    end_of_fact = 0                                     # of the fact that was last begun
    for i, word in enumerate(pair.second):
        if i in ends:
            words.append((word, True))
            end_of_fact = ends[i]
        elif i >= end_of_fact:                          # not inside a fact
            words.append((word, False))
    words.append((SEP, False))
    return words


def words_of_cloze(pair, rng) -> list:
    """(word, is_gap), as words_of_reports gives them; but of the second report there is only one
    sentence, that of a fact drawn at random, with "?" for its full stop. The fact is taken out; its
    first word stands behind the sentence, as the answer behind a question:

        [CLS] … Dora Finch has a house in Lyon . … [SEP] Dora Finch lives in now ? Lyon [SEP]

    (Lewis et al. 2019, "Unsupervised question answering by cloze translation", call a sentence with
    its answer masked a cloze question, and make a real question from it. There the mask stands in
    the place of the answer.)
    """
    start, end = rng.choice(pair.gaps)
    begin = start
    while begin > 0 and pair.second[begin - 1] != ".":          # back to where the sentence begins
        begin -= 1
    stop = pair.second.index(".", end)                          # and on to its end
    sentence = pair.second[begin:start] + pair.second[end:stop]
    words = [(word, False) for word in (CLS, *pair.first, SEP, *sentence, "?")]
    return words + [(pair.second[start], True), (SEP, False)]


# ---- the three tasks

FEW = 300       # labelled sentences and questions, if --few=0 asks for all reviews

@dataclass
class Task:
    """A task's labelled texts, its held-out texts, and what the baselines say of them."""
    name: str
    learn: Tokens
    y: torch.Tensor         # of learn: classes (N,); tags (N, T), −100 for none; places (N, 2)
    test: Tokens
    truth: list             # of test: labels; lists of tags; (start, end) in words
    baselines: dict         # {name: predictions for test}
    names: list             # of the outputs
    bayes: torch.Tensor | None = None       # of reviews: log p(class | text) of test by naive Bayes
    # of answers: pairs of reports, half of them with a cloze in place of the second
    reports: Rows | None = None

    def first(self, n: int):
        """The task with only the first n held-out texts."""
        return replace(self, test=self.test[:n], truth=self.truth[:n],
                       baselines={name: found[:n] for name, found in self.baselines.items()},
                       bayes=None if self.bayes is None else self.bayes[:n])


def make_task(name: str, cfg, tokenizer) -> Task:
    """The data of a task; cfg.seed draws its labelled texts. Raises UserError for data that cannot
    be used."""
    makers = {"sentiment": sentiment_task, "entities": entity_task, "answer": answer_task}
    return makers[name](cfg, tokenizer)


def sentiment_task(cfg, tokenizer) -> Task:
    """Texts in classes: our film reviews, or the user's own."""
    data = load_reviews(cfg.reviews, cfg.few, cfg.seed)
    texts, y = zip(*data.learn)
    test_texts, truth = zip(*data.test)
    learn_pairs = [(tokenizer.words(text), None) for text in texts]
    test_pairs = [(tokenizer.words(text), None) for text in test_texts]
    tokens = encode(learn_pairs, tokenizer, cfg.block_size)
    test_tokens = encode(test_pairs, tokenizer, cfg.block_size)

    bayes = baselines.naive_bayes_log_p(texts, y, test_texts)           # (N, classes)
    bayes_em = baselines.naive_bayes(texts, y, test_texts, data.unlabelled)
    found = {"bag of words": baselines.bag_of_words(texts, y, test_texts).tolist(),
             "naive Bayes": bayes.argmax(dim=1).tolist(),
             "naive Bayes, EM": bayes_em.tolist()}
    return Task("sentiment", tokens, torch.tensor(y), test_tokens, list(truth), found, data.names,
                bayes)


def entity_task(cfg, tokenizer) -> Task:
    """A tag for each word: which are names, and of what?"""
    learn, test = passages.load_entities(cfg.few or FEW, cfg.seed)
    learn_pairs = [(words, None) for words, _ in learn]
    tokens = encode_both_ways(learn_pairs, tokenizer, cfg.block_size)
    y = torch.full_like(tokens.idx, -100)
    for row, numbers, (_, tags) in zip(y, tokens.word_number, learn + learn):
        first = numbers > 0                                 # the first piece of each word
        row[first] = torch.tensor(tags)[numbers[first] - 1]

    n_tags = len(passages.TAGS)
    test_words = [words for words, _ in test]
    perceptron = baselines.AveragedPerceptron(learn, n_tags)
    found = {"most frequent tag": baselines.most_frequent_tag(learn, test_words, n_tags),
             "perceptron": [perceptron.tags(words) for words in test_words]}
    test_tokens = encode([(words, None) for words in test_words], tokenizer, cfg.block_size)
    truth = [tags for _, tags in test]
    return Task("entities", tokens, y, test_tokens, truth, found, passages.TAGS)


def answer_task(cfg, tokenizer) -> Task:
    """A question and a passage: which words of the passage are the answer?"""
    learn, test = passages.load_questions(cfg.few or FEW, cfg.seed)
    learn_pairs = [(q.passage, q.question) for q in learn]
    tokens = encode_both_ways(learn_pairs, tokenizer, cfg.block_size)
    y = []
    for numbers, q in zip(tokens.word_number.tolist(), learn + learn):
        require(q.end in numbers,
                f"--block_size={cfg.block_size} is too short for the passages: some lose their "
                "answer; raise it")
        y.append([numbers.index(q.start + 1), numbers.index(q.end)])

    first = [baselines.first_capitalised_span(q.passage, q.question) for q in test]
    after_name = [baselines.capitals_after_name(q.passage, q.question) for q in test]
    rule = baselines.AnswerRule(learn)
    by_rule = [rule.answer(q.passage, q.question) for q in test]
    found = {"first capitals": first, "after the name": after_name, "rule with counts": by_rule}
    test_tokens = encode([(q.passage, q.question) for q in test], tokenizer, cfg.block_size)
    truth = [(q.start, q.end) for q in test]
    reports = rows_of_reports(passages.unlabelled_reports()[:12000], tokenizer, cfg.block_size,
                              as_clozes=True)
    return Task("answer", tokens, torch.tensor(y), test_tokens, truth, found, ["first", "last"],
                reports=reports)


# ---- scores

def score(task: str, found: list, truth: list) -> float:
    """The share of texts that are right; for entities their F1."""
    if task == "entities":
        return entity_f1(found, truth)
    right = [guess == true for guess, true in zip(found, truth)]
    return sum(right) / len(right)


def entity_f1(found: list, truth: list) -> float:
    """F1 = 2 · right / (found + true), of lists of tags; an entity is right if both ends and the
    tag are right (Tjong Kim Sang & De Meulder 2003)."""
    n_right = 0
    n_all = 0
    for tags, true_tags in zip(found, truth):
        entities, true_entities = entities_of(tags), entities_of(true_tags)
        n_right += len(entities & true_entities)
        n_all += len(entities) + len(true_entities)
    return 2 * n_right / max(1, n_all)


def entities_of(tags: list) -> set:
    """{(start, end, tag)} of the runs of each tag except "other" (0)."""
    found = set()
    start = 0
    for i in range(1, len(tags) + 1):
        if i == len(tags) or tags[i] != tags[start]:        # a run ends before i
            if tags[start] != 0:
                found.add((start, i, tags[start]))
            start = i
    return found
