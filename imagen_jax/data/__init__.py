"""Captioned images: from files to batches on the devices.

    source -> prepared data set -> stored images -> transform -> batches -> device feed

- ``sources/``: where images and captions come from; ``preparation/``: how they become a prepared data set.
- ``stored_images``: random access to the examples of the training or the validation split (``splits``).
- ``transforms`` turns an example into a model's input; ``pixels`` decodes and resizes; ``flips`` mirrors;
  ``degradations`` makes bad small images; ``opened_images`` opens image files within limits.
- ``data_sets``: the data sets of a run; ``order``: the order of their examples; ``batches``: sharded by process,
  prefetched and exactly resumable; ``device_feed``: host batch to global array.
- ``classes``: the classes of images by their keys; ``class_words`` and ``class_files``: their descriptions, bundled and
  in files of users.
- ``tokenizer``: captions to token ids; ``prompts``: prompts from files and from the command line.

Only this package imports ``tensorflow_datasets`` and ``grain``. TensorFlow is never imported.
"""
