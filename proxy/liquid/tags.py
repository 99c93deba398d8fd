"""Braze's two tags: connected_content calls the service, abort_message cancels the message."""

from __future__ import annotations

import json
import re
from typing import Any, TextIO
from urllib.parse import quote

from liquid import Environment, RenderContext, Token
from liquid.ast import Node
from liquid.exceptions import ResourceLimitError
from liquid.output import LimitedStringIO
from liquid.stream import TokenStream
from liquid.tag import Tag as LiquidTag
from liquid.token import TOKEN_EXPRESSION, TOKEN_TAG

from proxy.liquid import tag_syntax
from proxy.liquid.limits import MAX_OUTPUT, MAX_TAGS
from proxy.liquid.report import tag_report
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import Finding, Request

_EXPOSED = "Amplitude was called, which logs an exposure for this user"
_NOT_EXPOSED = "Amplitude was not called, so no exposure was logged"
_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e]")


class _AbortNode(Node):
    __slots__ = ("reason",)

    def __init__(self, token: Token, reason: str) -> None:
        super().__init__(token)
        self.reason = reason
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        raise Aborted(self.reason)


class AbortTag(LiquidTag):
    """`{% abort_message('reason') %}`."""

    name = "abort_message"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, text = _read(stream)
        reason = text.strip().removeprefix("(").removesuffix(")").strip()
        return _AbortNode(token, reason.strip("\"'") or "no reason given")


class _ConnectedContentNode(Node):
    __slots__ = ("run", "tag")

    def __init__(self, token: Token, tag: tag_syntax.Tag, run: Run) -> None:
        super().__init__(token)
        self.tag = tag
        self.run = run
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        run, tag = self.run, self.tag
        if len(run.tags) >= MAX_TAGS:
            raise ResourceLimitError(
                f"the message has more than {MAX_TAGS} Connected Content calls; use fewer tags", token=self.token
            )
        line = run.line

        def rendered(text: str) -> str:
            if "{{" not in text and "{%" not in text:
                return text
            run.line = line
            output = LimitedStringIO(MAX_OUTPUT)
            for node in context.env.from_string(text).nodes:
                node.render(context, output)
            return output.getvalue()

        url = rendered(tag.url).strip()
        body = rendered(tag.body)
        name = tag_syntax.route(url)
        answer = run.ask(_request(name, url, tag, body, rendered(tag.options.get("headers", "")))) if name else None
        run.check_time()
        if name is None:
            run.note(Finding(line, "elsewhere", *tag_syntax.other_url(url), level="note"))
        content: Any = _content(answer.body) if answer else None
        value = content
        if answer is None or not 200 <= answer.status < 300:
            value = None
        elif isinstance(content, dict):
            value = content | {"__http_status_code__": answer.status}
        saved_as = tag.options.get("save") or (None if isinstance(value, str) else tag_syntax.UNSAVED)
        call = tag_report(line, tag.method, url, name, saved_as, answer, content)
        if answer and tag_syntax.logs_exposure(name, tag_syntax.parameters(url, body if tag.method == "POST" else "")):
            call["exposure"] = _EXPOSED if call["calls"] else _NOT_EXPOSED
        run.tags.append(call)
        if answer is not None and answer.status >= 500 and tag.retries:
            run.retried = f"the call on line {line} failed with status {answer.status}, and its tag has :retry"
        if saved_as is None:
            return buffer.write(value)
        context.assign(saved_as, value)
        return 0


class ConnectedContentTag(LiquidTag):
    """`{% connected_content URL :option value … %}`."""

    name = "connected_content"
    block = False

    def __init__(self, env: Environment, run: Run) -> None:
        super().__init__(env)
        self._run = run

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, text = _read(stream)
        return _ConnectedContentNode(token, tag_syntax.parse(text), self._run)


def _read(stream: TokenStream) -> tuple[Token, str]:
    """Return a tag's token and the text after its name. The stream stays at the last token of the tag."""
    token = stream.expect(TOKEN_TAG)
    if stream.peek.kind != TOKEN_EXPRESSION:
        return token, ""
    stream.next()
    return token, stream.current.value


def _request(name: str, url: str, tag: tag_syntax.Tag, body: str, headers: str) -> Request:
    # Percent-encoded as over HTTP, because the URL in a template may contain any character.
    query = quote(tag_syntax.query(url), safe="%/:?[]@!$&'()*+,;=", errors="replace")
    target = f"/v1/{name}" + (f"?{query}" if query else "")
    if tag.method != "POST":
        return Request("GET", target, _headers(headers))
    # An option in braces may contain line breaks, which are invalid in a header.
    return Request("POST", target, _headers(headers), body, _NOT_IN_HEADERS.sub("", tag.content_type))


def _content(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _headers(text: str) -> dict[str, str]:
    """Return the tag's Cache-Control header. Other headers are dropped: the preview sets credentials and request id."""
    try:
        headers = json.loads(text or "{}")
    except ValueError:
        return {}
    pairs = headers.items() if isinstance(headers, dict) else ()
    return {name: _NOT_IN_HEADERS.sub("", str(value)) for name, value in pairs if name.lower() == "cache-control"}
