"""The engine: states, steps, populations, meshes, checkpoints and logs."""
