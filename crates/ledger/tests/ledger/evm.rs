//! Contracts: deployment, calls, the block's environment, reverts.

use crate::support::*;
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, TxKind, U256, keccak256};
use alloy_sol_types::SolCall;
use lemma_ledger::{Transaction, code_key, code_keys, slot_key};

#[test]
fn deployed_code_reads_back() {
    let mut chain = Chain::started();
    for length in [1, 67, 68, 69, 140, 141, 24_576] {
        let code: Vec<u8> = (0..length).map(|i| (i % 200) as u8).collect();
        let sender = user(0);
        let nonce = chain.account(sender.address).nonce;
        let create = Draft::new(nonce)
            .to(TxKind::Create)
            .input(deployer(&code))
            .gas(10_000_000);
        let receipt = chain.include(&create.sign(&sender));
        assert!(receipt.success, "{receipt:?}");
        let address = receipt.contract_address.unwrap();
        assert_eq!(address, sender.address.create(nonce));
        assert_eq!(chain.read(|state| state.code(address)).as_ref(), code);
        let account = chain.account(address);
        assert_eq!((account.nonce, account.code_hash), (1, keccak256(&code)));
        assert!(
            code_keys(account.code_hash, length)
                .iter()
                .all(|key| chain.get(key).is_some())
        );
    }
}

#[test]
fn code_over_the_limit_is_not_deployed() {
    let mut chain = Chain::started();
    let create = Draft::new(0)
        .to(TxKind::Create)
        .input(deployer(&[0; 24_577]))
        .gas(10_000_000);
    let receipt = chain.include(&create.sign(&user(0)));
    assert!(!receipt.success);
    assert_eq!(receipt.contract_address, None);
}

#[test]
fn contracts_share_code_by_its_hash() {
    let mut chain = Chain::started();
    let first = chain.deploy(&user(0), CALLER);
    let second = chain.deploy(&user(1), CALLER);
    assert_ne!(first, second);
    assert_eq!(chain.account(first), chain.account(second));
    assert!(
        chain
            .get(&code_key(chain.account(first).code_hash, 0))
            .is_some()
    );
}

#[test]
fn storage_is_written_and_zero_is_absence() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let write = |value: u64| Caller::writeManyCall {
        from: U256::from(10),
        n: U256::from(3),
        value: U256::from(value),
    };
    chain.transact(&user(0), caller, write(7)).unwrap();
    let read = Caller::readManyCall {
        from: U256::from(10),
        n: U256::from(3),
    };
    assert_eq!(chain.view(caller, read.clone()), U256::from(7 + 8 + 9));
    assert_eq!(
        chain.read(|state| state.storage(caller, U256::from(11))),
        U256::from(8)
    );
    chain.transact(&user(0), caller, write(0)).unwrap();
    assert_eq!(chain.view(caller, read), U256::from(1 + 2));
    assert_eq!(chain.get(&slot_key(caller, U256::from(10))), None);
}

#[test]
fn failed_transactions_pay_and_change_nothing_else() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let burn = Caller::burnCall {}.abi_encode();
    let before = chain.balance(user(1).address);
    let draft = Draft::new(0).to(caller).input(burn).gas(100_000);
    let receipt = chain.include(&draft.sign(&user(1)));
    assert!(!receipt.success);
    assert_eq!(receipt.gas_used, 100_000);
    let paid = U256::from(receipt.effective_gas_price) * U256::from(100_000);
    assert_eq!(chain.balance(user(1).address), before - paid);
    assert_eq!(chain.account(user(1).address).nonce, 1);

    let value = U256::from(5);
    let call = Caller::attemptCall {
        to: Address::ZERO,
        data: vec![].into(),
        undo: true,
    };
    let receipt = chain.send_value(&user(1), caller, call.abi_encode(), value);
    assert!(!receipt.success);
    assert_eq!(chain.balance(caller), U256::ZERO);
}

