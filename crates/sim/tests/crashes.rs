//! Crashes in the middle of a write.

use lemma_sim::{Fault, crashes};

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_at_a_write() {
    let faults = [Fault::Write, Fault::Sync].repeat(2);
    let acknowledged = crashes(1, &faults).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(acknowledged > 50, "{acknowledged}");
}
