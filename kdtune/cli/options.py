"""Options that several commands share, each with the one sentence that says what it does."""

from collections.abc import Sequence
from typing import Any

import click

storage_option = click.option(
    "--storage",
    metavar="URI",
    help="Folder or s3://, gs:// URI of the results; default: $KDTUNE_STORAGE or ~/kdtune.",
)
data_option = click.option(
    "--data-root", metavar="DIR", help="Parent of the datasets' folders; default: $KDTUNE_DATA_ROOT."
)
set_option = click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="A value for every stage that has the path, e.g. recipe.num_steps=2000.",
)
threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="Threads of a trial on a processor, part of what it is; default: the study's own, kept from its first launch.",
)


def _vouch(_: Any, __: Any, modules: Sequence[str]) -> None:
    if modules:
        from kdtune.models.builders import vouch

        vouch(modules)


module_option = click.option(
    "--py-module",
    metavar="MODULE",
    multiple=True,
    expose_value=False,
    callback=_vouch,
    help="A module whose functions may build networks: its name, file or folder; may be repeated.",
)
pack_option = click.option(
    "--pack",
    type=click.Choice(["always", "fallback", "never"]),
    envvar="KDTUNE_PACK",
    default="always",
    show_default=True,
    help="Decode the images once into $KDTUNE_CACHE; fallback: only where there is room; never: at each access.",
)
address_option = click.option(
    "--address",
    metavar="ADDR",
    help="The cluster of the study's job: http://HOST:8265; default: $RAY_ADDRESS, or where it was submitted.",
)
figures_option = click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
