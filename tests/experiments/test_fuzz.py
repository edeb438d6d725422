"""Settings of any type and size, and files damaged in any way: a run begins, or one line says why
not. ValueError is what becomes that line (`experiments.harness.run.user_input`)."""

import json
import math
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from ml_collections import ConfigDict

from configs import dann, pinn, transferability
from experiments import dann as adaptation
from experiments import pinn as physics
from experiments import transferability as transfer
from experiments.harness import settings as declared
from experiments.harness.study import COMMON, claim
from jaxdl.train import logs
from jaxdl.types import DamagedFile

STUDIES = {
    "transferability": (transferability, transfer, transfer.make_rule),
    "dann": (dann, adaptation, adaptation.check),
    "pinn": (pinn, physics, physics.plan),
}
SKIPPED = {"variant", "pair"}  # names of the run
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1.0, 1e-300, 1e300, math.nan, math.inf]),
)
VALUES = {
    bool: st.booleans(),
    int: st.integers(-(2**70), 2**70) | st.integers(-3, 3),
    float: NUMBERS,
    str: st.text(max_size=8) | st.sampled_from(["", "random", "../..", "a:b", "\x00", "os:system"]),
    tuple: st.lists(NUMBERS | st.text(max_size=4), max_size=3).map(tuple),
}


def leaves(config, path=()):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, (*path, key))
        elif key not in SKIPPED:
            yield (*path, key), value


@pytest.mark.parametrize("study", STUDIES)
@given(data=st.data())
@settings(max_examples=150)
def test_any_value_that_a_flag_can_set_is_taken_or_refused_in_words(study, data):
    module, its_study, check = STUDIES[study]
    config = module.get_config(data.draw(st.sampled_from(module.VARIANTS)))
    every = list(leaves(config))
    for _ in range(data.draw(st.integers(1, 3))):
        path, value = data.draw(st.sampled_from(every))
        section = config
        for key in path[:-1]:
            section = section[key]
        new = data.draw(VALUES.get(type(value), st.none()))
        try:
            section[path[-1]] = new
        except TypeError:  # another type than the setting's: refused before the study begins
            continue
    try:
        declared.check(config, {**its_study.SETTINGS.kinds, **COMMON})
        check(config)
    except ValueError as error:
        assert str(error).strip() and len(str(error)) < 2000


class Name(NamedTuple):
    """Of a network."""

    seed: int


@settings(max_examples=200)
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), byte=st.integers(0, 255))
def test_damaged_curves_are_read_or_named(tmp_path_factory, cut, flip, byte):
    path = tmp_path_factory.mktemp("curves") / "metrics.jsonl"
    records = [{"population": "a", "seed": s, "step": 10, "loss": 0.5} for s in range(5)]
    logs.append(path, records)
    data = bytearray(path.read_bytes())
    data[min(flip, len(data) - 1)] = byte
    path.write_bytes(data[: len(data) - min(cut, len(data))])
    try:
        found = logs.Curves(path).by_network(Name)
        assert all(isinstance(name.seed, int) for name in found)
        assert logs.Curves(path).rewind("a", 10) <= len(records)
    except DamagedFile as error:
        assert "metrics.jsonl, line" in str(error)


@given(
    content=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
    ).map(lambda tree: json.dumps({"config": tree, "data": tree}).encode())
)
def test_a_work_folder_with_any_config_json_is_refused_in_words(tmp_path_factory, content):
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged|holds a run that differs in"):
        claim(workdir, pinn.get_config(), {})
    assert (workdir / "config.json").read_bytes() == content
