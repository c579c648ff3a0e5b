"""Bytes and texts, as strict as DESIGN section 6 has them: JSON, base64url, digests, tuples, durations, Merkle trees."""

import base64
import hashlib
import json
import re


class Bad(Exception):
    """Something is not as it must be."""


def require(condition, why):
    if not condition:
        raise Bad(why)


def read_json(content):
    """JSON without what two readers could read in two ways."""

    def members(pairs):
        require(len(dict(pairs)) == len(pairs), "JSON: a member is there twice")
        return dict(pairs)

    def refuse(number):
        raise Bad(f"JSON: {number} is not an integer")

    value = json.loads(content.decode(), object_pairs_hook=members, parse_float=refuse, parse_constant=refuse)
    # A lone surrogate cannot be encoded.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def exactly(value, members, what):
    """An object with these members, in this order; those that end with `?` may be absent."""
    require(isinstance(value, dict), f"{what}: it is not an object")
    expected = [member.rstrip("?") for member in members.split() if member.rstrip("?") in value or member[-1] != "?"]
    require(list(value) == expected, f"{what}: its members are not {', '.join(expected)}")
    return value


def integer(value, what):
    require(type(value) is int and 0 <= value < 2**53, f"{what}: {value} is not a number of it")
    return value


def from_base64url(text):
    """Canonical base64url: of all texts that a lax reader takes for the same bytes, the one that an encoder writes."""
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    require(base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == text, "base64url: it is not canonical")
    return decoded


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def from_digest(text):
    require(re.fullmatch("sha256:[0-9a-f]{64}", text), f"{text} is not a digest")
    return bytes.fromhex(text.removeprefix("sha256:"))


def tuple_of(*fields):
    """Each field as a 32-bit big-endian length and its bytes."""
    encoded = [str(field).encode() for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


def duration(text):
    """Milliseconds."""
    match = re.fullmatch("([1-9][0-9]{0,8})(ms|s|m|h|d)", text)
    require(match, f"{text} is not a duration")
    return int(match[1]) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[match[2]]


def leaf_hash(leaf):
    return hashlib.sha256(b"\0" + leaf).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def tree_root(leaves):
    """RFC 9162 section 2.1.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_root(leaves[:split]), tree_root(leaves[split:]))


def root_by_path(leaf, index, size, path):
    """RFC 9162 section 2.1.3.2: the root of a tree of `size` leaves, of which this is the one at `index`."""
    require(index < size, "path: there is no such leaf")
    first, second, root = index, size - 1, leaf_hash(leaf)
    for sibling in path:
        require(second, "path: it is too long")
        if first & 1 or first == second:
            root = node_hash(sibling, root)
            while not first & 1 and first:
                first, second = first >> 1, second >> 1
        else:
            root = node_hash(root, sibling)
        first, second = first >> 1, second >> 1
    require(not second, "path: it is too short")
    return root
