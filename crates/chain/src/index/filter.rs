//! Finding events in the history.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bloom, BloomInput, Log as Event};

use super::{ExecutedBlock, Index, IndexError};

/// Which events are wanted. Within a field any value matches; an empty field matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// First height.
    pub from: u64,
    /// Last height.
    pub to: u64,
    /// Emitting contracts or modules.
    pub addresses: Vec<Address>,
    /// Topics by position.
    pub topics: [Vec<B256>; 4],
}

/// Bounds of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Most heights from first to last.
    pub blocks: u64,
    /// Most events found.
    pub logs: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            blocks: 10_000,
            logs: 10_000,
        }
    }
}

/// An event and where it is.
#[derive(Clone, Debug)]
pub struct FoundLog {
    /// The block.
    pub block: Arc<ExecutedBlock>,
    /// Position of the transaction in the block.
    pub transaction: usize,
    /// Position of the event in the block.
    pub log: usize,
    /// The event.
    pub event: Event,
}

/// Why a query is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogQueryError {
    /// The range is upside down.
    #[error("the first block {from} is after the last block {to}")]
    Range {
        /// First height.
        from: u64,
        /// Last height.
        to: u64,
    },
    /// The range is too long.
    #[error("the range has {blocks} blocks, at most {most} are searched; ask for a shorter range")]
    TooManyBlocks {
        /// Heights asked for.
        blocks: u64,
        /// The bound.
        most: u64,
    },
    /// Too much was found.
    #[error("more than {0} events match; ask for a shorter range or fewer addresses")]
    TooManyLogs(usize),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl LogFilter {
    /// Whether a block with this bloom filter may have matching events.
    fn may_match(&self, bloom: &Bloom) -> bool {
        let any = |mut inputs: Box<dyn Iterator<Item = &[u8]> + '_>, empty: bool| {
            empty || inputs.any(|input| bloom.contains_input(BloomInput::Raw(input)))
        };
        any(
            Box::new(self.addresses.iter().map(|a| a.as_slice())),
            self.addresses.is_empty(),
        ) && self
            .topics
            .iter()
            .all(|t| any(Box::new(t.iter().map(|t| t.as_slice())), t.is_empty()))
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let topics = event.topics();
        (self.addresses.is_empty() || self.addresses.contains(&event.address))
            && self.topics.iter().enumerate().all(|(position, wanted)| {
                wanted.is_empty()
                    || topics
                        .get(position)
                        .is_some_and(|topic| wanted.contains(topic))
            })
    }
}

/// Events between two heights, in order.
pub(crate) fn find(
    index: &dyn Index,
    filter: &LogFilter,
    limits: LogLimits,
) -> Result<Vec<FoundLog>, LogQueryError> {
    let (from, to) = (filter.from, filter.to.min(index.tip()?));
    if filter.from > filter.to {
        return Err(LogQueryError::Range {
            from,
            to: filter.to,
        });
    }
    let blocks = to.saturating_sub(from).saturating_add(1);
    if blocks > limits.blocks {
        return Err(LogQueryError::TooManyBlocks {
            blocks,
            most: limits.blocks,
        });
    }
    let mut found = Vec::new();
    for number in from.max(1)..=to {
        let Some(block) = index.block(number)? else {
            break;
        };
        if filter.may_match(&block.header().logs_bloom) {
            search(&block, filter, limits.logs, &mut found)?;
        }
    }
    Ok(found)
}

fn search(
    block: &Arc<ExecutedBlock>,
    filter: &LogFilter,
    most: usize,
    found: &mut Vec<FoundLog>,
) -> Result<(), LogQueryError> {
    let events = block
        .receipts()
        .iter()
        .enumerate()
        .flat_map(|(transaction, receipt)| {
            receipt.logs.iter().map(move |event| (transaction, event))
        });
    for (log, (transaction, event)) in events.enumerate() {
        if !filter.matches(event) {
            continue;
        }
        if found.len() == most {
            return Err(LogQueryError::TooManyLogs(most));
        }
        found.push(FoundLog {
            block: block.clone(),
            transaction,
            log,
            event: event.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{MemoryIndex, fixtures};

    fn event(address: u8, topics: &[u8]) -> Event {
        let topics = topics
            .iter()
            .map(|topic| B256::repeat_byte(*topic))
            .collect();
        Event::new_unchecked(Address::repeat_byte(address), topics, Default::default())
    }

    fn all() -> LogFilter {
        LogFilter {
            from: 0,
            to: u64::MAX,
            ..LogFilter::default()
        }
    }

    fn filled() -> MemoryIndex {
        let index = MemoryIndex::default();
        let events = [
            vec![vec![event(1, &[7])]],
            vec![],
            vec![vec![], vec![event(2, &[7, 8]), event(1, &[])]],
        ];
        for block in fixtures::chain(&events) {
            futures::executor::block_on(index.append(block, None)).unwrap();
        }
        index
    }

    fn places(filter: &LogFilter) -> Vec<(u64, usize, usize)> {
        let found = find(&filled(), filter, LogLimits::default()).unwrap();
        found
            .iter()
            .map(|log| (log.block.number(), log.transaction, log.log))
            .collect()
    }

    #[test]
    fn events_are_found_by_address_topic_and_range() {
        assert_eq!(places(&all()), [(1, 0, 0), (3, 1, 0), (3, 1, 1)]);
        assert_eq!(
            places(&LogFilter {
                from: 2,
                to: 2,
                ..all()
            }),
            []
        );
        let by_address = LogFilter {
            addresses: vec![Address::repeat_byte(1)],
            ..all()
        };
        assert_eq!(places(&by_address), [(1, 0, 0), (3, 1, 1)]);
        let mut by_topic = all();
        by_topic.topics[1] = vec![B256::repeat_byte(9), B256::repeat_byte(8)];
        assert_eq!(places(&by_topic), [(3, 1, 0)]);
    }

    #[test]
    fn queries_are_bounded() {
        let index = filled();
        let limits = |blocks, logs| LogLimits { blocks, logs };
        assert!(matches!(
            find(&index, &all(), limits(2, 10)),
            Err(LogQueryError::TooManyBlocks { blocks: 4, most: 2 })
        ));
        assert!(matches!(
            find(&index, &all(), limits(10, 2)),
            Err(LogQueryError::TooManyLogs(2))
        ));
        let upside_down = LogFilter {
            from: 3,
            to: 2,
            ..all()
        };
        assert!(matches!(
            find(&index, &upside_down, limits(10, 10)),
            Err(LogQueryError::Range { .. })
        ));
    }
}
