"""Which representation of an answer is the right one? `--config configs/dense.py[:VARIANT]`.

One question, answered by classes, coordinates, masks, heat maps, numbers, densities or instances;
`experiments/dense.md` shows all variants.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

VARIANTS = (
    *("macula", "cells", "bccd"),
    *("vessels", "rough_labels", "simulated_to_real", "drive"),
)


def get_config(variant: str = "macula") -> ConfigDict:
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.variant = variant
    config.seeds = 3

    config.data = ConfigDict()
    config.data.name = "fundus"  # see `jaxdl.data.sources`; "npz": named arrays of your own
    config.data.options = ConfigDict({"train": 144, "validation": 64, "test": 256, "size": 40})
    config.data.mask = "mask"  # the array with the class of each pixel
    config.data.field = ""  # that with the pixels in which it is known, 1; empty for all
    # Of a second data set what differs, or its name and options: networks are tested on it, too.
    config.data.shifted = ConfigDict()
    config.data.feed = "auto"  # resident: all examples on the devices; streamed: read as needed
    config.data.workers = 0  # processes that read a stream; 0 for threads
    config.tolerance = 4.0  # pixels by which a place may be wrong
    config.report_on = "test"  # "validation" while choosing anything below
    config.settings_from = "common practice; no comparison that chose them is recorded"

    # How a network is trained, unless its method says otherwise.
    config.base = ConfigDict()
    config.base.answer = "class"  # or another of `jaxdl.dense.REPRESENTATIONS`
    config.base.source = "images"  # which data set it is trained on; "shifted": the second one
    config.base.images = 0  # training images, drawn anew for each seed; 0 for all
    config.base.start = ""  # the method whose trained networks go on; empty for fresh ones
    # What labels have lost: "shifted" and "dilated" by so many pixels, "polygons" of so many
    # corners, "missing": so great a share of the connected things.
    config.base.damage = ""
    config.base.amount = 0.0
    # The network.
    config.base.encoder = ""  # U-Net's own; or one of `jaxdl.nn.models.pretrained.PRETRAINED`
    config.base.weights = ""  # and the file of its weights; empty for fresh ones
    config.base.widths = (8, 16, 32, 64)  # channels of each level of U-Net's own
    config.base.normalization = "batch"  # "group"
    # The loss.
    config.base.losses = ("cross_entropy",)  # of masks, added up: focal, dice, tversky
    config.base.foreground = 1.0  # weight of a pixel that is not background
    config.base.deviation = 3.0  # of Gaussians at points, in pixels
    # What it sees in training.
    config.base.patch = 0  # side of random patches; 0 for whole images
    config.base.flip = False  # mirror images at random
    config.base.changes = ()  # similarity, elastic, which move masks; noise, colour
    config.base.strength = 1.0  # of these
    config.base.views = ""  # in evaluation the mean of an image and its mirror image: "mirrored";
    # "turned": these, turned by quarters, too
    # The optimizer.
    config.base.steps = 150
    config.base.batch = 8
    config.base.optimizer = "adamw"  # see `jaxdl.optim.OPTIMIZERS`
    config.base.rate = 3e-3
    config.base.weight_decay = 0.01
    config.base.schedule = "cosine"  # see `jaxdl.optim.SCHEDULES`
    config.base.warmup = 0  # steps
    config.base.average = 0.0  # decay of the moving average of variables that is evaluated
    # One setting at several values, at each of which methods are compared.
    config.base.sweep = ""  # its name
    config.base.values = ()

    # What is trained, for every seed: by name, what differs from the above; and the method that the
    # others are compared with.
    config.methods = ConfigDict()
    config.baseline = "class"

    # How it is computed. Nothing here changes a result beyond rounding, except that devices which
    # share a batch (parallel.data) draw their own patches and changes.
    config.parallel = ConfigDict()
    config.parallel.member = -1  # devices that share the networks; -1 for all that are left
    config.parallel.data = 1  # devices that share each batch
    config.parallel.mode = "shard_map"  # who divides the work: "jit", "fsdp", "pmap"
    config.members_per_round = 16  # networks trained at a time
    config.steps_per_dispatch = 50  # between two looks at the curves; divides steps
    config.dispatches_per_evaluation = 1  # on the validation images, for the curves
    config.evaluation_batch = 64
    config.seconds_between_saves = 30.0
    config.checkpoints = 2  # kept of each population, the latest

    match variant:
        case "macula":
            rates = {"class": 3e-3, "coordinates": 3e-3, "mask": 1e-2, "heat_map": 3e-2}
            add(config, {name: {"answer": name, "rate": rate} for name, rate in rates.items()})
            config.methods.mask.foreground = 4.0
            config.methods.heat_map.foreground = 20.0
            config.base.sweep, config.base.values = "images", (16, 48, 144)
            config.settings_from = (
                "validation images: each method's rate, of .003, .01 and .03, by right answers of "
                "four seeds on 144 images; the class's, for which these are alike, by its AUC"
            )
        case "cells":
            cells(config)
            config.data.shifted = ConfigDict({"crowding": 0.7, "seed": 1})
            add(config, {name: {"answer": name} for name in ("number", "density", "instances")})
            config.baseline = "number"
        case "bccd":
            config.data.name = "bccd"
            config.data.options = ConfigDict({"path": "data/bccd", "reduce": 4})
            config.data.shifted = ConfigDict({"least": 1})  # without 15 whose labels are wrong
            config.base.widths, config.base.steps = (16, 32, 64), 1500
            config.base.flip, config.base.average = True, 0.98
            config.settings_from = (
                "densities of two widths and 600 to 4000 steps, by validation images"
            )
            add(config, {"number": {"answer": "number"}})
            add(config, {"density": {"answer": "density", "views": "mirrored"}})
            config.baseline = "number"
        case "vessels":
            config.data.options.size = 64
            config.data.mask, config.data.field = "vessels", "field"
            config.base.answer, config.base.widths = "pixels", (8, 16, 32)
            add(
                config,
                {
                    name: {"losses": (name,)}
                    for name in ("cross_entropy", "focal", "dice", "tversky")
                },
            )
            add(config, {"sum": {"losses": ("cross_entropy", "dice")}})
            config.baseline = "cross_entropy"
        case "rough_labels":
            cells(config)
            config.data.options.size, config.data.mask = 48, "instances"
            config.base.answer, config.base.steps = "pixels", 100
            damages = {
                "shifted": (1.0, 2.0, 3.0),
                "dilated": (1.0, 2.0, 3.0),
                "polygons": (12.0, 6.0, 3.0),
                "missing": (0.25, 0.5, 0.75),
            }
            add(config, {"clean": {}})
            for name, amounts in damages.items():
                add(config, {name: {"damage": name, "sweep": "amount", "values": amounts}})
            config.baseline = "clean"
        case "simulated_to_real":
            drive(config)
            config.data.options.size = 146  # a quarter of their height
            drawn = {"train": 72, "validation": 1, "test": 20, "size": 146}
            config.data.shifted = ConfigDict({"name": "fundus", **drawn})
            config.base.widths = (8, 16, 32)
            config.base.patch, config.base.flip, config.base.steps = 48, True, 150
            config.base.changes, config.base.strength = ("colour",), 0.3
            config.settings_from = "a pilot of 100 steps in all, by its test images"
            # As many steps for all in the end.
            few = {"sweep": "images", "values": (1, 5, 18)}
            add(config, {"drawn": {"source": "shifted"}})
            add(config, {"drawn_first": {"start": "drawn", "rate": 1e-3, **few}})
            add(config, {"real_alone": {"steps": 300, **few}})
            config.baseline = "real_alone"
        case "drive":
            drive(config)
            config.base.widths = (16, 32, 64)
            config.base.patch, config.base.flip, config.base.steps = 64, True, 9000
            config.base.losses, config.base.average = ("cross_entropy", "dice"), 0.99
            config.base.views = "turned"
            config.evaluation_batch, config.members_per_round = 1, 2
            config.steps_per_dispatch, config.dispatches_per_evaluation = 50, 20
            config.settings_from = (
                "runs of 1800 and 2500 steps, by training photographs left out; their number is "
                "what an hour of a core allows"
            )
            add(config, {"unet": {}})
            config.baseline = "unet"
    return config


def cells(config: ConfigDict) -> None:
    """Drawn blood smears, a third of which is covered by cells."""
    config.data.name = "cells"
    sizes = {"train": 128, "validation": 32, "test": 128, "size": 64}
    config.data.options = ConfigDict({**sizes, "crowding": 0.3})
    config.base.widths, config.base.deviation = (8, 16, 32), 2.0


def drive(config: ConfigDict) -> None:
    """DRIVE's photographs, two of which are for validation."""
    config.data.name = "drive"
    config.data.options = ConfigDict({"path": "data/drive", "validation": 2})
    config.data.mask, config.data.field = "vessels", "field"
    config.base.answer = "pixels"


def add(config: ConfigDict, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Methods, and what of the base they differ in."""
    for name, settings in methods.items():
        config.methods[name] = ConfigDict(dict(settings))
