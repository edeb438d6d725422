"""What the domain-adaptation study fixes before it trains: data, methods, networks, programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import _run
from jaxdl import adaptation
from jaxdl.data import augment, encoded, sources
from jaxdl.data.source import Source, Split
from jaxdl.nn.models import ADVERSARIAL_MODELS
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import Start
from jaxdl.optim import make_optimizer
from jaxdl.train.evaluate import Accuracy, make_accuracy, make_outputs
from jaxdl.train.feed import FEEDS, Feed, make_feed
from jaxdl.train.parallel import axis_of, make_mesh, to_host
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Batch, Hyper, Variables

DOMAINS = ("source", "target")

STARTS = {"he": Start(), "glorot": Start(glorot=True), "small": Start(deviation=0.01)}
"""How layers are drawn."""

NUMBERS = ("reversal", "radius", "threshold", "range", "rate", "weight_decay")
"""Settings in which the members of one population may differ, beside the terms' weights."""


class Program(NamedTuple):
    """How networks with the same settings, but for numbers, are trained and evaluated."""

    settings: dict[str, Any]
    terms: tuple[str, ...]
    domains: tuple[str, ...]
    """Whose images a step sees: the source's (or for "target_only" the target's), or both's."""
    train: Callable
    accuracy: Accuracy
    logits: Callable
    insides: Callable
    """Features, and the logits of both heads."""
    init: Callable[[jax.Array], Variables]
    start: Callable[[Variables, dict], TrainState]


class Lab(NamedTuple):
    """All that is fixed before anything is trained."""

    config: ConfigDict
    pair: str
    """The name of the two domains: ``mnist_to_mnist_m``."""
    sources: dict[str, Source]
    """By domain."""
    mesh: Mesh
    feed: Feed
    """Of the training and validation images of both."""
    places: dict[tuple[str, str], np.ndarray]
    """By domain and split, where in the feed its images are."""
    means: np.ndarray
    """Of each domain's colours, 0 … 255: [2, c]."""
    methods: dict[str, dict[str, Any]]
    """By name, all settings."""


def make_lab(config: ConfigDict) -> Lab:
    """Data, methods and mesh.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    check(config)
    methods = {}
    for name, own in config.methods.items():
        if not isinstance(own, ConfigDict):
            raise ValueError(f"config.methods.{name}: {own!r} is not a ConfigDict of settings")
        methods[name] = config.base.to_dict() | own.to_dict()
    for name, settings in methods.items():
        check_method(config, name, settings)
    known = {}
    for domain in DOMAINS:
        options = {"unlabelled": domain == "target", **config[domain].options}
        known[domain] = sources.load(config[domain].name, **options)
    check_labels(known, methods)
    shapes = [source.splits["train"]["image"].shape[1:] for source in known.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"images of the source are {list(shapes[0])}, of the target {list(shapes[1])}: make "
            "them alike with config.source.options and config.target.options, size and channels"
        )
    mesh = make_mesh(config.parallel.member, config.parallel.data)
    splits: dict[str, Split] = {}
    places, end = {}, 0
    for domain, source in known.items():
        for split, arrays in source.splits.items():
            splits[f"{domain} {split}"] = arrays
            places[domain, split] = np.arange(end, end := end + len(arrays["label"]))
        source.test.verify()
    means = [
        encoded.statistics(source.splits["train"]["image"])[0].mean((0, 1))
        for source in known.values()
    ]
    return Lab(
        config=config,
        pair=config.pair or "_to_".join(SHORT.get(of.name, of.name) for of in known.values()),
        sources=known,
        mesh=mesh,
        feed=make_feed(config.feed, splits, mesh, config.workers),
        places=places,
        means=np.stack(means).astype(np.float32),
        methods=methods,
    )


SHORT = {"svhn_cropped": "svhn"}
"""What papers call a data set of TFDS, where that is another name."""


def check_labels(known: dict[str, Source], methods: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError where domains have other classes, or labels are missing that are needed."""
    source, target = (known[domain] for domain in DOMAINS)
    if not source.labelled:
        raise ValueError(f"config.source: {source.name} has no labels to learn")
    if not target.labelled:
        learners = [name for name, of in methods.items() if of["labels"] == "target"]
        if learners:
            raise ValueError(
                f"config.methods.{learners[0]} learns the target's labels, and {target.name} has "
                f"none: name the others alone, --config.methods=\"{{'source_only': {{}}, 'dann': "
                "{'adversarial': 1.0}}\", or give it labels"
            )
        return
    ours, theirs = source.class_names, target.class_names
    if len(ours) != len(theirs):
        raise ValueError(f"the source has {len(ours)} classes, the target {len(theirs)}")
    if odd := [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]:
        raise ValueError(f"a class of the source is {odd[0][0]!r}, of the target {odd[0][1]!r}")


