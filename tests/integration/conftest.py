"""What the tests of the whole pipeline share: a real broker for each test, and the city that ships."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processors.territory import Territory
from streams.territory.files import versioned, write
from streams.territory.synth import synthesize
from tests.support.city import city
from tests.support.kafka import Kafka, real_kafka
from tests.support.load import territory as load_territory
from tests.support.required import require_kafka


@contextmanager
def _kafka() -> Iterator[Kafka]:
    require_kafka()
    with real_kafka(partitions_default=4) as running:
        yield running


@pytest.fixture
def kafka() -> Iterator[Kafka]:
    """Real Kafka with nothing in it. One for each test: topics have fixed names, and a start takes a second."""
    with _kafka() as running:
        yield running


@pytest.fixture(scope="module")
def module_kafka() -> Iterator[Kafka]:
    """Real Kafka for tests that share one log, each with a group of its own."""
    with _kafka() as running:
        yield running


@pytest.fixture(scope="session")
def synthetic_city() -> Territory:
    """The city that ships."""
    return synthesize()


@pytest.fixture(scope="session")
def synthetic_folder(synthetic_city: Territory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the city that ships."""
    folder = tmp_path_factory.mktemp("territory") / "synthetic"
    write(synthetic_city, folder)
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small city of the tests (`tests.support.city`)."""
    folder = tmp_path_factory.mktemp("territory") / "small"
    write(versioned(city()), folder)
    return folder


@pytest.fixture(scope="session")
def load_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small city with the rules that `tests.support.load` is made for."""
    folder = tmp_path_factory.mktemp("territory") / "load"
    write(versioned(load_territory()), folder)
    return folder
