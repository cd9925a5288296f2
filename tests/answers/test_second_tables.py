"""Every table of ``kdtune results`` a second time, by pandas and scipy alone, in every pair of states of a study.

Nothing here is imported from ``kdtune.answers`` but what is to be checked.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from kdtune import results
from kdtune.answers.tables import table
from kdtune.records.storage import Storage
from tests.support import study_states
from tests.support.study_states import NAME, State

PLANNED = {stage.name: set(stage.seeds) for stage in study_states.study().stages}
STARTS = {stage.name: list(stage.start_from) for stage in study_states.study().stages}
WORST = ["completed", "stopped", "diverged", "failed"]
Table = pd.DataFrame


def written(folder: Path, state: State) -> Storage:
    storage = Storage(str(folder), NAME)
    study_states.write(storage, state)
    return storage


def configurations(trials: Table, stage: str) -> Table:
    """A line per configuration of a stage, with its scores."""
    lines = []
    for _, group in trials[trials.stage == stage].groupby(["start", "config_id"], sort=False):
        worst = group.loc[group.status.map(WORST.index).idxmax()]
        done = group[group.status == "completed"]
        whole = set(group.seed) == PLANNED[stage] and len(done) == len(group)
        reached = worst.miou if len(PLANNED[stage]) == 1 and worst.status != "completed" else np.nan
        ended = set(group.seed) == PLANNED[stage] or worst.status != "completed"
        mean = done.miou.mean() if whole else np.nan
        line = worst.to_dict() | {"miou_mean": mean, "miou": mean if whole else reached, "seeds": len(done)}
        lines.append(
            line | {"miou_std": done.miou.std() if whole else np.nan, "status": worst.status if ended else None}
        )
    found = pd.DataFrame(lines, columns=[*trials.columns, "miou_mean", "miou_std", "seeds"])
    return marked(found)


def marked(found: Table) -> Table:
    best = found.miou_mean == found.miou_mean.max()
    reach = found.miou_std[best].fillna(0.0).max()
    return found.assign(best=best, within_one_std=found.miou_mean >= found.miou_mean.max() - reach)


def swept(trials: Table, stage: str, axes: dict[str, Sequence[float]], begun: Sequence[str]) -> Table:
    """The configurations of a stage and the planned cells that none of them fills, once any such stage has begun."""
    found = configurations(trials, stage)
    if not set(trials.stage) & set(begun):
        return found.iloc[:0]
    there = {tuple(line) for line in found[list(axes)].itertuples(index=False)}
    empty = [
        dict(zip(axes, cell, strict=True)) | {"stage": stage, "seeds": 0, "best": False, "within_one_std": False}
        for cell in itertools.product(*axes.values())
        if cell not in there
    ]
    return pd.concat([found.astype(object), pd.DataFrame(empty, columns=found.columns).astype(object)])


def same(table: Any, expected: Table, keys: Sequence[str], columns: Sequence[str] = ()) -> None:
    """Every cell of the table is that of the other, line by line as the keys name them."""
    measured = table.to_pandas()
    columns = list(columns) or list(measured.columns)
    assert len(measured) == len(expected)
    if not len(measured):
        return
    ours, theirs = (frame.sort_values(list(keys)).reset_index(drop=True) for frame in (measured, expected))
    for column in columns:
        for mine, other in zip(ours[column], theirs[column], strict=True):
            if pd.isna(other):
                assert pd.isna(mine), (column, mine)
            elif isinstance(other, float):
                assert mine == pytest.approx(other, rel=1e-9), column
            else:
                assert mine == other, column


GRID = {"lr": (0.1, 0.2)}


EVERY = study_states.pairs()
SEARCHED = EVERY[:27] + EVERY[27::16]  # the others differ in ``final`` alone
searched = pytest.mark.parametrize("stored", SEARCHED, ids=str, indirect=True)


@pytest.fixture(scope="module")
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Table, Storage]:
    storage = written(tmp_path_factory.mktemp("storage"), request.param)
    return results(NAME, storage.root).all(), pd.read_parquet(f"{storage.folder.uri}/trials.parquet"), storage


Stored = tuple[Any, Table, Storage]


@searched
def test_searches(stored: Stored) -> None:
    found, trials, _ = stored
    grids = [swept(trials, stage, GRID, ("student", "distill")) for stage in ("student", "distill")]
    grids = [grid.assign(weight_decay=trials.weight_decay.iloc[0]) for grid in grids]
    same(table("grid", found, NAME), pd.concat(grids), ["stage", "lr"])
    temperatures = swept(trials, "temperature", {"temperature": (1.0, 2.0)}, ("temperature",))
    same(table("temperature", found, NAME), temperatures, ["temperature"])
    weights = swept(trials, "weight-pa", {"lambda_pa": (0.1, 1.0)}, ("weight-pa",))
    columns = ["stage", "lambda_pa", "best", "miou", "miou_std", "seeds", "status", "step", "steps_total"]
    same(table("weights", found, NAME), weights, ["lambda_pa"], columns)


@searched
def test_optimal(stored: Stored) -> None:
    found, trials, _ = stored
    lines = []
    for stage in [name for name in PLANNED if name != "teacher"]:
        of_stage, scores = trials[trials.stage == stage], configurations(trials, stage)
        scores = scores[scores.miou_mean.notna()]
        if len(scores):
            best = scores.loc[scores.miou_mean.idxmax()].to_dict()
            best |= {"miou": best["miou_mean"], "trials": len(of_stage)}
            lines.append(best | {"trials_stopped": (of_stage.status == "stopped").sum()})
    shown = ["stage", "lr", "weight_decay", "temperature", "lambda_pi", "lambda_pa", "miou", "miou_std", "seeds"]
    expected = pd.DataFrame(lines, columns=[*shown, "trials", "trials_stopped"])
    same(table("optimal", found, NAME), expected, ["stage"], expected.columns)


@searched
def test_trials_cost_and_emissions(stored: Stored) -> None:
    found, trials, _ = stored
    same(table("trials", found, NAME), trials, ["trial_id"], [c for c in trials.columns if c != "per_class_iou"])
    by_stage = trials.groupby("stage", sort=False)
    stopped = trials[trials.status == "stopped"].groupby("stage")
    cost = pd.DataFrame(
        {
            "trials": by_stage.size(),
            "trials_stopped": stopped.size(),
            "steps": by_stage.step.sum(),
            "steps_not_run": stopped.steps_total.sum() - stopped.step.sum(),
            "train_seconds": by_stage.train_seconds.sum(min_count=1),
            "energy_kwh": by_stage.energy_kwh.sum(min_count=1),
            "co2_kg": by_stage.co2_kg.sum(min_count=1),
        }
    ).fillna({"trials_stopped": 0, "steps_not_run": 0})
    spared = stopped.energy_kwh.sum() * cost.steps_not_run / stopped.step.sum()
    cost["kwh_not_used"] = spared.reindex(cost.index).fillna(0.0)
    same(table("cost", found, NAME), cost.reset_index(), ["stage"], ["stage", *cost.columns])
    chosen = {}
    for model, early, taught in (("student", "student", False), ("student+kd", "distill", True)):
        for stage in ("final", early):
            scores = configurations(trials[(trials.method != "student") == taught], stage)
            if scores.miou_mean.notna().any():
                best = scores.loc[scores.miou_mean.idxmax()]
                chosen[model] = trials[(trials.stage == stage) & (trials.config_id == best.config_id)]
                break
    chosen["teacher"] = trials[trials.stage == "teacher"]
    training = [
        {"model": model, "miou": rows.miou.mean(), "energy_kwh": rows.energy_kwh.mean(), "co2_kg": rows.co2_kg.mean()}
        for model, rows in chosen.items()
    ]
    emissions = table("emissions", found, NAME)
    mask = [phase == "training" for phase in emissions["phase"].to_pylist()]
    same(emissions.filter(mask), pd.DataFrame(training), ["model"], ["model", "miou", "energy_kwh", "co2_kg"])


@searched
def test_initialization(stored: Stored) -> None:
    found, trials, _ = stored
    shown = table("initialization", found, NAME).to_pandas()
    ours = configurations(trials, "initialization")
    if not len(ours):
        assert not len(shown)
        return
    known = shown[shown.method.isin(ours.method) & (shown.init == ours.init.iloc[0])]
    for column in ("miou_mean", "miou_std", "seeds", "status"):
        pairs = zip(known.sort_values("method")[column], ours.sort_values("method")[column], strict=True)
        assert all((pd.isna(mine) and pd.isna(other)) or mine == pytest.approx(other) for mine, other in pairs)
    (teacher,) = shown[shown.method == "teacher"].miou_mean
    assert teacher == trials[trials.stage == "teacher"].miou.item()


# The comparison


def outside(reach: float, tests: int, freedom: float, correlation: float) -> float:
    """The probability that any of the absolute t values is beyond ``reach``, by scipy's multivariate t."""
    shape = np.full((tests, tests), correlation) + (1 - correlation) * np.eye(tests)
    joint = stats.multivariate_t(shape=shape, df=freedom, seed=1)
    return float(1 - joint.cdf(np.full(tests, reach), lower_limit=np.full(tests, -reach), random_state=1))


