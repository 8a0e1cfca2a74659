//! The register of models: each rule and each refusal.

use crate::support::*;
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use lemma_ledger::{
    CallRequest, CallResult,
    modules::{
        MODELS,
        abi::ILemmaModels::{self, *},
        explain,
    },
};

fn manifest(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn register(name: &str, number: u8) -> registerCall {
    registerCall {
        name: name.into(),
        manifest: manifest(number),
    }
}

fn resolve(chain: &Chain, name: &str) -> resolveReturn {
    chain.view(MODELS, resolveCall { name: name.into() })
}

#[test]
fn a_registered_name_resolves() {
    let mut chain = Chain::started();
    let height = chain.context().number;
    assert_eq!(
        chain.transact(&user(0), MODELS, register("acme/tiny:q8", 1)),
        Ok(1)
    );
    let found = resolve(&chain, "acme/tiny:q8");
    assert_eq!(
        (found.manifest, found.owner),
        (manifest(1), user(0).address)
    );
    assert_eq!((found.version, found.height), (1, height));
    assert_eq!(
        chain.view(
            MODELS,
            ownerOfCall {
                namespace: "acme".into()
            }
        ),
        user(0).address
    );
    assert_eq!(
        chain.view(
            MODELS,
            ownerOfCall {
                namespace: "other".into()
            }
        ),
        Address::ZERO
    );
}

#[test]
fn registration_emits_events() {
    let mut chain = Chain::started();
    let receipt = chain.send(&user(0), MODELS, register("acme/x", 1).abi_encode());
    let claimed = NamespaceClaimed::decode_log(&receipt.logs[0]).unwrap();
    assert_eq!(claimed.address, MODELS);
    assert_eq!(
        (claimed.owner, claimed.namespace.as_str()),
        (user(0).address, "acme")
    );
    assert_eq!(claimed.namespaceHash, keccak256("acme"));
    let registered = ModelRegistered::decode_log(&receipt.logs[1]).unwrap();
    assert_eq!(registered.nameHash, keccak256("acme/x"));
    assert_eq!(
        (registered.manifest, registered.owner),
        (manifest(1), user(0).address)
    );
    assert_eq!(
        (registered.name.as_str(), registered.version),
        ("acme/x", 1)
    );
    assert_eq!(receipt.logs.len(), 2);

    let receipt = chain.send(&user(0), MODELS, register("acme/y", 1).abi_encode());
    assert_eq!(receipt.logs.len(), 1, "the namespace is claimed once");
}

#[test]
fn versions_count_up_and_stay() {
    let mut chain = Chain::started();
    for version in 1..=3 {
        let registered = chain.transact(&user(0), MODELS, register("acme/x", version));
        assert_eq!(registered, Ok(version.into()));
    }
    assert_eq!(resolve(&chain, "acme/x").manifest, manifest(3));
    for version in 1..=3 {
        let at = chain.view(
            MODELS,
            manifestAtCall {
                name: "acme/x".into(),
                version,
            },
        );
        assert_eq!(at.manifest, manifest(version as u8));
        assert_eq!(at.height, 1 + version);
    }
    // An earlier manifest may return as a new version.
    assert_eq!(
        chain.transact(&user(0), MODELS, register("acme/x", 1)),
        Ok(4)
    );
    assert_eq!(chain.view(MODELS, countCall {}), 1);
}

#[test]
fn names_are_listed_in_order() {
    let mut chain = Chain::started();
    let long = format!("acme/{}", "long-name.".repeat(11) + "z");
    let names = ["acme/x", &long, "acme/exactly-thirty-one-bytes-xx", "b/y:z"];
    for (name, sender) in names.iter().zip([0, 0, 0, 1]) {
        assert_eq!(
            chain.transact(&user(sender), MODELS, register(name, 9)),
            Ok(1)
        );
    }
    assert_eq!(chain.view(MODELS, countCall {}), 4);
    for (index, name) in (0..).zip(names) {
        assert_eq!(chain.view(MODELS, nameAtCall { index }), name);
    }
}

#[test]
fn refusals_say_why() {
    let mut chain = Chain::started();
    chain
        .transact(&user(0), MODELS, register("acme/x", 1))
        .unwrap();
    let mut refuse = |sender: u64, name: &str, number: u8| {
        let call = register(name, number);
        chain.transact(&user(sender), MODELS, call).unwrap_err()
    };
    let owner = user(0).address.to_string();
    assert!(refuse(1, "acme/x", 2).contains(&format!("acme belongs to {owner}")));
    assert!(refuse(1, "acme/other", 2).contains(&owner));
    assert!(refuse(0, "acme/x", 1).contains("version 1 has this manifest"));
    assert!(refuse(0, "acme/y", 0).contains("all zeros"));
    for name in [
        "", "x", "acme/", "/x", "Acme/x", "acme/x/y", "acme/x:", "acme/x y", "acme/é",
    ] {
        assert!(refuse(0, name, 2).contains("not a model name"), "{name}");
    }
    assert!(refuse(0, &format!("acme/{}", "x".repeat(200)), 2).contains("at most 128"));
    assert_eq!(chain.view(MODELS, countCall {}), 1);
    assert_eq!(resolve(&chain, "acme/x").manifest, manifest(1));
}

#[test]
fn views_of_what_is_not_there_say_so() {
    let mut chain = Chain::started();
    chain
        .transact(&user(0), MODELS, register("acme/x", 1))
        .unwrap();
    let no = chain.view_error(
        MODELS,
        resolveCall {
            name: "acme/none".into(),
        },
    );
    assert_eq!(no, "no model is registered as acme/none");
    for version in [0, 2] {
        let call = manifestAtCall {
            name: "acme/x".into(),
            version,
        };
        let no = chain.view_error(MODELS, call);
        assert_eq!(
            no,
            format!("there is no version {version}; the newest is 1")
        );
    }
    let no = chain.view_error(MODELS, nameAtCall { index: 1 });
    assert_eq!(no, "index 1 is out of range: there are 1 entries");
}

#[test]
fn contracts_own_namespaces_and_resolve_names() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let data = register("made/by-contract", 5).abi_encode();
    let forward = Caller::forwardCall {
        to: MODELS,
        data: data.into(),
    };
    chain.transact(&user(0), caller, forward).unwrap();
    assert_eq!(resolve(&chain, "made/by-contract").owner, caller);

    let pin = chain.deploy(&user(1), MODEL_PIN);
    let name = || "made/by-contract".to_string();
    chain
        .transact(&user(1), pin, ModelPin::pinCall { name: name() })
        .unwrap();
    assert_eq!(chain.view(pin, ModelPin::manifestCall {}), manifest(5));
    assert_eq!(chain.view(pin, ModelPin::versionCall {}), 1);
    assert!(chain.view(pin, ModelPin::isCurrentCall { name: name() }));
    let data = register("made/by-contract", 6).abi_encode();
    let forward = Caller::forwardCall {
        to: MODELS,
        data: data.into(),
    };
    chain.transact(&user(0), caller, forward).unwrap();
    assert!(!chain.view(pin, ModelPin::isCurrentCall { name: name() }));

    let unknown = ModelPin::pinCall {
        name: "no/such".into(),
    };
    let reason = chain.transact(&user(1), pin, unknown).err().unwrap();
    assert_eq!(
        reason, "no model is registered as no/such",
        "errors pass through contracts"
    );
}

