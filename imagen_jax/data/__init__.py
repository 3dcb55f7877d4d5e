"""Captioned images: from where they lie to batches on the devices.

    source -> builder -> stored images -> transform -> batches -> device feed

- ``sources``: the table of sources; ``openmoji`` and ``folder`` are in it. Each lists ``captioned_image``s: a key, a
  caption, and how to draw it at any resolution.
- ``splits``: train or validation, by a stable hash. ``builder``: draws a source once (``rendering``) and keeps it as
  ArrayRecord files. ``stored_images``: reads them, any example at any time.
- ``transforms``: what an example goes through (``pixels``: decode, crop, make smaller). ``batches``: shuffle, split by
  process, make ahead, resume exactly. ``device_feed``: host batch to global array.

May import: ``array_types``, ``errors``. Alone in the house it knows ``tensorflow_datasets`` and ``grain``, and
TensorFlow is never imported.
"""
