"""`lep log`: what endpoints and jobs wrote, by time and text."""

from __future__ import annotations

import datetime
import re
import time
from pathlib import Path

import click

from ..base.errors import InvalidInput
from .resources import here

PAGE = 10_000
_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group()
def log() -> None:
    """Logs of endpoints and jobs."""


@log.command("get")
@click.option("--endpoint", "-e", "--deployment", "endpoint", help="Of this endpoint or pod.")
@click.option("--job", "-j", help="Of the job with this id.")
@click.option("--replica", help="Of this replica only.")
@click.option("--start", help="now, today, yesterday, 10m (ago), or 2025-01-31T12:00. Default: a day ago.")
@click.option("--end", help="The same. Default: now.")
@click.option("--query", "-q", help="Only lines that hold this text.")
@click.option("--limit", type=click.IntRange(1), help="No more than the newest N lines.")
@click.option("--without-timestamp", is_flag=True)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--path", type=click.Path(path_type=Path), help="Write them to this file.")
def get(endpoint, job, replica, start, end, query, limit, without_timestamp, follow, path):
    """Print logs, the oldest line first."""
    if (endpoint is None) == (job is None):
        raise InvalidInput("whose logs?", fix="Name one: --endpoint NAME or --job ID.")
    if follow and (path or end):
        raise InvalidInput("--follow has no end", fix="Leave out --path and --end.")
    now = time.time_ns()
    since, until = moment(start, now) if start else now - 86_400 * 10**9, moment(end, now) if end else now
    about = {"endpoint": endpoint} if endpoint else {"job": job}
    about |= {key: value for key, value in (("replica", replica), ("q", query)) if value}
    found = list(lines(about, since, until))
    texts = [_shown(one, without_timestamp) for one in (found[-limit:] if limit else found)]
    if path:
        from ..base.files import write_atomic

        write_atomic(path, "".join(f"{text}\n" for text in texts))
        return click.echo(f"{len(texts)} lines written to {path}.")
    for text in texts:
        click.echo(text)
    return _follow(about, found[-1][0] + 1 if found else until, without_timestamp, job) if follow else None


def lines(about: dict, since: int, until: int):
    """(time, replica, text) from `since` to before `until`, the oldest first, page by page."""
    seen: set = set()
    while since < until:
        data = here().get("/logs", **about, start=since, end=until, limit=PAGE, direction="forward")["data"]
        page = sorted(
            (int(at), stream["stream"].get("replica", ""), text)
            for stream in data["result"]
            for at, text in stream["values"]
        )
        yield from (one for one in page if one not in seen)
        if len(page) < PAGE:
            return
        # Lines of several replicas may have the time at which the page ended.
        since, seen = page[-1][0], {one for one in page if one[0] == page[-1][0]}


def _follow(about: dict, since: int, without_timestamp: bool, job: str | None) -> None:
    from .following import ENDED

    while True:
        ended = job and here().get(f"/jobs/{job}")["status"]["state"] in ENDED
        # A line is in the log a moment after it was written.
        until = time.time_ns() - (0 if ended else 200_000_000)
        for one in lines(about, since, until) if until > since else ():
            click.echo(_shown(one, without_timestamp))
        if ended:
            return
        since = max(since, until)
        time.sleep(0.5)


def _shown(one: tuple[int, str, str], without_timestamp: bool) -> str:
    at, replica, text = one
    if without_timestamp:
        return text
    return f"{datetime.datetime.fromtimestamp(at / 1e9).isoformat(sep=' ', timespec='milliseconds')} {replica} {text}"


def moment(text: str, now: int) -> int:
    """Nanoseconds since 1970. Raises InvalidInput."""
    if text == "now":
        return now
    today = datetime.datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return int((today - datetime.timedelta(days=text == "yesterday")).timestamp()) * 10**9
    if ago := _AGO.match(text):
        return now - int(float(ago[1]) * _SECONDS[ago[2]] * 1e9)
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise InvalidInput(
            "this is no moment", received=text, expected="now, today, yesterday, 10m, 2h, 3d or 2025-01-31T12:00"
        ) from None