#[test]
fn reverts_undo_module_storage_and_events() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let data: alloy_primitives::Bytes = register("acme/x", 1).abi_encode().into();
    let undo = Caller::attemptCall {
        to: MODELS,
        data: data.clone(),
        undo: true,
    };
    assert_eq!(
        chain.transact(&user(0), caller, undo).unwrap_err(),
        "undone"
    );
    assert_eq!(chain.view(MODELS, countCall {}), 0);

    // An inner frame reverts, the transaction succeeds.
    let undo = Caller::attemptAndUndoCall { to: MODELS, data };
    let receipt = chain.send(&user(0), caller, undo.abi_encode());
    assert!(receipt.success && receipt.logs.is_empty());
    assert_eq!(chain.view(MODELS, countCall {}), 0);
    assert_eq!(
        chain.view(
            MODELS,
            ownerOfCall {
                namespace: "acme".into()
            }
        ),
        Address::ZERO
    );
    assert_eq!(
        chain.transact(&user(1), MODELS, register("acme/x", 2)),
        Ok(1)
    );
}

#[test]
fn static_and_delegate_calls_are_refused() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let data: alloy_primitives::Bytes = register("acme/x", 1).abi_encode().into();
    let call = Caller::forwardStaticCall {
        to: MODELS,
        data: data.clone(),
    };
    assert!(chain.view_error(caller, call).contains("statically"));
    let count = Caller::forwardStaticCall {
        to: MODELS,
        data: countCall {}.abi_encode().into(),
    };
    assert_eq!(U256::from_be_slice(&chain.view(caller, count)), U256::ZERO);

    let call = Caller::forwardDelegateCall { to: MODELS, data };
    let reason = chain.transact(&user(0), caller, call).unwrap_err();
    assert!(reason.contains("delegate-called"), "{reason}");
    assert_eq!(chain.view(MODELS, countCall {}), 0);
}

