//! What tests of the real binary share: a user with a home of their own, what a command gave, a running network.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests fail by panicking, and each uses a part of it"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use axum::Router;
use serde_json::Value;
use tempfile::TempDir;

/// What a command gave.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            code: status.code().expect("not killed"),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }

    /// Failed with this code, saying this on standard error and nothing on standard output.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, reason: &str) {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(
            self.err.lines().any(|line| line.starts_with("error: ")) && self.err.contains(reason),
            "{}",
            self.err
        );
        assert_eq!(self.out, "");
    }
}

/// A user: a home of their own, and nothing else of this process's environment that matters.
pub(crate) struct User {
    pub(crate) home: TempDir,
    pub(crate) api: String,
}

impl User {
    pub(crate) fn new() -> Self {
        Self {
            home: TempDir::new().unwrap(),
            api: "http://127.0.0.1:9".to_owned(),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lemma"));
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path())
            .env("LEMMA_DATA_DIR", self.home.path().join("data"))
            .env("LEMMA_API", &self.api)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Starts the network and talks to it from now on.
    pub(crate) fn up(&mut self) -> Network {
        self.up_with(&[], &[])
    }

    /// Starts the network with further flags and variables.
    pub(crate) fn up_with(&mut self, flags: &[&str], variables: &[(&str, &str)]) -> Network {
        let fixed = [
            "up",
            "--json",
            "--port",
            "0",
            "--metrics-port",
            "0",
            "--data-dir",
            "net",
            "--settle-interval",
            "500ms",
        ];
        let mut child = self
            .command(&[&fixed[..], flags].concat())
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let log = || fs::read_to_string(self.path("log")).unwrap();
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}{}", log()));
        self.api = ready["api"].as_str().unwrap().to_owned();
        Network { child, ready }
    }
}

/// A running network; killed if a test fails.
pub(crate) struct Network {
    pub(crate) child: Child,
    pub(crate) ready: Value,
}

impl Network {
    pub(crate) fn signal(mut self, name: &str) -> ExitStatus {
        let sent = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    path.canonicalize().unwrap().display().to_string()
}

/// Serves what `routes` makes of the server's address, for as long as the runtime lives.
pub(crate) fn serve<T>(routes: impl FnOnce(String) -> (Router, T)) -> (tokio::runtime::Runtime, T) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let (routes, known) = routes(format!("http://{}", listener.local_addr().unwrap()));
    runtime.spawn(async move { axum::serve(listener, routes).await });
    (runtime, known)
}
