"""`{% load idempotency %}` has one tag, `{% idempotency_key %}`, for a form whose view is protected."""

import os
import time

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from django_idempotency.adapters.attempts import SENT_KEY
from django_idempotency.core.keys import KEY_FIELD, time_ordered_key

register = template.Library()


def new_key() -> str:
    """A key that nobody can guess."""
    return time_ordered_key(time.time_ns() // 1_000_000, os.urandom(10))


@register.simple_tag(takes_context=True)
def idempotency_key(context: template.Context) -> SafeString:
    """
    A hidden field with a new key, for inside a form. A form that is shown again with its errors has the key with which
    it was sent. Django's cache does not keep the page, because two visitors must not have one key.
    """
    state = getattr(context.get("request"), "__dict__", {})
    state["_cache_update_cache"] = False  # as Django's own middleware says it; another cache needs `private`
    # Once: a second form on the page has a key of its own.
    key = state.pop(SENT_KEY, None) or new_key()
    # Firefox would fill in the old key after a reload.
    return format_html('<input type="hidden" name="{}" value="{}" autocomplete="off">', KEY_FIELD, key)
