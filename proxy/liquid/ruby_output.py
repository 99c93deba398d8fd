"""Prints values as Ruby's Liquid does, on which Braze builds, where python-liquid differs."""

from __future__ import annotations

import json
from typing import TextIO

from liquid import RenderContext
from liquid.builtin.output import Output
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag


def text(value: object) -> str:
    """Return a value as a text filter receives it: unlike in a message, a list has brackets."""
    return _inspect(value) if isinstance(value, list | tuple) else prints(value)


def prints(value: object) -> str:
    """Return a value as rendered into a message."""
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
            return "".join(prints(entry) for entry in value)
        case dict():
            return _inspect(value)
        case range():
            return f"{value.start}..{value.stop - 1}"
    return str(value)


def sound(text: str) -> str:
    """Return text that UTF-8 can encode: JSON can contain lone surrogates."""
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
            return "{" + ", ".join(f"{_inspect(key)}=>{_inspect(entry)}" for key, entry in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inspect(entry) for entry in value) + "]"
    return prints(value)


class _RubyNode(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(prints(self.expression.evaluate(context)))


class RubyOutput(Output):
    """`{{ … }}`."""

    node_class = _RubyNode


class RubyEcho(EchoTag):
    """`{% echo … %}`."""

    node_class = _RubyNode
