"""Speed and memory of each part on this machine: ``bench``."""

from typing import Any

import click
from click.core import ParameterSource

from kdtune.cli.groups import Group
from kdtune.cli.options import data_option, figures_option, module_option, set_option, settings_of, writable
from kdtune.cli.streams import say


@click.group(cls=Group, epilog="Example: kdtune bench train demo")
def bench() -> None:
    """Speed and memory of each part on this machine."""


@bench.command("orchestration", epilog="Example: kdtune bench orchestration --trials 24 --trials 96")
@click.option("--trials", "counts", multiple=True, type=click.IntRange(min=4), default=(24, 96, 384), show_default=True)
@click.option("--evaluations", default=20, show_default=True, type=click.IntRange(min=1), help="Of each trial.")
@click.option("--storage", metavar="URI", help="Where to write, and leave, the studies; default: a temporary folder.")
@click.option("--study", metavar="NAME", help="Its stages, with trials that only wait, on so many --slots.")
@click.option("--slots", multiple=True, type=click.IntRange(min=1), default=(8, 16, 32), show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="That each trial waits, of --study.")
@figures_option
def bench_orchestration(
    counts: tuple[int, ...],
    evaluations: int,
    storage: str | None,
    study: str | None,
    slots: tuple[int, ...],
    seconds: float,
    output: str | None,
) -> None:
    """Time per trial without training, marginal and in all; the driver's memory; tables; a relaunch once finished.

    Everything but training is done: state and journal on storage at every evaluation. Ray's start is not counted.
    The marginal times are those of the trials 101 to 200 and of the last 100.

    With --study: how long its stages take on so many slots, in trials, and how much of the slots' time is idle.
    """
    if study is not None:
        settings_of(study, ())
        from kdtune.bench.rounds import rounds

        say(rounds(study, slots, seconds, output))
        return
    from kdtune.bench.orchestration import orchestration

    say(orchestration(counts, evaluations, storage, output))


