//! Quantised models and their proofs, with a network and without.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use alloy_sol_types::SolCall;
use lemma_ledger::modules::{PROOFS, abi::ILemmaProofs::proofOfCall};
use lemma_types::{B256, Bytes};
use serde_json::{Value, json};

use super::{User, repository};

/// The example with one pixel changed.
fn other_image(example: &str) -> Vec<u8> {
    let mut bytes = fs::read(example).unwrap();
    let pixel = bytes.len() - 4 * 30;
    bytes[pixel..pixel + 4].copy_from_slice(&13f32.to_le_bytes());
    bytes
}

fn get(user: &User, answer: &Value, path: &str) {
    let id = answer["receipt_id"].as_str().unwrap();
    user.run(&["receipts", "get", id, "--wait", "--output", path])
        .ok();
}

/// Mode `proved` of the quantised sample: by the answer, and from the bundle alone.
pub(super) fn a_result_is_proved(user: &User, root: &str) {
    let input = repository("models/digits/example.npy");
    let model = repository("models/digits-int8/model.integer");
    user.run(&["models", "verify", &model, "lemma/digits-int8"])
        .ok();
    let infer = ["infer", "lemma/digits-int8", "--input", &input];
    let told = user.run(&[&infer[..], &["--mode", "proved"]].concat()).ok();
    assert!(
        told.err.contains("proved") && told.err.contains("not zero-knowledge"),
        "{}",
        told.err
    );
    let answer = user
        .run(&[&infer[..], &["--mode", "proved", "--json"]].concat())
        .ok()
        .json();
    assert_eq!(answer["mode"], "proved");
    let signed = user.run(&[&infer[..], &["--json"]].concat()).ok().json();
    assert_eq!(signed["outputs"], answer["outputs"]);

    get(user, &answer, "proved.json");
    let verify = ["verify", "proved.json", "--trusted-root", root];
    let report = user
        .run(&[&verify[..], &["--input", &input]].concat())
        .ok()
        .out;
    assert!(
        report.ends_with("Verified in mode `proved`\n")
            && report.contains("supply the model")
            && report.contains("the integer model that was proved"),
        "{report}"
    );
    let held = [&verify[..], &["--input", &input, "--model", &model]].concat();
    let report = user.run(&held).ok().out;
    assert!(!report.contains("keep their bounds"), "{report}");
    user.run(&[&held[..], &["--recompute"]].concat()).ok();
    let code = |more: &[&str]| user.run(&[&verify[..], more].concat()).code;
    assert_eq!(code(&[]), 8, "the inputs are needed");
    let iris = repository("models/iris/example.npy");
    assert_eq!(code(&["--input", &format!("image={iris}")]), 7);

    the_ledger_accepts(user, answer["receipt_id"].as_str().unwrap());

    // Whoever has no proof has a bundle without one.
    let id = answer["receipt_id"].as_str().unwrap();
    let proof = user.path(&format!("data/receipts/{id}.proof"));
    let mut bytes = fs::read(&proof).unwrap();
    fs::remove_file(&proof).unwrap();
    get(user, &answer, "proved.json");
    assert_eq!(code(&["--input", &input]), 8);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&proof, bytes).unwrap();
    get(user, &answer, "proved.json");
    assert_eq!(code(&["--input", &input]), 7);
    user.run(&[
        "infer",
        "lemma/digits",
        "--input",
        &input,
        "--mode",
        "proved",
    ])
    .failed(1, "only a quantised one can be proved");
}

