"""Signatures of webhooks (Standard Webhooks, symmetric): made here, and checked as a receiver does."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from secrets import token_bytes
from typing import Final

_PREFIX: Final = "whsec_"
#: Standard Webhooks asks for 192 bits at least: a shorter key can be searched for.
_MIN_KEY_BYTES: Final = 24
_NEW_KEY_BYTES: Final = 32


class SignatureError(ValueError):
    """A request is not signed by a known secret, or not now."""


def key_of(secret: str) -> bytes:
    """The key in a secret. Raises ValueError, which quotes nothing of it, for what is no secret or a short one."""
    if not secret.startswith(_PREFIX):
        raise ValueError("a secret begins with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("what follows whsec_ is not base64") from None
    if len(key) < _MIN_KEY_BYTES:
        raise ValueError(f"a secret has at least {_MIN_KEY_BYTES} bytes before base64")
    return key


def new_secret() -> str:
    """A secret that nobody has, of 256 bits."""
    return _PREFIX + base64.b64encode(token_bytes(_NEW_KEY_BYTES)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """One signature, `v1,<base64>`: HMAC-SHA256 of `id.timestamp.body`. `timestamp` is in seconds since 1970.

    Source: Standard Webhooks, "Signature scheme". Raises ValueError for a secret that is not `whsec_<base64>`.
    """
    content = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), content, hashlib.sha256)).decode()


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Iterable[str], now: float, tolerance_s: float = 300.0
) -> None:
    """Return if one of `secrets` signed this request within `tolerance_s` seconds of `now` (seconds since 1970).

    Raises SignatureError otherwise. It does not remember identifiers: refusing a `webhook-id` that was already
    handled is the receiver's job.
    """
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not given.get(name)]
    if missing:
        raise SignatureError(f"no {', '.join(missing)} header")
    stamp = given["webhook-timestamp"]
    # Bounded before int(): more digits than 64 bits hold are no instant, and very long ones make int() raise.
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= 19):
        raise SignatureError("webhook-timestamp is not a whole number of seconds")
    timestamp = int(stamp)
    if abs(now - timestamp) > tolerance_s:
        raise SignatureError(f"webhook-timestamp is more than {tolerance_s:g} s from now; check the clocks")
    expected = [sign(secret, given["webhook-id"], timestamp, body).encode() for secret in secrets]
    signatures = [signature.encode() for signature in given["webhook-signature"].split(" ")]
    # A list, not a generator: every pair is compared, so the time taken does not tell which one matched.
    if not any([hmac.compare_digest(a, b) for a in expected for b in signatures]):
        raise SignatureError("no signature matches; check the secret and that the body is the raw one")
