"""What mini/captioner.py gets right by the width of the beam, and whether it looks where it should.
"""
from mini.captioner import where_it_looks, write
from mini.data.images.caption_scores import places, share_right, to_score
from mini.data.images.captions import load_full_captions
from mini.utils.metrics import print_tables

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
    return print_tables(cfg, **tables)
