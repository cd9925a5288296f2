"""YAML as study files, ``--set`` and ``--model`` are read."""

import re

import yaml


class Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but 1e-4 is a number, as in YAML 1.2."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
