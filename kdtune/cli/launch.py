"""Launches: ``launch``, and what follows one from any machine: ``status``, ``logs``, ``stop``, ``pull``."""

import contextlib
import os
import shlex
import sys
from typing import Any

import click

from kdtune.cli.options import (
    address_option,
    country_option,
    data_option,
    module_option,
    pack_option,
    set_option,
    storage_option,
    threads_option,
    writable_folder,
)
from kdtune.cli.streams import say
from kdtune.errors import UserError


@click.command(
    epilog="""\b
Examples:
  kdtune launch camvid-small --data-root data --storage runs
  kdtune launch cityscapes-resnet --detach --address http://head:8265 --data-root /data --storage s3://bucket/runs"""
)
@click.argument("study")
@storage_option
@data_option
@pack_option
@module_option
@click.option("--address", metavar="ADDR", help="A running Ray cluster; default: $RAY_ADDRESS, or one started here.")
@click.option("--stage", "stages", metavar="NAME", multiple=True, help="Only this stage; may be repeated.")
@click.option("--search", type=click.Choice(["grid", "tpe", "random"]), help="How grids of one seed are searched.")
@click.option("--samples", metavar="N", type=int, help="Trials of each random or TPE search.")
@click.option(
    "--seeds", metavar="N", type=click.IntRange(min=1), help="So many seeds in all, of --stage final: adds new ones."
)
@click.option("--scheduler", type=click.Choice(["asha", "halving", "median", "none"]), help="Early stopping.")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint, instead of the study's own.")
@set_option
@click.option("--max-concurrent", metavar="N", type=click.IntRange(min=1), help="Trials at once.")
@click.option("--gpus-per-trial", metavar="F", type=click.FloatRange(min=0, min_open=True), help="Share of a GPU.")
@threads_option
@country_option("Whose electricity is used, three letters; default: the study's, DEU.")
@click.option(
    "--log",
    "loggers",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="Also tell this tool of every evaluation; may be repeated.",
)
@click.option(
    "--again", metavar="TRIAL", multiple=True, help="Run this trial anew; a pattern such as 'final-*' names many."
)
@click.option("--mixed", is_flag=True, help="Go on although trials on record were computed by other numerics.")
@click.option(
    "--teacher-store",
    metavar="SIZE|off",
    help="How much of the disk the teacher's kept outputs may take, e.g. 20GB; default: as much as they leave free.",
)
@click.option("--dry-run", is_flag=True, help="Print stages, trials and cost; start nothing.")
@click.option("--detach", is_flag=True, help="Submit it to the cluster as a Ray job; print the job's id, and return.")
def launch(
    study: str,
    storage: str | None,
    data_root: str | None,
    address: str | None,
    dry_run: bool,
    detach: bool,
    **given: Any,
) -> None:
    """Run a study: its stages in order, on Ray. Launched again, it continues.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune.study.file import load_study
    from kdtune.study.settings import kept_searches, parse_set

    spec = load_study(study, search=given["search"], samples=given["samples"])  # before all that takes longer
    from kdtune.records.stored_study import storage_root

    storage_root(storage)
    from kdtune import api
    from kdtune.answers.query import summary
    from kdtune.records.storage import Storage
    from kdtune.search.dry_run import forecast
    from kdtune.search.networks import find_builders
    from kdtune.search.options import Options, adjusted

    options = Options(**{**given, "settings": parse_set(given["settings"])} if "settings" in given else given)
    as_asked = adjusted(spec, options)  # a wrong option is told before Ray is imported
    if dry_run:
        for line in kept_searches(spec, options.changes):
            say(f"note: {line}", err=True)
        find_builders(as_asked, options.stages)
        lacking = _missing(as_asked, options.stages, data_root, address or os.environ.get("RAY_ADDRESS"))
        where_it_is = Storage(storage_root(storage), spec.name, study)
        say(forecast(as_asked, where_it_is, options.stages, options.again, lacking, _bench(study, given, data_root)))
        return
    again = shlex.join(["kdtune", *sys.argv[1:]])
    where_to: dict[str, Any] = {
        "storage": storage,
        "data_root": data_root,
        "address": address or os.environ.get("RAY_ADDRESS"),
    }
    if detach:
        _detach(spec, options, again, where_to)
        return
    from kdtune.records.progress import Lines
    from kdtune.records.remembered import remembered

    with remembered():
        try:
            _ask_without_a_gpu(spec, options, where_to)
            where = api.launch(spec, **where_to, options=options, given=study, reporter=Lines(), command=again)
        except UserError as error:
            _say_what_else_is_missing(as_asked, options.stages, where_to, error)
            raise
        with contextlib.suppress(UserError, BrokenPipeError):  # the study is complete, whoever reads of it
            click.echo(summary(where, sys.stdout.isatty()), nl=False)  # its cells are filtered, its marks are ours
    say(f"tables: {where.folder.uri}/*.parquet; more: kdtune results {where.words} --table grid", err=True)


def _bench(study: str, given: dict[str, Any], data_root: str | None) -> str:
    """The command that measures a step of each stage of the study as this launch has it."""
    from kdtune.models.builders import vouched

    words = ["kdtune", "bench", "train", study, *(["--data-root", data_root] if data_root else [])]
    words += [word for setting in given["settings"] for word in ("--set", setting)]
    words += ["--teacher", given["teacher"]] if given["teacher"] else []
    words += [word for name, path in vouched().items() for word in ("--py-module", str(path or name))]
    return shlex.join(words)


def _missing(spec: Any, stages: Any, data_root: str | None, address: str | None) -> list[str]:
    from kdtune.loading.pack import data_folder
    from kdtune.search.missing import downloads, missing

    lines = missing(spec, stages, data_folder(data_root), joined=bool(address))
    return [*lines, *([] if address else downloads(spec, stages))]


def _ask_without_a_gpu(spec: Any, options: Any, where_to: dict[str, Any]) -> None:
    """Asks who sits at a terminal before a study first starts that is made for a GPU, if nothing else is missing."""
    from kdtune.loading.pack import data_folder
    from kdtune.records.stored_study import StoredStudy, storage_root
    from kdtune.search.missing import gpu_here, missing
    from kdtune.search.options import adjusted

    if not spec.needs_gpu or where_to["address"] or not sys.stdin.isatty() or gpu_here():
        return
    if StoredStudy(storage_root(where_to["storage"]), spec.name).read_study() is not None:
        return  # it was asked then
    needed = adjusted(spec, options)
    if len(missing(needed, options.stages, data_folder(where_to["data_root"]), joined=False)) > 1:
        return
    question = f"study '{spec.name}' is made for a GPU, and there is none here: it may take months. Start all the same?"
    if not click.confirm(question, err=True):
        raise UserError("not started; --address ADDR runs it on a Ray cluster that has GPUs")


def _say_what_else_is_missing(spec: Any, stages: Any, where_to: dict[str, Any], error: UserError) -> None:
    """The lines that a user would meet one by one, of a launch that ends at the first of them."""
    lines = _missing(spec, stages, where_to["data_root"], where_to["address"])
    if str(error) in lines:
        for line in lines:
            if line != str(error):
                say(f"kdtune: {line}", err=True)


def _detach(spec: Any, options: Any, again: str, where_to: dict[str, Any]) -> None:
    """The id on standard output, all else on standard error."""
    from kdtune import remote
    from kdtune.records.stored_study import StoredStudy, storage_root

    job = remote.detach(spec, **where_to, options=options, command=again)
    for note in job.notes:
        say(f"note: {note}", err=True)
    name = StoredStudy(storage_root(where_to["storage"]), spec.name).words
    say(f"submitted to {job.dashboard}; this machine may go now. From any machine that sees the storage:", err=True)
    for line in (f"kdtune status {name}", f"kdtune logs {name} -f", f"kdtune stop {name}", f"kdtune results {name}"):
        say(f"  {line}", err=True)
    say(job.id)


@click.command(epilog="Example: kdtune status cityscapes-resnet --storage s3://bucket/runs")
@click.argument("study")
@storage_option
@address_option
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["text", "json"]))
def status(study: str, storage: str | None, address: str | None, form: str) -> None:
    """Print how far a study is: whether it runs, its trials by stage, the time left.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. The storage is read; Ray's Jobs API is asked
    only where the study was launched with --detach.
    """
    import dataclasses
    import json

    from kdtune import remote
    from kdtune.records.status_lines import lines

    found = remote.status(study, storage, address)
    text = json.dumps(dataclasses.asdict(found), indent=1) if form == "json" else "\n".join(lines(found))
    say(text)


@click.command(
    epilog="""\b
