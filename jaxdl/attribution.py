"""Attribution: which pixels of an image a network's output depends on.

``scores(images)`` [b, k] has a number for each image and class that depends on that image alone: a
network's logits or probabilities, ``partial(model.apply, variables)``. An attribution has a number
for each pixel, or for each pixel and channel, [b, h, w, c]; to compare them, sum over channels.
All of these functions may be jitted::

    @jax.jit
    def explain(variables, images, labels):
        return attribution.gradients(partial(model.apply, variables), images, labels)
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdl.types import AnyArray

Scores = Callable[[Float[AnyArray, "b ..."]], Float[Array, "b k"]]


def label_scores(scores: Float[Array, "b k"], labels: Int[AnyArray, " b"]) -> Float[Array, " b"]:
    """The score of each image's own class."""
    return jnp.take_along_axis(scores, jnp.asarray(labels)[:, None], 1)[:, 0]


def gradients(
    scores: Scores, images: Float[AnyArray, " b *d"], labels: Int[AnyArray, " b"]
) -> Float[Array, " b *d"]:
    """``d score / d image``; its absolute values are the saliency map of Simonyan, Vedaldi &
    Zisserman (2014). In the place of images there may be a stage's activations."""
    return jax.grad(lambda x: jnp.sum(label_scores(scores(x), labels)))(jnp.asarray(images))


def integrated_gradients(
    scores: Scores,
    images: Float[AnyArray, "b h w c"],
    labels: Int[AnyArray, " b"],
    baseline: Float[AnyArray, "#b #h #w #c"],
    *,
    steps: int = 32,
) -> Float[Array, "b h w c"]:
    """``(x - x') mean_t gradient(x' + t (x - x'))`` for t at the middles of ``steps`` equal parts
    of 0 … 1 (Sundararajan, Taly & Yan 2017).

    Summed over an image they come to ``score(x) - score(x')``, up to the error of the mean.

    Args:
      baseline: x', an image that has nothing to be seen in it.
    """
    change = jnp.asarray(images - jnp.broadcast_to(baseline, images.shape))

    def add(total: Array, t: Array) -> tuple[Array, None]:
        return total + gradients(scores, images - (1 - t) * change, labels), None

    middles = (jnp.arange(steps) + 0.5) / steps
    return change * lax.scan(add, jnp.zeros_like(change), middles)[0] / steps


def occlusion(
    scores: Scores,
    images: Float[AnyArray, "b h w c"],
    labels: Int[AnyArray, " b"],
    baseline: Float[AnyArray, "#b #h #w #c"],
    *,
    window: int,
    stride: int = 1,
) -> Float[Array, "b h w"]:
    """The fall of the score when a square is replaced by the baseline: at a pixel the mean over the
    squares that cover it (Zeiler & Fergus 2014).

    Args:
      window: pixels along the square's side.
      stride: between two squares; the last ones end at the border.

    Raises:
      ValueError: for squares that leave pixels between them, or do not fit the image.
    """
    height, width = images.shape[1:3]
    if not 0 < stride <= window <= min(height, width):
        raise ValueError(
            f"squares of {window} pixels, {stride} apart, do not cover images of {height} x {width}"
        )
    corners = jnp.array(
        [
            (top, left)
            for top in (*range(0, height - window, stride), height - window)
            for left in (*range(0, width - window, stride), width - window)
        ]
    )
    base_scores = label_scores(scores(images), labels)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]

    def add(sums: tuple[Array, Array], corner: Array) -> tuple[tuple[Array, Array], None]:
        down, right = rows - corner[0], columns - corner[1]
        mask = ((down >= 0) & (down < window) & (right >= 0) & (right < window))[None]
        occluded = jnp.where(mask[..., None], baseline, images)
        fall = base_scores - label_scores(scores(occluded), labels)
        return (sums[0] + fall[:, None, None] * mask, sums[1] + mask), None

    zeros = jnp.zeros((len(images), height, width)), jnp.zeros((1, height, width))
    falls, counts = lax.scan(add, zeros, corners)[0]
    return falls / counts


def grad_cam(
    head: Scores, activations: Float[AnyArray, "b oh ow d"], labels: Int[AnyArray, " b"]
) -> Float[Array, "b oh ow"]:
    """``relu(sum_d w_d a_d)`` over the channels of a stage's activations a, with ``w_d`` the mean
    of the score's gradient over channel d (Selvaraju et al. 2017).

    Args:
      head: from the activations to the scores, ``partial(model.apply, variables, start=n)`` for the
        activations ``model.apply(variables, images, stop=n)``.
    """
    weights = gradients(head, activations, labels).mean((1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * activations, -1))


# Whether an attribution is right: pixels are taken away, or brought, in its order.


def ranks(maps: Float[AnyArray, "b h w"], key: PRNGKeyArray) -> Int[Array, "b h w"]:
    """The place of each pixel in its image's order, 0 for the largest; ties at random."""
    flat = maps.reshape(len(maps), -1)
    order = jnp.lexsort((jax.random.uniform(key, flat.shape), -flat))
    return jnp.argsort(order).reshape(maps.shape)


def perturbation_curve(
    scores: Scores,
    images: Float[AnyArray, "b h w c"],
    labels: Int[AnyArray, " b"],
    order: Int[AnyArray, "b h w"],
    baseline: Float[AnyArray, "#b #h #w #c"],
    *,
    steps: int = 20,
    insert: bool | Bool[AnyArray, ""] = False,
) -> Float[Array, "b points"]:
    """Scores while pixels are taken from the baseline, the first of an order first: deletion; or,
    in a baseline, from the image: insertion (Petsiuk, Das & Saenko 2018).

    A good order deletes soon what the score rests on, and its curve has a small area; that of
    insertion has a large one.

    Args:
      order: :func:`ranks` of an attribution.
      steps: equal parts in which the pixels go; there is a point before the first and after each.
    """

    def score(count: Array) -> Float[Array, " b"]:
        mask = (order < count)[..., None]
        x = jnp.where(mask != insert, baseline, images)
        return label_scores(scores(x), labels)

    pixels = math.prod(order.shape[1:])
    counts = jnp.array([round(i * pixels / steps) for i in range(steps + 1)])
    return lax.map(score, counts).T


def perturbation_curves(
    scores: Scores,
    images: Float[AnyArray, "b h w c"],
    labels: Int[AnyArray, " b"],
    maps: Mapping[str, Float[AnyArray, "b h w"]],
    baseline: Float[AnyArray, "#b #h #w #c"],
    key: PRNGKeyArray,
    *,
    steps: int = 20,
) -> dict[str, tuple[Float[Array, "b points"], Float[Array, "b points"]]]:
    """Deletion and insertion in the order of several attributions, by their names."""
    keys = jax.random.split(key, len(maps))
    orders = jnp.stack([ranks(m, own_key) for m, own_key in zip(maps.values(), keys, strict=True)])

    def deletion_and_insertion(order: Array) -> Float[Array, "2 b points"]:
        example = scores, images, labels, order, baseline
        modes = jnp.array([False, True])
        return lax.map(
            lambda insert: perturbation_curve(*example, steps=steps, insert=insert), modes
        )

    curves = lax.map(deletion_and_insertion, orders)
    return {name: (curves[i, 0], curves[i, 1]) for i, name in enumerate(maps)}


def area(curves: Float[AnyArray, "b points"]) -> Float[Array, " b"]:
    """The area under each curve over 0 … 1, by trapezoids."""
    return jnp.trapezoid(jnp.asarray(curves), dx=1 / (curves.shape[1] - 1))
