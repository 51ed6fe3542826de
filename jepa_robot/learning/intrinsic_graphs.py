"""The intrinsic terms as parts of other graphs, and as ``modules/intrinsic.onnx``.

``python -m jepa_robot.learning.intrinsic_graphs`` writes that graph anew. Whoever changes a term
changes its hash, and with it what bundles are compared with.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
import torch

from jepa_robot.learning.graph_parts import Function, adjoint_graph, exported
from jepa_robot.learning.graph_writer import GraphWriter
from jepa_robot.learning.intrinsic import Moved, clearance, comfort
from jepa_robot.modules.intrinsic import GRAPH, JOINTS, PLACES, SIZE
from jepa_robot.robot.contract import INTRINSIC

BODY = Moved._fields[:4]  # positions and velocities, now and before
ROWS = Moved._fields[:6]
COMFORT = PLACES.start  # of the intrinsic terms, the first are of comfort, others of clearance
CLEARANCE = len(INTRINSIC) - COMFORT
EXAMPLES = 29  # rows; no other size is this


@functools.cache
def intrinsic_graphs(actions: int, has_derivatives: bool) -> IntrinsicGraphs:
    """Those of agents with as many actions: to follow distances takes a quarter of a minute."""
    return IntrinsicGraphs(actions, has_derivatives)


class IntrinsicGraphs:
    """The terms, and their derivatives, for the actions of an agent.

    What is far from cheap, distances, is computed where it weighs something.

    Args:
        actions: A; None for any.
        has_derivatives: whether those are asked for.
    """

    def __init__(self, actions: int | None, has_derivatives: bool) -> None:
        moved = dict.fromkeys(BODY, torch.randn(EXAMPLES, JOINTS)) | {
            "action": torch.rand(EXAMPLES, actions or 2),
            "surprise": torch.rand(EXAMPLES),
            "limits": torch.rand(SIZE),
        }
        moved = {name: value.clone() for name, value in moved.items()}
        placed = {name: moved[name] for name in ("joints", "limits")}
        columns = () if actions else ("action",)
        self._comfort = exported(Function(comfort), moved, ["terms"], ROWS, columns)
        self._clearance = exported(Function(clearance), placed, ["terms"], ["joints"])
        if has_derivatives:
            self._comfort_adjoint = adjoint_graph(comfort, moved, (*BODY, "action"), ROWS)
            self._clearance_adjoint = adjoint_graph(clearance, placed, ["joints"], ["joints"])

    def terms(self, writer: GraphWriter, moved: dict[str, str]) -> str:
        """``[M, len(INTRINSIC)]``, under the graph's input ``weights``."""
        placed = self._if_weighed(writer, self._clearance, CLEARANCE, moved)
        return writer.join(writer.call(self._comfort, **moved)[0], placed, axis=1)

    def gradient(
        self, writer: GraphWriter, moved: dict[str, str], vector: str
    ) -> tuple[list[str], str]:
        """Derivatives of ``vector [M, len(INTRINSIC)]`` times terms: by BODY, by the action."""
        easy = writer.part(vector, 0, COMFORT, 1)
        joints, *rest, action = writer.call(self._comfort_adjoint, **moved, v=easy)
        hard = {**moved, "v": writer.part(vector, COMFORT, len(INTRINSIC), 1)}
        placed = self._if_weighed(writer, self._clearance_adjoint, JOINTS, hard)
        return [writer.op("Add", joints, placed), *rest], action

    def _if_weighed(
        self, writer: GraphWriter, model: onnx.ModelProto, width: int, inputs: dict[str, str]
    ) -> str:
        """What a graph gives where terms of clearance weigh anything, else zeros ``[M, width]``."""
        weights = writer.part("weights", COMFORT, len(INTRINSIC), 0)
        weighed = writer.op("ReduceSum", weights, keepdims=1)
        condition = writer.op("Greater", weighed, writer.constant(np.float32([0])))
        then, other = writer.inner(), writer.inner()
        found = then.call(model, **inputs)[0]
        none = zeros(other, other.dimension(inputs["joints"], 0), width)
        return writer.branch(condition, (then, found), (other, none))


def body_of(
    writer: GraphWriter, joints: int, states: str, actions: str, before: str | None
) -> dict[str, str]:
    """What the terms look at, of states ``[M, S]``, actions ``[M, A]`` and states before.

    Without those there is no jerk. Nothing is a surprise that was only imagined.
    """
    count = writer.dimension(states, 0)

    def padded(of: str, begin: int) -> str:
        part = writer.part(of, begin, begin + joints, 1)
        return writer.join(part, zeros(writer, count, JOINTS - joints), axis=1)

    positions, velocities = padded(states, 0), padded(states, joints)
    if before is None:
        step = writer.part("limits", 3 * JOINTS, 3 * JOINTS + 1, 0)
        past = writer.op("Sub", positions, writer.op("Mul", velocities, step)), velocities
    else:
        past = padded(before, 0), padded(before, joints)
    return {
        **dict(zip(BODY, (positions, velocities, *past), strict=True)),
        "action": actions,
        "surprise": writer.op("Squeeze", zeros(writer, count, 1), writer.constant([1])),
        "limits": "limits",
    }


def zeros(writer: GraphWriter, count: str, width: int) -> str:
    """``[count, width]``."""
    shape = writer.join(count, writer.constant([width]))
    return writer.op("Expand", writer.constant(np.zeros((1, 1), np.float32)), shape)


def generic_graph() -> onnx.ModelProto:
    """``intrinsic.onnx``: the terms ``[M, len(INTRINSIC)]`` of any arm."""
    writer = GraphWriter()
    terms = IntrinsicGraphs(None, False).terms(writer, {name: name for name in Moved._fields})
    inputs = {name: ["M", JOINTS] for name in BODY} | {
        "action": ["M", "A"],
        "surprise": ["M"],
        "limits": [SIZE],
        "weights": [len(INTRINSIC)],
    }
    return writer.model("intrinsic", inputs, {"terms": (terms, ["M", len(INTRINSIC)])})


if __name__ == "__main__":
    onnx.save(generic_graph(), str(GRAPH))
