"""Fuses a bundle's graphs: a rollout and what it costs, and its gradient, each in one ONNX graph.

Put together from the graphs that a bundle has anyway, so that every bundle can be planned with, and
from cost terms: the intrinsic ones and those that are registered. The horizon is the length of a
Scan, so that it and the number of candidates are free. The gradient goes back along the horizon
with an adjoint state, as in Bryson & Ho, "Applied optimal control" (1975), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from jepa_robot.learning.graph_parts import Function, adjoint_graph, exported
from jepa_robot.learning.graph_writer import GraphWriter
from jepa_robot.learning.intrinsic_graphs import body_of, intrinsic_graphs, zeros
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import folded
from jepa_robot.learning.quantizing import quantize
from jepa_robot.learning.terms import TERMS, Seen, all_terms
from jepa_robot.modules.intrinsic import SIZE
from jepa_robot.robot.contract import INTRINSIC

SEEN = Seen._fields
DERIVED = ("joints", "action", "latent", "position")  # by which terms are derived


@dataclass(frozen=True)
class Sizes:
    """Of a bundle: joints J, proprioception P, latent D, actions A, goal G, z Z, and what costs 1.

    ``unit``: how far from its goal something costs 1.
    """

    joints: int
    proprioception: int
    latent: int
    actions: int
    goal: int
    z: int
    unit: float

    @classmethod
    def of(cls, shape: AgentShape, joints: int, unit: float) -> Sizes:
        """Of an agent, with as many joints in front of its state."""
        z, goal = shape.z, shape.goal
        return cls(joints, shape.proprioception, shape.latent, shape.actions, goal, z, unit)

    @property
    def state(self) -> int:
        return self.proprioception + self.latent

    @property
    def rows(self) -> int:
        """Of examples: no other size is this."""
        return 1 + self.state + self.actions + self.goal + self.z


def fuse(folder: Path, sizes: Sizes, agent: Agent | None = None) -> None:
    """Write ``cost.onnx`` and ``plan.onnx`` beside a bundle's other graphs.

    With the agent that these are of, ``plan_int8.onnx``, ``plan_gradient.onnx``, ``jacobian.onnx``
    and ``cost_gradient.onnx`` too.
    """
    with torch.random.fork_rng(devices=[]):  # examples are random, what follows is not to change
        parts = _Parts(folder, sizes, agent)
    makers = {"cost": _cost, "plan": _plan} | ({} if agent is None else ADJOINTS)
    for name, make in makers.items():
        onnx.save(make(parts, name), str(folder / f"{name}.onnx"))
        if name == "plan" and agent is not None:  # eight bits want inputs of one size
            quantize(folder / "plan.onnx", folder / "plan_int8.onnx")
            parts.predictor = parts.folded
            onnx.save(make(parts, name), str(folder / f"{name}.onnx"))


def stage_size() -> int:
    """How many terms each step has: those that are registered can be more each time."""
    return len(INTRINSIC) + len(TERMS)


class _Parts:
    """The graphs that others are made of; derivatives where there is an agent."""

    def __init__(self, folder: Path, sizes: Sizes, agent: Agent | None) -> None:
        self.sizes = sizes
        self.predictor = onnx.load(str(folder / "predictor.onnx"))
        self.takes_z = "z" in {value.name for value in self.predictor.graph.input}
        self.readout = _load(folder / "readout.onnx") if sizes.goal else None
        self.critic = _load(folder / "critic.onnx")
        seen, rows = _seen(sizes), SEEN[: len(DERIVED)]
        self.terms = exported(Function(all_terms), seen, ["terms"], rows)
        self.intrinsic = intrinsic_graphs(sizes.actions, agent is not None)
        if agent is None:
            return
        agent.eval()
        state = {"state": torch.randn(sizes.rows, sizes.state)}
        latent = torch.randn(sizes.rows, sizes.latent)
        cause = {
            "action": torch.rand(sizes.rows, sizes.actions),
            "z": torch.randn(sizes.rows, sizes.z),
        }
        goal = {"goal_latent": torch.randn(sizes.rows, sizes.latent)}
        self.terms_adjoint = adjoint_graph(all_terms, seen, DERIVED, rows)
        predictor, known = folded(agent.predictor), state | cause
        self.folded = exported(predictor, known, ["next_state"], known)
        self.predictor_adjoint = adjoint_graph(predictor, known, ("state", "action"))
        self.readout_adjoint = self.critic_adjoint = None
        if self.readout is not None:
            self.readout_adjoint = adjoint_graph(agent.readout, {"latent": latent}, ("latent",))
        if self.critic is not None:
            self.critic_adjoint = adjoint_graph(agent.critic, state | goal, ("state",))


def _seen(sizes: Sizes) -> dict[str, torch.Tensor]:
    """An example of what terms look at."""
    rows = (sizes.joints, sizes.actions, sizes.latent, sizes.goal)
    others = (sizes.latent, sizes.goal)
    values = [torch.randn(sizes.rows, size) for size in rows]
    return dict(zip(SEEN, values + [torch.randn(size) for size in others], strict=True))


def _load(path: Path) -> onnx.ModelProto | None:
    return onnx.load(str(path)) if path.exists() else None


def _goal_inputs(sizes: Sizes) -> dict[str, list]:
    return {"goal_latent": [sizes.latent], "goal_position": [sizes.goal]}


def _weighed_inputs(sizes: Sizes) -> dict[str, list]:
    return {
        **_goal_inputs(sizes),
        "goal_encoded": [sizes.latent],
        "limits": [SIZE],
        "weights": [stage_size() + 1],
    }


def _look(writer: GraphWriter, parts: _Parts, state: str, action: str) -> dict[str, str]:
    """What terms look at, of states ``[M, S]`` and actions ``[M, A]``."""
    sizes = parts.sizes
    latent = writer.part(state, sizes.proprioception, sizes.state, 1)
    unit = writer.constant(np.float32(sizes.unit))
    if parts.readout is None:
        position = writer.part(latent, 0, 0, 1)
    else:
        position = writer.op("Div", writer.call(parts.readout, latent=latent)[0], unit)
    return {
        "joints": writer.part(state, 0, sizes.joints, 1),
        "action": action,
        "latent": latent,
        "position": position,
        "goal_latent": "goal_latent",
        "goal_position": writer.op("Div", "goal_position", unit),
    }


def _cost(parts: _Parts, name: str) -> onnx.ModelProto:
    """The tasks' ``terms [M, T]`` of states and actions."""
    writer, sizes = GraphWriter(), parts.sizes
    terms = writer.call(parts.terms, **_look(writer, parts, "state", "action"))[0]
    inputs = {"state": ["M", sizes.state], "action": ["M", sizes.actions], **_goal_inputs(sizes)}
    return writer.model(name, inputs, {"terms": (terms, ["M", len(TERMS)])})


