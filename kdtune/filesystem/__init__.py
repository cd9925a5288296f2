"""A folder anywhere: on this machine, on a share, in a bucket of S3 or GCS. Files are written whole or not at all.

Knows nothing of studies. Begin with ``folder.Folder``, which everything above reads and writes through; ``patience``
waits for a storage that is away for a moment, ``object_stores`` opens buckets, ``lock`` lets one launch at a time
write.
"""
