"""How transferable are features? (Yosinski et al. 2014); `--config configs/transferability.py`.

Variants, as `configs/transferability.py:NAME`: default, `quick` (a demonstration), `long` (twice
the steps, six seeds), `digits` (scikit-learn's handwritten digits).
"""

from ml_collections import ConfigDict

VARIANTS = ("default", "quick", "long", "digits")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant

    # What is trained: a base for each half of the classes, seed and kind of halves, then every
    # treatment at every cut.
    config.seeds = 3
    config.splits = ("random", "dissimilar")  # kinds of halves
    config.treatments = ("BnB", "BnB+", "AnB", "AnB+", "random")
    config.fine_tuned_splits = ("random",)  # as in the paper
    config.fine_tuned_directions = ("AB",)  # each direction costs as much as all frozen networks

    config.data = ConfigDict()
    config.data.name = "glyphs"
    config.data.options = ConfigDict({"train": 25, "validation": 10, "test": 150, "seed": 0})
    config.report_on = "test"  # "validation" while choosing anything below

    config.model = "glyph_net"

    # Chosen on the validation split: by the accuracy of the bases, and how little results scatter.
    config.steps = 1000
    config.batch = 32
    config.optimizer = ConfigDict()
    config.optimizer.name = "momentum"  # sgd, momentum, nesterov, adam, adamw
    config.optimizer.learning_rate = 0.03
    config.optimizer.weight_decay = 1.2e-2
    config.optimizer.max_norm = 0.0  # radius of each unit's weights; 0 for none
    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # constant, cosine, linear, steps
    config.schedule.warmup = 30  # steps

    # How it is computed; nothing here changes a result beyond rounding.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.data = 1  # devices that share each batch
    config.members_per_round = 12  # networks (frozen ones: bases) trained at a time
    config.steps_per_dispatch = 200  # between two looks at the curves; divides steps
    config.evaluation_batch = 480
    config.seconds_between_saves = 20.0

    match variant:
        case "quick":
            config.seeds = 2
            config.splits = ("random",)
            config.treatments = ("BnB", "AnB", "random")
            config.steps = 300
            config.steps_per_dispatch = 100
            config.data.options.test = 50
        case "long":
            config.seeds = 6
            config.steps *= 2
        case "digits":
            config.data.name = "digits"
            config.data.options = ConfigDict({"seed": 0})
            config.model = "digit_net"
            config.splits = ("random",)
            config.steps = 400
    return config
