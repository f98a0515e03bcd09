"""Reads a request into an attempt: its key, its scope, its operation and its fingerprint."""

import time
from dataclasses import replace
from hashlib import sha256
from typing import Any

from django.http import HttpRequest
from django.urls import Resolver404, resolve

from django_idempotency.adapters.body import body_digest, form_values, has_form, receive
from django_idempotency.adapters.scope import ANONYMOUS, default_scope
from django_idempotency.adapters.sent import encode_request
from django_idempotency.core.fingerprint import check_fingerprint, digest, parse_query
from django_idempotency.core.keys import (
    KEY_FIELD,
    MAX_STRING,
    Attempt,
    Identity,
    NoKey,
    check_age,
    check_key,
    check_string,
    parse_key,
    renamed,
)
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.progress import PHASED
from django_idempotency.exceptions import KeyExpired, KeyInvalid, KeyMissing, ReceiptUnavailable, Refusal

SENT_KEY = "_idempotency_sent_key"  # of a request: its form's key, for a form that is shown again with its errors
PLACE = "place"  # the attribute of a ready-made option `key`: where the key is, for the client
COMPARES_URL = "compares_url"  # the attribute of an option `fingerprint`: does it tell URLs apart?
URL_PARTS = 4  # of `meaning`: query, method, host and path
URL_DIGEST = 8  # bytes
PRECONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE")


class AttemptReader:
    """
    Reads a request of Django's own, under the *policy* of its view.

    `request` is the one that the view sees and that the project's callables get, `django_request` is Django's.
    """

    __slots__ = ("django_request", "is_form", "policy", "request")

    reads_forms = True

    def __init__(self, request: Any, policy: ResolvedPolicy) -> None:
        self.request = self.django_request = request
        self.policy = policy
        self.is_form = False  # set if the key is in the field of a form

    def read(self) -> Attempt | Refusal | None:
        """
        Read the attempt that the request makes; None if it carries no key and needs none.

        Returns a refusal if the key is malformed, if it is missing although the policy requires one, or if the body is
        incomplete.
        """
        request, policy = self.django_request, self.policy
        key = self.read_key()
        if key is None or isinstance(key, Refusal):
            return key
        incomplete = receive(request)
        if incomplete is not None:
            return incomplete
        if self._differs(key):
            return KeyInvalid("The form and the header have different keys: send one key.")
        scope = self._scope()
        path = route(request)
        operation = self.operation(path)
        host = host_name(request)
        attempt = Attempt(
            identity=Identity(scope, operation, key),
            fingerprint=self._fingerprint(host),
            ttl=policy.ttl,
            tombstone_ttl=policy.tombstone_ttl or 0.0,
            uncertain_ttl=policy.uncertain_ttl,
            request=f"{request.method} {host} {path}",
            request_id=request_id(request),
            sent=encode_request(self.request, policy) if policy.mode == PHASED and policy.store_request else b"",
        )
        if policy.moved_from is not None:
            moved = policy.moved_from(self.request, request.META.get(policy.meta_name, key))
            attempt = attempt if moved is None else replace(attempt, moved=moved.attempts(attempt))
        return (
            attempt if policy.operation_aliases is None else self._with_former(attempt, policy.operation_aliases, host)
        )

    def _scope(self) -> str:
        seen, scope = self.request, self.policy.scope
        return default_scope(seen) if scope is None else check_string("scope", scope(seen))

    def _fingerprint(self, host: str) -> bytes:
        request, made = self.django_request, self.policy.fingerprint
        if made is None:
            parts = meaning(request, host)
            whole = digest(b"request", *parts, body_digest(request, self.encode_parsed_body))
        else:
            whole = sha256(check_fingerprint(made(self.request))).digest()
            if not getattr(made, COMPARES_URL, False):
                return whole
            parts = meaning(request, host)
        return url_digest(parts) + whole[URL_DIGEST:]

    def _with_former(self, attempt: Attempt, aliases: tuple[str, ...], host: str) -> Attempt:
        """*attempt* with itself under the former names of its operation, each with the fingerprint that it had then."""
        from django_idempotency.adapters.former import former_request, seen_as  # few requests need it

        former = {}
        for alias in aliases:
            if alias != attempt.identity.operation:
                with seen_as(self.django_request, former_request(alias, self.django_request)):
                    former[alias] = renamed(attempt, alias, self._fingerprint(host))
        return replace(attempt, former=tuple(former.values()), origin=former.get(aliases[0]))

    def operation(self, path: str) -> str:
        """What the key was sent to, by the option `operation`; *path* is the request's route."""
        operation = self.policy.operation
        if operation is None:
            return f"{self.django_request.method} {path}"
        return operation if isinstance(operation, str) else check_string("operation", operation(self.request))

    def sent_key(self) -> dict[str, str]:
        """By the option `echo`: the header with the key as the client has sent it, unless it is no text."""
        sent = self.django_request.META.get(self.policy.meta_name, "") if self.policy.echo else ""
        return {self.policy.header: sent} if sent.isascii() and sent.isprintable() and sent else {}

    def _may_have_field(self) -> bool:
        """Is the request a form, in which the key is to be looked for?"""
        return self.policy.meta_name not in self.django_request.META and self._reads_form()

    def _reads_form(self) -> bool:
        policy = self.policy
        return self.reads_forms and policy.form_key and policy.key is None and has_form(self.django_request)

    def _differs(self, key: str) -> bool:
        """Does a form have another key than the header? It is parsed once, for this and for its fingerprint."""
        return (
            not self.is_form
            and self._reads_form()
            and any(value != key for value in form_values(self.django_request, KEY_FIELD))
        )

    def read_key(self) -> str | Refusal | None:
        """The key that was sent, or a refusal; None if there is none, and none is needed."""
        may_have_field = self._may_have_field()
        policy = self.policy
        if policy.key is not None or may_have_field:
            # Kept before a callable of the project's or a form is read.
            incomplete = receive(self.django_request)
            if incomplete is not None and may_have_field:
                return incomplete  # what is missing may be the key
        return self._find_key(may_have_field)

    def read_names(self) -> list[tuple[Identity, bytes]] | Refusal:
        """
        The identity of the request that had this one's URL, method and key, under each name of its operation, each with
        the beginning of its fingerprint; or a refusal, if the key is missing or malformed, if nothing tells the caller
        from others, or if the option `fingerprint` does not say whether it compares URLs. An old key is no reason, and
        nothing of a body is read.
        """
        compares_url = self.policy.fingerprint is None or getattr(self.policy.fingerprint, COMPARES_URL, None)
        if compares_url is None:
            return ReceiptUnavailable("There are no receipts for this action.")
        self.policy = policy = replace(self.policy, required=True, key_max_age=None)
        key = self._find_key(may_have_field=False)
        if not isinstance(key, str):
            return key or KeyMissing()  # a callable may say that this request needs none
        scope = self._scope()
        if scope == ANONYMOUS:  # whoever has seen the key could ask, without knowing what was sent with it
            return ReceiptUnavailable("There are receipts for those alone who say who they are: send your credential.")
        from django_idempotency.adapters.former import former_request, seen_as

        request = self.django_request
        names = {self.operation(route(request)): url_digest(meaning(request))}
        for alias in policy.operation_aliases or ():
            with seen_as(request, former_request(alias, request)):
                names.setdefault(alias, url_digest(meaning(request)))
        return [(Identity(scope, name, key), url if compares_url else b"") for name, url in names.items()]

    def _find_key(self, may_have_field: bool) -> str | Refusal | None:
        policy = self.policy
        # Called outside the `try`: it may start operations of its own, whose refusals are not this request's.
        made = None if policy.key is None else policy.key(self.request)
        if made is NoKey.NEEDED:
            return None
        try:
            if policy.key is not None:
                key = None if made is None else check_key(made)
            else:
                value = self.django_request.META.get(policy.meta_name)
                if value is not None:
                    key = parse_key(value)
                else:
                    key = self._read_field() if may_have_field else None
            if key is None and policy.required:
                return KeyMissing(_say_where(policy, may_have_field))
            if key is not None and policy.key_format is not None and not policy.key_format(key):
                return KeyInvalid("The idempotency key does not have the format that this action asks for.")
            if key is not None and policy.key_max_age is not None:
                check_age(key, policy.key_max_age, time.time())
        except (KeyExpired, KeyInvalid) as refusal:
            return refusal
        return key

    def _read_field(self) -> str | None:
        """Read the key from the form's field. Raises `KeyInvalid` for a malformed one, and for two."""
        found = {*form_values(self.django_request, KEY_FIELD)}
        if not found:
            return None
        self.is_form = True
        if len(found) > 1:
            raise KeyInvalid("The form has two keys: its template needs {% idempotency_key %} once.")
        key = check_key(found.pop())
        setattr(self.django_request, SENT_KEY, key)
        # A person who clicks twice wants the result, not a page that says that there will be one.
        self.policy = replace(self.policy, in_flight="wait")
        return key

    def encode_parsed_body(self) -> bytes | None:
        """Encode what a parser made of a body whose bytes are gone; None if there is nothing."""
        return None


