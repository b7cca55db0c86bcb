"""CLIP: an image and a text that belong together get vectors that point in the same direction.

One Transformer reads images: it cuts an image into patches, and reads them like words. Another one
reads texts. Each puts out a vector of length 1, u for an image and v for a text. There are no
labels, only pairs of an image and its caption. In a batch of B pairs, all B² cosines u·v are
computed. Each image has to find its caption among the B captions, and each caption its image. With
s, a scale that is learnt, the loss is in nats

    L = −1/2B · Σᵢ [ log softmaxⱼ(s uᵢ·vⱼ)[i]  +  log softmaxⱼ(s uⱼ·vᵢ)[i] ]

A model that knows nothing gives each of B answers the probability 1/B. Its loss is ln B. After
training, images can be searched by text; and they can be classified by texts that name the classes,
although no classifier was trained (zero-shot).

Shapes: B images of S × S pixels in a batch, P the side of a patch, T words in a text, C the width
of both Transformers, nh heads of size hs = C / nh, D numbers in a vector u or v.

Papers: Radford et al. 2021, "Learning transferable visual models from natural language
supervision" (CLIP), https://arxiv.org/abs/2103.00020, whose sections are named below; Dosovitskiy
et al. 2021, "An image is worth 16×16 words" (ViT), https://arxiv.org/abs/2010.11929; for a switch,
Yuksekgonul et al. 2023, "When and why vision-language models behave like bags-of-words, and what to
do about it" (NegCLIP), https://arxiv.org/abs/2210.01936. Our departures: if a batch holds the same
caption twice, neither is a wrong answer for the image of the other (see same_caption); the text
encoder waits for some steps before it learns (--text_wait; 0 as in the paper); Muon trains the
weight matrices of the blocks (--optimizer=adamw: AdamW trains all, as in the paper); GELU, not
the approximation x·σ(1.702 x) of the published code; whole words, not pieces of words; images in
[−1, 1], not cropped at random (§2.3); the initial weights of the text Transformer in both; sizes,
batch, rates and weight decay are our own, for much smaller networks.

What is learnt from, with --data=faces: drawn faces, and eight captions of each. The first one names
all six attributes; the others name all or some of them, in various words, such as

    curly red hair, square glasses, dark skin: a serious person in front of something green
    a serious person with dark skin and curly red hair wearing glasses

    python -m mini.clip                                 faces and captions, made on the spot
    python -m mini.clip sample --prompt="a face with red hair and glasses"      the nearest images
    python -m mini.clip sample --image=me.png           the nearest captions, and the attributes
    python -m mini.clip sample --image=me.png --prompt="a smile|an open mouth"  which fits better
    python -m mini.clip evaluate                        by number of images, of attributes named, …
    python -m mini.clip --data=captions.tsv             your own: an image's path, a tab, a caption

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/captioner.py.
"""
import math
import random
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# images with captions and their words, the command line, devices, scores, pictures, the folder of a
# run: this file can be followed without reading them
from mini.data.images.captions import (Words, encode_captions, fits, hard_negatives, load_captions,
                                       partial_caption, read_prompts, split)
from mini.data.images.faces import ATTRIBUTES, caption
from mini.data.images.zero_shot_scores import zero_shot_report, zero_shot_scores
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import sheet, to_float, to_size
from mini.utils.metrics import table
from mini.utils.optim import Muon
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, own_checkpoint, restore

PAD = Words.PAD             # 0, fills up short captions, so that a batch is a rectangle
BOS = Words.BOS             # 1, begins a caption
EOS = Words.EOS             # 2, ends a caption

# ---- attention

def attention(q, k, v, mask):
    """softmax(q kᵀ / √hs) v: for each query a mean of the values, weighted by how well their keys
    fit the query.

    q, k, v: (B, nh, T, hs); mask: (T, T), True where a query (row) may look at a key (column), or
    None, if it may look at all of them. Returns (B, nh, T, hs).
    """
    hs = q.size(-1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)            # (B, nh, T, hs) -> (B, nh, T, T)
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, -math.inf)     # e^−∞ = 0: no weight
    weights = F.softmax(scores, dim=-1)                         # each row sums to 1
    return weights @ v                                          # (B, nh, T, T) -> (B, nh, T, hs)


