"""The model bundle: one folder, one agent. A manifest and the ONNX graphs it vouches for.

Graphs, all float32 unless said, with a dynamic first axis:

==============  ==========================================================  ==================
graph           inputs                                                      output
==============  ==========================================================  ==================
encoder         images [B, K, cameras, h, w, 3] uint8 RGB, proprioception   state [B, S],
                [B, M] (rad, rad/s, m)                                      views [B, cameras]
predictor       state [N, S], action [N, A], z [N, Z]                       next_state [N, S]
policy          state [N, S], goal_latent [N, D]                            action [N, A]
readout         latent [N, D]                                               position [N, G] (m)
goal_encoder    position [N, G] (m)                                         latent [N, D]
critic          state [N, S], goal_latent [N, D]                            cost [N]
==============  ==========================================================  ==================

A state ``[S]`` is proprioception ``[P]`` in SI units followed by the latent ``[D]``. Proprioception
begins with what is measured, ``[M]``: joint positions and velocities, and the opening of a gripper
that actions move (M = 2J + 1, else 2J); the hand's place and velocity may follow, by forward
kinematics in the encoder's graph (P = M + 6, else M). The latent is made of the last K
frames; images lack that axis where K is 1. Views are how far each camera's picture is
from the training pictures, 1 the limit; an encoder may lack them. Z may be 0. A bundle for goal
images alone has neither readout nor goal encoder, and many have no critic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa_robot import resources
from jepa_robot.files import sha256, write_atomically
from jepa_robot.robot.contract import RobotContract, measured_size

SCHEMA = 1
MANIFEST = "manifest.json"
GRAPHS = ("encoder", "predictor", "policy", "readout", "goal_encoder", "critic")
FIELDS = (
    *("id", "latent_size", "image_size", "joints", "cameras", "actions", "time_step"),
    *("opset", "files", "data", "command", "results"),
)
POSE_TOLERANCE = 1e-3  # m, and of a quaternion
ROUNDING = 1e-9


class InvalidBundle(ValueError):
    """A model bundle that must not be used; the message names what was wrong."""


class Session:
    """One ONNX graph as a function of named arrays."""

    def __init__(self, path: Path, providers: Sequence[str], threads: int) -> None:
        import onnxruntime  # here, since not every process that reads manifests runs graphs

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(providers)
            )
        except Exception as error:
            raise InvalidBundle(f"{path}: is no ONNX graph that loads: {error}") from error
        self.inputs = {i.name: i.shape for i in self._session.get_inputs()}
        self.outputs = {o.name: o.shape for o in self._session.get_outputs()}
        self.provider = self._session.get_providers()[0]

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """The graph's first output."""
        return self._session.run(None, inputs)[0]

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))