def check(config: ConfigDict) -> None:
    """Raise ValueError where a setting of the whole run cannot be had."""
    if config.model not in ADVERSARIAL_MODELS:
        raise ValueError(
            f"config.model: {config.model!r} is not one of {', '.join(ADVERSARIAL_MODELS)}"
        )
    if config.feed not in FEEDS:
        raise ValueError(f"config.feed: {config.feed!r} is not one of {', '.join(FEEDS)}")
    _run.check_counts(
        config,
        *("seeds", "members_per_round", "steps_per_dispatch", "evaluation_batch"),
        "dispatches_per_evaluation",
    )
    # Both are made of the same digits, divided by the seed.
    both = [config[domain] for domain in DOMAINS]
    seeds = [of.options.get("seed", 0) for of in both]
    if all(of.name in ("digits", "digits_m") for of in both) and seeds[0] != seeds[1]:
        raise ValueError(
            f"config.source.options.seed={seeds[0]}, config.target.options.seed={seeds[1]}: digits "
            "and digits_m need the same seed, or test digits of the one train the other"
        )
    if not config.methods:
        raise ValueError("config.methods is empty: what is to be trained?")


CHOICES = {
    "labels": DOMAINS,
    "subtract": ("common", "own", "none"),
    "padding": ("VALID", "SAME"),
    "start": tuple(STARTS),
    "schedule": ("annealed", "constant"),
}
COUNTS = ("steps", "batch", "size")


def check_method(config: ConfigDict, name: str, settings: dict[str, Any]) -> None:
    """Raise ValueError where a setting of a method cannot be had."""
    where = f"config.methods.{name}"
    if unknown := sorted(settings.keys() - config.base.keys()):
        raise ValueError(f"{where}: there is no setting {unknown[0]!r}: config.base has them all")
    for key, value in settings.items():
        if key in CHOICES:
            if value not in CHOICES[key]:
                raise ValueError(
                    f"{where}.{key}: {value!r} is not one of {', '.join(CHOICES[key])}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}.{key}: {value!r} is not a number")
        elif key in COUNTS:
            least = 0 if key == "size" else 1
            if not isinstance(value, int) or not least <= value < 2**31:
                raise ValueError(f"{where}.{key} must be a whole number from {least}, not {value}")
        elif not 0 <= value < np.inf:
            raise ValueError(f"{where}.{key} must not be negative, got {value}")
    for key in ("range", "rate"):
        if not settings[key] > 0:
            raise ValueError(f"{where}.{key} must be above 0, got {settings[key]}")
    for key in ("dropout", "colours", "changes", "warps", "threshold"):
        if settings[key] > 1 or (key == "dropout" and settings[key] == 1):
            raise ValueError(f"{where}.{key} must be at most 1, got {settings[key]}")
    if settings["steps"] % config.steps_per_dispatch:
        raise ValueError(
            f"{where}.steps={settings['steps']} is not a multiple of "
            f"config.steps_per_dispatch={config.steps_per_dispatch}"
        )
    if settings["batch"] % max(1, config.parallel.data):
        raise ValueError(f"{where}.batch does not divide over config.parallel.data devices")
    if settings["coral"] and settings["batch"] < 2 * max(1, config.parallel.data):
        raise ValueError(f"{where}.coral needs at least 2 images of each domain on each device")
    if settings["labels"] == "target" and terms_of(settings):
        raise ValueError(f"{where}: trained on the target's labels, there is nothing to adapt")
    if set(adaptation.ADVERSARIES) <= set(terms_of(settings)):
        raise ValueError(f"{where}: adversarial or conditional, one domain classifier at most")


def terms_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """What a method adds to the loss of the labels."""
    return tuple(term for term in adaptation.TERMS if settings[term])