@dataclass
class _Rollout:
    """Names of what a rollout gives; R = N K rows.

    ``before`` and ``after`` ``[H, R, S]``, ``last`` ``[R, S]``, ``actions`` ``[H, R, A]``, ``z``
    ``[H, R, Z]``; ``rows``, ``horizon``, ``candidates`` and ``draws`` are sizes ``[1]``.
    """

    before: str
    after: str
    last: str
    actions: str
    z: str
    rows: str
    horizon: str
    candidates: str
    draws: str


def _plan_inputs(sizes: Sizes) -> dict[str, list]:
    return {
        "state": ["starts", sizes.state],
        "actions": ["N", "H", sizes.actions],
        "z": ["N", "K", "H", sizes.z],
        **_weighed_inputs(sizes),
        "step_weights": ["H"],
    }


def _roll_out(writer: GraphWriter, parts: _Parts) -> _Rollout:
    sizes = parts.sizes
    count, horizon = writer.dimension("actions", 0), writer.dimension("actions", 1)
    draws = writer.dimension("z", 1)
    rows = writer.op("Mul", count, draws)

    def spread(tensor: str, *rest: str | int) -> str:
        """Each row ``[N, ...]`` once a draw: ``[R, ...]``."""
        sizes_ = [writer.constant([s]) if isinstance(s, int) else s for s in rest]
        one = writer.op("Unsqueeze", tensor, writer.constant([1]))
        many = writer.op("Expand", one, writer.join(count, draws, *sizes_))
        return writer.shaped(many, rows, *rest)

    begin = spread("state", sizes.state)
    actions = writer.op("Transpose", spread("actions", horizon, sizes.actions), perm=[1, 0, 2])
    z = writer.op("Transpose", writer.shaped("z", rows, horizon, sizes.z), perm=[1, 0, 2])
    body = writer.inner()
    state, action, draw = (writer.name(hint) for hint in ("state", "action", "z"))
    following = body.call(parts.predictor, state=state, action=action, z=draw)[0]
    widths = {state: sizes.state, action: sizes.actions, draw: sizes.z, following: sizes.state}
    sequences = [(actions, action)] + [(z, draw)] * parts.takes_z
    last, after = writer.scan(body, (begin, state, following), sequences, following, widths)
    first = writer.op("Unsqueeze", begin, writer.constant([0]))
    before = writer.join(first, writer.part(after, 0, -1, 0))
    return _Rollout(before, after, last, actions, z, rows, horizon, count, draws)


