"""One bundle: whose signature each must be, over what, and by what was in force."""

import base64
import tomllib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from joserfc import jws

from encoding import (
    Bad, digest, exactly, from_base64url, from_digest, integer, read_json, require, root_by_path, tree_root, tuple_of,
)
from signatures import Keys, Signatures, import_key, in_json, raw_to_der, signer, thumbprint, unverified
from standing import Approval, Policy, Roles, Standing

BUNDLE = (
    "version genesis policy definition start vote_request ballots cancel? decision contract_transitions"
    " key_transitions history inclusion result?"
)
HEADER = (
    "deployment chain height time previous validators_hash headers_root transactions_root transactions_total"
    " events_root events_count state_digest"
)


class Verifier:
    """Verifies one bundle by genesis alone."""

    def __init__(self, genesis):
        self.genesis = genesis
        self.signatures = Signatures(genesis.id)
        self.standing = Standing(genesis, self.signatures, Roles(genesis.roles.known))

    def verify(self, content):
        """Returns how many signatures are good."""
        bundle = read_json(content)
        exactly(bundle, BUNDLE, "bundle")
        for place, change in enumerate(bundle["history"]):
            try:
                exactly(change, BUNDLE, "bundle")
                require(change["history"] == [], "it has a history of its own")
                require("result" not in change, "it has a result")
                self.standing.change(self.approval(change))
            except Bad as error:
                raise Bad(f"history, change {place}: {error}") from None
        self.approval(bundle)
        self.standing.finish()
        return self.signatures.checked

    def approval(self, bundle):
        """Verifies a bundle by what is in force so far."""
        require(type(bundle["version"]) is int and bundle["version"] == 1, "bundle: of another version")
        require(bundle["genesis"] == self.genesis.id, "bundle: of another deployment")
        # Which contract asks is in the vote request, which is believed when its signature is good.
        name = unverified(bundle["vote_request"])["contract"]
        ledger = self.genesis.contracts[name]["chain"]
        version, jwk = self.standing.key("contract", name, bundle["contract_transitions"])
        asked = self.signatures.message(bundle["vote_request"], "vote-request", Keys(jwk), "vote request")
        decided = self.signatures.message(bundle["decision"], "decision", Keys(jwk), "decision")
        require(asked["chain"] == ledger, "vote request: from another ledger")
        require(asked["key_version"] == version, "vote request: by another version of its contract's key")
        for member in ("chain", "contract", "request", "policy", "key_version"):
            require(decided[member] == asked[member], f"decision: of another {member}")
        require(decided["vote_request"] == digest(bundle["vote_request"].encode()), "decision: of another vote request")
        policy = self.policy(bundle, asked)
        self.start(bundle, asked)
        self.cancel(bundle, asked, decided)
        self.ballots(bundle, asked, decided, policy)
        decision = digest(bundle["decision"].encode())
        recorded = {"request": asked["request"], "outcome": decided["outcome"], "decision": decision}
        self.inclusion(bundle["inclusion"], ledger, "decision-recorded", recorded, "inclusion of the decision")
        until = decided["decided"] + policy.act_within
        approval = Approval(
            asked["subject"], decided["outcome"], name, version, jwk, asked["opened"], decision, decided["decided"], until
        )
        if "result" in bundle:
            self.result(bundle, asked, approval)
        else:
            require(bundle["key_transitions"] == [], "key transitions: they lead to no result")
        self.standing.approvals.append(approval)
        return approval

    def policy(self, bundle, asked):
        """The policy that the request goes by, which lets its contract decide on the subject."""
        policy = Policy(from_base64url(bundle["policy"]))
        require(asked["policy"] == policy.digest, "policy: not the one of the vote request")
        self.standing.policy(asked["contract"], policy, integer(asked["opened"], "opened"))
        require(asked["deadline"] == asked["opened"] + policy.deadline, "vote request: with another deadline")
        subject = asked["subject"]
        require(subject["kind"] in policy.kinds, f"policy: it does not decide on {subject['kind']}")
        for kind in ("key", "contract"):
            if kind in subject and not subject["kind"].startswith("add-"):
                governor = self.genesis.governor(kind, subject[kind])
                require(governor == asked["contract"], f"vote request: {subject[kind]} is governed by {governor}")
        return policy

    def start(self, bundle, asked):
        """Who asked for it, by the process of genesis."""
        definition = from_base64url(bundle["definition"])
        process = self.genesis.processes[asked["process"]]
        require(definition == from_base64url(process["definition"]), "process: not the one in genesis")
        require(asked["definition"] == digest(definition), "process: not the one of the vote request")
        start = self.signatures.message(bundle["start"], "start", self.requesters(asked["process"]), "start")
        require(asked["start"] == digest(bundle["start"].encode()), "start: of another case")
        require(asked["requester"] == signer(bundle["start"]), "start: by another requester")
        require(start["chain"] == process["chain"], "start: on another ledger")
        for member in ("process", "definition", "case"):
            require(start[member] == asked[member], f"start: of another {member}")
        named = (asked[member] for member in ("process", "case", "requester", "step", "attempt"))
        request = digest(tuple_of("assent-request-v1", self.genesis.id, start["chain"], *named))
        require(asked["request"] == request, "vote request: it is numbered as another one")

    def requesters(self, process):
        definition = tomllib.loads(from_base64url(self.genesis.processes[process]["definition"]).decode())
        return Keys(*(requester["key"] for requester in definition["requester"]))

    def cancel(self, bundle, asked, decided):
        require(("cancel" in bundle) == (decided["outcome"] == "cancelled"), "cancel: the outcome is another one")
        if "cancel" not in bundle:
            return
        cancel = exactly(bundle["cancel"], "at jws", "cancel")
        start = unverified(bundle["start"])
        require(signer(cancel["jws"]) == asked["requester"], "cancel: by another requester")
        says = self.signatures.message(cancel["jws"], "cancel", self.requesters(asked["process"]), "cancel")
        require((says["chain"], says["case"]) == (start["chain"], start["case"]), "cancel: of another case")
        require(cancel["at"] == decided["decided"], "cancel: at another moment")

    def ballots(self, bundle, asked, decided, policy):
        """Who cast them, and that they are those that the decision counted; what the rule makes of them is not seen."""
        voters = Keys(*policy.voters.values())
        leaves = []
        for place, ballot in enumerate(bundle["ballots"]):
            what = f"ballot {place}"
            exactly(ballot, "at jws", what)
            cast = self.signatures.message(ballot["jws"], "ballot", voters, what)
            require(cast["request"] == asked["request"], f"{what}: for another request")
            require(cast["vote_request"] == decided["vote_request"], f"{what}: for another vote request")
            require(thumbprint(policy.voters[cast["voter"]]) == signer(ballot["jws"]), f"{what}: by another voter")
            leaves.append(integer(ballot["at"], what).to_bytes(8, "big") + ballot["jws"].encode())
        counted = {"count": len(leaves), "root": "sha256:" + tree_root(leaves).hex()}
        require(decided["ballots"] == counted, "decision: it counted other ballots")

    def inclusion(self, inclusion, ledger, kind, recorded, what):
        """That an event is in a block that the validators signed."""
        exactly(inclusion, "chain header certificate event index size path", what)
        require(inclusion["chain"] == ledger, f"{what}: in another ledger")
        validators = Keys(*self.genesis.chains[ledger]["validators"])
        certificate = exactly(inclusion["certificate"], "height round block signatures", what)
        content = from_base64url(inclusion["header"])
        require(digest(content) == certificate["block"], f"{what}: another block is certified")
        named = (certificate[member] for member in ("height", "round", "block"))
        commit = tuple_of("assent-commit-v1", self.genesis.id, ledger, *named)
        signed = set()
        for entry in certificate["signatures"]:
            exactly(entry, "kid signature", what)
            key = validators.find(entry["kid"], f"{what}, certificate")
            der = raw_to_der(from_base64url(entry["signature"]))
            self.signatures.plain(key.as_dict(private=False), commit, der, f"{what}, certificate")
            require(entry["kid"] not in signed, f"{what}: a validator signed twice")
            signed.add(entry["kid"])
        require(3 * len(signed) > 2 * len(validators.by_thumbprint), f"{what}: too few validators signed")
        header = exactly(read_json(content), HEADER, what)
        require((header["deployment"], header["chain"]) == (self.genesis.id, ledger), f"{what}: another ledger's block")
        require(header["height"] == certificate["height"], f"{what}: a block of another height")
        index, size = (integer(inclusion[member], what) for member in ("index", "size"))
        require(size == header["events_count"], f"{what}: another number of events")
        event = from_base64url(inclusion["event"])
        root = root_by_path(event, index, size, [from_digest(sibling) for sibling in inclusion["path"]])
        require(root == from_digest(header["events_root"]), f"{what}: the event is not in the block")
        says = read_json(event)
        recorded = {"type": kind, **recorded}
        require({member: says.get(member) for member in recorded} == recorded, f"{what}: of another event")
        return header

    def result(self, bundle, asked, approval):
        """What the operational key signed: the approved file, in the key's format."""
        result = exactly(bundle["result"], "key version public_key format signature inclusion", "result")
        subject, request = asked["subject"], asked["request"]
        require(approval.outcome == "approved", "result: without an approval")
        require(subject["kind"] == "sign" and result["key"] == subject["key"], "result: by another key")
        entry = self.genesis.keys[result["key"]]
        alg = entry["alg"]
        version, jwk = self.standing.key("key", result["key"], bundle["key_transitions"])
        shown = in_json(result["public_key"], "result")
        require((result["version"], shown) == (version, jwk), "result: by a key that nothing leads to")
        require(result["format"] == entry["format"], "result: in another format than the key's")
        signature = from_base64url(result["signature"])
        chain = self.genesis.processes[asked["process"]]["chain"]
        recorded = {"case": asked["case"], "request": request, "result": digest(signature)}
        header = self.inclusion(result["inclusion"], chain, "result-recorded", recorded, "inclusion of the result")
        require(header["time"] < approval.until, "result: recorded when it was too late to act")
        approved = from_digest(subject["digest"])
        if result["format"] in ("der", "raw"):
            if result["format"] == "raw" and jwk["kty"] == "EC":
                signature = raw_to_der(signature, {"P-256": 64, "P-384": 96}[jwk["crv"]])
            # A file is known by its SHA-256, whatever the key.
            self.signatures.plain(jwk, approved, signature, "result", alg, Prehashed(hashes.SHA256()))
            return
        if result["format"] == "dsse":
            envelope = read_json(signature)
            payload = base64.b64decode(envelope["payload"], validate=True)
            kind = envelope["payloadType"].encode()
            encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
            for entry in envelope["signatures"]:
                self.signatures.plain(jwk, encoded, base64.b64decode(entry["sig"], validate=True), "result", alg)
            require(envelope["signatures"], "result: nobody signed the envelope")
        else:
            obj = jws.deserialize_compact(signature, import_key(jwk, alg), algorithms=[alg])
            require(obj.headers()["typ"] == "in-toto+jws", "result: of another type")
            payload = obj.payload
            self.signatures.checked += 1
        statement = read_json(payload)
        names = [(file["name"], file["digest"]["sha256"]) for file in statement["subject"]]
        require(names == [(subject["name"], approved.hex())], "result: over another file")
        predicate = statement["predicate"]
        said = [predicate[member] for member in ("request", "policy", "decision")]
        require(said == [request, asked["policy"], approval.decision], "result: for another request")
