"""What mini/translator.py gets right: by the width of the beam, by the length of the sentence, and
by how new the sentence is."""
from mini.data.text.pairs import encode_pairs, load_pairs, to_score
from mini.translator import EOS, PAD, write
from mini.utils.metrics import print_tables
from mini.utils.progress import Progress

WIDTHS = (1, 2, 4, 8)


def evaluate(model, words) -> dict:
    """Tables of the share of held-out sentences whose translation is exactly right, also in
    evaluate.json. The last two are of the widest beam."""
    cfg = model.cfg
    train_pairs, held_out = load_pairs(cfg.data, cfg.n_pairs)
    held_out = to_score(cfg, held_out)                          # as many as --n_test says
    train_src, _, _ = encode_pairs(train_pairs, words, cfg.max_len)
    tables = {}
    for name, pairs in held_out.items():
        src, _, pairs = encode_pairs(pairs, words, cfg.max_len)
        by_width, right = right_by_width(model, words, src, pairs, name)
        tables[f"{name}_right_with_a_beam_of"] = by_width
        tables[f"{name}_right_of_so_many_words"] = right_by_length(src, right)
        near = differs_in_one_word(src, train_src)
        tables[f"{name}_by_newness"] = right_by_newness(near, right)
    return print_tables(cfg, **tables)


def share(right: list) -> float:
    """The share of True."""
    return sum(right) / len(right)


def right_by_width(model, words, src, pairs: list, name: str):
    """{width of the beam: share}, and for the widest whether each sentence is right."""
    by_width = {}
    for k in WIDTHS:
        print(f"translating {len(src):,} held-out {name} with a beam of {k} …", flush=True)
        outputs = write(model, words, src, k, model.cfg.alpha)
        right = [output == reference for output, (_, reference) in zip(outputs, pairs)]
        by_width[str(k)] = share(right)
    return by_width, right


def right_by_length(src, right: list, width: int = 4) -> dict:
    """{"5–8": share}: by the number of words and marks in the source, in steps of `width`."""
    lengths = ((src != PAD).sum(dim=1) - 1).tolist()            # without EOS
    by_length = {}
    for low in range(1, max(lengths) + 1, width):
        high = low + width - 1
        some = [ok for ok, length in zip(right, lengths) if low <= length <= high]
        if some:
            by_length[f"{low}–{high}"] = share(some)
    return by_length


def right_by_newness(near: list, right: list) -> dict:
    """How many sentences differ in one word from one that was learnt from, and what is right of
    them, and of all others. A model that learns by heart would get the first alone."""
    rows = {"share of sentences one word from a training sentence": share(near)}
    one_word = [ok for ok, is_near in zip(right, near) if is_near]
    others = [ok for ok, is_near in zip(right, near) if not is_near]
    if one_word:
        rows["right of these"] = share(one_word)
    if others:
        rows["right of the others"] = share(others)
    return rows


def differs_in_one_word(src, train_src) -> list:
    """For each sentence of src (N, S), whether some sentence of train_src is the same but for one
    word, in the same place: a list of N bools."""
    wanted = set()                                              # the sentences with one gap
    for words in map(without_padding, src.tolist()):
        wanted.update(with_a_gap(words))
    found = set()                                               # those that training sentences fill
    progress = Progress("training sentences looked through:", len(train_src))
    for row in train_src.tolist():
        found.update(wanted.intersection(with_a_gap(without_padding(row))))
        progress.add()
    return [not found.isdisjoint(with_a_gap(without_padding(row))) for row in src.tolist()]


def without_padding(row: list) -> tuple:
    """The numbers of a sentence's words."""
    return tuple(row[:row.index(EOS)])


def with_a_gap(words: tuple) -> list:
    """The sentence with its first, second, … word left open: of n words, n of them."""
    return [(*words[:i], None, *words[i + 1:]) for i in range(len(words))]
