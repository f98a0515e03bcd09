"""
Encryption at rest: the setting `ENCRYPTION`, and the seal around what the stores keep of answers, results and requests.

A sealed value is a label (`LABEL`, the length of the key's id, the id), a nonce of 96 bits, and ciphertext and tag of
AES-256-GCM. Each identity has a key of its own, derived from the configured one by HKDF-Expand (RFC 5869, 2.3), so that
no key meets the 2^32 messages that random nonces allow it (NIST SP 800-38D, 8.3). Identity, label and place are
associated data: a value opens in its own place alone. Of a sealed answer the column `head` has the label, and `body`
has the rest.

Whatever does not open raises `Unreadable`, and the stores take that for an unknown outcome.
"""

import hmac
import re
import secrets
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from django_idempotency import conf
from django_idempotency.core.keys import MAX_STRING
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, StoreUnavailable

LABEL = b"\0sealed 1 "  # no JSON begins so, and every unsealed head, progress and request is JSON
KEY, NONCE, LENGTH = 32, 12, 4  # bytes
LONGEST_ID = 64  # characters
_ID = re.compile(rf"[!-~]{{1,{LONGEST_ID}}}")
NAME = f"{conf.SETTING}['ENCRYPTION']"
MAKE = "python -c 'import base64, secrets; print(base64.b64encode(secrets.token_bytes(32)).decode())'"


class Unreadable(ValueError):
    """What is stored does not open: its key is gone, it was changed, or it is another record's."""


class Keys(Protocol):
    """
    Keys by id. An object of this shape, which `KEYS` names, may have a key for each scope, or ask a key service; it is
    called inside requests, so it keeps in memory what it has found. *scope* is cut at 255 characters, as in the table.

    It may have a method `drop(scope)` that destroys the keys of a scope for good, for `manage.py idempotency_erase`.
    """

    def for_scope(self, scope: str) -> tuple[str, bytes] | None:
        """The id (1 to 64 visible ASCII characters) and the key (32 bytes) to seal with. None leaves it unsealed."""

    def get(self, id: str, scope: str) -> bytes | None:
        """The key of this *id*, or None if it is gone. An exception means that it cannot be asked now (503)."""


class SettingKeys:
    """The keys in the setting, by id, for all scopes. *current* is the id to seal with, or None to seal nothing."""

    def __init__(self, keys: Mapping[str, bytes], current: str | None) -> None:
        self.keys = keys
        self.current = None if current is None else (current, keys[current])

    def for_scope(self, scope: str) -> tuple[str, bytes] | None:
        return self.current

    def get(self, id: str, scope: str) -> bytes | None:
        return self.keys.get(id)


class Sealer:
    """Seals and opens values with *keys*. With *require*, a value that is not sealed does not open."""

    def __init__(self, keys: Keys, *, require: bool) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise PolicyError(f"{NAME} needs cryptography: pip install 'django-idempotency[encryption]'.") from error
        self.keys = keys
        self.require = require
        self._cipher, self._invalid = AESGCM, InvalidTag

    def seal(self, scope: str, digest: bytes, place: bytes, plain: bytes) -> tuple[bytes, bytes]:
        """Label and rest of *plain*, or an empty label and *plain*. Raises what the keys raise."""
        found = self.keys.for_scope(scope[:MAX_STRING])
        if found is None:
            if self.require:
                raise PolicyError(
                    f"{NAME}['REQUIRE'] would refuse what `for_scope` leaves unencrypted: it gave no key."
                )
            return b"", plain
        id, key = found
        label = label_of(id)
        nonce = secrets.token_bytes(NONCE)
        cipher = self._cipher(_derive(key, digest))
        return label, nonce + cipher.encrypt(nonce, plain, _bound(label, digest, place))

    def open(self, scope: str, digest: bytes, place: bytes, stored: bytes) -> bytes:
        """Undo `seal`. Raises `Unreadable`, or `StoreUnavailable` if the keys cannot be asked."""
        if not stored.startswith(LABEL):
            if self.require:
                raise Unreadable(f"it is not encrypted, as {NAME}['REQUIRE'] wants")
            return stored
        label, id = read_label(stored)
        try:
            key = self.keys.get(id, scope[:MAX_STRING])
        except Exception as error:  # of the project's own keys, and of the service behind them
            raise StoreUnavailable("The keys of the stored answers cannot be asked. Nothing was done.") from error
        if key is None:
            raise Unreadable(f"its key {id!r} is gone")
        start = len(label) + NONCE
        nonce, rest = stored[len(label) : start], stored[start:]
        try:
            return self._cipher(_derive(key, digest)).decrypt(nonce, rest, _bound(label, digest, place))
        except (self._invalid, ValueError):
            raise Unreadable(f"it does not open with key {id!r}: one of the two was changed, or moved here") from None


