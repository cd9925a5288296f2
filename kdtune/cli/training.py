"""One network without Ray: ``train``, ``teacher`` and ``evaluate``."""

from typing import Any

import click

from kdtune.cli.groups import Group
from kdtune.cli.options import (
    country_option,
    data_option,
    figures_option,
    module_option,
    numbers,
    pack_option,
    set_option,
    settings_of,
    storage_option,
    threads_option,
    writable_or_uri,
    writable_storage,
)
from kdtune.cli.streams import say


@click.command(epilog="Example: kdtune train demo --set recipe.num_steps=50")
@click.argument("study")
@data_option
@pack_option
@module_option
@set_option
@click.option("--stage", metavar="NAME", help="The stage whose first configuration is trained; default: the first.")
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint.")
@threads_option
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    callback=writable_storage,
    help="Where the trial's files go; default: ./kdtune-train.",
)
def train(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    stage: str | None,
    teacher: str | None,
    threads: int | None,
    output: str | None,
    pack: Any,
) -> None:
    """Train one configuration in this process, without Ray: the study's base, or a stage's first.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune.search import in_process
    from kdtune.study.settings import parse_set

    changes, folder = parse_set(settings), output or "kdtune-train"
    for line in in_process.train(study, data_root, changes, stage, teacher, folder, pack, threads):
        say(line)


@click.group(cls=Group, epilog="Example: kdtune teacher train cityscapes-resnet --data-root data")
def teacher() -> None:
    """A teacher's weights: trained here, or converted from a published checkpoint; how soft its answers are."""


@teacher.command("train", epilog="Example: kdtune teacher train camvid-resnet --data-root data -o teachers")
@click.argument("study")
@data_option
@set_option
@pack_option
@module_option
@click.option(
    "-o", "--output", metavar="DIR", callback=writable_storage, help="Where the files go; default: ./kdtune-teacher."
)
def teacher_train(study: str, data_root: str | None, settings: tuple[str, ...], pack: Any, output: str | None) -> None:
    """Train a study's teacher in this process, without Ray. Run again, it continues.

    STUDY is a name from `kdtune studies list` or a path to a YAML file.
    """
    from kdtune.search import in_process
    from kdtune.study.settings import parse_set

    for line in in_process.train_teacher(study, data_root, parse_set(settings), output or "kdtune-teacher", pack):
        say(line)


@teacher.command("import", epilog="Example: kdtune teacher import theirs.pth -o teacher.safetensors --layout skd")
@click.argument("file")
@module_option
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    callback=writable_or_uri,
    help="The file for --teacher; ends in .safetensors.",
)
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
    from kdtune.analysis.checkpoint_file import refuse_absent
    from kdtune.training.asked_import import Import, check

    refuse_absent(file)
    check(asked := Import(file, output, **given))  # before all that takes seconds to import
    from kdtune.training.teacher_import import import_weights

    for line in import_weights(asked):
        say(line)


@teacher.command("entropy", epilog="Example: kdtune teacher entropy cityscapes-resnet --data-root data --storage runs")
@click.argument("study")
@storage_option
@data_option
@module_option
@set_option
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
    softened = numbers("--temperatures", temperatures, float, "1,2,4,8,16")
    seen = None if whole else numbers("--crop", crop, int, "512,512", count=2)
    changes = settings_of(study, settings)
    from kdtune.analysis import entropy
    from kdtune.analysis.entropy_counts import Asked
    from kdtune.analysis.entropy_run import measure
    from kdtune.search.options import Options

    asked = Asked(
        temperatures=softened,
        crop=seen,
        **{name: given.pop(name) for name in ("images", "split", "seed", "threshold", "upsampled")},
    )
    options = Options(teacher=teacher, settings=changes)
    found = measure(study, asked, options, say=lambda text: say(text, err=True), **given)
    for line in entropy.lines(found):
        say(line)


@click.command(epilog="Example: kdtune evaluate teacher.safetensors --data cityscapes --data-root data")
@click.argument("checkpoints", metavar="CHECKPOINT [OTHER]", nargs=-1, required=True)
@click.option("--data", "dataset", required=True, metavar="NAME", help="The dataset whose validation images are taken.")
@data_option
@click.option(
    "--set", "settings", metavar="PATH=VALUE", multiple=True, help="E.g. dataset.size=[180,240], recipe.eval_window=..."
)
@click.option(
    "--model",
    "models",
    metavar="YAML",
    multiple=True,
    help="The network as a study has it; default: as the file's record says. Of two files: for both, or given twice.",
)
@country_option("Whose electricity is used.", default="DEU", show_default=True)
@pack_option
@module_option
@figures_option
def evaluate(
    checkpoints: tuple[str, ...],
    dataset: str,
    data_root: str | None,
    settings: tuple[str, ...],
    models: tuple[str, ...],
    country: str,
    pack: Any,
    output: str | None,
) -> None:
    """Evaluate weights on a dataset: IoU of each class, their mean, images per second, energy per 10,000 images.

    CHECKPOINT is a file of weights, or the folder of a trial's checkpoint. With OTHER, two of them on the same images:
    the difference of each class and of the mean, with an interval for other images.
    """
    from kdtune.analysis.checkpoint_file import file_of
    from kdtune.analysis.given import check_evaluation
    from kdtune.errors import UserError
    from kdtune.study.settings import parse_set

    if len(checkpoints) > 2 or (len(checkpoints) == 1 and len(models) > 1):
        raise UserError("evaluate takes one file of weights, or two to compare; --model once for each at most")
    for checkpoint in checkpoints:
        file_of(checkpoint)  # before all that takes seconds to import
    changes = parse_set(settings)
    check_evaluation(dataset, models, changes)
    from kdtune.analysis.comparison import compare
    from kdtune.analysis.evaluation import evaluate
    from kdtune.loading.pack import data_folder
    from kdtune.training.site import Site

    site = Site(data_folder(data_root), pack=pack)
    if len(checkpoints) == 2:
        found: Any = compare(checkpoints, dataset, site, changes, models, country)
    else:
        found = evaluate(checkpoints[0], dataset, site, changes, models[0] if models else None, country)
    for line in found.lines():
        say(line)
    if output is not None:
        found.write(output)
