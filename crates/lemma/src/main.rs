//! The binary `lemma`.

/// For provers, and models that are loaded and let go.
#[global_allocator]
static ALLOCATOR: lemma_kernels::LargePages = lemma_kernels::LargePages;

fn main() -> std::process::ExitCode {
    lemma_cli::run()
}
