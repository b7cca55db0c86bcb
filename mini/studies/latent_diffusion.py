"""A picture and tables of a trained mini/latent_diffusion.py: how an image comes to be, step by
step; guidance, samplers and steps; and what latents save."""
import time
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

import train_diffusion
from mini import latent_diffusion
from mini.data.images.captions import Words
from mini.data.images.faces import caption
from mini.utils import image_metrics, metrics
from mini.utils.config import require
from mini.utils.device import autocast, pick_device
from mini.utils.images import sheet, to_float
from mini.utils.judge import images_with_labels, judge_of_faces
from mini.utils.png import write_png
from mini.utils.run import write_json

GUIDANCE = (0.0, 1.0, 2.0, 3.0, 5.0)
CALLS = (5, 10, 20)                 # calls of the velocity for an image
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
BATCH = 16                          # images in a batch whose time is taken
CALLS_OF_AN_IMAGE = 40              # of the network: 20 of the velocity, with and without words


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
    judge = judge_of_faces(cfg, 256, cfg.n_images)
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

    picture = sheet(torch.cat(pictures), row_names=list(rows))
    write_png(f"{cfg.out_dir}/samples/evaluate.png", picture)
    picture = latent_diffusion.beside_reconstructions(nets["autoencoder"], real[:16], cfg)
    write_png(f"{cfg.out_dir}/samples/decoded.png", picture)
    print(metrics.table(rows, {"mean", *parts[0].attributes}))

    decoded = latent_diffusion.reconstruct(nets["autoencoder"], real, cfg)
    same = judge.read(decoded).labels == judge.read(real).labels
    as_before = dict(zip(parts[0].attributes, same.double().mean(0).tolist()))
    psnr = image_metrics.psnr(decoded, to_float(real)).mean().item()
    print(f"reconstructions: {psnr:.2f} dB; read as before: "
          + ", ".join(f"{name} {share:.1%}" for name, share in as_before.items()))

    matched = with_the_same_attributes(nets, checkpoint, cfg)
    print(metrics.table(matched, {"mean"}))
    changes = change_pictures(nets, judge, parts[1], prompts, cfg)
    print(metrics.table(changes, {"as prompted", "as before"}))
    costs = cost_table(nets, checkpoint, cfg)
    print(metrics.table(costs))
    result = {"scores": rows, "psnr": psnr, "read_as_before": as_before, "matched": matched,
              "changes": changes, "costs": costs}
    write_json(f"{cfg.out_dir}/evaluate.json", result)
    return result


def with_the_same_attributes(nets, checkpoint, cfg) -> dict:
    """{images: {…}}: 512 images drawn for full captions of just those real images with which they
    are then compared. That is what `train_diffusion.py --size=64` does with labels, so the scores
    of both can be compared."""
    judge = judge_of_faces(cfg, 512, cfg.n_images)
    labels = judge.labels
    words = Words(checkpoint["words"])
    L = checkpoint["shape"][3]
    rows = [words.encode(caption(y, wording), L - 1) for wording, y in enumerate(labels)]
    prompts = torch.tensor([row + [Words.PAD] * (L - len(row)) for row in rows])
    prompts = prompts.to(pick_device(cfg.device))

    def draw(guidance: float, steps: int):
        print(f"drawing {judge.n} images with the attributes of the real ones", flush=True)
        own = replace(cfg, guidance=guidance, sampler="euler", sample_steps=steps)
        with autocast(pick_device(cfg.device), cfg.matmul):
            return latent_diffusion.generate(nets, prompts, own)

    real = judge.held_out.images[:judge.n]
    images = {
        "w 1, 20 calls": draw(1.0, 20),
        f"w {cfg.guidance:g}, 20 calls": draw(cfg.guidance, 20),
        f"w {cfg.guidance:g}, 10 calls": draw(cfg.guidance, 10),
        "decoded": latent_diffusion.reconstruct(nets["autoencoder"], real, cfg),
        "other real ones": images_with_labels(judge.train_set, labels),
    }
    rows = {}
    for name, drawn in images.items():
        reading = judge.read(drawn)
        shares = judge.accuracy_of(reading, labels)
        diversity = judge.diversity_of(reading)
        rows[name] = {"mean": sum(shares.values()) / len(shares),
                      "Fréchet": judge.frechet_of(reading),
                      "diversity": 0.0 if diversity is None else diversity}
    return rows


