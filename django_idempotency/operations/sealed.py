"""Which keys a database still needs for what is encrypted in it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.db.models import BinaryField, Count, QuerySet
from django.db.models.functions import Substr

from django_idempotency.encryption import LABEL, LONGEST_ID, SettingKeys, read_label, sealer
from django_idempotency.models import IdempotencyRecord, PhasedRun


def lost_keys(using: str) -> dict[str, int]:
    """
    The ids of keys that the setting does not have, each with the number of live values in the database *using* that are
    encrypted with it. Nothing for keys of the project's own, which may have been dropped on purpose.

    Raises Django's database errors.
    """
    active = sealer()
    keys = SettingKeys({}, None) if active is None else active.keys
    if not isinstance(keys, SettingKeys):
        return {}
    found: Counter[str] = Counter()
    for id, count in (
        *_ids(IdempotencyRecord.objects.using(using).live(), "head"),
        *_ids(PhasedRun.objects.using(using).all(), "sent"),
    ):
        if id not in keys.keys:
            found[id] += count
    return dict(sorted(found.items()))


def _ids(rows: "QuerySet[Any]", column: str) -> Iterator[tuple[str, int]]:
    def beginning(length: int) -> Substr:
        return Substr(column, 1, length, output_field=BinaryField())

    sealed = rows.annotate(mark=beginning(len(LABEL))).filter(mark=LABEL)
    labels = sealed.values_list(beginning(len(LABEL) + 1 + LONGEST_ID)).annotate(Count("pk")).order_by()
    return ((read_label(bytes(label))[1], count) for label, count in labels)
