"""Files and folders on local disks and in Google Cloud Storage buckets, ``gs://BUCKET/FOLDER``.

    text of a flag or a config -> to_path -> pathlib.Path, or epath.Path in a bucket
    a path -> read, listed and joined like a pathlib path; written atomically by ``writing`` and ``write_whole``
    a path in a bucket -> ``local_copy``, ``local_folder`` -> a library that reads local files

- ``paths``: both kinds of path, and the operations that differ between them; ``names``: checks of file names.
- ``buckets``: the file system of buckets; ``local_copies``: the cache of objects on this machine.
- ``folder_locks``, ``leases`` and ``holders``: one writer at a time in a folder.
- ``settings``: the settings that files were made with, in a file beside them.
- ``json_text``, ``array_files`` and ``zip_members``: safe readers of untrusted files.
- ``refusals``: errors of disks, networks and buckets, permanent and temporary.
"""
