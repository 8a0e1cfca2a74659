//! A few seeds for every day; `cargo run -p lemma-sim --bin sim -- --seeds 100` for more.

use lemma_sim::{Report, run};

fn report(seed: u64) -> Report {
    let report = run(seed).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    assert!(
        report.acknowledged > 50,
        "seed {seed}: hardly anything happened: {report:?}"
    );
    report
}

#[test]
fn a_seed_replays_exactly_and_another_differs() {
    let first = report(1);
    assert_eq!(report(1), first);
    let other = report(2);
    assert_ne!(other.auditor, first.auditor);
    assert_ne!(other.hash, first.hash);
}

#[test]
fn another_seed_holds() {
    report(3);
}
