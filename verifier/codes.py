"""Every public code of a document, what it means, and the verdict that it leads to (specs/errors.md)."""

from enum import IntEnum

from msgspec import Struct


class Verdict(IntEnum):
    """What a bundle amounts to; a larger one is worse."""

    PASS = 0
    INCOMPLETE = 1
    FAIL = 2
    UNTRUSTED = 3
    MALFORMED = 4

    @property
    def exit_code(self) -> int:
        """The exit status of `tally verify`."""
        return (0, 3, 1, 4, 2)[self.value]


USAGE, DIED = 64, 70  # as sysexits.h numbers them


class Code(Struct, frozen=True):
    """One code: its verdict, what it says, and what to do next."""

    verdict: Verdict
    says: str
    hint: str


_M, _U, _F, _I = Verdict.MALFORMED, Verdict.UNTRUSTED, Verdict.FAIL, Verdict.INCOMPLETE
_RESEND = "Get the file again from the gateway, byte for byte."
_ASK = "Ask the operator; the documents contradict each other."
_FORGED = "Treat the bundle as altered or forged until the operator explains it."
_KEYS = "Compare the pin and the key list with the operator over another channel."

CODES: dict[str, Code] = {
    "too-large": Code(
        _M,
        "larger than the format allows",
        "Raise --max-bytes if the whole file is meant; documents have fixed limits.",
    ),
    "truncated": Code(_M, "the data ends too early", _RESEND),
    "not-json": Code(_M, "not JSON", _RESEND),
    "not-utf8": Code(_M, "not UTF-8", _RESEND),
    "too-deep": Code(_M, "nested deeper than 32 levels", _RESEND),
    "wrong-type": Code(_M, "a value of the wrong type", "Compare the document with its JSON Schema."),
    "unknown-field": Code(
        _M, "a field that the format does not have", "Compare the document with its JSON Schema; check its version."
    ),
    "missing-field": Code(
        _M, "a field that the format requires is missing", "Compare the document with its JSON Schema."
    ),
    "bad-value": Code(_M, "a value outside what the format allows", "Compare the document with its JSON Schema."),
    "not-canonical": Code(
        _M,
        "valid JSON, but not the one canonical form",
        "Send the exact bytes that were signed, not a copy written again.",
    ),
    "bad-base64": Code(_M, "not padded standard base64", _RESEND),
    "non-canonical-base64": Code(_M, "base64 with stray bits", _RESEND),
    "wrong-kind": Code(_M, "a document of another kind", "Check which file was given."),
    "bad-signatures": Code(_M, "signatures are not sorted, or one stands twice", _RESEND),
    "bad-key": Code(_M, "a public key of the wrong length", _KEYS),
    "bad-keys": Code(_M, "the key list contradicts itself", _KEYS),
    "bad-policy": Code(
        _M, "the policy contradicts itself", "Fix the draft at the field named, build and sign it again."
    ),
    "bad-manifest": Code(
        _M, "the manifest contradicts itself", "Fix the manifest at the field named and sign it again."
    ),
    "bad-prices": Code(_M, "the price table contradicts itself", "Fix the table at the price named and sign it again."),
    "bad-grant": Code(_M, "the grant contradicts itself", _ASK),
    "bad-seal": Code(_M, "the seal contradicts itself", _ASK),
    "bad-approval": Code(_M, "the approval contradicts itself", _ASK),
    "bad-checkpoint": Code(_M, "not a signed checkpoint", _RESEND),
    "bad-line": Code(_M, "a line of no known kind, or out of order", _RESEND),
    "missing-line": Code(_M, "a line that every bundle has is missing", _RESEND),
    "unnamed-document": Code(
        _M, "a document that no seal, grant or receipt names", "Remove nothing; ask for the bundle again."
    ),
    "unsupported": Code(
        _M, "something that this version does not judge", "Use a later version of tally; nothing is passed unjudged."
    ),
    "no-ml-dsa": Code(_M, "this installation cannot check ML-DSA-44", "Install cryptography 50 or later from a wheel."),
    "unknown-root": Code(_U, "no threshold of pinned roots signed the key list", _KEYS),
    "wrong-rotation": Code(
        _U, "a key list that does not follow from the one before it", "Ask for the whole chain of key lists."
    ),
    "below-quorum": Code(
        _U, "signed by fewer keys than the quorum asks for", "Have the missing authors or approvers sign."
    ),
    "old-keys": Code(_U, "the key list is older than the pin allows", "Ask for a bundle with a newer key list."),
    "keys-expired": Code(_U, "the key list had expired", "Ask for a newer key list."),
    "unknown-signer": Code(_U, "signed by a key that no trusted list names", _KEYS),
    "wrong-use": Code(_U, "signed by a key that is for something else", _KEYS),
    "wrong-owner": Code(_U, "signed by a key of another owner than the issuer", _KEYS),
    "key-not-valid": Code(_U, "signed by a key outside its validity", _KEYS),
    "key-revoked": Code(_U, "signed by a key that is revoked", "Ask when and why the key was revoked."),
    "wrong-suite": Code(_U, "a suite that the pin does not accept", _KEYS),
    "bad-signature": Code(_F, "a signature does not fit what it signs", _FORGED),
    "missing-signature": Code(_F, "a signature that must be there is not", _FORGED),
    "bad-proof": Code(_F, "an inclusion or consistency proof does not hold", _FORGED),
    "wrong-digest": Code(_F, "not the document that was asked for", _ASK),
    "not-expected": Code(
        _F, "not the job, policy or gateway that the pin expects", "Check that this is the bundle you asked for."
    ),
    "policy-not-valid": Code(_F, "the policy was not in force", _ASK),
    "policy-test-failed": Code(
        _F, "one of the policy's own tests does not hold", "Fix the rule or the test that is named."
    ),
    "not-admitted": Code(_F, "the policy is not for this agent, type or environment", _ASK),
    "unknown-server": Code(
        _F, "no approved manifest of that server", "Register the server and publish its manifest first."
    ),
    "scope-too-wide": Code(
        _F, "the scope is not inside the policy", "Ask for less, or publish a policy that allows it."
    ),
    "missing-document": Code(_F, "a document that another names is not in the bundle", _FORGED),
    "wrong-job": Code(_F, "a document or call of another job", _FORGED),
    "wrong-policy": Code(_F, "pinned to another policy", _FORGED),
    "wrong-scope": Code(_F, "a scope hash that is not the grant's", _FORGED),
    "wrong-grant": Code(_F, "does not agree with its grant", _FORGED),
    "wrong-manifest": Code(_F, "another manifest than the grant's", _FORGED),
    "wrong-gateway": Code(_F, "another gateway than the grant's audience", _FORGED),
    "wrong-issuer": Code(_F, "issued by another party than its grant", _FORGED),
    "wrong-keys": Code(_F, "names another key list", _ASK),
    "wrong-size": Code(
        _F, "the lane holds fewer or more receipts than were sealed", "Receipts were dropped or added after the seal."
    ),
    "wrong-root": Code(
        _F, "the receipts do not add up to the sealed root", "A receipt was changed, dropped or moved after the seal."
    ),
    "wrong-head": Code(_F, "the head is not the one that was sealed", _FORGED),
    "missing-lane": Code(_F, "a sealed lane is not in the bundle", "Ask for the whole bundle."),
    "unsealed-lane": Code(_F, "a lane that the seal does not name", _FORGED),
    "wrong-seq": Code(_F, "a receipt out of its place", "A receipt was dropped, doubled or moved."),
    "wrong-time": Code(_F, "a receipt earlier than the one before it", _FORGED),
    "wrong-order": Code(_F, "a receipt of a kind that cannot stand here", _FORGED),
    "wrong-counts": Code(_F, "the close receipt counts other receipts than there are", _FORGED),
    "no-begin": Code(_F, "an end without its begin", _FORGED),
    "no-end": Code(_F, "a begin without its end in a closed lane", _FORGED),
    "bad-end": Code(_F, "an end that does not fit its call", _FORGED),
    "no-close": Code(_F, "a lane sealed as complete without a close receipt", _FORGED),
    "unknown-token": Code(_F, "a token that scope did not issue for this lane", _FORGED),
    "outside-token": Code(_F, "a call outside its token's time", _FORGED),
    "wrong-target": Code(_F, "a target that grant or manifest does not name", _FORGED),
    "wrong-decision": Code(
        _F, "not what the policy decides", "The gateway recorded a decision that this policy cannot give."
    ),
    "wrong-facts": Code(_F, "the recorded labels lack what the manifest says", _FORGED),
    "over-budget": Code(
        _F, "more than the share allows", "The gateway let a call through that the budget does not cover."
    ),
    "no-price": Code(
        _F, "a model without a price, where costs are limited", "Publish a price table that names the model."
    ),
    "stale-revocations": Code(
        _F, "decided on an older revocation feed than the policy allows", "Check the gateway's connection to scope."
    ),
    "outside-marks": Code(_F, "a receipt's time contradicts what scope saw", _FORGED),
    "after-revocation": Code(
        _F, "a call allowed after its revocation had to be known", "Treat the call as unauthorised."
    ),
    "no-model-call": Code(
        _F,
        "a tool call that no model asked for, or one answered twice",
        "Let the agent name the model's tool call as its parent.",
    ),
    "wrong-delegation": Code(_F, "wider, longer or deeper than what it was delegated from", _FORGED),
    "wrong-binding": Code(_F, "not bound as the policy asks", _ASK),
    "wrong-supersedes": Code(_F, "does not extend the seal that it supersedes", _FORGED),
    "wrong-child": Code(_F, "a child job's bundle does not fit its parent's seal", _FORGED),
    "not-approved": Code(
        _F, "a held call went through without the approvals that it needs", "Treat the call as unauthorised."
    ),
    "wrong-approval": Code(_F, "an approval that does not fit what it approves", "Treat the call as unauthorised."),
    "no-hold": Code(_F, "names a hold that the lane does not have, or that was used already", _FORGED),
    "bad-echo": Code(_F, "an echo that names no earlier receipt of its lane", _FORGED),
    "counter-used": Code(_F, "a client's counter stands twice", _FORGED),
    "omitted": Code(
        _F, "a receipt that a client kept is not in the sealed lane", "Keep the client's half: it proves the omission."
    ),
    "wrong-disclosure": Code(
        _F, "disclosed content does not fit the commitment", "Ask the holder for the very bytes and salts."
    ),
    "wrong-box": Code(
        _F, "a sealed payload does not fit its receipt", "Ask the operator for it as it was sealed, and to which key."
    ),
    "missing-box": Code(
        _F, "a sealed payload that the receipt or the policy asks for is not there", "Ask for the whole bundle."
    ),
    "wrong-recipient": Code(
        _I, "a sealed payload for another key than the one given", "Give the key that the payload names."
    ),
    "missing-child": Code(
        _I, "a child job's bundle was not given", "Verify the parent together with all its children's bundles."
    ),
    "observed-by-runtime": Code(
        _F, "a regulated job's call that only the runtime saw", "Let the tool run behind the gateway."
    ),
    "counter-gap": Code(
        _I, "a client's counter is missing", "Ask the client what it sent, and the gateway what it did with it."
    ),
    "no-seal": Code(_I, "the job is not sealed", "Close the job and fetch the bundle again."),
    "interrupted": Code(
        _I, "a lane ended without its gateway", "Receipts after the last reported head may be missing."
    ),
    "lost-call": Code(_I, "a call began and its answer was lost", "Ask the upstream whether the call took effect."),
    "no-answer": Code(
        _I, "a call had begun when the lane was interrupted", "Ask the upstream whether the call took effect."
    ),
    "missing-mark": Code(
        _I,
        "scope did not mark the lane when a revocation had to be known",
        "Scope may have been down; ask the operator.",
    ),
    "partial-replay": Code(
        _I,
        "the pin asks for a full replay and arguments are not disclosed",
        "Ask the gateway's caller to disclose them.",
    ),
    "bad-pin": Code(_U, "the pin cannot be used", "Ask the operator for pin.json over a channel you trust."),
}
