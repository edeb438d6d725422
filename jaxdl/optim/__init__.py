"""Optimizers, schedules and projections, on Optax."""

from jaxdl.optim.optimizers import OPTIMIZERS, make_optimizer
from jaxdl.optim.projections import max_norm
from jaxdl.optim.schedules import SCHEDULES, make_schedule

__all__ = ["OPTIMIZERS", "SCHEDULES", "make_optimizer", "make_schedule", "max_norm"]
