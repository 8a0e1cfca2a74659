//! `lemma completions`

use clap::CommandFactory as _;

use crate::{cli::Cli, error::CommandResult, shell::Shell};

/// Prints a completion script.
pub(super) fn run(which: clap_complete::Shell, shell: &mut Shell) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(which, &mut Cli::command(), "lemma", &mut script);
    shell.bytes(&script)
}
