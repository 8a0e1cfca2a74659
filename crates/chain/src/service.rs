//! Answers what handles ask a validator on its own runtime.

use std::sync::Arc;

use commonware_glue::stateful::Mailbox;
use tokio::sync::mpsc;

use crate::{
    application::Application,
    core::{Core, Found, Head, Request},
    database::{Databases, Runtime, key, state_value},
    index::{Index, IndexError},
    scheme::hash,
};

/// Makes the stored head known, and answers until all handles are gone.
pub(crate) async fn run<E: Runtime>(
    runtime: E,
    core: Arc<Core>,
    state: Mailbox<E, Application>,
    mut requests: mpsc::Receiver<Request>,
    ready: impl FnOnce() + Send,
) {
    let databases = state.subscribe_databases().await;
    let root = hash(&databases.read().await.root());
    match stored_head(&core, root) {
        Ok(Some(head)) => drop(core.head.send_if_modified(|now| {
            let newer = head.number > now.number;
            if newer {
                *now = head;
            }
            newer
        })),
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "stored head not found"),
    }
    ready();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Read { keys, reply } => {
                // Whoever asked may be gone.
                let _ = reply.send(read(&databases, &keys).await);
            }
            Request::Metrics { reply } => drop(reply.send(runtime.encode())),
        }
    }
}

async fn read<E: Runtime>(databases: &Databases<E>, keys: &[lemma_ledger::StateKey]) -> Found {
    let names: Vec<_> = keys.iter().map(key).collect();
    let names: Vec<_> = names.iter().collect();
    let database = databases.read().await;
    let values = database
        .get_many(&names)
        .await
        .expect("the state database can not be read");
    let values = values
        .iter()
        .map(|value| value.as_ref().map(state_value))
        .collect();
    Found {
        root: hash(&database.root()),
        values,
    }
}

/// The last block in the index whose state is the stored one. The index may be ahead: it is written first, and the
/// state follows when consensus delivers those blocks again.
fn stored_head(core: &Core, root: alloy_primitives::B256) -> Result<Option<Head>, IndexError> {
    let index: &dyn Index = core.index.as_ref();
    for number in (1..=index.tip()?).rev() {
        let Some(block) = index.block(number)? else {
            break;
        };
        if block.header().state_root == root {
            return Ok(Some(Head::of(&core.genesis, &block)));
        }
    }
    Ok(None)
}
