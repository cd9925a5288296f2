"""Imported once by the process from which ``forked`` forks; Ray reads on import that it is to ask for a token."""

import os

os.environ["RAY_AUTH_MODE"] = "token"

import kdtune.api
import kdtune.cli
import kdtune.cluster.jobs
import kdtune.search.experiment
import kdtune.search.launch  # noqa: F401
