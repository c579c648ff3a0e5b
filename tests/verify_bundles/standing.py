"""What is in force: genesis, and the keys and policies that approved changes led to since (DESIGN section 6)."""

import tomllib
from dataclasses import dataclass, field

from encoding import digest, duration, exactly, from_base64url, integer, read_json, require
from signatures import Keys, Signatures, in_json, thumbprint, unverified


class Roles:
    """Who has which role: a key has one, but a person may vote and ask."""

    def __init__(self, known=()):
        self.known = dict(known)

    def give(self, role, jwks, alg="ES256"):
        for jwk in jwks:
            key = thumbprint(jwk, alg)
            had = self.known.get(key)
            require(had is None or had == role == "person", f"{key}: a {role} key that is a {had} key already")
            self.known[key] = role


class Policy:
    """What of a policy does not need its rule."""

    def __init__(self, content):
        self.digest = digest(content)
        document = tomllib.loads(content.decode())
        self.name = document["name"]
        self.kinds = document["kinds"]
        self.deadline = duration(document["deadline"])
        self.act_within = duration(document.get("act_within", "7d"))
        self.voters = {voter["name"]: voter["key"] for voter in document["voter"]}


class Genesis:
    """The file that anchors all trust."""

    def __init__(self, content):
        self.id = digest(content)
        self.document = read_json(content)
        self.chains = {chain["id"]: chain for chain in self.document["chains"]}
        self.contracts = {contract["name"]: contract for contract in self.document["contracts"]}
        self.processes = {process["name"]: process for process in self.document["processes"]}
        self.keys = {key["name"]: key for key in self.document["keys"]}
        self.policies = {name: Policy(from_base64url(its["policy"])) for name, its in self.contracts.items()}
        self.roles = Roles()
        for chain in self.chains.values():
            self.roles.give("validator", chain["validators"])
        for name, contract in self.contracts.items():
            self.roles.give("contract", [contract["key"]])
            self.roles.give("person", self.policies[name].voters.values())
        for process in self.processes.values():
            requesters = tomllib.loads(from_base64url(process["definition"]).decode())["requester"]
            self.roles.give("person", (requester["key"] for requester in requesters))
        for key in self.keys.values():
            self.roles.give("operational", [key["key"]], key["alg"])
        self.roles.give("recovery", self.document.get("recovery", {}).get("keys", []))

    def entry(self, kind, name):
        return {"contract": self.contracts, "key": self.keys}[kind][name]

    def governor(self, kind, name):
        """The contract that alone decides on a contract, or on an operational key."""
        return self.entry(kind, name).get("governed_by", name)


@dataclass
class Approval:
    """What a bundle proves: that a contract approved a subject, or that it did not."""

    subject: dict
    outcome: str
    contract: str
    # The version of the contract's key that signed vote request and decision, and that version, a JWK.
    version: int
    key: dict
    opened: int
    decision: str
    decided: int
    # The moment from which it is too late to act.
    until: int
    is_used: bool = False


@dataclass
class Version:
    """A version of a key, how it came to be, and the change that approved it."""

    jwk: dict
    pair: dict = None
    says: dict = None
    change: Approval = None


