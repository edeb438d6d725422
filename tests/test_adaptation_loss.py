"""The whole loss of adaptation, on a network written out here: term by term, values and gradients.

Against formulas put together from the pure pieces, domain by domain, and differentiated without
:func:`jaxdl.adaptation.reverse_gradient`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxdl import adaptation as ad
from jaxdl.nn import losses
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import Conv

STEPS, CLASSES, FEATURES = 100, 3, 5
WEIGHTS = dict(zip(ad.TERMS, (0.7, 0.4, 1.5, 30.0, 0.2, 0.8, 0.3, 0.9), strict=True))
KEY = jax.random.key(5)
_, KEY_SOURCE, KEY_TARGET = jax.random.split(KEY, 3)


class Tiny:
    """An encoder of one layer and two linear heads."""

    @staticmethod
    def apply(variables, x, *train, method, **options):
        del train, options
        p = variables["params"]
        match method:
            case "encode":
                return jnp.tanh(x.reshape(len(x), -1) @ p["encoder"])
            case "classify":
                return x @ p["label_head"]
            case "discriminate":
                return x @ p["domain_head"][: x.shape[-1]]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


PARAMS = {
    "encoder": normal(0, 8, FEATURES),
    "label_head": normal(1, FEATURES, CLASSES),
    "domain_head": normal(2, FEATURES * CLASSES),  # as many as the conditional one reads
}


def batch_of(terms):
    """A batch with what these terms need and no more."""
    source = {"image": normal(3, 6, 2, 2, 2), "label": np.asarray([0, 1, 2, 2, 1, 0])}
    target = {"image": normal(4, 4, 2, 2, 2) + 0.5}
    if "consistency" in terms:
        target["changed"] = target["image"] + 0.1 * normal(6, 4, 2, 2, 2)
    return {"source": source} | ({"target": target} if set(terms) & {*ad.UNLABELLED} else {})


def hyper_of(step=50, **weights):
    numbers = {"reversal": 0.6, "radius": 0.8, "threshold": 0.5}
    return {"weights": WEIGHTS | weights, "step": np.int32(step), **numbers}


def rise_at(step):
    return 2 / (1 + math.exp(-10 * step / STEPS)) - 1


def fast(fn):
    """``jit`` for what runs a few times: most of these tests' time is compilation."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def program(terms):
    loss = ad.adaptation_loss(Tiny, terms, STEPS)
    return fast(jax.value_and_grad(loss, has_aux=True))


def ours(terms, step=50, **weights):
    """Value, metrics and gradients."""
    (value, (_, metrics)), gradients = jax.device_get(
        program(terms)(PARAMS, {}, batch_of(terms), hyper_of(step, **weights), KEY)
    )
    return value, metrics, gradients


@functools.cache
def value_and_gradients(fn, *args):
    """Of ``fn(params, *args)``."""
    return jax.device_get(fast(jax.value_and_grad(lambda params: fn(params, *args)))(PARAMS))


def predict(params, images):
    return Tiny.apply(
        {"params": params},
        Tiny.apply({"params": params}, images, method="encode"),
        method="classify",
    )


def label_loss(params):
    source = batch_of(())["source"]
    logits = predict(params, source["image"])
    picked = jnp.take_along_axis(logits, source["label"][:, None], 1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)


def domain_loss(params, conditional):
    """Without reversal."""
    logits, weights = [], []
    for images in (batch_of(("mmd",))[domain]["image"] for domain in ("source", "target")):
        features = Tiny.apply({"params": params}, images, method="encode")
        weight = jnp.ones(len(images))
        if conditional:
            p = jax.lax.stop_gradient(jax.nn.softmax(predict(params, images)))
            weight = 1 + jnp.exp(jnp.sum(p * jnp.log(p), -1))
            features = jnp.stack(
                [jnp.outer(f, q).reshape(-1) for f, q in zip(features, p, strict=True)]
            )
        logits.append(features @ params["domain_head"][: features.shape[-1]])
        weights.append(weight / jnp.sum(weight))
    source, target = (jax.nn.sigmoid(each) for each in logits)
    return -(weights[0] @ jnp.log(source) + weights[1] @ jnp.log(1 - target)) / 2


def assert_close(a, b, tolerance=2e-7):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_without_terms_it_is_the_cross_entropy():
    value, metrics, gradients = ours(())
    expected, slope = value_and_gradients(label_loss)
    assert_close((value, gradients), (expected, slope))
    assert set(metrics) == {"label_loss"}
    assert_close(metrics["label_loss"], expected)


@pytest.mark.parametrize("step", [0, 50, 100])
@pytest.mark.parametrize("term", ["adversarial", "conditional"])
def test_the_domain_head_descends_and_the_encoder_ascends_by_lambda(term, step):
    """The reversed gradient is -lambda times the plain one; the label head has no part in it."""
    weight, scale = WEIGHTS[term], 0.6 * rise_at(step)
    value, metrics, gradients = ours((term,), step)
    label, label_slope = value_and_gradients(label_loss)
    domain, slope = value_and_gradients(domain_loss, term == "conditional")
    assert_close(value, label + weight * domain)
    assert_close(metrics["domain_loss"], domain)
    assert_close(metrics["reversal"], scale)
    assert np.abs(slope["encoder"]).max() > 1e-3 and np.abs(slope["domain_head"]).max() > 1e-3
    expected = label_slope | {
        "domain_head": weight * slope["domain_head"],
        "encoder": label_slope["encoder"] - scale * weight * slope["encoder"],
    }
    assert_close(gradients, expected)


