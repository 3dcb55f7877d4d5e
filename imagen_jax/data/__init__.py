"""Captioned images: from where they lie to batches on the devices.

    source (key, caption, render) -> builder (ArrayRecord, once) -> load_split -> transform (one example, pure)
    -> batches (shuffle, split by host, exact resume) -> device feed (host batch -> global array)

Lives here: ``openmoji`` (a source), ``sources`` (the table of sources), ``builder`` (TFDS builder without TensorFlow),
``transforms`` (decode, resize, crop), ``batches`` (Grain), ``splits`` (stable hash), ``device_feed``.
May import: ``array_types``, ``errors``. Alone in the house it knows ``tensorflow_datasets`` and ``grain``.
"""
