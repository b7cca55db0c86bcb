"""CLIP: one network reads images, another reads text, and what belongs together gets similar vectors.

Both networks are Transformers: one cuts an image into patches and reads them like words; the other reads the
words of a caption. Each puts out a vector of length 1, u for an image and v for a caption. In a batch of B
images and their captions, all B² similarities are computed. Each image has to find its caption among the B
captions, and each caption its image:

    L = −½ [ 1/B Σᵢ log softmaxⱼ(s uᵢ·vⱼ)[i]  +  1/B Σⱼ log softmaxᵢ(s uᵢ·vⱼ)[j] ]

The scale s is learnt; it is at most 100. The caption "someone with glasses" fits many faces. If a batch holds a
caption twice, the second one is not a wrong answer, so both softmaxes leave it out. (Sharing the right answer
evenly among equal captions would not change CLIP's loss: they have equal vectors, so the sum is the same.)
After training, the networks can search images by text, and classify images by the names of the classes,
although no classifier was trained (zero-shot).

Papers: Radford et al. 2021, "Learning transferable visual models from natural language supervision";
Dosovitskiy et al. 2021, "An image is worth 16×16 words". Departures: GELU instead of its approximation
x·σ(1.702 x); whole words instead of pieces of words; equal captions are left out, as said above; the images
are not cropped at random (§2.3).

    python -m mini.clip                                         faces and captions, made on the spot
    python -m mini.clip sample --prompt="a face with red hair and glasses"      the nearest of 1,000 images
    python -m mini.clip sample --image=me.png                   the nearest captions, and the attributes
    python -m mini.clip evaluate                                by number of images, and of attributes named
    python -m mini.clip --data=captions.tsv                     your own: an image's path, a tab, its caption

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/captioner.py.
"""
import math
import random
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.captions import (FULL, Words, fits, load_captions, partial_caption,
                                       read_prompts)
from mini.data.images.faces import ATTRIBUTES, caption
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require
from mini.utils.device import autocast, pick_device
from mini.utils.images import sheet, to_float, to_size
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

PAD, BOS, EOS = Words.PAD, Words.BOS, Words.EOS


@dataclass
class Config(RunConfig):
    # data
    data: str = "faces"         # faces, or your .tsv file: on each line an image's path, a tab, its caption
    size: int = 32              # height and width of the images in pixels
    n_images: int = 20000       # number of faces to draw for training
    # model
    patch: int = 4              # height and width of a patch in pixels
    n_layer: int = 2            # blocks of each of the two Transformers
    n_head: int = 4             # attention heads in each block
    n_embd: int = 128           # C, the width of both Transformers
    n_joint: int = 64           # D, the length of the vector of an image or a caption
    # optimisation
    steps: int = 2000           # optimiser steps
    batch_size: int = 128       # B, images in a step, each with one of its captions
    lr: float = 1e-3            # AdamW's peak learning rate
    warmup: int = 100           # steps in which the learning rate rises to its peak; then it falls to 0 (half a cosine)
    weight_decay: float = 0.1   # of matrices, but not of biases, norms and s
    # run
    out_dir: str = "runs/clip"  # folder of the run
    # sampling
    prompt: str = ""            # text to search images by; | separates several ("": held-out captions)
    image: str = ""             # a picture to search captions by, instead ("": none)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "patch", "n_layer", "n_head", "n_embd", "n_joint")


PRESETS = {"gpu": dict(size=64, patch=8, n_images=100000, n_layer=8, n_head=8, n_embd=512, n_joint=256,
                       batch_size=1024, steps=10000, lr=5e-4, warmup=1000)}


