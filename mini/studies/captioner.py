"""What mini/captioner.py gets right by the width of the beam, whether it looks where it should, and
whether it sees that a picture is unlike those that it has learnt from."""
import torch

from mini.captioner import image_vectors, where_it_looks, write
from mini.data.images.caption_scores import places, share_right, to_score
from mini.data.images.captions import load_full_captions
from mini.utils.metrics import print_tables
from mini.utils.outliers import distance_from

WIDTHS = (1, 2, 4, 8)


def evaluate(model, words) -> dict:
    """Tables, also in evaluate.json: the share of captions that are right; and for faces how much
    the word for an attribute looks at the patches that change with it (see places)."""
    cfg = model.cfg
    _, held_out = load_full_captions(cfg.data, cfg.size, n_faces=1)
    held_out = to_score(cfg, held_out)                          # as many as --n_test says
    tables = {}
    for name, part in held_out.items():
        by_width = {}
        for k in WIDTHS:
            print(f"describing {len(part.images):,} images, {name}, with a beam of {k} …",
                  flush=True)
            outputs = write(model, words, part.images, k, cfg.alpha)
            by_width[str(k)] = share_right(outputs, part)
        tables[f"{name}_right_with_a_beam_of"] = by_width

    part = held_out["held out"]
    _, maps = where_it_looks(model, words, part.images[:1])
    if part.attributes and maps is not None:
        def look(image):
            return where_it_looks(model, words, image[None])
        print("looking at faces, to see where it looks …", flush=True)
        tables.update(places(look, cfg.size, cfg.patch))

    if model.typical is not None:
        tables["said_to_be_unlike_what_it_learnt_from"] = {
            name: is_unlike(model, images).double().mean().item()
            for name, images in strange_pictures(held_out).items()}
    return print_tables(cfg, **tables)


def is_unlike(model, images):
    """(N,), True for images farther from the typical ones than any held-out image is."""
    return distance_from(model.typical, image_vectors(model, images)) > model.typical["limit"]


def strange_pictures(held_out: dict) -> dict:
    """{name: images, uint8 (N, 3, H, W)}: those of the second held-out set, which had no part in
    the limit, and others made of 100 held-out images or of nothing, which are no faces."""
    images = held_out["held out"].images[:100]
    N, C, H, W = images.shape
    rng = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (N, C, 1, 1), generator=rng, dtype=torch.uint8)
    tiles = images.unflatten(3, (4, -1)).unflatten(2, (4, -1))          # (N, C, 4, H/4, 4, W/4)
    order = torch.randperm(16, generator=rng)
    tiles = tiles.transpose(3, 4).flatten(2, 3)[:, :, order]            # (N, C, 16, H/4, W/4)
    shuffled = tiles.unflatten(2, (4, 4)).transpose(3, 4).reshape(images.shape)
    others = {name: part.images for name, part in held_out.items() if name != "held out"}
    return {**others,
            "noise": torch.randint(0, 256, images.shape, generator=rng, dtype=torch.uint8),
            "one colour": colours.expand(images.shape),
            "negatives": 255 - images,
            "upside down": images.flip(2),
            "in 16 squares, shuffled": shuffled}
