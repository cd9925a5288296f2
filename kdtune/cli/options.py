"""Options that several commands share, each with the one sentence that says what it does."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from kdtune.cli.errors import BadInput, check_folder, check_output

F = TypeVar("F", bound=Callable[..., Any])

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


def _country(_: Any, parameter: click.Parameter, given: str | None) -> str | None:
    """Three capital letters; whether there is such a country is seen where its electricity is looked up."""
    if given is not None and not re.fullmatch("[A-Z]{3}", given):
        raise click.UsageError(f"--country {given}: needs three capital letters (ISO 3166-1 alpha-3), such as DEU.")
    return given


def country_option(text: str, **more: Any) -> Callable[[F], F]:
    """``--country``, with a sentence of its own."""
    return click.option("--country", metavar="ISO", callback=_country, help=text, **more)


address_option = click.option(
    "--address",
    metavar="ADDR",
    help="The cluster of the study's job: http://HOST:8265; default: $RAY_ADDRESS, or where it was submitted.",
)


def writable(_: Any, __: Any, output: str | None) -> str | None:
    """That the file of ``-o`` can be written is seen before the work."""
    if output is not None:
        check_output(output)
    return output


def writable_or_uri(context: click.Context, parameter: click.Parameter, output: str) -> str:
    """The same, or a URI: its store is asked when it is written to."""
    if "://" not in output:
        writable(context, parameter, output)
    return output


def writable_folder(_: Any, __: Any, output: str | None) -> str | None:
    """The same of a folder of this machine."""
    if output is not None:
        if "://" in output:
            raise BadInput(f"{output}: is a URI: give a folder of this machine, and copy it there after")
        check_folder(output)
    return output


def writable_storage(_: Any, __: Any, output: str | None) -> str | None:
    """The same, or a URI: its store is asked when it is written to."""
    if output is not None and "://" not in output:
        check_folder(output)
    return output


figures_option = click.option(
    "-o", "--output", metavar="FILE", callback=writable, help="Parquet file for the figures; its folder must be there."
)


def numbers(
    option: str, text: str, kind: type[int] | type[float], example: str, count: int | None = None
) -> tuple[Any, ...]:
    """An option's numbers, separated by commas; ``count``: so many.

    Raises:
        UserError: not of that form.
    """
    from kdtune.errors import UserError

    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or count not in (None, len(found)):
        told = "numbers" if count is None else f"{count} whole numbers"
        raise UserError(f"{option} {text}: needs {told} separated by commas, e.g. {example}")
    return found


def settings_of(study: str, settings: Sequence[str], *, stages: Sequence[str] = ()) -> dict[str, Any]:
    """What ``--set`` gives, tried on the study: before all that takes seconds to import.

    Raises:
        UserError: no such study, or one of them or of the stages does not fit it.
    """
    from kdtune.search.options import Options, adjusted
    from kdtune.study.file import load_study
    from kdtune.study.settings import parse_set

    changes = parse_set(settings)
    adjusted(load_study(study), Options(settings=changes, stages=stages))
    return changes
