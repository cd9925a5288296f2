"""What can be launched, and the loss terms that studies name: ``studies`` and ``losses``."""

import click


@click.group(epilog="Example: kdtune studies list")
def studies() -> None:
    """What can be launched."""


@studies.command("list", epilog="Example: kdtune studies list")
def studies_list() -> None:
    """List the studies that come with kdtune."""
    from kdtune.study.file import load_study, study_names

    for name in study_names():
        click.echo(f"{name:20} {load_study(name).description}")


@studies.command("show", epilog="Example: kdtune studies show demo")
@click.argument("study")
def studies_show(study: str) -> None:
    """Print a study with every default filled in."""
    from kdtune.study.file import dump, load_study

    click.echo(dump(load_study(study)), nl=False)


@studies.command("validate", epilog="Example: kdtune studies validate my-study.yaml")
@click.argument("file", type=click.Path())
@click.pass_context
def studies_validate(ctx: click.Context, file: str) -> None:
    """Print the faults of a study file, one line each; exit 2 if there are any."""
    from kdtune.study.file import find, read

    faults, spec = read(find(file))
    for fault in faults:
        click.echo(fault, err=True)
    if spec is None:
        ctx.exit(2)
    click.echo(f"{file}: valid, {len(spec.stages)} stages")


@click.group(epilog="Example: kdtune losses list")
def losses() -> None:
    """The loss terms of a study."""


@losses.command("list", epilog="Example: kdtune losses list")
def losses_list() -> None:
    """List the loss terms: symbol, source, parameters with their defaults, what they need and own."""
    from kdtune.losses.catalogue import loss_lines

    for line in loss_lines():
        click.echo(line)
