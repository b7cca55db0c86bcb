"""Pictures and tables of a trained train_diffusion.py: what `sample --show=…` draws, and what
`evaluate` compares."""
from dataclasses import replace
from typing import get_args, get_type_hints

import torch

import train_diffusion
from mini.data.images.image_sets import draw_labels, load_images, one_hot
from mini.utils.config import require
from mini.utils.device import autocast, pick_device
from mini.utils.images import film, noise, sheet, to_float, to_size, walks
from mini.utils.judge import Judge
from mini.utils.metrics import print_tables
from mini.utils.png import read_image, write_png


# ---- pictures

@torch.no_grad()
def show(net, C: int, S: int, attributes: dict, cfg):
    """The picture, uint8 (H, W, C), that --show asks for:

    forward     how held-out images become noise
    reverse     how noise becomes images: x_t, and below it x̂₀
    walk        images from noise that changes in small steps, from one to the next
    inpaint     images with a part drawn anew, each beside its given part
    """
    n = 4 if cfg.show in ("forward", "reverse") else cfg.n
    x_T = noise(n, C * S * S, cfg.seed).view(n, C, S, S)
    if cfg.show == "forward":
        return show_forward(x_T, C, S, attributes, cfg)
    if cfg.show == "reverse":
        return show_reverse(net, x_T, attributes, cfg)
    if cfg.show == "walk":
        labels = draw_labels(cfg, attributes, n)
        row = torch.arange(n) // 8                              # 8 images in a row
        return sheet(draw(net, walks(x_T), labels[row], attributes, cfg))
    return show_inpainting(net, x_T, C, S, attributes, cfg)


def draw(net, x_T, labels, attributes, cfg, watch=lambda xt, t, x0: x0):
    """Images from noise x_T (n, C, S, S), for labels (n, A). watch(x_t, t, x̂₀) is called at each
    step, and returns the x̂₀ to go on with."""
    device = pick_device(cfg.device)
    schedule = train_diffusion.make_schedule(cfg)
    y = one_hot(labels, attributes).to(device)

    def predict(xt, t):                                         # called once in each step
        x0 = train_diffusion.predict_with_guidance(net, schedule, xt, t, y, cfg.guidance)
        return watch(xt, t, x0)

    rng = torch.Generator().manual_seed(cfg.seed + 1)
    with autocast(device, cfg.matmul):
        images = train_diffusion.denoise(predict, x_T.to(device), schedule, cfg, rng)
    return images.cpu()


def show_forward(eps, C: int, S: int, attributes, cfg):
    """Each held-out image in a row, at 8 times from 0 to T."""
    x0, _, _ = inpainting_task(cfg, len(eps), C, S, attributes)
    schedule = train_diffusion.make_schedule(cfg)
    times = torch.linspace(0, cfg.T, 8).round().int().tolist()
    moments = [(schedule.add_noise(x0, eps, t),) for t in times]
    return sheet(film(moments))


def show_reverse(net, x_T, attributes, cfg):
    """Two rows for each image, at 8 of the steps: x_t, and x̂₀."""
    n = len(x_T)
    moments = []

    def watch(xt, t, x0):
        moments.append((xt.cpu(), x0.cpu()))
        return x0

    draw(net, x_T, draw_labels(cfg, attributes, n), attributes, cfg, watch)
    return sheet(film(moments), row_names=["x_t", "predicted x0"] * n)


def show_inpainting(net, x_T, C: int, S: int, attributes, cfg):
    """The given part of each image, and beside it the image with the rest drawn anew.

    Where the mask is 0, x̂₀ is replaced by the image. So x_t is the image with noise there, and
    elsewhere the network draws what fits it (as in Lugmayr et al. 2022, "RePaint", eq. 8).
    """
    known, mask, labels = inpainting_task(cfg, len(x_T), C, S, attributes)

    def watch(xt, t, x0):
        return torch.where(mask.to(x0.device) > 0, x0, known.to(x0))

    images = draw(net, x_T, labels, attributes, cfg, watch)
    given = known * (1 - mask)
    return sheet(torch.stack([given, images], dim=1).flatten(0, 1))


