"""Looks at trained networks: the entropy of a teacher's answers, and an evaluation of weights from a file.

Begin with ``evaluation.evaluate``, or with ``entropy_run.measure``: ``entropy_counts`` counts, ``entropy_cluster``
does so on many nodes, ``entropy`` stores and draws the result.
"""
