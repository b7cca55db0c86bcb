"""A picture and a table of a trained mini/text_to_image.py: how each stage draws, step by step; and
what `evaluate` compares."""
import itertools
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from mini import text_to_image
from mini.utils import image_metrics, metrics
from mini.utils.config import require
from mini.utils.device import autocast, pick_device
from mini.utils.images import film, sheet, to_float
from mini.utils.judge import judge_of_faces
from mini.utils.png import write_png
from mini.utils.run import write_json

GUIDANCE = (0.0, 1.0, 2.0, 3.0, 5.0)
STEPS = (5, 10, 20)


# ---- the steps of each stage

@torch.no_grad()
def show_stages(nets, texts, prompts, C: int, cfg):
    """A row for each image, uint8 (H, W, C): four moments of each stage, from noise to its image.
    """
    strips = []
    low = None
    every = max(1, cfg.sample_steps // 16)                      # of a long chain, keep some steps
    for k, unet in enumerate(nets["unets"]):
        moments = []
        step = itertools.count()

        def watch(xt, x0):
            if next(step) % every == 0:
                moments.append((F.interpolate(xt.float().cpu(), cfg.size),))

        S = text_to_image.size_of_stage(cfg, k)
        low = text_to_image.generate_stage(unet, nets["encoder"], prompts, C, S, cfg, low, watch)
        moments.append((F.interpolate(low.float().cpu(), cfg.size),))
        strip = film(moments, pictures=4)                       # (n · 4, C, size, size)
        strips.append(strip.unflatten(0, (-1, 4)))              # (n, 4, C, size, size)
    images = torch.stack(strips, dim=1).flatten(0, 2)           # (n · stages · 4, C, size, size)

    names = None
    if len(texts) > 1:
        names = [text for text in texts for _ in range(cfg.n)]
    return sheet(images, columns=4 * cfg.stages, row_names=names)


# ---- the table

@torch.no_grad()
def evaluate(nets, checkpoint, cfg) -> dict:
    """Scores by guidance and number of steps, and of the last stage beside bicubic interpolation.
    PSNR has a meaning only in the rows "real …", whose small pictures are real ones made smaller.
    The table is also in evaluate.json; samples/evaluate.png has a row for each line of it."""
    _, parts, captions = text_to_image.load_data(cfg, checkpoint)
    require(parts[0].attributes and cfg.stages > 1,
            "this needs a run of two stages, on images with labels")
    judge = judge_of_faces(cfg, 512, cfg.n_images)
    n = judge.n
    device = pick_device(cfg.device)
    C = checkpoint["shape"][0]
    real = to_float(parts[1].images[-n:])
    labels = parts[1].labels[-n:]
    prompts = captions[1][-n:, 0].to(device)
    low = text_to_image.resize(real, cfg.size // 2)

    rows = {}
    pictures = []

    def add(name, draw):
        """A row of the table for the images that draw() returns."""
        print(f"drawing {name}", flush=True)
        start = time.perf_counter()
        with autocast(device, cfg.matmul):
            images = draw().float().cpu()
        seconds = (time.perf_counter() - start) / n
        psnr = image_metrics.psnr(images, real).mean().item()
        scores = text_to_image.judge_images(judge, images, labels)
        rows[name] = {"s/image": seconds, "PSNR": psnr, **scores}
        pictures.append(images[:8])

    for w in GUIDANCE:
        for steps in STEPS:
            own = replace(cfg, guidance=w, sample_steps=min(steps, cfg.T))
            name = f"w {w:g}, {steps} steps"
            add(name, lambda: text_to_image.generate(nets, prompts, C, own)[-1])
    for level in sorted({0.0, cfg.aug_level}):
        own = replace(cfg, aug_level=level)
        add(f"real, enlarged, s {level:g}", lambda: text_to_image.generate_stage(
            nets["unets"][-1], nets["encoder"], prompts, C, cfg.size, own, low.to(device)))
    add("real, bicubic", lambda: text_to_image.resize(low, cfg.size))

    picture = sheet(torch.cat(pictures), row_names=list(rows))
    write_png(f"{cfg.out_dir}/samples/evaluate.png", picture)
    print(metrics.table(rows, {"mean", *parts[0].attributes}))
    write_json(f"{cfg.out_dir}/evaluate.json", rows)
    return rows
