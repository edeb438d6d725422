"""Declared settings: what each kind takes, and the words in which it refuses."""

import math

import pytest
from ml_collections import ConfigDict

from experiments.harness import settings
from experiments.harness.settings import Between, Count, Multiple, OneOf, Options, SomeOf, TupleOf

CONFIG = ConfigDict({"steps": 12, "every": 4, "off": 0, "data": {"feed": "auto"}})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Count(), (1, 2**31 - 1)),
        (Count(0), (0,)),
        (Between(0), (0, 0.0, 1e300)),
        (Between(0, above=True), (1e-300, 5)),
        (Between(0, 1), (0, 1, 0.5)),
        (Between(0, 1, below=True), (0, 0.999)),
        (OneOf(("a", "b")), ("a", "b")),
        (SomeOf(("a", "b")), ((), ("b",), ("b", "a"))),
        (SomeOf(("a", "b"), least=1), (("a",),)),
        (TupleOf(Count(), "(24, 24)", least=1), ((1,), [2, 3])),
        (TupleOf(Between(0, 1), "(0.5,)"), ((), (0, 1))),
        (Multiple("every"), (0, 4, 12)),
        (Multiple("off"), (7,)),
        (Options(), ({"seed": 0, "path": "x", "by_class": False}, {})),
    ],
)
def test_what_is_taken(kind, values):
    for value in values:
        kind.check("config.x", value, CONFIG)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Count(), 0, "config.x must be at least 1 and below 2^31, got 0"),
        (Count(), 2**31, "config.x must be at least 1 and below 2^31, got 2147483648"),
        (Count(), 1.5, "config.x must be a whole number from 1, not 1.5"),
        (Count(), True, "config.x: True is not a number"),
        (Count(), None, "config.x: None is not a number"),
        (Between(0), -1.0, "config.x must be at least 0 and finite, got -1.0"),
        (Between(0), math.inf, "config.x must be at least 0 and finite, got inf"),
        (Between(0), math.nan, "config.x must be at least 0 and finite, got nan"),
        (Between(0, above=True), 0.0, "config.x must be above 0 and finite, got 0.0"),
        (Between(0, 1), 1.5, "config.x must be at least 0 and at most 1, got 1.5"),
        (Between(0, 1, below=True), 1.0, "config.x must be at least 0 and below 1, got 1.0"),
        (Between(0), "fast", "config.x: 'fast' is not a number"),
        (OneOf(("a", "b")), "c", "config.x: 'c' is not one of a, b"),
        (SomeOf(("a", "b")), ("c",), "config.x: 'c' is not one of a, b"),
        (SomeOf(("a", "b")), ("a", "a"), "config.x names one thing twice: ('a', 'a')"),
        (SomeOf(("a", "b"), least=1), (), "config.x is empty: choose from a, b"),
        (
            TupleOf(Count(), "(24, 24)"),
            (0,),
            "config.x: (0,) is no tuple such as (24, 24): 0 cannot be in it",
        ),
        (TupleOf(Count(), "(24, 24)"), 3, "config.x: 3 is no tuple such as (24, 24)"),
        (
            TupleOf(Count(), "(24, 24)", least=1),
            (),
            "config.x: () is no tuple such as (24, 24): at least 1 of them",
        ),
        (
            Multiple("every"),
            6,
            "config.x=6 is not a multiple of config.every=4: give a divisor, as --config.every=3",
        ),
        (Options(), {"seed": -1}, "config.x.seed must be at least 0 and finite, got -1"),
    ],
)
def test_what_is_refused_and_how(kind, value, words):
    with pytest.raises(ValueError) as error:
        kind.check("config.x", value, CONFIG)
    assert str(error.value) == words


def test_settings_have_dots_and_several_kinds():
    settings.check(CONFIG, {"data.feed": OneOf(("auto",)), "steps": (Count(), Multiple("every"))})
    with pytest.raises(ValueError, match=r"config\.data\.feed: 'auto' is not one of disk"):
        settings.check(CONFIG, {"data.feed": OneOf(("disk",))})
    with pytest.raises(ValueError, match=r"config\.off must be at least 1"):
        settings.check_counts(CONFIG, "steps", "off")


def methods_of(**methods):
    return ConfigDict({"base": {"rate": 0.1, "steps": 4}, "every": 2, "methods": methods})


def test_a_method_is_the_base_with_changes_and_knows_where_each_value_is_from():
    kinds = {"rate": Between(0), "steps": (Count(), Multiple("every"))}
    found = settings.methods(methods_of(a={}, b={"rate": 0.2}), kinds)
    assert {name: method.settings for name, method in found.items()} == {
        "a": {"rate": 0.1, "steps": 4},
        "b": {"rate": 0.2, "steps": 4},
    }
    assert [found["b"].path(key) for key in ("rate", "steps")] == [
        "config.methods.b.rate",
        "config.base.steps",
    ]
    for methods, words in (
        ({"b": {"rate": -1.0}}, r"^config\.methods\.b\.rate must be at least 0"),
        ({"b": {"steps": 3}}, r"^config\.methods\.b\.steps=3 is not a multiple"),
        ({"b": {"rates": 1.0}}, r"^config\.methods\.b: there is no setting 'rates': is it rate\? "),
        ({"b": 3}, r"^config\.methods\.b: 3 is not a ConfigDict"),
        ({}, r"^config\.methods is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            settings.methods(methods_of(**methods), kinds)


def test_settings_in_words():
    assert settings.describe({"a": 0.5, "b": "x", "c": 2}, {"a": 0.1, "b": "x"}) == "a 0.5, c 2"
    assert settings.describe({"a": 1}, {"a": 1}) == ""
    # What is empty is told where it is a change only.
    empty = {"hidden": (), "sweep": "", "values": (), "model": "linear"}
    assert (
        settings.describe(empty, {"hidden": (64, 64), "sweep": ""}) == "hidden none, model linear"
    )
