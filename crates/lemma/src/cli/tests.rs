use clap::CommandFactory as _;

use super::*;

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_become_overrides() {
    let arguments = [
        "lemma",
        "infer",
        "a/b",
        "--input",
        "x.npy",
        "--api",
        "http://h",
        "--timeout",
        "5s",
        "--no-progress",
    ];
    let cli = Cli::try_parse_from(arguments).unwrap();
    let found: Vec<_> = cli
        .overrides()
        .iter()
        .map(|given| (given.key.name, given.text.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("progress", "false".to_owned()),
            ("api", "http://h".to_owned()),
            ("timeout", "5s".to_owned())
        ]
    );
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    for (arguments, reason) in [
        (
            vec!["models", "push", "x.onnx", "--name", "x"],
            "owner/model",
        ),
        (vec!["infer", "a/b"], "--input"),
        (vec!["models", "pull", "a/b"], "hf:OWNER/NAME"),
        (
            vec!["infer", "a/b", "--input", "x", "--mode", "verified"],
            "unknown mode",
        ),
        (vec!["verify", "r.json"], "--trusted-root"),
        (
            vec!["verify", "r.json", "--trusted-root", "t", "--recompute"],
            "--model",
        ),
        (
            vec!["infer", "m.onnx", "--input", "x", "--threads", "2"],
            "--local",
        ),
        (
            vec![
                "infer",
                "--local",
                "m.onnx",
                "--input",
                "x",
                "--threads",
                "0",
            ],
            "--threads",
        ),
        (
            vec![
                "infer", "--local", "m.onnx", "--input", "x", "--api", "http://h",
            ],
            "--api",
        ),
        (vec!["receipts", "get", "0x12"], "invalid"),
        (vec!["up", "--heartbeat", "5"], "duration"),
    ] {
        let all = std::iter::once("lemma").chain(arguments);
        let error = Cli::try_parse_from(all).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
