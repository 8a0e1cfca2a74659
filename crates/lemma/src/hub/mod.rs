//! Hubs of models that speak Hugging Face's routes: which files a model has, and how they get here.
//!
//! `GET /api/models/{owner}/{name}/revision/{revision}?blobs=true` lists the files of a revision with the commit that it is
//! now, and for each file its size and hash: SHA-256 if it is stored beside git, else the git blob id. `GET
//! /{owner}/{name}/resolve/{commit}/{file}` gives a file, often by a redirection to another host, and understands ranges.

mod download;
mod hash;

use std::{collections::HashSet, env, fmt, str::FromStr, time::Duration};

use reqwest::{Method, Response, StatusCode, Url, header};
use serde::Deserialize;

pub use hash::ContentHash;
use lemma_node::embedding::POOLING;

use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// The hub unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// How long a hub may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest list of files that is read, bytes.
const MAX_LISTING_BYTES: usize = 16 << 20;
/// Most redirections for one request.
const MAX_REDIRECTIONS: usize = 8;
/// The header with the hash of a file that is stored beside git.
const LINKED_ETAG: &str = "x-linked-etag";
/// The header with its size.
const LINKED_SIZE: &str = "x-linked-size";

/// A model on a hub: `hf:owner/name`, or `hf:owner/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    owner: String,
    name: String,
    revision: String,
}

impl FromStr for HubModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION".to_owned();
        let rest = text.strip_prefix("hf:").ok_or_else(wrong)?;
        let (path, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let (owner, name) = path.split_once('/').ok_or_else(wrong)?;
        let plain = |part: &str, also: &str| {
            !part.is_empty()
                && part.len() <= 200
                && !part.starts_with('.')
                && !part.contains("..")
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || also.contains(c))
        };
        if !plain(owner, "") || !plain(name, "") || !plain(revision, "/") {
            return Err(wrong());
        }
        Ok(Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.name)?;
        match self.revision.as_str() {
            "main" => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

impl HubModel {
    /// The part after the slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The files of a model at one commit.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The commit that the revision is.
    pub commit: String,
    /// What its author says of its licence, in the hub's words.
    pub licence: Option<String>,
    /// Its files outside of folders.
    pub files: Vec<Listed>,
}

impl Listing {
    /// Reads what a hub says of a model. Files whose names are not safe on this machine, or that were named before, are left
    /// out.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let found: ModelJson = serde_json::from_slice(body)
            .map_err(|error| format!("its list of files is none: {error}"))?;
        let hex = |c: char| c.is_ascii_hexdigit();
        if found.sha.is_empty() || found.sha.len() > 64 || !found.sha.chars().all(hex) {
            return Err("the commit is none".to_owned());
        }
        let mut names = HashSet::new();
        let files = found.siblings.into_iter().filter_map(SiblingJson::listed);
        Ok(Self {
            commit: found.sha,
            licence: found
                .card
                .and_then(|card| card.license.as_str().map(str::to_owned)),
            files: files
                .filter(|file| names.insert(file.name.clone()))
                .collect(),
        })
    }
}

/// A file as a hub lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Size and hash, if the list has them.
    known: Option<(u64, ContentHash)>,
}

#[cfg(test)]
impl Listed {
    /// A file of which the list says no more.
    pub(crate) fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, known: None }
    }
}

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its name, with `/` after a folder's.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What its content has to have.
    pub hash: ContentHash,
}

#[derive(Deserialize)]
struct ModelJson {
    sha: String,
    #[serde(default)]
    siblings: Vec<SiblingJson>,
    #[serde(default, rename = "cardData")]
    card: Option<CardJson>,
}

#[derive(Deserialize)]
struct CardJson {
    #[serde(default)]
    license: serde_json::Value,
}

#[derive(Deserialize)]
struct SiblingJson {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<LfsJson>,
}

#[derive(Deserialize)]
struct LfsJson {
    sha256: String,
    size: u64,
}

impl SiblingJson {
    /// A file whose name is safe on this machine: outside of folders, or the one that embedding models have in a folder.
    fn listed(self) -> Option<Listed> {
        let name = self.rfilename;
        let safe = !name.is_empty()
            && name.len() <= 200
            && !name.starts_with('.')
            && !name.chars().any(|c| c.is_control() || "/\\:".contains(c))
            || name == POOLING;
        let known = match (self.lfs, self.blob, self.size) {
            (Some(lfs), _, _) => ContentHash::sha256(&lfs.sha256).map(|hash| (lfs.size, hash)),
            (None, Some(blob), Some(size)) => ContentHash::git(&blob).map(|hash| (size, hash)),
            _ => None,
        };
        safe.then_some(Listed { name, known })
    }
}

