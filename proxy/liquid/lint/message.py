"""Finds problems in a message without rendering."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from proxy.liquid.braze_objects import BRAZE_OBJECTS
from proxy.liquid.lint.attributes import attribute_findings, bare_attribute_findings
from proxy.liquid.lint.delimiters import delimiter_findings
from proxy.liquid.lint.expressions import condition_findings, name_findings
from proxy.liquid.lint.scope import reads, setters
from proxy.liquid.lint.syntax import syntax_findings
from proxy.liquid.lint.tags import tag_findings
from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding


def findings(source: str, pieces: Sequence[Markup], tags: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the problems and notes of the template `source`, which consists of `pieces`.

    `tags`: the names of the tags that the preview knows.
    """
    yield from delimiter_findings(source)
    yield from bare_attribute_findings(source, pieces)
    yield from syntax_findings(source, pieces, tags)
    names_set = {setter.name for setter in setters(pieces)}
    roots = dict.fromkeys(read.path.root for read in reads(pieces, ()) if read.markup.name != "connected_content")
    yield from tag_findings(source, pieces, [name for name in roots if name not in names_set | BRAZE_OBJECTS])
    for markup in pieces:
        if markup.kind == "verbatim":
            continue
        if markup.name not in ("connected_content", "abort_message"):
            yield from condition_findings(source, markup)
            yield from name_findings(source, markup)
        yield from attribute_findings(source, markup)
