//! Models, receipts, uploads, status and health.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use lemma_types::{B256, Digest, Manifest, TrustedRoot, bundle::Bundle};
use lemma_verify::{Opened, Verdict, Verifier};
use serde_json::{Value, json};

use crate::support::{Answer, DIGITS_EXAMPLE, fixture, get, post, send};

fn put(digest: impl std::fmt::Display, body: impl Into<Body>) -> Answer {
    send(
        Request::put(format!("/v1/blobs/{digest}"))
            .body(body.into())
            .unwrap(),
    )
}

fn refused(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!(
        answer.status,
        status,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{error}");
    assert!(
        !error["message"].as_str().unwrap().is_empty() && error["type"].is_string(),
        "{error}"
    );
}

fn digits() -> Manifest {
    serde_json::from_value(get("/v1/models/lemma/digits").json()["manifest"].clone()).unwrap()
}

#[test]
fn models_are_listed_and_shown() {
    let list = get("/v1/models").json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert!(
        ids.contains(&"lemma/digits") && ids.contains(&"lemma/iris"),
        "{list}"
    );
    assert_eq!(
        (&list["object"], &list["data"][0]["object"]),
        (&json!("list"), &json!("model"))
    );

    let shown = get("/v1/models/lemma%2Fdigits").json();
    assert_eq!(
        (&shown["id"], &shown["owned_by"]),
        (&json!("lemma/digits"), &json!("lemma"))
    );
    assert_eq!(json!(digits().root()), shown["root"]);
    let by_root = get(&format!("/v1/models/{}", digits().root())).json();
    assert_eq!(by_root["manifest"], shown["manifest"]);
    refused(
        &get("/v1/models/lemma/absent"),
        StatusCode::NOT_FOUND,
        "model_not_found",
    );
    refused(
        &get("/v1/models/absent"),
        StatusCode::BAD_REQUEST,
        "invalid_model_name",
    );
}

#[test]
fn uploads_are_checked_while_they_stream() {
    let content = b"an uploaded blob".to_vec();
    let digest = Digest::of(&content);
    refused(
        &put(Digest::of(b"other"), content.clone()),
        StatusCode::BAD_REQUEST,
        "digest_mismatch",
    );
    let made = put(digest, content.clone());
    assert_eq!(
        (made.status, made.json()),
        (
            StatusCode::CREATED,
            json!({ "digest": digest, "size": content.len() })
        )
    );
    assert_eq!(put(digest, content.clone()).status, StatusCode::OK);
    let fetched = get(&format!("/blobs/{digest}"));
    assert_eq!((fetched.status, fetched.body), (StatusCode::OK, content));
    assert_eq!(
        get(&format!("/blobs/{}", Digest::of(b"other"))).status,
        StatusCode::NOT_FOUND
    );
    refused(&put("xyz", "x"), StatusCode::BAD_REQUEST, "invalid_digest");
}

#[test]
fn uploads_are_bounded() {
    let stated = Request::put(format!("/v1/blobs/{}", Digest::of(b"")))
        .header("content-length", "1048577")
        .body(Body::empty())
        .unwrap();
    refused(
        &send(stated),
        StatusCode::PAYLOAD_TOO_LARGE,
        "blob_too_large",
    );
    let chunk = vec![0; 64 << 10];
    let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    refused(
        &put(Digest::of(b"z"), Body::from_stream(endless)),
        StatusCode::PAYLOAD_TOO_LARGE,
        "blob_too_large",
    );
    let broken = futures::stream::iter([Ok(vec![1]), Err(std::io::Error::other("gone"))]);
    refused(
        &put(Digest::of(b"y"), Body::from_stream(broken)),
        StatusCode::BAD_REQUEST,
        "upload_broken",
    );
}

#[test]
fn a_manifest_is_taken_with_its_files_only() {
    let published = post("/v1/models", digits().encode());
    assert_eq!(
        (published.status, published.json()),
        (StatusCode::CREATED, json!({ "root": digits().root() }))
    );
    let mut absent = digits();
    absent.files[0].blake3 = Digest::of(b"never uploaded");
    refused(
        &post("/v1/models", absent.encode()),
        StatusCode::BAD_REQUEST,
        "missing_file",
    );
    let lying = Manifest {
        graph_root: Digest::of(b"another graph"),
        ..digits()
    };
    refused(
        &post("/v1/models", lying.encode()),
        StatusCode::BAD_REQUEST,
        "model_refused",
    );
    for bad in [
        &b""[..],
        b"{}",
        b"null",
        &serde_json::to_vec_pretty(&digits()).unwrap(),
    ] {
        refused(
            &post("/v1/models", bad.to_vec()),
            StatusCode::BAD_REQUEST,
            "invalid_manifest",
        );
    }
    let large = post("/v1/models", vec![b' '; (1 << 20) + 1]);
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn a_receipt_becomes_a_bundle_that_verifies() {
    let answer = post("/v2/models/lemma/digits/infer", DIGITS_EXAMPLE);
    let id: B256 = answer.header("x-lemma-receipt").parse().unwrap();
    let shown = get(&format!("/v1/receipts/{id}")).json();
    assert_eq!(shown["id"], json!(id));
    assert!(["pending", "final"].contains(&shown["status"].as_str().unwrap()));

    let bundle = get(&format!("/v1/receipts/{id}/bundle?wait_ms=30000"));
    assert_eq!(
        bundle.status,
        StatusCode::OK,
        "{}",
        String::from_utf8_lossy(&bundle.body)
    );
    assert_eq!(bundle.header("content-type"), Bundle::MEDIA_TYPE);
    let public: Bundle = serde_json::from_slice(&bundle.body).unwrap();
    assert_eq!(public.openings, None, "salts are not handed out");
    assert_eq!(get(&format!("/v1/receipts/{id}")).json()["status"], "final");

    let root: TrustedRoot = serde_json::from_value(get("/v1/trusted-root").json()).unwrap();
    let report = Verifier::new(&root)
        .unwrap()
        .verify_bytes(&bundle.body, &Opened::default());
    assert_eq!(report.verdict, Verdict::Verified, "{report}");

    for path in [
        "/v1/receipts/",
        "/v1/receipts/0x12",
        "/v1/receipts/xyz/bundle",
    ] {
        assert!(get(path).status.is_client_error(), "{path}");
    }
    let unknown = format!("/v1/receipts/{}", B256::repeat_byte(1));
    refused(&get(&unknown), StatusCode::NOT_FOUND, "receipt_not_found");
    refused(
        &get(&format!("{unknown}/bundle")),
        StatusCode::NOT_FOUND,
        "receipt_not_found",
    );
    refused(
        &get(&format!("/v1/receipts/{id}/bundle?wait=1")),
        StatusCode::BAD_REQUEST,
        "invalid_query",
    );
    refused(
        &get("/v1/receipts/0x12"),
        StatusCode::BAD_REQUEST,
        "invalid_receipt_id",
    );
}

#[test]
fn status_and_health() {
    let status = get("/v1/status").json();
    assert_eq!(
        (&status["ready"], &status["reason"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(
        status["chain_id"],
        json!(fixture().network.trusted_root().chain_id)
    );
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    assert!(status["height"].as_u64().unwrap() > 0);
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(
            (get(path).status, get(path).json()),
            (StatusCode::OK, json!({ "status": "ok" })),
            "{path}"
        );
    }
    assert_eq!(get("/").json()["endpoints"]["ethereum_json_rpc"], "/rpc");
}

#[test]
fn every_request_has_an_id_and_no_stranger_gets_in() {
    let with = |name: &str, value: &str| {
        send(
            Request::get("/healthz")
                .header(name, value)
                .body(Body::empty())
                .unwrap(),
        )
    };
    assert_eq!(
        with("x-request-id", "mine-1").header("x-request-id"),
        "mine-1"
    );
    assert!(
        with("x-request-id", "not plain!")
            .header("x-request-id")
            .starts_with("req-")
    );
    let cross_origin = with("origin", "https://example.org");
    assert!(
        cross_origin
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control"))
    );
    refused(
        &with("x-long", &"a".repeat(17 << 10)),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
    );
    refused(&get("/nowhere"), StatusCode::NOT_FOUND, "not_found");
    refused(
        &post("/v1/status", ""),
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
    );
}
