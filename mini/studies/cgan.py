"""Data augmentation with the conditional GAN, `python -m mini.cgan evaluate`: the accuracy of
classifiers that learn from few real images, without and with 4,000 generated ones."""
from mini import cgan
from mini.data.images.image_sets import ImageSet, load_images, one_hot
from mini.studies import few_labels
from mini.utils.config import require
from mini.utils.images import noise
from mini.utils.metrics import print_tables


def evaluate(G, attributes, cfg) -> dict:
    """A table, also in evaluate.json. (The generator has seen all real images, so it passes on what
    it learnt from them.)"""
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    require(train_set.attributes == attributes, f"--data={cfg.data}: the model knows other labels")
    labels = train_set.labels[:4000]
    z = noise(len(labels), cfg.z_dim, cfg.seed + 3)
    new = cgan.generate(G, z, one_hot(labels, attributes))
    generated = ImageSet(((new + 1) * 127.5).round().byte(), labels, attributes)
    table = few_labels.from_few(cfg, train_set, held_out, generated)
    return print_tables(cfg, mean_accuracy_from=table)
