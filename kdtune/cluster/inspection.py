"""The data of a study before any step: looked at on each node, compared between nodes and with earlier trials'."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kdtune.base import Split, UserError
from kdtune.loading.content import Content, content, difference
from kdtune.loading.pack import dataset_root
from kdtune.records.storage import Record, Storage
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Part, Site, check_labels, load_split, part

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class Answer:
    """What a node found: the content of every split, or what is wrong with one."""

    node: str
    parts: Mapping[Part, Content] = field(default_factory=dict)
    fault: str | None = None


def look(configs: Sequence[TrialConfig], site: Site) -> dict[Part, Content]:
    """Packs the datasets of these configurations on this node, unless they are, and looks at every label.

    Raises:
        UserError: missing or unreadable data, a label out of range, or no room for a pack.
    """
    check_there(configs, site.root)  # what is missing is said before anything is packed
    found = {}
    for config in configs:
        for split in SPLITS:
            images = load_split(config, split, site)
            check_labels(images, config.dataset, split)
            found[part(config.dataset, split)] = content(config.dataset, split, dataset_root(config.dataset, site.root))
    return found


def check_there(configs: Sequence[TrialConfig], data_root: str | None) -> None:
    """Lists the files of these configurations' datasets.

    Raises:
        UserError: some are missing.
    """
    for config in configs:
        for split in SPLITS:
            config.dataset.samples(split, dataset_root(config.dataset, data_root))


def settle(storage: Storage, records: Mapping[str, Record], answers: Sequence[Answer]) -> dict[Part, str]:
    """The content key that each split must have on every node from now on; noted in ``data.json``.

    What is noted there binds once a trial has been evaluated on the dataset. Until then it is replaced.

    Raises:
        UserError: a node cannot train the study or has other data than the rest, or all have other data than the
            trials on record had; or the storage cannot be written.
    """
    noted = storage.data()
    parts = {each for answer in answers for each in answer.parts}
    used = {dataset for dataset in {dataset for dataset, _ in parts} & set(noted) if _used(records, dataset)}
    bound = {(dataset, split): noted[dataset][split] for dataset, split in parts if dataset in used}
    found = _agreed(answers, {each: entry["key"] for each, entry in bound.items()})
    new = False
    for (dataset, split), first in found.items():
        each = first.parts[dataset, split]
        if noted.get(dataset, {}).get(split, {}).get("key") == each.key:
            continue
        if (dataset, split) in bound:
            entry = bound[dataset, split]
            raise UserError(
                f"dataset '{_name(dataset)}', {split}: its content key is {each.short}, but the trials in "
                f"{storage.folder.uri} were trained on {entry['key'][:12]} ({entry['images']} images, noted by "
                f"{entry['node']} at {entry['noted_at']}): bring the same data, or give another --storage; results on "
                "different data cannot be compared"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"key": each.key, "images": len(each.images), "node": first.node, "noted_at": now}
        noted.setdefault(dataset, {})[split] = facts
        new = True
    if new:
        try:
            storage.write_data(noted)
        except OSError as error:
            raise storage.unusable(error) from error
    return {each: answer.parts[each].key for each, answer in found.items()}


def _used(records: Mapping[str, Record], dataset: str) -> bool:
    """Whether a trial of the study has been evaluated on it."""
    wanted = json.loads(dataset)
    rows = (record["row"] for record in records.values())
    return any(row["step"] is not None and json.loads(row["config"])["dataset"] == wanted for row in rows)


def _agreed(answers: Sequence[Answer], bound: Mapping[Part, str]) -> dict[Part, Answer]:
    """For each split the first node of those that have what most nodes have, or what is ``bound`` if any has that.

    Raises:
        UserError: a node has a fault, or other data; one line names every such node.
    """
    faults = {answer.node: answer.fault for answer in answers if answer.fault is not None}
    sound = [answer for answer in answers if answer.fault is None]
    found: dict[Part, Answer] = {}
    for each in sound[0].parts if sound else ():
        counts = Counter(answer.parts[each].key for answer in sound)
        key = bound[each] if bound.get(each) in counts else counts.most_common(1)[0][0]
        found[each] = first = next(answer for answer in sound if answer.parts[each].key == key)
        for answer in sound:
            here, there = answer.parts[each], first.parts[each]
            if here.key != key:
                differs = f"{_name(each[0])}, {each[1]}: {difference(here, there)} (content key {here.short}"
                faults.setdefault(answer.node, f"{differs}, but {there.short} on node {first.node})")
    if faults:
        told: dict[str, list[str]] = {}
        for node, fault in faults.items():
            told.setdefault(fault, []).append(node)
        lines = [f"node{'s' * (len(nodes) > 1)} {', '.join(nodes)}: {fault}" for fault, nodes in told.items()]
        raise UserError(
            f"{len(faults)} of {len(answers)} nodes cannot train this study: {'; '.join(lines)}; every node needs "
            "the packages that it uses, and the same data in the folder that --data-root names (without it, the "
            "node's own KDTUNE_DATA_ROOT)"
        )
    return found


def _name(dataset: str) -> str:
    return str(json.loads(dataset)["name"])
