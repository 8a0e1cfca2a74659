"""Checks the Ethereum JSON-RPC with web3.py, unmodified: transfers as a wallet sends them, modules by their ABIs.

    python scripts/check_rpc.py http://127.0.0.1:8402/rpc [--key 0x...]

The key is that of a funded account: unless told, the first development account that every Ethereum tool knows.
`lemma up` prints the accounts that it funded. The script can run again on the same network.
"""

import argparse
import json
import re
from pathlib import Path

from eth_account import Account
from report import Report, equal, refused
from web3 import Web3
from web3.exceptions import BlockNotFound, ContractCustomError, ContractLogicError, Web3Exception

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
GWEI = 10**9
# Public knowledge: the first account of the mnemonic "test test test test test test test test test test test junk".
DEVELOPMENT_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


class Wallet:
    """Fills in, signs and sends transactions from one account, and waits for their receipts."""

    def __init__(self, w3, key):
        self.w3 = w3
        self.account = Account.from_key(key)
        self.address = self.account.address

    def balance(self):
        return self.w3.eth.get_balance(self.address)

    def nonce(self):
        return self.w3.eth.get_transaction_count(self.address)

    def fees(self, kind):
        price = self.w3.eth.gas_price
        if kind == 0:
            return {"gasPrice": price}
        return {"type": 2, "maxFeePerGas": 2 * price, "maxPriorityFeePerGas": min(GWEI, price)}

    def raw(self, kind=2, **fields):
        """A signed transaction; `fields` win over what the wallet would fill in."""
        draft = {"chainId": self.w3.eth.chain_id, "nonce": self.nonce(), "gas": 21_000, "value": 0}
        return self.account.sign_transaction(draft | self.fees(kind) | fields).raw_transaction

    def send(self, kind=2, **fields):
        return self.deliver(self.raw(kind, **fields))

    def call(self, function, **fields):
        """Sends a contract call; web3 asks for the gas that it needs, unless told."""
        draft = {"from": self.address, "nonce": self.nonce()} | self.fees(2) | fields
        return self.deliver(self.account.sign_transaction(function.build_transaction(draft)).raw_transaction)

    def deliver(self, raw):
        hash_ = self.w3.eth.send_raw_transaction(raw)
        return self.w3.eth.wait_for_transaction_receipt(hash_, timeout=60, poll_latency=0.05)


def module(w3, name):
    """A system module by its constant in LemmaAddresses.sol, with the ABI of its interface."""
    addresses = (CONTRACTS / "LemmaAddresses.sol").read_text()
    address = re.search(rf"constant {name} = (0x[0-9a-fA-F]{{40}});", addresses)[1]
    abi = (CONTRACTS / "abi" / f"ILemma{name.capitalize()}.json").read_text()
    return w3.eth.contract(address, abi=json.loads(abi))


def custom_error(contract, error):
    """Name and arguments of a Solidity error, by the contract's ABI."""
    data = bytes.fromhex(error.data.removeprefix("0x"))
    for abi in contract.abi:
        if abi["type"] == "error":
            signature = f"{abi['name']}({','.join(i['type'] for i in abi['inputs'])})"
            if Web3.keccak(text=signature)[:4] == data[:4]:
                return abi["name"], Web3().codec.decode([i["type"] for i in abi["inputs"]], data[4:])
    raise AssertionError(f"{error.data} is no error of the ABI")


def check_chain(report, w3):
    with report.check("chain id and client") as say:
        say(w3.eth.chain_id)
        assert w3.eth.chain_id > 0
    with report.check("blocks form a chain") as say:
        latest = w3.eth.get_block("latest")
        if latest.number > 0:
            parent = w3.eth.get_block(latest.number - 1)
            equal(latest.parentHash, parent.hash, "parent hash")
            assert latest.timestamp >= parent.timestamp, "time goes backwards"
        assert w3.eth.block_number >= latest.number
        say("height", latest.number)
    with report.check("a block of the future is null"):
        refused(lambda: w3.eth.get_block(w3.eth.block_number + 1_000_000), BlockNotFound)


