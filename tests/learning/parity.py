"""Exports a module as the bundle's graphs are, and compares it with ONNX Runtime."""

import warnings

import numpy as np
import onnxruntime
import torch

from jepa_robot.learning.backbones import inline_backbones


def assert_graph_computes_what_torch_does(module, inputs, path, tolerance=1e-4):
    """For the batch, for single rows and for other numbers of rows; every input is declared."""
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["output"],
            dynamic_axes={name: {0: "N"} for name in (*inputs, "output")},
            opset_version=17,
            dynamo=False,
            external_data=False,
        )
    inline_backbones(module, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(inputs)
    for rows in (slice(None), slice(0, 1), [0, 1, 1, 0, 0, 1, 0]):
        batch = {name: value[rows] for name, value in inputs.items()}
        with torch.no_grad():
            expected = module(*batch.values()).numpy()
        (actual,) = session.run(None, {name: value.numpy() for name, value in batch.items()})
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() < tolerance