@dataclass
class _Stage:
    """Names of what each step's terms look at: ``looked`` the tasks', ``moved`` the intrinsic."""

    looked: dict[str, str]
    moved: dict[str, str]
    count: str  # M

    @classmethod
    def of(
        cls, writer: GraphWriter, parts: _Parts, states: str, actions: str, before: str | None
    ) -> _Stage:
        """Of states ``[M, S]``, actions ``[M, A]`` and the states before."""
        looked = _look(writer, parts, states, actions)
        moved = body_of(writer, parts.sizes.joints, states, actions, before)
        return cls(looked, moved, writer.dimension(states, 0))

    @classmethod
    def of_rollout(cls, writer: GraphWriter, parts: _Parts, rollout: _Rollout) -> _Stage:
        """Of all its steps, M = H R."""
        sizes = parts.sizes
        count = writer.op("Mul", rollout.rows, rollout.horizon)
        before, after = (
            writer.shaped(states, count, sizes.state) for states in (rollout.before, rollout.after)
        )
        actions = writer.shaped(rollout.actions, count, sizes.actions)
        return cls.of(writer, parts, after, actions, before)


def _total(writer: GraphWriter, parts: _Parts, rollout: _Rollout, steps: _Stage) -> tuple[str, str]:
    """Costs ``[R]``, and how much the critic counts ``[1]``."""
    intrinsic = parts.intrinsic.terms(writer, steps.moved)
    terms = writer.join(intrinsic, writer.call(parts.terms, **steps.looked)[0], axis=1)
    stage = writer.op("Unsqueeze", writer.part("weights", 0, stage_size(), 0), writer.constant([1]))
    costs = writer.shaped(writer.op("MatMul", terms, stage), rollout.horizon, rollout.rows)
    each = writer.op("Unsqueeze", "step_weights", writer.constant([1]))
    total = writer.op("ReduceSum", writer.op("Mul", costs, each), writer.constant([0]), keepdims=0)
    ahead = writer.op(
        "Mul", writer.part("weights", stage_size(), stage_size() + 1, 0), _last(writer)
    )
    if parts.critic is None:
        return total, ahead
    foreseen = writer.call(
        parts.critic, state=rollout.last, goal_latent=_goals(writer, parts, rollout.rows)
    )[0]
    return writer.op("Add", total, writer.op("Mul", foreseen, ahead)), ahead


def _last(writer: GraphWriter) -> str:
    """``[1]``: how much the last step counts."""
    far = np.iinfo(np.int64).max
    return writer.part("step_weights", -1, far, 0)


def _goals(writer: GraphWriter, parts: _Parts, rows: str) -> str:
    shape = writer.join(rows, writer.constant([parts.sizes.latent]))
    return writer.op("Expand", "goal_encoded", shape)


