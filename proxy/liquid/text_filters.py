"""The standard filters of text, as Ruby's Liquid has them."""

from __future__ import annotations

import base64
import html
import re
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes

from proxy.liquid.ruby import LONG, WHITE, RubyError, integer, text

_ENTITY = re.compile(r"""["><']|&(?!(?:[a-zA-Z]+|#[0-9]+);)""")
_LINE_END = re.compile(r"\r?\n")
_WORD = re.compile(r"[^\t\n\v\f\r ]+")
_BACKSLASH = re.compile(r"\\([0-9&'`\\]|k<[^>]*>)")
_INT = range(-(2**31), 2**31)


def downcase(value: object) -> str:
    """Return lower-case text. Ruby ignores the form of sigma at the end of a word."""
    return "".join(character.lower() for character in text(value))


def upcase(value: object) -> str:
    """Return upper-case text."""
    return text(value).upper()


def capitalize(value: object) -> str:
    """Return text with an upper-case first character, and lower case after it."""
    full = text(value)
    return full[:1].title() + downcase(full[1:])


def escape(value: object) -> str | None:
    """Escape text for HTML."""
    return None if value is None else html.escape(text(value)).replace("&#x27;", "&#39;")


def escape_once(value: object) -> str:
    """Escape text for HTML, except for entities."""
    return _ENTITY.sub(lambda match: escape(match[0]) or "", text(value))


def url_encode(value: object) -> str | None:
    """Encode text for a form."""
    return None if value is None else quote_plus(text(value), safe="")


def url_decode(value: object) -> str | None:
    """Decode the text of a form."""
    if value is None:
        return None
    try:
        return unquote_to_bytes(text(value).replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise RubyError("invalid byte sequence in UTF-8") from None


def base64_encode(value: object) -> str:
    """Encode text in base64."""
    return base64.b64encode(text(value).encode()).decode()


def base64_decode(value: object) -> str:
    """Decode base64."""
    return _from_base64(text(value), "base64_decode")


def base64_url_safe_encode(value: object) -> str:
    """Encode text in base64 for URLs."""
    return base64.urlsafe_b64encode(text(value).encode()).decode()


def base64_url_safe_decode(value: object) -> str:
    """Decode base64 for URLs, with or without padding."""
    encoded = text(value).translate({ord("-"): "+", ord("_"): "/"})
    if not encoded.endswith("="):
        encoded += "=" * (-len(encoded) % 4)
    return _from_base64(encoded, "base64_url_safe_decode")


def slice_(value: object, offset: object, length: object = None) -> object:
    """Return a part of a text or list."""
    start = integer(offset)
    count = 1 if length is None or length is False else integer(length)
    if start not in LONG or count not in LONG:
        raise RubyError("internal")
    whole: Any = value if isinstance(value, list | tuple) else text(value)
    if start < 0:
        start += len(whole)
    return whole[start : start + count] if start >= 0 and count >= 0 else whole[:0]


def truncate(value: object, length: object = 50, end: object = "...") -> str | None:
    """Cut a text to `length` characters, including `end`."""
    if value is None:
        return None
    full, limit, ending = text(value), integer(length), text(end)
    return full[: max(0, limit - len(ending))] + ending if len(full) > limit else full


def truncatewords(value: object, words: object = 15, end: object = "...") -> str | None:
    """Cut a text after `words` words; a shorter text is unchanged."""
    if value is None:
        return None
    full, limit = text(value), max(1, integer(words))
    if limit + 1 not in _INT:
        raise RubyError(f"integer {limit} too big for truncatewords")
    first_words = _WORD.findall(full)
    if len(first_words) > limit:
        return " ".join(first_words[:limit]) + text(end)
    # Ruby counts an empty word after a blank at the end.
    if len(first_words) == limit and full[-1:] in WHITE[1:] and full:
        return " ".join(first_words) + text(end)
    return full


def split(value: object, separator: object) -> list[str]:
    """Split a text. Empty parts at the end are dropped."""
    full, between = text(value), text(separator)
    if between == " ":
        return _WORD.findall(full)
    parts = full.split(between) if between else list(full)
    while parts and not parts[-1]:
        parts.pop()
    return parts


def strip(value: object) -> str:
    """Remove blanks at both ends."""
    return text(value).strip(WHITE)


def lstrip(value: object) -> str:
    """Remove blanks at the start."""
    return text(value).lstrip(WHITE)


def rstrip(value: object) -> str:
    """Remove blanks at the end."""
    return text(value).rstrip(WHITE)


def strip_html(value: object) -> str:
    """Remove HTML tags and comments, and scripts and styles with their text."""
    full = text(value)
    blocks = {"<script": "</script>", "<!--": "-->", "<style": "</style>"}
    pieces, at = [], 0
    for match in re.finditer("|".join(blocks), full):
        closing = blocks[match[0]]
        if match.start() < at or not closing:
            continue
        end = full.find(closing, match.end())
        if end < 0:
            blocks[match[0]] = ""  # a search from every later start would take quadratic time
            continue
        pieces.append(full[at : match.start()])
        at = end + len(closing)
    remaining = "".join(pieces) + full[at:]
    # Without a `>` after it, each `<` would be searched to the end.
    tags, close, after = remaining.rpartition(">")
    return re.sub(r"<[^>]*>", "", tags + close) + after


def strip_newlines(value: object) -> str:
    """Remove line ends."""
    return _LINE_END.sub("", text(value))


def newline_to_br(value: object) -> str:
    """Put a `<br />` before each line end."""
    return _LINE_END.sub("<br />\n", text(value))


def replace(value: object, old: object, new: object = "") -> str:
    """Replace each occurrence of a text."""
    return _replaced(text(value), text(old), text(new), -1)


def replace_first(value: object, old: object, new: object = "") -> str:
    """Replace the first occurrence of a text."""
    return _replaced(text(value), text(old), text(new), 1)


def replace_last(value: object, old: object, new: object) -> str:
    """Replace the last occurrence of a text."""
    full, part = text(value), text(old)
    at = full.rfind(part)
    return full if at < 0 else full[:at] + text(new) + full[at + len(part) :]


def remove(value: object, part: object) -> str:
    """Remove each occurrence of a text."""
    return text(value).replace(text(part), "")


def remove_first(value: object, part: object) -> str:
    """Remove the first occurrence of a text."""
    return text(value).replace(text(part), "", 1)


def remove_last(value: object, part: object) -> str:
    """Remove the last occurrence of a text."""
    return replace_last(value, part, "")


def append(value: object, end: object) -> str:
    """Add a text at the end."""
    return text(value) + text(end)


def prepend(value: object, start: object) -> str:
    """Add a text at the start."""
    return text(start) + text(value)


def _from_base64(encoded: str, name: str) -> str:
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    # Ruby also rejects the bits that Python ignores.
    if base64.b64encode(decoded).decode() != encoded:
        raise RubyError(f"invalid base64 provided to {name}")
    return decoded.decode("utf-8", "replace")


def _replaced(full: str, old: str, new: str, count: int) -> str:
    if "\\" not in new:
        return full.replace(old, new, count)
    if r"\k<" in new and old in full:
        raise RubyError("internal")

    def replacement(match: re.Match[str]) -> str:
        parts = {"0": old, "&": old, "\\": "\\", "`": full[: match.start()], "'": full[match.end() :]}
        return _BACKSLASH.sub(lambda escaped: parts.get(escaped[1], ""), new)

    return re.sub(re.escape(old), replacement, full, count=max(0, count))
