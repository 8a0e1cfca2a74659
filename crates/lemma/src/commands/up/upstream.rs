//! Which server the workers of a local network front.

use std::time::Duration;

use lemma_node::worker::UpstreamConfig;
use lemma_types::ModelName;

use crate::{
    config::{Config, keys},
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
};

/// The environment variable with the key. Not a key of the configuration, so that nothing shows it.
const KEY: &str = "LEMMA_UPSTREAM_KEY";
/// How long the server may be silent. The gateway waits no longer for a worker.
const SILENCE: Duration = Duration::from_secs(55);

/// The server to front and the name of its model, if there is one.
pub(super) fn configured(config: &Config) -> CommandResult<Option<(ModelName, UpstreamConfig)>> {
    let text = |key| config.get(key).map(|setting| setting.text.clone());
    let wrong = |reason: &str| CommandError::new(ExitCode::Config, reason);
    let (base, model) = match (text(keys::UP_UPSTREAM), text(keys::UP_UPSTREAM_MODEL)) {
        (None, None) => return Ok(None),
        (Some(base), Some(model)) => (base, model),
        (Some(_), None) => {
            return Err(
                wrong("an upstream server is given, but not which model to ask it for")
                    .hint("name it with --upstream-model"),
            );
        }
        (None, Some(_)) => {
            return Err(
                wrong("the model of an upstream server is given, but not the server")
                    .hint("give it with --upstream URL"),
            );
        }
    };
    let name = text(keys::UP_UPSTREAM_NAME).unwrap_or_else(|| name_of(&model));
    let name = name.parse().context(ExitCode::Config, || {
        "the upstream server's model can not be published under that name".to_owned()
    })?;
    let upstream = UpstreamConfig {
        base,
        model,
        key: std::env::var(KEY).ok().filter(|key| !key.is_empty()),
        timeout: SILENCE,
    };
    Ok(Some((name, upstream)))
}

/// `upstream/` and what of the model's name a name on the ledger may have.
fn name_of(model: &str) -> String {
    let last = model.rsplit('/').next().unwrap_or(model);
    let plain: String = last
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
            _ => '-',
        })
        .take(100)
        .collect();
    let plain = plain.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    format!(
        "upstream/{}",
        if plain.is_empty() { "model" } else { plain }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_name_that_the_ledger_takes() {
        for (model, expected) in [
            ("gpt-4.1", "upstream/gpt-4.1"),
            (
                "meta-llama/Llama-3.1-8B-Instruct",
                "upstream/llama-3.1-8b-instruct",
            ),
            ("llama3:8b", "upstream/llama3-8b"),
            ("(…)", "upstream/model"),
        ] {
            let name = name_of(model);
            assert_eq!(name, expected);
            assert!(name.parse::<ModelName>().is_ok());
        }
    }
}
