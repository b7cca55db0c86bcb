"""What mini/clip.py finds: among how many images, by how much a text says; what its vectors hold;
and what it reads where two values never occurred together."""
import torch
import torch.nn.functional as F

from mini.clip import classify, embed_images, embed_texts, retrieval
from mini.data.images.captions import FULL, HELD_BACK, fits, has_pair, load_captions
from mini.data.images.faces import ATTRIBUTES
from mini.data.images.zero_shot_scores import pair_name
from mini.utils.metrics import print_tables

NUMBERS = (16, 64, 256, 1024)       # of images to choose from
NEAREST = 10
N_PROBE = 4000                      # faces that the linear classifiers learn from


def evaluate(model, words) -> dict:
    """Tables, also in evaluate.json: recall@1 from text to image, by the number of images to choose
    from; for faces also the share of the ten images nearest to a partial caption that fit it, by
    the number of attributes that it names; what linear classifiers read in the vectors; and what is
    read in faces with a held-back pair."""
    cfg = model.cfg
    train_set, held_out, unseen = load_captions(cfg.data, cfg.size, n_faces=N_PROBE)
    parts = {"held_out": held_out, "never_seen": unseen}
    tables = {}
    for name, part in parts.items():
        n_images = len(part.images)
        if n_images == 0:                                       # your own data has no such set
            continue
        print(f"searching {n_images:,} images, {name.replace('_', ' ')} …", flush=True)
        found = {}
        chance = {}
        for n in sorted({min(n, n_images) for n in NUMBERS}):
            row = retrieval(model, words, part, n)["text to image"]
            found[str(n)] = row["@1"]
            chance[str(n)] = row["chance@1"]
        tables[f"{name}:_@1_among"] = found
        tables[f"{name}:_chance@1_among"] = chance

        if part.attributes:
            found, chance = partial_captions(model, words, part)
            title = f"share_of_the_nearest_{NEAREST}_that_fit,_by_attributes_named"
            tables[f"{name}:_{title}"] = found
            tables[f"{name}:_the_same_by_chance"] = chance

    if held_out.attributes:
        tables.update(what_the_vectors_hold(model, words, train_set, held_out))
        tables.update(what_is_read(model, words, unseen))
    return print_tables(cfg, **tables)


def partial_captions(model, words, part, k: int = NEAREST) -> tuple:
    """Two tables {number of attributes named: share of images that fit}: among the k images nearest
    to a partial caption, and among all images. Only captions that at least k images fit count."""
    texts = [text for captions in part.captions for text in captions[FULL:]]
    allowed = part.allowed[:, FULL:].flatten(0, 1)              # (N, PARTIAL, V) -> (N·PARTIAL, V)
    true = fits(allowed, part.labels, part.attributes)          # (N·PARTIAL, N)
    similarity = embed_texts(model, words, texts) @ embed_images(model, part.images).T
    nearest = similarity.topk(min(k, len(part.images))).indices         # (N·PARTIAL, k)
    found = true.gather(1, nearest).double().mean(dim=1)        # (N·PARTIAL,)
    by_chance = true.double().mean(dim=1)

    # a caption names an attribute if it does not leave all its values possible
    n_values = [len(values) for values in part.attributes.values()]
    named = torch.zeros(len(texts), dtype=torch.long)
    for possible in allowed.split(n_values, dim=1):
        named += ~possible.all(dim=1)

    shares = {}
    shares_by_chance = {}
    for n in range(1, len(n_values)):
        rows = (named == n) & (true.sum(dim=1) >= k)
        if rows.any():
            shares[str(n)] = found[rows].mean().item()
            shares_by_chance[str(n)] = by_chance[rows].mean().item()
    return shares, shares_by_chance


def what_the_vectors_hold(model, words, train_set, held_out) -> dict:
    """How often a linear classifier reads each attribute of held-out faces right: one of the
    vectors of their images, and one of the vectors of captions that name all attributes."""
    vectors = {}
    for name, part in (("learn", train_set), ("test", held_out)):
        texts = [captions[0] for captions in part.captions]
        vectors[name] = {"images": embed_images(model, part.images),
                         "captions": embed_texts(model, words, texts)}
    tables = {}
    for what in ("images", "captions"):
        shares = {}
        for a, attribute in enumerate(ATTRIBUTES):
            read = linear_classifier(vectors["learn"][what], train_set.labels[:, a],
                                     vectors["test"][what])
            shares[attribute] = (read == held_out.labels[:, a]).double().mean().item()
        tables[f"read_linearly_in_the_vectors_of_{what}"] = shares
    return tables


def linear_classifier(X, y, X_test):
    """The classes (M,) that a linear function finds for vectors X_test (M, D). It has an output for
    each class, and is fitted by least squares to X (N, D) with classes y (N,): 1 for the right
    class, 0 for the others."""
    one_hot = F.one_hot(y).double()                             # (N, classes)
    X = F.pad(X.double(), (0, 1), value=1.0)                    # (N, D + 1): with a constant
    X_test = F.pad(X_test.double(), (0, 1), value=1.0)
    weights = torch.linalg.lstsq(X, one_hot).solution           # (D + 1, classes)
    return (X_test @ weights).argmax(dim=1)


def what_is_read(model, words, unseen) -> dict:
    """For each held-back pair, on the faces that have it, how often each value is read of both
    attributes, by prompts and by descriptions: {title: {value: share}}."""
    answers = classify(model, words, unseen)
    names = list(ATTRIBUTES)
    tables = {}
    for pair in HELD_BACK:
        has = has_pair(unseen.labels, pair)
        if not has.any():
            continue
        for name in pair:
            a = names.index(name)
            for way in ("prompts", "descriptions"):
                read = answers[way][has, a]
                title = f"{pair_name(pair)}:_{name}_read_by_{way}".replace(" ", "_")
                tables[title] = {value: (read == v).double().mean().item()
                                 for v, value in enumerate(ATTRIBUTES[name])}
    return tables
