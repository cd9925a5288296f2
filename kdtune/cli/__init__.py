"""The command line: parse, call ``kdtune.api``, print. Imports inside the bodies keep ``--help`` fast."""

import os
import shlex
import sys
from collections.abc import Callable
from typing import IO, Any, NoReturn

import click

from kdtune import __version__

STUDY_HELP = "STUDY is a name from `kdtune studies list` or a path to a YAML file."


# what a path that the user gave can raise when it is not what it should be
PATHS = (NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)


class BadInput(click.ClickException):
    """One line and exit status 2, where click would print the usage too."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the line."""
        click.echo(f"kdtune: {self.message}", err=True)


def _one_line(error: click.UsageError) -> Exception:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error  # shows the help
    path = error.ctx.command_path if error.ctx else "kdtune"
    return BadInput(f"{error.format_message().rstrip('.')}; see {path} --help".replace("\n", " "))


class Errors(click.Group):
    """Turns errors into one line and an exit status: 2 bad input, 1 the run failed, 130 interrupted."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the program's own options."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _one_line(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; a bug keeps its traceback."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error) from None
        except (click.exceptions.ClickException, click.exceptions.Exit, click.exceptions.Abort):
            raise
        except KeyboardInterrupt:  # before or after Ray runs; in between, the launch ends in order
            _ended(ctx, "interrupted; nothing finished is lost", 130)
        except Exception as error:
            from kdtune.errors import Interrupted, Lost, RunError, UserError

            if isinstance(error, PATHS):
                raise BadInput(": ".join(filter(None, [error.filename, error.strerror]))) from None
            if not isinstance(error, UserError | RunError):
                raise
            if isinstance(error, UserError):
                raise BadInput(str(error)) from None
            if isinstance(error, Lost):  # Ray's own end of the process would wait for a cluster that is gone
                _say_ended(str(error))
                sys.stdout.flush()
                os._exit(1)
            _ended(ctx, str(error), 130 if isinstance(error, Interrupted) else 1)


def _ended(ctx: click.Context, reason: str, status: int) -> NoReturn:
    """One line that says why, and how to continue."""
    _say_ended(reason)
    ctx.exit(status)


def _say_ended(reason: str) -> None:
    again = shlex.join(["kdtune", *sys.argv[1:]])
    click.echo(f"kdtune: {reason}; continue with: {again}", err=True)


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


def _storage_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--storage",
        metavar="URI",
        help="Folder or s3://, gs:// URI of the results; default: $KDTUNE_STORAGE or ~/kdtune.",
    )(command)


def _write(output: str, content: bytes) -> None:
    try:
        with open(output, "wb") as file:
            file.write(content)
    except OSError as error:
        raise BadInput(f"{output}: cannot be written: {error.strerror}") from None


def _set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--set",
        "settings",
        metavar="PATH=VALUE",
        multiple=True,
        help="A value for every stage that has the path, e.g. recipe.num_steps=2000.",
    )(command)


def _data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-root", metavar="DIR", help="Parent of the datasets' folders; default: $KDTUNE_DATA_ROOT."
    )(command)


def _pack_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--pack",
        type=click.Choice(["always", "fallback", "never"]),
        envvar="KDTUNE_PACK",
        default="always",
        show_default=True,
        help="Decode the images once into $KDTUNE_CACHE; fallback: only where there is room; never: at each access.",
    )(command)


def _address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--address",
        metavar="ADDR",
        help="The cluster of the study's job: http://HOST:8265; default: $RAY_ADDRESS, or where it was submitted.",
    )(command)


@main.command(
    epilog="""\b
