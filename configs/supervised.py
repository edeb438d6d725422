"""What trains a classifier best? `--config configs/supervised.py[:VARIANT]`.

Any data set, any model, any settings beside each other. Variants: default (scikit-learn's digits,
five optimizers with a multilayer perceptron and with convolutions), `cifar10` (ten classes, a small
network of convolutions).
"""

from ml_collections import ConfigDict

VARIANTS = ("default", "cifar10")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.seeds = 3

    config.data = ConfigDict()
    config.data.name = "digits"  # see `jaxdl.data.sources`; "tfds", "folder" or "npz": your own
    config.data.options = ConfigDict({"seed": 0})
    config.data.feed = "auto"  # resident: all images on the devices; streamed: read as needed
    config.data.workers = 0  # processes that read a stream; 0 for threads
    config.report_on = "test"  # "validation" while choosing anything below

    # How a network is trained, unless its method says otherwise.
    config.base = ConfigDict()
    config.base.model = "digit_net"  # mlp, glyph_net, cifar_net, small_net; or "module:function"
    config.base.share = 1.0  # of the training images; drawn anew for each seed
    config.base.wrong_labels = 0.0  # share of the training images whose label is drawn at random
    config.base.steps = 600
    config.base.batch = 32
    # The optimizer.
    config.base.optimizer = "momentum"  # sgd, momentum, nesterov, adam, adamw
    config.base.rate = 0.03
    config.base.weight_decay = 0.0
    config.base.bias_rate = 1.0  # the rate of biases and scales, in multiples
    config.base.max_norm = 0.0  # radius of each unit's weights; 0 for none
    config.base.clip_norm = 0.0  # the gradient's greatest 2-norm; 0 for none
    # The learning rate over the steps.
    config.base.schedule = "cosine"  # constant, cosine, linear, steps, annealed
    config.base.warmup = 0  # steps
    config.base.drops = (1 / 3, 2 / 3)  # of "steps": where the rate falls to a tenth
    # The images.
    config.base.subtract = "channels"  # mean, over deviation, of each; "pixels": mean of each
    config.base.crop = 0  # side of random crops (in evaluation: the middle); 0 for none
    config.base.padding = 0  # pixels on every side, before cropping
    config.base.flip = False  # mirror every other image in training

    # What is trained, for every seed: by name, what differs from the above; and the method that the
    # others are compared with.
    config.methods = ConfigDict()
    config.baseline = "momentum"

    # How it is computed. Nothing here changes a result beyond rounding, except that devices which
    # share a batch (parallel.data) draw their own crops, mirrorings and dropout.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.data = 1  # devices that share each batch
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "fsdp", "pmap"
    config.members_per_round = 24  # networks trained at a time
    config.steps_per_dispatch = 100  # between two looks at the curves; divides steps
    config.dispatches_per_evaluation = 1  # on the validation images, for the curves
    config.evaluation_batch = 500
    config.seconds_between_saves = 30.0
    config.checkpoints = 2  # kept of each population, the latest

    match variant:
        case "default":
            optimizers = {
                "sgd": {"rate": 0.1},
                "momentum": {"rate": 0.03},
                "nesterov": {"rate": 0.03},
                "adam": {"rate": 2e-3},
                "adamw": {"rate": 2e-3, "weight_decay": 0.05},
            }
            for name, own in optimizers.items():
                config.methods[name] = ConfigDict({"optimizer": name, **own})
                own = {"optimizer": name, "model": "mlp", **own}
                config.methods[f"{name}_mlp"] = ConfigDict(own)
        case "cifar10":
            config.seeds = 2
            config.data.name = "tfds"
            config.data.options = ConfigDict()
            config.data.options.dataset = "cifar10"
            config.data.options.validation = 0.1  # of the training images
            config.data.options.seed = 0
            config.data.options.data_dir = ""  # empty for TFDS's own, ~/tensorflow_datasets
            config.base.model = "small_net"
            config.base.steps = 6000
            config.base.batch = 64
            config.base.rate = 0.05
            config.base.weight_decay = 5e-4
            config.base.warmup = 300
            config.base.flip = True
            config.methods.momentum = ConfigDict()
            config.steps_per_dispatch = 20  # an answer to a signal within some seconds
            config.dispatches_per_evaluation = 30
    return config
