"""From images as they are stored to what a network sees, and random changes on the way."""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from jaxdl.data import augment, encoded
from jaxdl.data.batches import normalize
from jaxdl.data.encoded import Images
from jaxdl.data.source import Source
from jaxdl.types import AnyArray, Batch, Hyper

See = Callable[[UInt8[AnyArray, "b h w c"], PRNGKeyArray | None], Float[Array, "b oh ow c"]]
"""``see(images, key)``: with a key as in training, without one as in evaluation."""
SeeDomain = Callable[[Float[AnyArray, "b h w c"], Hyper, int | AnyArray], Float[Array, "b oh ow c"]]
"""``see(images, hyper, domain)``: images 0 … 255 of domain 0 or 1, as a network sees them."""


def standardized(
    images: Images,
    *,
    subtract: str = "channels",
    crop: int = 0,
    padding: int = 0,
    flip: bool = False,
    change: augment.Augment | None = None,
    moments: tuple[Float[AnyArray, " c"], Float[AnyArray, " c"]] | None = None,
) -> See:
    """Subtract the mean of ``images``, the training images; in training also crop and mirror.

    Args:
      subtract: "channels": each channel's mean, and divide by its standard deviation; "pixels": the
        mean of each pixel; "middle": 127.5, and divide by that, so that black is -1 and white 1.
      crop: side of random crops, and in evaluation of the middle; 0 for none.
      padding: pixels on every side, before cropping.
      flip: whether images are mirrored in training, each with probability one half.
      change: of images 0 … 255 in training, before all else.
      moments: mean and standard deviation of the channels to be used in the place of theirs, as the
        images' that a network was trained on before.

    Raises:
      ValueError: for images that cannot be cropped and mirrored so.
    """
    shape = images.shape[1:3]
    size = " x ".join(map(str, shape))
    if crop > min(shape):  # whatever the padding: in evaluation there is none
        raise ValueError(f"crop={crop} does not fit images of {size}")
    if (crop or padding or flip) and shape[0] != shape[1]:
        raise ValueError(f"only square images are cropped, padded or mirrored, these are {size}")
    if moments:
        mean, deviation = moments
    elif subtract == "middle":
        mean = deviation = np.full(images.shape[-1:], 127.5, np.float32)
    else:
        mean, deviation = encoded.statistics(images)
        if subtract == "channels":
            mean = mean.mean((0, 1))
        else:
            deviation = np.ones_like(deviation)
    distort = augment.crop_and_flip(crop or shape[0], padding=padding, flip=flip)

    def see(images: AnyArray, key: PRNGKeyArray | None) -> Array:
        if key is not None and change:
            change_key, key = jax.random.split(key)
            images = change(change_key, images.astype(jnp.float32))
        images = normalize(images, mean, deviation)
        if key is not None and (crop or padding or flip):
            return distort(key, images)
        return augment.centre_crop(crop)(key, images) if crop else images

    return see


def picture_batches(
    images: Images,
    *,
    patch: int = 0,
    flip: bool = False,
    change: augment.Augment | None = None,
    moments: tuple[Float[AnyArray, " c"], Float[AnyArray, " c"]] | None = None,
) -> Callable[[Batch, Hyper, PRNGKeyArray | None], Batch]:
    """Batches of :func:`standardized` images and their answers. With a key images are cut, mirrored
    (:func:`mirror`) and changed.

    A "mask" is cut and changed with its image; other answers must not depend on places if there is
    a patch, or a change that moves pixels (:data:`MOVING`).

    Of several masks of an image, [b, versions, h, w], a network learns from that of the number
    ``hyper["mask"]``, and is evaluated by the first.

    Args:
      patch: the side of random square pieces; 0 for whole images.
      flip: whether images are mirrored, each with probability one half.
      change: of images 0 … 255 and masks, after that.
      moments: see :func:`standardized`.

    Raises:
      ValueError: for images that have no such pieces.
    """
    shape, see = images.shape[1:3], standardized(images, moments=moments)
    if patch > min(shape):
        size = " x ".join(map(str, shape))
        raise ValueError(f"patch={patch}: images of {size} have pieces of 1 to {min(shape)}")
    cut = augment.crop_and_flip(patch, flip=False) if patch else None

    def prepare(stored: Batch, hyper: Hyper, key: PRNGKeyArray | None) -> Batch:
        batch: Batch = dict(stored)
        if "mask" in stored:
            batch = {**batch, "mask": stored["mask"][:, 0 if key is None else hyper["mask"]]}
        if key is not None:
            keys = jax.random.split(key, 3)
            batch = augmented(cut, keys[0], batch)
            batch = mirror(keys[1], batch) if flip else batch
            batch = augmented(change, keys[2], batch)
        return {**batch, "image": see(batch["image"], None)}

    def augmented(change: augment.Augment | None, key: PRNGKeyArray, batch: Batch) -> Batch:
        if change is None:
            return batch
        image = batch["image"].astype(jnp.float32)
        if "mask" not in batch:
            return {**batch, "image": change(key, image)}
        image, mask = change(key, image, batch["mask"])
        return {**batch, "image": image, "mask": mask}

    return prepare