def signature(settings: dict[str, Any]) -> tuple:
    """Equal for methods that one program can train."""
    same = {k: v for k, v in settings.items() if k not in NUMBERS and k not in adaptation.TERMS}
    if not terms_of(settings):
        del same["labels"]  # it only says which images they are
    return tuple(same.items()), terms_of(settings)


def make_program(lab: Lab, settings: dict[str, Any]) -> Program:
    """Compile training and evaluation for methods with these settings, but for numbers.

    Raises:
      ValueError: if the network does not fit the images.
    """
    config, terms, mode = lab.config, terms_of(settings), lab.config.parallel.mode
    both = any(term in adaptation.UNLABELLED for term in terms)
    channels = lab.means.shape[-1]
    side = settings["size"] or lab.sources["source"].splits["train"]["image"].shape[1]
    model: AdversarialNet = ADVERSARIAL_MODELS[config.model](
        len(lab.sources["source"].class_names),
        padding=settings["padding"],
        dropout=settings["dropout"],
        start=STARTS[settings["start"]],
    )
    join = {"join": adaptation.joined} if "conditional" in terms else {}
    image = jnp.zeros((1, side, side, channels))

    @jax.jit
    def init(key: jax.Array) -> Variables:
        return {"batch_stats": {}, **model.init(key, image, **join)}

    try:
        jax.eval_shape(init, jax.random.key(0))
    except ValueError as error:
        raise ValueError(f"config.model={config.model} on images of {side}: {error}") from None

    def rule(hyper: Hyper) -> optax.GradientTransformation:
        def rate(step: jax.Array) -> jax.Array:
            if settings["schedule"] == "constant":
                return hyper["rate"]
            return adaptation.rate_schedule(step / settings["steps"], hyper["rate"])

        return make_optimizer(
            "momentum",
            rate,
            weight_decay=hyper["weight_decay"],
            max_norm=settings["max_norm"] or None,
        )

    @jax.jit
    def start(variables: Variables, hyper: Hyper) -> TrainState:
        return create_state(variables, rule, hyper)

    def encode(state: TrainState, x: jax.Array) -> jax.Array:
        return model.apply(state.variables, x, method="encode")

    def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
        del hyper
        return model.apply(state.variables, encode(state, x), method="classify")

    def insides(state: TrainState, hyper: Hyper, x: jax.Array) -> dict[str, jax.Array]:
        del hyper
        features = encode(state, x)
        classes = model.apply(state.variables, features, method="classify")
        read = adaptation.joined(features, classes) if join else features
        domain = model.apply(state.variables, read, method="discriminate")
        return {"features": features, "logits": classes, "domain": domain}

    loss = adaptation.adaptation_loss(model, terms, settings["steps"])
    prepare = make_prepare(settings, terms, both)
    seen = make_evaluation_prepare(settings)
    return Program(
        settings=settings,
        terms=terms,
        domains=DOMAINS if both else DOMAINS[:1],
        train=lab.feed.program(
            make_step(loss, rule, axis_of(mode, lab.mesh)),
            prepare,
            steps=config.steps_per_dispatch,
            batch=settings["batch"],
            mode=mode,
        ),
        accuracy=make_accuracy(logits, seen, lab.mesh, config.evaluation_batch, mode),
        logits=make_outputs(logits, seen, lab.mesh, config.evaluation_batch, mode),
        insides=make_outputs(insides, seen, lab.mesh, config.evaluation_batch, mode),
        init=init,
        start=start,
    )


def normalized(
    settings: dict[str, Any], images: jax.Array, hyper: Hyper, domain: int | jax.Array
) -> jax.Array:
    """Images 0 … 255 of a domain as the network sees them."""
    if side := settings["size"]:
        shape = (len(images), side, side, images.shape[-1])
        images = jax.image.resize(images, shape, "bilinear")
    mean = {
        "common": hyper["means"].mean(0),
        "own": hyper["means"][domain],
        "none": jnp.zeros_like(hyper["means"][0]),
    }[settings["subtract"]]
    return (images - mean) / 255 * hyper["range"]


def make_evaluation_prepare(settings: dict[str, Any]) -> Prepare:
    """Images of the domain ``hyper["domain"]``, and their labels."""

    def prepare(stored: Batch, hyper: Hyper, key: None) -> Batch:
        del key
        images = stored["image"].astype(jnp.float32)
        image = normalized(settings, images, hyper, hyper["domain"])
        return {"image": image, "label": stored["label"]}

    return prepare


