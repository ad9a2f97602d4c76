"""The algorithms by name."""

import dataclasses
from typing import Any, Literal, get_args

from jostle.core.errors import require
from jostle.federated.algorithm import Algorithm
from jostle.federated.averaging import FedAdam, FedAvg, FedCM, FedProx, FedSAM, MoFedSAM
from jostle.federated.control import FedGamma, Scaffold
from jostle.federated.fedspeed import FedADMM, FedDyn, FedSMOO, FedSpeed

Name = Literal[
    "fedavg",
    "fedprox",
    "fedsam",
    "scaffold",
    "feddyn",
    "fedspeed",
    "fedcm",
    "mofedsam",
    "fedgamma",
    "fedadam",
    "fedsmoo",
    "fedadmm",
]

FAMILY: dict[str, type[Algorithm]] = dict(
    zip(
        get_args(Name),
        (
            FedAvg,
            FedProx,
            FedSAM,
            Scaffold,
            FedDyn,
            FedSpeed,
            FedCM,
            MoFedSAM,
            FedGamma,
            FedAdam,
            FedSMOO,
            FedADMM,
        ),
        strict=True,
    )
)


def by_name(name: str, **settings: Any) -> Algorithm:
    """An algorithm by its name, with those of the settings that it has.

    **Arguments:** `name`: one of `fedavg`, `fedprox`, `fedsam`, `scaffold`, `feddyn`, `fedspeed`, `fedcm`,
    `mofedsam`, `fedgamma`, `fedadam`, `fedsmoo`, `fedadmm`. `settings`: such as `prox_mu` and `rho`.
    **Raises:** `JostleError` if there is no such algorithm, or none of them has a setting.

    >>> by_name("fedspeed", prox_mu=0.2, mix=0.3).pull
    0.2
    """
    require(name in FAMILY, f"algorithm must be one of {', '.join(FAMILY)}, but {name!r} came")
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in FAMILY.values()}
    for key in settings:
        require(any(key in names for names in fields.values()), f"no algorithm has a setting {key!r}")
    kind = FAMILY[name]
    fixed = {"alpha"} if kind in (FedDyn, FedADMM, FedSMOO) else set()
    return kind(**{key: value for key, value in settings.items() if key in fields[kind] - fixed})
