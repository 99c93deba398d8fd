"""Short names for Amplitude's ids, so that a template can contain `rec_id=homepage` and `member.vip`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from proxy.profile.values import BadValue, parse_list

Kind = Literal["recommendations", "cohorts", "computations", "predictions"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MAX_LENGTH = 512
# Liquid can write these names after a dot.
_ENTRY = re.compile(rf"({'|'.join(KINDS)})\.([A-Za-z_][A-Za-z0-9_-]*)=(.+)\Z")


@dataclass(frozen=True, slots=True)
class Alias:
    """A short name, and the id of that kind in Amplitude."""

    kind: Kind
    name: str
    id: str


def parse(entries: str) -> tuple[Alias, ...]:
    """Return the aliases in `kind.name=id,kind.name=id,...`. Raises BadValue with all faults."""
    names: set[tuple[Kind, str]] = set()

    def parse_new(number: int, entry: str) -> Alias:
        alias = _alias(number, entry)
        if (alias.kind, alias.name) in names:
            raise BadValue(f"has {alias.kind}.{alias.name} twice")
        names.add((alias.kind, alias.name))
        return alias

    return parse_list(entries, parse_new)


def _alias(number: int, entry: str) -> Alias:
    match = _ENTRY.match(entry)
    if match is None:
        raise BadValue(
            f"has an entry ({number}) that is not kind.name=id; use a kind of {', '.join(KINDS)}, "
            "and a name of letters, digits, _ and - that begins with a letter or _"
        )
    alias = Alias(cast(Kind, match[1]), match[2], match[3].strip())
    if not alias.id or len(alias.id) > _MAX_LENGTH or not alias.id.isprintable():
        raise BadValue(
            f"has an entry ({number}) whose id is blank, longer than {_MAX_LENGTH} characters, or contains a "
            "control character"
        )
    return alias


class Aliases:
    """Maps names to ids. A name without an alias is itself an id. Instances are compared by identity."""

    def __init__(self, entries: Iterable[Alias] = ()) -> None:
        self._ids: dict[tuple[Kind, str], str] = {(alias.kind, alias.name): alias.id for alias in entries}

    def id_of(self, kind: Kind, name: str) -> str:
        """Return Amplitude's id for `name`, or `name` itself without an alias."""
        return self._ids.get((kind, name), name)

    def by_kind(self) -> dict[str, list[str]]:
        """Return the names of every kind."""
        return {kind: self.names(kind) for kind in KINDS}

    def names(self, kind: Kind) -> list[str]:
        """Return the names of a kind."""
        return [name for alias_kind, name in self._ids if alias_kind == kind]


NO_ALIASES = Aliases()
