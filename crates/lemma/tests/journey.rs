//! The way of a first user through the real binary: processes, exit codes, standard output and standard error.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

#[path = "../../node/tests/support/language.rs"]
mod language;
#[path = "journey/proved.rs"]
mod proved;
mod support;

use support::{User, repository};

#[test]
fn from_a_model_to_verified_evidence_and_through_crashes() {
    let mut user = User::new();
    let network = user.up();
    check_ready_line(&user, &network.ready);
    push_and_look(&user);
    let (bundle, root) = infer_and_keep(&user, &network.ready);
    verify_and_forge(&user, &bundle, &root);
    mistakes_are_explained(&user);
    a_language_model_answers_and_is_replayed(&user, &root);
    proved::a_result_is_proved(&user, &root);
    proved::a_receipt_is_raised_later(&user, &root);
    let models = user.run(&["models", "ls", "--json"]).ok().json();

    assert_eq!(network.signal("-INT").code(), Some(0), "a graceful end");
    user.run(&["verify", &bundle, "--trusted-root", &root]).ok();
    user.run(&["status"]).failed(5, "can not reach the gateway");

    let network = user.up();
    assert_eq!(
        user.run(&["models", "ls", "--json"]).ok().json(),
        models,
        "resumed"
    );
    let kept = infer_iris(&user);
    user.run(&["receipts", "get", &kept, "--wait", "--output", "kept.json"])
        .ok();
    assert!(!network.signal("-KILL").success());

    let network = user.up();
    assert_eq!(
        user.run(&["models", "ls", "--json"]).ok().json(),
        models,
        "nothing final was lost"
    );
    user.run(&["receipts", "get", &kept, "--output", "again.json"])
        .ok();
    user.run(&["verify", "again.json", "--trusted-root", &root])
        .ok();
    infer_iris(&user);
    assert_eq!(network.signal("-TERM").code(), Some(0), "a graceful end");
}

fn check_ready_line(user: &User, ready: &Value) {
    let mut keys: Vec<&str> = ready
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "accounts",
            "api",
            "data_dir",
            "metrics",
            "rpc",
            "trusted_root"
        ]
    );
    assert_eq!(ready["rpc"], json!(format!("{}/rpc", user.api)));
    assert!(!ready["accounts"].as_array().unwrap().is_empty());
    assert!(Path::new(ready["trusted_root"].as_str().unwrap()).is_file());
    let status = user.run(&["status", "--json"]).ok().json();
    assert_eq!(status["ready"], true);
    assert!(user.run(&["status"]).ok().out.contains("2 of 2 available"));
    let second = user.run(&[
        "up",
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--data-dir",
        "net",
    ]);
    second.failed(1, "in use by another process");
    let port = user.api.rsplit(':').next().unwrap();
    user.run(&[
        "up",
        "--port",
        port,
        "--metrics-port",
        "0",
        "--data-dir",
        "other",
    ])
    .failed(1, "--port 0 picks a free port");
}

