//! Validators over real sockets and files.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod common;

use alloy_sol_types::SolCall as _;
use common::{CHAIN_ID, Network, gas, included, key, transaction, within};
use commonware_codec::{Copying, Decode as _, DecodeExt as _};
use commonware_parallel::Sequential;
use lemma_chain::{
    BlockId, Certificate, ChainError, ChainHandle, LogFilter, LogLimits, StartError, SubmitError,
    Validator,
    scheme::{Finalization, Scheme, Variant},
};
use lemma_ledger::{
    CallRequest, CallResult, Estimate,
    modules::{
        NODES, RECEIPTS,
        abi::{ILemmaNodes, ILemmaReceipts},
        receipts::settled_batch,
    },
};
use lemma_types::{
    Address, B256, Bytes, TrustedRoot, U256,
    block::{Extension, decode_header, header_commits_to},
    consensus_namespace, keccak256, merkle,
    settlement::history_leaf,
};

/// What an offline verifier does with a certificate: nothing but the trusted root is known.
fn verify(root: &TrustedRoot, certificate: &Certificate) -> bool {
    type Key = <Variant as commonware_cryptography::bls12381::primitives::variant::Variant>::Public;
    let key = Key::decode(Copying(&root.network_key)).unwrap();
    let verifier = Scheme::certificate_verifier(&consensus_namespace(root.chain_id), key);
    let finalization = Finalization::decode_cfg(Copying(&certificate.finalization), &()).unwrap();
    let header = decode_header(&certificate.header).unwrap();
    let extension = Extension::decode(&certificate.extension).unwrap();
    header_commits_to(&header, &extension)
        && finalization.proposal.payload.as_ref() == keccak256(&certificate.header).as_slice()
        && finalization.verify(&mut commonware_utils::sys_rng(), &verifier, &Sequential)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_lives_through_faults_and_restarts() {
    let mut network = Network::start();
    let chain = network.handle(0);
    within(chain.ready()).await.unwrap();
    let nobody = Address::repeat_byte(0x11);

    transfers_become_final(&network, nobody).await;
    refusals_have_reasons(&chain).await;
    calls_see_the_head(&chain, nobody).await;
    certificates_verify(&chain).await;
    batches_are_provable(&chain, 4).await;

    // With one of four gone without a word, the others go on.
    network.take(3).kill();
    let hash = chain
        .submit(&transaction(7, nobody, Bytes::new()))
        .await
        .unwrap();
    let block = included(&chain, hash).await.block;

    // All stop, and start again in the same directories.
    let old = (network.handle(0), network.handle(1));
    (0..3).for_each(|index| network.take(index).stop());
    assert!(!old.0.is_alive());
    assert!(matches!(
        old.0.balance(nobody).await,
        Err(ChainError::Stopped)
    ));
    assert!(matches!(
        old.1.submit(&transaction(8, nobody, Bytes::new())).await,
        Err(SubmitError::Stopped)
    ));
    (0..4).for_each(|index| network.spawn(index));
    for index in 0..4 {
        let chain = network.handle(index);
        let head = within(chain.reached(block.number() + 1)).await.unwrap();
        assert!(head.number > block.number());
        let again = chain.block(BlockId::Hash(block.hash())).unwrap().unwrap();
        assert_eq!(*again, *block);
        assert_eq!(within(chain.balance(nobody)).await.unwrap(), U256::from(5));
        assert_eq!(
            chain
                .transaction(hash)
                .unwrap()
                .unwrap()
                .receipt()
                .transaction_hash,
            hash
        );
    }
    let hash = network
        .handle(3)
        .submit(&transaction(8, nobody, Bytes::new()))
        .await
        .unwrap();
    included(&network.handle(2), hash).await;
}

async fn transfers_become_final(network: &Network, nobody: Address) {
    // Whoever is asked, all have it in the end; also out of order.
    let mut hashes = Vec::new();
    for nonce in [1, 0, 2] {
        let chain = network.handle(nonce as usize);
        within(chain.ready()).await.unwrap();
        hashes.push(
            chain
                .submit(&transaction(nonce, nobody, Bytes::new()))
                .await
                .unwrap(),
        );
    }
    let mut blocks = Vec::new();
    for index in 0..4 {
        let chain = network.handle(index);
        for hash in &hashes {
            let located = included(&chain, *hash).await;
            assert!(located.receipt().success);
            assert_eq!(keccak256(located.raw()), *hash);
            blocks.push((*hash, located.block.hash()));
        }
        assert_eq!(chain.balance(nobody).await.unwrap(), U256::from(3));
        assert_eq!(chain.pending_nonce(key().address()).await.unwrap(), 3);
        assert!(chain.pool().is_empty());
    }
    blocks.sort();
    blocks.dedup();
    assert_eq!(
        blocks.len(),
        hashes.len(),
        "all validators agree on where transactions are"
    );
}

async fn refusals_have_reasons(chain: &ChainHandle) {
    let known = transaction(3, Address::repeat_byte(0x11), Bytes::new());
    let refused = |raw: Bytes| async move { chain.submit(&raw).await.unwrap_err() };
    assert!(matches!(
        refused(Bytes::from_static(b"junk")).await,
        SubmitError::Transaction(_)
    ));
    let used = refused(transaction(1, Address::ZERO, Bytes::new())).await;
    assert_eq!(
        used,
        SubmitError::NonceTooLow {
            nonce: 1,
            expected: 3
        }
    );
    let far = refused(transaction(10_000, Address::ZERO, Bytes::new())).await;
    assert_eq!(
        far,
        SubmitError::NonceTooHigh {
            nonce: 10_000,
            expected: 3
        }
    );
    let frugal = refused(gas(3, 20_999)).await;
    assert!(matches!(frugal, SubmitError::Invalid(_)), "{frugal}");
    let hash = chain.submit(&known).await.unwrap();
    included(chain, hash).await;
}

async fn calls_see_the_head(chain: &ChainHandle, nobody: Address) {
    let pay = |value: U256| CallRequest {
        from: Some(key().address()),
        to: Some(nobody),
        value,
        ..Default::default()
    };
    let estimate = chain.estimate_gas(pay(U256::from(1))).await.unwrap();
    assert_eq!(estimate, Estimate::Gas(21_000));
    let result = chain.call(pay(U256::from(1))).await.unwrap();
    assert!(matches!(result, CallResult::Success { .. }), "{result:?}");
    let too_much = chain.call(pay(U256::MAX)).await.unwrap();
    assert!(matches!(too_much, CallResult::Refused(_)), "{too_much:?}");
    assert_eq!(chain.code(nobody).await.unwrap(), Bytes::new());
    assert_eq!(chain.storage(nobody, U256::ZERO).await.unwrap(), U256::ZERO);
    let logs = chain
        .logs(
            LogFilter {
                to: u64::MAX,
                ..LogFilter::default()
            },
            LogLimits::default(),
        )
        .await;
    assert!(logs.unwrap().is_empty());
    assert!(chain.metrics().await.unwrap().contains("finalized_height"));
}

async fn certificates_verify(chain: &ChainHandle) {
    let root = chain.trusted_root();
    assert_eq!(root.chain_id, CHAIN_ID);
    let genesis = chain.block(BlockId::Number(0)).unwrap().unwrap();
    assert_eq!(root.genesis, genesis.hash());
    let certificate = chain
        .certificate(1)
        .unwrap()
        .expect("blocks were finalised");
    assert!(verify(&root, &certificate));
    let forged = Certificate {
        header: chain_header(chain, 0),
        ..certificate.clone()
    };
    assert!(!verify(&root, &forged));
    let other = TrustedRoot {
        chain_id: CHAIN_ID + 1,
        ..root
    };
    assert!(
        !verify(&other, &certificate),
        "a certificate of another network is void"
    );

    // Every ancestor is provable from any header, and the head's own hash is not in its own log.
    let head = chain.block(BlockId::Latest).unwrap().unwrap();
    let log = head.extension().history;
    assert_eq!(log.size, head.number());
    for height in 0..log.size {
        let block = chain.block(BlockId::Number(height)).unwrap().unwrap();
        let path = chain.history_path(height, log.size).unwrap().unwrap();
        assert!(merkle::verify(
            history_leaf(block.hash()),
            height,
            log.size,
            &path,
            log.root
        ));
    }
    assert_eq!(chain.history_path(log.size, log.size).unwrap(), None);
    assert_eq!(chain.block(BlockId::Hash(B256::ZERO)).unwrap(), None);
}

/// Three transactions from this nonce on: a worker registers and settles two batches.
async fn batches_are_provable(chain: &ChainHandle, nonce: u64) {
    let register = ILemmaNodes::registerCall {
        endpoint: "http://127.0.0.1:9".to_owned(),
        payee: key().address(),
    };
    let settle = |root: u8| ILemmaReceipts::settleCall {
        root: B256::repeat_byte(root),
        count: 10,
        computeUnits: 70,
        fees: U256::from(5),
    };
    let calls = [
        (NODES, register.abi_encode()),
        (RECEIPTS, settle(1).abi_encode()),
        (RECEIPTS, settle(2).abi_encode()),
    ];
    let mut last = None;
    for (nonce, (module, input)) in (nonce..).zip(calls) {
        let hash = chain
            .submit(&transaction(nonce, module, input.into()))
            .await
            .unwrap();
        last = Some(included(chain, hash).await);
        assert!(last.as_ref().unwrap().receipt().success);
    }

    let filter = LogFilter {
        from: 1,
        to: u64::MAX,
        addresses: vec![RECEIPTS],
        ..LogFilter::default()
    };
    let found = chain.logs(filter, LogLimits::default()).await.unwrap();
    let batches: Vec<_> = found
        .iter()
        .map(|log| settled_batch(&log.event, log.block.number()).unwrap())
        .collect();
    assert_eq!(
        batches
            .iter()
            .map(|batch| (batch.index, batch.count))
            .collect::<Vec<_>>(),
        [(0, 10), (1, 10)]
    );
    let log = last.unwrap().block.extension().batches;
    assert_eq!(log.size, 2);
    for batch in &batches {
        let path = chain.batch_path(batch.index, log.size).unwrap().unwrap();
        assert!(merkle::verify(
            batch.leaf(),
            batch.index,
            log.size,
            &path,
            log.root
        ));
    }

    // A call of many dependent reads sees one state.
    let batch_at = ILemmaReceipts::batchAtCall { index: 1 }.abi_encode();
    let request = CallRequest {
        to: Some(RECEIPTS),
        input: batch_at.into(),
        ..CallRequest::default()
    };
    let CallResult::Success { output, .. } = chain.call(request).await.unwrap() else {
        panic!("refused")
    };
    let batch = ILemmaReceipts::batchAtCall::abi_decode_returns(&output).unwrap();
    assert_eq!(
        (batch.root, batch.height),
        (batches[1].root, batches[1].height)
    );
    assert_eq!(
        chain.code(RECEIPTS).await.unwrap(),
        Bytes::from_static(&[0xfe])
    );
    assert_eq!(
        chain.storage(RECEIPTS, U256::ZERO).await.unwrap(),
        U256::from(2)
    );
}

fn chain_header(chain: &ChainHandle, number: u64) -> Bytes {
    alloy_rlp::encode(
        chain
            .block(BlockId::Number(number))
            .unwrap()
            .unwrap()
            .header(),
    )
    .into()
}

#[test]
fn a_validator_that_can_not_start_says_why() {
    let mut network = Network::start();
    let busy = Validator::spawn(network.config(0)).map(drop);
    assert!(matches!(busy, Err(StartError::Listen { .. })), "{busy:?}");

    (0..4).for_each(|index| network.take(index).kill());
    let mut config = network.config(1);
    config.peers.remove(2);
    let missing = config.peers.len();
    assert_eq!(missing, 3);
    assert!(matches!(
        Validator::spawn(config).map(drop),
        Err(StartError::MissingPeer(_))
    ));

    let mut config = network.config(1);
    config.genesis.chain_id = 0;
    assert!(matches!(
        Validator::spawn(config).map(drop),
        Err(StartError::Genesis(_))
    ));

    let mut config = network.config(1);
    config.genesis.chain_id += 1;
    assert!(matches!(
        Validator::spawn(config).map(drop),
        Err(StartError::Index(_))
    ));

    let mut config = network.config(1);
    config.pace.leader_timeout = config.pace.heartbeat;
    assert!(matches!(
        Validator::spawn(config).map(drop),
        Err(StartError::Pace)
    ));
}
