"""Reads a tag from python-liquid's stream of tokens."""

from __future__ import annotations

from liquid import Token
from liquid.stream import TokenStream
from liquid.token import TOKEN_EXPRESSION, TOKEN_TAG


def read(stream: TokenStream) -> tuple[Token, str]:
    """Return a tag's token and the text after its name. The stream stays at the last token of the tag."""
    token = stream.expect(TOKEN_TAG)
    if stream.peek.kind != TOKEN_EXPRESSION:
        return token, ""
    stream.next()
    return token, stream.current.value


def read_block(stream: TokenStream) -> tuple[Token, str]:
    """Return a tag's token and the text after its name. The stream moves to the token after the tag."""
    tag = read(stream)
    stream.next()
    return tag
