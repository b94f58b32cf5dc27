"""Names of fields that no contract has: which one may have been meant, and which could only hold a person's data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

#: What a producer may say beside the contract: the key under which it publishes the record.
KEY: Final = "key"

#: Words that other systems use for what the contracts have.
_OTHER_WORDS: Final = {
    "id": "event_id",
    "eventid": "event_id",
    "uuid": "event_id",
    "gateway": "source",
    "publisher": "source",
    "siren": "jurisdiction_id",
    "authority": "jurisdiction_id",
    "tenant": "jurisdiction_id",
    "device": "asset_id",
    "deviceid": "asset_id",
    "sensorid": "asset_id",
    "deveui": "asset_id",
    "timestamp": "observed_at",
    "time": "observed_at",
    "datetime": "observed_at",
    "date": "observed_at",
    "ts": "observed_at",
    "lon": "longitude",
    "lng": "longitude",
    "long": "longitude",
    "lat": "latitude",
    "temp": "temperature_c",
    "temperature": "temperature_c",
    "battery": "battery_ratio",
    "humidity": "humidity_ratio",
    "speed": "speed_kmh",
    "power": "power_w",
}
_ALIKE: Final = 0.72

#: Words, French and English, of fields about persons: names, ways to reach them, free text that they write, and the
#: identifiers of the devices and cars that they carry and drive.
_PERSON: Final = frozenset((
    "name", "names", "firstname", "lastname", "fullname", "surname", "forename", "username", "nom", "noms", "prenom",
    "prenoms", "civilite", "phone", "phones", "telephone", "tel", "mobile", "gsm", "fax", "mail", "mails", "email",
    "courriel", "mel", "address", "adresse", "street", "rue", "postcode", "birth", "birthday", "birthdate", "naissance",
    "age", "gender", "sexe", "reporter", "citizen", "citoyen", "person", "personne", "user", "utilisateur", "usager",
    "contact", "requester", "demandeur", "login", "comment", "comments", "commentaire", "description", "text", "texte",
    "message", "note", "notes", "remark", "remarks", "subject", "body", "photo", "image", "media", "ip", "mac", "imei",
    "imsi", "msisdn", "ssid", "plate", "plaque", "immatriculation",
))  # fmt: skip
_WORDS: Final = re.compile(r"[A-Z]?[a-zà-ÿ]+|[A-Z]+(?![a-zà-ÿ])|[0-9]+")
_PLAIN: Final = str.maketrans("àâäçéèêëîïôöùûü", "aaaceeeeiioouuu")
#: Of longer names only the beginning is looked at: it was not a program that made them.
_LONGEST: Final = 80


def is_about_a_person(name: str) -> bool:
    """Whether a field of that name holds what must not come here: a person's name, phone, e-mail, words or device."""
    return not _PERSON.isdisjoint(word.lower().translate(_PLAIN) for word in _WORDS.findall(name[:_LONGEST]))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant; None when none is near."""
    names = {_plain(each): each for each in known}
    plain = _plain(name)
    if plain in names:
        return names[plain]
    if (meant := _OTHER_WORDS.get(plain)) in names.values():
        return meant
    close = difflib.get_close_matches(plain, names, n=1, cutoff=_ALIKE)
    return names[close[0]] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name[:_LONGEST]).lower()