# ---- the two networks
class Attention(nn.Module):
    """softmax(Q Kᵀ/√hs + mask) V in n_head heads of hs numbers each."""

    def __init__(self, cfg):
        super().__init__()
        C, self.n_head = cfg.n_embd, cfg.n_head
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x, mask):
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, -1)                # (B, T, 3C) -> (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                            # -> (3, B, nh, T, hs)
        att = q @ k.transpose(2, 3) / math.sqrt(q.size(3)) + mask       # (B, nh, T, T)
        y = (F.softmax(att, dim=-1) @ v).transpose(1, 2).reshape(B, T, C)   # (B, nh, T, hs) -> (B, T, C)
        return self.out(y)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        C = cfg.n_embd
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(C), Attention(cfg), nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        width, depth = C**-0.5, (2 * cfg.n_layer) ** -0.5               # small, since 2 n_layer branches add up
        for linear, std in ((self.attn.qkv, width), (self.attn.out, width * depth),
                            (self.mlp[0], (2 * C) ** -0.5), (self.mlp[2], width * depth)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x, mask):
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class ImageEncoder(nn.Module):
    """The vision Transformer. A convolution whose stride is as large as its kernel multiplies each patch by the
    same matrix. A learnt vector, the class token, stands before the patches. Its output is the image's vector."""

    def __init__(self, cfg, channels: int, size: int):
        super().__init__()
        C, P = cfg.n_embd, cfg.patch
        self.patches = nn.Conv2d(channels, C, P, stride=P, bias=False)
        self.token = nn.Parameter(C**-0.5 * torch.randn(C))
        self.positions = nn.Parameter(C**-0.5 * torch.randn(1 + (size // P) ** 2, C))
        self.ln_in, self.ln_out = nn.LayerNorm(C), nn.LayerNorm(C)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.project = nn.Linear(C, cfg.n_joint, bias=False)
        nn.init.normal_(self.project.weight, std=C**-0.5)

    def forward(self, images):
        """Images (B, channels, S, S) in [-1, 1] to vectors (B, D)."""
        x = self.patches(images).flatten(2).transpose(1, 2)             # (B, C, S/P, S/P) -> (B, (S/P)², C)
        x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)     # -> (B, 1 + (S/P)², C)
        x = self.ln_in(x + self.positions)
        for block in self.blocks:
            x = block(x, mask=0.0)                                      # every patch sees every other
        return self.project(self.ln_out(x[:, 0]))


class TextEncoder(nn.Module):
    """A causal Transformer: each word sees the words before it, and EOS sees all of them. The output at EOS is
    the caption's vector. PAD stands after EOS, where EOS cannot see it, so no other mask is needed."""

    def __init__(self, cfg, vocab_size: int, longest: int):
        super().__init__()
        C = cfg.n_embd
        self.words, self.positions = nn.Embedding(vocab_size, C), nn.Parameter(0.01 * torch.randn(longest, C))
        self.blocks, self.ln_out = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer)), nn.LayerNorm(C)
        self.project = nn.Linear(C, cfg.n_joint, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.project.weight, std=C**-0.5)

    def forward(self, tokens):
        """Captions (B, T), each BOS, words, EOS, PAD …, to vectors (B, D)."""
        B, T = tokens.shape
        causal = torch.full((T, T), -math.inf, device=tokens.device).triu(1)        # position t sees keys ≤ t
        x = self.words(tokens) + self.positions[:T]                     # (B, T, C)
        for block in self.blocks:
            x = block(x, causal)
        at_eos = (tokens == EOS).int().argmax(1)                        # (B,): where each caption's EOS is
        return self.project(self.ln_out(x[torch.arange(B, device=x.device), at_eos]))


class CLIP(nn.Module):
    def __init__(self, cfg, channels: int, size: int, vocab_size: int, longest: int):
        super().__init__()
        smallest = min(cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.n_joint, cfg.patch, cfg.batch_size)
        require(smallest > 0 == size % cfg.patch == cfg.n_embd % cfg.n_head,
                f"every size must be at least 1, --size={size} a multiple of --patch={cfg.patch}, and "
                f"--n_embd={cfg.n_embd} one of --n_head={cfg.n_head}")
        self.image = ImageEncoder(cfg, channels, size)
        self.text = TextEncoder(cfg, vocab_size, longest)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))             # ln s (§2.5)

    def forward(self, images, tokens):
        """Vectors u of images and v of captions, (B, D) each, of length 1."""
        return F.normalize(self.image(images), dim=1), F.normalize(self.text(tokens), dim=1)


# ---- the loss
def same_caption(tokens):
    """Bool (B, B): are captions i and j of tokens (B, T) equal, and i ≠ j?"""
    equal = (tokens[:, None] == tokens).all(2)                          # (B, 1, T) against (B, T) -> (B, B)
    return equal & ~torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)


