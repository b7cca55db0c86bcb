"""Scores of translations: BLEU and exact match, and the word-by-word translator that stands beside them."""
import math
import re
from collections import Counter


def bleu(outputs: list, references: list) -> float:
    """Corpus BLEU in per cent, of sentences against one reference each (Papineni et al. 2002), as sacreBLEU
    computes it by default (Post 2018): tokenizer 13a, upper case kept, exponential smoothing.

        BLEU = min(1, e^(1 − r/c)) · (p₁ p₂ p₃ p₄)^¼        c, r: words of the outputs, of the references

    pₙ is the share of the outputs' n-grams that stand in the reference, none counted oftener than there. If
    pₙ = 0, smoothing takes ½ of an n-gram for it, the next time ¼, …
    """
    right, of, c, r = [0] * 4, [0] * 4, 0, 0
    for output, reference in zip(outputs, references, strict=True):
        output, reference = words_13a(output), words_13a(reference)
        c, r = c + len(output), r + len(reference)
        for n in range(1, 5):
            ours, theirs = (Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))
                            for words in (output, reference))
            right[n - 1] += sum((ours & theirs).values())
            of[n - 1] += sum(ours.values())
    if not right[0] or not all(of):         # nothing is right, or no output has four words
        return 0.0
    log_p, smooth = 0.0, 1.0
    for n in range(4):
        smooth = smooth if right[n] else smooth / 2
        log_p += math.log((right[n] or smooth) / of[n]) / 4
    return 100 * math.exp(log_p + min(0.0, 1 - r / c))


def words_13a(text: str) -> list:
    """Words and punctuation marks as the tokenizer 13a of mteval has them: ASCII marks stand alone, but for
    the apostrophe, and for full stop, comma and hyphen inside numbers or words."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "")
    for name, mark in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(name, mark)
    text = re.sub(r"([ -&(-+/:-@\[-`{-~])", r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def word_by_word(pairs: list) -> dict:
    """The translator that knows nothing of sentences: {word: the word of the other language that goes with
    it}, that of the largest 2 n(e, f) / (n(e) + n(f)) (Dice 1945), counted in pairs of sentences (lists)."""
    n_e, n_f, n_ef = Counter(), Counter(), Counter()
    for e, f in pairs:
        n_e.update(set(e)), n_f.update(set(f)), n_ef.update((a, b) for a in set(e) for b in set(f))
    best = {}
    for (e, f), n in n_ef.items():
        best[e] = max(best.get(e, (0, "")), (2 * n / (n_e[e] + n_f[f]), f))
    return {e: f for e, (_, f) in best.items()}


def translation_scores(outputs: dict, references: dict) -> dict:
    """{"exact_match": {set: {name: share}}, "bleu": {set: {name: per cent}}} of outputs {set: {name:
    sentences}} against references {set: sentences}."""
    def table(score):
        return {part: {name: score(lines, references[part]) for name, lines in by_name.items()}
                for part, by_name in outputs.items()}
    return {"exact_match": table(exact_match), "bleu": table(bleu)}


def exact_match(outputs: list, references: list) -> float:
    """The share of sentences that are their reference, letter by letter."""
    return sum(a == b for a, b in zip(outputs, references, strict=True)) / len(references)


def translation_report(exact_match: dict, bleu: dict, n: dict) -> str:
    """The scores in words, each beside its baselines; n: {set: how many sentences were scored}."""
    return "\n".join(f"held-out {part} (n = {n[part]:,}): " + "; ".join(
        f"{name} {share:.1%} exactly right, BLEU {bleu[part][name]:.1f}" for name, share in by_name.items())
        for part, by_name in exact_match.items())
