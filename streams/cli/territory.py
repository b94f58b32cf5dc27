"""`vigie territory`: make, invent and look at the folder that describes one authority."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
import polars as pl
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from processors.territory import Territory
from streams.territory import files
from streams.territory.build import build as build_territory
from streams.territory.draw import SUFFIXES, draw
from streams.territory.remarks import TerritoryError
from streams.territory.report import BuildReport
from streams.territory.synth import synthesize


class DataError(click.ClickException):
    """Data that cannot be used: one line on standard error for each problem, exit code 1."""

    def __init__(self, error: TerritoryError) -> None:
        super().__init__(str(error))
        self.problems = error.problems

    def show(self, file: IO[Any] | None = None) -> None:
        for problem in self.problems:
            click.echo(f"Error: {problem}", err=True, file=file)


@contextmanager
def _told() -> Iterator[None]:
    """Tell bad data and a full or forbidden disk in words instead of a traceback."""
    try:
        yield
    except TerritoryError as error:
        raise DataError(error) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'file'}: {error.strerror or error}") from error


def _free(out: Path, force: bool) -> None:
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise click.UsageError(f"{out} exists: choose another folder, or replace the territory in it with --force")


_OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write the territory to."
)
_FORCE = click.option("--force", is_flag=True, help="Replace the territory that is in the folder.")


@click.group()
def territory() -> None:
    """Make, invent and look at territories: zones, assets and rules of one authority."""


@territory.command()
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_OUT
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the source files; otherwise `data_dir` of SPEC, or the folder SPEC is in.",
)
@_FORCE
def build(spec: Path, out: Path, data: Path | None, force: bool) -> None:
    """Make a territory from open data, as the specification SPEC says."""
    _free(out, force)
    with _told():
        report = build_territory(spec, out, data)
    _show_build(report, Console())
    click.echo(f"{out}: {report.territory}, version {report.version}; details in {out / 'report.md'}")


@territory.command()
@_OUT
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Another number, another city.")
@_FORCE
def synth(out: Path, seed: int, force: bool) -> None:
    """Invent a plausible city, the same one for the same seed."""
    _free(out, force)
    with _told():
        made = synthesize(seed)
        files.write(made, out)
    click.echo(
        f"{out}: {made.name}, {len(made.zones)} zones in {len(made.layers)} layers, {len(made.assets)} assets,"
        f" version {made.version}"
    )


@territory.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--map", "map_path", type=click.Path(path_type=Path, dir_okay=False), help="Draw a map: FILE.png or .svg."
)
def show(directory: Path, map_path: Path | None) -> None:
    """Check the territory in DIR and show what is in it."""
    if map_path is not None and map_path.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--map {map_path}: the name must end in {' or '.join(SUFFIXES)}")
    with _told():
        loaded, repaired = files.load(directory)
        if map_path is not None:
            draw(loaded, map_path)
    _show_territory(loaded, Console())
    for line in repaired:
        click.echo(f"repaired: {line}")
    if map_path is not None:
        click.echo(f"map: {map_path}")


def _show_build(report: BuildReport, console: Console) -> None:
    table = Table(title=f"Sources of {report.territory}", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("into")
    for column in ("read", "left out", "kept"):
        table.add_column(column, justify="right")
    for source in report.sources:
        table.add_row(source.file, source.into, str(source.read), str(source.left_out), str(source.kept))
    console.print(table)
    click.echo(", ".join(f"{verdict} {len(remarks)}" for verdict, remarks in report.by_verdict.items()))


def _show_territory(loaded: Territory, console: Console) -> None:
    west, south, east, north = loaded.area
    click.echo(f"{loaded.name} ({loaded.jurisdiction_id}), {loaded.timezone}, version {loaded.version}")
    click.echo(f"area {west:g} {south:g} {east:g} {north:g} (west south east north, degrees)")
    console.print(_zone_table(loaded))
    console.print(_asset_table(loaded))
    console.print(_rule_table(loaded))


def _zone_table(loaded: Territory) -> Table:
    table = Table(title="Layers", title_justify="left")
    table.add_column("layer")
    table.add_column("zones", justify="right")
    table.add_column("with an end", justify="right")
    table.add_column("codes", overflow="fold")
    for (layer,), rows in loaded.zones.group_by("layer", maintain_order=True):
        codes = rows["code"].unique(maintain_order=True).to_list()
        named = ", ".join(codes[:8]) + (f" and {len(codes) - 8} more" if len(codes) > 8 else "")
        table.add_row(str(layer), str(len(rows)), str(len(rows) - rows["valid_to"].null_count()), named)
    return table


def _asset_table(loaded: Territory) -> Table:
    table = Table(title="Assets", title_justify="left")
    table.add_column("domain")
    table.add_column("kind")
    for column in ("assets", "report every (s)", "messages/s"):
        table.add_column(column, justify="right")
    interval = pl.col("report_interval_s")
    rows = loaded.assets.group_by("domain", "kind", maintain_order=True).agg(
        pl.len(), interval.min().alias("least"), interval.max().alias("most"), (1 / interval).sum().alias("rate")
    )
    for domain, kind, count, least, most, rate in rows.iter_rows():
        every = "unknown" if least is None else f"{least:g}" if least == most else f"{least:g} to {most:g}"
        table.add_row(domain, kind, str(count), every, f"{rate:.2f}")
    table.add_section()
    table.add_row("all", "", str(len(loaded.assets)), "", f"{rows['rate'].sum():.2f}")
    return table


def _rule_table(loaded: Territory) -> Table:
    table = Table(title="Rules", title_justify="left")
    table.add_column("rule")
    table.add_column("settings", overflow="fold")
    for name, rule in loaded.rules:
        if isinstance(rule, BaseModel):
            settings = ", ".join(
                f"{key} {value:.12g}" if isinstance(value, float) else f"{key} {value}" for key, value in rule
            )
        else:
            settings = "off" if rule is None else f"{rule:g}"
        table.add_row(name, settings)
    return table