#[test]
fn contracts_see_their_block() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let context = chain.context();
    let request = lemma_ledger::CallRequest {
        from: Some(user(0).address),
        to: Some(caller),
        gas_price: u128::from(context.base_fee),
        input: Caller::environmentCall {}.abi_encode().into(),
        gas: Some(100_000),
        ..Default::default()
    };
    let lemma_ledger::CallResult::Success { output, .. } = chain.call(request) else {
        panic!("environment() failed")
    };
    let seen = Caller::environmentCall::abi_decode_returns(&output).unwrap();
    assert_eq!(seen.number, U256::from(context.number));
    assert_eq!(seen.time, U256::from(context.timestamp));
    assert_eq!(seen.randao, U256::from_be_bytes(context.randomness.0));
    assert_eq!(seen.base, U256::from(context.base_fee));
    assert_eq!(seen.chain, U256::from(CHAIN_ID));
    assert_eq!(seen.coinbase, context.beneficiary);
}

#[test]
fn blockhash_reaches_back_256_blocks() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    while chain.hashes.len() < 300 {
        let outcome = chain.execute(&[], Fetch::Prefetched).outcome;
        chain.adopt(&outcome);
    }
    // A view of the state after block 299 runs in block 300, which has not entered the hash of 299 yet;
    // a transaction does see it.
    let mut hash_in_block = |number: u64| {
        let call = Caller::hashOfCall {
            number: U256::from(number),
        };
        let height = chain.context().number;
        (
            height,
            chain.transact(&user(0), caller, call).unwrap(),
            chain.hashes.clone(),
        )
    };
    for back in [1, 2, 255, 256] {
        let height = 300 + [1, 2, 255, 256].iter().position(|b| *b == back).unwrap() as u64;
        let (at, hash, hashes) = hash_in_block(height - back);
        assert_eq!(
            (at, hash),
            (height, hashes[(height - back) as usize]),
            "{back} back"
        );
    }
    let (at, hash, _) = hash_in_block(304 - 257);
    assert_eq!((at, hash), (304, B256::ZERO));
}

#[test]
fn selfdestruct_moves_funds_and_removes_only_newborn_contracts() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let heir = Address::repeat_byte(0x77);
    let call = Caller::createAndDestroyCall { to: heir }.abi_encode();
    let receipt = chain.send_value(&user(0), caller, call, U256::from(10));
    assert!(receipt.success);
    assert_eq!(chain.balance(heir), U256::from(10));
    let newborn = caller.create(1);
    assert_eq!(chain.account(newborn), Default::default());
    assert_eq!(chain.get(&slot_key(newborn, U256::ZERO)), None);

    let call = Caller::destroyCall { to: heir }.abi_encode();
    let receipt = chain.send_value(&user(0), caller, call, U256::from(3));
    assert!(receipt.success);
    assert_eq!(chain.balance(heir), U256::from(13));
    assert!(chain.account(caller).has_code());
}

#[test]
fn access_lists_and_delegations_work() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let list = AccessList(vec![AccessListItem {
        address: caller,
        storage_keys: vec![B256::with_last_byte(9)],
    }]);
    let call = Caller::readManyCall {
        from: U256::from(9),
        n: U256::from(1),
    }
    .abi_encode();
    let raw = encode(
        Draft::new(1).to(caller).input(call).with_access_list(list),
        &user(0),
    );
    let receipt = chain.include(&Transaction::decode(&raw, CHAIN_ID).unwrap());
    assert!(receipt.success);
    assert_eq!(receipt.kind, 1);

    // User 5 lets its account run Caller's code; user 0 pays.
    let authority = user(5);
    let draft = Draft::new(2).to(user(40).address);
    let raw = encode(draft.delegating(&[(&authority, 0, caller)]), &user(0));
    let receipt = chain.include(&Transaction::decode(&raw, CHAIN_ID).unwrap());
    assert!(receipt.success);
    let account = chain.account(authority.address);
    assert_eq!(account.nonce, 1);
    let code = chain.read(|state| state.code(authority.address));
    assert_eq!(
        code.as_ref(),
        [&[0xef, 0x01, 0x00], caller.as_slice()].concat()
    );
    let size = Caller::sizeOfCall {
        account: authority.address,
    };
    assert_eq!(chain.view(authority.address, size), U256::from(23));
}

#[test]
fn ethereum_precompiles_answer() {
    let chain = Chain::started();
    // SHA-256 of nothing, at address 2.
    let request = lemma_ledger::CallRequest {
        to: Some(Address::with_last_byte(2)),
        ..Default::default()
    };
    let lemma_ledger::CallResult::Success { output, .. } = chain.call(request) else {
        panic!()
    };
    assert_eq!(
        output.as_ref(),
        alloy_primitives::hex!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    );
}
