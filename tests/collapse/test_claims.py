"""The predicates of the decay claims, on rows where the answer is known."""

import pytest

from jostle.collapse.claims import CLAIMS

ROWS = {claim.id: claim for claim in CLAIMS}


def metrics(last_x2: tuple[float, ...], last_x0: tuple[float, ...], features_x2: float = -0.08) -> dict:
    seeds = range(len(last_x2))

    def rows(shifts) -> list[dict[str, float]]:
        return [{"nc1_trace": 0.8 + shifts[i], "nc1": 0.8 + shifts[i]} for i in seeds]

    found = {
        "baseline": rows([0.0] * len(seeds)),
        "last x2": rows(last_x2),
        "last x0": rows(last_x0),
        "features x2": rows([features_x2] * len(seeds)),
        "features x0": rows([0.06] * len(seeds)),
    }
    return {"decay": {"mse": found}}


@pytest.mark.parametrize(
    ("m", "wanted"),
    [
        # Every seed by a factor of 6.
        (metrics((-0.01, -0.01), (0.01, 0.01)), (True, True, True)),
        # One seed is off, the average is not: 0.07 against 0.0125.
        (metrics((-0.03, 0.0), (0.0, 0.02)), (True, True, False)),
        # The last layer has a third of the features' effect.
        (metrics((-0.02, -0.02), (0.03, 0.03)), (True, False, False)),
        # The last layer has more.
        (metrics((-0.09, -0.09), (0.09, 0.09)), (False, False, False)),
        # Doubled decay collapses less: the order is wrong, whatever the size.
        (metrics((-0.001,), (0.001,), features_x2=0.08), (False, False, True)),
    ],
)
def test_what_holds_and_what_does_not(m: dict, wanted: tuple[bool, bool, bool]) -> None:
    assert tuple(ROWS[name].holds(m) for name in ("COL-C6", "COL-C6c", "COL-C6d")) == wanted
    assert ROWS["COL-C6b"].holds(m) == wanted[0]


def test_the_ratio_is_told_with_its_parts() -> None:
    told = ROWS["COL-C6c"].measured(metrics((-0.03, 0.0), (0.0, 0.022)))
    assert told == "ratio 5.4: features 0.07 (0.07 to 0.07), last 0.013 (0.011 to 0.015), 2 seeds"


def test_effects_of_either_sign_do_not_cancel() -> None:
    m = metrics((-0.03, 0.0), (0.0, -0.03))
    assert not ROWS["COL-C6"].holds(metrics((-0.09, 0.0), (0.0, -0.09)))
    assert ROWS["COL-C6c"].measured(m).startswith("ratio 4.7: ")
    assert not ROWS["COL-C6c"].holds(metrics((-0.04, 0.0), (0.0, -0.04)))
