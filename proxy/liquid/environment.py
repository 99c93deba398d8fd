"""Braze's dialect for python-liquid: tags, filters, and errors rendered into the message as Ruby's Liquid does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TextIO, cast

from liquid import BoundTemplate, Environment, Mode, RenderContext, Token
from liquid.ast import BlockNode, Node
from liquid.builtin.output import OutputNode
from liquid.exceptions import LiquidError, LiquidInterrupt, ResourceLimitError, StopRender
from liquid.output import LimitedStringIO
from liquid.tag import Tag
from liquid.utils import ReadOnlyChainMap

from proxy.liquid import braze_filters, limits
from proxy.liquid.braze_objects import variables
from proxy.liquid.braze_tags import braze_tags
from proxy.liquid.expressions import NotLiquidError, UnusualSyntaxError
from proxy.liquid.lookup import look_up
from proxy.liquid.ruby import RubyError
from proxy.liquid.ruby_tags import TAGS
from proxy.liquid.standard_filters import STANDARD
from proxy.liquid.state import Run
from proxy.liquid.tags import AbortTag, ConnectedContentTag
from proxy.liquid.types import Finding

_FATAL = re.compile(
    r"unexpected (tag|end|liquid)|expected tag|missing tag|unknown block|every line of an inline comment"
)
"""Errors for which Ruby's Liquid refuses the whole template."""
_PYTHON_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors of values that the code does not expect. As in Ruby, they do not end the message."""
_NOT_SHOWN = (LiquidInterrupt, StopRender, ResourceLimitError)


class BrazeEnvironment(Environment):
    """Tolerates invalid syntax like Ruby's Liquid, and reports it. Each rendering needs its own environment."""

    loop_iteration_limit = limits.MAX_ITERATIONS
    output_stream_limit = limits.MAX_OUTPUT
    local_namespace_limit = limits.MAX_VARIABLES

    def __init__(self, run: Run) -> None:
        super().__init__(tolerance=Mode.LAX, strict_filters=False, globals=variables(run.values, run.user))
        self.run = run
        tags: tuple[type[Tag], ...] = (*TAGS, AbortTag)
        for tag in tags:
            self.add_tag(tag)
        self.tags[ConnectedContentTag.name] = ConnectedContentTag(self, run)
        self.tags |= braze_tags(self, run)
        del self.tags["doc"]
        # Without the filters of python-liquid, which Ruby's Liquid 5.4 does not know.
        self.filters = {**STANDARD, **braze_filters.FILTERS}

    def from_string(self, source: str, *arguments: Any, **named: Any) -> BoundTemplate:
        """Parse plain Liquid that begins in the line of the node being rendered."""
        try:
            template = super().from_string(source, *arguments, **named)
        except LiquidError as error:
            # python-liquid replaces most errors by a general error.
            if isinstance(error.__cause__, RecursionError | ResourceLimitError):
                raise error.__cause__ from None
            raise
        nodes = list(_walk(template.nodes))
        parents: list[BoundTemplate | BlockNode] = [template]
        parents += [node for node in nodes if isinstance(node, BlockNode)]
        for parent in parents:
            parent.nodes = [_Guarded(node, self.run) for node in parent.nodes]
        return template

    def error(self, exc: type[LiquidError] | LiquidError, msg: str | None = None, token: Token | None = None) -> None:
        """Raise the errors that Ruby's Liquid also raises; report the others."""
        error = exc if isinstance(exc, LiquidError) else exc(msg, token=token)
        error.token = error.token or token
        shown = str(error.message)
        if isinstance(error, ResourceLimitError | NotLiquidError) or _FATAL.match(shown):
            raise error
        if isinstance(error, UnusualSyntaxError):
            problem = f"{shown}, so Braze ignores part of it"
            fix = "write it as in {% if name == 'x' %} or {{ name | default: 'x' }}, and test the message in Braze"
        else:
            problem = f"the tag or output is not standard Liquid ({shown}), so the preview skips it"
            fix = "correct the tag or output, and test the message in Braze"
        self.run.note(Finding(self.run.line_of(error.token), "syntax", problem, fix))


class BrazeContext(RenderContext):
    """Looks up variables like Ruby, and checks the arguments and the result of each filter."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Without the names `now` and `today`, which python-liquid adds.
        self.scope = ReadOnlyChainMap(self.locals, self.globals, self.counters)

    def get(self, path: list[object], *, token: Token | None, default: object = None) -> object:
        """Return the value of a variable; None if it is absent."""
        root, *steps = path
        value = self.scope.get(root) if isinstance(root, str) else None
        for step in steps:
            value = look_up(value, step)
        return value

    def get_buffer(self, buf: TextIO | None = None) -> LimitedStringIO:
        """Return a buffer for a block, within the limit of the whole message."""
        # By default, python-liquid's buffers replace carriage returns.
        used = buf.size if isinstance(buf, LimitedStringIO) else 0
        return LimitedStringIO(limits.MAX_OUTPUT - used, newline="")

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        """Return the filter of this name, with checks of the limits."""
        run = cast(BrazeEnvironment, self.env).run
        function = super().filter(name, token)

        def as_in_ruby(*values: object, **named: object) -> object:
            run.check_time()
            if name not in self.env.filters:
                return values[0]
            # Ruby passes named arguments as a last argument.
            arguments = (*values[1:], named) if named else values[1:]
            limits.require_little_work(values[0], arguments)
            _require_arity(self.env.filters[name], 1 + len(arguments))
            try:
                result = function(values[0], *arguments)
            except LiquidError:
                raise
            except Exception as error:  # the text of a Python error must not reach the message
                raise RubyError("internal") from error
            limits.require_light(result)
            return result

        return as_in_ruby


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
        except RubyError as error:
            shown = f"Liquid error: {error.message}"
        except LiquidError as error:
            if isinstance(error, _NOT_SHOWN):
                raise
            shown = "Liquid error: internal"
        except _PYTHON_ERRORS:
            shown = "Liquid error: internal"
        # As in Ruby, a node that prints nothing prints no error, such as assign.
        silent = self.node.blank
        problem = f"this tag fails with “{shown}”" if silent else f"Liquid prints “{shown}” into the message"
        self.run.note(Finding(self.line, "liquid-error", problem, _fix(shown)))
        return 0 if silent else buffer.write(shown)


def _fix(shown: str) -> str:
    if "comparison of" in shown:
        return "compare values of the same type; convert text to a number with {% assign n = … | plus: 0 %}"
    if "Unknown operator" in shown:
        return "use one of the operators ==, !=, <, >, <=, >= and contains"
    if "wrong number of arguments" in shown:
        return "add the missing arguments of the filter, or remove the extra arguments"
    if "includes" in shown:
        return "remove the tag; write the text itself, or a Content Block"
    if "internal" in shown:
        return "correct the input or the argument of the filter"
    return "add an if around the expression, or correct its values"


def _require_arity(function: Callable[..., object], count: int) -> None:
    """Raise Ruby's error for a filter with missing or extra arguments."""
    minimum, maximum = _arity(function)
    if not minimum <= count <= maximum:
        expected = f"{minimum}" if minimum == maximum else f"{minimum}..{maximum}"
        raise RubyError(f"wrong number of arguments (given {count}, expected {expected})")


@cache
def _arity(function: Callable[..., object]) -> tuple[int, int]:
    parameters = inspect.signature(function).parameters.values()
    positional = [parameter for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return sum(parameter.default is parameter.empty for parameter in positional), len(positional)


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        # Only nodes that include other templates use the context, and no such tag is registered.
        yield from _walk(node.children(cast(RenderContext, None), include_partials=False))
