"""The commands on the cache."""

from __future__ import annotations

import json

import typer

from fxopt.cli.app import BUILD, Json, app

cache_app = typer.Typer(invoke_without_command=True, help="What builds keep for later: show it, or clear it.")
app.add_typer(cache_app, name="cache", rich_help_panel=BUILD)


@cache_app.callback()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show how much the cache holds, and how often it was of use."""
    if context.invoked_subcommand is not None:
        return
    from fxopt.driver.default_cache import result_store

    store = result_store()
    usage = store.usage()
    if as_json:
        kinds = {kind: vars(found) for kind, found in usage.items()}
        print(json.dumps({"folder": str(store.root), "limit": store.limit, "kinds": kinds}))
        return
    from rich.console import Console

    from fxopt.cli.layout import Column, Listing, say

    table = Listing("", [Column("kind"), *(Column(name, right=True) for name in ("entries", "MB", "hits"))])
    for kind, found in usage.items():
        table.add(kind, str(found.entries), f"{found.bytes / 1e6:,.1f}", str(found.hits))
    total = sum(found.bytes for found in usage.values())
    console = Console()
    say(console, f"{total / 1e6:,.1f} of {store.limit / 1e6:,.0f} MB in {store.root}")
    console.print(table)


@cache_app.command()
def clear() -> None:
    """Remove all results; tiles that were tuned, and wheels, stay."""
    from fxopt.driver.default_cache import result_store
    from fxopt.errors import UsageError

    store = result_store()
    try:
        print(f"{store.clear() / 1e6:,.1f} MB removed from {store.root}")
    except OSError as error:
        raise UsageError(f"cannot clear {store.root}: {error.strerror or error}") from error
