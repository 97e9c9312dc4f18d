"""`tally policy`, `server`, `manifest`, `prices`, `keys`, `audit`: what authors, registrars and root holders do."""

import typer

from controls.commands import analysis, audit, authoring, exports, keys, manifest, policy, prices, server

app = typer.Typer(no_args_is_help=True)
__all__ = ["analysis", "app", "exports", "policy"]  # the commands of these three join the group of `authoring`
for name, group in (
    ("policy", authoring.app),
    ("server", server.app),
    ("manifest", manifest.app),
    ("prices", prices.app),
    ("keys", keys.app),
    ("audit", audit.app),
):
    app.add_typer(group, name=name)
