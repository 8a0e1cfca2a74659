//! Configuration in layers: flag, environment, project file, user file, system file, default. The first that says something
//! wins, and each value knows where it came from.
//!
//! Secrets are never configured: a key is read from a file that `key_file` names, or from `LEMMA_KEY`.

pub mod keys;

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use directories::ProjectDirs;
pub use keys::{Key, Kind};
use toml::Value;

use crate::{
    error::{CommandError, CommandResult, did_you_mean},
    exit::ExitCode,
    text::HumanDuration,
};

/// Name of the configuration file in each place.
const FILE_NAME: &str = "lemma.toml";
/// The system's configuration file.
const SYSTEM_FILE: &str = "/etc/lemma/lemma.toml";
/// Names the one configuration file to read, instead of all others.
pub const CONFIG_ENV: &str = "LEMMA_CONFIG";
/// Holds a secret key, in hexadecimal.
pub const SECRET_ENV: &str = "LEMMA_KEY";
/// Filter of the log, in the form of `tracing` directives.
pub const LOG_ENV: &str = "LEMMA_LOG";
/// Largest configuration file, bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag(&'static str),
    /// An environment variable.
    Env(&'static str),
    /// A file.
    File(PathBuf),
    /// The program itself.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value as text.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A flag that was given: the key that it sets, the flag, its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key.
    pub key: Key,
    /// How the flag is written.
    pub flag: &'static str,
    /// What was given.
    pub text: String,
}

/// Everything outside the command line that settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Configuration files that exist, strongest first.
    pub files: Vec<PathBuf>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The user's data directory.
    pub data_dir: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process; `config` names one file to read instead of the usual ones.
    ///
    /// # Errors
    /// If the named file does not exist.
    pub fn of_process(config: Option<&Path>) -> CommandResult<Self> {
        let env: BTreeMap<String, String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("LEMMA_"))
            .collect();
        let dirs = ProjectDirs::from("", "", "lemma");
        let named = config
            .map(Path::to_owned)
            .or_else(|| env.get(CONFIG_ENV).map(PathBuf::from));
        let files = match named {
            Some(path) if path.is_file() => vec![path],
            Some(path) => {
                return Err(CommandError::new(
                    ExitCode::Config,
                    format!("configuration file {} does not exist", path.display()),
                ));
            }
            None => [
                Some(PathBuf::from(FILE_NAME)),
                dirs.as_ref().map(|dirs| dirs.config_dir().join(FILE_NAME)),
                Some(PathBuf::from(SYSTEM_FILE)),
            ]
            .into_iter()
            .flatten()
            .filter(|path| path.is_file())
            .collect(),
        };
        Ok(Self {
            files,
            env,
            data_dir: dirs.map(|dirs| dirs.data_dir().to_owned()),
        })
    }
}

/// The configuration that is in force.
#[derive(Clone, Debug)]
pub struct Config {
    settings: BTreeMap<&'static str, Setting>,
}

impl Config {
    /// Merges all layers and checks every value.
    ///
    /// # Errors
    /// If a file can not be read, has an unknown key, or a value is not what its key wants.
    pub fn resolve(sources: &Sources, overrides: &[Override]) -> CommandResult<Self> {
        let mut settings = BTreeMap::new();
        for given in overrides {
            let origin = Origin::Flag(given.flag);
            insert(&mut settings, given.key, given.text.clone(), origin)?;
        }
        for key in keys::ALL {
            if let Some(text) = sources.env.get(key.env).filter(|text| !text.is_empty()) {
                insert(&mut settings, *key, text.clone(), Origin::Env(key.env))?;
            }
        }
        for path in &sources.files {
            for (key, text) in read_file(path)? {
                insert(&mut settings, key, text, Origin::File(path.clone()))?;
            }
        }
        for key in keys::ALL.iter().filter(|key| !key.default.is_empty()) {
            insert(&mut settings, *key, key.default.to_owned(), Origin::Default)?;
        }
        if let Some(data_dir) = &sources.data_dir {
            let text = data_dir.display().to_string();
            insert(&mut settings, keys::DATA_DIR, text, Origin::Default)?;
        }
        if let Some(data_dir) = settings.get(keys::DATA_DIR.name) {
            let text = Path::new(&data_dir.text)
                .join("local")
                .display()
                .to_string();
            insert(&mut settings, keys::UP_DATA_DIR, text, Origin::Default)?;
        }
        Ok(Self { settings })
    }

