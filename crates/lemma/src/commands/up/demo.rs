//! The tour of `lemma up --demo`: what a first user would do, through the same code and the same HTTP, each step with the
//! command that repeats it.

use std::path::PathBuf;

use lemma_node::Network;
use lemma_types::{
    B256, Mode,
    tensor::TensorData,
    text::{Prompt, Role, Sampling, TextRequest},
};

use super::banner::Endpoints;
use crate::{
    cli::Verify,
    client::Client,
    commands::{infer, receipts, run as conversation, verify},
    config::{Config, keys},
    error::{CommandError, CommandResult},
    exit::ExitCode,
    input, progress,
    receipts_store::ReceiptStore,
    samples,
    shell::{Shell, paint, styles},
    text::{grouped, size},
};

/// What the language model is asked. It adds better than it knows the world.
const QUESTION: &str = "What is 7 + 18?";

/// Files that the tour uses.
struct Places {
    example: PathBuf,
    model: PathBuf,
    answer: PathBuf,
    bundle: PathBuf,
    trusted_root: PathBuf,
}

impl Places {
    fn of(network: &Network) -> Self {
        let samples = network.data_dir().join("samples").join(samples::DIGITS);
        Self {
            example: samples.join("example.json"),
            model: samples.join("model.onnx"),
            answer: network.data_dir().join("answer.json"),
            bundle: network.data_dir().join("receipt.json"),
            trusted_root: network.trusted_root_path().to_owned(),
        }
    }
}

/// Gives the tour. The network stays up.
pub(super) async fn run(
    endpoints: &Endpoints,
    network: &Network,
    config: &Config,
    shell: &mut Shell,
) -> CommandResult {
    let places = Places::of(network);
    let client = Client::at(&endpoints.api_url(), config.duration(keys::TIMEOUT)?)?;
    let store = ReceiptStore::open(config)?;
    let flag = endpoints.api_flag();

    let receipt = ask(&client, &store, &places, &flag, shell).await?;
    keep(&client, &store, &places, &flag, receipt, shell).await?;
    check(&places, shell)?;
    converse(&client, &store, &flag, shell).await?;
    shell.line("")?;
    shell.line("The network stays up: try the commands above in another terminal. Ctrl-C stops it.")
}

fn step(number: u8, title: &str, command: &str, shell: &mut Shell) -> CommandResult {
    shell.line("")?;
    shell.line(paint(styles::HEADING, format!("{number}. {title}")))?;
    shell.line(format_args!("   $ {}", paint(styles::COMMAND, command)))?;
    shell.line("")
}

async fn ask(
    client: &Client,
    store: &ReceiptStore,
    places: &Places,
    flag: &str,
    shell: &mut Shell,
) -> CommandResult<B256> {
    let command = format!(
        "lemma infer {} --input {} --output {}{flag}",
        samples::DIGITS,
        places.example.display(),
        places.answer.display(),
    );
    step(
        1,
        "Ask the sample model which digit this is",
        &command,
        shell,
    )?;
    let model = client.model(samples::DIGITS).await?;
    let inputs = input::read_all(
        &[places.example.display().to_string()],
        &model.manifest.inputs,
    )?;
    picture(&inputs, shell)?;
    let checked = infer::execute(client, store, &model, inputs, Mode::Signed).await?;
    for output in &checked.answer.outputs {
        infer::print_tensor(output, shell)?;
    }
    infer::write_outputs(&places.answer, &checked.answer.outputs)?;
    let (digit, probability) = most_likely(&checked.answer.outputs)?;
    shell.line(format_args!(
        "the model reads a {digit}, with probability {probability:.4}"
    ))?;
    let signed = &checked.answer.receipt.receipt;
    shell.line(format_args!("receipt {}", signed.id()))?;
    shell.line(format_args!(
        "  signed by worker {} and checked: it binds model, request, answer and block {}",
        signed.worker,
        grouped(signed.anchor_height),
    ))?;
    Ok(signed.id())
}

