//! The register of workers.

use crate::support::*;
use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lemma_ledger::modules::{NODES, abi::ILemmaNodes::*};

fn register(endpoint: &str, payee: Address) -> registerCall {
    registerCall {
        endpoint: endpoint.into(),
        payee,
    }
}

fn update(endpoint: &str, payee: Address) -> updateCall {
    updateCall {
        endpoint: endpoint.into(),
        payee,
    }
}

fn node(chain: &Chain, node: Address) -> nodeOfReturn {
    chain.view(NODES, nodeOfCall { node })
}

#[test]
fn a_node_registers_updates_leaves_and_returns() {
    let mut chain = Chain::started();
    let (worker, payee) = (user(0), user(70).address);
    let unknown = node(&chain, worker.address);
    assert_eq!(
        (unknown.endpoint.as_str(), unknown.payee),
        ("", Address::ZERO)
    );
    assert_eq!((unknown.registeredAt, unknown.active), (0, false));

    let height = chain.context().number;
    chain
        .transact(&worker, NODES, register("http://127.0.0.1:9000", payee))
        .unwrap();
    let found = node(&chain, worker.address);
    assert_eq!(
        (found.endpoint.as_str(), found.payee),
        ("http://127.0.0.1:9000", payee)
    );
    assert_eq!((found.registeredAt, found.active), (height, true));

    let long = format!("https://worker.example.org/{}", "x".repeat(100));
    chain
        .transact(&worker, NODES, update(&long, worker.address))
        .unwrap();
    let found = node(&chain, worker.address);
    assert_eq!((found.endpoint, found.payee), (long, worker.address));
    assert_eq!(found.registeredAt, height);

    chain.transact(&worker, NODES, deregisterCall {}).unwrap();
    assert!(!node(&chain, worker.address).active);
    chain
        .transact(&worker, NODES, register("http://b:1", payee))
        .unwrap();
    let found = node(&chain, worker.address);
    assert!(found.active && found.registeredAt > height);
    assert_eq!(found.endpoint, "http://b:1");
    assert_eq!(chain.view(NODES, countCall {}), 1, "it is listed once");
}

#[test]
fn endpoints_of_all_lengths_replace_each_other() {
    let mut chain = Chain::started();
    let worker = user(0);
    let of_length = |n: usize| format!("http://a/{}", "y".repeat(n - 9));
    chain
        .transact(&worker, NODES, register(&of_length(10), worker.address))
        .unwrap();
    let slots = chain.state.len();
    for length in [31, 32, 33, 256, 64, 65, 200, 31, 256, 10] {
        let endpoint = of_length(length);
        chain
            .transact(&worker, NODES, update(&endpoint, worker.address))
            .unwrap();
        assert_eq!(node(&chain, worker.address).endpoint, endpoint);
    }
    // The beneficiary came into being with the first fee; no slot of a longer endpoint is left behind.
    assert!(
        chain.state.len() <= slots + 256 + 64,
        "state grows by history only"
    );
    let before = chain.state.len();
    chain
        .transact(&worker, NODES, update(&of_length(256), worker.address))
        .unwrap();
    let grown = chain.state.len();
    chain
        .transact(&worker, NODES, update(&of_length(10), worker.address))
        .unwrap();
    assert_eq!(grown - before, 8 + 1, "eight chunks and a block hash");
    assert!(chain.state.len() <= grown - 8 + 1);
}

#[test]
fn nodes_are_listed_in_order_with_events() {
    let mut chain = Chain::started();
    for n in 0..3 {
        let worker = user(n);
        let call = register("http://h:1", user(9).address).abi_encode();
        let receipt = chain.send(&worker, NODES, call);
        let event = NodeRegistered::decode_log(&receipt.logs[0]).unwrap();
        assert_eq!((event.node, event.payee), (worker.address, user(9).address));
        assert_eq!(event.endpoint, "http://h:1");
    }
    let receipt = chain.send(
        &user(1),
        NODES,
        update("http://h:2", user(8).address).abi_encode(),
    );
    let event = NodeUpdated::decode_log(&receipt.logs[0]).unwrap();
    assert_eq!(
        (event.node, event.payee),
        (user(1).address, user(8).address)
    );
    let receipt = chain.send(&user(1), NODES, deregisterCall {}.abi_encode());
    assert_eq!(
        NodeDeregistered::decode_log(&receipt.logs[0]).unwrap().node,
        user(1).address
    );

    assert_eq!(chain.view(NODES, countCall {}), 3);
    for index in 0..3 {
        assert_eq!(chain.view(NODES, nodeAtCall { index }), user(index).address);
    }
    let no = chain.view_error(NODES, nodeAtCall { index: 3 });
    assert_eq!(no, "index 3 is out of range: there are 3 entries");
}

#[test]
fn refusals_say_why() {
    let mut chain = Chain::started();
    let (worker, payee) = (user(0), user(1).address);
    let not_yet = format!("{} is not a registered node", worker.address);
    assert_eq!(
        chain
            .transact(&worker, NODES, update("http://a", payee))
            .err()
            .unwrap(),
        not_yet
    );
    assert_eq!(
        chain
            .transact(&worker, NODES, deregisterCall {})
            .err()
            .unwrap(),
        not_yet
    );
    let bad = chain
        .transact(&worker, NODES, register("ftp://a", payee))
        .err()
        .unwrap();
    assert_eq!(bad, "not an endpoint: must begin with http:// or https://");
    let long = format!("http://a/{}", "x".repeat(300));
    let bad = chain
        .transact(&worker, NODES, register(&long, payee))
        .err()
        .unwrap();
    assert_eq!(bad, "not an endpoint: longer than 256 bytes");
    let bad = chain
        .transact(&worker, NODES, register("http://a", Address::ZERO))
        .err()
        .unwrap();
    assert_eq!(bad, "the payee is the zero address");

    chain
        .transact(&worker, NODES, register("http://a", payee))
        .unwrap();
    let twice = chain
        .transact(&worker, NODES, register("http://a", payee))
        .err()
        .unwrap();
    assert!(twice.contains("registered already"), "{twice}");
    let bad = chain
        .transact(&worker, NODES, update("http://a?b", payee))
        .err()
        .unwrap();
    assert!(bad.contains("not an endpoint"), "{bad}");
    assert_eq!(node(&chain, worker.address).endpoint, "http://a");

    chain.transact(&worker, NODES, deregisterCall {}).unwrap();
    assert_eq!(
        chain
            .transact(&worker, NODES, deregisterCall {})
            .err()
            .unwrap(),
        not_yet
    );
}

#[test]
fn value_is_refused() {
    let mut chain = Chain::started();
    let call = register("http://a", user(0).address).abi_encode();
    assert!(!chain.send_value(&user(0), NODES, call, U256::ONE).success);
    assert_eq!(chain.view(NODES, countCall {}), 0);
}
