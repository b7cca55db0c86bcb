"""What an expert would try first on text with few labels, without a network.

    reviews     bag of words (logistic regression); naive Bayes, with words behind a negation
                marked, and with the unlabelled texts by expectation–maximisation
    names       the most frequent tag of a word; an averaged perceptron
    answers     the first capitalised words of the passage, or the first ones after the asked name;
                a rule for passages like ours, with counts from labelled questions
"""
import random
import re
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F

# ---- texts in classes

NEGATIONS = set("not no never hardly nobody nothing none neither nor without cannot n't".split())


def words_of(text: str) -> list:
    """The words of a text in small letters, and its punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def mark_negation(words: list) -> list:
    """The words, with "not_" before each one that stands between a negation and the next
    punctuation mark: "not dull, but" becomes "not not_dull , but" (Pang, Lee & Vaithyanathan 2002,
    §5)."""
    marked = []
    negated = False
    for word in words:
        if not word[0].isalnum():
            negated = False
        marked.append("not_" + word if negated else word)
        if word in NEGATIONS:
            negated = True
    return marked


def count_words(texts: list, negation: bool):
    """([words of each text, each word once], {word: number}), the numbers in the order of the
    words' first occurrence."""
    bags = []
    numbers = {}
    for text in texts:
        words = words_of(text)
        if negation:
            words = mark_negation(words)
        bag = sorted(set(words))
        for word in bag:
            numbers.setdefault(word, len(numbers))
        bags.append(bag)
    return bags, numbers


def word_matrix(bags: list, numbers: dict):
    """A sparse matrix (N, V): 1 where a text has a word. Words without a number are left out."""
    rows = []
    columns = []
    for row, bag in enumerate(bags):
        for word in bag:
            if word in numbers:
                rows.append(row)
                columns.append(numbers[word])
    places = torch.tensor([rows, columns], dtype=torch.long).view(2, -1)
    ones = torch.ones(places.size(1))
    return torch.sparse_coo_tensor(places, ones, (len(bags), len(numbers)), check_invariants=True)


def naive_bayes(texts, labels, test_texts, unlabelled=(), **options):
    """Labels (N,) of test_texts by naive Bayes: for each the most probable class."""
    return naive_bayes_log_p(texts, labels, test_texts, unlabelled, **options).argmax(dim=1)


def naive_bayes_log_p(texts, labels, test_texts, unlabelled=(), negation: bool = True,
                      rounds: int = 10):
    """log p(class | text) (N, classes) of test_texts: a class makes each word of a text
    independently,

        p(class | text) ∝ p(class) Π p(word | class),    p(word | class) = (n + 1) / (total + V)

    where n counts the texts of the class that have the word. (The multinomial model with each word
    counted once, which suits opinions best: Pang et al. 2002, §6; Manning et al. 2008, §13.2.)

    With unlabelled texts, expectation–maximisation: each of them is given to the classes in
    proportion to p(class | text), the counts are made anew with these shares, and so on for some
    `rounds` (Nigam et al. 2000, "Text classification from labeled and unlabeled documents").
    """
    y = torch.as_tensor(labels)
    n_classes = int(y.max()) + 1
    bags, numbers = count_words([*texts, *unlabelled], negation)
    X = word_matrix(bags, numbers)                                  # (N + U, V)
    X_test = word_matrix(count_words(test_texts, negation)[0], numbers)
    labelled = F.one_hot(y, n_classes).float()                      # (N, classes)

    weights, bias = bayes_weights(word_matrix(bags[:len(y)], numbers), labelled)
    if len(unlabelled) > 0:
        X_unlabelled = word_matrix(bags[len(y):], numbers)
        for _ in range(rounds):
            shares = F.softmax(X_unlabelled @ weights + bias, dim=1)        # (U, classes)
            weights, bias = bayes_weights(X, torch.cat([labelled, shares]))
    return F.log_softmax(X_test @ weights + bias, dim=1)


def bayes_weights(X, shares):
    """log p(word | class) (V, classes) and log p(class) (classes,), for texts X (N, V) of which
    each belongs to the classes in the shares (N, classes)."""
    n = X.t() @ shares + 1                                          # (V, classes)
    log_p_word = (n / n.sum(dim=0)).log()
    log_p_class = (shares.sum(dim=0) / shares.sum()).log()
    return log_p_word, log_p_class


