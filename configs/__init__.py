"""Experiments: one file each, ``get_config(variant) -> ConfigDict``; ``base`` has the keys that all share."""
