"""Scores of translations: BLEU and exact match, and the word-by-word translator beside them."""
import math
import re
from collections import Counter, defaultdict


def bleu(outputs: list, references: list) -> float:
    """Corpus BLEU, in per cent, of sentences against one reference each.

        BLEU = min(1, e^(1 − r/c)) · (p₁ p₂ p₃ p₄)^¼

    pₙ is the share of the outputs' n-grams (n words in a row) that are also in the
    reference; none is counted more often than it occurs there. c and r are the numbers of
    words of all outputs and of all references: outputs that are too short are punished.
    Papineni et al. 2002, section 2.3.

    It is computed as by sacreBLEU's defaults (Post 2018): words by the tokenizer 13a, upper
    case kept, exponential smoothing. Smoothing: if no n-gram is right, pₙ and BLEU would be
    0; so instead of 0, ½ n-gram is counted the first time, ¼ the next time, …

    If no output has four words, the mean is over p₁ … pₙ for the longest n-grams that there
    are (sacreBLEU's use_effective_order); else even perfect outputs would get 0.
    """
    right = [0, 0, 0, 0]            # for n = 1 … 4: how many n-grams of the outputs are right,
    total = [0, 0, 0, 0]            # and how many there are
    c = 0                           # number of words of the outputs,
    r = 0                           # and of the references
    for output, reference in zip(outputs, references, strict=True):
        output_words = tokenize_13a(output)
        reference_words = tokenize_13a(reference)
        c += len(output_words)
        r += len(reference_words)
        for i in range(4):
            output_ngrams = count_ngrams(output_words, n=i + 1)
            reference_ngrams = count_ngrams(reference_words, n=i + 1)
            in_both = output_ngrams & reference_ngrams      # for each n-gram the smaller count
            right[i] += sum(in_both.values())
            total[i] += sum(output_ngrams.values())
    if right[0] == 0:               # no word is right
        return 0.0

    mean_log_p = 0.0
    smoothed = 1.0
    order = sum(n > 0 for n in total)       # 4, or the number of words of the longest output
    for i in range(order):
        if right[i] > 0:
            p = right[i] / total[i]
        else:
            smoothed /= 2
            p = smoothed / total[i]
        mean_log_p += math.log(p) / order
    log_brevity_penalty = min(0.0, 1 - r / c)
    return 100 * math.exp(mean_log_p + log_brevity_penalty)


def count_ngrams(words: list, n: int) -> Counter:
    """{n words in a row: how often they occur}."""
    starts = range(len(words) - n + 1)
    return Counter(tuple(words[start:start + n]) for start in starts)


def tokenize_13a(text: str) -> list:
    """The words and punctuation marks of a text, as mteval's tokenizer 13a cuts them.

    ASCII marks stand alone, except for the apostrophe, and for full stop, comma and hyphen
    inside numbers or words.
    """
    text = text.rstrip()
    text = text.replace("<skipped>", "")
    text = text.replace("-\n", "")              # a word that was broken at the end of a line
    text = text.replace("&quot;", '"')
    text = text.replace("&amp;", "&")
    text = text.replace("&lt;", "<")
    text = text.replace("&gt;", ">")
    text = f" {text} "
    text = re.sub(r"([ -&(-+/:-@\[-`{-~])", r" \1 ", text)      # all ASCII marks but ' , - .
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)           # . and , unless a digit is before
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)           # . and , unless a digit follows
    text = re.sub(r"([0-9])(-)", r"\1 \2 ", text)               # - after a digit
    return text.split()


def dice_coefficients(pairs: list) -> dict:
    """{e: {f: Dice(e, f)}}: how well words of two languages go together.

        Dice(e, f) = 2 n(e, f) / (n(e) + n(f))        Dice 1945

    pairs: sentences (words, words) that translate each other. n(e) and n(f) say in how many
    sentences a word stands, n(e, f) in how many pairs both stand. It is 1 for words that only
    stand together; words that never do are left out.
    """
    n_e = Counter()
    n_f = Counter()
    n_both = Counter()
    for sentence_e, sentence_f in pairs:
        words_e = set(sentence_e)
        words_f = set(sentence_f)
        n_e.update(words_e)
        n_f.update(words_f)
        for e in words_e:
            for f in words_f:
                n_both[e, f] += 1

    dice = defaultdict(dict)
    for (e, f), n in n_both.items():
        dice[e][f] = 2 * n / (n_e[e] + n_f[f])
    return dict(dice)


def word_by_word(pairs: list) -> dict:
    """A dictionary {word: the word of the other language that goes with it best}, by the
    dice_coefficients of pairs of sentences (words, words).

    With it one can translate word by word, without any grammar: a baseline. If two words go
    equally well with e, it is the one later in the alphabet.
    """
    best = {}
    for e, dice in dice_coefficients(pairs).items():
        best[e] = max(dice, key=lambda f: (dice[f], f))
    return best


def exact_match(outputs: list, references: list) -> float:
    """The share of sentences that equal their reference, letter by letter."""
    right = 0
    for output, reference in zip(outputs, references, strict=True):
        if output == reference:
            right += 1
    return right / len(references)


def translation_scores(outputs: dict, references: dict) -> dict:
    """{"exact_match": {set: {name: share}}, "bleu": {set: {name: per cent}}}.

    outputs: {set of sentences: {name of a translator: its sentences}}; references: {set:
    sentences}.
    """
    scores = {"exact_match": {}, "bleu": {}}
    for part, by_name in outputs.items():
        scores["exact_match"][part] = {}
        scores["bleu"][part] = {}
        for name, sentences in by_name.items():
            scores["exact_match"][part][name] = exact_match(sentences, references[part])
            scores["bleu"][part][name] = bleu(sentences, references[part])
    return scores


def translation_report(exact_match: dict, bleu: dict, n: dict) -> str:
    """The scores of `translation_scores` in words, a line for each set of sentences, of which
    n[set] were scored."""
    lines = []
    for part, by_name in exact_match.items():
        parts = []
        for name, share in by_name.items():
            parts.append(f"{name} {share:.1%} exactly right, BLEU {bleu[part][name]:.1f}")
        lines.append(f"held-out {part} (n = {n[part]:,}): " + "; ".join(parts))
    return "\n".join(lines)