def loss_of(u, v, log_scale, same):
    """The symmetric loss, in nats, of vectors u of images and v of their captions, (B, D) each. It is ln B if
    all vectors are alike. same (B, B): what same_caption returns."""
    logits = log_scale.exp() * u.float() @ v.float().T                  # (B, B): images by captions
    logits, own = logits.masked_fill(same, -math.inf), torch.arange(len(u), device=u.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


# ---- batches, and the learning rate as a function of the step
def draw_batch(images, tokens, B: int, generator):
    """B different images (B, C, S, S) in [-1, 1], or all if there are fewer, and for each image one of its K
    captions (B, T), out of tokens (N, K, L)."""
    i = torch.randperm(len(images), generator=generator)[:B]
    j = torch.randint(tokens.size(1), (len(i),), generator=generator)
    tokens = tokens[i.to(tokens.device), j.to(tokens.device)]
    return to_float(images[i.to(images.device)]), tokens[:, :(tokens != PAD).sum(1).max()]


def learning_rate(step: int, cfg) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / (cfg.warmup + 1)
    return cfg.lr * (1 + math.cos(math.pi * (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))) / 2


# ---- using the two networks
@torch.inference_mode()
def embed(encoder, inputs, at_once: int = 256):
    """Vectors (N, D) of length 1, on the CPU, of uint8 images (N, C, S, S) or of captions (N, T)."""
    device = next(encoder.parameters()).device
    parts = (part.to(device) for part in inputs.split(at_once))
    parts = [encoder(to_float(part) if part.ndim == 4 else part).float() for part in parts]
    return F.normalize(torch.cat(parts), dim=1).cpu()


def numbers(words, texts: list, L: int = 0):
    """Captions as token numbers (n, T), T ≤ L if L is given. Words.encode says what is refused."""
    return F.pad(words.encode_all(texts, L and L - 2), (1, 0), value=BOS)


def embed_texts(model, words, texts: list):
    return embed(model.text, numbers(words, texts, L=len(model.text.positions)))


def recall(similarity, right) -> dict:
    """{"@k": share of queries with a right answer among the k most similar ones, "chance@k": the same by
    chance}, for k = 1 and k = 5. similarity (n, m): of n queries to m answers; right (n, m): is it right?"""
    (n, m), r, row = similarity.shape, right.sum(1).double(), {}
    for k in sorted({min(k, m) for k in (1, 5)}):
        found = right.gather(1, similarity.topk(k).indices).any(1)
        none = torch.stack([(m - r - i).clamp(min=0) / (m - i) for i in range(k)]).prod(0)
        row |= {f"@{k}": found.double().mean().item(), f"chance@{k}": 1 - none.mean().item()}
    return row


def retrieval(model, words, part, n: int = 256) -> dict:
    """{direction: recall} among the first n images and the first caption of each (for faces, a full caption).
    Every true caption counts as right: for faces also that of another face with the same values, for your own
    data also one with the same words."""
    texts = [captions[0] for captions in part.captions[:n]]
    right = fits(part.allowed[:n, 0], part.labels[:n], part.attributes).T if part.attributes else \
        torch.tensor([[text == other for other in texts] for text in texts])
    similarity = embed(model.image, part.images[:n]) @ embed_texts(model, words, texts).T
    return {"image to text": recall(similarity, right), "text to image": recall(similarity.T, right.T)}


def value_vectors(model, words, name: str, n: int = 16):
    """A vector for each value of an attribute, (values, D): the mean of n prompts that name it (§3.1.4)."""
    rows = []
    for value in ATTRIBUTES[name]:
        rng = random.Random(0)
        rows.append(embed_texts(model, words, [partial_caption({name: value}, rng) for _ in range(n)]))
    return F.normalize(torch.stack(rows).mean(1), dim=1)                # (values, n, D) -> (values, D)


def zero_shot(model, words, learn, part) -> dict:
    """{attribute: {"model": share of images for which the value with the nearest prompts is right, "baseline":
    share if the most frequent value of `learn` is always predicted}}. For "all six", "model" is the share of
    images whose nearest description, among those of all combinations of values, is right; "baseline" is
    chance, 1 / the number of combinations."""
    u, rows = embed(model.image, part.images), {}
    for a, name in enumerate(ATTRIBUTES):
        true, said = part.labels[:, a], (u @ value_vectors(model, words, name).T).argmax(1)
        most = learn.labels[:, a].mode().values
        rows[name] = {"model": (said == true).double().mean().item(),
                      "baseline": (true == most).double().mean().item()}
    every = torch.cartesian_prod(*(torch.arange(len(values)) for values in ATTRIBUTES.values()))
    said = every[(u @ embed_texts(model, words, list(map(caption, every))).T).argmax(1)]
    right = (said == part.labels).all(1).double().mean().item()
    rows["all six"] = {"model": right, "baseline": 1 / len(every)}
    return rows


# ---- the run
def load_data(cfg, state):
    """(Words, the three Captioned of load_captions), each with `tokens` (N, K, L): its captions as numbers."""
    parts = load_captions(cfg.data, cfg.size, cfg.n_images)
    flat = [[text for captions in part.captions for text in captions] for part in parts]
    words = Words(state["words"]) if state else Words.of(text for texts in flat for text in texts)
    L = 2 + max(len(words.encode(text)) - 1 for texts in flat for text in texts)
    for part, texts in zip(parts, flat):
        rows = numbers(words, texts) if texts else torch.zeros(0, L, dtype=torch.long)
        rows = F.pad(rows, (0, L - rows.size(1)), value=PAD)            # (N · K, L)
        part.tokens = rows.view(len(part.images), len(parts[0].captions[0]), L)
    return words, parts


def make_model(cfg, shape, state):
    """The model, with the weights of a checkpoint if there is one. shape: channels, size, number of words, and
    the length of the longest caption, with BOS and EOS."""
    torch.manual_seed(cfg.seed)
    model = CLIP(cfg, *shape)
    if state:
        model.load_state_dict(state["model"])
    return model.to(pick_device(cfg.device))


def make_optimizer(model, cfg):
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": cfg.weight_decay},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]   # ln s, too
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98), eps=1e-6)        # table 18


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "clip", cfg.resume)
    words, (learn, held_out, unseen) = load_data(cfg, state)
    shape = learn.images.size(1), learn.images.size(2), len(words), learn.tokens.size(2)
    check_shape(state, *shape)
    model = make_model(cfg, shape, state)
    optimizer, data_rng = make_optimizer(model, cfg), torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [optimizer], data_rng)
    device = model.log_scale.device
    images, tokens = learn.images.to(device), learn.tokens.to(device)
    examples, tried = [captions[-1] for captions in held_out.captions[:6]], held_out.images     # for samples
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "clip", model, ["loss", "lr", "s", "recall"], state) as run:
        run.say(f"{len(images):,} images of {shape[1]} × {shape[1]}, {tokens.size(1)} captions each, of "
                f"{len(words)} words\na model that knows nothing has loss ln B = "
                f"{math.log(min(cfg.batch_size, len(images))):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            for group in optimizer.param_groups:
                group["lr"] = lr = learning_rate(step, cfg)
            # batch
            x, y = draw_batch(images, tokens, cfg.batch_size, data_rng)
            # loss, backward, step
            with autocast(device, cfg.matmul):
                u, v = net(x, y)
            loss = loss_of(u, v, model.log_scale, same_caption(y))
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.log_scale.clamp_(max=math.log(100))               # otherwise training can diverge (§2.5)
            # evaluate, log, sample and save, each when it is due
            done, score = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    score = retrieval(model, words, held_out)["text to image"]["@1"]
                if score is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, s=model.log_scale.exp().item(), recall=score)
                if run.due(done, cfg.sample_every):
                    found = to_float(nearest(model, words, examples, tried))
                    picture = sheet(found, min(8, len(tried)), row_names=examples)
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if score is not None or stop:
                    run.save(done, model, [optimizer], data_rng, shape=shape, words=words.state(),
                             examples=examples)
            if stop and done < cfg.steps:
                return run.leave(done)

        scores = {"n": {}, "recall": {}, "zero_shot": {}}
        for name, part in {"held out": held_out, "combinations never seen": unseen}.items():
            if len(part.images):
                scores["n"][name] = len(part.images)
                run.say(f"scoring {len(part.images):,} images, {name} …")
                scores["recall"][name] = retrieval(model, words, part)
                run.say(f"\n{name}: recall among {min(256, len(part.images))}")
                run.say(table(scores["recall"][name]))
            if part.attributes:
                scores["zero_shot"][name] = zero_shot(model, words, learn, part)
                run.say(f"{name}: {len(part.images):,} images classified by prompts "
                        "(baseline: most frequent value; of all six, chance)")
                run.say(table(scores["zero_shot"][name]))
        return run.finish(**scores)


