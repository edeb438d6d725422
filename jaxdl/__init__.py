"""JAX research codebase: what transfers, what adapts, what physics can be written into a loss."""

__version__ = "0.1.0"
