"""Sources of images and captions.

Sources of any size are prepared before training (``prepare_data``):

- ``parted_sources``: the registry of such sources. Each lists ``Part``s, and a worker reads the ``records`` of a part:
  a key, captions, an image file and known attributes.
- ``coco`` with ``coco_annotations``; ``tar_shards`` with ``tar_members`` (webdataset); ``tables`` with ``table_rows``,
  ``rows``, ``parquet_rows``, ``record_fields`` and ``image_paths`` (CSV, JSON lines, Parquet); ``image_folders``;
  ``tux_paint``.

Small sources are rendered at the requested size when training begins:

- ``sources``: the registry of such sources; ``openmoji`` with ``openmoji_groups``, ``emoji_fonts`` with ``emoji_keys``,
  ``noto_emoji`` and ``fluent_emoji``, ``synthetic`` and ``folder``. Each lists ``captioned_image``s. ``rendering``
  renders them; ``drafts`` makes records of image files.
"""
