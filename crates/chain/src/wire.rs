//! What validators tell each other beside consensus, and how it is encoded.

use bytes::BufMut;
use commonware_codec::{Buf, EncodeSize, Error as CodecError, RangeCfg, Read, ReadExt as _, Write};
use lemma_ledger::MAX_TRANSACTION_BYTES;

/// Most bytes of transactions that are sent in one message.
pub(crate) const MAX_BYTES: usize = 2 * MAX_TRANSACTION_BYTES;
/// Most transactions in one message.
pub(crate) const MAX_COUNT: usize = 256;
/// Largest message that is sent, bytes.
pub(crate) const MAX_MESSAGE: usize = MAX_BYTES + (MAX_COUNT + 2) * 10;

/// What validators tell each other beside consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// "Can you hear me?"
    Hello,
    /// "Yes."
    Welcome,
    /// Raw transactions (EIP-2718), not checked yet.
    Transactions(Vec<bytes::Bytes>),
}

impl Write for Message {
    fn write(&self, buf: &mut impl BufMut) {
        match self {
            Self::Hello => 0u8.write(buf),
            Self::Welcome => 1u8.write(buf),
            Self::Transactions(raw) => {
                2u8.write(buf);
                raw.write(buf);
            }
        }
    }
}

impl EncodeSize for Message {
    fn encode_size(&self) -> usize {
        match self {
            Self::Hello | Self::Welcome => 1,
            Self::Transactions(raw) => 1 + raw.encode_size(),
        }
    }
}

impl Read for Message {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, _: &()) -> Result<Self, CodecError> {
        match u8::read(buf)? {
            0 => Ok(Self::Hello),
            1 => Ok(Self::Welcome),
            2 => {
                let each = RangeCfg::new(0..=MAX_TRANSACTION_BYTES);
                let all = (RangeCfg::new(0..=MAX_COUNT), each);
                Ok(Self::Transactions(Vec::read_cfg(buf, &all)?))
            }
            tag => Err(CodecError::InvalidEnum(tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use commonware_codec::{DecodeExt as _, Encode as _};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_round_trip_within_their_bound() {
        let full = vec![bytes::Bytes::from(vec![1; MAX_TRANSACTION_BYTES]); 2];
        let many = vec![bytes::Bytes::from_static(b"tx"); MAX_COUNT];
        let messages = [vec![], full, many].map(Message::Transactions);
        for message in [Message::Hello, Message::Welcome]
            .into_iter()
            .chain(messages)
        {
            let bytes = message.encode();
            assert!(bytes.len() <= MAX_MESSAGE);
            assert_eq!(Message::decode(bytes).unwrap(), message);
        }
        let too_many = Message::Transactions(vec![bytes::Bytes::new(); MAX_COUNT + 1]);
        assert!(Message::decode(too_many.encode()).is_err());
        assert!(Message::decode(vec![3]).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(bytes);
        }
    }
}
