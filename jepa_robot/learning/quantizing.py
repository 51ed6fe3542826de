"""Graphs with eight bits a number, by ONNX Runtime's dynamic quantisation of their products."""

from __future__ import annotations

import logging
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic


def quantize(graph: Path, quantized: Path) -> None:
    """Write a graph with weights of 8 bits by channel; activations have 8 by tensor, as they come.

    Loops in it are quantised, too.
    """
    logging.getLogger().addFilter(_is_no_advice)
    try:
        quantize_dynamic(
            graph,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"EnableSubgraph": True},
        )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """To pre-process the graph, which has been optimised as far as that goes."""
    return "pre-processing" not in record.getMessage()
