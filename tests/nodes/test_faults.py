"""The fault bench, shortened: an agent under faults never commands beyond the limits."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = 3  # cases in which a machine that is busy with other things may come to another code first


def test_no_fault_makes_a_command_exceed_the_limits(tmp_path):
    file = tmp_path / "faults.json"
    bench = ROOT / "benchmarks" / "faults.py"
    command = [sys.executable, str(bench), "--short", "--out", str(tmp_path), "--json", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    told = result.stdout + result.stderr
    assert result.returncode == 0, told
    rows = {row["metric"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    assert rows["cases"] == 30
    assert rows["commands judged"] > 5000
    assert rows["commands outside the limits"] == 0, told
    assert rows["cases with another problem"] <= SLOW, told