/// A hub.
#[derive(Clone, Debug)]
pub struct Hub {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<String>,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names, with the token in `HF_TOKEN`, if any.
    ///
    /// # Errors
    /// If `HF_ENDPOINT` is no address.
    pub fn from_environment() -> CommandResult<Self> {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let wrong = || {
            let message = format!("`{}` is not the address of a hub", harmless(&endpoint));
            CommandError::new(ExitCode::Config, message)
                .hint(format!("set HF_ENDPOINT to an address such as {ENDPOINT}"))
        };
        let url = Url::parse(&endpoint).map_err(|error| wrong().because(&error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let http = lemma_store::http::client()
            .user_agent(concat!("lemma/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(SILENCE)
            // Where the token goes is decided for each hop.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context(ExitCode::Internal, || {
                "can not make an HTTP client".to_owned()
            })?;
        Ok(Self {
            http,
            endpoint: url,
            token: set("HF_TOKEN"),
        })
    }

    /// The address of the hub.
    #[must_use]
    pub fn address(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    fn url(&self, parts: &[&str]) -> CommandResult<Url> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| CommandError::new(ExitCode::Config, "HF_ENDPOINT can have no paths"))?
            .pop_if_empty()
            .extend(parts);
        Ok(url)
    }

    fn file_url(&self, model: &HubModel, commit: &str, name: &str) -> CommandResult<Url> {
        let mut parts = vec![model.owner.as_str(), &model.name, "resolve", commit];
        parts.extend(name.split('/'));
        self.url(&parts)
    }

    /// The files of a model.
    ///
    /// # Errors
    /// If the hub has no such model, does not show it, or does not answer as hubs do.
    pub async fn list(&self, model: &HubModel) -> CommandResult<Listing> {
        let HubModel {
            owner,
            name,
            revision,
        } = model;
        let mut url = self.url(&["api", "models", owner, name, "revision", revision])?;
        url.set_query(Some("blobs=true"));
        let (mut response, _) = self.request(Method::GET, url, None).await?;
        self.accepted(&response, model)?;
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if body.len() + chunk.len() > MAX_LISTING_BYTES {
                return Err(self.strange("its list of files is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Listing::parse(&body).map_err(|reason| self.strange(&reason))
    }

    /// Size and hash of a file: from the list, else from the head of the file itself.
    ///
    /// # Errors
    /// If the hub names neither.
    pub async fn describe(
        &self,
        model: &HubModel,
        commit: &str,
        file: &Listed,
    ) -> CommandResult<RemoteFile> {
        let known = match &file.known {
            Some(known) => *known,
            None => self.head(model, commit, &file.name).await?,
        };
        let (size, hash) = known;
        Ok(RemoteFile {
            name: file.name.clone(),
            size,
            hash,
        })
    }

    async fn head(
        &self,
        model: &HubModel,
        commit: &str,
        name: &str,
    ) -> CommandResult<(u64, ContentHash)> {
        let url = self.file_url(model, commit, name)?;
        let (response, linked) = self.request(Method::HEAD, url, None).await?;
        self.accepted(&response, model)?;
        let text = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let linked = linked.or_else(|| Linked::of(&response));
        let known = match linked {
            Some(linked) => Some((linked.size, linked.hash)),
            None => {
                let size = text("content-length").and_then(|size| size.parse().ok());
                let hash = text("etag").and_then(|etag| ContentHash::git(unquoted(&etag)));
                size.zip(hash)
            }
        };
        known.ok_or_else(|| {
            let reason = format!("it names no size and hash of {}", harmless(name));
            self.strange(&reason)
        })
    }

    /// Sends a request and follows redirections; the token goes to the hub alone. What the hub said of a linked file on the
    /// way comes with the answer.
    async fn request(
        &self,
        method: Method,
        url: Url,
        from: Option<u64>,
    ) -> CommandResult<(Response, Option<Linked>)> {
        let (mut url, mut linked) = (url, None);
        for _ in 0..MAX_REDIRECTIONS {
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(token) = self
                .token
                .as_ref()
                .filter(|_| same_origin(&url, &self.endpoint))
            {
                request = request.bearer_auth(token);
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let sent = tokio::time::timeout(SILENCE, request.send()).await;
            let response = sent
                .map_err(|_| self.silent())?
                .map_err(|error| self.unreachable(&error))?;
            if !response.status().is_redirection() {
                return Ok((response, linked));
            }
            linked = linked.or_else(|| Linked::of(&response));
            let target = response.headers().get(header::LOCATION);
            let target = target
                .and_then(|target| target.to_str().ok())
                .and_then(|target| url.join(target).ok())
                .ok_or_else(|| self.strange("a redirection leads nowhere"))?;
            let safe =
                target.scheme() == "https" || (target.scheme() == "http" && url.scheme() == "http");
            if !safe {
                return Err(self.strange("a redirection leaves https"));
            }
            url = target;
        }
        Err(self.strange("too many redirections"))
    }

    async fn chunk(&self, response: &mut Response) -> CommandResult<Option<bytes::Bytes>> {
        tokio::time::timeout(SILENCE, response.chunk())
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.unreachable(&error))
    }

    fn accepted(&self, response: &Response, model: &HubModel) -> CommandResult {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!("{} does not show {model} to everybody", self.address());
                let hint = match self.token {
                    None => "set HF_TOKEN to a token of yours",
                    Some(_) => {
                        "is HF_TOKEN right, and have you accepted the model's terms on its page?"
                    }
                };
                CommandError::failed(message).hint(hint)
            }
            StatusCode::NOT_FOUND => CommandError::new(
                ExitCode::NotFound,
                format!("{} has no {model}", self.address()),
            )
            .hint("a model that is not public is there only with HF_TOKEN"),
            StatusCode::TOO_MANY_REQUESTS => {
                CommandError::failed(format!("{} has too much to do", self.address()))
                    .hint("run it again later: it goes on where it ended")
            }
            status => CommandError::failed(format!("{} answers {status}", self.address())),
        })
    }

    fn strange(&self, reason: &str) -> CommandError {
        CommandError::failed(format!("{} does not answer as a hub does", self.address()))
            .cause(harmless(reason))
    }

    fn silent(&self) -> CommandError {
        let message = format!("{} was silent for {} s", self.address(), SILENCE.as_secs());
        CommandError::new(ExitCode::Timeout, message)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CommandError {
        let message = format!("can not reach {}", self.address());
        // Where a redirection led can be a secret of its own.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        CommandError::new(ExitCode::Network, message).cause(harmless(&cause.to_string()))
    }
}

/// What a hub says of a file that is stored beside git, before it redirects to it.
struct Linked {
    size: u64,
    hash: ContentHash,
}

impl Linked {
    fn of(response: &Response) -> Option<Self> {
        let text = |name: &str| response.headers().get(name)?.to_str().ok();
        Some(Self {
            size: text(LINKED_SIZE)?.parse().ok()?,
            hash: ContentHash::sha256(unquoted(text(LINKED_ETAG)?))?,
        })
    }
}

fn unquoted(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_plain() {
        let model: HubModel = "hf:acme/Tiny-1.5B_v2".parse().unwrap();
        assert_eq!(
            (model.name(), model.to_string().as_str()),
            ("Tiny-1.5B_v2", "hf:acme/Tiny-1.5B_v2")
        );
        let model: HubModel = "hf:acme/x@refs/pr/3".parse().unwrap();
        assert_eq!(model.to_string(), "hf:acme/x@refs/pr/3");
        for bad in [
            "acme/x",
            "hf:acme",
            "hf:/x",
            "hf:acme/",
            "hf:acme/../x",
            "hf:a/b/c",
            "hf:a/b@",
            "hf:a/b?c",
            "hf:../x",
        ] {
            assert!(bad.parse::<HubModel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_that_could_leave_their_folder_are_not_seen() {
        let listed = |name: &str| {
            SiblingJson {
                rfilename: name.to_owned(),
                size: None,
                blob: None,
                lfs: None,
            }
            .listed()
            .is_some()
        };
        assert!(listed("model-00001-of-00002.safetensors"));
        for bad in ["", ".gitattributes", "..", "a/b", "a\\b", "C:x", "a\nb"] {
            assert!(!listed(bad), "{bad}");
        }
    }

    #[test]
    fn the_token_is_for_the_hub_alone() {
        let url = |text: &str| Url::parse(text).unwrap();
        let hub = url("https://huggingface.co");
        assert!(same_origin(&url("https://huggingface.co:443/x"), &hub));
        for other in [
            "http://huggingface.co/x",
            "https://cdn.huggingface.co/x",
            "https://huggingface.co:444/x",
        ] {
            assert!(!same_origin(&url(other), &hub), "{other}");
        }
    }
}
