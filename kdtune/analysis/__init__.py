"""Looks at trained networks, and hands them on: entropy of a teacher's answers, evaluation, masks, exported files.

Begin with ``evaluation.evaluate``, or with ``entropy_run.measure``: ``entropy_counts`` counts, ``entropy_cluster``
does so on many nodes, ``entropy`` stores and draws the result. ``best``, ``prediction`` and ``export`` are what comes
after a search; ``weights_file`` opens what all of them are given.
"""
