"""Two more databases of the run's own kind, on its server: real ones, with everything that `migrate` makes."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from tests.app.serving import background, gate
from tests.sharded.project import SHARDS

__all__ = ["background", "gate"]


@pytest.fixture(scope="module")
def shards(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[str, ...]]:
    """The aliases of the shards, which Django knows meanwhile."""
    default = connections["default"].settings_dict
    with django_db_blocker.unblock():
        for alias in SHARDS:
            name = str(default["NAME"])
            name = name.replace(".sqlite3", f"_{alias}.sqlite3") if "sqlite3" in name else f"{name}_{alias}"
            connections.settings[alias] = {**default, "NAME": name, "TEST": {**default["TEST"], "NAME": name}}
            connections[alias].creation.create_test_db(verbosity=0, autoclobber=True)
    yield SHARDS
    with django_db_blocker.unblock():
        for alias in SHARDS:
            connections[alias].creation.destroy_test_db(connections[alias].settings_dict["NAME"], verbosity=0)
            connections[alias].close()
            del connections[alias], connections.settings[alias]
