"""The setting `IDEMPOTENCY`: read and checked once, and again after a test has changed it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from django_idempotency.core.policy import OPTIONS, Policy, ResolvedPolicy, check_options, resolve
from django_idempotency.exceptions import PolicyError

SETTING = "IDEMPOTENCY"
OWN = frozenset(
    {"COUNTS", "ENCRYPTION", "EXEMPT", "PROTECT", "STORES", "UNPROTECTED"}
)  # names in the setting that are not options of an operation
CACHED = 4096  # policies: more than a project has views
DEFAULT_STORES: Mapping[str, Mapping[str, Any]] = {
    "default": {"BACKEND": "django_idempotency.stores.database.DatabaseStore"},
}


@lru_cache(maxsize=1)
def project_options() -> Mapping[str, Any]:
    """The project's own options. Raises `PolicyError` for an unknown name or a bad value in the setting."""
    value = _setting()
    counts(), protected_routes(), exempt_routes(), unprotected()  # checked with the rest
    options = {name.lower(): option for name, option in value.items() if name not in OWN}
    for name in value:
        if name != name.upper():
            raise PolicyError(f"{SETTING}: write option {name!r} in capitals, like {name.upper()!r}.")
    return check_options(options, SETTING)


@lru_cache(maxsize=1)
def stores() -> Mapping[str, Mapping[str, Any]]:
    """The configured stores by alias. Raises `PolicyError` if the setting has another shape."""
    configured = _setting().get("STORES", {})
    if not isinstance(configured, Mapping) or not all(isinstance(store, Mapping) for store in configured.values()):
        raise PolicyError(f"{SETTING}['STORES'] must be a dict of dicts, like {dict(DEFAULT_STORES)!r}.")
    return {**DEFAULT_STORES, **configured}


@lru_cache(maxsize=1)
def counts() -> bool:
    """Whether decisions are counted (`COUNTS`). Raises `PolicyError` if the value is not a bool."""
    value = _setting().get("COUNTS", True)
    if not isinstance(value, bool):
        raise PolicyError(f"{SETTING}['COUNTS'] must be True or False, not {value!r}.")
    return value


@lru_cache(maxsize=1)
def protected_routes() -> tuple[str, ...] | None:
    """The patterns of the routes that the middleware protects (`PROTECT`); None for all. Raises `PolicyError`."""
    return None if "PROTECT" not in _setting() else _patterns("PROTECT")


@lru_cache(maxsize=1)
def exempt_routes() -> tuple[str, ...]:
    """The patterns of the routes that the middleware leaves out (`EXEMPT`). Raises `PolicyError`."""
    return _patterns("EXEMPT")


@lru_cache(maxsize=1)
def unprotected() -> str:
    """
    What happens to a key that is sent to a view which would ignore it (`UNPROTECTED`): "refuse", "warn" or "ignore".
    Raises `PolicyError` for anything else.
    """
    value = _setting().get("UNPROTECTED", "ignore")
    if value not in ("refuse", "warn", "ignore"):
        raise PolicyError(f'{SETTING}[\'UNPROTECTED\'] must be "refuse", "warn" or "ignore", not {value!r}.')
    return str(value)


def encryption() -> Mapping[str, Any] | None:
    """How stored answers are encrypted (`ENCRYPTION`), as `encryption.sealer` reads it; None if they are not."""
    value = _setting().get("ENCRYPTION")
    if value is not None and not isinstance(value, Mapping):
        raise PolicyError(f"{SETTING}['ENCRYPTION'] must be a dict with 'KEYS', not a {type(value).__name__}.")
    return value


def _patterns(name: str) -> tuple[str, ...]:
    value = _setting().get(name, ())
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each.strip("/") for each in value):
        raise PolicyError(
            f'{SETTING}[{name!r}] must be a list of route patterns, like ["api/payments/*"], not {value!r}.'
        )
    return tuple(value)


def configured_stores() -> tuple[str, ...]:
    """The aliases in `IDEMPOTENCY["STORES"]`, without the implicit default."""
    return tuple(_setting().get("STORES", {}))


def _setting() -> Mapping[str, Any]:
    value = getattr(settings, SETTING, {})
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise PolicyError(f"{SETTING} must be a dict whose keys are option names in capitals.")
    return value


@lru_cache(maxsize=CACHED)
def resolved(*policies: Policy) -> ResolvedPolicy:
    """
    Merge the setting and *policies*; the last one wins. Cached, because each request looks its policy up.

    Raises `PolicyError` for a dotted path that cannot be imported, and for a store or database that is not configured.
    """
    return _known(resolve((project_options(), *(policy.options for policy in policies)), import_string))


def _known(result: ResolvedPolicy) -> ResolvedPolicy:
    """*result*, if it names what there is. Its async callables are called on the event loop, and waited for."""
    awaited: dict[str, Any] = {
        name: async_to_sync(value) for name in OPTIONS if iscoroutinefunction(value := getattr(result, name))
    }
    if awaited:
        result = replace(result, **awaited)
    if result.store not in stores():
        raise PolicyError(f"Option 'store': {SETTING}['STORES'] has no {result.store!r}; it has {', '.join(stores())}.")
    if isinstance(result.using, str) and result.using not in settings.DATABASES:
        raise PolicyError(f"Option 'using': DATABASES has no {result.using!r}; it has {', '.join(settings.DATABASES)}.")
    return result


def database(policy: ResolvedPolicy, *args: Any, **kwargs: Any) -> str | None:
    """
    Find the database alias that the option `using` names; None leaves the choice to the store. A callable gets the
    request or the event's arguments. Raises `PolicyError` if it returns an alias that is not configured.
    """
    if not callable(policy.using):
        return policy.using
    alias = policy.using(*args, **kwargs)
    if alias not in settings.DATABASES:
        raise PolicyError(f"The option 'using' returned {alias!r}, which is not in DATABASES.")
    return alias


@lru_cache(maxsize=CACHED)
def resolved_once(own: Policy) -> ResolvedPolicy:
    """Merge *own* with the options of the setting that apply to events. Raises as `resolved` does."""
    project = {
        name: value
        for name, value in project_options().items()
        # A callable in the setting reads requests, but for a probe.
        if not OPTIONS[name].of_requests and (not callable(value) or name == "uncertain")
    }
    return _known(resolve((project, own.options), import_string))


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting in (SETTING, "DATABASES"):
        project_options.cache_clear()
        stores.cache_clear()
        counts.cache_clear()
        protected_routes.cache_clear()
        exempt_routes.cache_clear()
        unprotected.cache_clear()
        resolved.cache_clear()
        resolved_once.cache_clear()