@functools.cache
def quantile(tests: int, freedom: float, correlation: float) -> float:
    return float(optimize.brentq(lambda q: outside(q, tests, freedom, correlation) - 0.05, 0.5, 60.0, xtol=1e-3))


def fitted(runs: Table, reference: str) -> dict[str, tuple[float, float, float, float]]:
    """Method -> difference, error, degrees of freedom, smallest correlation; by dummy variables for method and seed."""
    methods = [reference, *(m for m in dict.fromkeys(runs.method) if m != reference)]
    design = pd.concat(
        [
            pd.get_dummies(pd.Categorical(runs.method, categories=methods)).iloc[:, 1:],
            pd.get_dummies(runs.seed.reset_index(drop=True)),
        ],
        axis=1,
    ).to_numpy(float)
    freedom = len(runs) - np.linalg.matrix_rank(design)
    if freedom < 1 or len(methods) < 2:
        return {}
    levels, *_ = np.linalg.lstsq(design, runs.miou.to_numpy(), rcond=None)
    cov = np.linalg.pinv(design.T @ design) * float(((runs.miou.to_numpy() - design @ levels) ** 2).sum()) / freedom
    errors = np.sqrt(np.diag(cov))[: len(methods) - 1]
    scale = np.outer(errors, errors)
    rest = (cov[: len(errors), : len(errors)] / scale)[~np.eye(len(errors), dtype=bool)] if errors.min() > 1e-8 else []
    low = max(0.0, float(min(rest, default=0.5)))
    pairs = zip(methods[1:], levels, errors, strict=False)
    return {method: (float(v), float(e), float(freedom), low) for method, v, e in pairs}


