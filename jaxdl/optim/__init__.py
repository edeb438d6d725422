"""Optimizers, schedules and projections, on Optax."""

from jaxdl.optim.line_search import wolfe_searched
from jaxdl.optim.optimizers import OPTIMIZERS, make_optimizer
from jaxdl.optim.projections import max_norm
from jaxdl.optim.quasi_newton import (
    restart,
    scale_by_ssbfgs,
    scale_by_ssbroyden,
    ssbfgs,
    ssbroyden,
)
from jaxdl.optim.schedules import SCHEDULES, annealed, make_schedule

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "annealed",
    "make_optimizer",
    "make_schedule",
    "max_norm",
    "restart",
    "scale_by_ssbfgs",
    "scale_by_ssbroyden",
    "ssbfgs",
    "ssbroyden",
    "wolfe_searched",
]
