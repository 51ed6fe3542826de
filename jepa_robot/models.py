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
critic          state [N, S], goal_latent [N, D]                            cost [N], spread [N]
upper           state [N, S], macros [N, P, G]                              places [N, P + 1, G],
                                                                            asked [N, P, G] (m)
cost            state [M, S], action [M, A], GOAL                           terms [M, T]
plan            state [N or 1, S], actions [N, H, A], z [N, K, H, Z],       costs [N, K],
                GOAL, CRITIC, LIMITS, weights [W], step_weights [H]         states [N, K, H, S]
plan_int8       as plan                                                     as plan
plan_gradient   as plan                                                     costs [N, K],
                                                                            gradients [N, H, A]
jacobian        state [M, S], action [M, A], z [M, Z]                       by_state [M, S, S],
                                                                            by_action [M, S, A]
cost_gradient   state [M, S], action [M, A], GOAL, CRITIC, LIMITS,          by_state [M, S],
                weights [W]                                                 by_action [M, A],
                                                                            ahead [M, S]
==============  ==========================================================  ==================

A state ``[S]`` is proprioception ``[P]`` in SI units followed by the latent ``[D]``. Proprioception
begins with what is measured, ``[M]``: joint positions and velocities, and the opening of a gripper
that actions move (M = 2J + 1, else 2J); the hand's place and velocity may follow, by forward
kinematics in the encoder's graph (P = M + 6, else M). The latent is made of the last K
frames; images lack that axis where K is 1. Views are how far each camera's picture is
from the training pictures, 1 the limit; an encoder may lack them. Z may be 0. A bundle for goal
images alone has neither readout nor goal encoder, and many have no critic; a single critic has no
spread. Few have an upper level: each of P macro-actions in [-1, 1], ``upper_stride`` steps long (a
field of the manifest), asks the lower level to bring what goals are about to a place; places are
where that comes to be, now and after each.

The last six are made of the others and of the T cost terms of tasks that the manifest names: a
rollout over H steps and K draws of z with what it costs, once more with weights and activations of
8 bits, and derivatives of both. GOAL is goal_latent [D] and goal_position [G]; CRITIC is
goal_encoded [D], the goal as the critic is told it; LIMITS is limits [L], a contract's, of which
`jepa_robot.modules.intrinsic` makes the intrinsic terms. Weights are of the intrinsic terms, of the
tasks' and of what the critic foresees, in this order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jepa_robot import resources
from jepa_robot.files import sha256, write_atomically
from jepa_robot.robot.contract import INTRINSIC, RobotContract, measured_size

SCHEMA = 1
MANIFEST = "manifest.json"
GRAPHS = ("encoder", "predictor", "policy", "readout", "goal_encoder", "critic")
FUSED = ("cost", "plan")
FLOAT32 = "float32"
PRECISIONS = {FLOAT32: "plan", "int8": "plan_int8"}  # of what is imagined, and its graph
OF_CANDIDATES = (*PRECISIONS.values(), "plan_gradient")
ROWS = ("state", "actions", "z")  # their inputs with a row a candidate; of the state, one for all
LEAST_ROWS = 32  # that a thread is woken for
DERIVATIVES = ("plan_gradient", "jacobian", "cost_gradient")
TAKEN = {  # inputs of the graphs that are made by training; a predictor may take z too
    "encoder": {"images", "proprioception"},
    "predictor": {"state", "action"},
    "policy": {"state", "goal_latent"},
    "readout": {"latent"},
    "goal_encoder": {"position"},
    "critic": {"state", "goal_latent"},
    "upper": {"state", "macros"},
}
AUTO_PROVIDER = "auto"
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
CRITIC = "cost_to_go"  # the last cost term: what the critic foresees
FIELDS = (
    *("id", "latent_size", "image_size", "joints", "cameras", "actions", "time_step"),
    *("opset", "files", "data", "command", "results"),
)
POSE_TOLERANCE = 1e-3  # m, and of a quaternion
ROUNDING = 1e-9


class InvalidBundle(ValueError):
    """A model bundle that must not be used; the message names what was wrong."""


