//! A whole network in one process: an inference, its receipt, its settlement, its offline verification; faults; restart.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]

mod support;

use std::time::Duration;

use lemma_node::{
    Network,
    gateway::{BundleStatus, GatewayError, InferError, InferRequest, ModelRef},
    network::{NetworkConfig, NetworkError},
};
use lemma_types::{B256, Digest, Mode, TrustedRoot, bundle::Bundle};
use lemma_verify::Verdict;
use support::{DIGITS, config, final_bundle, image, infer, request, start, until, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inference_is_settled_and_verifies_offline() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(config(directory.path())).await;
    let gateway = network.gateway();
    gateway.ready().unwrap();

    // The sample is there, with its example beside it.
    let models = gateway.models().await.unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].name.as_str(), DIGITS);
    assert!(
        network
            .data_dir()
            .join("samples/lemma/digits/example.json")
            .is_file()
    );

    let answer = infer(&network).await.unwrap();
    assert_eq!(answer.failovers, 0);
    assert_eq!(answer.receipt.receipt.usage_in, 64);
    assert_eq!(answer.receipt.receipt.model_root, models[0].root);
    let bundle = final_bundle(&network, answer.receipt_id()).await;
    assert_eq!(bundle.openings, None, "a gateway keeps no salts");
    let report = verify(&network, &bundle, &answer);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");

    // The trusted root on disk is the one that verifies.
    let root: TrustedRoot =
        serde_json::from_slice(&std::fs::read(network.trusted_root_path()).unwrap()).unwrap();
    assert_eq!(&root, network.trusted_root());
    assert!(serde_json::to_vec(&bundle).unwrap().len() < 16 << 10);

    // A changed answer does not verify.
    let mut forged = answer.clone();
    forged.outputs.reverse();
    forged.openings.response = B256::ZERO;
    assert_eq!(verify(&network, &bundle, &forged).verdict, Verdict::Wrong);

    // By its root the same model gives the same bytes.
    let by_root = InferRequest {
        model: ModelRef::Root(models[0].root),
        ..request()
    };
    assert_eq!(
        gateway.infer(by_root).await.unwrap().outputs,
        answer.outputs
    );

    bad_requests_are_refused(&network).await;
    many_receipts_settle_together(&network).await;
    network.stop().await;
}

async fn bad_requests_are_refused(network: &Network) {
    let gateway = network.gateway();
    let unknown = InferRequest {
        model: "lemma/absent".parse().unwrap(),
        ..request()
    };
    assert!(
        matches!(gateway.infer(unknown).await, Err(InferError::UnknownModel(name)) if name == "lemma/absent")
    );
    let unknown = InferRequest {
        model: ModelRef::Root(Digest::of(b"?")),
        ..request()
    };
    assert!(matches!(
        gateway.infer(unknown).await,
        Err(InferError::UnknownModel(_))
    ));
    let audited = InferRequest {
        mode: Mode::Audited,
        ..request()
    };
    let error = gateway.infer(audited).await.unwrap_err();
    assert!(error.to_string().contains("`signed` is"), "{error}");
    for inputs in [
        vec![],
        [image(), image()].concat(),
        vec![support::tensor("image", &[1, 1, 8, 7])],
        vec![support::tensor("x", &[1, 1, 8, 8])],
    ] {
        let wrong = InferRequest {
            inputs,
            ..request()
        };
        let error = gateway.infer(wrong).await.unwrap_err();
        assert!(matches!(&error, InferError::InvalidInput(_)), "{error}");
    }
    let request_id = Some(B256::repeat_byte(7));
    gateway
        .infer(InferRequest {
            request_id,
            ..request()
        })
        .await
        .unwrap();
    let again = gateway
        .infer(InferRequest {
            request_id,
            ..request()
        })
        .await;
    assert!(matches!(again, Err(InferError::DuplicateRequest(_))));
    assert!(matches!(
        gateway.bundle(B256::ZERO).await.unwrap(),
        BundleStatus::Unknown
    ));
    assert!(matches!(
        gateway.publish(b"{}").await,
        Err(GatewayError::Manifest(_))
    ));
}

