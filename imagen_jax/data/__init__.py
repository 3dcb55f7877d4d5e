"""Captioned images: from where they lie to batches on the devices.

    source -> a data set on disk -> stored images -> transform -> batches -> device feed

Sources of any size, which ``prepare_data`` prepares before training, in parallel and resumable:

- ``parted_sources``: their table; ``coco``, ``openmoji`` and ``synthetic`` are in it. Each lists ``Part``s, of which a
  worker reads ``records``: a key, captions, an image's file, and what else is known of it.
- ``conversion``: a part becomes a shard of each split, in a process (``workers``) that ends when its parent does. Every
  image is looked into (``image_files``), judged (``filters``), counted (``statistics``) and written (``shards``).
  ``file_errors``: whether a file can't be read, or a disk. ``image_folders``: which files of a folder are images.
- ``preparation``: all parts, without repetitions (``repetitions``, ``duplicates``), become the data set.

Sources of a few thousand pictures that are drawn at the size asked for, when training begins:

- ``sources``: their table; ``openmoji`` and ``folder`` are in it. Each lists ``captioned_image``s: a key, a caption,
  and how to draw it at any resolution. ``builder``: draws them once (``rendering``), or finds what is prepared.

What both become: ``stored_images`` (any example at any time, train or validation by ``splits``), ``transforms`` (what
an example goes through, crops among it; ``pixels``: decode, make smaller; ``flips``: mirror), ``data_sets`` (what a run
names, one or several), ``order`` (which example of which data set comes when), ``batches`` (split by process, make
ahead, leave out what can't be read, resume exactly), ``device_feed`` (host batch to global array).

May import: ``array_types``, ``errors``, ``storage``. Alone in the house it knows ``tensorflow_datasets`` and ``grain``,
and TensorFlow is never imported.
"""