MAPS = ("image", "mask", "instances", "depth")
"""Arrays [b, h, w, …] that :func:`mirror` mirrors."""
POINTS = ("point", "points")
"""Arrays of rows and columns, [b, …, 2], that it mirrors."""


def mirror(key: PRNGKeyArray, batch: Batch) -> Batch:
    """A batch, of which each image is mirrored left to right with probability one half, with its
    :data:`MAPS` and :data:`POINTS`; all other arrays are the same of both."""
    width = batch["image"].shape[2]
    is_mirrored = jax.random.bernoulli(key, shape=batch["image"].shape[:1])
    mirrored = dict(batch)
    for name in batch.keys() & {*MAPS}:
        mirrored[name] = jnp.flip(batch[name], 2)
    for name in batch.keys() & {*POINTS}:
        rows, columns = batch[name][..., 0], batch[name][..., 1]
        mirrored[name] = jnp.stack([rows, width - 1 - columns], -1)

    def choose(new: AnyArray, old: AnyArray) -> Array:
        return jnp.where(jnp.expand_dims(is_mirrored, range(1, old.ndim)), new, old)

    return jax.tree.map(choose, mirrored, batch)


def mean_colours(domains: Iterable[Source]) -> Float[np.ndarray, "d c"]:
    """The mean of each channel of the training images of each domain, for :func:`centred`."""
    images = (domain.splits["train"]["image"] for domain in domains)
    means = [encoded.statistics(part)[0].mean((0, 1)) for part in images]
    return np.stack(means).astype(np.float32)


