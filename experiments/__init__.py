"""Studies: each file is one, run with ``python -m experiments.NAME --config configs/NAME.py``."""

import signal
import sys

# As a program (`python -m experiments.STUDY`, of which no more is known yet): until there is
# something to save, Ctrl-C ends it at once. Python's own way may be lost within an import.
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