def check_transfers(report, w3, wallet):
    with report.check("the account has funds") as say:
        assert wallet.balance() > 10**18, f"balance is {wallet.balance()}"
        say(wallet.address, Web3.from_wei(wallet.balance(), "ether"), "LEM")
    stranger = Account.create()
    with report.check("gas of a transfer"):
        draft = {"from": wallet.address, "to": stranger.address, "value": 1}
        equal(w3.eth.estimate_gas(draft), 21_000)

    received = 0
    for kind, name in [(2, "type 2 (EIP-1559)"), (0, "legacy (EIP-155)")]:
        with report.check(f"transfer, {name}") as say:
            before, nonce, value = wallet.balance(), wallet.nonce(), 10**17 + kind
            receipt = wallet.send(kind, to=stranger.address, value=value)
            received += value
            equal(receipt.status, 1, "status")
            equal(receipt.type, kind, "type")
            equal(receipt["from"], wallet.address, "from")
            equal(receipt.to, stranger.address, "to")
            equal(receipt.gasUsed, 21_000, "gas used")
            equal(w3.eth.get_balance(stranger.address), received, "balance of the recipient")
            fee = receipt.gasUsed * receipt.effectiveGasPrice
            equal(before - wallet.balance(), value + fee, "cost to the sender")
            equal(wallet.nonce(), nonce + 1, "nonce")
            block = w3.eth.get_block(receipt.blockNumber)
            equal(block.hash, receipt.blockHash, "block hash")
            assert receipt.transactionHash in block.transactions, "the block does not list the transaction"
            say("block", receipt.blockNumber)
    with report.check("the recipient can spend it"):
        poor = Wallet(w3, stranger.key)
        equal(poor.send(to=wallet.address, value=1).status, 1, "status")


def check_refusals(report, w3, wallet):
    nonce = wallet.nonce()
    poor = Wallet(w3, Account.create().key)

    def refuse(what, raw):
        with report.check(f"refused: {what}") as say:
            say(refused(lambda: w3.eth.send_raw_transaction(raw), Web3Exception, ValueError))

    refuse("wrong chain id", wallet.raw(to=wallet.address, chainId=w3.eth.chain_id + 1))
    refuse("a nonce that was used", wallet.raw(to=wallet.address, nonce=nonce - 1))
    refuse("a nonce with a gap", wallet.raw(to=wallet.address, nonce=nonce + 1000))
    refuse("no funds", poor.raw(to=wallet.address, value=1))
    refuse("too little gas", wallet.raw(to=wallet.address, gas=20_999))
    refuse("no transaction", b"\x02\xc0")
    refuse("half a transaction", bytes(wallet.raw(to=wallet.address))[:50])
    with report.check("none of it changed the account"):
        equal(wallet.nonce(), nonce, "nonce")


