"""A Connected Content tag that the lint checks, and findings about its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from proxy.liquid import tag_syntax
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import OUTPUT, Markup
from proxy.liquid.types import Finding

EXAMPLE_HOST = "your-host"
"""The host of this service in the documentation."""


@dataclass(frozen=True, slots=True)
class Call:
    """A Connected Content tag in the message `source`. `variable`: a name for its answer if it has none."""

    source: str
    markup: Markup
    tag: tag_syntax.Tag
    variable: str
    hosts: frozenset[str]
    """The hosts that the message calls with credentials on a data route."""

    @property
    def has_credentials(self) -> bool:
        """Return whether the tag sends credentials."""
        return bool(self.tag.options.keys() & {"basic_auth", "auth_credentials", "headers"})

    @property
    def is_own_service(self) -> bool:
        """Return whether the tag probably calls this service, and not another host with the same path."""
        host = host_of(self.tag.url)
        if host == EXAMPLE_HOST or host in self.hosts:
            return True
        parameters = self.tag.parameters
        return not self.hosts and (
            not parameters or any(similar(name, ("user_id", "device_id")) for name in parameters)
        )

    @property
    def url_path(self) -> str:
        """Return the URL without its query, and with `{}` for each output."""
        return without_outputs(self.tag.path)

    @property
    def is_foreign(self) -> bool:
        """Return whether the URL is not a data route. A path with an output is known only after rendering."""
        return tag_syntax.route(self.url_path) is None and "{}" not in re.sub(r"\A\w*:?//[^/]*", "", self.url_path)

    def finding(
        self,
        text: str,
        rule: str,
        problem: str,
        fix: str,
        *,
        level: Literal["problem", "note"] = "problem",
        replacement: str | None = None,
    ) -> Finding:
        """Return a finding about the first `text` in the tag, preferably as a word, or about the whole tag."""
        word = re.search(rf"(?<=[\s?&\"']){re.escape(text)}(?=[\s=:\"'%]|\Z)", self.markup.text)
        at = word.start() if word else self.markup.text.find(text)
        start = self.markup.start + max(0, at)
        end = start + (len(text) if at >= 0 else len(self.markup.text))
        return finding(
            self.source, (start, end), rule, problem, fix, level=level, replacement=replacement if at >= 0 else None
        )


def without_outputs(text: str) -> str:
    """Return a text with `{}` for each closed output."""
    return OUTPUT.sub(lambda output: "{}" if output["closed"] else output[0], text)


def host_of(url: str) -> str:
    """Return the host of a URL."""
    return url.partition("://")[2].partition("/")[0].lower()
