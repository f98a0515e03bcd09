"""What a project's callables give: taken if every database can keep it, else an error that names the option."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency.core.keys import check_string
from django_idempotency.exceptions import PolicyError
from tests.ids import spelt


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_any_text_of_characters_is_taken(text):
    """Whatever tenants are called."""
    assert check_string("scope", text) == text


@pytest.mark.parametrize("value", ["", "a" * 256, "a\0b", "\ud800", None, 5, b"a"], ids=spelt)
def test_what_no_database_keeps_names_the_option(value):
    """NUL and lone surrogates among it: not a database's error in the middle of a request."""
    with pytest.raises(PolicyError, match="The option 'scope' must return a string"):
        check_string("scope", value)
