"""Texts for the operators that have a grammar: what is inside, what is outside, and every trick between them."""

import json
from typing import Any

HOSTS = ["example.com", "*.example.com", "other.example:8443"]
DOMAINS = ["a.example", "*.b.example"]
TOP = "/srv/data"
BLOCKS = ["10.0.0.0/8", "2001:db8::/32"]

URLS = (
    "https://example.com", "http://example.com/", "https://www.example.com/a?b=c#d", "https://EXAMPLE.com/",
    "https://a.b.example.com/@x", "https://example.com/a%20b", "https://example.org/", "https://notexample.com/",
    "https://example.com.evil.test/", "https://other.example:8443/", "https://other.example/",
    "https://example.com:8443/", "https://example.com:443/", "https://example.com:08443/", "https://example.com:/",
    "https://other.example:98443/", "https://user@example.com/", "https://example.com@evil.test/",
    "https://example.com:x@evil.test/", "https://evil.test#@example.com/", "https://evil.test\\@example.com/",
    "https://example.com\\.evil.test/", "https:\\\\example.com/", "https://evil.test?.example.com/",
    "https://example.com./", "https://.example.com/", "https://ex_ample.com/", "https://xn--80ak6aa92e.example.com/",
    "https://ab--c.example.com/", "https://-a.example.com/", "https://a-.example.com/",
    "https://ex\u0430mple.com/", "https://example\uff0ecom/", "https://example\u3002com/", "https://e\u00adxample.com/",
    "https://127.0.0.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/",
    "https://[::1]/", "https://localhost/", "//example.com/", "/example.com", "example.com", "ftp://example.com/",
    "HTTPS://example.com/", "javascript://example.com/%0aalert(1)", " https://example.com/", "https://example.com/ ",
    "https://example.com/\u0000", "https://example.com/\n", "https://example.com/%zz", "https://example.com/#a#b", "",
    f"https://{'a' * 64}.example.com/", f"https://{'a.' * 122}example.com/", f"https://example.com/{'a' * 2029}",
)  # fmt: skip
ADDRESSES = (
    "ann@a.example", "Ann.Lee+x@A.Example", "ann@c.b.example", "ann@b.example", "ann@evil.test",
    "ann@a.example.evil.test", "ann@x@a.example", "ann@evil.test@a.example", "ann%evil.test@a.example",
    "evil.test!ann@a.example", "@a.example", "ann", "ann@", "ann@example", "ann@a.example.", "ann@[10.0.0.1]",
    "ann@10.0.0.1", "ann@xn--80ak6aa92e.b.example", "Ann <ann@a.example>", "ann@a.example,bob@evil.test",
    "ann@a.example (Ann)", "ann(x)@a.example", "ann @a.example", "ann@a.example\r\nBcc: bob@evil.test",
    ".ann@a.example", "ann..lee@a.example", "\u00e4nn@a.example", "ann@\u0430.example", '"ann@evil.test"@a.example',
    "mailto:ann@a.example", f"{'a' * 65}@a.example",
)  # fmt: skip
PATHS = (
    "/srv/data", "/srv/data/a", "/srv/data/a b/c.txt", "/srv/data/~x", "/srv", "/", "/srv/database", "/SRV/data/a",
    "/etc/passwd", "/srv/data/../../etc/passwd", "/srv/data/..", "/srv/data/./a", "/srv/data//a", "//srv/data/a",
    "/srv/data/", "srv/data/a", "./a", "../srv/data", "", "~/a", "/srv/data/%2e%2e/a", "/srv/data/a%00",
    "/srv/data\\..\\a", "C:\\srv\\data", "/srv/data/a\u0000.txt", "/srv/data/a\n", "/srv/data/.. /a",
    "/srv/data/.../a", "/srv/data/a.", "/srv/data/ a", "/srv/data/\u00e4", "/srv/data/\uff0e\uff0e/a",
    "file:///srv/data/a", f"/srv/data/{'a' * 4087}",
)  # fmt: skip
IPS = (
    "10.1.2.3", "11.0.0.1", "2001:db8::1", "2001:db9::1", "010.1.2.3", "10.1.515", "167838211", "0xa.1.2.3",
    "10.1.2.3 ", "10.1.2.3/8", "10.1.2.3:80", "2001:DB8::1", "2001:db8:0::1", "[2001:db8::1]", "::ffff:10.1.2.3",
    "::ffff:a01:203", "64:ff9b::a01:203", "2002:a01:203::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1%eth0",
    "ten", "", "\u0661\u0660.1.2.3", "1" * 46,
)  # fmt: skip
ONE = "ann@a.example"
LISTS: tuple[list[Any], ...] = (
    [ONE, "bob@c.b.example"], ["ann@evil.test", "bob@evil.test"], [ONE, "bob@evil.test"], [ONE, 1], [ONE, [ONE]], [],
    [ONE] * 256, [ONE] * 257,
)  # fmt: skip


def _row(op: str, wanted: Any, given: Any) -> tuple[str, str, Any, str]:
    return "args.x", op, wanted, json.dumps({"x": given}, ensure_ascii=False)


GRAMMAR = (
    *(_row("host_in", HOSTS, text) for text in URLS),
    *(_row("email_domain_in", DOMAINS, text) for text in ADDRESSES),
    *(_row("email_domain_in", DOMAINS, texts) for texts in LISTS),
    *(_row("subpath_of", TOP, text) for text in PATHS),
    _row("subpath_of", "/", "/etc/passwd"),
    _row("subpath_of", TOP, 1),
    *(_row("cidr_in", BLOCKS, text) for text in IPS),
)
