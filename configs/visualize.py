"""What does a network see? `--config configs/visualize.py[:VARIANT]`.

The default trains small networks first. `run` looks into any network of a run, `resnet20` and
`vgg16` into pretrained ones, whose weights are the user's to get.
"""

from ml_collections import ConfigDict

from configs import supervised

VARIANTS = ("default", "run", "resnet20", "vgg16")


def get_config(variant: str = "default") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant

    # The network: of a run; or pretrained, with the weights of a file; or else trained first.
    config.run = ""  # the folder of a run
    config.network = ()  # which of its networks: ("method=dann", "seed=0"); the best of several
    config.pretrained = ""  # a name of jaxdl.nn.models.pretrained
    config.weights = ""  # its file
    # What is trained first, a study of its own in the sub-folder `network`: its settings.
    config.training = supervised.get_config()
    config.training.seeds = 3
    config.training.data.name = "digits_m"  # digits on patches of photographs
    config.training.data.options = ConfigDict({"seed": 0, "size": 32, "patches": 5})
    config.training.base.model = "cifar_net"
    config.training.base.steps = 600
    config.training.base.batch = 64
    config.training.methods = ConfigDict({"momentum": ConfigDict()})

    # The images: files of a folder, whose classes are the names of their folders, if the network
    # has these; or a data set (see `jaxdl.data.sources`); or else those of the network's own run.
    config.images = ""
    config.data = ConfigDict()
    config.data.name = ""
    config.data.options = ConfigDict()
    config.report_on = "test"  # the split of a data set: "validation", "train"
    config.most_images = 1000  # that are looked at, drawn at random
    config.evaluation_batch = 50  # images at a time

    # Which pixels a prediction rests on.
    config.examples = 100  # images whose attributions are compared; the first of those above
    config.stage = ""  # that Grad-CAM is taken at; empty for the last whose units see a part
    config.integration_steps = 32  # of integrated gradients
    config.window = 0  # side in pixels of the occluding squares; 0: a fifth of the image's
    config.stride = 0  # pixels between two of them; 0: half the window, rounded up
    config.perturbation_steps = 20  # in which pixels are deleted and inserted

    # What is drawn.
    config.shown = 6  # images that are predicted rightly, and the same number of mistakes
    config.stages = ()  # whose maps and units are shown; empty for all maps, units of up to four
    config.units = 3  # a stage
    config.patches = 6  # a unit, of different images

    # Of the run's report; nothing is kept of what takes seconds.
    config.seconds_between_saves = 30.0
    config.checkpoints = 2

    match variant:
        case "default":
            config.stage = "conv3"  # 6 x 6 units, where the last convolution's pooling leaves 3 x 3
        case "run":
            config.run = "runs/supervised-default"
            config.evaluation_batch = 10  # its images may be large
        case "resnet20":
            config.pretrained = "resnet20"
            config.data.name = "tfds"
            config.data.options = ConfigDict({"dataset": "cifar10", "data_dir": ""})
        case "vgg16":
            config.pretrained = "vgg16_convolutions"
            config.most_images, config.evaluation_batch = 100, 10
    return config
