//! A few seeds for every day; `cargo run -p lemma-sim --bin sim -- --seeds 100` for more.

use std::thread;

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
fn seeds_hold_and_each_replays_exactly_and_differs_from_others() {
    let [first, again, other, third] = thread::scope(|scope| {
        [1, 1, 2, 3]
            .map(|seed| scope.spawn(move || report(seed)))
            .map(|run| run.join().expect("the seed holds"))
    });
    assert_eq!(again, first);
    for another in [other, third] {
        assert_ne!(another.auditor, first.auditor);
        assert_ne!(another.hash, first.hash);
    }
}