def scattered(runs: Table, reference: str) -> tuple[float, float, float, int] | None:
    """P of the F test, the two variances, the number of others; none of an incomplete table or of less than two."""
    grid = runs.pivot(index="method", columns="seed", values="miou")
    if grid.isna().to_numpy().any() or len(grid) < 3 or grid.shape[1] < 2:
        return None
    others = grid.drop(index=reference)
    chance = others.sub(others.mean(axis=0), axis=1).sub(others.mean(axis=1), axis=0) + others.to_numpy().mean()
    freedom = (len(others) - 1) * (grid.shape[1] - 1)
    own, apart = (chance**2).to_numpy().sum() / freedom, (grid.loc[reference] - others.mean(axis=0)).var()
    if own <= 0:
        return (0.0 if apart > 0 else 1.0), own, apart, len(others)
    ratio = apart / own / (1 + 1 / len(others))
    return float(stats.f.sf(ratio, grid.shape[1] - 1, freedom)), own, apart, len(others)


@pytest.mark.parametrize("stored", EVERY, ids=str, indirect=True)
def test_final(stored: Stored) -> None:
    found, trials, _ = stored
    shown = table("final", found, NAME).to_pandas().set_index("method")
    final = trials[trials.stage == "final"]
    if not len(final):
        assert not len(shown)
        return
    scores = configurations(trials, "final").set_index("method")
    for method, line in scores.iterrows():
        mine = shown.loc[method]
        for column in ("miou_mean", "miou_std", "seeds", "status", "best"):
            assert (pd.isna(mine[column]) and pd.isna(line[column])) or mine[column] == pytest.approx(line[column])
        chain, seen = [final[final.method == method].start.iloc[0]], set[str]()
        while chain:
            seen.add(stage := chain.pop())
            chain += STARTS[stage]
        tuned = trials[trials.stage.isin(seen)]
        counts = (len(tuned), tuned.step.sum()) if len(tuned) else (np.nan, np.nan)
        np.testing.assert_array_equal([mine.tuning_trials, mine.tuning_steps], counts)
    lost = set(scores.index[[(final[final.method == m].status != "completed").any() for m in scores.index]])
    runs = final[~final.method.isin(lost)]
    for reference in ("student", "pi"):
        size = 3 - max(1, len({"student", reference} & set(final.method)))
        check_family(shown, runs, reference, size, complete=len(final) == 9)


