//! One thing at a time.

use lemma_sim::{stops, told, unaffordable};

#[test]
fn validators_stop_in_order_whatever_they_are_doing() {
    stops(1, 12).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn what_nobody_can_pay_is_no_reason_for_blocks() {
    let (blocks, heartbeats) = unaffordable(1).unwrap_or_else(|violation| panic!("{violation}"));
    // Each leader may find out with one block of its own.
    assert!(
        blocks <= heartbeats + 4,
        "{blocks} blocks in the time of {heartbeats} heartbeats"
    );
}

#[test]
fn others_are_told_once_of_what_becomes_final_soon() {
    let told = told(1).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(told, 3, "one message to each of the others");
}
