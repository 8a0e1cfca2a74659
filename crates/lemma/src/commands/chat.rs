//! `lemma chat`: a conversation with a language model. The receipt of each answer is checked before the next question.

use std::{
    fs,
    future::pending,
    io::{self, IsTerminal as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use lemma_types::text::{Prompt, Role};
use rustyline::{DefaultEditor, error::ReadlineError};
use tokio::signal::ctrl_c;

use super::{
    block_on,
    run::{ask, checked, language_model, message, opening, request},
};
use crate::{
    cli::Chat,
    client::Client,
    config::{Config, keys},
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    receipts_store::ReceiptStore,
    shell::{Shell, paint, styles},
    text::harmless,
};

/// Why there is no answer to go on from.
enum Broken {
    /// The user has stopped it.
    Stopped,
    Failed(CommandError),
}

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
    let name = paint(styles::HEADING, &model.id);
    match model.manifest.description.trim() {
        "" => shell.note(name),
        description => shell.note(format_args!("{name}: {}", harmless(description))),
    }
    shell.note("Ctrl-C stops an answer, /clear begins anew, Ctrl-D or /exit ends");
    let at_a_terminal = io::stdin().is_terminal();
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
        let answer = tokio::select! {
            answer = ask(&client, &store, &model, &asked, answering.mode, shell) => {
                answer.map_err(Broken::Failed)
            }
            () = interrupt(at_a_terminal) => Err(Broken::Stopped),
        };
        match answer {
            Ok((answer, _)) => {
                let receipt = &answer.signed.receipt.receipt;
                shell.note(checked(receipt.mode));
                shell.note(format_args!("receipt {}", receipt.id()));
                messages.push(message(Role::Assistant, answer.transcript.response.text));
            }
            Err(Broken::Failed(error))
                if !at_a_terminal || error.code() == ExitCode::BrokenPipe =>
            {
                return Err(error);
            }
            // The conversation goes on as if this had not been asked.
            Err(broken) => {
                messages.pop();
                match broken {
                    Broken::Stopped => {
                        shell.line("")?;
                        shell.note("stopped: there is no receipt, and the question is forgotten");
                    }
                    Broken::Failed(error) => {
                        shell.error(&error);
                        if messages.iter().any(|message| message.role == Role::User) {
                            shell.hint("if the conversation is too long, /clear begins anew");
                        }
                    }
                }
            }
        }
    }
}

/// Ctrl-C while an answer comes. Who pipes questions in ends the program with it.
async fn interrupt(at_a_terminal: bool) {
    if at_a_terminal && ctrl_c().await.is_ok() {
        return;
    }
    pending().await
}

/// Questions can be private: the file is readable by the user alone.
fn remember(editor: &mut DefaultEditor, path: &Path, line: &str) -> rustyline::Result<()> {
    editor.add_history_entry(line)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    editor.save_history(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