def test_domain_accuracy_is_counted_by_domain():
    _, metrics, _ = ours(("adversarial",))
    right = [
        np.mean(
            (np.tanh(np.reshape(images, (len(images), -1)) @ PARAMS["encoder"]))
            @ PARAMS["domain_head"][:FEATURES]
            * sign
            > 0
        )
        for sign, images in zip(
            (1, -1),
            (batch_of(("mmd",))[d]["image"] for d in ("source", "target")),
            strict=True,
        )
    ]
    assert_close(metrics["domain_accuracy"], np.mean(right))


def piece(params, term):
    """One of the other terms, put together by hand: before the rise and the weight."""
    batch = batch_of(("consistency",))
    images = [batch[domain]["image"] for domain in ("source", "target")]
    features = [jnp.tanh(x.reshape(len(x), -1) @ params["encoder"]) for x in images]
    match term:
        case "mmd":
            return losses.maximum_mean_discrepancy(*features)
        case "coral":
            return losses.correlation_alignment(*features)
        case "entropy":
            p = jax.nn.softmax(features[1] @ params["label_head"])
            return -jnp.mean(jnp.sum(p * jnp.log(p), -1))
        case "vat_source" | "vat_target":
            which = int(term == "vat_target")
            of, key = jnp.asarray(images[which]), (KEY_SOURCE, KEY_TARGET)[which]
            loss = losses.virtual_adversarial_loss(
                lambda x: predict(params, x), of, key, radius=0.8
            )
            return jnp.mean(loss)
        case "consistency":
            hidden = np.tanh(images[1].reshape(len(images[1]), -1) @ PARAMS["encoder"])
            p = scipy.special.softmax(hidden @ PARAMS["label_head"], -1)
            sure = p.max(-1) > 0.5
            assert 0 < sure.sum() < len(p)
            changed = jax.nn.log_softmax(predict(params, batch["target"]["changed"]))
            return -jnp.sum(changed[np.arange(len(p)), p.argmax(-1)] * sure) / len(p)


@pytest.mark.parametrize("step", [0, 50, 100])
@pytest.mark.parametrize("term", ad.TERMS[2:])
def test_each_term_is_its_piece_times_weight_and_rise(term, step):
    grown = WEIGHTS[term] * (1.0 if term == "vat_source" else rise_at(step))
    plain, added = value_and_gradients(label_loss), value_and_gradients(piece, term)
    value, _, gradients = ours((term,), step)
    expected = jax.tree.map(lambda one, other: one + grown * other, plain, added)
    assert_close((value, gradients), expected)
    assert max(float(np.abs(g).max()) for g in added[1].values()) > 1e-4
    assert not np.any(gradients["domain_head"])


def test_all_terms_add_up():
    """Together: the sum of what each adds alone."""
    for adversary in ("adversarial", "conditional"):
        terms = (adversary, *ad.TERMS[2:])
        value, metrics, gradients = ours(terms)
        alone = {term: ours((term,)) for term in terms}
        base, _, slope = ours(())
        total = base + sum(v - base for v, _, _ in alone.values())
        slopes = jax.tree.map(
            lambda s, *g: s + sum(x - s for x in g), slope, *(g for _, _, g in alone.values())
        )
        assert_close((value, gradients), (total, slopes))
        names = {"label_loss", "domain_loss", "domain_accuracy", "reversal", "confident"}
        assert set(metrics) == names


def test_a_term_of_weight_zero_adds_nothing():
    base, _, slope = ours(())
    for term in ad.TERMS:
        value, _, gradients = ours((term,), **{term: 0.0})
        assert_close((value, gradients), (base, slope))


def variables_of(model, images):
    """Variables of a network: what ``init`` draws takes long to compile."""
    shapes, rng = jax.eval_shape(model.init, KEY, images), np.random.default_rng(7)

    def draw(low, high, tree):
        return jax.tree.map(lambda s: rng.uniform(low, high, s.shape).astype(s.dtype), tree)

    ranges = {"params": (-0.5, 0.5), "batch_stats": (0.5, 1.5)}
    return {kind: draw(*ranges[kind], tree) for kind, tree in shapes.items()}


