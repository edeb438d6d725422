"""Optimizers, schedules, penalties and projections, on Optax."""

from jaxdl.optim.line_search import wolfe_searched
from jaxdl.optim.optimizers import OPTIMIZERS, make_optimizer
from jaxdl.optim.penalties import penalized, penalty
from jaxdl.optim.projections import max_abs, max_norm
from jaxdl.optim.quasi_newton import (
    restart,
    scale_by_ssbfgs,
    scale_by_ssbroyden,
    ssbfgs,
    ssbroyden,
)
from jaxdl.optim.schedules import SCHEDULES, annealed, make_schedule, one_cycle

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "annealed",
    "make_optimizer",
    "make_schedule",
    "max_abs",
    "max_norm",
    "one_cycle",
    "penalized",
    "penalty",
    "restart",
    "scale_by_ssbfgs",
    "scale_by_ssbroyden",
    "ssbfgs",
    "ssbroyden",
    "wolfe_searched",
]