def table(rows: dict) -> str:
    return metrics.table(rows, shares=next(iter(rows.values())))


def nearest(model, words, texts: list, images, n: int = 8):
    """For each text the n nearest images, the nearest first, out of images (N, …): (texts · n, …)."""
    similarity = embed_texts(model, words, texts) @ embed(model.image, images).T    # (texts, N)
    return images[similarity.topk(min(n, len(images))).indices.flatten()]


def load(cfg):
    """(config, model, words, data, checkpoint) of the run in out_dir; only one face is drawn for training."""
    cfg, state = own_checkpoint(cfg, "clip")
    model, words = make_model(cfg, state["shape"], state).eval(), Words(state["words"])
    return cfg, model, words, load_captions(cfg.data, cfg.size, n_faces=1), state


def sample(cfg: Config) -> str:
    """Print the captions nearest to --image, and the values of its attributes; or draw into samples/search.png
    the images nearest to --prompt, out of 1,000. Half of the faces have combinations of values never seen in
    training."""
    cfg, model, words, (learn, held_out, unseen), state = load(cfg)
    if cfg.image:
        return read(cfg, model, words, held_out)
    texts = read_prompts(cfg.prompt) if cfg.prompt else state["examples"]
    images = torch.cat([held_out.images[:500], unseen.images[:500], learn.images])[:1000]
    found = to_float(nearest(model, words, texts, images, 16 if len(texts) == 1 else 8))
    picture = sheet(found, min(8, len(images)), row_names=texts)        # one text: beside its first row
    write_png(path := f"{cfg.out_dir}/samples/search.png", picture)
    text = "\n".join([*texts, f"the nearest of {len(images):,} images, the nearest first: {path}"])
    print(text)
    return text


