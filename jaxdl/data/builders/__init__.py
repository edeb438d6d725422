"""Data sets made here, from nothing but what the environment already holds."""