def bag_of_words(texts, labels, test_texts, penalty: float = 0.003):
    """Labels (N,) of test_texts by logistic regression.

    The inputs say which words and which pairs of neighbouring words a text has; only those that at
    least two training texts have count. L-BFGS minimises the mean cross-entropy plus `penalty`
    times the sum of all squared weights; it is convex, so there is one optimum.
    """
    def words_and_pairs(text):
        words = re.findall(r"\w+", text.lower())
        return {*words, *zip(words, words[1:])}

    bags = [words_and_pairs(text) for text in texts]
    counts = Counter(part for bag in bags for part in bag)
    frequent = [part for part, n in counts.items() if n > 1]
    numbers = {part: i for i, part in enumerate(frequent)}
    X = word_matrix(bags, numbers)
    X_test = word_matrix([words_and_pairs(text) for text in test_texts], numbers)

    y = torch.as_tensor(labels)
    n_classes = int(y.max()) + 1
    W = torch.zeros(len(numbers), n_classes, requires_grad=True)
    b = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(X @ W + b, y) + penalty * (W**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (X_test @ W + b).argmax(dim=1)


# ---- a tag for each word

def most_frequent_tag(sentences, test_words, n_tags: int) -> list:
    """Tags of each of test_words, lists of words: for each word its most frequent tag in
    `sentences`, pairs of (words, tags).

    For a word that is not there, it is the most frequent tag of those words that occur there only
    once, and that have a capital if it has one.
    """
    counts = defaultdict(Counter)
    for words, tags in sentences:
        for word, tag in zip(words, tags):
            counts[word][tag] += 1
    rare = {True: Counter({0: 1}), False: Counter({0: 1})}
    for word, tags in counts.items():
        if tags.total() == 1:
            rare[word[0].isupper()].update(tags)

    def best(counter):
        # of equally frequent ones the first
        return max(range(n_tags), key=lambda tag: (counter[tag], -tag))

    found = []
    for words in test_words:
        tags = []
        for word in words:
            if word in counts:
                tags.append(best(counts[word]))
            else:
                tags.append(best(rare[word[0].isupper()]))
        found.append(tags)
    return found


class AveragedPerceptron:
    """A tagger that adds up weights of what it sees around a word (Collins 2002; the averages of
    the weights over all steps of the training, §2.1 and §3.4, are what is used in the end).

    sentences: pairs of (words, tags), the tags numbers below n_tags. Tags are given from left to
    right, and each sees the two before it.
    """

    def __init__(self, sentences, n_tags: int, rounds: int = 10, seed: int = 0):
        self.n_tags = n_tags
        self.weights = defaultdict(lambda: [0.0] * n_tags)
        self.totals = defaultdict(lambda: [0.0] * n_tags)       # of weight times how long it stood
        self.step = 0
        sentences = list(sentences)
        rng = random.Random(seed)
        for _ in range(rounds):
            rng.shuffle(sentences)
            for words, tags in sentences:
                self.learn(words, tags)
        for feature, weights in self.weights.items():
            totals = self.totals[feature]
            self.weights[feature] = [w - total / self.step for w, total in zip(weights, totals)]

    @staticmethod
    def features(words: list, i: int, before: list) -> list:
        """What is seen at word i: the word, its ends and its shape, its neighbours and theirs, and
        the tags given before."""
        padded = ["<start>", "<start>", *words, "<end>", "<end>"]
        left2, left, word, right, right2 = padded[i:i + 5]
        shapes = []
        for w in (left, word, right):
            shape = re.sub("[A-Z]", "X", re.sub("[a-z]", "x", re.sub(r"\d", "9", w)))
            shapes.append(re.sub(r"(.)\1+", r"\1", shape))
        tag = before[-1] if before else "start"
        tag2 = before[-2] if len(before) > 1 else "start"
        return ["always", f"word {word}", f"small {word.lower()}", f"end {word[-3:]}",
                f"start {word[:2]}", f"shape {shapes[1]}", f"left {left}", f"right {right}",
                f"left2 {left2}", f"right2 {right2}", f"left two {left2} {left}",
                f"right two {right} {right2}", f"both {left} {right}",
                f"shapes {' '.join(shapes)}", f"tag {tag}", f"tags {tag2} {tag}",
                f"tag and right {tag} {right}", f"tag and left {tag} {left}",
                f"tag and shape {tag} {shapes[1]}", f"first {i == 0} {shapes[1]}"]

    def best(self, features: list) -> int:
        scores = [0.0] * self.n_tags
        for feature in features:
            weights = self.weights.get(feature)
            if weights:
                for tag in range(self.n_tags):
                    scores[tag] += weights[tag]
        return scores.index(max(scores))

    def learn(self, words: list, tags: list):
        """Where it is wrong, the weights of the true tag grow by one, and those of its own
        shrink."""
        given = []
        for i, true in enumerate(tags):
            features = self.features(words, i, given)
            guess = self.best(features)
            if guess != true:
                for feature in features:
                    self.weights[feature][true] += 1
                    self.weights[feature][guess] -= 1
                    self.totals[feature][true] += self.step
                    self.totals[feature][guess] -= self.step
            self.step += 1
            given.append(guess)

    def tags(self, words: list) -> list:
        given = []
        for i in range(len(words)):
            given.append(self.best(self.features(words, i, given)))
        return given


# ---- an answer in a passage

def first_capitalised_span(words: list, question: list, start: int = 0) -> tuple:
    """(start, end) of the first name or date, from `start` on, that is not in the question:
    words[start:end]. It is a run of words that have a capital or are numbers, perhaps with "of",
    "and" or "&" between them; the first word of a sentence has a capital in any case, so it does
    not count. If there is no such run, it is one word."""
    def fits(i):
        word = words[i]
        begins = i == 0 or words[i - 1] in ".?!"
        return (word[0].isupper() or word.isdecimal()) and not begins and word not in question

    places = [i for i in range(start, len(words)) if fits(i)]
    start = places[0] if places else start
    end = start + 1
    while end < len(words):
        joined = words[end] in ("of", "and", "&") and end + 1 < len(words) and fits(end + 1)
        if not joined and not fits(end):
            break
        end += 1
    return start, end


def capitals_after_name(words: list, question: list) -> tuple:
    """The same, but after the first word of the passage that is a name in the question: a
    capitalised word, which does not begin the question."""
    names = {word for word in question[1:] if word[0].isupper()}
    places = [i for i, word in enumerate(words) if word in names]
    return first_capitalised_span(words, question, places[0] if places else 0)


class AnswerRule:
    """A rule that was made for passages like ours, with counts from labelled questions.

    The asked person's sentences are the one with the name in it and those after it that begin with
    "He", "She", "His" or "Her". Of these it takes the one whose words fit those of the question
    best. The answer begins behind the two words (or the one) that stand before labelled answers
    most often, and ends before a word that stands behind labelled answers.

    learn: questions as in passages.py, with passage, question, start and end.
    """

    def __init__(self, learn: list):
        self.both = Counter()       # how often word a is told where word b is asked
        self.told = Counter()       # how often word a is told
        self.before = Counter()     # one or two words before an answer
        self.behind = set()         # words behind an answer
        for q in learn:
            [(begin, _)] = [(a, b) for a, b in sentences(q.passage) if a <= q.start < b]
            for word in lower_words(q.passage[begin:q.start]):
                self.told[word] += 1
                self.both.update((word, asked) for asked in lower_words(q.question))
            self.before[tuple(q.passage[q.start - 2:q.start])] += 1
            self.before[tuple(q.passage[q.start - 1:q.start])] += 1
            self.behind.add(q.passage[q.end])

    def answer(self, words: list, question: list) -> tuple:
        """(start, end): the answer is words[start:end]."""
        begin, end = max(self.sentences_about(words, question),
                         key=lambda span: self.fit(words[slice(*span)], question))
        start = self.place(words, begin, end, 2) or self.place(words, begin, end, 1) or end - 1
        stop = start + 1
        while stop < end and words[stop] not in self.behind:
            stop += 1
        return start, stop

    def sentences_about(self, words: list, question: list) -> list:
        """(begin, end) of the sentences about the person who is asked about."""
        name = [word for word in question[1:] if word[0].isupper()]
        spans = sentences(words)
        named = [n for n, (a, b) in enumerate(spans) if set(name) <= set(words[a:b])]
        first = named[0] if named else 0
        last = first + 1
        while last < len(spans) and words[spans[last][0]] in ("He", "She", "His", "Her"):
            last += 1
        return spans[first:last]

    def fit(self, sentence: list, question: list) -> float:
        """Σ p(asked | told) over all pairs of a told word and an asked one, by counts."""
        return sum(self.both[word, asked] / (self.told[word] + 1)
                   for word in lower_words(sentence) for asked in lower_words(question))

    def place(self, words: list, begin: int, end: int, n: int):
        """Where an answer begins most likely, by the n words before it; None if nowhere."""
        places = range(begin + n, end)
        best = max(places, key=lambda i: self.before[tuple(words[i - n:i])], default=None)
        known = best is not None and self.before[tuple(words[best - n:best])] > 0
        return best if known else None


def sentences(words: list) -> list:
    """(begin, end) of each sentence; its full stop is words[end]."""
    ends = [i for i, word in enumerate(words) if word == "."]
    return list(zip([0] + [end + 1 for end in ends], ends))


def lower_words(words: list) -> list:
    """The different words without those that have a capital, which may be names; but the first one
    counts, in small letters."""
    return sorted({word.lower() for i, word in enumerate(words) if i == 0 or word[0].islower()})
