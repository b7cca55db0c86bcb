"""What mini/speech.py gets wrong by noise and by the way of writing down: the decoder, with and
without beam search; the decoder and CTC; CTC alone; beside time warping.
"""
from mini.data.speech.recordings import load_held_out, load_speech, noisy
from mini.data.speech.scores import N_WARPING, to_score, word_errors
from mini.data.speech.warping import Warping, templates_of
from mini.speech import ctc_decode, features, features_of, write
from mini.utils.metrics import print_tables

LEVELS = (20.0, 5.0)            # dB; sets at 10 and 0 dB are there already


def write_by_ctc(model, characters, recordings, at_once: int = 64) -> list:
    """Transcripts by the encoder and CTC alone."""
    texts = []
    for start in range(0, len(recordings), at_once):
        tgt = ctc_decode(model, features_of(model, recordings[start:start + at_once]))
        texts += [characters.decode(row) for row in tgt.tolist()]
    return texts


def evaluate(model, characters) -> dict:
    """Tables, also in evaluate.json: word error rates of each held-out set by way of decoding."""
    cfg = model.cfg
    held_out = load_held_out(cfg)
    if cfg.data == "sentences":
        clean = held_out["unseen voices"]
        for seed, level in enumerate(LEVELS, 3):
            held_out[f"{level:.0f} dB"] = noisy(clean, level, seed)
    held_out = to_score(cfg, held_out)

    def to_features(sound, n):
        return features(sound, n, cfg.n_mels)

    train_set, _ = load_speech(cfg.data, min(100, cfg.n_sentences), cfg.max_seconds, cfg.seed)
    warping = Warping(templates_of(train_set, to_features))
    tables = {}
    for name, part in held_out.items():
        print(f"writing down {len(part):,} recordings, {name} …", flush=True)
        row = {}
        if cfg.ctc < 1:
            for k in (1, 4):
                texts = write(model, characters, part, k, cfg.alpha)
                row[f"beam of {k}"] = word_errors(texts, part.texts)
        if 0 < cfg.ctc < 1:
            texts = write(model, characters, part, 4, cfg.alpha, cfg.ctc)
            row["beam of 4, CTC chooses"] = word_errors(texts, part.texts)
        if cfg.ctc > 0:
            texts = write_by_ctc(model, characters, part)
            row["CTC alone"] = word_errors(texts, part.texts)
        part = part.first(N_WARPING)
        print(f"time warping, on {len(part):,} of them …", flush=True)
        row["warping"] = word_errors(warping.write(part, to_features), part.texts)
        tables[f"words_wrong,_{name}"] = row
    return print_tables(cfg, **tables)
