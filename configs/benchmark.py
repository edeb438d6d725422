"""How fast is it beside what one would write instead? `--config configs/benchmark.py:VARIANT`.

Variants: `transferability` (the grid of that study, against a Python loop over a jitted step and
against PyTorch; and the engine on networks of another size).
"""

from ml_collections import ConfigDict

from configs import transferability

VARIANTS = ("transferability",)


def get_config(variant: str = "transferability") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.rounds = 3  # of all contenders in turns
    config.steps = 50  # of each network in a round

    match variant:
        case "transferability":
            config.study = transferability.get_config()  # the grid that is timed
            # Speeds up dense layers on some machines; timed and compared here, used nowhere else.
            config.xla_flag = (
                "--xla_cpu_experimental_ynn_fusion_type="
                "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
            )
            config.engine = ConfigDict()  # a round of networks of DANN's size
            config.engine.members = 8
            config.engine.steps = 20
            config.engine.batch = 64
            config.engine.learning_rate = 0.01
    return config
