"""Generates JSON values of any shape with hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def json_values(max_leaves: int = 12, *, max_text: int | None = None) -> st.SearchStrategy[Any]:
    """Return a strategy of JSON values. `max_text`: the maximum length of a text or name."""
    texts = st.text(max_size=max_text)
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=max_leaves,
    )
