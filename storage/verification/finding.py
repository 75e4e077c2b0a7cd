"""A finding: one thing that a verification found to be wrong, and where."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: in which table, what, and where as far as it can be told."""

    table: str
    problem: str
    stream: str | None = None
    version: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        named = (
            ("position", self.position),
            ("stream", self.stream),
            ("version", self.version),
        )
        where = "".join(f", {name} {value}" for name, value in named if value is not None)
        return f"{self.table}{where}: {self.problem}"
