"""Scores, and the baselines that stand beside them."""
import math
import re
from collections import Counter

import torch

from mini.utils.run import require, write_json


def bits_per_byte(nats: float, text: str) -> float:
    """A total loss in nats over a text, as bits per UTF-8 byte: comparable whatever the tokenizer."""
    return nats / math.log(2) / len(text.encode())


def bigram_loss(train, held_out, vocab_size: int, pull: float = 10.0) -> float:
    """Cross-entropy, in nats per token, of predicting each token from the one before it by counting.

        p(b|a) = (n(a,b) + pull·p(b)) / (n(a) + pull),    p(b) = (n(b) + 1) / (n + V)

    n counts in `train`, a 1-D tensor of token numbers; after a rare a, p(b) weighs as much as `pull`
    occurrences. The mean is over held_out[1:].
    """
    train, held_out = train.cpu(), held_out.cpu()           # the counts need float64, which not every GPU has
    a, b = train[:-1].long(), train[1:].long()
    p_b = (torch.bincount(b, minlength=vocab_size).double() + 1) / (len(b) + vocab_size)
    n_a = torch.bincount(a, minlength=vocab_size).double()
    pairs, n_ab = torch.unique(a * vocab_size + b, return_counts=True)      # a full V×V table might not fit
    x, y = held_out[:-1].long(), held_out[1:].long()
    place = torch.searchsorted(pairs, x * vocab_size + y).clamp(max=len(pairs) - 1)
    n_xy = torch.where(pairs[place] == x * vocab_size + y, n_ab[place], 0).double()
    return -((n_xy + pull * p_b[y]) / (n_a[x] + pull)).log().mean().item()


def longest_copied_run(sample: str, text: str) -> int:
    """The length, in characters, of the longest piece of the sample that stands word for word in the text."""
    best = start = 0
    for end in range(1, len(sample) + 1):
        while sample[start:end] not in text:  # the longest copied piece that ends here starts at `start`
            start += 1
        best = max(best, end - start)
    return best


def text_scores(total: float, tokens, held_out, vocab_size: int, parts, sample: str) -> dict:
    """What a language model's run ends with: held-out loss, its baselines, and copying.

    total: loss in nats over held_out[1:]; tokens, held_out: the two parts of the text as tensors; parts: the
    same as strings; sample: text that the model wrote. Held-out text of the same length shows what copying is
    normal.
    """
    return {"val_loss": total / (len(held_out) - 1), "bits_per_byte": bits_per_byte(total, parts[1]),
            "chance": math.log(vocab_size), "bigram": bigram_loss(tokens, held_out, vocab_size),
            "copied": longest_copied_run(sample, parts[0]),
            "copied_held_out": longest_copied_run(parts[1][:len(sample)], parts[0])}


def text_report(val_loss, bits_per_byte, chance, bigram, copied, copied_held_out) -> str:
    """The scores of `text_scores` in words, each beside its baseline."""
    return (f"held-out loss {val_loss:.4f} nats per token ({bits_per_byte:.3f} bits per byte); baselines: "
            f"counting pairs of tokens {bigram:.4f}, knowing nothing {chance:.4f}\n"
            f"longest run copied from the training text: {copied} characters in the sample above, "
            f"{copied_held_out} in as much held-out text")


def by_position(total, count) -> dict:
    """Mean loss {"0–0", "1–1", "2–3", "4–7", …: nats} after so many tokens of context, from losses in nats
    summed at each position (T,) and the number of them (T,)."""
    edges = [0, *(2**k for k in range((len(total) - 1).bit_length())), len(total)]
    return {f"{a}–{b - 1}": (total[a:b].sum() / count[a:b].sum()).item() for a, b in zip(edges, edges[1:])
            if count[a:b].sum() > 0}


def print_tables(cfg, **tables) -> dict:
    """Print the tables of `evaluate`, {title: {row: number}}, and return them; for a run of ours (and not
    somebody else's weights) write them to evaluate.json."""
    for title, rows in tables.items():
        print(title.replace("_", " "))
        for row, value in rows.items():
            print(f"{row:>12}  {value:.4g}")
    if not getattr(cfg, "init_from", ""):
        write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def frechet_distance(a, b) -> float:
    """How far apart two sets of feature vectors (N, F) and (M, F) are, each seen as one normal distribution:

        |μₐ − μ_b|² + tr(Σₐ + Σ_b − 2 (Σₐ^½ Σ_b Σₐ^½)^½)    (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

    In the features' unit squared; 0 if mean and covariance agree. It shrinks as N and M grow: compare only
    at the same sizes. Raises UserError if there are fewer than two vectors.
    """
    require(min(len(a), len(b)) > 1, "a Fréchet distance needs at least two images on both sides")
    a, b = a.double().cpu(), b.double().cpu()
    mean_a, mean_b = a.mean(0), b.mean(0)
    # With Σ = RᵀR, the trace of the root is the sum of the singular values of Rₐ R_bᵀ
    R_a = torch.linalg.qr((a - mean_a) / math.sqrt(len(a) - 1), mode="r").R
    R_b = torch.linalg.qr((b - mean_b) / math.sqrt(len(b) - 1), mode="r").R
    root = torch.linalg.svdvals(R_a @ R_b.T).sum()
    return (((mean_a - mean_b) ** 2).sum() + (R_a**2).sum() + (R_b**2).sum() - 2 * root).item()


def shares(accuracy: dict, baseline: dict) -> str:
    """Accuracies {name: share}, a line each, with the baseline's in brackets."""
    return "\n".join(f"{name:>12}  {accuracy[name]:.2%}  ({baseline[name]:.2%})" for name in accuracy)


