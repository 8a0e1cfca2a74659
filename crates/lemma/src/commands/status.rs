//! `lemma status`

use std::time::Duration;

use lemma_types::Address;
use serde_json::Value;

use super::block_on;
use crate::{
    client::Client,
    config::Config,
    error::CommandResult,
    shell::{Shell, paint, styles},
    table::Table,
    text::{grouped, harmless, span},
};

/// Shows how the network is.
pub(super) fn run(config: &Config, shell: &mut Shell) -> CommandResult {
    let client = Client::new(config)?;
    let status = block_on(client.status())?;
    if shell.json() {
        return shell.document(&status);
    }
    let text = |value: &Value| harmless(value.as_str().unwrap_or("unknown"));
    let number = |value: &Value| grouped(value.as_u64().unwrap_or_default());
    let ready = match status["ready"].as_bool() {
        Some(true) => paint(styles::GOOD, "ready".to_owned()).to_string(),
        _ => paint(
            styles::WARNING,
            format!("not ready: {}", text(&status["reason"])),
        )
        .to_string(),
    };
    let age = Duration::from_millis(status["finality_age_ms"].as_u64().unwrap_or_default());
    let workers: &[Value] = status["workers"].as_array().map_or(&[], Vec::as_slice);
    let available = workers
        .iter()
        .filter(|worker| worker["available"] == true)
        .count();
    let rows = [
        ("gateway", format!("{} ({ready})", client.address())),
        ("version", text(&status["version"])),
        (
            "chain id",
            status["chain_id"].as_u64().unwrap_or_default().to_string(),
        ),
        (
            "height",
            format!("{} (final {} ago)", number(&status["height"]), span(age)),
        ),
        ("models", number(&status["models"])),
        (
            "receipts",
            format!(
                "{} settled in {} batches, {} waiting",
                number(&status["receipts"]["settled"]),
                number(&status["receipts"]["batches"]),
                number(&status["receipts"]["pending"]),
            ),
        ),
        (
            "workers",
            format!("{available} of {} available", workers.len()),
        ),
    ];
    for (name, value) in rows {
        shell.line(format_args!("{name:<10}{value}"))?;
    }
    if workers.is_empty() {
        return Ok(());
    }
    shell.line("")?;
    let mut table = Table::new(&["worker", "endpoint", "in flight", "failures", "state"]);
    for worker in workers {
        let state = if worker["available"] == true {
            "available"
        } else {
            "set aside"
        };
        // People compare addresses with their checksum (EIP-55).
        let address = worker["address"]
            .as_str()
            .and_then(|text| text.parse::<Address>().ok());
        table.row([
            address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()),
            text(&worker["endpoint"]),
            number(&worker["in_flight"]),
            number(&worker["failures"]),
            state.to_owned(),
        ]);
    }
    shell.table(&table)
}