def causal_mask(T: int, device=None):
    """(T, T): True on the diagonal and below it. A word looks at itself and at earlier words."""
    mask = torch.ones(T, T, dtype=torch.bool, device=device)
    return mask.tril()


class SelfAttention(nn.Module):
    """Attention in n_head heads, each with queries, keys and values of its own.

    cfg is the Config below; n_embd is C.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.qkv = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)        # q, k and v in one product
        self.out = nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x, mask):                                 # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        hs = C // self.n_head

        q, k, v = self.qkv(x).split(C, dim=-1)                  # (B, T, 3C) -> 3 × (B, T, C)
        q = q.view(B, T, self.n_head, hs).transpose(1, 2)       # (B, T, C) -> (B, nh, T, hs)
        k = k.view(B, T, self.n_head, hs).transpose(1, 2)
        v = v.view(B, T, self.n_head, hs).transpose(1, 2)

        y = attention(q, k, v, mask)                            # (B, nh, T, hs)
        y = y.transpose(1, 2).flatten(2)                        # -> (B, T, nh, hs) -> (B, T, C)
        return self.out(y)


# ---- blocks, the same in both Transformers

Norm = nn.LayerNorm


class MLP(nn.Module):
    """Two linear layers with GELU between them, applied to each position by itself."""

    def __init__(self, cfg):
        super().__init__()
        self.fc_1 = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.fc_2 = nn.Linear(4 * cfg.n_embd, cfg.n_embd)

    def forward(self, x):
        x = self.fc_1(x)                                        # (B, T, C) -> (B, T, 4C)
        x = F.gelu(x)
        return self.fc_2(x)                                     # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then an MLP, each with a residual connection around it: x + f(norm(x))."""

    def __init__(self, cfg):
        super().__init__()
        self.ln_1 = Norm(cfg.n_embd)
        self.attn = SelfAttention(cfg)
        self.ln_2 = Norm(cfg.n_embd)
        self.mlp = MLP(cfg)
        self.init_weights(cfg)

    def init_weights(self, cfg):
        """Matrices are drawn as those of the text Transformer in the published code, biases are 0.

        2 n_layer branches add up in x, and so do their variances. So the last matrix of each branch
        is drawn smaller, by 1/√(2 n_layer): x then is about as large for any n_layer.
        """
        width = cfg.n_embd**-0.5
        depth = (2 * cfg.n_layer) ** -0.5
        nn.init.normal_(self.attn.qkv.weight, std=width)
        nn.init.normal_(self.attn.out.weight, std=width * depth)
        nn.init.normal_(self.mlp.fc_1.weight, std=(2 * cfg.n_embd) ** -0.5)
        nn.init.normal_(self.mlp.fc_2.weight, std=width * depth)
        for linear in (self.attn.qkv, self.attn.out, self.mlp.fc_1, self.mlp.fc_2):
            nn.init.zeros_(linear.bias)

    def forward(self, x, mask):                                 # (B, T, C) -> (B, T, C)
        x = x + self.attn(self.ln_1(x), mask)
        x = x + self.mlp(self.ln_2(x))
        return x


# ---- the two encoders

