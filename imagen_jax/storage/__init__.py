"""Where files lie: folders of this machine, and buckets of Google Cloud Storage, ``gs://BUCKET/FOLDER``.

    text of a flag or a config -> to_path -> pathlib.Path, or epath.Path in a bucket
    a path -> read, listed and joined as pathlib does it; written whole by ``writing`` and ``write_whole``
    a path in a bucket, and a library that reads local files -> ``local_copy``, ``local_folder``

``paths`` (both kinds of path, and what differs between them), ``buckets`` (the file system of buckets),
``folder_locks`` (one writer in a folder), ``local_copies`` (the cache), ``settings`` (what files were made with, beside
them).
"""
