//! Formats that are signed, hashed or stored never change in silence: these vectors were written once, by the example
//! `regenerate`, and every release must reproduce them.

#![allow(clippy::unwrap_used)]

mod formats;

use std::fs;

use lemma_types::{
    B256, Bytes, Digest, Engine, Manifest, Receipt, SignedReceipt,
    block::{self, Extension, header_commits_to},
    commitment, keccak256, merkle, tensor,
    text::{Finish, TextRequest, TextResponse},
};
use serde_json::Value;

fn vector(file: &str) -> Value {
    let path = formats::path(file);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn get<T: serde::de::DeserializeOwned>(value: &Value, field: &str) -> T {
    serde_json::from_value(value[field].clone()).unwrap_or_else(|error| panic!("{field}: {error}"))
}

#[test]
fn every_vector_is_reproduced() {
    let vectors = formats::all();
    for (file, expected) in &vectors {
        assert_eq!(
            &vector(file),
            expected,
            "{file} changed: this needs a new version of the format"
        );
    }
    let files = fs::read_dir(formats::path("")).unwrap().count();
    assert_eq!(files, vectors.len(), "a vector that nothing reproduces");
}

/// EIP-712 from its text, without the library that the product uses: `encodeType`, `hashStruct`, `encode`.
#[test]
fn receipts_hash_as_the_eip_says() {
    for file in ["receipt.json", "receipt_extremes.json"] {
        let case = vector(file);
        let typed = &case["typed_data"];
        let struct_hash = hash_struct(typed, "LemmaReceipt", &typed["message"]);
        let domain = hash_struct(typed, "EIP712Domain", &typed["domain"]);
        assert_eq!(struct_hash, get::<B256>(&case, "struct_hash"));
        assert_eq!(domain, get::<B256>(&case, "domain_separator"));
        let digest = keccak256(
            [
                b"\x19\x01".as_slice(),
                domain.as_slice(),
                struct_hash.as_slice(),
            ]
            .concat(),
        );
        assert_eq!(digest, get::<B256>(&case, "digest"));
    }
}

fn hash_struct(typed: &Value, kind: &str, message: &Value) -> B256 {
    let fields = typed["types"][kind].as_array().unwrap();
    let list: Vec<String> = fields
        .iter()
        .map(|field| {
            format!(
                "{} {}",
                field["type"].as_str().unwrap(),
                field["name"].as_str().unwrap()
            )
        })
        .collect();
    let mut bytes = keccak256(format!("{kind}({})", list.join(","))).to_vec();
    for field in fields {
        let value = message[field["name"].as_str().unwrap()].as_str().unwrap();
        let mut word = [0; 32];
        match field["type"].as_str().unwrap() {
            "bytes32" => word = value.parse::<B256>().unwrap().0,
            "address" => word[12..].copy_from_slice(&value.parse::<Bytes>().unwrap()),
            "string" => word = keccak256(value).0,
            _ => word[16..].copy_from_slice(&value.parse::<u128>().unwrap().to_be_bytes()),
        }
        bytes.extend(word);
    }
    keccak256(bytes)
}

#[test]
fn signatures_verify_on_their_network_only() {
    for file in ["receipt.json", "receipt_extremes.json"] {
        let case = vector(file);
        let signed = SignedReceipt {
            receipt: get::<Receipt>(&case, "receipt"),
            signature: get(&case, "signature"),
        };
        let encoded: Bytes = get(&case, "encoded");
        assert_eq!(SignedReceipt::decode(&encoded), Some(signed.clone()));
        let chain_id: u64 = get(&case, "chain_id");
        assert_eq!(signed.verify_signature(chain_id), Ok(()));
        assert!(signed.verify_signature(chain_id - 1).is_err());
    }
}

#[test]
fn manifests_decode_to_what_was_encoded() {
    let cases = vector("manifest.json");
    for case in cases.as_array().unwrap() {
        let canonical: String = get(case, "canonical");
        let manifest = Manifest::decode(canonical.as_bytes()).unwrap();
        assert_eq!(manifest.root(), get(case, "root"));
    }
    let full: String = get(&cases[0], "canonical");
    assert_eq!(
        Manifest::decode(full.as_bytes()).unwrap(),
        formats::full_manifest()
    );
}

#[test]
fn engines_have_their_ids() {
    let case = vector("engine.json");
    assert_eq!(
        get::<Engine>(&case, "engine").id(),
        get::<B256>(&case, "id")
    );
}

#[test]
fn tensors_decode_to_what_was_encoded() {
    let together: Bytes = get(&vector("tensors.json"), "together");
    assert_eq!(
        tensor::decode(&together).unwrap(),
        formats::sample_tensors()
    );
}

#[test]
fn paths_verify() {
    for tree in vector("merkle.json")["trees"].as_array().unwrap() {
        let (size, root): (u64, B256) = (get(tree, "size"), get(tree, "root"));
        let (leaves, paths): (Vec<B256>, Vec<Vec<B256>>) =
            (get(tree, "leaves"), get(tree, "paths"));
        for (index, (leaf, path)) in leaves.iter().zip(&paths).enumerate() {
            assert!(merkle::verify(*leaf, index as u64, size, path, root));
        }
    }
}

#[test]
fn headers_commit_to_their_extensions() {
    for case in vector("header.json").as_array().unwrap() {
        let header = block::decode_header(&get::<Bytes>(case, "header")).unwrap();
        let extension = Extension::decode(&get::<Bytes>(case, "extension")).unwrap();
        assert!(header_commits_to(&header, &extension));
        assert_eq!(header.hash_slow(), get::<B256>(case, "hash"));
    }
}

#[test]
fn texts_decode_to_what_was_encoded() {
    let vectors = vector("text.json");
    let model: Manifest = get(&vectors, "model");
    assert_eq!(Manifest::decode(&model.encode()).unwrap(), model);
    let cases = vectors["cases"].as_array().unwrap();
    for (case, (request, response)) in cases.iter().zip(
        formats::text_requests()
            .iter()
            .zip(formats::text_responses()),
    ) {
        let text = |field: &str| case[field].as_str().unwrap().as_bytes();
        assert_eq!(&TextRequest::decode(text("request")).unwrap(), request);
        assert_eq!(TextResponse::decode(text("response")).unwrap(), response);
    }
}

/// Whatever part of a request or an answer changes, the commitments change with it.
#[test]
fn every_part_of_a_text_is_bound() {
    let (salt, root) = (B256::repeat_byte(1), Digest::of(b"model"));
    let [request, ..] = formats::text_requests();
    let [_, response, _] = formats::text_responses();
    let mut other = request.clone();
    other.sampling.seed -= 1;
    assert_ne!(
        commitment::text_request(salt, root, &request),
        commitment::text_request(salt, root, &other)
    );
    let base = commitment::text_transcript(salt, &request, &[1, 2], &response);
    let mut changed = response.clone();
    changed.tokens[129] += 1;
    let mut text = response.clone();
    text.text.push(' ');
    let mut ending = response.clone();
    ending.finish = Finish::Length;
    for (request, prompt, response) in [
        (&other, [1, 2], &response),
        (&request, [1, 3], &response),
        (&request, [1, 2], &changed),
        (&request, [1, 2], &text),
        (&request, [1, 2], &ending),
    ] {
        assert_ne!(
            base,
            commitment::text_transcript(salt, request, &prompt, response)
        );
    }
}