/// Returns the list of models.
fn push_and_look(user: &User) -> Value {
    let model = repository("models/iris/model.onnx");
    let pushed = user
        .run(&[
            "models",
            "push",
            &model,
            "--name",
            "acme/x",
            "--licence",
            "MIT",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(pushed["name"], "acme/x");
    assert!(pushed["height"].as_u64().unwrap() > 0);
    let again = user
        .run(&[
            "models",
            "push",
            &model,
            "--name",
            "acme/x",
            "--licence",
            "MIT",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(
        (&again["root"], &again["transaction"]),
        (&pushed["root"], &Value::Null)
    );

    let listed = user.run(&["models", "ls", "--json"]).ok().json();
    let names: Vec<&str> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "acme/x",
            "lemma/digits",
            "lemma/digits-int8",
            "lemma/iris",
            "lemma/nano"
        ]
    );
    let table = user.run(&["models", "ls"]).ok().out;
    assert!(
        table.starts_with("name\troot\tauthor\nacme/x\t"),
        "tab-separated when it is piped: {table}"
    );

    let shown = user.run(&["models", "show", "acme/x"]).ok().out;
    assert!(
        shown.contains("features FP32 [N, 4]") && shown.contains("MIT"),
        "{shown}"
    );
    let manifest = user
        .run(&["models", "show", "acme/x", "--manifest", "--json"])
        .ok()
        .out;
    assert_eq!(
        json!(lemma_types::Digest::of(manifest.as_bytes())),
        pushed["root"]
    );
    user.run(&["models", "verify", &model, "acme/x"]).ok();
    let other = repository("models/digits/model.onnx");
    user.run(&["models", "verify", &other, "acme/x"])
        .failed(7, "is not the model");
    listed
}

fn infer_iris(user: &User) -> String {
    let input = repository("models/iris/example.npy");
    let answer = user
        .run(&["infer", "acme/x", "--input", &input, "--json"])
        .ok()
        .json();
    answer["receipt_id"].as_str().unwrap().to_owned()
}

/// Returns the bundle and the trusted root.
fn infer_and_keep(user: &User, ready: &Value) -> (String, String) {
    let json_input = repository("models/iris/example.json");
    let npy_input = repository("models/iris/example.npy");
    let answer = user
        .run(&[
            "infer",
            "acme/x",
            "--input",
            &json_input,
            "--json",
            "--output",
            "answer.json",
        ])
        .ok()
        .json();
    assert_eq!(
        (&answer["model"], &answer["mode"]),
        (&json!("acme/x"), &json!("signed"))
    );
    assert_eq!(answer["outputs"][1]["data"], json!([1]));
    let named = format!("features={npy_input}");
    let same = user
        .run(&["infer", "acme/x", "--input", &named, "--json"])
        .ok()
        .json();
    assert_eq!(
        same["outputs"], answer["outputs"],
        "the same bits by JSON and by numpy"
    );
    let shown = user
        .run(&[
            "infer",
            "lemma/digits",
            "--input",
            &repository("models/digits/example.npy"),
        ])
        .ok();
    assert!(
        shown.out.contains("probabilities FP32 [1, 10]") && shown.out.contains("\nreceipt 0x"),
        "{}",
        shown.out
    );

    let id = answer["receipt_id"].as_str().unwrap();
    let fresh = infer_iris(user);
    user.run(&["receipts", "get", &fresh])
        .failed(8, "not settled yet");
    user.run(&["receipts", "get", id, "--wait", "--output", "r.json"])
        .ok();
    let listed = user.run(&["receipts", "ls", "--json"]).ok().json();
    assert!(
        listed["receipts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|receipt| receipt["receipt_id"] == id)
    );
    let absent = format!("0x{}", "0".repeat(64));
    user.run(&["receipts", "get", &absent])
        .failed(4, "no receipt");
    (
        user.path("r.json").display().to_string(),
        ready["trusted_root"].as_str().unwrap().to_owned(),
    )
}

fn verify_and_forge(user: &User, bundle: &str, root: &str) {
    let (input, model) = (
        repository("models/iris/example.npy"),
        repository("models/iris/model.onnx"),
    );
    let opened = [
        "verify",
        bundle,
        "--trusted-root",
        root,
        "--input",
        &input,
        "--output",
        "answer.json",
        "--recompute",
        "--model",
        &model,
    ];
    let report = user.run(&opened).ok().out;
    assert!(
        report.contains("Not covered:") && report.ends_with("Verified in mode `signed`\n"),
        "{report}"
    );
    let json = user.run(&[&opened[..], &["--json"]].concat()).ok().json();
    assert_eq!(json["verdict"], "verified");
    let unwanted = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["outcome"] != "ok" && check["name"] != "proof")
        .count();
    assert_eq!(unwanted, 0, "{json}");

    let bytes = fs::read(bundle).unwrap();
    let verdict = |name: &str, bytes: &[u8], more: &[&str]| {
        fs::write(user.path(name), bytes).unwrap();
        let ran = user.run(&[&["verify", name, "--trusted-root", root], more].concat());
        assert_eq!(ran.err, "", "a report is no error");
        ran.code
    };
    let mut flipped = bytes.clone();
    let position = bytes
        .windows(11)
        .position(|window| window == b"signature\":")
        .unwrap()
        + 20;
    flipped[position] = if flipped[position] == b'0' {
        b'1'
    } else {
        b'0'
    };
    assert_eq!(verdict("flipped.json", &flipped, &[]), 7);
    assert_eq!(verdict("half.json", &bytes[..bytes.len() / 2], &[]), 7);
    assert_eq!(verdict("empty.json", b"", &[]), 7);
    let mut unsettled: Value = serde_json::from_slice(&bytes).unwrap();
    unsettled.as_object_mut().unwrap().remove("settlement");
    assert_eq!(
        verdict("unsettled.json", unsettled.to_string().as_bytes(), &[]),
        8
    );
    // Other inputs than the receipt's, and another model.
    let example = fs::read(repository("models/iris/example.json")).unwrap();
    let mut wrong: Value = serde_json::from_slice(&example).unwrap();
    wrong["inputs"][0]["data"][0] = json!(0.5);
    fs::write(user.path("wrong.json"), wrong.to_string()).unwrap();
    assert_eq!(verdict("whole.json", &bytes, &["--input", "wrong.json"]), 7);
    let other = repository("models/digits/model.onnx");
    assert_eq!(
        verdict(
            "whole.json",
            &bytes,
            &["--input", &input, "--recompute", "--model", &other]
        ),
        7
    );
    user.run(&["verify", "absent.json", "--trusted-root", root])
        .failed(4, "absent.json");
    user.run(&["verify", bundle, "--trusted-root", bundle])
        .failed(1, "can not use the trusted root");
}

fn mistakes_are_explained(user: &User) {
    let (json, npy) = (
        repository("models/iris/example.json"),
        repository("models/iris/example.npy"),
    );
    user.run(&["infer", "acme/y", "--input", &json])
        .failed(4, "did you mean `acme/x`?");
    user.run(&["infer", "acme", "--input", &json])
        .failed(2, "expected owner/model");
    user.run(&["infer", "acme/x", "--input", &format!("feature={npy}")])
        .failed(1, "did you mean `features`?");
    user.run(&["infer", "lemma/digits", "--input", &format!("image={npy}")])
        .failed(1, "shape");
    user.run(&["infer", "acme/x", "--input", &json, "--mode", "proved"])
        .failed(1, "is not offered");
    fs::write(user.path("bad.onnx"), b"no model").unwrap();
    user.run(&["models", "push", "bad.onnx", "--name", "acme/z"])
        .failed(1, "bad.onnx");
    let model = repository("models/iris/model.onnx");
    user.run(&["models", "push", &model, "--name", "lemma/mine"])
        .failed(1, "belongs to");

    user.run(&["wallet", "new", "--output", "key"]).ok();
    let poor = user.run(&[
        "models",
        "push",
        &model,
        "--name",
        "poor/x",
        "--key-file",
        "key",
    ]);
    poor.failed(6, "insufficient funds");
    let address = user
        .run(&["wallet", "address", "--key-file", "key"])
        .ok()
        .out;
    user.run(&["account", "send", address.trim(), "2.5"]).ok();
    let balance = user
        .run(&["account", "balance", address.trim(), "--json"])
        .ok()
        .json();
    assert_eq!(balance["lem"], "2.5");
    user.run(&[
        "models",
        "push",
        &model,
        "--name",
        "poor/x",
        "--key-file",
        "key",
    ])
    .ok();
    user.run(&["account", "send", address.trim(), "99999999"])
        .failed(6, "insufficient funds");
}

/// From a GGUF file to an answer, its receipt, and its replay; then the forgeries that a replay is for.
fn a_language_model_answers_and_is_replayed(user: &User, root: &str) {
    fs::write(user.path("tiny.gguf"), language::gguf(1)).unwrap();
    fs::write(user.path("other.gguf"), language::gguf(2)).unwrap();
    user.run(&["models", "push", "tiny.gguf", "--name", "acme/tiny"])
        .ok();
    user.run(&["models", "verify", "tiny.gguf", "acme/tiny"])
        .ok();
    user.run(&["models", "verify", "other.gguf", "acme/tiny"])
        .failed(7, "is not the model");
    user.run(&["models", "show", "acme/tiny"]).ok();

    let ask = ["run", "acme/tiny", "--seed", "5", "--max-tokens", "40"];
    let run = |more: &[&str]| user.run(&[&ask[..], more].concat());
    let told = run(&["Hi", "--transcript", "t.json"]).ok();
    assert!(
        told.err.contains("checked in mode `signed`"),
        "{}",
        told.err
    );
    let again = run(&["Hi", "--json"]).ok().json();
    let text = again["text"].as_str().unwrap();
    assert_eq!(told.out.trim_end_matches('\n'), text.trim_end_matches('\n'));
    let mut piped = user
        .command(&ask)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(b"Hi").unwrap();
    assert_eq!(
        piped.wait_with_output().unwrap().stdout,
        told.out.as_bytes()
    );
    // A conversation begins like a single question.
    let mut chat = user
        .command(&[&["chat"], &ask[1..]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin
        .take()
        .unwrap()
        .write_all(b"Hi\n/exit\n")
        .unwrap();
    let spoken = chat.wait_with_output().unwrap();
    assert!(spoken.status.success());
    assert_eq!(spoken.stdout, told.out.as_bytes());
    user.run(&["run", "acme/tiny"]).ok();
    user.run(&["run", "lemma/digits", "Hi"])
        .failed(2, "takes tensors");
    user.run(&["run", "acme/tiny", &"x".repeat(600)])
        .failed(1, "do not fit the context");
    user.run(&["run", "acme/none", "Hi"]).failed(4, "acme/none");

    let id = told
        .err
        .lines()
        .find_map(|line| line.strip_prefix("receipt "))
        .unwrap();
    user.run(&["receipts", "get", id, "--wait", "--output", "text.json"])
        .ok();
    let verify = |transcript: &str, model: &str| {
        let fixed = ["verify", "text.json", "--trusted-root", root, "--recompute"];
        user.run(&[&fixed[..], &["--transcript", transcript, "--model", model]].concat())
    };
    let report = verify("t.json", "tiny.gguf").ok().out;
    assert!(report.contains("chooses all"), "{report}");
    let other = verify("t.json", "other.gguf");
    assert_eq!(other.code, 7, "{}", other.out);

    let honest: Value = serde_json::from_slice(&fs::read(user.path("t.json")).unwrap()).unwrap();
    let mut cut = honest.clone();
    let tokens = cut["response"]["tokens"].as_array_mut().unwrap();
    let shown = tokens.len() / 2;
    tokens.truncate(shown);
    let mut edited = honest;
    edited["request"]["sampling"]["temperature"] = json!(0);
    for (name, transcript) in [("cut", cut), ("edited", edited)] {
        fs::write(user.path(name), transcript.to_string()).unwrap();
        let forged = verify(name, "tiny.gguf");
        assert_eq!(forged.code, 7, "{name}: {}", forged.out);
    }
}

/// Weights are mapped and packed one after the other: a worker never holds the file beside what is made of it.
#[test]
#[cfg(target_os = "linux")]
fn a_worker_takes_little_more_memory_than_its_model() {
    let mut user = User::new();
    let network = user.up();
    let process = format!("/proc/{}", network.child.id());
    let megabytes = |field: &str| {
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.unwrap().split_whitespace().next().unwrap();
        kib.parse::<u64>().unwrap() / 1_000
    };
    let model = language::of_megabytes(96);
    let file = model.len() as u64 / 1_000_000;
    fs::write(user.path("large.gguf"), model).unwrap();
    user.run(&["models", "push", "large.gguf", "--name", "acme/large"])
        .ok();
    let before = megabytes("VmRSS:");
    // From here on the peak is that of loading and answering.
    fs::write(format!("{process}/clear_refs"), "5").unwrap();
    user.run(&["run", "acme/large", "Hi", "--max-tokens", "2"])
        .ok();
    let (held, peak) = (
        megabytes("VmRSS:").saturating_sub(before),
        megabytes("VmHWM:").saturating_sub(before),
    );
    assert!(held > file / 2, "{held} of {file} MB: it is not in memory");
    assert!(peak < file * 3 / 2, "{peak} MB for a file of {file} MB");
}

#[test]
fn a_second_interrupt_does_not_wait_for_requests() {
    let mut user = User::new();
    let network = user.up();
    // An upload that never ends.
    let mut stuck = TcpStream::connect(user.api.trim_start_matches("http://")).unwrap();
    let request = format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n",
        "0".repeat(64)
    );
    stuck.write_all(request.as_bytes()).unwrap();
    let mut going_on = [0; 12];
    stuck.read_exact(&mut going_on).unwrap();
    assert_eq!(&going_on, b"HTTP/1.1 100", "the gateway waits for the body");
    let id = network.child.id().to_string();
    let interrupt = || {
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        )
    };
    interrupt();
    let log = user.path("log");
    while !fs::read_to_string(&log)
        .unwrap()
        .contains("Ctrl-C again stops at once")
    {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(network.signal("-INT").code(), Some(130));
    drop(stuck);
}

#[test]
fn what_needs_no_network() {
    let user = User::new();
    assert_eq!(
        user.run(&["--version"]).ok().out,
        concat!("lemma ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(
        user.run(&["--version", "--json"]).ok().json()["numeric_spec"],
        1
    );
    let usage = user.run(&[]);
    assert!(usage.code == 2 && usage.out.is_empty() && usage.err.contains("lemma up --demo"));
    assert_eq!(user.run(&["infer"]).code, 2);
    for shell in ["bash", "fish", "zsh"] {
        assert!(
            user.run(&["completions", shell])
                .ok()
                .out
                .contains("receipts")
        );
    }

    let shown = user
        .run(&["config", "show", "--origin", "--json"])
        .ok()
        .json();
    assert_eq!(shown["api"]["origin"], "environment LEMMA_API");
    assert_eq!(
        shown["up.validators"],
        json!({ "value": 4, "origin": "default" })
    );
    fs::write(user.path("lemma.toml"), "[up]\nvalidatrs = 1\n").unwrap();
    user.run(&["config", "show"])
        .failed(3, "did you mean `up.validators`?");
    fs::write(user.path("lemma.toml"), "[up]\nvalidators = 1\n").unwrap();
    assert_eq!(
        user.run(&["config", "show", "--json"]).ok().json()["up.validators"],
        1
    );
    let default = user.run(&["config", "default"]).ok().out;
    fs::write(user.path("lemma.toml"), default).unwrap();
    user.run(&["config", "show"]).ok();

    user.run(&["status"])
        .failed(5, "`lemma up` starts a network");
    assert_eq!(
        user.run(&["receipts", "ls"]).ok().out,
        "receipt\tmodel\tmode\tchain\n"
    );
    let doctor = user.run(&["doctor", "--json"]).ok().json();
    let arithmetic = &doctor["checks"].as_array().unwrap()[1];
    assert_eq!(
        (&arithmetic["name"], &arithmetic["outcome"]),
        (&json!("arithmetic"), &json!("ok"))
    );
}
