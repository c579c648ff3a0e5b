"""Signatures: messages by a JOSE library, artifacts and certificates by plain ones."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from encoding import Bad, exactly, from_base64url, read_json, require

MESSAGES = {
    "start": "deployment chain process definition case nonce input",
    "vote-request": "deployment chain contract request policy process definition case step attempt requester start"
    " subject opened deadline key_version",
    "ballot": "deployment request vote_request voter choice reason?",
    "decision": "deployment chain contract request vote_request policy outcome ballots decided key_version",
    "key-transition": "deployment contract? key? version from to reason activates old_retires decision",
    "cancel": "deployment chain case nonce",
}

HASHES = {"ES256": hashes.SHA256, "ES384": hashes.SHA384, "RS256": hashes.SHA256, "PS256": hashes.SHA256}


def import_key(jwk, alg="ES256"):
    """A key that can sign by alg: an RSA key by RS256 and PS256, a key on a curve by that curve's algorithm."""
    fits = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "RS256": ("RSA", None), "PS256": ("RSA", None)}
    require((jwk["kty"], jwk.get("crv")) == fits[alg], f"key: a {jwk['kty']} key that cannot sign by {alg}")
    return (ECKey if jwk["kty"] == "EC" else RSAKey).import_key(dict(jwk))


def in_json(jwk, what):
    """A JWK as JSON has it; in TOML its members may stand in any order."""
    return exactly(jwk, "crv kty x y" if jwk["kty"] == "EC" else "e kty n", what)


def thumbprint(jwk, alg="ES256"):
    """RFC 7638."""
    return import_key(jwk, alg).thumbprint()


class Keys:
    """Public ES256 keys by their thumbprint."""

    def __init__(self, *jwks):
        self.by_thumbprint = {thumbprint(jwk): import_key(jwk) for jwk in jwks}

    def find(self, kid, what):
        require(kid in self.by_thumbprint, f"{what}: signed by {kid}, who may not")
        return self.by_thumbprint[kid]


def raw_to_der(signature, length=64):
    require(len(signature) == length, f"a signature must have {length} bytes")
    r, s = signature[: length // 2], signature[length // 2 :]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def unverified(compact):
    """What a message says, to be believed when its signature is good."""
    return read_json(from_base64url(compact.split(".")[1]))


def signer(compact):
    return jws.extract_compact(compact.encode()).headers()["kid"]


class Signatures:
    """Checks signatures of one deployment, and counts them."""

    def __init__(self, deployment):
        self.deployment = deployment
        self.checked = 0

    def message(self, compact, kind, keys, what):
        """A signed message of Assent: by one of these keys, of this type, for this deployment."""
        header, payload, signature = compact.split(".")
        from_base64url(signature)
        kid = signer(compact)
        expected = f'{{"alg":"ES256","kid":"{kid}","typ":"assent-{kind}+jws"}}'
        require(from_base64url(header) == expected.encode(), f"{what}: its header is not {expected}")
        jws.deserialize_compact(compact, keys.find(kid, what), algorithms=["ES256"])
        self.checked += 1
        says = exactly(read_json(from_base64url(payload)), MESSAGES[kind], what)
        require(says["deployment"] == self.deployment, f"{what}: it is for another deployment")
        return says

    def plain(self, jwk, content, signature, what, alg="ES256", digest=None):
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
