//! The command line `lemma`: what it understands ([`cli`]), where its settings come from ([`config`]), what it does
//! ([`commands`]), how it speaks ([`shell`], [`error`], [`exit`]).
//!
//! Nothing below this crate prints; every error that a user sees is made here.

pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod error;
pub mod exit;
pub mod hub;
mod input;
mod logging;
mod progress;
pub mod receipts_store;
mod samples;
pub mod shell;
pub mod table;
pub mod text;
mod usage;
pub mod wallet;

use std::process;

use anstream::ColorChoice;
use clap::{CommandFactory as _, Parser as _};
use cli::Cli;
use config::{Config, Sources, keys};
use error::CommandResult;
use exit::ExitCode;
use shell::{Options, Shell};

/// Runs the process's command line.
#[must_use]
pub fn run() -> process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; clap knows which.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Ok
            }
            .into();
        }
    };
    let options = Options {
        json: cli.global.json,
        quiet: cli.global.quiet,
        no_progress: cli.global.no_progress,
    };
    // Until the configuration is read, the environment decides about colour.
    let mut shell = Shell::new(options, ColorChoice::Auto);
    match execute(cli, &mut shell) {
        Ok(code) => code.into(),
        Err(error) => {
            shell.error(&error);
            error.code().into()
        }
    }
}

fn execute(cli: Cli, shell: &mut Shell) -> CommandResult<ExitCode> {
    if cli.global.version {
        return commands::version::run(shell).map(|()| ExitCode::Ok);
    }
    let config = Config::resolve(
        &Sources::of_process(cli.global.config.as_deref())?,
        &cli.overrides(),
    )?;
    let options = Options {
        no_progress: !config.boolean(keys::PROGRESS)?,
        ..shell.options()
    };
    *shell = Shell::new(options, color(config.text(keys::COLOR)?));
    let Some(command) = cli.command else {
        shell.note(Cli::command().render_help().ansi());
        return Ok(ExitCode::Usage);
    };
    commands::run(command, &cli.global, &config, shell)
}

fn color(when: &str) -> ColorChoice {
    match when {
        "always" => ColorChoice::Always,
        "never" => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}
