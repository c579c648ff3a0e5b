#!/usr/bin/env python3
"""Drives a YubiHSM 2, or what claims to be one, with its maker's own library, and says what is not as it must be.

    drive_yubihsm.py --connector URL --root ROOT.der

Needs yubihsm (https://pypi.org/project/yubihsm), which `scripts/setup --test` installs. The device is one that was just
reset; it is reset again at the end. ROOT.der is the certificate above its attestations. For each part it prints one line.
Exit codes: 0 all is as it must be, 4 something is not, 2 usage.
"""

import argparse
import os
import pathlib
import sys
import traceback

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm import YubiHsm
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT, ORIGIN
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AttestationExtensions, AuthenticationKey, Opaque, WrapKey

DEFAULT_KEY, DEFAULT_PASSWORD = 1, "password"


def refused(code, work, *arguments):
    """The device must refuse this, with this code."""
    try:
        work(*arguments)
    except YubiHsmDeviceError as error:
        assert error.code == code, f"refused with {error.code!r}, not {code!r}"
        return
    raise AssertionError(f"not refused, though it must be with {code!r}")


def signer(session, capabilities=CAPABILITY.SIGN_ECDSA, algorithm=ALGORITHM.EC_P256, domains=1):
    return AsymmetricKey.generate(session, 0, "signer", domains, capabilities, algorithm)


def generate(device, session, _root):
    for algorithm, curve in ((ALGORITHM.EC_P256, ec.SECP256R1), (ALGORITHM.EC_P384, ec.SECP384R1)):
        key = signer(session, algorithm=algorithm)
        info = key.get_info()
        assert (info.label, info.domains, info.algorithm, info.origin) == ("signer", 1, algorithm, ORIGIN.GENERATED)
        assert isinstance(key.get_public_key().curve, curve)
    assert key.id in {found.id for found in session.list_objects(object_type=OBJECT.ASYMMETRIC_KEY)}
    used = device.get_device_info()
    assert (used.version, used.log_size) >= ((2, 2, 0), 62)
    refused(ERROR.OBJECT_EXISTS, AsymmetricKey.generate, session, key.id, "again", 1, 0, ALGORITHM.EC_P256)
    key.delete()
    refused(ERROR.OBJECT_NOT_FOUND, key.get_public_key)


def sign(_device, session, _root):
    for algorithm, digest in ((ALGORITHM.EC_P256, hashes.SHA256()), (ALGORITHM.EC_P384, hashes.SHA384())):
        key, message = signer(session, algorithm=algorithm), os.urandom(64)
        signature = key.sign_ecdsa(message, hash=digest)
        key.get_public_key().verify(signature, message, ec.ECDSA(digest))
        assert signature != key.sign_ecdsa(message, hash=digest)
    own = ec.generate_private_key(ec.SECP256R1())
    put = AsymmetricKey.put(session, 0, "put", 1, CAPABILITY.SIGN_ECDSA, own)
    assert put.get_info().origin == ORIGIN.IMPORTED
    own.public_key().verify(put.sign_ecdsa(b"message"), b"message", ec.ECDSA(hashes.SHA256()))
    refused(ERROR.INSUFFICIENT_PERMISSIONS, signer(session, CAPABILITY.NONE).sign_ecdsa, b"message")


def attest(_device, session, root):
    key = signer(session)
    certificate = key.attest()
    above = Opaque(session, 0).get_certificate()
    certificate.verify_directly_issued_by(above)
    above.verify_directly_issued_by(root)
    assert certificate.public_key() == key.get_public_key()
    said, info = AttestationExtensions.parse(certificate), key.get_info()
    assert (said.object_id, said.label, said.origin) == (key.id, "signer", ORIGIN.GENERATED)
    assert (said.capabilities, said.domains) == (info.capabilities, 1)
    attester = AsymmetricKey.generate(
        session, 0, "attester", 1, CAPABILITY.SIGN_ATTESTATION_CERTIFICATE, ALGORITHM.EC_P256
    )
    Opaque.put_certificate(session, attester.id, "attester", 1, CAPABILITY.NONE, attester.attest())
    by_another = key.attest(attester.id)
    attester.get_public_key().verify(
        by_another.signature, by_another.tbs_certificate_bytes, ec.ECDSA(by_another.signature_hash_algorithm)
    )


def wrap(_device, session, _root):
    delegated = CAPABILITY.SIGN_ECDSA | CAPABILITY.EXPORTABLE_UNDER_WRAP
    for algorithm, size in (
        (ALGORITHM.AES128_CCM_WRAP, 16),
        (ALGORITHM.AES192_CCM_WRAP, 24),
        (ALGORITHM.AES256_CCM_WRAP, 32),
    ):
        wrap_key = WrapKey.put(
            session,
            0,
            "wrap",
            1,
            CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED,
            algorithm,
            delegated,
            os.urandom(size),
        )
        key = signer(session, delegated)
        public_key, wrapped = key.get_public_key(), wrap_key.export_wrapped(key)
        assert wrapped != wrap_key.export_wrapped(key)
        refused(ERROR.OBJECT_EXISTS, wrap_key.import_wrapped, wrapped)
        key.delete()
        refused(ERROR.INVALID_DATA, wrap_key.import_wrapped, wrapped[:-1] + bytes([wrapped[-1] ^ 1]))
        back = wrap_key.import_wrapped(wrapped)
        assert back.get_info().origin == ORIGIN.IMPORTED_WRAPPED | ORIGIN.GENERATED
        public_key.verify(back.sign_ecdsa(b"message"), b"message", ec.ECDSA(hashes.SHA256()))
    refused(ERROR.INSUFFICIENT_PERMISSIONS, wrap_key.export_wrapped, signer(session))
    data_key = WrapKey.generate(
        session, 0, "data", 1, CAPABILITY.WRAP_DATA | CAPABILITY.UNWRAP_DATA, ALGORITHM.AES256_CCM_WRAP, CAPABILITY.NONE
    )
    for length in (1, 16, 1024, 1989):
        data = os.urandom(length)
        assert data_key.unwrap_data(data_key.wrap_data(data)) == data


