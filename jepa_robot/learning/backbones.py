"""A pretrained network that the user brings as a local file; nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import importlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

DOMAIN = "jepa_robot"  # of the node that stands for a backbone until its graph takes its place
OPSET = 17


class InvalidBackbone(ValueError):
    """A backbone file that cannot be used; the message names it, and what was wrong."""


class Backbone(nn.Module):
    """Features ``[M, F]`` of pictures, from a network that is never trained.

    It gets float32 pictures ``[M, 3, h, w]``, RGB, of the data's size. They are in [-1, 1] unless
    ``mean`` and ``std`` are others than 0.5: values in [0, 1], less ``mean``, divided by ``std``, a
    channel each (ImageNet's are 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225). Its output ``[M, F]``
    is taken as it is; feature maps ``[M, F, h', w']`` and tokens ``[M, T, F]`` are flattened or
    averaged over positions; of several outputs the first counts. M must be free. No gradient flows
    and it stays in evaluation mode.

    Args:
        path: ``.onnx``, TorchScript (``.pt``, ``.ts``) or what `torch.export.save` wrote
            (``.pt2``, with a dynamic first dimension).
        image_size: h, w.
        takes_mean: average over positions instead of flattening them.
        mean: see above.
        std: see above.

    Raises:
        InvalidBackbone: there is no such file, or it is not what was expected.
    """

    def __init__(
        self,
        path: str,
        image_size: tuple[int, int],
        takes_mean: bool,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.path, self.image_size, self.takes_mean = path, image_size, takes_mean
        self.network = load_network(path)
        self.requires_grad_(False)
        # Pictures come in [-1, 1], where 0.5 and 0.5 change nothing.
        self.register_buffer("mean", 2 * torch.tensor(mean)[:, None, None] - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(std)[:, None, None], persistent=False)
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.training = False
        self.output_sizes = self._check_output()

    def forward(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            scaled = (pictures - self.mean) / self.std
            if torch.onnx.is_in_onnx_export():
                output = _Placeholder.apply(scaled, self.output_sizes)
            else:
                output = _first(self.network(scaled))
            if self.takes_mean and output.dim() > 2:
                return output.mean(dim=(2, 3) if output.dim() == 4 else 1)
            return output.flatten(1)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode."""
        return self

    def graph(self) -> onnx.ModelProto:
        """The network as a graph of one input and one output.

        Raises:
            InvalidBackbone: it uses an operator that ONNX has not.
        """
        onnx = _import_onnx(self.path)
        if isinstance(self.network, OnnxNetwork):
            return onnx.load(self.path)
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the legacy exporter says that it is one
                torch.onnx.export(
                    self.network,
                    (torch.zeros(2, 3, *self.image_size),),
                    buffer,
                    input_names=["pictures"],
                    output_names=["output"],
                    dynamic_axes={"pictures": {0: "M"}, "output": {0: "M"}},
                    opset_version=OPSET,
                    dynamo=False,
                )
        except Exception as error:
            raise InvalidBackbone(f"{self.path}: cannot be exported: {_line(error)}") from error
        return onnx.load_from_string(buffer.getvalue())

    def __deepcopy__(self, memo: dict) -> Backbone:
        """Itself: a copy of what never changes would only take memory."""
        return self

    def _check_output(self) -> list[int]:
        """Sizes of the output's axes, but for the first."""
        for rows in (2, 3):
            pictures = torch.zeros(rows, 3, *self.image_size)
            given = f"float32 pictures {list(pictures.shape)}"
            try:
                with torch.no_grad():
                    output = _first(self.network(pictures))
            except Exception as error:
                raise InvalidBackbone(
                    f"{self.path}: does not take {given}: {_line(error)}"
                ) from error
            sizes = list(output.shape)
            fits = len(sizes) in (2, 3, 4) and sizes[0] == rows and output.dtype == torch.float32
            if not fits:
                raise InvalidBackbone(
                    f"{self.path}: gives {output.dtype} {sizes} for {given}, expected float32 of "
                    f"{rows} rows and two to four axes"
                )
        return sizes[1:]

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
        saved = state.get(prefix + "digest")
        if saved is not None and not torch.equal(saved.cpu(), self.digest.cpu()):
            raise InvalidBackbone(f"{self.path}: is not the file that the agent was trained with")
        super()._load_from_state_dict(state, prefix, *args)


class OnnxNetwork(nn.Module):
    """Runs an ONNX graph on the processor; nothing is differentiated, so torch need not know it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def forward(self, pictures: Tensor) -> Tensor:
        array = np.ascontiguousarray(pictures.float().cpu().numpy())
        output = self.session.run(None, {self.input: array})[0]
        return torch.from_numpy(output).to(pictures.device)


class ProgramNetwork(nn.Module):
    """Runs what `torch.export.save` wrote; its mode was fixed then.

    Raises:
        ValueError: sizes are computed of the number of rows, which becomes a constant when the
            program is exported again.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        program = torch.export.load(path)
        if any(node.target is torch.ops.aten.sym_size.int for node in program.graph.nodes):
            raise ValueError("it computes with the number of rows; TorchScript and ONNX may do so")
        self.program = program.module()
        self.training = False

    def forward(self, pictures: Tensor) -> Tensor:
        return _first(self.program(pictures))

    def train(self, mode: bool = True) -> ProgramNetwork:
        """Stay as it is: the program knows no modes."""
        return self


def load_network(path: str) -> nn.Module:
    """A network of a local file, in evaluation mode.

    Raises:
        InvalidBackbone: there is no such file, or it is not what was expected.
    """
    kinds = {
        ".onnx": (OnnxNetwork, "an ONNX graph"),
        ".pt": (_load_script, "TorchScript, as torch.jit.save writes it"),
        ".ts": (_load_script, "TorchScript, as torch.jit.save writes it"),
        ".pt2": (
            ProgramNetwork,
            "a program with a free number of rows, as torch.export.save writes it",
        ),
    }
    file = Path(path)
    if file.suffix not in kinds:
        raise InvalidBackbone(
            f"{path}: has the suffix {file.suffix!r}, expected one of {', '.join(kinds)}"
        )
    if not file.is_file():
        raise InvalidBackbone(f"{path}: is missing, expected a backbone's file")
    load, expected = kinds[file.suffix]
    try:
        return load(path)
    except Exception as error:  # each library has its own
        raise InvalidBackbone(f"{path}: expected {expected}: {_line(error)}") from error


def inline_backbones(module: nn.Module, path: str | Path) -> None:
    """Put the graph of a module's frozen backbone into the graph that was exported of the module.

    The exporter leaves a node in its place; without one, the file stays as it is.

    Args:
        module: what was exported.
        path: the exported graph, which is written anew, in the newer of both operator sets.

    Raises:
        InvalidBackbone: the graphs cannot be brought to one operator set, or the backbone has no
            graph.
    """
    backbones = [part for part in module.modules() if isinstance(part, Backbone)]
    if not backbones:
        return
    onnx = _import_onnx(backbones[0].path)
    model = onnx.load(str(path))
    for backbone in backbones:
        model = _inline(onnx, model, backbone)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class _Placeholder(torch.autograd.Function):
    """What the exporter sees of a backbone: a node of its own, and an output of the right shape."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, sizes: list[int]) -> Tensor:
        return pictures.new_zeros(pictures.shape[0], *sizes)

    @staticmethod
    def symbolic(graph: Any, pictures: Any, sizes: list[int]) -> Any:
        output = graph.op(f"{DOMAIN}::Backbone", pictures)
        return output.setType(pictures.type().with_sizes([None, *sizes]))


def _inline(onnx: ModuleType, model: onnx.ModelProto, backbone: Backbone) -> onnx.ModelProto:
    inner = backbone.graph()
    version = max(_opset(model), _opset(inner))
    try:
        model, inner = (
            graph
            if _opset(graph) == version
            else onnx.version_converter.convert_version(graph, version)
            for graph in (model, inner)
        )
    except RuntimeError as error:
        raise InvalidBackbone(
            f"{backbone.path}: cannot be brought to operator set {version}: {_line(error)}"
        ) from error
    inner = onnx.compose.add_prefix(inner, "backbone/")
    nodes = list(model.graph.node)
    index = next(i for i, node in enumerate(nodes) if node.domain == DOMAIN)
    constants = {tensor.name for tensor in inner.graph.initializer}
    first = next(value.name for value in inner.graph.input if value.name not in constants)
    make = onnx.helper.make_node
    nodes[index : index + 1] = [
        make("Identity", nodes[index].input, [first]),
        *inner.graph.node,
        make("Identity", [inner.graph.output[0].name], nodes[index].output),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(inner.graph.initializer)
    model.functions.extend(inner.functions)
    domains = {entry.domain: entry for entry in (*inner.opset_import, *model.opset_import)}
    domains.pop(DOMAIN, None)
    del model.opset_import[:]
    model.opset_import.extend(domains.values())
    model.ir_version = max(model.ir_version, inner.ir_version)
    return model


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _load_script(path: str) -> nn.Module:
    return torch.jit.load(path, map_location="cpu").eval()


def _import_onnx(path: str) -> ModuleType:
    try:
        for part in ("checker", "compose", "helper", "version_converter"):
            importlib.import_module(f"onnx.{part}")
        return importlib.import_module("onnx")
    except ImportError as error:
        raise InvalidBackbone(
            f"{path}: the package onnx is not installed, expected it to export a frozen backbone"
        ) from error


def _first(output: Any) -> Tensor:
    """The output, or the first of several."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