class ImageEncoder(nn.Module):
    """The vision Transformer: each patch is a word, and all patches see each other.

    Any network from (B, 3, S, S) to (B, D) can take its place; the paper tries ResNets, too.
    """

    def __init__(self, cfg):
        super().__init__()
        C = cfg.n_embd
        n_patches = (cfg.size // cfg.patch) ** 2
        # a convolution whose stride is as large as its kernel multiplies each patch by one matrix
        self.patch_embed = nn.Conv2d(3, C, kernel_size=cfg.patch, stride=cfg.patch, bias=False)
        self.class_token = nn.Parameter(C**-0.5 * torch.randn(C))
        self.positions = nn.Parameter(C**-0.5 * torch.randn(1 + n_patches, C))
        self.ln_pre = Norm(C)
        self.ln_post = Norm(C)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.projection = nn.Linear(C, cfg.n_joint, bias=False)
        nn.init.normal_(self.projection.weight, std=C**-0.5)

    def forward(self, images):
        """Images (B, 3, S, S) in [-1, 1] to vectors (B, D)."""
        x = self.patch_embed(images)                            # -> (B, C, S/P, S/P)
        x = x.flatten(2).transpose(1, 2)                        # -> (B, (S/P)², C)
        # one more vector, the class token: what is read there stands for the whole image
        class_token = self.class_token.expand(len(x), 1, -1)    # (C,) -> (B, 1, C)
        x = torch.cat([class_token, x], dim=1)                  # -> (B, 1 + (S/P)², C)
        x = self.ln_pre(x + self.positions)
        for block in self.blocks:
            x = block(x, mask=None)
        x = self.ln_post(x[:, 0])                               # the class token: (B, C)
        return self.projection(x)                               # (B, C) -> (B, D); W_i in figure 3


class TextEncoder(nn.Module):
    """A causal Transformer: each word sees the words before it, and EOS sees all of them, so the
    vector at EOS stands for the whole text.

    PAD stands behind EOS, where EOS cannot see it: no other mask is needed.
    """

    def __init__(self, cfg, vocab_size: int, max_len: int):
        super().__init__()
        C = cfg.n_embd
        self.token_embedding = nn.Embedding(vocab_size, C)
        self.positions = nn.Parameter(0.01 * torch.randn(max_len, C))
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.ln_final = Norm(C)
        self.projection = nn.Linear(C, cfg.n_joint, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=C**-0.5)

    def forward(self, tokens):
        """Texts (B, T), each BOS, words, EOS, PAD …, to vectors (B, D)."""
        B, T = tokens.shape
        mask = causal_mask(T, tokens.device)
        x = self.token_embedding(tokens) + self.positions[:T]   # (B, T, C) + (T, C)
        for block in self.blocks:
            x = block(x, mask)
        eos = (tokens == EOS).int().argmax(dim=1)               # (B,): where each text's EOS is
        x = x[torch.arange(B, device=x.device), eos]            # (B, T, C) -> (B, C)
        x = self.ln_final(x)
        return self.projection(x)                               # (B, C) -> (B, D); W_t in figure 3


class CLIP(nn.Module):
    """Both encoders, and the scale s. vocab_size: how many words there are; max_len: how many of
    them, with BOS and EOS, the longest text has."""

    def __init__(self, cfg, vocab_size: int, max_len: int):
        super().__init__()
        self.cfg = cfg
        self.max_len = max_len
        self.image_encoder = ImageEncoder(cfg)
        self.text_encoder = TextEncoder(cfg, vocab_size, max_len)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))       # ln s (§2.5)

    def encode_image(self, images):
        """Vectors u (B, D), of length 1, of images (B, 3, S, S) in [-1, 1]."""
        return F.normalize(self.image_encoder(images), dim=1)

    def encode_text(self, tokens):
        """Vectors v (B, D), of length 1, of texts (B, T)."""
        return F.normalize(self.text_encoder(tokens), dim=1)

    def forward(self, images, tokens):
        """Vectors of images and of texts, of which clip_loss makes the logits (figure 3)."""
        return self.encode_image(images), self.encode_text(tokens)

    @property
    def device(self):
        return self.logit_scale.device


# ---- batches and the loss

def get_batch(images, captions, batch_size: int, generator, negatives=None):
    """B images (B, 3, S, S) in [-1, 1], and one caption of each (B, T).

    images: (N, 3, S, S), of which B different ones are drawn (all of them, if N < B). captions:
    (N, K, L), K captions of each image, of up to L words; one of the K is drawn.

    negatives: (N, K, L), the same captions with one value changed to another ("black hair" for "red
    hair"), so that they are not true. With them there are 2B texts: first the B captions, then for
    each of these its negative.
    """
    i = torch.randperm(len(images), generator=generator)[:batch_size]
    k = torch.randint(captions.size(1), (len(i),), generator=generator)
    images = to_float(images[i.to(images.device)])
    i = i.to(captions.device)
    k = k.to(captions.device)
    texts = captions[i, k]                                      # (B, L)
    if negatives is not None:
        texts = torch.cat([texts, negatives[i, k]])             # (2B, L)
    longest = (texts != PAD).sum(dim=1).max()
    return images, texts[:, :longest]


