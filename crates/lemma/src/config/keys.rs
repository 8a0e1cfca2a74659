//! Every configuration key: its name, its environment variable, its default and what it means. The one place for these
//! names; `docs/cli.md` is checked against it.

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// A whole number from 0.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A number and a unit: `500ms`, `30s`.
    Duration,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in `lemma.toml`; a point separates table and key.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Its default; empty if there is none.
    pub default: &'static str,
    /// What it means, in one line.
    pub doc: &'static str,
}

macro_rules! keys {
    ($($constant:ident = $name:literal, $env:literal, $kind:expr, $default:literal, $doc:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $doc)]
            pub const $constant: Key = Key { name: $name, env: $env, kind: $kind, default: $default, doc: $doc };
        )*

        /// Every key, in the order in which they are shown.
        pub const ALL: &[Key] = &[$($constant),*];
    };
}

keys! {
    API = "api", "LEMMA_API", Kind::Text, "http://127.0.0.1:8402",
        "address of the gateway that commands talk to";
    TIMEOUT = "timeout", "LEMMA_TIMEOUT", Kind::Duration, "60s",
        "how long a command waits for the gateway, or for finality";
    DATA_DIR = "data_dir", "LEMMA_DATA_DIR", Kind::Path, "",
        "directory for receipts and the local network; by default the user's data directory";
    KEY_FILE = "key_file", "LEMMA_KEY_FILE", Kind::Path, "",
        "file with the secret key that signs transactions";
    COLOR = "color", "LEMMA_COLOR", Kind::Choice(&["auto", "always", "never"]), "auto",
        "when to use colour";
    PROGRESS = "progress", "LEMMA_PROGRESS", Kind::Boolean, "true",
        "whether to show progress on a terminal";
    UP_VALIDATORS = "up.validators", "LEMMA_UP_VALIDATORS", Kind::Integer, "4",
        "validators of the local network";
    UP_WORKERS = "up.workers", "LEMMA_UP_WORKERS", Kind::Integer, "2",
        "workers of the local network";
    UP_HOST = "up.host", "LEMMA_UP_HOST", Kind::Text, "127.0.0.1",
        "address that the API and the metrics listen on";
    UP_PORT = "up.port", "LEMMA_UP_PORT", Kind::Integer, "8402",
        "port of the API; 0 picks a free one";
    UP_METRICS_PORT = "up.metrics_port", "LEMMA_UP_METRICS_PORT", Kind::Integer, "9402",
        "port of metrics and health; 0 picks a free one";
    UP_DATA_DIR = "up.data_dir", "LEMMA_UP_DATA_DIR", Kind::Path, "",
        "directory of the local network; by default `local` in data_dir";
    UP_HEARTBEAT = "up.heartbeat", "LEMMA_UP_HEARTBEAT", Kind::Duration, "1s",
        "a block is made at least this often, even without transactions";
    UP_SETTLE_INTERVAL = "up.settle_interval", "LEMMA_UP_SETTLE_INTERVAL", Kind::Duration, "1s",
        "how long a worker gathers receipts before it settles them";
    UP_UPSTREAM = "up.upstream", "LEMMA_UP_UPSTREAM", Kind::Text, "",
        "server with OpenAI's API that all workers front; LEMMA_UPSTREAM_KEY holds its key";
    UP_UPSTREAM_MODEL = "up.upstream_model", "LEMMA_UP_UPSTREAM_MODEL", Kind::Text, "",
        "model to ask that server for";
    UP_UPSTREAM_NAME = "up.upstream_name", "LEMMA_UP_UPSTREAM_NAME", Kind::Text, "",
        "name under which it is published; by default upstream/ and its name";
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().find(|key| key.name == name)
}
