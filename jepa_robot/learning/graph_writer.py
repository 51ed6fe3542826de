"""Writes ONNX graphs out of other graphs and single nodes, with loops that see what is outside."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8


class GraphWriter:
    """Puts a graph together. Weights that several parts share are there once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights: dict[bytes, str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._numbers = itertools.count()

    def inner(self) -> GraphWriter:
        """For the body of a loop, which sees what is outside."""
        other = GraphWriter()
        other.__dict__.update(self.__dict__)
        other.nodes = []
        return other

    def name(self, hint: str = "x") -> str:
        return f"{hint}_{next(self._numbers)}"

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        """A node's only output."""
        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value) -> str:
        """A constant: whole numbers are int64, others float32."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        return self.weight(numpy_helper.from_array(array))

    def weight(self, tensor: onnx.TensorProto) -> str:
        array = numpy_helper.to_array(tensor)
        key = b"".join((str(array.dtype).encode(), str(array.shape).encode(), array.tobytes()))
        if key not in self._weights:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = self._weights[key] = self.name("w")
            self._initializers.append(copy)
        return self._weights[key]

    def call(self, model: onnx.ModelProto, **inputs: str) -> list[str]:
        """A graph's outputs, its inputs given by name; inputs that it does not take are left."""
        names = {value.name: inputs[value.name] for value in model.graph.input}
        for tensor in model.graph.initializer:
            names[tensor.name] = self.weight(tensor)
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                names[node.output[0]] = self.weight(node.attribute[0].t)
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = ""
            del copy.input[:], copy.output[:]
            copy.input.extend(names[name] if name else "" for name in node.input)
            for name in node.output:
                names[name] = self.name(node.op_type.lower()) if name else ""
            copy.output.extend(names[name] for name in node.output)
            self.nodes.append(copy)
        return [names[value.name] for value in model.graph.output]

    def dimension(self, tensor: str, axis: int) -> str:
        """``[1]``: the size of an axis."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def join(self, *parts: str, axis: int = 0) -> str:
        return self.op("Concat", *parts, axis=axis)

    def shaped(self, tensor: str, *sizes: str | int) -> str:
        """Reshaped; sizes are numbers or ``[1]`` tensors, and may be 0."""
        parts = [self.constant([size]) if isinstance(size, int) else size for size in sizes]
        return self.op("Reshape", tensor, self.join(*parts), allowzero=1)

    def part(self, tensor: str, begin: int, end: int, axis: int) -> str:
        bounds = (self.constant([number]) for number in (begin, end, axis))
        return self.op("Slice", tensor, *bounds)

    def scan(
        self,
        body: GraphWriter,
        state: tuple[str, str, str],
        inputs: Sequence[tuple[str, str]],
        output: str,
        widths: Mapping[str, int],
        is_reverse: bool = False,
    ) -> tuple[str, str]:
        """A loop along the first axis.

        Args:
            body: writes a step.
            state: where it begins, what the body calls it, and what it comes to.
            inputs: each sequence, and what the body calls its element.
            output: the body's, which is kept of each step.
            widths: sizes of the last axes, by the body's names.
            is_reverse: go from the end, and write from the end.

        Returns:
            The last state, and the sequence of outputs.
        """
        begin, inner, following = state
        kept = body.op("Identity", output)  # what a step gives must not be what it goes on with
        widths = {**widths, following: widths[inner], kept: widths[output]}

        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", widths[name]])

        graph = helper.make_graph(
            body.nodes,
            self.name("step"),
            [value(inner), *(value(name) for _, name in inputs)],
            [value(following), value(kept)],
        )
        last, sequence = self.name("last"), self.name("sequence")
        directions = {}
        if is_reverse:
            directions = {
                "scan_input_directions": [1] * len(inputs),
                "scan_output_directions": [1],
            }
        self.nodes.append(
            helper.make_node(
                "Scan",
                [begin, *(name for name, _ in inputs)],
                [last, sequence],
                body=graph,
                num_scan_inputs=len(inputs),
                **directions,
            )
        )
        return last, sequence

    def branch(self, condition: str, then: tuple[GraphWriter, str], other: tuple[GraphWriter, str]):
        """One of two outputs, each with what writes it: the first where ``condition [1]`` holds."""
        graphs = []
        for writer, output in (then, other):
            kept = writer.op("Identity", output)
            value = helper.make_tensor_value_info(kept, TensorProto.FLOAT, None)
            graphs.append(helper.make_graph(writer.nodes, self.name("branch"), [], [value]))
        chosen = self.name("if")
        branches = dict(zip(("then_branch", "else_branch"), graphs, strict=True))
        self.nodes.append(helper.make_node("If", [condition], [chosen], **branches))
        return chosen

    def model(
        self, name: str, inputs: Mapping[str, list], outputs: Mapping[str, tuple[str, list]]
    ) -> onnx.ModelProto:
        """The graph, checked. ``outputs``: by name, what it is and its shape."""
        for output, (tensor, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [output]))

        def value(name: str, shape: list) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            name,
            [value(*item) for item in inputs.items()],
            [value(output, shape) for output, (_, shape) in outputs.items()],
            self._initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model
