"""Augmentation on the device: random changes of a batch of images, as pure functions of a key.

``crop_and_flip(...)``, ``similarity(...)`` and the other makers give an ``Augment``, a function
``(key, images) -> images`` that works under jit, vmap (over members, say) and scan. With a mask,
``(key, images, mask) -> (images, mask)``, integers [batch, height, width], crops and warps move it
with its image, by the nearest pixel; what comes from outside is -1, or 255 in bytes: missing.
Other changes leave it as it is. ``compose`` chains them. ``mixup`` and ``cutmix`` change labels
too, so they are functions of their own.

Images are floats [batch, height, width, channels]. Crops, warps, noise, MixUp and CutMix take any
scale, so also images whose mean is subtracted; what changes grey levels or colours says so, takes
0..255 and gives 0..255. Crops take any dtype; the dtype stays.

Example i draws from ``fold_in(key, i)``: its draws depend on its place in the batch, not on the
batch's size. Inside ``shard_map`` every device counts from 0, so fold its index into the key first.

Strengths (angles, ranges, deviations, alpha) may be scalar arrays, so that members of a population
can differ in them. A traced one is not checked; sizes and smoothness must be numbers.

Where a warp reads outside the image, ``edge`` decides: "constant" reads ``fill``, "nearest" the
nearest pixel, "mirror" the image reflected about the centre of its border pixels.
"""

from jaxdl.data.augment.colours import (
    autocontrast,
    channel_levels,
    colour,
    equalize,
    gaussian_noise,
    grey_levels,
    invert,
    posterize,
    solarize,
)
from jaxdl.data.augment.geometry import (
    EDGES,
    affine,
    centre_crop,
    crop_and_flip,
    elastic,
    shear,
    similarity,
)
from jaxdl.data.augment.mixing import (
    augmix,
    augmix_operations,
    cutmix,
    cutout,
    mixup,
)
from jaxdl.data.augment.per_image import (
    Augment,
    compose,
)

__all__ = [
    "EDGES",
    "Augment",
    "affine",
    "augmix",
    "augmix_operations",
    "autocontrast",
    "centre_crop",
    "channel_levels",
    "colour",
    "compose",
    "crop_and_flip",
    "cutmix",
    "cutout",
    "elastic",
    "equalize",
    "gaussian_noise",
    "grey_levels",
    "invert",
    "mixup",
    "posterize",
    "shear",
    "similarity",
    "solarize",
]
