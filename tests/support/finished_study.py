"""A finished study as the storage holds it: real Arrow tables, every column, values made for the tests."""

import json
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import pyarrow as pa

from kdtune.answers.ranking import Row
from kdtune.answers.tables import Tables

TIME = pa.timestamp("us", tz="UTC")
LAMBDAS = ["lambda_pi", "lambda_pa", "lambda_ho", "lambda_ifv", "lambda_cwd"]
TEXT = ["study", "stage", "trial_id", "config_id", "start", "method", "config", "status"]
TRIALS = pa.schema(
    [(name, pa.string()) for name in TEXT]
    + [(name, pa.float64()) for name in ["lr", "weight_decay", "temperature", *LAMBDAS]]
    + [("init", pa.string()), ("seed", pa.int64()), ("miou", pa.float64()), ("miou_best", pa.float64())]
    + [("step", pa.int64()), ("steps_total", pa.int64()), ("per_class_iou", pa.list_(pa.float64()))]
    + [(name, pa.float64()) for name in ("train_seconds", "images_per_second", "peak_memory_mb")]
    + [(name, pa.float64()) for name in ("energy_kwh", "co2_kg", "inference_kwh", "inference_co2_kg")]
    + [("inference_images", pa.int64())]
    + [(name, pa.string()) for name in ("node", "device", "error")]
    + [("started_at", TIME), ("finished_at", TIME)]
    + [(name, pa.string()) for name in ("kdtune_version", "torch_version")]
)
HISTORY = pa.schema(
    [("study", pa.string()), ("stage", pa.string()), ("trial_id", pa.string()), ("step", pa.int64())]
    + [(name, pa.float64()) for name in ("miou", "loss", "loss_pi", "grad_norm_pi", "lr_now", "seconds")]
)
OPTIMAL = pa.schema(
    [(name, pa.string()) for name in ("study", "stage", "trial_id")]
    + [(name, pa.float64()) for name in ["lr", "weight_decay", "temperature", *LAMBDAS, "miou", "miou_std"]]
    + [(name, pa.int64()) for name in ("seeds", "trials", "trials_stopped")]
)
FINAL = pa.schema(
    [(name, pa.string()) for name in ("study", "method")]
    + [(name, pa.float64()) for name in ("miou_mean", "miou_std")]
    + [("seeds", pa.int64()), ("best", pa.bool_()), ("within_one_std", pa.bool_())]
)
EMISSIONS = pa.schema(
    [(name, pa.string()) for name in ("study", "model", "phase")]
    + [("miou", pa.float64()), ("images", pa.int64()), ("energy_kwh", pa.float64()), ("co2_kg", pa.float64())]
    + [("country", pa.string()), ("measured", pa.bool_())]
)
NODES = pa.schema(
    [(name, pa.string()) for name in ("study", "launch", "node")]
    + [(name, pa.float64()) for name in ("seconds", "energy_kwh", "co2_kg", "trials_kwh", "idle_kwh")]
    + [(name, pa.float64()) for name in ("cpu_kwh", "ram_kwh", "gpu_kwh", "meter_cpu_seconds")]
    + [("country", pa.string()), ("measured", pa.bool_())]
)

FINAL_ROWS: list[Row] = [
    {
        "method": "pi+cwd",
        "miou_mean": 71.0,
        "miou_std": 0.5,
        "seeds": 3,
        "best": False,
        "within_one_std": True,
    },
    {
        "method": "pi",
        "miou_mean": 71.2,
        "miou_std": 0.4,
        "seeds": 3,
        "best": True,
        "within_one_std": True,
    },
    {
        "method": "student",
        "miou_mean": 70.0,
        "miou_std": 0.0,
        "seeds": 3,
        "best": False,
        "within_one_std": False,
    },
]
EMISSIONS_ROWS: list[Row] = [
    {"model": "student", "phase": "training", "miou": 70.0, "energy_kwh": 0.8412, "co2_kg": 0.298},
    {
        "model": "student",
        "phase": "inference",
        "miou": 70.0,
        "images": 10000,
        "energy_kwh": 0.2,
        "co2_kg": 0.07,
    },
]
EMISSIONS_ROWS = [row | {"country": "DEU", "measured": row["phase"] == "training"} for row in EMISSIONS_ROWS]
OPTIMAL_ROWS: list[Row] = [
    {"stage": "distill", "trial_id": "distill-1-s0", "lr": 1e-2, "weight_decay": 5e-4, "temperature": 1.0}
    | {"lambda_pi": 0.1, "miou": 71.641, "seeds": 1, "trials": 4, "trials_stopped": 1}
]


