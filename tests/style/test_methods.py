"""Methods by name, and AdvStyle with one thing changed at a time."""

import pytest

from jostle import JostleError
from jostle.style import METHODS, AdvStyle
from jostle.style.insertion import KINDS
from jostle.style.methods import ablations


def test_every_method_makes_its_layer():
    for method in METHODS.values():
        if method.kind in KINDS:
            KINDS[method.kind](4, **method.settings)
    assert AdvStyle(4, **METHODS["advstyle-lambda0"].settings).lam == 0


def test_one_thing_is_changed_at_a_time():
    found = ablations(("places", "lam", "start", "ascent", "recipe", "branch"), ("a", "b", "c"))
    assert list(found) == [
        "advstyle", "only a", "only b", "only c", "without c", "advstyle-lambda0", "advstyle-lambda1",
        "constant-start", "half-normal-start", "inner-ascent", "adversarial-only", "direction", "intensity", "per-sample",
    ]  # fmt: skip
    assert found["only b"].at == ("b",) and found["without c"].at == ("a", "b")
    assert found["inner-ascent"].protocol == {"ascent": "inner"}
    with pytest.raises(JostleError, match="what must name"):
        ablations((), ("a",))
