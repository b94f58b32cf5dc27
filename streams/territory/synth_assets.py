"""The streets of the fictional city and what stands along them, in metres from its centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import shapely
from shapely.geometry.base import BaseGeometry

from processors.territory import ASSET_SCHEMA

Floats = npt.NDArray[np.float64]

LAMPS: Final = 30_000
#: Kind, domain, how many, seconds between reports, pull towards the centre (0 evenly spread).
_OTHERS: Final = (
    ("bin", "sensor", 1_800, 600.0, 0.6),
    ("drop_off", "sensor", 150, 900.0, 0.5),
    ("weather", "sensor", 12, 600.0, 0.6),
    ("air", "sensor", 20, 600.0, 0.7),
    ("noise", "sensor", 25, 300.0, 0.8),
    ("footfall", "sensor", 30, 900.0, 2.5),
)
#: Turn in degrees and length in metres of the roads from the centre; some reach beyond the city's limit.
_RADIALS: Final = (
    (80, 5200), (35, 4700), (-8, 3800), (-48, 3400), (-95, 2600), (-140, 3500), (178, 4900), (128, 4100),
)  # fmt: skip
#: Lamps the streets would hold, as a multiple of those wanted: the rest of the lanes stays dark, as lanes do.
_ROOM: Final = 1.07
#: One cabinet feeds three circuits of about 30 lamps: what a 63 A supply carries along a few streets.
_LAMPS_PER_CIRCUIT: Final = 30
_CIRCUITS_PER_CABINET: Final = 3

_WAYS: Final = ("Rue", "Rue", "Rue", "Rue", "Impasse", "Allée", "Place", "Chemin")
_OF: Final = (
    "des Goélands", "du Cabestan", "des Tamaris", "de la Dunette", "des Cordiers", "du Mistral", "de l'Ancre",
    "des Salicornes", "du Levant", "des Pêcheurs", "de la Vigie", "des Mimosas", "du Sextant",
    "des Arbousiers", "de la Boussole", "des Oyats", "du Gabier", "des Lauriers", "de la Misaine",
    "des Cigales", "du Fanal", "des Amandiers", "de la Passerelle", "des Aigrettes", "du Vieux Lavoir",
    "des Micocouliers", "de la Fontaine", "des Calfats", "du Petit Bois", "des Genêts", "de la Source",
    "des Vignes",
)  # fmt: skip
_QUALITY: Final = ("", " Basse", " Haute", " Neuve", " Vieille", " Nord", " Sud")
_AVENUES: Final = (
    "Boulevard du Port", "Avenue de la Gare", "Boulevard de la Mer", "Avenue des Salines", "Avenue du Phare",
    "Boulevard Circulaire", "Route de la Garrigue", "Avenue des Étangs", "Avenue de l'Observatoire",
    "Boulevard des Hauts",
)  # fmt: skip


@dataclass(frozen=True)
class Streets:
    """Street lines in metres, their names, the index of their sub-district (-1 for avenues), whether avenues."""

    lines: npt.NDArray[Any]
    names: tuple[str, ...]
    cell: npt.NDArray[np.int64]
    avenue: npt.NDArray[np.bool_]


def _avenues() -> list[BaseGeometry]:
    """Eight roads from the centre outwards, some beyond the city's limit, and two rings."""
    lines: list[BaseGeometry] = []
    for number, (turn, length) in enumerate(_RADIALS):
        along = np.linspace(180, length, 60)
        angle = np.deg2rad(turn) + 0.16 * np.sin(along / 900 + number)
        lines.append(shapely.LineString(np.column_stack((along * np.cos(angle), along * np.sin(angle)))))
    angle = np.linspace(0, 2 * np.pi, 121)
    for radius in (1150, 2450):
        r = radius + 110 * np.sin(3 * angle + radius)
        lines.append(shapely.LineString(np.column_stack((r * np.cos(angle), r * np.sin(angle)))))
    return lines


def _grid(cell: BaseGeometry, generator: np.random.Generator) -> list[BaseGeometry]:
    """The streets of one sub-district: two bundles of nearly parallel lanes, denser near the centre of the city."""
    middle = shapely.get_coordinates(shapely.centroid(cell))[0]
    density = min(1.0, float(np.hypot(*middle)) / 3600)
    turn = generator.uniform(0, np.pi / 2)
    reach = 1.1 * float(np.hypot(*(np.array(cell.bounds[2:]) - np.array(cell.bounds[:2])))) / 2
    lines = []
    for bundle, spacing in enumerate((62 + 45 * density, 125 + 110 * density)):
        direction = turn + bundle * np.pi / 2
        unit = np.array((np.cos(direction), np.sin(direction)))
        normal = np.array((-unit[1], unit[0]))
        offsets = np.arange(-reach, reach, spacing)
        offsets = offsets + generator.uniform(-0.16, 0.16, len(offsets)) * spacing
        along = np.linspace(-reach, reach, 40)
        phase = generator.uniform(0, 2 * np.pi)
        for offset in offsets.tolist():
            sway = offset + 14 * np.sin(along / 170 + phase)
            lines.append(shapely.LineString(middle + along[:, None] * unit + sway[:, None] * normal))
    inside = shapely.intersection(np.array(lines), cell.buffer(-9))
    return [part for part in shapely.get_parts(inside) if part.length > 55]


