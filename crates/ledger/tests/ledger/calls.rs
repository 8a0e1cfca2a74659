//! Read-only calls and gas estimates.

use crate::support::*;
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use lemma_ledger::{
    Call, CallRequest, CallResult, Estimate, InvalidTransaction,
    modules::{MODELS, abi::ILemmaModels},
};

fn estimate(chain: &Chain, request: CallRequest) -> Estimate {
    chain.run(&mut chain.prepare(request), Call::estimate)
}

fn to(to: Address, call: impl SolCall) -> CallRequest {
    CallRequest {
        to: Some(to),
        input: call.abi_encode().into(),
        ..Default::default()
    }
}

#[test]
fn a_transfer_is_estimated_at_21000() {
    let chain = Chain::started();
    let request = CallRequest {
        from: Some(user(0).address),
        to: Some(user(99).address),
        value: U256::ONE,
        ..Default::default()
    };
    assert_eq!(estimate(&chain, request), Estimate::Gas(21_000));
}

#[test]
fn estimates_are_exact() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let register = ILemmaModels::registerCall {
        name: "acme/x".into(),
        manifest: alloy_primitives::B256::repeat_byte(1),
    };
    let forward = Caller::forwardCall {
        to: MODELS,
        data: register.abi_encode().into(),
    };
    let clear = Caller::writeManyCall {
        from: U256::ZERO,
        n: U256::from(5),
        value: U256::from(1),
    };
    for (target, input) in [
        (MODELS, register.abi_encode()),
        (caller, forward.abi_encode()),
        (caller, clear.abi_encode()),
    ] {
        let sender = user(1);
        let request = CallRequest {
            from: Some(sender.address),
            to: Some(target),
            input: input.clone().into(),
            ..Default::default()
        };
        let Estimate::Gas(gas) = estimate(&chain, request) else {
            panic!("fails")
        };
        let nonce = chain.account(sender.address).nonce;
        let draft = Draft::new(nonce).to(target).input(input);
        let with = |gas| draft.clone().gas(gas).sign(&sender);
        let fails = chain.execute(&[with(gas - 1)], Fetch::Prefetched);
        assert!(fails.outcome.receipts.is_empty() || !fails.outcome.receipts[0].success);
        let works = chain.execute(&[with(gas)], Fetch::Prefetched);
        assert!(works.outcome.receipts[0].success);
    }
}

#[test]
fn estimates_of_failing_calls_say_why() {
    let chain = Chain::started();
    let unknown = ILemmaModels::resolveCall {
        name: "no/model".into(),
    };
    let Estimate::Fails(result) = estimate(&chain, to(MODELS, unknown)) else {
        panic!("works")
    };
    assert_eq!(
        result.revert_reason().unwrap(),
        "no model is registered as no/model"
    );

    let request = CallRequest {
        from: Some(user(99).address),
        to: Some(user(0).address),
        value: U256::ONE,
        ..Default::default()
    };
    let Estimate::Fails(CallResult::Refused(reason)) = estimate(&chain, request) else {
        panic!("works")
    };
    assert!(
        matches!(reason, InvalidTransaction::InsufficientFunds { .. }),
        "{reason}"
    );
}

#[test]
fn calls_change_nothing() {
    let chain = Chain::started();
    let register = ILemmaModels::registerCall {
        name: "acme/x".into(),
        manifest: alloy_primitives::B256::repeat_byte(1),
    };
    let mut call = chain.prepare(to(MODELS, register));
    for _ in 0..2 {
        let CallResult::Success { output, logs, .. } = chain.run(&mut call, Call::run) else {
            panic!("fails")
        };
        assert_eq!(
            U256::from_be_slice(&output),
            U256::ONE,
            "version 1 each time"
        );
        assert_eq!(logs.len(), 2);
    }
    assert_eq!(chain.view(MODELS, ILemmaModels::countCall {}), 0);
}

#[test]
fn calls_run_without_gas_price_funds_or_nonce() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    chain.send(&user(0), user(1).address, vec![]);
    // From an account with a nonce, from one without funds, and from a contract.
    for from in [user(0).address, user(99).address, caller] {
        let size = Caller::sizeOfCall { account: caller };
        let request = CallRequest {
            from: Some(from),
            ..to(caller, size)
        };
        assert!(
            matches!(chain.call(request), CallResult::Success { .. }),
            "{from}"
        );
    }
}

#[test]
fn init_code_can_be_called() {
    let chain = Chain::started();
    let request = CallRequest {
        input: deployer(b"hello").into(),
        ..Default::default()
    };
    let CallResult::Success { output, .. } = chain.call(request) else {
        panic!("fails")
    };
    assert_eq!(output.as_ref(), b"hello");
}

#[test]
fn gas_runs_out() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let request = CallRequest {
        gas: Some(50_000),
        ..to(caller, Caller::burnCall {})
    };
    let result = chain.call(request);
    assert!(
        matches!(
            result,
            CallResult::Halt {
                out_of_gas: true,
                gas_used: 50_000,
                ..
            }
        ),
        "{result:?}"
    );
}
