//! The Open Inference Protocol over a real network.

use crate::support::{self, Answer, DIGITS_EXAMPLE, get, post, send};
use axum::{
    body::Body,
    http::{Request as HttpRequest, StatusCode},
};
use lemma_api::oip::{
    HEADER_LENGTH, Request, Response, WantedOutput, decode_tensors,
    parameters::{self, Evidence},
};
use lemma_types::{
    B256, Manifest,
    bundle::Bundle,
    tensor::{DType, TensorData},
};
use lemma_verify::{CheckName, Opened, Outcome, Verdict, verify_answer};
use serde_json::{Map, Value, json};

const INFER: &str = "/v2/models/lemma/digits/infer";

fn image() -> TensorData {
    decode_tensors(DIGITS_EXAMPLE).unwrap().remove(0)
}

fn iris() -> TensorData {
    let values = [5.8f32, 2.7, 5.1, 1.9];
    TensorData::new(
        "features",
        DType::F32,
        vec![1, 4],
        values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    )
    .unwrap()
}

fn infer_binary(path: &str, request: &Request) -> Answer {
    let body = request.encode();
    let length = body.header_length.unwrap();
    send(
        HttpRequest::post(path)
            .header(HEADER_LENGTH, length)
            .body(Body::from(body.bytes))
            .unwrap(),
    )
}

fn request(input: TensorData, parameters: Value, outputs: Vec<WantedOutput>) -> Request {
    let Value::Object(parameters) = parameters else {
        panic!("parameters are an object")
    };
    Request {
        id: None,
        parameters,
        inputs: vec![input],
        outputs,
    }
}

fn response(answer: &Answer) -> Response {
    assert_eq!(
        answer.status,
        StatusCode::OK,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let length = answer
        .headers
        .get(HEADER_LENGTH)
        .map(|length| length.to_str().unwrap().parse().unwrap());
    Response::decode(&answer.body, length).unwrap()
}

#[test]
fn the_server_describes_itself() {
    let metadata = get("/v2").json();
    assert_eq!(metadata["name"], "lemma");
    assert_eq!(metadata["extensions"], json!(["binary_tensor_data"]));
    for path in ["/v2/health/live", "/v2/health/ready"] {
        let answer = get(path);
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, json!({ "live": true, "ready": true }))
        );
    }
}

