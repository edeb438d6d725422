"""What every study shares: command line, processes, devices, settings, and the course of a run."""
