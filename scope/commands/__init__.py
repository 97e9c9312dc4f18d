"""`tally job`, `tally token`, `tally revoke` and its kin: what orchestrators and incident responders do."""

from scope.commands import jobs, responding, tokens

app = responding.app
__all__ = ["app"]
jobs.app.command("token")(tokens.get_token)
app.add_typer(jobs.app, name="job")
app.add_typer(tokens.app, name="token")
