"""Stages on Ray Tune: the two-stage protocol itself.

Begin with ``launch.Launch.run``, stage after stage; ``stage.run_stage`` is one Tune experiment, ``worker.run_trial``
what runs in a worker. ``early_stopping`` and ``searchers`` decide what runs, ``callbacks`` notes what only the driver
knows, ``ledger`` what the launch knows of its trials. Training, records and Ray's own affairs are the wings below.
"""
