"""`lep photon bench URL`: load on any HTTP service, one step of concurrency after the other."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, did_you_mean
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..photon.load import Load

WIDTH = 40


@click.command()
@click.argument("url")
@click.option("--concurrency", default="1,2,4,8,16,32", show_default=True, help="Steps: clients that ask at once.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1), help="Length of each step.")
@click.option("--method", help="Default: POST where there is a body, else GET.")
@click.option("--data", help="The body: JSON, or @FILE. Default: the example of the service's OpenAPI document.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Repeatable.")
@click.option("--token", envvar="LEPTON_TOKEN", show_envvar=True, help="Sent as a Bearer token.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    url: str, concurrency: str, seconds: float, method: str | None, data: str | None, headers: tuple[str, ...],
    token: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Load a service and print requests/s, latencies and errors by concurrency.

    URL is a route (http://127.0.0.1:8080/predict), or a service that describes itself: then its first route that takes a body is asked.
    """
    from ..photon.load import Target, closed

    steps = _steps(concurrency)
    sent = _headers(headers, token)
    body = None
    if data is None and (method or "POST").upper() != "GET":
        url, body = _described(url, sent)
    elif data is not None:
        body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
    if body is not None:
        sent.setdefault("content-type", "application/json")
    target = Target.of(
        url, method=(method or ("POST" if body is not None else "GET")).upper(), body=body or b"", headers=sent
    )
    if not as_json:
        click.echo(
            f"{target.request.split(b' ', 1)[0].decode()} {url}, {len(body or b''):,} bytes, {seconds:g} s a step"
        )
    results = []
    for clients in steps:
        results.append((clients, asyncio.run(closed(target, clients, seconds))))
        if not as_json:
            click.echo(f"\r  {clients} clients …", nl=False, err=True)
    if as_json:
        return print_json([_row(clients, load) for clients, load in results])
    click.echo("\r", nl=False, err=True)
    _print(results)


def _steps(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        steps = []
    if not steps or not all(0 < step <= 4096 for step in steps):
        raise InvalidInput("these are no steps of concurrency", received=text, expected="numbers like 1,8,32")
    return steps


def _headers(given: tuple[str, ...], token: str | None) -> dict[str, str]:
    found = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise InvalidInput("this is no header", received=one, expected="'NAME: VALUE'")
        found[name.strip().lower()] = value.strip()
    return {**found, **({"authorization": f"Bearer {token}"} if token else {})}


def _described(url: str, headers: dict[str, str]) -> tuple[str, bytes | None]:
    """The URL of a route and a body for it, from the service's OpenAPI document; the URL as it is where there is none."""
    import httpx

    parts = urllib.parse.urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    try:
        document = httpx.get(f"{base}/openapi.json", headers=headers, timeout=10).raise_for_status().json()
        paths = {path: verbs["post"] for path, verbs in document.get("paths", {}).items() if "post" in verbs}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError, TypeError):
        return url, None
    path = parts.path if parts.path not in ("", "/") else next(iter(paths), "")
    if path not in paths:
        if path in document.get("paths", {}) or not paths:
            return url, None
        raise InvalidInput("the service has no route with a body there", received=path, fix=did_you_mean(path, paths))
    content = paths[path].get("requestBody", {}).get("content", {}).get("application/json", {})
    return base + path, json.dumps(_example(content, document)).encode()


def _example(content: dict[str, Any], document: dict[str, Any]) -> Any:
    """An example that the document gives, or the simplest value that its schema allows."""
    from ..photon.example import example_of

    if "example" in content:
        return content["example"]
    for one in content.get("examples", {}).values():
        return one.get("value")
    return example_of(_resolved(content.get("schema", {}), document.get("components", {}).get("schemas", {})))


def _resolved(schema: Any, known: dict[str, Any], depth: int = 0) -> Any:
    if isinstance(schema, dict) and depth < 20:
        if "$ref" in schema:
            return _resolved(known.get(str(schema["$ref"]).rpartition("/")[2], {}), known, depth + 1)
        return {key: _resolved(value, known, depth + 1) for key, value in schema.items()}
    return [_resolved(value, known, depth + 1) for value in schema] if isinstance(schema, list) else schema


def _row(clients: int, load: Load) -> dict[str, Any]:
    errors = {
        str(status): count for status, count in load.statuses.items() if not isinstance(status, int) or status >= 400
    }
    times = {f"p{q}_ms": round(load.quantile_ms(q / 100), 3) if load.latencies_s else None for q in (50, 95, 99)}
    return {"concurrency": clients, "requests_per_s": round(load.rate, 1), **times, "errors": errors}


def _print(results: list[tuple[int, Load]]) -> None:
    best = max((load.rate for _, load in results), default=0.0) or 1.0
    rows = []
    for clients, load in results:
        row = _row(clients, load)
        errors = ", ".join(f"{count} × {status}" for status, count in row["errors"].items()) or "0"
        times = ["—" if row[f"p{q}_ms"] is None else f"{row[f'p{q}_ms']:.2f}" for q in (50, 95, 99)]
        rows.append((str(clients), f"{load.rate:,.0f}", *times, errors, "█" * round(WIDTH * load.rate / best)))
    print_table(("clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "errors", ""), rows)
