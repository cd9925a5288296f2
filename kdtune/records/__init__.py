"""What a trial and a launch leave on storage, and who reads it: the journal is the truth, tables follow from it.

Knows how one trial is trained, not how trials are scheduled. Begin with ``journal.follow``, which runs a trial and
writes every evaluation down; ``storage`` says which file holds what, ``rows`` which column, ``live_tables`` writes the
Parquet.
"""
