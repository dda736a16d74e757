//! Several sequences that rise as one that rises. Logs nothing.

use super::error::Fault;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(super) type Source<'a, K, V> = Box<dyn Iterator<Item = Result<(K, V), Fault>> + 'a>;

/// Of what stands in two sources the later one's counts. Ends with the first error.
pub(super) struct Merged<'a, K, V> {
    sources: Vec<(Source<'a, K, V>, Option<V>)>,
    /// The next key of each source, and the source.
    heads: BinaryHeap<Reverse<(K, Reverse<usize>)>>,
    last: Option<K>,
    failed: Option<Fault>,
}

impl<'a, K: Ord + Copy, V> Merged<'a, K, V> {
    pub(super) fn of(sources: impl IntoIterator<Item = Source<'a, K, V>>) -> Self {
        let mut merged = Self { sources: Vec::new(), heads: BinaryHeap::new(), last: None, failed: None };
        sources.into_iter().for_each(|source| merged.add(source));
        merged
    }

    /// One more: of what comes next.
    pub(super) fn add(&mut self, source: Source<'a, K, V>) {
        self.sources.push((source, None));
        self.advance(self.sources.len() - 1);
    }

    /// The key that comes next.
    pub(super) fn next_key(&self) -> Option<K> {
        self.heads.peek().map(|Reverse((key, _))| *key)
    }

    fn advance(&mut self, number: usize) {
        let Some((source, next)) = self.sources.get_mut(number) else { return };
        match source.next() {
            Some(Ok((key, value))) => {
                self.heads.push(Reverse((key, Reverse(number))));
                *next = Some(value);
            }
            Some(Err(fault)) => self.failed = Some(fault),
            None => {}
        }
    }
}

impl<K: Ord + Copy, V> Iterator for Merged<'_, K, V> {
    type Item = Result<(K, V), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(fault) = self.failed.take() {
                self.heads.clear();
                return Some(Err(fault));
            }
            let Reverse((key, Reverse(number))) = self.heads.pop()?;
            let value = self.sources.get_mut(number).and_then(|(_, next)| next.take());
            self.advance(number);
            if self.last != Some(key) {
                self.last = Some(key);
                return value.map(|value| Ok((key, value)));
            }
        }
    }
}
