"""Detectors: which classes of data a text holds, and where (specs/receipts.md §7).

One RE2 set says in linear time which patterns occur at all; only those are looked for, and what they find has to pass a
check of its own: Luhn, ISO 7064, a date, entropy. A detector that guesses makes people switch it off.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import re2
from msgspec import Struct

SECRETS, CREDENTIALS, PAYMENT, PERSONAL = "secrets", "credentials", "payment_instruments", "personal_data"
LABELS = (CREDENTIALS, PAYMENT, PERSONAL, SECRETS)
# Bits a character: words of plain letters have up to 3, and what repeats itself fewer than 2.
MIN_ENTROPY, MIN_ENTROPY_OF_LETTERS = 2.0, 3.0
MIN_SECRET = 8
_PLACEHOLDERS = ("*", "<", "${", "{{", "[redacted", "your", "example", "changeme")


_IBAN_LENGTHS = range(15, 35)
# Visa; Mastercard; JCB; American Express; Diners; Discover, UnionPay: digits in the length that the issuer uses.
_ISSUERS = re2.compile(
    "4[0-9]{12}(?:[0-9]{3}){0,2}|(?:5[1-5]|2[2-7])[0-9]{14}|35[2-8][0-9]{13}|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|"
    "6(?:011|2[0-9]{2}|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}"
)


class Found(Struct, frozen=True):
    """One finding: characters `start` to `end` of the text."""

    label: str
    start: int
    end: int


class _Detector(Struct, frozen=True):
    label: str
    pattern: str
    check: Callable[[str], bool] = bool


def find(text: str) -> list[Found]:
    """Find everything in a text, in the order of the patterns."""
    numbers = _set.Match(text)
    return [found for number in numbers or () for found in _all(_detectors[number], _compiled[number], text)]


def open_end(text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a finding, by their look."""
    match = _open_end.search(text)
    return len(text) - match.start() if match else 0


def names_secret(name: str, value: str) -> bool:
    """Tell whether a member of an object is a credential by its name, and by its value no placeholder."""
    return _secret_name.fullmatch(name) is not None and _is_random(value)


def _all(detector: _Detector, pattern: "re2._Regexp", text: str) -> Iterator[Found]:
    for match in pattern.finditer(text):
        inside = 1 if match.re.groups else 0
        if detector.check(match.group(inside)):
            yield Found(detector.label, *match.span(inside))


def _digits(text: str) -> list[int]:
    return [int(each) for each in text if each.isdecimal()]


def _is_card(text: str) -> bool:
    """Check the issuer's range with its length, and the Luhn digit (ISO/IEC 7812-1)."""
    digits = _digits(text)
    issued = _ISSUERS.fullmatch("".join(map(str, digits))) is not None
    doubled = [sum(divmod(2 * each, 10)) if odd % 2 else each for odd, each in enumerate(reversed(digits))]
    return issued and sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """Check length and remainder (ISO 13616, ISO 7064 MOD 97-10)."""
    plain = text.replace(" ", "")
    turned = plain[4:] + plain[:4]
    return len(plain) in _IBAN_LENGTHS and int("".join(str(int(each, 36)) for each in turned)) % 97 == 1


def _is_ssn(text: str) -> bool:
    """Check that a United States social security number could have been issued."""
    area, group, serial = text.split("-")
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _is_cpf(text: str) -> bool:
    """Check the two digits at the end of a Brazilian taxpayer number."""
    digits = _digits(text)
    checks = [sum((length + 1 - at) * digits[at] for at in range(length)) * 10 % 11 % 10 for length in (9, 10)]
    return checks == digits[9:] and len(set(digits)) > 1


def _is_resident(text: str) -> bool:
    """Check month, day and last character of a Chinese resident number (GB 11643, ISO 7064 MOD 11-2)."""
    weights = [pow(2, 17 - at, 11) for at in range(17)]
    total = sum(weight * int(each) for weight, each in zip(weights, text[:17], strict=True))
    return (
        "19" <= text[6:8] <= "20"
        and "01" <= text[10:12] <= "12"
        and "01" <= text[12:14] <= "31"
        and "10X98765432"[total % 11] == text[17]
    )


def _is_given(text: str) -> bool:
    """Tell a value from what stands for one."""
    return not text.lower().startswith(_PLACEHOLDERS)


def _is_random(text: str) -> bool:
    """Tell a password from a placeholder: eight characters or more that do not repeat themselves."""
    if len(text) < MIN_SECRET or not _is_given(text):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    least = MIN_ENTROPY_OF_LETTERS if text.isalpha() else MIN_ENTROPY
    return -sum(share * math.log2(share) for share in shares) >= least


_NAMES = (
    r"(?:[A-Za-z0-9]+[_-])*(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"auth[_-]?token|access[_-]?token|refresh[_-]?token|client[_-]?secret)"
)
_KEY = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_detectors = (
    _Detector(SECRETS, r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    _Detector(SECRETS, r"\b(?:gh[oprsu]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})[A-Za-z0-9_]*"),
    _Detector(SECRETS, r"\bglpat-[A-Za-z0-9_-]{20,}"),
    _Detector(SECRETS, r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _Detector(SECRETS, r"\bAIza[A-Za-z0-9_-]{35}"),
    _Detector(SECRETS, r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    _Detector(SECRETS, r"\bsk-[A-Za-z0-9_-]{20,}", _is_random),
    _Detector(SECRETS, r"\bnpm_[A-Za-z0-9]{36}\b"),
    _Detector(SECRETS, r"\bpypi-[A-Za-z0-9_-]{50,}"),
    _Detector(SECRETS, rf"-----BEGIN {_KEY}(?s:.*?)(?:-----END {_KEY}|\z)"),
    _Detector(CREDENTIALS, r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"),
    _Detector(CREDENTIALS, r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:([^\s/@]{1,100})@", _is_given),
    _Detector(CREDENTIALS, r"(?i)\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+([A-Za-z0-9._~+/=-]{8,})"),
    _Detector(CREDENTIALS, rf"(?i)\b{_NAMES}[\"']?\s*(?::=|[:=])\s*[\"']?([^\s\"',;]{{8,}})", _is_random),
    _Detector(PAYMENT, r"\b(?:[0-9][ -]?){12,18}[0-9]\b", _is_card),
    _Detector(PAYMENT, r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    _Detector(PERSONAL, r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", _is_ssn),
    _Detector(PERSONAL, r"\b[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}\b", _is_cpf),
    _Detector(PERSONAL, r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]\b"),
    _Detector(PERSONAL, r"\b[0-9]{17}[0-9X]\b", _is_resident),
)
# A run that is no plain word, capitals and digits in groups, or what stands behind a name of credentials.
_open_end = re2.compile(
    r"(?:[A-Z0-9][A-Z0-9 .-]{0,60}|\S*[0-9A-Z_:/=@+-]\S*|"
    rf"(?i)\b(?:{_NAMES}|authorization)[\"']?\s*(?::=|[:=])?\s*[\"']?(?:(?:basic|bearer)\s+)?\S*)\z"
)
_secret_name = re2.compile(rf"(?i){_NAMES}")
_compiled = tuple(re2.compile(each.pattern) for each in _detectors)
_set = re2.Set.SearchSet()
for _each in _detectors:
    _set.Add(_each.pattern)
_set.Compile()
