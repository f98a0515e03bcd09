"""When requests arrive: by day and by night, and with one release that went wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

HOUR = timedelta(hours=1)

CHARGES = "charges"
TRANSFERS = "transfers"
INVOICES = "invoices"
REFUNDS = "refunds"
STATEMENTS = "statements"

# First requests in each hour of a working day (UTC), as shares of the day.
BY_HOUR = (4, 3, 2, 2, 2, 3, 6, 11, 17, 22, 25, 28, 30, 27, 24, 23, 24, 26, 29, 31, 27, 20, 13, 7)
AT_WEEKENDS = 0.6
# An hour may have that much more or less than its share.
UNEVEN = 0.35
OF_A_HUNDRED = {CHARGES: 58, TRANSFERS: 17, INVOICES: 14, REFUNDS: 8, STATEMENTS: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """How many requests are repeated, for each first one."""

    replays: float  # after the answer was lost
    conflicts: float  # while the first was still running
    mismatches: float  # with its key and other content
    forgotten: float = 0.012  # after a refusal or an error, which leave nothing


USUAL = {
    CHARGES: Repeats(replays=0.045, conflicts=0.007, mismatches=0.001),
    TRANSFERS: Repeats(replays=0.025, conflicts=0.003, mismatches=0.002),
    INVOICES: Repeats(replays=0.08, conflicts=0.01, mismatches=0),  # a queue delivers at least once
    REFUNDS: Repeats(replays=0.03, conflicts=0.005, mismatches=0.01),
    STATEMENTS: Repeats(replays=0.12, conflicts=0.06, mismatches=0),  # slow, so people click twice
}
# A release under load cut connections, and every client retried. One client's new version, released with it, put the
# time of sending into each attempt's body, which makes it another request; by the evening that was fixed.
AFTER_RELEASE = (
    Repeats(replays=1.9, conflicts=1.2, mismatches=0.05, forgotten=0.3),
    Repeats(replays=0.45, conflicts=0.08, mismatches=0.15),
    Repeats(replays=0.09, conflicts=0.01, mismatches=0.18),
    Repeats(replays=0.06, conflicts=0.01, mismatches=0.12),
)
VOLUME_AFTER_RELEASE = (0.8, 1.5)  # the API was away for a while, and then caught up


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    starts: datetime
    volume: float  # expected number of first requests
    repeats: Repeats | None  # None: as usual

    def firsts(self, random: Random) -> list[datetime]:
        """The times of first requests, in order."""
        number = round(self.volume * random.uniform(1 - UNEVEN, 1 + UNEVEN))
        seconds = sorted(random.uniform(0, HOUR.total_seconds()) for _ in range(number))
        return [self.starts + timedelta(seconds=round(second, 3)) for second in seconds]

    def repeats_of(self, operation: str) -> Repeats:
        return self.repeats or USUAL[operation]


def release(until: datetime) -> datetime:
    """The time of the release: two days before *until*, at 14:02."""
    return (until - timedelta(days=2)).replace(hour=14, minute=2, second=0, microsecond=0)


def hours(begins: datetime, until: datetime, per_day: int) -> Iterator[Hour]:
    """The hours between the two, with *per_day* first requests; the first and the last may be parts of an hour."""
    released = release(until).replace(minute=0)
    starts = begins.replace(minute=0, second=0, microsecond=0)
    while starts < until:
        since = (starts - released) // HOUR
        volume = per_day * BY_HOUR[starts.hour] / sum(BY_HOUR) * (AT_WEEKENDS if starts.weekday() >= 5 else 1)
        if 0 <= since < len(VOLUME_AFTER_RELEASE):
            volume *= VOLUME_AFTER_RELEASE[since]
        repeats = AFTER_RELEASE[since] if 0 <= since < len(AFTER_RELEASE) else None
        yield Hour(starts=starts, volume=volume, repeats=repeats)
        starts += HOUR


def operations(random: Random) -> Iterator[str]:
    """The kinds of first requests, without end: shuffled, with the same number of each kind in every hundred."""
    hundred = [name for name, number in OF_A_HUNDRED.items() for _ in range(number)]
    while True:
        random.shuffle(hundred)
        yield from hundred
