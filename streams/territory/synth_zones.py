"""The ground plan of the fictional city, in metres from its centre: zones of four layers that share their edges.

Sub-districts are Voronoi cells whose edges are bent; each edge is bent once, so neighbours meet exactly. Districts
and collection sectors are unions of sub-districts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

Floats = npt.NDArray[np.float64]

#: Code and name of the districts, from the harbour outwards.
QUARTIERS: Final = (
    ("VP", "Vieux-Port"),
    ("CE", "Centre"),
    ("PH", "Le Phare"),
    ("SA", "Les Salines"),
    ("GA", "Gare"),
    ("HV", "Hauts de Vigie"),
    ("ET", "Les Étangs"),
    ("GR", "La Garrigue"),
)
#: Middles of the districts, metres east and north of the centre.
_MIDDLES: Final = (
    (0, -1900), (150, 150), (2500, -1700), (-2500, -1500), (-1500, 800), (200, 2400), (2300, 700), (-2600, 2200),
)  # fmt: skip
_PLACES: Final = (
    "Capitainerie", "Les Voiliers", "Quai Neuf", "La Criée", "Halles", "Beffroi", "Les Tanneurs", "Préfecture",
    "Sémaphore", "La Jetée", "Les Dunes", "Belle Rive", "Marais Salant", "Les Flamants", "La Saunerie", "Pont Levant",
    "Les Ateliers", "Rotonde", "Faubourg", "Les Entrepôts", "Belvédère", "Les Moulins", "Pierre Plantée", "Mas Rouge",
    "Roselière", "Les Hérons", "La Digue", "Grand Pré", "Les Cistes", "Chêne Vert", "Combe Claire", "Les Capitelles",
)  # fmt: skip
_SECTORS: Final = ("Port", "Est", "Nord-Est", "Nord-Ouest", "Ouest")
_CELLS: Final = len(_PLACES)
#: Middles (east, north), half axes and turn in degrees of the priority districts; the last is the third, redrawn.
_QPV: Final = (
    ("QP999001", "Les Flamants", -2300, -1750, 420, 260, 20),
    ("QP999002", "Rotonde", -1250, 1150, 330, 300, 0),
    ("QP999003", "Les Hérons", 2250, 950, 450, 300, -35),
    ("QP999004", "Belvédère", 450, 2350, 380, 240, 60),
    ("QP999005", "Combe Claire", -2450, 2450, 350, 260, 10),
    ("QP999006", "La Jetée", 2600, -1350, 300, 220, 45),
    ("QN99903M", "Les Hérons - Grand Pré", 2420, 740, 560, 330, -20),
)
_OLD, _NEW = date(2015, 1, 1), date(2024, 1, 1)


@dataclass(frozen=True)
class Plot:
    """A zone in metres."""

    layer: str
    code: str
    name: str
    geometry: BaseGeometry
    valid_from: date | None = None
    valid_to: date | None = None


def outline() -> BaseGeometry:
    """The city's limit: bumpy towards the land, a bay and a cape towards the sea in the south."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    radius = 3900 + 330 * np.sin(3 * angle + 0.7) + 210 * np.sin(5 * angle + 2.1) + 90 * np.sin(11 * angle)
    land = shapely.Polygon(np.column_stack((radius * np.cos(angle), radius * np.sin(angle))))
    east = np.linspace(-6000, 6000, 121)
    coast = -3050 + 380 * np.cos(east / 1150 + 0.4) + 60 * np.sin(east / 210)
    sea = shapely.Polygon([(-6000, -9000), *zip(east.tolist(), coast.tolist(), strict=True), (6000, -9000)])
    return shapely.difference(land, sea)


def _bent(xy: Floats) -> Floats:
    """The same points, moved by up to some 100 m, smoothly, so that straight edges become lanes and brooks."""
    x, y = xy[:, 0], xy[:, 1]
    east = 55 * np.sin(y / 310 + 0.3) + 28 * np.sin(y / 121 + x / 560)
    north = 55 * np.sin(x / 290 + 1.9) + 28 * np.sin(x / 133 - y / 610)
    return np.column_stack((x + east, y + north)).round(1)


def _cells(generator: np.random.Generator) -> list[BaseGeometry]:
    """The sub-districts: Voronoi cells of evened-out points, larger towards the edge of the city."""
    limit = outline()
    west, south, east, north = limit.bounds
    points = np.empty((0, 2))
    while len(points) < _CELLS:
        drawn = generator.uniform((west, south), (east, north))
        near = 0.55 + 0.45 * float(np.hypot(*drawn)) / 3900  # cells of the centre are about half as wide
        apart = np.hypot(*(points - drawn).T).min(initial=np.inf)
        if apart > 900 * near and shapely.contains_xy(limit, *drawn):
            points = np.vstack((points, drawn))
    for _ in range(2):
        cells = shapely.intersection(shapely.get_parts(_voronoi(points, limit)), limit)
        middles = shapely.get_coordinates(shapely.centroid(cells))
        points = 0.5 * points[_nearest(middles, points)] + 0.5 * middles
    # Not clipped before the union: a clipped edge ends beside the limit, not on it, and would bound no cell.
    lines = shapely.line_merge(shapely.union_all([_voronoi(points, limit, only_edges=True), limit.boundary]))
    bent = shapely.transform(shapely.segmentize(lines, 60.0), _bent)
    inside = shapely.transform(shapely.segmentize(limit, 60.0), _bent).buffer(-20)
    cells = shapely.get_parts(shapely.polygonize(list(shapely.get_parts(bent))))
    kept = _merged([cell for cell in cells if inside.intersects(cell.representative_point())])
    order = np.lexsort(shapely.get_coordinates(shapely.centroid(np.array(kept))).round(0).T)
    return [shapely.normalize(kept[i]) for i in order]


