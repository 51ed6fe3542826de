"""Functions of torch as ONNX graphs with any number of rows, and their derivatives likewise."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
import torch
from torch import nn

from jepa_robot.learning.adjoint import adjoint
from jepa_robot.learning.graph_writer import OPSET


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.forward = function


def exported(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    rows: Iterable[str],
    columns: Iterable[str] = (),
) -> onnx.ModelProto:
    """A module as a graph, with any number of rows in some inputs and in all outputs.

    Any number of columns, too, in inputs of ``columns``.
    """
    buffer = io.BytesIO()
    free = {name: {0: "N"} for name in (*rows, *outputs)}
    for name in columns:
        free[name] = {**free[name], 1: name.upper()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            buffer,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def adjoint_graph(
    function: Callable,
    inputs: Mapping[str, torch.Tensor],
    by: Sequence[str],
    rows: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """A function's derivative ``by_NAME`` by some inputs, times ``v``; of all or some in rows."""
    module = adjoint(function, list(inputs.values()), [list(inputs).index(name) for name in by])
    with torch.no_grad():
        inputs = {**inputs, "v": torch.ones_like(function(*inputs.values()))}
    outputs = [f"by_{name}" for name in by]
    return exported(module, inputs, outputs, inputs if rows is None else (*rows, "v"))
