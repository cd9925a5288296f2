"""The cluster that studies run on: ``cluster``."""

import click

from kdtune.cli.groups import Group
from kdtune.cli.streams import say


@click.group(cls=Group, epilog="Example: kdtune cluster metrics")
def cluster() -> None:
    """The cluster that studies run on."""


@cluster.command("metrics", epilog="Example: kdtune cluster metrics --session /tmp/ray/session_latest")
@click.option("--session", metavar="DIR", help="Ray's folder; default: of the Ray on this machine that wrote last.")
@click.option("--files", is_flag=True, help="Write the files of both programs and start nothing.")
def metrics(session: str | None, files: bool) -> None:
    """Start Prometheus and Grafana for Ray's page Metrics, with a dashboard of the trials; Ctrl-C ends both.

    On the head, while Ray runs; they end when it ends. Both listen on loopback alone, at the ports where Ray looks for
    them, 9090 and 3000, or those of RAY_PROMETHEUS_HOST and RAY_GRAFANA_HOST.
    """
    from kdtune.cluster import observing
    from kdtune.cluster.halt import promptly
    from kdtune.errors import Interrupted

    found = observing.session_folder(session)
    folder = observing.folder()
    programs = observing.programs(folder)
    if not files:
        observing.refuse_taken(programs)
    from kdtune.cluster.dashboards import dashboard  # Ray takes seconds

    observing.write(found, folder, dashboard())
    for line in observing.missing(programs):
        say(line, err=True)
    say(f"{found.parent}: the files for Prometheus and Grafana are in {folder}", err=True)
    if files:
        return
    if not programs:
        raise click.UsageError("neither Prometheus nor Grafana is on this machine, so there is nothing to start.")
    for program in programs:
        say(f"{program.name}: {program.url}")
    names = " and ".join(program.name for program in programs)
    try:
        with promptly():
            observing.run(programs, found)
    except Interrupted:
        say(f"kdtune: interrupted: {names} ended", err=True)
        click.get_current_context().exit(130)
    say(f"the Ray of {found.parent} has ended, and with it {names}", err=True)
