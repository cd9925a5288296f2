"""What a study found: ``results`` and ``report``."""

import sys
from typing import Any

import click

from kdtune.cli.errors import BadInput, check_output, write_file
from kdtune.cli.options import data_option, module_option, storage_option, writable
from kdtune.cli.streams import say


@click.command(
    epilog="""\b
Examples:
  kdtune results demo --table grid --format markdown
  kdtune results --all --storage runs"""
)
@click.argument("study", required=False)
@storage_option
@click.option(
    "--table",
    default="optimal",
    show_default=True,
    type=click.Choice(
        ["optimal", "grid", "temperature", "weights", "final", "terms", "initialization", "emissions", "cost", "trials"]
    ),
)
@click.option(
    "--format",
    "form",
    default="text",
    show_default=True,
    type=click.Choice(["text", "markdown", "latex", "csv", "json", "parquet"]),
)
@click.option("--published", is_flag=True, help="The table as the paper prints it, for its six studies.")
@click.option("--compare", type=click.Choice(["published"]), help="Measured beside the paper's values.")
@click.option("--per", type=click.Choice(["seconds", "kwh"]), help="The table final against what a training takes.")
@click.option("--all", "every", is_flag=True, help="Over all studies of the storage, datasets and students across.")
@click.option("-o", "--output", metavar="FILE", callback=writable, help="Write to a file.")
def results(
    study: str | None,
    storage: str | None,
    table: str,
    form: str,
    published: bool,
    compare: str | None,
    per: str | None,
    every: bool,
    output: str | None,
) -> None:
    """Print a table of a study, running or finished; with --all, of all studies as one.

    STUDY is a name from `kdtune studies list` or a path to a YAML file; with --all it is not needed, and not looked at.
    """
    if study is None and not every:
        raise click.UsageError("Missing argument 'STUDY', or --all.")
    if published and compare:
        raise click.UsageError("--published and --compare exclude each other.")
    if per and (table != "final" or published or compare or every):
        raise click.UsageError("--per is of --table final of one study, as measured here.")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise BadInput("--format parquet: would fill the terminal with bytes; give -o FILE, or pipe it somewhere")
    from kdtune.answers import query

    styled = output is None and sys.stdout.isatty()
    options: dict[str, Any] = {"published": published, "compare": compare is not None, "styled": styled, "per": per}
    content = query.table_in_format(None if every else study, storage, table, form, **options)
    if output is None:
        click.echo(content, nl=isinstance(content, str) and not content.endswith("\n"))
    else:
        write_file(output, content if isinstance(content, bytes) else content.encode())
    if study is not None and not every and not published:
        for line in query.remarks(study, storage):
            say(f"note: {line}", err=True)


@click.command(epilog="Example: kdtune report demo -o demo.html")
@click.argument("study")
@storage_option
@data_option
@module_option
@click.option("-o", "--output", metavar="FILE", default="report.html", show_default=True, help="The page to write.")
def report(study: str, storage: str | None, data_root: str | None, output: str) -> None:
    """Write a study's report: one HTML page with figures and tables that opens anywhere and loads nothing.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. Validation images are shown where the data and
    the trained weights can be reached; networks of other packages where STUDY is the file that names them, or with
    --py-module.
    """
    from kdtune.answers import query

    check_output(output)
    query.named(study, storage)
    from kdtune import api
    from kdtune.loading.pack import data_folder

    found = api.results(study, storage)
    tables = found.all()
    from kdtune.report.build import report  # takes seconds to import

    content = report(found.storage, tables, data_folder(data_root)).encode()
    write_file(output, content)
    say(f"{output}: {len(content) / 1e6:.1f} MB", err=True)
