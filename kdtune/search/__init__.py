"""Stages on Ray Tune: the two-stage protocol itself.

Begin with ``launch.Launch.run``. ``course`` knows which stages wait, run and are decided, ``opening`` plans each;
``experiment`` is one Tune experiment for all of them, ``worker.run_trial`` what runs in a worker. ``early_stopping``,
``halving`` and ``searchers`` decide what runs, ``callbacks`` notes what only the driver knows, ``ledger`` what the
launch knows of its trials. Training, records and Ray's own affairs are the wings below.
"""