@dataclass
class Standing:
    """What genesis, and the changes so far, put in force."""

    genesis: Genesis
    signatures: Signatures
    roles: Roles
    changes: list = field(default_factory=list)
    # By kind (`contract` or `key`) and name.
    versions: dict = field(default_factory=dict)
    # By contract: what changed its policy.
    policies: dict = field(default_factory=dict)
    approvals: list = field(default_factory=list)

    def key(self, kind, name, pairs):
        """Follows key transitions from genesis's key, and returns the last version and its JWK."""
        known = self.versions.setdefault((kind, name), [Version(self.genesis.entry(kind, name)["key"])])
        for place, pair in enumerate(pairs, 1):
            what = f"transition of {kind} {name} to version {place + 1}"
            if place == len(known):
                known.append(self.transition(kind, name, known, pair, what))
            require(pair == known[place].pair, f"{what}: it was shown in another form before")
        return len(pairs) + 1, known[len(pairs)].jwk

    def transition(self, kind, name, known, pair, what):
        """The version that two messages lead to, after those that are known."""
        exactly(pair, "first new", what)
        decision = unverified(pair["new"])["decision"]
        approved_by = [change for change in self.changes if change.decision == decision]
        require(len(approved_by) == 1, f"{what}: nothing in the history approved it")
        change = approved_by[0]
        subject = change.subject
        says = self.signatures.message(pair["first"], "key-transition", Keys(change.key), f"{what}, first")
        new = self.signatures.message(pair["new"], "key-transition", Keys(says["to"]), f"{what}, new")
        require(says == new, f"{what}: its two messages differ")
        in_json(says["to"], what)
        require(subject["kind"] == "rotate-key", f"{what}: a {subject['kind']} was approved")
        for member in ("contract", "key"):
            expected = name if member == kind else None
            require(says.get(member) == expected == subject.get(member), f"{what}: another key's was approved")
        require(self.genesis.governor(kind, name) == change.contract, f"{what}: approved by {change.contract}")
        require(self.genesis.entry(kind, name).get("alg", "ES256") == "ES256", f"{what}: not an ES256 key")
        require(says["version"] == len(known) + 1, f"{what}: it leads to version {says['version']}")
        require(says["from"] == thumbprint(known[-1].jwk), f"{what}: it is not from the version before")
        reason = "compromise" if subject["reason"] == "compromise" else "rotation"
        require(says["reason"] == reason, f"{what}: it is for another reason than was approved")
        activates, old_retires = (integer(says[member], what) for member in ("activates", "old_retires"))
        before = known[-1].says
        require(not before or before["activates"] < activates, f"{what}: the version before it begins later")
        require(change.decided <= activates, f"{what}: it begins before it was approved")
        deadline = self.genesis.policies[name if kind == "contract" else change.contract].deadline
        require(activates + deadline <= old_retires, f"{what}: what the version before has begun cannot end")
        require(not change.is_used, f"{what}: its approval led to something else already")
        change.is_used = True
        self.roles.give("contract" if kind == "contract" else "operational", [says["to"]])
        return Version(says["to"], pair, says, change)

    def policy(self, contract, policy, opened):
        """Makes sure that a policy was in force when a request was opened."""
        changes = self.policies.get(contract, [])
        steps = [self.genesis.policies[contract].digest] + [change.subject["to"] for change in changes]
        begins = [0] + [change.decided for change in changes]
        ends = [change.until for change in changes] + [opened + 1]
        fits = [
            place
            for place, step in enumerate(steps)
            if step == policy.digest and begins[place] <= opened < ends[place]
        ]
        require(fits, f"policy of {contract}: the history does not lead to it, or it was not in force")
        for change in changes[: fits[-1]]:
            change.is_used = True
        require(policy.name == contract, f"policy of {contract}: it is named {policy.name}")
        self.roles.give("person", policy.voters.values())

    def change(self, change):
        """Goes on from an approved change of the history."""
        require(change.outcome == "approved", "it was not approved")
        require(all(change.decision != before.decision for before in self.changes), "it is there twice")
        require(not self.changes or self.changes[-1].decided <= change.decided, "it is not in order of `decided`")
        kind = change.subject["kind"]
        require(kind in ("rotate-key", "change-policy"), f"no key and no policy follows from a {kind}")
        self.changes.append(change)
        if kind == "change-policy":
            name = change.subject["contract"]
            changes = self.policies.setdefault(name, [])
            last = changes[-1].subject["to"] if changes else self.genesis.policies[name].digest
            require(change.subject["from"] == last, f"it changes another policy of {name} than the last")
            is_later = not changes or changes[-1].decided < change.decided
            require(is_later, f"it was decided before the policy of {name} that it is to follow")
            changes.append(change)

    def finish(self):
        """What can be said when every transition is known."""
        require(all(change.is_used for change in self.changes), "history: a change leads to nothing that is used")
        for approval in self.approvals:
            what = f"vote request of {approval.contract}"
            versions = self.versions["contract", approval.contract]
            begun = sum(not version.says or version.says["activates"] <= approval.opened for version in versions)
            require(begun == approval.version, f"{what}: by another version than was in force when it was opened")
            for later in versions[begun:]:
                if later.says["reason"] == "compromise":
                    is_void = later.says["activates"] <= approval.decided
                    require(not is_void, f"{what}: it was void when it was decided, since its key was compromised")
                    since = self.changes[self.changes.index(later.change) :]
                    led_on = approval in since and approval.subject["kind"] == "rotate-key"
                    require(not led_on, f"{what}: its key was compromised before it led to another key")
