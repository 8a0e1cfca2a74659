//! `lemma run`: ask a language model, print the answer as it comes, check the receipt at its end.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use lemma_types::{
    Mode, limits,
    text::{Finish, Message, Prompt, Role, Sampling, TextRequest, Transcript},
};
use lemma_verify::{Opened, Report};
use serde_json::json;

use super::{
    block_on,
    infer::{check_signed, refused, registered},
};
use crate::{
    cli::{Answering, Run},
    client::{Client, ModelInfo, Piece, TextAnswer},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    receipts_store::{ReceiptStore, StoredReceipt},
    shell::{Shell, paint, styles},
};

/// Asks a language model.
pub(super) fn run(arguments: &Run, config: &Config, shell: &mut Shell) -> CommandResult {
    let text = match &arguments.prompt {
        Some(prompt) => prompt.clone(),
        None => read_prompt()?,
    };
    let answering = &arguments.answering;
    let prompt = if arguments.raw {
        Prompt::Text(text)
    } else {
        let mut messages = opening(answering);
        messages.push(message(Role::User, text));
        Prompt::Messages(messages)
    };
    let request = request(answering, prompt)?;
    let client = Client::new(config)?;
    let store = ReceiptStore::open(config)?;
    let (model, answer, report) = block_on(async {
        let model = language_model(&client, &arguments.model).await?;
        let asked = ask(&client, &store, &model, &request, answering.mode, shell).await;
        asked.map(|(answer, report)| (model, answer, report))
    })?;
    if let Some(path) = &arguments.transcript {
        write_transcript(path, &answer.transcript)?;
    }
    if shell.json() {
        return document(&model, &answer, &report, shell);
    }
    let receipt = &answer.signed.receipt.receipt;
    shell.note(format_args!("receipt {}", receipt.id()));
    shell.note(format_args!(
        "{} of worker {}",
        checked(receipt.mode),
        receipt.worker
    ));
    Ok(())
}

/// What a receipt that checks out says of an answer, short enough for each answer.
pub(super) fn checked(mode: Mode) -> String {
    match mode {
        Mode::Relayed => {
            let relayed = paint(styles::WARNING, "relayed");
            format!("{relayed}: another server's answer, which model ran is not known; signature")
        }
        mode => {
            let checked = paint(styles::GOOD, "checked");
            format!("{checked} in mode `{mode}`: signature, model, request and answer")
        }
    }
}

fn document(
    model: &ModelInfo,
    answer: &TextAnswer,
    report: &Report,
    shell: &mut Shell,
) -> CommandResult {
    let (receipt, response) = (&answer.signed.receipt.receipt, &answer.transcript.response);
    shell.document(&json!({
        "model": model.id,
        "model_root": model.root,
        "mode": receipt.mode,
        "text": response.text,
        "finish": response.finish,
        "prompt_tokens": response.usage().0,
        "answer_tokens": response.usage().1,
        "seed": answer.transcript.request.sampling.seed,
        "receipt_id": receipt.id(),
        "worker": receipt.worker,
        "checks": report.checks,
    }))
}

pub(super) fn message(role: Role, content: String) -> Message {
    Message::new(role, content)
}

/// What stands above every question.
pub(super) fn opening(answering: &Answering) -> Vec<Message> {
    let system = answering.system.clone();
    system
        .map(|system| message(Role::System, system))
        .into_iter()
        .collect()
}

/// The canonical request. A seed that is not given is drawn.
pub(super) fn request(answering: &Answering, prompt: Prompt) -> CommandResult<TextRequest> {
    let drawn = || {
        let word = lemma_node::keys::random_word();
        word.0[..8]
            .iter()
            .fold(0, |seed, byte| (seed << 8) | u64::from(*byte))
    };
    let request = TextRequest {
        schema: TextRequest::SCHEMA.to_owned(),
        prompt,
        sampling: Sampling {
            seed: answering.seed.unwrap_or_else(drawn),
            temperature: answering.temperature,
            top_p: answering.top_p,
            top_k: answering.top_k,
            ..Sampling::default()
        },
        max_tokens: answering.max_tokens,
        stop: answering.stop.clone(),
        form: None,
        tools: None,
        logprobs: None,
    };
    request.check().context(ExitCode::Usage, || {
        "the request can not be asked".to_owned()
    })?;
    Ok(request)
}

fn read_prompt() -> CommandResult<String> {
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CommandError::new(ExitCode::Usage, "there is no prompt")
            .hint("give it as an argument, or through a pipe"));
    }
    let cannot = || "can not read the prompt from standard input".to_owned();
    let mut text = String::new();
    let most = limits::TEXT_REQUEST_BYTES as u64;
    let read = (&mut stdin).take(most + 1).read_to_string(&mut text);
    if read.context(ExitCode::Failed, cannot)? as u64 > most {
        return Err(CommandError::failed(cannot()).cause(format!("it has more than {most} bytes")));
    }
    Ok(text)
}

/// The model with this name, if it takes text and is the one that the ledger names.
pub(super) async fn language_model(client: &Client, name: &str) -> CommandResult<ModelInfo> {
    let model = client.model(name).await?;
    if !model.manifest.format.is_text() {
        let message = format!("`{}` takes tensors, not text", model.id);
        return Err(CommandError::new(ExitCode::Usage, message).hint(format!(
            "run it with: lemma infer {} --input FILE",
            model.id
        )));
    }
    registered(client, &model).await?;
    Ok(model)
}

/// Asks, prints what comes, checks everything that can be checked now, and stores the receipt.
pub(super) async fn ask(
    client: &Client,
    store: &ReceiptStore,
    model: &ModelInfo,
    request: &TextRequest,
    mode: Option<Mode>,
    shell: &mut Shell,
) -> CommandResult<(TextAnswer, Report)> {
    let mode = mode.unwrap_or(model.manifest.format.mode());
    let chain_id = client.chain_id().await?;
    let mut generation = client.generate(&model.id, request, mode).await?;
    let mut printed = String::new();
    let answer = loop {
        match generation.next().await? {
            Piece::Text(text) => {
                if !shell.json() {
                    shell.piece(&text)?;
                }
                printed += &text;
            }
            Piece::Done(answer) => break *answer,
        }
    };
    if !shell.json() && !printed.ends_with('\n') {
        shell.line("")?;
    }
    let TextAnswer { transcript, signed } = &answer;
    if transcript.request != *request {
        return Err(refused("the receipt is for another request than was asked"));
    }
    if transcript.response.text != printed {
        return Err(refused("the text that came is not the receipt's"));
    }
    if !shell.json() && transcript.response.finish == Finish::Length {
        shell.note("the answer was cut off: --max-tokens, or the model's context, allows no more");
    }
    let opened = Opened {
        text: Some(transcript.clone()),
        ..Opened::default()
    };
    let report = check_signed(
        model,
        signed,
        None,
        generation.request_id,
        mode,
        chain_id,
        &opened,
    )?;
    store.put(&StoredReceipt::new(
        chain_id,
        &model.id,
        client.address(),
        signed.receipt.clone(),
        signed.openings,
    ))?;
    Ok((answer, report))
}

fn write_transcript(path: &Path, transcript: &Transcript) -> CommandResult {
    let cannot = || format!("can not write {}", path.display());
    let json = serde_json::to_vec(transcript).context(ExitCode::Failed, cannot)?;
    fs::write(path, json).context(ExitCode::Failed, cannot)
}