#[test]
fn no_detour_gets_around_a_static_call() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    let data = register("acme/x", 1).abi_encode().into();
    let inner = Caller::forwardCall { to: MODELS, data }.abi_encode();
    let outer = Caller::forwardStaticCall {
        to: caller,
        data: inner.into(),
    };
    assert!(chain.view_error(caller, outer).contains("statically"));
}

#[test]
fn an_account_that_delegates_to_a_module_is_not_the_module() {
    let mut chain = Chain::started();
    let authority = user(5);
    let draft = Draft::new(0).to(user(40).address);
    let raw = encode(draft.delegating(&[(&authority, 0, MODELS)]), &user(0));
    let delegate = lemma_ledger::Transaction::decode(&raw, CHAIN_ID).unwrap();
    assert!(chain.include(&delegate).success);
    let call = register("acme/x", 1).abi_encode();
    assert!(!chain.send(&user(1), authority.address, call).success);
    assert_eq!(chain.view(MODELS, countCall {}), 0);
}

#[test]
fn funds_and_unknown_methods_are_refused() {
    let mut chain = Chain::started();
    let data = register("acme/x", 1).abi_encode();
    let receipt = chain.send_value(&user(0), MODELS, data, U256::ONE);
    assert!(!receipt.success);
    assert!(explain(&receipt.output).unwrap().contains("no funds"));
    assert_eq!(chain.balance(MODELS), U256::ZERO);

    let truncated = &register("acme/x", 1).abi_encode()[..50];
    for data in [&b""[..], b"abc", b"abcd", truncated] {
        let receipt = chain.send(&user(0), MODELS, data.to_vec());
        assert!(!receipt.success);
        assert!(explain(&receipt.output).unwrap().contains("no such method"));
    }
}

#[test]
fn solidity_finds_code_at_the_modules() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    for account in lemma_ledger::modules::ADDRESSES {
        assert_eq!(
            chain.view(caller, Caller::sizeOfCall { account }),
            U256::ONE
        );
    }
}

#[test]
fn gas_is_metered() {
    let mut chain = Chain::started();
    let first = chain.send(&user(0), MODELS, register("acme/x", 1).abi_encode());
    let update = chain.send(&user(0), MODELS, register("acme/x", 2).abi_encode());
    // New: namespace, count, name, newest version, manifest and height; then only the last two are new.
    assert!(
        (150_000..220_000).contains(&first.gas_used),
        "{}",
        first.gas_used
    );
    assert!(
        (60_000..110_000).contains(&update.gas_used),
        "{}",
        update.gas_used
    );

    let nonce = chain.account(user(0).address).nonce;
    let draft = Draft::new(nonce)
        .to(MODELS)
        .input(register("acme/z", 1).abi_encode())
        .gas(60_000);
    let receipt = chain.include(&draft.sign(&user(0)));
    assert!(!receipt.success);
    assert_eq!(receipt.gas_used, 60_000);
    let request = CallRequest {
        to: Some(MODELS),
        input: resolveCall {
            name: "acme/z".into(),
        }
        .abi_encode()
        .into(),
        ..Default::default()
    };
    let CallResult::Revert { output, .. } = chain.call(request) else {
        panic!("resolved")
    };
    assert!(ILemmaModels::UnknownModel::SELECTOR == output[..4]);
    use alloy_sol_types::SolError;
}
