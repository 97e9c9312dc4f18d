"""Step 1: bundles that cannot be read within limits, or hold lines that nobody judges."""

from tests.vectors.bundles.make import bent, edit, lines, place, signed, story
from tests.vectors.case import Made, case
from tests.world import pair
from verifier.envelope import seal_up

MADE: Made = {}


@case(MADE, "MALFORMED missing-line", "nothing at all")
def empty() -> bytes:
    return b""


@case(MADE, "MALFORMED missing-line", "another kind of file")
def not_a_bundle() -> bytes:
    return b'{"hello":"world"}\n'


@case(MADE, "MALFORMED missing-line", "the header line is left out")
def no_header() -> bytes:
    return b"".join(lines(story())[1:])


@case(MADE, "MALFORMED missing-line", "the key list is left out")
def no_keys() -> bytes:
    written = lines(story())
    del written[place(written, "keys")]
    return b"".join(written)


@case(MADE, "MALFORMED truncated", "the last line lost its end", also="wrong-size wrong-root no-close")
def truncated_line() -> bytes:
    return story().bundle()[:-20]


@case(
    MADE,
    "MALFORMED bad-line",
    "grant and manifest have changed places",
    also="missing-document unknown-server wrong-manifest",
)
def documents_out_of_order() -> bytes:
    written = lines(story())
    at = place(written, "grant")
    written[at - 1], written[at] = written[at], written[at - 1]
    return b"".join(written)


@case(MADE, "MALFORMED bad-line", "a line of no known kind among the documents")
def unknown_line() -> bytes:
    written = lines(story())
    written.insert(2, b'{"comment":"please pass"}\n')
    return b"".join(written)


@case(MADE, "MALFORMED bad-line", "the grant stands twice")
def grant_twice() -> bytes:
    written = lines(story())
    at = place(written, "grant")
    written.insert(at, written[at])
    return b"".join(written)


@case(MADE, "MALFORMED unknown-field", "the header line carries a field that nothing checks")
def header_with_unsigned_field() -> bytes:
    return edit("header", lambda raw: raw.replace(b'"job"', b'"approved":true,"job"'))


@case(MADE, "FAIL wrong-job", "the header line, which nobody signs, names another job", also="wrong-head")
def header_of_another_job() -> bytes:
    return edit("header", lambda raw: raw.replace(b'"job-1"', b'"job-2"'))


@case(MADE, "UNTRUSTED wrong-suite", "the header asks for a suite that the pin does not accept")
def header_of_another_suite() -> bytes:
    return edit("header", lambda raw: raw.replace(b"tally-1", b"tally-0"))


@case(MADE, "MALFORMED bad-value", "the header names another format")
def header_of_another_format() -> bytes:
    return edit("header", lambda raw: raw.replace(b"bundle/1", b"bundle/2"))


@case(MADE, "MALFORMED unnamed-document", "a manifest that no grant names travels along")
def unnamed_manifest() -> bytes:
    world = story()
    other = seal_up("manifest", bent(world.manifest_payload, lambda it: it.update(serial=2)), pair("registry"))
    return signed(world, manifests=[*world.documents(None).manifests, other])


@case(
    MADE,
    "MALFORMED no-ml-dsa",
    "an honest bundle on an installation that can check one signature of two: it must not do with one",
    lacks="ml-dsa-44",
)
def judged_without_ml_dsa() -> bytes:
    return story().bundle()
