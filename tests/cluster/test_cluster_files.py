"""The files of ``cluster/``, offline: against Ray's, KubeRay's and Kubernetes' schemas, and against each other.

The schemas do not see what matters most (a token, spot workers, who reaches the dashboard), so each such promise has a
check of its own. ``slurm.sh`` runs for real, with stand-ins for Slurm's commands.
"""

import copy
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pandas as pd
import psutil
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from kdtune import __version__
from kdtune.cli import main

FOLDER = Path(__file__).resolve().parents[2] / "cluster"
LAUNCHER = ["aws", "gcp", "local"]
IMAGE = f"registry.example.com/kdtune:{__version__}-ray{version('ray')}"
KUBERNETES = kubernetes_validate.latest_version()
SCHEMA = Path(__file__).parent / "kuberay-1.6.2.json"
# what a port of README's table is set by, on every node
PORTS = {
    "node-manager-port": "6380",
    "object-manager-port": "6381",
    "runtime-env-agent-port": "6382",
    "dashboard-agent-grpc-port": "6383",
    "dashboard-agent-listen-port": "6384",
    "metrics-export-port": "6385",
    "min-worker-port": "10002",
    "max-worker-port": "10999",
}


def launcher(name: str) -> dict[str, Any]:
    """A file of Ray's cluster launcher."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return config


def check_launcher(config: dict[str, Any]) -> dict[str, Any]:
    """The file with Ray's defaults filled in, if it fits Ray's own schema. No cloud is asked."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def manifests(name: str) -> list[dict[str, Any]]:
    """The documents of a Kubernetes file."""
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def check_manifest(manifest: dict[str, Any]) -> None:
    """KubeRay's kinds against their fields, their pod templates and all other kinds against Kubernetes' schema."""
    if manifest["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(manifest)
    for template in templates(manifest).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The cluster's own part of a RayCluster or RayJob."""
    spec: dict[str, Any] = manifest["spec"]
    return spec.get("rayClusterSpec", spec)


def templates(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pod templates: ``head`` and each group of workers."""
    spec = cluster_of(manifest)
    workers = {group["groupName"]: group["template"] for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"]["template"], **workers}


def ray_kinds() -> list[Any]:
    """The two KubeRay files."""
    return [pytest.param(manifests(name)[0], id=name) for name in ("kuberay-cluster", "kuberay-job")]


def starts(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(command, its ``ray start``) of head and workers."""
    found = []
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (command,) = [line for line in config[key] if "ray start" in line]
        found.append((command, command[command.index("ray start") :]))
    return found


# -- Ray's launcher


@pytest.mark.parametrize("name", LAUNCHER)
def test_launcher_file_fits_rays_schema(name: str) -> None:
    check_launcher(launcher(name))


def misspelt(config: dict[str, Any]) -> None:
    config["head_start_ray_comands"] = []


def no_such_head(config: dict[str, Any]) -> None:
    config["head_node_type"] = "heads"


def half_a_gpu(config: dict[str, Any]) -> None:
    config["available_node_types"]["worker"]["resources"] = {"GPU": 0.5}


@pytest.mark.parametrize("spoil", [misspelt, no_such_head, half_a_gpu])
def test_rays_schema_refuses_a_planted_fault(spoil: Callable[[dict[str, Any]], None]) -> None:
    config = launcher("aws")
    spoil(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check_launcher(config)


@pytest.mark.parametrize("name", LAUNCHER)
def test_nothing_of_rays_defaults_is_installed_or_started(name: str) -> None:
    """Ray fills in what a file leaves out: a nightly build of Ray, a dashboard for all."""
    config = launcher(name)
    prepared = check_launcher(config)
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == config[key]


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_ray_starts_with_the_token_and_a_dashboard_on_loopback(name: str) -> None:
    config = launcher(name)
    for command, start in starts(config):
        assert "export RAY_AUTH_MODE=token;" in command.split("ray start")[0]
        assert "auth_token" not in command  # every user of a machine can read a command
        assert "RAY_AUTH_TOKEN" not in command
        options = dict(word.lstrip("-").partition("=")[::2] for word in shlex.split(start)[2:])
        assert options.items() >= PORTS.items()
        if "head" in options:
            assert options["dashboard-host"] == "127.0.0.1"
            assert options["port"] == "6379"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_own_command_line_knows_every_option_of_a_start(name: str) -> None:
    from ray.scripts.scripts import start

    for _, line in starts(launcher(name)):
        start.make_context("start", shlex.split(line)[2:])


@pytest.mark.parametrize("name", LAUNCHER)
def test_storage_is_one_line(name: str) -> None:
    lines = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if "--env=KDTUNE_STORAGE=" in line]
    (setting,) = [line for line in lines if not line.lstrip().startswith("#")]
    scheme = "gs" if name == "gcp" else "s3"
    assert re.match(rf"\s+- --env=KDTUNE_STORAGE={scheme}://", setting)
    assert any(re.fullmatch(r"--env=KDTUNE_STORAGE=\S+", option) for option in launcher(name)["docker"]["run_options"])


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether a cloud may take the machine away: EC2's or Compute Engine's way to say so."""
    market = node_config.get("InstanceMarketOptions", {})
    scheduling = node_config.get("scheduling", [])
    return market.get("MarketType") == "spot" or any(entry.get("preemptible") is True for entry in scheduling)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_are_spot_and_the_head_is_not(name: str) -> None:
    config = launcher(name)
    types = config["available_node_types"]
    assert not is_spot(types[config["head_node_type"]]["node_config"])
    workers = [types[key] for key in types if key != config["head_node_type"]]
    assert workers
    for worker in workers:
        assert is_spot(worker["node_config"])
        assert worker["min_workers"] == worker["max_workers"] == config["max_workers"]  # a stage divides what is there


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_machines_have_roles(name: str) -> None:
    config = launcher(name)
    for kind in config["available_node_types"].values():
        assert {"IamInstanceProfile", "serviceAccounts"} & kind["node_config"].keys()


# -- KubeRay


@pytest.mark.parametrize("name", ["kuberay-base", "kuberay-cluster", "kuberay-job"])
def test_manifest_fits_the_schemas(name: str) -> None:
    for manifest in manifests(name):
        check_manifest(manifest)


def planted(path: str, value: Any = None, *, rename: str | None = None) -> Any:
    """A fault at a dotted path: another value, or another name."""

    def spoil(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = manifest
        for part in parents:
            at = at[int(part) if isinstance(at, list) else part]
        if rename:
            at[rename] = at.pop(last)
        else:
            at[last] = value

    return pytest.param(spoil, id=f"{path}={rename or value}")


@pytest.mark.parametrize(
    "spoil",
    [
        planted("kind", "RayJobs"),
        planted("spec.entrypoint", rename="entrypont"),
        planted("spec.backoffLimit", "10"),
        planted("spec.submissionMode", "HttpMode"),
        planted("spec.rayClusterSpec.authOptions.mode", "tokens"),
        planted("spec.rayClusterSpec.headGroupSpec", rename="headGroup"),
        planted("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        planted("spec.rayClusterSpec.workerGroupSpecs.0.replicas", rename="replica"),
        planted("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", "4"),
        planted("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.toleration", []),
        planted(
            "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.lifecycle.preStop.exec.command", "x"
        ),
        planted("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.env.0.valueFrom.secretKeyRef.key", 1),
    ],
)
def test_the_schemas_refuse_a_planted_fault(spoil: Callable[[dict[str, Any]], None]) -> None:
    manifest = copy.deepcopy(manifests("kuberay-job")[0])
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(manifest)


@pytest.mark.parametrize("manifest", ray_kinds())
def test_kuberay_asks_for_a_token_and_knows_the_ray_that_has_one(manifest: dict[str, Any]) -> None:
    spec = cluster_of(manifest)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == version("ray")  # KubeRay refuses a token where it is not given


@pytest.mark.parametrize("manifest", ray_kinds())
def test_pods_are_confined_and_hold_no_secret(manifest: dict[str, Any]) -> None:
    for template in templates(manifest).values():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > 16  # what `ray stop` takes before it kills
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["lifecycle"]["preStop"]["exec"]["command"] == ["ray", "stop"]
            assert {"configMapRef": {"name": "kdtune"}} in container["envFrom"]
            assert all("secretKeyRef" in entry["valueFrom"] for entry in container["env"])


@pytest.mark.parametrize("manifest", ray_kinds())
def test_worker_pods_are_on_spot_nodes_and_the_head_is_not(manifest: dict[str, Any]) -> None:
    for group, template in templates(manifest).items():
        affinity = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        terms = [term["matchExpressions"] for term in affinity["nodeSelectorTerms"]]
        wanted = {e["key"]: (e["operator"], e["values"][0].lower()) for term in terms for e in term}
        operator = "NotIn" if group == "head" else "In"
        assert wanted == {
            "cloud.google.com/gke-spot": (operator, "true"),
            "eks.amazonaws.com/capacityType": (operator, "spot"),
            "karpenter.sh/capacity-type": (operator, "spot"),
            "kubernetes.azure.com/scalesetpriority": (operator, "spot"),
        }
        assert len(terms) == (1 if group == "head" else 4)  # terms are alternatives: the head must meet all


def test_both_kuberay_files_describe_the_same_cluster() -> None:
    (cluster,), (job,) = manifests("kuberay-cluster"), manifests("kuberay-job")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_a_rayjob_continues_on_another_cluster_and_leaves_none_behind() -> None:
    spec = manifests("kuberay-job")[0]["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_only_rays_pods_and_the_operator_reach_rays_pods() -> None:
    settings, _, policy = manifests("kuberay-base")
    assert settings["data"]["KDTUNE_STORAGE"].startswith("s3://")
    label = policy["spec"]["podSelector"]["matchLabels"]
    for manifest in (manifests("kuberay-cluster")[0], manifests("kuberay-job")[0]):
        for template in templates(manifest).values():
            assert template["metadata"]["labels"].items() >= label.items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    inside, operator = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": label}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])  # without `from`: everybody


# -- versions, secrets, commands


def test_image_and_versions_are_the_projects() -> None:
    images = {name: launcher(name)["docker"]["image"] for name in LAUNCHER}
    for name in ("kuberay-cluster", "kuberay-job"):
        for group, template in templates(manifests(name)[0]).items():
            images[f"{name} {group}"] = template["spec"]["containers"][0]["image"]
    assert set(images.values()) == {IMAGE}, images
    for name in ("README.md", "Dockerfile"):
        assert IMAGE in (FOLDER / name).read_text()


@pytest.fixture
def dockerfile() -> Iterator[DockerfileParser]:
    """The image's recipe, parsed."""
    with (FOLDER / "Dockerfile").open("rb") as file:
        yield DockerfileParser(fileobj=file)


def test_dockerfile_pins_versions_that_the_project_allows(dockerfile: DockerfileParser) -> None:
    allowed = {r.name: r.specifier for r in map(Requirement, requires("kdtune") or []) if not r.marker}
    text = dockerfile.content
    pinned = {k.lower(): v for k, v in re.findall(r"^ARG (\w+)_VERSION=(\S+)$", text, re.MULTILINE)}
    assert pinned.keys() == {"ray", "torch", "torchvision"}
    for name, chosen in pinned.items():
        assert chosen in allowed[name], name
        assert f"=={'$'}{{{name.upper()}_VERSION}}" in text  # and it is what pip installs
    assert pinned["ray"] == version("ray")
    assert dockerfile.baseimage.startswith("rayproject/ray:")
    tag = re.search(r"^ARG PYTHON_TAG=py(\d)(\d+)$", text, re.MULTILINE)
    assert tag is not None
    assert (int(tag[1]), int(tag[2])) >= (3, 11)


def test_image_is_not_root_needs_a_token_and_holds_only_the_package(dockerfile: DockerfileParser) -> None:
    users = [entry["value"] for entry in dockerfile.structure if entry["instruction"] == "USER"]
    assert users == ["ray"]
    assert dockerfile.envs["RAY_AUTH_MODE"] == "token"
    copied = [e["value"].split() for e in dockerfile.structure if e["instruction"] in ("COPY", "ADD")]
    sources = {word for words in copied for word in words[:-1] if not word.startswith("--")}
    assert sources == {"pyproject.toml", "README.md", "kdtune", "search_spaces"}
    assert all((FOLDER.parent / source).exists() for source in sources)


SECRETS = [
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",  # keys of AWS
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"\bAIza[0-9A-Za-z_-]{35}\b",  # keys of Google
    r"\b[0-9a-f]{40,}\b",  # a token as Ray makes them
    r"(?i)(secret|password|token)(_?(access_?)?key)?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{20,}",
]


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    for pattern in SECRETS:
        assert not re.search(pattern, path.read_text()), pattern


@pytest.mark.parametrize(
    "line",
    [
        "aws_access_key_id: AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        f"RAY_AUTH_TOKEN={'0123456789abcdef' * 4}",
    ],
)
def test_a_secret_would_be_seen(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in SECRETS)


def commands() -> list[Any]:
    """Every ``kdtune ...`` that a file of the folder shows or runs."""
    found = []
    for path in sorted(FOLDER.iterdir()):
        text = path.read_text()
        if path.suffix == ".md":
            text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        for line in text.splitlines():
            shown = re.search(r"(?:^|&& |entrypoint: )\s*(kdtune [^`#]*?)(?:\s+#.*|\s+&)?$", line)
            if shown:
                found.append(pytest.param(shown[1], id=f"{path.name}: {shown[1]}"))
    return found


@pytest.mark.parametrize("line", commands())
def test_every_kdtune_command_exists(line: str) -> None:
    words = shlex.split(line.replace('"$@"', "STUDY"))[1:]
    parsed(main, "kdtune", words)


def parsed(command: click.Command, name: str, words: list[str]) -> click.Context:
    """Reads a command line as the program does, and runs nothing.

    Raises:
        click.ClickException: it would be refused.
    """
    try:
        with command.make_context(name, list(words)) as context:
            if not isinstance(command, click.Group):
                return context
            left = [*context._protected_args, *context.args]
            _, sub, rest = command.resolve_command(context, left)
    except click.exceptions.Exit:  # --version and --help end the program while it reads
        return click.Context(command)
    assert sub is not None
    return parsed(sub, sub.name or name, rest)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    files = {str(param.id).split(":")[0] for param in commands()}
    assert files >= {"README.md", "slurm.sh", "kuberay-job.yaml", "Dockerfile"}
    for wrong in (["lunch", "demo"], ["launch", "demo", "--adress", "auto"], ["launch"]):
        with pytest.raises(click.ClickException):
            parsed(main, "kdtune", wrong)


def test_readme_names_every_file_of_the_folder_and_every_port() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert f"`{path.name}`" in text or path.name == "README.md", path.name
    for option, port in PORTS.items():
        assert f"`--{option}`" in text
        assert port in text


# -- Slurm

SLURM = FOLDER / "slurm.sh"
STAND_INS = {
    # a job of two nodes, both this machine
    "scontrol": 'if [[ "$1" == show ]]; then printf "node-0\\nnode-1\\n"; else echo "$@" >> "$HOME/log"; fi',
    "srun": 'while [[ "$1" == --* ]]; do echo "srun $1" >> "$HOME/log"; shift; done; SLURM_PROCID=0 exec "$@"',
    "kdtune": f'ls -l "$RAY_AUTH_TOKEN_PATH" >> "$HOME/log"; exec {shlex.quote(sys.executable)} -m kdtune "$@"',
    "python3": f'exec {shlex.quote(sys.executable)} "$@"',
}
# every network but loopback is away: Ray binds nothing that others reach, and the script needs nothing from outside
ALONE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
STUDY = """
name: tiny
base:
  dataset: {name: demo, size: [32, 48], num_train: 8, num_val: 4}
  student: {name: pspnet, backbone: resnet18, width: 0.0625}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 4, num_steps: STEPS, eval_every: 2}
stages:
  - name: student
    grid: {recipe.lr: [1e-1, 1e-2]}
"""


def test_slurm_script_passes_shellcheck() -> None:
    """And every value in it is quoted."""
    done = subprocess.run(["shellcheck", str(SLURM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_script_asks_for_what_it_needs() -> None:
    wanted = re.findall(r"^#SBATCH --(\S+)$", SLURM.read_text(), re.MULTILINE)
    assert {"requeue", "signal=B:TERM@120", "exclusive", "open-mode=append"} <= set(wanted)
    assert not re.search(r"^[^#\n]*\bray (stop|symmetric-run)", SLURM.read_text(), re.MULTILINE)
    assert stat.S_IMODE(SLURM.stat().st_mode) & 0o111


def test_slurm_script_without_a_study_is_one_line() -> None:
    done = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def slurm_job(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``slurm.sh`` as Slurm would, in a network of its own."""
    available = subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if available.returncode != 0:
        pytest.skip(f"no network namespace: {available.stderr.strip()}")
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    started: list[subprocess.Popen[str]] = []

    def start(steps: int, **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "tiny.yaml").write_text(STUDY.replace("STEPS", str(steps)))
        slurm = {
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node-[0-1]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        inside = 'ip link set lo up; exec bash "$@"'
        job = subprocess.Popen(
            [*ALONE, "bash", "-c", inside, "job", str(SLURM), str(tmp_path / "tiny.yaml"), "--scheduler", "none"],
            env=os.environ | slurm | {"HOME": str(tmp_path), "PATH": path} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(job)
        return job

    yield start
    for job in started:  # one whose test has failed
        if job.poll() is None:
            job.terminate()  # the script then ends its Ray
            job.wait(timeout=60)


def assert_nothing_is_left(home: Path, before: set[Path]) -> None:
    """The token, Ray's folders and its processes are gone."""
    assert not list((home / ".cache" / "kdtune" / "slurm").iterdir())
    assert set(Path("/tmp").glob("kdt-77-*")) == before
    until = time.monotonic() + 20
    while (left := [p.info for p in psutil.process_iter(["cmdline"]) if ours(p.info["cmdline"], before)]) and (
        time.monotonic() < until
    ):
        time.sleep(0.5)
    assert not left


def ours(words: list[str] | None, before: set[Path]) -> bool:
    """Whether a process is of a Ray of such a job, and not of one that ran before."""
    line = " ".join(words or [])
    return "/tmp/kdt-77-" in line and not any(str(path) in line for path in before)


@pytest.mark.slow
def test_slurm_job_runs_a_study_on_two_nodes(slurm_job: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("kdt-77-*"))
    job = slurm_job(4)
    said, _ = job.communicate(timeout=480)
    assert job.returncode == 0, said
    trials = pd.read_parquet(tmp_path / "kdtune" / "tiny" / "trials.parquet")
    assert list(trials["status"]) == ["completed", "completed"]
    log = (tmp_path / "log").read_text().splitlines()
    assert "srun --exclude=node-0" in log
    assert "srun --ntasks=1" in log
    assert any(line.startswith("-rw-------") and line.endswith("auth_token") for line in log)
    assert not any(line.startswith("requeue") for line in log)
    assert_nothing_is_left(tmp_path, before)


@pytest.mark.slow
def test_slurm_job_ends_in_order_and_queues_again_when_its_time_is_up(
    slurm_job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    before = set(Path("/tmp").glob("kdt-77-*"))
    job = slurm_job(4000, SLURM_JOB_END_TIME=str(int(time.time()) + 60))
    journal = tmp_path / "kdtune" / "tiny" / "journal"
    until = time.monotonic() + 400
    while not list(journal.glob("*.json")) and job.poll() is None and time.monotonic() < until:
        time.sleep(1)
    assert list(journal.glob("*.json"))
    job.send_signal(signal.SIGTERM)  # unshare and bash have replaced themselves: it is the script's
    said, _ = job.communicate(timeout=180)
    assert job.returncode == 130, said
    assert "continue with" in said
    assert (tmp_path / "log").read_text().splitlines()[-1] == "requeue 77"
    assert_nothing_is_left(tmp_path, before)
