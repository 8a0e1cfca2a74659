//! Decoders of `lemma-chain`.

use commonware_codec::{Copying, DecodeExt as _, Encode as _};
use lemma_chain::Block;

/// Blocks as validators exchange them: what is accepted is signed by its leader, and has one encoding.
pub fn block(data: &[u8]) -> bool {
    let Ok(block) = Block::decode(Copying(data)) else {
        return false;
    };
    assert_eq!(block.encode().as_ref(), data);
    assert_ne!(block.number(), 0);
    true
}