@lru_cache(maxsize=1)
def sealer() -> Sealer | None:
    """What the setting says; None without encryption. Raises `PolicyError` for a bad value."""
    options = conf.encryption()
    if options is None:
        return None
    for name in options:
        if name not in ("KEYS", "CURRENT", "REQUIRE"):
            raise PolicyError(f"{NAME} has no {name!r}: it takes 'KEYS', 'CURRENT' and 'REQUIRE'.")
    require = options.get("REQUIRE", False)
    if not isinstance(require, bool):
        raise PolicyError(f"{NAME}['REQUIRE'] must be True or False, not {require!r}.")
    keys: Any = options.get("KEYS")
    if isinstance(keys, Mapping):
        keys = _read_keys(keys, options)
        if require and keys.current is None:
            raise PolicyError(f"{NAME}['REQUIRE'] would refuse what 'CURRENT': None leaves unencrypted.")
        return Sealer(keys, require=require)
    if "CURRENT" in options:
        raise PolicyError(f"{NAME}['CURRENT'] is for keys in the setting: yours are chosen by `for_scope`.")
    if isinstance(keys, str):
        try:
            keys = import_string(keys)
        except ImportError as error:
            raise PolicyError(f"{NAME}['KEYS'] cannot be imported: {error}") from error
    if isinstance(keys, type) or not all(callable(getattr(keys, name, None)) for name in ("for_scope", "get")):
        raise PolicyError(
            f"{NAME}['KEYS'] must be a dict of keys by id, or an object with the methods `for_scope` and `get`, or its"
            f" dotted path, not a {type(keys).__name__}."
        )
    return Sealer(keys, require=require)


def _read_keys(keys: Mapping[Any, Any], options: Mapping[str, Any]) -> SettingKeys:
    """Read the keys of the setting. No message has a key in it."""
    if not keys:
        raise PolicyError(f"{NAME}['KEYS'] is empty. Make a key: {MAKE}")
    found: dict[str, bytes] = {}
    for id, text in keys.items():
        where = f"{NAME}['KEYS'][{id!r}]"
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise PolicyError(f"{where}: an id has 1 to {LONGEST_ID} visible ASCII characters, like '2026-11'.")
        try:
            key = b64decode(text, validate=True) if isinstance(text, str) else b""
        except ValueError:
            key = b""
        if len(key) != KEY:
            raise PolicyError(f"{where} must be {KEY} random bytes in base64. Make them: {MAKE}")
        for other, earlier in found.items():
            if earlier == key:
                raise PolicyError(f"{where} is the key of {other!r} again: a new id needs a new key.")
        found[id] = key
    current = options.get("CURRENT", next(iter(found)))
    if current is not None and current not in found:
        raise PolicyError(f"{NAME}['CURRENT'] must be an id of 'KEYS', or None to seal nothing, not {current!r}.")
    return SettingKeys(found, current)


# --- for stores ---


def seal(scope: str, digest: bytes, place: bytes, plain: bytes) -> bytes:
    """*plain* as the identity *digest* stores it at *place*: sealed, if the setting says so."""
    active = sealer()
    return plain if active is None else b"".join(active.seal(scope, digest, place, plain))


def unseal(scope: str, digest: bytes, place: bytes, stored: bytes) -> bytes:
    """Undo `seal`. Raises `Unreadable`, or `StoreUnavailable` if the keys cannot be asked."""
    active = sealer()
    return stored if active is None else active.open(scope, digest, place, stored)


def seal_answer(scope: str, digest: bytes, record: CompletionRecord) -> tuple[int, bytes, bytes]:
    """Status, head and body of *record* as they are stored."""
    status, head, body = record.status, record.head(), record.body
    active = sealer()
    if active is None:
        return status, head, body
    label, sealed = active.seal(scope, digest, _answer(status), len(head).to_bytes(LENGTH) + head + body)
    return (status, label, sealed) if label else (status, head, body)


def open_answer(
    scope: str, digest: bytes, status: int, head: bytes | memoryview, body: bytes | memoryview
) -> tuple[bytes | memoryview, bytes | memoryview]:
    """
    Undo `seal_answer`: head and body. Raises `Unreadable`, a `ValueError`, if they do not open, and `StoreUnavailable`
    if the keys cannot be asked.
    """
    active = sealer()
    if active is None:
        return head, body
    head = bytes(head)
    if not head.startswith(LABEL):
        active.open(scope, digest, b"", head)  # refuses it, if it has to be sealed
        return head, body
    plain = active.open(scope, digest, _answer(status), head + body)
    end = LENGTH + int.from_bytes(plain[:LENGTH])
    return plain[LENGTH:end], plain[end:]


@lru_cache(maxsize=1024)
def label_of(id: str) -> bytes:
    """What a value begins with that is sealed by the key *id*. Raises `PolicyError` for a bad id."""
    if not _ID.fullmatch(id):
        raise PolicyError(f"{NAME}['KEYS']: an id has 1 to {LONGEST_ID} visible ASCII characters, not {id!r}.")
    return LABEL + bytes([len(id)]) + id.encode("ascii")


def read_label(stored: bytes) -> tuple[bytes, str]:
    """The label of a sealed value, which begins with `LABEL`, and the id of its key."""
    start = len(LABEL) + 1
    label = stored[: start + int.from_bytes(stored[start - 1 : start])]
    return label, label[start:].decode("ascii", "replace")


def drop_keys(scope: str) -> bool:
    """Destroy the keys of *scope* for good. Returns False if the project's keys are not by scope."""
    active = sealer()
    drop = None if active is None else getattr(active.keys, "drop", None)
    if drop is None:
        return False
    drop(scope[:MAX_STRING])
    return True


def _answer(status: int) -> bytes:
    return b"answer %d" % status


def _derive(key: bytes, digest: bytes) -> bytes:
    """The key of one identity: the first block of HKDF-Expand, for which the configured key is random enough."""
    if len(key) != KEY:
        raise PolicyError(f"{NAME}['KEYS']: a key has {KEY} bytes, not {len(key)}.")
    return hmac.digest(key, b"django_idempotency " + digest + b"\1", "sha256")


def _bound(label: bytes, digest: bytes, place: bytes) -> bytes:
    """The associated data. Label and digest tell their own length."""
    return label + digest + place


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == conf.SETTING:
        sealer.cache_clear()
