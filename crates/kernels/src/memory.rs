//! Memory from the system: files mapped to be read, and large pages for what is read over and over.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Mmap, MmapMut};

use crate::allocator::{LARGE, WORTH};

/// A file as memory. What was read of it stays in the system's cache and does not count against
/// this process for long: [`release`](FileMap::release) hands parts back.
///
/// The file has to stay as it is while the map lives. Where another process changes it, the bytes
/// change too; where another process shortens it, the system ends this one.
#[derive(Debug)]
pub struct FileMap {
    map: Mmap,
}

impl FileMap {
    /// Maps a file.
    ///
    /// # Errors
    /// If it cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<FileMap> {
        let file = File::open(path)?;
        // SAFETY: read only; that the file stays as it is, is the caller's part, as the type says.
        let map = unsafe { Mmap::map(&file)? };
        Ok(FileMap { map })
    }

    /// Says that a part of this map is not needed soon: its memory is free for other things, and
    /// is read again from the file when it is. Does nothing for bytes from elsewhere.
    pub fn release(&self, part: &[u8]) {
        let Some(start) = (part.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize) else {
            return;
        };
        if part.is_empty() || start + part.len() > self.map.len() {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: pages of a shared map that nobody writes to come again from the file,
            // unchanged. A refusal costs memory and nothing else.
            let _ = unsafe { self.map.unchecked_advise_range(advice, start, part.len()) };
        }
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Hands memory that this process has freed back to the system, as far as its allocator keeps some. That of glibc
/// keeps what was freed below anything that is still in use, however large it is. Takes about a microsecond for
/// each megabyte: for when much was freed.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: may be called at any time, on any thread; it gives back whole pages of free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

impl Line {
    pub(crate) const ZERO: Line = Line([0; 64]);
}

/// Most bytes of one chunk.
const CHUNK: usize = 256 << 20;

/// Room for the matrices of one model, side by side in large pages where the system has them: a
/// walk through all weights for each token then meets few page boundaries.
#[derive(Debug)]
pub struct Room {
    /// Bytes of a chunk; 0 if all matrices are kept apart.
    size: usize,
    /// The chunk that is being filled, and how many lines of it are taken.
    open: Mutex<Option<(Arc<Chunk>, usize)>>,
}

impl Room {
    /// Room for matrices of about so many bytes together; for few of them it is ordinary memory.
    #[must_use]
    pub fn new(bytes: usize) -> Room {
        let size = match bytes {
            0..WORTH => 0,
            _ => (bytes + bytes / 16).min(CHUNK).next_multiple_of(LARGE),
        };
        Room {
            size,
            open: Mutex::new(None),
        }
    }

    /// Lines of zeros.
    pub(crate) fn lines(&self, count: usize) -> Lines {
        let bytes = count * size_of::<Line>();
        if self.size == 0 || bytes > self.size {
            return Lines::Own(vec![Line::ZERO; count]);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open
            .as_ref()
            .is_none_or(|(chunk, used)| chunk.lines - used < count)
        {
            *open = Chunk::new(self.size).map(|chunk| (Arc::new(chunk), 0));
        }
        match &mut *open {
            Some((chunk, used)) => {
                let start = *used;
                *used += count;
                Lines::Part(Part {
                    chunk: chunk.clone(),
                    start,
                    count,
                })
            }
            None => Lines::Own(vec![Line::ZERO; count]),
        }
    }
}

/// Zeros from the system.
#[derive(Debug)]
struct Chunk {
    /// Kept, so that the memory stays.
    _map: MmapMut,
    first: *mut Line,
    lines: usize,
}

// SAFETY: the pointer is to memory that the chunk owns; parts of it go to one owner each.
unsafe impl Send for Chunk {}
// SAFETY: as above; the chunk itself neither reads nor writes.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `size` bytes, aligned to a large page; `None` if the system has no such memory.
    fn new(size: usize) -> Option<Chunk> {
        let mut map = MmapMut::map_anon(size + LARGE).ok()?;
        // A system without large pages refuses, and the pages stay small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let skip = map.as_ptr().align_offset(LARGE).min(LARGE);
        Some(Chunk {
            // A large page is aligned for a line, and the map has `size` bytes behind it.
            first: map[skip..].as_mut_ptr().cast(),
            lines: size / size_of::<Line>(),
            _map: map,
        })
    }
}

/// A type for which bytes of zeros are a value.
///
/// # Safety
/// They have to be, and nothing may be left to be done when a value is dropped; it is aligned to at most a
/// page.
pub(crate) unsafe trait Zeroable: Copy {
    const ZERO: Self;
}

/// Bytes from which on values have pages of their own.
const PAGES: usize = 256 << 10;

/// Bytes from which on pages are large, if the system has such. It has to look for them, which can take as long again as
/// filling them; what is read from them comes sooner, if it does not stay in a cache.
const LARGE_FROM: usize = 16 << 20;

/// Values that begin as zeros. Many of them lie in pages of their own: those come as zeros from the system, and go back
/// to it when they are dropped, whatever else was allocated meanwhile.
#[derive(Debug)]
pub(crate) enum Zeros<T> {
    Own(Vec<T>),
    Pages(MmapMut, usize),
}

impl<T: Zeroable> Zeros<T> {
    pub(crate) fn new(count: usize) -> Zeros<T> {
        const { assert!(align_of::<T>() <= 4096, "aligned to at most a page") };
        let bytes = count.saturating_mul(size_of::<T>());
        let large = match bytes {
            ..LARGE_FROM => 0,
            _ => bytes / LARGE * LARGE,
        };
        // Linux lets a map of whole large pages begin at one. Of the last one nothing is touched but what is needed.
        let whole = match large {
            0 => bytes,
            _ => bytes.checked_next_multiple_of(LARGE).unwrap_or(bytes),
        };
        if bytes >= PAGES
            && let Ok(map) = MmapMut::map_anon(whole)
        {
            #[cfg(target_os = "linux")]
            if large > 0 {
                // A system without large pages refuses, and the pages stay small.
                let _ = map.advise_range(memmap2::Advice::HugePage, 0, large);
            }
            return Zeros::Pages(map, count);
        }
        Zeros::Own(vec![T::ZERO; count])
    }
}

impl<T: Zeroable> Deref for Zeros<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Zeros::Own(values) => values,
            // SAFETY: the map has this many values, begins at a page, and its bytes were zeros, a value, or
            // were written as values since.
            Zeros::Pages(map, count) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast(), *count)
            },
        }
    }
}