async fn many_receipts_settle_together(network: &Network) {
    let requests = (0..64).map(|_| infer(network));
    let answers: Vec<_> = futures::future::join_all(requests)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let mut batches = std::collections::BTreeSet::new();
    for answer in &answers {
        let bundle = final_bundle(network, answer.receipt_id()).await;
        let report = verify(network, &bundle, answer);
        assert_eq!(report.verdict, Verdict::Verified, "{report}");
        batches.insert(bundle.settlement.unwrap().batch.index);
    }
    assert!(
        batches.len() < 32,
        "{} batches for {} receipts",
        batches.len(),
        answers.len()
    );
    let workers: std::collections::BTreeSet<_> =
        answers.iter().map(|answer| answer.worker).collect();
    assert_eq!(workers.len(), 2, "both workers had work");
    until("nothing is pending", || {
        futures::executor::block_on(network.gateway().status())
            .unwrap()
            .receipts_pending
            == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_validator_may_fail_and_two_halt_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(NetworkConfig {
        workers: 1,
        ..config(directory.path())
    })
    .await;

    network.kill_validator(0).await.unwrap();
    assert!(matches!(
        network.kill_validator(0).await,
        Err(NetworkError::Validator { .. })
    ));
    let answer = infer(&network).await.unwrap();
    let bundle = final_bundle(&network, answer.receipt_id()).await;
    assert_eq!(
        verify(&network, &bundle, &answer).verdict,
        Verdict::Verified
    );

    network.kill_validator(2).await.unwrap();
    let answer = infer(&network).await.unwrap();
    let waited = network
        .gateway()
        .wait_bundle(answer.receipt_id(), Duration::from_secs(2))
        .await
        .unwrap();
    assert!(
        matches!(waited, BundleStatus::Pending(_)),
        "two of four cannot finalise"
    );

    network.restart_validator(0).await.unwrap();
    let bundle = final_bundle(&network, answer.receipt_id()).await;
    assert_eq!(
        verify(&network, &bundle, &answer).verdict,
        Verdict::Verified
    );
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_worker_is_replaced_and_its_receipts_live_on() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(config(directory.path())).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(infer(&network).await.unwrap());
    }
    for answer in &answers {
        final_bundle(&network, answer.receipt_id()).await;
    }
    network.kill_worker(0).await.unwrap();
    // One of these meets the dead worker and goes to the other.
    let mut failovers = 0;
    for _ in 0..4 {
        failovers += infer(&network).await.unwrap().failovers;
    }
    assert_eq!(failovers, 1);
    for answer in &answers {
        let bundle = final_bundle(&network, answer.receipt_id()).await;
        assert_eq!(verify(&network, &bundle, answer).verdict, Verdict::Verified);
    }
    network.kill_worker(1).await.unwrap();
    assert!(matches!(
        infer(&network).await,
        Err(InferError::NoWorker(_))
    ));
    assert!(network.gateway().ready().is_err());

    network.restart_worker(0).await.unwrap();
    let works = async {
        while infer(&network).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, works)
        .await
        .unwrap();
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(config(directory.path())).await;
    let occupied = Network::start(config(directory.path())).await;
    assert!(matches!(occupied.err(), Some(NetworkError::InUse(_))));
    let settled = infer(&network).await.unwrap();
    let before = final_bundle(&network, settled.receipt_id()).await;
    // Not settled when the network stops: the workers settle it after the restart.
    let unsettled = infer(&network).await.unwrap();
    let root = network.trusted_root().clone();
    let height = network.ledger().head().number;
    network.stop().await;

    let network = start(config(directory.path())).await;
    assert_eq!(network.trusted_root(), &root);
    assert!(network.ledger().head().number >= height);
    assert_eq!(network.gateway().models().await.unwrap().len(), 1);
    let after = final_bundle(&network, settled.receipt_id()).await;
    let batch = |bundle: &Bundle| bundle.settlement.as_ref().unwrap().batch.clone();
    assert_eq!(batch(&after), batch(&before));
    let late = final_bundle(&network, unsettled.receipt_id()).await;
    assert_eq!(
        verify(&network, &late, &unsettled).verdict,
        Verdict::Verified
    );
    infer(&network).await.unwrap();
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_everything_loses_nothing_that_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    // Nothing settles before the crash.
    let slow = NetworkConfig {
        batch_interval: Duration::from_secs(60),
        ..config(directory.path())
    };
    let network = start(slow).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(infer(&network).await.unwrap());
    }
    let height = network.ledger().head().number;
    network.kill().await;

    let network = start(config(directory.path())).await;
    assert!(
        network.ledger().head().number >= height,
        "what was final stays final"
    );
    for answer in &answers {
        let bundle = final_bundle(&network, answer.receipt_id()).await;
        let report = verify(&network, &bundle, answer);
        assert_eq!(report.verdict, Verdict::Verified, "{report}");
    }
    network.stop().await;
}
