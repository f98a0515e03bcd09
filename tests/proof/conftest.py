"""Real processes on the database of this run; `PROOF_SCALE=10` makes races and state machine ten times as long."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from rest_framework.authtoken.models import Token

from tests.proof.lab import Lab


@pytest.fixture(scope="session")
def _lab(django_db_setup: None) -> Iterator[Lab]:
    lab = Lab(str(connection.settings_dict["NAME"]))
    yield lab
    lab.close()


@pytest.fixture
def lab(transactional_db: None, _lab: Lab) -> Iterator[Lab]:
    """Makes processes that can be killed; what is left of them ends with the test."""
    yield _lab
    _lab.end_children()


@pytest.fixture
def token(user: Any) -> str:
    return Token.objects.create(user=user).key


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Say in the run's summary how many points, kills and violations there were."""

    def count(what: str, **numbers: int) -> None:
        record_property("proof", {"what": what, **numbers})

    return count
