"""The setting: read whole, refused with its name, forgotten when it changes."""

from datetime import timedelta

import pytest
from django.test import override_settings

from django_idempotency import Policy, conf
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores import StoreHandler, stores
from django_idempotency.stores.base import TransactionalStore
from django_idempotency.stores.database import DatabaseStore
from tests.ids import spelt

OTHER = {"BACKEND": "django_idempotency.stores.database.DatabaseStore"}


class CustomStore(DatabaseStore):
    """A third party's store, which has an option of its own."""

    def __init__(self, alias, options):
        super().__init__(alias, {})
        self.options = options


class HalfStore(TransactionalStore):
    """A third party's store that is not finished."""


def test_no_setting_is_needed():
    """Everything has a default."""
    resolved = conf.resolved()

    assert (resolved.ttl, resolved.store, resolved.required) == (86400.0, "default", False)
    assert isinstance(stores["default"], DatabaseStore)


def test_the_setting_is_the_farthest_level():
    """Setting, class, decorator: the nearest wins."""
    with override_settings(IDEMPOTENCY={"REQUIRED": True, "MAX_BODY": 5}):
        assert conf.resolved().required
        assert conf.resolved(Policy(max_body=6)).max_body == 6
        assert conf.resolved(Policy(max_body=6), Policy(max_body=7)).max_body == 7
    assert not conf.resolved().required


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ([], "IDEMPOTENCY must be a dict"),
        (None, "IDEMPOTENCY must be a dict"),
        ({1: 2}, "IDEMPOTENCY must be a dict"),
        ({"REQUIERD": True}, "Did you mean 'required'"),
        ({"required": True}, "write option 'required' in capitals, like 'REQUIRED'"),
        ({"TTL": 5}, "IDEMPOTENCY: option 'ttl' must be a datetime.timedelta, not 5"),
        ({"STORE": "redis"}, "Option 'store': IDEMPOTENCY.'STORES'. has no 'redis'; it has default"),
        ({"USING": "nowhere"}, "Option 'using': DATABASES has no 'nowhere'; it has default, other"),
        ({"SCOPE": "tests.missing.scope"}, "Option 'scope': 'tests.missing.scope' cannot be imported"),
        ({"STORES": []}, "IDEMPOTENCY.'STORES'. must be a dict of dicts"),
        ({"STORES": {"a": "DatabaseStore"}}, "IDEMPOTENCY.'STORES'. must be a dict of dicts"),
    ],
    ids=spelt,
)
def test_a_bad_setting_is_named(setting, says):
    """Which option, what it must be, what there is instead."""
    with override_settings(IDEMPOTENCY=setting), pytest.raises(PolicyError, match=says):
        conf.resolved()


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ({}, "BACKEND'. must be the dotted path of a store class, not None"),
        ({"BACKEND": "tests.missing.Store"}, "'tests.missing.Store' cannot be imported"),
        ({"BACKEND": "datetime.timedelta"}, "must be the dotted path of a store class, not 'datetime.timedelta'"),
        ({"BACKEND": 5}, "must be the dotted path of a store class, not 5"),
        ({"BACKEND": f"{__name__}.HalfStore"}, "HalfStore. does not implement claim, classify, complete, "),
        ({**OTHER, "OPTION": {}}, "has no 'OPTION': it takes 'BACKEND' and 'OPTIONS'"),
        ({**OTHER, "OPTIONS": {"CACHE": "x"}}, "has no option 'CACHE'"),
    ],
    ids=spelt,
)
def test_a_bad_store_is_named(store, says):
    """Which store, and what is wrong with it."""
    with override_settings(IDEMPOTENCY={"STORES": {"mine": store}}), pytest.raises(PolicyError, match=says) as caught:
        StoreHandler()["mine"]
    assert "mine" in str(caught.value)


def test_a_store_that_is_not_configured_is_named():
    """With those that are."""
    with pytest.raises(PolicyError, match="has no 'redis'; it has default"):
        stores["redis"]


def test_a_store_is_made_once():
    """It holds no connection, so that all threads share it."""
    assert stores["default"] is stores["default"]


def test_a_third_partys_store():
    """A dotted path, or the class itself; the default one stays beside it."""
    configured = {
        "STORES": {"a": {"BACKEND": f"{__name__}.CustomStore", "OPTIONS": {"X": 1}}, "b": {"BACKEND": CustomStore}}
    }
    with override_settings(IDEMPOTENCY=configured):
        assert type(stores["a"]).__name__ == "CustomStore"
        assert (stores["a"].alias, stores["a"].options) == ("a", {"X": 1})
        assert isinstance(stores["b"], CustomStore)
        assert isinstance(stores["default"], DatabaseStore)


def test_a_test_that_changes_the_setting_is_heard():
    """`override_settings` makes stores and options anew, and gives them back."""
    before = stores["default"]
    with override_settings(IDEMPOTENCY={"TTL": timedelta(seconds=5)}):
        assert conf.resolved().ttl == 5
        assert stores["default"] is not before
    assert conf.resolved().ttl == 86400


def test_what_is_resolved_is_kept():
    """No setting is parsed for a request."""
    policy = Policy(required=True)

    assert conf.resolved(policy) is conf.resolved(policy)


def test_what_the_setting_says_of_requests_does_not_hold_for_events():
    """A scope that reads a request cannot read an event; how long records live holds for both."""
    setting = {
        "SCOPE": lambda request: "x",
        "USING": lambda request: "x",
        "TTL": timedelta(seconds=5),
        "OPERATION": "y",
    }
    with override_settings(IDEMPOTENCY=setting):
        resolved = conf.resolved_once(Policy(key=str))

    assert (resolved.scope, resolved.using, resolved.operation, resolved.ttl) == (None, None, None, 5)