def make_prepare(settings: dict[str, Any], terms: tuple[str, ...], both: bool) -> Prepare:
    """What a step is given: never a label of the target, unless the target is what is learned."""
    colours = recolour(settings["colours"])
    changes = recolour(settings["changes"])
    if settings["warps"]:
        changes = augment.compose(changes, warp(settings["warps"]))

    def prepare(stored: Batch, hyper: Hyper, key: jax.Array) -> Batch:
        one, other = jax.random.split(key)
        images = stored["image"].astype(jnp.float32)
        labelled = images[:, 0] if both else images
        if settings["colours"]:
            # Of "target_only" these are images of the target: with as much recolouring as the
            # others it is the fairer bound, since nothing but whose labels it has sets it apart.
            labelled = colours(one, labelled)
        domain = 0 if both else hyper["domain"]
        batch = {
            "source": {
                "image": normalized(settings, labelled, hyper, domain),
                "label": stored["label"][:, 0] if both else stored["label"],
            }
        }
        if both:
            batch["target"] = {"image": normalized(settings, images[:, 1], hyper, 1)}
        if "consistency" in terms:
            changed = changes(other, images[:, 1])
            batch["target"]["changed"] = normalized(settings, changed, hyper, 1)
        return batch

    return prepare


def recolour(strength: float) -> augment.Augment:
    """Invert an image or not, and change each channel's contrast and level: 0 not, 1 strongly."""
    return augment.compose(
        augment.invert(strength / 2), augment.channel_levels(0.6 * strength, 100 * strength)
    )


def warp(strength: float) -> augment.Augment:
    """Turn, scale and move an image a little: 0 not, 1 by up to 15 degrees, 15 % and 10 %."""
    scale, shift = (1 - 0.15 * strength, 1 + 0.15 * strength), (0.1 * strength, 0.1 * strength)
    return augment.similarity(15 * strength, scale, shift, edge="nearest")


def assemble_hyper(lab: Lab, program: Program, method: str, seed: int) -> Hyper:
    """What makes a member of a population: its examples, its numbers, its random key.

    Networks of one seed begin alike, where they have the same layers, and see the same source
    images in the same order, whatever their method.
    """
    settings = lab.methods[method]
    domains = DOMAINS if len(program.domains) > 1 else (settings["labels"],)
    examples = [lab.places[domain, "train"] for domain in domains]
    longest = max(len(lab.places[domain, "train"]) for domain in DOMAINS)
    padded = np.stack([np.pad(e, (0, longest - len(e))) for e in examples]).astype(np.int32)
    counts = np.array([len(e) for e in examples], np.int32)
    if len(domains) == 1:
        padded, counts = padded[0], counts[0]
    return {
        "key": member_key("train", seed),
        "examples": padded,
        "count": counts,
        "domain": np.int32(DOMAINS.index(domains[0])),
        "means": lab.means,
        "weights": {term: np.float32(settings[term]) for term in program.terms},
        **{name: np.float32(settings[name]) for name in NUMBERS},
    }


def first_images(lab: Lab, program: Program, method: str) -> tuple[np.ndarray, list[str]]:
    """Images of each domain as a network sees them in training, with their labels' names if they
    have labels."""
    settings = lab.methods[method] | {"batch": 24}
    hyper = assemble_hyper(lab, program, method, 0)
    prepare = jax.jit(make_prepare(settings, program.terms, both=True))
    ids = np.stack(
        [np.random.default_rng(0).permutation(lab.places[d, "train"])[:24] for d in DOMAINS], -1
    )
    members = lab.mesh.shape["member"]
    fetched = lab.feed.fetch(np.tile(ids.reshape(-1), (members, 1)))
    stored = {
        part: leaf[0].reshape(*ids.shape, *leaf.shape[2:])
        for part, leaf in to_host(fetched).items()
    }
    batch = prepare(stored, hyper, jax.random.key(0))
    shown, titles = [], []
    names = lab.sources["source"].class_names
    parts = [("source", "source", "image"), ("target", "target", "image")]
    if "changed" in batch["target"]:
        parts.append(("changed", "target", "changed"))
    for title, domain, part in parts:
        shown.append(np.asarray(batch[domain][part]))
        labels = stored["label"][:, DOMAINS.index(domain)]
        titles += [f"{title} {names[label]}" if label >= 0 else title for label in labels]
    return np.concatenate(shown), titles
