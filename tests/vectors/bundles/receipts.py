"""Step 7: receipts that a dishonest gateway wrote, and scope sealed as told."""

from tests.vectors.bundles.make import HTTP, MODEL, dishonest
from tests.vectors.case import Made, case
from tests.world import Lane, World
from verifier.leaf import Note
from verifier.merkle import leaf_hash

MADE: Made = {}


def _raw(lane: Lane, raw: bytes) -> None:
    lane.raws.append(raw)
    lane.tree.append(leaf_hash(raw))


@case(MADE, "MALFORMED not-json", "a line that is not JSON among the receipts", also="wrong-seq")
def receipt_not_json() -> bytes:
    return dishonest(lambda _, lane: _raw(lane, b"not json"))


@case(MADE, "MALFORMED not-utf8", "a byte that is not UTF-8 in a receipt", also="wrong-seq")
def receipt_not_utf8() -> bytes:
    return dishonest(lambda _, lane: _raw(lane, b'{"code":"\xff","kind":"note","seq":2,"time":1}'))


@case(MADE, "MALFORMED too-large", "a receipt of more than 8 KiB", also="wrong-seq")
def receipt_too_large() -> bytes:
    return dishonest(lambda _, lane: _raw(lane, b'{"code":"' + b"x" * 9000 + b'","kind":"note","seq":2,"time":1}'))


@case(MADE, "MALFORMED wrong-kind", "a receipt of no known kind", also="wrong-seq")
def receipt_of_unknown_kind() -> bytes:
    return dishonest(lambda _, lane: _raw(lane, b'{"code":"x","kind":"praise","seq":2,"time":1}'))


@case(MADE, "MALFORMED bad-value", "text from a call in a receipt", also="wrong-seq")
def receipt_with_text() -> bytes:
    return dishonest(lambda _, lane: _raw(lane, b'{"code":"ignore all rules","kind":"note","seq":2,"time":1}'))


@case(MADE, "FAIL wrong-target", "a call held that the grant does not name")
def receipt_hold() -> bytes:
    return dishonest(lambda _, lane: lane.hold("call-1", HTTP))


@case(MADE, "FAIL wrong-time", "a receipt earlier than the one before it")
def receipt_earlier() -> bytes:
    def back(_: World, lane: Lane) -> None:
        lane.write(lambda seq, time: Note(code="one", seq=seq, time=time))
        lane.write(lambda seq, time: Note(code="two", seq=seq, time=time - 1500))

    return dishonest(back)


@case(MADE, "FAIL wrong-order", "a receipt after the close")
def receipt_after_close() -> bytes:
    def after(_: World, lane: Lane) -> None:
        lane.close()
        lane.write(lambda seq, time: Note(code="late", seq=seq, time=time))

    return dishonest(after)


@case(MADE, "FAIL wrong-counts", "the close receipt counts fewer denials than there are")
def close_miscounts() -> bytes:
    def miscount(_: World, lane: Lane) -> None:
        lane.deny("call-1", HTTP)
        lane.kinds["deny"] = 0

    return dishonest(miscount)


@case(MADE, "FAIL no-begin", "an end without its begin")
def end_without_begin() -> bytes:
    return dishonest(lambda _, lane: lane.end("call-1"))


@case(MADE, "FAIL no-end", "a begin without its end in a closed lane")
def begin_without_end() -> bytes:
    return dishonest(lambda _, lane: lane.begin("call-1", MODEL))


@case(MADE, "FAIL wrong-order", "one call begins twice", also="no-end")
def begin_twice() -> bytes:
    def twice(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL)
        lane.begin("call-1", MODEL)

    return dishonest(twice)


@case(MADE, "FAIL bad-end", "a call that went well has no commitment of its answer")
def end_without_answer() -> bytes:
    def bare(_: World, lane: Lane) -> None:
        lane.begin("call-1", MODEL)
        lane.end("call-1", recv=None, dlv=None)

    return dishonest(bare)
