"""What a study is: a YAML file in, typed and frozen configurations out; every error names its line.

Knows the losses, networks and datasets by their names, and runs nothing. Begin with ``trial_config.TrialConfig``,
which says one training run completely; ``stage`` spans the points that are tried, ``spec`` joins the stages, ``file``
reads YAML.
"""
