"""What Ruby's Liquid, the engine that Braze builds on, prints where python-liquid prints something else."""

from __future__ import annotations

import json
from typing import TextIO

from liquid import RenderContext
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.exceptions import LiquidError

_TYPES: dict[type, str] = {str: "String", int: "Integer", float: "Float"}


def says(error: LiquidError) -> str:
    """Return an error as it shows in a message."""
    text = str(error.message)
    return "divided by 0" if "divide by 0" in text else text


def type_name(value: object) -> str:
    """Return what Ruby calls the type of a value."""
    return _TYPES.get(type(value), type(value).__name__)


def text(value: object) -> str:
    """Return a value as a filter for texts takes it: a list, unlike in a message, with its brackets."""
    return _inspect(value) if isinstance(value, list | tuple) else prints(value)


def prints(value: object) -> str:
    """Return a value as it shows in a message."""
    match value:
        case None:
            return ""
        case str():
            return sound(value)
        case bool():
            return str(value).lower()
        case float():
            return _float(value)
        case list() | tuple():
            return "".join(prints(one) for one in value)
        case dict():
            return _inspect(value)
        case range():
            return f"{value.start}..{value.stop - 1}"
    return str(value)


def sound(text: str) -> str:
    """Return text that UTF-8 can hold: JSON can say half of a character."""
    return text.encode("utf-8", "replace").decode()


def _float(value: float) -> str:
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _inspect(value: object) -> str:
    match value:
        case None:
            return "nil"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return "{" + ", ".join(f"{_inspect(key)}=>{_inspect(one)}" for key, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inspect(one) for one in value) + "]"
    return prints(value)


class _OutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(prints(self.expression.evaluate(context)))


class _EchoNode(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(prints(self.expression.evaluate(context)))


class RubyOutput(Output):
    """`{{ … }}`."""

    node_class = _OutputNode


class RubyEcho(EchoTag):
    """`{% echo … %}`."""

    node_class = _EchoNode
