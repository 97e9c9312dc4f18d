"""`tally policy`, `tally server`, `tally manifest`: what authors and registrars do, offline until they publish."""

import typer

from controls.commands import manifest, policy, server

app = typer.Typer(no_args_is_help=True)
for name, group in (("policy", policy.app), ("server", server.app), ("manifest", manifest.app)):
    app.add_typer(group, name=name)