def log(_device, session, _root):
    session.set_command_audit({command: AUDIT.ON for command in (COMMAND.SIGN_ECDSA, COMMAND.SET_OPTION)})
    assert session.get_command_audit()[COMMAND.SIGN_ECDSA] == AUDIT.ON
    before = session.get_log_entries().entries[-1]
    session.set_log_index(before.number)
    key = signer(session)
    key.sign_ecdsa(b"message")
    refused(ERROR.OBJECT_NOT_FOUND, AsymmetricKey(session, 0xFFFE).sign_ecdsa, b"message")
    entries = [
        entry for entry in session.get_log_entries(before).entries if entry.command == COMMAND.SIGN_ECDSA
    ]
    done, failed = [(entry.target_key, entry.result) for entry in entries]
    assert done == (key.id, COMMAND.SIGN_ECDSA | 0x80) and failed[0] == 0xFFFE
    refused(ERROR.INVALID_DATA, session.set_log_index, entries[-1].number + 1)


def full_log(device, session, _root):
    session.set_command_audit({COMMAND.SIGN_ECDSA: AUDIT.ON})
    last = session.get_log_entries().entries[-1]
    session.set_log_index(last.number)
    session.set_force_audit(AUDIT.ON)
    key = signer(session)
    session.set_log_index(session.get_log_entries(last).entries[-1].number)

    def fill():
        for _ in range(63):
            key.sign_ecdsa(b"message")

    refused(ERROR.LOG_FULL, fill)
    info = device.get_device_info()
    assert info.log_used == info.log_size
    session.set_log_index(session.get_log_entries().entries[-1].number)
    key.sign_ecdsa(b"message")
    session.set_force_audit(AUDIT.OFF)


def rights(device, session, _root):
    key = signer(session, domains=1)
    narrow = AuthenticationKey.put_derived(
        session, 0, "narrow", 2, CAPABILITY.SIGN_ECDSA | CAPABILITY.GENERATE_ASYMMETRIC_KEY, CAPABILITY.NONE, "narrow"
    )
    with device.create_session_derived(narrow.id, "narrow") as other:
        refused(ERROR.OBJECT_NOT_FOUND, key.with_session(other).sign_ecdsa, b"message")
        refused(ERROR.INSUFFICIENT_PERMISSIONS, signer, other, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_P256, 2)
        refused(ERROR.INSUFFICIENT_PERMISSIONS, signer, other, CAPABILITY.NONE, ALGORITHM.EC_P256, 1)
        refused(ERROR.INSUFFICIENT_PERMISSIONS, other.get_log_entries)
        refused(ERROR.INSUFFICIENT_PERMISSIONS, other.get_pseudo_random, 8)
    try:
        device.create_session_derived(narrow.id, "wrong")
    except YubiHsmAuthenticationError:
        pass
    else:
        raise AssertionError("a wrong password opened a session")
    assert len(session.get_pseudo_random(64)) == 64


def sessions(device, session, _root):
    more = []

    def fill():
        while True:
            more.append(device.create_session_derived(DEFAULT_KEY, DEFAULT_PASSWORD))

    refused(ERROR.SESSIONS_FULL, fill)
    assert len(more) == 15, f"{len(more)} sessions beside the first"
    for other in more:
        other.close()
    assert signer(session).get_info()


def reset(device, session, root):
    key = signer(session)
    session.reset_device()
    with YubiHsm.connect(device.url) as device, device.create_session_derived(DEFAULT_KEY, DEFAULT_PASSWORD) as session:
        refused(ERROR.OBJECT_NOT_FOUND, key.with_session(session).get_public_key)
        first, second = session.get_log_entries().entries[:2]
        assert first.data == b"\0\1" + b"\xff" * 14
        assert second.data == b"\0\2\0\0\0\xff\xff" + b"\0" * 9


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connector", required=True)
    parser.add_argument("--root", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    root = x509.load_der_x509_certificate(arguments.root.read_bytes())
    failed = False
    for part in (sessions, generate, sign, attest, wrap, log, full_log, rights, reset):
        device = YubiHsm.connect(arguments.connector)
        device.url = arguments.connector
        session = device.create_session_derived(DEFAULT_KEY, DEFAULT_PASSWORD)
        try:
            part(device, session, root)
            print(f"{part.__name__}: as it must be")
        except (AssertionError, YubiHsmDeviceError, ValueError) as error:
            failed = True
            print(f"{part.__name__}: not as it must be: {error}")
            traceback.print_exc()
        finally:
            if part is not reset:
                session.close()
    return 4 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