Examples:
  kdtune launch camvid-small --data-root data --storage runs
  kdtune launch cityscapes-resnet --detach --address http://head:8265 --data-root /data --storage s3://bucket/runs"""
)
@click.argument("study")
@_storage_option
@_data_option
@_pack_option
@click.option("--address", metavar="ADDR", help="A running Ray cluster; default: $RAY_ADDRESS, or one started here.")
@click.option("--stage", "stages", metavar="NAME", multiple=True, help="Only this stage; may be repeated.")
@click.option("--search", type=click.Choice(["grid", "tpe", "random"]), help="How grids of one seed are searched.")
@click.option("--samples", metavar="N", type=int, help="Trials of each random or TPE search.")
@click.option("--scheduler", type=click.Choice(["asha", "median", "none"]), help="Early stopping.")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint, instead of the study's own.")
@_set_option
@click.option("--max-concurrent", metavar="N", type=click.IntRange(min=1), help="Trials at once.")
@click.option("--gpus-per-trial", metavar="F", type=click.FloatRange(min=0, min_open=True), help="Share of a GPU.")
@click.option("--country", metavar="ISO", help="Whose electricity is used, three letters; default: the study's, DEU.")
@click.option(
    "--log",
    "loggers",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="Also tell this tool of every evaluation; may be repeated.",
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
    from kdtune import api
    from kdtune.records.storage import Storage
    from kdtune.study.file import load_study, parse_set

    options = api.Options(**{**given, "settings": parse_set(given["settings"])} if "settings" in given else given)
    spec = load_study(study)
    if dry_run:
        click.echo(api.cost(api.adjusted(spec, options), Storage(api.storage_root(storage), spec.name)))
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

    where = api.launch(spec, **where_to, options=options, reporter=Lines(), command=again)
    api.print_summary(where, sys.stdout.isatty())
    click.echo(f"tables: {where.folder.uri}/*.parquet; more: kdtune results {spec.name} --table grid", err=True)


def _detach(spec: Any, options: Any, again: str, where_to: dict[str, Any]) -> None:
    """The id on standard output, all else on standard error."""
    from kdtune import api, remote

    job = remote.detach(spec, **where_to, options=options, command=again)
    for note in job.notes:
        click.echo(f"note: {note}", err=True)
    given = where_to["storage"]
    name = shlex.join([spec.name, *(["--storage", api.storage_root(given)] if given else [])])
    click.echo(
        f"submitted to {job.dashboard}; this machine may go now. From any machine that sees the storage:", err=True
    )
    for line in (f"kdtune status {name}", f"kdtune logs {name} -f", f"kdtune stop {name}", f"kdtune results {name}"):
        click.echo(f"  {line}", err=True)
    click.echo(job.id)


@main.command(epilog="Example: kdtune status cityscapes-resnet --storage s3://bucket/runs")
@click.argument("study")
@_storage_option
@_address_option
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["text", "json"]))
def status(study: str, storage: str | None, address: str | None, form: str) -> None:
    """Print how far a study is: whether it runs, its trials by stage, the time left.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. The storage is read; Ray's Jobs API is asked
    only where the study was launched with --detach.
    """
    import dataclasses
    import json

    from kdtune import remote
    from kdtune.records.status import lines

    found = remote.status(study, storage, address)
    text = json.dumps(dataclasses.asdict(found), indent=1) if form == "json" else "\n".join(lines(found))
    click.echo(text)


@main.command(epilog="Example: kdtune logs cityscapes-resnet --storage s3://bucket/runs -f")
@click.argument("study")
@_storage_option
@_address_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the launch ends.")
def logs(study: str, storage: str | None, address: str | None, follow: bool) -> None:
    """Print what the study's launch said: the log of its Ray job, or the log on storage.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune import remote

    remote.logs(
        study,
        storage,
        address,
        follow=follow,
        write=lambda text: click.echo(text, nl=False),
        note=lambda text: click.echo(f"note: {text}", err=True),
    )


@main.command(epilog="Example: kdtune stop cityscapes-resnet --storage s3://bucket/runs")
@click.argument("study")
@_storage_option
@_address_option
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

    click.echo(remote.stop(study, storage, address, timeout, lambda text: click.echo(text, err=True)), err=True)


@main.command(
    epilog="""\b
