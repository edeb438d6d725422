"""One trained network of a run, written as a safetensors file:

python -m experiments.export RUN FILE.safetensors method=dann seed=0

The words after the file name the network, as the columns of RUN/results.csv do, as far as it takes
to tell it from the others. The names in the file are paths: ``params/conv1/kernel``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.harness.networks import parse_name
from experiments.harness.run import print_or_fail
from jaxdl.files import user_path
from jaxdl.nn.weights import write_safetensors
from jaxdl.train.checkpoint import load_network


def main(arguments: Sequence[str]) -> str:
    """Export; a line that says what was written.

    Raises:
      ValueError: for other arguments than above; if there is no such network, or its checkpoint is
        damaged.
      OSError: if the file cannot be written.
    """
    if len(arguments) < 2 or not all("=" in word for word in arguments[2:]):
        raise ValueError(
            "usage: python -m experiments.export RUN FILE.safetensors [COLUMN=VALUE ...]"
        )
    run, path = user_path(arguments[0]), user_path(arguments[1])
    write_safetensors(path, load_network(run, **parse_name(arguments[2:])))
    return f"wrote {path}"


if __name__ == "__main__":
    print_or_fail(lambda: main(sys.argv[1:]))
