"""The pages that ship are what the generator makes, and what they say is so."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, Final

import fastavro
import pytest
from click.testing import CliRunner

from schemas.contracts import DOMAINS, RAW_TOPICS, Domain, contract_of
from schemas.framing import encode
from schemas.problems import Rule
from streams.broker import in_process_broker
from streams.cli.contract import contract as command
from streams.contract_files import catalogue, pages
from tests.streams.contract_files.judging import basis, judged
from tests.support.pipeline import ROOT, everything

_FOLDER: Final = ROOT / "docs" / "contracts"
every_domain = pytest.mark.parametrize("domain", DOMAINS)


def page(domain: Domain) -> str:
    return (_FOLDER / f"{contract_of(domain).name}.md").read_text("utf-8")


def block(text: str, language: str) -> str:
    """What stands in the first block of that language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_committed_pages_are_what_the_generator_makes(tmp_path: Path) -> None:
    """After a change of a contract: vigie contract pages docs/contracts."""
    done = CliRunner().invoke(command, ["pages", str(tmp_path / "new")])
    assert done.exit_code == 0
    made = {path.name: path.read_text("utf-8") for path in (tmp_path / "new").iterdir()}
    assert made == {path.name: path.read_text("utf-8") for path in _FOLDER.iterdir()}
    assert set(made) == {"README.md", *(f"{each.name}.md" for each in catalogue.every())}


def test_links_lead_somewhere() -> None:
    """From the index to the pages, and from those to the schemas."""
    for path in _FOLDER.iterdir():
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
            assert (_FOLDER / target).resolve().is_file(), f"{path.name}: {target}"


def test_every_rule_is_explained() -> None:
    """The index says of each rule what breaks it, and names those that are warnings."""
    assert set(pages.RULES) == set(Rule)
    index = (_FOLDER / "README.md").read_text("utf-8")
    assert all(f"| `{rule.value}` |" in index for rule in Rule)


@every_domain
def test_the_worked_example_is_what_the_encoder_makes(domain: Domain) -> None:
    """The bytes of the table, one behind the other, are those below it, and the record's own."""
    contract, text = contract_of(domain), page(domain)
    example = json.loads(block(text, "json"))
    whole = "".join(block(text[text.index("Together ") :], "").split())
    assert bytes.fromhex(whole) == encode(contract, example)
    rows = re.findall(r"^\| `([0-9a-f… ]+)` \|", text, re.MULTILINE)
    pattern = "".join(re.escape(row.replace(" ", "")).replace("…", "[0-9a-f]+") for row in rows)
    assert re.fullmatch(pattern, whole)
    assert f"`{example['jurisdiction_id']}|{example['asset_id']}`" in text
    assert [
        line.problems for line in judged(block(text, "json").replace("\n", "").encode(), "jsonl", basis(domain))
    ] == [[]]


@every_domain
def test_the_program_in_the_page_encodes_and_publishes(domain: Domain, tmp_path: Path) -> None:
    """Run as it stands, it makes the bytes that we make, and its records arrive under their key."""
    contract = contract_of(domain)
    (tmp_path / f"{contract.name}.avsc").write_text(catalogue.avsc(contract), "utf-8")
    source = block(page(domain), "python").replace('Path("', f'Path("{tmp_path}/')
    names: dict[str, Any] = {}
    exec(compile(source, "page", "exec"), names)
    example = json.loads(block(page(domain), "json"))
    assert names["encode"](example) == encode(contract, example)
    if domain == "sensor":
        with in_process_broker() as bootstrap:
            names["publish"]([example], bootstrap)
            (message,) = everything(bootstrap, [RAW_TOPICS[domain]])
        assert message.key() == f"{example['jurisdiction_id']}|{example['asset_id']}".encode()
        assert message.value() == encode(contract, example)


def test_the_alert_page_says_how_to_read_one() -> None:
    """What it says of decoding is so."""
    alert = next(each for each in catalogue.every() if not catalogue.is_sent(each))
    text = (_FOLDER / f"{alert.name}.md").read_text("utf-8")
    example = json.loads(block(text, "json"))
    payload = encode(alert, example)
    (code,) = re.findall(r"`(fastavro\.[^`]+)`", text)
    read = eval(code, {"fastavro": fastavro, "io": io, "value": payload, "schema": alert.parsed})
    assert {name: read[name] for name in ("alertname", "state", "severity")} == {
        name: example[name] for name in ("alertname", "state", "severity")
    }
