"""`tally policy new | build | test | lint`: how a policy is written, before anybody signs it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from controls import drafting
from controls.commands.shared import In, Issuer, IssuerKey, Json, Out, Serial, ancestors_of, issuer_of, now, say, write
from controls.drafting import Draft
from controls.lint import Found, lint
from verifier.chain import MAX_CHAIN
from verifier.decision import decide
from verifier.draft import as_expected, build, call_of, word
from verifier.encoding import canonical
from verifier.policy import DAY, Policy
from verifier.refused import Refused

app = typer.Typer(help="Write, test, compare, sign, publish and fetch policies.", no_args_is_help=True)

TEMPLATES = Path(drafting.__file__).parent / "templates"
Template = Literal["minimal", "read-only", "enterprise"]
Ancestors = Annotated[
    list[Path] | None,
    typer.Option("--with", help="The file of an ancestor that the policy names; once for each.", exists=True),
]


@app.command("new")
def new_policy(
    *,
    out: Out,
    template: Annotated[Template, typer.Option(help="minimal, read-only or enterprise")] = "minimal",
    name: Annotated[str | None, typer.Option(help="The policy's name.")] = None,
) -> None:
    """Write a commented draft to begin with; it builds, lints clean and passes its own tests as it is.

    Example: tally policy new --template read-only --name crm-read -o crm-read.yaml
    """
    if out.exists():
        raise Refused("file-exists", f"{out} exists: a draft is not overwritten")
    text = (TEMPLATES / f"{template}.yaml").read_text(encoding="utf-8")
    kept = drafting.read(f"{template}.yaml", text.encode()).value["policy_name"]
    out.write_text(text.replace(f"policy_name: {kept}", f"policy_name: {name or kept}", 1), encoding="utf-8")
    typer.echo(f"{out}: a draft; next: tally policy lint {out}, tally policy build {out}")


@app.command("build")
def build_policy(
    draft: In,
    *,
    out: Out,
    key: IssuerKey = None,
    issuer: Issuer = None,
    serial: Serial = 1,
    supersedes: Annotated[str | None, typer.Option(help="The digest of the policy that this one follows.")] = None,
    valid_days: Annotated[int | None, typer.Option(help="For how many days it is good.", min=1, max=3650)] = None,
    as_json: Json = False,
) -> None:
    """Write out every default of a draft in YAML, JSON or TOML: the exact bytes that will be signed.

    Example: tally policy build minimal.yaml --key author/policy.key -o crm.policy.json
    """
    at = now()
    more: dict[str, Any] = {} if supersedes is None else {"supersedes": supersedes}
    more |= {} if valid_days is None else {"valid_from": at, "valid_until": at + valid_days * DAY}
    built = _built(drafting.read(draft.name, draft.read_bytes()), issuer_of(key, issuer), at, serial, more)
    write(out, canonical(built), as_json, f"policy {built.policy_name}, serial {built.serial}, by {built.issuer}")


@app.command("test")
def run_policy_tests(file: In, *, ancestors: Ancestors = None, as_json: Json = False) -> None:
    """Run every test of a draft or a built policy, and say which rules no test reaches. Exit status 1 when one fails.

    Example: tally policy test crm.policy.json
    """
    policy, _ = _load(file)
    chain = (policy, *ancestors_of(policy, ancestors, MAX_CHAIN - 1))
    results = [(test, decide(chain, call_of(test))) for test in policy.tests]
    ran = [
        {
            "test": test.name, "expect": test.expect, "decision": word(decision), "rule": decision.rule,
            "holds": as_expected(test, decision),
        }
        for test, decision in results
    ]  # fmt: skip
    tools = [rule.id for rule in (*policy.allowed_tools, *policy.denied_tools)]
    rules = [*tools, *(rule.id for rule in policy.model_egress.models)]
    missed = [rule for rule in rules if rule not in {decision.rule for _, decision in results}]
    failed = sum(not each["holds"] for each in ran)
    lines = [
        f"{'ok  ' if each['holds'] else 'FAIL'}  {each['test']}: {each['decision']} by {each['rule']}"
        + ("" if each["holds"] else f", expected {each['expect']}")
        for each in ran
    ]
    covered = f"{len(rules) - len(missed)} of {len(rules)} rules are reached"
    missing = f"; no test reaches {', '.join(missed)}" if missed else ""
    verdict = f"{failed} of {len(ran)} tests fail" if failed else f"{len(ran)} tests hold"
    say(as_json, {"tests": ran, "rules": len(rules), "unreached": missed}, *lines, verdict, covered + missing)
    if failed:
        raise typer.Exit(1)


@app.command("lint")
def lint_policy(
    file: In,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 for warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is suspicious in a draft or a built policy. Exit status 1 for errors.

    Example: tally policy lint crm-read.yaml --strict
    """
    policy, draft = _load(file)
    found = lint(policy)
    shown = [{**msgspec.to_builtins(each), "at": _at(draft, file, each)} for each in found]
    lines = [f"{_at(draft, file, each)}: {each.severity}: {each.says} [{each.name}]\n    {each.hint}" for each in found]
    errors = sum(each.severity == "error" for each in found)
    total = f"errors: {errors}, warnings: {len(found) - errors}" if found else "nothing suspicious"
    say(as_json, {"found": shown, "errors": errors}, *lines, total)
    if errors or (strict and found):
        raise typer.Exit(1)


def _load(file: Path) -> tuple[Policy, Draft | None]:
    """Read a built policy, or build a draft in nobody's name."""
    raw = file.read_bytes()
    if file.suffix.lower() == ".json" and raw.startswith(b'{"allowed_tools":') and b'"issuer":' in raw:
        return Policy.parse(raw), None
    draft = drafting.read(file.name, raw)
    return _built(draft, "draft", now(), 1, {}), draft


def _built(draft: Draft, issuer: str, at: int, serial: int, more: dict[str, Any]) -> Policy:
    try:
        return build({**draft.value, **more}, issuer=issuer, now=at, serial=serial)
    except Refused as refused:
        raise draft.pointed(refused) from refused


def _at(draft: Draft | None, file: Path, found: Found) -> str:
    return f"{file.name}: {found.field}" if draft is None else f"{draft.at(found.field)}: {found.field}"
