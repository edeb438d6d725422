"""How fast is it beside what one would write instead? `--config configs/benchmark.py:VARIANT`.

Variants: `transferability` (the grid of that study, against a Python loop over a jitted step and
against PyTorch; and the engine on networks of another size), `dann` (one network of that study and
a population, against PyTorch, on the CPU and on an accelerator where there is one), `data` (images
a second, resident and streamed, against PyTorch's DataLoader), `pinn` (seconds to solve the heat
equation, against DeepXDE and jinns), `search` (the trials of a random search, against PyTorch and
Optuna), `scale` (what more devices give, what checkpoints and the start cost; against nothing
but ours) and `all`, one after the other.
"""

from ml_collections import ConfigDict

from configs import dann, pinn, search, transferability

VARIANTS = ("transferability", "dann", "data", "pinn", "search", "scale", "all")


def get_config(variant: str = "transferability") -> ConfigDict:
    """The configuration of one variant; it has the settings of the others, too, unread."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.rounds = 3  # of all contenders in turns; 0 in `all`: of each variant its own

    # transferability
    config.steps = 50  # of each network in a round
    config.study = transferability.get_config()  # the grid that is timed
    config.engine = ConfigDict()  # a population of networks of DANN's size
    config.engine.members = 8
    config.engine.steps = 20
    config.engine.batch = 64
    config.engine.learning_rate = 0.01

    config.dann = ConfigDict()
    config.dann.members = 8  # networks of the population; a multiple of the cores fills them
    config.dann.accelerator_members = 24  # the same on an accelerator
    config.dann.steps = 50  # of each network in a round
    config.dann.images = 10_000  # of each domain: noise, of MNIST-M's size
    config.dann.study = dann.get_config("mnist_to_mnist_m")  # what is trained, but for its data
    config.dann.study.methods = ConfigDict({"dann": {"adversarial": 1.0}})

    config.data = ConfigDict()
    config.data.sizes = (28, 224)  # of the images, in pixels
    config.data.images = (2000, 500)  # how many of each size
    config.data.batch = 64
    config.data.batches = 100  # of each contender and size in a round
    config.data.workers = (0, 1, 2)  # processes that stream; 0 for threads
    config.data.loader_workers = 2  # of PyTorch's DataLoader

    config.pinn = ConfigDict()
    config.pinn.seconds = 60.0  # that each contender trains in a round, from a seed of its own
    config.pinn.target = 1e-6  # of the loss on the study's held-out grid
    config.pinn.chunk = 25  # iterations between two looks at what has been reached
    config.pinn.jinns_chunk = 5  # the same of jinns' SSBroyden, whose iterations take longer
    config.pinn.natural_chunk = 2  # and of its natural gradient
    config.pinn.lbfgs_chunk = 50  # and of DeepXDE's L-BFGS, where each look costs an evaluation
    config.pinn.adam_iterations = 500  # of DeepXDE before L-BFGS; with 2000 it takes longer
    config.pinn.adam_rate = 1e-3
    config.pinn.adam_hidden = (64, 64, 64, 64)  # the network of which iterations of Adam are timed
    config.pinn.adam_chunks = 4  # of them in a round
    config.pinn.study = pinn.get_config("heat")  # what is solved
    config.pinn.study.base.options = ConfigDict({"k": 0.01, "points": 2048})
    config.pinn.study.base.candidates = 0  # the others keep their points

    config.search = ConfigDict()
    config.search.share = 8  # of the trials that the others train in a round
    config.search.study = search.get_config()  # what is searched, but for the network
    config.search.study.budget = 64  # trials
    config.search.study.space = ConfigDict()
    config.search.study.space.rate = ("log", 1e-4, 0.3)
    config.search.study.space.weight_decay = ("log", 1e-6, 1e-2)
    config.search.study.base.steps = config.search.study.steps_per_dispatch = 100  # in a round
    config.search.study.least = config.search.study.interval = 100

    config.scale = ConfigDict()
    config.scale.devices = 2  # cores, each a device, that are compared with one
    config.scale.members = 8  # networks on each
    config.scale.steps = 400  # of each network in a round
    config.scale.saves = 4  # about so many in a round, beside the one at the end
    config.scale.seconds_between_saves = 2.0  # where they are timed: longer than writing takes
    config.scale.accelerator_members = tuple(2**i for i in range(9))  # networks, on an accelerator
    config.scale.accelerator_steps = 100  # of each network in a round there
    config.scale.study = transferability.get_config()  # network, rule, batch, dispatches, interval
    if variant in ("dann", "data", "scale"):
        config.rounds = 5
    elif variant == "all":
        config.rounds = 0
    return config
