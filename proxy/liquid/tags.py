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

from proxy.liquid import tag_syntax
from proxy.liquid.limits import MAX_OUTPUT, MAX_SOURCE, MAX_TAGS
from proxy.liquid.report import tag_report
from proxy.liquid.scanner import Unreadable, markups, rewrite
from proxy.liquid.state import Aborted, Run
from proxy.liquid.tag_stream import read
from proxy.liquid.types import Finding, Request
from proxy.profile.json import read_json

_EXPOSED = "Amplitude was called, which logs an exposure for this user"
_NOT_EXPOSED = "Amplitude was not called, so no exposure was logged"
_NOT_RERENDERED = frozenset({"connected_content", "catalog_items", "catalog_selection_items"})
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
        token, text = read(stream)
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

        url = render_text(tag.url, context, run).strip(tag_syntax.BLANKS)
        if tag_syntax.NO_BREAK_SPACE in url:
            url = url.replace(tag_syntax.NO_BREAK_SPACE, "")
            run.note(_no_break_space(line))
        headers = render_text(tag.options.get("headers", ""), context, run)
        content_type = tag_syntax.content_type({**tag.options, "headers": headers})
        body = tag_syntax.json_body(render_text(tag.body, context, run), content_type)
        name = tag_syntax.route(url)
        answer = run.ask(_request(name, url, tag, body, content_type, headers)) if name else None
        run.check_time()
        if name is None:
            run.note(Finding(line, "elsewhere", *tag_syntax.other_url(url), level="note"))
        content: Any = _content(self._rerendered(answer.body, context)) if answer else None
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

    def _rerendered(self, text: str, context: RenderContext) -> str:
        """Return an answer whose Liquid is rendered, if the tag has :rerender. Calls and catalogs stay as text.

        Source: Braze's documentation, Connected Content > "Pull user profile data in Connected Content calls".
        """
        if "rerender" not in self.tag.options or ("{{" not in text and "{%" not in text):
            return text
        if len(text) > MAX_SOURCE:
            raise ResourceLimitError("the answer is too large for :rerender; request less data", token=self.token)
        try:
            for piece in reversed(markups(text)):
                if piece.name in _NOT_RERENDERED:
                    end = piece.start + len(piece.text)
                    text = f"{text[: piece.start]}{{% raw %}}{piece.text}{{% endraw %}}{text[end:]}"
            plain = rewrite(text, markups(text))
        except Unreadable as error:
            self.run.note(_unreadable_answer(self.run.line, error))
            return text
        return render_text(plain, context, self.run)


class ConnectedContentTag(LiquidTag):
    """`{% connected_content URL :option value … %}`."""

    name = "connected_content"
    block = False

    def __init__(self, env: Environment, run: Run) -> None:
        super().__init__(env)
        self._run = run

    def parse(self, stream: TokenStream) -> Node:
        """Return the node of the tag."""
        token, text = read(stream)
        return _ConnectedContentNode(token, tag_syntax.parse(text), self._run)


def render_text(text: str, context: RenderContext, run: Run) -> str:
    """Return plain Liquid inside a tag as text."""
    if "{{" not in text and "{%" not in text:
        return text
    line = run.line
    output = LimitedStringIO(MAX_OUTPUT)
    for node in context.env.from_string(text).nodes:
        node.render(context, output)
    run.line = line
    return output.getvalue()


def _no_break_space(line: int) -> Finding:
    return Finding(
        line,
        "no-break-space",
        "the URL has a no-break space (U+00A0), which Braze removes",
        "delete the no-break space",
    )


def _unreadable_answer(line: int, error: Unreadable) -> Finding:
    return Finding(
        line,
        "rerender",
        f":rerender cannot read the answer as Liquid: {error.problem}",
        "remove :rerender; the answers of this service contain no Liquid to render",
    )


def _request(name: str, url: str, tag: tag_syntax.Tag, body: str, content_type: str, headers: str) -> Request:
    # Percent-encoded as over HTTP, because the URL in a template may contain any character.
    query = quote(tag_syntax.query(url), safe="%/:?[]@!$&'()*+,;=", errors="replace")
    target = f"/v1/{name}" + (f"?{query}" if query else "")
    if tag.method != "POST":
        return Request("GET", target, _headers(headers))
    # An option in braces may contain line breaks, which are invalid in a header.
    return Request("POST", target, _headers(headers), body, _NOT_IN_HEADERS.sub("", content_type))


def _content(body: str) -> Any:
    try:
        return read_json(body.encode())
    except ValueError:
        return body


def _headers(text: str) -> dict[str, str]:
    """Return the tag's Cache-Control header. Other headers are dropped: the preview sets credentials and request id."""
    try:
        headers = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    pairs = headers.items() if isinstance(headers, dict) else ()
    return {name: _NOT_IN_HEADERS.sub("", str(value)) for name, value in pairs if name.lower() == "cache-control"}
