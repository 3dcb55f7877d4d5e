"""Experiments: one file each, ``get_config(variant) -> ConfigDict``; they import nothing of the package."""
