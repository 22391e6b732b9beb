"""Hostile values, and records, tables and files that were whole before somebody damaged them."""

import copy
import json
import string

from hypothesis import strategies as st

DEEP = 300  # levels that json.dumps can write
LONE = "\ud800"
WORDS = r"""
. .. ../../x /etc/passwd C:\x ..\..\x \\host\share a/../../b file:///etc/passwd http://127.0.0.1:9/x
hf-hub:someone/model local-dir:/tmp con nul.png =1+1 | <script>alert(1)</script> {class} {0.__class__} %2F ~ nan inf -1
1e999 0x10 ٣ train test validation null [ { é
""".split()
TEXTS = ("", " ", "a" * 300, "\0", "a\nb", "\r\n", LONE, "\u202e", "\u200b", "e\u0301", *WORDS)
NUMBERS = (0, 1, -1, 2, 2**16 + 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-320, 1e308)
STRANGE = (float("nan"), float("inf"), -float("inf"))
MARKS = (b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"\xd8\x00", b"\xed\xa0\x80", b"\xff" * 8)
MARKS += (b"\x7f\xff\xff\xff", b"\n", b"\r\n", b"\t", *(bytes([character]) for character in b"\"',;\\}]-<"))
LONG = (b"[" * 100_000, b'{"a":' * 2000, b"9" * 5000, b"../" * 5, b"A" * 70_000)
ENTITIES = b'<!DOCTYPE x [<!ENTITY lol "ha"><!ENTITY lol2 "&lol;&lol;">]>'
TOKENS = (b"", *MARKS, *LONG, b"NaN", b"1e999", b"null", ENTITIES, b"&lol;", b"<object><object>")


def deep(kind, levels=DEEP):
    """A list or a mapping in one in one ..."""
    value = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


scalars = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from(STRANGE),
    st.sampled_from([None, True, False]),
    st.text(max_size=12),
    st.integers(-10, 10),
    st.floats(),
)
values = st.one_of(
    scalars,
    st.sampled_from([[], {}, [[]], [{}], {"": None}, [None], deep(list), deep(dict)]).map(copy.deepcopy),
    st.lists(scalars, max_size=4),
    st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=6), scalars, max_size=3),
)
names = st.sampled_from(TEXTS) | st.text(string.ascii_letters + "/.\\_ é", max_size=12)


@st.composite
def damaged(draw, samples, most=3):
    """One of `samples`, plain values, with up to `most` parts of it changed."""
    value = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, most))):
        value = _changed(draw, value)
    return value


def _changed(draw, value):
    """Walk down to some part, and replace, remove, rename, repeat or add there."""
    if not isinstance(value, (list, dict)) or not value or draw(st.integers(0, 7)) == 0:
        return draw(values)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    what = draw(st.integers(0, 9))
    if what < 4:
        value[key] = _changed(draw, value[key])
    elif what < 6:
        value[key] = draw(values)
    elif what == 6:
        del value[key]
    elif what == 7 and isinstance(value, dict):
        value[draw(names)] = value.pop(key)
    elif what == 8:
        other = copy.deepcopy(value[draw(st.sampled_from(keys))])
        value.append(other) if isinstance(value, list) else value.update({key: other})
    else:
        value.append(draw(values)) if isinstance(value, list) else value.update({draw(names): draw(values)})
    return value


@st.composite
def damaged_bytes(draw, samples, most=4):
    """One of `samples`, bytes, of which parts were overwritten, removed, repeated or put in."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 50, 1 << 30)))
        what = draw(st.integers(0, 4))
        piece = draw(st.binary(min_size=1, max_size=4) | st.sampled_from(TOKENS))
        if what == 0:
            data = data[:at] + piece + data[at + len(piece) :]
        elif what == 1:
            data = data[:at] + data[at + length :]
        elif what == 2:
            data = data[:at] + piece + data[at:]
        elif what == 3:
            data = data[:at] + data[at : at + min(length, 4096)] + data[at:]
        else:
            data = data[: at or 1]
    return data


def as_json(value):
    """JSON as a careless program writes it: with NaN, and with surrogates as escapes."""
    return json.dumps(value).encode()


@st.composite
def json_files(draw, samples, most=3):
    """The bytes of a JSON file that was damaged as a value, as text, or both; some in other encodings."""
    way = draw(st.integers(0, 9))
    data = as_json(draw(damaged(samples, most)) if way else draw(st.sampled_from(samples)))
    if way < 2:
        data = draw(damaged_bytes([data]))
    return data if way < 9 else data.decode().encode(draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig"))))


@st.composite
def tables(draw, columns):
    """A table as text: some of `columns` and others, and cells of any kind."""
    head = draw(st.lists(st.sampled_from(columns) | names, min_size=1, max_size=5))
    cells = st.sampled_from(columns) | scalars.map(str) | st.sampled_from(["1.png", "a/2.png", "x.jpg"])
    rows = draw(st.lists(st.lists(cells, min_size=len(head) - 1, max_size=len(head) + 1), max_size=5))
    sign, end = draw(st.sampled_from((",", ";", "\t", "|", " ", ""))), draw(st.sampled_from(("\n", "\r\n", "\r")))
    quoted = draw(st.booleans())
    lines = [sign.join(f'"{cell}"' if quoted else cell for cell in row) for row in (head, *rows)]
    return end.join(lines).encode("utf-8", "surrogatepass")
