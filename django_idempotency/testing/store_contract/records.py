"""What a store remembers: which identity, which request, which bytes, and for how long."""

from dataclasses import replace

from django_idempotency.core.decision import Claimed, Completed, Expired
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import BYTES, JSON, LEFT_OUT, CompletionRecord
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    LONG,
    OTHER_FINGERPRINT,
    OTHER_RECORD,
    SHORT,
    StoreTests,
    attempt,
    expect,
    expect_claimed,
    skip,
    until,
)

EVERY_BYTE = bytes(range(256))
RECORDS = {
    "every byte": CompletionRecord(status=200, body=EVERY_BYTE + EVERY_BYTE[::-1]),
    "no body": CompletionRecord(status=204, reason="No Content", headers=(("X-Empty", ""),), body=b""),
    "a large body": CompletionRecord(status=200, body=EVERY_BYTE * 4096),  # 1 MB, as much as `max_body` lets in
    "a body of NULs": CompletionRecord(status=200, body=b"\0\0\0"),
    "lines of text": CompletionRecord(status=200, body=b"\r\n\r\n*3\r\n$-1\r\n'\"\\%s%%;--"),
    "headers": CompletionRecord(
        status=299,
        reason="N\xe0o padr\xe3o",
        headers=(
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("x-twice", "3"),
            ("Content-Length", None),
            ("X-Text", "caf\xe9 \u2603 \U0001f600 '\"\\ \t%s"),
            ("Location", "/payments/1/?q=%20&r=a,b"),
        ),
        body=b"x",
    ),
    "a refusal that is kept": CompletionRecord(status=402, reason="Payment Required", body=b"{}"),
    "a body that is left out": CompletionRecord(status=201, headers=(("Location", "/cards/1/"),), instead=LEFT_OUT),
    "a reference in JSON": CompletionRecord(status=201, body=b'{"card":1}', instead=JSON),
    "a reference in bytes": CompletionRecord(status=201, body=EVERY_BYTE, instead=BYTES),
    "a request id": CompletionRecord(status=200, body=b"x", request_id="\u00fc" * 100),
}
TOMBSTONE = "claim: For `attempt.tombstone_ttl` seconds after its record has expired an identity is `Expired`."
FREE = "free: Forget the execution, so that the next request runs again."
IDENTITY = (
    "An identity is scope, operation and key together, of any length: if one of them differs, it is another identity."
)


class RecordTests(StoreTests):
    """Records and identities, in either kind of store."""

    def test_a_new_identity_is_claimed(self) -> None:
        """Its request is executed."""
        self.expect_new(attempt(), "claim: `Claimed` if nothing is stored.")

    def test_a_record_answers_whoever_comes_later(self) -> None:
        """The answer is `Completed`, with the record and the fingerprint of the request that made it."""
        first = attempt()
        self.keep(first)

        for _ in range(2):
            self.expect_answer(first, "A completion record answers until it expires.")

    def test_a_record_tells_whose_it_is(self) -> None:
        """Another request with the key gets the fingerprint of the first, so that it can be refused."""
        first = attempt()
        self.keep(first)

        found = self.ask(replace(first, fingerprint=OTHER_FINGERPRINT))

        sentence = "Completed: a completion record is there, made by a request of this fingerprint."
        expect(isinstance(found, Completed) and found.fingerprint == FINGERPRINT, sentence, found)

    def test_a_record_comes_back_byte_for_byte(self) -> None:
        """Bodies have any bytes, up to a megabyte. Headers keep their order and their spelling."""
        for name, record in RECORDS.items():
            first = attempt(request_id=record.request_id)  # which the engine puts into the record
            self.keep(first, record)
            self.expect_answer(first, f"CompletionRecord: the stored outcome, as bytes in and out ({name}).", record)

    def test_what_differs_in_scope_operation_or_key_is_another_identity(self) -> None:
        """So is one that differs past the 255th character, or whose parts are divided at another place."""
        long = "\u00fc" * 300
        first = attempt(scope="ab", operation="c" + long, key="k")
        self.keep(first)
        for scope, operation, key in (
            ("ab", "c" + long, "K"),
            ("abc", long, "k"),
            ("a", "bc" + long, "k"),
            ("ab", "c" + long + "!", "k"),
            ("AB", "c" + long, "k"),
            ("ab ", "c" + long, "k"),
        ):
            other = attempt(scope=scope, operation=operation, key=key)
            self.expect_new(other, f"{IDENTITY} {other.identity}")
        self.expect_answer(first, IDENTITY)

    def test_long_and_foreign_texts_are_kept(self) -> None:
        """Scope and operation have any length and script, a key has up to 255 characters."""
        for text in ("x" * 1000, "\u00fc\u2603\U0001f600" * 120, "'\"\\%s%%{}:*?[a]\n\t", "-"):
            first = attempt(scope=text, operation=text, key=attempt().identity.key + "~" * 219, request=text)
            self.keep(first)
            self.expect_answer(first, f"{IDENTITY} {text!r}")

    def test_two_identities_do_not_touch(self) -> None:
        """An execution of one changes nothing of the other."""
        first, other = attempt(), attempt(fingerprint=OTHER_FINGERPRINT)
        self.keep(first)
        self.keep(other, OTHER_RECORD)

        self.expect_answer(first, "Each identity has a record of its own.")
        self.expect_answer(other, "Each identity has a record of its own.", OTHER_RECORD)

    def test_a_record_expires(self) -> None:
        """After `attempt.ttl` seconds the key is new, for another request too, whose record answers from then on."""
        first = attempt(ttl=SHORT)
        self.keep(first)
        sentence = "claim: `Claimed` if what is stored has expired: a record lives for `attempt.ttl` seconds."

        expect_claimed(until(lambda: self.ask(first), lambda found: isinstance(found, Claimed), sentence), sentence)

        later = replace(first, fingerprint=OTHER_FINGERPRINT, ttl=60.0)
        self.keep(later, OTHER_RECORD)
        self.expect_answer(later, "Nothing of an expired record is left.", OTHER_RECORD)

    def test_a_late_retry_is_refused(self) -> None:
        """A tombstone has the fingerprint and no answer. An operator who frees the key leaves none."""
        first = self._late(tombstone_ttl=LONG)

        seen = self.found(first)

        expect(seen.is_tombstone and seen.record is None, TOMBSTONE, seen)
        expect(seen.fingerprint == FINGERPRINT, TOMBSTONE, seen)
        freed = self.change(lambda: self.store.free(self.using, seen.digest, seen.executed_at))
        expect(freed, FREE, freed)
        self.expect_new(first, FREE)

    def test_a_tombstone_expires(self) -> None:
        """Then the key is new, and nothing of the tombstone is left for a request without the option."""
        first = self._late(tombstone_ttl=4 * SHORT)

        later = replace(first, ttl=LONG, tombstone_ttl=0.0)
        expect_claimed(until(lambda: self.ask(later), lambda found: isinstance(found, Claimed), TOMBSTONE), TOMBSTONE)
        self.keep(later, OTHER_RECORD)

        self.expect_answer(replace(later, tombstone_ttl=LONG), TOMBSTONE, OTHER_RECORD)

    def _late(self, tombstone_ttl: float) -> Attempt:
        """An attempt whose record has expired and is a tombstone now."""
        if not self.store.keeps_tombstones:
            skip("The store keeps no tombstones.")
        first = attempt(ttl=SHORT, tombstone_ttl=tombstone_ttl)
        self.keep(first)
        until(lambda: self.ask(first), lambda found: found == Expired(first.fingerprint), TOMBSTONE)
        return first
