"""A finding: one thing that a verification found to be wrong, or could not look at, and where."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong, or not known: in which table, what, and where as far as it can be told."""

    table: str
    problem: str
    stream: str | None = None
    version: int | None = None
    position: int | None = None
    is_damage: bool = True
    """False where the system refused to let it be looked at: it may be sound."""

    def __str__(self) -> str:
        named = (
            ("position", self.position),
            ("stream", self.stream),
            ("version", self.version),
        )
        where = "".join(f", {name} {value}" for name, value in named if value is not None)
        return f"{self.table}{where}: {self.problem}"
