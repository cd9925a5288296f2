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

    On the head, while Ray runs. Both listen on loopback alone, at the ports where Ray looks for them, 9090 and 3000, or
    those of RAY_PROMETHEUS_HOST and RAY_GRAFANA_HOST.
    """
    from kdtune.cluster import observing
    from kdtune.cluster.halt import promptly

    found = observing.session_folder(session)
    folder = observing.folder()
    from kdtune.cluster.dashboards import dashboard  # Ray takes seconds

    observing.write(found, folder, dashboard())
    programs = observing.programs(folder)
    for line in observing.missing(programs):
        say(line, err=True)
    say(f"{found.parent}: the files for Prometheus and Grafana are in {folder}", err=True)
    if files:
        return
    if not programs:
        raise click.UsageError("neither Prometheus nor Grafana is on this machine, so there is nothing to start.")
    for program in programs:
        say(f"{program.name}: {program.url}")
    with promptly():
        observing.run(programs)
