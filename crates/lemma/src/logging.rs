//! The log, on standard error.

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    cli::LogFormat,
    config::LOG_ENV,
    error::{CommandError, CommandResult},
    exit::ExitCode,
};

/// Crates of this project, for filters.
const OURS: [&str; 8] = [
    "lemma_cli",
    "lemma_api",
    "lemma_node",
    "lemma_chain",
    "lemma_store",
    "lemma_ledger",
    "lemma_graph",
    "lemma_verify",
];

/// Engines of consensus that call it an error when their peers stop before them, as they do whenever a node is stopped.
const LOUD_AT_THE_END: [&str; 2] = [
    "commonware_broadcast::buffered::engine",
    "commonware_resolver::p2p::engine",
];

/// Starts the log. `verbose` counts `-v`: 0 is warnings, 1 what we do, 2 details, 3 also what our dependencies do.
///
/// # Errors
/// If `LEMMA_LOG` is not a filter.
pub(crate) fn start(verbose: u8, form: LogFormat) -> CommandResult {
    let filter = match std::env::var(LOG_ENV) {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).map_err(|error| {
                CommandError::new(
                    ExitCode::Config,
                    format!("{LOG_ENV}=`{directives}` is not a filter"),
                )
                .because(&error)
                .hint("for example LEMMA_LOG=info,lemma_chain=debug")
            })?
        }
        _ => EnvFilter::new(directives(verbose)),
    };
    let layer = match form {
        LogFormat::Text => fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(AutoStream::choice(&io::stderr()) != ColorChoice::Never)
            .with_target(true)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true)
            .boxed(),
    };
    // Fails only if there is a log already: then that one is used.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    Ok(())
}

fn directives(verbose: u8) -> String {
    let (ours, others) = match verbose {
        0 => ("warn", "error"),
        1 => ("info", "error"),
        2 => ("debug", "info"),
        _ => ("trace", "debug"),
    };
    let mut all: Vec<String> = OURS.iter().map(|name| format!("{name}={ours}")).collect();
    if verbose == 0 {
        all.extend(LOUD_AT_THE_END.map(|name| format!("{name}=off")));
    }
    format!("{others},{}", all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_filter() {
        for verbose in 0..5 {
            assert!(EnvFilter::try_new(directives(verbose)).is_ok());
        }
    }
}