# --- parts of a request ---


def route(request: HttpRequest) -> str:
    """The route of *request*, as the URLconf spells it; its path if it has none."""
    match = request.resolver_match
    if match is None:  # RequestFactory resolves nothing
        try:
            match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:
            return request.path
    return match.route


def host_name(request: HttpRequest) -> str:
    """The host of *request* without a default port and a final dot, because clients differ in both."""
    return request.get_host().lower().removesuffix(":443").removesuffix(":80").removesuffix(".")


def meaning(request: HttpRequest, host: str = "") -> list[bytes]:
    """
    The parts of a request's meaning, except its body: query, method, host, path, media type and preconditions. *host*
    is its `host_name`, if that is known.
    """
    meta = request.META
    query = meta.get("QUERY_STRING")
    parts = (
        request.method or "",
        host or host_name(request),
        request.path,
        (request.content_type or "").lower(),
        *(meta.get(name, "") for name in PRECONDITIONS),
    )
    return [parse_query(query) if query else b"", *[part.encode(errors="surrogateescape") for part in parts]]


def url_digest(parts: list[bytes]) -> bytes:
    """What a fingerprint of the `meaning` *parts* begins with: to which URL the request was sent, and how."""
    return digest(b"url", *parts[:URL_PARTS])[:URL_DIGEST]


def request_id(request: HttpRequest) -> str:
    """The id that a middleware or a proxy of the project gave *request*, or an empty string."""
    for value in (
        getattr(request, "request_id", None),
        getattr(request, "id", None),
        request.META.get("HTTP_X_REQUEST_ID"),
    ):
        if value:
            return "".join(character for character in str(value)[:MAX_STRING] if character.isprintable())
    return ""


def _say_where(policy: ResolvedPolicy, may_have_field: bool) -> str | None:
    """Say to a client where the key is missing; None if only the project's own callable knows."""
    if policy.key is None:
        form = " A form has {% idempotency_key %} in its template." if may_have_field else ""
        return f"This action needs the header {policy.header}: a new key for each intended action.{form}"
    place = getattr(policy.key, PLACE, None)
    return place and f"This request has no id in {place}, so it cannot be told from others, and nothing was done."
