"""What can be done with z, and how much does a VAE know? The scores at the end of a training; the
pictures of `sample --show=…`; and the tables of `evaluate`: bounds on log p(x), how much of z is
used, which z to draw, arithmetic."""
import math

import torch

from mini import vae
from mini.data.images.image_sets import draw_labels, load_images, one_hot
from mini.utils.config import require
from mini.utils.image_metrics import image_report
from mini.utils.images import film, in_batches, noise, plane, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.metrics import print_tables
from mini.utils.mixture import Mixture
from mini.utils.run import check_shape


# ---- scores at the end of a training

def score(model, train_set, held_out) -> dict:
    """What result.json says: the ELBO of held-out images, beside a model without z; the judge's
    scores of new images, beside those of a model that has learnt nothing."""
    scores = vae.mean_elbo(model, held_out.images)
    scores["mean_image"] = log_p_of_mean_image(model.cfg, train_set, held_out)
    judge = Judge(model.cfg, train_set, held_out, n=512)
    if judge.n > 0:                                             # there are labels to judge by
        z = vae.sample_z(model, judge.n)
        untrained = untrained_like(model, train_set)
        scores |= judge.scores(vae.generate(model, z), vae.generate(untrained, z))
    return scores


def report(scores: dict) -> str:
    """The scores in words, each beside its baseline."""
    text = ("held-out ELBO {elbo:.1f} nats per image, log p(x|z) {log_p:.1f} − KL {kl:.1f}; of the "
            "mean image, without z, {mean_image:.1f}\n")
    return text.format(**scores) + image_report(scores)


def log_p_of_mean_image(cfg, train_set, held_out) -> float:
    """The mean log p(x) of held-out images, in nats, if a decoder without z always gave the mean of
    the training images."""
    train_images = to_float(train_set.images)
    x = to_float(held_out.images)
    mean = train_images.mean(dim=0, keepdim=True)               # (1, C, size, size)
    if cfg.likelihood == "bernoulli":
        p_white = (mean + 1) / 2
        logits = p_white.logit(eps=1e-4)                        # not infinite where all are black
        return vae.Bernoulli().log_prob(x, logits.expand_as(x)).mean().item()
    variance = vae.best_variance(train_images, mean)
    return vae.log_normal(x, mean, variance).mean().item()


def untrained_like(model, train_set):
    """A VAE that has learnt nothing. The first weights that are drawn with this seed are those that
    were trained; these are the second."""
    C, size, _ = train_set.shape()
    torch.manual_seed(model.cfg.seed)
    vae.VAE(model.cfg, C, size)
    return vae.VAE(model.cfg, C, size)


def load_data(cfg, shape):
    """(train_set, held_out) that a model has learnt from, or that --data names. shape: of the
    images that it has learnt from, (C, size, attributes)."""
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    check_shape({"shape": shape}, *train_set.shape())
    return train_set, held_out


# ---- pictures

def codes(model, images):
    """μ of q(z|x) of each image: (N, z_dim)."""
    mu, _ = in_batches(model, model.encode, images)
    return mu


def mean_codes(model, train_set):
    """For each value of each attribute, the mean code of the training images that have it:
    (V, z_dim).

    The difference of two of them, added to z, turns one value into the other (as Radford et al.
    2016, §6.3.2, did with faces).
    """
    hot = one_hot(train_set.labels, train_set.attributes)       # (N, V)
    n = hot.sum(dim=0).clamp(min=1)                             # (V,): images that have this value
    return hot.T @ codes(model, train_set.images) / n[:, None]


def change_of_z(means, labels, wanted, attributes):
    """What to add to the codes of images with these labels (n, A), so that they get the wanted ones
    (n, A): (n, z_dim). means: the mean codes (V, z_dim)."""
    added = one_hot(wanted, attributes) - one_hot(labels, attributes)       # (n, V): 1, 0 or −1
    return added @ means                                        # (n, V) @ (V, z_dim)


