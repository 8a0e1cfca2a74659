//! The system's allocator, but for large pieces of memory: each of these is a map of its own, in large pages.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// A large page.
pub(crate) const LARGE: usize = 2 << 20;

/// Bytes from which on a piece is large. What glibc's allocator gives of this size and is given back it mostly returns to the
/// system at once, and then has it cleared again page by small page.
pub(crate) const WORTH: usize = 8 << 20;

/// An allocator for programs that fill hundreds of megabytes and give them back, again and again, as a prover does.
///
/// The system clears each page when it is touched first, which takes as long as a multiplication of field elements for each
/// of them in it, and waits for other threads in between. Large pages are 512 times fewer. Where the system has none (Linux has them
/// if `/sys/kernel/mm/transparent_hugepage/enabled` is `madvise` or `always`), it is the system's allocator.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: lemma_kernels::LargePages = lemma_kernels::LargePages;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LargePages;

fn is_large(layout: Layout) -> bool {
    cfg!(target_os = "linux") && layout.size() >= WORTH && layout.align() <= map::PAGE
}

// SAFETY: whether a piece is large follows from its layout, so what gives it also takes it back. The system's allocator keeps
// the contract for the others; for large ones see `map`.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map::new(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map::new(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: a piece of this layout came from `map::new` with its size.
            return unsafe { map::drop(piece, layout.size()) };
        }
        // SAFETY: as the caller promises, and the system's allocator gave it.
        unsafe { System.dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that size and alignment make a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_large(layout) && !is_large(new) {
            // SAFETY: as the caller promises, and the system's allocator gave it.
            return unsafe { System.realloc(piece, layout, size) };
        }
        // SAFETY: the new layout is one; both pieces have as many bytes as are copied, and do not overlap; the old one is
        // the caller's to give back.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                piece.copy_to_nonoverlapping(moved, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}

#[cfg(target_os = "linux")]
mod map {
    use std::ptr::null_mut;

    use super::LARGE;

    /// What maps begin and end at: a page at least, on all systems.
    pub(super) const PAGE: usize = 64 << 10;

    /// A map of zeros that begins at a large page; null if there is no memory.
    pub(super) fn new(size: usize) -> *mut u8 {
        let Some(whole) = size.checked_next_multiple_of(PAGE) else {
            return null_mut();
        };
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new memory, where the system likes.
        let start = unsafe { libc::mmap(null_mut(), whole + LARGE, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return null_mut();
        }
        let start = start.cast::<u8>();
        let skip = start.align_offset(LARGE).min(LARGE);
        // SAFETY: parts of the map that was just made, at either end of what is kept. Advice changes nothing but speed; a
        // system without large pages refuses it.
        unsafe {
            let kept = start.add(skip);
            if skip > 0 {
                libc::munmap(start.cast(), skip);
            }
            if skip < LARGE {
                libc::munmap(kept.add(whole).cast(), LARGE - skip);
            }
            libc::madvise(kept.cast(), whole, libc::MADV_HUGEPAGE);
            kept
        }
    }

    /// Gives a map back.
    ///
    /// # Safety
    /// It came from [`new`] with this size, and nothing uses it any more.
    pub(super) unsafe fn drop(start: *mut u8, size: usize) {
        // SAFETY: as the caller promises; the size was rounded so when the map was made.
        unsafe { libc::munmap(start.cast(), size.next_multiple_of(PAGE)) };
    }
}

/// Nothing is large elsewhere.
#[cfg(not(target_os = "linux"))]
mod map {
    pub(super) const PAGE: usize = 1;

    pub(super) fn new(_: usize) -> *mut u8 {
        std::ptr::null_mut()
    }

    pub(super) unsafe fn drop(_: *mut u8, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_all_sizes_keep_their_bytes_when_they_grow_and_shrink() {
        let layout = |size| Layout::from_size_align(size, 64).expect("a layout");
        let sizes = [
            100,
            WORTH - 1,
            WORTH,
            WORTH + 1,
            3 * WORTH + 12_345,
            WORTH,
            64,
        ];
        // SAFETY: every piece is used within its size, and given back once, with the layout that it has.
        unsafe {
            let mut size = sizes[0];
            let mut piece = LargePages.alloc_zeroed(layout(size));
            for next in sizes {
                piece = LargePages.realloc(piece, layout(size), next);
                assert!(!piece.is_null() && piece.addr().is_multiple_of(64));
                let common = size.min(next);
                let bytes = std::slice::from_raw_parts_mut(piece, next);
                assert!(next == sizes[0] || bytes[..64] == [7; 64]);
                assert!(bytes[common - 1] == 7 || next == sizes[0]);
                bytes.fill(7);
                size = next;
            }
            LargePages.dealloc(piece, layout(size));
        }
    }

    #[test]
    fn zeroed_pieces_are_zero_also_where_others_were() {
        for size in [1000, WORTH, 2 * WORTH + 1] {
            let layout = Layout::from_size_align(size, 8).expect("a layout");
            for _ in 0..2 {
                // SAFETY: used within its size, and given back once.
                unsafe {
                    let piece = LargePages.alloc_zeroed(layout);
                    let bytes = std::slice::from_raw_parts_mut(piece, size);
                    assert!(bytes.iter().all(|&b| b == 0));
                    bytes.fill(1);
                    LargePages.dealloc(piece, layout);
                }
            }
        }
    }
}
