"""HAWQ-V3: integer-only, mixed-precision quantisation, deployed to engines and proven exact."""

from jostle.quantization.convert import quantize, to_integer
from jostle.quantization.distillation import QAT, Trained, distillation, fit_qat
from jostle.quantization.dyadic import dyadic
from jostle.quantization.engines import Deployed, deploy
from jostle.quantization.integer import IntegerModel
from jostle.quantization.network import QuantConfig, Quantised, prepare
from jostle.quantization.onnx_export import export
from jostle.quantization.quantisers import Grid
from jostle.quantization.tracing import trace
from jostle.quantization.verifying import Audit, Verification, audit, verify_engine

__all__ = [
    "QAT",
    "Audit",
    "Deployed",
    "Grid",
    "IntegerModel",
    "QuantConfig",
    "Quantised",
    "Trained",
    "Verification",
    "audit",
    "deploy",
    "distillation",
    "dyadic",
    "export",
    "fit_qat",
    "prepare",
    "quantize",
    "to_integer",
    "trace",
    "verify_engine",
]
