//! Writes the golden vectors of `tests/vectors/` anew. Run it only to add a vector, or when a format gets a new version:
//! a vector that changes is a format that changed.
//!
//! ```sh
//! cargo run -p lemma-types --example regenerate
//! ```

#![allow(clippy::unwrap_used)]

#[path = "../tests/formats/mod.rs"]
mod formats;

fn main() -> std::io::Result<()> {
    for (file, value) in formats::all() {
        let text = serde_json::to_string_pretty(&value)? + "\n";
        std::fs::write(formats::path(file), text)?;
    }
    Ok(())
}
