//! One file from a hub to this disk: what is there is kept, an interrupted transfer goes on, and nothing gets its name before
//! its hash is right.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, Response, StatusCode, header};

use super::{Hub, HubModel, RemoteFile};
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// Tries in a row that bring nothing.
const MOST_TRIES: u32 = 4;

/// Why a try ended early.
enum Broken {
    /// The connection broke or the hub was silent: another try goes on from there.
    Interrupted(CommandError),
    /// Another try would fare no better.
    Failed(CommandError),
}

impl Hub {
    /// Brings a file into a folder; `counter` hears of every byte that is there. Returns how many bytes were fetched.
    ///
    /// # Errors
    /// If the hub does not give it, the disk does not take it, or the content has another hash than the hub stated.
    pub async fn fetch(
        &self,
        model: &HubModel,
        commit: &str,
        file: &RemoteFile,
        folder: &Path,
        counter: &impl Fn(u64),
    ) -> CommandResult<u64> {
        let target = folder.join(&file.name);
        if matches(file, &target)? {
            counter(file.size);
            return Ok(0);
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context(ExitCode::Failed, || {
                format!("can not write {}", parent.display())
            })?;
        }
        let part = folder.join(format!(".{}.part", file.name.replace('/', "-")));
        let mut transfer = Transfer::open(file, part)?;
        counter(transfer.have);
        let (mut fetched, mut tries) = (0, 0);
        while transfer.have < file.size || !transfer.asked {
            let before = transfer.have;
            let count = |bytes| {
                fetched += bytes;
                counter(bytes);
            };
            match self.go_on(model, commit, &mut transfer, count).await {
                Ok(()) => {}
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Interrupted(error)) => {
                    tries = if transfer.have > before { 1 } else { tries + 1 };
                    if tries >= MOST_TRIES {
                        return Err(error.hint("run it again: it goes on where it ended"));
                    }
                    tokio::time::sleep(Duration::from_millis(250 << tries)).await;
                }
            }
        }
        transfer.finish(&target)?;
        Ok(fetched)
    }

    async fn go_on(
        &self,
        model: &HubModel,
        commit: &str,
        transfer: &mut Transfer<'_>,
        mut count: impl FnMut(u64),
    ) -> Result<(), Broken> {
        transfer.asked = true;
        if transfer.have == transfer.file.size {
            return Ok(());
        }
        let failed = Broken::Failed;
        let url = self
            .file_url(model, commit, &transfer.file.name)
            .map_err(failed)?;
        let from = (transfer.have > 0).then_some(transfer.have);
        let (mut response, _) = self
            .request(Method::GET, url, from)
            .await
            .map_err(Broken::of)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&response, transfer.have) => {}
            // It does not do ranges, or not this one.
            StatusCode::OK => transfer.restart().map_err(failed)?,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                transfer.restart().map_err(failed)?;
                let error = self.strange("it gives another part of the file than was asked for");
                return Err(Broken::Interrupted(error));
            }
            status if status.is_server_error() => {
                let error = CommandError::failed(format!("{} answers {status}", self.address()));
                return Err(Broken::Interrupted(error));
            }
            _ => self.accepted(&response, model).map_err(failed)?,
        }
        while let Some(chunk) = self.chunk(&mut response).await.map_err(Broken::of)? {
            transfer.take(&chunk).map_err(failed)?;
            count(chunk.len() as u64);
        }
        match transfer.have == transfer.file.size {
            true => Ok(()),
            false => Err(Broken::Interrupted(
                self.strange("a file ended before its end"),
            )),
        }
    }
}

impl Broken {
    fn of(error: CommandError) -> Self {
        match error.code() {
            ExitCode::Network | ExitCode::Timeout => Self::Interrupted(error),
            _ => Self::Failed(error),
        }
    }
}

fn begins_at(response: &Response, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok()).unwrap_or("");
    let begin = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split('-').next());
    begin.and_then(|begin| begin.parse().ok()) == Some(at)
}

/// Whether the file is there already.
fn matches(file: &RemoteFile, path: &Path) -> CommandResult<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == file.size => has_hash(file, path),
        _ => Ok(false),
    }
}

fn has_hash(file: &RemoteFile, path: &Path) -> CommandResult<bool> {
    let read = || {
        let mut content = BufReader::new(File::open(path)?);
        file.hash.is_of(file.size, &mut content)
    };
    read().context(ExitCode::Failed, || {
        format!("can not read {}", path.display())
    })
}

/// A file that is arriving.
struct Transfer<'a> {
    file: &'a RemoteFile,
    part: PathBuf,
    content: File,
    /// Bytes that are there.
    have: u64,
    /// Whether the hub has been asked; an empty file needs no answer.
    asked: bool,
}

impl<'a> Transfer<'a> {
    fn open(file: &'a RemoteFile, part: PathBuf) -> CommandResult<Self> {
        let open = || {
            let content = OpenOptions::new().create(true).append(true).open(&part)?;
            let have = content.metadata()?.len();
            Ok::<_, io::Error>((content, have))
        };
        let opened = open().context(ExitCode::Failed, || {
            format!("can not write {}", part.display())
        });
        let (content, have) = opened?;
        let mut transfer = Self {
            file,
            part,
            content,
            have,
            asked: false,
        };
        if have > file.size {
            transfer.restart()?;
        }
        Ok(transfer)
    }

    fn cannot(&self) -> String {
        format!("can not write {}", self.part.display())
    }

    fn restart(&mut self) -> CommandResult {
        self.content
            .set_len(0)
            .context(ExitCode::Failed, || self.cannot())?;
        self.have = 0;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> CommandResult {
        let have = self.have + bytes.len() as u64;
        if have > self.file.size {
            self.forget();
            return Err(self.wrong("it is longer than the hub stated"));
        }
        self.content
            .write_all(bytes)
            .context(ExitCode::Failed, || self.cannot())?;
        self.have = have;
        Ok(())
    }

    /// Gives the file its name if its hash is right.
    fn finish(self, target: &Path) -> CommandResult {
        self.content
            .sync_all()
            .context(ExitCode::Failed, || self.cannot())?;
        if !has_hash(self.file, &self.part)? {
            self.forget();
            return Err(self.wrong(&format!("it has not the hash {}", self.file.hash)));
        }
        fs::rename(&self.part, target).context(ExitCode::Failed, || {
            format!("can not write {}", target.display())
        })
    }

    fn wrong(&self, reason: &str) -> CommandError {
        let message = format!(
            "`{}` is not the file that the hub lists",
            harmless(&self.file.name)
        );
        CommandError::new(ExitCode::VerificationFailed, message).cause(reason)
    }

    /// What is wrong is not gone on with.
    fn forget(&self) {
        // If it stays, its hash is found wrong again.
        let _ = fs::remove_file(&self.part);
    }
}
