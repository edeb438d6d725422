"""Precomputed activations of frozen layers, used as training inputs of the layers above."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int
from tqdm import tqdm

from jaxdl.data.encoded import BAR, Images
from jaxdl.data.source import Split, length
from jaxdl.train.feed import Feed, Resident, make_feed
from jaxdl.train.parallel import MeshPlacement
from jaxdl.trees import map_batches
from jaxdl.types import AnyArray, Variables

Apply = Callable[[Variables, AnyArray], AnyArray]
"""``apply(variables, pixels)``, pixels 0 … 255 as they are stored."""


def make_features(
    apply: Apply, placement: MeshPlacement, batch: int
) -> Callable[[Variables, Images], Float[np.ndarray, "n ..."]]:
    """Compile ``features(variables, images)``: the activations of all images, on the host; each
    device of the mesh has its part of a batch.

    Args:
      batch: so many images at a time, or the next multiple of the number of devices.
    """
    mesh = placement.mesh
    rows, size = P(mesh.axis_names), -(-batch // mesh.size) * mesh.size
    run = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=(P(), rows), out_specs=rows))

    def features(variables: Variables, images: Images) -> Float[np.ndarray, "n ..."]:
        count = images.shape[0]
        with tqdm(total=count, desc="features of frozen stages", unit=" images", **BAR) as bar:

            def apply_to(ids: Int[np.ndarray, " size"]) -> AnyArray:
                return run(variables, np.stack([images[int(i)] for i in ids]))

            return map_batches(size, apply_to, np.arange(count), progress=bar.update)

    return features


class FeatureFeeds:
    """Feeds of the activations of the first n layers of some networks, and of the labels.

    The examples come one network after the other: example i of network k, of c examples, has the
    index ``k c + i``. Each feed is computed when it is first needed.

    Args:
      apply: ``apply(n)`` applies the first n layers.
      networks: ``networks(n)`` gives the variables of these layers, of each network.
      batch: see :func:`make_features`.
    """

    def __init__(
        self,
        apply: Callable[[int], Apply],
        networks: Callable[[int], Sequence[Variables]],
        placement: MeshPlacement,
        batch: int,
    ):
        self._apply, self._networks = apply, networks
        self._placement, self._batch = placement, batch
        self._feeds: dict[tuple[int, str], Feed] = {}
        self.rates: dict[int, float] = {}
        """Images a second of computing, by n."""

    def feed(self, n: int, name: str, splits: Mapping[str, Split]) -> Feed:
        """The feed of some splits, the same for the same n and name; n = 0: the images, stored
        once."""

        def compute() -> dict[Any, Split]:
            features = make_features(self._apply(n), self._placement, self._batch)
            parts: dict[Any, Split] = {}
            began = time.monotonic()
            networks = list(enumerate(self._networks(n)))
            for (i, variables), (split, arrays) in product(networks, splits.items()):
                outputs = features(variables, arrays["image"])
                parts[i, split] = {"features": outputs, "label": arrays["label"]}
            self.rates[n] = sum(map(length, parts.values())) / (time.monotonic() - began)
            return parts

        key = n, name
        if key not in self._feeds:
            make = partial(Resident, compute) if n else partial(make_feed, "auto", splits)
            self._feeds[key] = make(self._placement)
        return self._feeds[key]

    def describe(self) -> str:
        """The speed of computing them, in words."""
        rates = (f"{rate:,.0f} (n = {n})" for n, rate in sorted(self.rates.items()))
        return (
            ", ".join(rates) or "none"
        ) + " images a second, compilation included, once for all networks"
