"""Periods of the calendar that mosaics are made of: dekads, months, quarters, seasons, years, or any dates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum, unique

from flows.errors import InvalidSettings
from stac.errors import InvalidQuery
from stac.search.source import Query

#: First month of each meteorological season; winter is named by the year of its January.
_SEASONS = {"DJF": 12, "MAM": 3, "JJA": 6, "SON": 9}
#: More periods of one run are an interval that was mistyped.
_MOST = 1000


@unique
class PeriodKind(StrEnum):
    """How time is divided."""

    DEKAD = "dekad"
    MONTH = "month"
    QUARTER = "quarter"
    SEASON = "season"
    YEAR = "year"
    #: The interval of the settings, as one period.
    DATES = "dates"


@dataclass(frozen=True, slots=True)
class Period:
    """Days that one mosaic is made of, both ends included."""

    #: `2018`, `2018-Q3`, `2018-JJA`, `2018-07`, `2018-07-D2`, or `2018-07-03_2018-07-20`.
    name: str
    first: date
    last: date

    @property
    def start(self) -> datetime:
        """Its first instant, UTC."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """Its last second, UTC."""
        return datetime.combine(self.last, time(23, 59, 59), UTC)

    @property
    def interval(self) -> str:
        """As in the setting `datetime`."""
        return f"{self.first}/{self.last}"


def periods_of(period: str, interval: str | None, last: int | None = None, today: date | None = None) -> list[Period]:
    """Return the periods that are asked for, in order.

    Args:
        period: a kind (`month`), which divides `interval`, or the name of one period (`2018-07`).
        interval: dates, as in the setting `datetime`; None where none are named.
        last: take so many of the periods that ended last instead of `interval`: what a schedule wants.
        today: the present day; taken from the clock when left out.

    Raises:
        InvalidSettings: the period is neither a kind nor a name, or there are no dates to divide.
        InvalidQuery: the interval makes no sense.
    """
    if period not in set(PeriodKind):
        return [named_period(period)]
    kind = PeriodKind(period)
    if last is not None:
        return _last(kind, last, today or datetime.now(UTC).date())
    if interval is None:
        raise InvalidSettings(
            f"There are no dates to divide by {kind}; name them with --datetime, or one --period 2018-07."
        )
    query = Query.parse("any", None, interval)
    first, final = query.start.date(), query.end.date()
    if kind is PeriodKind.DATES:
        return [_days(first, final)]
    found: list[Period] = []
    for each in _from(kind, first):
        if each.first > final or len(found) > _MOST:
            break
        found.append(each)
    if len(found) > _MOST:
        raise InvalidQuery(
            f"The interval {interval!r} has more than {_MOST} periods of one {kind}; choose a shorter one."
        )
    return found


def named_period(name: str) -> Period:
    """Return the period of a name.

    Raises:
        InvalidSettings: an unknown period.
    """
    try:
        if found := re.fullmatch(r"(\d{4}-\d\d-\d\d)[/_](\d{4}-\d\d-\d\d)", name):
            return _days(date.fromisoformat(found[1]), date.fromisoformat(found[2]))
        for kind, (pattern, first_day) in _NAMES.items():
            if found := re.fullmatch(pattern, name):
                return period_at(kind, first_day(*found.groups()))
    except (ValueError, OverflowError) as error:
        raise InvalidSettings(f"Period {name!r} is not of the calendar ({error}).") from error
    raise InvalidSettings(
        f"Period {name!r} is not understood; write {', '.join(PeriodKind)}, or a name such as 2018-07, 2018-07-D2, "
        "2018-Q3, 2018-JJA, 2018 or 2018-07-03/2018-07-20."
    )


#: How a period is named, and its first day, by the parts of its name.
_NAMES: dict[PeriodKind, tuple[str, Callable[..., date]]] = {
    PeriodKind.YEAR: (r"(\d{4})", lambda year: date(int(year), 1, 1)),
    PeriodKind.QUARTER: (r"(\d{4})-Q([1-4])", lambda year, quarter: date(int(year), 3 * int(quarter) - 2, 1)),
    PeriodKind.SEASON: (
        r"(\d{4})-(DJF|MAM|JJA|SON)",
        lambda year, season: date(int(year) - (season == "DJF"), _SEASONS[season], 1),
    ),
    PeriodKind.MONTH: (r"(\d{4})-(\d\d)", lambda year, month: date(int(year), int(month), 1)),
    PeriodKind.DEKAD: (
        r"(\d{4})-(\d\d)-D([1-3])",
        lambda year, month, dekad: date(int(year), int(month), 10 * int(dekad) - 9),
    ),
}


def period_at(kind: PeriodKind, day: date) -> Period:
    """Return the period of a kind that holds a day."""
    year, month = day.year, f"{day.year:04d}-{day.month:02d}"
    match kind:
        case PeriodKind.DEKAD:
            number = min((day.day - 1) // 10, 2)
            first = day.replace(day=10 * number + 1)
            last = first + timedelta(days=9) if number < 2 else _months(month, year, day.month, 1).last
            return Period(f"{month}-D{number + 1}", first, last)
        case PeriodKind.MONTH:
            return _months(month, year, day.month, 1)
        case PeriodKind.QUARTER:
            quarter = (day.month + 2) // 3
            return _months(f"{year:04d}-Q{quarter}", year, 3 * quarter - 2, 3)
        case PeriodKind.SEASON:
            season = tuple(_SEASONS)[day.month % 12 // 3]
            year += day.month == 12
            return _months(f"{year:04d}-{season}", year - (season == "DJF"), _SEASONS[season], 3)
        case PeriodKind.YEAR:
            return _months(f"{year:04d}", year, 1, 12)
        case PeriodKind.DATES:
            return _days(day, day)


def _days(first: date, last: date) -> Period:
    if last < first:
        raise ValueError(f"{last} lies before {first}")
    return Period(f"{first}_{last}", first, last)


def _months(name: str, year: int, month: int, count: int) -> Period:
    end = year * 12 + month - 1 + count
    return Period(name, date(year, month, 1), date(end // 12, end % 12 + 1, 1) - timedelta(days=1))


def _from(kind: PeriodKind, day: date) -> Iterator[Period]:
    while True:
        found = period_at(kind, day)
        yield found
        day = found.last + timedelta(days=1)


def _last(kind: PeriodKind, count: int, today: date) -> list[Period]:
    if count < 1:
        raise InvalidSettings(f"last is {count}; give 1 or more, or leave it out for a fixed interval.")
    found: list[Period] = []
    day = period_at(kind, today).first - timedelta(days=1)
    for _ in range(min(count, _MOST)):
        found.append(period_at(kind, day))
        day = found[-1].first - timedelta(days=1)
    return found[::-1]
