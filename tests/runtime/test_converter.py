"""The hooks of a program's own converter are used wherever its classes are."""

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio
from host_domain import Host, Seen, WasSeen, converter

from eventsrc import Limits, Runtime, SchemaError
from eventsrc.runtime import command_line
from eventsrc.runtime.testing import event_from, scenario

ADDRESS = IPv4Address("10.0.0.1")
COMPACTED_FROM = Limits().compaction_events_min + 1


@pytest.fixture
def store(tmp_path: Path) -> Path:
    async def fill() -> None:
        async with Runtime.open(tmp_path / "store", aggregates=[Host], converter=converter) as runtime:
            await runtime.actor(Host, "one").ask_many([Seen(ADDRESS)] * COMPACTED_FROM)
            assert (await runtime.actor(Host, "one").state()).addresses == [ADDRESS] * COMPACTED_FROM

    trio.run(fill)
    return tmp_path / "store"


def test_a_domain_is_tested_with_them() -> None:
    scenario(Host, converter=converter).given(WasSeen(ADDRESS)).when(Seen(ADDRESS)).then(WasSeen(ADDRESS))
    assert event_from(WasSeen, {"address": "10.0.0.1"}, version=1, converter=converter) == WasSeen(ADDRESS)
    with pytest.raises(SchemaError, match=r"Host.addresses cannot be turned into data.*Runtime.open\(converter="):
        scenario(Host)


def test_the_command_line_finds_the_converter_in_the_module_of_the_domain(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert command_line.main(["show", str(store), "host-one", "--import", "host_domain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"]["addresses"] == ["10.0.0.1"] * COMPACTED_FROM
    assert command_line.main(["blame", str(store), "host-one", "--import", "host_domain", "--json"]) == 0
    assert '"10.0.0.1"' in capsys.readouterr().out


def test_a_store_is_compacted_with_the_converter_of_the_module(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert command_line.main(["compact", str(store), "host-one", "--import", "host_domain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stream"] == "host-one"
    assert command_line.main(["show", str(store), "host-one", "--import", "host_domain", "--json"]) == 0


def test_of_several_converters_one_has_to_be_left(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_converters.py").write_text(
        "from host_domain import *\nimport host_domain\nhooks = host_domain.converter\nother = make_converter()\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["show", str(store), "host-one", "--import", "two_converters"]) == 1
    error = capsys.readouterr().err
    assert "more than one converter in two_converters: two_converters.converter, two_converters.other" in error
