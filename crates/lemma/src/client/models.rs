//! Models at the gateway.

use std::path::Path;

use lemma_types::{Address, Digest, Manifest, ModelName};
use serde::Deserialize;
use serde_json::Value;
use tokio::{fs::File, io::AsyncReadExt as _};

use super::Client;
use crate::error::{CommandError, CommandResult, Context as _, did_you_mean};
use crate::exit::ExitCode;

/// A name on the ledger.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelEntry {
    /// The name.
    pub id: ModelName,
    /// The manifest that it points to.
    pub root: Digest,
    /// Who registered it.
    pub author: Address,
}

/// A model with its manifest, which was checked against its root.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name or root that it was asked by.
    pub id: String,
    /// BLAKE3 of the manifest.
    pub root: Digest,
    /// The manifest.
    pub manifest: Manifest,
}

#[derive(Deserialize)]
struct List {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct Shown {
    id: String,
    root: Digest,
    manifest: Manifest,
}

impl Client {
    /// All models.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn models(&self) -> CommandResult<Vec<ModelEntry>> {
        Ok(self.get_json::<List>("v1/models").await?.data)
    }

    /// One model. The manifest is checked against its root: the gateway is not believed.
    ///
    /// # Errors
    /// If there is none (with a suggestion), or the manifest is not the root's.
    pub async fn model(&self, name: &str) -> CommandResult<ModelInfo> {
        let model: lemma_node::gateway::ModelRef = name
            .parse()
            .context(ExitCode::Usage, || "this is no model's name".to_owned())?;
        let response = match self.send(self.get(&format!("v1/models/{model}"))?).await? {
            Ok(response) => response,
            Err(refusal) if refusal.code.as_deref() == Some("model_not_found") => {
                return Err(self.unknown_model(name).await);
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        let Shown { id, root, manifest } = self.json(response).await?;
        if manifest.root() != root {
            return Err(CommandError::new(
                ExitCode::VerificationFailed,
                format!("the gateway's manifest of `{name}` is not the one with root {root}"),
            ));
        }
        Ok(ModelInfo { id, root, manifest })
    }

    /// The error for a name that nobody registered, with the most similar one.
    pub async fn unknown_model(&self, name: &str) -> CommandError {
        let error = CommandError::new(
            ExitCode::NotFound,
            format!("no model `{name}` on this network"),
        );
        let names = self.models().await.unwrap_or_default();
        match did_you_mean(name, names.iter().map(|entry| entry.id.as_str())) {
            Some(similar) => error.hint(format!("did you mean `{similar}`?")),
            None => error.hint("`lemma models ls` lists all"),
        }
    }

    /// Whether the gateway's store has a blob.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn has_blob(&self, digest: Digest) -> CommandResult<bool> {
        let url = self.url(&format!("blobs/{digest}"))?;
        match self.send(self.http.head(url).timeout(self.timeout)).await? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.status.as_u16() == 404 => Ok(false),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    /// Uploads bytes.
    ///
    /// # Errors
    /// If the gateway refuses them.
    pub async fn put_blob(
        &self,
        digest: Digest,
        path: &Path,
        size: u64,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> CommandResult {
        /// Bytes read at once.
        const CHUNK: usize = 256 << 10;
        let file = File::open(path).await.context(ExitCode::Failed, || {
            format!("can not read {}", path.display())
        })?;
        let chunks =
            futures::stream::try_unfold((file, progress), |(mut file, progress)| async move {
                let mut chunk = vec![0; CHUNK];
                let count = file.read(&mut chunk).await?;
                chunk.truncate(count);
                progress(count as u64);
                Ok::<_, std::io::Error>((count > 0).then_some((chunk, (file, progress))))
            });
        // No deadline for the whole upload: it takes as long as the line needs.
        let request = self
            .http
            .put(self.url(&format!("v1/blobs/{digest}"))?)
            .header(reqwest::header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(chunks));
        self.send(request)
            .await?
            .map(drop)
            .map_err(super::Refusal::into_error)
    }

    /// Hands in a manifest whose files are uploaded; returns its root as the gateway derived it.
    ///
    /// # Errors
    /// If the gateway refuses it.
    pub async fn publish(&self, manifest: &Manifest) -> CommandResult {
        let request = self.post("v1/models")?.body(manifest.encode());
        let response = self
            .send(request)
            .await?
            .map_err(super::Refusal::into_error)?;
        let answer: Value = self.json(response).await?;
        let root = manifest.root().to_string();
        if answer["root"].as_str() != Some(root.as_str()) {
            return Err(
                CommandError::failed("the gateway derived another root than this program")
                    .hint("are both of the same version?"),
            );
        }
        Ok(())
    }
}
