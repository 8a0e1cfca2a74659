//! The binary `lemma`.

fn main() -> std::process::ExitCode {
    lemma_cli::run()
}
