"""Studies: each file is one, run with ``python -m experiments.NAME --config configs/NAME.py``."""