def centred(subtract: str = "common", side: int = 0) -> SeeDomain:
    """``(image - mean) / 255 * hyper["range"]``, with the mean colours ``hyper["means"]`` [2, c] of
    two domains.

    Args:
      subtract: which mean: "common" to both domains; "own"; or "none".
      side: images are resized to it before; 0 keeps their size.
    """

    def see(images: AnyArray, hyper: Hyper, domain: int | AnyArray) -> Array:
        if side:
            shape = (len(images), side, side, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear")
        means = jnp.asarray(hyper["means"])
        mean = {"common": means.mean(0), "own": means[domain], "none": jnp.zeros_like(means[0])}
        return (images - mean[subtract][None, None, None]) / 255 * hyper["range"]

    return see


MOVING = frozenset(("similarity", "elastic", "augmix"))
"""Names of :func:`augmentations` that move pixels."""


def augmentations(names: Sequence[str], strength: float, side: int) -> augment.Augment | None:
    """Changes of images 0 … 255 by name, one after the other; None for none.

    - ``similarity``: :func:`warp`;
    - ``elastic``: :func:`jaxdl.data.augment.elastic`, whose root mean square is some 1/20 of the
      ``side``, as the paper's for MNIST;
    - ``noise``: Gaussian, of deviation 25;
    - ``colour``: contrast by 30 % and level by 30, of each channel;
    - ``augmix``: of the nine operations of the paper.

    Args:
      strength: multiplies all of these amounts.
      side: of the images, in pixels.

    Raises:
      ValueError: for a name that is none of these.
    """
    makers: dict[str, Callable[[], augment.Augment]] = {
        "similarity": lambda: warp(strength),
        "elastic": lambda: augment.elastic(
            strength * 34 * (side / 28) ** 2, 4 * side / 28, edge="nearest"
        ),
        "noise": lambda: augment.gaussian_noise(25 * strength),
        "colour": lambda: augment.channel_levels(0.3 * strength, 30 * strength),
        "augmix": lambda: augment.augmix(augment.augmix_operations(0.3 * strength)),
    }
    if unknown := [name for name in names if name not in makers]:
        raise ValueError(f"unknown augmentation {unknown[0]!r}: choose from {', '.join(makers)}")
    return augment.compose(*(makers[name]() for name in names)) if names else None


def recolour(strength: float) -> augment.Augment:
    """Invert an image or not, and change each channel's contrast and level: 0 not, 1 strongly."""
    return augment.compose(
        augment.invert(strength / 2), augment.channel_levels(0.6 * strength, 100 * strength)
    )


def warp(strength: float) -> augment.Augment:
    """Turn, scale and move an image a little: 0 not, 1 by up to 15 degrees, 15 % and 10 %."""
    scale, shift = (1 - 0.15 * strength, 1 + 0.15 * strength), (0.1 * strength, 0.1 * strength)
    return augment.similarity(15 * strength, scale, shift, edge="nearest")


def draw_on_backgrounds(
    key: PRNGKeyArray,
    strokes: Float[AnyArray, "b h w c"],
    backgrounds: Float[AnyArray, "b h w c"],
) -> Float[Array, "b h w c"]:
    """Strokes on black upon backgrounds, blended as MNIST-M's: ``255 - background`` where a stroke
    is above 0, else ``background``; all 0 … 255.

    A background is a random piece of the image of the same number, turned by any angle and
    magnified by 2 to 4: it keeps colours and texture, and little of what the image shows.
    """
    magnify = augment.similarity(180.0, (2.0, 4.0), (0.3, 0.3), edge="nearest")
    pieces = magnify(key, backgrounds)
    return jnp.where(strokes > 0, 255 - pieces, pieces)


def domain_batches(
    see: SeeDomain,
    *,
    paired: bool,
    recolour: augment.Augment | None = None,
    backgrounds: float = 0.0,
    change: augment.Augment | None = None,
) -> Callable[[Batch, Hyper, PRNGKeyArray | None], Batch]:
    """Batches of a labelled and an unlabelled domain, for
    :func:`jaxdl.adaptation.adaptation_loss`: never a label of the second. Without a key, as in
    evaluation, images of the domain ``hyper["domain"]`` and their labels.

    Args:
      paired: whether images of both domains are stored side by side, [b, 2, h, w, c]. Otherwise all
        are labelled ones of the domain ``hyper["domain"]``.
      recolour: changes the labelled images.
      backgrounds: the share of them, strokes on black, that are drawn on unlabelled ones instead,
        by :func:`draw_on_backgrounds`.
      change: makes another view of the unlabelled images, ``changed``.

    Raises:
      ValueError: for backgrounds without unlabelled images.
    """
    if backgrounds and not paired:
        raise ValueError("backgrounds are pieces of unlabelled images: paired=True")

    def prepare(stored: Batch, hyper: Hyper, key: PRNGKeyArray | None) -> Batch:
        images, labels = stored["image"].astype(jnp.float32), stored["label"]
        if key is None:
            return {"image": see(images, hyper, hyper["domain"]), "label": labels}
        recolour_key, change_key, background_key, share_key = jax.random.split(key, 4)
        domain = 0 if paired else hyper["domain"]
        unchanged = images[:, 0] if paired else images
        labelled = recolour(recolour_key, unchanged) if recolour else unchanged
        if backgrounds:
            drawn = draw_on_backgrounds(background_key, unchanged, images[:, 1])
            has_background = jax.random.bernoulli(share_key, backgrounds, (len(images), 1, 1, 1))
            labelled = jnp.where(has_background, drawn, labelled)
        batch = {
            "source": {
                "image": see(labelled, hyper, domain),
                "label": labels[:, 0] if paired else labels,
            }
        }
        if paired:
            batch["target"] = {"image": see(images[:, 1], hyper, 1)}
        if change:
            batch["target"]["changed"] = see(change(change_key, images[:, 1]), hyper, 1)
        return batch

    return prepare
