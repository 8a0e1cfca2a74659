//! Tokens become text piece by piece: never half a character, never part of a stop string.

use std::sync::Arc;

/// The bytes of each token of a vocabulary.
pub type TokenBytes = Arc<Vec<Box<[u8]>>>;

/// Text under way.
#[derive(Debug, Default)]
pub struct TextStream {
    /// Bytes that are not text yet.
    bytes: Vec<u8>,
    /// Text that may turn out to be the beginning of a stop string.
    held: String,
    stop: Vec<String>,
}

/// Text that is certain, and whether a stop string ended it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Which stop string follows the text.
    pub stopped: Option<usize>,
}

impl TextStream {
    /// Text that ends before any of `stop`; empty ones do not count.
    #[must_use]
    pub fn new(stop: Vec<String>) -> TextStream {
        TextStream {
            stop,
            ..TextStream::default()
        }
    }

    /// Adds the bytes of a token and returns what is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.decode();
        let first = self
            .stop
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .filter_map(|(i, stop)| self.held.find(stop.as_str()).map(|at| (at, i)))
            .min();
        if let Some((at, i)) = first {
            self.held.truncate(at);
            self.bytes.clear();
            return Piece {
                text: std::mem::take(&mut self.held),
                stopped: Some(i),
            };
        }
        let safe = self.held.len() - self.possible();
        let rest = self.held.split_off(safe);
        Piece {
            text: std::mem::replace(&mut self.held, rest),
            stopped: None,
        }
    }

    /// The rest, when no token follows: with a replacement character for half a character.
    pub fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        text
    }

    /// Moves whole characters, and replacements of what can never be one, to the text.
    fn decode(&mut self) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let (valid, rest) = self.bytes.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        self.bytes = rest.to_vec();
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes = rest[bad..].to_vec();
                }
            }
        }
    }

    /// Bytes at the end of the text that a stop string could begin with.
    fn possible(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .find(|len| self.held.as_bytes().ends_with(&stop.as_bytes()[..*len]))
        };
        let most = self.stop.iter().filter_map(longest).max().unwrap_or(0);
        // Part of a character matches no more than the whole one.
        (self.held.len() - most..=self.held.len())
            .find(|at| self.held.is_char_boundary(*at))
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stop: &[&str], pieces: &[&[u8]]) -> (Vec<String>, Option<usize>, String) {
        let mut stream = TextStream::new(stop.iter().map(|s| (*s).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let piece = stream.push(piece);
            out.push(piece.text);
            if piece.stopped.is_some() {
                return (out, piece.stopped, String::new());
            }
        }
        (out, None, stream.finish())
    }

    #[test]
    fn characters_come_whole() {
        let (pieces, _, rest) = all(&[], &[b"a\xc3", b"\xa4b\xf0\x9f", b"\x98", b"\x80"]);
        assert_eq!(pieces, ["a", "äb", "", "😀"]);
        assert_eq!(rest, "");
    }

    #[test]
    fn what_is_no_character_is_replaced_once_that_is_certain() {
        let (pieces, _, rest) = all(&[], &[b"\xffa", b"\xe2\x82", b"x", b"\xc3"]);
        assert_eq!(pieces, ["\u{fffd}a", "", "\u{fffd}x", ""]);
        assert_eq!(rest, "\u{fffd}");
    }

    #[test]
    fn text_stops_before_a_stop_string_wherever_its_parts_lie() {
        let (pieces, stopped, _) = all(&["nope", "END"], &[b"one E", b"N", b"D two"]);
        assert_eq!((pieces.concat().as_str(), stopped), ("one ", Some(1)));
        let (pieces, stopped, rest) = all(&["END"], &[b"one E", b"N", b"T"]);
        assert_eq!(
            (pieces, stopped, rest),
            (
                vec!["one ".into(), "".into(), "ENT".into()],
                None,
                "".into()
            )
        );
        let (pieces, stopped, rest) = all(&["END"], &[b"at the EN"]);
        assert_eq!(
            (pieces.concat() + &rest, stopped),
            ("at the EN".to_owned(), None)
        );
    }

    #[test]
    fn the_first_stop_string_in_the_text_counts() {
        let (pieces, stopped, _) = all(&["b", "a"], &[b"xxab"]);
        assert_eq!((pieces.concat().as_str(), stopped), ("xx", Some(1)));
    }

    #[test]
    fn characters_of_a_stop_string_are_not_cut() {
        let (pieces, stopped, rest) = all(&["äö"], &["xä".as_bytes(), "ü".as_bytes()]);
        assert_eq!((pieces.concat() + &rest, stopped), ("xäü".to_owned(), None));
    }
}