def image_report(scores: dict) -> str:
    """The scores that a Judge (mini/classifier.py) gives to generated images, in words."""
    if not scores:
        return "no Fréchet distance: without labels, or with too few images, there is no judge"
    text = ("Fréchet distance ({features}) from held-out images, n = {frechet_n:,}: {frechet:.1f}\n"
            "beside it: training images {frechet_floor:.1f} (the floor), untrained {frechet_untrained:.0f}")
    text = text.format(**scores)
    if "accuracy" in scores:
        text += "\nread by the judge as it was asked for (in brackets: always the most frequent value)\n"
        text += shares(scores["accuracy"], scores["most_frequent"])
    return text


def finest_pattern(images) -> float:
    """The mean power of images (N, C, H, W), H and W even, in patterns that change sign at every pixel, in
    rows, columns or both: what a checkerboard is made of, and little else."""
    power = torch.fft.rfft2(images.double()).abs().square().mean((0, 1))    # (H, W/2 + 1)
    i, j = images.size(2) // 2, images.size(3) // 2
    return (2 * power[i].sum() - power[i, 0] - 2 * power[i, j] + power[:, j].sum()).item()


def variety(samples, held_out, training, n: int = 512):
    """Do generated images vary as real ones do, and are they more than copies? Returns tables for
    `print_tables`, and the first eight samples with the training image nearest to each, (16, C, H, W).

    All images are (N, C, H, W) in [-1, 1]. Distances are root mean squares over the pixels, of a range of 1.
    """
    pixels, training_pixels = samples[0].numel(), training.flatten(1) / 2
    between, nearest = {}, {}
    for name, images in (("samples", samples[:n]), ("held out", held_out[:n])):
        flat = images.flatten(1) / 2
        pairs = max(1, len(flat) * (len(flat) - 1) // 2)
        between[name] = torch.pdist(flat).sum().item() / pairs / math.sqrt(pixels)
        distance, which = torch.cdist(flat, training_pixels).min(dim=1)
        nearest[name] = distance.mean().item() / math.sqrt(pixels)
        like = which if name == "samples" else like
    tables = {"mean_distance_of_two_images": between, "mean_distance_to_the_nearest_training_image": nearest}
    if samples.size(2) % 2 == samples.size(3) % 2 == 0:
        share = finest_pattern(samples[:n]) / max(finest_pattern(held_out[:n]), 1e-30)
        tables["power_in_checkerboards,_relative"] = {"samples": share, "held out": 1.0}
    return tables, torch.cat([samples[:8], training[like[:8]]])


def table(rows: dict, shares=()) -> str:
    """{name: {column: number}} as lines: the columns named in `shares` in %, the others as they are."""
    wide, columns = max(14, *map(len, rows)), {c: max(10, len(c) + 2) for c in next(iter(rows.values()))}
    lines = [" " * wide + "".join(f"{column:>{w}}" for column, w in columns.items())]
    for name, row in rows.items():
        cells = (f"{row[column]:{w}{'.1%' if column in shares else '.4g'}}" for column, w in columns.items())
        lines.append(f"{name:>{wide}}" + "".join(cells))
    return "\n".join(lines)


def psnr(a, b, peak: float = 2.0):
    """Peak signal-to-noise ratio in dB of each image of a (N, C, H, W) from the one of b: 10 log₁₀ (peak² /
    mean squared error), float64 (N,); infinite where they are equal. peak: the range of the pixels."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * (peak**2 / error).log10()


def ssim(a, b, peak: float = 2.0):
    """Structural similarity of each image of a (N, C, H, W) and the one of b, float64 (N,), at most 1:

        (2 μₐμ_b + c₁)(2 σₐ_b + c₂) / ((μₐ² + μ_b² + c₁)(σₐ² + σ_b² + c₂))    (Wang et al. 2004, eq. 13)

    with means, variances and covariance in a window of 11 × 11 pixels, weighted by a normal distribution with
    σ = 1.5 (§III.C), at every place where it lies in the image; the mean over these places and the channels.
    c₁ = (0.01 peak)², c₂ = (0.03 peak)². Of smaller images the window is as large as they are.
    """
    def average(size):
        """(places, size): how a line of pixels is weighted in the window at each place."""
        half = (min(11, size) - 1) / 2
        d = torch.arange(size, dtype=torch.float64) - half - torch.arange(size - 2 * half)[:, None]
        weights = torch.where(d.abs() <= half, torch.exp(-d**2 / (2 * 1.5**2)), 0)
        return (weights / weights.sum(1, keepdim=True)).to(a.device)

    rows, columns, a, b = average(a.size(2)), average(a.size(3)), a.double(), b.double()
    μ_a, μ_b, aa, bb, ab = (rows @ x @ columns.T for x in (a, b, a * a, b * b, a * b))
    c_1, c_2 = (0.01 * peak)**2, (0.03 * peak)**2
    similar = ((2 * μ_a * μ_b + c_1) * (2 * (ab - μ_a * μ_b) + c_2)
               / ((μ_a**2 + μ_b**2 + c_1) * (aa - μ_a**2 + bb - μ_b**2 + c_2)))
    return similar.flatten(1).mean(1)


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


def translation_report(exact_match: dict, bleu: dict) -> str:
    """The scores in words, each beside its baselines."""
    return "\n".join(f"held-out {part}: " + "; ".join(
        f"{name} {share:.1%} exactly right, BLEU {bleu[part][name]:.1f}" for name, share in by_name.items())
        for part, by_name in exact_match.items())