class Bundle:
    """A model bundle that was checked against its manifest.

    Args:
        path: the folder, or the name of a shipped bundle (``models/``).
        threads: CPU threads an inference may use.

    Raises:
        FileNotFoundError: no such bundle; the message lists the shipped ones.
        InvalidBundle: the manifest is incomplete, a file is missing or its SHA-256 is another.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path = resources.find("models", path)
        self.manifest = read_manifest(self.path)
        self._threads = threads
        self._sessions: dict[str, Session] = {}

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def measured_size(self) -> int:
        """2J, of joint positions and velocities, and 1 of a gripper that actions move."""
        return measured_size(self.manifest)

    @property
    def proprioception_size(self) -> int:
        """P, of what the encoder makes of them: the state's first part."""
        return self.manifest.get("proprioception_size", self.measured_size)

    @property
    def latent_size(self) -> int:
        return self.manifest["latent_size"]

    @property
    def state_size(self) -> int:
        return self.proprioception_size + self.latent_size

    @property
    def history(self) -> int:
        """K, the frames that a latent is made of."""
        return self.manifest.get("history", 1)

    @property
    def z_size(self) -> int:
        return self.manifest.get("z_size", 0)

    @property
    def goal_size(self) -> int:
        """G, the size of what the readout gives; 0 if there is none, and goals are images only."""
        return self.manifest.get("goal_size", 3)

    @property
    def reads_positions(self) -> bool:
        """Whether what the readout gives are positions (m), and not features that have no unit."""
        return bool(self.goal_size) and self.manifest.get("goal") != ""

    @property
    def action_size(self) -> int:
        return len(self.manifest["actions"]["channels"])

    def latent(self, states: np.ndarray) -> np.ndarray:
        """The latents ``[..., D]`` of states ``[..., S]``."""
        return states[..., self.proprioception_size :]

    def has(self, graph: str) -> bool:
        """Whether the bundle has such a graph."""
        return f"{graph}.onnx" in self.manifest["files"]

    def session(self, graph: str) -> Session:
        """The graph ``encoder``, ``predictor``, ..., loaded once, on the GPU where there is one.

        Raises:
            InvalidBundle: if the bundle has no such graph or it does not load.
        """
        if graph not in self._sessions:
            name = f"{graph}.onnx"
            if not self.has(graph):
                raise InvalidBundle(f"{self.path}: has no {name}, expected one")
            session = Session(self.path / name, _providers(), self._threads)
            self._check_sizes(graph, session)
            self._sessions[graph] = session
        return self._sessions[graph]

    def _check_sizes(self, graph: str, session: Session) -> None:
        """The last axis of each input and output is what the manifest says, where it is fixed."""
        sizes = {
            "proprioception": self.measured_size,
            "state": self.state_size,
            "next_state": self.state_size,
            "action": self.action_size,
            "latent": self.latent_size,
            "goal_latent": self.latent_size,
            "position": self.goal_size,
            "z": self.z_size,
            "views": len(self.manifest["cameras"]),
        }
        for name, shape in {**session.inputs, **session.outputs}.items():
            size, expected = shape[-1], sizes.get(name)
            if isinstance(size, int) and expected is not None and size != expected:
                raise InvalidBundle(
                    f"{self.path / graph}.onnx: {name} has size {size}, expected {expected}"
                )

    def check_fits(self, contract: RobotContract) -> None:
        """Compare with a robot.

        Raises:
            InvalidBundle: names the first joint, camera, action channel or rate that differs.
        """
        self.check_interface(contract.interface(), f"robot {contract.name} ({contract.source})")

    def check_interface(self, interface: dict, holder: str) -> None:
        """Compare with the interface of a robot or an environment.

        Raises:
            InvalidBundle: names the first joint, camera, action channel or rate that differs.
        """
        for field, expected in interface.items():
            mismatch = difference(field, self.manifest[field], expected)
            if mismatch:
                raise InvalidBundle(f"bundle {self.id} does not fit {holder}: {mismatch}")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a bundle's manifest and check every file that it names.

    Raises:
        InvalidBundle: names the file and what was expected of it.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidBundle(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidBundle(f"{file}: is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InvalidBundle(f"{file}: expected a manifest with schema {SCHEMA}")
    for field in FIELDS:
        if field not in manifest:
            raise InvalidBundle(f"{file}: {field} is missing, expected a value")
    if not isinstance(manifest["files"], dict):
        raise InvalidBundle(f"{file}: files is {manifest['files']!r}, expected names and SHA-256")
    for name, digest in manifest["files"].items():
        if Path(name).name != name:
            raise InvalidBundle(f"{file}: names {name!r}, expected a file of the bundle's folder")
        if not (path / name).is_file():
            raise InvalidBundle(f"{path / name}: is missing, expected it as the manifest says")
        actual = sha256(path / name)
        if actual != digest:
            raise InvalidBundle(f"{path / name}: SHA-256 is {actual}, expected {digest}")
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Complete a manifest with the hashes of the folder's graphs and an id, and write it.

    Returns:
        The manifest as written. Its ``id`` is ``name`` and a short hash of the graphs.
    """
    files = {f.name: sha256(f) for f in sorted(path.glob("*.onnx"))}
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()
    manifest = {
        "schema": SCHEMA,
        **manifest,
        "id": f"{manifest['name']}-{digest[:8]}",
        "files": files,
    }
    write_atomically(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _providers() -> list[str]:
    """The GPU where there is one: CUDA's libraries come with the GPU wheel, the driver does not."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    has_cuda = "CUDAExecutionProvider" in available and Path("/dev/nvidiactl").exists()
    return ["CUDAExecutionProvider"] * has_cuda + ["CPUExecutionProvider"]


def difference(field: str, actual: Any, expected: Any, holder: str = "bundle") -> str | None:
    """The first difference between a holder's and the robot's JSON value, in words."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected:
            found = difference(f"{field}.{key}", actual.get(key), expected[key], holder)
            if found:
                return found
        return None
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        if len(actual) != len(expected):
            return (
                f"{field} has {len(actual)} entries in the {holder}, the robot has {len(expected)}"
            )
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            found = difference(f"{field}[{index}]", one, other, holder)
            if found:
                return found
        return None
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        is_pose = ".position" in field or ".orientation" in field
        agree = abs(actual - expected) <= (POSE_TOLERANCE if is_pose else ROUNDING)
    else:
        agree = actual == expected
    return None if agree else f"{field} is {actual!r} in the {holder}, {expected!r} on the robot"
