"""What physics can be put into a loss? `--config configs/pinn.py[:PROBLEM]`.

The default is the heat equation; `all` solves every problem, `optimizers` the heat equation with
every optimizer. Solutions to compare with are computed: nothing is downloaded.
"""

from ml_collections import ConfigDict

# What each problem changes in the settings below.
PROBLEMS = {
    "heat": {"iterations": 12_000, "candidates": 20_000},
    "heat_fast": {
        "problem": "heat",
        "options": {"k": 0.1},
        "iterations": 7000,
        "candidates": 20_000,
    },
    "inverse_heat": {"iterations": 1000},
    "inverse_heat_exact": {
        "problem": "inverse_heat",
        "options": {"noise": 0.0},
        "iterations": 8000,
    },
    "wave": {"hidden": (30, 30), "iterations": 6000},
    "poisson": {"iterations": 1000},
    "poisson_disc": {"iterations": 3000},
    "helmholtz": {"hidden": (30, 30), "steepness": 3.0, "iterations": 7000},
    "kovasznay": {"hidden": (32, 32), "iterations": 8000},
    "burgers": {"hidden": (24, 24, 24), "iterations": 8000, "candidates": 40_000},
    "allen_cahn": {"hidden": (32, 32, 32), "iterations": 16_000, "candidates": 40_000},
    "korteweg_de_vries": {"hidden": (24, 24, 24), "iterations": 3000, "windows": 20},
}
VARIANTS = ("default", *PROBLEMS, "all", "optimizers")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown problem {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.seeds = 3 if variant == "all" else 5

    # How a problem is solved, unless config.problems or config.methods say otherwise.
    config.base = ConfigDict()
    # One of jaxdl.pinn.problems, or your own, "module:function"; empty: the one that the section of
    # config.problems is named after.
    config.base.problem = ""
    config.base.options = ConfigDict()  # its arguments: --config.base.options="{'k': 0.1}"
    # The network: a multilayer perceptron in float64.
    config.base.hidden = (24, 24)
    config.base.activation = "tanh"  # sin, swish, gelu
    config.base.steepness = 1.0  # of the first layer at the start; more for what oscillates
    # The optimizer, on all points at once.
    config.base.optimizer = "ssbroyden"  # ssbfgs, lbfgs, adam
    config.base.iterations = 600
    config.base.windows = 1  # of time; each has its own network, trained for so many iterations
    config.base.rate = 1e-3  # of adam, falling to 0 along a cosine
    # The points, and what changes them and their weights every so many iterations; 0 for never.
    config.base.points = "sobol"  # uniform, latin_hypercube, grid
    config.base.refresh = 500
    config.base.candidates = 0  # among so many random points the new ones are drawn; 0 keeps them
    config.base.power = 1.0  # drawn in proportion to |r|^power / mean + floor
    config.base.floor = 1.0
    config.base.weighting = "fixed"  # gradient_norm, causal, attention
    config.base.tolerance = 1.0  # of causal weights
    config.base.decay = 0.999  # of attention weights
    config.base.attention = 0.01  # their rate

    # What is solved, and by which methods: by name, what differs from the above.
    config.problems = ConfigDict()
    config.methods = ConfigDict()
    if variant == "all":
        for name, own in PROBLEMS.items():
            config.problems[name] = ConfigDict(own)
    else:  # one problem's settings are the base, for --config.base.KEY to change them
        config.base.update(PROBLEMS.get(variant, {}))
        name = variant if variant in PROBLEMS else "heat"  # otherwise for less long than `heat`
        config.problems[name] = ConfigDict()
    if variant == "optimizers":
        for optimizer in ("adam", "lbfgs", "ssbfgs", "ssbroyden"):
            config.methods[optimizer] = ConfigDict({"optimizer": optimizer})
    else:
        config.methods.ssbroyden = ConfigDict()

    # How it is judged and computed.
    config.heldout = 10_000  # points of a grid for the equation, beside those that are trained on
    config.iterations_per_dispatch = 100  # between two looks at the curves
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "pmap"
    config.seconds_between_saves = 30.0
    config.checkpoints = 2  # kept of each population, the latest
    return config
