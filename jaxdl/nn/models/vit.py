"""Vision transformers: patches of an image as words (Dosovitskiy et al., ICLR 2021).

Ti and S are those of Touvron et al., "Training data-efficient image transformers", ICML 2021.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.nn.models.staged import Conv, Stage, Staged
from jaxdl.nn.weights.names import EQUAL, TRANSPOSED, Entry, conv, dense, layer_norm
from jaxdl.types import AnyArray

EPSILON = 1e-6  # of all layer normalizations


class Patches(nn.Module):
    """Tokens of an image: one that stands for its class, then one a patch, row by row; each with
    a vector of its position added."""

    width: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b n d"]:
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(f"images of {x.shape[1:3]} are not divided by patches of {self.patch}")
        embed = Conv(
            self.width, self.patch, self.patch, "VALID", bias=True, dtype=self.dtype, name="embed"
        )
        x = embed(x).reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], 1)
        positions = nn.initializers.normal(0.02)
        return x + self.param("positions", positions, (1, *x.shape[1:])).astype(self.dtype)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, the latter four times as wide."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b n d"], train: bool) -> Float[AnyArray, "b n d"]:
        width = x.shape[-1]
        layer = partial(nn.Dense, dtype=self.dtype)
        normalize = partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
        y = layer(3 * width, name="qkv")(normalize(name="norm1")(x))
        queries, keys, values = jnp.moveaxis(
            y.reshape(*x.shape[:2], 3, self.heads, width // self.heads), 2, 0
        )
        y = jax.nn.dot_product_attention(queries, keys, values).reshape(x.shape)
        x = x + layer(width, name="project")(y)
        y = layer(4 * width, name="mlp1")(normalize(name="norm2")(x))
        return x + layer(width, name="mlp2")(nn.gelu(y, approximate=False))


class Head(nn.Module):
    """Logits of the first token, normalized."""

    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b n d"], train: bool) -> Float[Array, "b k"]:
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)[:, 0]
        return nn.Dense(self.classes, dtype=self.dtype, name="dense")(x).astype(jnp.float32)


class ViT(Staged):
    """Stages: the patches, the blocks one by one, the logits. Positions are of one image size."""

    width: int
    """The width of a token."""
    blocks: int
    """Number of blocks."""
    heads: int
    """Number of heads of each attention."""
    classes: int
    """Number of logits."""
    patch: int = 16
    """Pixels along a patch's side."""
    dtype: Any = jnp.float32
    """Type of the computations."""

    def stages(self) -> Sequence[Stage]:
        """The patches, the blocks and the logits."""
        return [
            ("patches", partial(Patches, self.width, self.patch, self.dtype)),
            *[("block", partial(Block, self.heads, self.dtype))] * self.blocks,
            ("fc", partial(Head, self.classes, self.dtype)),
        ]


def torchvision_names(model: ViT) -> dict[str, Entry]:
    """Names as torchvision has them."""
    first, *blocks, last = model.names()
    entries = conv("conv_proj", f"{first}/embed", bias=True)
    entries["class_token"] = Entry(f"params/{first}/class_token", EQUAL)
    entries["encoder.pos_embedding"] = Entry(f"params/{first}/positions", EQUAL)
    for i, block in enumerate(blocks):
        source = f"encoder.layers.encoder_layer_{i}"
        attention = f"{source}.self_attention"
        entries[f"{attention}.in_proj_weight"] = Entry(f"params/{block}/qkv/kernel", TRANSPOSED)
        entries[f"{attention}.in_proj_bias"] = Entry(f"params/{block}/qkv/bias", EQUAL)
        entries |= dense(f"{attention}.out_proj", f"{block}/project")
        for n, layer in ((1, "mlp.0"), (2, "mlp.3")):
            entries |= layer_norm(f"{source}.ln_{n}", f"{block}/norm{n}")
            entries |= dense(f"{source}.{layer}", f"{block}/mlp{n}")
    entries |= layer_norm("encoder.ln", f"{last}/norm")
    return entries | dense("heads.head", f"{last}/dense")


def deit_names(model: ViT) -> dict[str, Entry]:
    """Names in the files of Touvron et al., and in timm's."""
    first, *blocks, last = model.names()
    entries = conv("patch_embed.proj", f"{first}/embed", bias=True)
    entries["cls_token"] = Entry(f"params/{first}/class_token", EQUAL)
    entries["pos_embed"] = Entry(f"params/{first}/positions", EQUAL)
    for i, block in enumerate(blocks):
        source = f"blocks.{i}"
        entries |= dense(f"{source}.attn.qkv", f"{block}/qkv")
        entries |= dense(f"{source}.attn.proj", f"{block}/project")
        for n in (1, 2):
            entries |= layer_norm(f"{source}.norm{n}", f"{block}/norm{n}")
            entries |= dense(f"{source}.mlp.fc{n}", f"{block}/mlp{n}")
    return entries | layer_norm("norm", f"{last}/norm") | dense("head", f"{last}/dense")


def vit_ti(classes: int = 1000, **options) -> ViT:
    """ViT-Ti; patches of 16 pixels, or ``patch=4`` for images of 32."""
    return ViT(192, 12, 3, classes, **options)


def vit_s(classes: int = 1000, **options) -> ViT:
    """ViT-S."""
    return ViT(384, 12, 6, classes, **options)


def vit_b(classes: int = 1000, **options) -> ViT:
    """ViT-B."""
    return ViT(768, 12, 12, classes, **options)
