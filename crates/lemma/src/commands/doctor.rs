//! `lemma doctor`: checks of this machine and its configuration, each with a remedy.

use std::{fs, net::TcpListener, path::Path};

use lemma_kernels::Isa;
use serde::Serialize;
use serde_json::json;

use super::block_on;
use crate::{
    client::Client,
    config::{Config, keys},
    error::CommandResult,
    exit::ExitCode,
    shell::{Shell, paint, styles},
    text::harmless,
    wallet,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            outcome: Outcome::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn bad(
        name: &'static str,
        outcome: Outcome,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            outcome,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Runs every check; fails if one does.
pub(super) fn run(config: &Config, shell: &mut Shell) -> CommandResult<ExitCode> {
    let gateway = gateway(config);
    let reachable = gateway.outcome == Outcome::Ok;
    let checks = [
        processor(),
        arithmetic(),
        data_dir(config)?,
        files_limit(),
        key(config),
        // A port that our own gateway uses is not a port that is taken.
        port(config, keys::UP_PORT, reachable)?,
        port(config, keys::UP_METRICS_PORT, reachable)?,
        gateway,
    ];
    if shell.json() {
        shell.document(&json!({ "checks": checks }))?;
    } else {
        show(&checks, shell)?;
    }
    let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(if failed {
        ExitCode::Failed
    } else {
        ExitCode::Ok
    })
}

fn show(checks: &[Check], shell: &mut Shell) -> CommandResult {
    for (number, check) in checks.iter().enumerate() {
        let (mark, style) = match check.outcome {
            Outcome::Ok => ("ok", styles::GOOD),
            Outcome::Warn => ("warn", styles::WARNING),
            Outcome::Fail => ("FAIL", styles::ERROR),
        };
        let mark = paint(style, format!("{mark:<4}"));
        shell.line(format_args!(
            "{:>2}  {mark}  {:<14}{}",
            number + 1,
            check.name,
            check.detail
        ))?;
        if let Some(remedy) = &check.remedy {
            shell.line(format_args!(
                "          {:<14}{}: {remedy}",
                "",
                paint(styles::HINT, "hint")
            ))?;
        }
    }
    Ok(())
}

fn processor() -> Check {
    let isa = Isa::detect();
    Check::ok(
        "processor",
        format!("{} with {} kernels", std::env::consts::ARCH, isa.name()),
    )
}

/// Runs the sample model with every instruction set that this machine has: all must give the same bits.
fn arithmetic() -> Check {
    match crate::samples::same_bits() {
        Ok(count) => Check::ok(
            "arithmetic",
            format!("{count} instruction sets give the same bits"),
        ),
        Err(reason) => Check::bad(
            "arithmetic",
            Outcome::Fail,
            reason,
            "this machine must not run models: please report it with the processor's name",
        ),
    }
}

fn data_dir(config: &Config) -> CommandResult<Check> {
    let path = config.path(keys::DATA_DIR)?;
    let probe = path.join(format!(".doctor-{}", std::process::id()));
    let written = fs::create_dir_all(&path)
        .and_then(|()| fs::write(&probe, b"x"))
        .and_then(|()| fs::File::open(&probe)?.sync_all())
        .and_then(|()| fs::remove_file(&probe));
    Ok(match written {
        Ok(()) => Check::ok("data", format!("{} can be written", path.display())),
        Err(error) => Check::bad(
            "data",
            Outcome::Fail,
            format!("{}: {error}", path.display()),
            format!(
                "make it writable, or choose another with {}",
                keys::DATA_DIR.env
            ),
        ),
    })
}

/// A local network holds a few hundred files and sockets open.
fn files_limit() -> Check {
    const NEEDED: u64 = 1024;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    match soft {
        Some(soft) if soft < NEEDED => Check::bad(
            "open files",
            Outcome::Warn,
            format!("at most {soft}"),
            format!("raise the limit: ulimit -n {NEEDED}"),
        ),
        Some(soft) => Check::ok("open files", format!("at most {soft}")),
        None => Check::ok("open files", "no limit is known"),
    }
}

fn key(config: &Config) -> Check {
    let exposure = config
        .get(keys::KEY_FILE)
        .and_then(|setting| wallet::exposure(Path::new(&setting.text)));
    match (wallet::configured(config), exposure) {
        (Err(error), _) => Check::bad(
            "key",
            Outcome::Fail,
            error.to_string(),
            "make one with `lemma wallet new`",
        ),
        (Ok(Some(_)), Some(exposure)) => Check::bad(
            "key",
            Outcome::Warn,
            exposure,
            "let only yourself read it: chmod 600 FILE",
        ),
        (Ok(Some(key)), None) => Check::ok("key", format!("account {}", key.address())),
        (Ok(None), _) => Check::ok("key", "none configured; a local network needs none"),
    }
}

fn port(config: &Config, key: keys::Key, in_use_by_us: bool) -> CommandResult<Check> {
    let (host, port) = (config.address(keys::UP_HOST)?, config.integer::<u16>(key)?);
    let name = if key == keys::UP_PORT {
        "API port"
    } else {
        "metrics port"
    };
    Ok(match TcpListener::bind((host, port)) {
        Ok(_) => Check::ok(name, format!("{port} is free")),
        Err(_) if in_use_by_us => {
            Check::ok(name, format!("{port} is in use by the running network"))
        }
        Err(error) => Check::bad(
            name,
            Outcome::Warn,
            format!("{port}: {error}"),
            format!("stop what uses it, or choose another with {}", key.env),
        ),
    })
}

fn gateway(config: &Config) -> Check {
    let status = Client::new(config)
        .and_then(|client| block_on(async { Ok((client.status().await?, client)) }));
    match status {
        Ok((status, client)) if status["ready"] == true => Check::ok(
            "gateway",
            format!(
                "{} is ready at height {}",
                client.address(),
                status["height"]
            ),
        ),
        Ok((status, client)) => Check::bad(
            "gateway",
            Outcome::Warn,
            format!(
                "{} is not ready: {}",
                client.address(),
                harmless(status["reason"].as_str().unwrap_or("no reason"))
            ),
            "wait a moment, then look at `lemma status`",
        ),
        Err(error) => Check::bad(
            "gateway",
            Outcome::Warn,
            error.to_string(),
            error.hints().first().cloned().unwrap_or_default(),
        ),
    }
}
