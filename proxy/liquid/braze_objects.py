"""Values that only Braze knows: their names in a message, and the test values that replace them.

A name is written as in the message: `${first_name}`, `custom_attribute.${plan}`, `context`. A tag has the name of the
tag and its first words: `catalog_items.products`, `catalog_selection_items.products.sale`, `promotion.spring`,
`translation.greeting`.

Sources: Braze's documentation, User guide > Personalize > Liquid > "Supported personalization tags"; Sources >
"Context variables", "Canvas entry properties", "Promotion codes"; Catalogs > "Use catalogs"; Content Blocks;
Localization > "Multi-language messages".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import ATTRIBUTES, OUTPUT, Markup, attributes
from proxy.liquid.types import User

_DEVICE = (
    "id carrier idfa google_ad_id roku_ad_id model os platform browser ad_tracking_enabled foreground_push_enabled"
)
DOCUMENTED: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "": "city country date_of_birth email_address first_name gender language last_name last_used_app_date "
        "most_recent_app_version most_recent_locale most_recent_location phone_number time_zone user_id braze_id "
        "random_bucket_number set_user_to_unsubscribed_url unsubscribe_url set_user_to_subscribed_url "
        "set_user_to_opted_in_url set_user_to_one_click_list_unsubscribe email_footer",
        "most_recently_used_device": _DEVICE,
        "targeted_device": _DEVICE,
        "app": "api_id name",
        "sms": "inbound_message_body inbound_media_urls",
        "whats_app": "inbound_message_body inbound_media_urls inbound_flow_response inbound_product_id "
        "inbound_catalog_id",
        "campaign": "api_id dispatch_id name message_name message_api_id",
        "canvas": "name api_id variant_name variant_api_id",
        "card": "api_id name",
    }.items()
}
"""The attributes of each object with a fixed list of attributes; the object of `${…}` without a prefix is empty."""
USER_IDS = frozenset({"userid", "externalid", "externaluserid", "customerid"})
"""Names that authors write for the user id, without signs."""
_OTHER_OBJECTS = (
    "canvas_step dispatch forloop language message message_extras nested_custom_attribute product_recommendation "
    "promotion shopping_cart tablerowloop time_zone translation trigger_properties"
)
_CUSTOM = frozenset(
    {"custom_attribute", "event_properties", "api_trigger_properties", "canvas_entry_properties", "context"}
    | {"subscribed_state", "content_blocks", "preference_center"}
)
"""Objects with attributes that each workspace chooses."""
BRAZE_OBJECTS = (_CUSTOM | DOCUMENTED.keys() | frozenset(_OTHER_OBJECTS.split())) - {""}
"""Variables and objects that Braze sets."""
_WHOLE = re.compile(
    r"(?<![\w.'\"$-])(context|canvas_entry_properties|api_trigger_properties)\b(?!\s*(?:\.\s*\$\{|=[^=]))"
)
"""An object that a message uses as a whole."""
_TAGS: Mapping[str, int] = {
    "catalog_items": 1,
    "catalog_selection_items": 2,
    "promotion": 1,
    "translation": 1,
    "landing_page_url": 1,
}
"""The tags with values, and the number of words in their names."""
_TAG_VALUE = re.compile(rf"(?:{'|'.join(_TAGS)})(?:\..+)?")
_FROM_THE_REQUEST = frozenset({("", "user_id"), ("most_recently_used_device", "id"), ("targeted_device", "id")})
_SETS = re.compile(r"(?:\A|:save)\s*(context|canvas_entry_properties|api_trigger_properties)\b")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORD = re.compile(rf"{_QUOTED.pattern}|[^\s,()]+")


def value_names(pieces: Iterable[Markup]) -> Iterator[tuple[str, int]]:
    """Yield name and line of each value that only Braze knows. A name may repeat.

    The name of a tag whose words contain outputs is known only when the tag is rendered.
    """
    local_names: set[str] = set()
    for markup in pieces:
        if markup.kind == "verbatim":
            continue
        for prefix, name in attributes(markup.text):
            if (prefix, name) not in _FROM_THE_REQUEST:
                yield f"{prefix}.${{{name}}}" if prefix else f"${{{name}}}", markup.line
        if words := _TAGS.get(markup.name):
            if "{{" not in (name := tag_value_name(markup.name, arguments(markup.rest)[:words])):
                yield name, markup.line
            continue
        text = markup.text
        if markup.name == "connected_content":  # only its outputs are expressions
            text = " ".join(output[0] for output in OUTPUT.finditer(text))
        for name in _WHOLE.findall(_QUOTED.sub("", text)):
            if name not in local_names and markup.name != "capture":
                yield name, markup.line
        if markup.name in ("assign", "capture", "for", "connected_content"):
            local_names.update(_SETS.findall(markup.rest))


def arguments(text: str) -> list[str]:
    """Return the words of a tag such as `catalog_items products 1, 2` or `promotion('spring')`."""
    return [word.strip("'\"") for word in _WORD.findall(text) if word.strip("'\"")]


def tag_value_name(tag: str, words: Iterable[str]) -> str:
    """Return the name of the value of a tag."""
    return ".".join((tag, *words))


def misspelt(name: str) -> str | None:
    """Return the attribute of Braze that `name` resembles; None if `name` is such an attribute or resembles none."""
    prefix, attribute = (attributes(name) or [("", "")])[0]
    if braze_object := suggest_object(prefix):
        return name.replace(prefix, braze_object, 1)
    suggestion = suggest_attribute(attribute, prefix)
    return name.replace(f"{{{attribute}}}", f"{{{suggestion}}}") if suggestion else None


def suggest_object(prefix: str) -> str | None:
    """Return the object of Braze that was probably meant; None if `prefix` is such an object or resembles none."""
    return None if not prefix or prefix in BRAZE_OBJECTS else similar(prefix, sorted(BRAZE_OBJECTS))


def suggest_attribute(attribute: str, prefix: str = "") -> str | None:
    """Return the documented attribute of `prefix` that was probably meant; None if `attribute` is documented too."""
    known = sorted(DOCUMENTED.get(prefix, ()))
    if not attribute or attribute in known:
        return None
    if prefix == "" and re.sub(r"[\W_]", "", attribute).lower() in USER_IDS:
        return "user_id"
    return similar(attribute, known) or next((name for name in known if name.startswith(f"{attribute}_")), None)


def is_value_name(name: str) -> bool:
    """Return whether a test value can have this name."""
    objects = _CUSTOM | DOCUMENTED.keys()
    parts = attributes(name)
    if len(parts) == 1 and name.endswith("}"):
        prefix = parts[0][0]
        return name.startswith(f"{prefix}.${{" if prefix else "${") and parts[0][1] != ""
    return name in objects - {""} or bool(_TAG_VALUE.fullmatch(name))


def variables(values: Mapping[str, Any], user: User) -> dict[str, Any]:
    """Return the variables of a message: the test values, and the ids of the user."""
    objects: dict[str, Any] = {}
    for name, value in sorted(values.items(), key=lambda entry: "${" in entry[0]):  # objects before their attributes
        for prefix, attribute in attributes(name):
            container = objects.setdefault(prefix or ATTRIBUTES, {})
            if isinstance(container, dict):
                container[attribute.replace('"', "")] = value
        if "${" not in name and not _TAG_VALUE.fullmatch(name):
            objects[name] = dict(value) if isinstance(value, dict) else value
    ids: dict[str, dict[str, Any]] = {ATTRIBUTES: {"user_id": user.user_id or None}}
    for device in ("most_recently_used_device", "targeted_device"):
        ids[device] = {"id": user.device_id or None}
    for name, value in ids.items():
        container = objects.get(name)
        objects[name] = {**container, **value} if isinstance(container, dict) else value
    return objects


def catalog_rows(rows: Any, ids: list[str]) -> list[Any]:
    """Return the items of a catalog with these ids, in the order of the ids.

    `rows`: the test value, a list of items or an object from id to item. Items without ids are returned as given.
    Without a test value, an item has only its id.
    """
    if rows is None:
        return [{"id": item} for item in ids]
    if isinstance(rows, dict):
        return [rows[item] for item in ids if item in rows]
    if not isinstance(rows, list):
        return []
    by_id = {str(row["id"]): row for row in rows if isinstance(row, dict) and "id" in row}
    return [by_id[item] for item in ids if item in by_id] if by_id else rows
