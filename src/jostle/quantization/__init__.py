"""HAWQ-V3: integer-only, mixed-precision quantisation, deployed to engines and proven exact."""

from jostle.quantization import verbs
from jostle.quantization.allocation import Plan, allocate, limit, pareto, random_plan
from jostle.quantization.convert import quantize, to_integer
from jostle.quantization.correction import correct_bias
from jostle.quantization.costs import CostTable, additivity, cost_table
from jostle.quantization.distillation import QAT, Trained, distillation, fit_qat
from jostle.quantization.dyadic import dyadic
from jostle.quantization.engines import Deployed, deploy
from jostle.quantization.integer import IntegerModel
from jostle.quantization.network import QuantConfig, Quantised, prepare
from jostle.quantization.onnx_export import export
from jostle.quantization.onnx_float import float_graph
from jostle.quantization.quantisers import Grid
from jostle.quantization.sensitivities import Sensitivity, sensitivity
from jostle.quantization.tracing import trace
from jostle.quantization.verifying import Audit, Verification, audit, verify_engine

VERBS = (verbs.quantize, verbs.sensitivity, verbs.allocate, verbs.verify, verbs.bench)

__all__ = [
    "QAT",
    "VERBS",
    "Audit",
    "CostTable",
    "Deployed",
    "Grid",
    "IntegerModel",
    "Plan",
    "QuantConfig",
    "Quantised",
    "Sensitivity",
    "Trained",
    "Verification",
    "additivity",
    "allocate",
    "audit",
    "correct_bias",
    "cost_table",
    "deploy",
    "distillation",
    "dyadic",
    "export",
    "fit_qat",
    "float_graph",
    "limit",
    "pareto",
    "prepare",
    "quantize",
    "random_plan",
    "sensitivity",
    "to_integer",
    "trace",
    "verify_engine",
]
