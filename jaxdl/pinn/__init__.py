"""Physics-informed networks: derivatives, residuals, problems, where to sample and how to weigh."""