def read(cfg, model, words, held_out) -> str:
    """What the model says of --image: the five nearest held-out captions, and the value of each attribute."""
    image = to_size(read_image(cfg.image), held_out.images.size(2)).expand(3, -1, -1)[None]
    texts = list(dict.fromkeys(text for captions in held_out.captions for text in captions))
    u = embed(model.image, image)                                       # (1, D)
    best = (embed_texts(model, words, texts) @ u[0]).topk(min(5, len(texts)))
    lines = [f"{cosine:.3f}  {texts[i]}" for cosine, i in zip(*map(torch.Tensor.tolist, best))]
    for name, values in held_out.attributes.items():
        p = F.softmax(model.log_scale.exp().item() * value_vectors(model, words, name) @ u[0], dim=0).tolist()
        lines.append(f"{name:>12}  " + ", ".join(f"{value} {share:.0%}" for value, share in zip(values, p)))
    print("\n".join(lines))
    return "\n".join(lines)


def evaluate(cfg: Config) -> dict:
    """Recall@1 from text to image, by the number of images to choose from; and the share of the ten images
    nearest to a partial caption that fit it, by the number of attributes that it names. Also in evaluate.json."""
    cfg, model, words, (_, held_out, unseen), _ = load(cfg)
    tables = {}
    for name, part in {"held_out": held_out, "never_seen": unseen}.items():
        by_number = {n: retrieval(model, words, part, n)["text to image"]
                     for n in sorted({min(n, len(part.images)) for n in (16, 64, 256, 1024)} - {0})}
        for column in ("@1", "chance@1") if by_number else ():
            tables[f"{name}:_{column}_among"] = {str(n): row[column] for n, row in by_number.items()}
        if part.attributes:
            found, chance = partial_captions(model, words, part)
            tables |= {f"{name}:_share_of_the_nearest_10_that_fit,_by_attributes_named": found,
                       f"{name}:_the_same_by_chance": chance}
    return metrics.print_tables(cfg, **tables)


def partial_captions(model, words, part, k: int = 10) -> tuple:
    """Two tables {number of attributes named: share of images that fit}: among the k images nearest to a partial
    caption, and among all images. Only captions that at least k images fit are counted."""
    texts = [text for captions in part.captions for text in captions[FULL:]]
    allowed = part.allowed[:, FULL:].flatten(0, 1)                      # (N, PARTIAL, V) -> (N · PARTIAL, V)
    true = fits(allowed, part.labels, part.attributes)                  # (N · PARTIAL, N)
    similarity = embed_texts(model, words, texts) @ embed(model.image, part.images).T
    found = true.gather(1, similarity.topk(min(k, len(part.images))).indices).double().mean(1)
    by_chance = true.double().mean(1)
    values = allowed.split([len(values) for values in part.attributes.values()], dim=1)
    named = sum((~value.all(1)).int() for value in values)              # (N · PARTIAL,): how many attributes
    rows = {str(n): (named == n) & (true.sum(1) >= k) for n in range(1, len(values))}
    rows = {n: row for n, row in rows.items() if row.any()}
    return tuple({n: share[row].mean().item() for n, row in rows.items()} for share in (found, by_chance))


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --n_joint, --size "
                                      "or --n_images")


if __name__ == "__main__":
    main()
