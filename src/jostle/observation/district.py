"""CityLearn's building data: what the 2022 challenge measured, read from the package that ships it."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jostle.core.errors import JostleError, require
from jostle.files import whole, write_json
from jostle.zoo.fetch import citylearn_2022

Series = NDArray[np.float64]

_WEATHER = ("dry_bulb_temperature", "relative_humidity", "diffuse_irradiance", "direct_irradiance")
_AHEAD = ("", "_6h", "_12h", "_24h")
FEATURES = (
    "month_cos", "month_sin", "day_type_cos", "day_type_sin", "hour_cos", "hour_sin",
    *(name + ahead for name in _WEATHER for ahead in _AHEAD),
    "carbon_intensity", "load", "solar_generation", "soc", "net_consumption",
    *("price" + ahead for ahead in _AHEAD),
)  # fmt: skip
"""The 31 numbers of an observation, in order."""

CALENDAR = tuple(range(6))
"""The features that no attacker can move unseen: everybody knows the date."""


@dataclass(frozen=True, eq=False)
class District:
    """A building's measured year, hour by hour.

    **Arguments:** `name`. `load`: consumption that can't be shifted, kWh. `solar`: generation of the panels,
    kWh. `price`: now and forecast for 6, 12 and 24 h, currency a kWh, `(hours, 4)`. `carbon`: kg CO2 a kWh.
    `weather`: temperature, humidity, diffuse and direct irradiance, each now and forecast, `(hours, 16)`.
    `calendar`: month 1 to 12, day type 1 to 7, hour 1 to 24, `(hours, 3)`. `capacity`: of the battery, kWh.
    `power`: its nominal power, kW. `loss`: its capacity loss. `efficiency`: nominal, round trip. `limits`: least
    and largest value of each feature, `(2, 31)`, by which observations are scaled to [0, 1]; by default those
    of these hours.
    """

    name: str
    load: Series
    solar: Series
    price: Series
    carbon: Series
    weather: Series
    calendar: Series
    capacity: float = 6.4
    power: float = 5.0
    loss: float = 1e-5
    efficiency: float = 0.9
    limits: Series | None = None

    def __post_init__(self) -> None:
        if self.limits is None:
            object.__setattr__(self, "limits", _limits(self))

    @property
    def hours(self) -> int:
        """Hours of data; one more than there are decisions."""
        return len(self.load)

    @property
    def base(self) -> Series:
        """Net consumption without a battery, but with the panels, kWh."""
        return self.load - self.solar

    def window(self, first: int, hours: int) -> "District":
        """A part of the year.

        **Arguments:** `first`: its first hour. `hours`: at least 2.
        """
        require(
            first >= 0 and hours >= 2 and first + hours <= self.hours,
            f"the window must hold at least 2 of the {self.hours} hours, but {first} and {hours} came",
        )
        cut = slice(first, first + hours)
        parts = {
            n: getattr(self, n)[cut] for n in ("load", "solar", "price", "carbon", "weather", "calendar")
        }
        rest = {n: getattr(self, n) for n in ("name", "capacity", "power", "loss", "efficiency", "limits")}
        return District(**parts, **rest)


def _limits(d: District) -> Series:
    """The estimate of CityLearn: extremes of the data; of net consumption with the battery at full power."""
    cycles = []
    for period in (12, 7, 24):
        turn = 2 * np.pi * np.arange(1, period + 1) / period
        cycles += [(np.cos(turn).min(), np.cos(turn).max()), (np.sin(turn).min(), np.sin(turn).max())]
    net = (min(float((d.base - d.power).min()), 0.0), float((d.base + d.power).max()))

    def span(series: Series) -> tuple[float, float]:
        return float(series.min()), float(series.max())

    rows = [*cycles, *map(span, d.weather.T), span(d.carbon), span(d.load), span(d.solar), (0.0, 1.0), net]
    return np.array([*rows, *map(span, d.price.T)]).T


def load_district(building: str = "Building_6", folder: Path | None = None) -> District:
    """Read a building's year and its battery.

    **Arguments:** `building`: a name of the schema, such as `Building_6` to `Building_10`. `folder`: one with
    CityLearn's `schema.json`; by default the 2022 phase-2 data.
    **Raises:** `JostleError` if a file is missing or broken, or the building unknown.
    """
    home = citylearn_2022() if folder is None else Path(folder)
    schema = _schema(home)
    buildings = schema["buildings"]
    require(building in buildings, f"building must be one of {', '.join(buildings)}, but {building!r} came")
    record = buildings[building]
    house = _table(home / record["energy_simulation"], 12)
    weather = _table(home / record["weather"], 16)
    battery, panel = record["electrical_storage"]["attributes"], record["pv"]["attributes"]
    order = [column for i in range(4) for column in (i, 4 + 3 * i, 5 + 3 * i, 6 + 3 * i)]
    return District(
        name=building,
        load=house[:, 7],
        solar=house[:, 11] * float(panel["nominal_power"]) / 1000.0,
        price=_table(home / record["pricing"], 4),
        carbon=_table(home / record["carbon_intensity"], 1)[:, 0],
        weather=weather[:, order],
        calendar=house[:, [0, 2, 1]],
        capacity=float(battery["capacity"]),
        power=float(battery["nominal_power"]),
        loss=float(battery["capacity_loss_coefficient"]),
        efficiency=float(battery["efficiency"]),
    )


def _schema(home: Path) -> dict[str, Any]:
    try:
        return json.loads((home / "schema.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JostleError(f"could not read {home / 'schema.json'}: {error}") from error


def _table(path: Path, columns: int) -> Series:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.reader(handle))[1:]
        table = np.array([[float(v) if v else np.nan for v in row[:columns]] for row in rows])
    except (OSError, ValueError) as error:
        raise JostleError(f"could not read {path}: {error}") from error
    require(
        table.ndim == 2 and table.shape[1] == columns,
        f"{path} must have {columns} columns, but an array of shape {table.shape} was read",
    )
    # Single precision, as CityLearn keeps them.
    return table.astype(np.float32).astype(np.float64)


_HOUSE = [
    "month", "hour", "day_type", "daylight_savings_status", "indoor_dry_bulb_temperature",
    "average_unmet_cooling_setpoint_difference", "indoor_relative_humidity", "non_shiftable_load",
    "dhw_demand", "cooling_demand", "heating_demand", "solar_generation",
]  # fmt: skip
_SKY = (
    "outdoor_dry_bulb_temperature",
    "outdoor_relative_humidity",
    "diffuse_solar_irradiance",
    "direct_solar_irradiance",
)
_TITLES = {
    "energy_simulation": _HOUSE,
    "weather": [*_SKY, *(f"{name}_predicted_{i}" for name in _SKY for i in (1, 2, 3))],
    "pricing": ["electricity_pricing", *(f"electricity_pricing_predicted_{i}" for i in (1, 2, 3))],
    "carbon_intensity": ["carbon_intensity"],
}


def modern_schema(target: Path, folder: Path | None = None) -> Path:
    """Write the data so that CityLearn 3 reads them: its columns and forecasts have other names.

    **Arguments:** `target`: a folder, made if need be. `folder`: as for `load_district`.
    **Returns:** the path of `schema.json`, to hand to `CityLearnEnv`.
    """
    home = citylearn_2022() if folder is None else Path(folder)
    schema = _schema(home)
    for record in schema["buildings"].values():
        for kind, titles in _TITLES.items():
            source, sink = home / record[kind], Path(target) / record[kind]
            if sink.exists():
                continue
            with whole(sink) as draft, source.open(encoding="utf-8") as lines:
                next(lines)
                with draft.open("w", encoding="utf-8") as out:
                    out.write(",".join(titles) + "\n")
                    shutil.copyfileobj(lines, out)
    text = json.dumps(schema)
    for hours, number in (("6h", "1"), ("12h", "2"), ("24h", "3")):
        text = text.replace(f"_predicted_{hours}", f"_predicted_{number}")
    write_json(Path(target) / "schema.json", json.loads(text))
    return Path(target) / "schema.json"
