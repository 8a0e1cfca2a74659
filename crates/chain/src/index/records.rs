//! How receipts are stored: RLP, with a leading version so that the format may change.

use alloy_primitives::{Address, B256, Bytes, Log};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use lemma_ledger::Receipt;

const VERSION: u8 = 1;

#[derive(RlpEncodable, RlpDecodable)]
#[rlp(trailing)]
struct Record {
    transaction_hash: B256,
    kind: u8,
    success: bool,
    gas_used: u64,
    cumulative_gas_used: u64,
    effective_gas_price: u128,
    logs: Vec<Log>,
    output: Bytes,
    contract_address: Option<Address>,
}

/// Why stored receipts can not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("format version {0:?} is unknown")]
    Version(Option<u8>),
    #[error("{0}")]
    Rlp(#[from] alloy_rlp::Error),
}

pub(super) fn encode(receipts: &[Receipt]) -> Vec<u8> {
    let records: Vec<_> = receipts
        .iter()
        .map(|receipt| Record {
            transaction_hash: receipt.transaction_hash,
            kind: receipt.kind,
            success: receipt.success,
            gas_used: receipt.gas_used,
            cumulative_gas_used: receipt.cumulative_gas_used,
            effective_gas_price: receipt.effective_gas_price,
            logs: receipt.logs.clone(),
            output: receipt.output.clone(),
            contract_address: receipt.contract_address,
        })
        .collect();
    let mut bytes = vec![VERSION];
    alloy_rlp::encode_list(&records, &mut bytes);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Receipt>, RecordError> {
    let Some((&VERSION, rest)) = bytes.split_first() else {
        return Err(RecordError::Version(bytes.first().copied()));
    };
    let records: Vec<Record> = alloy_rlp::decode_exact(rest)?;
    Ok(records
        .into_iter()
        .map(|record| Receipt {
            transaction_hash: record.transaction_hash,
            kind: record.kind,
            success: record.success,
            gas_used: record.gas_used,
            cumulative_gas_used: record.cumulative_gas_used,
            effective_gas_price: record.effective_gas_price,
            contract_address: record.contract_address,
            logs: record.logs,
            output: record.output,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_round_trip() {
        let log = Log::new_unchecked(
            Address::repeat_byte(1),
            vec![B256::repeat_byte(2)],
            Bytes::from_static(b"data"),
        );
        let receipt = Receipt {
            transaction_hash: B256::repeat_byte(3),
            kind: 2,
            success: true,
            gas_used: 21_000,
            cumulative_gas_used: 42_000,
            effective_gas_price: u128::MAX,
            contract_address: Some(Address::ZERO),
            logs: vec![log],
            output: Bytes::from_static(b"out"),
        };
        let other = Receipt {
            success: false,
            contract_address: None,
            logs: vec![],
            ..receipt.clone()
        };
        for receipts in [vec![], vec![receipt.clone()], vec![other, receipt]] {
            assert_eq!(decode(&encode(&receipts)).unwrap(), receipts);
        }
        assert!(decode(&[]).is_err());
        assert!(decode(&[2, 0xc0]).is_err());
        assert!(decode(&[1, 0xc0, 0]).is_err());
    }
}
