"""`tally job`, `tally token`, `tally revoke` and its kin, `tally doctor`: what one does with scope, and who runs it."""

from scope.commands import deletion, doctor, jobs, responding, tokens

app = responding.app
__all__ = ["app"]
jobs.app.command("token")(tokens.get_token)
jobs.app.command("delete")(deletion.delete)
app.add_typer(jobs.app, name="job")
app.add_typer(tokens.app, name="token")
app.command("doctor")(doctor.doctor)
