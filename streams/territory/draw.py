"""A map of a territory: its zones, its assets by kind, a scale. Needs matplotlib (`pip install 'vigie[draw]'`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import shapely
from shapely.geometry.base import BaseGeometry

from processors.territory import Territory
from streams.territory.remarks import TerritoryError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect

SUFFIXES: Final = (".png", ".svg")
_INK: Final = "#2b2d33"
_GROUND: Final = "#f4f2ee"
#: Soft fills for the zones of the first layer; neighbours rarely get the same.
_FILLS: Final = ("#dfe8ee", "#efe6d8", "#e3ecdd", "#eee0e2", "#e4e1ee", "#ece9d2", "#d9e9e6", "#eee4ea")
#: Outline colour, width and dash of the further layers.
_LINES: Final = (
    ("#8d9299", 0.5, "-"),
    ("#b3402e", 1.1, "-"),
    ("#2f6f4f", 1.0, (0, (5, 3))),
    ("#5b4a9c", 1.0, (0, (1, 2))),
)
#: Colour, size and drawing order of assets by kind: the many are small and below.
_DOTS: Final = {
    "lamp": ("#d9a521", 0.7, 3),
    "bin": ("#3d7d5c", 2.6, 4),
    "drop_off": ("#1d4d8f", 11.0, 6),
    "traffic": ("#c2452d", 9.0, 5),
    "pavement": ("#7a5c42", 10.0, 6),
    "weather": ("#2aa1c9", 26.0, 7),
    "air": ("#7c4fa3", 20.0, 7),
    "noise": ("#d0588f", 18.0, 7),
    "footfall": ("#20242b", 16.0, 7),
}
_OTHER_DOT: Final = ("#20242b", 8.0, 5)


def draw(territory: Territory, path: Path) -> None:
    """Draw the territory into a PNG or SVG file, by its suffix.

    Of zones with several vintages all are drawn, those with an end dotted. Raises TerritoryError when matplotlib is
    not installed or the suffix is another.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise TerritoryError([f"{path}: the name of a map ends in {' or '.join(SUFFIXES)}"])
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TerritoryError(["drawing needs matplotlib: pip install 'vigie[draw]'"]) from error

    west, south, east, north = _frame(territory)
    stretch = 1 / math.cos(math.radians((south + north) / 2))
    width = 11.0
    height = min(14.0, max(6.0, width * (north - south) * stretch / (east - west) * 0.80))
    with matplotlib.rc_context({"svg.hashsalt": "vigie", "font.family": "DejaVu Sans", "svg.fonttype": "path"}):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_facecolor(_GROUND)
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        axes.set_aspect(stretch)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#c9c6bf")
        handles = _zones(axes, territory) + _assets(axes, territory)
        _scale(axes)
        count = f"{len(territory.assets):,}".replace(",", "\u202f")
        axes.set_title(territory.name, loc="left", fontsize=17, fontweight="bold", color=_INK, pad=22)
        axes.text(
            0, 1.012, f"{len(territory.zones)} zones in {len(territory.layers)} layers, {count} assets, "
            f"version {territory.version}", transform=axes.transAxes, fontsize=9, color="#6b6e75", va="bottom",
        )  # fmt: skip
        legend = axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.75
        )
        for text in legend.get_texts():
            text.set_color(_INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.15, metadata=metadata)


def _frame(territory: Territory) -> tuple[float, float, float, float]:
    """The box around zones and assets with a little air; the whole area when there is neither."""
    boxes = [shapely.total_bounds(territory.geometries)] if len(territory.geometries) else []
    if len(territory.assets):
        xy = territory.assets.select("longitude", "latitude").to_numpy()
        boxes.append(np.concatenate((xy.min(axis=0), xy.max(axis=0))))
    if not boxes:
        return territory.area
    every = np.array(boxes)
    west, south = every[:, :2].min(axis=0).tolist()
    east, north = every[:, 2:].max(axis=0).tolist()
    air = 0.03 * max(east - west, north - south)
    return west - air, south - air, east + air, north + air


def _rings(shape: BaseGeometry) -> list[Any]:
    polygons = shapely.get_parts(shape)
    return [np.asarray(ring.coords) for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]


