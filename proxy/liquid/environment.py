"""Braze's dialect for python-liquid: tags, filters, and errors rendered into the message as Ruby's Liquid does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, cast

from liquid import BoundTemplate, Environment, Mode, RenderContext, Token
from liquid.ast import BlockNode, Node
from liquid.builtin.output import OutputNode
from liquid.exceptions import LiquidError, LiquidTypeError, ResourceLimitError
from liquid.undefined import is_undefined

from proxy.liquid import filters, limits, ruby
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import ATTRIBUTES
from proxy.liquid.state import Run
from proxy.liquid.tags import AbortTag, ConnectedContentTag
from proxy.liquid.types import Finding

_FATAL = re.compile(r"unexpected tag|expected tag|missing tag|unknown block|unexpected end|unexpected liquid")
"""Errors for which Ruby's Liquid refuses the whole template."""
_FILTER_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""Errors that python-liquid raises for unsuitable filter arguments. Ruby's Liquid renders "internal"."""


class BrazeEnvironment(Environment):
    """Tolerates invalid syntax like Ruby's Liquid, and reports the skipped syntax. Each rendering needs its own."""

    loop_iteration_limit = limits.MAX_ITERATIONS
    output_stream_limit = limits.MAX_OUTPUT
    local_namespace_limit = limits.MAX_VARIABLES

    def __init__(self, run: Run) -> None:
        device = {"id": run.user.device_id or None}
        attributes = {
            ATTRIBUTES: {"user_id": run.user.user_id or None},
            "most_recently_used_device": device,
            "targeted_device": device,
        }
        super().__init__(tolerance=Mode.LAX, strict_filters=False, globals=attributes)
        self.run = run
        for tag in (ruby.RubyOutput, ruby.RubyEcho, AbortTag):
            self.add_tag(tag)
        self.tags[ConnectedContentTag.name] = ConnectedContentTag(self, run)
        for function in filters.FILTERS:
            self.add_filter(function.__name__, function)

    def from_string(self, source: str, *arguments: Any, **named: Any) -> BoundTemplate:
        """Parse plain Liquid that begins in the line of the node being rendered."""
        template = super().from_string(source, *arguments, **named)
        nodes = list(_walk(template.nodes))
        for node in nodes:
            ruby.compare_as_ruby(node.expressions())
        parents: list[BoundTemplate | BlockNode] = [template]
        parents += [node for node in nodes if isinstance(node, BlockNode)]
        for parent in parents:
            parent.nodes = [_Guarded(node, self.run) for node in parent.nodes]
        return template

    def error(self, exc: type[LiquidError] | LiquidError, msg: str | None = None, token: Token | None = None) -> None:
        """Raise the errors that Ruby's Liquid also raises; report the others."""
        error = exc if isinstance(exc, LiquidError) else exc(msg, token=token)
        error.token = error.token or token
        text = str(error.message)
        if isinstance(error, ResourceLimitError) or _FATAL.match(text):
            raise error
        self.run.note(
            Finding(
                self.run.line_of(error.token),
                "syntax",
                f"the tag or output is not standard Liquid ({text}), so the preview skips it",
                "use standard Liquid, because the result in Braze may differ",
            )
        )


class BrazeContext(RenderContext):
    """Checks the arguments and the result of each filter."""

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        """Return the filter of this name, with checks of the limits."""
        run = cast(BrazeEnvironment, self.env).run
        if name not in self.env.filters:
            run.note(
                Finding(
                    run.line,
                    "unknown-filter",
                    f"the preview does not know the filter {name} and leaves the value unchanged",
                    f"write {meant}"
                    if (meant := similar(name, self.env.filters))
                    else "check the spelling; if the filter is Braze's own, test the message in Braze",
                )
            )
        function = super().filter(name, token)

        def within_limits(value: object, *arguments: object, **named: object) -> object:
            run.check_time()
            limits.require_little_work(value, (*arguments, *named.values()))
            if name in filters.OF_TEXT:
                # An undefined value stays undefined, because the filter handles undefined values.
                if value is not None and not is_undefined(value):
                    value = ruby.text(value)
                arguments = tuple(ruby.text(entry) if isinstance(entry, bool) else entry for entry in arguments)
            result = function(value, *arguments, **named)
            limits.require_light(result)
            return result

        return within_limits


class _Guarded(Node):
    """Renders a node within the time limit. An error is rendered into the message, and rendering continues."""

    __slots__ = ("line", "node", "run")

    def __init__(self, node: Node, run: Run) -> None:
        super().__init__(node.token)
        self.node = node
        self.run = run
        self.blank = node.blank
        self.line = run.line_of(node.token)

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        self.run.check_time()
        self.run.line = self.line
        try:
            written = self.node.render(context, buffer)
            if not written and isinstance(self.node, OutputNode):
                self.run.empty_outputs.add((self.line, self.node.token.value))
            return written
        except ResourceLimitError as limit:
            limit.token = limit.token or self.token
            raise
        except LiquidError as error:
            text = str(error.message)
            shown = "divided by 0" if "divide by 0" in text else text
            fix = "add an if around the expression, or correct its values"
            if isinstance(error, LiquidTypeError):
                fix = "compare values of the same type; convert text to a number with {% assign n = … | plus: 0 %}"
        except _FILTER_ERRORS:
            shown, fix = "internal", "a filter has an invalid input or argument; correct the value"
        shown = f"Liquid error: {shown}"
        self.run.note(Finding(self.line, "liquid-error", f"Liquid prints “{shown}” into the message", fix))
        return buffer.write(shown)


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        # Only nodes that include other templates use the context, and no such tag is registered.
        yield from _walk(node.children(cast(RenderContext, None), include_partials=False))
