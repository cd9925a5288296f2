"""The command line: parse, call the wing that does it, print. Imports inside the bodies keep ``--help`` fast.

One module per group of commands. Begin with the one whose command you look for; ``options`` are shared, ``errors``
turns what went wrong into one line and an exit status.
"""

import os

import click

from kdtune import __version__
from kdtune.cli.bench import bench
from kdtune.cli.cluster import cluster
from kdtune.cli.data import data
from kdtune.cli.errors import Errors
from kdtune.cli.launch import launch, logs, pull, status, stop
from kdtune.cli.networks import best, export, models, predict
from kdtune.cli.results import report, results
from kdtune.cli.studies import losses, studies
from kdtune.cli.training import evaluate, teacher, train


@click.group(
    cls=Errors,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  kdtune launch demo     the whole protocol, on this machine, nothing downloaded
  kdtune results demo    the optimal hyperparameters
  kdtune studies list    what can be launched""",
)
@click.version_option(__version__, prog_name="kdtune")
def main() -> None:
    """Finds the hyperparameters of knowledge distillation for semantic segmentation."""
    os.environ["MPLBACKEND"] = "agg"  # figures are files: a notebook's backend may not even be installed here
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own pool keeps the memory of tables long gone


for command in (launch, status, logs, stop, pull, results, report, studies, losses, data, train, teacher, evaluate):
    main.add_command(command)
for command in (best, predict, export, models, cluster, bench):
    main.add_command(command)