def _patch(shape: BaseGeometry, **style: Any) -> Any:
    """One patch for a polygon with its holes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    return PathPatch(Outline.make_compound_path(*(Outline(ring) for ring in _rings(shape))), **style)


def _zones(axes: Axes, territory: Territory) -> list[Any]:
    """Fill and name the zones of the first layer, outline those of the others. Returns legend handles."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for index, layer in enumerate(territory.layers):
        rows = territory.zones.with_row_index("at").filter(pl.col("layer") == layer)
        shapes = [territory.geometries[i] for i in rows["at"]]
        ended = rows["valid_to"].is_not_null().to_list()
        label = f"{layer.replace('_', ' ')} ({len(rows)})"
        if index == 0:
            for shape, fill in zip(shapes, _colours(shapes), strict=True):
                axes.add_patch(_patch(shape, facecolor=fill, edgecolor="#6b6e75", linewidth=1.3, zorder=1))
            _labels(axes, rows["name"].to_list(), shapes)
            handles.append(Patch(facecolor=_FILLS[0], edgecolor="#6b6e75", linewidth=1.3, label=label))
            continue
        colour, width, dash = _LINES[(index - 1) % len(_LINES)]
        for shape, over in zip(shapes, ended, strict=True):
            style: Any = (0, (1, 1.5)) if over else dash
            axes.add_patch(
                _patch(
                    shape, facecolor="none", edgecolor=colour, linewidth=width, linestyle=style, zorder=7 + index / 10
                )
            )
        handles.append(Line2D([], [], color=colour, linewidth=width + 0.4, linestyle=dash, label=label))  # type: ignore[arg-type]
    return handles


def _colours(shapes: Sequence[BaseGeometry]) -> list[str]:
    """A fill for each zone, the first that no earlier neighbour has."""
    chosen: list[int] = []
    for i, shape in enumerate(shapes):
        taken = {chosen[j] for j in range(i) if shapes[j].distance(shape) < 1e-6}
        free = [c for c in range(len(_FILLS)) if c not in taken]
        unused = [c for c in free if c not in chosen]
        chosen.append((unused or free or [i % len(_FILLS)])[0])
    return [_FILLS[c] for c in chosen]


def _labels(axes: Axes, names: Sequence[str], shapes: Sequence[BaseGeometry]) -> None:
    from matplotlib.patheffects import withStroke

    for name, shape in zip(names, shapes, strict=True):
        # The middle of the largest circle inside reads better than the centroid of a bent shape.
        middle = shapely.maximum_inscribed_circle(
            max(shapely.get_parts(shape), key=lambda part: float(part.area)), 1e-4
        )
        x, y = middle.coords[0]
        text = axes.text(
            x, y, name.replace(" - ", "\n").replace("-", "-\n", 1 if len(name) > 14 else 0), fontsize=9.5,
            fontweight="bold", color=_INK, ha="center", va="center", zorder=9, linespacing=1.05,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=3.2, foreground="white", alpha=0.85)])


def _assets(axes: Axes, territory: Territory) -> list[Any]:
    """A dot for each asset, a colour for each kind. Returns legend handles."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for kind, count in territory.assets.group_by("kind", maintain_order=True).len().iter_rows():
        rows = territory.assets.filter(pl.col("kind") == kind)
        colour, size, order = _DOTS.get(kind, _OTHER_DOT)
        axes.scatter(
            rows["longitude"].to_numpy(), rows["latitude"].to_numpy(), s=size, c=colour, zorder=order,
            linewidths=0.4 if size > 5 else 0, edgecolors="white", alpha=0.9 if size > 2 else 0.75,
            rasterized=count > 5_000,
        )  # fmt: skip
        number = f"{count:,}".replace(",", "\u202f")
        handles.append(
            Line2D(
                [], [], marker="o", linestyle="", color=colour, markeredgecolor="white", markeredgewidth=0.4,
                markersize=3 + min(size, 26) ** 0.5, label=f"{kind.replace('_', ' ')} ({number})",
            )
        )  # fmt: skip
    return handles


def _scale(axes: Axes) -> None:
    """A bar of a round length, about a fifth of the width, in the lower left corner."""
    from matplotlib.patheffects import withStroke

    west, east = axes.get_xlim()
    south, north = axes.get_ylim()
    metre = 1 / (111_195 * math.cos(math.radians((south + north) / 2)))
    wanted = 0.2 * (east - west) / metre
    base = 10 ** math.floor(math.log10(wanted))
    length = max(step * base for step in (1, 2, 5) if step * base <= wanted)
    x, y = west + 0.03 * (east - west), south + 0.03 * (north - south)
    halo: list[AbstractPathEffect] = [withStroke(linewidth=4, foreground="white")]
    axes.plot(
        [x, x + length * metre], [y, y], color=_INK, linewidth=2.2, solid_capstyle="butt", zorder=9, path_effects=halo
    )
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    text = axes.text(
        x + length * metre / 2,
        y + 0.008 * (north - south),
        label,
        fontsize=9,
        color=_INK,
        ha="center",
        va="bottom",
        zorder=9,
    )
    text.set_path_effects(halo)