@bench.command("train", epilog="Example: kdtune bench train demo --steps 20")
@click.argument("study", default="demo")
@data_option
@set_option
@module_option
@click.option("--teacher", metavar="FILE", help="The teacher's checkpoint, which brings its network along.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=2))
@figures_option
def bench_train(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    teacher: str | None,
    steps: int,
    output: str | None,
) -> None:
    """Step time, images per second and memory of each stage's first configuration."""
    changes = settings_of(study, settings)
    from kdtune.bench.training import training

    say(training(study, data_root, changes, steps, output, teacher))


@bench.command("terms", epilog="Example: kdtune bench terms cwd mgd --crop 129 --batch 8")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--classes", multiple=True, type=click.IntRange(min=2), default=(19,), show_default=True)
@click.option("--crop", default=513, show_default=True, type=click.IntRange(min=32), help="Pixels a side, 8 a cell.")
@click.option("--batch", default=2, show_default=True, type=click.IntRange(min=2), help="Images.")
@click.option("--steps", default=5, show_default=True, type=click.IntRange(min=2), help="Rounds, a step of each term.")
@click.option("--teacher-backbone", metavar="NAME", help="Default: resnet101 on a GPU, else resnet18.")
@figures_option
def bench_terms(names: tuple[str, ...], classes: tuple[int, ...], output: str | None, **sizes: Any) -> None:
    """What each loss term beside L_CE adds to a step, in time and memory; all terms where none is named.

    PSPNet with ResNet-18 on random images, beside L_CE alone and L_CE + L_PI. What a term does before training is not
    counted.
    """
    from kdtune.losses.catalogue import refuse_unknown

    refuse_unknown(names)  # before torch is imported, which takes seconds
    from kdtune.bench.terms import Setting, loss_terms

    say(loss_terms(names, Setting.of(classes=classes, **sizes), classes, output))


@bench.command("loader", epilog="Example: kdtune bench loader camvid-small --data-root data")
@click.argument("study", default="demo")
@data_option
@set_option
@click.option("--steps", default=50, show_default=True, type=click.IntRange(min=1), help="Batches that are timed.")
@figures_option
def bench_loader(study: str, data_root: str | None, settings: tuple[str, ...], steps: int, output: str | None) -> None:
    """Images per second of augmented batches: packed reading, and torchvision's way, which decodes at each access.

    Also the memory that one more trial's reading takes while another reads the same pack.
    """
    changes = settings_of(study, settings)
    from kdtune.bench.loading import loading

    say(loading(study, data_root, changes, steps, output))


@bench.command("evaluation", epilog="Example: kdtune bench evaluation camvid-resnet --data-root data")
@click.argument("study", default="demo")
@data_option
@set_option
@click.option("--passes", default=3, show_default=True, type=click.IntRange(min=1))
@figures_option
def bench_evaluation(
    study: str, data_root: str | None, settings: tuple[str, ...], passes: int, output: str | None
) -> None:
    """Images per second of a pass over the validation images, beside a plain torch loop over the same network."""
    changes = settings_of(study, settings)
    from kdtune.bench.loading import evaluation

    say(evaluation(study, data_root, changes, passes, output))


@bench.command("entropy", epilog="Example: kdtune bench entropy")
@click.option("--classes", multiple=True, type=click.IntRange(min=2), default=(19, 150), show_default=True)
@click.option("--crops", default=32, show_default=True, type=click.IntRange(min=1), help="Of 512 x 512, timed.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@figures_option
def bench_entropy(classes: tuple[int, ...], crops: int, threads: int, output: str | None) -> None:
    """Crops per second of the teacher's entropy at five temperatures, its memory, and its distance from float64."""
    from kdtune.bench.entropy import entropy

    say(entropy(classes, crops, threads, output))


@bench.command("teacher-store", epilog="Example: kdtune bench teacher-store --study cityscapes-resnet")
@click.option("--steps", default=64, show_default=True, type=click.IntRange(min=2), help="Of each trial.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Of all four, in turn.")
@click.option("--study", metavar="STUDY", help="Also launch it at a tiny size, and count the teacher's steps.")
@figures_option
def bench_teacher_store(steps: int, rounds: int, study: str | None, output: str | None) -> None:
    """Processor time of trials with a heavy teacher over trials without: no store, a new one, a full one."""
    if study is not None:
        settings_of(study, ())
    from kdtune.bench.teacher_store import teacher_store

    say(teacher_store(steps, rounds, study, output))


@bench.command("growth", epilog="Example: kdtune bench growth --trials 100,1000 --place folder")
@click.option("--trials", metavar="N,N", default="100,1000,10000", show_default=True, help="Sizes of the studies.")
@click.option(
    "--place", "places", multiple=True, type=click.Choice(["folder", "s3"]), default=("folder", "s3"), show_default=True
)
@figures_option
def bench_growth(trials: str, places: tuple[str, ...], output: str | None) -> None:
    """Finished studies of many trials: relaunch, dry run, status, results and report; tables while one runs.

    Processor seconds and memory, also as what is more than on a study of one trial; files opened; on S3, which moto
    plays on this machine, requests by kind; KiB written (of report: of its page).
    """
    counts = [int(word) if word.strip().isdecimal() else 0 for word in trials.split(",")]
    if min(counts) < 2:
        raise click.BadParameter(
            f"numbers of trials, 2 or more, with commas between, got '{trials}'", param_hint="--trials"
        )
    from kdtune.bench.growth import growth

    say(growth(counts, places, output))


@bench.command("statistics", epilog="Example: kdtune bench statistics --tables 200 --methods 5")
@click.option("--tables", default=1000, show_default=True, type=click.IntRange(min=10), help="Drawn for each line.")
@click.option("--seeds", multiple=True, type=click.IntRange(min=2), default=(3, 5, 10), show_default=True)
@click.option("--methods", multiple=True, type=click.IntRange(min=3), default=(5, 30), show_default=True)
@click.option("--images", is_flag=True, help="Of the intervals of other images in place of those of other seeds.")
@figures_option
def bench_statistics(
    tables: int, seeds: tuple[int, ...], methods: tuple[int, ...], images: bool, output: str | None
) -> None:
    """How often the comparison of `results --table final` is wrong: false claims, coverage, power.

    Draws tables of a known truth and sends them through the comparison's own functions: runs of one seed correlated or
    not, a student that scatters half, as much and twice as much as the rest, normal chance and heavy tails. With
    --images five networks on images that are independent, or of recordings whose images go together.
    """
    from kdtune.bench.other_images import other_images
    from kdtune.bench.statistics import statistics

    click.echo(other_images(tables, output) if images else statistics(tables, output, seeds, methods))


@bench.command("demo", epilog="Example: kdtune bench demo")
@figures_option
def bench_demo(output: str | None) -> None:
    """`kdtune launch demo` from the command to the tables: seconds, memory over all its processes, trials, stages."""
    from kdtune.bench.demo import demo

    say(demo(output))


@bench.command("asha", epilog="Example: kdtune bench asha demo --seed 1 --seed 2 --storage runs/asha")
@click.argument("study", default="demo")
@data_option
@set_option
@click.option("--stage", "stages", metavar="NAME", multiple=True, help="Default: grids of one seed and several axes.")
@click.option("--seed", "seeds", metavar="N", multiple=True, type=click.IntRange(min=0), help="Of trials, one more.")
@click.option("--orders", default=50, show_default=True, type=click.IntRange(min=1), help="Replays of each grid.")
@click.option("--within", default=0.5, show_default=True, type=click.FloatRange(min=0), help="No loss [mIoU points].")
@click.option("--every", metavar="N", multiple=True, type=click.IntRange(min=1), help="Steps from evaluation to next.")
@click.option("--launch/--no-launch", "launched", default=True, help="Also launch the stages with ASHA.")
@click.option("--storage", metavar="URI", help="Keeps the full grids there, goes on with those that are there.")
@click.option("--recorded", is_flag=True, help="No training: replays every rule on the grids that kdtune brings along.")
@figures_option
def bench_asha(
    study: str,
    data_root: str | None,
    settings: tuple[str, ...],
    storage: str | None,
    recorded: bool,
    output: str | None,
    **given: Any,
) -> None:
    """ASHA against the full grid: its share of the steps, and whether it finds the same optimum.

    Runs the stages without early stopping, then with ASHA, and replays ASHA on the recorded curves in other orders
    and with other grace periods and reduction factors.
    """
    from kdtune.cluster.auth import require_token

    require_token()  # before the bench imports Ray, which looks for it then
    if recorded:
        _refuse_beside_recorded(click.get_current_context())
        from kdtune.bench import recorded as grids

        say(grids.recorded(given["orders"], output))
        return
    changes = settings_of(study, settings, stages=given["stages"])
    from kdtune.bench.early_stopping import Setting, asha

    options = {"data_root": data_root, "storage": storage, "output": output}
    say(asha(study, Setting(**given), settings=changes, **options))


def _refuse_beside_recorded(context: click.Context) -> None:
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("recorded", "orders", "output"):
            raise click.UsageError(f"--recorded trains nothing: leave out {parameter.opts[0]}")


@bench.command("gpu", epilog="Example: kdtune bench gpu gpu.json")
@click.argument("file", metavar="FILE.json", callback=writable)
@click.option(
    "--seconds", default=480.0, show_default=True, type=click.FloatRange(min=0), help="After them no part begins."
)
def bench_gpu(file: str, seconds: float) -> None:
    """What only a GPU can show: waits, layout, equal digits twice and resumed, step times and memory, trials at once.

    Without a GPU the same parts run at the smallest size, which shows that they run and nothing else.
    """
    import json

    from kdtune.bench.gpu import gpu

    say(json.dumps(gpu(file, seconds), indent=1))