Examples:
  kdtune logs cityscapes-resnet --storage s3://bucket/runs -f
  kdtune logs demo --trial student-0a1b2c3d4e-s0"""
)
@click.argument("study")
@storage_option
@address_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the launch ends.")
@click.option("--trial", "trial_id", metavar="ID", help="What this trial printed instead, and its traceback.")
def logs(study: str, storage: str | None, address: str | None, follow: bool, trial_id: str | None) -> None:
    """Print what the study's launch said: the log of its Ray job, or the log on storage. Or what a trial printed.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. A trial's ID is in the table `trials`.
    """
    if trial_id is not None and (follow or address):
        raise click.UsageError("--trial reads the storage; it goes with neither -f nor --address.")
    from kdtune import remote

    if trial_id is not None:
        from kdtune.records.trial_log import trial_lines

        for line in trial_lines(remote.stored(study, storage), trial_id):
            say(line)
        return
    remote.logs(
        study,
        storage,
        address,
        follow=follow,
        write=lambda text: say(text, nl=False),
        note=lambda text: say(f"note: {text}", err=True),
    )


@click.command(epilog="Example: kdtune stop cityscapes-resnet --storage s3://bucket/runs")
@click.argument("study")
@storage_option
@address_option
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds to wait for its end in order; a job is then ended by Ray.",
)
def stop(study: str, storage: str | None, address: str | None, timeout: float) -> None:
    """End a study's launch in order, on whatever machine it runs. Launched again, the study continues.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. Where nothing runs, it says so.
    """
    from kdtune import remote

    say(remote.stop(study, storage, address, timeout, lambda text: say(text, err=True)), err=True)


@click.command(
    epilog="""\b
Examples:
  kdtune pull s3://bucket/runs results
  kdtune pull s3://bucket/runs/cityscapes-resnet results --checkpoints --best"""
)
@click.argument("uri")
@click.argument("dest", callback=writable_folder)
@click.option("--checkpoints", is_flag=True, help="The trained weights, too.")
@click.option("--best", is_flag=True, help="Of these only the best configuration's, by stage and method.")
@click.option("--study", metavar="NAME", help="Only this study of the storage.")
def pull(uri: str, dest: str, checkpoints: bool, best: bool, study: str | None) -> None:
    """Copy the tables of a study from URI to the folder DEST, for `kdtune results NAME --storage DEST`.

    URI is a storage, then all its studies are copied, or one study's folder in it. What is there already stays.
    """
    if best and not checkpoints:
        raise click.UsageError("--best goes with --checkpoints.")
    from kdtune.records.pull import pull

    found = pull(uri, dest, study=study, checkpoints=checkpoints, best=best, say=lambda name: say(name, err=True))
    say(f"{found.copied} files copied ({found.megabytes:.1f} MB), {found.present} there already", err=True)
    for name in found.studies:
        say(f"  {shlex.join(['kdtune', 'results', name, '--storage', dest])}", err=True)
