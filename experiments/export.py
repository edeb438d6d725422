"""One trained network of a run, written as a safetensors file:

python -m experiments.export RUN FILE.safetensors method=dann seed=0
python -m experiments.export RUN FILE.safetensors method=fine_tuned seed=0 --names=source

The words after the file name the network, as the columns of RUN/results.csv do, as far as it takes
to tell it from the others. The file has the variables that the network is evaluated with: means,
where training kept them. Their names are paths, ``params/conv1/kernel``; or those of the source of
a fine-tuned network of jaxdl.nn.models.pretrained, ``conv1.weight``, with its frozen layers, for
which the run's data are read again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import runs
from experiments.harness.networks import from_run, parse_name
from experiments.harness.run import print_or_fail
from jaxdl.files import user_path
from jaxdl.nn.models.pretrained import PRETRAINED
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.train.checkpoint import load_network
from jaxdl.train.state import evaluation_variables

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
    # It refuses a name of several networks, of which `from_run` would choose by validation.
    variables = evaluation_variables(load_network(run, **name))
    arrays = variables
    if SOURCE in arguments:
        model = runs.load(run).content["config"].get("model")
        if model not in PRETRAINED:
            raise ValueError(
                f"{run}: no source has names for its networks; {SOURCE} is for runs with "
                f"config.model={', '.join(PRETRAINED)}"
            )
        _, network = from_run(run, **name)
        variables = network.variables
        arrays = to_source(variables, PRETRAINED[model].names(network.model))
    write_safetensors(path, arrays)
    return f"wrote {path}: {', '.join(variables['params'])}"


if __name__ == "__main__":
    print_or_fail(lambda: main(sys.argv[1:]))
