"""ONNX graphs of derivatives: what a planner on a robot descends has no torch in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

WHOLE = torch.iinfo(torch.int64).max  # the end of a slice that has none


def adjoint(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], by: Sequence[int]
) -> nn.Module:
    """A function's vector-Jacobian product as a module of elementary operations.

    Args:
        function: of tensors whose first axis is a batch.
        inputs: to follow it with; no other size of theirs is that of the batch.
        by: which inputs it is derived by.

    Returns:
        A module of ``(*inputs, v)``, with v like the function's output, that gives ``vᵀ ∂f/∂x`` for
        each input x in ``by``.
    """

    def product(*arguments: Tensor) -> tuple[Tensor, ...]:
        *values, vector = (argument.detach() for argument in arguments)
        for index in by:
            values[index].requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            output = function(*values)
            wanted = [values[index] for index in by]
            return torch.autograd.grad(output, wanted, vector, materialize_grads=True)

    with torch.no_grad():
        vector = torch.ones_like(function(*inputs))
    followed = make_fx(
        product,
        decomposition_table={**core_aten_decompositions(), **DECOMPOSITIONS},
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    module = followed(*inputs, vector)
    _free_rows(module)
    return module.eval()


def _free_rows(module: torch.fx.GraphModule) -> None:
    """Sizes that are the batch's are asked for when the graph runs; the others are numbers.

    Else the exporter would take the example's for all.
    """
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    rows = first.meta["val"].shape[0].node.expr
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            if rows in node.meta["val"].node.expr.free_symbols:
                node.op, node.target = "call_method", "size"
            else:
                node.replace_all_uses_with(node.meta["val"].node.hint)
        elif node.target in SHAPING:  # as a method, of which the exporter sees sizes
            node.op, node.target = "call_method", SHAPING[node.target]
        elif node.target is torch.ops.aten.full.default:  # likewise
            node.target, node.kwargs = torch.full, {"dtype": node.kwargs["dtype"]}
    module.graph.eliminate_dead_code()
    module.recompile()


def _unslice(
    gradient: Tensor, sizes: Sequence[int], axis: int, start: int, end: int, step: int
) -> Tensor:
    """The gradient of what a slice was taken from; the usual way there has no ONNX operator."""
    if step != 1:
        raise NotImplementedError(f"the gradient of a slice by steps of {step}, expected 1")
    if start == 0 and end >= WHOLE:
        return gradient
    size = gradient.shape[axis]
    padding = [0, 0] * (gradient.dim() - 1 - axis)
    return torch.ops.aten.constant_pad_nd(gradient, [*padding, start, sizes[axis] - start - size])


SHAPING = {
    torch.ops.aten.expand.default: "expand",
    torch.ops.aten.view.default: "view",
    torch.ops.aten._unsafe_view.default: "reshape",
}
DECOMPOSITIONS = {
    torch.ops.aten.slice_backward.default: _unslice,
    **get_decompositions([torch.ops.aten._softmax]),
}
