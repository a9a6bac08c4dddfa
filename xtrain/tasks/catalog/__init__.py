"""The catalogue of tasks: one TOML file a format, each entry with the sources of its data."""

from xtrain.tasks.catalog.loading import CATALOG, load

__all__ = ["CATALOG", "load"]
