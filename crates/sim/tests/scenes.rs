//! One thing at a time.

use lemma_sim::{Lie, gossip, lies, stops, unaffordable};

#[test]
fn validators_stop_in_order_whatever_they_are_doing() {
    stops(1, 2).unwrap_or_else(|violation| panic!("{violation}"));
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
    let told = gossip(1).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(told, 3, "one message to each of the others");
}

fn lie(lie: Lie) {
    let told = lies(1, lie).unwrap_or_else(|violation| panic!("{lie:?}: {violation}"));
    assert!(told > 3, "{lie:?}: told {told} times only");
}

#[test]
fn a_wrong_state_is_refused() {
    lie(Lie::StateRoot);
}

#[test]
fn a_wrong_time_is_refused() {
    lie(Lie::PastTime);
    lie(Lie::FutureTime);
}

#[test]
fn a_transaction_that_can_not_be_included_is_refused() {
    lie(Lie::Transaction);
}

#[test]
fn two_blocks_in_one_view_do_not_part_the_others() {
    lie(Lie::Twice);
}
