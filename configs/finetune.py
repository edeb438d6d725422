"""What does a trained network save you? `--config configs/finetune.py[:VARIANT]`.

Variants: default (drawn characters to handwritten digits on photographs, nothing to download);
`folder`, `npz`, `tfds` (your own images, with weights of a file), `cats_dogs` and
`cifar10_to_digits` (weights that others have trained); `experiments/finetune.md` shows them.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

VARIANTS = ("default", "folder", "npz", "tfds", "cats_dogs", "cifar10_to_digits")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.seeds = 5  # each draws its own images, new layers, order, and, below, its own donor

    # The images that are learnt, and of how many: the first 10 of a seed are among its first 30.
    config.data = ConfigDict()
    config.data.name = "digits_m"  # see `jaxdl.data.sources`
    config.data.options = ConfigDict({"seed": 0, "size": 14, "margin": 3, "channels": 1})
    config.data.feed = "auto"  # resident: all images on the devices; streamed: read as needed
    config.data.workers = 0  # processes that read a stream; 0 for threads
    config.images = (10, 30, 100, 300)  # 0 for all
    config.report_on = "test"  # "validation" while choosing anything below
    config.settings_from = "validation accuracies of the default: of rates .003, .01, .03, .1"

    # The donor: a network with the weights of a file, or one a seed that is trained in this run.
    config.model = "glyph_net"  # of `jaxdl.nn.models`, or of its `pretrained`; "module:function"
    config.weights = ""  # the file; which one: see `jaxdl.nn.models.pretrained.PRETRAINED`
    config.source = ConfigDict()  # without weights: what it is trained on
    config.source.name = "glyphs"
    config.source.options = ConfigDict({"train": 25, "validation": 10, "test": 20, "seed": 0})
    config.source.training = ConfigDict()  # what differs from the base below
    config.source.training.steps = 800
    config.source.training.rate = 0.03
    config.source.training.weight_decay = 1.2e-2
    config.source.training.warmup = 30

    # How a network is trained, unless its method says otherwise.
    config.base = ConfigDict()
    config.base.start = "donor"  # all its stages but the last; "fresh"; a method's networks
    config.base.frozen = 0  # so many of the first stages; -1: all but the last
    config.base.statistics = "updated"  # of batch normalization above that, in training; "frozen"
    config.base.changes = ()  # of images in training: similarity, elastic, noise, colour, augmix
    config.base.strength = 1.0  # of these
    config.base.flip = False  # mirror images at random in training
    config.base.padding = 0  # pixels on every side, before random crops of the old size
    config.base.smoothing = 0.0  # of labels
    config.base.steps = 200
    config.base.batch = 32
    config.base.optimizer = "momentum"  # see `jaxdl.optim.OPTIMIZERS`
    config.base.rate = 0.01
    config.base.weight_decay = 1e-3
    config.base.schedule = "cosine"  # see `jaxdl.optim.SCHEDULES`
    config.base.warmup = 0  # steps

    # What is trained, for every seed and number of images: by name, what differs from the base; and
    # the method that the others are compared with.
    config.methods = ConfigDict()
    add(config, {"scratch": {"start": "fresh", "rate": 0.03}})
    add(config, {"frozen": {"frozen": -1}})
    add(config, {"fine_tuned": {}})
    add(config, {"head_first": {"start": "frozen"}})
    add(config, {"fixed_statistics": {"statistics": "frozen"}})
    add(config, {"augmented": {"changes": ("similarity",)}})
    config.baseline = "scratch"
    # One method whose first n stages are frozen, too, for each of these n.
    config.every_stage = "fine_tuned"  # empty for none
    config.stages = (1, 2, 3, 4, 5, 6)

    # How it is computed. Nothing here changes a result beyond rounding, except that devices which
    # share a batch (parallel.data) draw their own changes of images.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.data = 1  # devices that share each batch
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "fsdp", "pmap"
    config.members_per_round = 60  # networks trained at a time
    config.steps_per_dispatch = 100  # between two looks at the curves; divides steps
    config.dispatches_per_evaluation = 1  # on the validation images, for the curves
    config.evaluation_batch = 128
    config.seconds_between_saves = 20.0
    config.checkpoints = 1  # kept of each population, the latest

    match variant:
        case "folder" | "npz" | "tfds":
            photographs(config, variant)
        case "cats_dogs":
            photographs(config, "folder")
            config.seeds, config.images = 2, (0,)
            fresh = {"start": "fresh", "rate": 1e-3, "statistics": "updated", "steps": 200}
            add(config, {"scratch": fresh})
            add(config, {"whole": {"start": "frozen", "flip": True, "padding": 8, "steps": 50}})
            config.baseline = "scratch"
            config.every_stage, config.stages = "frozen", (17,)
        case "cifar10_to_digits":
            config.model, config.data.name = "resnet20", "digits"
            config.data.options = ConfigDict({"seed": 0, "size": 26, "margin": 3, "channels": 3})
            config.source.name = ""
            config.seeds, config.images = 3, (10, 100)
            config.base.steps, config.steps_per_dispatch, config.base.batch = 100, 50, 16
            for name in ("fixed_statistics", "augmented"):  # the default variant compares these
                del config.methods[name]
            config.methods.frozen.rate = 1.0
            config.settings_from = (
                "validation accuracies with 100 images and one seed for frozen's rate, the "
                "greatest of .03, .1, .3, 1; the other rates are those of the default"
            )
            # The first convolution, and each of the three groups of blocks that follow it.
            config.stages = (1, 4, 7, 10)
    return config


def photographs(config: ConfigDict, name: str) -> None:
    """Your own images, two kinds or more, and a network that ImageNet taught."""
    config.seeds = 3
    config.source.name = ""
    config.model = "efficientnet_lite0"
    config.settings_from = "common practice; none was compared with another"
    config.data.name = name
    # Shares or numbers of the training images, for splits that the data do not have.
    config.data.options = ConfigDict({"validation": 0.1, "test": 0.2, "seed": 0})
    if name == "tfds":
        config.data.options.dataset = ""
        config.data.options.data_dir = ""  # empty for TFDS's own, ~/tensorflow_datasets
    else:
        config.data.options.path = ""  # the folder, the file
    config.data.options.channels = 3  # as the network's images have
    if name != "npz":
        config.data.options.size = 160  # side to resize to
        config.data.options.fit = "crop"  # the middle square, or "stretch"
    config.images = (20, 0)
    # From common practice: no accuracy has chosen these.
    config.base.optimizer, config.base.steps, config.base.batch = "adamw", 100, 16
    config.base.rate, config.base.weight_decay = 1e-4, 1e-2
    config.base.statistics, config.base.warmup = "frozen", 10
    config.methods = ConfigDict()
    add(config, {"frozen": {"frozen": -1, "rate": 1e-3, "steps": 300}})
    add(config, {"fine_tuned": {"start": "frozen", "frozen": 15}})
    config.baseline = "frozen"
    config.every_stage = ""
    config.stages = ()
    config.members_per_round = 6
    config.steps_per_dispatch = 10
    config.evaluation_batch = 64


def add(config: ConfigDict, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Methods, and what of the base they differ in."""
    for name, settings in methods.items():
        config.methods[name] = ConfigDict(dict(settings))
