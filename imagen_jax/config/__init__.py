"""The sections of an experiment's config: their keys, defaults and types.

``ConfigDict`` of a config file, or ``config.json`` of a run -> ``reading`` -> frozen sections (``sections``)

A section has one dataclass, and a key is one field of it. ``base`` makes the keys of a new config from these
fields. A config that lacks a key gets its default, so a config of an older version still reads. The modules import no
JAX, so that a config file loads fast.
"""