def check_family(shown: Table, runs: Table, reference: str, size: int, *, complete: bool) -> None:
    own = lambda name: f"gain_{reference}{name}"  # noqa: E731
    model = fitted(runs, reference) if reference in set(runs.method) else {}
    scatter = scattered(runs, reference) if model else None
    for method, line in shown.iterrows():
        if method in (reference, "student") or method not in model or abs(model[method][1]) < 1e-8:
            if method not in model:
                assert pd.isna(line[own("_low")])
            continue
        value, error, freedom, correlation = model[method]
        if scatter is not None and scatter[0] < 0.1:
            _, chance, apart, others = scatter
            seeds = runs.seed.nunique()
            parts = chance * (1 - 1 / others) / seeds, apart / seeds
            error = math.sqrt(sum(parts))
            freedom = sum(parts) ** 2 / (parts[0] ** 2 / ((others - 1) * (seeds - 1)) + parts[1] ** 2 / (seeds - 1))
            correlation = max(0.0, (parts[1] - chance / (others * seeds)) / sum(parts))
        assert line[own("")] == pytest.approx(value)
        reach = line[own("_high")] - value
        assert reach == pytest.approx(value - line[own("_low")])
        assert outside(reach / error, size, freedom, min(correlation, 0.95)) == pytest.approx(0.05, abs=1e-3)
        assert line[f"family_{reference}"] == size
        assert line[f"provisional_{reference}"] == (not complete)
        assert line[f"analysis_{reference}"] == (
            "reference apart" if scatter is not None and scatter[0] < 0.1 else "pooled"
        )
        if scatter is not None:
            assert line[f"scatter_p_{reference}"] == pytest.approx(scatter[0], abs=1e-9)
        if not complete:
            assert pd.isna(line[f"p_{reference}"])
            assert pd.isna(line[f"least_gain_{reference}"])
            continue
        chance_p = outside(abs(value) / error, size, freedom, min(correlation, 0.95))
        assert line[f"p_{reference}"] == pytest.approx(chance_p, abs=1e-3)
        least = line[f"least_gain_{reference}"]
        assert stats.nct.sf(reach / error, freedom, least / error) == pytest.approx(0.8, abs=1e-3)
        if line[f"analysis_{reference}"] == "pooled":
            check_seeds_needed(line[f"seeds_needed_{reference}"], line[f"deviation_{reference}"], runs, size)


def check_seeds_needed(seeds: float, deviation: float, runs: Table, size: int) -> None:
    """So many seeds find half a point in 80 of 100 cases, one fewer does not."""
    methods = runs.method.nunique()

    def power(n: float) -> float:
        error, freedom = deviation * math.sqrt(2 / n), (methods - 1) * (n - 1)
        return float(stats.nct.sf(quantile(size, freedom, 0.5), freedom, 0.5 / error))

    assert power(seeds) >= 0.8 - 2e-3
    assert seeds == 2 or power(seeds - 1) < 0.8 + 2e-3
