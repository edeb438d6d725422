"""Configurations, one file a study: ``get_config(variant)``."""
