"""A finding: one fault that a verification found, or one thing that it could not read, and its place."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One fault, or one thing that could not be read: the table, the problem, and the place as far as it is known."""

    table: str
    problem: str
    stream: str | None = None
    version: int | None = None
    position: int | None = None
    is_damage: bool = True
    """False if the system refused to let the data be read: they may be sound."""

    def __str__(self) -> str:
        named = (
            ("position", self.position),
            ("stream", self.stream),
            ("version", self.version),
        )
        where = "".join(f", {name} {value}" for name, value in named if value is not None)
        return f"{self.table}{where}: {self.problem}"
