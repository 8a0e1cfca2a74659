//! `lemma models pull` against a local server with a hub's routes, then the way of the pulled model: hosted, asked, replayed; and
//! `lemma infer --local` with tokens.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "hub/answers.rs"]
mod answers;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Segments, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use support::{Ran, User, repository};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// What the hub has, and how it behaves.
struct Hub {
    base: String,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Requests for contents, with where they began.
    asked: Mutex<Vec<(String, usize)>>,
    /// Breaks off so many answers of the storage half-way.
    broken: AtomicUsize,
    /// Lists sizes and hashes, as the hub does; else they are in the heads of files alone.
    lists: bool,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

fn is_linked(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

impl Hub {
    /// A runtime that serves until it is dropped, and the hub.
    fn serve(files: &[(&str, Vec<u8>)], lists: bool) -> (tokio::runtime::Runtime, Arc<Self>) {
        let files = files
            .iter()
            .map(|(name, content)| ((*name).to_owned(), content.clone()));
        let files = Mutex::new(files.collect());
        support::serve(|base| {
            let hub = Arc::new(Self {
                base,
                files,
                asked: Mutex::default(),
                broken: AtomicUsize::new(0),
                lists,
            });
            let routes = Router::new()
                .route(
                    "/api/models/{owner}/{name}/revision/{revision}",
                    get(revision),
                )
                .route("/{owner}/{name}/resolve/{commit}/{*file}", get(resolve))
                .route("/storage/{file}", get(storage))
                .with_state(Arc::clone(&hub));
            (routes, hub)
        })
    }

    fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().unwrap().get(name).cloned()
    }

    fn set(&self, name: &str, content: Vec<u8>) {
        self.files.lock().unwrap().insert(name.to_owned(), content);
    }

    /// The requests since it was last asked for them.
    fn asked(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn pull(&self, user: &User, arguments: &[&str]) -> Ran {
        let mut command = user.command(&[&["models", "pull"], arguments].concat());
        Ran::of(
            command
                .env("HF_ENDPOINT", &self.base)
                .env("HF_TOKEN", TOKEN),
        )
    }

    /// Another origin than the hub's, on the same machine.
    fn storage(&self, name: &str) -> String {
        let port = self.base.rsplit(':').next().unwrap();
        format!("http://localhost:{port}/storage/{name}")
    }
}

fn authorised(headers: &HeaderMap) -> bool {
    headers
        .get("authorization")
        .is_some_and(|value| value == &format!("Bearer {TOKEN}"))
}

async fn revision(
    State(hub): State<Arc<Hub>>,
    Segments((owner, name, revision)): Segments<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !authorised(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if (owner.as_str(), name.as_str()) != ("acme", "tiny")
        || !["main", "v1"].contains(&revision.as_str())
    {
        return StatusCode::NOT_FOUND.into_response();
    }
    let files = hub.files.lock().unwrap();
    let sibling = |(name, content): (&String, &Vec<u8>)| match (hub.lists, is_linked(name)) {
        (false, _) => json!({ "rfilename": name }),
        (true, true) => json!({
            "rfilename": name, "size": content.len(), "blobId": "0".repeat(40),
            "lfs": { "sha256": hex(&Sha256::digest(content)), "size": content.len(), "pointerSize": 130 },
        }),
        (true, false) => {
            json!({ "rfilename": name, "size": content.len(), "blobId": git(content) })
        }
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    Json(json!({
        "id": "acme/tiny", "sha": COMMIT, "cardData": { "license": "apache-2.0" }, "siblings": siblings,
    }))
    .into_response()
}

async fn resolve(
    State(hub): State<Arc<Hub>>,
    Segments((owner, name, commit, file)): Segments<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !authorised(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    assert_eq!(
        (owner.as_str(), name.as_str(), commit.as_str()),
        ("acme", "tiny", COMMIT)
    );
    let Some(content) = hub.content(&file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if is_linked(&file) {
        let etag = format!("\"{}\"", hex(&Sha256::digest(&content)));
        let headers = [
            ("x-linked-etag", etag),
            ("x-linked-size", content.len().to_string()),
            ("location", hub.storage(&file)),
        ];
        return (StatusCode::FOUND, headers).into_response();
    }
    ([("etag", format!("\"{}\"", git(&content)))], content).into_response()
}

/// The storage behind the hub: it knows ranges, and wants no token.
async fn storage(
    State(hub): State<Arc<Hub>>,
    Segments(file): Segments<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    assert!(
        !headers.contains_key("authorization"),
        "the token is the hub's alone"
    );
    let content = hub.content(&file).unwrap();
    // A question for the headers moves no content, and so nothing that could break.
    if method == Method::HEAD {
        return content.into_response();
    }
    let from: usize = headers.get("range").map_or(0, |range| {
        let range = range.to_str().unwrap();
        range
            .strip_prefix("bytes=")
            .unwrap()
            .trim_end_matches('-')
            .parse()
            .unwrap()
    });
    hub.asked.lock().unwrap().push((file, from));
    let rest = content[from..].to_vec();
    let broken = hub
        .broken
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    let body = match broken {
        Err(_) => Body::from(rest),
        Ok(_) => {
            let half = Ok(axum::body::Bytes::copy_from_slice(&rest[..rest.len() / 2]));
            let pieces = [half, Err(std::io::Error::other("broken"))];
            // What was sent before is to arrive before the connection breaks.
            Body::from_stream(futures::stream::iter(pieces).then(|piece| async move {
                if piece.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                piece
            }))
        }
    };
    let mut response = Response::new(body);
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        response
            .headers_mut()
            .insert("content-range", range.parse().unwrap());
    }
    response
}

/// A folder of a language model with random weights, its weights in two files, and a vocabulary of single characters.
fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    let fixture = |name: &str| {
        fs::read(repository(&format!(
            "crates/llm/tests/fixtures/llama3/{name}"
        )))
        .unwrap()
    };
    let [first, second] = halves(&fixture("model.safetensors"));
    let letters = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='8')
        .map(String::from);
    let vocabulary: BTreeMap<String, usize> =
        letters.enumerate().map(|(i, c)| (c, i + 3)).collect();
    let special = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    vec![
        ("README.md", b"A model for tests".to_vec()),
        ("config.json", fixture("config.json")),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("tokenizer_config.json", br#"{"eos_token":"</s>"}"#.to_vec()),
        (
            "chat_template.jinja",
            b"{% for m in messages %}<s>{{ m.content }}{% endfor %}".to_vec(),
        ),
        ("model-00001-of-00002.safetensors", first),
        ("model-00002-of-00002.safetensors", second),
        ("model.safetensors.index.json", b"{}".to_vec()),
        (".gitattributes", b"x".to_vec()),
    ]
}

/// Cuts a safetensors file into two with half of the tensors each.
fn halves(file: &[u8]) -> [Vec<u8>; 2] {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let head: BTreeMap<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let data = &file[8 + length..];
    let tensors: Vec<_> = head
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    [first, second].map(|tensors| {
        let (mut head, mut content) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in tensors {
            let at = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
            let begin = content.len();
            content.extend(&data[at(0)..at(1)]);
            let mut tensor = (*tensor).clone();
            tensor["data_offsets"] = json!([begin, content.len()]);
            head.insert((*name).clone(), tensor);
        }
        let head = Value::Object(head).to_string();
        [
            &(head.len() as u64).to_le_bytes()[..],
            head.as_bytes(),
            &content,
        ]
        .concat()
    })
}

#[test]
fn a_pulled_model_is_the_hubs_whatever_breaks_on_the_way() {
    let user = User::new();
    let files = sharded();
    for lists in [true, false] {
        let (_runtime, hub) = Hub::serve(&files, lists);
        let name = format!("pulled-{lists}");
        let shard = "model-00001-of-00002.safetensors";
        // Two connections break; a third goes on where they ended.
        hub.broken.store(2, Ordering::SeqCst);
        let pulled = hub
            .pull(&user, &["hf:acme/tiny", "--output", &name, "--json"])
            .ok()
            .json();
        assert_eq!(pulled["commit"], COMMIT);
        assert_eq!(pulled["files"].as_array().unwrap().len(), 6);
        let size = hub.content(shard).unwrap().len();
        let of_shard: Vec<usize> = hub
            .asked()
            .into_iter()
            .filter(|(name, _)| name == shard)
            .map(|(_, from)| from)
            .collect();
        assert_eq!(of_shard, [0, size / 2, size / 2 + size.div_ceil(2) / 2]);
        for (file, content) in &files {
            let there = fs::read(user.path(&name).join(file)).ok();
            let wanted = ![
                "README.md",
                ".gitattributes",
                "model.safetensors.index.json",
            ]
            .contains(file);
            assert_eq!(there, wanted.then(|| content.clone()), "{file}");
        }
        let terms: Value =
            serde_json::from_slice(&fs::read(user.path(&name).join("lemma.json")).unwrap())
                .unwrap();
        assert_eq!(terms["licence"], "Apache-2.0");
        assert!(terms["description"].as_str().unwrap().contains(COMMIT));

        // What is there is not fetched again; what was changed is.
        let again = hub
            .pull(&user, &["hf:acme/tiny@v1", "--output", &name, "--json"])
            .ok()
            .json();
        assert_eq!((&again["fetched"], hub.asked().len()), (&json!(0), 0));
        let mut content = hub.content(shard).unwrap();
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(user.path(&name).join(shard), content).unwrap();
        hub.pull(&user, &["hf:acme/tiny", "--output", &name]).ok();
        assert_eq!(hub.asked(), [(shard.to_owned(), 0)]);
    }
}

#[test]
fn an_interrupted_pull_goes_on_and_a_wrong_content_gets_no_name() {
    let user = User::new();
    let gguf: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let (_runtime, hub) = Hub::serve(&[("a.gguf", gguf.clone()), ("b.gguf", vec![7; 9])], true);
    hub.pull(&user, &["hf:acme/tiny"])
        .failed(2, "choose one with --file: a.gguf, b.gguf");
    hub.pull(&user, &["hf:acme/none"])
        .failed(4, "has no hf:acme/none");
    hub.pull(&user, &["hf:acme/tiny", "--file", "c.gguf"])
        .failed(4, "no file `c.gguf`");
    hub.pull(
        &user,
        &["hf:acme/tiny", "--file", "a.gguf", "--max-size", "1KiB"],
    )
    .failed(1, "--max-size");
    let mut stranger = user.command(&["models", "pull", "hf:acme/tiny"]);
    Ran::of(stranger.env("HF_ENDPOINT", &hub.base)).failed(1, "set HF_TOKEN");

    // What an earlier pull left behind is gone on with.
    fs::create_dir(user.path("tiny")).unwrap();
    let part = user.path("tiny").join(".a.gguf.part");
    fs::write(&part, &gguf[..300_000]).unwrap();
    let pull = || hub.pull(&user, &["hf:acme/tiny", "--file", "a.gguf"]);
    let told = pull().ok();
    assert_eq!(Path::new(told.out.trim()).file_name().unwrap(), "a.gguf");
    assert_eq!(hub.asked(), [("a.gguf".to_owned(), 300_000)]);
    assert_eq!(fs::read(user.path("tiny/a.gguf")).unwrap(), gguf);
    assert!(!part.exists());

    // A part of something else is found out by its hash, and the next pull begins anew.
    fs::remove_file(user.path("tiny/a.gguf")).unwrap();
    fs::write(&part, vec![1; 1000]).unwrap();
    pull().failed(7, "has not the hash sha256:");
    assert!(!part.exists() && !user.path("tiny/a.gguf").exists());
    pull().ok();

    // The storage gives more than the hub lists: not all of it is kept.
    fs::remove_file(user.path("tiny/a.gguf")).unwrap();
    let (_runtime, longer) = Hub::serve(&[("a.gguf", gguf.clone())], true);
    let listed = fs::read(user.path("tiny/lemma.json")).unwrap();
    assert!(!listed.is_empty());
    longer.set("a.gguf", gguf[..1000].to_vec());
    let ran = longer.pull(&user, &["hf:acme/tiny", "--file", "a.gguf"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(fs::read(user.path("tiny/a.gguf")).unwrap(), gguf[..1000]);
}

#[test]
fn a_pulled_folder_is_hosted_asked_and_replayed() {
    let mut user = User::new();
    let (_runtime, hub) = Hub::serve(&sharded(), true);
    hub.pull(&user, &["hf:acme/tiny"]).ok();
    let network = user.up();
    let pushed = user
        .run(&["models", "push", "tiny", "--name", "acme/tiny", "--json"])
        .ok()
        .json();
    let shown = user
        .run(&["models", "show", "acme/tiny", "--json"])
        .ok()
        .json();
    assert_eq!(shown["manifest"]["format"], "safetensors");
    assert_eq!(shown["manifest"]["licence"], "Apache-2.0");
    assert_eq!(shown["manifest"]["graph_root"], pushed["graph_root"]);
    user.run(&["models", "verify", "tiny", "acme/tiny"]).ok();
    let ask = [
        "run",
        "acme/tiny",
        "hello",
        "--seed",
        "3",
        "--max-tokens",
        "12",
        "--transcript",
        "t.json",
    ];
    let told = user.run(&ask).ok();
    let id = told
        .err
        .lines()
        .find_map(|line| line.strip_prefix("receipt "))
        .unwrap();
    user.run(&["receipts", "get", id, "--wait", "--output", "r.json"])
        .ok();
    let root = network.ready["trusted_root"].as_str().unwrap();
    let verify = |model: &str| {
        user.run(&[
            "verify",
            "r.json",
            "--trusted-root",
            root,
            "--transcript",
            "t.json",
            "--recompute",
            "--model",
            model,
        ])
    };
    let report = verify("tiny").ok().out;
    let transcript: Value =
        serde_json::from_slice(&fs::read(user.path("t.json")).unwrap()).unwrap();
    let count = transcript["response"]["tokens"].as_array().unwrap().len();
    let all = format!("chooses all {count} tokens again");
    assert!(count > 1 && report.contains(&all), "{report}");
    // The same weights in one file are the same model; other weights are not.
    let whole = user.path("whole");
    fs::create_dir(&whole).unwrap();
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        fs::copy(user.path("tiny").join(name), whole.join(name)).unwrap();
    }
    let fixture = fs::read(repository(
        "crates/llm/tests/fixtures/llama3/model.safetensors",
    ))
    .unwrap();
    fs::write(whole.join("model.safetensors"), &fixture).unwrap();
    verify("whole").ok();
    let mut other = fixture;
    let last = other.len() - 1;
    other[last] ^= 0x40;
    fs::write(whole.join("model.safetensors"), other).unwrap();
    let report = verify("whole");
    assert_eq!(report.code, 7, "{}\n{}", report.out, report.err);
}

#[test]
fn logits_and_tokens_of_a_model_on_this_machine() {
    let user = User::new();
    let model = repository("models/nano/model.gguf");
    let folder = repository("crates/llm/tests/fixtures/llama3");
    let reference: Value =
        serde_json::from_slice(&fs::read(format!("{folder}/reference.json")).unwrap()).unwrap();
    let list = |value: &Value| {
        let tokens: Vec<String> = value
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        tokens.join(",")
    };
    // The tokens that transformers choose.
    let prompt = list(&reference["prompt"]);
    let infer = |model: &str, more: &[&str]| {
        user.run(&[&["infer", "--local", model, "--tokens", &prompt], more].concat())
    };
    let told = infer(
        &folder,
        &["--generate", "64", "--output-dir", "out", "--threads", "2"],
    )
    .ok();
    let lines: Vec<&str> = told.out.lines().collect();
    assert_eq!(
        lines,
        ["out/logits.npy", list(&reference["greedy"]).as_str()]
    );
    let npy = fs::read(user.path("out/logits.npy")).unwrap();
    assert!(npy.starts_with(b"\x93NUMPY"));
    let head = String::from_utf8_lossy(&npy[..128]).into_owned();
    assert!(
        head.contains("'<f4'") && head.contains("(20, 64)"),
        "{head}"
    );
    assert_eq!(npy.len() % (20 * 64 * 4), 128);

    // Equal seeds give equal tokens, on one thread and on two.
    let drawn = |seed: &str, threads: &str| {
        infer(
            &folder,
            &[
                "--generate",
                "8",
                "--seed",
                seed,
                "--threads",
                threads,
                "--json",
            ],
        )
        .ok()
        .json()["generated"]
            .clone()
    };
    assert_eq!(drawn("1", "1"), drawn("1", "2"));
    assert_ne!(drawn("1", "1"), drawn("2", "1"));

    infer(&model, &[]).failed(2, "nothing is asked");
    user.run(&[
        "infer",
        "--local",
        &model,
        "--tokens",
        "100000",
        "--generate",
        "1",
    ])
    .failed(1, "vocabulary");
    let onnx = repository("models/iris/model.onnx");
    user.run(&[
        "infer",
        "--local",
        &onnx,
        "--tokens",
        "1",
        "--generate",
        "1",
    ])
    .failed(2, "no language model");
    assert_eq!(user.run(&["infer", "acme/x", "--tokens", "1"]).code, 2);
}

/// A repository of sentence-transformers: an encoder with its pooling in a folder, and much that nobody here needs.
fn sentences() -> Vec<(&'static str, Vec<u8>)> {
    let fixture = |name: &str| {
        let path = repository(&format!("crates/llm/tests/fixtures/bert/{name}"));
        (name.to_owned(), fs::read(path).unwrap())
    };
    let pooling = json!({
        "word_embedding_dimension": 32, "pooling_mode_cls_token": true,
        "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false,
    });
    let other = |name: &'static str| (name, b"x".to_vec());
    vec![
        ("config.json", fixture("config.json").1),
        ("tokenizer.json", fixture("tokenizer.json").1),
        ("model.safetensors", fixture("model.safetensors").1),
        ("1_Pooling/config.json", pooling.to_string().into_bytes()),
        ("modules.json", b"[]".to_vec()),
        other("README.md"),
        other("vocab.txt"),
        other("pytorch_model.bin"),
        other("2_Normalize/config.json"),
        other("onnx/model.onnx"),
        other("openvino/config.json"),
    ]
}

/// Asks as a client of OpenAI's API does.
fn post(user: &User, path: &str, body: &Value) -> String {
    let asked = async {
        let client = lemma_store::http::client().build().unwrap();
        let request = client.post(format!("{}{path}", user.api)).json(body);
        request.send().await.unwrap().text().await.unwrap()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(asked)
}

/// Asks, and keeps the whole answer in a file.
fn ask(user: &User, path: &str, body: &Value, file: &str) -> Value {
    let answer = post(user, path, body);
    fs::write(user.path(file), &answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn a_pulled_sentence_encoder_and_whole_answers_are_checked() {
    let mut user = User::new();
    let (_runtime, hub) = Hub::serve(&sentences(), true);
    let pulled = hub.pull(&user, &["hf:acme/tiny", "--json"]).ok().json();
    let mut names: Vec<&str> = pulled["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let needed = [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(names, needed);
    let (_, pooling) = &sentences()[3];
    assert_eq!(
        &fs::read(user.path("tiny/1_Pooling/config.json")).unwrap(),
        pooling
    );

    let network = user.up();
    let root = network.ready["trusted_root"].as_str().unwrap();
    let verify = |file: &str, more: &[&str]| {
        user.run(&[&["verify", file, "--trusted-root", root], more].concat())
    };
    fs::copy(
        repository("crates/llm/tests/fixtures/bert/model.gguf"),
        user.path("tiny.gguf"),
    )
    .unwrap();
    let mut vectors = Vec::new();
    for (path, name) in [("tiny", "acme/tiny"), ("tiny.gguf", "acme/tiny-gguf")] {
        user.run(&["models", "push", path, "--name", name]).ok();
        let shown = user.run(&["models", "show", name, "--json"]).ok().json();
        assert_eq!(shown["manifest"]["format"], "embedding");
        let body = json!({ "model": name, "input": ["the quick brown fox", "dog"] });
        let answer = ask(&user, "/v1/embeddings", &body, "vectors.json");
        vectors.push(answer["data"].clone());
        // All but the settlement holds.
        let again = ["--recompute", "--model", path];
        let report = verify("vectors.json", &again);
        assert_eq!(report.code, 8, "{}\n{}", report.out, report.err);
        assert!(!report.out.contains("FAILED"), "{}", report.out);
    }
    answers::edited_ones_are_caught(&user, root);
    // One takes the first token's vector, the other the mean.
    assert_ne!(vectors[0], vectors[1]);
    user.run(&["models", "verify", "tiny", "acme/tiny"]).ok();
    fs::remove_file(user.path("tiny/1_Pooling/config.json")).unwrap();
    assert_ne!(user.run(&["models", "verify", "tiny", "acme/tiny"]).code, 0);

    let body = json!({ "model": "lemma/nano", "messages": [{ "role": "user", "content": "Hi" }], "seed": 1 });
    let mut answer = ask(&user, "/v1/chat/completions", &body, "answer.json");
    let nano = repository("models/nano/model.gguf");
    let again = ["--recompute", "--model", &nano];
    let report = verify("answer.json", &again);
    assert_eq!(report.code, 8, "{}\n{}", report.out, report.err);
    assert!(report.out.contains("tokens again"), "{}", report.out);
    assert!(report.err.contains("lemma receipts get"), "{}", report.err);
    // With the bundle, which has no salts of its own, nothing is missing.
    let id = answer["lemma"]["receipt_id"].as_str().unwrap();
    user.run(&["receipts", "get", id, "--wait", "--output", "bundle.json"])
        .ok();
    let whole = [&["--transcript", "answer.json"], &again[..]].concat();
    verify("bundle.json", &whole).ok();

    verify("answer.json", &["--transcript", "answer.json"]).failed(2, "--transcript");
    answer["choices"][0]["message"]["content"] = json!("Something else");
    fs::write(user.path("forged.json"), answer.to_string()).unwrap();
    verify("forged.json", &[]).failed(7, "not what its receipt is for");
    verify("bundle.json", &["--transcript", "forged.json"])
        .failed(7, "not what its receipt is for");
    answer["lemma"].as_object_mut().unwrap().remove("openings");
    fs::write(user.path("forged.json"), answer.to_string()).unwrap();
    verify("forged.json", &[]).failed(1, "has no `openings`");
    answer.as_object_mut().unwrap().remove("lemma");
    fs::write(user.path("forged.json"), answer.to_string()).unwrap();
    verify("forged.json", &[]).failed(1, "no key `lemma`");
}