def _plan(parts: _Parts, name: str) -> onnx.ModelProto:
    """``costs [N, K]`` and ``states [N, K, H, S]`` of action sequences."""
    writer, sizes = GraphWriter(), parts.sizes
    rollout = _roll_out(writer, parts)
    costs, _ = _total(writer, parts, rollout, _Stage.of_rollout(writer, parts, rollout))
    visited = writer.op("Transpose", rollout.after, perm=[1, 0, 2])
    visited = writer.shaped(
        visited, rollout.candidates, rollout.draws, rollout.horizon, sizes.state
    )
    costs = writer.shaped(costs, rollout.candidates, rollout.draws)
    outputs = {
        "costs": (costs, ["N", "K"]),
        "states": (visited, ["N", "K", "H", sizes.state]),
    }
    return writer.model(name, _plan_inputs(sizes), outputs)


def _stage_gradient(
    writer: GraphWriter, parts: _Parts, steps: _Stage, vector: str
) -> tuple[str, str, str]:
    """Derivatives of ``vector [M, T]`` times terms.

    By states ``[M, S]``, by states before, and by actions ``[M, A]``.
    """
    sizes, looked = parts.sizes, steps.looked
    tasks = writer.part(vector, len(INTRINSIC), stage_size(), 1)
    joints, action, latent, position = writer.call(parts.terms_adjoint, **looked, v=tasks)
    hard_wired = writer.part(vector, 0, len(INTRINSIC), 1)
    body, effort = parts.intrinsic.gradient(writer, steps.moved, hard_wired)
    positions, velocities, *before = (writer.part(part, 0, sizes.joints, 1) for part in body)
    if parts.readout_adjoint is not None:
        unit = writer.constant(np.float32(sizes.unit))
        read = writer.call(
            parts.readout_adjoint, latent=looked["latent"], v=writer.op("Div", position, unit)
        )[0]
        latent = writer.op("Add", latent, read)
    joints = writer.op("Add", joints, positions)
    rest = zeros(writer, steps.count, sizes.proprioception - 2 * sizes.joints)
    behind = zeros(writer, steps.count, sizes.state - 2 * sizes.joints)
    return (
        writer.join(joints, velocities, rest, latent, axis=1),
        writer.join(*before, behind, axis=1),
        writer.op("Add", action, effort),
    )


def _plan_gradient(parts: _Parts, name: str) -> onnx.ModelProto:
    """``costs [N, K]``, and ``gradients [N, H, A]`` of their mean over draws by the actions."""
    writer, sizes = GraphWriter(), parts.sizes
    rollout = _roll_out(writer, parts)
    steps = _Stage.of_rollout(writer, parts, rollout)
    costs, ahead = _total(writer, parts, rollout, steps)
    each = writer.shaped("step_weights", rollout.horizon, 1, 1)
    stage = writer.shaped(writer.part("weights", 0, stage_size(), 0), 1, 1, stage_size())
    shape = writer.join(rollout.horizon, rollout.rows, writer.constant([stage_size()]))
    vector = writer.op("Expand", writer.op("Mul", each, stage), shape)
    by_state, by_before, by_action = _stage_gradient(
        writer, parts, steps, writer.shaped(vector, steps.count, stage_size())
    )
    by_state, by_before = (
        writer.shaped(by, rollout.horizon, rollout.rows, sizes.state)
        for by in (by_state, by_before)
    )
    # A state is the one before of the next step; nothing can be done about where it all begins.
    later = writer.part(by_before, 1, np.iinfo(np.int64).max, 0)
    end = writer.op("Mul", writer.part(by_before, 0, 1, 0), writer.constant(np.float32(0)))
    by_state = writer.op("Add", by_state, writer.join(later, end))
    by_action = writer.shaped(by_action, rollout.horizon, rollout.rows, sizes.actions)
    if parts.critic_adjoint is None:
        begin = zeros(writer, rollout.rows, sizes.state)
    else:
        begin = writer.call(
            parts.critic_adjoint,
            state=rollout.last,
            goal_latent=_goals(writer, parts, rollout.rows),
            v=writer.op("Expand", ahead, rollout.rows),
        )[0]
    body = writer.inner()
    inner = {name: writer.name(name) for name in ("adjoint", "cost", "state", "action", "z")}
    vector = body.op("Add", inner["adjoint"], inner["cost"])
    following, slope = body.call(
        parts.predictor_adjoint,
        state=inner["state"],
        action=inner["action"],
        z=inner["z"],
        v=vector,
    )
    widths = {
        **dict.fromkeys((inner["adjoint"], inner["cost"], inner["state"], following), sizes.state),
        **dict.fromkeys((inner["action"], slope), sizes.actions),
        inner["z"]: sizes.z,
    }
    sequences = [
        (by_state, inner["cost"]),
        (rollout.before, inner["state"]),
        (rollout.actions, inner["action"]),
        (rollout.z, inner["z"]),
    ]
    _, through = writer.scan(
        body,
        (begin, inner["adjoint"], following),
        sequences,
        slope,
        widths,
        is_reverse=True,
    )
    gradients = writer.op("Transpose", writer.op("Add", through, by_action), perm=[1, 0, 2])
    gradients = writer.shaped(
        gradients, rollout.candidates, rollout.draws, rollout.horizon, sizes.actions
    )
    gradients = writer.op("ReduceMean", gradients, axes=[1], keepdims=0)
    costs = writer.shaped(costs, rollout.candidates, rollout.draws)
    outputs = {
        "costs": (costs, ["N", "K"]),
        "gradients": (gradients, ["N", "H", sizes.actions]),
    }
    return writer.model(name, _plan_inputs(sizes), outputs)


