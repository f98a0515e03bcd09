"""
The stores: a store knows claims and records, neither HTTP nor handlers, and opens no transaction.

`stores["default"]` is made at first use and kept. Read `base`, the contract; `database.store`, then `database.dialect`
and one database, of which `sqlite` is the shortest; `redis.store` with its `scripts`.
"""

from django.apps import apps
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from django_idempotency import conf, encryption
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.base import LeasedStore, Store, TransactionalStore


class StoreHandler:
    """
    Stores by alias, one of each for the whole process.

    It is not Django's `BaseConnectionHandler`, because every request would pay for a look-up per thread.
    """

    def __init__(self) -> None:
        self._made: dict[str, Store] = {}

    def __getitem__(self, alias: str) -> Store:
        """The store *alias*. Raises `PolicyError` if it is not configured or cannot be made."""
        made = self._made.get(alias)
        return self._made.setdefault(alias, self._make(alias)) if made is None else made

    def _make(self, alias: str) -> Store:
        if not apps.is_installed("django_idempotency"):
            raise PolicyError(
                "Something is protected by django_idempotency, which is not in INSTALLED_APPS: add it there, then run"
                " `manage.py migrate`."
            )
        if alias not in conf.stores():
            raise PolicyError(f"{conf.SETTING}['STORES'] has no {alias!r}; it has {', '.join(conf.stores())}.")
        configured = dict(conf.stores()[alias])
        where = f"{conf.SETTING}['STORES'][{alias!r}]"
        options = configured.pop("OPTIONS", {})
        path = configured.pop("BACKEND", None)
        if configured:
            raise PolicyError(f"{where} has no {min(configured)!r}: it takes 'BACKEND' and 'OPTIONS'.")
        try:
            backend = import_string(path) if isinstance(path, str) else path
        except ImportError as error:
            raise PolicyError(f"{where}['BACKEND']: {path!r} cannot be imported: {error}") from error
        if not (isinstance(backend, type) and issubclass(backend, (LeasedStore, TransactionalStore))):
            raise PolicyError(f"{where}['BACKEND'] must be the dotted path of a store class, not {path!r}.")
        if missing := getattr(backend, "__abstractmethods__", None):
            raise PolicyError(f"{where}['BACKEND']: {path!r} does not implement {', '.join(sorted(missing))}.")
        if not backend.encrypts and encryption.sealer() is not None:
            raise PolicyError(
                f"{where}['BACKEND']: {path!r} keeps answers in clear, and {encryption.NAME} is set. Let its class seal"
                " them and say `encrypts = True`, or leave one of the two out."
            )
        return backend(alias, options)

    def forget(self) -> None:
        """Make every store again at its next use."""
        self._made.clear()


stores = StoreHandler()


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting in (conf.SETTING, "CACHES"):
        stores.forget()