def streets(cells: Sequence[BaseGeometry], generator: np.random.Generator) -> Streets:
    """Avenues first, then the lanes of each sub-district, each with a name of its own."""
    avenues = _avenues()
    lanes: list[BaseGeometry] = []
    cell_of: list[int] = []
    roads = shapely.union_all(avenues).buffer(26)
    for number, cell in enumerate(cells):
        kept = [line for line in shapely.difference(np.array(_grid(cell, generator)), roads) if line.length > 55]
        parts = [part for part in shapely.get_parts(np.array(kept)) if part.length > 40]
        lanes += parts
        cell_of += [number] * len(parts)
    every = [f"{way} {of}{more}" for more in _QUALITY for of in _OF for way in dict.fromkeys(_WAYS)]
    names = [every[i % len(every)] for i in generator.permutation(max(len(every), len(lanes)))[: len(lanes)]]
    return Streets(
        lines=np.array([*avenues, *lanes], dtype=object),
        names=(*_AVENUES, *names),
        cell=np.array([-1] * len(avenues) + cell_of),
        avenue=np.arange(len(avenues) + len(lanes)) < len(avenues),
    )


def _beside(line: shapely.LineString, spacing: float, start: float, aside: float, both: bool) -> Floats:
    """Points every `spacing` metres along a line, `aside` metres off it, on alternating sides when `both`."""
    at: Floats = np.arange(start, line.length, spacing, dtype=np.float64)
    here = shapely.get_coordinates(shapely.line_interpolate_point(line, at))
    ahead = shapely.get_coordinates(shapely.line_interpolate_point(line, np.minimum(at + 1, line.length)))
    behind = shapely.get_coordinates(shapely.line_interpolate_point(line, np.maximum(at - 1, 0)))
    along = ahead - behind
    normal = np.column_stack((-along[:, 1], along[:, 0])) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    side = np.where(np.arange(len(at)) % 2, 1.0, -1.0) if both else np.ones(len(at))
    return np.asarray(here + normal * (side * aside)[:, None], dtype=np.float64)


def _frame(kind: str, domain: str, interval_s: float, names: Sequence[str], xy: Floats, **extra: Any) -> pl.DataFrame:
    """Rows of ASSET_SCHEMA with metres in the place of degrees."""
    width = 5 if len(xy) >= 10_000 else 4
    prefix = kind.replace("_", "-")
    columns: dict[str, Any] = {
        "asset_id": [f"{prefix}-{i:0{width}d}" for i in range(1, len(xy) + 1)],
        "domain": [domain] * len(xy),
        "kind": [kind] * len(xy),
        "name": list(names),
        "longitude": xy[:, 0],
        "latitude": xy[:, 1],
        "report_interval_s": [interval_s] * len(xy),
        **extra,
    }
    none = [None] * len(xy)
    return pl.DataFrame({name: columns.get(name, none) for name in ASSET_SCHEMA}, schema=ASSET_SCHEMA)


def _lamps(net: Streets, generator: np.random.Generator) -> tuple[pl.DataFrame, Floats, npt.NDArray[np.int64]]:
    """The lamps, their positions, and the street of each. Whole lanes stay dark until the number is right."""
    rows: list[Floats] = []
    spacing = float(shapely.length(net.lines) @ np.where(net.avenue, 1.25, 1.0)) / (_ROOM * LAMPS)
    for line, avenue in zip(net.lines, net.avenue, strict=True):
        start = float(generator.uniform(4, 20))
        rows.append(_beside(line, spacing * (0.8 if avenue else 1.0), start, 7.0 if avenue else 3.5, bool(avenue)))
    counts = np.array([len(r) for r in rows])
    if counts.sum() < LAMPS:
        raise ValueError(f"the streets of this seed hold {counts.sum()} lamps, {LAMPS} are wanted: use another seed")
    dark = np.zeros(len(rows), dtype=bool)
    excess = int(counts.sum()) - LAMPS
    for i in generator.permutation(len(rows)).tolist():
        if not net.avenue[i] and counts[i] <= excess:
            dark[i] = True
            excess -= int(counts[i])
    lit = np.flatnonzero(~dark)
    if excess:
        longest = int(lit[np.argmax(counts[lit])])
        rows[longest] = rows[longest][: counts[longest] - excess]
    street = np.concatenate([np.full(len(rows[i]), i, dtype=np.int64) for i in lit.tolist()])
    xy = np.concatenate([rows[i] for i in lit.tolist()])
    order = np.arange(len(xy))
    circuit = order // _LAMPS_PER_CIRCUIT
    cabinet = circuit // _CIRCUITS_PER_CABINET + 1
    place = order - np.maximum.accumulate(np.where(np.diff(street, prepend=-1) != 0, order, 0)) + 1
    frame = _frame(
        "lamp",
        "lighting",
        900.0,
        [f"{net.names[s]} {p}" for s, p in zip(street.tolist(), place.tolist(), strict=True)],
        xy,
        circuit_id=[
            f"cab-{c:04d}-{i % _CIRCUITS_PER_CABINET + 1}"
            for c, i in zip(cabinet.tolist(), circuit.tolist(), strict=True)
        ],
        cabinet_id=[f"cab-{c:04d}" for c in cabinet.tolist()],
    )
    return frame, xy, street


