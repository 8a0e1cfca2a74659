use tempfile::TempDir;

use super::*;

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn sources(files: Vec<PathBuf>, env: &[(&str, &str)]) -> Sources {
    Sources {
        files,
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        data_dir: Some(PathBuf::from("/data")),
    }
}

#[test]
fn the_strongest_layer_wins_and_is_named() {
    let dir = TempDir::new().unwrap();
    let project = file(&dir, "project.toml", "[up]\nworkers = 3\nvalidators = 7\n");
    let user = file(&dir, "user.toml", "timeout = \"5s\"\n[up]\nworkers = 5\n");
    let sources = sources(
        vec![project.clone(), user.clone()],
        &[("LEMMA_UP_VALIDATORS", "1")],
    );
    let flag = Override {
        key: keys::API,
        flag: "--api",
        text: "http://127.0.0.1:1".into(),
    };
    let config = Config::resolve(&sources, &[flag]).unwrap();

    let origin = |key: Key| config.get(key).unwrap().origin.clone();
    assert_eq!(origin(keys::API), Origin::Flag("--api"));
    assert_eq!(
        origin(keys::UP_VALIDATORS),
        Origin::Env("LEMMA_UP_VALIDATORS")
    );
    assert_eq!(origin(keys::UP_WORKERS), Origin::File(project));
    assert_eq!(origin(keys::TIMEOUT), Origin::File(user));
    assert_eq!(origin(keys::UP_PORT), Origin::Default);
    assert_eq!(config.integer::<usize>(keys::UP_VALIDATORS).unwrap(), 1);
    assert_eq!(config.integer::<usize>(keys::UP_WORKERS).unwrap(), 3);
    assert_eq!(
        config.duration(keys::TIMEOUT).unwrap(),
        Duration::from_secs(5)
    );
    assert_eq!(
        config.path(keys::UP_DATA_DIR).unwrap(),
        Path::new("/data/local")
    );
    assert_eq!(config.get(keys::KEY_FILE), None);
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    let dir = TempDir::new().unwrap();
    for (text, hint) in [
        ("[up]\nworker = 3\n", "did you mean `up.workers`?"),
        ("colour = \"auto\"\n", "did you mean `color`?"),
        ("[zzz]\nq = 1\n", "`lemma config default` prints every key"),
    ] {
        let path = file(&dir, "lemma.toml", text);
        let error = Config::resolve(&sources(vec![path], &[]), &[]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Config);
        assert_eq!(error.hints(), [hint]);
    }
}

#[test]
fn wrong_values_name_key_and_origin() {
    for (name, value) in [
        ("LEMMA_UP_WORKERS", "many"),
        ("LEMMA_TIMEOUT", "5"),
        ("LEMMA_COLOR", "sometimes"),
        ("LEMMA_PROGRESS", "yes"),
        ("LEMMA_UP_PORT", "-1"),
    ] {
        let error = Config::resolve(&sources(vec![], &[(name, value)]), &[]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Config);
        assert!(error.message().contains(value), "{error}");
        assert!(error.causes()[0].contains(name), "{error}");
    }
    let large = sources(vec![], &[("LEMMA_UP_PORT", "70000")]);
    let config = Config::resolve(&large, &[]).unwrap();
    assert!(config.integer::<u16>(keys::UP_PORT).is_err());
}

#[test]
fn broken_files_are_named() {
    let dir = TempDir::new().unwrap();
    for text in ["api = ", "[up", "api = [1]\n", "up = 3\n"] {
        let path = file(&dir, "broken.toml", text);
        let error = Config::resolve(&sources(vec![path], &[]), &[]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Config);
        assert!(error.to_string().contains("broken.toml"), "{error}");
    }
}

#[test]
fn the_default_file_parses_once_uncommented_and_names_every_key() {
    let dir = TempDir::new().unwrap();
    let uncommented: String = default_file()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && !rest.ends_with("= \"\"") => format!("{rest}\n"),
            Some(_) => String::new(),
            None => format!("{line}\n"),
        })
        .collect();
    let path = file(&dir, "default.toml", &uncommented);
    let keys: Vec<_> = read_file(&path).unwrap();
    let expected = keys::ALL
        .iter()
        .filter(|key| !key.default.is_empty())
        .count();
    assert_eq!(keys.len(), expected);
    for (key, value) in keys {
        assert_eq!(value, key.default);
    }
}

#[test]
fn the_documentation_lists_every_key() {
    let docs = include_str!("../../../../docs/cli.md");
    for key in keys::ALL {
        let row = format!("| `{}` | `{}` |", key.name, key.env);
        assert!(docs.contains(&row), "docs/cli.md lacks the row `{row}`");
    }
}
