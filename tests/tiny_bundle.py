"""A model bundle of a few matrices, built in a moment: for tests that need no trained weights.

Its latent is the mean colour of each camera; its policy drives the first joints' latents together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jepa_robot.learning.fusing import Sizes, fuse
from jepa_robot.learning.graph_writer import OPSET
from jepa_robot.learning.terms import NEEDS
from jepa_robot.models import write_manifest
from jepa_robot.modules.cost import POSITION_UNIT
from jepa_robot.modules.intrinsic import fingerprint
from jepa_robot.robot.contract import RobotContract, measured_size


def build(
    path: Path,
    contract: RobotContract,
    name: str = "tiny",
    seed: int = 0,
    has_critic: bool = True,
    has_upper: bool = False,
    **manifest: object,
) -> Path:
    """Write a bundle that fits ``contract`` into ``path``; ``manifest`` has more of that."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    cameras, actions = len(contract.cameras), contract.actions.size
    measured = measured_size(contract.interface())
    latent = 3 * cameras
    state = measured + latent

    def weights(rows: int, columns: int) -> np.ndarray:
        return (0.1 * rng.standard_normal((rows, columns))).astype(np.float32)

    _encoder(path, cameras, measured, latent)
    step = np.zeros((actions, state), np.float32)
    step[:, :actions] = 0.01 * np.eye(actions)
    step[:, measured:] = weights(actions, latent)
    _graph(
        path / "predictor.onnx",
        {"state": state, "action": actions},
        ("next_state", state),
        [
            helper.make_node("MatMul", ["action", "w"], ["change"]),
            helper.make_node("Add", ["state", "change"], ["next_state"]),
        ],
        {"w": step},
    )
    pick = np.zeros((state, latent), np.float32)
    pick[measured:] = np.eye(latent)
    _graph(
        path / "policy.onnx",
        {"state": state, "goal_latent": latent},
        ("action", actions),
        [
            helper.make_node("MatMul", ["state", "pick"], ["latent"]),
            helper.make_node("Sub", ["goal_latent", "latent"], ["error"]),
            helper.make_node("MatMul", ["error", "w"], ["raw"]),
            helper.make_node("Tanh", ["raw"], ["action"]),
        ],
        {"pick": pick, "w": 10 * weights(latent, actions)},
    )
    for graph, source, target, sizes in (
        ("readout", "latent", "position", (latent, 3)),
        ("goal_encoder", "position", "latent", (3, latent)),
    ):
        _graph(
            path / f"{graph}.onnx",
            {source: sizes[0]},
            (target, sizes[1]),
            [helper.make_node("MatMul", [source, "w"], [target])],
            {"w": weights(*sizes)},
        )
    if has_critic:
        _critic(path, state, latent, pick)
    if has_upper:
        _upper(path, state)
        manifest = {"upper_stride": 4, **manifest}
    sizes = Sizes(len(contract.joints), measured, latent, actions, 3, 0, POSITION_UNIT)
    fuse(path, sizes)
    camera = contract.cameras[0]
    write_manifest(
        path,
        {
            "name": name,
            "latent_size": latent,
            "image_size": [camera.crop[3], camera.crop[2]],
            **contract.interface(),
            "terms": NEEDS,
            "intrinsic": fingerprint(),
            "opset": OPSET,
            "data": {},
            "command": "tests/tiny_bundle.py",
            "results": {},
            **manifest,
        },
    )
    return path


def _critic(path: Path, state: int, latent: int, pick: np.ndarray) -> None:
    _graph(
        path / "critic.onnx",
        {"state": state, "goal_latent": latent},
        ("cost", None),
        [
            helper.make_node("MatMul", ["state", "pick"], ["latent"]),
            helper.make_node("Sub", ["goal_latent", "latent"], ["error"]),
            helper.make_node("ReduceL2", ["error"], ["cost"], axes=[1], keepdims=0),
        ],
        {"pick": pick},
    )


def _upper(path: Path, state: int) -> None:
    """What is asked for in three macro-actions comes, from wherever it is."""
    nodes = [
        helper.make_node("Mul", ["macros", "reach"], ["offsets"]),
        helper.make_node("Add", ["offsets", "middle"], ["asked"]),
        helper.make_node("Slice", ["asked", "zero", "one", "one"], ["first"]),
        helper.make_node("Concat", ["first", "asked"], ["places"], axis=1),
    ]
    sizes = {"state": ["N", state], "macros": ["N", 3, 3]}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()]
    sizes = {"places": ["N", 4, 3], "asked": ["N", 3, 3]}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()]
    constants = {
        "reach": np.array(0.2, np.float32),
        "middle": np.array([0.5, 0.0, 0.2], np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
    }
    _save(path / "upper.onnx", nodes, inputs, outputs, constants)


def _encoder(path: Path, cameras: int, measured: int, latent: int) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["means", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["latent"]),
        helper.make_node("Concat", ["proprioception", "latent"], ["state"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", cameras, "h", "w", 3]),
        helper.make_tensor_value_info("proprioception", TensorProto.FLOAT, ["B", measured]),
    ]
    outputs = [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", None])]
    constants = {
        "shape": np.array([-1, latent], np.int64),
        "scale": np.array(1 / 255, np.float32),
    }
    _save(path / "encoder.onnx", nodes, inputs, outputs, constants)


def _graph(path: Path, inputs: dict, output: tuple, nodes: list, constants: dict) -> None:
    ins = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in inputs.items()
    ]
    shape = ["N", output[1]] if output[1] else ["N"]
    out = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, shape)]
    _save(path, nodes, ins, out, constants)


def _save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict) -> None:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
