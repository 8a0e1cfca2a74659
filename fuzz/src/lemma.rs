//! Decoders of the program `lemma`.

use lemma_cli::hub::Listing;

/// What a hub says of a model: names of files are such as may be written into a folder, each once.
pub fn hub_listing(data: &[u8]) -> bool {
    let Ok(listing) = Listing::parse(data) else {
        return false;
    };
    assert!(listing.commit.chars().all(|c| c.is_ascii_hexdigit()));
    let mut names: Vec<&str> = listing
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    for name in &names {
        let parts: Vec<&str> = name.split('/').collect();
        assert!(
            parts.len() <= 2 && !name.contains(['\\', ':', '\0']),
            "{name:?}"
        );
        assert!(
            parts
                .iter()
                .all(|part| !part.is_empty() && !part.starts_with('.')),
            "{name:?}"
        );
    }
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    true
}