def check_models(report, w3, wallet):
    models = module(w3, "MODELS")
    call = models.functions
    with report.check("models: the samples resolve") as say:
        names = [call.nameAt(i).call() for i in range(call.count().call())]
        for name in ("lemma/digits", "lemma/iris"):
            assert name in names, f"{name} is not among {names}"
            manifest, owner, version, _ = call.resolve(name).call()
            equal(call.ownerOf("lemma").call(), owner, "owner")
            equal(call.manifestAt(name, version).call()[0], manifest, "manifest")
            say(name, "0x" + manifest.hex())
    with report.check("models: an unknown name reverts with UnknownModel"):
        raised = refused(lambda: call.resolve("lemma/absent").call(), ContractCustomError)
        equal(custom_error(models, raised), ("UnknownModel", ("lemma/absent",)))

    # A namespace that nobody has: the nonce of this account never comes back.
    name = f"check-{wallet.address[2:10].lower()}-{wallet.nonce()}/model"
    first, second = b"\x11" * 32, b"\x22" * 32
    with report.check("models: register, event, resolve") as say:
        receipt = wallet.call(call.register(name, first))
        equal(receipt.status, 1, "status")
        (event,) = models.events.ModelRegistered().process_receipt(receipt)
        equal((event.args.name, event.args.manifest, event.args.version), (name, first, 1), "event")
        equal(event.args.owner, wallet.address, "owner")
        equal(call.resolve(name).call(), [first, wallet.address, 1, receipt.blockNumber])
        say(name)
    with report.check("models: a second version"):
        receipt = wallet.call(call.register(name, second))
        equal(call.resolve(name).call(), [second, wallet.address, 2, receipt.blockNumber])
        equal(call.manifestAt(name, 1).call()[0], first, "first version")
    with report.check("models: the same manifest again reverts in estimateGas"):
        draft = {"from": wallet.address}
        raised = refused(lambda: call.register(name, second).estimate_gas(draft), ContractCustomError)
        equal(custom_error(models, raised), ("ManifestUnchanged", (2,)))
    with report.check("models: a failed transaction is paid for and changes nothing"):
        receipt = wallet.call(call.register(name, second), gas=200_000)
        equal((receipt.status, len(receipt.logs)), (0, 0), "status and logs")
    with report.check("logs: filter by address and topics") as say:
        topics = [Web3.keccak(text="ModelRegistered(bytes32,bytes32,address,string,uint64)"), Web3.keccak(text=name)]
        logs = w3.eth.get_logs({"address": models.address, "topics": topics, "fromBlock": 0, "toBlock": "latest"})
        decoded = [models.events.ModelRegistered().process_log(log).args.manifest for log in logs]
        equal(decoded, [first, second], "manifests")
        nobody = {"address": wallet.address, "topics": topics, "fromBlock": 0, "toBlock": "latest"}
        equal(w3.eth.get_logs(nobody), [], "logs of another address")
        say(len(logs), "logs")


def check_modules(report, w3, wallet):
    with report.check("nodes: the workers are registered") as say:
        nodes = module(w3, "NODES").functions
        registered = [nodes.nodeAt(i).call() for i in range(nodes.count().call())]
        active = [node for node in registered if nodes.nodeOf(node).call()[3]]
        assert active, "none is active"
        say(", ".join(active))
    with report.check("receipts: the log, and a stranger who may not settle") as say:
        receipts = module(w3, "RECEIPTS")
        size, root = receipts.functions.log().call()
        if size:
            worker, _, count, _, _, height = receipts.functions.batchAt(size - 1).call()
            assert count > 0 and 0 < height <= w3.eth.block_number
            assert receipts.functions.totalsOf(worker).call()[1] >= count
        settle = receipts.functions.settle(b"\x33" * 32, 1, 1, 0)
        raised = refused(lambda: settle.call({"from": wallet.address}), ContractCustomError)
        equal(custom_error(receipts, raised)[0], "NotActiveNode")
        say(size, "batches, root", "0x" + root.hex())
    with report.check("history: hashes of earlier blocks") as say:
        history = module(w3, "HISTORY").functions
        height = w3.eth.block_number
        for block in {0, height // 2, height - 1}:
            equal(history.blockHash(block).call(), bytes(w3.eth.get_block(block).hash), f"hash of block {block}")
        refused(lambda: history.blockHash(height + 1_000_000).call(), ContractCustomError, ContractLogicError)
        say(history.size().call(), "blocks")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the JSON-RPC endpoint, for instance http://127.0.0.1:8402/rpc")
    parser.add_argument("--key", default=DEVELOPMENT_KEY, help="secret key of a funded account")
    arguments = parser.parse_args()
    w3 = Web3(Web3.HTTPProvider(arguments.url, request_kwargs={"timeout": 30}))
    wallet = Wallet(w3, arguments.key)
    report = Report()
    check_chain(report, w3)
    check_transfers(report, w3, wallet)
    check_refusals(report, w3, wallet)
    check_models(report, w3, wallet)
    check_modules(report, w3, wallet)
    report.finish()


if __name__ == "__main__":
    main()
