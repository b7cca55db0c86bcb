"""Two domains of images for CycleGAN: faces that differ in one attribute, or your own folders."""
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mini.data.images.faces import ATTRIBUTES, draw_parameters, render
from mini.data.images.image_sets import FACE_SIZE, load_images
from mini.utils.config import require

HELD_OUT = 512                  # faces of each domain that no model learns from
FIRST_HELD_OUT = 10**7          # their numbers begin here, far above those of training faces


@dataclass
class Domain:
    """The images of one domain, and for faces what the held-out ones were drawn from."""
    train_set: torch.Tensor             # uint8 (N, C, S, S)
    held_out: torch.Tensor              # uint8 (M, C, S, S)
    attribute: str = ""                 # the attribute that has one value in all of these faces
    labels: torch.Tensor | None = None      # (M, 6) of the held-out faces
    nuisance: torch.Tensor | None = None    # (M, 10): the other numbers that they were drawn from

    def first(self, n: int):
        """This domain with only the first n of its held-out images."""
        part = replace(self, held_out=self.held_out[:n])
        if self.labels is not None:
            part.labels = self.labels[:n]
            part.nuisance = self.nuisance[:n]
        return part


def load_domains(cfg):
    """(A, B), the domains that --data_a and --data_b name, with the same number of channels.

    Raises UserError if there are no such data, or if the two differ in size.
    """
    require(cfg.data_a != cfg.data_b, f"--data_a and --data_b are both {cfg.data_a}: bring two")
    a = load_domain(cfg.data_a, cfg.size, cfg.n_images, place=0)
    b = load_domain(cfg.data_b, cfg.size, cfg.n_images, place=1)

    # if one is in colour and the other gray, the gray one gets three channels
    C = max(a.train_set.size(1), b.train_set.size(1))
    for domain in (a, b):
        domain.train_set = domain.train_set.expand(-1, C, -1, -1)
        domain.held_out = domain.held_out.expand(-1, C, -1, -1)
    require(a.train_set.shape[1:] == b.train_set.shape[1:],
            f"--data_a={cfg.data_a} and --data_b={cfg.data_b} differ in size; set --size")
    return a, b


def load_domain(source: str, size: int, n: int, place: int) -> Domain:
    """The domain that a source names: n faces with one value of an attribute, such as "hair=blond",
    or a folder of images. place: 0 for A, 1 for B. Raises UserError if there are no such data."""
    attribute, equals_sign, value = source.partition("=")
    if not equals_sign or Path(source).exists():
        train_set, held_out = load_images(source, size)
        return Domain(train_set.images, held_out.images)

    require(attribute in ATTRIBUTES,
            f"{source}: no such folder; faces have {', '.join(ATTRIBUTES)}")
    values = ATTRIBUTES[attribute]
    require(value in values, f"{source}: the values of {attribute} are {', '.join(values)}")
    require(n > 0, f"--n_images={n}: at least one face is needed to learn from")
    size = size or FACE_SIZE
    train_set, _, _ = faces_with(attribute, value, size, n, first=n * place)
    held_out, labels, nuisance = faces_with(attribute, value, size, HELD_OUT,
                                            first=FIRST_HELD_OUT + HELD_OUT * place)
    return Domain(train_set, held_out, attribute, labels, nuisance)


def faces_with(attribute: str, value: str, size: int, n: int, first: int):
    """(images, labels, nuisance) of n faces that have this value of the attribute.

    first: the number of the first face. Faces of different numbers differ in more than the
    attribute; so if A and B have different numbers, no face of A is in B with other hair.
    """
    labels, nuisance = draw_parameters(n, seed=1, first=first)
    column = list(ATTRIBUTES).index(attribute)
    labels[:, column] = ATTRIBUTES[attribute].index(value)
    return render(labels, nuisance, size), labels, nuisance


def has_truth(x: Domain, y: Domain) -> bool:
    """True if the true translations from x to y are known: both are faces, and the same attribute
    tells them apart."""
    return x.attribute != "" and x.attribute == y.attribute


def truth(x: Domain, y: Domain):
    """The held-out faces of domain x as they would be in domain y: the same faces with another
    value of the attribute. Their labels (M, 6) and their images, uint8 (M, C, S, S)."""
    column = list(ATTRIBUTES).index(x.attribute)
    labels = x.labels.clone()
    labels[:, column] = y.labels[0, column]
    return labels, render(labels, x.nuisance, x.held_out.size(2))


def true_translations(x: Domain, y: Domain):
    """The images of `truth`, or None if they are not known."""
    if not has_truth(x, y):
        return None
    _, images = truth(x, y)
    return images
