"""A pretrained network that the user brings as a local file; nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class InvalidBackbone(ValueError):
    """A backbone file that cannot be used; the message names it, and what was wrong."""


class Backbone(nn.Module):
    """Features ``[M, F]`` of pictures, from a network that is never trained.

    It gets float32 pictures ``[M, 3, h, w]``, RGB, of the data's size. They are in [-1, 1] unless
    ``mean`` and ``std`` are others than 0.5: values in [0, 1], less ``mean``, divided by ``std``, a
    channel each (ImageNet's are 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225). Its output ``[M, F]``
    is taken as it is; feature maps ``[M, F, h', w']`` and tokens ``[M, T, F]`` are flattened or
    averaged over positions. M must be free. No gradient flows and it stays in evaluation mode.

    Args:
        path: ``.onnx`` (needs the package onnx2torch), TorchScript (``.pt``, ``.ts``) or what
            `torch.export.save` wrote (``.pt2``, with a dynamic first dimension).
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
        self.path, self.takes_mean = path, takes_mean
        self.network = load_network(path)
        self.requires_grad_(False)
        # Pictures come in [-1, 1], where 0.5 and 0.5 change nothing.
        self.register_buffer("mean", 2 * torch.tensor(mean)[:, None, None] - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(std)[:, None, None], persistent=False)
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.training = False
        self._check_output(image_size)

    def forward(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            output = self.network((pictures - self.mean) / self.std)
            if isinstance(output, (tuple, list)) and len(output) == 1:
                output = output[0]
            if self.takes_mean and output.dim() > 2:
                return output.mean(dim=(2, 3) if output.dim() == 4 else 1)
            return output.flatten(1)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode."""
        return self

    def __deepcopy__(self, memo: dict) -> Backbone:
        """Itself: a copy of what never changes would only take memory."""
        return self

    def _check_output(self, image_size: tuple[int, int]) -> None:
        for rows in (2, 3):
            pictures = torch.zeros(rows, 3, *image_size)
            given = f"float32 pictures {list(pictures.shape)}"
            try:
                features = self(pictures)
            except Exception as error:
                raise InvalidBackbone(
                    f"{self.path}: does not take {given}: {_first_line(error)}"
                ) from error
            if features.dim() != 2 or features.shape[0] != rows or not features.is_floating_point():
                raise InvalidBackbone(
                    f"{self.path}: gives {features.dtype} {list(features.shape)} for {given}, "
                    f"expected floats with {rows} rows"
                )

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
        saved = state.get(prefix + "digest")
        if saved is not None and not torch.equal(saved.cpu(), self.digest.cpu()):
            raise InvalidBackbone(f"{self.path}: is not the file that the agent was trained with")
        super()._load_from_state_dict(state, prefix, *args)


def load_network(path: str) -> nn.Module:
    """A network of a local file, in evaluation mode.

    Raises:
        InvalidBackbone: there is no such file, or it is not what was expected.
    """
    loaders = {".onnx": _load_onnx, ".pt": _load_script, ".ts": _load_script, ".pt2": _load_export}
    file = Path(path)
    if file.suffix not in loaders:
        raise InvalidBackbone(
            f"{path}: has the suffix {file.suffix!r}, expected one of {', '.join(loaders)}"
        )
    if not file.is_file():
        raise InvalidBackbone(f"{path}: is missing, expected a backbone's file")
    return loaders[file.suffix](path)


def _load_script(path: str) -> nn.Module:
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise InvalidBackbone(
            f"{path}: is no TorchScript, expected what torch.jit.save wrote: {_first_line(error)}"
        ) from error


def _load_export(path: str) -> nn.Module:
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InvalidBackbone(
            f"{path}: is no exported program, expected what torch.export.save wrote: "
            f"{_first_line(error)}"
        ) from error
    return program.module()


def _load_onnx(path: str) -> nn.Module:
    convert = _import_converter(path)
    try:
        return convert(path).eval()
    except Exception as error:
        raise InvalidBackbone(f"{path}: cannot be converted: {_first_line(error)}") from error


def _import_converter(path: str) -> Any:
    if importlib.util.find_spec("onnx2torch") is None:
        raise InvalidBackbone(
            f"{path}: onnx2torch is not installed, expected for .onnx backbones: "
            "pip install onnx2torch"
        )
    try:
        return importlib.import_module("onnx2torch").convert
    except (ImportError, RuntimeError):
        # It imports torchvision for two operators of object detectors; a torchvision of another
        # build than torch's cannot be imported.
        names = ("torchvision", "torchvision.ops")
        for name in names:
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.ops"].roi_align = None
        try:
            return importlib.import_module("onnx2torch").convert
        finally:
            for name in names:
                del sys.modules[name]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
