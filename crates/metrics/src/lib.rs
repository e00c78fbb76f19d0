//! What every part counts, as Prometheus reads it.
//!
//! Each part keeps a registry of its own and is asked for its text when somebody scrapes; nothing is gathered meanwhile.
//!
//! - [`text`]: a registry in the text format, as upstream's components write it
//! - [`Pages`]: paths that several parts of one process fill together, since upstream's components have a port each and ours share one
//! - [`process`]: what a process says of itself
//! - [`exponential`], [`histograms`]: buckets

#![forbid(unsafe_code)]

pub mod process;
mod text;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::metrics::{
    family::{Family, MetricConstructor},
    histogram::Histogram,
};

pub use text::text;

/// Content type of the text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `count` buckets, each `factor` times as wide as the one before, from `first` on.
pub fn exponential(first: f64, factor: f64, count: u16) -> Vec<f64> {
    std::iter::successors(Some(first), |bound| Some(bound * factor)).take(count.into()).collect()
}

/// Makes the histograms of a [`Family`], all with the same buckets.
#[derive(Debug, Clone)]
pub struct MakeHistogram(Arc<[f64]>);

impl MetricConstructor<Histogram> for MakeHistogram {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// A family of histograms with these upper bounds.
pub fn histograms<Labels: Clone + std::hash::Hash + Eq>(bounds: impl Into<Arc<[f64]>>) -> Family<Labels, Histogram, MakeHistogram> {
    Family::new_with_constructor(MakeHistogram(bounds.into()))
}

/// Writes what one part has to say on a page, in the text format.
pub type Source = Box<dyn Fn() -> String + Send + Sync>;

/// The pages of a process, by path. Clones share them.
#[derive(Clone, Default)]
pub struct Pages {
    sources: Arc<RwLock<BTreeMap<&'static str, Vec<Source>>>>,
}

impl Pages {
    /// From now on, a page has what this source says too.
    pub fn add(&self, path: &'static str, source: impl Fn() -> String + Send + Sync + 'static) {
        self.sources.write().entry(path).or_default().push(Box::new(source));
    }
    /// What all sources of a page say; none where there is no such page.
    pub fn page(&self, path: &str) -> Option<String> {
        let sources = self.sources.read();
        Some(sources.get(path)?.iter().map(|source| source()).collect())
    }
    /// The paths of all pages.
    pub fn paths(&self) -> Vec<&'static str> {
        self.sources.read().keys().copied().collect()
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Pages").field(&self.paths()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_by_their_factor() {
        assert_eq!(exponential(0.001, 2.0, 4), [0.001, 0.002, 0.004, 0.008]);
    }

    #[test]
    fn a_page_has_what_each_of_its_sources_says() {
        let pages = Pages::default();
        pages.add("/metrics", || "one 1\n".to_owned());
        pages.add("/metrics", || "two 2\n".to_owned());
        pages.add("/metrics/resources", || "three 3\n".to_owned());
        assert_eq!(pages.page("/metrics").as_deref(), Some("one 1\ntwo 2\n"));
        assert_eq!(pages.page("/metrics/slis"), None);
        assert_eq!(pages.paths(), ["/metrics", "/metrics/resources"]);
    }
}
