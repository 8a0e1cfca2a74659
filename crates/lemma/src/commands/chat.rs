//! `lemma chat`: a conversation with a language model. The receipt of each answer is checked before the next question.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use lemma_types::text::{Prompt, Role};
use rustyline::{DefaultEditor, error::ReadlineError};

use super::{
    block_on,
    run::{ask, checked, language_model, message, opening, request},
};
use crate::{
    cli::Chat,
    client::Client,
    config::{Config, keys},
    error::{CommandResult, Context as _},
    exit::ExitCode,
    receipts_store::ReceiptStore,
    shell::{Shell, paint, styles},
};

/// Talks until the user ends it.
pub(super) fn run(arguments: &Chat, config: &Config, shell: &mut Shell) -> CommandResult {
    // Nothing else waits for the runtime while the user thinks.
    block_on(talk(arguments, config, shell))
}

async fn talk(arguments: &Chat, config: &Config, shell: &mut Shell) -> CommandResult {
    let client = Client::new(config)?;
    let store = ReceiptStore::open(config)?;
    let answering = &arguments.answering;
    let model = language_model(&client, &arguments.model).await?;
    shell.note(format_args!(
        "{}: Ctrl-D or /exit ends, /clear begins anew",
        paint(styles::HEADING, &model.id)
    ));
    let cannot = || "can not read from the terminal".to_owned();
    let mut editor = DefaultEditor::new().context(ExitCode::Failed, cannot)?;
    let history = config.path(keys::DATA_DIR)?.join("chat-history");
    // The first time there is none.
    let _ = editor.load_history(&history);
    let mut messages = opening(answering);
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            // As in a shell: the line is dropped.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context(ExitCode::Failed, cannot),
        };
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/clear" => {
                messages = opening(answering);
                continue;
            }
            _ => {}
        }
        if let Err(error) = remember(&mut editor, &history, &line) {
            shell.warning(format_args!("what you type is not remembered: {error}"));
        }
        messages.push(message(Role::User, line));
        let asked = request(answering, Prompt::Messages(messages.clone()))?;
        let (answer, _) = ask(&client, &store, &model, &asked, answering.mode, shell).await?;
        shell.note(format_args!(
            "{}; receipt {}",
            checked(answer.signed.receipt.receipt.mode),
            answer.signed.receipt.receipt.id()
        ));
        messages.push(message(Role::Assistant, answer.transcript.response.text));
    }
}

/// Questions can be private: the file is readable by the user alone.
fn remember(editor: &mut DefaultEditor, path: &Path, line: &str) -> rustyline::Result<()> {
    editor.add_history_entry(line)?;
    editor.save_history(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
