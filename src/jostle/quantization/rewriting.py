"""Changes of a program before it is quantised: the input's normalisation, residual streams, concatenations."""

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.quantization.program import Layer, Program, Step

# A zero point this near to a whole pixel value is one: means are kept in float32.
_WHOLE = 1e-3


def fold_input(
    program: Program, gain: Float[Tensor, " channels"], offset: Float[Tensor, " channels"]
) -> None:
    """Let a program read pixels 0 to 255, by taking `gain x + offset` of x in [0, 1] into grid or first layer.

    With one gain and a whole zero point `z = -255 offset / gain` the input is exact: `gain/255 (pixel - z)`.
    Else the first layer takes it: weights times the gain of their input channel, and the rest in its bias. The
    border is then padded with one pixel value for all channels, the mean of their zero points. Where no layer reads
    the input alone, a 1x1 layer a channel is put in front.
    """
    entry = program.steps[0]
    zeros = -255 * offset / gain
    same = bool(((gain - gain[0]).abs() < 1e-6 * gain[0].abs()).all())
    zero = min(max(round(float(zeros.mean())), 0), 255)
    if same and float(gain[0]) > 0 and bool(((zeros - zero).abs() < _WHOLE).all()):
        program.steps[0] = Step(**{**entry.__dict__, "scale": float(gain[0]) / 255, "zero": zero})
        return
    program.steps[0] = Step(**{**entry.__dict__, "scale": 1 / 255, "zero": zero})
    rest = offset + gain * zero / 255
    readers = program.consumers("input")
    flat = None
    if len(readers) == 1 and readers[0].op == "flatten":
        flat, readers = readers[0], program.consumers(readers[0].name)
    if len(readers) == 1 and readers[0].op in ("conv", "linear"):
        _into(program.layers[readers[0].name], readers[0], gain, rest)
        padded = readers[0].op == "conv" and any(readers[0].padding)
        if padded and bool((rest.abs() > 1e-6).any()):
            program.notes.append(
                f"the mean of the input is no single pixel value: the border of {readers[0].name!r} is padded with "
                f"pixel value {zero}, off by {float((zeros - zero).abs().max()):.1f} at most"
            )
        return
    channels = len(gain)
    program.layers["input.normalise"] = Layer(gain.float().reshape(-1, 1, 1, 1), rest.float())
    step = Step("input.normalise", "conv", ("input",), entry.shape, groups=channels)
    for reader in [flat] if flat is not None else readers:
        at = next(i for i, other in enumerate(program.steps) if other.name == reader.name)
        changed = tuple(step.name if name == "input" else name for name in reader.inputs)
        program.steps[at] = Step(**{**reader.__dict__, "inputs": changed})
    program.steps.insert(1, step)


def _into(layer: Layer, step: Step, gain: Tensor, rest: Tensor) -> None:
    weight = layer.weight.detach().double()
    gain, rest = gain.to(weight.device), rest.to(weight.device)
    if weight.ndim == 4:
        inner = weight.shape[1]
        # Input channels of each output channel: those of its group.
        group = torch.arange(weight.shape[0]) // (weight.shape[0] // step.groups)
        index = (group[:, None] * inner + torch.arange(inner)[None]).to(weight.device)
        factor, shift = gain[index][:, :, None, None], rest[index][:, :, None, None]
        added = (weight * shift).flatten(1).sum(1)
    else:
        per = weight.shape[1] // len(gain)
        factor, shift = gain.repeat_interleave(per)[None], rest.repeat_interleave(per)[None]
        added = (weight * shift).sum(1)
    bias = added if layer.bias is None else layer.bias.detach().double() + added
    layer.weight = torch.nn.Parameter((weight * factor).float())
    layer.bias = torch.nn.Parameter(bias.float())


def widen_residuals(program: Program) -> None:
    """For a residual stream of more bits: everybody who reads a sum but does not add reads it through 8 bits."""
    for step in [s for s in program.steps if s.op == "add"]:
        readers = [r for r in program.consumers(step.name) if r.op != "add"]
        if not readers:
            continue
        narrow = Step(f"{step.name}.narrow", "requant", (step.name,), step.shape)
        first = True
        for reader in readers:
            if first:
                program.insert_before(reader.name, step.name, narrow)
                first = False
            else:
                changed = tuple(narrow.name if name == step.name else name for name in reader.inputs)
                program.substitute(reader.name, inputs=changed)


def join_concats(program: Program) -> dict[str, str]:
    """Give concatenated branches one grid.

    A branch that a layer, a sum or a concatenation makes for this concatenation alone is rounded straight to its
    grid; any other is rescaled first.

    **Returns:** for each tied step the step whose grid it takes.
    """
    tied: dict[str, str] = {}
    for step in [s for s in program.steps if s.op == "concat"]:
        for i, name in enumerate(step.inputs):
            branch = program[name]
            alone = len(program.consumers(name)) == 1 and step.inputs.count(name) == 1
            if alone and branch.op in ("conv", "add", "concat"):
                tied[name] = step.name
            else:
                rescale = Step(f"{step.name}.branch{i}", "requant", (name,), branch.shape)
                at = next(k for k, other in enumerate(program.steps) if other.name == step.name)
                inputs = list(program.steps[at].inputs)
                inputs[i] = rescale.name
                program.substitute(step.name, inputs=tuple(inputs))
                program.steps.insert(at, rescale)
                tied[rescale.name] = step.name
    return tied