def change_pictures(nets, judge, part, prompts, cfg) -> dict:
    """{strength: {…}}: held-out pictures are changed, each by the prompt of another one. How many
    attributes are then read as the prompt says, and how many as in the picture; and how like the
    picture the result is (PSNR)."""
    n = min(128, judge.n)
    real = part.images[:n]
    old_labels = part.labels[:n]
    new_labels = part.labels[-judge.n:][:n]
    rows = {}
    for strength in STRENGTHS:
        own = replace(cfg, strength=strength)
        print(f"changing pictures, strength {strength}", flush=True)
        with autocast(pick_device(cfg.device), cfg.matmul):
            x = to_float(real).to(prompts.device)
            latents = nets["autoencoder"].to_latents(x)
            images = latent_diffusion.generate(nets, prompts[:n], own, latents)
        read = judge.read(images).labels
        rows[f"strength {strength}"] = {
            "as prompted": (read == new_labels).double().mean().item(),
            "as before": (read == old_labels).double().mean().item(),
            "PSNR": image_metrics.psnr(images.float(), to_float(real)).mean().item(),
        }
    return rows


# ---- what latents save

def cost_table(nets, checkpoint, cfg) -> dict:
    """{model: {…}}: parameters; billions of floating-point operations (GFLOP) and milliseconds for
    an image in a step of training, and to draw one, with guidance, in 20 calls of the velocity.

    Beside the latent model are the same Transformer on pixels, in patches of 4 × 4 and of 2 × 2,
    and the U-Net of train_diffusion.py.
    """
    C, S, V, L = checkpoint["shape"]
    c = cfg.z_channels
    H = latent_diffusion.latent_size(cfg)
    device = pick_device(cfg.device)
    autoencoder = nets["autoencoder"]
    encoder = nets["encoder"]
    prompts = torch.full((BATCH, L), Words.PAD + 3, device=device)
    words, mask = encoder(prompts)
    rows = {}

    def add(name, net, shape, *inputs, layout=torch.channels_last):
        """A row for a network that is called by net(x, t, *inputs), x of this shape."""
        net = net.to(device, memory_format=layout)
        x = torch.randn(BATCH, *shape, device=device)
        t = torch.rand(BATCH, device=device)

        @torch.enable_grad()
        def step():
            net(x, t, *inputs).float().square().mean().backward()

        @torch.no_grad()
        def call():
            net(x, t, *inputs)

        rows[name] = {
            "parameters": sum(p.numel() for p in net.parameters()),
            "GFLOP/step": count(step) / BATCH,
            "ms/step": milliseconds(step, cfg) / BATCH,
            "GFLOP/image": CALLS_OF_AN_IMAGE * count(call) / BATCH,
            "ms/image": CALLS_OF_AN_IMAGE * milliseconds(call, cfg) / BATCH,
        }

    def decode():
        autoencoder.to_images(torch.zeros(BATCH, c, H, H, device=device))

    latents = f"latents {c} × {H} × {H}"
    add(latents, latent_diffusion.DiT(cfg, c, H), (c, H, H), words, mask)
    rows[latents]["GFLOP/image"] += count(decode) / BATCH
    rows[latents]["ms/image"] += milliseconds(decode, cfg) / BATCH
    for patch in (4, 2):
        on_pixels = latent_diffusion.DiT(replace(cfg, patch=patch), C, S)
        add(f"pixels, patch {patch}", on_pixels, (C, S, S), words, mask)
    V = 21                                                          # values of a face's labels
    unet = train_diffusion.UNet(train_diffusion.Config(size=S), C, S, V)
    add("pixels, U-Net", unet, (C, S, S), torch.zeros(BATCH, V, device=device),
        layout=train_diffusion.memory_layout(device))
    return rows


def count(work) -> float:
    """Billions of floating-point operations of work(), in products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def milliseconds(work, cfg, times: int = 5) -> float:
    """The median time of work() in the precision of training."""
    seconds = []
    with autocast(pick_device(cfg.device), cfg.matmul):
        work()
        for _ in range(times):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds)[times // 2]
