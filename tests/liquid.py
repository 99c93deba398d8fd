"""Renders Braze messages: each Connected Content tag asks the service over HTTP, a real Liquid engine does the rest."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import liquid

_TAG = re.compile(r"{% connected_content (?P<url>\S+(?: \| url_param_escape}}\S*)?) (?P<options>:.*?)%}", re.DOTALL)
_USER_ID = re.compile(r"{{\$\{user_id\} \| url_param_escape}}")
_RUBY = """
require "json"; require "liquid"
given = JSON.parse(STDIN.read)
print Liquid::Template.parse(given["template"]).render(given["variables"])
"""

Engine = Callable[[str, dict[str, Any]], str]


def python(template: str, variables: dict[str, Any]) -> str:
    """Render with python-liquid."""
    return liquid.Environment().from_string(template).render(**variables)


def ruby(template: str, variables: dict[str, Any]) -> str:
    """Render with Ruby's Liquid, the engine that Braze builds on."""
    given = json.dumps({"template": template, "variables": variables})
    return subprocess.run(
        ["ruby", "-Eutf-8", "-e", _RUBY],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        encoding="utf-8",
    ).stdout


@functools.cache
def ruby_is_missing() -> bool:
    """Say whether Ruby's Liquid cannot be run here."""
    found = shutil.which("ruby")
    return (
        found is None or subprocess.run([found, "-rliquid", "-e", ""], capture_output=True, check=False).returncode != 0
    )


def asked(message: str, user_id: str) -> list[tuple[str, str]]:
    """Return path and variable of each Connected Content tag in `message`, for a user."""
    found = []
    for tag in _TAG.finditer(message):
        url = _USER_ID.sub(quote(user_id, safe=""), tag["url"])
        assert "{{" not in url, "the id must be escaped with url_param_escape"
        saved = re.search(r":save (\w+)", tag["options"])
        assert saved, "a tag without :save prints JSON into the message"
        found.append((re.sub(r"^https://[^/]+", "", url), saved[1]))
    return found


def render(message: str, user_id: str, get: Callable[[str], dict[str, Any]], engine: Engine) -> str:
    """Return what Braze would send: `get` answers each tag's path, and `engine` renders the rest."""
    variables = {variable: get(path) for path, variable in asked(message, user_id)}
    assert variables, "no tag was understood"
    return engine(_TAG.sub("", message), variables).strip()