    /// The value of a key and its origin; `None` if nothing sets it.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Setting> {
        self.settings.get(key.name)
    }

    /// A value that [`Config::resolve`] has checked.
    fn checked<T: FromStr>(&self, key: Key) -> CommandResult<T> {
        let setting = self.get(key).ok_or_else(|| missing(key))?;
        setting
            .text
            .parse()
            .map_err(|_| wrong_value(key, setting, "a value in range"))
    }

    /// A path.
    ///
    /// # Errors
    /// If nothing sets it.
    pub fn path(&self, key: Key) -> CommandResult<PathBuf> {
        self.get(key)
            .map(|setting| PathBuf::from(&setting.text))
            .ok_or_else(|| missing(key))
    }

    /// A text.
    ///
    /// # Errors
    /// If nothing sets it.
    pub fn text(&self, key: Key) -> CommandResult<&str> {
        self.get(key)
            .map(|setting| setting.text.as_str())
            .ok_or_else(|| missing(key))
    }

    /// A whole number within the range of `T`.
    ///
    /// # Errors
    /// If nothing sets it, or it is out of range.
    pub fn integer<T: FromStr>(&self, key: Key) -> CommandResult<T> {
        self.checked(key)
    }

    /// A switch.
    ///
    /// # Errors
    /// If nothing sets it.
    pub fn boolean(&self, key: Key) -> CommandResult<bool> {
        self.checked(key)
    }

    /// A duration.
    ///
    /// # Errors
    /// If nothing sets it.
    pub fn duration(&self, key: Key) -> CommandResult<Duration> {
        self.checked::<HumanDuration>(key)
            .map(|duration| duration.0)
    }

    /// An IP address.
    ///
    /// # Errors
    /// If nothing sets it, or it is something else.
    pub fn address(&self, key: Key) -> CommandResult<IpAddr> {
        let setting = self.get(key).ok_or_else(|| missing(key))?;
        setting
            .text
            .parse()
            .map_err(|_| wrong_value(key, setting, "an IP address such as 127.0.0.1"))
    }
}

fn missing(key: Key) -> CommandError {
    CommandError::new(ExitCode::Config, format!("`{}` is not set", key.name))
        .hint(format!("set {} or `{}` in {FILE_NAME}", key.env, key.name))
}

fn wrong_value(key: Key, setting: &Setting, expected: &str) -> CommandError {
    CommandError::new(
        ExitCode::Config,
        format!("`{}` is `{}`: expected {expected}", key.name, setting.text),
    )
    .cause(format!("it is set by {}", setting.origin))
    .hint(format!("{}: {}", key.name, key.doc))
}

/// Keeps the first value that is given for a key, and checks all.
fn insert(
    settings: &mut BTreeMap<&'static str, Setting>,
    key: Key,
    text: String,
    origin: Origin,
) -> CommandResult {
    let setting = Setting { text, origin };
    let text = setting.text.as_str();
    let expected = match key.kind {
        Kind::Text | Kind::Path => (!text.is_empty()).then_some(()).ok_or("a text"),
        Kind::Integer => text.parse::<u64>().map(drop).map_err(|_| "a whole number"),
        Kind::Boolean => text.parse::<bool>().map(drop).map_err(|_| "true or false"),
        Kind::Duration => text
            .parse::<HumanDuration>()
            .map(drop)
            .map_err(|_| "a duration such as 500ms, 30s or 2m"),
        Kind::Choice(words) if words.contains(&text) => Ok(()),
        Kind::Choice(words) => {
            return Err(wrong_value(
                key,
                &setting,
                &format!("one of {}", words.join(", ")),
            ));
        }
    };
    expected.map_err(|expected| wrong_value(key, &setting, expected))?;
    settings.entry(key.name).or_insert(setting);
    Ok(())
}

/// The keys that a file sets.
fn read_file(path: &Path) -> CommandResult<Vec<(Key, String)>> {
    let fail = || {
        CommandError::new(
            ExitCode::Config,
            format!("configuration file {}", path.display()),
        )
    };
    let text = read_bounded(path).map_err(|error| fail().because(&error))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| fail().cause(error.to_string().trim().to_owned()))?;
    let mut found = Vec::new();
    for (name, value) in &table {
        match value {
            Value::Table(section) => {
                for (inner, value) in section {
                    let name = format!("{name}.{inner}");
                    found.push(
                        entry(&name, value)
                            .map_err(|error| error.cause(format!("in {}", path.display())))?,
                    );
                }
            }
            value => {
                found.push(
                    entry(name, value)
                        .map_err(|error| error.cause(format!("in {}", path.display())))?,
                );
            }
        }
    }
    Ok(found)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "larger than {MAX_FILE_BYTES} bytes"
        )));
    }
    fs::read_to_string(path)
}

fn entry(name: &str, value: &Value) -> CommandResult<(Key, String)> {
    let Some(key) = keys::find(name) else {
        let error = CommandError::new(
            ExitCode::Config,
            format!("unknown configuration key `{name}`"),
        );
        return Err(
            match did_you_mean(name, keys::ALL.iter().map(|key| key.name)) {
                Some(similar) => error.hint(format!("did you mean `{similar}`?")),
                None => error.hint("`lemma config default` prints every key"),
            },
        );
    };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(switch) => switch.to_string(),
        other => {
            return Err(CommandError::new(
                ExitCode::Config,
                format!(
                    "`{name}` is a {}: expected a text, number or boolean",
                    other.type_str()
                ),
            ));
        }
    };
    Ok((*key, text))
}

/// A configuration file with every key, commented out, with its meaning and default.
#[must_use]
pub fn default_file() -> String {
    let mut text = String::from("# Configuration of lemma. Every key, with its default.\n");
    let mut section = "";
    for key in keys::ALL {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if table != section {
            text.push_str(&format!("\n[{table}]\n"));
            section = table;
        }
        let value = match key.kind {
            Kind::Integer | Kind::Boolean => key.default.to_owned(),
            _ => format!("\"{}\"", key.default),
        };
        text.push_str(&format!(
            "\n# {} (environment: {})\n# {name} = {value}\n",
            key.doc, key.env
        ));
    }
    text
}

#[cfg(test)]
mod tests;
