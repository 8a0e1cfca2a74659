//! `lemma run`: ask a language model, print the answer as it comes, check the receipt at its end.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use lemma_types::{
    limits,
    text::{Finish, Message, Prompt, Role, Sampling, TextRequest, Transcript},
};
use lemma_verify::{Opened, Report};
use serde_json::json;

use super::{
    block_on,
    infer::{check_signed, refused, registered},
};
use crate::{
    cli::Run,
    client::{Client, ModelInfo, Piece, TextAnswer},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    receipts_store::{ReceiptStore, StoredReceipt},
    shell::{Shell, paint, styles},
};

/// Asks a language model.
pub(super) fn run(arguments: &Run, config: &Config, shell: &mut Shell) -> CommandResult {
    let request = request(arguments)?;
    let client = Client::new(config)?;
    let store = ReceiptStore::open(config)?;
    let (model, answer, report) = block_on(ask(arguments, request, &client, &store, shell))?;
    if let Some(path) = &arguments.transcript {
        write_transcript(path, &answer.transcript)?;
    }
    let (receipt, response) = (&answer.signed.receipt.receipt, &answer.transcript.response);
    if shell.json() {
        return shell.document(&json!({
            "model": model.id,
            "model_root": model.root,
            "mode": receipt.mode,
            "text": response.text,
            "finish": response.finish,
            "prompt_tokens": response.prompt_tokens,
            "answer_tokens": response.tokens.len(),
            "seed": answer.transcript.request.sampling.seed,
            "receipt_id": receipt.id(),
            "worker": receipt.worker,
            "checks": report.checks,
        }));
    }
    if response.finish == Finish::Length {
        shell.note("the answer was cut off: --max-tokens, or the model's context, allows no more");
    }
    shell.note(format_args!("receipt {}", receipt.id()));
    shell.note(format_args!(
        "{} in mode `{}`: signature, model, request and answer of worker {}",
        paint(styles::GOOD, "checked"),
        receipt.mode,
        receipt.worker,
    ));
    Ok(())
}

fn request(arguments: &Run) -> CommandResult<TextRequest> {
    let text = match &arguments.prompt {
        Some(prompt) => prompt.clone(),
        None => read_prompt()?,
    };
    let message = |role, content: &str| Message {
        role,
        content: content.to_owned(),
    };
    let prompt = if arguments.raw {
        Prompt::Text(text)
    } else {
        let system = arguments.system.as_deref();
        let mut messages: Vec<Message> = system
            .map(|system| message(Role::System, system))
            .into_iter()
            .collect();
        messages.push(message(Role::User, &text));
        Prompt::Messages(messages)
    };
    let request = TextRequest {
        schema: TextRequest::SCHEMA.to_owned(),
        prompt,
        sampling: Sampling {
            seed: match arguments.seed {
                Some(seed) => seed,
                None => lemma_node::keys::random_word().0[0..8]
                    .iter()
                    .fold(0, |seed, byte| (seed << 8) | u64::from(*byte)),
            },
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            top_k: arguments.top_k,
            ..Sampling::default()
        },
        max_tokens: arguments.max_tokens,
        stop: arguments.stop.clone(),
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

/// Asks, prints what comes, checks everything that can be checked now, and stores the receipt.
async fn ask(
    arguments: &Run,
    request: TextRequest,
    client: &Client,
    store: &ReceiptStore,
    shell: &mut Shell,
) -> CommandResult<(ModelInfo, TextAnswer, Report)> {
    let model = client.model(&arguments.model).await?;
    if !model.manifest.format.is_text() {
        let message = format!("`{}` takes tensors, not text", model.id);
        let command = format!("lemma infer {} --input FILE", model.id);
        return Err(
            CommandError::new(ExitCode::Usage, message).hint(format!("run it with: {command}"))
        );
    }
    registered(client, &model).await?;
    let chain_id = client.chain_id().await?;
    let mut generation = client.generate(&model.id, &request, arguments.mode).await?;
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
    if answer.transcript.request != request {
        return Err(refused("the receipt is for another request than was asked"));
    }
    if answer.transcript.response.text != printed {
        return Err(refused("the text that came is not the receipt's"));
    }
    let opened = Opened {
        text: Some(answer.transcript.clone()),
        ..Opened::default()
    };
    let (signed, request_id) = (&answer.signed, generation.request_id);
    let report = check_signed(
        &model,
        signed,
        request_id,
        arguments.mode,
        chain_id,
        &opened,
    )?;
    let receipt = signed.receipt.clone();
    store.put(&StoredReceipt::new(
        chain_id,
        &model.id,
        client.address(),
        receipt,
        signed.openings,
    ))?;
    Ok((model, answer, report))
}

fn write_transcript(path: &Path, transcript: &Transcript) -> CommandResult {
    let cannot = || format!("can not write {}", path.display());
    let json = serde_json::to_vec(transcript).context(ExitCode::Failed, cannot)?;
    fs::write(path, json).context(ExitCode::Failed, cannot)
}