def _jacobian(parts: _Parts, name: str) -> onnx.ModelProto:
    """``by_state [M, S, S]`` and ``by_action [M, S, A]`` of the next state."""
    writer, sizes = GraphWriter(), parts.sizes
    count, size = writer.dimension("state", 0), sizes.state
    rows = writer.op("Mul", count, writer.constant([size]))

    def repeated(tensor: str, width: int) -> str:
        one = writer.op("Unsqueeze", tensor, writer.constant([1]))
        shape = writer.join(count, writer.constant([size, width]))
        return writer.shaped(writer.op("Expand", one, shape), rows, width)

    each = writer.constant(np.eye(size, dtype=np.float32)[None])
    each = writer.op("Expand", each, writer.join(count, writer.constant([size, size])))
    by_state, by_action = writer.call(
        parts.predictor_adjoint,
        state=repeated("state", size),
        action=repeated("action", sizes.actions),
        z=repeated("z", sizes.z),
        v=writer.shaped(each, rows, size),
    )
    inputs = {"state": ["M", size], "action": ["M", sizes.actions], "z": ["M", sizes.z]}
    outputs = {
        "by_state": (writer.shaped(by_state, count, size, size), ["M", size, size]),
        "by_action": (
            writer.shaped(by_action, count, size, sizes.actions),
            ["M", size, sizes.actions],
        ),
    }
    return writer.model(name, inputs, outputs)


def _cost_gradient(parts: _Parts, name: str) -> onnx.ModelProto:
    """Derivatives of weighted terms by states ``[M, S]`` and actions ``[M, A]``.

    ``ahead [M, S]`` is that of what the critic foresees, weighted, by the states. Jerk is left
    out: a step's cost is that of one state and one action here.
    """
    writer, sizes = GraphWriter(), parts.sizes
    steps = _Stage.of(writer, parts, "state", "action", None)
    count = steps.count
    stage = writer.part("weights", 0, stage_size(), 0)
    vector = writer.op("Expand", stage, writer.join(count, writer.constant([stage_size()])))
    by_state, _, by_action = _stage_gradient(writer, parts, steps, vector)
    if parts.critic_adjoint is None:
        ahead = writer.op("Mul", by_state, writer.constant(np.float32(0)))
    else:
        weight = writer.part("weights", stage_size(), stage_size() + 1, 0)
        ahead = writer.call(
            parts.critic_adjoint,
            state="state",
            goal_latent=_goals(writer, parts, count),
            v=writer.op("Expand", weight, count),
        )[0]
    inputs = {
        "state": ["M", sizes.state],
        "action": ["M", sizes.actions],
        **_weighed_inputs(sizes),
    }
    outputs = {
        "by_state": (by_state, ["M", sizes.state]),
        "by_action": (by_action, ["M", sizes.actions]),
        "ahead": (ahead, ["M", sizes.state]),
    }
    return writer.model(name, inputs, outputs)


ADJOINTS = {
    "plan_gradient": _plan_gradient,
    "jacobian": _jacobian,
    "cost_gradient": _cost_gradient,
}