def trial(stage: str, miou: float | None, **more: Any) -> Row:
    """A finished trial of study ``s``, every column of it; its configuration is what is not a measurement."""
    row: Row = {"study": "s", "stage": stage, "method": "student", "status": "completed", "seed": 0}
    row |= {"lr": 1e-2, "weight_decay": 5e-4, "init": "imagenet", "step": 900, "steps_total": 900} | more
    config = {key: row.get(key) for key in ("lr", "weight_decay", "temperature", *LAMBDAS, "init", "method")}
    row |= {
        "config": json.dumps(config),
        "config_id": f"{crc32(json.dumps(config).encode()):08x}",
        "miou": miou,
    }
    row |= {"trial_id": f"{stage}-{row['config_id']}-s{row['seed']}", "per_class_iou": [miou, None, 12.5]}
    row |= {
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "error": 'lost, it "said"',
        "node": "n|1",
    }
    return row


def tables(trials: list[Row], **more: list[Row]) -> Tables:
    return Tables(
        trials=pa.Table.from_pylist(trials, schema=TRIALS),
        history=pa.Table.from_pylist([], schema=HISTORY),
        optimal=pa.Table.from_pylist(more.get("optimal", []), schema=OPTIMAL),
        final=pa.Table.from_pylist(more.get("final", []), schema=FINAL),
        emissions=pa.Table.from_pylist(more.get("emissions", []), schema=EMISSIONS),
        nodes=pa.Table.from_pylist(more.get("nodes", []), schema=NODES),
    )


def grid() -> list[Row]:
    """Two stages; the highest values of ``distill`` belong to trials that did not complete."""
    pi: Row = {"start": "student", "method": "pi", "temperature": 1.0, "lambda_pi": 0.1}
    return [
        trial("student", 68.89, lr=5e-2),
        trial("student", 70.55, lr=1e-2),
        trial("student", 69.74, lr=5e-2, weight_decay=5e-5),
        trial("distill", 71.641, **pi),
        trial("distill", 90.0, **pi, lr=5e-2, status="stopped", step=300),
        trial("distill", 95.0, **pi, lr=5e-2, weight_decay=5e-5, status="diverged", step=200),
        trial("distill", 99.0, **pi, lr=1e-2, weight_decay=5e-5, status="failed", step=100),
    ]


def seeds(mious: list[float], **more: Any) -> list[Row]:
    pi: Row = {"start": "distill", "method": "pi", "lambda_pi": 0.1}
    return [trial("temperature", miou, seed=seed, **pi | more) for seed, miou in enumerate(mious, 1)]


def everything() -> Tables:
    weights: Row = {"start": "weight-pi", "temperature": 3.0, "lambda_pi": 0.1}
    trials = [trial("teacher", 78.0), *grid(), *seeds([70.0, 71.0, 72.0], temperature=1.0)]
    trials += seeds([73.0, 72.0, 74.0], temperature=3.0) + seeds([72.5, 72.0, 73.0], temperature=6.0)
    trials += [trial("weight-pa", 70.0 + i, method="pi+pa", lambda_pa=10.0**i, **weights) for i in (-3, -2, 0)]
    trials += [trial("final", 70.0, seed=seed, start="student") for seed in (11, 12, 13)]
    for method, mious in (("student", (63.0, 64.0)), ("pi", (62.0, 63.0))):
        more: Row = {"lambda_pi": 0.1, "temperature": 3.0} if method == "pi" else {}
        start = "weight-pi" if method == "pi" else "student"
        trials += [
            trial("initialization", miou, seed=seed, method=method, init="random", start=start, **more)
            for seed, miou in enumerate(mious, 21)
        ]
    study = {"study": "s"}
    return tables(
        trials,
        final=[row | study for row in FINAL_ROWS],
        emissions=[row | study for row in EMISSIONS_ROWS],
        optimal=[row | study for row in OPTIMAL_ROWS],
        nodes=[study | {"node": "n|1", "energy_kwh": 9.0, "co2_kg": 3.0, "trials_kwh": 7.0, "idle_kwh": 2.0}],
    )
