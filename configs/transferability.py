"""How transferable are features? (Yosinski et al. 2014); `--config configs/transferability.py`.

Variants, as `configs/transferability.py:NAME`: default, `quick` (a demonstration), `long` (twice
the steps, six seeds), `digits` (scikit-learn's handwritten digits); `mnist`, `cifar10`, `cifar100`
and `tfds` (any data set of TFDS), `folder` and `npz` (your own images), `imagenet` (the paper's
recipe, for a machine with GPUs).
"""

from ml_collections import ConfigDict

VARIANTS = (
    *("default", "quick", "long", "digits"),
    *("mnist", "cifar10", "cifar100", "tfds", "folder", "npz", "imagenet"),
)


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant

    # What is trained: a base for each half of the classes, seed and kind of halves, then every
    # treatment at every cut.
    config.seeds = 4  # rather than longer training: with 3, ± is too uncertain itself
    config.splits = ("random", "dissimilar")  # kinds of halves
    config.treatments = ("BnB", "BnB+", "AnB", "AnB+", "random")
    config.fine_tuned_splits = ("random",)  # as in the paper
    config.fine_tuned_directions = ("AB",)  # each direction costs as much as all frozen networks

    config.data = ConfigDict()
    config.data.name = "glyphs"
    config.data.options = ConfigDict({"train": 25, "validation": 10, "test": 150, "seed": 0})
    config.data.feed = "auto"  # resident: all images on the devices; streamed: read as needed
    config.data.workers = 0  # processes that read a stream; 0 for threads
    config.report_on = "test"  # "validation" while choosing anything below

    config.image = ConfigDict()
    config.image.subtract = "channels"  # mean, over deviation, of each; "pixels": mean of each
    config.image.crop = 0  # side of random crops (in evaluation: the middle); 0 for none
    config.image.padding = 0  # pixels on every side, before cropping
    config.image.flip = False  # mirror images at random in training

    config.model = "glyph_net"  # digit_net, cifar_net, caffenet; or your own, module:function

    # Chosen on the validation split, by the accuracy of the bases.
    config.steps = 450
    config.batch = 32
    config.optimizer = ConfigDict()
    config.optimizer.name = "nesterov"  # or another of jaxdl.optim.OPTIMIZERS
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1.2e-2
    config.optimizer.bias_rate = 1.0  # the rate of biases and scales, in multiples
    config.optimizer.max_norm = 0.0  # radius of each unit's weights; 0 for none
    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # or another of jaxdl.optim.SCHEDULES
    config.schedule.warmup = 0.5  # part of the steps over which the rate rises from 0
    config.schedule.drops = (1 / 3, 2 / 3)  # of "steps": where the rate falls to a tenth

    # How it is computed. Nothing here changes a result beyond rounding, except that devices which
    # share a batch (parallel.data) draw their own crops, mirrorings and dropout.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.data = 1  # devices that share each batch
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "fsdp", "pmap"
    config.members_per_round = 16  # networks (frozen ones: bases) trained at a time
    config.steps_per_dispatch = 50  # between two looks at the curves; divides steps
    config.dispatches_per_evaluation = 3  # on the validation images, for the curves
    config.evaluation_batch = 480
    config.seconds_between_saves = 20.0
    config.checkpoints = 2  # kept of each population, the latest

    match variant:
        case "quick":
            config.seeds = 2
            config.splits = ("random",)
            config.treatments = ("BnB", "AnB", "random")
            config.steps = 300
            config.data.options.test = 50
        case "long":
            config.seeds = 6
            config.members_per_round = 12
            config.steps *= 2
        case "digits":
            config.data.name = "digits"
            config.data.options = ConfigDict({"seed": 0})
            config.model = "digit_net"
            config.splits = ("random",)
            config.steps = 400
        case "mnist" | "cifar10" | "cifar100" | "tfds" | "folder" | "npz":
            # Chosen for CIFAR-10, on its validation split.
            config.seeds = 3
            config.members_per_round = 12
            config.model = "cifar_net"
            config.image.flip = variant in ("cifar10", "cifar100")
            config.splits = ("random", "dissimilar") if variant == "cifar10" else ("random",)
            config.steps = 2000
            config.optimizer.name = "momentum"
            config.optimizer.learning_rate = 0.03
            config.optimizer.weight_decay = 5e-3
            config.schedule.warmup = 0.015
            config.steps_per_dispatch = 200
            config.dispatches_per_evaluation = 1
            config.evaluation_batch = 500
            # Shares or numbers of the training images, for splits that the data do not have.
            config.data.options = ConfigDict({"validation": 0.1, "test": 0.2, "seed": 0})
            if variant in ("folder", "npz"):
                config.data.name = variant
                config.data.options.path = ""  # the folder, the file
            else:
                config.data.name = "tfds"
                config.data.options.dataset = "" if variant == "tfds" else variant
                config.data.options.data_dir = ""  # empty for TFDS's own, ~/tensorflow_datasets
            if variant == "tfds":
                config.data.options.builder = ConfigDict()  # settings of a builder made here
            if variant in ("folder", "tfds"):
                config.data.options.size = 0  # side to resize to; 0 if all are of one size
                config.data.options.fit = "crop"  # the middle square, or "stretch"
                config.data.options.channels = 0  # 1 or 3 to convert; 0 if all are alike
        case "imagenet":
            # Everything as in the paper, whose networks took 9.5 days each on a GPU of 2014.
            config.seeds = 4  # random halves: those of the paper are of seeds 0 … 3
            config.data.name = "folder"
            config.data.options = ConfigDict()
            config.data.options.path = ""  # holds train/n01440764/*.JPEG, …, val/n01440764/*.JPEG
            config.data.options.validation = 0.01  # of the training images; val is the test
            config.data.options.seed = 0
            config.data.options.size = 256
            config.data.options.fit = "stretch"  # as Caffe's own script did
            config.data.options.channels = 3  # some of ImageNet's files are grey, some CMYK
            config.data.workers = 8
            config.image.subtract = "pixels"
            config.image.crop = 227
            config.image.flip = True
            config.model = "caffenet"
            config.steps = 450_000
            config.batch = 256
            config.optimizer.name = "momentum"
            config.optimizer.learning_rate = 0.01
            config.optimizer.bias_rate = 2.0
            config.optimizer.weight_decay = 5e-4
            config.schedule.name = "steps"
            config.schedule.warmup = 0
            config.schedule.drops = tuple(i * 100_000 / 450_000 for i in (1, 2, 3, 4))
            config.members_per_round = 1
            config.steps_per_dispatch = 10
            config.dispatches_per_evaluation = 500
            config.evaluation_batch = 250
            config.seconds_between_saves = 900.0
    return config