def clip_loss(image_features, text_features, logit_scale, false_negatives=None):
    """The loss above, in nats, of vectors (B, D) of images and (B, D) of their captions, all of
    length 1; logit_scale is ln s. (§2.3; figure 3)

    Behind the captions, text_features may hold texts that belong to no image: (B + H, D). They are
    H more wrong answers for each image, and have no image to find. false_negatives: (B, B + H),
    True where a text is no wrong answer for an image (see same_caption); None: the paper's loss.
    """
    B = len(image_features)
    image_features = image_features.float()                     # they may come in bfloat16
    text_features = text_features.float()
    logits = logit_scale.exp() * image_features @ text_features.T       # s uᵢ·vⱼ: (B, B + H)
    if false_negatives is not None:
        logits = logits.masked_fill(false_negatives, -math.inf)         # e^−∞ = 0: left out
    own = torch.arange(B, device=logits.device)                 # text i belongs to image i
    image_loss = F.cross_entropy(logits, own)                   # each image finds its caption
    text_loss = F.cross_entropy(logits[:, :B].T, own)           # each caption finds its image
    return (image_loss + text_loss) / 2


def same_caption(texts, B: int):
    """(B, B + H): True where text j is the caption of image i once more, but not its own (i ≠ j).

    "Someone with glasses" fits many faces. Twice in a batch, it would be a false negative: the
    right words, counted as wrong. The paper lets this pass. With our few words it happens often,
    and so such pairs are left out of both softmaxes: equal captions are equal in both directions.
    Captions that are true of an image in other words stay wrong answers, as in the paper.
    """
    captions = texts[:B]
    same = (captions[:, None] == texts).all(dim=2)              # (B, 1, T) == (B + H, T)
    itself = torch.eye(B, len(texts), dtype=torch.bool, device=texts.device)
    return same & ~itself


MAX_LOGIT_SCALE = math.log(100)     # larger scales made training unstable (§2.5)


# ---- retrieval: what is nearest?

@torch.inference_mode()
def embed_images(model, images, at_once: int = 256):
    """Vectors (N, D), on the CPU, of uint8 images (N, 3, S, S)."""
    was_training = model.training
    model.eval()
    features = []
    for part in images.split(at_once):
        part = to_float(part.to(model.device))
        features.append(model.encode_image(part).float().cpu())
    model.train(was_training)
    return torch.cat(features)


@torch.inference_mode()
def embed_texts(model, words, texts: list, at_once: int = 256):
    """Vectors (n, D), on the CPU, of n texts. Words.encode says what texts are refused."""
    was_training = model.training
    model.eval()
    tokens = encode_captions([texts], words, model.max_len - 2)[0]      # (n, T)
    features = []
    for part in tokens.split(at_once):
        features.append(model.encode_text(part.to(model.device)).float().cpu())
    model.train(was_training)
    return torch.cat(features)


def nearest(model, words, texts: list, images, n: int = 8):
    """For each text the n nearest images, the nearest first, out of images (N, …): (texts · n, …).
    """
    similarity = embed_texts(model, words, texts) @ embed_images(model, images).T   # (texts, N)
    best = similarity.topk(min(n, len(images))).indices                 # (texts, n)
    return images[best.flatten()]


def recall(similarity, right) -> dict:
    """{"@k": share of queries with a right answer among the k nearest, "chance@k": the same if the
    k are drawn by lot}, for k = 1 and 5. similarity: (n, m), of n queries to m answers; right:
    (n, m), True where an answer is right."""
    n, m = similarity.shape
    n_right = right.sum(dim=1).double()                         # (n,): several captions may fit
    row = {}
    for k in sorted({min(k, m) for k in (1, 5)}):
        best = similarity.topk(k).indices                       # (n, k)
        found = right.gather(1, best).any(dim=1)
        none_right = torch.ones(n, dtype=torch.double)          # p that no one of k drawn is right
        for drawn in range(k):
            none_right *= (m - n_right - drawn).clamp(min=0) / (m - drawn)
        row[f"@{k}"] = found.double().mean().item()
        row[f"chance@{k}"] = 1 - none_right.mean().item()
    return row


def retrieval(model, words, part, n: int = 256) -> dict:
    """{direction: recall} among the first n images and the first caption of each, which for faces
    names all attributes.

    A caption of another image may be true of this one, too. For faces it is known which are, and
    all of these are right answers. For your own data, a caption is a right answer if it is equal to
    the image's own.
    """
    texts = [captions[0] for captions in part.captions[:n]]
    if part.attributes:
        right = fits(part.allowed[:n, 0], part.labels[:n], part.attributes).T
    else:
        right = torch.tensor([[text == other for other in texts] for text in texts])
    similarity = embed_images(model, part.images[:n]) @ embed_texts(model, words, texts).T
    return {"image to text": recall(similarity, right),
            "text to image": recall(similarity.T, right.T)}


