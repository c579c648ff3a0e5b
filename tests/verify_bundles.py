#!/usr/bin/env python3
"""A second verifier: checks every signature in bundles with a JOSE library that is not ours.

    verify_bundles.py --genesis genesis.json BUNDLE...

Needs joserfc (https://jose.authlib.org), which `scripts/setup --test` installs. It shares no code with the project and
knows it by DESIGN alone: whose signature each must be, and over what. It looks at nothing but signatures; how ballots are
counted is for `assent verify`. For each bundle it prints how many signatures are good, or the first that is not. Exit
codes: 0 all are good, 4 one is not, 2 usage.
"""

import argparse
import base64
import binascii
import hashlib
import json
import sys
import tomllib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey


class Bad(Exception):
    """A signature is not good, or is missing."""


def require(condition, why):
    if not condition:
        raise Bad(why)


def from_base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def tuple_of(*fields):
    """Each field as a 32-bit big-endian length and its bytes (DESIGN section 6, hash inputs)."""
    encoded = [str(field).encode() for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


class Keys:
    """Public keys by their RFC 7638 thumbprint."""

    def __init__(self, jwks):
        keys = [ECKey.import_key(dict(jwk)) for jwk in jwks]
        self.by_thumbprint = {key.thumbprint(): key for key in keys}

    def find(self, kid, what):
        require(kid in self.by_thumbprint, f"{what}: signed by {kid}, who may not")
        return self.by_thumbprint[kid]


class Verifier:
    """Checks the signatures of bundles of one deployment, and counts them."""

    def __init__(self, genesis):
        self.deployment = digest(genesis)
        self.genesis = json.loads(genesis)
        self.checked = 0

    def named(self, list_name, name):
        found = [entry for entry in self.genesis[list_name] if entry["name"] == name]
        require(len(found) == 1, f"genesis: no {name} in {list_name}")
        return found[0]

    def message(self, compact, typ, keys, what):
        """A signed message of Assent: by one of these keys, of this type, for this deployment."""
        obj = jws.extract_compact(compact.encode())
        header = obj.headers()
        require(header.get("typ") == typ, f"{what}: its type is {header.get('typ')}, not {typ}")
        key = keys.find(header.get("kid"), what)
        obj = jws.deserialize_compact(compact, key, algorithms=["ES256"])
        self.checked += 1
        payload = json.loads(obj.payload)
        require(payload["deployment"] == self.deployment, f"{what}: it is for another deployment")
        return payload

    def signature(self, jwk, content, signature, what, alg="ES256", digest=None):
        """A plain signature over content: ECDSA in DER, or RSA. A digest says that content is one, and of what kind."""
        key = import_key(jwk, alg).public_key
        digest = digest or HASHES[alg]()
        try:
            if alg in ("ES256", "ES384"):
                key.verify(signature, content, ec.ECDSA(digest))
            elif alg == "RS256":
                key.verify(signature, content, padding.PKCS1v15(), digest)
            else:
                # RFC 7518 section 3.5: the salt is as long as the digest.
                key.verify(signature, content, padding.PSS(padding.MGF1(hashes.SHA256()), 32), digest)
        except InvalidSignature:
            raise Bad(f"{what}: the signature is wrong") from None
        self.checked += 1

    def transitions(self, pairs, jwk, governing, what):
        """Follows key transitions from genesis's key, and returns the last key."""
        for pair in pairs:
            first = governing or Keys([jwk])
            payload = self.message(pair["first"], "assent-key-transition+jws", first, f"{what} transition")
            new = Keys([payload["to"]])
            same = self.message(pair["new"], "assent-key-transition+jws", new, f"{what} transition, new key")
            require(payload == same, f"{what} transition: its two messages differ")
            jwk = payload["to"]
        return jwk

    def inclusion(self, inclusion, what):
        """The validators' signatures over the block that an event is in."""
        validators = [chain for chain in self.genesis["chains"] if chain["id"] == inclusion["chain"]]
        require(len(validators) == 1, f"{what}: genesis has no ledger {inclusion['chain']}")
        validators = Keys(validators[0]["validators"])
        certificate = inclusion["certificate"]
        require(
            digest(from_base64url(inclusion["header"])) == certificate["block"], f"{what}: another block is certified"
        )
        commit = tuple_of(
            "assent-commit-v1",
            self.deployment,
            inclusion["chain"],
            certificate["height"],
            certificate["round"],
            certificate["block"],
        )
        signed = set()
        for entry in certificate["signatures"]:
            key = validators.find(entry["kid"], f"{what}, certificate")
            der = raw_to_der(from_base64url(entry["signature"]))
            self.signature(key.as_dict(private=False), commit, der, f"{what}, certificate")
            signed.add(entry["kid"])
        require(3 * len(signed) > 2 * len(validators.by_thumbprint), f"{what}: too few validators signed")

    def result(self, bundle, subject, request, governing):
        """What the operational key signed: the approved file, in the key's format."""
        result = bundle["result"]
        entry = self.named("keys", result["key"])
        alg = entry["alg"]
        jwk = self.transitions(bundle["key_transitions"], entry["key"], governing, "key")
        require(result["public_key"] == jwk, "result: by a key that nothing leads to")
        require(result["format"] == entry["format"], "result: in another format than the key's")
        signature = from_base64url(result["signature"])
        approved = bytes.fromhex(subject["digest"].removeprefix("sha256:"))
        if result["format"] in ("der", "raw"):
            if result["format"] == "raw" and jwk["kty"] == "EC":
                signature = raw_to_der(signature, {"P-256": 64, "P-384": 96}[jwk["crv"]])
            # A file is known by its SHA-256, whatever the key.
            self.signature(jwk, approved, signature, "result", alg, Prehashed(hashes.SHA256()))
            return
        if result["format"] == "dsse":
            envelope = json.loads(signature)
            payload = base64.b64decode(envelope["payload"], validate=True)
            kind = envelope["payloadType"].encode()
            encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
            for entry in envelope["signatures"]:
                self.signature(jwk, encoded, base64.b64decode(entry["sig"], validate=True), "result", alg)
            require(envelope["signatures"], "result: nobody signed the envelope")
        else:
            obj = jws.deserialize_compact(signature, import_key(jwk, alg), algorithms=[alg])
            require(obj.headers()["typ"] == "in-toto+jws", "result: of another type")
            payload = obj.payload
            self.checked += 1
        statement = json.loads(payload)
        names = [(file["name"], file["digest"]["sha256"]) for file in statement["subject"]]
        require(names == [(subject["name"], approved.hex())], "result: over another file")
        require(statement["predicate"]["request"] == request, "result: for another request")

    def bundle(self, bundle):
        """Checks all signatures of a bundle and of those in its history."""
        require(bundle["genesis"] == self.deployment, "bundle: of another deployment")
        for change in bundle["history"]:
            self.bundle(change)
        policy, definition = (from_base64url(bundle[name]) for name in ("policy", "definition"))
        voters = Keys(voter["key"] for voter in tomllib.loads(policy.decode())["voter"])
        requesters = Keys(entry["key"] for entry in tomllib.loads(definition.decode())["requester"])
        # Which contract asks is in the vote request, which is believed when its signature is good.
        unverified = json.loads(jws.extract_compact(bundle["vote_request"].encode()).payload)
        contract = self.named("contracts", unverified["contract"])
        governing = None
        if contract.get("governed_by"):
            governing = Keys([self.named("contracts", contract["governed_by"])["key"]])
        contract_jwk = self.transitions(bundle["contract_transitions"], contract["key"], governing, "contract")
        contract_key = Keys([contract_jwk])

        asked = self.message(bundle["vote_request"], "assent-vote-request+jws", contract_key, "vote request")
        if not bundle["history"]:
            require(policy == from_base64url(contract["policy"]), "policy: not the one in genesis")
            process = self.named("processes", asked["process"])
            require(definition == from_base64url(process["definition"]), "process: not the one in genesis")
        self.message(bundle["start"], "assent-start+jws", requesters, "start")
        require(asked["start"] == digest(bundle["start"].encode()), "start: of another case")
        for place, ballot in enumerate(bundle["ballots"]):
            cast = self.message(ballot["jws"], "assent-ballot+jws", voters, f"ballot {place}")
            require(cast["request"] == asked["request"], f"ballot {place}: for another request")
        if "cancel" in bundle:
            self.message(bundle["cancel"]["jws"], "assent-cancel+jws", requesters, "cancel")
        decided = self.message(bundle["decision"], "assent-decision+jws", contract_key, "decision")
        require(decided["request"] == asked["request"], "decision: for another request")
        self.inclusion(bundle["inclusion"], "inclusion of the decision")
        if "result" in bundle:
            require(decided["outcome"] == "approved", "result: without an approval")
            self.result(bundle, asked["subject"], asked["request"], contract_key)
            self.inclusion(bundle["result"]["inclusion"], "inclusion of the result")


HASHES = {"ES256": hashes.SHA256, "ES384": hashes.SHA384, "RS256": hashes.SHA256, "PS256": hashes.SHA256}


def import_key(jwk, alg):
    """A key that can sign by alg: an RSA key by RS256 and PS256, a key on a curve by that curve's algorithm."""
    fits = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "RS256": ("RSA", None), "PS256": ("RSA", None)}
    require((jwk["kty"], jwk.get("crv")) == fits[alg], f"key: a {jwk['kty']} key that cannot sign by {alg}")
    return (ECKey if jwk["kty"] == "EC" else RSAKey).import_key(dict(jwk))


def raw_to_der(signature, length=64):
    require(len(signature) == length, f"a signature must have {length} bytes")
    r, s = signature[: length // 2], signature[length // 2 :]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genesis", required=True)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    arguments = parser.parse_args()
    with open(arguments.genesis, "rb") as file:
        genesis = file.read()
    exit_code = 0
    for path in arguments.bundles:
        with open(path, "rb") as file:
            content = file.read()
        verifier = Verifier(genesis)
        try:
            verifier.bundle(json.loads(content))
            print(f"{path}: {verifier.checked} signatures are good")
        except (Bad, JoseError, KeyError, TypeError, ValueError, binascii.Error) as error:
            print(f"{path}: not good: {error if isinstance(error, Bad) else repr(error)}")
            exit_code = 4
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
