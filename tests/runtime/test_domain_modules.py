"""What a command takes from the modules of a domain."""

from pathlib import Path

import pytest

from eventsrc.runtime.commands.domain_modules import domain_in

SOURCE = """
import abc
from eventsrc import Aggregate

class Shape(Aggregate, abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...

class Square(Shape):
    side: float = 0.0

    def area(self) -> float:
        return self.side**2
"""


def test_an_abstract_base_of_aggregates_is_none_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes_of_a_domain.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert [each.__name__ for each in domain_in(["shapes_of_a_domain"]).aggregates] == ["Square"]