class Session:
    """One ONNX graph as a function of named arrays.

    Raises:
        InvalidBundle: it does not load; or not by the first of the providers, and ``is_strict``.
    """

    def __init__(
        self, path: Path, providers: Sequence[str], threads: int, is_strict: bool = False
    ) -> None:
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
        if is_strict and self.provider != providers[0]:  # ONNX Runtime goes on without
            raise InvalidBundle(
                f"{path}: runs by {self.provider}, expected {providers[0]}: its libraries or its "
                "device are not there"
            )

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """The graph's first output."""
        return self._session.run(None, inputs)[0]

    def run(self, *outputs: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name: those that are named, or all; what nobody asks for is not copied."""
        names = outputs or tuple(self.outputs)
        return dict(zip(names, self._session.run(names, inputs), strict=True))


class CandidateSession(Session):
    """A graph whose rows know nothing of each other: each thread runs its share of them.

    ONNX Runtime's own threads would wait for each other after every operation.
    """

    def __init__(
        self, path: Path, providers: Sequence[str], threads: int, is_strict: bool = False
    ) -> None:
        super().__init__(path, providers, 1, is_strict)
        self._threads = threads if self.provider == PROVIDERS["cpu"] else 1
        self._others = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None

    def run(self, *outputs: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        count = len(inputs["actions"])
        shares = min(self._threads, count // LEAST_ROWS)
        if shares < 2:
            return super().run(*outputs, **inputs)

        def run_share(number: int) -> dict[str, np.ndarray]:
            rows = slice(count * number // shares, count * (number + 1) // shares)
            own = {name: inputs[name][rows] for name in ROWS if len(inputs.get(name, ())) == count}
            return Session.run(self, *outputs, **inputs | own)

        others = [self._others.submit(run_share, number) for number in range(1, shares)]
        done = [run_share(0), *(other.result() for other in others)]
        return {name: np.concatenate([share[name] for share in done]) for name in done[0]}


class Bundle:
    """A model bundle that was checked against its manifest.

    Args:
        path: the folder, or the name of a shipped bundle (``models/``).
        threads: CPU threads an inference may use.
        provider: what runs the graphs: ``auto`` for the GPU where there is one, else one of
            `PROVIDERS`, which must be there.

    Raises:
        FileNotFoundError: no such bundle; the message lists the shipped ones.
        InvalidBundle: the manifest is incomplete, a file is missing or its SHA-256 is another; or
            there is no such provider.
    """

    def __init__(self, path: str | Path, threads: int = 1, provider: str = AUTO_PROVIDER) -> None:
        self.path = resources.find("models", path)
        self.manifest = read_manifest(self.path)
        self._threads, self._providers = threads, _providers(provider)
        self._is_strict = provider != AUTO_PROVIDER
        self._sessions: dict[str, Session] = {}

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def space(self) -> str:
        """Of the latents: the same for bundles with the same encoder, whatever else is learned."""
        return self.manifest["files"]["encoder.onnx"][:8]

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
    def terms(self) -> dict[str, str]:
        """The cost's terms in the order of their weights, and the goal that each needs, if any.

        Raises:
            InvalidBundle: there are none; it was exported before they were part of it.
        """
        if "terms" not in self.manifest or set(INTRINSIC) & set(self.manifest["terms"]):
            raise InvalidBundle(
                f"bundle {self.id} is of an older release, expected one with the terms of tasks, "
                "beside which the intrinsic ones are: export its run again"
            )
        intrinsic = dict.fromkeys(INTRINSIC, "")
        return {**intrinsic, **self.manifest["terms"], CRITIC: "goal_encoded"}

    @property
    def action_size(self) -> int:
        return len(self.manifest["actions"]["channels"])

    @property
    def trained_horizon(self) -> int | None:
        """Steps ahead that the predictor was trained on; None if that was not recorded."""
        recipe, stages = self.manifest.get("recipe", {}), ["jepa"]
        if "refinement" in self.manifest["results"].get("seconds", {}):
            stages.append("refinement")
        return max((recipe.get(stage, {}).get("horizon", 0) for stage in stages), default=0) or None

    @property
    def provider(self) -> str:
        """What runs the graphs that were loaded, or is to: a name of `PROVIDERS`."""
        used = [session.provider for session in self._sessions.values()] or self._providers[:1]
        return next(name for name, full in PROVIDERS.items() if full == used[-1])

    def latent(self, states: np.ndarray) -> np.ndarray:
        """The latents ``[..., D]`` of states ``[..., S]``."""
        return states[..., self.proprioception_size :]

    @property
    def precisions(self) -> tuple[str, ...]:
        """At which the bundle can be planned with: names of `PRECISIONS`."""
        return tuple(name for name, graph in PRECISIONS.items() if self.has(graph))

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
            kind = CandidateSession if graph in OF_CANDIDATES else Session
            session = kind(self.path / name, self._providers, self._threads, self._is_strict)
            self._check_graph(graph, session)
            self._sessions[graph] = session
        return self._sessions[graph]

    def _check_graph(self, graph: str, session: Session) -> None:
        """Inputs are those of the graph, and all last axes what the manifest says, where fixed."""
        sizes = {
            "proprioception": self.measured_size,
            "state": self.state_size,
            "next_state": self.state_size,
            "action": self.action_size,
            "actions": self.action_size,
            "latent": self.latent_size,
            "goal_latent": self.latent_size,
            "goal_encoded": self.latent_size,
            "goal_position": self.goal_size,
            "position": self.goal_size,
            "macros": self.goal_size,
            "places": self.goal_size,
            "asked": self.goal_size,
            "z": self.z_size,
            "views": len(self.manifest["cameras"]),
            "weights": len(INTRINSIC) + len(self.manifest.get("terms", ())) + 1,
        }
        taken = set(session.inputs) - {"z"}
        if taken != TAKEN.get(graph, taken):
            raise InvalidBundle(
                f"{self.path / graph}.onnx: takes {sorted(taken)}, expected {sorted(TAKEN[graph])}"
            )
        for name, shape in {**session.inputs, **session.outputs}.items():
            size, expected = shape[-1], sizes.get(name)
            if isinstance(size, int) and expected is not None and size != expected:
                raise InvalidBundle(
                    f"{self.path / graph}.onnx: {name} has size {size}, expected {expected}"
                )

    def check_runs(self) -> None:
        """Run what training makes of states and goals once.

        Raises:
            InvalidBundle: names the graph that gives no finite number.
        """
        sizes = {
            "state": self.state_size,
            "action": self.action_size,
            "latent": self.latent_size,
            "goal_latent": self.latent_size,
            "position": self.goal_size,
            "z": self.z_size,
        }
        for graph in GRAPHS[1:]:
            if not self.has(graph):
                continue
            session = self.session(graph)
            given = {name: np.zeros((1, sizes[name]), np.float32) for name in session.inputs}
            if not np.isfinite(session(**given)).all():
                raise InvalidBundle(
                    f"{self.path / graph}.onnx: gives what is not finite, expected numbers"
                )

    def check_fits(self, contract: RobotContract) -> None:
        """Compare with a robot.

        Raises:
            InvalidBundle: names the first joint, camera, action channel or rate that differs.
        """
        self.check_interface(contract.interface(), f"robot {contract.name} ({contract.source})")

    def check_space(self, other: Bundle) -> None:
        """Compare latents with those of the bundle in use.

        Raises:
            InvalidBundle: they are of another encoder.
        """
        if self.space != other.space:
            raise InvalidBundle(
                f"bundle {self.id} is of latent space {self.space!r}, expected {other.space!r} as "
                f"bundle {other.id}"
            )

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


def _providers(name: str) -> list[str]:
    """ONNX Runtime's, in order of preference.

    Raises:
        InvalidBundle: an unknown name, or one that this ONNX Runtime lacks.
    """
    import onnxruntime

    available, cpu = onnxruntime.get_available_providers(), PROVIDERS["cpu"]
    if name == AUTO_PROVIDER:
        # CUDA's libraries come with the GPU wheel, the driver does not.
        has_cuda = PROVIDERS["cuda"] in available and Path("/dev/nvidiactl").exists()
        return [PROVIDERS["cuda"]] * has_cuda + [cpu]
    if name not in PROVIDERS:
        known = [AUTO_PROVIDER, *PROVIDERS]
        raise InvalidBundle(f"provider is {name!r}, expected one of {known}")
    if PROVIDERS[name] not in available:
        raise InvalidBundle(
            f"provider is {name!r}, expected one that this ONNX Runtime has: {available}"
        )
    return list(dict.fromkeys([PROVIDERS[name], cpu]))


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
