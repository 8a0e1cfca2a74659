//! Ids, digests, amounts, manifests, receipts and block headers: the words that every part of Lemma shares