#[test]
fn a_model_is_described_under_every_spelling_of_its_name() {
    let metadata = get("/v2/models/lemma/digits").json();
    let root = metadata["versions"][0].as_str().unwrap().to_owned();
    let expected = json!({
        "name": "lemma/digits",
        "versions": [root],
        "platform": "lemma_onnx",
        "inputs": [{ "name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8] }],
        "outputs": [{ "name": "probabilities", "datatype": "FP32", "shape": [-1, 10] }],
    });
    assert_eq!(metadata, expected);
    for path in [
        "/v2/models/lemma%2Fdigits".to_owned(),
        format!("/v2/models/lemma/digits/versions/{root}"),
        format!("/v2/models/{root}"),
    ] {
        assert_eq!(get(&path).json()["inputs"], expected["inputs"], "{path}");
    }
    assert_eq!(
        get("/v2/models/lemma/digits/ready").json(),
        json!({ "name": "lemma/digits", "ready": true })
    );
}

#[test]
fn json_in_and_out() {
    let mut body: Value = serde_json::from_slice(DIGITS_EXAMPLE).unwrap();
    body["id"] = json!("check-42");
    let answer = post("/v2/models/lemma%2Fdigits/infer", body.to_string());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-lemma-mode"), "signed");
    let response = answer.json();
    assert_eq!(response["id"], "check-42");
    assert_eq!(response["model_name"], "lemma/digits");
    let output = &response["outputs"][0];
    assert_eq!(
        (&output["name"], &output["datatype"], &output["shape"]),
        (&json!("probabilities"), &json!("FP32"), &json!([1, 10]))
    );
    let probabilities: Vec<f64> = serde_json::from_value(output["data"].clone()).unwrap();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(
        probabilities[2] > 0.9,
        "the example is a 2: {probabilities:?}"
    );
    assert_eq!(
        response["parameters"][parameters::RECEIPT_ID],
        answer.header("x-lemma-receipt")
    );
    // The protocol wants texts, numbers and booleans only.
    let plain = response["parameters"]
        .as_object()
        .unwrap()
        .values()
        .all(|value| !value.is_object() && !value.is_array());
    assert!(plain, "{response}");
}

#[test]
fn binary_and_json_have_the_same_bits() {
    let json = response(&post(INFER, DIGITS_EXAMPLE));
    let binary = infer_binary(
        INFER,
        &request(image(), json!({ "binary_data_output": true }), vec![]),
    );
    assert_eq!(binary.header("content-type"), "application/octet-stream");
    let binary = response(&binary);
    assert!(binary.outputs[0].1 && !json.outputs[0].1);
    assert_eq!(binary.outputs[0].0, json.outputs[0].0);
}

#[test]
fn outputs_come_as_they_are_asked_for() {
    let wanted = |names: &[(&str, Option<bool>)]| {
        names
            .iter()
            .map(|(name, binary)| WantedOutput {
                name: (*name).to_owned(),
                binary: *binary,
            })
            .collect::<Vec<_>>()
    };
    let names = |outputs: Vec<WantedOutput>| {
        let answer = infer_binary(
            "/v2/models/lemma/iris/infer",
            &request(iris(), json!({}), outputs),
        );
        let outputs = response(&answer).outputs;
        outputs
            .iter()
            .map(|(tensor, binary)| (tensor.name().to_owned(), *binary))
            .collect::<Vec<_>>()
    };
    let list = |names: &[(&str, bool)]| {
        names
            .iter()
            .map(|(name, binary)| ((*name).to_owned(), *binary))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(vec![]),
        list(&[("probabilities", false), ("label", false)])
    );
    assert_eq!(names(wanted(&[("label", None)])), list(&[("label", false)]));
    assert_eq!(
        names(wanted(&[
            ("label", Some(true)),
            ("probabilities", Some(false))
        ])),
        list(&[("label", true), ("probabilities", false)])
    );
}

#[test]
fn the_answer_carries_all_that_checks_it() {
    let id = B256::repeat_byte(0x5a);
    let parameters = json!({ parameters::REQUEST_ID: id, parameters::MODE: "signed" });
    let response = response(&infer_binary(
        INFER,
        &request(image(), parameters.clone(), vec![]),
    ));
    let evidence = Evidence::parse(&response.parameters).unwrap();
    assert_eq!(evidence.receipt.receipt.request_id, id);
    let shown = get("/v1/models/lemma/digits").json();
    let manifest: Manifest = serde_json::from_value(shown["manifest"].clone()).unwrap();
    assert_eq!(json!(manifest.root()), shown["root"]);
    let chain_id = support::fixture().network.trusted_root().chain_id;
    let bundle = Bundle {
        schema: Bundle::SCHEMA.to_owned(),
        chain_id,
        receipt: evidence.receipt,
        engine: evidence.engine,
        manifest,
        openings: Some(evidence.openings),
        settlement: None,
        proof: None,
    };
    let opened = Opened {
        inputs: Some(vec![image()]),
        outputs: Some(
            response
                .outputs
                .into_iter()
                .map(|(tensor, _)| tensor)
                .collect(),
        ),
        ..Opened::default()
    };
    let report = verify_answer(&bundle, chain_id, &opened);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    assert_eq!(report.outcome(CheckName::Transcript), Some(Outcome::Ok));

    let again = infer_binary(INFER, &request(image(), parameters, vec![]));
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert!(
        again.json()["error"]
            .as_str()
            .unwrap()
            .contains("used before")
    );
}

fn refused(answer: &Answer, status: StatusCode, reason: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    let error = answer.json()["error"]
        .as_str()
        .expect("the protocol's form")
        .to_owned();
    assert!(error.contains(reason), "`{reason}` is not in `{error}`");
}

fn body(replace: Value) -> String {
    let mut body: Value = serde_json::from_slice(DIGITS_EXAMPLE).unwrap();
    for (name, value) in replace.as_object().unwrap() {
        body["inputs"][0][name] = value.clone();
    }
    body.to_string()
}

#[test]
fn wrong_requests_name_the_field_and_the_reason() {
    for (replace, reason) in [
        (json!({ "name": "picture" }), "`picture`"),
        (json!({ "datatype": "INT64" }), "image"),
        (json!({ "datatype": "FLOAT" }), "unknown datatype `FLOAT`"),
        (json!({ "shape": [1, 1, 8, 7] }), "64 elements are given"),
        (json!({ "shape": [1, 64] }), "image"),
        (json!({ "shape": [0, 1, 8, 8], "data": [] }), "image"),
        (
            json!({ "shape": [u64::MAX >> 1, 1, 8, 8] }),
            "64 elements are given",
        ),
        (json!({ "shape": [-1, 1, 8, 8] }), "negative dimension"),
        (json!({ "data": null }), "`image`: data: it is missing"),
    ] {
        refused(&post(INFER, body(replace)), StatusCode::BAD_REQUEST, reason);
    }
    for (text, reason) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("{}", "missing field `inputs`"),
        (r#"{"inputs":[]}"#, "image"),
        (
            r#"{"inputs":[{"name":"image","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
            "`image`: data",
        ),
        (
            r#"{"inputs":[{"name":"image","shape":[1],"datatype":"FP32","data":["1"]}]}"#,
            "`image`: data: invalid type: string",
        ),
    ] {
        refused(&post(INFER, text), StatusCode::BAD_REQUEST, reason);
    }
}

#[test]
fn special_values_wrong_headers_and_wrong_parameters_are_refused() {
    for special in [f32::NAN, f32::INFINITY] {
        let (name, dtype, shape, mut data) = image().into_parts();
        data[4..8].copy_from_slice(&special.to_le_bytes());
        let poisoned = TensorData::new(name, dtype, shape, data).unwrap();
        let answer = infer_binary(INFER, &request(poisoned, json!({}), vec![]));
        refused(
            &answer,
            StatusCode::BAD_REQUEST,
            "input `image`: element 1 is NaN or infinite",
        );
    }
    for (value, reason) in [
        ("1000000", "but the body has"),
        ("x", "is not a number"),
        ("5", "EOF"),
    ] {
        let http = HttpRequest::post(INFER)
            .header(HEADER_LENGTH, value)
            .body(Body::from(DIGITS_EXAMPLE))
            .unwrap();
        refused(&send(http), StatusCode::BAD_REQUEST, reason);
    }
    let unknown = vec![WantedOutput {
        name: "logits".to_owned(),
        binary: None,
    }];
    let answer = infer_binary(INFER, &request(image(), json!({}), unknown));
    refused(
        &answer,
        StatusCode::BAD_REQUEST,
        "output `logits`: the model has probabilities",
    );
    for (parameters, reason) in [
        (
            json!({ parameters::MODE: "proved" }),
            "mode `proved` is not offered",
        ),
        (json!({ parameters::MODE: "verified" }), "unknown mode"),
        (
            json!({ parameters::REQUEST_ID: "0x12" }),
            parameters::REQUEST_ID,
        ),
    ] {
        let answer = infer_binary(INFER, &request(image(), parameters, vec![]));
        refused(&answer, StatusCode::BAD_REQUEST, reason);
    }
}

#[test]
fn unknown_models_versions_and_endpoints_are_not_found() {
    for path in ["/v2/models/lemma/absent", "/v2/models/lemma/absent/ready"] {
        refused(&get(path), StatusCode::NOT_FOUND, "lemma/absent");
    }
    refused(
        &post("/v2/models/lemma/absent/infer", DIGITS_EXAMPLE),
        StatusCode::NOT_FOUND,
        "lemma/absent",
    );
    let absent = "0".repeat(64);
    refused(
        &get(&format!("/v2/models/lemma/digits/versions/{absent}")),
        StatusCode::NOT_FOUND,
        "has no version",
    );
    refused(
        &get("/v2/models/lemma/digits/versions/1"),
        StatusCode::NOT_FOUND,
        "a version is the root",
    );
    refused(
        &get("/v2/models/lemma/digits/other"),
        StatusCode::NOT_FOUND,
        "no such endpoint",
    );
    refused(
        &get("/v2/models/digits"),
        StatusCode::BAD_REQUEST,
        "expected owner/model",
    );
    refused(&get(INFER), StatusCode::METHOD_NOT_ALLOWED, "POST");
    refused(
        &post("/v2/models/lemma/digits", DIGITS_EXAMPLE),
        StatusCode::METHOD_NOT_ALLOWED,
        "infer",
    );
}

#[test]
fn a_large_body_is_refused_before_it_is_read() {
    let stated = HttpRequest::post(INFER)
        .header("content-length", "10737418240")
        .body(Body::empty())
        .unwrap();
    refused(&send(stated), StatusCode::PAYLOAD_TOO_LARGE, "larger than");
    let chunk = vec![b' '; 1 << 20];
    let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    let unstated = HttpRequest::post(INFER)
        .body(Body::from_stream(endless))
        .unwrap();
    refused(
        &send(unstated),
        StatusCode::PAYLOAD_TOO_LARGE,
        "larger than",
    );
}

#[test]
fn parameters_of_others_are_passed_over() {
    let parameters: Map<String, Value> = [("priority".to_owned(), json!(3))].into_iter().collect();
    let answer = infer_binary(INFER, &request(image(), Value::Object(parameters), vec![]));
    assert_eq!(answer.status, StatusCode::OK);
}
