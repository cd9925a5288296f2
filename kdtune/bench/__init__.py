"""``kdtune bench``: speed, memory and early stopping, measured on this machine; what was measured is in README.md.

One module per command. Begin with ``figures.told``, which prints what they measure and writes it as Parquet.
"""
