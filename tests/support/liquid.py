"""Renders Braze messages from real answers: with python-liquid as the playground does, and with Ruby's Liquid."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from proxy.liquid.render import render as preview
from proxy.liquid.types import Answer, Ask, Rendering, Request, User

_RUBY = """
require "erb"; require "json"; require "liquid"
module BrazeFilters
  def url_param_escape(text) = ERB::Util.url_encode(text.to_s)
end
class ConnectedContent < Liquid::Tag
  def initialize(name, markup, tokens)
    super
    @url, @body = [markup[/\\A\\s*((?:\\{\\{.*?\\}\\}|\\S)+)/, 1], markup[/:body ((?:\\{\\{.*?\\}\\}|\\S)+)/, 1]]
    @variable = markup[/:save (\\w+)/, 1]
  end
  def render(context)
    call = [@url, @body].compact.map { |text| Liquid::Template.parse(text).render(context) }
    call[0] = call[0].sub(%r{\\Ahttps?://[^/]+}, "")
    context.scopes.last[@variable] = context.registers[:answers].fetch(call.join(" "))
    ""
  end
end
class AbortMessage < Liquid::Tag
  def render(_) = throw(:aborted, "aborted: " + @markup[/'(.*)'/, 1])
end
Liquid::Template.register_filter(BrazeFilters)
Liquid::Template.register_tag("connected_content", ConnectedContent)
Liquid::Template.register_tag("abort_message", AbortMessage)
STDIN.each_line do |line|
  input = JSON.parse(line)
  plain = input["message"].gsub("${user_id}", "id_of_the_user")
  known = { "id_of_the_user" => input["user_id"] }
  registers = { answers: input["answers"] }
  sent = catch(:aborted) { Liquid::Template.parse(plain).render(known, registers: registers) }
  puts JSON.generate(sent)
  STDOUT.flush
end
"""

_RUBY_BATCH = """
require "json"; require "liquid"
JSON.parse(STDIN.read).each do |template, data|
  sent = begin
    Liquid::Template.parse(template).render(data)
  rescue Liquid::SyntaxError => error
    "refused"
  end
  puts JSON.generate(sent.dup.force_encoding("utf-8").scrub("\ufffd"))
end
"""

_ROUTE = "properties"
_NAME = re.compile(r"[\w-]+")

Engine = Callable[[str, str, Ask], str]


def python(message: str, user_id: str, ask: Ask) -> str:
    """Render a message as the playground does."""
    return _text(preview(message, User(user_id), ask))


@contextmanager
def ruby() -> Iterator[Engine]:
    """Start Ruby's Liquid, on which Braze builds, and yield a function that renders messages with it."""
    with subprocess.Popen(
        ["ruby", "-Eutf-8", "-e", _RUBY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def render(message: str, user_id: str, ask: Ask) -> str:
            answers: dict[str, Any] = {}

            def record(request: Request) -> Answer:
                answer = ask(request)
                data = json.loads(answer.body) if answer.status == 200 else None
                answers[f"{request.target} {request.body}".strip()] = data
                return answer

            preview(message, User(user_id), record)
            print(json.dumps({"message": message, "user_id": user_id, "answers": answers}), file=stdin, flush=True)
            line = stdout.readline()
            assert line, "Ruby stopped; see standard error"
            return str(json.loads(line))

        yield render


def rendered_by_ruby(cases: list[tuple[str, object]]) -> list[str]:
    """Render templates with their data in one Ruby process, in UTC; "refused" for a template that Ruby rejects."""
    done = subprocess.run(
        ["ruby", "-Eutf-8", "-e", _RUBY_BATCH],
        input=json.dumps(cases),
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "TZ": "UTC"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def rendered_by_product(template: str, data: object) -> str:
    """Render a template as the playground does. `data`: the JSON object of its variables."""
    values = data if isinstance(data, dict) else {}
    plain = {name: value for name, value in values.items() if _NAME.fullmatch(name)}
    bodies = [plain, *(value for name, value in values.items() if name not in plain)]
    # assign cannot write every name; the option :save can.
    names = ["data__", *(name for name in values if name not in plain)]
    tags = [f"{{%- connected_content https://h/v1/{_ROUTE}?{at} :save {name} -%}}" for at, name in enumerate(names)]
    tags += [f"{{%- assign {name} = data__['{name}'] -%}}" for name in plain]

    def ask(request: Request) -> Answer:
        return Answer(200, {}, json.dumps(bodies[int(request.target.partition("?")[2])]), 0.0)

    rendering = preview("".join(tags) + "{% if true %}{% endif %}" + template, User("u"), ask)
    return rendering.message if rendering.outcome == "sent" else "refused"


@functools.cache
def ruby_is_missing() -> bool:
    """Return whether Ruby's Liquid is not installed."""
    ruby_path = shutil.which("ruby")
    return (
        ruby_path is None
        or subprocess.run([ruby_path, "-rliquid", "-e", ""], capture_output=True, check=False).returncode != 0
    )


def render(message: str, user_id: str, get: Callable[[str], dict[str, Any]], engine: Engine) -> str:
    """Return the rendered message without surrounding white space. `get`: returns the JSON for the path of a tag."""
    urls = []

    def ask(request: Request) -> Answer:
        urls.append(request.target)
        return Answer(200, {}, json.dumps(get(request.target)), 0.0)

    sent = engine(message, user_id, ask).strip()
    assert urls, "the message made no call"
    return sent


def _text(rendering: Rendering) -> str:
    return f"aborted: {rendering.reason}" if rendering.outcome == "aborted" else rendering.message
