//! Decoders of `lemma-chain`.

use commonware_codec::{Copying, DecodeExt as _, Encode as _};
use lemma_chain::{Block, Message};

/// Blocks as validators exchange them: what is accepted is signed by its leader, and has one encoding.
pub fn block(data: &[u8]) -> bool {
    let Ok(block) = Block::decode(Copying(data)) else {
        return false;
    };
    assert_eq!(block.encode().as_ref(), data);
    let signed = block.proposer_signature() != &[0; 64];
    assert_eq!(
        signed,
        block.number() != 0,
        "only the genesis block has no proposer"
    );
    true
}

/// What validators tell each other beside consensus.
pub fn message(data: &[u8]) -> bool {
    let Ok(message) = Message::decode(Copying(data)) else {
        return false;
    };
    assert_eq!(message.encode().as_ref(), data);
    true
}