Examples:
  kdtune pull s3://bucket/runs results
  kdtune pull s3://bucket/runs/cityscapes-resnet results --checkpoints"""
)
@click.argument("uri")
@click.argument("dest")
@click.option("--checkpoints", is_flag=True, help="The trained weights, too.")
@click.option("--study", metavar="NAME", help="Only this study of the storage.")
def pull(uri: str, dest: str, checkpoints: bool, study: str | None) -> None:
    """Copy the tables of a study from URI to the folder DEST, for `kdtune results NAME --storage DEST`.

    URI is a storage, then all its studies are copied, or one study's folder in it. What is there already stays.
    """
    from kdtune.records.pull import pull

    found = pull(uri, dest, study=study, checkpoints=checkpoints, say=lambda name: click.echo(name, err=True))
    click.echo(f"{found.copied} files copied ({found.megabytes:.1f} MB), {found.present} there already", err=True)
    for name in found.studies:
        click.echo(f"  {shlex.join(['kdtune', 'results', name, '--storage', dest])}", err=True)


@main.command(
    epilog="""\b
Examples:
  kdtune results demo --table grid --format markdown
  kdtune results --all --storage runs"""
)
@click.argument("study", required=False)
@_storage_option
@click.option(
    "--table",
    default="optimal",
    show_default=True,
    type=click.Choice(
        ["optimal", "grid", "temperature", "weights", "final", "initialization", "emissions", "cost", "trials"]
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
@click.option("--all", "every", is_flag=True, help="Over all studies of the storage, datasets and students across.")
@click.option("-o", "--output", metavar="FILE", help="Write to a file.")
def results(
    study: str | None,
    storage: str | None,
    table: str,
    form: str,
    published: bool,
    compare: str | None,
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
    from kdtune.answers import query

    styled = output is None and sys.stdout.isatty()
    options: dict[str, Any] = {"published": published, "compare": compare is not None, "styled": styled}
    content = query.shown(None if every else study, storage, table, form, **options)
    if output is None:
        click.echo(content, nl=isinstance(content, str) and not content.endswith("\n"))
        return
    _write(output, content if isinstance(content, bytes) else content.encode())


@main.command(epilog="Example: kdtune report demo -o demo.html")
@click.argument("study")
@_storage_option
@_data_option
@click.option("-o", "--output", metavar="FILE", default="report.html", show_default=True, help="The page to write.")
def report(study: str, storage: str | None, data_root: str | None, output: str) -> None:
    """Write a study's report: one HTML page with figures and tables that opens anywhere and loads nothing.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. Validation images are shown where the data and
    the trained weights can be reached.
    """
    from kdtune import api
    from kdtune.report import report

    found = api.results(study, storage)
    content = report(found.storage, found.all(), api.data_folder(data_root)).encode()
    _write(output, content)
    click.echo(f"{output}: {len(content) / 1e6:.1f} MB", err=True)


@main.group(epilog="Example: kdtune studies list")
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


@main.group(epilog="Example: kdtune losses list")
def losses() -> None:
    """The loss terms of a study."""


@losses.command("list", epilog="Example: kdtune losses list")
def losses_list() -> None:
    """List the loss terms: symbol, source, parameters with their defaults, what they need and own."""
    from kdtune.api import loss_lines

    for line in loss_lines():
        click.echo(line)


@main.group(epilog="Example: kdtune data synth cityscapes --root data/cityscapes")
def data() -> None:
    """Datasets on this machine."""


@data.command("synth", epilog="Example: kdtune data synth cityscapes --root data/cityscapes --images 4")
@click.argument("name", type=click.Choice(["cityscapes", "camvid", "voc", "ade20k"]))
@click.option("--root", required=True, metavar="DIR", help="The dataset's own folder; made if it is not there.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(min=1), help="Per split.")
def data_synth(name: str, root: str, images: int) -> None:
    """Write a small drawn set in the exact on-disk layout of the real one."""
    from pathlib import Path

    from kdtune.datasets.synth import write_synthetic

    write_synthetic(name, Path(root).expanduser(), images)


def _dataset(name: str, settings: tuple[str, ...] = ()) -> Any:
    """A dataset by name, with ``--set`` fields."""
    from pydantic import ValidationError

    from kdtune.base import UserError
    from kdtune.datasets import DATASETS
    from kdtune.study.file import parse_set
    from kdtune.study.spec import told

    try:
        return DATASETS.resolve(name).model_validate({"name": name, **parse_set(settings)})
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(f"--set {'.'.join(map(str, fault['loc']))}: {told(fault)}") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def _own_folder(name: str, root: str | None) -> Any:
    from pathlib import Path

    if root is None:
        raise BadInput(f"dataset '{name}' needs --root DIR, its own folder")
    return Path(root).expanduser()


@data.command("pack", epilog="Example: kdtune data pack cityscapes --root data/cityscapes")
@click.argument("name")
@click.option("--root", metavar="DIR", help="The dataset's own folder, DATA_ROOT/NAME of a launch.")
@click.option(
    "--set", "settings", metavar="PATH=VALUE", multiple=True, help="A field of the dataset, as a study has it."
)
def data_pack(name: str, root: str | None, settings: tuple[str, ...]) -> None:
    """Decode a dataset's images once into $KDTUNE_CACHE, as a launch does by itself."""
    from kdtune.filesystem.folder import absolute
    from kdtune.loading.pack import pack_lines

    dataset = _dataset(name, settings)
    folder = absolute(str(_own_folder(name, root))) if dataset.needs_files else None  # a launch makes it absolute, too

    for line in pack_lines(dataset, folder):
        click.echo(line)


@data.command("check", epilog="Example: kdtune data check voc --root data/voc --set split=train_aug")
@click.argument("name")
@click.option("--root", metavar="DIR", help="The dataset's own folder.")
@click.option("--strict", is_flag=True, help="Another number of images than published is a fault.")
@click.option("--set", "settings", metavar="PATH=VALUE", multiple=True, help="A field of the dataset.")
def data_check(name: str, root: str | None, strict: bool, settings: tuple[str, ...]) -> None:
    """Read every file of a dataset; print what is in it, and name every fault; exit 2 if there are any."""
    from kdtune.datasets.check import check

    dataset = _dataset(name, settings)
    if not dataset.needs_files:
        click.echo(f"{name}: {dataset.obtain} and nothing to check", err=True)
        return
    report = check(dataset, _own_folder(name, root), strict=strict)
    click.echo(report.summary())
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    for fault in report.faults:
        click.echo(str(fault), err=True)
    if report.faults:
        faults, files = len(report.faults), report.bad_files
        raise BadInput(f"{faults} fault{'s' * (faults != 1)} in {files} file{'s' * (files != 1)} of {report.root}")


@data.command("fetch", epilog="Example: kdtune data fetch voc --root data/voc")
@click.argument("name")
@click.option("--root", metavar="DIR", help="The dataset's own folder; made if it is not there.")
@click.option("--url", metavar="URL", help="Another address of the same archive.")
@click.option("--keep-archive", is_flag=True, help="Leave the archive in the folder.")
def data_fetch(name: str, root: str | None, url: str | None, keep_archive: bool) -> None:
    """Download a dataset and unpack it, where its licence allows that; run again, it continues."""
    from kdtune.datasets.fetch import fetch

    dataset = _dataset(name)
    if not dataset.needs_files:
        click.echo(f"{name}: {dataset.obtain}", err=True)
        return
    for line in fetch(dataset, _own_folder(name, root), url=url, keep_archive=keep_archive):
        click.echo(line, err=True)


@main.command(epilog="Example: kdtune train demo --set recipe.num_steps=50")
@click.argument("study")
@_data_option
@_pack_option
@_set_option
@click.option("--stage", metavar="NAME", help="The stage whose first configuration is trained; default: the first.")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint.")
@click.option("-o", "--output", metavar="DIR", help="Where the trial's files go; default: ./kdtune-train.")
def train(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    stage: str | None,
    teacher: str | None,
    output: str | None,
    pack: Any,
) -> None:
    """Train one configuration in this process, without Ray: the study's base, or a stage's first.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune import api
    from kdtune.study.file import parse_set

    for line in api.train(study, data_root, parse_set(settings), stage, teacher, output or "kdtune-train", pack):
        click.echo(line)


@main.group(epilog="Example: kdtune teacher train cityscapes-resnet --data-root data")
def teacher() -> None:
    """A teacher's weights: trained here, or converted from a published checkpoint; how soft its answers are."""


@teacher.command("train", epilog="Example: kdtune teacher train camvid-resnet --data-root data -o teachers")
@click.argument("study")
@_data_option
@_set_option
@_pack_option
@click.option("-o", "--output", metavar="DIR", help="Where the files go; default: ./kdtune-teacher.")
def teacher_train(study: str, data_root: str | None, settings: tuple[str, ...], pack: Any, output: str | None) -> None:
    """Train a study's teacher in this process, without Ray. Run again, it continues.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune import api
    from kdtune.study.file import parse_set

    for line in api.train_teacher(study, data_root, parse_set(settings), output or "kdtune-teacher", pack):
        click.echo(line)


@teacher.command("import", epilog="Example: kdtune teacher import theirs.pth -o teacher.safetensors --layout skd")
@click.argument("file")
@click.option("-o", "--output", required=True, metavar="OUT", help="The file for --teacher; ends in .safetensors.")
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["skd", "semseg", "torchvision", "kdtune"]),
    help="Whose checkpoint it is: SKD's, semseg's, torchvision's segmentation networks', kdtune's own.",
)
@click.option("--dataset", metavar="NAME", help="What it was trained on: its class names are recorded.")
@click.option("--model", metavar="YAML", help="The network as a study has it, or a file of it; default: from the keys.")
@click.option("--plain-bn", is_flag=True, help="skd: trained with ordinary BatchNorm, not InPlaceABN.")
@click.option("--force", is_flag=True, help="Replace OUT.")
def teacher_import(file: str, output: str, **given: Any) -> None:
    """Convert a published checkpoint into a file for --teacher, and say what it holds.

    FILE is what torch.save wrote, or safetensors; nothing in it is executed.
    """
    from kdtune.training.teachers import Import, import_weights

    for line in import_weights(Import(file, output, **given)):
        click.echo(line)


@teacher.command("entropy", epilog="Example: kdtune teacher entropy cityscapes-resnet --data-root data --storage runs")
@click.argument("study")
@_storage_option
@_data_option
@_set_option
@click.option("--address", metavar="ADDR", help="A running Ray cluster; default: $RAY_ADDRESS, or else this process.")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint, instead of the study's own.")
@click.option("--temperatures", metavar="T,T", default="1,2,4,8,16", show_default=True)
@click.option("--images", metavar="N", type=int, default=800, show_default=True, help="Drawn from the split.")
@click.option("--crop", metavar="H,W", default="512,512", show_default=True, help="One of each image [pixels].")
@click.option("--whole", is_flag=True, help="Whole images, no crops.")
@click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Images and crops.")
@click.option(
    "--threshold", metavar="NATS", type=float, default=0.1, show_default=True, help="Below: one class has 98 %."
)
@click.option(
    "--upsample/--no-upsample",
    "upsampled",
    default=True,
    help="Enlarge the logits before the softmax, as evaluations do (default), or take them as the network gives them.",
)
@click.option(
    "-o", "--output", metavar="PATH", help="Folder, or beginning of the files' names; default: with the study."
)
def teacher_entropy(
    study: str, teacher: str | None, settings: tuple[str, ...], crop: str, whole: bool, temperatures: str, **given: Any
) -> None:
    """Histograms of the entropy of a teacher's softened class distributions, per temperature.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. The teacher is the one that the study has
    trained, or a file. Written are entropy.parquet, entropy.svg and entropy.png.
    """
    from kdtune.analysis import entropy
    from kdtune.analysis.entropy_counts import Asked, numbers
    from kdtune.analysis.entropy_run import measure
    from kdtune.api import Options
    from kdtune.study.file import parse_set

    asked = Asked(
        temperatures=numbers("--temperatures", temperatures, float, "1,2,4,8,16"),
        crop=None if whole else numbers("--crop", crop, int, "512,512", count=2),
        **{name: given.pop(name) for name in ("images", "split", "seed", "threshold", "upsampled")},
    )
    options = Options(teacher=teacher, settings=parse_set(settings))
    found = measure(study, asked, options, say=lambda text: click.echo(text, err=True), **given)
    for line in entropy.lines(found):
        click.echo(line)


@main.command(epilog="Example: kdtune evaluate teacher.safetensors --data cityscapes --data-root data")
@click.argument("checkpoint")
@click.option("--data", "dataset", required=True, metavar="NAME", help="The dataset whose validation images are taken.")
@_data_option
@click.option(
    "--set", "settings", metavar="PATH=VALUE", multiple=True, help="E.g. dataset.size=[180,240], recipe.eval_window=..."
)
@click.option("--model", metavar="YAML", help="The network as a study has it; default: as the file's record says.")
@click.option("--country", metavar="ISO", default="DEU", show_default=True, help="Whose electricity is used.")
@_pack_option
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def evaluate(
    checkpoint: str,
    dataset: str,
    data_root: str | None,
    settings: tuple[str, ...],
    model: str | None,
    country: str,
    pack: Any,
    output: str | None,
) -> None:
    """Evaluate weights on a dataset: IoU of each class, their mean, images per second, energy per 10,000 images.

    CHECKPOINT is a file of weights, or the folder of a trial's checkpoint.
    """
    from kdtune.analysis.evaluation import evaluate
    from kdtune.api import data_folder
    from kdtune.study.file import parse_set
    from kdtune.training.trial import Site

    site = Site(data_folder(data_root), pack=pack)
    found = evaluate(checkpoint, dataset, site, parse_set(settings), model, country)
    for line in found.lines():
        click.echo(line)
    if output is not None:
        found.write(output)


@main.group(epilog="Example: kdtune bench train demo")
def bench() -> None:
    """Speed and memory of each part on this machine."""


@bench.command("orchestration", epilog="Example: kdtune bench orchestration --trials 24 --trials 96")
@click.option("--trials", "counts", multiple=True, type=click.IntRange(min=4), default=(24, 96, 384), show_default=True)
@click.option("--evaluations", default=20, show_default=True, type=click.IntRange(min=1), help="Of each trial.")
@click.option("--storage", metavar="URI", help="Where to write, and leave, the studies; default: a temporary folder.")
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_orchestration(counts: tuple[int, ...], evaluations: int, storage: str | None, output: str | None) -> None:
    """Time per trial without training, marginal and in all; the driver's memory; tables; a relaunch once finished.

    Everything but training is done: state and journal on storage at every evaluation. Ray's start is not counted.
    The marginal times are those of the trials 101 to 200 and of the last 100.
    """
    from kdtune.bench.core import orchestration

    click.echo(orchestration(counts, evaluations, storage, output))


@bench.command("train", epilog="Example: kdtune bench train demo --steps 20")
@click.argument("study", default="demo")
@_data_option
@_set_option
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=2))
@click.option("--terms", metavar="NAME", multiple=True, help="Loss terms beside L_CE, or all, in place of a study.")
@click.option("--classes", multiple=True, type=click.IntRange(min=2), default=(19, 150), show_default=True)
@click.option("--crop", default=128, show_default=True, type=click.IntRange(min=32), help="Pixels a side, of --terms.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=2), help="Images, of --terms.")
@click.option("--teacher-backbone", metavar="NAME", help="Of --terms; default: resnet101 on a GPU, else resnet18.")
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_train(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    steps: int,
    terms: tuple[str, ...],
    output: str | None,
    **of_terms: Any,
) -> None:
    """Step time, images per second and memory of each stage's first configuration.

    With --terms: of each loss term on random images, beside cross-entropy alone, PSPNet with ResNet-18.
    """
    from kdtune.bench.core import training
    from kdtune.study.file import parse_set

    if terms:
        from kdtune.bench.terms import Setting, loss_terms

        click.echo(loss_terms(terms, Setting.of(steps=steps, **of_terms), of_terms["classes"], output))
        return
    click.echo(training(study, data_root, parse_set(settings), steps, output))


@bench.command("loader", epilog="Example: kdtune bench loader camvid-small --data-root data")
@click.argument("study", default="demo")
@_data_option
@_set_option
@click.option("--steps", default=50, show_default=True, type=click.IntRange(min=1), help="Batches that are timed.")
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_loader(study: str, data_root: str | None, settings: tuple[str, ...], steps: int, output: str | None) -> None:
    """Images per second of augmented batches: packed reading, and torchvision's way, which decodes at each access.

    Also the memory that one more trial's reading takes while another reads the same pack.
    """
    from kdtune.bench.loading import loading
    from kdtune.study.file import parse_set

    click.echo(loading(study, data_root, parse_set(settings), steps, output))


@bench.command("evaluation", epilog="Example: kdtune bench evaluation camvid-resnet --data-root data")
@click.argument("study", default="demo")
@_data_option
@_set_option
@click.option("--passes", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_evaluation(
    study: str, data_root: str | None, settings: tuple[str, ...], passes: int, output: str | None
) -> None:
    """Images per second of a pass over the validation images, beside a plain torch loop over the same network."""
    from kdtune.bench.loading import evaluation
    from kdtune.study.file import parse_set

    click.echo(evaluation(study, data_root, parse_set(settings), passes, output))


@bench.command("entropy", epilog="Example: kdtune bench entropy")
@click.option("--classes", multiple=True, type=click.IntRange(min=2), default=(19, 150), show_default=True)
@click.option("--crops", default=32, show_default=True, type=click.IntRange(min=1), help="Of 512 x 512, timed.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_entropy(classes: tuple[int, ...], crops: int, threads: int, output: str | None) -> None:
    """Crops per second of the teacher's entropy at five temperatures, its memory, and its distance from float64."""
    from kdtune.bench.entropy import entropy

    click.echo(entropy(classes, crops, threads, output))


@bench.command("demo", epilog="Example: kdtune bench demo")
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_demo(output: str | None) -> None:
    """`kdtune launch demo` from the command to the tables: seconds, memory over all its processes, trials, stages."""
    from kdtune.bench.core import demo

    click.echo(demo(output))


@bench.command("asha", epilog="Example: kdtune bench asha demo --seed 1 --seed 2 --storage runs/asha")
@click.argument("study", default="demo")
@_data_option
@_set_option
@click.option("--stage", "stages", metavar="NAME", multiple=True, help="Default: grids of one seed and several axes.")
@click.option("--seed", "seeds", metavar="N", multiple=True, type=click.IntRange(min=0), help="Of trials, one more.")
@click.option("--orders", default=50, show_default=True, type=click.IntRange(min=1), help="Replays of each grid.")
@click.option("--within", default=0.5, show_default=True, type=click.FloatRange(min=0), help="No loss [mIoU points].")
@click.option("--every", metavar="N", multiple=True, type=click.IntRange(min=1), help="Steps from evaluation to next.")
@click.option("--launch/--no-launch", "launched", default=True, help="Also launch the stages with ASHA.")
@click.option("--storage", metavar="URI", help="Keeps the full grids there, goes on with those that are there.")
@click.option("-o", "--output", metavar="FILE", help="Parquet file for the figures.")
def bench_asha(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    storage: str | None,
    output: str | None,
    **given: Any,
) -> None:
    """ASHA against the full grid: its share of the steps, and whether it finds the same optimum.

    Runs the stages without early stopping, then with ASHA, and replays ASHA on the recorded curves in other orders
    and with other grace periods and reduction factors.
    """
    from kdtune.cluster.auth import require_token

    require_token()  # before the bench imports Ray, which looks for it then
    from kdtune.bench.early_stopping import Setting, asha
    from kdtune.study.file import parse_set

    options = {"data_root": data_root, "storage": storage, "output": output}
    click.echo(asha(study, Setting(**given), settings=parse_set(settings), **options))
