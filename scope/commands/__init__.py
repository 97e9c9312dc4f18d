"""`tally job`, `tally token`, `tally revoke` and its kin: what orchestrators and incident responders do."""

from scope.commands import jobs, responding, tokens

app = responding.app
__all__ = ["app"]
app.add_typer(jobs.app, name="job")
app.add_typer(tokens.app, name="token")