impl<T: Zeroable> DerefMut for Zeros<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Zeros::Own(values) => values,
            // SAFETY: as for reading, and the owner is borrowed as a whole.
            Zeros::Pages(map, count) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), *count)
            },
        }
    }
}

impl<T: Zeroable> Clone for Zeros<T> {
    fn clone(&self) -> Zeros<T> {
        let mut copy = Zeros::new(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

/// Lines that have one owner.
#[derive(Debug)]
pub(crate) enum Lines {
    Own(Vec<Line>),
    Part(Part),
}

/// Part of a chunk that nobody else has.
#[derive(Debug)]
pub(crate) struct Part {
    chunk: Arc<Chunk>,
    start: usize,
    count: usize,
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Lines::Own(lines) => lines,
            // SAFETY: the part lies in its chunk, which lives as long; a room hands no line out
            // twice, so only this owner writes to it.
            Lines::Part(p) => unsafe {
                std::slice::from_raw_parts(p.chunk.first.add(p.start), p.count)
            },
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Lines::Own(lines) => lines,
            // SAFETY: as for reading, and the owner is borrowed as a whole.
            Lines::Part(p) => unsafe {
                std::slice::from_raw_parts_mut(p.chunk.first.add(p.start), p.count)
            },
        }
    }
}

impl Clone for Lines {
    fn clone(&self) -> Lines {
        Lines::Own(self.to_vec())
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::Own(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: integers whose bits are zeros are 0.
    unsafe impl Zeroable for [u32; 16] {
        const ZERO: [u32; 16] = [0; 16];
    }

    #[test]
    fn parts_of_a_room_are_zeros_of_their_own() {
        for room in [Room::new(0), Room::new(WORTH)] {
            // More than one chunk, and one that fits none.
            let counts = [1, 1000, 0, 80_000, 80_000, 300_000];
            let mut parts: Vec<Lines> = counts.iter().map(|n| room.lines(*n)).collect();
            for (i, (part, count)) in parts.iter_mut().zip(counts).enumerate() {
                assert_eq!(part.len(), count);
                assert!(part.iter().all(|line| line.0 == [0; 64]));
                part.fill(Line([i as u8 + 1; 64]));
            }
            drop(room);
            for (i, part) in parts.iter().enumerate() {
                assert!(part.iter().all(|line| line.0 == [i as u8 + 1; 64]));
                assert!(part.clone().iter().all(|line| line.0 == [i as u8 + 1; 64]));
            }
        }
    }

    #[test]
    fn zeros_are_zeros_and_keep_what_is_written() {
        let size = size_of::<[u32; 16]>();
        for count in [0, 1, PAGES / size - 1, PAGES / size, LARGE_FROM / size + 1] {
            let mut zeros = Zeros::<[u32; 16]>::new(count);
            assert_eq!(zeros.len(), count);
            assert_eq!(matches!(zeros, Zeros::Pages(..)), count * size >= PAGES);
            assert!(zeros.iter().all(|part| *part == [0; 16]));
            zeros.fill([7; 16]);
            let copy = zeros.clone();
            zeros.fill([8; 16]);
            assert!(copy.iter().all(|part| *part == [7; 16]));
            assert!(zeros.iter().all(|part| *part == [8; 16]));
        }
    }

    #[test]
    fn a_mapped_file_reads_the_same_after_parts_were_released() {
        let path = std::env::temp_dir().join(format!("lemma-map-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = FileMap::open(&path).unwrap();
        assert_eq!(*map, *bytes);
        map.release(&map[5000..70_000]);
        map.release(&map[..]);
        map.release(&bytes);
        map.release(&[]);
        assert_eq!(*map, *bytes);
        drop(map);
        std::fs::write(&path, []).unwrap();
        assert!(FileMap::open(&path).unwrap().is_empty());
        std::fs::remove_file(&path).unwrap();
        assert!(FileMap::open(&path).is_err());
    }
}
