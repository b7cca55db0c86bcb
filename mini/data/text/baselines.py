"""Simple baselines on text: counting words, and looking for capitals."""
import re
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F


def bag_of_words(texts, labels, test_texts, penalty: float = 0.003):
    """Labels (N,) of test_texts by logistic regression. The inputs say which words and which pairs of neighbouring
    words a text has; only those that at least two training texts have count. L-BFGS minimises the mean
    cross-entropy plus `penalty` times the sum of all squared weights; it is convex, so there is one optimum."""
    def parts(text):
        words = re.findall(r"\w+", text.lower())
        return {*words, *zip(words, words[1:])}
    counts = Counter(part for text in texts for part in parts(text))
    number = {part: i for i, part in enumerate(part for part, n in counts.items() if n > 1)}

    def matrix(texts):
        X = torch.zeros(len(texts), len(number))
        for row, text in zip(X, texts):
            row[[number[part] for part in parts(text) if part in number]] = 1.0
        return X
    X, y = matrix(texts), torch.as_tensor(labels)
    W, b = torch.zeros(len(number), int(y.max()) + 1), torch.zeros(int(y.max()) + 1)
    W.requires_grad_(), b.requires_grad_()
    optimizer = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(X @ W + b, y) + penalty * (W**2).sum()
        value.backward()
        return value
    optimizer.step(loss)
    return (matrix(test_texts) @ W + b).argmax(dim=1)


def most_frequent_tag(sentences, test_words, n_tags: int) -> list:
    """Tags of each of test_words, lists of words: for each word its most frequent tag in `sentences`, pairs of
    (words, tags). For a word that is not there, it is the most frequent tag of those words that occur there only
    once, and that have a capital if it has one."""
    counts, rare = defaultdict(Counter), {True: Counter({0: 1}), False: Counter({0: 1})}
    for words, tags in sentences:
        for word, tag in zip(words, tags):
            counts[word][tag] += 1
    for word, tags in counts.items():
        if tags.total() == 1:
            rare[word[0].isupper()].update(tags)

    def best(counter):
        return max(range(n_tags), key=lambda tag: (counter[tag], -tag))     # of equally frequent ones the first
    return [[best(counts[word] if word in counts else rare[word[0].isupper()]) for word in words]
            for words in test_words]


def first_capitalised_span(words: list, asked: list) -> tuple:
    """(start, end) of the first run of capitalised words that are not in the question: words[start:end]."""
    start = next((i for i, word in enumerate(words) if word[0].isupper() and word not in asked), 0)
    end = start + 1
    while end < len(words) and words[end][0].isupper() and words[end] not in asked:
        end += 1
    return start, end
