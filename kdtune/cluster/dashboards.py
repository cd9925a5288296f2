"""What Grafana shows of a study while it runs: one dashboard, made of the numbers that a trial shows."""

from typing import Any

from kdtune.cluster.metrics import MEASURED, STALLED

PREFIX = "ray_"  # Ray's endpoint puts it before each name
UID = "kdtune"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
FILTERS = ("study", "stage", "method")  # what can be chosen at the top of the page
CHOSEN = ", ".join(f'{name}=~"${name}"' for name in FILTERS)

PANELS = (  # column of a trial's row, title, Grafana's name of the unit
    ("miou", "mIoU", "percent"),
    ("step", "Steps", "short"),
    ("images_per_second", "Images per second", "short"),
    ("watts", "Power", "watt"),
    ("peak_memory_mb", "Peak memory", "mbytes"),
    ("energy_kwh", "Energy", "kwatth"),
)
WIDTH, HEIGHT = 12, 9  # of a panel, in the cells of Grafana's page, which is 24 wide


def dashboard() -> dict[str, Any]:
    """Grafana's JSON: a line for each trial in each panel, and whether any trial hangs."""
    panels = [_of_trials(*panel) for panel in PANELS] + [_hanging()]
    for number, panel in enumerate(panels):
        place = {"x": WIDTH * (number % 2), "y": HEIGHT * (number // 2), "w": WIDTH, "h": HEIGHT}
        panel |= {"id": number + 1, "gridPos": place, "datasource": SOURCE}
    return {
        "uid": UID,
        "title": "kdtune",
        "tags": ["kdtune"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), *(_filter(number) for number in range(len(FILTERS)))]},
        "panels": panels,
    }


def _of_trials(column: str, title: str, unit: str) -> dict[str, Any]:
    name, description = MEASURED[column]
    # A trial that goes on in another process has a second series there.
    expression = f"max by (study, stage, method, trial) ({PREFIX}{name}{{{CHOSEN}}})"
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"showPoints": "auto"}}, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [{"refId": "A", "expr": expression, "legendFormat": "{{method}} {{trial}}"}],
    }


def _hanging() -> dict[str, Any]:
    name, description = STALLED
    expression = f'sum({PREFIX}{name}{{study=~"$study"}}) or vector(0)'
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
    thresholds = {"mode": "absolute", "steps": steps}
    return {
        "type": "stat",
        "title": "Trials that hang",
        "description": description,
        "fieldConfig": {"defaults": {"unit": "short", "thresholds": thresholds}, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        "targets": [{"refId": "A", "expr": expression}],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 2}


def _filter(number: int) -> dict[str, Any]:
    """Its values are those of the filters chosen before it."""
    name = FILTERS[number]
    chosen = ", ".join(f'{before}=~"${before}"' for before in FILTERS[:number])
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({PREFIX}{MEASURED['step'][0]}{{{chosen}}}, {name})", "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
