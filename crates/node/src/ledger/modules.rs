use alloy_primitives::{Address, B256};
use futures::future::{BoxFuture, FutureExt};
use lemma_ledger::modules::{
    MODELS, NODES, RECEIPTS,
    abi::{ILemmaModels, ILemmaNodes, ILemmaReceipts},
};
use lemma_types::{Amount, Digest, ModelName, settlement::BatchRecord};

use super::{Ledger, LedgerError};

/// A name and what it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRecord {
    /// The name.
    pub name: ModelName,
    /// BLAKE3 of the manifest.
    pub root: Digest,
    /// Owner of the namespace.
    pub owner: Address,
    /// Number of this version.
    pub version: u64,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its account.
    pub address: Address,
    /// Where it listens.
    pub endpoint: String,
    /// Who is paid for its work.
    pub payee: Address,
    /// Whether it is registered now.
    pub active: bool,
}

impl Ledger {
    /// All names, in the order of their registration.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn models(&self) -> BoxFuture<'_, Result<Vec<ModelRecord>, LedgerError>> {
        async move {
            let count = self.call(MODELS, &ILemmaModels::countCall {}).await?;
            let mut models = Vec::new();
            for index in 0..count {
                let name = self
                    .call(MODELS, &ILemmaModels::nameAtCall { index })
                    .await?;
                let name = name.parse().map_err(|_| LedgerError::Unexpected)?;
                models.extend(self.resolve(&name).await?);
            }
            Ok(models)
        }
        .boxed()
    }

    /// The newest version of a model; `None` if nobody has registered the name.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn resolve<'a>(
        &'a self,
        name: &'a ModelName,
    ) -> BoxFuture<'a, Result<Option<ModelRecord>, LedgerError>> {
        async move {
            let call = ILemmaModels::resolveCall {
                name: name.to_string(),
            };
            match self.call(MODELS, &call).await {
                Ok(found) => Ok(Some(ModelRecord {
                    name: name.clone(),
                    root: found.manifest.into(),
                    owner: found.owner,
                    version: found.version,
                })),
                // The only way in which `resolve` of a well-formed name fails.
                Err(LedgerError::Refused(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    /// What a node has registered; inactive and empty if it never did.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn node(&self, address: Address) -> BoxFuture<'_, Result<NodeRecord, LedgerError>> {
        async move {
            let node = self
                .call(NODES, &ILemmaNodes::nodeOfCall { node: address })
                .await?;
            Ok(NodeRecord {
                address,
                endpoint: node.endpoint,
                payee: node.payee,
                active: node.active,
            })
        }
        .boxed()
    }

    /// All nodes that ever registered, in the order of their first registration.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeRecord>, LedgerError>> {
        async move {
            let count = self.call(NODES, &ILemmaNodes::countCall {}).await?;
            let mut nodes = Vec::new();
            for index in 0..count {
                let address = self.call(NODES, &ILemmaNodes::nodeAtCall { index }).await?;
                nodes.push(self.node(address).await?);
            }
            Ok(nodes)
        }
        .boxed()
    }

    /// Where a worker's batch is settled; `None` if it is not.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn settled(
        &self,
        worker: Address,
        root: B256,
    ) -> BoxFuture<'_, Result<Option<BatchRecord>, LedgerError>> {
        async move {
            let call = ILemmaReceipts::isSettledCall { worker, root };
            let found = self.call(RECEIPTS, &call).await?;
            if !found.settled {
                return Ok(None);
            }
            let index = found.index;
            let batch = self
                .call(RECEIPTS, &ILemmaReceipts::batchAtCall { index })
                .await?;
            Ok(Some(BatchRecord {
                index,
                worker: batch.worker,
                root: batch.root,
                count: batch.count,
                compute_units: batch.computeUnits,
                fees: Amount::from_units(
                    batch.fees.try_into().map_err(|_| LedgerError::Unexpected)?,
                ),
                height: batch.height,
            }))
        }
        .boxed()
    }
}
