"""HAWQ-V3: integer-only, mixed-precision quantisation, deployed to engines and proven exact."""

from jostle.quantization.convert import quantize, to_integer
from jostle.quantization.dyadic import dyadic
from jostle.quantization.integer import IntegerModel
from jostle.quantization.network import QuantConfig, Quantised, prepare
from jostle.quantization.quantisers import Grid
from jostle.quantization.tracing import trace

__all__ = ["Grid", "IntegerModel", "QuantConfig", "Quantised", "dyadic", "prepare", "quantize", "to_integer", "trace"]