# ---- zero-shot classification: which text fits best?

def prompt_features(model, words, name: str, n: int = 16):
    """A vector for each value of an attribute, (values, D), made of texts that name this value and
    nothing else. It is the mean of n prompts in different words (§3.1.4)."""
    means = []
    for value in ATTRIBUTES[name]:
        rng = random.Random(0)                                  # the same wordings for each value
        prompts = [partial_caption({name: value}, rng) for _ in range(n)]
        means.append(embed_texts(model, words, prompts).mean(dim=0))
    return F.normalize(torch.stack(means), dim=1)


def classify_by_prompts(model, words, image_features):
    """For each of N images and A attributes the value whose prompts are nearest: (N, A)."""
    columns = []
    for name in ATTRIBUTES:
        similarity = image_features @ prompt_features(model, words, name).T     # (N, values)
        columns.append(similarity.argmax(dim=1))
    return torch.stack(columns, dim=1)


# ---- pairs of values that never occur together

# Two pairs of values, such as red hair and round glasses, never occur together in training. Which
# value does the model read in a new face that has both?
#
# The loss does not decide it. In training, "round glasses" never belongs to a red-haired face, and
# the loss pushes the two apart. A model can do that because it sees square glasses or none in these
# faces; or, at least in part, because it takes red hair as a sign that speaks against the prompt.
# Both lower the loss of the faces of training, but only the first is right about new ones. Which of
# them is learnt depends on the networks, the optimiser and the seed. The scores show it for each
# pair, on faces that have it.

def all_descriptions():
    """(combinations, texts): all labels (M, A) that a face can have, and a full caption of each."""
    numbers = [torch.arange(len(values)) for values in ATTRIBUTES.values()]
    combinations = torch.cartesian_prod(*numbers)
    return combinations, [caption(labels) for labels in combinations]


def classify_by_descriptions(similarity, combinations, labels):
    """Does the model tell two descriptions apart that differ in one value? For each of N images and
    A attributes the value whose description is nearest: (N, A).

    The other values of the description are the true ones, labels (N, A): so this is no way to
    classify an unknown face, as it has to be told five attributes to read the sixth. similarity:
    (N, M), of the images to the full captions of all combinations (M, A).
    """
    differs = combinations != labels[:, None]                   # (M, A), (N, 1, A) -> (N, M, A)
    columns = []
    for a in range(labels.size(1)):
        others_differ = differs.sum(dim=2) - differs[:, :, a].int()     # (N, M): in how many values
        best = similarity.masked_fill(others_differ > 0, -math.inf).argmax(dim=1)
        columns.append(combinations[best, a])
    return torch.stack(columns, dim=1)


