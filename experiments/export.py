"""One trained network of a run, written as a safetensors file:

python -m experiments.export RUN FILE.safetensors method=dann seed=0
python -m experiments.export RUN FILE.safetensors method=fine_tuned seed=0 --names=source

The words after the file name the network, as the columns of RUN/results.csv do, as far as it takes
to tell it from the others. The names in the file are paths, ``params/conv1/kernel``, or, of the
networks in jaxdl.nn.models.pretrained, the source's: ``conv1.weight``. In those the file is whole,
with the layers that were frozen; the run's data are read again for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.harness.networks import from_run, parse_name
from experiments.harness.run import print_or_fail
from jaxdl.files import user_path
from jaxdl.nn.models.pretrained import source_names
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.train.checkpoint import load_network

SOURCE = "--names=source"


def main(arguments: Sequence[str]) -> str:
    """Export; a line that says what was written.

    Raises:
      ValueError: for other arguments than above; if there is no such network, its source's names
        are not known, or its checkpoint is damaged.
      OSError: if the file cannot be written.
    """
    words = [word for word in arguments if word != SOURCE]
    if len(words) < 2 or any(w.startswith("-") or "=" not in w for w in words[2:]):
        raise ValueError(
            "usage: python -m experiments.export RUN FILE.safetensors [COLUMN=VALUE ...] "
            f"[{SOURCE}]"
        )
    run, path, name = user_path(words[0]), user_path(words[1]), parse_name(words[2:])
    variables = load_network(run, **name)
    if SOURCE in arguments:
        _, network = from_run(run, **name)
        variables = to_source(network.variables, source_names(network.model))
    write_safetensors(path, variables)
    return f"wrote {path}"


if __name__ == "__main__":
    print_or_fail(lambda: main(sys.argv[1:]))
