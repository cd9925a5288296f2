"""A study's networks: ``models check``, and what becomes of them, ``best``, ``predict`` and ``export``."""

import click

from kdtune.cli.groups import Group
from kdtune.cli.options import module_option, storage_option, writable_folder, writable_or_uri
from kdtune.cli.streams import say

model_option = click.option(
    "--model", metavar="YAML", help="The network as a study has it; default: as the file's record says."
)


def _size(option: str, text: str | None) -> tuple[int, int] | None:
    """``H,W``."""
    parts = text.split(",") if text is not None else []
    if text is not None and (len(parts) != 2 or not all(part.strip().isdecimal() and int(part) for part in parts)):
        raise click.UsageError(f"{option} {text}: needs height and width in pixels, e.g. 512,1024.")
    return (int(parts[0]), int(parts[1])) if parts else None


@click.group(cls=Group, epilog="Example: kdtune models check my-study.yaml")
def models() -> None:
    """The networks that a study names."""


@models.command("check", epilog="Example: kdtune models check my-study.yaml --py-module nets/mine.py")
@click.argument("study")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint, which brings its network along.")
@module_option
def models_check(study: str, teacher: str | None) -> None:
    """Build each student and teacher of a study once: sizes, classifier, taps, all modules that give a map.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. A tap is one of these modules by its name.
    """
    from kdtune.study.file import load_study

    spec = load_study(study)  # before all that takes longer to import
    from kdtune.search.networks import network_lines
    from kdtune.search.options import Options, adjusted

    for line in network_lines(adjusted(spec, Options(teacher=teacher)), modules=True):
        say(line)


@click.command(
    epilog="""\b
Examples:
  kdtune best demo -o student.safetensors
  kdtune best camvid-small --stage final --method pi -o student.safetensors"""
)
@click.argument("study")
@storage_option
@click.option("--stage", metavar="NAME", help="Whose best is taken; default: final, or before it all that choose.")
@click.option("--method", metavar="NAME", help="Only this method: student, pi, pi+pa ...; default: the best of all.")
@click.option(
    "-o", "--output", required=True, metavar="FILE", callback=writable_or_uri, help="The weights; ends in .safetensors."
)
def best(study: str, storage: str | None, stage: str | None, method: str | None, output: str) -> None:
    """Hand out a study's winner: its weights with their record, and a model card beside them.

    STUDY is a name from `kdtune studies list` or a path to a YAML file. Of the seeds of the best configuration it is
    the one of the highest mIoU. The card, FILE with .md, says data, recipe, mIoU with intervals, and licences.
    """
    from kdtune.answers import query

    query.named(study, storage)
    from kdtune import api

    api.results(study, storage).all()  # whether there are any
    from kdtune.analysis.best import hand_out

    for line in hand_out(study, storage, stage, method, output):
        say(line)


@click.command(
    epilog="""\b
Examples:
  kdtune predict student.safetensors photos -o predicted
  kdtune predict student.safetensors 'drive/**/*.jpg' one.png -o predicted"""
)
@click.argument("weights")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, metavar="DIR", callback=writable_folder, help="Gets labels/, colour/ and overlay/."
)
@model_option
@click.option("--window", metavar="H,W", help="See images in tiles of this size; default: as the study evaluated.")
@click.option("--whole", is_flag=True, help="See images whole, even if the study evaluated in tiles.")
@module_option
def predict(
    weights: str, images: tuple[str, ...], output: str, model: str | None, window: str | None, whole: bool
) -> None:
    """Segment images: masks of class indices, in colour, and over the image, each of the image's size.

    WEIGHTS is a file of weights, or the folder of a trial's checkpoint. IMAGES are files, folders, and patterns in
    quotes. The share of each class goes to standard output.
    """
    if window and whole:
        raise click.UsageError("--window and --whole exclude each other.")
    tiles = _size("--window", window)
    from kdtune.analysis.checkpoint_file import file_of
    from kdtune.analysis.given import found_images
    from kdtune.study.given_model import network_named

    file_of(weights)  # before all that takes seconds to import
    found_images(images)
    if model is not None:
        network_named(model)
    from kdtune.analysis.prediction import Asked
    from kdtune.analysis.prediction import predict as predicted

    for line in predicted(Asked(weights, images, output, model, tiles, whole)):
        say(line)


@click.command(
    epilog="""\b
Examples:
  kdtune export student.safetensors -o student.onnx
  kdtune export student.safetensors -o student.pt2 --compare photos"""
)
@click.argument("weights")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    callback=writable_or_uri,
    help="Ends in .onnx, or in .pt2 for torch.export.",
)
@model_option
@click.option("--size", metavar="H,W", help="The only size that the file is to take; default: any.")
@click.option(
    "--compare",
    "images",
    metavar="IMAGE",
    multiple=True,
    help="Compare on these, not on noise; may be repeated.",
)
@module_option
def export(weights: str, output: str, model: str | None, size: str | None, images: tuple[str, ...]) -> None:
    """Write a network as ONNX or torch.export: pixels in, logits and labels out, of any size.

    WEIGHTS is a file of weights, or the folder of a trial's checkpoint. Input `image` is uint8, N x 3 x H x W, RGB;
    outputs are `logits` and `labels` of the same H and W. What is written is compared with the network first.
    """
    only = _size("--size", size)
    from kdtune.analysis.checkpoint_file import file_of
    from kdtune.analysis.given import exported_as, found_images
    from kdtune.study.given_model import network_named

    file_of(weights)  # before all that takes seconds to import
    exported_as(output)
    found_images(images)
    if model is not None:
        network_named(model)
    from kdtune.analysis.export import Asked
    from kdtune.analysis.export import export as exported

    for line in exported(Asked(weights, output, model, only, images)):
        say(line)
