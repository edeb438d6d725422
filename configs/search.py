"""Which settings are best? `--config configs/search.py[:VARIANT]`.

Everything that `configs/supervised.py` can set can be searched.
"""

from ml_collections import ConfigDict

from configs import supervised

VARIANTS = ("default", "grid", "halving", "hyperband", "pbt", "pays", "cnn")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    # Data, `base`, the settings of all networks that are not searched, and how it is computed.
    config = supervised.get_config()
    config.variant = variant

    # What is searched, by setting: ("log", low, high) or ("uniform", low, high), numbers;
    # ("integers", low, high); ("choice", (value, value, ...)).
    config.space = ConfigDict()
    config.space.rate = ("log", 1e-4, 1.0)
    config.space.momentum = ("uniform", 0.5, 0.99)
    config.space.weight_decay = ("log", 1e-6, 1e-1)
    config.space.hidden = ("choice", ((32,), (128,), (128, 128)))

    # How: one of "random", "grid", "halving", "hyperband", "pbt", or several to be compared.
    config.searches = ("random",)
    config.repetitions = 1  # of each search, with other trials and another seed for its networks
    config.budget = 32  # of each, in networks that are trained to the end; a grid has its own
    config.levels = 3  # values of each range in a grid
    config.eta = 3  # of halving and Hyperband: one in so many goes on to the next rung
    config.least = 50  # steps to the first rung; they grow by eta up to base.steps
    config.interval = 50  # steps of population-based training from one decision to the next
    config.replaced = 0.2  # the share of its population that becomes copies of the best
    config.factors = (0.8, 1.2)  # by one of which each of their settings changes

    # After it: the winner is trained again from fresh seeds, and these, to compare it with.
    config.seeds = 5
    config.methods = ConfigDict({"base": {}})  # by name, what differs from config.base
    config.baseline = "base"

    config.base.model, config.base.steps = "mlp", 600
    config.base.momentum = 0.9  # on, as in the search, so that all share a program
    config.steps_per_dispatch, config.checkpoints = 50, 1
    # With halving and PBT networks are judged before their end: their rates are not to fall by
    # then, or not by a schedule alone.
    if variant in ("halving", "hyperband", "pbt", "pays"):
        config.base.schedule = "constant"

    match variant:
        case "grid" | "halving" | "hyperband" | "pbt":
            config.searches = (variant,)
        case "pays":
            config.searches, config.repetitions = ("random", "halving", "pbt"), 5
            config.budget, config.seeds, config.interval = 16, 3, 100
            config.base.share = 200
        case "cnn":
            config.searches, config.budget = ("halving",), 16
            config.base.model, config.base.schedule = "digit_net", "constant"
            config.space.batch = ("choice", (16, 64))
    if variant in ("pbt", "pays", "cnn"):  # in training numbers alone can change
        del config.space.hidden
    return config