/// What the gateway's JSON-RPC answers.
fn rpc(user: &User, method: &str, params: &Value) -> Value {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let host = user.api.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "POST /rpc HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        call.len()
    );
    stream
        .write_all(format!("{head}{call}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut body: Value = serde_json::from_str(body).unwrap();
    assert!(body.get("error").is_none(), "{body}");
    body["result"].take()
}

/// The validators check the proof of `proved.json`: by an ordinary transaction, and by `eth_call`.
fn the_ledger_accepts(user: &User, id: &str) {
    let submit = [
        "proof",
        "submit",
        "proved.json",
        "--name",
        "lemma/digits-int8",
    ];
    let sent = user.run(&[&submit[..], &["--json"]].concat()).ok().json();
    assert_eq!(sent["receipt_id"], id);
    let receipt = rpc(
        user,
        "eth_getTransactionReceipt",
        &json!([sent["transaction"]]),
    );
    let log = &receipt["logs"][0];
    let module = PROOFS.to_string().to_lowercase();
    assert_eq!(log["address"].as_str().unwrap().to_lowercase(), module);
    assert_eq!(log["topics"][1], id);
    let call = proofOfCall {
        receiptId: id.parse::<B256>().unwrap(),
    };
    let data = Bytes::from(call.abi_encode());
    let known = rpc(
        user,
        "eth_call",
        &json!([{ "to": module, "data": data }, "latest"]),
    );
    let known: Bytes = known.as_str().unwrap().parse().unwrap();
    let known = proofOfCall::abi_decode_returns(&known).unwrap();
    assert_eq!(sent["height"], known.height);
    let event: Bytes = log["data"].as_str().unwrap().parse().unwrap();
    assert_eq!(known.evidence, event[..32]);
    user.run(&submit).failed(1, "was accepted at height");

    // A proof with one byte changed, which the receipt does not name.
    let read = fs::read(user.path("proved.json")).unwrap();
    let mut bundle: Value = serde_json::from_slice(&read).unwrap();
    let proof = bundle["proof"].as_str().unwrap().to_owned();
    let last = if proof.ends_with('0') { "1" } else { "0" };
    bundle["proof"] = format!("{}{last}", &proof[..proof.len() - 1]).into();
    fs::write(user.path("forged.json"), bundle.to_string()).unwrap();
    user.run(&[
        "proof",
        "submit",
        "forged.json",
        "--name",
        "lemma/digits-int8",
    ])
    .failed(1, "it names evidence");
}

/// A receipt of mode `signed` is proved when somebody asks for it.
pub(super) fn a_receipt_is_raised_later(user: &User, root: &str) {
    let input = repository("models/digits/example.npy");
    let model = repository("models/digits-int8/model.integer");
    let infer = ["infer", "lemma/digits-int8", "--input", &input, "--json"];
    let answer = user.run(&infer).ok().json();
    get(user, &answer, "signed.json");
    let prove = |receipt: &str, input: &str| {
        user.run(&[
            "proof",
            "prove",
            "--model",
            &model,
            "--input",
            input,
            "--receipt",
            receipt,
            "--output",
            "raised.json",
        ])
    };
    prove("signed.json", &input).ok();
    let verify = ["verify", "raised.json", "--trusted-root", root];
    let report = user
        .run(&[&verify[..], &["--input", &input]].concat())
        .ok()
        .out;
    assert!(
        report.ends_with("Verified in mode `signed`, raised to `proved` by a later proof\n"),
        "{report}"
    );
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(user.path(path)).unwrap()).unwrap()
    };
    let (before, mut after) = (read("signed.json"), read("raised.json"));
    after.as_object_mut().unwrap().remove("proof").unwrap();
    assert_eq!(before, after, "nothing else has changed");

    let submit = [
        "proof",
        "submit",
        "raised.json",
        "--name",
        "lemma/digits-int8",
    ];
    user.run(&submit).failed(1, "add --input FILE");
    let with = |input: &str| user.run(&[&submit[..], &["--input", input, "--json"]].concat());
    let sent = with(&input).ok().json();
    assert_eq!(sent["receipt_id"], answer["receipt_id"]);
    with(&input).failed(1, "was accepted at height");

    fs::write(user.path("other.npy"), other_image(&input)).unwrap();
    prove("signed.json", "other.npy").failed(7, "can not be raised");
    with("other.npy").failed(1, "these inputs are not the receipt's request");
    let iris = user.run(&[
        "infer",
        "acme/x",
        "--input",
        &repository("models/iris/example.npy"),
        "--json",
    ]);
    get(user, &iris.ok().json(), "iris.json");
    prove("iris.json", &input).failed(1, "it is of a model with root");
}

/// From an ONNX file to a proof that others check, and the forgeries that it is for.
#[test]
fn proofs_need_no_network() {
    let user = User::new();
    let example = repository("models/digits/example.npy");
    let float = repository("models/digits/model.onnx");
    let quantize = ["models", "quantize", &float, "--calibration", &example];
    let made = user
        .run(&[&quantize[..], &["--output", "m.integer", "--json"]].concat())
        .ok()
        .json();
    let root = made["model_root"].as_str().unwrap();
    assert_eq!(made["outputs"][0]["same_top1"], 1);
    let told = user
        .run(&[&quantize[..], &["--output", "m.integer"]].concat())
        .ok();
    assert!(told.out.contains(root) && told.err.contains("there are no others"));

    let prove = [
        "proof",
        "prove",
        "--model",
        "m.integer",
        "--input",
        &example,
    ];
    let proved = user
        .run(&[&prove[..], &["--output", "p", "--json"]].concat())
        .ok()
        .json();
    assert!(proved["bits"].as_f64().unwrap() >= 100.0);
    let shown = user.run(&["proof", "show", "p"]).ok().out;
    assert!(shown.contains(root) && shown.contains("lookups") && shown.contains("together"));
    let shown = user.run(&["proof", "show", "p", "--json"]).ok().json();
    assert_eq!(shown["proof_bytes"], proved["proof_bytes"]);

    let verify = |more: &[&str]| user.run(&[&["proof", "verify", "p"], more].concat());
    let plain = verify(&["--model-root", root, "--input", &example]).ok();
    assert!(plain.out.contains("proved with") && plain.err.contains("not zero-knowledge"));
    let held = verify(&["--model", "m.integer", "--json"]).ok().json();
    assert_eq!(
        (&held["holds"], &held["root_derived"]),
        (&true.into(), &true.into())
    );
    verify(&[]).failed(2, "--model-root");
    verify(&["--model-root", &"0".repeat(64)]).failed(7, "it is of model root");
    let other = repository("models/digits-int8/model.integer");
    verify(&["--model", &other]).failed(7, "it is of model root");
    fs::write(user.path("other.npy"), other_image(&example)).unwrap();
    verify(&["--model-root", root, "--input", "other.npy"]).failed(7, "it is of other inputs");

    let bytes = fs::read(user.path("p")).unwrap();
    for place in [0, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        fs::write(user.path("p"), flipped).unwrap();
        assert_eq!(verify(&["--model-root", root]).code, 7, "byte {place}");
    }
    fs::write(user.path("p"), &bytes[..bytes.len() / 3]).unwrap();
    verify(&["--model-root", root]).failed(7, "is no proof");

    let holder = ["--holder", "--security", "112", "--output", "p"];
    user.run(&[&prove[..], &holder].concat()).ok();
    verify(&["--model-root", root]).failed(8, "for holders");
    verify(&["--model", "m.integer"]).ok();
    user.run(&[
        "proof", "prove", "--model", &float, "--input", &example, "--output", "q",
    ])
    .failed(1, "lemma models quantize");
    user.run(&[
        "models",
        "quantize",
        &float,
        "--calibration",
        &repository("models/iris/example.npy"),
        "--output",
        "n",
    ])
    .failed(1, "do not fit the model");
}
