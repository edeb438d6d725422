"""Studies: each file is one, run with ``python -m experiments.NAME --config configs/NAME.py``."""

import os
import signal
import sys


def stop(number, frame):
    """End the program at once, as long as there is nothing to save. An exception would not do: some
    modules catch all that are raised while they are imported."""
    try:
        os.write(2, b"\nstopped\n")
    finally:
        os._exit(128 + number)


# As a program (`python -m experiments.STUDY`, of which no more is known yet).
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, stop)
    # Streams that are closed (`2>&-`) go nowhere: else Python has none, and the next file that is
    # opened, whichever that is, takes their place.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            file = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(file, "w" if number else "r", encoding="utf-8"))
    try:
        import jax  # noqa: F401
    except ValueError as error:  # of what it reads in the environment
        options = ((k, v) for k, v in os.environ.items() if k.startswith("JAX_"))
        assignments = [f"{k}={v}" for k, v in options if k.lower() in str(error).lower()]
        if not assignments:
            raise
        print(f"error: {' '.join(assignments)}: {error}: mend or unset it", file=sys.stderr)
        sys.exit(2)