def test_dropout_is_drawn_from_the_key_and_is_one_for_all_calls_of_a_step():
    """The virtual adversarial loss of predictions that do not depend on the image is 0: it would
    not be, if two calls dropped other features."""
    model = AdversarialNet((Conv(4, padding="VALID"),), (6,), (4,), CLASSES, dropout=0.5)
    with jax.enable_x64(False):
        images, labels = normal(0, 6, 4, 4, 1).astype(np.float32), np.arange(6) % CLASSES
        batch = {"source": {"image": images, "label": labels}}
        params = variables_of(model, images)["params"]
        (name,) = (n for n in params if n.startswith("encoder"))
        still = params | {name: jax.tree.map(np.zeros_like, params[name])}
        still[name] |= {"bias": np.ones(4, np.float32)}
        loss = ad.adaptation_loss(model, ("vat_source",), STEPS)

        run = fast(loss)

        def values(params, key):
            total, (_, metrics) = run(params, {}, batch, hyper_of(vat_source=1.0), key)
            return float(total), float(metrics["label_loss"])

        for seed in range(3):
            total, label = values(still, jax.random.key(seed))
            assert total == pytest.approx(label, abs=1e-6)
        first, again, other = (values(params, jax.random.key(i)) for i in (0, 0, 1))
        assert first == again and first[1] != other[1]


def test_a_target_that_no_term_needs_is_ignored():
    """Images may be drawn upon those of a target that the loss does not see."""
    batch = batch_of(("mmd",))
    batch["target"]["image"] = np.full_like(batch["target"]["image"], np.nan)
    (value, _), gradients = program(())(PARAMS, {}, batch, hyper_of(50), KEY)
    expected, slopes = value_and_gradients(label_loss)
    assert_close((value, gradients), (expected, slopes))


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (("adversarial", "dann"), r"unknown terms \['dann'\]: choose from adversarial"),
        (("adversarial", "conditional"), "one domain classifier"),
        (("adversarial", "mmd", "conditional"), "one domain classifier"),
    ],
)
def test_unknown_terms_and_two_adversaries_are_refused(terms, says):
    with pytest.raises(ValueError, match=says):
        ad.adaptation_loss(Tiny, terms, STEPS)


# Batch normalization.

BATCH_NORM = AdversarialNet((Conv(4, kernel=2),), (5,), (5,), CLASSES, batch_norm=True)


def start(apart):
    variables = variables_of(BATCH_NORM, batch_of(())["source"]["image"])
    return ad.statistics_apart(variables) if apart else variables


@fast
def moved(variables, images):
    """Statistics after a batch, by Flax; and the features that it normalizes."""
    features, new = BATCH_NORM.apply(
        variables, images, train=True, method="encode", mutable=["batch_stats"]
    )
    return features, new["batch_stats"]


@fast
def loss_of(variables, source, target, labels):
    """The loss of normalized features; without a target, the source's alone."""
    loss = jnp.mean(
        losses.cross_entropy(BATCH_NORM.apply(variables, source, method="classify"), labels)
    )
    if target is None:
        return loss
    return loss + WEIGHTS["mmd"] * rise_at(50) * losses.maximum_mean_discrepancy(source, target)


@pytest.mark.parametrize("terms", [("mmd",), ()])
@pytest.mark.parametrize("apart", [False, True])
def test_an_encoder_is_normalized_by_both_domains_or_by_each(terms, apart):
    variables, batch = start(apart), batch_of(terms)
    loss_fn = fast(ad.adaptation_loss(BATCH_NORM, terms, STEPS, apart=apart))
    collections = {"batch_stats": variables["batch_stats"]}
    total, (new, _) = loss_fn(variables["params"], collections, batch, hyper_of(), KEY)
    plain = ad.statistics_of_domain(variables, 0) if apart else variables
    source = batch["source"]["image"]
    images = [source, batch["target"]["image"]] if terms else [source]
    if apart:
        pairs = [moved(plain, domain) for domain in images]
        features = np.concatenate([features for features, _ in pairs])
        expected = {"source": pairs[0][1], "target": pairs[-1][1]}
    else:
        features, expected = moved(plain, np.concatenate(images))
    assert_close(new["batch_stats"], expected)
    by_domain = np.split(np.asarray(features), [len(source)]) if terms else (features, None)
    loss = loss_of(plain, *by_domain, batch["source"]["label"])
    np.testing.assert_allclose(total, loss, rtol=1e-6)


def test_statistics_that_are_kept_apart_are_found_again():
    variables = start(apart=False)
    other = jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])
    both = ad.statistics_apart(variables)
    both["batch_stats"]["target"] = other
    assert_close(ad.statistics_of_domain(both, 0), variables)
    target = fast(ad.statistics_of_domain)(both, jnp.int32(1))
    assert_close(target, {**variables, "batch_stats": other})


@pytest.mark.parametrize("apart", [False, True])
def test_without_statistics_there_are_none_to_keep_apart(apart):
    terms = ("adversarial", "mmd")
    loss = ad.adaptation_loss(Tiny, terms, STEPS, apart=apart)
    total, (new, _) = fast(loss)(PARAMS, {}, batch_of(terms), hyper_of(), KEY)
    assert new == {}
    pieces = (label_loss,), (domain_loss, False), (piece, "mmd")
    label, domain, discrepancy = (value_and_gradients(*each)[0] for each in pieces)
    expected = label + WEIGHTS["adversarial"] * domain + WEIGHTS["mmd"] * rise_at(50) * discrepancy
    np.testing.assert_allclose(total, expected, rtol=1e-6)
