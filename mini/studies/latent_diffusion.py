"""A picture and tables of a trained mini/latent_diffusion.py: how an image comes to be, step by step;
guidance, samplers and steps; and what latents save."""
import time
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

import train_diffusion
from mini import latent_diffusion
from mini.data.images.captions import Words
from mini.utils import image_metrics, metrics
from mini.utils.config import require
from mini.utils.device import autocast, pick_device
from mini.utils.images import sheet, to_float
from mini.utils.judge import judge_of_faces
from mini.utils.png import write_png
from mini.utils.run import write_json

GUIDANCE = (0.0, 1.0, 2.0, 3.0, 5.0)
CALLS = (5, 10, 20)                 # evaluations of the velocity for an image


# ---- the steps

@torch.no_grad()
def show_steps(nets, texts, prompts, cfg, latents=None):
    """A row for each image, uint8 (H, W, C): eight moments on its way from noise. Of x_t it shows
    the image that it would become if the velocity stayed as it is: x_t − t v is the network's guess
    of x₀. The last one is the image."""
    guesses = []

    def watch(xt, t, v):
        guesses.append(xt - t * v)

    z = latent_diffusion.generate_latents(nets, prompts, cfg, latents, watch)
    chosen = torch.linspace(0, len(guesses) - 1, 7).round().int().tolist()
    moments = [guesses[i] for i in chosen] + [z]
    images = [nets["autoencoder"].to_images(moment).cpu() for moment in moments]
    images = torch.stack(images, dim=1).flatten(0, 1)               # (n · 8, C, S, S)
    names = None
    if len(texts) > 1:
        names = [text for text in texts for _ in range(cfg.n)]
    return sheet(images, columns=8, row_names=names)


# ---- what is compared

@torch.no_grad()
def evaluate(nets, checkpoint, cfg) -> dict:
    """Tables of scores by guidance, and by sampler and steps; and of costs. They are also in
    evaluate.json; samples/evaluate.png has a row for each line of the first, and
    samples/decoded.png real images beside their reconstructions."""
    _, parts, captions = latent_diffusion.load_data(cfg, checkpoint)
    require(parts[0].attributes, "this needs a run on images with labels")
    judge = judge_of_faces(cfg, 512, cfg.n_images)
    n = judge.n
    device = pick_device(cfg.device)
    real = parts[1].images[-n:]
    labels = parts[1].labels[-n:]
    prompts = captions[1][-n:, 0].to(device)

    rows = {}
    pictures = []

    def add(name, draw):
        """A row of the table for the images that draw() returns."""
        print(f"drawing {name}", flush=True)
        start = time.perf_counter()
        with autocast(device, cfg.matmul):
            images = draw()
        seconds = (time.perf_counter() - start) / n
        reading = judge.read(images)
        shares = judge.accuracy_of(reading, labels)
        mean = sum(shares.values()) / len(shares)
        diversity = judge.diversity_of(reading)
        rows[name] = {"s/image": seconds, **shares, "mean": mean,
                      "Fréchet": judge.frechet_of(reading),
                      "diversity": 0.0 if diversity is None else diversity}
        pictures.append(images[:8].float().cpu())

    for w in GUIDANCE:
        own = replace(cfg, guidance=w, sampler="euler", sample_steps=20)
        add(f"w {w:g}, Euler, 20 calls", lambda: latent_diffusion.generate(nets, prompts, own))
    for calls in CALLS:
        for sampler in ("euler", "heun"):
            # Heun's steps call the velocity twice, but for the last
            steps = calls if sampler == "euler" else (calls + 1) // 2
            own = replace(cfg, sampler=sampler, sample_steps=steps)
            name = f"w {cfg.guidance:g}, {sampler.capitalize()}, {calls} calls"
            if name not in rows:
                add(name, lambda: latent_diffusion.generate(nets, prompts, own))
    add("decoded", lambda: latent_diffusion.reconstruct(nets["autoencoder"], real, cfg))
    add("real", lambda: to_float(real))

    write_png(f"{cfg.out_dir}/samples/evaluate.png", sheet(torch.cat(pictures), row_names=list(rows)))
    picture = latent_diffusion.beside_reconstructions(nets["autoencoder"], real[:16], cfg)
    write_png(f"{cfg.out_dir}/samples/decoded.png", picture)
    print(metrics.table(rows, {"mean", *parts[0].attributes}))

    decoded = latent_diffusion.reconstruct(nets["autoencoder"], real, cfg)
    same = judge.read(decoded).labels == judge.read(real).labels
    as_before = dict(zip(parts[0].attributes, same.double().mean(0).tolist()))
    psnr = image_metrics.psnr(decoded, to_float(real)).mean().item()
    print(f"reconstructions: {psnr:.2f} dB; read as before: "
          + ", ".join(f"{name} {share:.1%}" for name, share in as_before.items()))

    costs = cost_table(nets, checkpoint, cfg)
    print(metrics.table(costs))
    result = {"scores": rows, "psnr": psnr, "read_as_before": as_before, "costs": costs}
    write_json(f"{cfg.out_dir}/evaluate.json", result)
    return result


