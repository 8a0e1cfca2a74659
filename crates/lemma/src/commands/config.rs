//! `lemma config`

use serde_json::{Map, Value, json};

use crate::{
    cli::ConfigCommand,
    config::{Config, Kind, default_file, keys},
    error::CommandResult,
    shell::Shell,
    table::Table,
};

/// Shows the configuration.
pub(super) fn run(command: &ConfigCommand, config: &Config, shell: &mut Shell) -> CommandResult {
    match command {
        ConfigCommand::Default => shell.bytes(default_file().as_bytes()),
        ConfigCommand::Show { origin } if shell.json() => show_json(*origin, config, shell),
        ConfigCommand::Show { origin } => show(*origin, config, shell),
    }
}

fn show(origin: bool, config: &Config, shell: &mut Shell) -> CommandResult {
    let headings: &[&str] = if origin {
        &["key", "value", "origin"]
    } else {
        &["key", "value"]
    };
    let mut table = Table::new(headings);
    for key in keys::ALL {
        let (text, from) = config
            .get(*key)
            .map_or((String::new(), "not set".to_owned()), |setting| {
                (setting.text.clone(), setting.origin.to_string())
            });
        let cells = [key.name.to_owned(), text, from];
        table.row(cells.into_iter().take(headings.len()));
    }
    shell.table(&table)
}

fn show_json(origin: bool, config: &Config, shell: &mut Shell) -> CommandResult {
    let mut document = Map::new();
    for key in keys::ALL {
        let setting = config.get(*key);
        let value = setting.map_or(Value::Null, |setting| typed(key.kind, &setting.text));
        let shown = if origin {
            json!({ "value": value, "origin": setting.map(|setting| setting.origin.to_string()) })
        } else {
            value
        };
        document.insert(key.name.to_owned(), shown);
    }
    shell.document(&document)
}

fn typed(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer => text.parse::<u64>().map_or(Value::Null, Value::from),
        Kind::Boolean => text.parse::<bool>().map_or(Value::Null, Value::from),
        _ => Value::from(text),
    }
}
