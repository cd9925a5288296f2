"""One trial in one process: networks and losses built, seeded, trained, evaluated. Knows neither Ray nor tables.

Begin with ``loop.fit``, which is the whole training loop, then ``trial.run``, which builds what the loop is given.
``weights`` and ``teacher*`` are files of weights, ``energy*`` what a trial used, ``site`` where its data lie.
"""
