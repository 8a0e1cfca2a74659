//! The command line's types. What the commands do is in [`commands`](crate::commands).

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::Styles};
use lemma_types::{Address, Amount, B256, Digest, Mode, ModelName};

use crate::{
    config::{Override, keys},
    hub::HubModel,
    shell::styles,
    text::{HumanDuration, HumanSize},
};

const STYLES: Styles = Styles::styled()
    .header(styles::HEADING)
    .usage(styles::HEADING)
    .literal(styles::COMMAND)
    .placeholder(styles::PLACEHOLDER)
    .error(styles::ERROR)
    .valid(styles::COMMAND)
    .invalid(styles::WARNING);

const EXAMPLES: &str = "\
Start here:
  lemma up --demo                                          a whole network, and a tour of it
  lemma infer lemma/digits --input models/digits/example.json
  lemma run OWNER/MODEL 'Hello'                            ask a language model
  lemma receipts get ID --output receipt.json --wait
  lemma verify receipt.json --trusted-root root.json       no network needed

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 not found, 5 unreachable,
6 funds, 7 verification failed, 8 evidence missing, 9 timeout. All are in docs/cli.md.";

/// Host AI models, run them, and check every answer.
#[derive(Debug, Parser)]
#[command(
    name = "lemma",
    styles = STYLES,
    after_help = EXAMPLES,
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more about what happens; repeat for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN")]
    pub color: Option<Color>,
    /// Do not draw progress
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Read this configuration file, and no other [env: LEMMA_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the version (with --json: everything that fixes results)
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What `lemma` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole network on this machine: validators, workers, gateway
    Up(Up),
    /// Publish models and look at them
    #[command(subcommand)]
    Models(Models),
    /// Run a model, check the receipt, print the answer
    Infer(Infer),
    /// Ask a language model, print the answer as it comes, check the receipt
    Run(Run),
    /// Talk with a language model; the receipt of each answer is checked
    Chat(Chat),
    /// Fetch and list receipts
    #[command(subcommand)]
    Receipts(Receipts),
    /// Check a receipt offline
    Verify(Verify),
    /// Prove what a quantised model computes, and check such proofs, with no network
    #[command(subcommand)]
    Proof(ProofCommand),
    /// Show how the network is
    Status(Client),
    /// Balances and transfers
    #[command(subcommand)]
    Account(Account),
    /// Make keys
    #[command(subcommand)]
    Wallet(Wallet),
    /// Check this machine and its configuration
    Doctor(Client),
    /// Show the configuration and where it comes from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How to reach a gateway.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Gateway")]
pub struct Client {
    /// Address of the gateway [default: http://127.0.0.1:8402] [env: LEMMA_API]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
    /// How long to wait [default: 60s] [env: LEMMA_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<HumanDuration>,
}

/// Who signs a transaction.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Signing")]
pub struct Signer {
    /// File with the secret key [env: LEMMA_KEY_FILE; LEMMA_KEY holds a key itself]
    ///
    /// Without one, a development account signs if the network is a local one on this machine.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// `lemma up`
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Examples:
  lemma up                        resume the local network, or start a new one
  lemma up --upstream http://127.0.0.1:8000/v1 --upstream-model llama3
  lemma up --demo                 then run and verify an inference, showing each command
  lemma up --port 0 --metrics-port 0 --data-dir ./net --json")]
pub struct Up {
    /// Afterwards do what a first user would, and show it
    #[arg(long, conflicts_with = "json")]
    pub demo: bool,
    /// Validators of a new network [default: 4] [env: LEMMA_UP_VALIDATORS]
    #[arg(long, value_name = "N")]
    pub validators: Option<u32>,
    /// Workers [default: 2] [env: LEMMA_UP_WORKERS]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Where all state lives [default: `local` in the user's data directory] [env: LEMMA_UP_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1] [env: LEMMA_UP_HOST]
    #[arg(long, value_name = "IP")]
    pub host: Option<String>,
    /// Port of the API; 0 picks a free one [default: 8402] [env: LEMMA_UP_PORT]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Port of metrics and health; 0 picks a free one [default: 9402] [env: LEMMA_UP_METRICS_PORT]
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// A block is made at least this often [default: 1s] [env: LEMMA_UP_HEARTBEAT]
    #[arg(long, value_name = "DURATION")]
    pub heartbeat: Option<HumanDuration>,
    /// How long a worker gathers receipts before it settles them [default: 1s] [env: LEMMA_UP_SETTLE_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    pub settle_interval: Option<HumanDuration>,
    /// Let all workers front this server with OpenAI's API; the receipts are `relayed` [env: LEMMA_UP_UPSTREAM]
    ///
    /// The key that it wants, if any, is in the environment variable LEMMA_UPSTREAM_KEY.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// The model to ask that server for [env: LEMMA_UP_UPSTREAM_MODEL]
    #[arg(long, value_name = "NAME")]
    pub upstream_model: Option<String>,
    /// The name under which it is published [default: upstream/NAME] [env: LEMMA_UP_UPSTREAM_NAME]
    #[arg(long, value_name = "OWNER/MODEL")]
    pub upstream_name: Option<ModelName>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `lemma models`
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Import a model, upload it, register its name
    #[command(after_help = "\
Example:
  lemma models push my-model.onnx --name acme/x --licence MIT")]
    Push(Push),
    /// Fetch a model's files from a hub, every hash checked
    #[command(after_help = "\
Examples:
  lemma models pull hf:HuggingFaceTB/SmolLM2-135M-Instruct
  lemma models pull hf:OWNER/NAME@REVISION --file model-Q8_0.gguf --output models

HF_ENDPOINT names another hub, HF_TOKEN a token for models that are not public. Run again, it goes on where it ended.")]
    Pull(Pull),
    /// List the models of the network
    #[command(visible_alias = "list")]
    Ls(Client),
    /// Show a model's signature, terms and hashes
    Show {
        /// Name, or root of the manifest
        model: String,
        /// Print the manifest as it is hashed
        #[arg(long)]
        manifest: bool,
        /// How to reach the gateway.
        #[command(flatten)]
        client: Client,
    },
    /// Check that a local file is the model of that name
    Verify {
        /// The ONNX file
        path: PathBuf,
        /// Name, or root of the manifest
        model: String,
        /// How to reach the gateway.
        #[command(flatten)]
        client: Client,
    },
    /// Make a quantised model, which can be proved, of an ONNX model
    #[command(after_help = "\
Data are .npy files (or request bodies in JSON) with samples along the first axis.

Example:
  lemma models quantize model.onnx --calibration images.npy --output model.integer")]
    Quantize(Quantize),
}

/// `lemma models quantize`
#[derive(Args, Clone, Debug)]
pub struct Quantize {
    /// The ONNX file
    pub path: PathBuf,
    /// Typical inputs, on which scales are chosen; repeat for each input
    #[arg(long, required = true, value_name = "[NAME=]FILE")]
    pub calibration: Vec<String>,
    /// Inputs on which the accuracy is measured; without, every fourth sample is kept for it if there are eight
    #[arg(long, value_name = "[NAME=]FILE")]
    pub evaluation: Vec<String>,
    /// Where to write the quantised model; end it in .integer to publish it
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// `lemma proof`
#[derive(Debug, Subcommand)]
pub enum ProofCommand {
    /// Run a quantised model and prove the result
    #[command(after_help = "\
Examples:
  lemma proof prove --model model.integer --input x.npy --output answer.proof
  lemma proof prove --model model.integer --input x.npy --receipt receipt.json --output proved.json")]
    Prove(Prove),
    /// Check a proof
    #[command(after_help = "\
Exits with 0 if the proof holds, 7 if not.

Examples:
  lemma proof verify answer.proof --model-root ROOT
  lemma proof verify answer.proof --model model.integer --input x.npy")]
    Verify(VerifyProof),
    /// Show what a proof says, how sure it is, and how large its parts are
    Show {
        /// The proof
        path: PathBuf,
    },
    /// Have the ledger check the proof of a receipt, and say so in an event
    #[command(after_help = "\
Examples:
  lemma proof submit receipt.json --name lemma/digits-int8
  lemma proof submit raised.json --name lemma/digits-int8 --input x.npy")]
    Submit(SubmitProof),
}

/// `lemma proof submit`
#[derive(Args, Clone, Debug)]
pub struct SubmitProof {
    /// The bundle of a receipt, with its proof
    pub path: PathBuf,
    /// Input of a receipt that was raised, as FILE or NAME=FILE; everyone then sees it
    #[arg(long, short, value_name = "[NAME=]FILE")]
    pub input: Vec<String>,
    /// The name that the receipt's model is registered under
    #[arg(long)]
    pub name: ModelName,
    /// Who signs.
    #[command(flatten)]
    pub signer: Signer,
    /// How to reach the gateway.
    #[command(flatten)]
    pub client: Client,
}

/// `lemma proof prove`
#[derive(Args, Clone, Debug)]
pub struct Prove {
    /// The quantised model
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Input, as FILE or NAME=FILE; samples along the first axis are proved together
    #[arg(long, short, required = true, value_name = "[NAME=]FILE")]
    pub input: Vec<String>,
    /// Where to write the proof, or with --receipt the bundle that has it
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Raise this receipt of the model, a bundle with its salts, to `proved`
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Least bits of soundness
    #[arg(long, value_name = "BITS", default_value = "100", value_parser = ["100", "112"])]
    pub security: String,
    /// For whoever holds the model: smaller and cheaper, and says nothing to others
    #[arg(long)]
    pub holder: bool,
}

/// `lemma proof verify`
#[derive(Args, Clone, Debug)]
pub struct VerifyProof {
    /// The proof
    pub path: PathBuf,
    /// The root of the model that it has to be of, as `lemma models quantize` printed it
    #[arg(long, value_name = "ROOT", required_unless_present = "model")]
    pub model_root: Option<Digest>,
    /// The quantised model: its root is derived
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The inputs that it has to be about
    #[arg(long, short, value_name = "[NAME=]FILE")]
    pub input: Vec<String>,
    /// Write the outputs here: .json, or .npy for a model with one output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `lemma models pull`
#[derive(Args, Clone, Debug)]
pub struct Pull {
    /// The model: hf:OWNER/NAME or hf:OWNER/NAME@REVISION
    pub model: HubModel,
    /// The folder to fetch it into [default: NAME]
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Fetch this file alone, for a model with several GGUF files
    #[arg(long, value_name = "NAME")]
    pub file: Option<String>,
    /// Refuse a model that is larger
    #[arg(long, value_name = "SIZE", default_value = "100GiB")]
    pub max_size: HumanSize,
}

/// `lemma models push`
#[derive(Args, Clone, Debug)]
pub struct Push {
    /// An ONNX file, a quantised model (.integer), a GGUF file, or a folder with safetensors files
    pub path: PathBuf,
    /// Name to register: owner/model or owner/model:tag
    #[arg(long)]
    pub name: ModelName,
    /// SPDX expression of the model's licence
    #[arg(long, value_name = "SPDX", visible_alias = "license")]
    pub licence: Option<String>,
    /// SPDX expression under which outputs may be used
    #[arg(long, value_name = "SPDX", visible_alias = "output-license")]
    pub output_licence: Option<String>,
    /// One paragraph for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Who signs.
    #[command(flatten)]
    pub signer: Signer,
    /// How to reach the gateway.
    #[command(flatten)]
    pub client: Client,
}

/// `lemma infer`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Inputs:
  --input request.json      a request body of the Open Inference Protocol, or one of its tensors
  --input x.npy             a numpy array, for a model with one input
  --input NAME=x.npy        a numpy array for the input NAME; repeat for each input

Examples:
  lemma infer lemma/digits --input models/digits/example.json
  lemma infer lemma/digits --input image=models/digits/example.npy --output answer.json
  lemma infer --local model.onnx --input x=x.npy --output-dir out --threads 2 --repeat 10
  lemma infer --local model.gguf --tokens 1,2,3 --output-dir out --generate 16")]
pub struct Infer {
    /// Name, or root of the manifest; with --local, an ONNX file, a GGUF file, or a folder with safetensors files
    pub model: String,
    /// Input, as FILE or NAME=FILE; `-` reads JSON from standard input
    #[arg(
        long,
        short,
        required_unless_present = "tokens",
        value_name = "[NAME=]FILE"
    )]
    pub input: Vec<String>,
    /// What shall back the result
    #[arg(long, default_value = "signed")]
    pub mode: Mode,
    /// Write the outputs here as well: .json, or .npy for a model with one output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Without a network.
    #[command(flatten)]
    pub local: Local,
    /// How to reach the gateway.
    #[command(flatten)]
    pub client: Client,
}

/// `lemma infer --local`: run here, with no network and no receipt.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "On this machine")]
pub struct Local {
    /// Run MODEL, a file, on this machine: no network, no receipt
    #[arg(long, conflicts_with_all = ["mode", "api", "timeout"])]
    pub local: bool,
    /// Write each output here, as NAME.npy
    #[arg(long, value_name = "DIR", requires = "local")]
    pub output_dir: Option<PathBuf>,
    /// Threads to use; their number changes no bit
    #[arg(long, value_name = "N", requires = "local", default_value = "1")]
    pub threads: NonZeroUsize,
    /// Run it so often, and show what each run cost
    #[arg(long, value_name = "N", requires = "local", default_value = "1")]
    pub repeat: NonZeroUsize,
    /// Run a language model on these tokens: writes the logits of each position as logits.npy, or goes on from them
    #[arg(long, value_name = "1,2,3", requires = "local", conflicts_with_all = ["input", "output"], value_delimiter = ',')]
    pub tokens: Option<Vec<u32>>,
    /// Go on from the tokens with at most so many, the best one each time
    #[arg(long, value_name = "N", requires = "tokens")]
    pub generate: Option<NonZeroUsize>,
    /// Draw them instead, at temperature 1; equal seeds give equal tokens
    #[arg(long, value_name = "N", requires = "generate")]
    pub seed: Option<u64>,
    /// Refuse a run that would hold more than this besides weights and inputs
    #[arg(long, value_name = "SIZE", requires = "local", default_value = "4GiB")]
    pub max_memory: HumanSize,
}

/// `lemma run`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The answer goes to standard output as it comes; the receipt is checked at its end, and the exit code is 7 if it does not hold.

Examples:
  lemma run lemma/nano 'What is 3 + 4?'
  lemma run lemma/nano --seed 7 --temperature 0.7 < question.txt
  lemma run lemma/nano 'Hello' --transcript answer.json    for `lemma verify --transcript`")]
pub struct Run {
    /// Name, or root of the manifest
    pub model: String,
    /// What to ask; standard input is read if it is absent
    pub prompt: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    /// How to answer.
    #[command(flatten)]
    pub answering: Answering,
    /// Write request, tokens and answer here, for `lemma verify --transcript`
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,
    /// How to reach the gateway.
    #[command(flatten)]
    pub client: Client,
}

/// `lemma chat`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Each line is a question; an answer comes as it is written, and its receipt is checked at its end. Ctrl-D or /exit ends the
conversation, /clear begins another. What you type is remembered in the data directory, for the arrow keys.")]
pub struct Chat {
    /// Name, or root of the manifest
    pub model: String,
    /// How to answer.
    #[command(flatten)]
    pub answering: Answering,
    /// How to reach the gateway.
    #[command(flatten)]
    pub client: Client,
}

/// How a language model shall answer: all of it is part of the request that the receipt commits to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Answer")]
pub struct Answering {
    /// Instructions that stand above the question
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_tokens: u32,
    /// Names the noise: equal seeds give equal answers; drawn if absent
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Divides the logits; 0 takes the best token always
    #[arg(long, value_name = "T", default_value = "1")]
    pub temperature: f64,
    /// Keep the fewest best tokens whose probability reaches this
    #[arg(long, value_name = "P", default_value = "1")]
    pub top_p: f64,
    /// Keep so many best tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value = "0")]
    pub top_k: u32,
    /// End the answer before this text; repeat for more
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// What shall back the result; by default what the model offers
    #[arg(long)]
    pub mode: Option<Mode>,
}

/// `lemma receipts`
#[derive(Debug, Subcommand)]
pub enum Receipts {
    /// Fetch the bundle of a receipt: one file with all that proves it
    Get {
        /// Id of the receipt
        id: B256,
        /// Write it here instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Wait until the ledger has settled it
        #[arg(long)]
        wait: bool,
        /// How to reach the gateway.
        #[command(flatten)]
        client: Client,
    },
    /// List the receipts that this user has
    #[command(visible_alias = "list")]
    Ls,
}

/// `lemma verify`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exits with 0 if every check holds, 7 if something is wrong, 8 if evidence is missing. No network is used.

Examples:
  lemma verify receipt.json --trusted-root root.json
  lemma verify receipt.json --trusted-root root.json --input in.json --recompute --model model.onnx
  lemma verify receipt.json --trusted-root root.json --transcript answer.json --recompute --model model.gguf
  lemma verify answer.json --trusted-root root.json")]
pub struct Verify {
    /// The bundle, or the whole answer of OpenAI's API; `-` reads standard input
    pub bundle: PathBuf,
    /// File with the network's trusted root
    #[arg(long, value_name = "FILE")]
    pub trusted_root: PathBuf,
    /// What was asked: opens the request commitment
    #[arg(long, short, value_name = "[NAME=]FILE", conflicts_with = "transcript")]
    pub input: Vec<String>,
    /// What was answered: opens the response commitment
    #[arg(long, short, value_name = "[NAME=]FILE", conflicts_with = "transcript")]
    pub output: Vec<String>,
    /// What was asked and answered: as `lemma run --transcript` wrote it, or the whole answer of OpenAI's API, with its salts
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,
    /// Run the model again and compare every bit; needs --input or --transcript
    #[arg(long, requires = "model")]
    pub recompute: bool,
    /// The model: an ONNX file, a quantised model, a GGUF file, or a folder with safetensors files
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// `lemma account`
#[derive(Debug, Subcommand)]
pub enum Account {
    /// Show the balance of an account
    Balance {
        /// Address; by default the account of the configured key
        address: Option<Address>,
        /// Who signs.
        #[command(flatten)]
        signer: Signer,
        /// How to reach the gateway.
        #[command(flatten)]
        client: Client,
    },
    /// Send LEM
    Send {
        /// To whom
        to: Address,
        /// How much, in LEM
        amount: Amount,
        /// Who signs.
        #[command(flatten)]
        signer: Signer,
        /// How to reach the gateway.
        #[command(flatten)]
        client: Client,
    },
}

/// `lemma wallet`
#[derive(Debug, Subcommand)]
pub enum Wallet {
    /// Make a new secret key and store it in a file that only you can read
    New {
        /// Where to store it
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show the address of a key
    Address(Signer),
}

/// `lemma config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the values in force
    Show {
        /// Also print where each comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print a configuration file with every key, its meaning and its default
    Default,
}

impl Client {
    fn overrides(&self, found: &mut Overrides) {
        found.add(keys::API, "--api", self.api.as_deref());
        found.add(keys::TIMEOUT, "--timeout", self.timeout);
    }
}

impl Signer {
    fn overrides(&self, found: &mut Overrides) {
        let path = self.key_file.as_deref().map(std::path::Path::display);
        found.add(keys::KEY_FILE, "--key-file", path);
    }
}

impl Up {
    fn overrides(&self, found: &mut Overrides) {
        found.add(keys::UP_VALIDATORS, "--validators", self.validators);
        found.add(keys::UP_WORKERS, "--workers", self.workers);
        found.add(keys::UP_HOST, "--host", self.host.as_deref());
        found.add(keys::UP_PORT, "--port", self.port);
        found.add(keys::UP_METRICS_PORT, "--metrics-port", self.metrics_port);
        found.add(keys::UP_HEARTBEAT, "--heartbeat", self.heartbeat);
        found.add(
            keys::UP_SETTLE_INTERVAL,
            "--settle-interval",
            self.settle_interval,
        );
        found.add(keys::UP_UPSTREAM, "--upstream", self.upstream.as_deref());
        found.add(
            keys::UP_UPSTREAM_MODEL,
            "--upstream-model",
            self.upstream_model.as_deref(),
        );
        found.add(
            keys::UP_UPSTREAM_NAME,
            "--upstream-name",
            self.upstream_name.as_ref(),
        );
        let data_dir = self.data_dir.as_deref().map(std::path::Path::display);
        found.add(keys::UP_DATA_DIR, "--data-dir", data_dir);
    }
}

#[derive(Default)]
struct Overrides(Vec<Override>);

impl Overrides {
    fn add(&mut self, key: keys::Key, flag: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            let text = value.to_string();
            self.0.push(Override { key, flag, text });
        }
    }
}

impl Cli {
    /// The configuration that the flags set.
    #[must_use]
    pub fn overrides(&self) -> Vec<Override> {
        let mut found = Overrides::default();
        let color = self
            .global
            .color
            .and_then(|color| color.to_possible_value());
        found.add(
            keys::COLOR,
            "--color",
            color.as_ref().map(|value| value.get_name()),
        );
        found.add(
            keys::PROGRESS,
            "--no-progress",
            self.global.no_progress.then_some(false),
        );
        match &self.command {
            Some(Command::Up(up)) => up.overrides(&mut found),
            Some(
                Command::Infer(Infer { client, .. })
                | Command::Run(Run { client, .. })
                | Command::Chat(Chat { client, .. }),
            )
            | Some(Command::Status(client) | Command::Doctor(client))
            | Some(Command::Models(
                Models::Ls(client) | Models::Show { client, .. } | Models::Verify { client, .. },
            ))
            | Some(Command::Receipts(Receipts::Get { client, .. })) => client.overrides(&mut found),
            Some(Command::Models(Models::Push(Push { client, signer, .. })))
            | Some(Command::Proof(ProofCommand::Submit(SubmitProof { client, signer, .. })))
            | Some(Command::Account(
                Account::Balance { client, signer, .. } | Account::Send { client, signer, .. },
            )) => {
                client.overrides(&mut found);
                signer.overrides(&mut found);
            }
            Some(Command::Wallet(Wallet::Address(signer))) => signer.overrides(&mut found),
            None
            | Some(
                Command::Models(Models::Pull(_))
                | Command::Receipts(Receipts::Ls)
                | Command::Verify(_)
                | Command::Wallet(Wallet::New { .. })
                | Command::Config(_)
                | Command::Proof(_)
                | Command::Models(Models::Quantize(_))
                | Command::Completions { .. },
            ) => {}
        }
        found.0
    }
}

#[cfg(test)]
mod tests;
