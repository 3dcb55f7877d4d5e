"""Converts a source into a prepared data set: in parallel, resumable, and byte-identical each time.

    parts -> worker processes -> decode, filter, count -> shards -> remove duplicates -> manifest

- ``preparation``: the whole job; ``conversion``: one part into one shard of each split; ``workers``: processes that end
  with their parent; ``begun_jobs``: the settings of an interrupted job.
- ``image_files``: checks an image file; ``file_errors``: separates unreadable files from failing disks; ``filters``;
  ``statistics`` and ``summary``; ``shards`` writes; ``duplicates`` and ``repetitions`` find equal images.
- ``builder``: finds a prepared data set, or renders a small source into one.
"""