# ---- what latents save

def cost_table(nets, checkpoint, cfg) -> dict:
    """{model: {…}}: billions of floating-point operations (GFLOP) and milliseconds for an image in
    a step of training, and to draw one, with guidance, in 20 calls of the velocity. Beside the
    latent model are the same Transformer on pixels, in patches of as many pixels as the
    autoencoder's stem, and of half as many; and the U-Net of train_diffusion.py."""
    C, S, V, L = checkpoint["shape"]
    H = latent_diffusion.latent_size(cfg)
    rows = {}
    encoder = nets["encoder"]
    words = Words(checkpoint["words"])
    _, prompts = latent_diffusion.read_prompts(cfg, words, checkpoint["examples"], L)
    prompts = prompts[:1].expand(cfg.batch_size, -1)

    def latent(patch, c, size):
        return latent_diffusion.DiT(replace(cfg, patch=patch, size=cfg.size), c, size)

    models = {
        f"latents, {cfg.z_channels} × {H} × {H}": (latent(cfg.patch, cfg.z_channels, H),
                                                   cfg.z_channels, H),
        f"pixels, patch {cfg.stem}": (latent(cfg.stem, C, S), C, S),
        f"pixels, patch {cfg.stem // 2}": (latent(cfg.stem // 2, C, S), C, S),
    }
    for name, (dit, c, size) in models.items():
        rows[name] = costs_of(dit, encoder, prompts, c, size, cfg)

    decoder = nets["autoencoder"]
    z = torch.zeros(16, cfg.z_channels, H, H)
    first = next(iter(rows.values()))
    with torch.no_grad():
        gflop = count(lambda: decoder.to_images(z)) / 16
        ms = milliseconds(lambda: decoder.to_images(z), cfg) / 16
    first["GFLOP/image"] += gflop
    first["ms/image"] += ms

    unet_cfg = train_diffusion.Config(size=S)
    unet = train_diffusion.UNet(unet_cfg, C, S, 21)
    rows["U-Net, pixels"] = costs_of_unet(unet, C, S, cfg)
    return rows


def costs_of(dit, encoder, prompts, c: int, size: int, cfg) -> dict:
    """Costs of a Transformer for x_t (c, size, size)."""
    B = min(16, len(prompts))
    x = torch.randn(B, c, size, size)
    t = torch.rand(B)
    prompts = prompts[:B]

    def step():
        loss = latent_diffusion.flow_loss(dit, encoder_like, x, prompts, t, x)
        loss.backward()

    encoder_like = encoder
    words, mask = encoder(prompts)

    @torch.no_grad()
    def call():
        dit(x, t, words, mask)

    return summary(step, call, B, sum(p.numel() for p in dit.parameters()), cfg)


def costs_of_unet(unet, C: int, S: int, cfg) -> dict:
    """Costs of the U-Net of train_diffusion.py, told labels."""
    B = 16
    x = torch.randn(B, C, S, S)
    t = torch.randint(1, 1000, (B,))
    y = torch.zeros(B, 21)

    def step():
        unet(x, t, y).float().square().mean().backward()

    @torch.no_grad()
    def call():
        unet(x, t, y)

    return summary(step, call, B, sum(p.numel() for p in unet.parameters()), cfg)


def summary(step, call, B: int, parameters: int, cfg) -> dict:
    """The row of a table."""
    return {
        "parameters": parameters,
        "GFLOP/step": count(step) / B,
        "ms/step": milliseconds(step, cfg) / B,
        "GFLOP/image": 40 * count(call) / B,
        "ms/image": 40 * milliseconds(call, cfg) / B,
    }


def count(work) -> float:
    """Billions of floating-point operations of work(), in products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def milliseconds(work, cfg, times: int = 5) -> float:
    """The median time of work() in the precision of training."""
    seconds = []
    with autocast(torch.device("cpu"), cfg.matmul):
        work()
        for _ in range(times):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds)[times // 2]
