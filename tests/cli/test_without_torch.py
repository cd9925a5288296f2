"""Commands that compute nothing on tensors: they start in the time of what they do, not in that of torch's import."""

import json
import subprocess
import sys
from pathlib import Path

from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.records.storage import Storage
from kdtune.study.file import dump


def test_a_study_is_read_checked_forecast_and_told_of_without_torch_and_ray(tmp_path: Path) -> None:
    study, file, root = synthetic_study(4), tmp_path / "study.yaml", str(tmp_path / "runs")
    fill(Storage(root, study.name), study)
    file.write_text(dump(study))
    commands = [
        ["status", study.name, "--storage", root],
        ["results", study.name, "--storage", root],
        ["studies", "list"],
        ["studies", "list", "--storage", root],
        ["studies", "show", "cityscapes-resnet"],
        ["studies", "validate", str(file)],
        ["losses", "list"],  # every term
        ["launch", "demo", "--dry-run", "--storage", root],  # a teacher that it trains, and every term of its own
        ["launch", "voc-effnet", "--dry-run", "--storage", root],  # a teacher's file, which is not there
        ["launch", str(file), "--dry-run", "--storage", root],  # with speeds on record
    ]
    program = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from kdtune.cli import main\n"
        "found = []\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = CliRunner().invoke(main, words).exit_code\n"
        "    found.append([code, [n for n in ('torch', 'torchvision', 'ray') if n in sys.modules]])\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[0, []]] * len(commands)
