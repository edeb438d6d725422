"""What frozen layers put out, computed once: the examples of what is trained above them."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int
from tqdm import tqdm

from jaxdl.data.encoded import BAR, Images
from jaxdl.data.source import Split, length
from jaxdl.train.feed import Feed, Resident, make_feed
from jaxdl.trees import map_batches
from jaxdl.types import AnyArray, Variables

Apply = Callable[[Variables, AnyArray], AnyArray]
"""``apply(variables, pixels)``, pixels 0 … 255 as they are stored."""


def make_features(
    apply: Apply, mesh: Mesh, batch: int
) -> Callable[[Variables, Images], Float[np.ndarray, "n ..."]]:
    """Compile ``features(variables, images)``: what is applied to all images, on the host; each
    device of the mesh has its part of a batch.

    Args:
      batch: so many images at a time, or the next multiple of the number of devices.
    """
    every, size = P(mesh.axis_names), -(-batch // mesh.size) * mesh.size
    run = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=(P(), every), out_specs=every))

    def features(variables: Variables, images: Images) -> Float[np.ndarray, "n ..."]:
        count = images.shape[0]
        with tqdm(total=count, desc="features of frozen stages", unit=" images", **BAR) as bar:

            def apply_to(places: Int[np.ndarray, " size"]) -> AnyArray:
                outputs = run(variables, np.stack([images[int(i)] for i in places]))
                bar.update(min(size, count - bar.n))
                return outputs

            return map_batches(size, apply_to, np.arange(count))

    return features


class FeatureFeeds:
    """Feeds of what the first n layers of some networks put out, and of the labels.

    Of several networks the examples come one network after the other: example i of network k, of
    c examples, has the place ``k c + i``. Each feed is computed when it is first needed.

    Args:
      apply: ``apply(n)`` applies the first n layers.
      networks: ``networks(n)`` gives the variables of these layers, of each network.
      batch: see :func:`make_features`.
    """

    def __init__(
        self,
        apply: Callable[[int], Apply],
        networks: Callable[[int], Sequence[Variables]],
        mesh: Mesh,
        batch: int,
    ):
        self._apply, self._networks, self._mesh, self._batch = apply, networks, mesh, batch
        self._feeds: dict[tuple[int, str], Feed] = {}
        self.rates: dict[int, float] = {}
        """Images a second of computing, by n."""

    def feed(self, n: int, name: str, splits: Mapping[str, Split]) -> Feed:
        """The feed of some splits, the same for the same n and name; of the images themselves, once
        only, for n = 0."""

        def compute() -> dict[Any, Split]:
            features = make_features(self._apply(n), self._mesh, self._batch)
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
            self._feeds[key] = make(self._mesh)
        return self._feeds[key]

    def describe(self) -> str:
        """How fast they were computed, in words."""
        rates = (f"{rate:,.0f} (n = {n})" for n, rate in sorted(self.rates.items()))
        return (
            ", ".join(rates) or "none"
        ) + " images a second, compilation included, once for all networks"
