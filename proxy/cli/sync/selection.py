"""The values that a run writes, and the names of their attributes in Braze."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

from proxy.braze.limits import PROFILE_FIELDS, STEERING_NAMES, attribute_name
from proxy.profile.values import split_list


@dataclass(frozen=True, slots=True)
class Selection:
    """The names in the options. `renames`: the new name of an attribute, by its name without `gp:`."""

    properties: tuple[str, ...]
    computations: tuple[str, ...]
    recommendations: tuple[str, ...]
    membership: str | None
    renames: Mapping[str, str]
    allow_reserved: bool

    @property
    def names(self) -> list[str]:
        """Return the names except those of computations, which only Amplitude's answers contain."""
        membership = [] if self.membership is None else [self.membership]
        return [*self.properties, *self.recommendations, *membership]

    def attribute(self, name: str) -> str:
        """Return the name of the attribute for a property, computation, recommendation or membership."""
        plain = attribute_name(name)
        return self.renames.get(plain, plain)

    def check(self, computed: Sequence[str] | None = None) -> None:
        """Raise UsageError if two values have the same attribute, or an attribute has a reserved name.

        `computed`: the names of computed values in Amplitude's answers; None before reading.
        """
        names = [*self.names, *(computed or ())]
        attributes: dict[str, str] = {}
        for name in names:
            attribute = self.attribute(name)
            if attribute in attributes:
                raise click.UsageError(
                    f"{name!r} and {attributes[attribute]!r} both have the attribute {attribute!r}; rename {name!r} "
                    f"with --rename {attribute_name(name)}=<name>"
                )
            attributes[attribute] = name
            self._check_reserved(attribute, name)
        selected = set(map(attribute_name, names))
        unused = [name for name in self.renames if name not in selected]
        if unused and not (self.computations and computed is None):
            raise click.UsageError(f"--rename names {unused[0]!r}, which this run does not write; correct --rename")

    def _check_reserved(self, attribute: str, name: str) -> None:
        rename = f"rename it with --rename {attribute_name(name)}=<name>"
        if attribute in STEERING_NAMES:
            raise click.UsageError(f"attribute {attribute!r} has a special meaning in requests to Braze; {rename}")
        if attribute in PROFILE_FIELDS and not self.allow_reserved:
            raise click.UsageError(
                f"attribute {attribute!r} is a profile field of Braze; {rename}, or add --allow-reserved to overwrite "
                "the field"
            )


def parse_renames(entries: Iterable[str]) -> dict[str, str]:
    """Return the new names by the old names of `OLD=NEW` entries. Raises UsageError."""
    renames: dict[str, str] = {}
    for entry in split_list(",".join(entries)):
        old, separator, new = (part.strip() for part in entry.partition("="))
        if not (separator and attribute_name(old) and attribute_name(new)):
            raise click.UsageError(f"--rename {entry!r} is not OLD=NEW; write --rename plan=amplitude_plan")
        if attribute_name(old) in renames:
            raise click.UsageError(f"--rename names {old!r} twice; remove one")
        renames[attribute_name(old)] = attribute_name(new)
    return renames