def show(model, shape):
    """The picture, uint8 (H, W, C), that --show asks for:

    map           images over the plane of z
    reconstruct   held-out images above their reconstructions
    walk          images on the way from one held-out image to the next
    arithmetic    held-out images, and 0, 1/5, … 7/5 of the change that --glasses=round asks for
    """
    cfg = model.cfg
    if cfg.show == "map":
        require(cfg.z_dim == 2, f"z has {cfg.z_dim} numbers; for a map, train with --z_dim=2")
        z, columns = plane(cfg.n)
        return sheet(vae.generate(model, z), columns)

    train_set, held_out = load_data(cfg, shape)
    n_rows = max(1, cfg.n // 8)                                 # of 8 images
    chosen = torch.arange(8 * n_rows) % len(held_out.images)    # from the first again, if too few
    x = held_out.images[chosen]
    labels = held_out.labels[chosen]
    z = codes(model, x)

    if cfg.show == "reconstruct":
        pairs = zip(to_float(x).split(n_rows), vae.generate(model, z).split(n_rows))
        return sheet(film(list(pairs)))
    if cfg.show == "walk":
        return sheet(vae.generate(model, walks(z)))
    wanted = draw_labels(cfg, train_set.attributes, len(labels), otherwise=labels)
    return show_arithmetic(model, train_set, z, labels, wanted, n_rows)


def show_arithmetic(model, train_set, z, labels, wanted, n_rows: int):
    """A row for each of the first n_rows images that are to change, from z to z + 7/5 of the
    change."""
    changing = (wanted != labels).any(dim=1).nonzero().flatten()[:n_rows]
    require(len(changing) > 0,
            "no image would change: say by --glasses=round or the like what to add")
    means = mean_codes(model, train_set)
    change = change_of_z(means, labels[changing], wanted[changing], train_set.attributes)
    share = torch.arange(8)[:, None] / 5                        # (8, 1)
    z = z[changing, None] + share * change[:, None]             # (rows, 8, z_dim)
    images = vae.generate(model, z.flatten(0, 1))                   # -> (rows · 8, z_dim)
    return sheet(images, column_names=[f"{i}/5" for i in range(8)])


# ---- tables

def tighter_bound(model, x, k: int, rng):
    """A bound on log p(x) of each image x (B, C, size, size), in nats: (B,).

        E log (1/k) Σ p(x, z) / q(z|x),    summed over k different z ~ q(z|x)

    For k = 1 this is the ELBO; for larger k it is closer to log p(x) (Burda, Grosse &
    Salakhutdinov 2016, "Importance weighted autoencoders", eq. 8). The model must be in evaluation
    mode.
    """
    mu, logvar = model.encode(x)
    log_w = []
    for _ in range(k):
        eps = torch.randn(mu.shape, generator=rng, dtype=mu.dtype).to(mu.device)
        z = vae.reparameterize(mu, logvar, eps)
        log_p_x = model.likelihood.log_prob(x, model.decode(z))
        log_p_z = vae.log_normal(z, torch.zeros_like(z), torch.ones_like(z))
        log_q_z = vae.log_normal(z, mu, logvar.exp())
        log_w.append(log_p_x + log_p_z - log_q_z)
    return torch.stack(log_w).logsumexp(dim=0) - math.log(k)                # (k, B) -> (B,)


def bounds(model, images, seed: int) -> dict:
    """{"k = 5": mean bound on log p(x), …}."""
    rng = torch.Generator().manual_seed(seed)
    table = {}
    for k in (1, 5, 50, 500):
        print(f"bounds on log p(x), k = {k}", flush=True)
        bound = in_batches(model, lambda x: tighter_bound(model, x, k, rng), images)
        table[f"k = {k}"] = bound.mean().item()
    return table


def used_numbers(z) -> int:
    """How many numbers of the codes z (n, z_dim) differ between images (Burda et al. 2016, §5.2:
    their variance is above 0.01)."""
    return (z.var(dim=0, correction=0) > 0.01).sum().item()


def score_arithmetic(model, judge, train_set, z, labels):
    """Each attribute is changed from each value to the next, and the judge says what it reads.

    z (n, z_dim) are codes of images with these labels (n, A). Returns two tables with a row for
    each change: the share of images in which the new value is read, and the share in which the
    others are still read, a mean over the other attributes.
    """
    attributes = train_set.attributes
    means = mean_codes(model, train_set)
    changed = {}
    others_kept = {}
    for a, (name, values) in enumerate(attributes.items()):
        print(f"{name} is changed", flush=True)
        for old in labels[:, a].unique().tolist():
            new = (old + 1) % len(values)
            chosen = labels[:, a] == old
            wanted = labels[chosen].clone()
            wanted[:, a] = new
            change = change_of_z(means, labels[chosen], wanted, attributes)
            read = judge.accuracy(vae.generate(model, z[chosen] + change), wanted)

            row = f"{name}: {values[old]} → {values[new]}"
            changed[row] = read.pop(name)
            if read:
                others_kept[row] = sum(read.values()) / len(read)
    return changed, others_kept


def standard_normal(z_dim: int):
    """N(0, 1) as a mixture of one."""
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(weights=one, means=torch.zeros(1, z_dim).double(),
                   covs=torch.eye(z_dim).double()[None])


def compare_priors(model, judge, train_set, validation_images, components=(1, 10, 30, 60)):
    """From which p(z) should new images be drawn? N(0, 1), and mixtures of K normal distributions.

    Two tables with a row for each: the mean log p(z) of the codes of images that nothing was fitted
    to, by which K is chosen; and the Fréchet distance of new images, if there is a judge.
    """
    cfg = model.cfg
    priors = {"N(0, 1)": standard_normal(cfg.z_dim)}
    for K in components:
        print(f"a mixture of {K} is fitted to codes", flush=True)
        priors[f"K = {K}"] = vae.fit_prior(model, train_set.images, K)

    z = vae.encode_and_sample(model, validation_images).double()
    log_p = {}
    distance = {}
    for name, prior in priors.items():
        log_p[name] = prior.log_prob(z).mean().item()
        if judge.n > 0:
            distance[name] = judge.frechet(vae.generate(model, prior.sample(judge.n, cfg.seed)))
    return log_p, distance


def linear_model(train_images, x, z_dim: int, n: int, seed: int):
    """(mean log p(x) of the images x, in nats; n new images), by a VAE that is as simple as can be:

        x = W z + mean + σ ε        z ~ N(0, I), ε ~ N(0, I)

    So the decoder is one matrix, and p(x) = N(mean, W Wᵀ + σ² I). The W and σ that make the
    training images most probable need no training: they are made of the first principal components
    (Tipping & Bishop 1999, "Probabilistic Principal Component Analysis", eqs. 7 and 8).

    Images are (·, C, H, W) in [-1, 1]; z_dim is less than C · H · W and than the number of training
    images.
    """
    N = len(train_images)
    data = train_images.flatten(1)                              # (N, C, H, W) -> (N, D)
    D = data.size(1)
    mean = data.mean(dim=0)
    torch.manual_seed(seed)                                     # for pca_lowrank
    _, singular, directions = torch.pca_lowrank(data - mean, z_dim, center=False, niter=10)
    variances = singular.double()**2 / N                        # (z_dim,), along the directions
    directions = directions.double()                            # (D, z_dim)
    rest = data.double().var(dim=0, correction=0).sum() - variances.sum()
    sigma2 = rest / (D - z_dim)                                 # along each other direction

    centred = x.flatten(1).double() - mean
    along = centred @ directions                                # (B, z_dim)
    squares = (along**2 / variances).sum(1)
    squares += ((centred**2).sum(1) - (along**2).sum(1)) / sigma2
    log_det = variances.log().sum() + (D - z_dim) * sigma2.log()
    log_p = -(D * math.log(2 * math.pi) + log_det + squares) / 2

    W = directions * (variances - sigma2).sqrt()                # (D, z_dim)
    z = noise(n, z_dim, seed).double()
    new = (z @ W.T + mean).clamp(-1, 1)                         # without ε, like generate
    return log_p.mean().item(), new.float().view(n, *x.shape[1:])


def evaluate(model, train_set, held_out, n: int = 2048) -> dict:
    """Print tables of n held-out images, and write them to evaluate.json. What was chosen, was
    chosen by the other held-out images, the validation part."""
    cfg = model.cfg
    images = held_out.images[:n]
    labels = held_out.labels[:n]
    validation_images = held_out.images[n:] if len(held_out.images) > n else images
    z = codes(model, images)
    judge = Judge(cfg, train_set, held_out, n=512)

    tables = {}
    tables["log_p(x)_at_least"] = bounds(model, images[:256], cfg.seed)
    tables["used_of_z"] = {"numbers": used_numbers(z), "of": cfg.z_dim}
    log_p, distance = compare_priors(model, judge, train_set, validation_images)
    tables["log_p(z)_of_validation_codes"] = log_p
    if judge.n > 0:
        decoded = vae.generate(model, z)
        distance["encoded and decoded"] = judge.frechet(decoded)
        if cfg.z_dim < min(train_set.images[0].numel(), len(train_set.images)):
            print("a linear model is fitted to pixels", flush=True)
            log_p, new = linear_model(to_float(train_set.images), to_float(images), cfg.z_dim,
                                      judge.n, cfg.seed)
            distance["linear model"] = judge.frechet(new)
            if cfg.likelihood != "bernoulli":                   # else p(x) is no density
                tables["log_p(x)_of_a_linear_model"] = {"of all": log_p}
        tables["Fréchet_distance"] = distance
        tables["read_right_if_only_decoded"] = judge.accuracy(decoded, labels)
        changed, others_kept = score_arithmetic(model, judge, train_set, z, labels)
        tables["read_as_changed"] = changed
        if others_kept:
            tables["others_kept"] = others_kept
    return print_tables(cfg, **tables)
