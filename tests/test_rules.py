"""The rules of the design that code can check: torch learns, ONNX runs; a core free of ROS."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEARNER = ROOT / "jepa_robot/learning/node.py"
RUN_TIME = ("modules", "planning", "robot", "nodes")
FREE_OF_ROS = ("modules", "planning", "robot", "energy", "learning")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def sources(folders):
    files = [path for folder in folders for path in (ROOT / "jepa_robot" / folder).rglob("*.py")]
    assert len(files) > 10
    return files


def test_the_run_time_core_does_not_import_torch():
    core = [*sources(RUN_TIME), *(ROOT / "sim").glob("*.py"), *(ROOT / "jepa_robot").glob("*.py")]
    assert [path.name for path in core if "torch" in imports(path)] == []


def test_the_core_does_not_import_ros():
    core = [path for path in sources(FREE_OF_ROS) if path != LEARNER]
    assert [path.name for path in core if "rclpy" in imports(path)] == []


def test_nothing_of_learning_is_imported_above_it():
    def learns(path):
        text = path.read_text()
        return "jepa_robot.learning" in text or "jepa_robot.energy" in text

    assert [path.name for path in sources(RUN_TIME) if learns(path)] == []


@pytest.mark.parametrize(
    "module", ["jepa_robot.nodes.agent", "jepa_robot.nodes.safety", "jepa_robot_sim.node"]
)
def test_running_nodes_never_load_torch(module):
    code = f"import {module}, sys; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().endswith("False")


def test_safety_loads_neither_onnx_nor_the_model_side():
    code = (
        "import jepa_robot.nodes.safety, sys;"
        "print([m for m in ('onnxruntime', 'cv2') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
