//! What tests of a whole network share.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{path::Path, sync::Once, time::Duration};

use lemma_node::{
    Network,
    gateway::{Answer, BundleStatus, InferError, InferRequest},
    network::{NetworkConfig, SampleModel},
};
use lemma_types::{
    B256, Mode,
    bundle::Bundle,
    manifest::Format,
    tensor::{DType, TensorData},
};
use lemma_verify::{Opened, Report, Verifier};

pub(crate) const DIGITS: &str = "lemma/digits";

/// How long anything may take that depends on consensus, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = std::env::var("LEMMA_TEST_LOG") {
            let filter = tracing_subscriber::EnvFilter::new(filter);
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .init();
        }
    });
}

pub(crate) fn digits() -> SampleModel {
    SampleModel {
        name: DIGITS.parse().unwrap(),
        format: Format::Onnx,
        content: include_bytes!("../../../../models/digits/model.onnx"),
        description: "digits",
        licence: "MIT OR Apache-2.0",
        output_licence: "CC0-1.0",
        examples: vec![(
            "example.json",
            include_bytes!("../../../../models/digits/example.json"),
        )],
    }
}

/// A network with a short heartbeat, so that waiting for blocks is short.
pub(crate) fn config(directory: &Path) -> NetworkConfig {
    NetworkConfig {
        batch_interval: Duration::from_millis(200),
        heartbeat: Duration::from_millis(300),
        samples: vec![digits()],
        ..NetworkConfig::new(directory)
    }
}

pub(crate) async fn start(config: NetworkConfig) -> Network {
    log();
    Network::start(config).await.unwrap()
}

/// An image of the digit 3, as good as any.
pub(crate) fn image() -> Vec<TensorData> {
    let example: serde_json::Value =
        serde_json::from_slice(include_bytes!("../../../../models/digits/example.json")).unwrap();
    let input = &example["inputs"][0];
    let data = input["data"].as_array().unwrap();
    let bytes = data
        .iter()
        .flat_map(|x| (x.as_f64().unwrap() as f32).to_le_bytes())
        .collect();
    let shape = input["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dim| dim.as_u64().unwrap())
        .collect();
    vec![TensorData::new(input["name"].as_str().unwrap(), DType::F32, shape, bytes).unwrap()]
}

pub(crate) fn request() -> InferRequest {
    InferRequest {
        model: DIGITS.parse().unwrap(),
        inputs: image(),
        mode: Mode::Signed,
        request_id: None,
    }
}

pub(crate) async fn infer(network: &Network) -> Result<Answer, InferError> {
    network.gateway().infer(request()).await
}

pub(crate) async fn final_bundle(network: &Network, receipt: B256) -> Bundle {
    match network
        .gateway()
        .wait_bundle(receipt, PATIENCE)
        .await
        .unwrap()
    {
        BundleStatus::Final(bundle) => bundle,
        other => panic!("not settled: {other:?}"),
    }
}

/// The offline verifier's report on a bundle and its content.
pub(crate) fn verify(network: &Network, bundle: &Bundle, answer: &Answer) -> Report {
    let bundle = Bundle {
        openings: Some(answer.openings),
        ..bundle.clone()
    };
    let opened = Opened {
        inputs: Some(image()),
        outputs: Some(answer.outputs.clone()),
        ..Opened::default()
    };
    let bytes = serde_json::to_vec(&bundle).unwrap();
    Verifier::new(network.trusted_root())
        .unwrap()
        .verify_bytes(&bytes, &opened)
}

/// Waits until something holds, checking often.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

/// A tensor of zeros.
pub(crate) fn tensor(name: &str, shape: &[u64]) -> TensorData {
    let elements: u64 = shape.iter().product();
    TensorData::new(
        name,
        DType::F32,
        shape.to_vec(),
        vec![0; 4 * elements as usize],
    )
    .unwrap()
}
