#!/bin/bash
# Runs as root in a machine of its own that has booted with both units: what MANUAL and README tell a person to do, until a
# file is signed, and then what the units promise of the two services.
set -euo pipefail
cd /root
fail() { echo "failed: $*" >&2; exit 1; }
until_it_does() {
  local by=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$by" ] || { journalctl --no-pager -u assent-kms -u assent >&2; fail "not in a minute: $*"; }
    read -rt 0.05 <> <(:) || true
  done
}

# Users, as the units name them.
useradd --system --no-create-home assent-kms
useradd --system --no-create-home assent

# A token, and the PIN that root alone reads.
export SOFTHSM2_CONF=/etc/assent-kms/softhsm2.conf
mkdir -p /etc/assent-kms /var/lib/softhsm/tokens
echo 'directories.tokendir = /var/lib/softhsm/tokens' >"$SOFTHSM2_CONF"
(umask 077 && head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >/etc/assent-kms/pin)
softhsm2-util --init-token --free --label release --so-pin "$(</etc/assent-kms/pin)" --pin "$(</etc/assent-kms/pin)"
chown -R assent-kms: /var/lib/softhsm/tokens
cat >/etc/assent-kms/kms.toml <<EOF
state_directory = "/var/lib/assent-kms"
socket = "/run/assent-kms/kms.sock"
admin_socket = "/run/assent-kms/admin.sock"
metrics_socket = "/run/assent-kms/metrics.sock"
allowed_users = [$(id -u assent)]

[[device]]
name = "main"
driver = "pkcs11"
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "pkcs11:token=release"
sessions = 4
EOF

# The KMS is made under the same user, with the PIN from the same credential.
systemd-run --quiet --wait --pipe --property=User=assent-kms --property=SupplementaryGroups=softhsm \
  --property=StateDirectory=assent-kms --property=StateDirectoryMode=0700 --property=UMask=0077 \
  --property=LoadCredential=assent-kms-pin-main:/etc/assent-kms/pin --setenv=SOFTHSM2_CONF="$SOFTHSM2_CONF" \
  assent-kms --config /etc/assent-kms/kms.toml init
systemctl start assent-kms
kms=(assent-kms --config /etc/assent-kms/kms.toml)
until_it_does "${kms[@]}" key list
"${kms[@]}" key create --contract release-approval --out release-approval.jwk
"${kms[@]}" key create --key release --out release.jwk

# People, rules, genesis.
for person in ci engineer; do
  (umask 077 && echo "of $person, for a test" >"$person.passphrase")
  assent key generate --out "$person.pem" --passphrase-file "$person.passphrase" >"said.$person"
done
cat >release-approval.toml <<EOF
name = "release-approval"
kinds = ["sign"]
deadline = "48h"

[[voter]]
name = "engineer"
$(grep '^key = ' said.engineer)
groups = ["engineers"]

[rule]
at_least = 1
of = "engineers"
EOF
cat >release-signing.toml <<EOF
name = "release-signing"
input = { artifact = "digest", name = "text", size = "integer" }

[[requester]]
name = "ci"
$(grep '^key = ' said.ci)

[[step]]
name = "approval"
ask = "release-approval"
subject = { kind = "sign", key = "release", name = "{name}", digest = "{artifact}", size = "{size}" }
on_rejected = "end"

[[step]]
name = "signature"
act = "approval"
EOF
cat >deployment.toml <<EOF
name = "units"
environment = "test"

[[contract]]
policy = "release-approval.toml"
key = "release-approval.jwk"

[[process]]
definition = "release-signing.toml"
governed_by = "release-approval"

[[key]]
name = "release"
governed_by = "release-approval"
format = "der"
key = "release.jwk"

[node]
kms_socket = "/run/assent-kms/kms.sock"
EOF
assent init deployment.toml --out /etc/assent
sed -i -e 's|^data_directory = .*|data_directory = "/var/lib/assent"|' -e '1i socket = "/run/assent/node.sock"' /etc/assent/node.toml
chown -R assent: /etc/assent
"${kms[@]}" pin /etc/assent/genesis.json
systemctl start assent
export ASSENT_GENESIS=/etc/assent/genesis.json ASSENT_NODE=/run/assent/node.sock
until_it_does assent requests

# One file, signed.
head -c 1000 /dev/urandom >file
assent propose release-signing --artifact file --case first --key ci.pem --passphrase-file ci.passphrase --json >said
request=$(sed -n 's/.*"request":"\([^"]*\)".*/\1/p' said)
[ "$request" ] || fail "no request in: $(cat said)"
assent vote "$request" --wait --approve --yes --key engineer.pem --passphrase-file engineer.passphrase
assent fetch first --wait --out signed
openssl dgst -sha256 -verify signed/release.pub.pem -signature signed/file.sig file

# It is watched by members of its group alone, and takes up another configuration without a restart.
metric() { setpriv --reuid=nobody --regid="$1" --clear-groups curl -sf --unix-socket /run/assent-kms/metrics.sock http://kms/metrics | grep -qF "assent_kms_$2"; }
until_it_does metric assent-kms 'signatures_total{purpose="action"} 1'
! metric nogroup pinned || fail "everybody may read the metrics"
sed -i '1i decision_grace = "48h"' /etc/assent-kms/kms.toml
systemctl reload assent-kms
until_it_does metric assent-kms 'configuration_reloads_total{outcome="done"} 1'

# What the units promise.
for service in assent-kms assent; do
  process=$(systemctl show --property=MainPID --value "$service")
  status=/proc/$process/status
  grep -q "^Uid:\s*$(id -u "$service")\s" "$status" || fail "$service runs as another user"
  grep -q '^NoNewPrivs:\s*1$' "$status" || fail "$service may get new privileges"
  grep -q '^Seccomp:\s*2$' "$status" || fail "$service may call the system for anything"
  grep -q '^CapBnd:\s*0*$' "$status" || fail "$service has capabilities"
  grep -q '^Max core file size *0 *0 ' "/proc/$process/limits" || fail "$service may leave a core dump"
  # proc(5): what belongs to a process that is not dumpable belongs to root there, whoever runs it.
  [ "$(stat -c %U "/proc/$process/maps")" = root ] || fail "another process of the user of $service may read its memory"
  [ "$(systemctl show --property=NRestarts --value "$service")" = 0 ] || fail "$service was restarted"
done
systemctl stop assent assent-kms
for service in assent-kms assent; do
  [ "$(systemctl show --property=Result --value "$service")" = success ] || fail "$service did not stop well"
done
echo "signed under both units"
