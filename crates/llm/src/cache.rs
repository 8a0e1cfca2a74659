//! Keys and values, in pages of sixteen positions that sequences hold a list of.

use lemma_kernels::PAGE;

use crate::config::Config;

/// A page of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(u32);

/// Pages of keys and values of all layers. Memory is taken when a page is used for the first time.
#[derive(Debug)]
pub struct Cache {
    pages: Vec<Box<[u16]>>,
    layers: usize,
    layer_len: usize,
}

impl Cache {
    /// At most `pages` pages, none of which takes memory yet.
    #[must_use]
    pub fn new(config: &Config, pages: usize) -> Cache {
        Cache {
            pages: (0..pages.min(u32::MAX as usize))
                .map(|_| Box::default())
                .collect(),
            layers: config.layers.len(),
            layer_len: 2 * PAGE * config.kv_dim(),
        }
    }

    /// Bytes of one page.
    #[must_use]
    pub fn page_bytes(config: &Config) -> usize {
        config.layers.len() * 2 * PAGE * config.kv_dim() * size_of::<u16>()
    }

    /// The pages, all of them.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = PageId> + use<> {
        (0..self.pages.len() as u32).map(PageId)
    }

    /// One layer of a page; empty if nothing was ever written to it.
    pub(crate) fn layer(&self, page: PageId, layer: usize) -> &[u16] {
        let page = &self.pages[page.0 as usize];
        page.get(layer * self.layer_len..(layer + 1) * self.layer_len)
            .unwrap_or_default()
    }

    pub(crate) fn layer_mut(&mut self, page: PageId, layer: usize) -> &mut [u16] {
        let len = self.layers * self.layer_len;
        let page = &mut self.pages[page.0 as usize];
        if page.is_empty() {
            *page = vec![0; len].into_boxed_slice();
        }
        &mut page[layer * self.layer_len..(layer + 1) * self.layer_len]
    }
}
