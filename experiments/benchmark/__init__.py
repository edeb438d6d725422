"""How fast is jaxdl beside what one would write instead? ``python -m experiments.benchmark``."""
