"""Checks the golden vectors of receipts with eth_account, an EIP-712 implementation that knows nothing of Lemma.

    python scripts/check_eip712.py [crates/types/tests/vectors/receipt.json]

Each vector holds `typed_data` (EIP-712 JSON), `private_key`, and what they must give: `struct_hash`, `digest`,
`signature`, `address`.
"""

import argparse
import copy
import json
from pathlib import Path

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak, to_checksum_address
from report import Report, equal

VECTORS = Path(__file__).resolve().parents[1] / "crates" / "types" / "tests" / "vectors" / "receipt.json"
# Order of the group of secp256k1 (SEC 2, section 2.4.1).
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def to_bytes(text):
    return bytes.fromhex(text.removeprefix("0x"))


def digest(signable):
    """keccak256(0x19 0x01 || domain separator || struct hash)."""
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def changed(value):
    """Another value of the same EIP-712 type, as it stands in JSON."""
    if isinstance(value, int):
        return value + 1
    if value.startswith("0x"):
        last = "1" if value[-1] == "0" else "0"
        return value[:-1] + last
    return str(int(value) + 1)


def check(report, name, vector):
    typed_data = vector["typed_data"]
    address = to_checksum_address(vector["address"])
    signature = to_bytes(vector["signature"])
    signable = encode_typed_data(full_message=typed_data)

    with report.check(f"{name}: struct hash"):
        equal(signable.body.hex(), to_bytes(vector["struct_hash"]).hex())
    with report.check(f"{name}: digest"):
        equal(digest(signable).hex(), to_bytes(vector["digest"]).hex())
    with report.check(f"{name}: signature recovers to the address") as say:
        equal(Account.recover_message(signable, signature=signature), address)
        say(address)
    with report.check(f"{name}: address belongs to the private key"):
        equal(Account.from_key(vector["private_key"]).address, address)
    with report.check(f"{name}: eth_account makes the same signature (RFC 6979)"):
        equal(Account.sign_message(signable, vector["private_key"]).signature.hex(), signature.hex())
    with report.check(f"{name}: 65 bytes, low s, v of 27 or 28"):
        equal(len(signature), 65, "length")
        assert int.from_bytes(signature[32:64]) <= CURVE_ORDER // 2, "s is high"
        assert signature[64] in (27, 28), f"v is {signature[64]}"

    fields = [field["name"] for field in typed_data["types"][typed_data["primaryType"]]]
    with report.check(f"{name}: each field is signed") as say:
        equal(sorted(typed_data["message"]), sorted(fields), "fields")
        for field in fields:
            other = copy.deepcopy(typed_data)
            other["message"][field] = changed(other["message"][field])
            signer = Account.recover_message(encode_typed_data(full_message=other), signature=signature)
            assert signer != address, f"{field} changed, signature still good"
        say(len(fields), "fields")
    with report.check(f"{name}: signature is bound to the chain"):
        other = copy.deepcopy(typed_data)
        other["domain"]["chainId"] = changed(other["domain"]["chainId"])
        signer = Account.recover_message(encode_typed_data(full_message=other), signature=signature)
        assert signer != address, "chain id changed, signature still good"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", nargs="?", type=Path, default=VECTORS)
    path = parser.parse_args().vectors
    content = json.loads(path.read_text())
    vectors = content if isinstance(content, list) else content.get("vectors", [content])
    report = Report()
    for number, vector in enumerate(vectors):
        check(report, vector.get("name", f"vector {number}"), vector)
    report.finish()


if __name__ == "__main__":
    main()
