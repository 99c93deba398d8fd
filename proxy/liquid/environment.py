"""Braze's dialect for python-liquid: tags, filters, and errors rendered into the message as Ruby's Liquid does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, cast

from liquid import BoundTemplate, Environment, Mode, RenderContext, Token
from liquid.ast import BlockNode, Node
from liquid.exceptions import LiquidError, LiquidTypeError, ResourceLimitError
from liquid.undefined import is_undefined

from proxy.liquid import filters, ruby_output
from proxy.liquid.ruby_compare import compare_as_ruby
from proxy.liquid.scanner import ATTRIBUTES
from proxy.liquid.state import Run, line_of
from proxy.liquid.tags import AbortTag, ConnectedContentTag
from proxy.liquid.types import Finding

_FATAL = re.compile(r"unexpected tag|expected tag|missing tag|unknown block|unexpected end|unexpected liquid")
"""Errors for which Ruby's Liquid refuses the whole template."""
_FILTER_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""Errors that python-liquid raises for unsuitable filter arguments. Ruby's Liquid renders "internal"."""

_FILTERS: tuple[Callable[..., object], ...] = (
    filters.url_param_escape,
    filters.url_escape,
    filters.json_escape,
    filters.property_accessor,
    filters.truncatewords,
    filters.date,
    filters.uniq,
)


def template_of(source: str, run: Run, *, line: int = 1) -> BoundTemplate:
    """Parse plain Liquid that begins at `line` of the message."""
    template = _Environment(run, line).from_string(source)
    for node in _walk(template.nodes):
        compare_as_ruby(node.expressions())
    # Collect all blocks before wrapping the first: a wrapped block hides its nodes.
    for block in [node for node in _walk(template.nodes) if isinstance(node, BlockNode)]:
        block.nodes = [_Guarded(node, run, line) for node in block.nodes]
    template.nodes = [_Guarded(node, run, line) for node in template.nodes]
    return template


def context_of(template: BoundTemplate, run: Run) -> RenderContext:
    """Return a context with the user's attributes."""
    device = {"id": run.user.device_id or None}
    attributes = {
        ATTRIBUTES: {"user_id": run.user.user_id or None},
        "most_recently_used_device": device,
        "targeted_device": device,
    }
    return _Context(template, globals=attributes)


class _Environment(Environment):
    """As lax as Ruby's Liquid, and reports the syntax that it skips."""

    def __init__(self, run: Run, line: int) -> None:
        super().__init__(tolerance=Mode.LAX, strict_filters=False)
        self.run = run
        self.line = line
        limits = run.limits
        vars(self).update(
            loop_iteration_limit=limits.iterations,
            output_stream_limit=limits.output,
            local_namespace_limit=limits.variables,
        )
        self.add_tag(ruby_output.RubyOutput)
        self.add_tag(ruby_output.RubyEcho)
        self.add_tag(AbortTag)
        self.tags[ConnectedContentTag.name] = ConnectedContentTag(
            self, run, line, lambda text, at: template_of(text, run, line=at)
        )
        for function in _FILTERS:
            self.add_filter(function.__name__, function)

    def error(self, exc: type[LiquidError] | LiquidError, msg: str | None = None, token: Token | None = None) -> None:
        """Raise the errors that Ruby's Liquid raises too; report the others."""
        error = exc if isinstance(exc, LiquidError) else exc(msg, token=token)
        error.token = error.token or token
        text = str(error.message)
        if isinstance(error, ResourceLimitError) or _FATAL.match(text):
            raise error
        self.run.note(
            Finding(
                line_of(error.token, self.line),
                "syntax",
                f"this is not plain Liquid ({text}); the preview leaves it out",
                "write it in plain Liquid: what Braze makes of it is not certain",
            )
        )


class _Context(RenderContext):
    """Checks the arguments and the result of each filter."""

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        run = cast(_Environment, self.env).run
        if name not in self.env.filters:
            run.note(
                Finding(
                    run.line,
                    "unknown-filter",
                    f"the filter {name} is not known here, so it changes nothing",
                    "look at its spelling; if it is one of Braze's own, test it in Braze",
                )
            )
        function = super().filter(name, token)

        def within_limits(value: object, *arguments: object, **named: object) -> object:
            run.budget.before_filter(value, (*arguments, *named.values()))
            if name in filters.OF_TEXT:
                value = _text(value)
                arguments = tuple(_text(entry) if isinstance(entry, bool) else entry for entry in arguments)
            result = function(value, *arguments, **named)
            run.budget.after_filter(result)
            return result

        return within_limits


class _Guarded(Node):
    """Renders a node within the time limit. An error is rendered into the message, and rendering continues."""

    __slots__ = ("line", "node", "run")

    def __init__(self, node: Node, run: Run, first_line: int) -> None:
        super().__init__(node.token)
        self.node = node
        self.run = run
        self.blank = node.blank
        self.line = line_of(node.token, first_line)

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        self.run.budget.check()
        self.run.line = self.line
        try:
            return self.node.render(context, buffer)
        except ResourceLimitError as limit:
            limit.token = limit.token or self.token
            raise
        except LiquidTypeError as error:
            return self._show(
                buffer,
                ruby_output.says(error),
                "compare like with like; text becomes a number with {% assign n = … | plus: 0 %}",
            )
        except LiquidError as error:
            return self._show(buffer, ruby_output.says(error), "guard it with an if, or fix the values it is given")
        except _FILTER_ERRORS:
            return self._show(buffer, "internal", "a filter is given what it is not made for: look at its arguments")

    def _show(self, buffer: TextIO, error: str, fix: str) -> int:
        text = f"Liquid error: {error}"
        self.run.note(Finding(self.line, "liquid-error", f"it puts “{text}” into the message", fix))
        return buffer.write(text)


def _text(value: object) -> object:
    # An undefined value stays undefined: the filter handles it.
    return value if value is None or is_undefined(value) else ruby_output.text(value)


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        # No built-in node uses the context here; only tags that include other templates do, and there are none.
        yield from _walk(node.children(cast(RenderContext, None), include_partials=False))
