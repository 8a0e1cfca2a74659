//! The numeric specification and the code name the same constants.

/// Numbers of that many hexadecimal digits that stand alone in a text.
fn constants(text: &str, digits: usize) -> Vec<String> {
    let mut found: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == digits && word.chars().all(|c| c.is_ascii_hexdigit()))
        .map(str::to_string)
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The constants of the code, which writes them as `0x0123_4567`.
fn in_code(source: &str, digits: usize) -> Vec<String> {
    let plain = source.replace("0x", " ").replace('_', "");
    constants(&plain, digits)
}

#[test]
fn every_constant_of_the_code_is_in_the_specification() {
    let specification = include_str!("../../../../docs/numeric-spec.md");
    // Fields of a number, which the specification names in words.
    let in_words = ["007fffff", "00800000", "7fffffff", "80000000"];
    for source in [
        include_str!("../../src/math/mod.rs"),
        include_str!("../../src/math/exp.rs"),
        include_str!("../../src/math/log.rs"),
        include_str!("../../src/math/trig.rs"),
    ] {
        for digits in [8, 16] {
            let stated = constants(specification, digits);
            for constant in in_code(source, digits) {
                assert!(
                    stated.contains(&constant) || in_words.contains(&constant.as_str()),
                    "{constant} is in the code but not in the specification"
                );
            }
        }
    }
}
