"""Ray itself, without Tune: sessions, nodes, jobs, energy meters, and the signals that end a launch.

Knows what a study asks of a node; nothing of stages that follow each other. Begin with ``session.cluster``; ``halt``
says why a launch ends, ``share`` what each trial gets, ``nodes`` and ``inspection`` who has which data.
``environment`` is imported before Ray, which reads it.
"""
