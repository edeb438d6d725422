"""Data: sources, builders, splits and batches."""
