//! The rules of ARCHITECTURE.md that a program can check: what depends on what, and what is absent where.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Crates in the order of use: each may depend only on crates before it.
const LAYERS: [&str; 13] = [
    "lemma-types",
    "lemma-kernels",
    "lemma-graph",
    "lemma-llm",
    "lemma-proof",
    "lemma-verify",
    "lemma-ledger",
    "lemma-chain",
    "lemma-store",
    "lemma-node",
    "lemma-api",
    "lemma-sim",
    "lemma",
];

/// Crates that know nothing of async, sockets, clocks or threads of a runtime.
const PURE: [&str; 7] = [
    "lemma-types",
    "lemma-kernels",
    "lemma-graph",
    "lemma-llm",
    "lemma-proof",
    "lemma-verify",
    "lemma-ledger",
];

/// What no pure crate may depend on, however indirectly.
const EFFECTS: [&str; 12] = [
    "async-io",
    "async-std",
    "axum",
    "commonware-p2p",
    "commonware-runtime",
    "hyper",
    "mio",
    "redb",
    "reqwest",
    "smol",
    "socket2",
    "tokio",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace exists")
}

/// What cargo knows of the workspace.
fn metadata() -> Value {
    // For this machine only: what other platforms need may not have been downloaded.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &host()])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Normal dependencies of each package by name: all of them, direct.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> = list(&metadata["packages"])
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let normal = list(&node["deps"])
            .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
            .map(|dep| names[text(&dep["pkg"])].to_owned());
        graph
            .entry(names[text(&node["id"])].to_owned())
            .or_default()
            .extend(normal);
    }
    graph
}

/// The target triple of this machine, as the compiler names it.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc runs");
    String::from_utf8(output.stdout)
        .expect("rustc prints UTF-8")
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host")
        .to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn dependencies_flow_one_way() {
    let graph = dependencies();
    for (level, name) in LAYERS.iter().enumerate() {
        for dependency in &graph[*name] {
            if let Some(position) = LAYERS.iter().position(|layer| layer == dependency) {
                assert!(
                    position < level,
                    "{name} depends on {dependency}, which is above it"
                );
            }
        }
    }
    let members = fs::read_dir(root().join("crates"))
        .expect("crates/")
        .count();
    assert_eq!(members, LAYERS.len(), "a crate has no place in LAYERS");
}

/// `cargo run`, as the README has it, asks back where it finds more than one program.
#[test]
fn cargo_run_means_lemma() {
    let metadata = metadata();
    let ids: BTreeSet<&str> = list(&metadata["workspace_default_members"])
        .map(text)
        .collect();
    let programs: Vec<&str> = list(&metadata["packages"])
        .filter(|package| ids.contains(text(&package["id"])))
        .flat_map(|package| list(&package["targets"]))
        .filter(|target| list(&target["kind"]).any(|kind| kind == "bin"))
        .map(|target| text(&target["name"]))
        .collect();
    assert_eq!(programs, ["lemma"]);
}

#[test]
fn pure_crates_reach_no_effects() {
    let graph = dependencies();
    for name in PURE {
        let mut reached = BTreeMap::from([(name.to_owned(), String::new())]);
        let mut open = vec![name.to_owned()];
        while let Some(package) = open.pop() {
            for dependency in &graph[&package] {
                if !reached.contains_key(dependency) {
                    reached.insert(dependency.clone(), package.clone());
                    open.push(dependency.clone());
                }
            }
        }
        for effect in EFFECTS {
            assert!(
                !reached.contains_key(effect),
                "{name} reaches {effect} through {}",
                reached[effect]
            );
        }
    }
}

/// Every Rust source file of a crate with its text, tests included.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.push((path, text));
            }
        }
    }
    files
}

/// The part of a file before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn consensus_code_has_no_clock_and_no_hash_order() {
    for name in ["types", "ledger", "verify"] {
        for (path, text) in sources(&root().join("crates").join(name).join("src")) {
            for banned in [
                "SystemTime",
                "Instant::now",
                "HashMap",
                "HashSet",
                "thread_rng",
            ] {
                assert!(
                    !product(&text).contains(banned),
                    "{} names {banned}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_code_lives_in_kernels_only() {
    for (path, text) in sources(&root().join("crates")) {
        let allowed =
            path.starts_with(root().join("crates/kernels")) || path.ends_with("architecture.rs");
        assert!(
            allowed || !text.contains("allow(unsafe_code)"),
            "{} allows unsafe code",
            path.display()
        );
    }
}

#[test]
fn files_fit_their_budget() {
    for (path, text) in sources(&root().join("crates")) {
        let lines = text.lines().count();
        assert!(
            lines <= 800,
            "{} has {lines} lines: split it by ideas",
            path.display()
        );
    }
}

#[test]
fn young_dependencies_are_pinned_exactly() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace manifest");
    for line in manifest.lines() {
        let young = [
            "commonware-",
            "alloy-consensus",
            "alloy-eips",
            "alloy-primitives",
            "alloy-sol-types",
            "p3-",
            "revm",
        ]
        .iter()
        .any(|prefix| line.starts_with(prefix));
        assert!(!young || line.contains("\"="), "not pinned exactly: {line}");
    }
}