def classify(model, words, part) -> dict:
    """{way to classify: (N, A), the values that the N faces of `part` seem to have}."""
    image_features = embed_images(model, part.images)
    combinations, texts = all_descriptions()
    similarity = image_features @ embed_texts(model, words, texts).T            # (N, M)
    return {"prompts": classify_by_prompts(model, words, image_features),
            "descriptions": classify_by_descriptions(similarity, combinations, part.labels),
            "nearest description": combinations[similarity.argmax(dim=1)]}


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), eval_every 200, sample_every
    500, log_every 50, seed 1, device auto, matmul medium (how exact products are), compile false,
    resume false, stop_after 0 (leave after so many steps, as if interrupted)."""
    # data
    data: str = "faces"         # faces, or your .tsv file: an image's path, a tab, its caption
    size: int = 32              # S, height and width of the images in pixels
    n_images: int = 20000       # faces to draw to learn from
    # add to the texts of a batch its captions with one value changed: for faces only. (NegCLIP
    # exchanges words within a caption.) In a short trial held-out recall was lower
    hard_negatives: bool = False

    # model
    patch: int = 4              # P, height and width of a patch in pixels
    n_layer: int = 2            # blocks of each of the two Transformers
    n_head: int = 4             # attention heads in each block
    n_embd: int = 128           # C, the width of both Transformers
    n_joint: int = 64           # D, the length of the vector of an image or a text

    # optimisation
    steps: int = 1500           # optimiser steps
    batch_size: int = 128       # B, images in a step, each with one of its captions
    # Muon for the weight matrices of the blocks and AdamW for the rest, or AdamW for all, as in the
    # paper
    optimizer: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02       # Muon's peak learning rate
    lr: float = 1e-3            # AdamW's peak learning rate
    warmup: int = 100           # steps in which the learning rates rise; then they fall to 0
    # steps in which the image encoder learns alone, at most a quarter of --steps (so that the text
    # encoder learns in short runs, too): see train
    text_wait: int = 300
    weight_decay: float = 0.1   # of matrices and embeddings that AdamW trains

    # run
    out_dir: str = "runs/clip"  # folder of the run

    # sampling
    # text to search images by, or, with --image, texts to compare; | separates several ("":
    # held-out ones)
    prompt: str = ""
    image: str = ""             # a picture to search captions by ("": none)

    # Not a setting (it has no type): the names of those that a resumed run must keep, since its
    # weights depend on them.
    fixed = ("size", "n_images", "hard_negatives", "patch", "n_layer", "n_head", "n_embd",
             "n_joint")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # larger faces, wider and deeper networks, and a batch with more wrong answers, for one GPU; the
    # optimiser is the paper's (not tried by us)
    "gpu": dict(size=64, patch=8, n_images=100000, n_layer=8, n_head=8, n_embd=512, n_joint=256,
                batch_size=1024, steps=10000, optimizer="adamw", lr=5e-4, warmup=1000,
                text_wait=1000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "size", "n_images", "patch", "n_layer", "n_head", "n_embd", "n_joint")
    require_positive(cfg, "batch_size", "lr", "muon_lr")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(cfg.size % cfg.patch == 0,
            f"--size={cfg.size} must be a multiple of --patch={cfg.patch}")
    require(cfg.data == "faces" or not cfg.hard_negatives,
            "--hard_negatives needs captions whose values are known: those of --data=faces")


# ---- optimisers and the learning rate

def make_optimizers(model, cfg) -> list:
    """[Muon for the weight matrices of the blocks, AdamW for the rest], or [AdamW for all].

    Muon averages the gradients of a matrix, as momentum does, and makes all singular values of this
    average equal (U S Vᵀ -> U Vᵀ), so that a few strong directions, such as the colours of hair and
    background, do not drown the others; see mini/utils/optim.py. What has no gradient, as the text
    encoder while it waits, is left as it is by both.

    In an encoder of your own, Muon trains the matrices in `blocks`, and AdamW all others.
    """
    if cfg.optimizer == "adamw":
        return [make_adamw(list(model.parameters()), cfg)]

    qkv = []
    matrices = []
    rest = []
    for name, p in model.named_parameters():
        if name.endswith("qkv.weight"):
            qkv.append(p)
        elif ".blocks." in name and p.ndim >= 2:
            matrices.append(p)
        else:
            rest.append(p)

    groups = [{"params": matrices},
              {"params": qkv, "n_matrices": 3}]         # q, k and v in one: Muon takes them apart
    return [Muon(groups, cfg.muon_lr), make_adamw(rest, cfg)]


def make_adamw(parameters: list, cfg):
    """AdamW (Loshchilov & Hutter 2019); what has one dimension or none, such as biases, norms and
    ln s, does not decay (§2.5; table 18)."""
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98), eps=1e-6)


def lr_factor(step: int, cfg) -> float:
    """The learning rates at step 0, 1, … as a fraction of their peaks: it rises in a line to 1, and
    falls along half a cosine to 0."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)     # 0 -> 1
    return (1 + math.cos(math.pi * progress)) / 2


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "clip", wanted=cfg.resume)
    device = pick_device(cfg.device)

    # images with captions, and, if they are wanted, captions that are wrong in one value
    train_set, held_out, unseen = load_captions(cfg.data, cfg.size, cfg.n_images)
    negative_texts = hard_negatives(train_set) if cfg.hard_negatives else []
    examples = [captions[-1] for captions in held_out.captions[:6]]     # to search images by

    # the model and its words: resumed, or new
    if cfg.resume:
        model, words = from_checkpoint(checkpoint, cfg)
    else:
        parts = [train_set.captions, held_out.captions, unseen.captions, negative_texts]
        words, max_len = make_words(parts)
        torch.manual_seed(cfg.seed)                             # for the initial weights
        model = CLIP(cfg, len(words), max_len)
    model = model.to(device)

    # images (N, 3, S, S), and K captions of each as numbers: (N, K, L)
    images = train_set.images.to(device)
    tokens = encode_captions(train_set.captions + negative_texts, words, model.max_len - 2)
    captions = tokens[:len(images)].to(device)
    negatives = tokens[len(images):].to(device) if cfg.hard_negatives else None

    # optimisers; net is the model as training calls it: as it is, or compiled
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches
    if cfg.resume:                                              # its averages, all random states
        restore(checkpoint, optimizers, data_rng)
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    with Run(cfg, "clip", model, ["loss", "lr", "scale", "recall"], checkpoint) as run:
        B = min(cfg.batch_size, len(images))
        run.say(f"{len(images):,} images to learn from, with {captions.size(1)} captions each, of "
                f"{len(words)} words")
        run.say(f"a model that knows nothing has a loss of about ln B = ln {B} = {math.log(B):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rates
            factor = lr_factor(step, cfg)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = factor * optimizer.defaults["lr"]     # its peak

            # At first the image encoder learns alone. The vectors of texts, made by random weights,
            # depend on all words, but those of images on little more than colours. We think that if
            # both learnt, the text encoder would soon drop the words for what the other does not
            # see yet, such as the mouth; then neither would have a reason to learn it.
            waits = step < min(cfg.text_wait, cfg.steps // 4)
            model.text_encoder.requires_grad_(not waits)

            # batch
            x, texts = get_batch(images, captions, cfg.batch_size, data_rng, negatives)

            # loss and backward; products are in bfloat16, if that is faster on this device, while
            # the weights stay in float32
            with autocast(device, cfg.matmul):
                image_features, text_features = net(x, texts)
            loss = clip_loss(image_features, text_features, model.logit_scale,
                             same_caption(texts, len(x)))
            run.check_finite(step, loss=loss.item())            # NaN stops here, weights still good
            loss.backward()

            # step
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                found = None
                if run.due(done, cfg.eval_every):               # also after the last step
                    found = retrieval(model, words, held_out)["text to image"]["@1"]

                if found is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr,
                            scale=model.logit_scale.exp().item(), recall=found)

                if run.due(done, cfg.sample_every):
                    picture = draw_nearest(model, words, examples, held_out.images)
                    write_png(run.folder / f"samples/step_{done:06d}.png", picture)

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if found is not None or stopping:
                    # checkpoint.pt: settings, weights, optimiser, random states, words, examples
                    run.save(done, model, optimizers, data_rng, words=words.state(),
                             sizes={"max_len": model.max_len}, examples=examples)

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, each beside its baseline
        run.say(f"scoring {len(held_out.images) + len(unseen.images):,} images …")
        scores = score(model, words, train_set, held_out, unseen)
        run.say(report(scores))
        return run.finish(**scores)                             # result.json


def make_words(parts: list):
    """(words, max_len): all words of the captions in some parts of the data, each N lists of K
    strings; and how many words the longest one has, with BOS and EOS."""
    texts = [text for part in parts for captions in part for text in captions]
    return Words.of(texts), 2 + max(len(split(text)) for text in texts)


# ---- using what was trained

def from_checkpoint(checkpoint: dict, cfg):
    """(model, words) of a checkpoint."""
    words = Words(checkpoint["words"])
    model = CLIP(cfg, len(words), checkpoint["sizes"]["max_len"])
    model.load_state_dict(checkpoint["model"])
    return model, words


def load(cfg):
    """(model, words, checkpoint) of the run in --out_dir; model.cfg has that run's settings."""
    cfg, checkpoint = own_checkpoint(cfg, "clip")
    model, words = from_checkpoint(checkpoint, cfg)
    return model.to(pick_device(cfg.device)), words, checkpoint


def score(model, words, train_set, held_out, unseen) -> dict:
    """Recall of each held-out set; of faces also how well their values are read, in all of them and
    by held-back pair. All faces of `unseen` have one."""
    parts = {"held out": held_out}
    if len(unseen.images) > 0:                                  # your own data has no such set
        parts["combinations never seen"] = unseen
    scores = {"n": {name: len(part.images) for name, part in parts.items()},
              "recall": {name: retrieval(model, words, part) for name, part in parts.items()},
              "zero_shot": {},
              "held_back": {}}
    if held_out.attributes:
        answers = {name: classify(model, words, part) for name, part in parts.items()}
        scores.update(zero_shot_scores(answers, parts, train_set.labels))
    return scores


def report(scores: dict) -> str:
    """The scores as tables."""
    text = ""
    for name, rows in scores["recall"].items():
        text += f"\n{name}: recall among {min(256, scores['n'][name])}\n"
        text += table(rows, shares=rows["image to text"]) + "\n"
    return text + zero_shot_report(scores)


def draw_nearest(model, words, texts: list, images, n: int = 8):
    """A picture with a row for each text, which stands beside it: the n nearest images, the nearest
    first. Of a single text, each row has 8 of them."""
    found = nearest(model, words, texts, images, n)
    return sheet(to_float(found), min(8, len(images)), row_names=texts)


def sample(cfg: Config) -> str:
    """Draw the images nearest to --prompt, out of 1,000; or print what fits --image best: of all
    held-out captions, or of the texts of --prompt."""
    model, words, checkpoint = load(cfg)
    cfg = model.cfg
    if cfg.image and cfg.prompt:
        return compare_texts(model, words, read_prompts(cfg.prompt))
    train_set, held_out, unseen = load_captions(cfg.data, cfg.size, n_faces=1)
    if cfg.image:
        return describe_image(model, words, held_out)

    # half of the faces have combinations of values that are never seen in training
    images = torch.cat([held_out.images[:500], unseen.images[:500], train_set.images])[:1000]
    texts = read_prompts(cfg.prompt) if cfg.prompt else checkpoint["examples"]
    n = 16 if len(texts) == 1 else 8
    path = f"{cfg.out_dir}/samples/search.png"
    write_png(path, draw_nearest(model, words, texts, images, n))
    text = "\n".join([*texts, f"the nearest of {len(images):,} images, the nearest first: {path}"])
    print(text)
    return text


def embed_image_file(model):
    """The vector (D,) of the picture --image; a grey one gets three equal colour channels."""
    cfg = model.cfg
    image = to_size(read_image(cfg.image), cfg.size).expand(1, 3, -1, -1)
    return embed_images(model, image)[0]


def probabilities(model, text_features, u) -> list:
    """The probability of each text (n, D), if one of them is that of the image u (D,)."""
    cosines = text_features @ u                                 # (n,)
    return F.softmax(model.logit_scale.exp().item() * cosines, dim=0).tolist()


def compare_texts(model, words, texts: list) -> str:
    """Print the probability of each text, if one of them is that of --image: zero-shot
    classification with classes of your own."""
    probs = probabilities(model, embed_texts(model, words, texts), embed_image_file(model))
    text = "\n".join(f"{p:6.1%}  {name}" for p, name in zip(probs, texts))
    print(text)
    return text


def describe_image(model, words, held_out) -> str:
    """Print the five held-out captions nearest to --image, and the probabilities of the values of
    each attribute by prompts."""
    u = embed_image_file(model)                                 # (D,)
    texts = [text for captions in held_out.captions for text in captions]
    texts = list(dict.fromkeys(texts))                          # each only once
    best = (embed_texts(model, words, texts) @ u).topk(min(5, len(texts)))
    lines = []
    for cosine, i in zip(best.values.tolist(), best.indices.tolist()):
        lines.append(f"{cosine:.3f}  {texts[i]}")

    for name, values in held_out.attributes.items():
        probs = probabilities(model, prompt_features(model, words, name), u)
        shares = [f"{value} {p:.0%}" for value, p in zip(values, probs)]
        lines.append(f"{name:>12}  " + ", ".join(shares))
    text = "\n".join(lines)
    print(text)
    return text


def evaluate(cfg: Config) -> dict:
    """What is found by the number of images, and by how much a text says: see mini/studies/clip.py.
    """
    from mini.studies import clip as study  # only this command needs it
    model, words, _ = load(cfg)
    return study.evaluate(model, words)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --n_layer, --n_embd, --n_joint, --size "
                                      "or --n_images")


if __name__ == "__main__":
    main()