async fn keep(
    client: &Client,
    store: &ReceiptStore,
    places: &Places,
    flag: &str,
    id: B256,
    shell: &mut Shell,
) -> CommandResult {
    let command = format!(
        "lemma receipts get {id} --output {} --wait{flag}",
        places.bundle.display()
    );
    step(
        2,
        "Keep the evidence, once the ledger has settled it",
        &command,
        shell,
    )?;
    let spinner = progress::spinner("waiting for settlement", shell);
    let bundle = receipts::fetch(client, store, id, client.timeout()).await;
    spinner.finish_and_clear();
    let bundle = bundle?;
    let bytes = receipts::encode(&bundle)?;
    receipts::write_private(&places.bundle, &bytes)?;
    shell.line(format_args!(
        "{} ({})",
        places.bundle.display(),
        size(bytes.len() as u64)
    ))?;
    if let Some(settlement) = &bundle.settlement {
        let batch = &settlement.batch;
        let receipts = if batch.count == 1 {
            "receipt"
        } else {
            "receipts"
        };
        shell.line(format_args!(
            "  batch {} of {} {receipts}, settled by one transaction in block {}, final",
            batch.index,
            grouped(batch.count),
            grouped(batch.height),
        ))?;
    }
    Ok(())
}

fn check(places: &Places, shell: &mut Shell) -> CommandResult {
    let command = format!(
        "lemma verify {} --trusted-root {} --input {} --output {} --recompute --model {}",
        places.bundle.display(),
        places.trusted_root.display(),
        places.example.display(),
        places.answer.display(),
        places.model.display(),
    );
    let title = "Check it with no network, and run the model again";
    step(3, title, &command, shell)?;
    let arguments = Verify {
        transcript: None,
        bundle: places.bundle.clone(),
        trusted_root: places.trusted_root.clone(),
        input: vec![places.example.display().to_string()],
        output: vec![places.answer.display().to_string()],
        recompute: true,
        model: Some(places.model.clone()),
    };
    match verify::run(&arguments, shell)? {
        ExitCode::Ok => Ok(()),
        code => Err(CommandError::new(
            code,
            "the tour's own receipt does not verify",
        )),
    }
}

async fn converse(
    client: &Client,
    store: &ReceiptStore,
    flag: &str,
    shell: &mut Shell,
) -> CommandResult {
    let command = format!(
        "lemma run {} '{QUESTION}' --temperature 0{flag}",
        samples::NANO
    );
    step(4, "Ask a very small language model", &command, shell)?;
    let request = TextRequest {
        schema: TextRequest::SCHEMA.to_owned(),
        prompt: Prompt::Messages(vec![conversation::message(Role::User, QUESTION.to_owned())]),
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        max_tokens: 64,
        stop: Vec::new(),
        form: None,
        tools: None,
        logprobs: None,
    };
    let model = conversation::language_model(client, samples::NANO).await?;
    let (answer, _) = conversation::ask(client, store, &model, &request, None, shell).await?;
    shell.line(format_args!(
        "receipt {}",
        answer.signed.receipt.receipt.id()
    ))?;
    shell.line("  it names request, seed and every token, so one pass of the model replays it")
}

/// The values of a tensor of floats.
fn floats(tensor: &TensorData) -> Vec<f32> {
    tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Shows the example, 8 by 8 pixels from 0 to 16.
fn picture(inputs: &[TensorData], shell: &mut Shell) -> CommandResult {
    const SHADES: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];
    let Some(image) = inputs.first() else {
        return Ok(());
    };
    for row in floats(image).chunks(8) {
        let shade = |pixel: &f32| SHADES[((pixel / 4.0) as usize).min(SHADES.len() - 1)];
        let line: String = row.iter().map(shade).collect();
        shell.line(format_args!("     {}", line.trim_end()))?;
    }
    shell.line("")
}

fn most_likely(outputs: &[TensorData]) -> CommandResult<(usize, f32)> {
    let probabilities = outputs.first().map(floats).unwrap_or_default();
    probabilities
        .into_iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .ok_or_else(|| CommandError::failed("the sample model gave no output"))
}
