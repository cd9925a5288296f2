"""What can be launched, and the loss terms that studies name: ``studies`` and ``losses``."""

import click

from kdtune.cli.groups import Group
from kdtune.cli.options import module_option
from kdtune.cli.streams import say
from kdtune.errors import UserError


@click.group(cls=Group, epilog="Example: kdtune studies list")
def studies() -> None:
    """What can be launched."""


@studies.command("list", epilog="Example: kdtune studies list --storage s3://bucket/runs")
@click.option("--storage", metavar="URI", help="The studies in this folder or s3://, gs:// URI, instead.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), help="Of --storage; default: text.")
def studies_list(storage: str | None, form: str | None) -> None:
    """List the studies that come with kdtune; with --storage, those that were launched with it.

    Of these: the state, how many of the trials planned so far have ended, the mIoU of a student's best single run with
    its stage and method, the last sign of life.
    """
    if storage is not None:
        _list_stored(storage, form)
        return
    if form is not None:
        raise click.UsageError("--format goes with --storage.")
    from kdtune.study.file import load_study, study_names

    for name in study_names():
        say(f"{name:24} {load_study(name).description}")


def _list_stored(storage: str, form: str | None) -> None:
    import dataclasses
    import json

    from kdtune.records.stored_study import storage_root
    from kdtune.records.study_list import lines, listed

    found = listed(storage_root(storage))
    if form == "json":
        say(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    else:
        say("\n".join(lines(found)))


@studies.command("show", epilog="Example: kdtune studies show demo")
@click.argument("study")
def studies_show(study: str) -> None:
    """Print a study with every default filled in."""
    from kdtune.study.file import dump, load_study

    spec = load_study(study)
    say(dump(spec), nl=False)
    if builders := spec.builders:
        say(f"note: this study runs code of {', '.join(builders)}", err=True)


@studies.command(
    "fields",
    epilog="""\b
Examples:
  kdtune studies fields stages
  kdtune studies fields recipe.lr""",
)
@click.argument("path", required=False)
def studies_fields(path: str | None) -> None:
    """List the keys of a study file at or below PATH, or all: type, default, meaning.

    A loss term's formula and published weight: `kdtune losses show NAME`.
    """
    from kdtune.study.fields import lines

    for line in lines(path):
        say(line)


@studies.command("validate", epilog="Example: kdtune studies validate my-study.yaml")
@click.argument("file", type=click.Path())
@module_option
@click.pass_context
def studies_validate(ctx: click.Context, file: str) -> None:
    """Print the faults of a study file, one line each; exit 2 if there are any.

    Networks of other packages are built once, and what they turn out to be is told.
    """
    from kdtune.study.file import find, read

    faults, spec = read(find(file))
    for fault in faults:
        say(fault, err=True)
    if spec is None:
        ctx.exit(2)
    if spec.builders:
        from kdtune.search.networks import network_lines

        for line in network_lines(spec, external=True):
            say(line)
    say(f"{file}: valid, {len(spec.stages)} stages")


@click.group(cls=Group, epilog="Example: kdtune losses list")
def losses() -> None:
    """The loss terms of a study."""


@losses.command("list", epilog="Example: kdtune losses list")
def losses_list() -> None:
    """List the loss terms: symbol, basis, published weight, what they need, source, parameters."""
    from kdtune.losses.catalogue import loss_lines

    for line in loss_lines():
        say(line)


@losses.command("show", epilog="Example: kdtune losses show cwd")
@click.argument("name")
def losses_show(name: str) -> None:
    """Show one term: source, published weight and where it is from, parameters with defaults, needs, what it owns."""
    from kdtune.losses.catalogue import described

    try:
        lines = described(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    for line in lines:
        say(line)
