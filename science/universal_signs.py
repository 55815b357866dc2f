"""Makes the universal perturbations of ``bench/artwork/universal.py``: ``python -m
science.universal_signs`` prints them, for the classifiers that ship with the testbeds.

One sign a value, v = strength sign(S), where S sums the signs of the gradients, with respect to v,
of the classifier's cross-entropy over batches of training images x + v (Moosavi-Dezfooli et al.
2017, arXiv 1610.08401, for the idea of one perturbation for all images; the rule is ours): it is
pushed away from every image's class.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from bench import testbeds
from bench.artwork.universal import STRENGTH, packed
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import torch_stream
from bench.testbeds.parts.digits_cnn import load_digits_cnn
from bench.testbeds.parts.fashion_cnn import load_fashion_cnn

STEPS, BATCH = 200, 256
#: Images that are tried with the result.
HELD_OUT = 1000
#: Logits (n, classes) of images (n, c, h, w) float in [-1, 1].
Logits = Callable[[Tensor], Tensor]


def digits_cnn() -> Logits:
    """The digits' evaluation classifier, which is made for bytes."""
    network = load_digits_cnn()
    return lambda images: network((images + 1) * 127.5)


#: Testbed -> its evaluation classifier.
CLASSIFIERS: dict[str, Callable[[], Logits]] = {
    "digits-cfg": digits_cnn,
    "fashion-cfg": load_fashion_cnn,
}


def universal_signs(
    classifier: Logits, images: Tensor, labels: Tensor, seed: int = 0, steps: int = STEPS
) -> Tensor:
    """sign(S), (c, h, w) float32 of -1 and 1, the same for the same seed. images: (n, c, h, w)
    uint8, of classes ``labels`` (n,) int64.
    """
    draw = torch_stream(seed, "universal signs")
    total = torch.rand(images.shape[1:], generator=draw) - 0.5
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=draw)
        v = (STRENGTH * total.sign()).requires_grad_()
        perturbed = (to_unit_range(images[chosen]) + v).clamp(-1, 1)
        loss = nn.functional.cross_entropy(classifier(perturbed), labels[chosen])
        (gradient,) = torch.autograd.grad(loss, v)
        total = total + gradient.sign()
    return torch.where(total > 0, 1.0, -1.0)


@torch.no_grad()
def fooled(classifier: Logits, images: Tensor, labels: Tensor, v: Tensor) -> float:
    """The share of images + v (c, h, w) that is not taken for its class, in [0, 1]."""
    perturbed = (to_unit_range(images) + v).clamp(-1, 1)
    return float((classifier(perturbed).argmax(1) != labels).float().mean())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([*CLASSIFIERS]))
def main(names: tuple[str, ...]) -> None:
    """Print the signs for the classifiers of NAMES (default: all), and how often they fool it."""
    for name in names or CLASSIFIERS:
        data, classifier = testbeds.load(name).data, CLASSIFIERS[name]()
        taught, known = data.train_labels(), data.held_out_labels()
        if taught is None or known is None:
            raise click.ClickException(f"{name} has no labels")
        signs = universal_signs(classifier, data.train_images(), taught)
        held_out, labels = data.held_out_images()[:HELD_OUT], known[:HELD_OUT]
        coin = torch.where(torch.rand(signs.shape, generator=torch_stream(0, "coin")) > 0.5, 1, -1)
        shares = [
            fooled(classifier, held_out, labels, v)
            for v in (torch.zeros(signs.shape), STRENGTH * coin, STRENGTH * signs)
        ]
        click.echo(f"{name} {tuple(signs.shape)}: wrong without, with random signs, with these:")
        click.echo(", ".join(f"{share:.3f}" for share in shares))
        click.echo(packed(signs))


if __name__ == "__main__":
    main()
