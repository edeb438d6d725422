"""An optimizer that is a number, so that the members of a population can differ in it."""

from collections.abc import Sequence
from functools import partial

import optax
from jax import lax
from jaxtyping import Int

from jaxdl.types import AnyArray, Params, PyTree


def switched(
    index: int | Int[AnyArray, ""], rules: Sequence[optax.GradientTransformation]
) -> optax.GradientTransformation:
    """The rule ``rules[index]``; the index may be traced. The state holds those of all rules, of
    which the others stay as they began."""

    def init(params: Params) -> tuple:
        return tuple(rule.init(params) for rule in rules)

    def update(gradient: Params, states: tuple, params: Params | None = None):
        def branch(number: int, states: tuple) -> tuple[PyTree, tuple]:
            updates, state = rules[number].update(gradient, states[number], params)
            return updates, (*states[:number], state, *states[number + 1 :])

        return lax.switch(index, [partial(branch, i) for i in range(len(rules))], states)

    return optax.GradientTransformation(init, update)
