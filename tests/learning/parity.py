"""Exports a module as the bundle's graphs are, and compares it with ONNX Runtime."""

import numpy as np
import onnxruntime
import torch

from jepa_robot.learning.export import _export


def assert_graph_computes_what_torch_does(module, inputs, path, tolerance=1e-4):
    """For the batch, for single rows and for other numbers of rows; every input is declared."""
    module.eval()
    _export(module, inputs, ("output",), path)
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
