"""Data: sources, builders, splits, batches and augmentation."""
