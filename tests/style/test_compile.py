"""torch.compile: no part of the graph while training, nothing at all in evaluation; and a light import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jostle

# In a process of its own: the shape checks of the tests are no code that a compiler should see.
COMPILED = """
import torch
from torch import nn
from jostle.style import AdvStyle, DSU, EFDMix, MixStyle, insert

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))

x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
for kind in ("advstyle", "dsu", "mixstyle", "efdmix"):
    rows = []
    for compiled in (False, True):
        model = net()
        insert(model, ["0", "1"], kind, example=x, generator=torch.Generator().manual_seed(2))
        call = torch.compile(model, backend="eager") if compiled else model
        seen = []
        for _ in range(12):
            model.zero_grad()
            out = call(x)
            out.square().sum().backward()
            seen += [out.detach(), model[0].weight.grad.clone()]
        rows.append(seen)
        model.eval()
        rest = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        seen.append(rest(x).detach())
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True)), kind
    assert len({float(row.sum()) for row in rows[1][0:-1:2]}) > 3, "the branch or the noise froze"

torch._dynamo.reset()
model = net()
insert(model, ["0"], "advstyle", example=x)
try:
    torch.compile(model, backend="eager", fullgraph=True)(x)
except torch._dynamo.exc.Unsupported:
    print("one graph is refused")
"""


def alone(code):
    env = {**os.environ, "PYTHONPATH": str(Path(jostle.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:jostle", "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.study
def test_a_compiled_network_gives_the_numbers_of_the_plain_one():
    done = alone(COMPILED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "one graph is refused"


@pytest.mark.study
def test_the_import_does_not_load_the_compiler():
    done = alone("import sys, jostle.style; print('torch._dynamo' in sys.modules, 'sklearn' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr[-2000:]
