"""Which way do optimizers go? `--config configs/landscape.py`.

Functions of two variables: a saddle, a narrow valley, a plateau, and Rosenbrock's. Every optimizer
tries every rate on each of them, from the same starts.
"""

from ml_collections import ConfigDict

VARIANTS = ("default",)


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.surfaces = ("saddle", "valley", "plateau", "rosenbrock")
    # Those of jaxdl.optim, with their usual numbers. (AdamW and Muon are Adam here: no coordinate
    # decays, and there is no matrix.)
    config.optimizers = ("sgd", "momentum", "nesterov", "adagrad", "adadelta")
    config.optimizers += ("rmsprop", "adam", "lion")
    # All of them are tried. At the surface's own start, whose paths are drawn, the best is chosen.
    config.rates = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    # The numbers are from so many other starts, normally distributed around that one, with this
    # standard deviation in parts of the window's sides.
    config.seeds = 5
    config.spread = 0.002
    config.steps = 1000
    config.tolerance = 0.01  # a value up to this counts as the minimum, which has 0
    config.animate = False  # whether landscape.gif is written

    # How it is computed.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the paths; -1 for all that are left
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "pmap"
    config.steps_per_dispatch = 250  # between two looks at the curves; divides steps
    config.seconds_between_saves = 30.0
    config.checkpoints = 2  # kept, the latest
    return config
