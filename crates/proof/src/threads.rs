//! Where provers and verifiers compute.

/// Runs something, such as a prover, on so many threads of its own; otherwise all in a process share one thread for each
/// processor, and wait for each other.
pub fn on_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|_| "proof".to_owned());
    match pool.build() {
        Ok(pool) => pool.install(run),
        // No thread is to be had: on the shared ones, then.
        Err(_) => run(),
    }
}
