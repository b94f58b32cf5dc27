"""Quality flags of the field (QARTOD, IOOS ioos_qc): one per event, the worst test wins."""

from __future__ import annotations

from enum import IntEnum

import polars as pl

from schemas.contracts import Contract


class Quality(IntEnum):
    """FAIL > SUSPECT > GOOD > UNKNOWN > MISSING decides which flag an event carries."""

    GOOD = 1
    UNKNOWN = 2
    SUSPECT = 3
    FAIL = 4
    MISSING = 9


def usable(contract: Contract, name: str) -> pl.Expr:
    """A measure, null where its own test failed. Needs the `failed` column that `validate` adds.

    Bit i of `failed` belongs to the i-th field of `contract.measures`. A reading that failed is stored and counted; it
    is never summed and never opens or clears an alert.
    """
    bit = failed_bit(contract, name)
    return pl.when(pl.col("failed") & bit == 0).then(pl.col(name)).alias(name)


def failed_bit(contract: Contract, name: str) -> int:
    """The bit of `failed` that belongs to a measure of the contract. Raises ValueError for another field."""
    return 1 << [f.name for f in contract.measures].index(name)
