//! What the commands do: one module each.

mod account;
mod chat;
mod completions;
mod config;
mod doctor;
mod embedding;
mod folder;
mod infer;
mod language;
mod local;
mod local_text;
mod models;
mod proof;
mod pull;
mod push;
mod quantized;
mod receipts;
mod run;
mod status;
mod submit;
mod up;
mod verify;
pub(crate) mod version;
mod wallet;

use std::future::Future;

use tokio::runtime;

use crate::{
    cli::{Command, Global, Models},
    config::Config,
    error::{CommandResult, Context as _},
    exit::ExitCode,
    logging,
    shell::Shell,
};

/// Carries out a command.
///
/// # Errors
/// What the user is told.
pub(crate) fn run(
    command: Command,
    global: &Global,
    config: &Config,
    shell: &mut Shell,
) -> CommandResult<ExitCode> {
    let form = match &command {
        Command::Up(up) => up.log_format,
        _ => crate::cli::LogFormat::Text,
    };
    logging::start(global.verbose, form)?;
    let done = match command {
        // Their exit code says more than success.
        Command::Verify(arguments) => return verify::run(&arguments, shell),
        Command::Doctor(_) => return doctor::run(config, shell),
        Command::Receipts(arguments) => return receipts::run(arguments, config, shell),
        Command::Up(arguments) => return up::run(&arguments, config, shell),
        Command::Models(Models::Quantize(arguments)) => quantized::quantize(&arguments, shell),
        Command::Proof(arguments) => proof::run(&arguments, config, shell),
        Command::Models(Models::Push(arguments)) => push::run(&arguments, config, shell),
        Command::Models(Models::Pull(arguments)) => pull::run(&arguments, shell),
        Command::Models(arguments) => models::run(&arguments, config, shell),
        Command::Infer(arguments) => infer::run(&arguments, config, shell),
        Command::Run(arguments) => self::run::run(&arguments, config, shell),
        Command::Chat(arguments) => chat::run(&arguments, config, shell),
        Command::Status(_) => status::run(config, shell),
        Command::Account(arguments) => account::run(arguments, config, shell),
        Command::Wallet(arguments) => wallet::run(arguments, config, shell),
        Command::Config(arguments) => self::config::run(&arguments, config, shell),
        Command::Completions { shell: which } => completions::run(which, shell),
    };
    done.map(|()| ExitCode::Ok)
}

/// Runs a client's work: one thread is enough to wait for a gateway.
fn block_on<T>(work: impl Future<Output = CommandResult<T>>) -> CommandResult<T> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(ExitCode::Internal, || {
            "can not start the runtime".to_owned()
        })?
        .block_on(work)
}
