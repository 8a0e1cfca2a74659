//! `lemma wallet`

use serde_json::json;

use crate::{
    cli::Wallet,
    config::Config,
    error::{CommandError, CommandResult},
    exit::ExitCode,
    shell::Shell,
    wallet,
};

/// Makes and shows keys. A secret is never printed.
pub(super) fn run(command: Wallet, config: &Config, shell: &mut Shell) -> CommandResult {
    match command {
        Wallet::New { output } => {
            let key = wallet::generate()?;
            wallet::store(&key, &output)?;
            if shell.json() {
                return shell.document(&json!({ "address": key.address(), "key_file": output }));
            }
            shell.line(key.address())?;
            shell.note(format_args!(
                "the key is in {}: whoever has it owns the account",
                output.display()
            ));
            Ok(())
        }
        Wallet::Address(_) => {
            let key = wallet::configured(config)?.ok_or_else(|| {
                CommandError::new(ExitCode::Config, "no key is configured")
                    .hint("name a key file with --key-file")
            })?;
            if shell.json() {
                return shell.document(&json!({ "address": key.address() }));
            }
            shell.line(key.address())
        }
    }
}
