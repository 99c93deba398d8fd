"""Counts the types of the property values in a cohort file, for the summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from proxy.cli.formats import format_count, printable
from proxy.profile.text_values import convert_text

_NOUNS = {int: "number", float: "number", bool: "boolean", list: "list", dict: "object", str: "text"}


class TypeCounts:
    """Counts the values of each property by type. `text_properties` are not converted."""

    def __init__(self, text_properties: AbstractSet[str]) -> None:
        self._text_properties = text_properties
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, name: str, value: str) -> None:
        """Count a value."""
        self._counts[name][_NOUNS[type(convert_text(name, value, self._text_properties))]] += 1

    def __contains__(self, name: str) -> bool:
        """Return whether a value of the property was counted."""
        return name in self._counts

    def lines(self) -> Iterator[str]:
        """Yield a line for each property with a converted value."""
        for name, counts in sorted(self._counts.items()):
            if counts.keys() == {"text"}:
                continue
            numbers = ", ".join(
                format_count(counts[noun], noun) for noun in dict.fromkeys(_NOUNS.values()) if counts[noun]
            )
            hint = f"; TEXT_PROPERTIES={printable(name)} keeps text" if len(counts) > 1 else ""
            yield f"{printable(name)}: {numbers}{hint}"