def inpainting_task(cfg, n: int, C: int, S: int, attributes):
    """(images, mask, labels) for drawing a part of each image anew, by the flags of `sample`.

    images (n, C, S, S) in [-1, 1]: --image, or held-out images. mask (1, 1, S, S): 1 where to draw,
    which is where --mask is white, or the lower half. labels (n, A): those that flags such as
    --glasses=round ask for; without a flag those of the held-out images, or -1 if they are unknown.
    """
    if cfg.image:
        images = to_size(read_image(cfg.image), S)[None]        # (1, 3, S, S)
        if C == 1:
            images = images.float().mean(dim=1, keepdim=True).round().byte()
        labels = torch.full((1, len(attributes)), -1)
    else:
        held_out = load_images(cfg.data, cfg.size, cfg.n_images)[1]
        images = held_out.images
        labels = held_out.labels[:, :len(attributes)]
    again = torch.arange(n) % len(images)                       # from the first again, if too few
    images = images[again].expand(n, C, S, S)
    labels = draw_labels(cfg, attributes, n, otherwise=labels[again])

    mask = torch.zeros(1, 1, S, S)
    mask[:, :, S // 2:] = 1
    if cfg.mask:
        white = to_size(read_image(cfg.mask), S).float().mean(dim=0) > 127      # (S, S)
        mask = white.float().view(1, 1, S, S)
    return to_float(images), mask, labels


# ---- tables

STEPS = (5, 10, 20, 50)             # and all T for ddpm
GUIDANCE = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)


def evaluate(net, C: int, S: int, attributes: dict, cfg) -> dict:
    """How many of the T steps does each sampler need, and what does guidance do? The tables are
    also in evaluate.json. samples/evaluate.png has a row for each line of them; a column begins
    with the same noise."""
    judge = Judge(cfg, *load_images(cfg.data, cfg.size, cfg.n_images), n=512)
    require(judge.n > 0, f"--data={cfg.data} has no labels, one for all, or too few images: there "
            "is no judge of the images")
    device = pick_device(cfg.device)
    y = one_hot(judge.labels, attributes).to(device)

    distance = {}
    right = {}
    rows = []
    for name, flags in settings(cfg, attributes).items():
        print(f"drawing by {name}", flush=True)
        with autocast(device, cfg.matmul):
            images = train_diffusion.generate(net, y, C, S, replace(cfg, **flags))
        shares = judge.accuracy(images, judge.labels)
        distance[name] = judge.frechet(images)
        right[name] = sum(shares.values()) / len(shares)
        rows.append(images[:8])
    picture = sheet(torch.cat(rows), row_names=list(distance))
    write_png(f"{cfg.out_dir}/samples/evaluate.png", picture)
    return print_tables(cfg, Fréchet_distance=distance, mean_accuracy=right)


def settings(cfg, attributes: dict) -> dict:
    """{name of a row: flags}."""
    rows = {}
    steps_to_try = [steps for steps in STEPS if steps < cfg.T]
    if hasattr(cfg, "sampler"):
        samplers = get_args(get_type_hints(type(cfg))["sampler"])       # all that Config names
        for sampler in samplers:
            for steps in steps_to_try:
                rows[f"{sampler}, {steps} steps"] = dict(sampler=sampler, sample_steps=steps)
        if "ddpm" in samplers:
            rows[f"ddpm, {cfg.T} steps"] = dict(sampler="ddpm", sample_steps=cfg.T)
    else:                                                       # a fork with one sampler
        for steps in steps_to_try:
            rows[f"{steps} steps"] = dict(sample_steps=steps)
    if attributes:                                              # guidance needs labels
        for w in GUIDANCE:
            rows[f"guidance {w}"] = dict(guidance=w)
    return rows
