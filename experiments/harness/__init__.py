"""Command line, processes, devices, settings and the course of a run, shared by all studies."""