def _merged(cells: list[BaseGeometry]) -> list[BaseGeometry]:
    """The cells with the smallest joined to their closest neighbours until there is a name for each."""
    while len(cells) > _CELLS:
        small = cells.pop(int(np.argmin([cell.area for cell in cells])))
        shared = [small.intersection(cell).length for cell in cells]
        closest = cells.pop(int(np.argmax(shared)))
        cells.append(shapely.coverage_union_all([small, closest]))
    return cells


def _voronoi(points: Floats, limit: BaseGeometry, only_edges: bool = False) -> BaseGeometry:
    return shapely.voronoi_polygons(shapely.MultiPoint(points), extend_to=limit.buffer(4000), only_edges=only_edges)


def _nearest(of: Floats, to: Floats) -> npt.NDArray[np.intp]:
    squares = ((of[:, None, :] - to[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(squares.argmin(axis=1), dtype=np.intp)


def _grouped(cells: Sequence[BaseGeometry], to: Sequence[tuple[float, float]]) -> npt.NDArray[np.intp]:
    """For each cell the nearest of the points. A cell cut off from the rest of its group goes to a neighbour's."""
    group = _nearest(shapely.get_coordinates(shapely.centroid(np.array(cells))), np.array(to, float))
    for index in range(len(to)):
        union = shapely.coverage_union_all([c for c, g in zip(cells, group, strict=True) if g == index])
        main = max(shapely.get_parts(union), key=lambda part: float(part.area), default=None)
        for i, cell in enumerate(cells):
            if group[i] == index and main is not None and not main.covers(cell.representative_point()):
                shared = [
                    0.0 if j == i or group[j] == index else cell.intersection(o).length for j, o in enumerate(cells)
                ]
                group[i] = group[int(np.argmax(shared))]
    return group


def _unions(cells: Sequence[BaseGeometry], group: npt.NDArray[Any], count: int) -> list[BaseGeometry]:
    return [shapely.coverage_union_all([c for c, g in zip(cells, group, strict=True) if g == i]) for i in range(count)]


def _qpv(city: BaseGeometry) -> list[Plot]:
    plots = []
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for number, (code, name, east, north, long, short, turn) in enumerate(_QPV):
        bump = 1 + 0.13 * np.sin(3 * angle + number) + 0.07 * np.sin(7 * angle + 2 * number)
        x, y, t = long * bump * np.cos(angle), short * bump * np.sin(angle), np.deg2rad(turn)
        ring = np.column_stack((east + x * np.cos(t) - y * np.sin(t), north + x * np.sin(t) + y * np.cos(t)))
        shape = shapely.intersection(shapely.Polygon(ring.round(1)), city)
        new = code.startswith("QN")
        replaced = code == "QP999003"
        plots.append(Plot("qpv", code, name, shape, _NEW if new else _OLD, _NEW if replaced else None))
    return plots


def plots(generator: np.random.Generator) -> list[Plot]:
    """Every zone of the city, layer by layer: quartier, sous_quartier, qpv, collection_sector."""
    cells = _cells(generator)
    group = _grouped(cells, _MIDDLES)
    districts = _unions(cells, group, len(QUARTIERS))
    out = [Plot("quartier", *names, shape) for names, shape in zip(QUARTIERS, districts, strict=True)]
    member = dict.fromkeys(range(len(QUARTIERS)), 0)
    places = iter(_PLACES)
    for index in range(len(QUARTIERS)):
        for cell, g in zip(cells, group, strict=True):
            if g == index:
                member[index] += 1
                out.append(Plot("sous_quartier", f"{QUARTIERS[index][0]}{member[index]}", next(places), cell))
    out += _qpv(shapely.coverage_union_all(cells))
    around = np.deg2rad(np.array([-90, -15, 50, 120, 195]))
    middles = [(2200 * float(np.cos(a)), 2200 * float(np.sin(a))) for a in around]
    sectors = _unions(cells, _grouped(cells, middles), len(_SECTORS))
    out += [
        Plot("collection_sector", f"C{i}", f"Collecte {name}", shape)
        for i, (name, shape) in enumerate(zip(_SECTORS, sectors, strict=True), 1)
    ]
    return out