def _spread(xy: Floats, count: int, pull: float, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of `count` of the points, drawn more often near the centre as `pull` grows, none close to another."""
    weight = np.exp(-pull * np.hypot(xy[:, 0], xy[:, 1]) / 1500)
    if count > 500:
        return generator.choice(len(xy), count, replace=False, p=weight / weight.sum())
    pool = generator.choice(len(xy), min(len(xy), 40 * count), replace=False, p=weight / weight.sum())
    far = np.full(len(pool), np.inf)
    chosen = [0]
    scale = np.sqrt(weight[pool])  # distances count for more where the density is meant to be higher
    for _ in range(count - 1):
        last = xy[pool[chosen[-1]]]
        far = np.minimum(far, np.hypot(*(xy[pool] - last).T))
        chosen.append(int(np.argmax(far * scale)))
    return np.asarray(pool[np.array(chosen)], dtype=np.int64)


def _roadway(net: Streets, generator: np.random.Generator) -> list[pl.DataFrame]:
    """220 counting stations and 40 pavement sensors, mostly on avenues, with flows that thin out from the centre."""
    spots = [(_beside(line, 61.0, 30.0, 2.0, False), i) for i, line in enumerate(net.lines[net.avenue])]
    xy = np.concatenate([points for points, _ in spots])
    street = np.concatenate([np.full(len(points), i) for points, i in spots])
    inner = np.flatnonzero(np.hypot(*xy.T) < 3700)
    picked = inner[_spread(xy[inner], 170, 0.3, generator)]
    lanes = np.flatnonzero(~net.avenue)[generator.permutation(int((~net.avenue).sum()))[:50]]
    quiet = shapely.get_coordinates(shapely.line_interpolate_point(net.lines[lanes], 0.5, normalized=True))
    where = np.concatenate((xy[picked], quiet))
    names = [net.names[i] for i in (*street[picked].tolist(), *lanes.tolist())]
    busy = np.where(np.arange(len(where)) < 170, 14_000.0, 1_600.0) * np.exp(-np.hypot(*where.T) / 6000)
    daily = (busy * generator.lognormal(0.0, 0.38, len(where))).round(0)
    # A peak hour carries 7 to 11 % of a day's vehicles on urban roads.
    morning = (daily * generator.uniform(0.07, 0.10, len(where))).round(0)
    evening = (daily * generator.uniform(0.075, 0.11, len(where))).round(0)
    traffic = _frame(
        "traffic",
        "roadway",
        360.0,
        names,
        where,
        daily_flow=daily,
        morning_peak_flow=morning,
        evening_peak_flow=evening,
    )
    surface = inner[_spread(xy[inner], 40, 0.0, generator)]
    pavement = _frame("pavement", "roadway", 3600.0, [net.names[i] for i in street[surface].tolist()], xy[surface])
    return [traffic, pavement]


def assets(cells: Sequence[BaseGeometry], generator: np.random.Generator) -> pl.DataFrame:
    """The registry, in ASSET_SCHEMA but with metres east and north of the centre in the place of degrees."""
    net = streets(cells, generator)
    lamps, xy, street = _lamps(net, generator)
    frames = [lamps]
    for kind, domain, count, interval_s, pull in _OTHERS:
        at = _spread(xy, count, pull, generator)
        extra: dict[str, Any] = {}
        if kind in ("bin", "drop_off"):
            depths = (900.0, 1100.0, 1300.0) if kind == "bin" else (1600.0, 2100.0, 2600.0)
            extra["depth_mm"] = generator.choice(np.array(depths), count)
        aside = generator.uniform(-2.5, 2.5, (count, 2))
        names = [net.names[s] for s in street[at].tolist()]
        frames.append(_frame(kind, domain, interval_s, names, xy[at] + aside, **extra))
    return pl.concat(frames + _roadway(net, generator))
