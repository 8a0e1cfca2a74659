//! The write-ahead log of receipts: what stands between a signature and the journal's database.
//!
//! A receipt is appended here before its answer leaves, and enters the database a little later, many at a time. Records
//! have a fixed size: number (8 bytes), receipt (its compact form), the first 8 bytes of the BLAKE3 of both. There are two
//! files; when one is full, the other, whose records are all in the database by then, is emptied and takes over.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use lemma_types::SignedReceipt;

use super::Durability;

const CHECK_BYTES: usize = 8;
const RECORD_BYTES: usize = 8 + SignedReceipt::ENCODED_BYTES + CHECK_BYTES;
/// A file this long is full, bytes.
const FULL: u64 = 4 << 20;
/// Longest file, bytes: some 48,000 receipts. It grows beyond [`FULL`] only while the database does not keep up.
const MAX_FILE: u64 = 32 << 20;

/// A receipt with its number.
pub(super) type Numbered = (u64, SignedReceipt);

/// The log, open for appending.
pub(super) struct Log {
    segments: [Segment; 2],
    active: usize,
    durability: Durability,
}

struct Segment {
    file: File,
    length: u64,
    /// Number of the last receipt in it.
    last: Option<u64>,
}

impl Log {
    /// Opens the log in a directory; returns what it holds, in order of the numbers.
    pub(super) fn open(
        directory: &Path,
        durability: Durability,
    ) -> io::Result<(Self, Vec<Numbered>)> {
        let open = |name: &str| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(directory.join(name))
        };
        let mut records = Vec::new();
        let mut segments = Vec::new();
        for name in ["receipts.0.log", "receipts.1.log"] {
            let mut file = open(name)?;
            let mut found = read(&mut file)?;
            let length = (found.len() * RECORD_BYTES) as u64;
            let last = found.last().map(|(number, _)| *number);
            // What follows the last whole record was never acknowledged.
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            records.append(&mut found);
            segments.push(Segment { file, length, last });
        }
        records.sort_by_key(|(number, _)| *number);
        let segments: [Segment; 2] = segments.try_into().map_err(|_| io::ErrorKind::Other)?;
        let active = usize::from(segments[1].last > segments[0].last);
        Ok((
            Self {
                segments,
                active,
                durability,
            },
            records,
        ))
    }

    /// Appends receipts. `stored` is the number below which all receipts are in the database.
    ///
    /// # Errors
    /// The disk's; the log is then as it was before.
    pub(super) fn append(&mut self, receipts: &[Numbered], stored: u64) -> io::Result<()> {
        let Some((last, _)) = receipts.last() else {
            return Ok(());
        };
        self.turn(stored)?;
        let mut bytes = Vec::with_capacity(receipts.len() * RECORD_BYTES);
        for (number, receipt) in receipts {
            encode(*number, receipt, &mut bytes);
        }
        let durability = self.durability;
        let segment = &mut self.segments[self.active];
        if segment.length + bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(
                "the database does not keep up with receipts",
            ));
        }
        let mut write = || {
            segment.file.write_all(&bytes)?;
            match durability {
                Durability::Power => segment.file.sync_data(),
                Durability::Process => Ok(()),
            }
        };
        if let Err(error) = write() {
            // A torn record would hide all that follow it.
            segment.file.set_len(segment.length)?;
            segment.file.seek(SeekFrom::End(0))?;
            return Err(error);
        }
        segment.length += bytes.len() as u64;
        segment.last = Some(*last);
        Ok(())
    }

    /// Goes over to the other file, if this one is full and nothing in the other is needed any more.
    fn turn(&mut self, stored: u64) -> io::Result<()> {
        let other = 1 - self.active;
        let needed = self.segments[other].last.is_some_and(|last| last >= stored);
        if self.segments[self.active].length < FULL || needed {
            return Ok(());
        }
        let segment = &mut self.segments[other];
        segment.file.set_len(0)?;
        segment.file.seek(SeekFrom::Start(0))?;
        (segment.length, segment.last) = (0, None);
        self.active = other;
        Ok(())
    }

    /// Empties the log: everything in it is in the database.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        for segment in &mut self.segments {
            segment.file.set_len(0)?;
            segment.file.seek(SeekFrom::Start(0))?;
            (segment.length, segment.last) = (0, None);
        }
        Ok(())
    }
}

fn encode(number: u64, receipt: &SignedReceipt, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend(number.to_le_bytes());
    out.extend(receipt.encode());
    let check = checksum(&out[begin..]);
    out.extend(check);
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = lemma_types::Digest::of(bytes);
    let (check, _) = digest
        .as_bytes()
        .split_first_chunk()
        .expect("a digest is longer");
    *check
}

/// The whole records at the beginning of a file.
fn read(file: &mut File) -> io::Result<Vec<Numbered>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
    Ok(records.iter().map_while(decode).collect())
}

fn decode(record: &[u8; RECORD_BYTES]) -> Option<Numbered> {
    let (content, check) = record.split_at(RECORD_BYTES - CHECK_BYTES);
    if checksum(content) != check {
        return None;
    }
    let (number, receipt) = content.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), SignedReceipt::decode(receipt)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::journal::tests::receipt;

    fn records(numbers: std::ops::Range<u64>) -> Vec<Numbered> {
        numbers
            .map(|number| (number, receipt(number as u8)))
            .collect()
    }

    fn open(directory: &tempfile::TempDir) -> (Log, Vec<Numbered>) {
        Log::open(directory.path(), Durability::Process).unwrap()
    }

    #[test]
    fn what_was_appended_is_found_again_up_to_the_first_torn_record() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, found) = open(&directory);
        assert_eq!(found, []);
        log.append(&records(0..3), 0).unwrap();
        log.append(&records(3..5), 0).unwrap();
        drop(log);
        let path = directory.path().join("receipts.0.log");
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 1, RECORD_BYTES - 1] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut log, found) = open(&directory);
            assert_eq!(found.len(), if cut == 0 { 5 } else { 4 });
            assert_eq!(found, records(0..found.len() as u64));
            // A new record goes where the torn one was.
            log.append(&records(9..10), 0).unwrap();
            assert_eq!(open(&directory).1.last().unwrap().0, 9);
        }
        let mut damaged = whole;
        damaged[RECORD_BYTES + 100] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(open(&directory).1, records(0..1));
    }

    #[test]
    fn a_file_is_emptied_only_when_the_database_has_its_records() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _) = open(&directory);
        let group = 1_000u64;
        let mut next = 0;
        let mut append = |log: &mut Log, stored: u64| {
            let receipt = receipt(1);
            let records: Vec<_> = (next..next + group)
                .map(|number| (number, receipt.clone()))
                .collect();
            log.append(&records, stored).unwrap();
            next += group;
        };
        for _ in 0..20 {
            append(&mut log, 0);
        }
        drop(log);
        let (mut log, found) = open(&directory);
        let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
        assert!(numbers.is_sorted());
        assert_eq!(numbers.last(), Some(&(20 * group - 1)));
        for turn in 20..40 {
            append(&mut log, turn * group);
        }
        let sizes = ["receipts.0.log", "receipts.1.log"].map(|name| {
            std::fs::metadata(directory.path().join(name))
                .unwrap()
                .len()
        });
        assert!(sizes.iter().all(|size| *size < MAX_FILE), "{sizes:?}");
        log.clear().unwrap();
        assert_eq!(open(&directory).1, []);
    }
}
