"""Makes bleu.json: corpora with the BLEU that sacreBLEU gives them, and texts as its tokenizer cuts them.

Made with sacrebleu 2.6.0:  python tests/reference/make_bleu.py
"""
import json
import random
from pathlib import Path

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

TEXTS = [
    "L'homme n'est pas là, mais il viendra.", "C'est vrai ?", "Non !", "Il a 3,5 ans et 1.000 amis.", "Le prix: 3.50$.",
    "« Bonjour », dit-il ; puis il partit…", "A-t-on vu grand-père aujourd'hui ?", "12-15 pages, p. 7-", "x<y & z>0",
    "AT&amp;T &quot;says&quot; &lt;b&gt;", "un [mot] {ici} (là)", "a/b\\c|d~e^f_g`h", "mail@example.org #1 100% *",
    "1,2,3... 4.", ".5 ,6 7. 8,", "deux  espaces\tet une tabulation", "fin de ligne-\nsuite\nautre", "", " ", "Œuf élève",
    "a.b.c, d,e", "..", "U.S.A. vs. U.K.", "<skipped> mot", "c'est 'ça'", "–", "5-3=2", "mot-3-mot", "x. 1", "1 . 2",
]


def noisy(words: list, rng) -> list:
    """Some words dropped, doubled, exchanged or put elsewhere."""
    out = []
    for word in words:
        chance = rng.random()
        out += [] if chance < 0.1 else [word, word] if chance < 0.15 else [rng.choice(words)] if chance < 0.3 else [word]
    if len(out) > 2 and rng.random() < 0.3:
        i = rng.randrange(len(out) - 1)
        out[i], out[i + 1] = out[i + 1], out[i]
    return out


rng = random.Random(0)
corpora = [(["Le chat dort."], ["Le chat dort."]), (["non"], ["oui"]), ([""], ["Le chat"]), (["Le chat"], ["Le chat"]),
           (["le le le le le le"], ["le chat dort"]), (["a b c d e"], ["a x c y e"]), (["a b c d"], ["d c b a"]),
           (["a b x c d e"], ["a b y c d e"]), (["Le chat ."], ["Le chat dort sur le tapis ."]),
           (["Le chat dort sur le tapis , il dort ."], ["Le chat dort ."]), (["LE CHAT DORT BIEN"], ["le chat dort bien"]),
           (["Va !", "Cours !"], ["Va !", "Cours !"]), (["Va !", "Cours vite !"], ["Va .", "Cours vite !"]), (["Oui"], ["Oui"]),
           (["a b c x", "p q r s t"], ["a b c d", "p q z s t"]), (TEXTS, TEXTS), (TEXTS, TEXTS[::-1])]
vocabulary = "le la chat chien dort mange n'a pas de pomme , . ? 3,5 grand-père l'homme aujourd'hui ( ) !".split()
for n in (1, 2, 5, 20, 60):
    for _ in range(3):
        references = [[rng.choice(vocabulary) for _ in range(rng.randint(1, 14))] for _ in range(n)]
        corpora.append(([" ".join(noisy(r, rng)) for r in references], [" ".join(r) for r in references]))
golden = {
    "sacrebleu": sacrebleu.__version__,
    "corpora": [{"outputs": a, "references": b, "bleu": sacrebleu.corpus_bleu(a, [b], use_effective_order=True).score} for a, b in corpora],
    "tokens": [{"text": text, "tokens": Tokenizer13a()(text.rstrip())} for text in TEXTS],
}
path = Path(__file__).parent / "bleu.json"
path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", "utf-8")
