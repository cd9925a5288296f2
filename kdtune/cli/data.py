"""Datasets on this machine: ``data``."""

from typing import Any

import click

from kdtune.cli.errors import BadInput
from kdtune.cli.groups import Group
from kdtune.cli.options import writable, writable_folder
from kdtune.cli.streams import say


@click.group(cls=Group, epilog="Example: kdtune data synth cityscapes --root data/cityscapes")
def data() -> None:
    """Datasets on this machine."""


@data.command("synth", epilog="Example: kdtune data synth cityscapes --root data/cityscapes --images 4")
@click.argument("name", type=click.Choice(["cityscapes", "camvid", "voc", "ade20k"]))
@click.option(
    "--root",
    required=True,
    metavar="DIR",
    callback=writable_folder,
    help="The dataset's own folder; made if it is not there.",
)
@click.option("--images", default=4, show_default=True, type=click.IntRange(min=1), help="Per split.")
def data_synth(name: str, root: str, images: int) -> None:
    """Write a small drawn set in the exact on-disk layout of the real one."""
    from pathlib import Path

    from kdtune.datasets.synth import write_synthetic

    write_synthetic(name, Path(root).expanduser(), images)


def _dataset(name: str, settings: tuple[str, ...] = ()) -> Any:
    """A dataset by name or by the file of its settings, with ``--set`` fields."""
    from pydantic import ValidationError

    from kdtune.base import UserError
    from kdtune.datasets import DATASETS
    from kdtune.study.faults import told
    from kdtune.study.file import dataset_named
    from kdtune.study.settings import parse_set

    changes = parse_set(settings)
    try:
        if not changes:
            return dataset_named(name)
        known = dataset_named(name).model_dump(mode="json", exclude_unset=True) if "." in name else {"name": name}
        return DATASETS.resolve(known["name"]).model_validate({**known, **changes})
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(f"--set {'.'.join(map(str, fault['loc']))}: {told(fault)}") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def _own_folder(dataset: Any, name: str, root: str | None, *, made: bool = False) -> Any:
    """Where it lies; ``name``: as it was given, a file for a folder of one's own. ``made``: it need not be there."""
    import os
    from pathlib import Path

    if root is not None:
        return Path(root).expanduser()
    own, above = Path(dataset.folder), os.environ.get("KDTUNE_DATA_ROOT")
    of_file, how = "." in name, f"correct `root` in {name}"
    if not own.is_absolute():
        which = f"{name}: its `root` is relative: needs" if of_file else f"dataset '{name}' needs"
        if made or not above:
            whose = "the dataset's" if of_file else "its"
            other = "" if made else f", or KDTUNE_DATA_ROOT, the folder in which {own} lies"
            raise BadInput(f"{which} --root DIR, {whose} own folder{other}")
        own = Path(above).expanduser() / own
        how = f"correct {'`root` or ' if of_file else ''}KDTUNE_DATA_ROOT, or give --root DIR"
    if not made and not own.is_dir():
        raise BadInput(f"{own}: no such folder: {how}")
    return own


@data.command("init", epilog="Example: kdtune data init photographs -o photographs.yaml")
@click.argument("folder", metavar="DIR")
@click.option(
    "-o", "--output", required=True, metavar="FILE", callback=writable, help="The file to write; ends in .yaml."
)
@click.option("--force", is_flag=True, help="Replace FILE.")
def data_init(folder: str, output: str, force: bool) -> None:
    """Look at a folder of images and masks and write its description, which a study takes as its dataset.

    Found are the pairs, the splits and the classes in the masks. Correct FILE, above all the names of the classes.
    """
    from pathlib import Path

    from kdtune.cli.errors import write_file
    from kdtune.datasets.describe import described

    if not output.endswith((".yaml", ".yml")):
        raise BadInput(f"-o {output}: give it a name that ends in .yaml")
    if not force and Path(output).exists():
        raise BadInput(f"{output}: is there already; --force replaces it")
    found = described(Path(folder))
    write_file(output, found.text.encode())
    for line in found.lines:
        say(line, err=True)
    say(
        f"next: name the classes in {output}, then `kdtune data check {output}`; in a study: `dataset: {output}`",
        err=True,
    )


@data.command("pack", epilog="Example: kdtune data pack cityscapes --root data/cityscapes")
@click.argument("name")
@click.option("--root", metavar="DIR", help="The dataset's own folder; default: its place in $KDTUNE_DATA_ROOT.")
@click.option(
    "--set", "settings", metavar="PATH=VALUE", multiple=True, help="A field of the dataset, as a study has it."
)
def data_pack(name: str, root: str | None, settings: tuple[str, ...]) -> None:
    """Decode a dataset's images once into $KDTUNE_CACHE, as a launch does by itself."""
    from kdtune.filesystem.folder import absolute
    from kdtune.loading.pack import pack_lines

    dataset = _dataset(name, settings)
    folder = (
        absolute(str(_own_folder(dataset, name, root))) if dataset.needs_files else None
    )  # a launch makes it absolute, too

    for line in pack_lines(dataset, folder):
        say(line)


@data.command("check", epilog="Example: kdtune data check voc --root data/voc --set split=train_aug")
@click.argument("name")
@click.option("--root", metavar="DIR", help="The dataset's own folder; default: its place in $KDTUNE_DATA_ROOT.")
@click.option("--strict", is_flag=True, help="Another number of images than published is a fault.")
@click.option("--set", "settings", metavar="PATH=VALUE", multiple=True, help="A field of the dataset.")
def data_check(name: str, root: str | None, strict: bool, settings: tuple[str, ...]) -> None:
    """Read every file of a dataset; print what is in it, and name every fault; exit 2 if there are any."""
    from kdtune.datasets.check import check

    dataset = _dataset(name, settings)
    if not dataset.needs_files:
        say(f"{name}: {dataset.obtain} and nothing to check", err=True)
        return
    report = check(dataset, _own_folder(dataset, name, root), strict=strict)
    say(report.summary())
    for note in report.notes:
        say(f"note: {note}", err=True)
    for fault in report.faults:
        say(str(fault), err=True)
    if report.faults:
        faults, files = len(report.faults), report.bad_files
        raise BadInput(f"{faults} fault{'s' * (faults != 1)} in {files} file{'s' * (files != 1)} of {report.root}")


@data.command("fetch", epilog="Example: kdtune data fetch voc --root data/voc")
@click.argument("name")
@click.option(
    "--root", metavar="DIR", callback=writable_folder, help="The dataset's own folder; made if it is not there."
)
@click.option("--url", metavar="URL", help="Another address of the same archive.")
@click.option("--keep-archive", is_flag=True, help="Leave the archive in the folder.")
def data_fetch(name: str, root: str | None, url: str | None, keep_archive: bool) -> None:
    """Download a dataset and unpack it, where its licence allows that; run again, it continues."""
    from kdtune.datasets.fetch import fetch

    dataset = _dataset(name)
    if not dataset.needs_files:
        say(f"{name}: {dataset.obtain}", err=True)
        return
    for line in fetch(dataset, _own_folder(dataset, name, root, made=True), url=url, keep_archive=keep_archive):
        say(line, err=True)
