"""The domain-adaptation study in tiny: two domains of four classes, in archives, for a few steps.

Launched studies import it, hence a module of its own, without what the tests need.
"""

import numpy as np

from configs.dann import get_config
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import Conv

SEEDS, STEPS, DISPATCH, BATCH = 2, 8, 2, 4
PAIR = "tiny_to_inverted"
SIZES = {
    "source": {"train": 40, "validation": 12, "test": 16},
    "target": {"train": 28, "validation": 20, "test": 24},
}


def pictures(domain, split, classes=4):
    """Bright quarters, one a class, under noise; in the target dark ones in another tint."""
    rng = np.random.default_rng([len(domain), len(split), ord(domain[0])])
    count = SIZES[domain][split]
    labels = np.arange(count) % classes
    images = rng.integers(0, 120, (count, 12, 12, 3)).astype(np.uint8)
    for image, label in zip(images, labels % 4, strict=True):
        row, column = 6 * (label // 2), 6 * (label % 2)
        image[row : row + 6, column : column + 6] += 100
    if domain == "target":
        images = 255 - images // np.array([1, 2, 1], np.uint8)
    return images, labels


def archive(path, domain, classes=4, permuted=False):
    """A domain on disk, all splits given; ``permuted`` are the labels of training alone."""
    arrays = {}
    for split in SIZES[domain]:
        images, labels = pictures(domain, split, classes)
        if permuted and split == "train":
            labels = np.random.default_rng(0).permutation(labels)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def small(classes, *, padding="VALID", **options):
    """A network that compiles quickly."""
    return AdversarialNet(
        (Conv(8, kernel=5, padding=padding, pool=2),), (8,), (8,), classes, **options
    )


class Broken(AdversarialNet):
    """A user's network with an encoder of its own, and a mistake in it."""

    def encode(self, x, train=False):
        return x.reshape(len(x), -1, 2.5)


def broken(classes, *, padding="VALID", **options):
    return Broken((), (8,), (8,), classes, **options)


def tiny(folder):
    """The study's configuration with the archives of a folder."""
    config = get_config()
    config.pair, config.seeds, config.model = PAIR, SEEDS, f"{__name__}:small"
    config.base.update({"steps": STEPS, "batch": BATCH, "rate": 0.02})
    config.steps_per_dispatch, config.seconds_between_saves = DISPATCH, 1e9
    config.evaluation_batch = 8
    own = {"conditional": 1.0, "consistency": 0.5, "changes": 0.5, "colours": 0.5}
    own |= {"dropout": 0.3, "threshold": 0.3, "backgrounds": 0.5}
    with config.unlocked():
        del config.methods.dann_consistency, config.methods.source_recoloured
        config.methods.cdan = type(config)(own)
        for domain in SIZES:
            path = str(folder / f"{domain}.npz")
            config[domain] = type(config)({"name": "npz", "options": {"path": path}})
    return config
