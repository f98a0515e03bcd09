"""
Databases that take another one's protocol and version number, and are not it.

They are known by what they say of themselves. Each string here is what the engine's own documentation or source shows;
`docs/reference/engines.md` names the sources, and says of each engine what is missing.
"""

from dataclasses import dataclass
from typing import Any

POSTGRESQL = "PostgreSQL"
# In what `version()` returns, which begins with "PostgreSQL" for these.
OF_POSTGRESQL = {
    "-YB-": "YugabyteDB",
    "Greenplum": "Greenplum",
    "Cloudberry": "Cloudberry",
    "Redshift": "Amazon Redshift",
}
# In what `VERSION()` returns, in lower case.
OF_MYSQL = {"vitess": "Vitess", "oceanbase": "OceanBase", "tidb": "TiDB"}
WARNED_OF = frozenset({"TiDB"})  # its claims can come late, and at most one commits; the others are refused
# Aurora DSQL does not tell itself from PostgreSQL in `version()`, but by a table of its own.
ASK = (
    "SELECT version(), EXISTS (SELECT 1 FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'sys' AND c.relname = 'iam_pg_role_mappings')"
)


@dataclass(frozen=True, slots=True)
class OtherEngine:
    """A database that is not the one whose driver reaches it."""

    name: str

    @property
    def is_refused(self) -> bool:
        return self.name not in WARNED_OF


def behind_postgresql(version: str, *, has_dsql_roles: bool) -> OtherEngine | None:
    """Which other engine says *version* to a driver for PostgreSQL? One that says another name is called by it."""
    if not version.startswith(POSTGRESQL):
        return OtherEngine(version)
    if has_dsql_roles:
        return OtherEngine("Aurora DSQL")
    return next((OtherEngine(name) for part, name in OF_POSTGRESQL.items() if part in version), None)


def behind_mysql(version: str) -> OtherEngine | None:
    """Which other engine says *version* to a driver for MySQL?"""
    said = version.lower()
    return next((OtherEngine(name) for part, name in OF_MYSQL.items() if part in said), None)


def other_engine(vendor: str, cursor: Any) -> OtherEngine | None:
    """Ask the server behind *cursor*, Django's or the driver's, whether it is another engine than *vendor* is."""
    if vendor == "postgresql":
        cursor.execute(ASK)
        version, has_dsql_roles = cursor.fetchone()
        return behind_postgresql(version, has_dsql_roles=has_dsql_roles)
    if vendor == "mysql":
        cursor.execute("SELECT VERSION()")
        return behind_mysql(cursor.fetchone()[0])
    return None
