//! Who holds which page, and which pages hold a beginning that another sequence may share.
//!
//! A full page is known by its sixteen tokens and by the page before it, so equal beginnings are
//! found exactly, not by a hash that could collide. A page that nobody holds keeps its contents
//! until its memory is needed; the one that was held longest ago goes first.

use std::collections::{BTreeMap, BTreeSet};

use lemma_kernels::PAGE;

use crate::cache::{Cache, PageId};

/// Names the contents of a full page and all before it; 0 is the empty beginning.
type Content = u64;

type Key = (Content, [u32; PAGE]);

#[derive(Debug, Default)]
struct Page {
    holders: usize,
    /// What it holds, if others can find it.
    known: Option<(Key, Content)>,
    /// When it was let go of.
    released: u64,
}

/// The pages of a cache.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: BTreeMap<PageId, Page>,
    free: Vec<PageId>,
    known: BTreeMap<Key, PageId>,
    /// Known pages that nobody holds, the oldest first.
    idle: BTreeSet<(u64, PageId)>,
    clock: u64,
    contents: Content,
}

/// The pages of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) pages: Vec<PageId>,
    /// How many of them are full and were offered to others.
    offered: usize,
    /// Contents of the last one offered.
    last: Content,
}

impl Pages {
    pub(crate) fn new(cache: &Cache) -> Pages {
        Pages {
            pages: cache.ids().map(|id| (id, Page::default())).collect(),
            free: cache.ids().rev().collect(),
            known: BTreeMap::new(),
            idle: BTreeSet::new(),
            clock: 0,
            contents: 0,
        }
    }

    /// Pages that could be taken.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Takes hold of the longest known beginning of `tokens`.
    pub(crate) fn begin(&mut self, tokens: &[u32]) -> Held {
        let mut held = Held::default();
        let (full, _) = tokens.as_chunks::<PAGE>();
        for tokens in full {
            let Some(id) = self.known.get(&(held.last, *tokens)).copied() else {
                break;
            };
            let Some(page) = self.pages.get_mut(&id) else {
                break;
            };
            if page.holders == 0 {
                self.idle.remove(&(page.released, id));
            }
            page.holders += 1;
            held.last = page.known.map_or(0, |(_, content)| content);
            held.offered += 1;
            held.pages.push(id);
        }
        held
    }

    /// Takes one more page; `false` if there is none.
    pub(crate) fn extend(&mut self, held: &mut Held) -> bool {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let Some((_, id)) = self.idle.pop_first() else {
                    return false;
                };
                if let Some((key, _)) = self.pages.get_mut(&id).and_then(|p| p.known.take()) {
                    self.known.remove(&key);
                }
                id
            }
        };
        if let Some(page) = self.pages.get_mut(&id) {
            page.holders = 1;
        }
        held.pages.push(id);
        true
    }

    /// Offers pages that are full to others: `tokens` are those whose keys and values are there.
    pub(crate) fn offer(&mut self, held: &mut Held, tokens: &[u32]) {
        let (full, _) = tokens.as_chunks::<PAGE>();
        while held.offered < full.len().min(held.pages.len()) {
            let key = (held.last, full[held.offered]);
            let existing = self
                .known
                .get(&key)
                .and_then(|id| self.pages.get(id)?.known);
            held.last = match existing {
                // Another sequence was first; what follows is found under its page.
                Some((_, content)) => content,
                None => {
                    self.contents += 1;
                    let id = held.pages[held.offered];
                    if let Some(page) = self.pages.get_mut(&id) {
                        page.known = Some((key, self.contents));
                        self.known.insert(key, id);
                    }
                    self.contents
                }
            };
            held.offered += 1;
        }
    }

    /// Lets go of all pages, the last one first, so that beginnings stay longest.
    pub(crate) fn release(&mut self, held: &mut Held) {
        while let Some(id) = held.pages.pop() {
            self.clock += 1;
            let Some(page) = self.pages.get_mut(&id) else {
                continue;
            };
            page.holders -= 1;
            if page.holders > 0 {
                continue;
            }
            if page.known.is_some() {
                page.released = self.clock;
                self.idle.insert((self.clock, id));
            } else {
                self.free.push(id);
            }
        }
        *held = Held::default();
    }
}
